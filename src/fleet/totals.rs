//! What a VM has told so far, second by second: the run up to its last snapshot. Pure.

use crate::agent::protocol::Snapshot;
use crate::measure::figures::Figures;
use crate::measure::recorder::{Interval, Recorder};
use crate::measure::timeline::Timeline;
use crate::merge::{errors_disagree, figures_disagree, out_of_bounds};

#[derive(Clone, Debug)]
pub struct Totals {
    /// The whole, as the VM itself would have recorded it.
    pub recorder: Recorder,
    /// When requests were completed.
    pub timeline: Timeline,
    /// How many seconds since T0 are in it.
    pub seconds: u64,
}

impl Totals {
    /// Of a run whose requests have `phases` recorded round trips.
    pub fn new(phases: usize) -> Self {
        Self { recorder: Recorder::with(Figures::of_decoded(phases)), timeline: Timeline::default(), seconds: 0 }
    }

    /// Adds a second, and tells what it was like.
    ///
    /// # Errors
    /// It comes twice or late, contradicts itself, or counts more than there can be. Nothing of it has been added then.
    pub fn add(&mut self, snapshot: &Snapshot) -> Result<Interval, String> {
        // Before anything is decoded: a histogram takes a thousand times the space of its text.
        if let Some(wrong) = self.wrong(snapshot) {
            return Err(wrong);
        }
        let second = snapshot.recorded();
        let second = second.map_err(|(name, error)| format!("its histogram of {name} cannot be used: {error}"))?;
        if let Some(wrong) = histograms_disagree(&second) {
            return Err(wrong);
        }
        if !second.bins.agree(&second.counters) {
            return Err("its bins have other requests than it counts".to_owned());
        }
        self.recorder.merge(&second);
        self.timeline.add(snapshot.index, snapshot.counters.completed_in_window);
        self.seconds = snapshot.index.saturating_add(1);
        Ok(second.interval())
    }

    /// What is wrong with a second, as far as it can be seen without its histograms.
    fn wrong(&self, snapshot: &Snapshot) -> Option<String> {
        if snapshot.index < self.seconds {
            return Some("it comes twice, or after a later one".to_owned());
        }
        if let Some(wrong) = out_of_bounds(snapshot) {
            return Some(wrong);
        }
        let mut sum = self.recorder.counters;
        sum.add(&snapshot.counters);
        if let Some(wrong) = out_of_bounds(&sum) {
            return Some(format!("with the seconds before it, {wrong}"));
        }
        let (phases, expected) = (snapshot.histograms.phases.len(), self.recorder.figures.phases.len());
        if phases != expected {
            return Some(format!("it has {phases} round trips instead of {expected}"));
        }
        if !snapshot.bins.is_possible() {
            return Some(format!("it has bins of {} s that cannot be", snapshot.bins.bin_seconds));
        }
        let counters = &snapshot.counters;
        if counters.completed_in_window > counters.acknowledged() {
            return Some("more requests were completed than were ok".to_owned());
        }
        let (measured, warmup) = (&counters.measured, &counters.warmup);
        let failed = [measured.failed + measured.unknown, warmup.failed + warmup.unknown, counters.recoveries.retries];
        errors_disagree(&snapshot.errors, failed)
    }
}

/// Every answered request of a second is in its histograms once.
fn histograms_disagree(second: &Recorder) -> Option<String> {
    let (measured, warmup) = (&second.counters.measured, &second.counters.warmup);
    let (warmed_up, latencies) = (warmup.answered(), second.warmup_latency.count());
    figures_disagree(&second.figures, measured.answered(), measured.skipped).or_else(|| {
        (latencies != warmed_up).then(|| {
            format!("{warmed_up} requests of the warm-up were answered, and it has {latencies} latencies of them")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::outcome::{Failure, Outcome};
    use crate::measure::recorder::{Instants, Window};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
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
                        if window == Window::Measured {
                            recorder.phases(&[*ns / 3, *ns / 5]);
                        }
                        let instants = Instants { due: 0, claimed: ns / 7, sent: ns / 6, done: *ns };
                        recorder.finish(window, instants, *kind == 1, true, &outcome);
                    }
                }
                part.bins.close_second(second, &part.counters, 0);
                let interval = totals.add(&Snapshot::new(second, &part)).unwrap();
                prop_assert_eq!(interval.latency.count(), part.interval().latency.count());
                prop_assert_eq!((interval.ok, interval.errors), (part.interval().ok, part.interval().errors));
            }
            let sum = &totals.recorder;
            prop_assert_eq!(sum.figures.encode(), whole.figures.encode());
            prop_assert_eq!(&sum.warmup_latency, &whole.warmup_latency);
            prop_assert_eq!(sum.counters, whole.counters);
            prop_assert_eq!(sum.errors.counts(), whole.errors.counts());
            prop_assert_eq!(totals.timeline.total(), whole.counters.completed_in_window);
        }
    }
}
