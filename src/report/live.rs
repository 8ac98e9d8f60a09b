//! What is shown while a test runs: totals so far, and the last seconds.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use crate::measure::durations::{COARSE_DIGITS, Durations};
use crate::measure::recorder::Interval;
use crate::text::terminal::cut;
use crate::text::words::thousands;

const BAR: usize = 20;

/// A shorter bar shows nothing.
const LEAST_BAR: usize = 6;

/// How many seconds "the last seconds" are.
const RECENT_SECONDS: usize = 5;

/// Gathers intervals and says how far the test is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// From the plan.
    length_seconds: u64,
    /// When the window closes.
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
        Self { length_seconds: planned_seconds, planned_seconds, ..Self::default() }
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
            latency: latency.coarse().histogram,
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

    /// One line for a log. `watched` are the readings of monitors.
    pub fn line(&self, watched: &[String]) -> String {
        if self.is_draining() {
            let over = self.seconds - self.planned_seconds;
            return format!("Draining: {over}s after the end, {} requests answered", thousands(self.requests()));
        }
        let rate = self.requests() as f64 / self.seconds.max(1) as f64;
        let head = format!("{}s elapsed, {} requests, {rate:.1} RPS", self.seconds, thousands(self.requests()));
        format!("Progress: {head}, {}", self.recent_within(usize::MAX, watched))
    }

    /// One line of a terminal of so many columns, with a bar where there is room for it.
    pub fn terminal_line(&self, columns: usize, watched: &[String]) -> String {
        let length = self.length_seconds;
        let position = match self.is_draining() {
            true => format!("draining {}s", self.seconds - self.planned_seconds),
            false => format!("{}/{length}s", self.seconds),
        };
        let room = columns.saturating_sub(INDENT.len());
        let recent = self.recent_within(room.saturating_sub(position.len() + 2), watched);
        let text = format!("{position}  {recent}");
        let bar = room.saturating_sub(text.chars().count() + "[] ".len()).min(BAR);
        if bar < LEAST_BAR {
            return cut(&format!("{INDENT}{text}"), columns);
        }
        let done = (bar as u64).saturating_mul(self.seconds.min(length)) / length.max(1);
        format!("{INDENT}[{:<bar$}] {text}", "=".repeat(done as usize))
    }

    /// What the last seconds were like, in so many characters: the least important figures are left out first.
    pub fn recent_within(&self, columns: usize, watched: &[String]) -> String {
        let mut parts = self.figures();
        parts.extend(watched.iter().cloned().zip(5..).map(|(text, rank)| (rank, text)));
        let joined =
            |parts: &[(usize, String)]| parts.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(", ");
        let whole = format!("last {}s: {}", self.recent.len().max(1), joined(&parts));
        if whole.chars().count() <= columns {
            return whole;
        }
        while joined(&parts).chars().count() > columns && parts.len() > 1 {
            let least = parts.iter().map(|(rank, _)| *rank).max();
            parts.retain(|(rank, _)| Some(*rank) != least);
        }
        cut(&joined(&parts), columns)
    }

    /// Of the last seconds, in the order of the line, each with its rank: the greatest is left out first.
    fn figures(&self) -> Vec<(usize, String)> {
        let mut latency = Durations::with_digits(COARSE_DIGITS).histogram;
        let (mut ok, mut errors, mut late, mut connection_errors) = (0, 0, 0, 0u64);
        for interval in &self.recent {
            // Both have the same range, so nothing can be lost.
            let _ = latency.add(&interval.latency);
            ok += interval.ok;
            errors += interval.errors;
            late += interval.late;
            connection_errors = connection_errors.saturating_add(interval.connection_errors);
        }
        let rps = ok as f64 / self.recent.len().max(1) as f64;
        let ms = |quantile| match latency.len() {
            0 => "-".to_owned(),
            _ => format!("{:.1} ms", latency.value_at_quantile(quantile) as f64 / 1_000.0),
        };
        let [p50, p99] = [0.5, 0.99].map(ms);
        let errors = match connection_errors {
            0 => format!("{} errors", thousands(errors)),
            count => format!("{} errors, {} connection errors", thousands(errors), thousands(count)),
        };
        let mut figures =
            vec![(0, format!("{rps:.1} RPS")), (3, format!("p50 {p50}")), (2, format!("p99 {p99}")), (1, errors)];
        figures.extend((late > 0).then(|| (4, format!("{} late", thousands(late)))));
        figures
    }
}

const INDENT: &str = "  ";

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
        let line = progress.line(&[]);
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
            progress.line(&[]).ends_with("p50 -, p99 -, 0 errors, 128 connection errors"),
            "{}",
            progress.line(&[])
        );
    }

    #[test]
    fn a_line_keeps_what_matters_most_on_a_narrow_terminal() {
        let mut progress = Progress::new(60);
        (0..12).for_each(|second| progress.add(second, &interval(100, 0, 2)));
        for (columns, expected) in [
            (200, "  [====                ] 12/60s  last 5s: 100.0 RPS, p50 2.0 ms, p99 2.0 ms, 0 errors"),
            (79, "  [==            ] 12/60s  last 5s: 100.0 RPS, p50 2.0 ms, p99 2.0 ms, 0 errors"),
            (59, "  12/60s  100.0 RPS, p50 2.0 ms, p99 2.0 ms, 0 errors"),
            (47, "  12/60s  100.0 RPS, p99 2.0 ms, 0 errors"),
            (39, "  [=      ] 12/60s  100.0 RPS, 0 errors"),
            (22, "  12/60s  100.0 RPS"),
            (15, "  12/60s  100.…"),
            (3, "  …"),
            (0, ""),
        ] {
            assert_eq!(progress.terminal_line(columns, &[]), expected, "{columns}");
        }
        progress.close();
        (12..16).for_each(|second| progress.add(second, &Interval::default()));
        assert!(progress.terminal_line(79, &[]).contains("] draining 3s  last 5s: "));
    }

    #[test]
    fn no_line_is_longer_than_its_terminal() {
        let mut progress = Progress::new(3_600_000);
        (0..5).for_each(|second| {
            let late = Interval { late: 1_234_567, ..interval(99, 1, 86_000_000) };
            progress.add(3_000_000 + second, &late);
        });
        let watched = ["CPU: 1234.5%", "Mem: 123457MiB"].map(str::to_owned);
        for columns in 0..250 {
            let [line, recent] = [progress.terminal_line(columns, &watched), progress.recent_within(columns, &watched)];
            assert!(line.chars().count() <= columns && recent.chars().count() <= columns, "{columns}: {line}");
        }
        assert!(progress.terminal_line(200, &watched).ends_with("6,172,835 late, CPU: 1234.5%, Mem: 123457MiB"));
    }

    #[test]
    fn silence_is_shown_as_such() {
        let mut progress = Progress::new(1);
        progress.add(0, &Interval::default());
        assert!(progress.line(&[]).contains("0 requests, 0.0 RPS, last 1s: 0.0 RPS, p50 -, p99 -, 0 errors"));
    }

    #[test]
    fn the_drain_is_not_called_progress() {
        let mut progress = Progress::new(1);
        (0..3).for_each(|second| progress.add(second, &interval(4, 0, 1)));
        assert_eq!(progress.line(&[]), "Draining: 2s after the end, 12 requests answered");
    }
}
