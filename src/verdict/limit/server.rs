//! What the server's sessions waited for, against the workers that were busy. Pure.

use super::generator::{OCCUPIED_PCT, processors};
use super::{NAMED_FROM_PCT, busy_workers, checkpoints, client, found, remedies};
use crate::monitor::server::{ServerStats, WaitEvent};
use crate::result::{Limit, LimitKind, RunResult};

/// Looks at the sessions that a judgement needs: two seconds of them.
const LEAST_SAMPLES: u64 = 10;
/// Fewer sessions than this on average are none: the role sees none, or nothing was asked.
const LEAST_SESSIONS: f64 = 0.1;
/// Another session is named where it blocked ours in at least this part of the looks, percent.
const BLOCKED_FROM_PCT: f64 = 25.0;
/// So few busy workers cannot stand in each other's way.
const ALONE: f64 = 1.5;

/// Sessions by factor: averages of the measured window.
struct Sessions {
    /// The factors of the server, the greatest first.
    factors: Vec<(LimitKind, f64)>,
    /// Sessions that waited for the client.
    for_client: f64,
    /// All sessions in a transaction or at work.
    all: f64,
    /// Workers that were busy, or sessions where these are more.
    busy: f64,
}

/// Whether the sessions were seen. Behind a pooler, none may be left beside the one that looks.
pub(super) fn has_samples(result: &RunResult, stats: &ServerStats) -> bool {
    let sees_sessions = all(stats) >= LEAST_SESSIONS || result.server.pooled == Some(true);
    stats.waits.window_samples >= LEAST_SAMPLES && sees_sessions
}

fn all(stats: &ServerStats) -> f64 {
    total(stats.waits.events.iter().map(|event| event.sessions))
}

/// The sum; 0 and not -0 of none, as it would be printed.
fn total(sessions: impl Iterator<Item = f64>) -> f64 {
    sessions.fold(0.0, |sum, some| sum + some)
}

/// Which factor an event belongs to; none where it waits for the client, or is not known. Where no commit waits for the
/// disk, whoever waits for the log to be written needs room in its buffers.
fn factor(event: &str, stats: &ServerStats) -> Option<LimitKind> {
    let kind = kind(event)?;
    let is_asynchronous = stats.settings.get("synchronous_commit").is_some_and(|value| value == "off");
    Some(if kind == LimitKind::CommitFlush && is_asynchronous { LimitKind::WalInsertion } else { kind })
}

/// Names differ between versions in upper and lower case.
fn kind(event: &str) -> Option<LimitKind> {
    Some(match event.to_ascii_lowercase().as_str() {
        "cpu" => LimitKind::Cpu,
        "lock:transactionid" | "lock:tuple" | "lock:spectoken" => LimitKind::RowLocks,
        "lock:extend" | "io:datafileextend" | "io:datafileprefetch" => LimitKind::RelationExtension,
        // The requests' own locks on tables never conflict.
        "lock:relation" | "lock:object" | "lock:advisory" => LimitKind::OtherSession,
        "io:walsync" | "io:walwrite" | "lwlock:walwrite" | "lwlock:walwritelock" => LimitKind::CommitFlush,
        "lwlock:walinsert"
        | "lwlock:wal_insert"
        | "lwlock:walbufmapping"
        | "lwlock:walbufmappinglock"
        | "io:walinitwrite"
        | "io:walinitsync" => LimitKind::WalInsertion,
        "lwlock:buffercontent"
        | "lwlock:buffer_content"
        | "lwlock:buffermapping"
        | "lwlock:buffer_mapping"
        | "bufferpin:bufferpin"
        | "buffer:buffershared"
        | "buffer:bufferexclusive"
        | "buffer:buffershareexclusive" => LimitKind::HotPages,
        "io:datafileread" | "lwlock:bufferio" | "lwlock:buffer_io" | "ipc:bufferio" => LimitKind::CacheMisses,
        "ipc:syncrep" => LimitKind::Replication,
        _ => return None,
    })
}

fn waits_for_client(event: &str) -> bool {
    event.starts_with("idle in transaction") || event.starts_with("Client:")
}

impl Sessions {
    fn new(result: &RunResult, stats: &ServerStats) -> Self {
        let mut factors: Vec<(LimitKind, f64)> = Vec::new();
        for WaitEvent { event, sessions, .. } in &stats.waits.events {
            let Some(kind) = factor(event, stats) else { continue };
            match factors.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, sum)) => *sum += sessions,
                None => factors.push((kind, *sessions)),
            }
        }
        factors.sort_by(|one, other| other.1.total_cmp(&one.1));
        let idle = stats.waits.events.iter().filter(|event| waits_for_client(&event.event));
        let for_client = total(idle.map(|event| event.sessions));
        let all = all(stats);
        Self { factors, for_client, all, busy: busy_workers(result).unwrap_or(all).max(all) }
    }

    fn of(&self, kind: LimitKind) -> f64 {
        self.factors.iter().find(|(known, _)| *known == kind).map_or(0.0, |(_, sessions)| *sessions)
    }

    fn pct(&self, sessions: f64) -> f64 {
        if self.busy > 0.0 { sessions / self.busy * 100.0 } else { 0.0 }
    }

    /// Sessions that were at work or waited within the server.
    fn active(&self) -> f64 {
        (self.all - self.for_client).max(0.0)
    }

    /// Busy workers for which no session of the server was at work.
    fn between(&self) -> f64 {
        (self.busy - self.active()).max(0.0)
    }
}

/// A session of somebody else that held what the requests needed, also where hardly one was answered.
pub(super) fn other_session(result: &RunResult) -> Option<Limit> {
    let stats = result.findings.server_stats.as_ref().filter(|stats| has_samples(result, stats))?;
    let blocker = stats.blockers.first().filter(|blocker| blocker.share_pct >= BLOCKED_FROM_PCT)?;
    let locks =
        stats.waits.events.iter().filter(|event| event.event.starts_with("Lock:") && event.event != "Lock:extend");
    let waiting = total(locks.map(|event| event.sessions));
    let sessions = Sessions::new(result, stats);
    let share_pct = sessions.pct(waiting);
    // Of the time in which it blocked, at least half of the workers waited.
    if share_pct < NAMED_FROM_PCT * (blocker.share_pct / 100.0).min(1.0) {
        return None;
    }
    let name = match blocker.application_name.as_str() {
        "" => format!("a session of {}", blocker.user),
        name => format!("a session of {} ({name})", blocker.user),
    };
    let sentence = format!("Another session: {name}, pid {}, held a lock that requests needed", blocker.pid);
    let evidence = vec![
        format!("It blocked requests in {:.0}% of the looks at the server.", blocker.share_pct),
        format!("{waiting:.1} of {:.1} busy workers waited for a lock on average ({share_pct:.0}%).", sessions.busy),
    ];
    let mut remedies = remedies::of(LimitKind::OtherSession, result);
    remedies.push(format!("See what it does: SELECT * FROM pg_stat_activity WHERE pid = {}.", blocker.pid));
    Some(found(LimitKind::OtherSession, Some(share_pct), sentence, evidence, remedies))
}

/// By the server's statistics; `None` where they do not tell what sessions waited for.
pub(super) fn limit(result: &RunResult) -> Option<Limit> {
    let stats = result.findings.server_stats.as_ref().filter(|stats| has_samples(result, stats))?;
    let sessions = Sessions::new(result, stats);
    if sessions.pct(sessions.between()) >= NAMED_FROM_PCT {
        return Some(between(result, stats, &sessions));
    }
    let Some((kind, most)) = sessions.factors.first().copied() else { return Some(mixed(result, &sessions)) };
    let rest = sessions.active() - sessions.of(LimitKind::RowLocks);
    // Rows stay locked while a commit waits for the standby: whoever waits for them waits for it, too.
    let standby = sessions.of(LimitKind::Replication);
    if kind == LimitKind::RowLocks && standby > 0.0 && standby * 2.0 >= rest {
        let both = standby + most;
        let text = format!("{:.1} of these waited for rows whose transactions waited for the standby.", most);
        return Some(named(result, stats, &sessions, LimitKind::Replication, both, vec![text]));
    }
    // Of the sessions that did something, for a processor has no rest between statements.
    let share_pct =
        if kind == LimitKind::Cpu { most / sessions.active().max(LEAST_SESSIONS) * 100.0 } else { sessions.pct(most) };
    if let Some(limit) = checkpoints::spikes(result, stats) {
        return Some(limit);
    }
    let is_of_the_log = matches!(kind, LimitKind::CommitFlush | LimitKind::WalInsertion);
    if (is_of_the_log || share_pct < NAMED_FROM_PCT)
        && let Some(limit) = checkpoints::permanent(result, stats)
    {
        return Some(limit);
    }
    // Requests that only take their time, without standing in each other's way.
    let takes_its_time = matches!(kind, LimitKind::Cpu) || share_pct < NAMED_FROM_PCT || sessions.busy < ALONE;
    if takes_its_time
        && (client::is_flat(result) || sessions.busy < ALONE)
        && let Some(limit) = client::workers(result)
    {
        // More of them would wait for the same processors.
        return Some(processors(result, Vec::new()).unwrap_or_else(|| with_sessions(limit, &sessions)));
    }
    if kind == LimitKind::Cpu && sessions.busy < ALONE {
        return Some(alone(result, &sessions));
    }
    if share_pct < NAMED_FROM_PCT {
        return Some(together(result, stats, &sessions).unwrap_or_else(|| mixed(result, &sessions)));
    }
    Some(named(result, stats, &sessions, kind, most, Vec::new()))
}

fn named(
    result: &RunResult,
    stats: &ServerStats,
    sessions: &Sessions,
    kind: LimitKind,
    waiting: f64,
    more: Vec<String>,
) -> Limit {
    let is_cpu = kind == LimitKind::Cpu;
    let of = if is_cpu { sessions.active() } else { sessions.busy };
    let share_pct = (waiting / of.max(LEAST_SESSIONS) * 100.0).min(100.0);
    let what = words(kind);
    let mut evidence = match stats
        .waits
        .events
        .iter()
        .filter(|event| factor(&event.event, stats) == Some(kind))
        .max_by(|one, other| one.sessions.total_cmp(&other.sessions))
    {
        Some(event) if is_cpu => vec![format!(
            "{:.1} of {of:.1} active sessions waited for nothing: they were computing ({share_pct:.0}%).",
            event.sessions
        )],
        Some(event) => vec![format!(
            "{:.1} of {:.1} busy workers waited for {} on average ({:.0}%).",
            event.sessions,
            sessions.busy,
            event.event,
            sessions.pct(event.sessions)
        )],
        None => Vec::new(),
    };
    evidence.extend(more);
    evidence.extend(of_counters(result, stats, kind));
    let also = sessions.factors.iter().find(|(other, _)| *other != kind);
    if let Some((other, count)) = also.filter(|(_, count)| sessions.pct(*count) >= 10.0) {
        evidence.push(format!("Next: {} ({:.0}%).", words(*other), sessions.pct(*count)));
    }
    let whom = if is_cpu { "of the active sessions" } else { "of the busy workers" };
    let sentence = format!("{}: {share_pct:.0}% {whom} {}", capital(what), waits(kind));
    found(kind, Some(share_pct), sentence, evidence, remedies::of(kind, result))
}

/// Counters that bear the waits out.
fn of_counters(result: &RunResult, stats: &ServerStats, kind: LimitKind) -> Option<String> {
    match kind {
        LimitKind::WalInsertion => {
            let full = stats.wal.as_ref()?.buffers_full.filter(|count| *count > 0)?;
            Some(format!("The WAL buffers were full {full} times."))
        }
        LimitKind::CommitFlush => {
            let commits = result.throughput.actual_rps;
            let sync = stats.settings.get("synchronous_commit").map(|value| format!(", synchronous_commit is {value}"));
            Some(format!("{commits:.0} commits/s had to be on the disk{}.", sync.unwrap_or_default()))
        }
        LimitKind::CacheMisses => {
            let activity = stats.activity.as_ref()?;
            let all = activity.blocks_read.saturating_add(activity.blocks_hit).max(1);
            let pct = activity.blocks_read as f64 / all as f64 * 100.0;
            Some(format!("{pct:.1}% of the pages were not in shared_buffers."))
        }
        LimitKind::Replication => {
            let standby =
                stats.standbys.iter().find(|standby| matches!(standby.sync_state.as_str(), "sync" | "quorum"));
            Some(standby.map_or("No synchronous standby was connected.".to_owned(), |standby| {
                let lag = standby.replay_lag_ms.map(|ms| format!(", {ms:.0} ms behind")).unwrap_or_default();
                format!("The synchronous standby is {}{lag}.", standby.name)
            }))
        }
        _ => None,
    }
}

/// Where most busy workers had no session of the server at work: something between limits, or nothing does.
fn between(result: &RunResult, stats: &ServerStats, sessions: &Sessions) -> Limit {
    let share_pct = sessions.pct(sessions.between());
    let at_work = format!(
        "{:.1} sessions of the server were at work, for {:.1} busy workers ({:.0}%).",
        sessions.active(),
        sessions.busy,
        100.0 - share_pct.min(100.0)
    );
    let for_client = format!("{:.1} sessions waited for the client's next statement.", sessions.for_client);
    if let Some((trips_pct, count, round_trip_ms)) =
        client::round_trips(result).filter(|(pct, ..)| *pct >= NAMED_FROM_PCT)
    {
        let trips_pct = trips_pct.min(100.0);
        let sentence =
            format!("The network: {trips_pct:.0}% of the service time {}", client::in_words(count, round_trip_ms));
        let evidence = vec![at_work, for_client];
        return found(
            LimitKind::Network,
            Some(trips_pct),
            sentence,
            evidence,
            remedies::of(LimitKind::Network, result),
        );
    }
    if let Some(limit) = pooler(result, stats, sessions) {
        return limit;
    }
    if let Some(limit) = processors(result, vec![at_work.clone()]) {
        return limit;
    }
    let occupied = result.generator.occupied_pct.filter(|pct| *pct >= OCCUPIED_PCT);
    if let Some(pct) = occupied {
        let evidence = vec![at_work, format!("The generator's most occupied thread had {pct:.0}% of its time in use.")];
        let remedies = vec!["Give the generator a machine of its own, and compare.".to_owned()];
        return super::unknown("Not known: sessions waited for the generator or for the way to it", evidence, remedies);
    }
    let is_closed = result.config.target_rps.is_none();
    match client::workers(result) {
        Some(limit) => with_sessions(limit, sessions),
        None if is_closed => alone(result, sessions),
        None => super::unknown(
            "Not known: the server had room, and enough workers were there",
            vec![at_work, for_client],
            Vec::new(),
        ),
    }
}

/// Most busy workers have no session at the server: a pooler has none for them, where the connections do not go straight to the
/// server. Unless its sessions all wait for one thing, of which more sessions would not give more.
fn pooler(result: &RunResult, stats: &ServerStats, sessions: &Sessions) -> Option<Limit> {
    let without = sessions.busy - sessions.all;
    let without_pct = sessions.pct(without);
    if without_pct < NAMED_FROM_PCT || sessions.busy < 2.0 * ALONE || result.server.pooled == Some(false) {
        return None;
    }
    let bins = stats.waits.events.iter().map(|event| event.by_bin.len()).max().unwrap_or_default();
    let in_bin = |bin: usize| total(stats.waits.events.iter().filter_map(|event| event.by_bin.get(bin).copied()));
    let peak = (0..bins).map(in_bin).fold(sessions.all, f64::max);
    // A pool that is too small is always full; sessions that come and go have peaks.
    if result.server.pooled.is_none() && peak >= 0.75 * sessions.busy {
        return None;
    }
    if let Some((kind, waiting)) = sessions.factors.first().copied()
        && !matches!(kind, LimitKind::Cpu | LimitKind::CommitFlush)
        && sessions.all >= 2.0 * ALONE
        && waiting >= sessions.all * NAMED_FROM_PCT / 100.0
    {
        let behind = format!("{without:.1} of {:.1} busy workers waited for the pooler meanwhile.", sessions.busy);
        let at_server = Sessions { busy: sessions.all, factors: sessions.factors.clone(), ..*sessions };
        return Some(named(result, stats, &at_server, kind, waiting, vec![behind]));
    }
    let sentence = format!("A pooler in between: {without_pct:.0}% of the busy workers had no session at the server");
    let mut evidence = vec![format!(
        "The server had {:.1} sessions in a transaction on average, at most {peak:.1} in a bin, for {:.1} busy workers.",
        sessions.all, sessions.busy
    )];
    evidence.extend(client::pooler(result).into_iter().flat_map(|limit| limit.evidence));
    if result.server.pooled == Some(true) {
        evidence.push(
            "Not counted are this tool's own: one for its mark, and one while it looks at the server.".to_owned(),
        );
    }
    Some(found(LimitKind::Pooler, Some(without_pct), sentence, evidence, remedies::of(LimitKind::Pooler, result)))
}

/// A closed loop whose workers leave the server room.
fn alone(result: &RunResult, sessions: &Sessions) -> Limit {
    let workers = result.config.workers;
    let share_pct = sessions.pct(sessions.between());
    let evidence = vec![
        format!("{:.1} sessions of the server were at work, for {:.1} busy workers.", sessions.active(), sessions.busy),
        format!("{:.1} of them waited for the client's next statement.", sessions.for_client),
    ];
    let sentence = format!("Too few workers: {workers} {} the server room", if workers == 1 { "leaves" } else { "leave" });
    let remedies = remedies::of(LimitKind::Workers, result);
    found(LimitKind::Workers, Some(share_pct), sentence, evidence, remedies)
}

fn with_sessions(mut limit: Limit, sessions: &Sessions) -> Limit {
    limit.evidence.push(format!("No wait within the server had half of the {:.1} busy workers.", sessions.busy));
    limit
}

/// Two factors of which the holder of one waits for the other, and that have half of the busy workers together: rows stay
/// locked until the commit is flushed, and pages while their change is put into the log. The greater one is named.
fn together(result: &RunResult, stats: &ServerStats, sessions: &Sessions) -> Option<Limit> {
    let pairs = [
        (LimitKind::RowLocks, LimitKind::CommitFlush, "Rows stay locked until the commit is flushed."),
        (LimitKind::HotPages, LimitKind::WalInsertion, "A page stays locked until its change is in the log."),
    ];
    let (first, _) = sessions.factors.first().copied()?;
    let (held, holding, why) = pairs.into_iter().find(|(held, holding, _)| first == *held || first == *holding)?;
    let both = sessions.of(held) + sessions.of(holding);
    if sessions.pct(both) < NAMED_FROM_PCT || both <= sessions.between() {
        return None;
    }
    let other = if first == held { holding } else { held };
    let (one, two) = (capital(words(first)), words(other));
    let sentence = format!(
        "{one} and {two}: {:.0}% of the busy workers waited for one of them, which belong together",
        sessions.pct(both)
    );
    let mut limit = named(result, stats, sessions, first, both, vec![why.to_owned()]);
    limit.r#try.extend(remedies::of(other, result));
    Some(Limit { sentence, ..limit })
}

fn mixed(result: &RunResult, sessions: &Sessions) -> Limit {
    let shared = processors(result, Vec::new());
    // A wait has less than that in which the generator lacks a processor.
    let most = sessions.factors.first().map_or(0.0, |(_, count)| *count);
    if let Some(limit) = shared.clone().filter(|_| sessions.between() >= most) {
        return limit;
    }
    let mut parts: Vec<(&str, f64)> = sessions.factors.iter().map(|(kind, count)| (words(*kind), *count)).collect();
    parts.push(("the generator or the way to it", sessions.between()));
    parts.sort_by(|one, other| other.1.total_cmp(&one.1));
    let most: Vec<String> = parts
        .iter()
        .take(3)
        .filter(|(_, count)| sessions.pct(*count) >= 1.0)
        .map(|(name, count)| format!("{name} {:.0}%", sessions.pct(*count)))
        .collect();
    let sentence = format!("Several factors, none of which had half: {}", most.join(", "));
    let mut evidence =
        vec![format!("{:.1} of {:.1} busy workers had a session at work.", sessions.active(), sessions.busy)];
    evidence.extend(shared.iter().flat_map(|limit| limit.evidence.clone()));
    let share_pct = parts.first().map(|(_, count)| sessions.pct(*count));
    found(LimitKind::Mixed, share_pct, sentence, evidence, shared.map(|limit| limit.r#try).unwrap_or_default())
}

fn words(kind: LimitKind) -> &'static str {
    match kind {
        LimitKind::RowLocks => "row locks",
        LimitKind::CommitFlush => "commit flush",
        LimitKind::WalInsertion => "WAL insertion",
        LimitKind::RelationExtension => "relation extension",
        LimitKind::HotPages => "hot pages",
        LimitKind::Cpu => "the server's CPU",
        LimitKind::CacheMisses => "cache misses",
        LimitKind::Replication => "synchronous replication",
        LimitKind::OtherSession => "another session",
        _ => "other",
    }
}

fn waits(kind: LimitKind) -> &'static str {
    match kind {
        LimitKind::RowLocks => "waited for rows that other requests had locked",
        LimitKind::CommitFlush => "waited until the write-ahead log was on the disk",
        LimitKind::WalInsertion => "waited to put records into the write-ahead log",
        LimitKind::RelationExtension => "waited for tables or indexes to be extended",
        LimitKind::HotPages => "waited for pages that others were changing",
        LimitKind::Cpu => "were computing",
        LimitKind::CacheMisses => "waited for pages that were not in memory",
        LimitKind::Replication => "waited for a synchronous standby",
        LimitKind::OtherSession => "waited for a lock on a table, which requests never take from each other",
        _ => "waited",
    }
}

fn capital(text: &str) -> String {
    crate::text::words::capitalised(text)
}
