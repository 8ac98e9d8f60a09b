//! What to do about what the figures show. Pure.
//!
//! Advice needs evidence in the same result, and never contradicts the status, a warning or other advice. Where the
//! evidence allows several causes, it says nothing.

use super::{Criteria, held_up, stalls};
use crate::result::{RunResult, Status};

/// A run with fewer requests proves nothing, as with the generator's lateness.
const LEAST_REQUESTS: u64 = 100;
/// Workers are too few only where more of the requests than this had to wait for one.
const WAITING_SHARE: f64 = 0.1;
/// From this part of the target rate on, percent, nothing held the run back …
const HELD_FROM_PCT: f64 = 99.0;
/// … unless more of the requests than this were still waiting at its end.
const BACKLOG_SHARE: f64 = 0.01;
/// The most that `--workers` takes.
const MAX_WORKERS: usize = 100_000;
/// Connections of a server that are not for everybody, or in use by whoever watches it.
const SPARE_CONNECTIONS: usize = 5;

/// In the order of importance.
pub(super) fn advice(result: &RunResult, criteria: &Criteria, status: Status) -> Vec<String> {
    let errors = [prepared_statements(result), connections(result), idle_in_transaction(result)].into_iter().flatten();
    let mut advice: Vec<String> = errors.collect();
    // Such errors come first: what else the figures show may be their consequence.
    if !advice.is_empty() || !shows_the_limit(result, criteria, status) {
        return advice;
    }
    advice.extend(workers(result));
    if !is_rate_held(result) {
        advice.extend(network(result).or_else(|| commit(result)));
    }
    advice
}

fn has_error(result: &RunResult, states: &[&str]) -> bool {
    result.errors.iter().any(|error| error.sqlstate.as_deref().is_some_and(|state| states.contains(&state)))
}

fn prepared_statements(result: &RunResult) -> Option<String> {
    (result.config.prepared_statements && has_error(result, &["26000", "42P05"])).then(|| {
        "The server does not know statements that were prepared: probably a pooler in transaction mode is in between. \
         Add --no-prepared-statements."
            .to_owned()
    })
}

/// This program never pauses within a transaction: whatever did so was stopped, or cut off.
fn idle_in_transaction(result: &RunResult) -> Option<String> {
    has_error(result, &["25P03"]).then(|| {
        "The server ended sessions that stood still within a transaction (idle_in_transaction_session_timeout; this tool \
         sets 10 s, so that locks are released): see what stopped the generator, or cut it off."
            .to_owned()
    })
}

fn connections(result: &RunResult) -> Option<String> {
    let fewer = if result.config.workers > 1 { "Lower --workers, or raise" } else { "Raise" };
    has_error(result, &["53300"]).then(|| {
        format!(
            "Connections were refused because a limit was reached. {fewer} that limit: the server's max_connections, or \
             CONNECTION LIMIT of the role or the database."
        )
    })
}

/// Whether the figures show what limits the rate: they describe the database, there are enough of them, and nothing broke
/// meanwhile. Errors and outages keep workers busy or without a connection, and then neither waits nor service times say
/// anything of a healthy database.
fn shows_the_limit(result: &RunResult, criteria: &Criteria, status: Status) -> bool {
    let failed = result.throughput.failed_writes as f64;
    let may_fail = criteria.max_error_rate_pct / 100.0 * result.throughput.total_requests as f64;
    let connections_broke = result.recoveries.reconnects > 0
        || !result.outages.is_empty()
        || result.errors.iter().any(|error| error.origin == crate::measure::outcome::ErrorOrigin::Connection);
    let held_up = result.fleet.as_ref().and_then(held_up::find).is_some();
    !matches!(status, Status::Invalid | Status::LostWrites)
        && result.run.aborted.is_none()
        && !stalls::matters(result)
        && !held_up
        && result.accounting.answered() >= LEAST_REQUESTS
        && failed <= may_fail
        && !connections_broke
}

/// Whether the target was reached without a growing backlog: then there is no bottleneck at this rate. A closed loop has
/// no target.
fn is_rate_held(result: &RunResult) -> bool {
    let accounting = &result.accounting;
    let backlog = accounting.unanswered() as f64;
    result.throughput.target_achieved_pct.is_some_and(|pct| pct >= HELD_FROM_PCT)
        && backlog <= BACKLOG_SHARE * accounting.scheduled as f64
}

/// Little's law: requests in service = rate × mean service time.
fn workers(result: &RunResult) -> Option<String> {
    let (accounting, service) = (&result.accounting, &result.service_time_ms);
    let (offered, mean_ms) = (result.throughput.offered_rps?, service.avg.filter(|ms| *ms > 0.0)?);
    let waited = result.wait_for_connection_ms.count + accounting.not_started + accounting.skipped;
    let waited_share = waited as f64 / accounting.scheduled.max(1) as f64;
    let workers = result.config.workers;
    let needed = (offered * mean_ms / 1_000.0 * 1.25).ceil() as usize;
    if waited_share <= WAITING_SHARE || needed <= workers {
        return None;
    }
    let vms = result.fleet.as_ref().map_or(1, |fleet| fleet.per_vm_results.len()).max(1);
    let (on_vms, per_vm) = match vms {
        1 => (String::new(), ""),
        vms => (format!(" on {vms} VMs"), " (per VM)"),
    };
    let each = needed.div_ceil(vms);
    let most = workers as f64 * 1_000.0 / mean_ms;
    let at_least = if service.avg_is_lower_bound { "at least " } else { "" };
    let evidence = format!(
        "{:.0}% of the requests waited because all workers were busy: {workers} workers{on_vms} at {at_least}{mean_ms:.1} \
         ms of service time make at most {most:.0} requests/s.",
        waited_share * 100.0
    );
    if each > MAX_WORKERS {
        return Some(format!("{evidence} For {offered:.0} requests/s no number of workers is enough: lower --rps."));
    }
    let limit = result.server.max_connections.and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.filter(|limit| each * vms + SPARE_CONNECTIONS > *limit).map_or(String::new(), |limit| {
        format!(" (the server allows {limit} connections, so raise its max_connections first, or use a pooler)")
    });
    Some(format!(
        "{evidence} For {offered:.0} requests/s, raise --workers{per_vm} to about {each}{limit}. If the service time grows \
         as well, the database is the limit, and more workers only lengthen its queue."
    ))
}

/// Where round trips, and not the server's work, are most of a request.
fn network(result: &RunResult) -> Option<String> {
    let (mean_ms, round_trip_ms) = (result.service_time_ms.avg?, result.server.round_trip_ms?);
    let round_trips = result.phases_ms.len();
    // A statement that took less than a round trip shows that the network was slow only when it was measured.
    let is_shortest = result.phases_ms.iter().all(|phase| phase.summary.avg.is_none_or(|ms| ms >= round_trip_ms));
    let share = round_trip_ms * round_trips as f64 / mean_ms;
    (!result.config.pipeline && round_trips > 1 && round_trip_ms > 1.0 && is_shortest && share > 0.5).then(|| {
        format!(
            "{:.0}% of the service time is the network: {round_trips} round trips of {round_trip_ms:.1} ms. Run closer to \
             the database, or add --pipeline to send the transaction in one round trip.",
            share.min(1.0) * 100.0
        )
    })
}

/// Where COMMIT is most of a request. What it waits for is known to the server alone.
fn commit(result: &RunResult) -> Option<String> {
    let commit_ms = result.phases_ms.iter().find(|phase| phase.name == "commit")?.summary.avg?;
    let mean_ms = result.service_time_ms.avg.filter(|ms| *ms > 1.0)?;
    let network_ms = result.server.round_trip_ms.unwrap_or_default();
    (commit_ms - network_ms > 0.5 * mean_ms).then(|| {
        format!(
            "COMMIT takes {:.0}% of the service time: see in pg_stat_activity whether it waits for the disk (wait events \
             WALSync, WALWrite) or for a standby (SyncRep).",
            (commit_ms / mean_ms).min(1.0) * 100.0
        )
    })
}

#[cfg(test)]
mod tests;
