//! Results as runs make them, for looking at pages.

use crate::measure::durations::Durations;
use crate::measure::encoded::EncodedHistogram;
use crate::measure::figures::Figures;
use crate::measure::outages::Outage;
use crate::measure::outcome::{ErrorCount, ErrorOrigin};
use crate::measure::stalls::Stall;
use crate::monitor::server::{
    Blocker, CheckpointActivity, Gap, IoActivity, ServerActivity, ServerEvent, ServerEventKind, ServerStats,
    TableActivity, Unavailable, WaitEvent, WaitTimeline, WalActivity,
};
use crate::random::SplitMix64;
use crate::result::tests::sample;
use crate::result::{Accounting, FailedVm, Fleet, Limit, LimitKind, RunResult, Status, Timeline, VmResult, events};

/// What a run of a fixture is like.
pub(super) struct Shape {
    pub(super) seconds: u64,
    pub(super) rate: u64,
    pub(super) seed: u64,
    /// Seconds in which nothing is answered.
    pub(super) outages: Vec<(u64, u64)>,
    /// Seconds in which a checkpoint runs.
    pub(super) checkpoints: Vec<(u64, u64)>,
}

impl Shape {
    pub(super) fn normal() -> Self {
        Self { seconds: 60, rate: 400, seed: 1, outages: Vec::new(), checkpoints: vec![(22, 14), (48, 9)] }
    }
}

/// A spread as that of a real database: the sum of twelve uniform numbers is nearly normal.
fn latency_ms(random: &mut SplitMix64, median_ms: f64) -> f64 {
    let normal = (0..12).map(|_| random.below(1 << 20) as f64 / 1_048_576.0).sum::<f64>() - 6.0;
    let tail = if random.below(200) == 0 { 6.0 } else { 1.0 };
    median_ms * tail * libm::exp(0.35 * normal)
}

/// A run of one VM.
pub(super) fn run(shape: &Shape) -> RunResult {
    let mut random = SplitMix64::new(shape.seed);
    let mut result = sample();
    let bin_s = (shape.seconds.div_ceil(crate::measure::bins::Bins::MAX_BINS)).next_power_of_two();
    let bins = shape.seconds.div_ceil(bin_s);
    let mut figures = Figures::new(5);
    let mut timeline = Timeline { bin_seconds: bin_s, ..Timeline::default() };
    let within =
        |list: &[(u64, u64)], s: u64| list.iter().find(|(from, length)| (*from..from + length).contains(&s)).copied();
    let (mut ok, mut failed) = (0, 0);
    for bin in 0..bins {
        let mut durations = Durations::default();
        let (mut bin_ok, mut bin_failed, mut backlog) = (0, 0, 0);
        for second in bin * bin_s..((bin + 1) * bin_s).min(shape.seconds) {
            let slow = if within(&shape.checkpoints, second).is_some() { 2.6 } else { 1.0 };
            let drift = 1.0 + 0.15 * (second as f64 / 9.0).sin();
            for slot in 0..shape.rate {
                let service = latency_ms(&mut random, 4.2 * slow * drift);
                let waited = match within(&shape.outages, second) {
                    Some((from, length)) => {
                        ((from + length - second) as f64 - slot as f64 / shape.rate as f64).max(0.0) * 1_000.0
                    }
                    None => 0.0,
                };
                if waited > 0.0 && slot % 40 == 0 {
                    bin_failed += 1;
                    continue;
                }
                bin_ok += 1;
                let ns = |ms: f64| (ms * 1e6) as u64;
                durations.record_ns(ns(service + waited));
                figures.latency.record_ns(ns(service + waited));
                figures.service_time.record_ns(ns(service));
                figures.lateness.record_ns(20_000 + random.below(180_000));
                let shares = [0.24, 0.22, 0.31, 0.09, 0.14];
                figures.phases.iter_mut().zip(shares).for_each(|(phase, share)| phase.record_ns(ns(service * share)));
            }
            if let Some((from, _)) = within(&shape.outages, second) {
                backlog = (second - from + 1) * shape.rate;
            }
        }
        let is_out = within(&shape.outages, bin * bin_s).is_some();
        let is_after = bin > 0 && !is_out && within(&shape.outages, bin * bin_s - 1).is_some();
        let covered = ((bin + 1) * bin_s).min(shape.seconds) - bin * bin_s;
        timeline.offered.push(shape.rate * covered);
        timeline.completed.push(if is_out {
            0
        } else if is_after {
            bin_ok * 3
        } else {
            bin_ok
        });
        timeline.errors.push(bin_failed);
        timeline.ok.push(bin_ok);
        timeline.failed.push(bin_failed);
        timeline.unknown.push(0);
        timeline.skipped.push(0);
        timeline.latency.push(EncodedHistogram::new(&durations.coarse()));
        timeline.lateness_max_ms.push(0.2 + random.below(900) as f64 / 1_000.0);
        timeline.busy_workers.push(if is_out {
            16.0
        } else {
            shape.rate as f64 * 0.0045 * (1.0 + random.below(30) as f64 / 100.0)
        });
        timeline.backlog.push(backlog);
        timeline.cpu_pct.push(shape.rate as f64 * 0.03 + random.below(40) as f64 / 10.0);
        (ok, failed) = (ok + bin_ok, failed + bin_failed);
    }
    result.config.target_rps = Some(shape.rate as f64);
    result.config.duration_seconds = shape.seconds as f64;
    (result.config.workers, result.run.window_seconds) = (16, shape.seconds as f64);
    result.run.started_unix_ns = 1_790_000_000_000_000_000;
    result.hostname = "load-1.example.com".to_owned();
    result.server.version = Some("17.5".to_owned());
    (result.server.fsync, result.server.tables) = (Some("on".to_owned()), Some("logged".to_owned()));
    (result.server.max_connections, result.server.round_trip_ms) = (Some(100), Some(0.21));
    result.accounting = Accounting { scheduled: ok + failed, ok, failed, ..Accounting::default() };
    result.throughput.timeline.completed =
        timeline.completed.iter().flat_map(|count| vec![count / bin_s; bin_s as usize]).collect();
    result.generator.cpu_seconds = shape.seconds as f64 * 0.14;
    result.generator.busiest_thread_pct = 7.4;
    result.timeline = timeline;
    result.findings.server_stats = Some(stats(shape, bin_s, bins, &mut random, ok));
    result.histograms = figures.encode();
    result.derive(&figures);
    result.limit = Limit {
        kind: LimitKind::None,
        share_pct: None,
        sentence: "Nothing limited the run at this rate: the target was held and no requests piled up.".to_owned(),
        evidence: vec![
            "100.0 % of the target rate was reached.".to_owned(),
            "The backlog was empty at the end of every second.".to_owned(),
        ],
        r#try: vec!["Raise --rps until the target is no longer held.".to_owned()],
    };
    result.events = events(&result);
    result
}

fn stats(shape: &Shape, bin_s: u64, bins: u64, random: &mut SplitMix64, ok: u64) -> ServerStats {
    let names = [
        ("Lock:transactionid", 1.1),
        ("LWLock:WALWrite", 0.62),
        ("CPU", 0.48),
        ("IO:WALSync", 0.31),
        ("idle in transaction", 0.22),
        ("Lock:extend", 0.14),
        ("LWLock:BufferContent", 0.09),
        ("LWLock:WALInsert", 0.05),
        ("Lock:tuple", 0.03),
        ("other", 0.02),
    ];
    let events = names.map(|(name, sessions)| WaitEvent {
        event: name.to_owned(),
        sessions,
        by_bin: (0..bins).map(|_| sessions * (0.6 + random.below(80) as f64 / 100.0)).collect(),
    });
    let seconds = |list: &[(u64, u64)]| {
        list.iter().map(|(from, length)| (*from as f64 + 0.3, *length as f64 - 0.4)).collect::<Vec<_>>()
    };
    let table = |name: &str, inserted, updated, kb: u64| TableActivity {
        name: name.to_owned(),
        inserted,
        updated,
        hot_updated: updated * 93 / 100,
        dead_rows: updated / 300,
        autovacuums: u64::from(updated > 0),
        bytes_before: Some(81_920),
        bytes_after: Some(81_920 + ok * kb * 1_024),
    };
    let settings = [
        ("checkpoint_timeout", "300 s"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("max_wal_size", "1024 MB"),
        ("shared_buffers", "128 MB"),
        ("synchronous_commit", "on"),
        ("wal_buffers", "4 MB"),
    ];
    ServerStats {
        hostname: None,
        sees_all_sessions: true,
        seconds: shape.seconds as f64 + 2.1,
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        is_standby: Some(false),
        activity: Some(ServerActivity {
            commits: ok + 312,
            blocks_read: 512,
            blocks_hit: ok * 41,
            ..Default::default()
        }),
        wal: Some(WalActivity {
            records: Some(ok * 27),
            full_page_images: Some(8_412),
            bytes: ok * 9_800,
            buffers_full: Some(37),
        }),
        checkpoints: Some(CheckpointActivity {
            timed: 0,
            requested: shape.checkpoints.len() as u64,
            write_ms: 18_430.0,
            sync_ms: 912.0,
            buffers_written: 14_210,
        }),
        io: Some(IoActivity { reads: 512, writes: 22_104, extends: 41_020, fsyncs: 1_204 }),
        tables: vec![
            table("chat_inference", ok, 0, 3),
            table("model_inference", ok, 0, 3),
            table("resource_bucket", 10, ok, 0),
            table("variant_by_episode", ok / 4, 0, 0),
        ],
        standbys: Vec::new(),
        waits: WaitTimeline {
            bin_seconds: bin_s,
            samples: vec![5 * bin_s; bins as usize],
            window_samples: 5 * shape.seconds,
            events: events.into(),
        },
        blockers: Vec::new(),
        events: seconds(&shape.checkpoints)
            .into_iter()
            .map(|(started_s, seconds)| ServerEvent {
                started_s,
                seconds,
                kind: ServerEventKind::Checkpoint,
                detail: "requested".to_owned(),
            })
            .collect(),
        gaps: Vec::new(),
        unavailable: vec![Unavailable {
            what: "pg_stat_replication".to_owned(),
            reason: "the role may not see it; grant pg_monitor".to_owned(),
        }],
    }
}

/// A run with two outages, a stall, failed and lost requests.
pub(super) fn with_outages() -> RunResult {
    let outages = vec![(18, 4), (41, 2)];
    let mut result = run(&Shape { outages: outages.clone(), ..Shape::normal() });
    result.outages = outages
        .iter()
        .map(|(from, length)| Outage {
            hostname: None,
            vms: None,
            started_s: *from as f64 + 0.02,
            first_error_s: Some(*from as f64 + 0.04),
            recovered_s: Some((from + length) as f64),
            seconds: *length as f64 - 0.02,
        })
        .collect();
    result.generator.stood_still.stalls = vec![Stall { hostname: None, started_s: 52.4, seconds: 1.3, asleep: false }];
    result.errors = vec![ErrorCount {
        origin: ErrorOrigin::Request,
        class: "connection closed".to_owned(),
        sqlstate: Some("57P01".to_owned()),
        count: result.accounting.failed,
        example: "FATAL: terminating connection due to administrator command".to_owned(),
        first_s: Some(18.04),
        last_s: Some(42.9),
    }];
    (result.accounting.not_started, result.accounting.unfinished) = (700, 16);
    result.accounting.scheduled += 716;
    let figures = result.histograms.decode().unwrap();
    result.derive(&figures);
    result.run.window_start_s = 5.0;
    result.run.window_seconds = 55.0;
    result.status = Status::Failed;
    result.reason = "60 requests failed, and the database did not answer for 6 s in all".to_owned();
    result.warnings =
        vec!["The generator stood still for 1.3 s; requests that came due meanwhile count as lateness.".to_owned()];
    result.advice = vec!["See the server's log at the times of the outages.".to_owned()];
    result.limit = Limit {
        kind: LimitKind::RowLocks,
        share_pct: Some(42.0),
        sentence: "Row locks: sessions spent 42 % of their time waiting for the ten hot rows of resource_bucket."
            .to_owned(),
        evidence: vec!["Lock:transactionid: 1.1 of 2.6 sessions at work.".to_owned()],
        r#try: vec!["--pipeline, so that a lock is held for one round trip.".to_owned()],
    };
    if let Some(stats) = &mut result.findings.server_stats {
        stats.gaps = vec![Gap { started_s: 18.1, seconds: 4.2, reason: "connection closed".to_owned() }];
        stats.waits.samples[18..22].fill(0);
        let restart =
            ServerEvent { started_s: 18.0, seconds: 3.9, kind: ServerEventKind::Restart, detail: String::new() };
        let vacuum = ServerEvent {
            started_s: 33.0,
            seconds: 1.4,
            kind: ServerEventKind::Autovacuum,
            detail: "resource_bucket".to_owned(),
        };
        stats.events.extend([restart, vacuum]);
        let blocker = Blocker {
            pid: 4_711,
            application_name: "nightly report".to_owned(),
            user: "etl".to_owned(),
            share_pct: 3.5,
        };
        stats.blockers = vec![blocker];
    }
    result.events = events(&result);
    result
}

/// Three VMs, one of which was lost midway.
pub(super) fn fleet() -> RunResult {
    let mut result = run(&Shape { rate: 600, ..Shape::normal() });
    let vms = (1..=3).map(|at| {
        let seconds = if at == 2 { 31 } else { 60 };
        let mut own = run(&Shape { rate: 200, seed: at, seconds, ..Shape::normal() });
        own.findings.server_stats = None;
        own.hostname = format!("load-{at}.eu-west-1.compute.example.com");
        VmResult {
            hostname: own.hostname.clone(),
            actual_rps: own.throughput.actual_rps,
            success_rate: own.throughput.success_rate,
            latency_p50: own.latency_ms.p50,
            clock: None,
            start_skew_ms: Some(0.4),
            lost: (at == 2).then(|| "connection lost at 31 s".to_owned()),
            slots_lost: if at == 2 { 5_800 } else { 0 },
            result: Box::new(own),
        }
    });
    result.fleet = Some(Fleet {
        success: false,
        num_vms: 3,
        failed_vms: vec![FailedVm {
            hostname: "load-2.eu-west-1.compute.example.com".to_owned(),
            error: "the connection broke at 31 s; its result ends there".to_owned(),
        }],
        per_vm_results: vms.collect(),
        start_skew_ms: Some(1.2),
    });
    result.accounting.unreported = 5_800;
    result.accounting.scheduled += 5_800;
    result.status = Status::Invalid;
    result.reason = "1 of 3 VMs was lost, so the figures do not describe the whole test".to_owned();
    result.events = events(&result);
    result
}

/// Three requests, all of them answered.
pub(super) fn three_requests() -> RunResult {
    let mut result = run(&Shape { seconds: 1, rate: 3, seed: 3, outages: Vec::new(), checkpoints: Vec::new() });
    result.findings.server_stats = None;
    result
}

pub(super) fn ten_minutes() -> RunResult {
    let checkpoints = vec![(80, 40), (290, 60), (480, 45)];
    run(&Shape { seconds: 600, rate: 600, seed: 5, outages: Vec::new(), checkpoints })
}

/// Bins of 256 s with some thousand requests each.
pub(super) fn ten_hours() -> RunResult {
    let checkpoints = (0..120).map(|at| (at * 300 + 60, 90)).collect();
    run(&Shape { seconds: 36_000, rate: 20, seed: 7, outages: Vec::new(), checkpoints })
}

/// Text that would run or break the page if it were not escaped, in every place that a document can carry text.
pub(super) fn hostile() -> RunResult {
    const EVIL: &str = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'`&\u{202e}<!--";
    let json = serde_json::to_value(fleet()).unwrap();
    fn poison(value: serde_json::Value, name: &str) -> serde_json::Value {
        use serde_json::Value;
        const KEPT: [&str; 12] = [
            "base64",
            "format",
            "started_unix_ns",
            "seed",
            "status",
            "kind",
            "origin",
            "arrival",
            "isolation",
            "reference",
            "share",
            "started_at",
        ];
        match value {
            Value::String(_) if !KEPT.contains(&name) => Value::String(EVIL.to_owned()),
            Value::Array(list) => list.into_iter().map(|value| poison(value, name)).collect(),
            Value::Object(map) => map
                .into_iter()
                .map(|(key, value)| {
                    let poisoned = poison(value, &key);
                    (key, poisoned)
                })
                .collect(),
            value => value,
        }
    }
    serde_json::from_value(poison(json, "")).unwrap()
}
