//! What the client alone can know of the limit. Pure.

use super::generator::{is_on_this_machine, processors};
use super::{LEAST_REQUESTS, NAMED_FROM_PCT, found, remedies, unknown, waited};
use crate::result::{Limit, LimitKind, RunResult};
use crate::text::words::capitalised;

/// Workers are too few only where more of the requests than this had to wait for one.
const WAITING_SHARE: f64 = 0.1;
/// A service time is flat where its median is no more than so many times its least: requests do not stand in each other's
/// way.
const FLAT_TIMES: f64 = 2.0;
/// A round trip to an address of this machine that takes so long leads elsewhere, milliseconds.
const LONG_MS: f64 = 0.5;
/// The most that `--workers` takes.
const MAX_WORKERS: usize = 100_000;
/// Connections of a server that are not for everybody, or in use by whoever watches it.
const SPARE_CONNECTIONS: usize = 5;

/// Without the server's statistics.
pub(super) fn limit(result: &RunResult) -> Limit {
    if let Some(limit) = network(result).or_else(|| pooler(result)) {
        return limit;
    }
    if let Some(limit) = workers(result).filter(|_| is_flat(result)) {
        return processors(result, Vec::new()).unwrap_or(limit);
    }
    let sentence = "Not known: what the server's sessions waited for was not seen";
    let Some(commit) = commit(result) else {
        return unknown(sentence, Vec::new(), remedies::of_missing_statistics(result));
    };
    let remedy =
        "See in pg_stat_activity whether COMMIT waits for the disk (wait events WALSync, WALWrite) or for a standby \
                  (SyncRep)."
            .to_owned();
    let remedies = std::iter::once(remedy).chain(remedies::of_missing_statistics(result)).collect();
    unknown(sentence, vec![commit], remedies)
}

/// Whether requests take about as long as the quickest of them.
pub(super) fn is_flat(result: &RunResult) -> bool {
    let service = &result.service_time_ms;
    let (Some(min_ms), Some(p50_ms)) = (service.min, service.p50) else { return false };
    service.count >= LEAST_REQUESTS && !service.p50_is_lower_bound && p50_ms <= FLAT_TIMES * min_ms
}

/// Too few workers for the rate. Little's law: requests in service = rate × mean service time.
pub(super) fn workers(result: &RunResult) -> Option<Limit> {
    let service = &result.service_time_ms;
    let (offered, mean_ms) = (result.throughput.offered_rps?, service.avg.filter(|ms| *ms > 0.0)?);
    let waited_share = waited(result) as f64 / result.accounting.scheduled.max(1) as f64;
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
    let of_law = format!(
        "{} at {at_least}{mean_ms:.1} ms of service time {} at most {most:.0} requests/s",
        if workers == 1 { "one worker".to_owned() } else { format!("{workers} workers{on_vms}") },
        if workers == 1 { "makes" } else { "make" }
    );
    let share_pct = (waited_share * 100.0).min(100.0);
    let mut evidence = vec![format!("{share_pct:.0}% of the requests waited because all workers were busy.")];
    if is_flat(result) {
        evidence.push(format!(
            "The median service time is {:.1} ms, the least {:.1} ms: requests hardly stand in each other's way.",
            service.p50.unwrap_or_default(),
            service.min.unwrap_or_default()
        ));
    }
    let limit = result.server.max_connections.and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.filter(|limit| each * vms + SPARE_CONNECTIONS > *limit).map_or(String::new(), |limit| {
        format!(" (the server allows {limit} connections, so raise its max_connections first, or use a pooler)")
    });
    let remedy = if each > MAX_WORKERS {
        format!("For {offered:.0} requests/s no number of workers is enough: lower --rps.")
    } else {
        format!(
            "{}. For {offered:.0} requests/s, raise --workers{per_vm} to about {each}{limit}.",
            capitalised(&of_law)
        )
    };
    let sentence = format!("Too few workers: {of_law}");
    Some(found(LimitKind::Workers, Some(share_pct), sentence, evidence, vec![remedy]))
}

/// Round trips as a part of the service time, percent, and how many there are of how long; `None` where there is no network
/// in between.
pub(super) fn round_trips(result: &RunResult) -> Option<(f64, usize, f64)> {
    let (mean_ms, round_trip_ms) = (result.service_time_ms.avg.filter(|ms| *ms > 0.0)?, result.server.round_trip_ms?);
    let count = if result.config.pipeline { 1 } else { result.phases_ms.len().max(1) };
    let is_far = !is_on_this_machine(result) || round_trip_ms >= LONG_MS;
    (is_far && round_trip_ms > 0.0).then(|| (round_trip_ms * count as f64 / mean_ms * 100.0, count, round_trip_ms))
}

/// Where round trips, and not the server's work, are most of a request.
fn network(result: &RunResult) -> Option<Limit> {
    let (share_pct, count, round_trip_ms) = round_trips(result)?;
    // A statement that took less than a round trip shows that the network was slow only when it was measured.
    let is_shortest = result.phases_ms.iter().all(|phase| phase.summary.avg.is_none_or(|ms| ms >= round_trip_ms));
    // Of a single round trip there is nothing to compare with.
    (count > 1 && is_shortest && share_pct > NAMED_FROM_PCT).then(|| {
        let share_pct = share_pct.min(100.0);
        let sentence = format!("The network: {share_pct:.0}% of the service time {}", in_words(count, round_trip_ms));
        let evidence = vec!["No statement took less than a round trip.".to_owned()];
        found(LimitKind::Network, Some(share_pct), sentence, evidence, remedies::of(LimitKind::Network, result))
    })
}

/// So many round trips, as the end of a sentence.
pub(super) fn in_words(count: usize, round_trip_ms: f64) -> String {
    match count {
        1 => format!("is one round trip of {round_trip_ms:.1} ms"),
        count => format!("are {count} round trips of {round_trip_ms:.1} ms"),
    }
}

/// Where a pooler lets transactions wait for a session of the server: before the first statement, and only there. The second
/// one writes as much, and shows how long the first would take.
pub(super) fn pooler(result: &RunResult) -> Option<Limit> {
    let [first, second, ..] = result.phases_ms.as_slice() else { return None };
    let (first_ms, second_ms) = (first.summary.avg?, second.summary.avg?);
    let mean_ms = result.service_time_ms.avg.filter(|ms| *ms > 0.0)?;
    let share_pct = ((first_ms - second_ms) / mean_ms * 100.0).min(100.0);
    (result.server.pooled == Some(true) && share_pct >= NAMED_FROM_PCT).then(|| {
        let sentence = format!(
            "A pooler in between: for {share_pct:.0}% of the service time, requests waited for one of its connections"
        );
        let evidence = vec![format!(
            "The first statement took {first_ms:.1} ms, and the second, which writes as much, {second_ms:.1} ms."
        )];
        found(LimitKind::Pooler, Some(share_pct), sentence, evidence, remedies::of(LimitKind::Pooler, result))
    })
}

/// Where COMMIT is most of a request. What it waits for is known to the server alone.
fn commit(result: &RunResult) -> Option<String> {
    let commit_ms = result.phases_ms.iter().find(|phase| phase.name == "commit")?.summary.avg?;
    let mean_ms = result.service_time_ms.avg.filter(|ms| *ms > 1.0)?;
    let network_ms = result.server.round_trip_ms.unwrap_or_default();
    (commit_ms - network_ms > 0.5 * mean_ms)
        .then(|| format!("COMMIT takes {:.0}% of the service time.", (commit_ms / mean_ms).min(1.0) * 100.0))
}
