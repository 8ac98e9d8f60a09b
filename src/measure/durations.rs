//! A histogram of durations. Values are microseconds. Pure.

use hdrhistogram::Histogram;

/// The greatest value that a histogram holds: a day, in microseconds.
pub const MAX_VALUE_US: u64 = 24 * 3600 * 1_000_000;

/// Significant decimal digits that a histogram keeps of every value.
pub const SIGNIFICANT_DIGITS: u8 = 3;

/// The same where space counts more: a tenth of it.
pub const COARSE_DIGITS: u8 = 2;

/// A histogram of durations in microseconds, and the number of values that were too long for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Durations {
    /// Values up to [`MAX_VALUE_US`].
    pub histogram: Histogram<u64>,
    /// Values past that: counted, never clamped.
    pub past_range: u64,
}

impl Default for Durations {
    fn default() -> Self {
        Self::with_digits(SIGNIFICANT_DIGITS)
    }
}

impl Durations {
    /// An empty histogram that keeps so many significant digits.
    pub fn with_digits(digits: u8) -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_VALUE_US, digits)
            .unwrap_or_else(|error| unreachable!("constant histogram bounds: {error}"));
        Self { histogram, past_range: 0 }
    }

    /// The same values with [`COARSE_DIGITS`].
    pub fn coarse(&self) -> Self {
        let mut coarse = Self::with_digits(COARSE_DIGITS);
        coarse.add(self);
        coarse
    }

    /// Records a duration given in nanoseconds.
    pub fn record_ns(&mut self, ns: u64) {
        if self.histogram.record(ns / 1_000).is_err() {
            self.past_range += 1;
        }
    }

    /// Adds another's values: exactly, where both have the same digits.
    pub fn add(&mut self, other: &Self) {
        self.past_range = self.past_range.saturating_add(other.past_range);
        if other.histogram.is_empty() {
            return;
        }
        // Fails only where the other holds values past this range, and all are made with the same one.
        if self.histogram.add(&other.histogram).is_err() {
            self.past_range = self.past_range.saturating_add(other.histogram.len());
        }
    }

    /// How many values were recorded, those past the range included.
    pub fn count(&self) -> u64 {
        self.histogram.len().saturating_add(self.past_range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_past_the_range_is_counted_and_not_clamped() {
        let mut durations = Durations::default();
        durations.record_ns((MAX_VALUE_US + 200_000_000) * 1_000 * 2);
        assert_eq!((durations.past_range, durations.histogram.len(), durations.count()), (1, 0, 1));
        assert_eq!(durations.coarse().count(), 1);
    }
}
