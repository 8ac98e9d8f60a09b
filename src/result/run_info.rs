//! When a run took place, and which part of a test it was. Pure.

use serde::{Deserialize, Serialize};

use super::wide;
use crate::measure::counters::{Counts, tally};
use crate::schedule::Share;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunInfo {
    /// T0, the start of the schedule: RFC 3339, UTC.
    pub started_at: String,
    /// T0 in nanoseconds since 1970, as a string.
    #[serde(with = "wide")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub started_unix_ns: u64,
    /// The part of the schedule that this process ran.
    pub share: Share,
    /// How far this machine's clock was ahead of the database's before the run; `null` if that is not known, and in merged
    /// results.
    #[serde(default)]
    pub clock_vs_database: Option<ClockVsDatabase>,
    /// How long after T0 the first thread began; `null` if none did.
    pub start_delay_ms: Option<f64>,
    /// Whether a signal stopped it before its end: in the window, in the drain, or while rows were verified.
    pub interrupted: bool,
    /// Why it ended itself early (`--abort-on-errors`); `null` if it did not.
    pub aborted: Option<String>,
    /// Start of the measured window, seconds after T0.
    pub window_start_s: f64,
    /// Length of the measured window, seconds.
    pub window_seconds: f64,
    /// Requests of the warm-up: they are in the tables, but not in the figures.
    pub warmup: WarmupCounts,
}

/// A machine's wall clock against the database server's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ClockVsDatabase {
    /// How far it was ahead; negative is behind.
    pub offset_ms: f64,
    /// The true offset differs by no more than this.
    pub bound_ms: f64,
}

tally! {
    /// Requests before the measured window.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[cfg_attr(test, derive(schemars::JsonSchema))]
    pub struct WarmupCounts {
        /// COMMIT acknowledged.
        pub ok: u64,
        /// Known not to have committed.
        pub failed: u64,
        /// May or may not have committed: the connection died after COMMIT may have been sent.
        pub unknown: u64,
        /// Given up by `--max-lag`.
        pub skipped: u64,
        /// In flight when the drain ended.
        pub unfinished: u64,
    }
}

impl WarmupCounts {
    /// Requests that got an answer, be it an error.
    pub(crate) fn answered(&self) -> u64 {
        self.ok + self.failed + self.unknown
    }
}

impl From<Counts> for WarmupCounts {
    fn from(counts: Counts) -> Self {
        let Counts { ok, failed, unknown, skipped, started: _ } = counts;
        Self { ok, failed, unknown, skipped, unfinished: counts.in_flight() }
    }
}
