//! A generator that stood still: what to say of it, and whether the figures still describe the database. Pure.

use super::Slo;
use crate::measure::stalls::Stall;
use crate::result::{Bounded, RunResult};
use crate::text::words::thousands;

/// From this part of the measured window on a stall matters, whatever was due meanwhile.
const PART_OF_WINDOW: f64 = 0.05;
/// Otherwise it matters where so many requests are touched, and one in a hundred: then it reaches the p99.
const LEAST_REQUESTS: u64 = 5;

/// Why the figures are the generator's own, where it stood still for too long.
pub(super) fn invalid(result: &RunResult) -> Option<String> {
    if !matters(result) {
        return None;
    }
    let what = what_happened(result)?;
    Some(format!("{what}, so the figures show that and not the database; {}, and run the test again.", remedy(result)))
}

/// What to say where it does not matter.
pub(super) fn warning(result: &RunResult) -> Option<String> {
    if matters(result) {
        return None;
    }
    what_happened(result).map(|what| format!("{what}; the slowest latencies and service times contain it."))
}

/// Whether a stall reaches the figures.
pub(super) fn matters(result: &RunResult) -> bool {
    let (told, scheduled) = (&result.generator.stood_still, result.accounting.scheduled);
    let is_long = told.stalled_seconds > 0.0 && told.stalled_seconds >= PART_OF_WINDOW * result.run.window_seconds;
    let touched = told.stalled_requests;
    is_long || (touched >= LEAST_REQUESTS && touched.saturating_mul(100) >= scheduled)
}

/// Whether a limit that is not kept may have been kept without the stall: it is long enough, and touches enough requests.
pub(super) fn may_explain(slo: &Slo, result: &RunResult) -> bool {
    let told = &result.generator.stood_still;
    let Some(Bounded { value: Some(found_ms), .. }) = result.latency_ms.figure(slo.figure) else { return false };
    let stalls = told.stalls.iter().filter(|stall| !stall.asleep);
    let longest_ms = stalls.map(|stall| stall.seconds).fold(0.0, f64::max) * 1e3;
    let (touched, requests) = (told.stalled_requests as f64, result.accounting.scheduled as f64);
    let beyond = |part: f64| touched >= (requests * part).max(1.0);
    let at_most_ms = match slo.figure {
        "avg" => longest_ms * touched / requests.max(1.0),
        "p50" if beyond(0.5) => longest_ms,
        "p90" if beyond(0.1) => longest_ms,
        "p95" if beyond(0.05) => longest_ms,
        "p99" if beyond(0.01) => longest_ms,
        "p99.9" if beyond(0.001) => longest_ms,
        "max" if beyond(0.0) => longest_ms,
        _ => 0.0,
    };
    at_most_ms > 0.0 && found_ms - at_most_ms < slo.limit_ms
}

/// Why it cannot be told whether limits are kept.
pub(super) fn hides(limits: &str, result: &RunResult) -> String {
    let what = what_happened(result).unwrap_or_default();
    format!(
        "{what}, so it cannot be told whether the limits are kept ({limits}); {}, and run the test again.",
        remedy(result)
    )
}

/// When it stood still, for how long, and how many requests that touched: a sentence without its end.
fn what_happened(result: &RunResult) -> Option<String> {
    let told = &result.generator.stood_still;
    let longest = told.stalls.iter().max_by(|one, other| one.seconds.total_cmp(&other.seconds))?;
    let Stall { hostname, started_s, seconds, asleep } = longest;
    let of = hostname.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
    let who = if *asleep { format!("The machine{of} slept") } else { format!("The generator{of} stood still") };
    let why = if *asleep {
        "it was suspended, and the load paused"
    } else {
        "it was stopped, its VM or container was paused, or it got no processor"
    };
    let more = match told.stall_count {
        0 | 1 => String::new(),
        2 => " and once more".to_owned(),
        count => format!(" and {} more times", thousands(count - 1)),
    };
    let (touched, scheduled) = (told.stalled_requests, result.accounting.scheduled);
    let touched = match (touched, scheduled) {
        (0, _) => String::new(),
        (touched, scheduled) => {
            format!("; it held up {} of {} requests", thousands(touched), thousands(scheduled))
        }
    };
    Some(format!("{who} for {seconds:.1} s at {started_s:.1} s{more} ({why}){touched}"))
}

fn remedy(result: &RunResult) -> &'static str {
    if result.generator.stood_still.stalls.iter().any(|stall| stall.asleep) {
        "keep the machine awake"
    } else {
        "leave it running, on a machine with a processor to spare"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::stalls::Stalls;
    use crate::result::tests::sample;
    use crate::result::{Status, Summary};
    use crate::verdict::{Criteria, judge};

    /// A minute at 100/s in which the generator stood still once.
    fn judged(
        seconds: f64,
        touched: u64,
        asleep: bool,
        slos: &[&str],
        change: impl FnOnce(&mut RunResult),
    ) -> RunResult {
        let mut result = sample();
        result.generator.stood_still = Stalls {
            stalls: vec![Stall { hostname: None, started_s: 10.0, seconds, asleep }],
            stall_count: 1,
            stalled_seconds: seconds,
            stalled_requests: touched,
        };
        change(&mut result);
        let slos = slos.iter().map(|text| Slo::parse(text).unwrap()).collect();
        judge(&mut result, &Criteria { min_achieved_pct: 90.0, max_error_rate_pct: 0.0, slos });
        result
    }

    #[test]
    fn a_stall_that_reaches_the_p99_makes_the_run_invalid_with_its_time_and_length() {
        let result = judged(4.0, 401, false, &[], |_| ());
        assert_eq!(result.status, Status::Invalid);
        let expected = "The generator stood still for 4.0 s at 10.0 s (it was stopped, its VM or container was paused, or \
                        it got no processor); it held up 401 of 6,000 requests";
        assert!(result.reason.starts_with(expected), "{}", result.reason);
        assert!(!result.warnings.iter().any(|warning| warning.contains("stood still")), "{:?}", result.warnings);
        // Of few requests few are touched, and the time tells.
        let few =
            |r: &mut RunResult| r.accounting = crate::result::Accounting { scheduled: 6, ok: 6, ..Default::default() };
        assert_eq!(judged(4.0, 1, false, &[], few).status, Status::Invalid);
    }

    #[test]
    fn a_short_stall_in_a_long_run_is_a_warning() {
        let result = judged(0.3, 30, false, &[], |_| ());
        assert_eq!(result.status, Status::Passed);
        let warned =
            result.warnings.iter().any(|warning| warning.starts_with("The generator stood still for 0.3 s at 10.0 s"));
        assert!(warned, "{:?}", result.warnings);
    }

    #[test]
    fn a_limit_that_only_the_stall_broke_is_not_the_databases_failure() {
        let slow =
            |max: f64| move |r: &mut RunResult| r.latency_ms = Summary { max: Some(max), ..r.latency_ms.clone() };
        let result = judged(0.3, 30, false, &["max<50ms"], slow(320.0));
        assert_eq!(result.status, Status::Invalid, "{}", result.reason);
        assert!(result.reason.contains("cannot be told") && result.reason.contains("latency max"), "{}", result.reason);
        // It was not the stall alone, or the figure is not touched by it.
        assert_eq!(judged(0.3, 30, false, &["max<50ms"], slow(420.0)).status, Status::Failed);
        assert_eq!(judged(0.3, 30, false, &["p95<10ms"], |_| ()).status, Status::Failed);
    }

    #[test]
    fn a_machine_that_slept_is_told_so() {
        let result = judged(60.0, 0, true, &[], |_| ());
        assert_eq!(result.status, Status::Invalid);
        assert!(result.reason.starts_with("The machine slept for 60.0 s at 10.0 s"), "{}", result.reason);
        assert!(result.reason.contains("keep the machine awake"), "{}", result.reason);
    }

    #[test]
    fn workers_are_not_suspected_of_what_the_generator_did() {
        let behind = |r: &mut RunResult| {
            r.wait_for_connection_ms.count = 900;
            (r.service_time_ms.min, r.service_time_ms.p50, r.service_time_ms.avg) =
                (Some(400.0), Some(500.0), Some(500.0));
            r.throughput.target_achieved_pct = Some(98.0);
        };
        let suspected = |result: RunResult| result.advice.iter().any(|line| line.contains("raise --workers"));
        assert!(suspected(judged(0.0, 0, false, &[], |r| {
            r.generator.stood_still = Stalls::default();
            behind(r);
        })));
        assert!(!suspected(judged(4.0, 401, false, &[], behind)));
    }
}
