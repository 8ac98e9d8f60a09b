//! What limited the run. [`crate::verdict`] fills it in. Pure.

use serde::{Deserialize, Serialize};

/// The one thing that limited the run, as far as there is evidence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Limit {
    /// Which factor it was.
    pub kind: LimitKind,
    /// How large the factor's share was, percent; what it is a share of depends on the kind, see `limiting-factor.md`. `null`
    /// where it cannot be given as a share.
    pub share_pct: Option<f64>,
    /// The factor in one sentence, with its most important figure.
    pub sentence: String,
    /// The figures it was concluded from, one sentence each.
    pub evidence: Vec<String>,
    /// What to try, one sentence each, the most promising first.
    pub r#try: Vec<String>,
}

/// The factors that are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LimitKind {
    /// The target was held and nothing piled up.
    None,
    /// The generator was late, stood still, or had no processor to spare.
    Generator,
    /// All workers were busy, and the server had room.
    Workers,
    /// Sessions waited for rows that other sessions had locked.
    RowLocks,
    /// Sessions waited until the write-ahead log was on the disk.
    CommitFlush,
    /// Sessions waited to put their records into the write-ahead log.
    WalInsertion,
    /// Sessions waited for tables or indexes to be extended.
    RelationExtension,
    /// Sessions waited for pages in memory that other sessions were changing.
    HotPages,
    /// The server's sessions were computing, or no processor was left on the machine that server and generator share.
    Cpu,
    /// Sessions waited for pages that were not in memory.
    CacheMisses,
    /// Latency rose while checkpoints ran.
    Checkpoints,
    /// Commits waited for a synchronous standby.
    Replication,
    /// A pooler let the workers wait for a connection.
    Pooler,
    /// Requests spent their time between generator and server.
    Network,
    /// A session of somebody else held a lock that the requests needed.
    OtherSession,
    /// Several factors, none with half of the busy workers.
    Mixed,
    /// Something limited the run, and there is no evidence of what.
    #[default]
    Unknown,
}
