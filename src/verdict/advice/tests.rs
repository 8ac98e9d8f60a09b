use proptest::prelude::*;

use super::*;
use crate::measure::outages::Outage;
use crate::measure::outcome::{ErrorCount, ErrorOrigin};
use crate::result::tests::{durations, sample};
use crate::result::{Phase, Status, Summary};
use crate::verdict::{Criteria, judge};

fn criteria() -> Criteria {
    Criteria { min_achieved_pct: 90.0, max_error_rate_pct: 0.0, slos: Vec::new() }
}

fn phases(ms: [u64; 5]) -> Vec<Phase> {
    let names = ["chat_inference", "model_inference", "resource_bucket", "variant_by_episode", "commit"];
    let phase = |(name, ms): (&str, u64)| Phase {
        name: name.to_owned(),
        summary: Summary::new(&durations(std::iter::repeat_n(ms, 100)), 0),
    };
    names.into_iter().zip(ms).map(phase).collect()
}

fn error(origin: ErrorOrigin, sqlstate: &str) -> ErrorCount {
    let sqlstate = (!sqlstate.is_empty()).then(|| sqlstate.to_owned());
    let (class, example, at) = ("a class".to_owned(), String::new(), Some(1.0));
    ErrorCount { origin, class, sqlstate, count: 1, example, first_s: at, last_s: at }
}

/// 1,000 requests/s were offered to 8 workers whose requests take 20 ms: most had to wait, and many were not begun.
fn overloaded() -> RunResult {
    let mut result = sample();
    result.config.workers = 8;
    result.throughput.offered_rps = Some(1_000.0);
    result.throughput.target_achieved_pct = Some(40.0);
    result.accounting.ok = 2_400;
    result.accounting.not_started = 3_600;
    result.wait_for_connection_ms.count = 2_300;
    result.service_time_ms = Summary::new(&durations(std::iter::repeat_n(20, 2_400)), 0);
    // As the histogram has it, it is a little more.
    result.service_time_ms.avg = Some(20.0);
    result
}

/// A closed loop: nothing but the database and the network holds it back.
fn closed_loop() -> RunResult {
    let mut result = sample();
    result.config.target_rps = None;
    result.throughput.offered_rps = None;
    result.throughput.target_achieved_pct = None;
    result.service_time_ms = Summary::new(&durations(std::iter::repeat_n(20, 6_000)), 0);
    result
}

fn judged(mut result: RunResult) -> RunResult {
    judge(&mut result, &criteria());
    result
}

type Make = fn() -> RunResult;
type Change = fn(&mut RunResult);
/// A run, what is changed in it, and what its only advice says; nothing where there is none.
type Case = (Make, Change, &'static [&'static str]);

#[test]
fn advice_follows_from_evidence() {
    let closed = closed_loop;
    let cases: &[Case] = &[
        (sample, |_| {}, &[]),
        (overloaded, |_| {}, &["8 workers at 20.0 ms of service time make at most 400 requests/s"]),
        (overloaded, |_| {}, &["raise --workers to about 25."]),
        (overloaded, |r| r.server.max_connections = Some(20), &["the server allows 20 connections, so raise"]),
        (overloaded, |r| r.server.max_connections = Some(200), &["raise --workers to about 25."]),
        (overloaded, |r| r.throughput.offered_rps = Some(1e9), &["For 1000000000 requests/s no number of workers"]),
        // Enough workers on average, or hardly a request that waited: the evidence allows several causes.
        (overloaded, |r| r.throughput.offered_rps = Some(100.0), &["--no-server-stats"]),
        (
            overloaded,
            |r| (r.wait_for_connection_ms.count, r.accounting.not_started, r.accounting.ok) = (0, 0, 6_000),
            &["--no-server-stats"],
        ),
        // Waits that something else explains.
        (overloaded, |r| r.recoveries.reconnects = 1, &[]),
        (overloaded, |r| r.errors.push(error(ErrorOrigin::Connection, "")), &[]),
        (
            overloaded,
            |r| {
                let (started_s, seconds) = (1.0, 9.0);
                r.outages.push(Outage {
                    hostname: None,
                    vms: None,
                    started_s,
                    first_error_s: None,
                    recovered_s: None,
                    seconds,
                });
            },
            &[],
        ),
        (overloaded, |r| r.throughput.failed_writes = 1, &[]),
        (overloaded, |r| r.generator.busiest_thread_pct = 97.0, &[]),
        (overloaded, |r| r.run.aborted = Some("Ended early".to_owned()), &[]),
        (overloaded, |r| r.accounting.ok = 99, &[]),
        // COMMIT, and the network.
        (closed, |r| r.phases_ms = phases([1, 1, 1, 1, 16]), &["See in pg_stat_activity whether COMMIT waits"]),
        (closed, |r| r.phases_ms = phases([3, 3, 3, 3, 8]), &["--no-server-stats"]),
        (
            closed,
            |r| (r.phases_ms, r.server.round_trip_ms) = (phases([4, 4, 4, 4, 4]), Some(3.6)),
            &["Run closer to the database", "--pipeline"],
        ),
        // Statements were faster than that.
        (
            closed,
            |r| (r.phases_ms, r.server.round_trip_ms) = (phases([3, 3, 3, 3, 8]), Some(3.5)),
            &["--no-server-stats"],
        ),
        (closed, |r| (r.config.pipeline, r.server.round_trip_ms) = (true, Some(15.0)), &["--no-server-stats"]),
        // At the target there is no bottleneck.
        (sample, |r| r.phases_ms = phases([1, 1, 1, 1, 16]), &[]),
        (sample, |r| (r.phases_ms, r.server.round_trip_ms) = (phases([4, 4, 4, 4, 4]), Some(3.9)), &[]),
        // Poolers, and limits.
        (sample, |r| r.errors.push(error(ErrorOrigin::Request, "26000")), &["Add --no-prepared-statements."]),
        (
            sample,
            |r| {
                r.errors.push(error(ErrorOrigin::Request, "26000"));
                r.config.prepared_statements = false;
            },
            &[],
        ),
        (
            overloaded,
            |r| r.errors.push(error(ErrorOrigin::Connection, "53300")),
            &["Connections were refused because a limit was reached. Lower --workers, or raise that limit"],
        ),
        (
            sample,
            |r| {
                r.errors.push(error(ErrorOrigin::Connection, "53300"));
                r.config.workers = 1;
            },
            &["Raise that limit"],
        ),
    ];
    for (at, (make, change, parts)) in cases.iter().enumerate() {
        let mut result = make();
        change(&mut result);
        let result = judged(result);
        let text = result.advice.join(" ");
        assert_eq!(result.advice.is_empty(), parts.is_empty(), "case {at}: {text}");
        assert!(parts.iter().all(|part| text.contains(part)), "case {at}: {text}");
    }
}

proptest! {
    /// Whatever the figures: no two pieces of advice pull in opposite directions, nothing is advised that the tool then
    /// complains about, and nothing is said of a bottleneck where there is none.
    #[test]
    fn advice_contradicts_nothing(
        achieved in prop::option::of(0.0..101.0f64),
        (workers, offered) in (1usize..200, 1.0..5_000.0f64),
        (waited, not_started, failed) in (0u64..6_000, 0u64..3_000, prop_oneof![Just(0u64), 0u64..3_000]),
        (phase_ms, round_trip_ms) in (prop::array::uniform5(0u64..60), prop::option::of(0.0..60.0f64)),
        errors in prop::collection::vec((0usize..4, 0usize..4), 0..3),
        (pipeline, prepared, interrupted, is_late) in any::<(bool, bool, bool, bool)>(),
        sync in prop::option::of(prop_oneof![Just("on"), Just("off")]),
    ) {
        let mut result = sample();
        result.config.target_rps = achieved.map(|_| offered);
        result.throughput.offered_rps = achieved.map(|_| offered);
        result.throughput.target_achieved_pct = achieved;
        (result.config.workers, result.config.pipeline, result.config.prepared_statements) = (workers, pipeline, prepared);
        result.wait_for_connection_ms.count = waited;
        (result.accounting.not_started, result.accounting.ok) = (not_started, 6_000 - not_started);
        (result.throughput.failed_writes, result.throughput.total_requests) = (failed, 6_000);
        result.phases_ms = if pipeline { Vec::new() } else { phases(phase_ms) };
        result.service_time_ms = Summary::new(&durations(std::iter::repeat_n(phase_ms.iter().sum(), 6_000)), 0);
        result.server.round_trip_ms = round_trip_ms;
        result.server.synchronous_commit = sync.map(str::to_owned);
        let origins = [ErrorOrigin::Request, ErrorOrigin::Warmup, ErrorOrigin::Connection, ErrorOrigin::Retry];
        let states = ["26000", "53300", "57P03", ""];
        result.errors = errors.into_iter().map(|(origin, state)| error(origins[origin], states[state])).collect();
        result.run.interrupted = interrupted;
        result.lateness_ms.p99 = Some(if is_late { 1e6 } else { 0.0 });
        let result = judged(result);
        let text = result.advice.join("\n");
        for cause in ["checkpoint", "autovacuum", "synchronous_commit", "is the bottleneck", "unlogged"] {
            prop_assert!(!text.contains(cause), "{}", text);
        }
        prop_assert!(!(text.contains("raise --workers") && text.contains("Lower --workers")), "{}", text);
        prop_assert!(!(text.contains("COMMIT waits") && text.contains("the network")), "{}", text);
        prop_assert!(prepared || !text.contains("--no-prepared-statements"), "{}", text);
        prop_assert!(!pipeline || !text.contains("--pipeline"), "{}", text);
        let is_held = achieved.is_some_and(|pct| pct >= 99.0) && not_started <= 60;
        prop_assert!(!is_held || !text.contains("COMMIT") && !text.contains("network"), "{}", text);
        let broke = result.status == Status::Invalid || failed > 0 || !result.errors.is_empty();
        let speaks_of_limits = ["raise --workers", "COMMIT", "network"].iter().any(|part| text.contains(part));
        prop_assert!(!broke || !speaks_of_limits || result.errors.iter().all(|e| e.origin != ErrorOrigin::Connection)
            && failed == 0 && result.status != Status::Invalid, "{}", text);
        if interrupted {
            prop_assert_ne!(result.status, Status::Passed);
        }
    }
}
