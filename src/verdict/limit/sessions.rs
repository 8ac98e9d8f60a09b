//! The server's sessions by the factor they belong to. Pure.

use super::{NAMED_FROM_PCT, busy_workers, window_bins};
use crate::monitor::server::{OTHER_APPLICATIONS, ServerStats, WaitEvent};
use crate::result::{LimitKind, RunResult};

/// Looks at the sessions that a judgement needs: two seconds of them.
const LEAST_SAMPLES: u64 = 10;
/// Fewer sessions than this on average are none: the role sees none, or nothing was asked.
const LEAST_SESSIONS: f64 = 0.1;
/// Bins that a judgement needs samples of, as a part of all.
const LEAST_COVERED: f64 = 0.5;

/// The load's sessions by factor: averages of the measured window.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    /// The factors of the server, the greatest first.
    pub(super) factors: Vec<(LimitKind, f64)>,
    /// Events of the server that belong to no factor, the greatest first.
    pub(super) unexplained: Vec<(String, f64)>,
    /// Sessions that waited for the client.
    pub(super) for_client: f64,
    /// All sessions in a transaction or at work.
    pub(super) all: f64,
    /// What shares are shares of: workers that were busy, or sessions where these are more.
    pub(super) busy: f64,
    /// What `busy` counts, in words.
    pub(super) whom: &'static str,
    /// Sessions at work that are not the load's.
    pub(super) others: f64,
}

/// Whether the load's sessions were seen for most of the window. Behind a pooler, none may be left beside the one that
/// looks.
pub(super) fn has_samples(result: &RunResult, stats: &ServerStats) -> bool {
    let sees_sessions = all(stats) >= LEAST_SESSIONS || result.server.pooled == Some(true);
    let window = window_bins(result);
    let bins = window.len();
    let is_covered = bins == 0 || covered(result, stats, window) as f64 >= LEAST_COVERED * bins as f64;
    stats.waits.window_samples >= LEAST_SAMPLES && sees_sessions && is_covered
}

/// Whether it was seen what sessions did during the outages.
pub(super) fn saw_outages(result: &RunResult, stats: &ServerStats) -> bool {
    let seconds = result.timeline.bin_seconds.max(1) as f64;
    result.outages.iter().all(|outage| {
        let first = (outage.started_s / seconds).floor().max(0.0) as usize;
        let last = ((outage.started_s + outage.seconds) / seconds).ceil().max(0.0) as usize;
        let bins = first..last.max(first + 1).min(first + 100_000);
        covered(result, stats, bins.clone()) as f64 >= LEAST_COVERED * bins.len() as f64
    })
}

/// Bins of the timeline with samples.
fn covered(result: &RunResult, stats: &ServerStats, bins: std::ops::Range<usize>) -> usize {
    let (seconds, own) = (result.timeline.bin_seconds.max(1), stats.waits.bin_seconds.max(1));
    let has_sample = |bin: &usize| {
        let at = (*bin as u64).saturating_mul(seconds) / own;
        usize::try_from(at).ok().and_then(|at| stats.waits.samples.get(at)).is_some_and(|samples| *samples > 0)
    };
    bins.filter(has_sample).count()
}

/// The load's sessions; those of others are seen, but did not carry it.
fn ours(stats: &ServerStats) -> impl Iterator<Item = &WaitEvent> {
    stats.waits.events.iter().filter(|event| event.event != OTHER_APPLICATIONS)
}

fn all(stats: &ServerStats) -> f64 {
    total(ours(stats).map(|event| event.sessions))
}

/// The sum; 0 and not -0 of none, as it would be printed.
pub(super) fn total(sessions: impl Iterator<Item = f64>) -> f64 {
    sessions.fold(0.0, |sum, some| sum + some)
}

/// Which factor an event belongs to; none where it waits for the client, or is not known. Where no commit waits for the
/// disk, whoever waits for the log to be written needs room in its buffers.
pub(super) fn factor(event: &str, stats: &ServerStats) -> Option<LimitKind> {
    let kind = kind(event)?;
    let is_off = |setting: &str| stats.settings.get(setting).is_some_and(|value| value == "off");
    let waits_for_disk = !is_off("synchronous_commit") && !is_off("fsync");
    Some(if kind == LimitKind::CommitFlush && !waits_for_disk { LimitKind::WalInsertion } else { kind })
}

/// Names differ between versions in upper and lower case.
fn kind(event: &str) -> Option<LimitKind> {
    Some(match event.to_ascii_lowercase().as_str() {
        "cpu" => LimitKind::Cpu,
        "lock:transactionid" | "lock:tuple" | "lock:spectoken" => LimitKind::RowLocks,
        "lock:extend" | "io:datafileextend" => LimitKind::RelationExtension,
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
        "io:datafileread" | "io:datafileprefetch" | "lwlock:bufferio" | "lwlock:buffer_io" | "ipc:bufferio" => {
            LimitKind::CacheMisses
        }
        "ipc:syncrep" => LimitKind::Replication,
        _ => return None,
    })
}

fn waits_for_client(event: &str) -> bool {
    event.starts_with("idle in transaction") || event.starts_with("Client:")
}

impl Sessions {
    pub(super) fn new(result: &RunResult, stats: &ServerStats) -> Self {
        let mut factors: Vec<(LimitKind, f64)> = Vec::new();
        let mut unexplained: Vec<(String, f64)> = Vec::new();
        for WaitEvent { event, sessions, .. } in ours(stats).filter(|event| !waits_for_client(&event.event)) {
            let Some(kind) = factor(event, stats) else {
                unexplained.push((event.clone(), *sessions));
                continue;
            };
            match factors.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, sum)) => *sum += sessions,
                None => factors.push((kind, *sessions)),
            }
        }
        factors.sort_by(|one, other| other.1.total_cmp(&one.1));
        unexplained.sort_by(|one, other| other.1.total_cmp(&one.1));
        let idle = ours(stats).filter(|event| waits_for_client(&event.event));
        let for_client = total(idle.map(|event| event.sessions));
        let others = stats.waits.events.iter().filter(|event| event.event == OTHER_APPLICATIONS);
        let all = all(stats);
        Self {
            factors,
            unexplained,
            for_client,
            all,
            busy: busy_workers(result).unwrap_or(all).max(all),
            whom: "busy workers",
            others: total(others.map(|event| event.sessions)),
        }
    }

    /// The same as shares of the sessions that the server had.
    pub(super) fn at_server(&self) -> Self {
        Self { busy: self.all, whom: "sessions at the server", ..self.clone() }
    }

    pub(super) fn of(&self, kind: LimitKind) -> f64 {
        self.factors.iter().find(|(known, _)| *known == kind).map_or(0.0, |(_, sessions)| *sessions)
    }

    pub(super) fn pct(&self, sessions: f64) -> f64 {
        if self.busy > 0.0 { sessions / self.busy * 100.0 } else { 0.0 }
    }

    /// Sessions that were at work or waited within the server.
    pub(super) fn active(&self) -> f64 {
        (self.all - self.for_client).max(0.0)
    }

    /// The same as a divisor.
    pub(super) fn active_or_few(&self) -> f64 {
        self.active().max(LEAST_SESSIONS)
    }

    /// Busy workers for which no session of the server was at work.
    pub(super) fn between(&self) -> f64 {
        (self.busy - self.active()).max(0.0)
    }

    /// The event that belongs to no factor, where it has half.
    pub(super) fn unknown_event(&self) -> Option<(&str, f64)> {
        let (event, sessions) = self.unexplained.first()?;
        (self.pct(*sessions) >= NAMED_FROM_PCT).then_some((event.as_str(), *sessions))
    }
}
