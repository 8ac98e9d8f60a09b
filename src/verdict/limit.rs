//! What limited the run: one factor, with its share and the evidence, or the admission that there is none. Pure.
//!
//! The rules are tried from the surest to the least sure:
//!
//! 1. the generator, where the figures show it and not the database; and figures that show nothing at all;
//! 2. nothing, where the target was held;
//! 3. [`server`]: what sessions waited for, as the server's statistics have it; [`between`]: where they did not, while
//!    workers were busy;
//! 4. [`client`]: what the client alone can know.
//!
//! A factor needs half of the share. `docs/limiting-factor.md` has the same rules as a table.

mod between;
mod checkpoints;
mod client;
mod generator;
mod remedies;
mod server;
mod sessions;

use super::{fleet, generator_at_fault, held_up, invalid, stalls};
use crate::measure::outcome::ErrorOrigin;
use crate::result::{Limit, LimitKind, RunResult, Status};
use crate::text::words::thousands;

/// A factor has at least this share, percent.
const NAMED_FROM_PCT: f64 = 50.0;
/// A run with fewer requests proves nothing, as with the generator's lateness.
const LEAST_REQUESTS: u64 = 100;
/// From this part of the target rate on, percent, nothing held the run back …
const HELD_FROM_PCT: f64 = 99.0;
/// … unless more of the requests than this were still waiting at its end.
const BACKLOG_SHARE: f64 = 0.01;

/// The factor. `status` is that of the same figures.
pub(super) fn limit(result: &RunResult, status: Status) -> Limit {
    if let Some(limit) = undescribed(result, status) {
        return limit;
    }
    if is_held(result) && matches!(status, Status::Passed | Status::Interrupted) {
        return none(result);
    }
    if let Some(limit) = server::other_session(result) {
        return limit;
    }
    if let Some(cause) = broken(result, status) {
        return unknown(&format!("Not known: {cause}."), Vec::new(), Vec::new());
    }
    server::limit(result).unwrap_or_else(|| client::limit(result))
}

fn found(
    kind: LimitKind,
    share_pct: Option<f64>,
    sentence: String,
    evidence: Vec<String>,
    remedies: Vec<String>,
) -> Limit {
    // A share is no more than all of it, also after adding up averages.
    Limit { kind, share_pct: share_pct.map(|pct| pct.clamp(0.0, 100.0)), sentence, evidence, r#try: remedies }
}

fn unknown(sentence: &str, evidence: Vec<String>, remedies: Vec<String>) -> Limit {
    found(LimitKind::Unknown, None, sentence.to_owned(), evidence, remedies)
}

/// Where the figures do not describe the database.
fn undescribed(result: &RunResult, status: Status) -> Option<Limit> {
    let not_known = |cause: &str| Some(unknown(&format!("Not known: {cause}."), Vec::new(), Vec::new()));
    match status {
        Status::Invalid => {
            let is_fleet = result.fleet.as_ref().and_then(fleet::invalid).is_some();
            let by_generator = generator_at_fault(result).filter(|_| !is_fleet && result.accounting.scheduled > 0);
            // Without such a reason, a stall hides whether limits were kept.
            if by_generator.is_none() && invalid(result).is_some() {
                return not_known("the figures do not describe the database (see STATUS)");
            }
            Some(generator::limit(result, by_generator))
        }
        Status::LostWrites => not_known("what was acknowledged is not in the database (see STATUS)"),
        _ if result.run.aborted.is_some() => not_known("the run ended itself early"),
        _ if result.accounting.scheduled == 0 => not_known("no request was due"),
        _ => None,
    }
}

fn none(result: &RunResult) -> Limit {
    let throughput = &result.throughput;
    let (offered, achieved) =
        (throughput.offered_rps.unwrap_or_default(), throughput.target_achieved_pct.unwrap_or(100.0));
    let mut evidence = vec![match result.accounting.unanswered() {
        0 => format!("{achieved:.1}% of the target was reached, and no request was left waiting."),
        some => {
            format!("{achieved:.1}% of the target was reached, and {} requests were left waiting.", thousands(some))
        }
    }];
    if let Some(busy) = busy_workers(result) {
        evidence.push(format!("{busy:.1} of {} workers were busy on average.", result.config.workers));
    }
    let sentence = format!("Nothing at this rate: {offered:.0} requests/s were held with no growing backlog");
    found(LimitKind::None, None, sentence, evidence, remedies::of(LimitKind::None, result))
}

/// Whether the target was reached without a growing backlog: then there is no bottleneck at this rate. A closed loop has
/// no target.
pub(super) fn is_held(result: &RunResult) -> bool {
    let accounting = &result.accounting;
    let part = BACKLOG_SHARE * accounting.scheduled as f64;
    let Some(pct) = result.throughput.target_achieved_pct else { return false };
    let is_answered = accounting.unanswered() as f64 <= part && !backlog_grows(result);
    // In a short run the last requests, which were in flight at its end, may be more than one in a hundred.
    let in_time = result.throughput.failed_writes == 0 && waited(result) as f64 <= part;
    let late = accounting.scheduled.saturating_sub(result.throughput.completed_in_window);
    is_answered && (pct >= HELD_FROM_PCT || (in_time && late <= result.config.workers as u64))
}

/// Whether more requests wait in the last third of the window than in the first, by more than the workers take at once.
fn backlog_grows(result: &RunResult) -> bool {
    let backlog: Vec<u64> = window_bins(result).filter_map(|bin| result.timeline.backlog.get(bin).copied()).collect();
    let third = backlog.len() / 3;
    let median = |part: &[u64]| {
        let mut sorted = part.to_vec();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    };
    let (first, last) = (median(&backlog[..third]), median(&backlog[backlog.len() - third..]));
    last > first.saturating_add(result.config.workers as u64)
}

/// Requests that no worker was free for when they were due.
fn waited(result: &RunResult) -> u64 {
    let accounting = &result.accounting;
    result.wait_for_connection_ms.count.saturating_add(accounting.not_started).saturating_add(accounting.skipped)
}

/// Why neither waits nor service times say anything of a healthy database, where that is so: errors keep workers busy or
/// without a connection.
fn broken(result: &RunResult, status: Status) -> Option<&'static str> {
    let connections_broke =
        result.recoveries.reconnects > 0 || result.errors.iter().any(|error| error.origin == ErrorOrigin::Connection);
    let explains = |stats| sessions::has_samples(result, stats) && sessions::saw_outages(result, stats);
    let is_explained = result.findings.server_stats.as_ref().is_some_and(explains);
    if result.throughput.failed_writes > 0 && status == Status::Failed {
        return Some("requests failed, and what fails says nothing of what a healthy database does");
    }
    if connections_broke {
        return Some("connections broke or were refused");
    }
    if stalls::matters(result) {
        return Some("the generator stood still");
    }
    if result.fleet.as_ref().and_then(held_up::find).is_some() {
        return Some("a VM held the others up");
    }
    // What sessions waited for meanwhile may explain an outage; without it, nothing does.
    if !result.outages.is_empty() && !is_explained {
        return Some("there were outages");
    }
    (result.accounting.answered() < LEAST_REQUESTS).then_some("there were too few requests")
}

/// Workers that were busy on average in the measured window.
fn busy_workers(result: &RunResult) -> Option<f64> {
    let busy: Vec<f64> = window_bins(result).filter_map(|bin| result.timeline.busy_workers.get(bin).copied()).collect();
    if !busy.is_empty() {
        return Some(busy.iter().sum::<f64>() / busy.len() as f64);
    }
    // Little's law: requests in service = rate × mean service time.
    let by_rate = result.service_time_ms.avg.map(|ms| result.throughput.actual_rps * ms / 1_000.0);
    by_rate.map(|busy| busy.min(result.config.workers as f64))
}

/// The bins of the timeline that lie within the measured window as a whole.
fn window_bins(result: &RunResult) -> std::ops::Range<usize> {
    let seconds = result.timeline.bin_seconds.max(1) as f64;
    let (start_s, end_s) = (result.run.window_start_s, result.run.window_start_s + result.run.window_seconds);
    let first = (start_s / seconds).ceil() as usize;
    // Rounding may put the end a little before that of a bin.
    let last = ((end_s + 0.01) / seconds).floor() as usize;
    first..last.min(result.timeline.offered.len()).max(first)
}

#[cfg(test)]
mod tests;
