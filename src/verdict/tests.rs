//! What a run is called, and why.

use super::*;
use crate::measure::durations::Durations;
use crate::result::tests::{durations, sample};
use crate::result::{Accounting, Summary, TableRows};

fn criteria() -> Criteria {
    Criteria { min_achieved_pct: 90.0, max_error_rate_pct: 0.0, slos: Vec::new() }
}

fn judged(change: impl FnOnce(&mut RunResult), criteria: &Criteria) -> (Status, String) {
    let mut result = sample();
    change(&mut result);
    judge(&mut result, criteria);
    (result.status, result.reason)
}

#[test]
fn the_thresholds_are_the_seeds() {
    for (pct, status) in [
        (100.0, Status::Passed),
        (90.0, Status::Passed),
        (89.9, Status::Degraded),
        (50.0, Status::Degraded),
        (49.9, Status::Failed),
    ] {
        let (found, reason) = judged(|r| r.throughput.target_achieved_pct = Some(pct), &criteria());
        assert_eq!(found, status, "{pct}: {reason}");
    }
}

#[test]
fn one_failed_write_fails_the_run_unless_it_is_allowed() {
    let fail = |r: &mut RunResult| {
        r.throughput.failed_writes = 1;
        r.throughput.total_requests = 1_000;
    };
    assert_eq!(judged(fail, &criteria()).0, Status::Failed);
    assert_eq!(judged(fail, &Criteria { max_error_rate_pct: 0.1, ..criteria() }).0, Status::Passed);
}

#[test]
fn what_is_said_to_fail_most_often_has_failed() {
    let error = |origin, class: &str, count| ErrorCount {
        origin,
        class: class.to_owned(),
        sqlstate: None,
        count,
        example: String::new(),
        first_s: None,
        last_s: None,
    };
    let fail = |r: &mut RunResult| {
        (r.throughput.failed_writes, r.throughput.total_requests) = (1, 1_000);
        r.errors = vec![error(ErrorOrigin::Retry, "deadlock", 900), error(ErrorOrigin::Request, "disk full", 1)];
    };
    let (_, reason) = judged(fail, &criteria());
    assert!(reason.ends_with("most often: disk full"), "{reason}");
}

#[test]
fn what_the_database_lost_comes_before_everything_else() {
    let lost = |r: &mut RunResult| {
        r.generator.busiest_thread_pct = 97.0;
        let tables = vec![TableRows { table: "chat_inference".to_owned(), rows: 5_999 }];
        r.verification = Some(Verification { acknowledged: 6_000, tables, ..Verification::default() });
    };
    let (status, reason) = judged(lost, &criteria());
    assert_eq!(status, Status::LostWrites);
    assert!(reason.starts_with("1 of 6,000 committed requests are missing"), "{reason}");
    let unverified = |r: &mut RunResult| r.verification = Some(Verification::failed(6_000, 0, "it is down".to_owned()));
    assert_eq!(judged(unverified, &criteria()).0, Status::Failed);
}

#[test]
fn a_run_that_ended_itself_has_failed_for_that_reason() {
    let aborted = |r: &mut RunResult| {
        r.run.aborted = Some("Ended early".to_owned());
        r.accounting = Accounting::default();
    };
    assert_eq!(judged(aborted, &criteria()), (Status::Failed, "Ended early".to_owned()));
}

#[test]
fn an_interrupted_run_never_passes_and_otherwise_keeps_its_status() {
    let interrupted = |r: &mut RunResult| (r.run.interrupted, r.run.window_seconds) = (true, 3.9);
    let (status, reason) = judged(interrupted, &criteria());
    let until_then = "Stopped after 3.9 of 60 s; until then: All writes successful, target RPS achieved";
    assert_eq!((status, &*reason), (Status::Interrupted, until_then));
    let (status, reason) = judged(|r| r.run.interrupted = true, &criteria());
    assert_eq!(status, Status::Interrupted);
    assert!(reason.starts_with("Stopped after the measured window of 60 s, before the end"), "{reason}");
    let unverified = |r: &mut RunResult| {
        interrupted(r);
        r.verification = Some(Verification::failed(6_000, 0, "it was interrupted".to_owned()));
    };
    let (status, reason) = judged(unverified, &criteria());
    assert_eq!(status, Status::Interrupted);
    assert!(reason.ends_with("achieved. The rows could not be verified: it was interrupted"), "{reason}");
    type Change = fn(&mut RunResult);
    let cases: [(Change, Status); 6] = [
        (|r| (r.throughput.failed_writes, r.throughput.total_requests) = (1, 100), Status::Failed),
        (|r| r.throughput.target_achieved_pct = Some(40.0), Status::Failed),
        (|r| r.throughput.target_achieved_pct = Some(80.0), Status::Degraded),
        (|r| r.run.aborted = Some("Ended early".to_owned()), Status::Failed),
        (|r| r.generator.busiest_thread_pct = 97.0, Status::Invalid),
        (|r| r.accounting = Accounting::default(), Status::Invalid),
    ];
    for (at, (change, expected)) in cases.into_iter().enumerate() {
        let status = judged(
            |r| {
                interrupted(r);
                change(r);
            },
            &criteria(),
        )
        .0;
        assert_eq!(status, expected, "case {at}");
    }
}

#[test]
fn a_late_generator_makes_the_run_invalid_only_where_it_matters() {
    let late = |lateness_ms: f64, p50_ms: f64| {
        judged(
            |r| {
                r.lateness_ms.p99 = Some(lateness_ms);
                r.latency_ms.p50 = Some(p50_ms);
            },
            &criteria(),
        )
        .0
    };
    assert_eq!(late(4.9, 1.0), Status::Passed); // not late enough
    assert_eq!(late(6.0, 100.0), Status::Passed); // 6 % of the latency
    assert_eq!(late(11.0, 100.0), Status::Invalid);
}

#[test]
fn a_limit_on_a_percentile_of_few_requests_is_said_to_be_on_the_maximum() {
    let slo = Criteria { slos: vec![Slo::parse("p99<4ms").unwrap(), Slo::parse("p50<9ms").unwrap()], ..criteria() };
    let mut result = sample();
    result.latency_ms = Summary::new(&durations(1..=6), 0);
    judge(&mut result, &slo);
    assert_eq!(result.status, Status::Failed);
    assert!(
        result.reason.starts_with("Latency p99 is 6.00 ms, the maximum of 6 requests, asked for"),
        "{}",
        result.reason
    );
    let warned = |result: &RunResult| result.warnings.iter().filter(|text| text.contains("is their maximum")).count();
    assert_eq!(warned(&result), 1, "{:?}", result.warnings);
    let mut many = sample();
    judge(&mut many, &slo);
    assert_eq!(warned(&many), 0);
}

#[test]
fn a_generator_out_of_cpu_is_called_by_its_name() {
    let (status, reason) = judged(|r| r.generator.busiest_thread_pct = 97.0, &criteria());
    assert_eq!(status, Status::Invalid);
    assert!(reason.starts_with("Generator-limited"), "{reason}");
    for (occupied_pct, name) in [(Some(93.0), "Generator-limited"), (Some(70.0), "All writes"), (None, "All writes")] {
        let reason = judged(|r| r.generator.occupied_pct = occupied_pct, &criteria()).1;
        assert!(reason.starts_with(name), "{occupied_pct:?}: {reason}");
    }
}

#[test]
fn slos_are_read_and_kept_or_not() {
    for (text, figure, inclusive, limit_ms) in
        [("p99<20ms", "p99", false, 20.0), ("P99.9 <= 1.5s", "p99.9", true, 1_500.0), ("mean<500us", "avg", false, 0.5)]
    {
        assert_eq!(Slo::parse(text), Ok(Slo { figure, inclusive, limit_ms }));
    }
    for wrong in ["p99", "p98<1ms", "p99<", "p99<20", "p99<-1ms", "p99<NaNms", "p99<1h", "<1ms", "p99>20ms"] {
        assert!(Slo::parse(wrong).is_err(), "{wrong}");
    }
    let with = |text: &str| Criteria { slos: vec![Slo::parse(text).unwrap()], ..criteria() };
    let p99 = |r: &mut RunResult| r.latency_ms.p99 = Some(20.0);
    assert_eq!(judged(p99, &with("p99<=20ms")).0, Status::Passed);
    assert_eq!(judged(p99, &with("p99<20ms")).0, Status::Failed);
}

#[test]
fn a_lower_bound_never_keeps_a_limit() {
    let unanswered = |r: &mut RunResult| r.latency_ms = Summary::new(&Durations::default(), 10);
    let slo = Criteria { slos: vec![Slo::parse("p50<1s").unwrap()], ..criteria() };
    assert_eq!(judged(unanswered, &slo).0, Status::Failed);
}

#[test]
fn a_run_without_requests_is_invalid() {
    assert_eq!(judged(|r| r.accounting = Accounting::default(), &criteria()).0, Status::Invalid);
    // A closed loop has no rate to raise: nothing could be sent.
    let closed = |r: &mut RunResult| {
        r.accounting = Accounting::default();
        (r.config.target_rps, r.throughput.target_achieved_pct) = (None, None);
    };
    assert_eq!(judged(closed, &criteria()), (Status::Failed, "No request was acknowledged".to_owned()));
}

#[test]
fn workers_follow_littles_law() {
    let mut result = sample();
    result.config.workers = 8;
    result.throughput.offered_rps = Some(1_000.0);
    result.throughput.target_achieved_pct = Some(60.0);
    (result.service_time_ms.min, result.service_time_ms.p50) = (Some(15.0), Some(20.0));
    result.service_time_ms.avg = Some(20.0);
    result.wait_for_connection_ms.count = 5_000;
    judge(&mut result, &criteria());
    // 1,000/s × 20 ms = 20 in service, and a quarter to spare.
    assert!(result.advice.iter().any(|line| line.contains("--workers to about 25")), "{:?}", result.advice);
    assert!(result.advice.iter().any(|line| line.contains("at most 400 requests/s")), "{:?}", result.advice);
}

#[test]
fn numbers_are_grouped() {
    assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
}
