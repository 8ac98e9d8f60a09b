//! How many requests were completed when. Pure.

use serde::{Deserialize, Serialize};

/// Counts in bins of equal length from T0 on. Bins grow when there are more than [`Timeline::MAX_BINS`], so that the size
/// does not depend on how long a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Timeline {
    /// Length of a bin, seconds.
    pub bin_seconds: u64,
    /// Requests that were ok and completed within the measured window, by bin, from T0 on.
    pub completed: Vec<u64>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { bin_seconds: 1, completed: Vec::new() }
    }
}

fn sum(counts: &[u64]) -> u64 {
    counts.iter().copied().fold(0, u64::saturating_add)
}

impl Timeline {
    /// More bins than this are halved in number.
    pub const MAX_BINS: usize = 600;
    /// A bin is then a year long.
    const MAX_BIN_SECONDS: u64 = 1 << 25;

    /// Adds what was completed in second `index` since T0.
    pub fn add(&mut self, index: u64, completed: u64) {
        while index / self.bin_seconds >= Self::MAX_BINS as u64 {
            self.completed = self.completed.chunks(2).map(sum).collect();
            self.bin_seconds *= 2;
        }
        let bin = (index / self.bin_seconds) as usize;
        if bin >= self.completed.len() {
            self.completed.resize(bin + 1, 0);
        }
        self.completed[bin] = self.completed[bin].saturating_add(completed);
    }

    /// All that were completed.
    pub fn total(&self) -> u64 {
        sum(&self.completed)
    }

    /// Whether [`Self::add`] could have made it: bins grow only where there are too many, and half of them are left.
    pub fn is_possible(&self) -> bool {
        let bins = self.completed.len();
        self.bin_seconds.is_power_of_two()
            && self.bin_seconds <= Self::MAX_BIN_SECONDS
            && bins <= Self::MAX_BINS
            && (self.bin_seconds == 1 || bins > Self::MAX_BINS / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn however_long_a_run_is_its_timeline_stays_small_and_loses_nothing(seconds in prop::collection::vec(0u64..50_000, 1..50)) {
            let mut timeline = Timeline::default();
            seconds.iter().for_each(|second| timeline.add(*second, 2));
            prop_assert!(timeline.is_possible(), "{:?}", timeline);
            prop_assert_eq!(timeline.total(), 2 * seconds.len() as u64);
        }
    }
}
