//! The last line of a report: what a person wants to know at a glance. Pure.

use super::layout::bounded;
use crate::measure::outcome::ErrorOrigin;
use crate::result::{Bounded, RunResult};
use crate::text::words::thousands;

/// Characters that it may have, so that a terminal of eighty columns shows it in one line.
const COLUMNS: usize = 79;

/// Verdict, rate, median, p99 and errors in one line, with fewer decimals if room is short.
pub(super) fn headline(result: &RunResult) -> String {
    let throughput = &result.throughput;
    let (rps, achieved) = (throughput.actual_rps, throughput.target_achieved_pct);
    let errors = errors(result);
    let unanswered = match result.accounting.unanswered() {
        0 => String::new(),
        some => format!(", {} unanswered", thousands(some)),
    };
    let [p50, p99] = ["p50", "p99"].map(|name| result.latency_ms.figure(name));
    let of_target = |text: &str| achieved.map(|pct| format!(" ({pct:.1}%{text})")).unwrap_or_default();
    let long = format!(
        "{}: {rps:.1} RPS{}, p50 {}, p99 {}, {}",
        result.status,
        of_target(" of target"),
        exact(p50),
        exact(p99),
        counted(errors)
    );
    let short = |of_target: &str| {
        let (status, p50, p99) = (result.status, compact(p50), compact(p99));
        format!("{status}: {rps:.0} RPS{of_target}, p50 {p50}, p99 {p99}, {}", counted(errors))
    };
    let candidates = [format!("{long}{unanswered}"), long, short(&of_target("")) + &unanswered, short(&of_target(""))];
    candidates.into_iter().find(|line| line.chars().count() <= COLUMNS).unwrap_or_else(|| short(""))
}

/// Failed requests, those of the warm-up, and connections that broke or were refused.
pub(super) fn errors(result: &RunResult) -> u64 {
    let others = result.errors.iter().filter(|e| matches!(e.origin, ErrorOrigin::Warmup | ErrorOrigin::Connection));
    others.map(|error| error.count).fold(result.throughput.failed_writes, u64::saturating_add)
}

fn counted(errors: u64) -> String {
    format!("{} {}", thousands(errors), if errors == 1 { "error" } else { "errors" })
}

fn exact(figure: Option<Bounded>) -> String {
    bounded(figure, "> ", |ms| format!("{ms:.2} ms"))
}

fn compact(figure: Option<Bounded>) -> String {
    bounded(figure, ">", |ms| match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1_000.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::outcome::ErrorCount;
    use crate::result::Status;
    use crate::result::tests::sample;

    #[test]
    fn it_tells_verdict_rate_latency_and_errors() {
        let mut result = sample();
        (result.latency_ms.p50, result.latency_ms.p99) = (Some(8.0), Some(15.0));
        assert_eq!(headline(&result), "PASSED: 100.0 RPS (100.0% of target), p50 8.00 ms, p99 15.00 ms, 0 errors");
        result.throughput.target_achieved_pct = None;
        result.throughput.failed_writes = 1;
        assert_eq!(headline(&result), "PASSED: 100.0 RPS, p50 8.00 ms, p99 15.00 ms, 1 error");
        let refused = |origin, count| {
            let (class, example) = ("refused".to_owned(), String::new());
            ErrorCount { origin, class, sqlstate: None, count, example, first_s: None, last_s: None }
        };
        let counts = [(ErrorOrigin::Connection, 128), (ErrorOrigin::Request, 1), (ErrorOrigin::Retry, 7)];
        result.errors = counts.map(|(origin, count)| refused(origin, count)).into();
        (result.accounting.not_started, result.status) = (1_200, Status::Failed);
        let expected = "FAILED: 100.0 RPS, p50 8.00 ms, p99 15.00 ms, 129 errors, 1,200 unanswered";
        assert_eq!(headline(&result), expected);
    }

    #[test]
    fn it_fits_a_line_of_eighty_columns() {
        let mut result = sample();
        result.status = Status::LostWrites;
        for (rps, ms, failed) in [(1.0, 0.01, 0), (99_999.9, 12_340.0, 1_234_567), (1e6, 3_600_000.0, 1_000_000_000)] {
            (result.throughput.actual_rps, result.throughput.failed_writes) = (rps, failed);
            for (value, is_lower_bound) in [(Some(ms), false), (Some(ms), true), (None, true)] {
                (result.latency_ms.p50, result.latency_ms.p50_is_lower_bound) = (value, is_lower_bound);
                (result.latency_ms.p99, result.latency_ms.p99_is_lower_bound) = (value, is_lower_bound);
                for unanswered in [0, 1_000_000] {
                    result.accounting.not_started = unanswered;
                    let line = headline(&result);
                    assert!(line.chars().count() <= 79, "{line}");
                    for part in ["LOST WRITES: ", " RPS", ", p50 ", ", p99 ", " errors"] {
                        assert!(line.contains(part), "{line}");
                    }
                }
            }
        }
    }
}
