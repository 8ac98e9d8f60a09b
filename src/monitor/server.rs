//! Watches the database server beside a run: its counters, its settings, and what its sessions wait for.

mod stats;

pub use stats::{
    Blocker, CheckpointActivity, Gap, IoActivity, ServerActivity, ServerEvent, ServerEventKind, ServerStats, Standby,
    TableActivity, Unavailable, WaitEvent, WaitTimeline, WalActivity,
};
