//! What to do about what the figures show. Pure.

use super::{Criteria, held_up};
use crate::result::RunResult;

/// In the order of importance.
pub(super) fn advice(result: &RunResult, criteria: &Criteria) -> Vec<String> {
    let mut advice = Vec::new();
    let achieved = result.throughput.target_achieved_pct.unwrap_or(100.0);
    let waits = result.wait_for_connection_ms.count + result.accounting.not_started;
    let many_waits = waits * 10 > result.accounting.scheduled;
    let failures_explain_it = result.throughput.failed_writes * 10 > result.throughput.total_requests;
    if !failures_explain_it && (achieved < criteria.min_achieved_pct.max(99.0) || many_waits) {
        advice.extend(workers_advice(result));
    }
    if result.errors.iter().any(|error| matches!(error.sqlstate.as_deref(), Some("26000" | "42P05"))) {
        advice.push(
            "Prepared statements got lost: a pooler in transaction mode stands between; add --no-prepared-statements."
                .to_owned(),
        );
    }
    if result.errors.iter().any(|error| error.sqlstate.as_deref() == Some("53300")) {
        let lower = if result.config.workers > 1 { "lower --workers, or " } else { "" };
        advice.push(format!(
            "The server was out of connections: {lower}raise the limit of the server (max_connections), the role or the \
             pooler."
        ));
    }
    if result.errors.iter().any(|error| error.sqlstate.as_deref() == Some("25P03")) {
        advice.push(
            "The server ended sessions that stood still within a transaction (idle_in_transaction_session_timeout; this tool \
             sets 10 s, so that locks are released): see what stopped the generator, or cut it off."
                .to_owned(),
        );
    }
    let service = &result.service_time_ms;
    if let (Some(mean), Some(round_trip)) = (service.avg, result.server.round_trip_ms) {
        let round_trips = result.phases_ms.len() as f64;
        if round_trips > 0.0 && round_trip > 1.0 && round_trip * round_trips > 0.5 * mean {
            advice.push(format!(
                "More than half of the service time is network: {round_trips:.0} round trips of {round_trip:.1} ms. Run \
                 nearer to the database, or add --pipeline to make it one."
            ));
        }
    }
    if let Some(commit) = result.phases_ms.iter().find(|phase| phase.name == "commit") {
        let (part, whole) = (commit.summary.avg.unwrap_or(0.0), service.avg.unwrap_or(0.0));
        if whole > 1.0 && part > 0.5 * whole {
            advice.push(format!(
                "COMMIT takes {:.0}% of the service time: the write-ahead log's disk is the bottleneck. Where losing \
                 the last moments is acceptable, synchronous_commit=off avoids that wait.",
                part / whole * 100.0
            ));
        }
    }
    advice
}

/// Little's law: requests in service = rate × mean service time.
fn workers_advice(result: &RunResult) -> Vec<String> {
    let (Some(offered), Some(mean_ms)) = (result.throughput.offered_rps, result.service_time_ms.avg) else {
        return Vec::new();
    };
    if mean_ms <= 0.0 {
        return Vec::new();
    }
    let workers = result.config.workers;
    let capacity = workers as f64 * 1_000.0 / mean_ms;
    let needed = (offered * mean_ms / 1_000.0 * 1.25).ceil() as usize;
    let vms = result.fleet.as_ref().map_or(1, |fleet| fleet.per_vm_results.len()).max(1);
    let (on_vms, per_vm) = match vms {
        1 => (String::new(), ""),
        vms => (format!(" on {vms} VMs"), " (per VM)"),
    };
    let mut advice = vec![format!(
        "{workers} workers{on_vms} at {mean_ms:.1} ms of service time make at most {capacity:.0} requests/s."
    )];
    if needed > workers {
        let needed = needed.div_ceil(vms);
        advice.push(format!(
            "To offer {offered:.0} requests/s at this service time, raise --workers{per_vm} to about {needed}. If the \
             service time grows as well, the database is the limit, and more workers only lengthen its queue."
        ));
    } else if result.fleet.as_ref().is_none_or(|fleet| held_up::find(fleet).is_none()) {
        advice.push(
            "There were workers enough on average, so requests came in bunches or the server paused (checkpoints, \
             locks, autovacuum): see the maximum and p99.9 of the service time."
                .to_owned(),
        );
    }
    if mean_ms > 50.0 {
        advice.push(
            "Service time is high: look at the server's CPU and disk, at the network, at synchronous_commit, and try \
             smaller documents (--output-size-kb, --raw-response-size-kb)."
                .to_owned(),
        );
    }
    advice
}
