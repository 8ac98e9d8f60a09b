//! What a machine has told so far, second by second: the run up to its last snapshot.
//!
//! Kept sparse, since a full set of histograms takes two megabytes, and there may be a hundred machines.

use std::collections::BTreeMap;

use crate::agent::protocol::Snapshot;
use crate::outcome::ErrorTable;
use crate::recorder::{Counts, Durations, Interval, Recorder, Timeline};
use crate::result::{EncodedHistogram, HistogramError};

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
    /// A histogram in it is none of ours. Nothing of it has been added then.
    pub fn add(&mut self, snapshot: &Snapshot) -> Result<Interval, HistogramError> {
        let encoded =
            [&snapshot.latency, &snapshot.service_time, &snapshot.lateness, &snapshot.wait, &snapshot.warmup_latency];
        let decoded = encoded.iter().map(|encoded| decode(encoded)).collect::<Result<Vec<_>, _>>()?;
        let phases = snapshot.phases.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
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
        Ok(Interval { latency, ok, errors, late: snapshot.late })
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

/// `None` where nothing was recorded: most histograms of most seconds.
fn decode(encoded: &EncodedHistogram) -> Result<Option<Durations>, HistogramError> {
    let is_empty = encoded.base64.is_empty() && encoded.past_range == 0;
    if is_empty { Ok(None) } else { encoded.decode().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Failure, Outcome};
    use crate::recorder::{Instants, Window};
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
