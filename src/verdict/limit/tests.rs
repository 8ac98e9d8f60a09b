use proptest::prelude::*;

use super::*;
use crate::monitor::server::{
    Blocker, CheckpointActivity, ServerEvent, ServerEventKind, ServerStats, Standby, Unavailable, WaitEvent,
    WaitTimeline, WalActivity,
};
use crate::result::tests::{durations, sample};
use crate::result::{Phase, Summary, Timeline};
use crate::verdict::{Criteria, Slo, judge};

fn criteria() -> Criteria {
    Criteria { min_achieved_pct: 90.0, max_error_rate_pct: 0.0, slos: Vec::new() }
}

/// So many sessions on average in each event, of 200 looks.
fn stats(events: &[(&str, f64)]) -> ServerStats {
    let event = |(event, sessions): &(&str, f64)| WaitEvent {
        event: (*event).to_owned(),
        sessions: *sessions,
        by_bin: vec![*sessions; 60],
    };
    let events = events.iter().map(event).collect();
    let waits = WaitTimeline { bin_seconds: 1, samples: vec![5; 60], window_samples: 200, events };
    ServerStats { sees_all_sessions: true, seconds: 60.0, waits, ..ServerStats::default() }
}

/// `--rps max` with so many workers, all of them busy, and service times from 1 to 15 ms.
fn closed(workers: usize, events: &[(&str, f64)]) -> RunResult {
    let mut result = sample();
    result.config.workers = workers;
    (result.config.target_rps, result.config.arrival) = (None, None);
    (result.throughput.offered_rps, result.throughput.target_achieved_pct) = (None, None);
    result.timeline = timeline(workers as f64, &[15; 60]);
    result.findings.server_stats = Some(stats(events));
    result
}

/// A rate that was not reached: most requests waited for a worker.
fn behind(workers: usize, events: &[(&str, f64)]) -> RunResult {
    let mut result = closed(workers, events);
    result.config.target_rps = Some(1_000.0);
    (result.throughput.offered_rps, result.throughput.target_achieved_pct) = (Some(1_000.0), Some(60.0));
    result.accounting.ok = 3_600;
    result.accounting.not_started = 2_400;
    result.throughput.completed_in_window = 3_600;
    result.wait_for_connection_ms.count = 3_500;
    result.service_time_ms.avg = Some(20.0);
    result
}

/// A minute of bins, with 100 requests of so many milliseconds in each.
fn timeline(busy: f64, latency_ms: &[u64; 60]) -> Timeline {
    let latency = latency_ms
        .map(|ms| crate::measure::encoded::EncodedHistogram::new(&durations(std::iter::repeat_n(ms, 100)).coarse()));
    Timeline {
        bin_seconds: 1,
        offered: vec![100; 60],
        busy_workers: vec![busy; 60],
        latency: latency.into(),
        ..Timeline::default()
    }
}

fn judged(mut result: RunResult) -> RunResult {
    judge(&mut result, &criteria());
    result
}

fn with(mut result: RunResult, change: impl FnOnce(&mut RunResult)) -> RunResult {
    change(&mut result);
    result
}

fn of_stats(result: RunResult, change: impl FnOnce(&mut ServerStats)) -> RunResult {
    with(result, |result| change(result.findings.server_stats.as_mut().unwrap()))
}

/// A database elsewhere.
fn far(result: &mut RunResult) {
    result.config.target = "postgres@db.example.com:5432/test".to_owned();
}

fn phases(averages_ms: &[f64]) -> Vec<Phase> {
    let names = ["chat_inference", "model_inference", "commit"];
    let phase = |(name, ms): (&str, &f64)| Phase {
        name: name.to_owned(),
        summary: Summary { avg: Some(*ms), ..Summary::default() },
    };
    names.into_iter().zip(averages_ms).map(phase).collect()
}

fn flat(result: &mut RunResult) {
    result.service_time_ms = Summary::new(&durations(std::iter::repeat_n(20, 3_600)), 0);
    result.service_time_ms.avg = Some(20.0);
}

#[test]
fn evidence_names_the_factor() {
    use LimitKind::{
        CacheMisses, Checkpoints, CommitFlush, Cpu, Generator, HotPages, Mixed, Network, OtherSession, Pooler,
        RelationExtension, Replication, RowLocks, Unknown, WalInsertion, Workers,
    };
    let blocker =
        |share_pct| Blocker { pid: 42, application_name: "psql".to_owned(), user: "eve".to_owned(), share_pct };
    let tcp = |result: &mut RunResult| {
        result.server.round_trip_ms = Some(20.0);
        result.config.pipeline = true; // one round trip
        result.service_time_ms.avg = Some(25.0);
    };
    let checkpoint =
        |started_s| ServerEvent { started_s, seconds: 4.0, kind: ServerEventKind::Checkpoint, ..Default::default() };
    // A run, the factor, its share in percent, and what is said.
    let cases: Vec<(RunResult, LimitKind, Option<f64>, &str)> = vec![
        // The three mixes of the first look: 16 workers.
        // 56% of 16 are 9.0.
        (
            closed(16, &[("Lock:transactionid", 9.0), ("LWLock:WALWrite", 4.0), ("IO:WALSync", 1.0), ("CPU", 0.8)]),
            RowLocks,
            Some(56.0),
            "9.0 of 16.0 busy workers waited for Lock:transactionid on average (56%)",
        ),
        // 62% are 9.9.
        (
            closed(16, &[("Lock:extend", 9.9), ("Lock:transactionid", 2.9), ("CPU", 1.0)]),
            RelationExtension,
            Some(62.0),
            "9.9 of 16.0 busy workers waited for Lock:extend",
        ),
        // 42%, 15%, 13%, 13%, 10%: none has half.
        (
            closed(
                16,
                &[
                    ("Lock:extend", 6.7),
                    ("LWLock:WALWrite", 2.4),
                    ("CPU", 2.1),
                    ("LWLock:BufferContent", 2.1),
                    ("LWLock:WALInsert", 1.6),
                ],
            ),
            Mixed,
            Some(42.0),
            "relation extension 42%, commit flush 15%",
        ),
        // (5.6 + 4.0) / 16 = 60%.
        (
            closed(16, &[("LWLock:WALWrite", 5.6), ("IO:WalSync", 4.0), ("CPU", 3.0), ("Lock:tuple", 2.0)]),
            CommitFlush,
            Some(60.0),
            "100 commits/s had to be on the disk",
        ),
        // 9.6 / 16 = 60%.
        (
            of_stats(closed(16, &[("LWLock:WALInsert", 9.6), ("CPU", 5.0)]), |s| {
                s.wal = Some(WalActivity { buffers_full: Some(77), ..Default::default() });
            }),
            WalInsertion,
            Some(60.0),
            "The WAL buffers were full 77 times.",
        ),
        (
            closed(16, &[("LWLock:BufferContent", 8.0), ("LWLock:BufferMapping", 2.4), ("CPU", 4.0)]),
            HotPages,
            Some(65.0),
            "Hot pages",
        ),
        (closed(16, &[("IO:DataFileRead", 12.0), ("CPU", 2.0)]), CacheMisses, Some(75.0), "IO:DataFileRead"),
        // 6 of the 10 active sessions, although 6 of 16 workers had none.
        (
            with(closed(16, &[("CPU", 6.0), ("LWLock:WALWrite", 4.0), ("idle in transaction", 3.0)]), far),
            Cpu,
            Some(60.0),
            "6.0 of 10.0",
        ),
        // The same, but each request takes as long as if it were alone.
        (
            with(closed(16, &[("CPU", 12.0), ("idle in transaction", 2.0)]), |r| (far(r), flat(r)).1),
            Workers,
            None,
            "16 leave the server room",
        ),
        // On this machine, whose processors are not all busy.
        (
            with(closed(16, &[("CPU", 12.0), ("idle in transaction", 2.0)]), |r| {
                r.generator.machine_cpu_pct = Some(70.0)
            }),
            Workers,
            None,
            "busy for 70% of the time",
        ),
        // An event that no rule knows is not hidden.
        (
            closed(16, &[("LWLock:LockManager", 12.0), ("CPU", 2.0)]),
            Unknown,
            None,
            "75% of the busy workers waited for LWLock:LockManager",
        ),
        (
            closed(16, &[("LWLock:LockManager", 7.0), ("Lock:extend", 6.0), ("CPU", 2.0)]),
            Mixed,
            Some(44.0),
            "LWLock:LockManager 44%, relation extension 38%",
        ),
        // Sessions of other applications are seen, but carry no load.
        (
            closed(4, &[("other applications", 20.0), ("IO:WALSync", 3.0), ("CPU", 0.5)]),
            CommitFlush,
            Some(75.0),
            "Other applications had 20.0 sessions at work",
        ),
        // Of only a quarter of the window it is known what sessions did.
        (
            of_stats(closed(16, &[("IO:WALSync", 15.0)]), |s| s.waits.samples[15..].fill(0)),
            Unknown,
            None,
            "was not seen",
        ),
        (closed(1, &[("CPU", 0.8)]), Workers, Some(20.0), "1 leaves the server room"),
        (
            closed(16, &[("IPC:SyncRep", 12.0), ("CPU", 2.0)]),
            Replication,
            Some(75.0),
            "waited for a synchronous standby",
        ),
        // Rows are locked while their transactions wait for the standby: 6 + 8 of 16.
        (
            of_stats(closed(16, &[("Lock:transactionid", 8.0), ("IPC:SyncRep", 6.0), ("CPU", 1.0)]), |s| {
                let (name, sync_state) = ("far".to_owned(), "sync".to_owned());
                s.standbys = vec![Standby { name, sync_state, lag_bytes: None, replay_lag_ms: Some(40.0) }];
            }),
            Replication,
            Some(88.0),
            "The synchronous standby is far, 40 ms behind.",
        ),
        (
            of_stats(closed(16, &[("Lock:relation", 15.0)]), |s| s.blockers = vec![blocker(100.0)]),
            OtherSession,
            Some(94.0),
            "a session of eve (psql), pid 42",
        ),
        // A third of the time, in which all waited.
        (
            of_stats(closed(16, &[("Lock:transactionid", 5.0), ("CPU", 9.0)]), |s| s.blockers = vec![blocker(33.0)]),
            OtherSession,
            Some(31.0),
            "in 33% of the looks",
        ),
        // Now and then, and something else had more.
        (
            of_stats(closed(16, &[("IO:WALSync", 12.0), ("Lock:transactionid", 2.0)]), |s| {
                s.blockers = vec![blocker(10.0)]
            }),
            CommitFlush,
            Some(75.0),
            "",
        ),
        // 20 of 25 ms are a round trip, and most sessions wait for the client.
        (
            with(closed(16, &[("idle in transaction", 12.0), ("CPU", 1.0)]), tcp),
            Network,
            Some(80.0),
            "one round trip of 20.0 ms",
        ),
        // 14 of 16 workers have no session.
        (
            with(closed(16, &[("CPU", 1.0), ("IO:WALSync", 1.0)]), |r| r.server.pooled = Some(true)),
            Pooler,
            Some(88.0),
            "2.0 sessions in a transaction on average",
        ),
        // Whether there is a pooler is not known.
        (closed(16, &[("CPU", 1.0), ("IO:WALSync", 1.0)]), Unknown, None, "If a pooler or proxy is in between"),
        (
            with(closed(16, &[("idle in transaction", 12.0), ("CPU", 2.0)]), |r| r.generator.occupied_pct = Some(70.0)),
            Unknown,
            None,
            "the generator or for the way to it",
        ),
        (closed(4, &[("idle in transaction", 2.4), ("CPU", 1.2)]), Workers, Some(70.0), "4 leave the server room"),
        // 5,900 of 6,000 waited; 12 workers at 20 ms make 600/s.
        (with(behind(12, &[("CPU", 9.0), ("IO:WALSync", 2.0)]), flat), Workers, Some(98.0), "at most 600 requests/s"),
        // The same, but requests stand in each other's way.
        (behind(12, &[("CPU", 9.0), ("IO:WALSync", 2.0)]), Cpu, Some(82.0), "9.0 of 11.0 active sessions"),
        (behind(12, &[("Lock:transactionid", 9.0), ("IO:WALSync", 2.0)]), RowLocks, Some(75.0), ""),
        // Rows stay locked while their transactions are flushed: 41% and 25%.
        (
            closed(16, &[("Lock:transactionid", 6.5), ("LWLock:WALWrite", 4.0), ("idle in transaction", 4.0)]),
            RowLocks,
            Some(66.0),
            "Rows stay locked until the commit is flushed.",
        ),
        // The same, but both together have less than half, and nothing is known of the generator.
        (
            closed(
                16,
                &[("Lock:transactionid", 4.5), ("LWLock:WALWrite", 3.0), ("CPU", 1.0), ("idle in transaction", 7.0)],
            ),
            Mixed,
            Some(47.0),
            "the generator or the way to it 47%",
        ),
        (
            closed(16, &[("LWLock:BufferContent", 7.0), ("LWLock:WALInsert", 4.0), ("CPU", 2.0)]),
            HotPages,
            Some(69.0),
            "Hot pages and WAL insertion",
        ),
        // No commit waits for the disk: who waits for the log to be written needs room in its buffers.
        (
            of_stats(closed(16, &[("LWLock:WALWrite", 5.0), ("LWLock:WALInsert", 6.0), ("CPU", 3.0)]), |s| {
                s.settings.insert("synchronous_commit".to_owned(), "off".to_owned());
            }),
            WalInsertion,
            Some(69.0),
            "",
        ),
        // No processor is left: for both, where they share a machine.
        (
            with(closed(8, &[("idle in transaction", 4.5), ("CPU", 2.2)]), |r| {
                (r.generator.machine_cpu_pct, r.generator.run_queue_wait_pct) = (Some(99.0), Some(40.0));
                r.config.target = "postgres@[/run/postgresql]:5432/test".to_owned();
            }),
            Cpu,
            Some(99.0),
            "which the generator and the database share",
        ),
        (
            with(closed(8, &[("idle in transaction", 4.5), ("CPU", 2.2)]), |r| {
                (r.generator.machine_cpu_pct, r.generator.run_queue_wait_pct) = (Some(99.0), Some(40.0));
                r.config.target = "postgres@db.example.com:5432/test".to_owned();
            }),
            Generator,
            Some(99.0),
            "busy for 99% of the time",
        ),
        // More workers would not get a processor either.
        (
            with(with(behind(12, &[("CPU", 9.0)]), flat), |r| {
                (r.generator.machine_cpu_pct, r.generator.run_queue_wait_pct) = (Some(95.0), Some(40.0));
                r.config.target = "postgres@localhost:5432/test".to_owned();
            }),
            Cpu,
            Some(95.0),
            "",
        ),
        // Others keep the machine busy, but hold nobody up.
        (
            with(with(behind(12, &[("IO:WALSync", 5.0), ("CPU", 4.0)]), flat), |r| {
                (r.generator.machine_cpu_pct, r.generator.run_queue_wait_pct) = (Some(99.0), Some(3.0));
            }),
            Workers,
            Some(98.0),
            "",
        ),
        // A pool of two: while this tool looks at the server, it takes both connections.
        (
            with(closed(16, &[]), |r| {
                r.server.pooled = Some(true);
                r.phases_ms = phases(&[9.0, 0.2, 0.1]);
                r.service_time_ms.avg = Some(9.3);
            }),
            Pooler,
            Some(100.0),
            "The first statement took 9.0 ms, and the second, which writes as much, 0.2 ms.",
        ),
        // The same without the server's statistics: (9.0 - 0.2) / 9.3.
        (
            with(closed(16, &[]), |r| {
                r.findings.server_stats = None;
                r.server.pooled = Some(true);
                r.phases_ms = phases(&[9.0, 0.2, 0.1]);
                r.service_time_ms.avg = Some(9.3);
            }),
            Pooler,
            Some(95.0),
            "default_pool_size",
        ),
        // The pool's sessions wait for the rows: more of them would, too.
        (
            with(closed(32, &[("Lock:transactionid", 7.0), ("CPU", 2.0), ("IO:WALSync", 1.0)]), |r| {
                r.server.pooled = Some(true);
            }),
            RowLocks,
            Some(70.0),
            "70% of the sessions at the server waited for rows",
        ),
        // No pooler is between.
        (
            with(closed(16, &[("CPU", 1.0), ("IO:WALSync", 1.0)]), |r| r.server.pooled = Some(false)),
            Workers,
            Some(88.0),
            "16 leave the server room",
        ),
        // Every other four seconds.
        (
            with(
                of_stats(closed(16, &[("IO:WALSync", 7.0), ("CPU", 6.0)]), |s| {
                    s.events = (0..8).map(|at| checkpoint(f64::from(at) * 8.0)).collect();
                }),
                |r| {
                    let slow = std::array::from_fn(|bin| if bin % 8 <= 4 { 60 } else { 10 });
                    r.timeline = timeline(16.0, &slow);
                },
            ),
            Checkpoints,
            // In 5 of 8 bins.
            None,
            "the p99 was",
        ),
        // One every 5 s: 12 in a minute, and 80,000 × 8,192 of 10^9 bytes are whole pages.
        (
            of_stats(closed(16, &[("LWLock:WALWrite", 12.0), ("CPU", 3.0)]), |s| {
                s.checkpoints = Some(CheckpointActivity { requested: 12, write_ms: 40_000.0, ..Default::default() });
                s.wal =
                    Some(WalActivity { full_page_images: Some(80_000), bytes: 1_000_000_000, ..Default::default() });
            }),
            Checkpoints,
            Some(66.0),
            "one every 5.0 s",
        ),
        // Without samples, or without any session, nothing is guessed.
        (of_stats(closed(16, &[("Lock:extend", 16.0)]), |s| s.waits.window_samples = 3), Unknown, None, "was not seen"),
        (closed(16, &[]), Unknown, None, "was not seen"),
        (with(closed(16, &[]), |r| r.findings.server_stats = None), Unknown, None, "--no-server-stats"),
        (of_stats(closed(16, &[]), |s| s.sees_all_sessions = false), Unknown, None, "GRANT pg_monitor"),
        (
            of_stats(closed(16, &[]), |s| {
                let (what, reason) = ("connection".to_owned(), "too many connections".to_owned());
                s.unavailable = vec![Unavailable { what, reason }];
            }),
            Unknown,
            None,
            "The server was not asked (connection): too many connections.",
        ),
        // Blockers without a process, and without a name.
        (
            of_stats(closed(16, &[("Lock:transactionid", 15.0)]), |s| {
                let application_name = "prepared transaction".to_owned();
                s.blockers = vec![Blocker { application_name, share_pct: 90.0, ..Blocker::default() }];
            }),
            OtherSession,
            Some(94.0),
            "ROLLBACK PREPARED",
        ),
        (
            of_stats(closed(16, &[("Lock:relation", 15.0)]), |s| {
                s.blockers = vec![Blocker { pid: 7, share_pct: 90.0, ..Blocker::default() }];
            }),
            OtherSession,
            Some(94.0),
            "a session that this role may not see, pid 7,",
        ),
        // The client alone.
        (
            with(behind(12, &[]), |r| (r.findings.server_stats = None, flat(r)).1),
            Workers,
            Some(98.0),
            "raise --workers to about 25",
        ),
        (with(behind(12, &[]), |r| r.findings.server_stats = None), Unknown, None, ""),
        // 99.2% of the rate, but ever more requests wait.
        (
            with(sample(), |r| {
                r.throughput.target_achieved_pct = Some(99.2);
                r.timeline = timeline(16.0, &[15; 60]);
                r.timeline.backlog = (0..60).map(|second| second * 8).collect();
                r.findings.server_stats = Some(stats(&[("IO:WALSync", 12.0)]));
            }),
            CommitFlush,
            None,
            "",
        ),
        // At the target nothing limits, whatever sessions wait for.
        (
            with(sample(), |r| r.findings.server_stats = Some(stats(&[("IO:WALSync", 1.0)]))),
            LimitKind::None,
            None,
            "100 requests/s were held",
        ),
        (with(sample(), |r| r.generator.busiest_thread_pct = 97.0), Generator, None, "The machine that made the load"),
        (with(behind(12, &[("CPU", 9.0)]), |r| r.recoveries.reconnects = 1), Unknown, None, "connections broke"),
    ];
    let mut wrong = Vec::new();
    for (at, (result, kind, share_pct, said)) in cases.into_iter().enumerate() {
        let Limit { kind: named, share_pct: share, sentence, evidence, r#try: remedies } = judged(result).limit;
        let text = format!("{sentence} / {} / {}", evidence.join(" "), remedies.join(" "));
        let is_near = |pct: f64| share.is_some_and(|share| (share - pct).abs() < 1.0);
        if named != kind || !text.contains(said) || !share_pct.is_none_or(is_near) {
            wrong.push(format!("case {at}: {kind:?} {share_pct:?} {said:?}, but {named:?} {share:?}: {text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_limit_on_latency_that_is_broken_at_the_target_has_a_factor() {
    let mut result = sample();
    result.findings.server_stats = Some(stats(&[("IO:WALSync", 8.0), ("CPU", 1.0)]));
    result.timeline = timeline(10.0, &[15; 60]);
    let criteria = Criteria { slos: vec![Slo::parse("p99<5ms").unwrap()], ..criteria() };
    judge(&mut result, &criteria);
    assert_eq!((result.status, result.limit.kind), (Status::Failed, LimitKind::CommitFlush), "{:?}", result.limit);
}

proptest! {
    #[test]
    fn the_factor_contradicts_nothing(
        achieved in prop::option::of(0.0..101.0f64),
        (waited, not_started, failed) in (0u64..6_000, 0u64..3_000, prop_oneof![Just(0u64), 0u64..3_000]),
        sessions in prop::collection::vec(0.0..8.0f64, 8),
        (workers, busy) in (1usize..64, 0.0..64.0f64),
        (busiest, occupied) in (0.0..100.0f64, prop::option::of(0.0..100.0f64)),
        (round_trip_ms, service_ms) in (prop::option::of(0.0..60.0f64), 0.0..60.0f64),
        (with_stats, interrupted, is_late, blocked) in any::<(bool, bool, bool, bool)>(),
    ) {
        let names = ["Lock:transactionid", "IO:WALSync", "CPU", "Lock:extend", "IPC:SyncRep", "idle in transaction",
            "Lock:relation", "other"];
        let events: Vec<(&str, f64)> = names.into_iter().zip(sessions).collect();
        let mut result = closed(workers, &events);
        result.config.target_rps = achieved.map(|_| 100.0);
        result.throughput.offered_rps = achieved.map(|_| 100.0);
        result.throughput.target_achieved_pct = achieved;
        result.throughput.completed_in_window = (6_000.0 * achieved.unwrap_or(100.0).min(100.0) / 100.0) as u64;
        result.wait_for_connection_ms.count = waited;
        (result.accounting.not_started, result.accounting.ok) = (not_started, 6_000 - not_started);
        (result.throughput.failed_writes, result.throughput.total_requests) = (failed, 6_000);
        result.timeline = timeline(busy, &[15; 60]);
        (result.generator.busiest_thread_pct, result.generator.occupied_pct) = (busiest, occupied);
        (result.server.round_trip_ms, result.service_time_ms.avg) = (round_trip_ms, Some(service_ms));
        result.run.interrupted = interrupted;
        result.lateness_ms.p99 = Some(if is_late { 1e6 } else { 0.0 });
        if blocked {
            let blocker = Blocker { pid: 1, share_pct: 80.0, ..Default::default() };
            result.findings.server_stats.as_mut().unwrap().blockers.push(blocker);
        }
        if !with_stats {
            result.findings.server_stats = None;
        }
        let result = judged(result);
        let limit = &result.limit;
        let passes = matches!(result.status, Status::Passed | Status::Interrupted);
        prop_assert_eq!(limit.kind == LimitKind::Generator, result.status == Status::Invalid, "{:?}", limit);
        prop_assert!(limit.kind != LimitKind::None || (passes && achieved.is_some()), "{:?}", limit);
        prop_assert!(limit.share_pct.is_none_or(|pct| (0.0..=100.0).contains(&pct)), "{:?}", limit);
        prop_assert!(!limit.sentence.is_empty());
        let of_server = [LimitKind::RowLocks, LimitKind::CommitFlush, LimitKind::Replication, LimitKind::Pooler];
        prop_assert!(with_stats || !of_server.contains(&limit.kind), "{:?}", limit);
        // What is advised is what is tried against this factor, and nothing else.
        prop_assert!(result.advice.iter().all(|text| limit.r#try.contains(text)), "{:?} {:?}", result.advice, limit);
        prop_assert!(limit.kind != LimitKind::None || result.advice.is_empty());
    }
}
