//! What the run was like over time, in bins that client and server share. Pure.

use serde::{Deserialize, Serialize};

use crate::measure::bins::Bins;
use crate::measure::durations::{COARSE_DIGITS, Durations};
use crate::measure::encoded::{EncodedHistogram, HistogramError};
use crate::schedule::NANOS_PER_SECOND;

/// Bins of equal length from T0 on, the warm-up included. All lists have one entry a bin. Bins are merged by adding them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Timeline {
    /// Length of a bin, seconds: a power of two, so that there are no more than 200 bins.
    pub bin_seconds: u64,
    /// Slots that came due; with `--rps max` the requests that were started.
    pub offered: Vec<u64>,
    /// Requests that were ok, by the bin in which they were completed.
    pub completed: Vec<u64>,
    /// Requests that failed or of which it is not known whether they were committed, by the bin in which that was learnt.
    pub errors: Vec<u64>,
    /// Requests that were ok, by the bin in which they were due.
    pub ok: Vec<u64>,
    /// Requests that failed, by the bin in which they were due.
    pub failed: Vec<u64>,
    /// Requests of which it is not known whether they were committed, by the bin in which they were due.
    pub unknown: Vec<u64>,
    /// Slots that were given up (`--max-lag`), by the bin in which they were due.
    pub skipped: Vec<u64>,
    /// Latency of the answered requests, by the bin in which they were due: histograms of microseconds, with two significant
    /// digits.
    pub latency: Vec<EncodedHistogram>,
    /// The greatest lateness of a request that was due in the bin, milliseconds.
    pub lateness_max_ms: Vec<f64>,
    /// Workers that were busy with a request: the average over the bin.
    pub busy_workers: Vec<f64>,
    /// Slots that were due at the end of the bin, and neither started nor given up.
    pub backlog: Vec<u64>,
    /// CPU that the generator used, percent of one core.
    pub cpu_pct: Vec<f64>,
}

impl Timeline {
    /// Of one run. `scheduled_before` tells how many slots are due before a time, nanoseconds after T0, where there is a
    /// schedule; none is due after `end_ns`.
    pub(crate) fn new(bins: &Bins, scheduled_before: impl Fn(u64) -> Option<u64>, end_ns: u64) -> Self {
        let mut bins = bins.clone();
        if let Some(last_ns) = end_ns.checked_sub(1) {
            bins.at(last_ns / NANOS_PER_SECOND);
        }
        let length_ns = bins.bin_seconds.saturating_mul(NANOS_PER_SECOND);
        let count = bins.bins.last().map_or(0, |(index, _)| index + 1);
        let mut timeline = Self { bin_seconds: bins.bin_seconds, ..Self::default() };
        let mut by_number = bins.bins.into_iter().peekable();
        let (mut due, mut taken) = (0u64, 0u64);
        for index in 0..count {
            let bin = by_number.next_if(|(number, _)| *number == index).map(|(_, bin)| bin).unwrap_or_default();
            let before = |index: u64| scheduled_before(index.saturating_mul(length_ns).min(end_ns));
            let offered = match (before(index), before(index + 1)) {
                (Some(before), Some(until)) => until.saturating_sub(before),
                _ => bin.started.saturating_add(bin.skipped),
            };
            due = due.saturating_add(offered);
            taken = taken.saturating_add(bin.taken);
            timeline.offered.push(offered);
            timeline.completed.push(bin.completed);
            timeline.errors.push(bin.errors);
            timeline.ok.push(bin.ok);
            timeline.failed.push(bin.failed);
            timeline.unknown.push(bin.unknown);
            timeline.skipped.push(bin.skipped);
            timeline.latency.push(EncodedHistogram::new(&bin.latency));
            timeline.lateness_max_ms.push(bin.lateness_max_ns as f64 / 1e6);
            timeline.busy_workers.push(bin.busy_ns as f64 / length_ns as f64);
            timeline.backlog.push(due.saturating_sub(taken));
            timeline.cpu_pct.push(bin.cpu_ns as f64 / length_ns as f64 * 100.0);
        }
        timeline
    }

    /// Whether the document has none: programs that wrote none were built before there were timelines.
    pub(crate) fn is_absent(&self) -> bool {
        *self == Self::default()
    }

    /// Of several VMs together: each with the whole seconds by which its T0 came later. Counts are exact; a bin that does
    /// not fit is put where it begins. Where one of them has none, the sum has none: it would lack that VM's requests.
    ///
    /// # Errors
    /// A histogram is none of this program's.
    pub(crate) fn sum(parts: &[(&Self, u64)]) -> Result<Self, HistogramError> {
        if parts.iter().any(|(timeline, _)| timeline.is_absent()) {
            return Ok(Self::default());
        }
        let end = |(timeline, shift): &(&Self, u64)| shift + timeline.bin_seconds * timeline.offered.len() as u64;
        let seconds = parts.iter().map(end).max().unwrap_or_default();
        let mut bin_seconds = parts.iter().map(|(timeline, _)| timeline.bin_seconds).max().unwrap_or(1).max(1);
        while seconds.div_ceil(bin_seconds) > Bins::MAX_BINS {
            bin_seconds *= 2;
        }
        let count = seconds.div_ceil(bin_seconds) as usize;
        let mut latency = vec![Durations::with_digits(COARSE_DIGITS); count];
        let counts = || vec![0u64; count];
        let mut sum = Self {
            bin_seconds,
            offered: counts(),
            completed: counts(),
            errors: counts(),
            ok: counts(),
            failed: counts(),
            unknown: counts(),
            skipped: counts(),
            latency: Vec::new(),
            lateness_max_ms: vec![0.0; count],
            busy_workers: vec![0.0; count],
            backlog: counts(),
            cpu_pct: vec![0.0; count],
        };
        for (part, shift) in parts {
            // Averages count for the part of the bin that they are of.
            let weight = part.bin_seconds as f64 / bin_seconds as f64;
            let mut backlog = counts();
            for at in 0..part.offered.len() {
                let to = ((shift + at as u64 * part.bin_seconds) / bin_seconds) as usize;
                for (sum, part) in sum.counts_mut().into_iter().zip(part.counts()) {
                    sum[to] = sum[to].saturating_add(part[at]);
                }
                latency[to].add(&part.latency[at].decode_digits(COARSE_DIGITS)?);
                sum.lateness_max_ms[to] = sum.lateness_max_ms[to].max(part.lateness_max_ms[at]);
                sum.busy_workers[to] += part.busy_workers[at] * weight;
                sum.cpu_pct[to] += part.cpu_pct[at] * weight;
                // That of the last bin within it.
                backlog[to] = part.backlog[at];
            }
            for (sum, part) in sum.backlog.iter_mut().zip(backlog) {
                *sum = sum.saturating_add(part);
            }
        }
        sum.latency = latency.iter().map(EncodedHistogram::new).collect();
        Ok(sum)
    }

    /// The lists of counts that are added.
    fn counts(&self) -> [&Vec<u64>; 7] {
        [&self.offered, &self.completed, &self.errors, &self.ok, &self.failed, &self.unknown, &self.skipped]
    }

    fn counts_mut(&mut self) -> [&mut Vec<u64>; 7] {
        [
            &mut self.offered,
            &mut self.completed,
            &mut self.errors,
            &mut self.ok,
            &mut self.failed,
            &mut self.unknown,
            &mut self.skipped,
        ]
    }

    /// What is wrong with it, of a run in which so many requests were ok, failed, unknown and skipped, warm-up included.
    pub(crate) fn wrong(&self, counted: [u64; 4]) -> Option<String> {
        if self.is_absent() {
            return None;
        }
        let bins = self.offered.len();
        let others = [self.latency.len(), self.lateness_max_ms.len(), self.busy_workers.len(), self.cpu_pct.len()];
        let lengths = self.counts().map(Vec::len).into_iter().chain([self.backlog.len()]).chain(others);
        if !self.bin_seconds.is_power_of_two()
            || self.bin_seconds > Bins::MAX_BIN_SECONDS
            || bins as u64 > Bins::MAX_BINS
            || lengths.into_iter().any(|length| length != bins)
        {
            return Some(format!("its timeline has {bins} bins of {} s, or lists unlike that", self.bin_seconds));
        }
        let total = |list: &[u64]| list.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
        let found = [&self.ok, &self.failed, &self.unknown, &self.skipped].map(|list| total(list));
        let [ok, failed, unknown, _] = counted;
        (found != counted || total(&self.completed) != ok || total(&self.errors) != failed.saturating_add(unknown))
            .then(|| format!("its timeline has other requests than were counted: {found:?} of {counted:?}"))
    }

    /// Whether every answered request of a bin has its latency there.
    ///
    /// # Errors
    /// A histogram is none of this program's.
    pub(crate) fn has_all_latencies(&self) -> Result<bool, HistogramError> {
        for (at, latency) in self.latency.iter().enumerate() {
            let answered = self.ok[at].saturating_add(self.failed[at]).saturating_add(self.unknown[at]);
            if latency.decode_digits(COARSE_DIGITS)?.count() != answered {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
