//! What the server's sessions waited for, against the workers that were busy. Pure.

use super::generator::{is_on_this_machine, processors};
use super::sessions::{Sessions, factor, has_samples, total};
use super::{NAMED_FROM_PCT, between, checkpoints, client, found, remedies, unknown};
use crate::monitor::server::{Blocker, ServerStats};
use crate::result::{Limit, LimitKind, RunResult};
use crate::text::words::capitalised;

/// Another session is named where it blocked ours in at least this part of the looks, percent.
const BLOCKED_FROM_PCT: f64 = 25.0;
/// So few busy workers cannot stand in each other's way.
const ALONE: f64 = 1.5;
/// A wait is mentioned next to the greatest one from here on, percent; sessions of others from so many on.
const ALSO_FROM_PCT: f64 = 10.0;
const OTHERS_FROM: f64 = 1.0;

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
    let (who, remedy) = who(blocker);
    let sentence = format!("Another session: {who} held a lock that requests needed");
    let evidence = vec![
        format!("It blocked requests in {:.0}% of the looks at the server.", blocker.share_pct),
        format!("{waiting:.1} of {:.1} busy workers waited for a lock on average ({share_pct:.0}%).", sessions.busy),
    ];
    Some(found(LimitKind::OtherSession, Some(share_pct), sentence, evidence, vec![remedy]))
}

/// The one that blocks, and what to do about it.
fn who(blocker: &Blocker) -> (String, String) {
    let Blocker { pid, application_name, user, .. } = blocker;
    // A prepared transaction has no process; the server tells of it with number 0.
    if *pid == 0 {
        let remedy = "Find it in pg_prepared_xacts, and end it with COMMIT PREPARED or ROLLBACK PREPARED.";
        return ("a prepared transaction".to_owned(), remedy.to_owned());
    }
    let name = match (user.as_str(), application_name.as_str()) {
        // A process of the server itself has no user.
        ("", "") => "a session that this role may not see".to_owned(),
        ("", name) => format!("the server's {name}"),
        (user, "") => format!("a session of {user}"),
        (user, name) => format!("a session of {user} ({name})"),
    };
    let remedy =
        format!("See what it does (SELECT * FROM pg_stat_activity WHERE pid = {pid}); end it, or let it finish first.");
    (format!("{name}, pid {pid},"), remedy)
}

/// By the server's statistics; `None` where they do not tell what sessions waited for.
pub(super) fn limit(result: &RunResult) -> Option<Limit> {
    let stats = result.findings.server_stats.as_ref().filter(|stats| has_samples(result, stats))?;
    let sessions = Sessions::new(result, stats);
    if sessions.pct(sessions.between()) >= NAMED_FROM_PCT {
        return Some(between::limit(result, stats, &sessions));
    }
    if let Some((event, count)) = sessions.unknown_event() {
        let sentence = format!(
            "Not known: {:.0}% of the busy workers waited for {event}, which belongs to none of the factors",
            sessions.pct(count)
        );
        return Some(unknown(&sentence, Vec::new(), Vec::new()));
    }
    let Some((kind, most)) = sessions.factors.first().copied() else { return Some(mixed(result, &sessions)) };
    let rest = sessions.active() - sessions.of(LimitKind::RowLocks);
    // Rows stay locked while a commit waits for the standby: whoever waits for them waits for it, too.
    let standby = sessions.of(LimitKind::Replication);
    if kind == LimitKind::RowLocks && standby > 0.0 && standby * 2.0 >= rest {
        let both = standby + most;
        let text = format!("{most:.1} of these waited for rows whose transactions waited for the standby.");
        return Some(named(result, stats, &sessions, LimitKind::Replication, both, vec![text]));
    }
    // Workers that wait for the client's next statement use no processor of the server.
    let share_pct = if kind == LimitKind::Cpu { most / sessions.active_or_few() * 100.0 } else { sessions.pct(most) };
    if let Some(limit) = checkpoints::spikes(result, stats) {
        return Some(limit);
    }
    let is_of_the_log = matches!(kind, LimitKind::CommitFlush | LimitKind::WalInsertion);
    if (is_of_the_log || share_pct < NAMED_FROM_PCT)
        && let Some(limit) = checkpoints::permanent(result, stats)
    {
        return Some(limit);
    }
    let is_alone = sessions.busy < ALONE;
    // Requests that only take their time, without standing in each other's way.
    let takes_its_time = kind == LimitKind::Cpu || share_pct < NAMED_FROM_PCT || is_alone;
    if takes_its_time
        && (client::is_flat(result) || is_alone)
        && let Some(limit) = client::workers(result)
    {
        // More of them would wait for the same processors.
        return Some(processors(result, Vec::new()).unwrap_or_else(|| with_sessions(limit, &sessions)));
    }
    if share_pct < NAMED_FROM_PCT {
        return Some(together(result, stats, &sessions).unwrap_or_else(|| mixed(result, &sessions)));
    }
    if kind == LimitKind::Cpu {
        return Some(cpu(result, stats, &sessions, most));
    }
    Some(named(result, stats, &sessions, kind, most, Vec::new()))
}

/// Sessions that compute: the server's processors are the limit where there are no more of them. How many a server
/// elsewhere has is not known.
fn cpu(result: &RunResult, stats: &ServerStats, sessions: &Sessions, computing: f64) -> Limit {
    let is_closed = result.config.target_rps.is_none();
    let has_room = is_on_this_machine(result) && result.generator.machine_cpu_pct.is_some();
    match processors(result, Vec::new()) {
        Some(limit) => limit,
        // Each takes as long as if it were alone.
        None if is_closed && (has_room || sessions.busy < ALONE || client::is_flat(result)) => {
            between::alone(result, sessions)
        }
        None => named(result, stats, sessions, LimitKind::Cpu, computing, Vec::new()),
    }
}

pub(super) fn named(
    result: &RunResult,
    stats: &ServerStats,
    sessions: &Sessions,
    kind: LimitKind,
    waiting: f64,
    more: Vec<String>,
) -> Limit {
    let is_cpu = kind == LimitKind::Cpu;
    let (of, whom) =
        if is_cpu { (sessions.active_or_few(), "active sessions") } else { (sessions.busy, sessions.whom) };
    let share_pct = (waiting / of * 100.0).min(100.0);
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
            "{:.1} of {of:.1} {whom} waited for {} on average ({:.0}%).",
            event.sessions,
            event.event,
            sessions.pct(event.sessions)
        )],
        None => Vec::new(),
    };
    evidence.extend(more);
    evidence.extend(of_counters(result, stats, kind));
    let also = sessions.factors.iter().find(|(other, _)| *other != kind);
    if let Some((other, count)) = also.filter(|(_, count)| sessions.pct(*count) >= ALSO_FROM_PCT) {
        evidence.push(format!("Next: {} ({:.0}%).", words(*other), sessions.pct(*count)));
    }
    evidence.extend(of_others(sessions));
    let sentence = format!("{}: {share_pct:.0}% of the {whom} {}", capitalised(words(kind)), waits(kind));
    found(kind, Some(share_pct), sentence, evidence, remedies::of(kind, result))
}

fn of_others(sessions: &Sessions) -> Option<String> {
    (sessions.others >= OTHERS_FROM)
        .then(|| format!("Other applications had {:.1} sessions at work meanwhile.", sessions.others))
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
            let is_synchronous = |state: &str| matches!(state, "sync" | "quorum");
            let standby = stats.standbys.iter().find(|standby| is_synchronous(&standby.sync_state));
            // A role that may not see standbys sees rows without their state, or none.
            let sees_standbys = stats.sees_all_sessions
                && !stats.unavailable.iter().any(|lacking| lacking.what == "pg_stat_replication");
            match standby {
                Some(standby) => {
                    let lag = standby.replay_lag_ms.map(|ms| format!(", {ms:.0} ms behind")).unwrap_or_default();
                    Some(format!("The synchronous standby is {}{lag}.", standby.name))
                }
                None => sees_standbys.then(|| "No synchronous standby was connected.".to_owned()),
            }
        }
        _ => None,
    }
}

pub(super) fn with_sessions(mut limit: Limit, sessions: &Sessions) -> Limit {
    limit.evidence.push(format!("No wait within the server had half of the {:.1} busy workers.", sessions.busy));
    limit
}

/// Two factors that belong together, and together have half of the busy workers. Who holds one waits for the other: rows stay
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
    let (one, two) = (capitalised(words(first)), words(other));
    let sentence =
        format!("{one} and {two}: {:.0}% of the busy workers waited for one or the other", sessions.pct(both));
    let mut limit = named(result, stats, sessions, first, both, vec![why.to_owned()]);
    limit.r#try.extend(remedies::of(other, result));
    Some(Limit { sentence, ..limit })
}

fn mixed(result: &RunResult, sessions: &Sessions) -> Limit {
    let shared = processors(result, Vec::new());
    // Where more workers lack a session at work than any wait has, and no processor is left, that explains them.
    let most = sessions.factors.first().map_or(0.0, |(_, count)| *count);
    if let Some(limit) = shared.clone().filter(|_| sessions.between() >= most) {
        return limit;
    }
    let mut parts: Vec<(&str, f64)> = sessions.factors.iter().map(|(kind, count)| (words(*kind), *count)).collect();
    parts.extend(sessions.unexplained.iter().map(|(event, count)| (event.as_str(), *count)));
    parts.push(("the generator or the way to it", sessions.between()));
    parts.sort_by(|one, other| other.1.total_cmp(&one.1));
    let most: Vec<String> = parts
        .iter()
        .take(3)
        .filter(|(_, count)| sessions.pct(*count) >= 1.0)
        .map(|(name, count)| format!("{name} {:.0}%", sessions.pct(*count)))
        .collect();
    let sentence = format!("Several factors, none with half of the busy workers: {}", most.join(", "));
    let mut evidence =
        vec![format!("{:.1} of {:.1} busy workers had a session at work.", sessions.active(), sessions.busy)];
    evidence.extend(shared.iter().flat_map(|limit| limit.evidence.clone()));
    evidence.extend(of_others(sessions));
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
