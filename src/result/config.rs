//! What was asked for, and what the database reported. Pure.

use serde::{Deserialize, Serialize};

use super::wide;
use crate::schedule::Arrival;
use crate::workload::Workload;
use crate::workload::script::Isolation;

/// What [`Config::target`] says of a server that a run started for itself.
pub const THROWAWAY_TARGET: &str = "throwaway server of this run";

/// Runs merge only where all of it is alike but the worker and thread counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Config {
    /// Target rate of the whole test, requests per second; `null` with `--rps max`.
    pub target_rps: Option<f64>,
    /// Length of the measured window as asked for, seconds.
    pub duration_seconds: f64,
    /// Workers, each with a connection of its own. With several VMs: of all together.
    pub workers: usize,
    /// What requests wrote.
    #[serde(flatten)]
    pub workload: Workload,
    /// How the slots were spread over time; `null` with `--rps max`.
    pub arrival: Option<Arrival>,
    /// Length of the warm-up, seconds.
    pub warmup_seconds: f64,
    /// How long requests in flight were waited for after the window, seconds.
    pub drain_seconds: f64,
    /// Slots later than this were given up, seconds; `null` without `--max-lag`.
    pub max_lag_seconds: Option<f64>,
    /// Threads of the generator. With several VMs: of all together.
    pub threads: usize,
    /// Whether a transaction was one round trip.
    pub pipeline: bool,
    /// Whether statements were prepared.
    pub prepared_statements: bool,
    /// The server cancels statements that run longer, seconds; `null` if none is set.
    pub statement_timeout_seconds: Option<f64>,
    /// Isolation level of the transactions: `read-committed`, `repeatable-read` or `serializable`; `null` for the server's
    /// own.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub isolation: Option<Isolation>,
    /// How often a request may be tried.
    pub max_tries: u32,
    /// Random seed, as a string: the same value reproduces payloads and arrival times.
    #[serde(with = "wide")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub seed: u64,
    /// Where the database is: host, port, name and user; never a password.
    pub target: String,
    /// Several VMs: target rate of each, requests per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_rps_per_vm: Option<f64>,
    /// Several VMs: target rate of all together, the same as `target_rps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_rps_total: Option<f64>,
    /// Several VMs: workers of each, if all have the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers_per_vm: Option<usize>,
}

/// Each field is `null` if the database did not tell; with several VMs, also if it told them different values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ServerInfo {
    /// `server_version`.
    pub version: Option<String>,
    /// `max_connections`.
    pub max_connections: Option<u64>,
    /// `synchronous_commit`.
    pub synchronous_commit: Option<String>,
    /// `fsync`.
    pub fsync: Option<String>,
    /// `shared_buffers`.
    pub shared_buffers: Option<String>,
    /// `logged` or `unlogged`.
    pub tables: Option<String>,
    /// Whether a pooler is between: another session answers than the one that the connection greeted.
    pub pooled: Option<bool>,
    /// Round trip of an empty query: the median of a few. With several VMs: of the median VM.
    pub round_trip_ms: Option<f64>,
}
