//! What one request writes: its payloads, its rows and the SQL that carries them.
//!
//! A request is a function of (seed, slot); only its ids also carry the time, as UUIDv7 does. Pure: knows no clock,
//! no socket, no thread.

pub mod batch;
pub mod payload;
pub mod request;
pub mod script;
pub mod sql;

/// Which writes a request makes, and how large they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Sizes of the four documents.
    pub sizes: payload::Sizes,
    /// Whether `resource_bucket` is written.
    pub rate_limiting: bool,
    /// Whether `variant_by_episode` is written.
    pub experimentation: bool,
    /// Whether documents are cut from the pool in the database instead of being sent.
    pub server_side_data: bool,
    /// What the payloads and the random columns are a function of, together with the slot.
    pub seed: u64,
}

/// The tables that a run writes, in the order of the writes.
pub const TABLES: [&str; 4] = ["chat_inference", "model_inference", "resource_bucket", "variant_by_episode"];

/// The table that holds the random text for `--server-side-data`.
pub const POOL_TABLE: &str = "loadtest_payload_pool";
