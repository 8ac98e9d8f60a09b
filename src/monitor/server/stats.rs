//! What the server's statistics said of the measured window. Pure.
//!
//! Counters are differences between a snapshot at the window's start and one after its end. What the server does not tell
//! is `null`, and stands in `unavailable` with the reason.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ServerStats {
    /// Name of the machine that asked the server; several VMs have one that does.
    pub hostname: Option<String>,
    /// Whether the role could see the sessions of all roles (`pg_monitor`), or only its own.
    pub sees_all_sessions: bool,
    /// Time between the two snapshots, seconds. It is longer than the window, because a server publishes its counters late.
    pub seconds: f64,
    /// Settings that decide how fast it writes, by name, with their units.
    pub settings: BTreeMap<String, String>,
    /// Whether it is a standby.
    pub is_standby: Option<bool>,
    pub activity: Option<ServerActivity>,
    pub wal: Option<WalActivity>,
    pub checkpoints: Option<CheckpointActivity>,
    pub io: Option<IoActivity>,
    /// The tables that requests write.
    pub tables: Vec<TableActivity>,
    /// Standbys that were connected at the end.
    pub standbys: Vec<Standby>,
    pub waits: WaitTimeline,
    /// Sessions of others that kept requests waiting for a lock, the most frequent first.
    pub blockers: Vec<Blocker>,
    /// What happened on the server, in the order of time: checkpoints, restarts, autovacuum of these tables.
    pub events: Vec<ServerEvent>,
    /// Times in which the server gave no answer to the monitor.
    pub gaps: Vec<Gap>,
    /// What could not be had, and why.
    pub unavailable: Vec<Unavailable>,
}

/// `pg_stat_database` of this database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ServerActivity {
    /// Transactions that were committed, those of others included.
    pub commits: u64,
    /// Transactions that were rolled back.
    pub rollbacks: u64,
    pub deadlocks: u64,
    /// Written to temporary files, bytes.
    pub temp_bytes: u64,
    /// Pages that were not in shared buffers.
    pub blocks_read: u64,
    /// Pages that were.
    pub blocks_hit: u64,
    /// Time spent reading pages, milliseconds; `null` without `track_io_timing`.
    pub block_read_ms: Option<f64>,
}

/// `pg_stat_wal`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WalActivity {
    pub records: Option<u64>,
    /// Whole pages that were logged because they were changed for the first time after a checkpoint.
    pub full_page_images: Option<u64>,
    pub bytes: u64,
    /// How often a session had to write because the buffers were full.
    pub buffers_full: Option<u64>,
}

/// `pg_stat_checkpointer`, or `pg_stat_bgwriter` before PostgreSQL 17.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CheckpointActivity {
    /// Begun because `checkpoint_timeout` was over.
    pub timed: u64,
    /// Begun for another reason, above all `max_wal_size`.
    pub requested: u64,
    /// Time spent writing, milliseconds.
    pub write_ms: f64,
    /// Time spent in fsync, milliseconds.
    pub sync_ms: f64,
    pub buffers_written: u64,
}

/// `pg_stat_io`, all kinds of backends together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct IoActivity {
    pub reads: u64,
    pub writes: u64,
    pub extends: u64,
    pub fsyncs: u64,
}

/// `pg_stat_user_tables` and sizes of one table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TableActivity {
    pub name: String,
    pub inserted: u64,
    pub updated: u64,
    /// Updates that needed no new index entries.
    pub hot_updated: u64,
    /// Dead rows at the end; an estimate of the server.
    pub dead_rows: u64,
    pub autovacuums: u64,
    /// Size with indexes and TOAST before the window, bytes.
    pub bytes_before: Option<u64>,
    /// The same after it.
    pub bytes_after: Option<u64>,
}

/// A row of `pg_stat_replication`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Standby {
    pub name: String,
    /// `sync`, `quorum`, `potential` or `async`.
    pub sync_state: String,
    /// How much of the write-ahead log it had not replayed, bytes.
    pub lag_bytes: Option<u64>,
    /// How long it took to replay what was last sent, milliseconds.
    pub replay_lag_ms: Option<f64>,
}

/// Sessions that were at work, by what they waited for, in the bins of the result's `timeline`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WaitTimeline {
    /// Length of a bin, seconds, from T0 on.
    pub bin_seconds: u64,
    /// How often sessions were looked at, by bin; 0 where there is a gap.
    pub samples: Vec<u64>,
    /// How often they were looked at in the measured window.
    pub window_samples: u64,
    /// The events, the most frequent in the measured window first; no more than 14, the rest is `other`.
    pub events: Vec<WaitEvent>,
}

/// Sessions that waited for one thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WaitEvent {
    /// Type and name as `pg_stat_activity` has them, such as `Lock:transactionid`; `CPU` where a session was active and waited
    /// for nothing; `idle in transaction` where the server waited for the client; `other applications` for all sessions at
    /// work whose name is not the load's.
    pub event: String,
    /// Average number of sessions in the measured window.
    pub sessions: f64,
    /// The same by bin.
    pub by_bin: Vec<f64>,
}

/// A session that is not of this test, and held what requests waited for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Blocker {
    pub pid: i32,
    pub application_name: String,
    pub user: String,
    /// In how much of the samples of the measured window it blocked one of our sessions, percent.
    pub share_pct: f64,
}

/// Something that happened on the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ServerEvent {
    /// When it began, seconds after T0.
    pub started_s: f64,
    /// How long it took, seconds, as far as it was seen.
    pub seconds: f64,
    pub kind: ServerEventKind,
    /// Further words, such as the name of a table.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ServerEventKind {
    #[default]
    Checkpoint,
    Autovacuum,
    /// The server was restarted, or another one answers. A recovery after the crash of one session counts too, where the
    /// role sees the checkpointer.
    Restart,
}

/// A time without an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Gap {
    /// When it began, seconds after T0.
    pub started_s: f64,
    pub seconds: f64,
    /// Why, in a few words.
    pub reason: String,
}

/// Something that this server, this role or the way to it does not give.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Unavailable {
    /// View or function.
    pub what: String,
    pub reason: String,
}
