//! What to try against each factor: one place for the report, the JSON and the advice. Pure.

use crate::result::{LimitKind, RunResult};

/// The most promising first.
pub(super) fn of(kind: LimitKind, result: &RunResult) -> Vec<String> {
    let pipeline = (!result.config.pipeline).then_some("Add --pipeline to send a transaction in one round trip.");
    let list: Vec<&str> = match kind {
        LimitKind::None => vec!["Raise --rps to find the rate at which something limits."],
        LimitKind::Generator => vec![
            "Free this machine of other work (the database itself?), or use a larger one.",
            "Raise --threads, or use several VMs (coordinator).",
        ],
        LimitKind::Workers => vec!["Raise --workers."],
        LimitKind::RowLocks => {
            let shorter = pipeline.map(|_| "Add --pipeline: it shortens the time for which rows are locked.");
            let fewer = match result.config.workload.shared_table().is_some() {
                true => "Let fewer requests write the same row (--no-rate-limiting shows what that would give).",
                false => "Let fewer requests write the same row.",
            };
            [Some(fewer), shorter].into_iter().flatten().collect()
        }
        LimitKind::CommitFlush => vec![
            "Put the write-ahead log (pg_wal) on a faster disk.",
            "See what synchronous_commit=off would give; it may lose the last commits in a crash.",
        ],
        LimitKind::WalInsertion => vec!["Raise wal_buffers.", "Write less log: wal_compression, fewer indexes."],
        LimitKind::RelationExtension => {
            let upgrade = "Use PostgreSQL 16 or later, which extends tables by many pages at once.";
            let is_older = result.server.version.as_deref().and_then(major).is_none_or(|major| major < 16);
            is_older.then_some(upgrade).into_iter().chain(["Spread the rows over partitions."]).collect()
        }
        LimitKind::HotPages => vec!["Spread the rows over partitions, or use keys that do not all go to one page."],
        LimitKind::Cpu => vec![
            "Raise --workers: if the rate rises with them, the processors were not the limit yet.",
            "Give the server more processors, or try smaller payloads or another default_toast_compression.",
        ],
        LimitKind::CacheMisses => vec!["Raise shared_buffers, or give the server more memory."],
        LimitKind::Checkpoints => vec![
            "Raise max_wal_size, so that checkpoints are fewer.",
            "Raise checkpoint_completion_target, so that each is spread over more time.",
        ],
        LimitKind::Replication => vec![
            "See why the standby answers late: its disk, its load, the network to it.",
            "See what synchronous_commit=local would give; it does not wait for the standby.",
        ],
        LimitKind::Pooler => vec!["Raise the pool size of the pooler (PgBouncer: default_pool_size), or go around it."],
        LimitKind::Network => ["Run closer to the database."].into_iter().chain(pipeline).collect(),
        LimitKind::OtherSession | LimitKind::Mixed | LimitKind::Unknown => Vec::new(),
    };
    list.into_iter().map(str::to_owned).collect()
}

/// The number before the first dot of a version.
fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// How to learn what the server waited for.
pub(super) fn of_missing_statistics(result: &RunResult) -> Vec<String> {
    let Some(stats) = &result.findings.server_stats else {
        let text =
            "Leave out --no-server-stats (where it was given), so that the server is asked what its sessions wait for.";
        return vec![text.to_owned()];
    };
    let lacking = stats.unavailable.iter().find(|lacking| matches!(&*lacking.what, "connection" | "pg_stat_activity"));
    match (lacking, stats.gaps.first()) {
        (Some(lacking), _) => vec![format!("The server was not asked ({}): {}.", lacking.what, lacking.reason)],
        (None, Some(gap)) => vec![format!("The server did not answer when asked: {}.", gap.reason)],
        // Behind a pooler the load's sessions may be another role's.
        (None, None) if stats.waits.window_samples > 0 && !stats.sees_all_sessions => {
            vec!["GRANT pg_monitor to the role, so that it can see what all sessions wait for.".to_owned()]
        }
        (None, None) => Vec::new(),
    }
}
