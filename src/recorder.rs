//! What a thread writes down while the test runs: plain histograms and counters, no locks, no allocation per request.
//!
//! One recorder a thread; they are added when the test is over. Values are microseconds. Knows no clock and no socket.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::outcome::{ErrorOrigin, ErrorTable, Failure, Outcome};

/// The greatest value that a histogram holds: a day, in microseconds.
pub const MAX_VALUE_US: u64 = 24 * 3600 * 1_000_000;

/// Significant decimal digits that a histogram keeps of every value.
pub const SIGNIFICANT_DIGITS: u8 = 3;

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
        // The bounds are constants that the crate accepts, as every test of this module shows.
        let histogram = Histogram::new_with_bounds(1, MAX_VALUE_US, SIGNIFICANT_DIGITS)
            .unwrap_or_else(|error| unreachable!("constant histogram bounds: {error}"));
        Self { histogram, past_range: 0 }
    }
}

impl Durations {
    /// Records a duration given in nanoseconds.
    pub fn record_ns(&mut self, ns: u64) {
        if self.histogram.record(ns / 1_000).is_err() {
            self.past_range += 1;
        }
    }

    /// Adds another's values, exactly.
    pub fn add(&mut self, other: &Self) {
        self.past_range += other.past_range;
        // Fails only where the other holds values past this range, and all are made with the same one.
        if self.histogram.add(&other.histogram).is_err() {
            self.past_range += other.histogram.len();
        }
    }

    /// How many values were recorded, those past the range included.
    pub fn count(&self) -> u64 {
        self.histogram.len() + self.past_range
    }

    /// Forgets all values.
    pub fn reset(&mut self) {
        self.histogram.reset();
        self.past_range = 0;
    }
}

/// How many requests ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// COMMIT acknowledged.
    pub ok: u64,
    /// Known not to have committed.
    pub failed: u64,
    /// May or may not have committed.
    pub unknown: u64,
    /// Given up by `--max-lag`.
    pub skipped: u64,
    /// Started, and no answer yet.
    pub in_flight: u64,
}

impl Counts {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.skipped += other.skipped;
        self.in_flight += other.in_flight;
    }
}

/// The four instants of a request, nanoseconds of one monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Instants {
    /// When the schedule wanted it.
    pub due: u64,
    /// When a worker with a connection took it.
    pub claimed: u64,
    /// When its first byte was handed to the connection.
    pub sent: u64,
    /// When COMMIT was acknowledged, or an error came.
    pub done: u64,
}

/// The histograms of the measured window.
#[derive(Clone, Debug)]
pub struct Figures {
    /// done − due
    pub latency: Durations,
    /// done − sent
    pub service: Durations,
    /// sent − due, of requests whose worker was waiting before they were due
    pub lateness: Durations,
    /// claimed − due, of requests that were claimed after they were due
    pub wait: Durations,
    /// The round trips within the service time, in order.
    pub phases: Vec<Durations>,
}

impl Figures {
    fn new(phases: usize) -> Self {
        let none = Durations::default;
        Self {
            latency: none(),
            service: none(),
            lateness: none(),
            wait: none(),
            phases: (0..phases).map(|_| none()).collect(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency);
        self.service.add(&other.service);
        self.lateness.add(&other.lateness);
        self.wait.add(&other.wait);
        for (mine, theirs) in self.phases.iter_mut().zip(&other.phases) {
            mine.add(theirs);
        }
    }
}

/// What happened since the last snapshot, for the live view and the interval log.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    /// Latency of the requests that were answered.
    pub latency: Durations,
    /// COMMIT acknowledged.
    pub ok: u64,
    /// Failed or unknown.
    pub errors: u64,
    /// Claimed after they were due, or skipped.
    pub late: u64,
}

impl Interval {
    /// Adds another thread's part of the same interval.
    pub fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency);
        self.ok += other.ok;
        self.errors += other.errors;
        self.late += other.late;
    }
}

/// The window that a request belongs to, by its due time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Before the measured window.
    Warmup,
    /// The measured window.
    Measured,
}

/// Everything that one thread, or all together, recorded.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// Histograms of the measured window.
    pub figures: Figures,
    /// Counts of the measured window.
    pub measured: Counts,
    /// Counts of the warm-up.
    pub warmup: Counts,
    /// Requests that were ok and completed within the measured window, whenever they were due.
    pub ok_completed_in_window: u64,
    /// Errors by class.
    pub errors: ErrorTable,
    /// Connections opened in place of dead ones.
    pub reconnects: u64,
    /// Due times (nanoseconds after T0) of slots that were claimed, but handed back because the window closed.
    pub returned_due_ns: Vec<u64>,
    /// The latest due time of a request that was started or skipped, nanoseconds after T0.
    pub last_started_due_ns: Option<u64>,
    interval: Interval,
}

impl Recorder {
    /// An empty recorder for requests of `phases` round trips (0 where the whole request is one).
    pub fn new(phases: usize) -> Self {
        Self {
            figures: Figures::new(phases),
            measured: Counts::default(),
            warmup: Counts::default(),
            ok_completed_in_window: 0,
            errors: ErrorTable::default(),
            reconnects: 0,
            returned_due_ns: Vec::new(),
            last_started_due_ns: None,
            interval: Interval::default(),
        }
    }

    fn counts(&mut self, window: Window) -> &mut Counts {
        match window {
            Window::Warmup => &mut self.warmup,
            Window::Measured => &mut self.measured,
        }
    }

    /// A request is about to be sent.
    pub fn start(&mut self, window: Window, due_after_t0_ns: u64) {
        self.counts(window).in_flight += 1;
        self.last_started_due_ns = self.last_started_due_ns.max(Some(due_after_t0_ns));
    }

    /// A slot was given up because it was too late. `lateness_ns` where its worker was waiting for it: then the
    /// generator was late, not the database.
    pub fn skip(&mut self, window: Window, due_after_t0_ns: u64, lateness_ns: Option<u64>) {
        self.counts(window).skipped += 1;
        self.interval.late += 1;
        self.last_started_due_ns = self.last_started_due_ns.max(Some(due_after_t0_ns));
        if let (Window::Measured, Some(ns)) = (window, lateness_ns) {
            self.figures.lateness.record_ns(ns);
        }
    }

    /// A request that was started has ended. `done_in_window` tells whether it ended within the measured window;
    /// `waited` whether its worker was waiting before it was due. True where its error is the first of a class.
    pub fn finish(
        &mut self,
        window: Window,
        instants: Instants,
        waited: bool,
        done_in_window: bool,
        outcome: &Outcome,
    ) -> bool {
        let Instants { due, claimed, sent, done } = instants;
        let latency_ns = done.saturating_sub(due);
        self.interval.latency.record_ns(latency_ns);
        self.interval.late += u64::from(!waited && claimed > due);
        match outcome {
            Outcome::Ok => self.interval.ok += 1,
            Outcome::Failed(_) | Outcome::Unknown(_) => self.interval.errors += 1,
        }
        self.ok_completed_in_window += u64::from(done_in_window && *outcome == Outcome::Ok);
        if window == Window::Measured {
            self.figures.latency.record_ns(latency_ns);
            self.figures.service.record_ns(done.saturating_sub(sent));
            if waited {
                self.figures.lateness.record_ns(sent.saturating_sub(due));
            } else {
                self.figures.wait.record_ns(claimed.saturating_sub(due));
            }
        }
        let counts = self.counts(window);
        counts.in_flight -= 1;
        match outcome {
            Outcome::Ok => counts.ok += 1,
            Outcome::Failed(_) => counts.failed += 1,
            Outcome::Unknown(_) => counts.unknown += 1,
        }
        match outcome {
            Outcome::Ok => false,
            Outcome::Failed(failure) | Outcome::Unknown(failure) => {
                let origin = match window {
                    Window::Measured => ErrorOrigin::Request,
                    Window::Warmup => ErrorOrigin::Warmup,
                };
                self.errors.add(origin, failure)
            }
        }
    }

    /// The round trips of an answered request in the measured window, nanoseconds each, as far as it came.
    pub fn phases(&mut self, durations_ns: &[u64]) {
        for (phase, ns) in self.figures.phases.iter_mut().zip(durations_ns) {
            phase.record_ns(*ns);
        }
    }

    /// An attempt to replace a connection failed. True where the error is the first of its class.
    pub fn reconnect_failed(&mut self, failure: &Failure) -> bool {
        self.errors.add(ErrorOrigin::Connection, failure)
    }

    /// Takes what happened since the last call.
    pub fn take_interval(&mut self) -> Interval {
        std::mem::take(&mut self.interval)
    }

    /// Adds what another thread recorded.
    pub fn merge(&mut self, other: &Self) {
        self.figures.add(&other.figures);
        self.measured.add(&other.measured);
        self.warmup.add(&other.warmup);
        self.ok_completed_in_window += other.ok_completed_in_window;
        self.errors.merge(&other.errors.counts());
        self.reconnects += other.reconnects;
        self.returned_due_ns.extend(&other.returned_due_ns);
        self.last_started_due_ns = self.last_started_due_ns.max(other.last_started_due_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn at(due: u64, claimed: u64, sent: u64, done: u64) -> Instants {
        Instants { due: due * MS, claimed: claimed * MS, sent: sent * MS, done: done * MS }
    }

    fn max_ms(durations: &Durations) -> Option<u64> {
        (durations.count() > 0).then(|| durations.histogram.max() / 1_000)
    }

    #[test]
    fn each_figure_is_the_difference_that_its_name_says() {
        let mut recorder = Recorder::new(0);
        recorder.start(Window::Measured, 0);
        recorder.finish(Window::Measured, at(100, 90, 101, 111), true, true, &Outcome::Ok);
        let figures = &recorder.figures;
        assert_eq!(
            [&figures.latency, &figures.service, &figures.lateness, &figures.wait].map(max_ms),
            [Some(11), Some(10), Some(1), None]
        );

        let mut recorder = Recorder::new(0);
        recorder.start(Window::Measured, 0);
        recorder.finish(Window::Measured, at(100, 130, 131, 141), false, true, &Outcome::Ok);
        let figures = &recorder.figures;
        assert_eq!(
            [&figures.latency, &figures.service, &figures.lateness, &figures.wait].map(max_ms),
            [Some(41), Some(10), None, Some(30)]
        );
    }

    #[test]
    fn the_warm_up_is_counted_but_does_not_touch_the_figures() {
        let mut recorder = Recorder::new(0);
        recorder.start(Window::Warmup, 0);
        recorder.finish(Window::Warmup, at(1, 1, 1, 9), true, true, &Outcome::Ok);
        assert_eq!(recorder.figures.latency.count(), 0);
        assert_eq!((recorder.warmup.ok, recorder.measured.ok, recorder.ok_completed_in_window), (1, 0, 1));
    }

    #[test]
    fn a_value_past_the_range_is_counted_and_not_clamped() {
        let mut durations = Durations::default();
        durations.record_ns((MAX_VALUE_US + 200_000_000) * 1_000 * 2);
        assert_eq!((durations.past_range, durations.histogram.len(), durations.count()), (1, 0, 1));
    }

    proptest! {
        #[test]
        fn merging_threads_equals_recording_on_one(values in prop::collection::vec((0u64..100_000_000_000, 0usize..3), 1..200)) {
            let together = &mut Recorder::new(0);
            let mut apart = [Recorder::new(0), Recorder::new(0), Recorder::new(0)];
            for (ns, thread) in values {
                let instants = Instants { due: 0, claimed: 0, sent: ns / 3, done: ns };
                for recorder in [&mut *together, &mut apart[thread]] {
                    recorder.start(Window::Measured, ns);
                    recorder.finish(Window::Measured, instants, thread == 1, true, &Outcome::Ok);
                }
            }
            let mut merged = Recorder::new(0);
            apart.iter().for_each(|recorder| merged.merge(recorder));
            prop_assert_eq!(&merged.figures.latency, &together.figures.latency);
            prop_assert_eq!(&merged.figures.service, &together.figures.service);
            prop_assert_eq!(&merged.figures.lateness, &together.figures.lateness);
            prop_assert_eq!(&merged.figures.wait, &together.figures.wait);
            prop_assert_eq!(merged.measured, together.measured);
            prop_assert_eq!(merged.last_started_due_ns, together.last_started_due_ns);
        }
    }
}
