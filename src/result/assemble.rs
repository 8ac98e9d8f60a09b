//! From what the engine left behind to the document: accounting, rates, summaries. Pure.

use super::{
    Accounting, Config, EncodedHistogram, FORMAT, Generator, Histograms, Phase, RunInfo, RunResult, ServerInfo, Status,
    Summary, Throughput, VERSION, WarmupCounts, rfc3339,
};
use crate::docker::ContainerUsage;
use crate::engine::RunRecord;
use crate::schedule::{Pace, Schedule};

/// Slots do not add up: a bug of this program.
#[derive(Debug, thiserror::Error)]
#[error("the requests do not add up, which is a bug, so there is no report: {accounting:?}")]
pub struct AccountingError {
    /// What was counted.
    pub accounting: Accounting,
}

/// Everything known about a run but what it measured.
#[derive(Clone, Debug)]
pub struct Context {
    /// Name of this machine.
    pub hostname: String,
    /// What was asked for.
    pub config: Config,
    /// What the database said of itself.
    pub server: ServerInfo,
    /// When requests were due.
    pub schedule: Schedule,
    /// Bytes of documents in one request.
    pub document_bytes: usize,
    /// CPU and memory of a container, where one was watched.
    pub container: Option<ContainerUsage>,
    /// Said before the run.
    pub warnings: Vec<String>,
}

/// Counts what became of every slot of the measured window.
///
/// The terms come from independent sources: the schedule's arithmetic, the cursor, and the workers' counts.
///
/// # Errors
/// They do not add up.
pub fn account(record: &RunRecord, schedule: &Schedule) -> Result<Accounting, AccountingError> {
    let measured = &record.recorder.measured;
    let window = record.window_start_ns..record.window_end_ns;
    let (scheduled, unclaimed) =
        match (schedule.scheduled_before(record.window_start_ns), schedule.scheduled_before(record.window_end_ns)) {
            (Some(before), Some(until)) => (until - before, until - record.claimed.clamp(before, until)),
            // A closed loop claims a slot only to run it at once.
            _ => {
                let warmup = &record.recorder.warmup;
                let warmed_up = warmup.ok + warmup.failed + warmup.unknown + warmup.skipped + warmup.in_flight();
                let returned = record.recorder.returned_due_ns.len() as u64;
                // A slot that was handed back was only waited with, and never due.
                (record.claimed.saturating_sub(warmed_up + returned), 0)
            }
        };
    let is_open = matches!(schedule.pace, Pace::Open { .. });
    let returned =
        record.recorder.returned_due_ns.iter().filter(|due_ns| is_open && window.contains(due_ns)).count() as u64;
    let accounting = Accounting {
        scheduled,
        ok: measured.ok,
        failed: measured.failed,
        unknown: measured.unknown,
        skipped: measured.skipped,
        not_started: unclaimed + returned,
        unfinished: measured.in_flight(),
    };
    if accounting.holds() { Ok(accounting) } else { Err(AccountingError { accounting }) }
}

/// The document of a run, without a verdict: `status` and `reason` are for [`crate::verdict`] to fill in.
///
/// # Errors
/// The counts do not add up.
pub fn assemble(record: &RunRecord, context: Context) -> Result<RunResult, AccountingError> {
    let accounting = account(record, &context.schedule)?;
    let (figures, warmup) = (&record.recorder.figures, &record.recorder.warmup);
    let window_seconds = (record.window_end_ns - record.window_start_ns) as f64 / 1e9;
    let phases_ms = record
        .phase_names
        .iter()
        .zip(&figures.phases)
        .map(|(name, durations)| Phase { name: name.clone(), summary: Summary::new(durations, 0) })
        .collect();
    Ok(RunResult {
        format: FORMAT.to_owned(),
        version: VERSION,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        tool_build: crate::options::BUILD.to_owned(),
        hostname: context.hostname,
        run: RunInfo {
            started_at: rfc3339(record.epoch.unix_ns),
            started_unix_ns: record.epoch.unix_ns,
            share: context.schedule.share,
            start_delay_ms: record.start_delay_ns.map(|ns| ns as f64 / 1e6),
            interrupted: record.interrupted,
            window_start_s: record.window_start_ns as f64 / 1e9,
            window_seconds,
            warmup: WarmupCounts {
                ok: warmup.ok,
                failed: warmup.failed,
                unknown: warmup.unknown,
                skipped: warmup.skipped,
                unfinished: warmup.in_flight(),
            },
        },
        config: context.config,
        server: context.server,
        accounting,
        throughput: throughput(record, &accounting, &context.schedule, window_seconds),
        latency_ms: Summary::new(&figures.latency, accounting.unanswered()),
        service_time_ms: Summary::new(&figures.service, accounting.unfinished),
        lateness_ms: Summary::new(&figures.lateness, 0),
        wait_for_connection_ms: Summary::new(&figures.wait, accounting.skipped + accounting.not_started),
        phases_ms,
        data_written_mb: accounting.ok as f64 * context.document_bytes as f64 / 1_048_576.0,
        errors: record.recorder.errors.counts(),
        reconnects: record.recorder.reconnects,
        generator: generator(record, &accounting),
        container: context.container,
        histograms: Histograms {
            latency: EncodedHistogram::new(&figures.latency),
            service_time: EncodedHistogram::new(&figures.service),
            lateness: EncodedHistogram::new(&figures.lateness),
            wait_for_connection: EncodedHistogram::new(&figures.wait),
            phases: figures.phases.iter().map(EncodedHistogram::coarse).collect(),
        },
        warnings: context.warnings,
        advice: Vec::new(),
        status: Status::Invalid,
        reason: String::new(),
        fleet: None,
    })
}

fn throughput(record: &RunRecord, accounting: &Accounting, schedule: &Schedule, seconds: f64) -> Throughput {
    let completed = record.recorder.ok_completed_in_window;
    let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let total = accounting.answered();
    let actual_rps = per_second(completed);
    let offered_rps = matches!(schedule.pace, Pace::Open { .. }).then(|| per_second(accounting.scheduled));
    Throughput {
        total_requests: total,
        successful_writes: accounting.ok,
        failed_writes: accounting.failed + accounting.unknown,
        actual_rps,
        offered_rps,
        target_achieved_pct: offered_rps.filter(|offered| *offered > 0.0).map(|offered| actual_rps / offered * 100.0),
        success_rate: (total > 0).then(|| accounting.ok as f64 / total as f64 * 100.0),
        completed_in_window: completed,
        timeline: record.completed.clone(),
    }
}

fn generator(record: &RunRecord, accounting: &Accounting) -> Generator {
    // Threads are measured from T0, so the warm-up is part of it.
    let window_ns = record.window_end_ns.max(1) as f64;
    let worst_pct = |values: &[u64]| values.iter().max().map_or(0.0, |ns| *ns as f64 / window_ns * 100.0);
    let cpu_seconds = record.process_cpu_ns as f64 / 1e9;
    let warmup = &record.recorder.warmup;
    let answered = accounting.answered() + warmup.ok + warmup.failed + warmup.unknown;
    Generator {
        cpu_seconds,
        cpu_us_per_request: (answered > 0).then(|| cpu_seconds * 1e6 / answered as f64),
        busiest_thread_pct: worst_pct(&record.thread_cpu_ns),
        run_queue_wait_pct: record.thread_run_queue_ns.as_deref().map(worst_pct),
    }
}
