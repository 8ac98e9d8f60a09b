//! What a machine has told so far, second by second: the run up to its last snapshot.
//!
//! Kept sparse, since a full set of histograms takes two megabytes, and there may be a hundred machines.

use std::collections::BTreeMap;

use crate::agent::protocol::Snapshot;
use crate::measure::outcome::ErrorTable;
use crate::measure::recorder::{Counts, Durations, Interval, Recorder, Timeline, connection_errors};
use crate::merge::{self, MAX_COUNT, errors_disagree, out_of_bounds};
use crate::result::{EncodedHistogram, HistogramError};

/// Why a second cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecondError {
    /// A histogram is none of ours.
    #[error("its histogram of {0} cannot be used: {1}")]
    Histogram(&'static str, HistogramError),
    /// Not what an agent would have recorded.
    #[error("{0}")]
    Contradiction(String),
}

/// Names of the histograms of a second, in the order of [`Totals::figures`].
const FIGURES: [&str; 5] = ["latency", "service_time", "lateness", "wait", "warmup_latency"];

/// A histogram as a map from its buckets' values to their counts.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sparse {
    counts: BTreeMap<u64, u64>,
    past_range: u64,
}

impl Sparse {
    fn add(&mut self, durations: &Durations) {
        self.past_range = self.past_range.saturating_add(durations.past_range);
        for bucket in durations.histogram.iter_recorded() {
            let count = self.counts.entry(bucket.value_iterated_to()).or_default();
            *count = count.saturating_add(bucket.count_at_value());
        }
    }

    fn durations(&self) -> Durations {
        let mut durations = Durations { past_range: self.past_range, ..Durations::default() };
        for (value, count) in &self.counts {
            if durations.histogram.record_n(*value, *count).is_err() {
                durations.past_range = durations.past_range.saturating_add(*count);
            }
        }
        durations
    }
}

/// The sum of a machine's snapshots.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    measured: Counts,
    warmup: Counts,
    completed: u64,
    late: u64,
    reconnects: u64,
    retried: (u64, u64),
    last_started_due_ns: Option<u64>,
    errors: ErrorTable,
    figures: [Sparse; 5],
    phases: Vec<Sparse>,
    timeline: Timeline,
    seconds: u64,
}

impl Totals {
    /// Of a run whose requests have `phases` recorded round trips.
    pub fn new(phases: usize) -> Self {
        Self { phases: vec![Sparse::default(); phases], ..Self::default() }
    }

    /// Adds a second, and tells what it was like.
    ///
    /// # Errors
    /// It comes twice or late, contradicts itself, or counts more than there can be. Nothing of it has been added then.
    pub fn add(&mut self, snapshot: &Snapshot) -> Result<Interval, SecondError> {
        // Before anything is decoded: a histogram takes a thousand times the space of its text.
        if let Some(wrong) = self.wrong(snapshot) {
            return Err(SecondError::Contradiction(wrong));
        }
        let encoded =
            [&snapshot.latency, &snapshot.service_time, &snapshot.lateness, &snapshot.wait, &snapshot.warmup_latency];
        let decoded = encoded
            .into_iter()
            .zip(FIGURES)
            .map(|(encoded, name)| decode(encoded).map_err(|error| SecondError::Histogram(name, error)))
            .collect::<Result<Vec<_>, _>>()?;
        let phases = snapshot
            .phases
            .iter()
            .map(|encoded| decode(encoded).map_err(|error| SecondError::Histogram("a round trip", error)))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(wrong) = miscounted(snapshot, &decoded, &phases) {
            return Err(SecondError::Contradiction(wrong));
        }
        let add = |sums: &mut [Sparse], parts: &[Option<Durations>]| {
            for (sum, part) in sums.iter_mut().zip(parts) {
                part.iter().for_each(|part| sum.add(part));
            }
        };
        add(&mut self.figures, &decoded);
        add(&mut self.phases, &phases);
        self.measured.add(&snapshot.measured);
        self.warmup.add(&snapshot.warmup);
        self.completed = self.completed.saturating_add(snapshot.completed);
        self.late = self.late.saturating_add(snapshot.late);
        self.reconnects = self.reconnects.saturating_add(snapshot.reconnects);
        self.retried.0 = self.retried.0.saturating_add(snapshot.retried.0);
        self.retried.1 = self.retried.1.saturating_add(snapshot.retried.1);
        self.last_started_due_ns = self.last_started_due_ns.max(snapshot.last_started_due_ns);
        self.errors.merge(&snapshot.errors);
        self.timeline.add(snapshot.index, snapshot.completed);
        self.seconds = self.seconds.max(snapshot.index.saturating_add(1));

        let mut latency = Durations::default();
        [&decoded[0], &decoded[4]].into_iter().flatten().for_each(|part| latency.add(part));
        let (measured, warmup) = (&snapshot.measured, &snapshot.warmup);
        let ok = measured.ok.saturating_add(warmup.ok);
        let errors = [measured.failed, measured.unknown, warmup.failed, warmup.unknown];
        let errors = errors.into_iter().fold(0, u64::saturating_add);
        let connection_errors = connection_errors(&snapshot.errors);
        Ok(Interval { latency, ok, errors, late: snapshot.late, connection_errors })
    }

    /// What is wrong with a second, as far as it can be seen without its histograms.
    fn wrong(&self, snapshot: &Snapshot) -> Option<String> {
        if snapshot.index < self.seconds {
            return Some("it comes twice, or after a later one".to_owned());
        }
        if let Some(wrong) = out_of_bounds(snapshot) {
            return Some(wrong);
        }
        if !snapshot.phases.is_empty() && snapshot.phases.len() != self.phases.len() {
            return Some(format!("it has {} round trips instead of {}", snapshot.phases.len(), self.phases.len()));
        }
        let (measured, warmup) = (&snapshot.measured, &snapshot.warmup);
        let counts = |sum: &Counts, one: &Counts| {
            [(sum.ok, one.ok), (sum.failed, one.failed), (sum.unknown, one.unknown), (sum.skipped, one.skipped)]
                .into_iter()
                .chain([(sum.started, one.started)])
                .collect::<Vec<_>>()
        };
        let others =
            [(self.completed, snapshot.completed), (self.late, snapshot.late), (self.reconnects, snapshot.reconnects)];
        let all = counts(&self.measured, measured).into_iter().chain(counts(&self.warmup, warmup)).chain(others);
        if all.into_iter().any(|(sum, one)| sum.checked_add(one).is_none_or(|sum| sum > MAX_COUNT)) {
            return Some("it counts more requests than there can be".to_owned());
        }
        if snapshot.completed > measured.ok + warmup.ok {
            return Some("more requests were completed than were ok".to_owned());
        }
        let failed = [measured.failed + measured.unknown, warmup.failed + warmup.unknown, snapshot.retried.1];
        errors_disagree(&snapshot.errors, failed)
    }

    /// How many seconds since T0 are in it.
    pub fn seconds(&self) -> u64 {
        self.seconds
    }

    /// When requests were completed.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// The whole, as the machine itself would have recorded it.
    pub fn recorder(&self) -> Recorder {
        let mut recorder = Recorder::new(self.phases.len());
        let [latency, service, lateness, wait, warmup_latency] = &self.figures;
        recorder.figures.latency = latency.durations();
        recorder.figures.service = service.durations();
        recorder.figures.lateness = lateness.durations();
        recorder.figures.wait = wait.durations();
        recorder.figures.phases = self.phases.iter().map(Sparse::durations).collect();
        recorder.warmup_latency = warmup_latency.durations();
        recorder.measured = self.measured;
        recorder.warmup = self.warmup;
        recorder.ok_completed_in_window = self.completed;
        recorder.late = self.late;
        recorder.reconnects = self.reconnects;
        (recorder.retried, recorder.retries) = self.retried;
        recorder.last_started_due_ns = self.last_started_due_ns;
        recorder.errors.merge(&self.errors.counts());
        recorder
    }
}

/// Every answered request of a second is in its histograms once.
fn miscounted(snapshot: &Snapshot, figures: &[Option<Durations>], phases: &[Option<Durations>]) -> Option<String> {
    let count = |durations: &Option<Durations>| durations.as_ref().map_or(Some(0), merge::count);
    let counts: Option<Vec<u64>> = figures.iter().map(count).collect();
    let counts: Option<[u64; 5]> = counts.and_then(|counts| counts.try_into().ok());
    let Some([latency, service, lateness, wait, warmup]) = counts else {
        return Some("a histogram holds more values than there can be".to_owned());
    };
    let (answered, warmed_up, skipped) =
        (snapshot.measured.answered(), snapshot.warmup.answered(), snapshot.measured.skipped);
    // As in a result: a skipped request has a lateness where its worker was waiting for it.
    let started = lateness + wait;
    let is_right = [latency, service, warmup] == [answered, answered, warmed_up]
        && (answered..=answered + skipped).contains(&started);
    if !is_right {
        return Some(format!(
            "{answered} requests were answered (and {warmed_up} of the warm-up), and its histograms hold {latency} \
             latencies, {service} service times, {started} starts, {warmup} latencies of the warm-up"
        ));
    }
    phases.iter().any(|phase| count(phase).is_none()).then(|| "a round trip was made too often".to_owned())
}

/// `None` where nothing was recorded: most histograms of most seconds.
fn decode(encoded: &EncodedHistogram) -> Result<Option<Durations>, HistogramError> {
    let is_empty = encoded.base64.is_empty() && encoded.past_range == 0;
    if is_empty { Ok(None) } else { encoded.decode().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::outcome::{Failure, Outcome};
    use crate::measure::recorder::{Instants, Window};
    use crate::result::encode;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_sum_of_the_seconds_is_the_run(requests in prop::collection::vec((0u64..60_000_000_000, 0u8..4, 0u64..5), 0..60)) {
            let mut whole = Recorder::new(2);
            let mut totals = Totals::new(2);
            for second in 0..5 {
                let mut part = Recorder::new(2);
                for (ns, kind, _) in requests.iter().filter(|request| request.2 == second) {
                    let window = if *kind == 3 { Window::Warmup } else { Window::Measured };
                    let outcome = match kind {
                        0 => Outcome::Failed(Failure::own("a class", "why".to_owned(), false)),
                        _ => Outcome::Ok,
                    };
                    for recorder in [&mut whole, &mut part] {
                        recorder.start(window, *ns);
                        recorder.phases(&[*ns / 3, *ns / 5]);
                        let instants = Instants { due: 0, claimed: ns / 7, sent: ns / 6, done: *ns };
                        recorder.finish(window, instants, *kind == 1, true, &outcome);
                    }
                }
                let interval = totals.add(&Snapshot::new(second, &part)).unwrap();
                prop_assert_eq!(interval.latency.count(), part.interval().latency.count());
                prop_assert_eq!((interval.ok, interval.errors), (part.interval().ok, part.interval().errors));
            }
            let sum = totals.recorder();
            let histograms = |recorder: &Recorder| -> Vec<String> {
                let figures = &recorder.figures;
                let all = [&figures.latency, &figures.service, &figures.lateness, &figures.wait, &recorder.warmup_latency];
                all.into_iter().chain(&figures.phases).map(|durations| encode(&durations.histogram)).collect()
            };
            prop_assert_eq!(histograms(&sum), histograms(&whole));
            prop_assert_eq!((sum.measured, sum.warmup), (whole.measured, whole.warmup));
            prop_assert_eq!(sum.errors.counts(), whole.errors.counts());
            prop_assert_eq!(totals.timeline().completed.iter().sum::<u64>(), whole.ok_completed_in_window);
        }
    }
}
