//! Merging equals addition; rates, missing VMs, and what is said of them.

mod missing;
mod reference;
mod refusals;
mod trust;

use proptest::prelude::*;

use super::*;
use crate::measure::bins::Bins;
use crate::measure::counters::{Counters, Counts};
use crate::measure::encoded::EncodedHistogram;
use crate::measure::figures::Figures;
use crate::measure::outcome::{ErrorCount, ErrorOrigin, Failure, Outcome};
use crate::measure::timeline::Timeline;
use crate::result::tests::sample;
use crate::result::{Accounting, ClockReference, ClockVsDatabase, Config, Histograms, Status, Summary};
use crate::schedule::{Arrival, Share};
use crate::verdict::{Criteria, judge};

/// 2026-01-01, T0 of all samples, nanoseconds since 1970.
const T0: u64 = 1_767_225_600_000_000_000;
const SECOND: u64 = 1_000_000_000;
/// The window of all samples, seconds after T0.
const WINDOW_S: usize = 10;

/// What a VM went through: latencies in microseconds, and how many of these requests failed.
#[derive(Clone, Debug)]
struct Went {
    latencies_us: Vec<u64>,
    failed: u64,
    skipped: u64,
    not_started: u64,
    unfinished: u64,
    /// Every so many requests waited for a connection.
    waited_every: usize,
}

impl Went {
    fn well(latencies_us: impl IntoIterator<Item = u64>) -> Self {
        let latencies_us = latencies_us.into_iter().collect();
        Self { latencies_us, failed: 0, skipped: 0, not_started: 0, unfinished: 0, waited_every: 7 }
    }
}

/// Round trips of a request of the sample's options.
const PHASES: usize = 5;

fn recorded(went: &Went) -> Figures {
    let mut recorded = Figures::new(PHASES);
    for (at, us) in went.latencies_us.iter().enumerate() {
        recorded.latency.record_ns(us * 1_000);
        recorded.service_time.record_ns(us * 900);
        recorded.phases.iter_mut().zip(100..).for_each(|(phase, part)| phase.record_ns(us * part));
        let start =
            if at % went.waited_every == 0 { &mut recorded.wait_for_connection } else { &mut recorded.lateness };
        start.record_ns(us * 10);
    }
    recorded
}

/// A VM's own document, as `assemble` would make it.
fn part(index: u64, of: u64, went: &Went) -> Part {
    let recorded = recorded(went);
    let answered = went.latencies_us.len() as u64;
    let accounting = Accounting {
        scheduled: answered + went.skipped + went.not_started + went.unfinished,
        ok: answered - went.failed,
        failed: went.failed,
        skipped: went.skipped,
        not_started: went.not_started,
        unfinished: went.unfinished,
        unknown: 0,
        unreported: 0,
    };
    let mut timeline = Timeline::default();
    (0..accounting.ok).for_each(|i| timeline.add(i % WINDOW_S as u64, 1));
    let mut result = sample();
    result.hostname = format!("h{}", index + 1);
    result.run.share = Share { index, of };
    result.run.started_unix_ns = T0;
    result.run.window_seconds = WINDOW_S as f64;
    result.config.duration_seconds = WINDOW_S as f64;
    // So that any number of slots can have been due.
    result.config.arrival = Some(Arrival::Poisson);
    result.accounting = accounting;
    result.histograms = recorded.encode();
    result.throughput.timeline = timeline;
    result.generator.cpu_seconds = 1.5;
    result.errors = Vec::new();
    if went.failed > 0 {
        result.errors.push(ErrorCount {
            origin: ErrorOrigin::Request,
            class: "deadlock".to_owned(),
            sqlstate: Some("40P01".to_owned()),
            count: went.failed,
            example: "deadlock detected".to_owned(),
            first_s: Some(0.5),
            last_s: Some(2.5),
        });
    }
    result.timeline = timeline_of(&result);
    result.derive(&recorded);
    let hostname = result.hostname.clone();
    Part { hostname, file: None, result, clock: None, start_skew_ms: None, lost: None }
}

/// Computes anew what follows from a change, as the program that wrote the document would have.
fn rederive(part: &mut Part) {
    let figures = part.result.histograms.decode().unwrap();
    part.result.derive(&figures);
    part.result.timeline = timeline_of(&part.result);
}

/// Its requests, spread over the window.
fn timeline_of(result: &RunResult) -> crate::result::Timeline {
    let (window, warmup) = (&result.accounting, &result.run.warmup);
    let failure = || Failure::own("deadlock", "deadlock detected".to_owned(), false);
    let outcomes = [
        (window.ok + warmup.ok, Outcome::Ok),
        (window.failed + warmup.failed, Outcome::Failed(failure())),
        (window.unknown + warmup.unknown, Outcome::Unknown(failure())),
    ];
    let mut bins = Bins::default();
    for (count, outcome) in outcomes {
        for i in 0..count {
            let due_ns = i % WINDOW_S as u64 * 1_000_000_000;
            bins.start(due_ns);
            bins.finish(due_ns, due_ns, due_ns + 1_000_000, None, &outcome);
        }
        let ok = if outcome == Outcome::Ok { count } else { 0 };
        let counts = Counts { ok, failed: count - ok, started: count, ..Counts::default() };
        bins.close_second(0, &Counters { measured: counts, ..Counters::default() }, 0);
    }
    (0..window.skipped + warmup.skipped).for_each(|_| bins.skip(0, None));
    crate::result::Timeline::new(&bins, |_| None, 0)
}

/// Two VMs on which all went well.
fn two() -> Vec<Part> {
    (0..2).map(|index| part(index, 2, &Went::well((1..=200).map(|us| 500 + us * 10 * (index + 1))))).collect()
}

fn merged(parts: Vec<Part>) -> RunResult {
    merge(parts, Vec::new()).unwrap()
}

fn judged(mut result: RunResult) -> RunResult {
    judge(&mut result, &Criteria { min_achieved_pct: 90.0, max_error_rate_pct: 0.0, slos: Vec::new() });
    result
}

fn went() -> impl Strategy<Value = Went> {
    let latencies = prop::collection::vec(1u64..100_000_000, 0..60);
    (latencies, 0u64..5, 0u64..5, 0u64..5, 0u64..5, 1usize..9).prop_map(
        |(latencies_us, failed, skipped, not_started, unfinished, waited_every)| Went {
            failed: failed.min(latencies_us.len() as u64),
            latencies_us,
            skipped,
            not_started,
            unfinished,
            waited_every,
        },
    )
}

/// What one VM would have measured that went through everything. Lateness and wait are split as they were.
fn together(all: &[Went]) -> Figures {
    let mut sum = Figures::new(PHASES);
    all.iter().for_each(|went| sum.add(&recorded(went)));
    sum
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn merging_is_addition(all in prop::collection::vec(went(), 1..6)) {
        let of = all.len() as u64;
        let parts: Vec<Part> = all.iter().zip(0..).map(|(went, index)| part(index, of, went)).collect();
        let result = merged(parts);
        let sum = together(&all);
        prop_assert_eq!(&result.histograms, &sum.encode());
        let counted = |count: fn(&Went) -> u64| all.iter().map(count).sum::<u64>();
        let answered = counted(|went| went.latencies_us.len() as u64);
        let accounting = result.accounting;
        prop_assert!(accounting.holds());
        prop_assert_eq!(accounting.answered(), answered);
        prop_assert_eq!(accounting.failed, counted(|went| went.failed));
        prop_assert_eq!(accounting.skipped, counted(|went| went.skipped));
        prop_assert_eq!(accounting.not_started, counted(|went| went.not_started));
        prop_assert_eq!(accounting.unfinished, counted(|went| went.unfinished));
        prop_assert_eq!(result.errors.iter().map(|error| error.count).sum::<u64>(), accounting.failed);
        prop_assert_eq!(&result.latency_ms, &Summary::new(&sum.latency, accounting.unanswered()));
        prop_assert_eq!(&result.service_time_ms, &Summary::new(&sum.service_time, accounting.unfinished));
        let waits = accounting.skipped + accounting.not_started;
        prop_assert_eq!(&result.wait_for_connection_ms, &Summary::new(&sum.wait_for_connection, waits));
        for (phase, durations) in result.phases_ms.iter().zip(&sum.phases) {
            let exact = Summary::new(durations, 0);
            prop_assert_eq!(phase.summary.count, exact.count);
            for ((name, found), (_, exact)) in phase.summary.figures().into_iter().zip(exact.figures()) {
                let [found, exact] = [found, exact].map(|figure| figure.value.unwrap_or(0.0));
                prop_assert!((found - exact).abs() <= 0.01 * exact, "{}: {} and not {}", name, found, exact);
            }
        }
        prop_assert_eq!(result.throughput.actual_rps, accounting.ok as f64 / WINDOW_S as f64);
        prop_assert_eq!(result.throughput.offered_rps, Some(accounting.scheduled as f64 / WINDOW_S as f64));
        prop_assert_eq!(result.throughput.timeline.total(), accounting.ok);
    }

    #[test]
    fn the_order_of_the_parts_does_not_matter(
        (all, order) in prop::collection::vec(went(), 2..6)
            .prop_flat_map(|all| (Just(all.clone()), Just((0..all.len()).collect::<Vec<_>>()).prop_shuffle())),
    ) {
        let parts: Vec<Part> = all.iter().zip(0..).map(|(went, index)| part(index, all.len() as u64, went)).collect();
        let shuffled = order.iter().map(|at| parts[*at].clone()).collect();
        prop_assert_eq!(merged(parts), merged(shuffled));
    }

    #[test]
    fn one_part_keeps_its_figures(went in went()) {
        let own = part(0, 1, &went);
        let result = merged(vec![own.clone()]);
        let fleet = result.fleet.clone().unwrap();
        prop_assert_eq!((fleet.success, fleet.num_vms, fleet.per_vm_results.len()), (true, 1, 1));
        let expected = own.result;
        // The round trips have lost a digit, and nothing else has changed.
        let phases_ms = result.phases_ms.clone();
        let expected = RunResult { phases_ms, ..expected };
        prop_assert_eq!(&*fleet.per_vm_results[0].result, &expected);
        let config = Config { target_rps_per_vm: Some(100.0), target_rps_total: Some(100.0), workers_per_vm: Some(10), ..expected.config.clone() };
        prop_assert_eq!(&result.config, &config);
        let plain = RunResult { fleet: None, config: expected.config.clone(), ..result };
        let verdictless = RunResult { status: Status::Invalid, reason: String::new(), advice: Vec::new(), ..expected };
        prop_assert_eq!(plain, verdictless);
    }

    #[test]
    fn no_document_does_harm(
        at in 0usize..4_000,
        text in "[0-9\\-eE.,nul\\[\\]{}\"]{1,6}",
    ) {
        let mut json = serde_json::to_string(&two()[1].result).unwrap();
        let at = at % json.len();
        let until = (at + text.len()).min(json.len());
        json.replace_range(at..until, &text);
        if let Ok(result) = serde_json::from_str::<RunResult>(&json) {
            let mut parts = two();
            parts[1].result = result;
            let _ = merge(parts, Vec::new()).map(judged);
        }
    }
}

#[test]
fn windows_that_differ_are_compared_over_the_time_they_share() {
    // The second VM began 4 s later and made twice as many requests: 20/s and 40/s.
    let mut parts = vec![
        part(0, 2, &Went::well(std::iter::repeat_n(1_000, 200))),
        part(1, 2, &Went::well(std::iter::repeat_n(1_000, 400))),
    ];
    parts[1].result.run.started_unix_ns += 4 * SECOND;
    rederive(&mut parts[1]);
    let result = merged(parts.clone());
    assert_eq!((result.run.window_start_s, result.run.window_seconds), (4.0, 6.0));
    assert_eq!((result.throughput.actual_rps, result.throughput.offered_rps), (60.0, Some(60.0)));
    assert_eq!(result.accounting.ok, 600);
    let timeline = &result.throughput.timeline.completed;
    assert_eq!((timeline.len(), timeline[3], timeline[4], timeline[13]), (14, 20, 60, 40));
    assert!(result.warnings[0].contains("over the 6.0 s"), "{:?}", result.warnings);
    // Half a second of the first and last second is in common, and counts for half.
    parts[1].result.run.started_unix_ns += SECOND / 2;
    rederive(&mut parts[1]);
    let result = merged(parts.clone());
    assert_eq!((result.run.window_seconds, result.throughput.actual_rps), (5.5, 60.0));
    // A clock that is known to be 4.5 s ahead explains the difference.
    let clock = ClockComparison {
        offset_ms: 4_500.0,
        bound_ms: 0.1,
        offset_after_ms: None,
        bound_after_ms: None,
        reference: ClockReference::Coordinator,
    };
    parts[1].clock = Some(clock);
    let result = merged(parts);
    assert_eq!((result.run.window_seconds, result.throughput.actual_rps), (10.0, 60.0));
    assert_eq!((result.run.started_unix_ns, result.warnings.len()), (T0, 0));
}

#[test]
fn clocks_of_files_are_compared_through_the_database() {
    let mut parts = two();
    // Both were started with one --start-at. The second one's clock was 2 s behind, so it began 2 s later.
    for (part, offset_ms) in parts.iter_mut().zip([0.5, -1_999.5]) {
        part.result.run.clock_vs_database = Some(ClockVsDatabase { offset_ms, bound_ms: 0.2 });
    }
    let result = judged(merged(parts.clone()));
    assert_eq!((result.run.window_start_s, result.run.window_seconds), (2.0, 8.0));
    let fleet = result.fleet.as_ref().unwrap();
    assert!((fleet.start_skew_ms.unwrap() - 2_000.0).abs() < 0.01, "{:?}", fleet.start_skew_ms);
    assert_eq!(result.status, Status::Invalid);
    assert!(result.reason.contains("h2 (-2000 ms)") && result.reason.contains("chrony"), "{}", result.reason);
    assert!(!result.warnings.iter().any(|warning| warning.contains("not compared")), "{:?}", result.warnings);

    // A database whose clock is wrong says nothing against VMs that agree.
    for part in &mut parts {
        part.result.run.clock_vs_database = Some(ClockVsDatabase { offset_ms: 7_000.0, bound_ms: 0.2 });
    }
    let result = judged(merged(parts.clone()));
    assert_eq!((result.run.window_seconds, result.fleet.as_ref().unwrap().start_skew_ms), (10.0, Some(0.0)));
    assert!(!result.reason.contains("Clock"), "{}", result.reason);
    // Where one of them has not compared its clock, nothing is known.
    parts[0].result.run.clock_vs_database = None;
    let result = judged(merged(parts));
    assert!(result.warnings.iter().any(|warning| warning.contains("clocks were not compared")));
    assert!(result.fleet.unwrap().per_vm_results.iter().all(|vm| vm.clock.is_none()));
}

#[test]
fn a_window_that_begins_within_a_second_loses_none_of_it() {
    let mut parts = two();
    for part in &mut parts {
        part.result.run.window_start_s = 0.5;
        part.result.config.warmup_seconds = 0.5;
    }
    // Both windows are [0.5, 10.5), and the second VM's begins a second later: [1.5, 11.5).
    parts[1].result.run.started_unix_ns += SECOND;
    rederive(&mut parts[1]);
    // 20 in every bin, whose first is half as long. Of [1.5, 10.5) the first VM has half a bin, 8 bins, and an
    // empty one: 170. The second one has its first bin, 8 more, and half of one: 190.
    let result = merged(parts);
    assert_eq!(result.run.window_seconds, 9.0);
    assert_eq!(result.throughput.actual_rps, 360.0 / 9.0);
}

#[test]
fn what_one_vm_heard_of_the_server_is_told_in_the_time_of_the_test() {
    use crate::monitor::server::{Gap, ServerEvent, ServerEventKind, ServerStats, WaitEvent, WaitTimeline};
    let mut parts = two();
    let by_bin: Vec<f64> = (0..10).map(f64::from).collect();
    let waits = WaitTimeline {
        bin_seconds: 1,
        samples: vec![5; 10],
        window_samples: 50,
        events: vec![WaitEvent { event: "CPU".to_owned(), sessions: 4.5, by_bin: by_bin.clone() }],
    };
    let restart = ServerEvent { started_s: 3.0, seconds: 1.0, kind: ServerEventKind::Restart, detail: String::new() };
    let gap = Gap { started_s: 3.0, seconds: 1.0, reason: "closed".to_owned() };
    let stats = ServerStats { waits, events: vec![restart], gaps: vec![gap], ..ServerStats::default() };
    parts[1].result.findings.server_stats = Some(stats);
    // The VM that asked began 2 s after the other one.
    parts[1].result.run.started_unix_ns += 2 * SECOND;
    rederive(&mut parts[1]);
    let result = merged(parts);
    let stats = result.findings.server_stats.unwrap();
    assert_eq!((stats.events[0].started_s, stats.gaps[0].started_s), (5.0, 5.0));
    assert_eq!(stats.waits.samples, [vec![0; 2], vec![5; 10]].concat());
    assert_eq!(stats.waits.events[0].by_bin, [vec![0.0; 2], by_bin].concat());
    assert_eq!(result.timeline.offered.len(), 12);
}

#[test]
fn results_of_a_build_without_timelines_are_merged_and_shown() {
    let mut parts = two();
    parts.iter_mut().for_each(|part| part.result.timeline = Default::default());
    let result = judged(merged(parts));
    assert!(result.timeline.is_absent() && result.accounting.ok == 400);
    assert_eq!(not_presentable(&result), None);
}

#[test]
fn a_merge_can_be_shown_whatever_its_vms_are_called() {
    let mut parts: Vec<Part> = (0..4).map(|index| part(index, 5, &Went::well([1_000; 200]))).collect();
    for part in &mut parts {
        part.hostname = format!("{}{}", part.hostname, "x".repeat(240));
    }
    parts[3].lost = Some("the connection broke\n".repeat(20));
    assert_eq!(not_presentable(&judged(merged(parts))), None);
    let foreign = |change: fn(&mut RunResult)| {
        let mut result = sample();
        change(&mut result);
        not_presentable(&result).unwrap_or_default()
    };
    assert!(foreign(|result| result.version = 2).contains("version 2, and this program reads"));
    assert!(foreign(|result| result.format = "other".to_owned()).contains("other version 1"));
    assert!(foreign(|result| result.accounting.ok = u64::MAX).contains("its accounting.ok is 18446744073709551615"));
}

#[test]
fn what_is_common_is_kept_and_the_worst_is_shown() {
    let mut parts = two();
    for (part, (cpu, busiest, queue)) in parts.iter_mut().zip([(1.0, 20.0, None), (3.0, 10.0, Some(4.0))]) {
        part.result.generator.cpu_seconds = cpu;
        part.result.generator.busiest_thread_pct = busiest;
        part.result.generator.run_queue_wait_pct = queue;
        part.result.generator.occupied_pct = queue.map(|queue| queue + busiest);
        part.result.server.version = Some("17.1".to_owned());
        part.result.server.round_trip_ms = Some(cpu);
        part.result.server.max_connections = Some(cpu as u64);
        part.result.config.workers = cpu as usize;
        part.result.run.start_delay_ms = Some(cpu);
        part.start_skew_ms = Some(-cpu);
        part.result.warnings = vec!["of all".to_owned()];
        part.result.run.warmup.ok = 50;
        part.result.config.warmup_seconds = 5.0;
        part.result.run.window_start_s = 5.0;
        rederive(part);
    }
    parts[1].result.warnings.push("of one".to_owned());
    let result = merged(parts);
    assert_eq!((result.generator.cpu_seconds, result.generator.busiest_thread_pct), (4.0, 20.0));
    assert_eq!((result.generator.run_queue_wait_pct, result.generator.occupied_pct), (Some(4.0), Some(14.0)));
    // 4 s over 400 requests and 100 of the warm-up.
    assert_eq!(result.generator.cpu_us_per_request, Some(8_000.0));
    assert_eq!((result.server.version.as_deref(), result.server.max_connections), (Some("17.1"), None));
    assert_eq!((result.config.workers, result.config.workers_per_vm, result.config.threads), (4, None, 4));
    assert_eq!((result.config.target_rps, result.config.target_rps_per_vm), (Some(100.0), Some(50.0)));
    assert_eq!((result.run.start_delay_ms, result.fleet.unwrap().start_skew_ms), (Some(3.0), Some(2.0)));
    let differs = "The database told the VMs different things: max_connections is 1 (h1) and 3 (h2); check that all reach \
                   the same server.";
    assert_eq!(result.warnings, [differs, "of all", "h2: of one"]);
    assert_eq!(result.hostname, "h1, h2");
}

#[test]
fn what_the_verdict_says_of_each_it_says_once_of_the_sum() {
    let parts = (0..2).map(|index| {
        let mut one = part(index, 2, &Went { not_started: 3, ..Went::well([1_000; 200]) });
        one.result.server.fsync = Some("off".to_owned());
        one.result = judged(one.result);
        one
    });
    let result = judged(merged(parts.collect()));
    // And that nobody has compared the clocks of these files' VMs.
    assert_eq!(result.warnings.len(), 3, "{:?}", result.warnings);
    assert!(result.warnings[2].contains("clocks were not compared"), "{:?}", result.warnings);
    assert!(result.warnings[0].starts_with("6 of 406 requests"), "{:?}", result.warnings);
}

#[test]
fn skipped_requests_may_have_a_lateness() {
    let mut parts = two();
    // The generator itself was late for one of three that were given up.
    parts[1] = part(1, 2, &Went { skipped: 3, ..Went::well([1_000; 200]) });
    let mut lateness = parts[1].result.histograms.lateness.decode().unwrap();
    lateness.record_ns(5_000_000);
    parts[1].result.histograms.lateness = EncodedHistogram::new(&lateness);
    parts[1].result.lateness_ms = Summary::new(&lateness, 0);
    assert_eq!(merged(parts).accounting.skipped, 3);
}
