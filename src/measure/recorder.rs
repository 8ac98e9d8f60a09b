//! What a thread writes down while the test runs: plain histograms and counters, no locks, no allocation per request.
//!
//! One recorder a thread, taken away and replaced by an empty one every second: what was taken is that second, and the
//! sum of all seconds is the run. Values are microseconds. Knows no clock and no socket.

use super::bins::Bins;
use super::counters::{Counters, Counts, tally};
use super::durations::Durations;
use super::figures::Figures;
use super::outages::Pulse;
use super::outcome::{ErrorOrigin, ErrorTable, Failure, Outcome};

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

tally! {
    /// What a second was like, for the live view and the interval log: warm-up and measured window together.
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
    pub counters: Counters,
    /// Histograms of the measured window.
    pub figures: Figures,
    /// Latency of the requests of the warm-up, for the live view.
    pub warmup_latency: Durations,
    /// What it was like over time, warm-up included.
    pub bins: Bins,
    /// Errors by class.
    pub errors: ErrorTable,
    /// Due times (nanoseconds after T0) of slots that were claimed, but handed back because the window closed.
    pub returned_due_ns: Vec<u64>,
    /// The latest due time of a request that was started or skipped, nanoseconds after T0.
    pub last_started_due_ns: Option<u64>,
    /// When requests were acknowledged, and when there were errors.
    pub pulse: Pulse,
    /// Requests that may or may not have been committed, up to [`Self::MAX_UNSETTLED`] of them.
    pub unsettled: Vec<Unsettled>,
}

/// A request whose outcome is not known. Its rows can be looked up by its id.
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
        Self::with(Figures::new(phases))
    }

    /// The same with empty histograms of another precision.
    pub fn with(figures: Figures) -> Self {
        Self {
            t0_ns: 0,
            counters: Counters::default(),
            figures,
            warmup_latency: Durations::default(),
            bins: Bins::default(),
            errors: ErrorTable::default(),
            returned_due_ns: Vec::new(),
            last_started_due_ns: None,
            pulse: Pulse::default(),
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
            Window::Warmup => &mut self.counters.warmup,
            Window::Measured => &mut self.counters.measured,
        }
    }

    /// A request is about to be sent.
    pub fn start(&mut self, window: Window, due_after_t0_ns: u64) {
        self.counts(window).started += 1;
        self.bins.start(due_after_t0_ns);
        self.last_started_due_ns = self.last_started_due_ns.max(Some(due_after_t0_ns));
    }

    /// The generator stood still while a request was due or in flight.
    pub fn stalled(&mut self, window: Window) {
        self.counters.stalled += u64::from(window == Window::Measured);
    }

    /// A slot was given up because it was too late. `lateness_ns` where its worker was waiting for it or the generator
    /// stood still: then the generator was late, not the database.
    pub fn skip(&mut self, window: Window, due_after_t0_ns: u64, lateness_ns: Option<u64>) {
        self.counts(window).skipped += 1;
        self.bins.skip(due_after_t0_ns, lateness_ns);
        self.counters.late += 1;
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
        let lateness_ns = is_lateness.then(|| sent.saturating_sub(due));
        let [due_ns, sent_ns, done_ns] = [due, sent, done].map(|at_ns| at_ns.saturating_sub(self.t0_ns));
        self.bins.finish(due_ns, sent_ns, done_ns, lateness_ns, outcome);
        self.counters.late += u64::from(claimed > due);
        self.counters.completed_in_window += u64::from(done_in_window && *outcome == Outcome::Ok);
        if window == Window::Warmup {
            self.warmup_latency.record_ns(latency_ns);
        } else {
            self.figures.latency.record_ns(latency_ns);
            self.figures.service_time.record_ns(done.saturating_sub(sent));
            if let Some(lateness_ns) = lateness_ns {
                self.figures.lateness.record_ns(lateness_ns);
            } else {
                self.figures.wait_for_connection.record_ns(claimed.saturating_sub(due));
            }
        }
        let counts = self.counts(window);
        let (count, failure) = match outcome {
            Outcome::Ok => (&mut counts.ok, None),
            Outcome::Failed(failure) => (&mut counts.failed, Some(failure)),
            Outcome::Unknown(failure) => (&mut counts.unknown, Some(failure)),
        };
        *count += 1;
        let origin = if window == Window::Measured { ErrorOrigin::Request } else { ErrorOrigin::Warmup };
        failure.is_some_and(|failure| self.errors.add(origin, failure, done.saturating_sub(self.t0_ns)))
    }

    /// A request that was sent at `sent` on the clock of the [`Instants`] is given up at `now` without an answer: its worker
    /// was busy until then.
    pub fn abandon(&mut self, sent: u64, now: u64) {
        let [sent_ns, now_ns] = [sent, now].map(|at_ns| at_ns.saturating_sub(self.t0_ns));
        self.bins.busy(sent_ns, now_ns);
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
        self.counters.recoveries.retried += u64::from(is_first);
        self.counters.recoveries.retries += 1;
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

    /// The same in short.
    pub fn interval(&self) -> Interval {
        let mut latency = self.figures.latency.clone();
        latency.add(&self.warmup_latency);
        Interval {
            latency,
            ok: self.counters.acknowledged(),
            errors: self.counters.errors(),
            late: self.counters.late,
            connection_errors: self.errors.of(ErrorOrigin::Connection),
        }
    }

    /// Adds what was recorded by another thread, or later.
    pub fn merge(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        self.figures.add(&other.figures);
        self.warmup_latency.add(&other.warmup_latency);
        self.bins.add(&other.bins, 0);
        self.errors.merge(&other.errors.counts());
        self.returned_due_ns.extend(&other.returned_due_ns);
        self.last_started_due_ns = self.last_started_due_ns.max(other.last_started_due_ns);
        self.pulse.merge(&other.pulse);
        let room = Self::MAX_UNSETTLED.saturating_sub(self.unsettled.len());
        self.unsettled.extend(other.unsettled.iter().take(room));
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
            [&figures.latency, &figures.service_time, &figures.lateness, &figures.wait_for_connection].map(max_ms),
            [Some(11), Some(10), Some(1), None]
        );

        let mut recorder = Recorder::new(0);
        recorder.start(Window::Measured, 0);
        recorder.finish(Window::Measured, at(100, 130, 131, 141), false, true, &Outcome::Ok);
        let figures = &recorder.figures;
        assert_eq!(
            [&figures.latency, &figures.service_time, &figures.lateness, &figures.wait_for_connection].map(max_ms),
            [Some(41), Some(10), None, Some(30)]
        );
    }

    #[test]
    fn the_warm_up_is_counted_but_does_not_touch_the_figures() {
        let mut recorder = Recorder::new(0);
        recorder.start(Window::Warmup, 0);
        recorder.finish(Window::Warmup, at(1, 1, 1, 9), true, true, &Outcome::Ok);
        assert_eq!(recorder.figures.latency.count(), 0);
        let counters = recorder.counters;
        assert_eq!((counters.warmup.ok, counters.measured.ok, counters.completed_in_window), (1, 0, 1));
    }

    #[test]
    fn workers_whose_requests_hang_until_they_are_given_up_are_busy() {
        let mut recorder = Recorder { t0_ns: 1_000 * MS, ..Recorder::new(0) };
        for _ in 0..16 {
            recorder.start(Window::Measured, 500 * MS);
            recorder.abandon(1_500 * MS, 4_000 * MS);
        }
        let busy: Vec<u64> = recorder.bins.bins.iter().map(|(_, bin)| bin.busy_ns / MS).collect();
        assert_eq!(busy, [16 * 500, 16 * 1_000, 16 * 1_000]);
        let counts = recorder.counters.measured;
        assert_eq!((counts.started, counts.in_flight(), recorder.figures.latency.count()), (16, 16, 0));
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
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
            prop_assert_eq!(&merged.figures, &together.figures);
            prop_assert_eq!(merged.counters, together.counters);
            prop_assert_eq!(merged.last_started_due_ns, together.last_started_due_ns);
        }
    }
}
