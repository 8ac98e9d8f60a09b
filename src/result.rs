//! The versioned JSON document: what a run found, for people's scripts and for merging.
//!
//! Field names of the Python tool are kept. Times are milliseconds unless the name says otherwise; an absent value is
//! `null`. docs/figures.md says what each figure means.

mod assemble;
mod decode;
mod derive;
mod summary;
mod verification;
mod wide;

pub use assemble::{AccountingError, Context, assemble, assemble_lost};
pub use summary::{Bounded, Summary};
pub use verification::{TableRows, Verification};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use crate::measure::outages::Outage;
use crate::measure::outcome::ErrorCount;
use crate::measure::recorder::{COARSE_DIGITS, Durations, Timeline};
use crate::measure::stalls::Stalls;
use crate::monitor::docker::ContainerUsage;
use crate::schedule::{Arrival, Share};
use crate::workload::Workload;
use crate::workload::script::Isolation;

/// What [`RunResult::format`] says.
pub const FORMAT: &str = "postgres_load_test/result";

/// The version of the document: raised where a reader of the old one would misread the new one.
pub const VERSION: u32 = 1;

/// What [`Config::target`] says of a server that a run started for itself.
pub const THROWAWAY_TARGET: &str = "throwaway server of this run";

/// The whole document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Always [`FORMAT`].
    pub format: String,
    /// See [`VERSION`].
    pub version: u32,
    /// Version of the program that wrote it.
    pub tool_version: String,
    /// Names the sources of the program; only results of one build can be merged.
    pub tool_build: String,
    /// Name of the machine that made the load.
    pub hostname: String,
    /// When and as which part of a test it ran.
    pub run: RunInfo,
    /// What was asked for.
    pub config: Config,
    /// What the database said of itself.
    pub server: ServerInfo,
    /// Where every slot of the measured window went.
    pub accounting: Accounting,
    /// Rates and totals.
    pub throughput: Throughput,
    /// done − due: what a caller of the database would have felt.
    pub latency_ms: Summary,
    /// done − sent: what the server and the network took.
    pub service_time_ms: Summary,
    /// sent − due, where the worker was waiting or the generator stood still: the generator's own error.
    pub lateness_ms: Summary,
    /// claimed − due, of all others: every worker was busy when the slot was due.
    pub wait_for_connection_ms: Summary,
    /// The round trips within the service time, in order; empty with `--pipeline`. In a merged result they have two
    /// significant digits, as their histograms have.
    pub phases_ms: Vec<Phase>,
    /// Size of the documents in the requests that were ok, in units of 1,048,576 bytes.
    pub data_written_mb: f64,
    /// Errors by class, the most frequent first.
    pub errors: Vec<ErrorCount>,
    /// Connections opened in place of dead ones.
    pub reconnects: u64,
    /// Requests that were tried more than once (`--max-tries`), the warm-up included.
    pub retried: u64,
    /// How often in all.
    pub retries: u64,
    /// Times of a second or more in which something was due and nothing was acknowledged, the first 100 of each VM.
    pub outages: Vec<Outage>,
    /// What the database holds of the run, with `--verify`.
    pub verification: Option<Verification>,
    /// How hard the generator had to work.
    pub generator: Generator,
    /// CPU and memory of the container of `--docker-container`.
    pub container: Option<ContainerUsage>,
    /// What the figures are made of, for merging.
    pub histograms: Histograms,
    /// Things that the reader of the figures should know.
    pub warnings: Vec<String>,
    /// What to do about them.
    pub advice: Vec<String>,
    /// PASSED, DEGRADED, FAILED, INVALID, INTERRUPTED or LOST WRITES.
    pub status: Status,
    /// Why, in one sentence.
    pub reason: String,
    /// The hosts of a test on several machines; absent in the result of one machine.
    #[serde(flatten)]
    pub fleet: Option<Fleet>,
}

/// What the result of several machines has beside. Its fields stand at the top level of the document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    /// Whether every machine delivered its whole result. Says nothing of the figures: `status` does.
    pub success: bool,
    /// Machines that were asked for.
    pub num_vms: usize,
    /// Machines whose result is missing or ends early.
    pub failed_vms: Vec<FailedVm>,
    /// Machines that measured something, in the order of their shares.
    pub per_vm_results: Vec<VmResult>,
    /// Between the first machine to begin and the last one, milliseconds of one clock; `null` where the clocks were not
    /// compared.
    pub start_skew_ms: Option<f64>,
}

/// A machine whose result is missing or ends early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedVm {
    /// As given in `--vms`, or the name of its file.
    pub hostname: String,
    /// Why.
    pub error: String,
}

/// One machine of several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmResult {
    /// As given in `--vms`, or the machine's own name.
    pub hostname: String,
    /// [`Throughput::actual_rps`]
    pub actual_rps: f64,
    /// [`Throughput::success_rate`]
    pub success_rate: Option<f64>,
    /// The median of [`RunResult::latency_ms`], milliseconds.
    pub latency_p50: Option<f64>,
    /// How its clock compares; `null` where nobody asked.
    pub clock: Option<ClockComparison>,
    /// When it began, against the common T0 and on one clock for all machines, milliseconds; negative is early.
    pub start_skew_ms: Option<f64>,
    /// Why its result ends early, where it does: then it holds what was known at the last snapshot.
    pub lost: Option<String>,
    /// How many slots of its share nobody reported, because it was lost: its part of [`Accounting::unreported`].
    pub slots_lost: u64,
    /// Its own document.
    pub result: Box<RunResult>,
}

/// A VM's wall clock against a reference that is the same for all VMs: what it shows more, with the bound of the error (half
/// of the smallest round trip).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClockComparison {
    /// Before T0, milliseconds.
    pub offset_ms: f64,
    /// The true offset lies within this of it, milliseconds.
    pub bound_ms: f64,
    /// After the test; `null` where the machine was lost.
    pub offset_after_ms: Option<f64>,
    /// The bound of that.
    pub bound_after_ms: Option<f64>,
    /// Whose clock the offsets are against.
    #[serde(default)]
    pub reference: ClockReference,
}

/// A clock that those of all VMs are compared with: the one that can be read more exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockReference {
    /// The coordinator's.
    #[default]
    Coordinator,
    /// The database server's.
    Database,
}

/// A VM's wall clock against the database server's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClockVsDatabase {
    /// What the VM's clock showed more before the run, milliseconds.
    pub offset_ms: f64,
    /// The true offset lies within this of it, milliseconds.
    pub bound_ms: f64,
}

/// When and as which part of a test a run took place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// T0, RFC 3339, UTC.
    pub started_at: String,
    /// T0 in nanoseconds since 1970; a string in the JSON.
    #[serde(with = "wide")]
    pub started_unix_ns: u64,
    /// The part of the schedule that this process ran.
    pub share: Share,
    /// How its clock compared with the database's before the run; `null` where the database did not tell, and where results
    /// were merged.
    #[serde(default)]
    pub clock_vs_database: Option<ClockVsDatabase>,
    /// How long after T0 its first thread began, milliseconds; `null` where none did.
    pub start_delay_ms: Option<f64>,
    /// Whether it was stopped before its end, be it in the window, in the drain or while rows were verified.
    pub interrupted: bool,
    /// Why it ended itself before its time, where it did (`--abort-on-errors`).
    pub aborted: Option<String>,
    /// Start of the measured window, seconds after T0.
    pub window_start_s: f64,
    /// Length of the measured window, seconds.
    pub window_seconds: f64,
    /// Requests of the warm-up; they are in the tables, but not in the figures.
    pub warmup: WarmupCounts,
}

/// Requests before the measured window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmupCounts {
    /// COMMIT acknowledged.
    pub ok: u64,
    /// Known not to have committed.
    pub failed: u64,
    /// May or may not have committed.
    pub unknown: u64,
    /// Given up by `--max-lag`.
    pub skipped: u64,
    /// Still in flight at the end.
    pub unfinished: u64,
}

/// What was asked for. Runs merge only where all of it is alike but the worker and thread counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Requests per second of the whole test; `null` with `--rps max`.
    pub target_rps: Option<f64>,
    /// Length of the measured window as asked for, seconds.
    pub duration_seconds: f64,
    /// Connections.
    pub workers: usize,
    /// What requests wrote.
    #[serde(flatten)]
    pub workload: Workload,
    /// `constant` or `poisson`; `null` with `--rps max`.
    pub arrival: Option<Arrival>,
    /// Warm-up, seconds.
    pub warmup_seconds: f64,
    /// How long requests in flight were waited for, seconds.
    pub drain_seconds: f64,
    /// Slots later than this were given up, seconds.
    pub max_lag_seconds: Option<f64>,
    /// Generator threads.
    pub threads: usize,
    /// Whether a transaction was one round trip.
    pub pipeline: bool,
    /// Whether statements were prepared.
    pub prepared_statements: bool,
    /// Seconds.
    pub statement_timeout_seconds: Option<f64>,
    /// `read-committed`, `repeatable-read` or `serializable`; `null` is the server's own.
    pub isolation: Option<Isolation>,
    /// How often a request may be tried.
    pub max_tries: u32,
    /// What payloads and arrivals are a function of; a string in the JSON.
    #[serde(with = "wide")]
    pub seed: u64,
    /// Where the database is: host, port, name and user; never a password.
    pub target: String,
    /// The rate of one machine, where there are several and all have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_rps_per_vm: Option<f64>,
    /// The rate of all machines, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_rps_total: Option<f64>,
    /// Connections of one machine, where there are several and all have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers_per_vm: Option<usize>,
}

/// What the database said of itself before the run; `null` where it would not say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// `server_version`
    pub version: Option<String>,
    /// `max_connections`
    pub max_connections: Option<u64>,
    /// `synchronous_commit`
    pub synchronous_commit: Option<String>,
    /// `fsync`
    pub fsync: Option<String>,
    /// `shared_buffers`
    pub shared_buffers: Option<String>,
    /// `logged` or `unlogged`
    pub tables: Option<String>,
    /// Round trip of an empty query, median of a few, milliseconds.
    pub round_trip_ms: Option<f64>,
}

/// Where every slot of the measured window went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounting {
    /// Slots that were due in the window.
    pub scheduled: u64,
    /// COMMIT acknowledged.
    pub ok: u64,
    /// Known not to have committed.
    pub failed: u64,
    /// The connection died after COMMIT may have been sent.
    pub unknown: u64,
    /// Given up by `--max-lag`.
    pub skipped: u64,
    /// Still waiting for a worker when the window closed.
    pub not_started: u64,
    /// In flight when the drain ended.
    pub unfinished: u64,
    /// Slots of lost or missing VMs of which nobody reported what became of them; only where results were merged.
    #[serde(default)]
    pub unreported: u64,
}

impl Accounting {
    /// Whether every slot is accounted for exactly once.
    pub fn holds(&self) -> bool {
        self.scheduled == self.answered() + self.unanswered()
    }

    /// Slots that got an answer, be it an error.
    pub fn answered(&self) -> u64 {
        self.ok + self.failed + self.unknown
    }

    /// Slots that never got one: slower than any that did.
    pub fn unanswered(&self) -> u64 {
        self.skipped + self.not_started + self.unfinished + self.unreported
    }
}

/// Rates and totals of the measured window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// ok + failed + unknown
    pub total_requests: u64,
    /// ok
    pub successful_writes: u64,
    /// failed + unknown
    pub failed_writes: u64,
    /// Requests that were ok and completed within the window, per second of it.
    pub actual_rps: f64,
    /// scheduled ÷ length of the window; `null` in a closed loop.
    pub offered_rps: Option<f64>,
    /// actual ÷ offered, percent; `null` in a closed loop.
    pub target_achieved_pct: Option<f64>,
    /// ok ÷ total, percent; `null` where there was no request.
    pub success_rate: Option<f64>,
    /// Requests that were ok and completed within the window.
    pub completed_in_window: u64,
    /// When they were completed, so that rates can be told for a part of the window.
    pub timeline: Timeline,
}

impl Throughput {
    /// What follows from the account and the two rates, requests per second.
    pub(crate) fn new(
        accounting: &Accounting,
        actual_rps: f64,
        offered_rps: Option<f64>,
        completed_in_window: u64,
        timeline: Timeline,
    ) -> Self {
        let total = accounting.answered();
        Self {
            total_requests: total,
            successful_writes: accounting.ok,
            failed_writes: accounting.failed + accounting.unknown,
            actual_rps,
            offered_rps,
            target_achieved_pct: offered_rps.filter(|rps| *rps > 0.0).map(|offered| actual_rps / offered * 100.0),
            success_rate: (total > 0).then(|| accounting.ok as f64 / total as f64 * 100.0),
            completed_in_window,
            timeline,
        }
    }
}

/// One round trip of the requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// The table that is written, or `commit`. The first includes BEGIN.
    pub name: String,
    /// How long it took.
    #[serde(flatten)]
    pub summary: Summary,
}

/// How hard the generator had to work. Where there are several machines: CPU of all, the others of the worst-off one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// CPU seconds (user and system) of the process from T0 to the end of the drain.
    pub cpu_seconds: f64,
    /// The same per request that was answered, microseconds; `null` where there was none.
    pub cpu_us_per_request: Option<f64>,
    /// How much of the window the busiest thread spent computing, percent.
    pub busiest_thread_pct: f64,
    /// How much of the window the worst-off thread waited for a processor, percent; `null` where it is not known.
    pub run_queue_wait_pct: Option<f64>,
    /// How much of the window the thread with the least to spare was computing or waiting for a processor, percent;
    /// `null` where it is not known.
    pub occupied_pct: Option<f64>,
    /// When it stood still: of all VMs, with their names; the time is that of the worst-off one, the requests are summed.
    #[serde(flatten)]
    pub stood_still: Stalls,
}

/// HDR histograms of microseconds, 1 … 86,400,000,000 with three significant digits, as base64 of the V2 format with
/// deflate, which the HdrHistogram libraries of other languages read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histograms {
    /// Of [`RunResult::latency_ms`].
    pub latency: EncodedHistogram,
    /// Of [`RunResult::service_time_ms`].
    pub service_time: EncodedHistogram,
    /// Of [`RunResult::lateness_ms`].
    pub lateness: EncodedHistogram,
    /// Of [`RunResult::wait_for_connection_ms`].
    pub wait_for_connection: EncodedHistogram,
    /// Of [`RunResult::phases_ms`], in their order; with two significant digits, so that the document stays small.
    pub phases: Vec<EncodedHistogram>,
}

/// One histogram as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedHistogram {
    /// Begins with `HISTFAAA`.
    pub base64: String,
    /// Values longer than the histogram can hold; they are not in it.
    pub past_range: u64,
}

impl EncodedHistogram {
    /// Encodes what was recorded; nothing recorded is an empty text.
    pub fn or_empty(durations: &Durations) -> Self {
        if durations.count() == 0 { Self::default() } else { Self::new(durations) }
    }

    /// What was recorded. An empty text is an empty histogram.
    ///
    /// # Errors
    /// It is no histogram of this program. However it was made, it is refused without using much memory.
    pub fn decode(&self) -> Result<Durations, HistogramError> {
        decode::durations(&self.base64, self.past_range)
    }

    /// The same for one that [`Self::coarse`] made.
    ///
    /// # Errors
    /// As of [`Self::decode`].
    pub fn decode_coarse(&self) -> Result<Histogram<u64>, HistogramError> {
        decode::histogram(&self.base64, COARSE_DIGITS)
    }

    /// Encodes what was recorded.
    pub fn new(durations: &Durations) -> Self {
        Self { base64: encode(&durations.histogram), past_range: durations.past_range }
    }

    /// The same with two significant digits, in a tenth of the space.
    pub fn coarse(durations: &Durations) -> Self {
        Self { base64: encode(&durations.coarse()), past_range: durations.past_range }
    }
}

/// Why a histogram of a document cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistogramError {
    /// Not base64, or longer than any histogram of this program.
    #[error("it is not base64 of a histogram")]
    NotBase64,
    /// The bytes are no histogram in the V2 format with deflate.
    #[error("its bytes are no HdrHistogram (V2 with deflate)")]
    NotAHistogram,
    /// Made by something else.
    #[error("it has another range or precision than this program's")]
    UnlikeOurs,
}

/// Base64 of a histogram, V2 with deflate.
pub fn encode(histogram: &Histogram<u64>) -> String {
    use base64::Engine;
    let mut bytes = Vec::new();
    // Writing to memory cannot fail, and the range is one that the format can carry.
    if let Err(error) = V2DeflateSerializer::new().serialize(histogram, &mut bytes) {
        unreachable!("a histogram in memory: {error}");
    }
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// All as asked for.
    Passed,
    /// Between half of the target and what was asked for.
    Degraded,
    /// Writes failed, a limit was passed, or less than half of the target was reached.
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
        f.write_str(match self {
            Self::Passed => "PASSED",
            Self::Degraded => "DEGRADED",
            Self::Failed => "FAILED",
            Self::Invalid => "INVALID",
            Self::Interrupted => "INTERRUPTED",
            Self::LostWrites => "LOST WRITES",
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::text::words::rfc3339;

    /// A run in which all went well: the seed's example.
    pub(crate) fn sample() -> RunResult {
        let recorded = durations((1..=6_000).map(|i| 1 + i % 15));
        let (latency, on_time) = (Summary::new(&recorded, 0), durations(std::iter::repeat_n(0, 6_000)));
        RunResult {
            format: FORMAT.to_owned(),
            version: VERSION,
            tool_version: "0.0.0".to_owned(),
            tool_build: "0123456789ab".to_owned(),
            hostname: "host".to_owned(),
            run: RunInfo {
                started_at: rfc3339(0),
                started_unix_ns: 0,
                share: Share::WHOLE,
                clock_vs_database: None,
                start_delay_ms: Some(0.1),
                interrupted: false,
                aborted: None,
                window_start_s: 0.0,
                window_seconds: 60.0,
                warmup: WarmupCounts::default(),
            },
            config: Config {
                target_rps: Some(100.0),
                duration_seconds: 60.0,
                workers: 10,
                workload: Workload::of_kb(1.5),
                arrival: Some(Arrival::Constant),
                warmup_seconds: 0.0,
                drain_seconds: 30.0,
                max_lag_seconds: None,
                threads: 2,
                pipeline: false,
                prepared_statements: true,
                statement_timeout_seconds: None,
                isolation: None,
                max_tries: 1,
                seed: 1,
                target: "postgres@localhost:5432/tensorzero_loadtest".to_owned(),
                target_rps_per_vm: None,
                target_rps_total: None,
                workers_per_vm: None,
            },
            server: ServerInfo::default(),
            accounting: Accounting { scheduled: 6_000, ok: 6_000, ..Accounting::default() },
            throughput: Throughput {
                total_requests: 6_000,
                successful_writes: 6_000,
                failed_writes: 0,
                actual_rps: 100.0,
                offered_rps: Some(100.0),
                target_achieved_pct: Some(100.0),
                success_rate: Some(100.0),
                completed_in_window: 6_000,
                timeline: Timeline { bin_seconds: 1, completed: vec![100; 60] },
            },
            service_time_ms: latency.clone(),
            latency_ms: latency,
            lateness_ms: Summary::new(&on_time, 0),
            wait_for_connection_ms: Summary::default(),
            phases_ms: Vec::new(),
            data_written_mb: 35.2,
            errors: Vec::new(),
            reconnects: 0,
            retried: 0,
            retries: 0,
            outages: Vec::new(),
            verification: None,
            generator: Generator::default(),
            container: None,
            histograms: Histograms::default(),
            warnings: Vec::new(),
            advice: Vec::new(),
            status: Status::Passed,
            reason: "All writes successful, target RPS achieved".to_owned(),
            fleet: None,
        }
    }

    pub(crate) fn durations(ms: impl IntoIterator<Item = u64>) -> Durations {
        let mut durations = Durations::default();
        ms.into_iter().for_each(|ms| durations.record_ns(ms * 1_000_000));
        durations
    }

    #[test]
    fn histograms_are_written_in_the_format_that_others_read() {
        assert!(encode(&durations([1, 5, 9]).histogram).starts_with("HISTFAAA"));
    }

    #[test]
    fn instants_are_written_in_utc() {
        assert_eq!(rfc3339(1_700_000_000_123_456_000), "2023-11-14T22:13:20.123456Z");
        assert_eq!(rfc3339(1_700_000_000_123_456_789), "2023-11-14T22:13:20.123456789Z");
    }

    /// A million requests whose times spread over three decades, in every histogram of the document.
    #[test]
    fn the_document_stays_small_however_many_requests_there_were() {
        let mut random = crate::random::SplitMix64::new(1);
        let mut spread = |encode: fn(&Durations) -> EncodedHistogram| {
            let mut wide = Durations::default();
            for _ in 0..1_000_000 {
                // The sum of twelve uniform numbers less six is nearly normal.
                let normal = (0..12).map(|_| random.below(1 << 32) as f64 / 4_294_967_296.0).sum::<f64>() - 6.0;
                wide.record_ns((2.0e6 * libm::exp(0.8 * normal)) as u64);
            }
            encode(&wide)
        };
        let mut result = sample();
        result.histograms = Histograms {
            latency: spread(EncodedHistogram::new),
            service_time: spread(EncodedHistogram::new),
            lateness: spread(EncodedHistogram::new),
            wait_for_connection: spread(EncodedHistogram::new),
            phases: (0..5).map(|_| spread(EncodedHistogram::coarse)).collect(),
        };
        let bytes = serde_json::to_string(&result).unwrap().len();
        assert!(bytes <= 64 * 1024, "{bytes} bytes");
    }
}
