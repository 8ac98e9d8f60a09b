//! The versioned JSON document: what a run found, for scripts and for merging. Pure.
//!
//! The doc comments of its fields are the reference of the JSON (`docs/json.md`, compared by a test of `merge`): meaning, unit, and
//! when the field is `null`. Times are milliseconds unless the name says otherwise. What each figure means is said in
//! `docs/figures.md`.

mod accounting;
mod assemble;
mod config;
mod derive;
mod events;
mod fleet;
mod limit;
mod run_info;
mod summary;
#[cfg(test)]
pub(crate) mod tests;
mod timeline;
mod verification;
mod wide;

pub use accounting::{Accounting, Generator, Phase, Throughput};
pub use assemble::{AccountingError, Context, assemble, assemble_lost};
pub use config::{Config, ServerInfo, THROWAWAY_TARGET};
pub use events::{Event, EventKind};
pub(crate) use events::{MOST_EVENTS, events};
pub use fleet::{ClockComparison, ClockReference, FailedVm, Fleet, VmResult};
pub use limit::{Limit, LimitKind};
pub use run_info::{ClockVsDatabase, RunInfo, WarmupCounts};
pub use summary::{Bounded, Summary};
pub use timeline::Timeline;
pub use verification::{TableRows, Verification};

pub use crate::measure::encoded::HistogramError;
pub use crate::measure::figures::Histograms;

use serde::{Deserialize, Serialize};

use crate::measure::counters::Recoveries;
use crate::measure::outages::Outage;
use crate::measure::outcome::ErrorCount;
use crate::monitor::Findings;

/// What [`RunResult::format`] says.
pub const FORMAT: &str = "postgres_load_test/result";

/// The version of the document: raised where a reader of the old one would misread the new one.
pub const VERSION: u32 = 1;

/// The result of a run, or of several VMs together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunResult {
    /// Always `postgres_load_test/result`.
    pub format: String,
    /// Version of the format: raised when a reader of the old version would misread the new one.
    pub version: u32,
    /// Version of the program that wrote the document.
    pub tool_version: String,
    /// Identifies the sources of the program. Only results of one build can be merged.
    pub tool_build: String,
    /// Name of the machine that made the load.
    pub hostname: String,
    /// When the run took place, and which part of a test it was.
    pub run: RunInfo,
    /// What was asked for.
    pub config: Config,
    /// Version and settings that the database reported before the run. A field is `null` if the database did not report it,
    /// or reported different values to different VMs.
    pub server: ServerInfo,
    /// What became of every slot of the measured window. `scheduled` is the sum of all other counts.
    pub accounting: Accounting,
    /// Rates and totals of the measured window.
    pub throughput: Throughput,
    /// Latency: from due to done, as a caller of the database would have felt it.
    pub latency_ms: Summary,
    /// Service time: from sent to done, what server and network took.
    pub service_time_ms: Summary,
    /// Lateness: from due to sent, of requests whose worker was free or that the generator held up because it stood still.
    /// The generator's own error.
    pub lateness_ms: Summary,
    /// Wait: from due until a worker was free, of all other requests.
    pub wait_for_connection_ms: Summary,
    /// Each round trip within the service time, in order; empty with `--pipeline`. Two significant digits in merged results,
    /// three otherwise.
    pub phases_ms: Vec<Phase>,
    /// Size of the payloads in the requests that were ok, in units of 1,048,576 bytes.
    pub data_written_mb: f64,
    /// Errors by class, the most frequent first.
    pub errors: Vec<ErrorCount>,
    #[serde(flatten)]
    pub recoveries: Recoveries,
    /// Times of a second or more in which requests were due and none was acknowledged: the first 100 of each VM.
    pub outages: Vec<Outage>,
    /// What the database holds of the run; `null` without `--verify`.
    pub verification: Option<Verification>,
    /// How hard the generator worked. With several VMs: CPU time of all, and the percentages of the worst one.
    pub generator: Generator,
    #[serde(flatten)]
    pub findings: Findings,
    /// What the run was like over time.
    #[serde(default)]
    pub timeline: Timeline,
    /// Histograms of answered requests, in microseconds: the figures above are computed from them, also when results are
    /// merged.
    pub histograms: Histograms,
    /// What happened, in the order of time: outages, first and last errors, lost VMs, stalls of the generator, checkpoints,
    /// restarts, autovacuum; at most 200.
    #[serde(default)]
    pub events: Vec<Event>,
    /// What limited the run.
    #[serde(default)]
    pub limit: Limit,
    /// What the reader of the figures should know, one sentence each.
    pub warnings: Vec<String>,
    /// What to do about it, one sentence each.
    pub advice: Vec<String>,
    /// The verdict.
    pub status: Status,
    /// Why, in one sentence.
    pub reason: String,
    #[serde(flatten)]
    pub fleet: Option<Fleet>,
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// All as asked for.
    Passed,
    /// Between half of the target rate and what was asked for.
    Degraded,
    /// Writes failed, a limit was exceeded, or less than half of the target rate was reached.
    Failed,
    /// The figures do not describe the database.
    Invalid,
    /// Stopped by a signal before its end; until then it would have passed.
    Interrupted,
    /// The database does not hold what it has acknowledged (`--verify`).
    #[serde(rename = "LOST WRITES")]
    LostWrites,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // As in the JSON.
        self.serialize(f)
    }
}
