//! Where most busy workers have no session of the server at work: something between limits, or nothing does. Pure.

use super::generator::{OCCUPIED_PCT, processors};
use super::sessions::{Sessions, total};
use super::{NAMED_FROM_PCT, client, found, remedies, server, unknown};
use crate::monitor::server::ServerStats;
use crate::result::{Limit, LimitKind, RunResult};

/// So few busy workers are no sign of a pooler.
const LEAST_BUSY: f64 = 3.0;
/// Sessions that come and go have peaks; a pool that is too small is always full. So much of the busy workers is a peak.
const PEAK: f64 = 0.75;

pub(super) fn limit(result: &RunResult, stats: &ServerStats, sessions: &Sessions) -> Limit {
    let at_work = format!(
        "{:.1} sessions of the server were at work, for {:.1} busy workers ({:.0}%).",
        sessions.active(),
        sessions.busy,
        100.0 - sessions.pct(sessions.between()).min(100.0)
    );
    let for_client = format!("{:.1} sessions waited for the client's next statement.", sessions.for_client);
    // A generator without a processor is slow to send, and measures long round trips.
    if let Some(limit) = processors(result, vec![at_work.clone()]) {
        return limit;
    }
    if let Some((pct, count, round_trip_ms)) = client::round_trips(result).filter(|(pct, ..)| *pct >= NAMED_FROM_PCT) {
        let pct = pct.min(100.0);
        let sentence = format!("The network: {pct:.0}% of the service time {}", client::in_words(count, round_trip_ms));
        let remedies = remedies::of(LimitKind::Network, result);
        return found(LimitKind::Network, Some(pct), sentence, vec![at_work, for_client], remedies);
    }
    if let Some(limit) = pooler(result, stats, sessions) {
        return limit;
    }
    let occupied = result.generator.occupied_pct.filter(|pct| *pct >= OCCUPIED_PCT);
    if let Some(pct) = occupied {
        let evidence = vec![at_work, format!("The generator's most occupied thread had {pct:.0}% of its time in use.")];
        let remedies = vec!["Give the generator a machine of its own, and compare.".to_owned()];
        return unknown("Not known: sessions waited for the generator or for the way to it", evidence, remedies);
    }
    let is_closed = result.config.target_rps.is_none();
    match client::workers(result) {
        Some(limit) => server::with_sessions(limit, sessions),
        None if is_closed => alone(result, sessions),
        None => unknown(
            "Not known: the server had room, and enough workers were there",
            vec![at_work, for_client],
            Vec::new(),
        ),
    }
}

/// Most busy workers have no session at the server, because a pooler has none for them. If its sessions all wait for one
/// thing, that is named instead: more sessions would wait for it, too.
fn pooler(result: &RunResult, stats: &ServerStats, sessions: &Sessions) -> Option<Limit> {
    let without = sessions.busy - sessions.all;
    let without_pct = sessions.pct(without);
    if without_pct < NAMED_FROM_PCT || sessions.busy < LEAST_BUSY || result.server.pooled == Some(false) {
        return None;
    }
    let bins = stats.waits.events.iter().map(|event| event.by_bin.len()).max().unwrap_or_default();
    let in_bin = |bin: usize| total(stats.waits.events.iter().filter_map(|event| event.by_bin.get(bin).copied()));
    let peak = (0..bins).map(in_bin).fold(sessions.all, f64::max);
    let by_client = client::pooler(result);
    // Each statement's own round trip tells where the wait is; without that, only that the server never had more sessions.
    let is_full = if result.phases_ms.len() > 1 { by_client.is_some() } else { peak < PEAK * sessions.busy };
    let there = format!(
        "The server had {:.1} sessions in a transaction on average, at most {peak:.1} in a bin, for {:.1} busy workers.",
        sessions.all, sessions.busy
    );
    if result.server.pooled.is_none() {
        let is_likely = peak < PEAK * sessions.busy;
        let remedy = "If a pooler or proxy is in between, raise the size of its pool, and compare.".to_owned();
        return is_likely
            .then(|| unknown("Not known: most busy workers had no session at the server", vec![there], vec![remedy]));
    }
    if let Some((kind, waiting)) = sessions.factors.first().copied()
        && !matches!(kind, LimitKind::Cpu | LimitKind::CommitFlush)
        && sessions.all >= LEAST_BUSY
        && waiting >= sessions.all * NAMED_FROM_PCT / 100.0
    {
        let behind = format!("{without:.1} of {:.1} busy workers had no session at the server.", sessions.busy);
        return Some(server::named(result, stats, &sessions.at_server(), kind, waiting, vec![behind]));
    }
    is_full.then(|| {
        let sentence =
            format!("A pooler in between: {without_pct:.0}% of the busy workers had no session at the server");
        let mut evidence = vec![there];
        evidence.extend(by_client.into_iter().flat_map(|limit| limit.evidence));
        evidence.push(
            "This tool takes up to two of the pool's connections itself: one for its mark, and one while it looks at \
             the server."
                .to_owned(),
        );
        found(LimitKind::Pooler, Some(without_pct), sentence, evidence, remedies::of(LimitKind::Pooler, result))
    })
}

/// A closed loop whose workers leave the server room.
pub(super) fn alone(result: &RunResult, sessions: &Sessions) -> Limit {
    let workers = result.config.workers;
    let share_pct = sessions.pct(sessions.between());
    let mut evidence = vec![
        format!("{:.1} sessions of the server were at work, for {:.1} busy workers.", sessions.active(), sessions.busy),
        format!("{:.1} of them waited for the client's next statement.", sessions.for_client),
    ];
    let machine_pct = result.generator.machine_cpu_pct.filter(|_| super::generator::is_on_this_machine(result));
    evidence.extend(machine_pct.map(|pct| format!("The machine's processors were busy for {pct:.0}% of the time.")));
    let verb = if workers == 1 { "leaves" } else { "leave" };
    let sentence = format!("Too few workers: {workers} {verb} the server room");
    let remedies = remedies::of(LimitKind::Workers, result);
    found(LimitKind::Workers, Some(share_pct), sentence, evidence, remedies)
}
