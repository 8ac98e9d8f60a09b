//! From what the engine left behind to the document: accounting, rates, summaries. Pure.

use super::{
    Accounting, ClockVsDatabase, Config, FORMAT, Generator, Limit, RunInfo, RunResult, ServerInfo, Status, Summary,
    Throughput, Timeline, VERSION, Verification,
};
use crate::measure::counters::Counts;
use crate::measure::record::{RunRecord, ThreadTime};
use crate::measure::recorder::Recorder;
use crate::measure::stalls::{self, Stall, Stalls};
use crate::measure::timeline::Timeline as Completions;
use crate::monitor::Findings;
use crate::schedule::{Pace, Schedule};

#[derive(Debug, thiserror::Error)]
#[error("the requests do not add up, which is a bug, so there is no report: {accounting:?}")]
pub struct AccountingError {
    pub accounting: Accounting,
}

/// Everything known about a run but what it measured; goes into the document's fields of the same names.
#[derive(Clone, Debug)]
pub struct Context {
    pub hostname: String,
    pub config: Config,
    pub server: ServerInfo,
    pub clock_vs_database: Option<ClockVsDatabase>,
    pub schedule: Schedule,
    pub findings: Findings,
    pub verification: Option<Verification>,
    pub aborted: Option<String>,
    pub warnings: Vec<String>,
}

/// Counts what became of every slot of the measured window.
///
/// The terms come from independent sources: the schedule's arithmetic, the cursor, and the workers' counts.
pub fn account(record: &RunRecord, schedule: &Schedule) -> Result<Accounting, AccountingError> {
    let counters = &record.recorder.counters;
    let measured = &counters.measured;
    let window = record.window_start_ns..record.window_end_ns;
    let (scheduled, unclaimed) =
        match (schedule.scheduled_before(record.window_start_ns), schedule.scheduled_before(record.window_end_ns)) {
            (Some(before), Some(until)) => (until - before, until - record.claimed.clamp(before, until)),
            // A closed loop claims a slot only to run it at once.
            _ => {
                let warmup = &counters.warmup;
                let warmed_up = warmup.answered() + warmup.skipped + warmup.in_flight();
                let returned = record.recorder.returned_due_ns.len() as u64;
                // A slot that was handed back was only waited with, and never due.
                (record.claimed.saturating_sub(warmed_up + returned), 0)
            }
        };
    let is_open = matches!(schedule.pace, Pace::Open { .. });
    let returned =
        record.recorder.returned_due_ns.iter().filter(|due_ns| is_open && window.contains(due_ns)).count() as u64;
    let accounting = accounting(measured, scheduled, unclaimed + returned);
    if accounting.holds() { Ok(accounting) } else { Err(AccountingError { accounting }) }
}

fn accounting(counts: &Counts, scheduled: u64, not_started: u64) -> Accounting {
    let Counts { ok, failed, unknown, skipped, started: _ } = *counts;
    Accounting { scheduled, ok, failed, unknown, skipped, not_started, unfinished: counts.in_flight(), unreported: 0 }
}

/// The document of a run, without a verdict: `status` and `reason` are for [`crate::verdict`] to fill in.
pub fn assemble(record: &RunRecord, context: Context) -> Result<RunResult, AccountingError> {
    let accounting = account(record, &context.schedule)?;
    let timeline =
        Timeline::new(&record.recorder.bins, |ns| context.schedule.scheduled_before(ns), record.window_end_ns);
    let mut result = document(&record.recorder, &record.completed, record.epoch.unix_ns, accounting, context);
    result.timeline = timeline;
    result.run.window_start_s = record.window_start_ns as f64 / 1e9;
    result.run.window_seconds = (record.window_end_ns - record.window_start_ns) as f64 / 1e9;
    result.run.interrupted = record.interrupted;
    result.run.start_delay_ms = record.start_delay_ns.map(|ns| ns as f64 / 1e6);
    result.generator = generator(record, &accounting);
    result.outages.clone_from(&record.outages);
    result.derive(&record.recorder.figures);
    Ok(result)
}

/// The same of a VM that was lost, from what it had reported until then. Its slots after that are no part of it: merging
/// counts them.
///
/// `recorder` and `completed` are the sums of what it reported. `known_ns` is the end of the last second that it
/// reported, nanoseconds after T0, 0 where there is none. The window ends there, or with the last request that is known
/// to have been started. What it cost the generator is not known, and stands as 0.
pub fn assemble_lost(
    recorder: &Recorder,
    completed: &Completions,
    epoch_unix_ns: u64,
    known_ns: u64,
    context: Context,
) -> RunResult {
    let (schedule, counts) = (context.schedule, &recorder.counters.measured);
    let last_started_ns = recorder.last_started_due_ns.map_or(0, |due_ns| due_ns.saturating_add(1));
    let end_ns = known_ns.max(last_started_ns).min(schedule.end_ns());
    let start_ns = schedule.warmup_ns.min(end_ns);
    let due_in = |start_ns: u64, end_ns: u64| {
        let slots = schedule.scheduled_before(end_ns)?.checked_sub(schedule.scheduled_before(start_ns)?);
        Some(slots.unwrap_or_default())
    };
    // What was counted is a fact, and the end of the window only an estimate.
    let known = counts.answered().saturating_add(counts.skipped).saturating_add(counts.in_flight());
    let scheduled = due_in(start_ns, end_ns).unwrap_or_default().max(known);
    let accounting = accounting(counts, scheduled, scheduled - known);
    let timeline = Timeline::new(&recorder.bins, |ns| schedule.scheduled_before(ns), end_ns);
    let mut result = document(recorder, completed, epoch_unix_ns, accounting, context);
    result.timeline = timeline;
    result.run.window_start_s = start_ns as f64 / 1e9;
    result.run.window_seconds = (end_ns - start_ns) as f64 / 1e9;
    result.derive(&recorder.figures);
    result
}

/// What is known of every run. Its window and all that [`RunResult::derive`] computes are still to be filled in.
fn document(
    recorder: &Recorder,
    completed: &Completions,
    epoch_unix_ns: u64,
    accounting: Accounting,
    context: Context,
) -> RunResult {
    let Recorder { figures, counters, errors, .. } = recorder;
    RunResult {
        format: FORMAT.to_owned(),
        version: VERSION,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        tool_build: crate::version::BUILD.to_owned(),
        hostname: context.hostname,
        run: RunInfo {
            started_at: String::new(),
            started_unix_ns: epoch_unix_ns,
            share: context.schedule.share,
            clock_vs_database: context.clock_vs_database,
            start_delay_ms: None,
            interrupted: false,
            aborted: context.aborted,
            window_start_s: 0.0,
            window_seconds: 0.0,
            warmup: counters.warmup.into(),
        },
        config: context.config,
        server: context.server,
        accounting,
        throughput: Throughput { timeline: completed.clone(), ..Throughput::default() },
        latency_ms: Summary::default(),
        service_time_ms: Summary::default(),
        lateness_ms: Summary::default(),
        wait_for_connection_ms: Summary::default(),
        phases_ms: Vec::new(),
        data_written_mb: 0.0,
        errors: errors.counts(),
        recoveries: counters.recoveries,
        outages: Vec::new(),
        verification: context.verification,
        generator: Generator::default(),
        findings: context.findings,
        timeline: Timeline::default(),
        histograms: figures.encode(),
        events: Vec::new(),
        limit: Limit::default(),
        warnings: context.warnings,
        advice: Vec::new(),
        status: Status::Invalid,
        reason: String::new(),
        fleet: None,
    }
}

fn generator(record: &RunRecord, accounting: &Accounting) -> Generator {
    // Threads are measured from T0, so the warm-up is part of it.
    let window_ns = record.window_end_ns.max(1) as f64;
    let pct = |ns: u64| ns as f64 / window_ns * 100.0;
    let worst = |ns: fn(&ThreadTime) -> Option<u64>| {
        let known: Option<Vec<u64>> = record.threads.iter().map(ns).collect();
        known.map(|known| known.into_iter().max().map_or(0.0, pct))
    };
    Generator {
        cpu_seconds: record.process_cpu_ns as f64 / 1e9,
        cpu_us_per_request: None,
        busiest_thread_pct: worst(|thread| Some(thread.cpu_ns)).unwrap_or_default(),
        run_queue_wait_pct: worst(|thread| thread.run_queue_ns),
        // The end of the window is measured by the thread itself, late where it has to wait.
        occupied_pct: worst(|thread| Some(thread.cpu_ns + thread.run_queue_ns?)).map(|pct| pct.min(100.0)),
        machine_cpu_pct: record.machine_cpu_pct,
        stood_still: stood_still(record, accounting),
    }
}

/// When the generator stood still, and what that touched.
fn stood_still(record: &RunRecord, accounting: &Accounting) -> Stalls {
    let (seen, t0_ns) = (&record.seen, record.epoch.mono_ns);
    let seconds = |ns: u64| ns as f64 / 1e9;
    let window_ns = [record.window_start_ns, record.window_end_ns].map(|ns| t0_ns.saturating_add(ns));
    let within_ns = |from_ns: u64| stalls::stood_still_ns(&seen.spans, from_ns.max(window_ns[0]), window_ns[1]);
    let asleep_ns: u64 = seen
        .sleeps
        .iter()
        .filter(|sleep| (window_ns[0]..window_ns[1]).contains(&sleep.at_ns))
        .map(|sleep| sleep.length_ns)
        .sum();
    // What began before T0 counts from there on.
    let stall = |start_ns: u64, length_ns: u64, asleep: bool| Stall {
        hostname: None,
        started_s: seconds(start_ns.saturating_sub(t0_ns)),
        seconds: seconds(length_ns),
        asleep,
    };
    let spans = seen.spans.iter().filter(|span| span.end_ns > t0_ns);
    let spans = spans.map(|span| stall(span.start_ns, span.within_ns(t0_ns, u64::MAX), false));
    let sleeps = seen.sleeps.iter().filter(|sleep| sleep.at_ns > t0_ns);
    let sleeps = sleeps.map(|sleep| stall(sleep.at_ns, sleep.length_ns, true));
    let mut all: Vec<Stall> = spans.chain(sleeps).collect();
    let told = (seen.spans.len() + seen.sleeps.len()) as u64;
    let stall_count = all.len() as u64 + seen.count.saturating_sub(told);
    all.sort_by(|one, other| one.started_s.total_cmp(&other.started_s));
    all.truncate(stalls::MAX_LISTED);
    // Slots that nobody claimed: all of them where the last stall is why, otherwise as many as came due in stalls.
    let rate = accounting.scheduled as f64 / seconds(window_ns[1].saturating_sub(window_ns[0])).max(1e-9);
    let from_ns = t0_ns.saturating_add(record.recorder.last_started_due_ns.unwrap_or_default());
    let not_started = match seen.has_backlog {
        true => accounting.not_started,
        false => accounting.not_started.min((seconds(within_ns(from_ns)) * rate).round() as u64),
    };
    Stalls {
        stalls: all,
        stall_count,
        stalled_seconds: seconds(within_ns(0).saturating_add(asleep_ns)),
        stalled_requests: match stall_count {
            // What ended before T0 held nothing up.
            0 => 0,
            _ => (record.recorder.counters.stalled + not_started).min(accounting.scheduled),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::outcome::Outcome;
    use crate::measure::recorder::{Instants, Window};
    use crate::result::tests::sample;
    use crate::schedule::{Arrival, Rate, Share};
    use crate::workload::Workload;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000 * MS;

    /// 100/s over two VMs for 10 s after a warm-up of 1 s.
    fn context(pace: Pace) -> Context {
        let share = Share { index: 1, of: 2 };
        // Documents of 1 MB in a request.
        let mut config = crate::result::Config { workload: Workload::of_kb(256.0), ..sample().config };
        if pace == Pace::Closed {
            config.target_rps = None;
        }
        Context {
            hostname: "h2".to_owned(),
            config,
            server: ServerInfo::default(),
            clock_vs_database: None,
            schedule: Schedule { pace, share, seed: 1, warmup_ns: SECOND, duration_ns: 10 * SECOND },
            findings: Findings::default(),
            verification: None,
            aborted: None,
            warnings: vec!["said before".to_owned()],
        }
    }

    fn open() -> Pace {
        Pace::Open { rate: Rate::parse("100").unwrap(), arrival: Arrival::Constant }
    }

    /// `answered` requests, and as many more as are said still in flight, 20 ms apart.
    fn recorded(answered: u64, in_flight: u64) -> (Recorder, Completions) {
        let (mut recorder, mut completed) = (Recorder::new(1), Completions::default());
        for i in 0..answered + in_flight {
            let due = SECOND + 10 * MS + i * 20 * MS;
            recorder.start(Window::Measured, due);
            if i < answered {
                let instants = Instants { due, claimed: due, sent: due, done: due + MS };
                recorder.finish(Window::Measured, instants, true, true, &Outcome::Ok);
                recorder.phases(&[MS]);
                completed.add(due / SECOND, 1);
            }
        }
        (recorder, completed)
    }

    fn lost(pace: Pace, (recorder, completed): &(Recorder, Completions), known_ns: u64) -> RunResult {
        assemble_lost(recorder, completed, 0, known_ns, context(pace))
    }

    #[test]
    fn of_a_lost_vm_remains_what_it_had_reported() {
        // Until 3 s after T0 the share has 100 slots in the window: 90 answered, 4 in flight, 6 waiting.
        let result = lost(open(), &recorded(90, 4), 3 * SECOND);
        let accounting = result.accounting;
        let counts = (accounting.scheduled, accounting.ok, accounting.unfinished, accounting.not_started);
        assert_eq!(counts, (100, 90, 4, 6));
        assert!(accounting.holds());
        assert_eq!((result.run.window_seconds, result.run.window_start_s), (2.0, 1.0));
        assert_eq!((result.throughput.offered_rps, result.throughput.actual_rps), (Some(50.0), 45.0));
        assert_eq!((result.latency_ms.count, result.phases_ms[0].summary.count), (90, 90));
        assert_eq!((result.data_written_mb, result.warnings.len()), (90.0, 1));
    }

    #[test]
    fn the_window_reaches_to_the_last_request_known_to_be_started() {
        // The last one was due 1.01 s + 99 × 0.02 s = 2.99 s after T0.
        let result = lost(open(), &recorded(100, 0), 2 * SECOND);
        assert_eq!(result.accounting.scheduled, 100);
        assert_eq!(result.run.window_seconds, 1.990_000_001);
    }

    #[test]
    fn of_a_vm_that_reported_nothing_nothing_remains() {
        let result = lost(open(), &(Recorder::new(1), Completions::default()), 0);
        assert_eq!(result.accounting, Accounting::default());
        assert_eq!((result.run.window_seconds, result.run.window_start_s), (0.0, 0.0));
    }

    #[test]
    fn counts_are_facts_and_raise_what_the_schedule_says() {
        let mut recorded = recorded(10, 0);
        recorded.0.counters.measured.skipped = 1_000;
        let result = lost(open(), &recorded, 2 * SECOND);
        assert_eq!((result.accounting.scheduled, result.accounting.not_started), (1_010, 0));
    }

    #[test]
    fn a_closed_loop_has_no_slots_that_were_not_started() {
        let result = lost(Pace::Closed, &recorded(90, 4), 3 * SECOND);
        assert_eq!((result.accounting.scheduled, result.accounting.not_started), (94, 0));
        assert_eq!(result.throughput.offered_rps, None);
    }
}
