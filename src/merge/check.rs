//! Whether one document is what this program could have written. Pure.

use super::{MergeError, Part};
use crate::recorder::Timeline;
use crate::result::{FORMAT, RunResult, Summary, VERSION};

/// No count of a document is greater. So many requests take years at the greatest rate, and the sum over as many
/// machines as there can be shares still fits into 64 bits.
pub(super) const MAX_COUNT: u64 = 100_000_000_000_000;
/// Into how many shares a test can be divided.
const MAX_SHARES: u64 = 100_000;
/// A request has five round trips at most.
const MAX_PHASES: usize = 8;
/// Classes of errors and warnings in a document; this program writes far fewer.
const MAX_ENTRIES: usize = 1_000;
/// Some thirty years, in seconds: longer than any window.
const MAX_SECONDS: f64 = 1e9;
/// A bin of the timeline is then a year long.
const MAX_BIN_SECONDS: u64 = 1 << 25;

/// Everything that can be seen without decoding histograms.
pub(crate) fn check(part: &Part) -> Result<(), MergeError> {
    let (result, host) = (&part.result, || part.hostname.clone());
    if result.format != FORMAT || result.version != VERSION {
        let found = format!("{} version {}", short(&result.format), result.version);
        return Err(MergeError::OtherFormat { host: host(), found });
    }
    if result.fleet.is_some() {
        return Err(MergeError::AlreadyMerged { host: host() });
    }
    match contradiction(part) {
        Some(what) => Err(MergeError::Contradiction { host: host(), what }),
        None => Ok(()),
    }
}

/// A text from a document, in a length that fits a message.
pub(super) fn short(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn contradiction(part: &Part) -> Option<String> {
    let result = &part.result;
    let share = &result.run.share;
    if share.of == 0 || share.of > MAX_SHARES || share.index >= share.of {
        return Some(format!("share {} of {}", share.index.saturating_add(1), share.of));
    }
    number_out_of_range(part).or_else(|| figures_disagree(result))
}

/// Numbers that are not finite, below zero, or absurdly large. After this, sums of counts cannot overflow.
fn number_out_of_range(part: &Part) -> Option<String> {
    let result = &part.result;
    let (run, config, throughput) = (&result.run, &result.config, &result.throughput);
    let (accounting, warmup, generator) = (&result.accounting, &run.warmup, &result.generator);
    let histograms = &result.histograms;
    let mut counts = vec![
        ("scheduled", accounting.scheduled),
        ("ok", accounting.ok),
        ("failed", accounting.failed),
        ("unknown", accounting.unknown),
        ("skipped", accounting.skipped),
        ("not_started", accounting.not_started),
        ("unfinished", accounting.unfinished),
        ("warmup.ok", warmup.ok),
        ("warmup.failed", warmup.failed),
        ("warmup.unknown", warmup.unknown),
        ("warmup.skipped", warmup.skipped),
        ("warmup.unfinished", warmup.unfinished),
        ("completed_in_window", throughput.completed_in_window),
        ("total_requests", throughput.total_requests),
        ("reconnects", result.reconnects),
        ("workers", config.workers as u64),
        ("threads", config.threads as u64),
        ("slots_lost", part.slots_lost),
    ];
    for histogram in
        [&histograms.latency, &histograms.service_time, &histograms.lateness, &histograms.wait_for_connection]
            .into_iter()
            .chain(histograms.phases.iter().take(MAX_PHASES))
    {
        counts.push(("past_range", histogram.past_range));
    }
    let mut numbers = vec![
        ("window_start_s", Some(run.window_start_s)),
        ("window_seconds", Some(run.window_seconds)),
        ("start_delay_ms", run.start_delay_ms),
        ("target_rps", config.target_rps),
        ("duration_seconds", Some(config.duration_seconds)),
        ("warmup_seconds", Some(config.warmup_seconds)),
        ("actual_rps", Some(throughput.actual_rps)),
        ("offered_rps", throughput.offered_rps),
        ("target_achieved_pct", throughput.target_achieved_pct),
        ("success_rate", throughput.success_rate),
        ("data_written_mb", Some(result.data_written_mb)),
        ("cpu_seconds", Some(generator.cpu_seconds)),
        ("cpu_us_per_request", generator.cpu_us_per_request),
        ("busiest_thread_pct", Some(generator.busiest_thread_pct)),
        ("run_queue_wait_pct", generator.run_queue_wait_pct),
        ("occupied_pct", generator.occupied_pct),
        ("round_trip_ms", result.server.round_trip_ms),
    ];
    for summary in [&result.latency_ms, &result.service_time_ms, &result.lateness_ms, &result.wait_for_connection_ms]
        .into_iter()
        .chain(result.phases_ms.iter().take(MAX_PHASES).map(|phase| &phase.summary))
    {
        counts.push(("count", summary.count));
        numbers.extend(summary.figures().map(|(name, bounded)| (name, bounded.value)));
    }
    let wrong_count = counts.into_iter().find(|(_, count)| *count > MAX_COUNT);
    let wrong_number = numbers
        .into_iter()
        .find_map(|(name, number)| number.filter(|n| !(0.0..1e300).contains(n)).map(|number| (name, number)));
    let too_long = [run.window_start_s, run.window_seconds].into_iter().find(|seconds| *seconds > MAX_SECONDS);
    let sign_free = [part.start_skew_ms, part.clock.map(|c| c.offset_ms), part.clock.and_then(|c| c.offset_after_ms)];
    if let Some((name, count)) = wrong_count {
        Some(format!("{name} is {count}"))
    } else if let Some((name, number)) = wrong_number {
        Some(format!("{name} is {number}"))
    } else if let Some(seconds) = too_long {
        Some(format!("its window reaches over {seconds:.0} s"))
    } else {
        let wild = sign_free.into_iter().flatten().find(|ms| !ms.is_finite() || ms.abs() > MAX_SECONDS * 1e3);
        wild.map(|ms| format!("its clock is off by {ms} ms"))
    }
}

/// Figures that do not fit together.
fn figures_disagree(result: &RunResult) -> Option<String> {
    let (accounting, throughput) = (&result.accounting, &result.throughput);
    if !accounting.holds() {
        let (found, scheduled) = (accounting.answered() + accounting.unanswered(), accounting.scheduled);
        return Some(format!("{scheduled} requests were scheduled and {found} are accounted for"));
    }
    let failed = accounting.failed + accounting.unknown;
    let totals = (throughput.total_requests, throughput.successful_writes, throughput.failed_writes);
    if totals != (accounting.answered(), accounting.ok, failed) {
        return Some("throughput and accounting have different totals".to_owned());
    }
    let answered = [&result.latency_ms, &result.service_time_ms];
    if answered.iter().any(|summary: &&Summary| summary.count != accounting.answered()) {
        return Some(format!("not every one of {} answered requests has a latency", accounting.answered()));
    }
    if throughput.completed_in_window > accounting.ok + result.run.warmup.ok {
        return Some("more requests were completed than were ok".to_owned());
    }
    if result.config.target_rps.is_some() != throughput.offered_rps.is_some() {
        return Some("it has a target rate and offered none, or the other way round".to_owned());
    }
    let in_errors = result.errors.iter().try_fold(0u64, |sum, error| sum.checked_add(error.count));
    if result.errors.len() > MAX_ENTRIES || in_errors.is_none_or(|sum| sum > MAX_COUNT) {
        return Some("it has more errors than there can be".to_owned());
    }
    if result.warnings.len() > MAX_ENTRIES {
        return Some(format!("it has {} warnings", result.warnings.len()));
    }
    let (phases, histograms) = (result.phases_ms.len(), result.histograms.phases.len());
    if phases != histograms || phases > MAX_PHASES {
        return Some(format!("it has {phases} round trips and {histograms} histograms of them"));
    }
    timeline_disagrees(&throughput.timeline, throughput.completed_in_window)
}

fn timeline_disagrees(timeline: &Timeline, completed: u64) -> Option<String> {
    let Timeline { bin_seconds, completed: bins } = timeline;
    if !bin_seconds.is_power_of_two() || *bin_seconds > MAX_BIN_SECONDS || bins.len() > Timeline::MAX_BINS {
        return Some(format!("its timeline has {} bins of {bin_seconds} s", bins.len()));
    }
    let sum = bins.iter().try_fold(0u64, |sum, count| sum.checked_add(*count));
    (sum != Some(completed)).then(|| "its timeline does not add up to the completed requests".to_owned())
}
