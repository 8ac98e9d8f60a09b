//! What a thread writes down while the test runs: plain histograms and counters, no locks, no allocation per request.
//!
//! One recorder a thread, taken away and replaced by an empty one every second: what was taken is that second, and the
//! sum of all seconds is the run. Values are microseconds. Knows no clock and no socket.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::measure::outages::Pulse;
use crate::measure::outcome::{ErrorCount, ErrorOrigin, ErrorTable, Failure, Outcome};

/// The greatest value that a histogram holds: a day, in microseconds.
pub const MAX_VALUE_US: u64 = 24 * 3600 * 1_000_000;

/// Significant decimal digits that a histogram keeps of every value.
pub const SIGNIFICANT_DIGITS: u8 = 3;

/// The same where space counts more.
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
        // The bounds are constants that the crate accepts, as every test of this module shows.
        let histogram = Histogram::new_with_bounds(1, MAX_VALUE_US, SIGNIFICANT_DIGITS)
            .unwrap_or_else(|error| unreachable!("constant histogram bounds: {error}"));
        Self { histogram, past_range: 0 }
    }
}

/// An empty histogram with two significant digits.
pub fn coarse_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_VALUE_US, COARSE_DIGITS)
        .unwrap_or_else(|error| unreachable!("constant histogram bounds: {error}"))
}

impl Durations {
    /// The same values with two significant digits, in a tenth of the space.
    pub fn coarse(&self) -> Histogram<u64> {
        let mut coarse = coarse_histogram();
        if let Err(error) = coarse.add(&self.histogram) {
            unreachable!("both have the same range: {error}");
        }
        coarse
    }

    /// Records a duration given in nanoseconds.
    pub fn record_ns(&mut self, ns: u64) {
        if self.histogram.record(ns / 1_000).is_err() {
            self.past_range += 1;
        }
    }

    /// Adds another's values, exactly.
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
        self.histogram.len() + self.past_range
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
    /// Handed to a connection, whatever became of it.
    pub started: u64,
}

impl Counts {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.ok = self.ok.saturating_add(other.ok);
        self.failed = self.failed.saturating_add(other.failed);
        self.unknown = self.unknown.saturating_add(other.unknown);
        self.skipped = self.skipped.saturating_add(other.skipped);
        self.started = self.started.saturating_add(other.started);
    }

    /// Requests that got an answer, be it an error.
    pub fn answered(&self) -> u64 {
        self.ok.saturating_add(self.failed).saturating_add(self.unknown)
    }

    /// Started, and no answer yet. Has a meaning only for counts since T0.
    pub fn in_flight(&self) -> u64 {
        self.started.saturating_sub(self.answered())
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
    /// sent − due, of requests whose worker was waiting before they were due, or that the generator held up because it
    /// stood still
    pub lateness: Durations,
    /// claimed − due, of all others
    pub wait: Durations,
    /// The round trips within the service time, in order.
    pub phases: Vec<Durations>,
}

impl Figures {
    /// Empty histograms, of requests with so many round trips.
    pub(crate) fn new(phases: usize) -> Self {
        let none = Durations::default;
        Self {
            latency: none(),
            service: none(),
            lateness: none(),
            wait: none(),
            phases: (0..phases).map(|_| none()).collect(),
        }
    }

    /// Adds another's values.
    pub(crate) fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency);
        self.service.add(&other.service);
        self.lateness.add(&other.lateness);
        self.wait.add(&other.wait);
        for (mine, theirs) in self.phases.iter_mut().zip(&other.phases) {
            mine.add(theirs);
        }
    }
}

/// What a second was like, for the live view and the interval log.
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
    /// Connections that were lost between requests, and attempts to open one that failed.
    pub connection_errors: u64,
}

impl Interval {
    /// Adds another machine's part of the same second.
    pub fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency);
        self.ok = self.ok.saturating_add(other.ok);
        self.errors = self.errors.saturating_add(other.errors);
        self.late = self.late.saturating_add(other.late);
        self.connection_errors = self.connection_errors.saturating_add(other.connection_errors);
    }
}

/// How many requests were completed when: counts in bins of equal length from T0 on.
///
/// Bins grow when there are more than [`Timeline::MAX_BINS`], so that its size does not depend on how long a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// Length of a bin, seconds.
    pub bin_seconds: u64,
    /// Requests that were ok and completed within the measured window, by bin.
    pub completed: Vec<u64>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { bin_seconds: 1, completed: Vec::new() }
    }
}

impl Timeline {
    /// More bins than this are halved in number.
    pub const MAX_BINS: usize = 600;

    /// Adds what was completed in second `index` since T0.
    pub fn add(&mut self, index: u64, completed: u64) {
        while index / self.bin_seconds >= Self::MAX_BINS as u64 {
            self.completed = self
                .completed
                .chunks(2)
                .map(|pair| pair.iter().fold(0u64, |sum, count| sum.saturating_add(*count)))
                .collect();
            self.bin_seconds *= 2;
        }
        let bin = (index / self.bin_seconds) as usize;
        if bin >= self.completed.len() {
            self.completed.resize(bin + 1, 0);
        }
        self.completed[bin] = self.completed[bin].saturating_add(completed);
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

/// What one thread, or all together, recorded in a second or in a whole run.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// T0 on the clock of the [`Instants`], nanoseconds: errors are told by how long after it they came.
    pub t0_ns: u64,
    /// Histograms of the measured window.
    pub figures: Figures,
    /// Latency of the requests of the warm-up, for the live view.
    pub warmup_latency: Durations,
    /// Counts of the measured window.
    pub measured: Counts,
    /// Counts of the warm-up.
    pub warmup: Counts,
    /// Requests that were ok and completed within the measured window, whenever they were due.
    pub ok_completed_in_window: u64,
    /// Requests that were claimed after they were due, or skipped.
    pub late: u64,
    /// Errors by class.
    pub errors: ErrorTable,
    /// Connections opened in place of dead ones.
    pub reconnects: u64,
    /// Due times (nanoseconds after T0) of slots that were claimed, but handed back because the window closed.
    pub returned_due_ns: Vec<u64>,
    /// The latest due time of a request that was started or skipped, nanoseconds after T0.
    pub last_started_due_ns: Option<u64>,
    /// When requests were acknowledged, and when there were errors.
    pub pulse: Pulse,
    /// Requests of the measured window that the generator held up because it stood still.
    pub stalled: u64,
    /// Requests that were tried more than once.
    pub retried: u64,
    /// How often in all.
    pub retries: u64,
    /// Requests that may or may not have been committed, up to [`Self::MAX_UNSETTLED`] of them.
    pub unsettled: Vec<Unsettled>,
}

/// A request of which it is not known what became of it, so that it can be looked up by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The slot that it was made for.
    pub slot: u64,
    /// The time in its ids, milliseconds since 1970.
    pub unix_ms: u64,
}

impl Recorder {
    /// More unsettled requests than this are only counted. Each costs 16 bytes.
    pub const MAX_UNSETTLED: usize = 100_000;

    /// An empty recorder for requests of `phases` round trips (0 where the whole request is one).
    pub fn new(phases: usize) -> Self {
        Self {
            t0_ns: 0,
            figures: Figures::new(phases),
            warmup_latency: Durations::default(),
            measured: Counts::default(),
            warmup: Counts::default(),
            ok_completed_in_window: 0,
            late: 0,
            errors: ErrorTable::default(),
            reconnects: 0,
            returned_due_ns: Vec::new(),
            last_started_due_ns: None,
            pulse: Pulse::default(),
            stalled: 0,
            retried: 0,
            retries: 0,
            unsettled: Vec::new(),
        }
    }

    /// A request ended without it being known whether it was committed.
    pub fn unsettled(&mut self, request: Unsettled) {
        if self.unsettled.len() < Self::MAX_UNSETTLED {
            self.unsettled.push(request);
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
        self.counts(window).started += 1;
        self.last_started_due_ns = self.last_started_due_ns.max(Some(due_after_t0_ns));
    }

    /// The generator stood still while a request was due or in flight.
    pub fn stalled(&mut self, window: Window) {
        self.stalled += u64::from(window == Window::Measured);
    }

    /// A slot was given up because it was too late. `lateness_ns` where its worker was waiting for it or the generator
    /// stood still: then the generator was late, not the database.
    pub fn skip(&mut self, window: Window, due_after_t0_ns: u64, lateness_ns: Option<u64>) {
        self.counts(window).skipped += 1;
        self.late += 1;
        self.last_started_due_ns = self.last_started_due_ns.max(Some(due_after_t0_ns));
        if let (Window::Measured, Some(ns)) = (window, lateness_ns) {
            self.figures.lateness.record_ns(ns);
        }
    }

    /// A request that was started has ended. `done_in_window` tells whether it ended within the measured window;
    /// `is_lateness` whether its worker was waiting before it was due, or the generator stood still. True where its error is the first of a class.
    pub fn finish(
        &mut self,
        window: Window,
        instants: Instants,
        is_lateness: bool,
        done_in_window: bool,
        outcome: &Outcome,
    ) -> bool {
        let Instants { due, claimed, sent, done } = instants;
        let latency_ns = done.saturating_sub(due);
        self.late += u64::from(claimed > due);
        self.ok_completed_in_window += u64::from(done_in_window && *outcome == Outcome::Ok);
        if window == Window::Warmup {
            self.warmup_latency.record_ns(latency_ns);
        } else {
            self.figures.latency.record_ns(latency_ns);
            self.figures.service.record_ns(done.saturating_sub(sent));
            if is_lateness {
                self.figures.lateness.record_ns(sent.saturating_sub(due));
            } else {
                self.figures.wait.record_ns(claimed.saturating_sub(due));
            }
        }
        let counts = self.counts(window);
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
                self.errors.add(origin, failure, done.saturating_sub(self.t0_ns))
            }
        }
    }

    /// The round trips of an answered request in the measured window, nanoseconds each, as far as it came.
    pub fn phases(&mut self, durations_ns: &[u64]) {
        for (phase, ns) in self.figures.phases.iter_mut().zip(durations_ns) {
            phase.record_ns(*ns);
        }
    }

    /// A try of a request failed at `done_ns`, and is made again; `is_first` where it is the request's first one. True
    /// where the error is the first of its class.
    pub fn retry(&mut self, is_first: bool, failure: &Failure, done_ns: u64) -> bool {
        self.retried += u64::from(is_first);
        self.retries += 1;
        self.errors.add(ErrorOrigin::Retry, failure, done_ns.saturating_sub(self.t0_ns))
    }

    /// The server or the network ended a connection that was idle, which was noticed `at_ns` after T0. True where the error
    /// is the first of its class.
    pub fn connection_lost(&mut self, failure: &Failure, at_ns: u64) -> bool {
        self.errors.add(ErrorOrigin::Connection, failure, at_ns)
    }

    /// An attempt to replace a connection failed `at_ns` after T0. True where the error is the first of its class.
    pub fn reconnect_failed(&mut self, failure: &Failure, at_ns: u64) -> bool {
        self.pulse.error(at_ns);
        self.errors.add(ErrorOrigin::Connection, failure, at_ns)
    }

    /// Takes what was recorded since the last call, and goes on in `empty`. Errors that are known stay known.
    pub fn take(&mut self, empty: Self) -> Self {
        let empty = Self { t0_ns: self.t0_ns, ..empty };
        let mut taken = std::mem::replace(self, empty);
        let counted = taken.errors.take();
        self.errors = std::mem::replace(&mut taken.errors, counted);
        taken
    }

    /// The same in short, of warm-up and measured window together.
    pub fn interval(&self) -> Interval {
        let mut latency = self.figures.latency.clone();
        latency.add(&self.warmup_latency);
        Interval {
            latency,
            ok: self.measured.ok + self.warmup.ok,
            errors: self.errors_seen(),
            late: self.late,
            connection_errors: connection_errors(&self.errors.counts()),
        }
    }

    /// Requests that failed or whose answer was lost, of warm-up and measured window together.
    pub fn errors_seen(&self) -> u64 {
        [&self.measured, &self.warmup].iter().map(|counts| counts.failed.saturating_add(counts.unknown)).sum()
    }

    /// Requests that were acknowledged, and those that may or may not have been committed, of both together.
    pub fn acknowledged_and_unsettled(&self) -> (u64, u64) {
        let counts = [&self.measured, &self.warmup];
        let unsettled = counts.iter().map(|counts| counts.unknown.saturating_add(counts.in_flight())).sum();
        (counts.iter().map(|counts| counts.ok).sum(), unsettled)
    }

    /// Adds what was recorded by another thread, or later.
    pub fn merge(&mut self, other: &Self) {
        self.figures.add(&other.figures);
        self.warmup_latency.add(&other.warmup_latency);
        self.measured.add(&other.measured);
        self.warmup.add(&other.warmup);
        self.ok_completed_in_window += other.ok_completed_in_window;
        self.late += other.late;
        self.errors.merge(&other.errors.counts());
        self.reconnects += other.reconnects;
        self.returned_due_ns.extend(&other.returned_due_ns);
        self.last_started_due_ns = self.last_started_due_ns.max(other.last_started_due_ns);
        self.pulse.merge(&other.pulse);
        self.stalled += other.stalled;
        self.retried += other.retried;
        self.retries += other.retries;
        let room = Self::MAX_UNSETTLED.saturating_sub(self.unsettled.len());
        self.unsettled.extend(other.unsettled.iter().take(room));
    }
}

/// How many errors there were outside of requests.
pub fn connection_errors(errors: &[ErrorCount]) -> u64 {
    let counts = errors.iter().filter(|error| error.origin == ErrorOrigin::Connection).map(|error| error.count);
    counts.fold(0, u64::saturating_add)
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
    fn errors_are_told_by_their_time_after_t0_also_in_the_seconds_to_come() {
        let lost = Failure::own("lost", "why".to_owned(), true);
        let mut recorder = Recorder { t0_ns: 1_000 * MS, ..Recorder::new(0) };
        let mut seconds = Vec::new();
        for done in [1_250, 2_500] {
            recorder.start(Window::Measured, 0);
            recorder.finish(
                Window::Measured,
                at(1_100, 1_100, 1_100, done),
                true,
                true,
                &Outcome::Failed(lost.clone()),
            );
            recorder.retry(true, &lost, (done + 1) * MS);
            seconds.push(recorder.take(Recorder::new(0)));
        }
        let mut sum = Recorder::new(0);
        seconds.iter().for_each(|second| sum.merge(second));
        let times: Vec<_> =
            sum.errors.counts().iter().map(|count| (count.origin, count.first_s, count.last_s)).collect();
        let expected = [(ErrorOrigin::Request, 0.25, 1.5), (ErrorOrigin::Retry, 0.251, 1.501)];
        assert_eq!(times, expected.map(|(origin, first, last)| (origin, Some(first), Some(last))));
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
