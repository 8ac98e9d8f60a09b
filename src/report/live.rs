//! What is shown while a test runs: totals so far, and the last seconds.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use crate::docker::ContainerSample;
use crate::recorder::{Interval, coarse_histogram};
use crate::verdict::thousands;

/// How many seconds "the last seconds" are.
const RECENT_SECONDS: usize = 5;

/// Gathers intervals and tells where the test stands.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    planned_seconds: u64,
    ok: u64,
    errors: u64,
    seconds: u64,
    recent: VecDeque<Recent>,
}

/// A second in a tenth of an interval's space: there may be a hundred hosts with some of them.
#[derive(Clone, Debug)]
struct Recent {
    latency: Histogram<u64>,
    ok: u64,
    errors: u64,
    late: u64,
    connection_errors: u64,
}

impl Progress {
    /// Nothing has happened yet; the window closes after `planned_seconds`.
    pub fn new(planned_seconds: u64) -> Self {
        Self { planned_seconds, ..Self::default() }
    }

    /// Whether the window has closed, and only answers are waited for.
    pub fn is_draining(&self) -> bool {
        self.seconds > self.planned_seconds
    }

    /// Whether all seconds of the window have been seen.
    pub fn is_over(&self) -> bool {
        self.seconds >= self.planned_seconds
    }

    /// The window has been closed, perhaps early: in the second after the last one seen.
    pub fn close(&mut self) {
        self.planned_seconds = self.planned_seconds.min(self.seconds + 1);
    }

    /// Takes in second `index` since T0.
    pub fn add(&mut self, index: u64, interval: &Interval) {
        self.ok = self.ok.saturating_add(interval.ok);
        self.errors = self.errors.saturating_add(interval.errors);
        self.seconds = self.seconds.max(index.saturating_add(1));
        let Interval { latency, ok, errors, late, connection_errors } = interval;
        self.recent.push_back(Recent {
            latency: latency.coarse(),
            ok: *ok,
            errors: *errors,
            late: *late,
            connection_errors: *connection_errors,
        });
        if self.recent.len() > RECENT_SECONDS {
            self.recent.pop_front();
        }
    }

    /// Whole seconds since T0.
    pub fn seconds(&self) -> u64 {
        self.seconds
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        self.ok.saturating_add(self.errors)
    }

    /// One line: the seed's, with more at its end.
    pub fn line(&self, container: Option<ContainerSample>) -> String {
        if self.is_draining() {
            let over = self.seconds - self.planned_seconds;
            return format!("Draining: {over}s after the end, {} requests answered", thousands(self.requests()));
        }
        let rate = self.requests() as f64 / self.seconds.max(1) as f64;
        let head = format!("{}s elapsed, {} requests, {rate:.1} RPS", self.seconds, thousands(self.requests()));
        format!("Progress: {head}, {}{}", self.recent(), container_text(container))
    }

    /// What the last seconds were like.
    pub fn recent(&self) -> String {
        let mut latency = coarse_histogram();
        let (mut ok, mut errors, mut late, mut connection_errors) = (0, 0, 0, 0u64);
        for interval in &self.recent {
            // Both have the same range, so nothing can be lost.
            let _ = latency.add(&interval.latency);
            ok += interval.ok;
            errors += interval.errors;
            late += interval.late;
            connection_errors = connection_errors.saturating_add(interval.connection_errors);
        }
        let seconds = self.recent.len().max(1);
        let figures = match latency.len() {
            0 => "p50 -, p99 -".to_owned(),
            _ => {
                let [p50, p99] = [0.5, 0.99].map(|quantile| latency.value_at_quantile(quantile) as f64 / 1_000.0);
                format!("p50 {p50:.1} ms, p99 {p99:.1} ms")
            }
        };
        let late = if late > 0 { format!(", {} late", thousands(late)) } else { String::new() };
        let connections = match connection_errors {
            0 => String::new(),
            count => format!(", {} connection errors", thousands(count)),
        };
        let rate = ok as f64 / seconds as f64;
        format!("last {seconds}s: {rate:.1} RPS, {figures}, {} errors{connections}{late}", thousands(errors))
    }
}

/// The newest reading of a container, to be put behind a line.
pub fn container_text(sample: Option<ContainerSample>) -> String {
    sample
        .map_or(String::new(), |sample| format!(", CPU: {:.1}%, Mem: {:.0}MiB", sample.cpu_percent, sample.memory_mib))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(ok: u64, errors: u64, ms: u64) -> Interval {
        let mut interval = Interval { ok, errors, ..Interval::default() };
        (0..ok + errors).for_each(|_| interval.latency.record_ns(ms * 1_000_000));
        interval
    }

    #[test]
    fn the_line_tells_the_whole_and_the_last_seconds() {
        let mut progress = Progress::new(10);
        for second in 0..10 {
            progress.add(second, &interval(100, u64::from(second == 9), if second < 5 { 100 } else { 2 }));
        }
        let line = progress.line(None);
        assert!(
            line.starts_with(
                "Progress: 10s elapsed, 1,001 requests, 100.1 RPS, last 5s: 100.0 RPS, p50 2.0 ms, p99 2.0 ms, 1 errors"
            ),
            "{line}"
        );
    }

    #[test]
    fn connections_that_fail_are_shown_where_no_request_does() {
        let mut progress = Progress::new(10);
        progress.add(0, &Interval { connection_errors: 128, ..Interval::default() });
        assert!(
            progress.line(None).ends_with("p50 -, p99 -, 0 errors, 128 connection errors"),
            "{}",
            progress.line(None)
        );
    }

    #[test]
    fn silence_is_shown_as_such() {
        let mut progress = Progress::new(1);
        progress.add(0, &Interval::default());
        assert!(progress.line(None).contains("0 requests, 0.0 RPS, last 1s: 0.0 RPS, p50 -, p99 -, 0 errors"));
    }

    #[test]
    fn the_drain_is_not_called_progress() {
        let mut progress = Progress::new(1);
        (0..3).for_each(|second| progress.add(second, &interval(4, 0, 1)));
        assert_eq!(progress.line(None), "Draining: 2s after the end, 12 requests answered");
    }
}
