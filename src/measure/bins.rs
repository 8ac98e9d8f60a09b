//! What the run was like over time: counts and latencies in bins of equal length from T0 on. Pure.
//!
//! Bins become longer where there are too many, and are never dropped, so that the size does not depend on how long a run
//! is, and sums stay exact.

use serde::{Deserialize, Serialize};

use super::counters::{Counters, Counts};
use super::durations::{COARSE_DIGITS, Durations};
use super::encoded::{EncodedHistogram, HistogramError};
use super::outcome::Outcome;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// What happened in a bin, or to the requests that were due in it. `T` is a histogram, or its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin<T = Durations> {
    /// Requests that were due in it and handed to a connection.
    pub started: u64,
    /// Requests that were due in it and ok.
    pub ok: u64,
    /// Requests that were due in it and failed.
    pub failed: u64,
    /// Requests that were due in it and may or may not have been committed.
    pub unknown: u64,
    /// Requests that were due in it and given up.
    pub skipped: u64,
    /// Latency of the requests that were due in it and answered, with two digits.
    pub latency: T,
    /// The greatest lateness of a request that was due in it, nanoseconds.
    pub lateness_max_ns: u64,
    /// Requests that were ok and completed in it.
    pub completed: u64,
    /// Requests whose error came in it.
    pub errors: u64,
    /// Requests that were started or given up in it.
    pub taken: u64,
    /// Time that workers spent with requests in it, nanoseconds.
    pub busy_ns: u64,
    /// CPU time that the process used in it, nanoseconds.
    pub cpu_ns: u64,
}

impl Default for Bin {
    fn default() -> Self {
        Bin::with(Durations::with_digits(COARSE_DIGITS))
    }
}

impl<T> Bin<T> {
    fn with(latency: T) -> Self {
        Self {
            started: 0,
            ok: 0,
            failed: 0,
            unknown: 0,
            skipped: 0,
            latency,
            lateness_max_ns: 0,
            completed: 0,
            errors: 0,
            taken: 0,
            busy_ns: 0,
            cpu_ns: 0,
        }
    }

    /// The same with another kind of histogram.
    fn map<U, E>(&self, latency: impl FnOnce(&T) -> Result<U, E>) -> Result<Bin<U>, E> {
        let mut bin = Bin::with(latency(&self.latency)?);
        bin.add_counts(self);
        Ok(bin)
    }

    fn add_counts<U>(&mut self, other: &Bin<U>) {
        let sum = |count: &mut u64, more: u64| *count = count.saturating_add(more);
        sum(&mut self.started, other.started);
        sum(&mut self.ok, other.ok);
        sum(&mut self.failed, other.failed);
        sum(&mut self.unknown, other.unknown);
        sum(&mut self.skipped, other.skipped);
        sum(&mut self.completed, other.completed);
        sum(&mut self.errors, other.errors);
        sum(&mut self.taken, other.taken);
        sum(&mut self.busy_ns, other.busy_ns);
        sum(&mut self.cpu_ns, other.cpu_ns);
        self.lateness_max_ns = self.lateness_max_ns.max(other.lateness_max_ns);
    }
}

impl Bin {
    pub fn add(&mut self, other: &Self) {
        self.add_counts(other);
        self.latency.add(&other.latency);
    }

    pub fn answered(&self) -> u64 {
        self.ok.saturating_add(self.failed).saturating_add(self.unknown)
    }
}

/// The bins in which anything happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bins<T = Durations> {
    /// Length of a bin, seconds: a power of two.
    pub bin_seconds: u64,
    /// With their numbers from T0 on, in order.
    pub bins: Vec<(u64, Bin<T>)>,
}

impl<T> Default for Bins<T> {
    fn default() -> Self {
        Self { bin_seconds: 1, bins: Vec::new() }
    }
}

impl Bins {
    /// With more bins than this from T0 on, bins become twice as long: a histogram takes up to 1.7 KB as text.
    pub const MAX_BINS: u64 = 200;
    /// A bin is then a year long.
    pub const MAX_BIN_SECONDS: u64 = 1 << 25;

    /// The bin of a second after T0.
    pub fn at(&mut self, second: u64) -> &mut Bin {
        while second / self.bin_seconds >= Self::MAX_BINS && self.bin_seconds < Self::MAX_BIN_SECONDS {
            self.lengthen();
        }
        let index = second / self.bin_seconds;
        // Nearly always the last one or the one before.
        let after = self.bins.iter().rposition(|(other, _)| *other <= index).map_or(0, |at| at + 1);
        let at = match after.checked_sub(1) {
            Some(at) if self.bins[at].0 == index => at,
            _ => {
                self.bins.insert(after, (index, Bin::default()));
                after
            }
        };
        &mut self.bins[at].1
    }

    fn lengthen(&mut self) {
        self.bin_seconds *= 2;
        for (index, bin) in std::mem::take(&mut self.bins) {
            match self.bins.last_mut() {
                Some((last, sum)) if *last == index / 2 => sum.add(&bin),
                _ => self.bins.push((index / 2, bin)),
            }
        }
    }

    /// Adds another's bins, which began `shift_seconds` after these.
    pub fn add(&mut self, other: &Self, shift_seconds: u64) {
        while self.bin_seconds < other.bin_seconds {
            self.lengthen();
        }
        for (index, bin) in &other.bins {
            self.at((index * other.bin_seconds).saturating_add(shift_seconds)).add(bin);
        }
    }

    /// A request was due at this time after T0, and is handed to a connection.
    pub fn start(&mut self, due_ns: u64) {
        self.at(due_ns / NANOS_PER_SECOND).started += 1;
    }

    /// A request was due at this time after T0, and is given up.
    pub fn skip(&mut self, due_ns: u64, lateness_ns: Option<u64>) {
        let bin = self.at(due_ns / NANOS_PER_SECOND);
        bin.skipped += 1;
        bin.lateness_max_ns = bin.lateness_max_ns.max(lateness_ns.unwrap_or_default());
    }

    /// A request has ended. Times are after T0.
    pub fn finish(&mut self, due_ns: u64, sent_ns: u64, done_ns: u64, lateness_ns: Option<u64>, outcome: &Outcome) {
        let bin = self.at(due_ns / NANOS_PER_SECOND);
        match outcome {
            Outcome::Ok => bin.ok += 1,
            Outcome::Failed(_) => bin.failed += 1,
            Outcome::Unknown(_) => bin.unknown += 1,
        }
        bin.latency.record_ns(done_ns.saturating_sub(due_ns));
        bin.lateness_max_ns = bin.lateness_max_ns.max(lateness_ns.unwrap_or_default());
        self.busy(sent_ns, done_ns);
    }

    /// A worker was busy with a request from one time after T0 to another.
    pub fn busy(&mut self, mut from_ns: u64, to_ns: u64) {
        while from_ns < to_ns {
            let second = from_ns / NANOS_PER_SECOND;
            let until_ns = to_ns.min((second + 1) * NANOS_PER_SECOND);
            self.at(second).busy_ns += until_ns - from_ns;
            from_ns = until_ns;
        }
    }

    /// A second is over in which so much was counted, and in which the process used so much CPU time.
    pub fn close_second(&mut self, second: u64, counters: &Counters, cpu_ns: u64) {
        let bin = self.at(second);
        bin.completed += counters.acknowledged();
        bin.errors += counters.errors();
        bin.taken +=
            [counters.measured, counters.warmup].iter().map(|counts| counts.started + counts.skipped).sum::<u64>();
        bin.cpu_ns += cpu_ns;
    }

    /// Whether they hold the requests of the closed seconds that were counted, and the latency of each that was answered.
    pub fn agree(&self, counters: &Counters) -> bool {
        let mut sum = Counts::default();
        let (mut completed, mut errors) = (0u64, 0u64);
        for (_, bin) in &self.bins {
            let Bin { ok, failed, unknown, skipped, started, .. } = *bin;
            sum.add(&Counts { ok, failed, unknown, skipped, started });
            completed = completed.saturating_add(bin.completed);
            errors = errors.saturating_add(bin.errors);
        }
        let mut counted = counters.measured;
        counted.add(&counters.warmup);
        sum == counted
            && (completed, errors) == (counters.acknowledged(), counters.errors())
            && self.bins.iter().all(|(_, bin)| bin.latency.count() == bin.answered())
    }

    /// As text.
    pub fn encode(&self) -> Bins<EncodedHistogram> {
        let encoded = |latency: &Durations| Ok::<_, std::convert::Infallible>(EncodedHistogram::new(latency));
        let bin = |(index, bin): &(u64, Bin)| bin.map(encoded).map(|bin| (*index, bin));
        let Ok(bins) = self.bins.iter().map(bin).collect();
        Bins { bin_seconds: self.bin_seconds, bins }
    }
}

impl Bins<EncodedHistogram> {
    /// From text.
    ///
    /// # Errors
    /// A histogram is none of this program's.
    pub fn decode(&self) -> Result<Bins, HistogramError> {
        let bin = |(index, bin): &(u64, Bin<EncodedHistogram>)| {
            Ok((*index, bin.map(|latency| latency.decode_digits(COARSE_DIGITS))?))
        };
        Ok(Bins { bin_seconds: self.bin_seconds, bins: self.bins.iter().map(bin).collect::<Result<_, _>>()? })
    }

    /// Whether [`Bins::at`] could have made them.
    pub fn is_possible(&self) -> bool {
        self.bin_seconds.is_power_of_two()
            && self.bin_seconds <= Bins::MAX_BIN_SECONDS
            && self.bins.iter().all(|(index, _)| *index < Bins::MAX_BINS)
            && self.bins.is_sorted_by(|one, other| one.0 < other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn latency_belongs_to_the_second_in_which_it_was_due_and_work_to_those_in_which_it_was_done() {
        let mut bins = Bins::default();
        bins.start(900 * MS);
        bins.finish(900 * MS, 950 * MS, 2_250 * MS, Some(50 * MS), &Outcome::Ok);
        let due = &bins.bins[0].1;
        assert_eq!((due.started, due.ok, due.latency.count(), due.lateness_max_ns), (1, 1, 1, 50 * MS));
        let busy: Vec<u64> = bins.bins.iter().map(|(_, bin)| bin.busy_ns / MS).collect();
        assert_eq!(busy, [50, 1_000, 250]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn however_they_are_added_bins_stay_few_and_nothing_is_lost(
            requests in prop::collection::vec((0u64..20_000, 0u64..5_000, 0usize..3), 1..60),
        ) {
            let together = &mut Bins::default();
            let mut apart = [Bins::default(), Bins::default(), Bins::default()];
            for (second, ms, thread) in &requests {
                let due_ns = second * NANOS_PER_SECOND;
                for bins in [&mut *together, &mut apart[*thread]] {
                    bins.start(due_ns);
                    bins.finish(due_ns, due_ns, due_ns + ms * MS, None, &Outcome::Ok);
                }
            }
            let mut sum = Bins::default();
            apart.iter().for_each(|bins| sum.add(bins, 0));
            prop_assert_eq!(&sum, &*together);
            prop_assert!(sum.bins.iter().all(|(index, _)| *index < Bins::MAX_BINS));
            prop_assert_eq!(sum.bins.iter().map(|(_, bin)| bin.answered()).sum::<u64>(), requests.len() as u64);
            let busy_ns: u64 = requests.iter().map(|request| request.1 * MS).sum();
            prop_assert_eq!(sum.bins.iter().map(|(_, bin)| bin.busy_ns).sum::<u64>(), busy_ns);
            prop_assert_eq!(&sum.encode().decode().unwrap(), &sum);
            prop_assert!(sum.encode().is_possible());
        }
    }
}
