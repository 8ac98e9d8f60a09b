//! The versioned JSON document: what a run found, for people's scripts and for merging.
//!
//! Field names of the Python tool are kept. Times are milliseconds unless the name says otherwise; an absent value is
//! `null`. What each figure means is said in the README, under "What each figure means".

use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use crate::docker::ContainerUsage;
use crate::engine::RunRecord;
use crate::outcome::ErrorCount;
use crate::recorder::Durations;
use crate::schedule::{Arrival, Pace, Schedule, Share};

/// What [`RunResult::format`] says.
pub const FORMAT: &str = "postgres_load_test/result";

/// The version of the document: raised where a reader of the old one would misread the new one.
pub const VERSION: u32 = 1;

/// The whole document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Always [`FORMAT`].
    pub format: String,
    /// See [`VERSION`].
    pub version: u32,
    /// Version of the program that wrote it.
    pub tool_version: String,
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
    /// sent − due, where the worker was waiting: the generator's own error.
    pub lateness_ms: Summary,
    /// claimed − due, where every worker was busy when the slot was due.
    pub wait_for_connection_ms: Summary,
    /// The round trips within the service time, in order; empty with `--pipeline`.
    pub phases_ms: Vec<Phase>,
    /// Size of the documents in the requests that were ok, in units of 1,048,576 bytes.
    pub data_written_mb: f64,
    /// Errors by class, the most frequent first.
    pub errors: Vec<ErrorCount>,
    /// Connections opened in place of dead ones.
    pub reconnects: u64,
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
    /// PASSED, DEGRADED, FAILED or INVALID.
    pub status: Status,
    /// Why, in one sentence.
    pub reason: String,
}

/// When and as which part of a test a run took place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// T0, RFC 3339, UTC.
    pub started_at: String,
    /// T0 in nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// The part of the schedule that this process ran.
    pub share: Share,
    /// Whether it was stopped before its time.
    pub interrupted: bool,
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
    /// Size of `chat_inference.input`; 1 KB is 1,024 bytes.
    pub input_size_kb: f64,
    /// Size of `chat_inference.output`.
    pub output_size_kb: f64,
    /// Size of `model_inference.raw_request`.
    pub raw_request_size_kb: f64,
    /// Size of `model_inference.raw_response`.
    pub raw_response_size_kb: f64,
    /// Whether the documents were made in the database.
    pub server_side_data: bool,
    /// Whether `resource_bucket` was written.
    pub rate_limiting: bool,
    /// Whether `variant_by_episode` was written.
    pub experimentation: bool,
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
    /// What payloads and arrivals are a function of.
    pub seed: u64,
    /// Where the database is: host, port, name and user; never a password.
    pub target: String,
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
        self.skipped + self.not_started + self.unfinished
    }
}

/// Slots do not add up: a bug of this program.
#[derive(Debug, thiserror::Error)]
#[error("the requests do not add up, which is a bug, so there is no report: {accounting:?}")]
pub struct AccountingError {
    /// What was counted.
    pub accounting: Accounting,
}

/// Rates and totals of the measured window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
}

/// A distribution in milliseconds.
///
/// Slots that never got an answer count as slower than any that did. Where they reach a figure, its flag is true, and
/// the value is the slowest answer: the true figure lies above it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // The names of percentiles say it all.
pub struct Summary {
    pub count: u64,
    pub min: Option<f64>,
    pub avg: Option<f64>,
    pub avg_is_lower_bound: bool,
    pub p50: Option<f64>,
    pub p50_is_lower_bound: bool,
    pub p90: Option<f64>,
    pub p90_is_lower_bound: bool,
    pub p95: Option<f64>,
    pub p95_is_lower_bound: bool,
    pub p99: Option<f64>,
    pub p99_is_lower_bound: bool,
    pub p99_9: Option<f64>,
    pub p99_9_is_lower_bound: bool,
    pub max: Option<f64>,
    pub max_is_lower_bound: bool,
}

/// A value that may be a lower bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounded {
    /// Milliseconds; `None` where nothing was answered.
    pub value: Option<f64>,
    /// Whether the true figure lies above.
    pub is_lower_bound: bool,
}

impl Summary {
    /// Of what was recorded, and of `unanswered` more that are slower than all of it.
    pub fn new(durations: &Durations, unanswered: u64) -> Self {
        let histogram = &durations.histogram;
        let beyond = unanswered + durations.past_range;
        let known = histogram.len();
        let ms = |us: u64| us as f64 / 1_000.0;
        let some = |value: f64| (known > 0).then_some(value);
        let percentile = |per_mille: u64| {
            // The nearest rank among all, in whole numbers: 99.9 / 100 is a little more than 0.999.
            let rank = (per_mille * (known + beyond)).div_ceil(1_000).max(1);
            // The histogram rounds quantiles up to ranks; half a rank less is safe from rounding on either side.
            let quantile = (rank.min(known) as f64 - 0.5) / known.max(1) as f64;
            (some(ms(histogram.value_at_quantile(quantile.max(0.0)))), rank > known && beyond > 0)
        };
        let ((p50, p50_is_lower_bound), (p90, p90_is_lower_bound)) = (percentile(500), percentile(900));
        let ((p95, p95_is_lower_bound), (p99, p99_is_lower_bound)) = (percentile(950), percentile(990));
        let (p99_9, p99_9_is_lower_bound) = percentile(999);
        Self {
            count: durations.count(),
            min: some(ms(histogram.min())),
            avg: some(histogram.mean() / 1_000.0),
            avg_is_lower_bound: beyond > 0,
            p50,
            p50_is_lower_bound,
            p90,
            p90_is_lower_bound,
            p95,
            p95_is_lower_bound,
            p99,
            p99_is_lower_bound,
            p99_9,
            p99_9_is_lower_bound,
            max: some(ms(histogram.max())),
            max_is_lower_bound: beyond > 0,
        }
    }

    /// The figures in the order of a report, with their names.
    pub fn figures(&self) -> [(&'static str, Bounded); 8] {
        let of = |value, is_lower_bound| Bounded { value, is_lower_bound };
        [
            ("min", of(self.min, false)),
            ("avg", of(self.avg, self.avg_is_lower_bound)),
            ("p50", of(self.p50, self.p50_is_lower_bound)),
            ("p90", of(self.p90, self.p90_is_lower_bound)),
            ("p95", of(self.p95, self.p95_is_lower_bound)),
            ("p99", of(self.p99, self.p99_is_lower_bound)),
            ("p99.9", of(self.p99_9, self.p99_9_is_lower_bound)),
            ("max", of(self.max, self.max_is_lower_bound)),
        ]
    }

    /// One of them by its name.
    pub fn figure(&self, name: &str) -> Option<Bounded> {
        self.figures().into_iter().find_map(|(known, bounded)| (known == name).then_some(bounded))
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

/// How hard the generator had to work.
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
    /// Of [`RunResult::phases_ms`], in their order.
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
    /// Encodes what was recorded.
    pub fn new(durations: &Durations) -> Self {
        Self { base64: encode(durations), past_range: durations.past_range }
    }
}

/// Base64 of a histogram, V2 with deflate.
pub fn encode(durations: &Durations) -> String {
    use base64::Engine;
    let mut bytes = Vec::new();
    // Writing to memory cannot fail, and the range is one that the format can carry.
    if let Err(error) = V2DeflateSerializer::new().serialize(&durations.histogram, &mut bytes) {
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
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passed => "PASSED",
            Self::Degraded => "DEGRADED",
            Self::Failed => "FAILED",
            Self::Invalid => "INVALID",
        })
    }
}

/// Everything known about a run but what it measured.
#[derive(Clone, Debug)]
pub struct Context {
    /// Name of this machine.
    pub hostname: String,
    /// What was asked for.
    pub config: Config,
    /// What the database said of itself.
    pub server: ServerInfo,
    /// When requests were due.
    pub schedule: Schedule,
    /// Bytes of documents in one request.
    pub document_bytes: usize,
    /// CPU and memory of a container, where one was watched.
    pub container: Option<ContainerUsage>,
    /// Said before the run.
    pub warnings: Vec<String>,
}

/// Counts what became of every slot of the measured window.
///
/// The terms come from independent sources: the schedule's arithmetic, the cursor, and the workers' counts.
///
/// # Errors
/// They do not add up.
pub fn account(record: &RunRecord, schedule: &Schedule) -> Result<Accounting, AccountingError> {
    let measured = &record.recorder.measured;
    let window = record.window_start_ns..record.window_end_ns;
    let (scheduled, unclaimed) =
        match (schedule.scheduled_before(record.window_start_ns), schedule.scheduled_before(record.window_end_ns)) {
            (Some(before), Some(until)) => (until - before, until - record.claimed.clamp(before, until)),
            // A closed loop claims a slot only to run it at once.
            _ => {
                let warmup = &record.recorder.warmup;
                let warmed_up = warmup.ok + warmup.failed + warmup.unknown + warmup.skipped + warmup.in_flight;
                let returned = record.recorder.returned_due_ns.len() as u64;
                // A slot that was handed back was only waited with, and never due.
                (record.claimed.saturating_sub(warmed_up + returned), 0)
            }
        };
    let is_open = matches!(schedule.pace, Pace::Open { .. });
    let returned =
        record.recorder.returned_due_ns.iter().filter(|due_ns| is_open && window.contains(due_ns)).count() as u64;
    let accounting = Accounting {
        scheduled,
        ok: measured.ok,
        failed: measured.failed,
        unknown: measured.unknown,
        skipped: measured.skipped,
        not_started: unclaimed + returned,
        unfinished: measured.in_flight,
    };
    if accounting.holds() { Ok(accounting) } else { Err(AccountingError { accounting }) }
}

/// The document of a run, without a verdict: `status` and `reason` are for [`crate::verdict`] to fill in.
///
/// # Errors
/// The counts do not add up.
pub fn assemble(record: &RunRecord, context: Context) -> Result<RunResult, AccountingError> {
    let accounting = account(record, &context.schedule)?;
    let (figures, warmup) = (&record.recorder.figures, &record.recorder.warmup);
    let window_seconds = (record.window_end_ns - record.window_start_ns) as f64 / 1e9;
    let phases_ms = record
        .phase_names
        .iter()
        .zip(&figures.phases)
        .map(|(name, durations)| Phase { name: name.clone(), summary: Summary::new(durations, 0) })
        .collect();
    Ok(RunResult {
        format: FORMAT.to_owned(),
        version: VERSION,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: context.hostname,
        run: RunInfo {
            started_at: rfc3339(record.epoch.unix_ns),
            started_unix_ns: record.epoch.unix_ns,
            share: context.schedule.share,
            interrupted: record.interrupted,
            window_start_s: record.window_start_ns as f64 / 1e9,
            window_seconds,
            warmup: WarmupCounts {
                ok: warmup.ok,
                failed: warmup.failed,
                unknown: warmup.unknown,
                skipped: warmup.skipped,
                unfinished: warmup.in_flight,
            },
        },
        config: context.config,
        server: context.server,
        accounting,
        throughput: throughput(record, &accounting, &context.schedule, window_seconds),
        latency_ms: Summary::new(&figures.latency, accounting.unanswered()),
        service_time_ms: Summary::new(&figures.service, accounting.unfinished),
        lateness_ms: Summary::new(&figures.lateness, 0),
        wait_for_connection_ms: Summary::new(&figures.wait, accounting.skipped + accounting.not_started),
        phases_ms,
        data_written_mb: accounting.ok as f64 * context.document_bytes as f64 / 1_048_576.0,
        errors: record.recorder.errors.counts(),
        reconnects: record.recorder.reconnects,
        generator: generator(record, &accounting),
        container: context.container,
        histograms: Histograms {
            latency: EncodedHistogram::new(&figures.latency),
            service_time: EncodedHistogram::new(&figures.service),
            lateness: EncodedHistogram::new(&figures.lateness),
            wait_for_connection: EncodedHistogram::new(&figures.wait),
            phases: figures.phases.iter().map(EncodedHistogram::new).collect(),
        },
        warnings: context.warnings,
        advice: Vec::new(),
        status: Status::Invalid,
        reason: String::new(),
    })
}

fn throughput(record: &RunRecord, accounting: &Accounting, schedule: &Schedule, seconds: f64) -> Throughput {
    let completed = record.recorder.ok_completed_in_window;
    let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let total = accounting.answered();
    let actual_rps = per_second(completed);
    let offered_rps = matches!(schedule.pace, Pace::Open { .. }).then(|| per_second(accounting.scheduled));
    Throughput {
        total_requests: total,
        successful_writes: accounting.ok,
        failed_writes: accounting.failed + accounting.unknown,
        actual_rps,
        offered_rps,
        target_achieved_pct: offered_rps.filter(|offered| *offered > 0.0).map(|offered| actual_rps / offered * 100.0),
        success_rate: (total > 0).then(|| accounting.ok as f64 / total as f64 * 100.0),
        completed_in_window: completed,
    }
}

fn generator(record: &RunRecord, accounting: &Accounting) -> Generator {
    // Threads are measured from T0, so the warm-up is part of it.
    let window_ns = record.window_end_ns.max(1) as f64;
    let worst_pct = |values: &[u64]| values.iter().max().map_or(0.0, |ns| *ns as f64 / window_ns * 100.0);
    let cpu_seconds = record.process_cpu_ns as f64 / 1e9;
    let warmup = &record.recorder.warmup;
    let answered = accounting.answered() + warmup.ok + warmup.failed + warmup.unknown;
    Generator {
        cpu_seconds,
        cpu_us_per_request: (answered > 0).then(|| cpu_seconds * 1e6 / answered as f64),
        busiest_thread_pct: worst_pct(&record.thread_cpu_ns),
        run_queue_wait_pct: record.thread_run_queue_ns.as_deref().map(worst_pct),
    }
}

/// An instant of the wall clock as RFC 3339 in UTC, to the microsecond.
pub fn rfc3339(unix_ns: u64) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(unix_ns)) {
        Ok(timestamp) => format!("{timestamp:.6}"),
        Err(_) => format!("{unix_ns} ns after 1970"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A run in which all went well: the seed's example.
    pub(crate) fn sample() -> RunResult {
        let recorded = durations((1..=6_000).map(|i| 1 + i % 15));
        let (latency, on_time) = (Summary::new(&recorded, 0), durations(std::iter::repeat_n(0, 6_000)));
        RunResult {
            format: FORMAT.to_owned(),
            version: VERSION,
            tool_version: "0.0.0".to_owned(),
            hostname: "host".to_owned(),
            run: RunInfo {
                started_at: rfc3339(0),
                started_unix_ns: 0,
                share: Share::WHOLE,
                interrupted: false,
                window_start_s: 0.0,
                window_seconds: 60.0,
                warmup: WarmupCounts::default(),
            },
            config: Config {
                target_rps: Some(100.0),
                duration_seconds: 60.0,
                workers: 10,
                input_size_kb: 1.5,
                output_size_kb: 1.5,
                raw_request_size_kb: 1.5,
                raw_response_size_kb: 1.5,
                server_side_data: false,
                rate_limiting: true,
                experimentation: true,
                arrival: Some(Arrival::Constant),
                warmup_seconds: 0.0,
                drain_seconds: 30.0,
                max_lag_seconds: None,
                threads: 2,
                pipeline: false,
                prepared_statements: true,
                statement_timeout_seconds: None,
                seed: 1,
                target: "postgres@localhost:5432/tensorzero_loadtest".to_owned(),
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
            },
            service_time_ms: latency.clone(),
            latency_ms: latency,
            lateness_ms: Summary::new(&on_time, 0),
            wait_for_connection_ms: Summary::default(),
            phases_ms: Vec::new(),
            data_written_mb: 35.2,
            errors: Vec::new(),
            reconnects: 0,
            generator: Generator::default(),
            container: None,
            histograms: Histograms::default(),
            warnings: Vec::new(),
            advice: Vec::new(),
            status: Status::Passed,
            reason: "All writes successful, target RPS achieved".to_owned(),
        }
    }

    fn durations(ms: impl IntoIterator<Item = u64>) -> Durations {
        let mut durations = Durations::default();
        ms.into_iter().for_each(|ms| durations.record_ns(ms * 1_000_000));
        durations
    }

    fn close(bounded: Option<Bounded>, ms: f64) -> bool {
        bounded.is_some_and(|bounded| (bounded.value.unwrap_or(f64::NAN) / ms - 1.0).abs() < 0.002)
    }

    #[test]
    fn unanswered_slots_push_percentiles_up_and_past_the_known_ones() {
        // 90 answers of 1 … 90 ms and 10 slots without: together 100, so rank 50 is 50 ms and rank 95 is unknown.
        let summary = Summary::new(&durations(1..=90), 10);
        assert!(close(summary.figure("p50"), 50.0));
        assert!(!summary.p50_is_lower_bound && !summary.p90_is_lower_bound);
        assert!(close(summary.figure("p90"), 90.0));
        assert!(summary.p95_is_lower_bound && summary.p99_is_lower_bound && summary.max_is_lower_bound);
        assert!(close(summary.figure("p95"), 90.0));
    }

    #[test]
    fn without_any_answer_there_is_no_value() {
        let summary = Summary::new(&Durations::default(), 5);
        assert_eq!(summary.figure("p50"), Some(Bounded { value: None, is_lower_bound: true }));
        assert_eq!(serde_json::to_value(&summary).unwrap()["p99"], serde_json::Value::Null);
    }

    #[test]
    fn values_past_the_range_count_as_slower_than_any_known() {
        let mut recorded = durations([1, 2, 3]);
        recorded.past_range = 1;
        let summary = Summary::new(&recorded, 0);
        assert!(summary.p90_is_lower_bound && !summary.p50_is_lower_bound);
        assert_eq!(summary.count, 4);
    }

    #[test]
    fn histograms_are_written_in_the_format_that_others_read() {
        assert!(encode(&durations([1, 5, 9])).starts_with("HISTFAAA"));
    }

    #[test]
    fn instants_are_written_in_utc() {
        assert_eq!(rfc3339(1_700_000_000_123_456_000), "2023-11-14T22:13:20.123456Z");
    }

    proptest! {
        #[test]
        fn percentiles_are_the_nearest_ranks_of_the_sorted_values(
            mut values in prop::collection::vec(1u64..100_000, 1..1_200),
            unanswered in 0u64..200,
        ) {
            let summary = Summary::new(&durations(values.iter().copied()), unanswered);
            values.sort_unstable();
            let total = values.len() as u64 + unanswered;
            for (name, per_mille) in [("p50", 500), ("p90", 900), ("p95", 950), ("p99", 990), ("p99.9", 999)] {
                let rank = (total * per_mille).div_ceil(1_000) as usize;
                let found = summary.figure(name).unwrap();
                prop_assert_eq!(found.is_lower_bound, rank > values.len());
                let expected_ms = values[rank.min(values.len()) - 1] as f64;
                let found_ms = found.value.unwrap();
                prop_assert!((found_ms / expected_ms - 1.0).abs() < 0.002, "{} is {}, not {}", name, found_ms, expected_ms);
            }
        }
    }
}
