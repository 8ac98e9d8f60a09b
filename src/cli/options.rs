//! The options of the programs: types, defaults and help texts. No I/O.
//!
//! Groups are structs of their own, which the programs share. They travel to the agents as JSON. The first paragraph of a
//! field's comment is what `-h` shows; `--help` and docs/options.md have all of it.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the comments of fields are help texts, in which [default: …] is no link"
)]

mod coordinator;
mod merge;
mod report;
#[cfg(test)]
mod tests;

pub use coordinator::{CoordinatorOptions, DeployMode, FleetOptions, HostKeys, OnHostLoss};
pub use merge::MergeOptions;
pub use report::ReportOptions;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser};
use serde::{Deserialize, Serialize};

use super::values::{self, TargetRate};
use crate::database::schema::Persistence;
use crate::schedule::{Arrival, Share};
use crate::verdict::Slo;
use crate::version::VERSION;
use crate::workload::DataOptions;
use crate::workload::script::Isolation;

/// The connection string that is used where none is given.
pub const DEFAULT_POSTGRES_URL: &str = "postgresql://postgres:postgres@localhost:5432/tensorzero_loadtest";

/// How values are written: said at the end of each help text.
const FORMS: &str = "Numbers: 1000, .5, 1e3, 10k, 1.5M. Durations: 60, 60s, 500ms, 5m, 1h, 1m30s (seconds without a \
                     unit). Sizes: KB of 1,024 bytes, or with a unit: 10k, 1.5M.";
const EXIT_CODES: &str = "Exit codes: 0 PASSED; 1 DEGRADED, FAILED, INVALID or LOST WRITES; 2 wrong use; \
                          3 it could not run; 130 interrupted.";

/// Open-loop load test for Postgres.
#[derive(Clone, Debug, Parser, Serialize, Deserialize)]
#[command(
    name = "load_test",
    version = VERSION,
    max_term_width = 100,
    args_override_self = true,
    allow_negative_numbers = true,
    about = "Load test for Postgres: simulates the writes of TensorZero inferences at a steady rate",
    long_about = "Load test for Postgres. Each request is one transaction with four writes (two INSERTs of kilobytes \
                  to megabytes, two UPSERTs), as a TensorZero inference makes them. Requests are due at a steady rate \
                  whether or not earlier ones have been answered, and latency counts from the time a request was due.",
    after_long_help = format!(
        "{FORMS}\n\n{EXIT_CODES}\n\n\
         Time limits: connecting and each question before the run, connect_timeout of --postgres-url (10 s); locks on \
         the tables 15 s, making or emptying them 10 min; a request, until --drain ends, or (writes + 2) x \
         --statement-timeout + 5 s; --verify 60 s. docs/time-limits.md has all of them.\n\n\
         Examples:\n  \
         load_test --ephemeral --rps 100 --duration 10 --output-size-kb 10 --raw-response-size-kb 10\n  \
         load_test --setup --rps 50 --workers 4 --output-size-kb 10 --raw-response-size-kb 10\n  \
         POSTGRES_URL='postgres://…?sslmode=require' load_test --rps 1000 --workers 32 --slo 'p99<50ms'"
    )
)]
pub struct LoadTestOptions {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub local: LocalOptions,
    #[command(flatten)]
    pub load: LoadOptions,
    #[command(flatten)]
    pub data: DataOptions,
    #[command(flatten)]
    pub part: PartOptions,
    #[command(flatten)]
    pub criteria: CriteriaOptions,
    #[command(flatten)]
    pub output: OutputOptions,
}

/// Which database, and how it is made ready.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Database")]
pub struct TargetOptions {
    /// The database: URL or key=value, as for psql
    ///
    /// Better in the environment than on the command line, which a shell remembers; other users of this machine can read
    /// neither while the test runs. [default: as psql, where PGHOST, PGHOSTADDR, PGPORT, PGUSER, PGDATABASE, PGPASSWORD,
    /// PGPASSFILE or PGSERVICE is set, else postgresql://postgres:postgres@localhost:5432/tensorzero_loadtest]
    #[arg(long, value_name = "URL", env = "POSTGRES_URL", hide_env_values = true)]
    pub postgres_url: Option<String>,

    /// Whether the connection string stood in the variable, and not in the option.
    #[arg(skip)]
    #[serde(default)]
    pub is_url_from_variable: bool,

    /// Create what is missing of database and tables
    ///
    /// With --duration 0 nothing else is done. Without a value: logged.
    #[arg(long, value_name = "KIND", value_enum, num_args = 0..=1, default_missing_value = "logged")]
    pub setup: Option<Persistence>,

    /// Keep the rows of earlier runs instead of emptying the tables first
    #[arg(long, hide_short_help = true)]
    pub no_reset: bool,

    /// Use unnamed statements: for PgBouncer and other poolers in transaction mode
    #[arg(long, hide_short_help = true)]
    pub no_prepared_statements: bool,

    /// Let the server cancel statements that run longer [default: the server's own]
    #[arg(long, value_name = "DURATION", hide_short_help = true, value_parser = values::duration_within(
        Duration::from_millis(1)..=MOST_STATEMENT_TIMEOUT,
        "give 1ms to 596h (the server holds 2147483647 ms), or leave it out",
    ))]
    pub statement_timeout: Option<Duration>,

    /// Afterwards, compare rows with acknowledgements
    ///
    /// Where an answer was lost, the request's rows are looked up by their IDs. Takes up to 60 s, and waits for a server
    /// that is down. A difference is LOST WRITES.
    #[arg(long)]
    pub verify: bool,

    /// Do not ask the server for its statistics during the run
    ///
    /// Saves one connection, seven or eight short queries a second, and 1.5 s at the end; the result then says nothing of what
    /// the server's sessions waited for.
    #[arg(long, hide_short_help = true)]
    pub no_server_stats: bool,

    /// Name of the connections in pg_stat_activity
    #[arg(long, value_name = "NAME", default_value = "postgres_load_test", hide_short_help = true)]
    pub application_name: String,
}

/// What the server's `statement_timeout` holds.
const MOST_STATEMENT_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// What concerns the machine that `load_test` itself runs on.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[command(next_help_heading = "This machine")]
pub struct LocalOptions {
    /// Use a throwaway PostgreSQL
    ///
    /// It is started with tables for this run, and removed afterwards.
    #[arg(long, help_heading = "Database")]
    pub ephemeral: bool,

    /// Docker container whose CPU and memory are reported with the figures
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub docker_container: Option<String>,
}

/// How much load, and for how long.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Load")]
pub struct LoadOptions {
    /// Target rate, requests per second
    ///
    /// max: each worker sends its next request at once.
    #[arg(short, visible_short_alias = 'R', long, value_name = "RATE|max", default_value = "100",
          value_parser = values::target_rate)]
    pub rps: TargetRate,

    /// Length of the measured window
    #[arg(short, long, value_name = "DURATION", default_value = "60", value_parser = values::duration)]
    pub duration: Duration,

    /// Number of workers, each with a connection
    #[arg(short, visible_short_alias = 'c', long, value_name = "N", default_value = "8",
          value_parser = values::whole::<usize>(1..=100_000))]
    pub workers: usize,

    /// Spacing of the requests
    #[arg(long, value_name = "KIND", value_enum, default_value = "constant", hide_short_help = true)]
    pub arrival: Arrival,

    /// Load before the window, which does not count
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = values::duration)]
    pub warmup: Duration,

    /// How long to wait for requests in flight after the window has closed
    #[arg(long, value_name = "DURATION", default_value = "30s", hide_short_help = true, value_parser = values::duration)]
    pub drain: Duration,

    /// Give up requests that are later than this, and count them as skipped [default: never]
    #[arg(long, value_name = "DURATION", hide_short_help = true, value_parser = values::duration)]
    pub max_lag: Option<Duration>,

    /// Isolation level of the transactions [default: the server's own]
    #[arg(long, value_name = "LEVEL", value_enum, ignore_case = true, hide_short_help = true)]
    pub isolation: Option<Isolation>,

    /// How often to try a request that ends in a serialization failure or a deadlock
    ///
    /// Its latency counts from the time it was due to its last answer.
    #[arg(long, value_name = "N", default_value = "1", hide_short_help = true,
          value_parser = values::whole::<u32>(1..=1_000))]
    pub max_tries: u32,

    /// End the run early once this many requests have failed
    ///
    /// Checked once a second; what was measured until then is reported. Without a value: 1. [default: never]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1", hide_short_help = true,
          value_parser = values::whole::<u64>(1..=u64::MAX))]
    pub abort_on_errors: Option<u64>,

    /// Threads that drive the workers [default: number of processors, at most --workers]
    #[arg(short = 'j', long, value_name = "N", hide_short_help = true, value_parser = values::whole::<usize>(1..=1_024))]
    pub threads: Option<usize>,

    /// Send the whole transaction in one round trip instead of one for each statement
    #[arg(long, hide_short_help = true)]
    pub pipeline: bool,

    /// Random seed: the same value reproduces payloads and arrival times
    #[arg(long, value_name = "N", default_value = "1", hide_short_help = true,
          value_parser = values::whole::<u64>(0..=u64::MAX))]
    pub seed: u64,
}

/// Being one of several processes that run one test.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[command(next_help_heading = "One of several VMs")]
pub struct PartOptions {
    /// Run only share I of N of the schedule, I from 1; --rps is the rate of the whole test
    ///
    /// Together the shares are exactly the whole. Tables are emptied only together with --start-at. [default: 1/1]
    #[arg(long, value_name = "I/N", hide_short_help = true, value_parser = values::share)]
    pub share: Option<Share>,

    /// When to begin: RFC 3339 (2026-01-31T12:00:00Z) or seconds since 1970
    ///
    /// Everything is made ready before. [default: as soon as all is ready]
    #[arg(long = "start-at", value_name = "TIME", hide_short_help = true, value_parser = values::instant)]
    pub start_at_unix_ns: Option<u64>,

    /// Take options and orders from standard input and answer with events
    ///
    /// The coordinator runs this program so. All other options are ignored.
    #[arg(long, hide_short_help = true)]
    pub agent: bool,
}

/// What a run must reach.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Verdict")]
pub struct CriteriaOptions {
    /// Minimum achieved rate, as % of the target, to pass
    #[arg(long, value_name = "PERCENT", default_value = "90", hide_short_help = true, value_parser = values::percent)]
    pub min_achieved: f64,

    /// Maximum share of failed requests, in %, to pass
    #[arg(long, value_name = "PERCENT", default_value = "0", hide_short_help = true, value_parser = values::percent)]
    pub max_error_rate: f64,

    #[arg(long, value_name = "LIMIT", value_parser = values::slo, help = SLO, long_help = slo_help())]
    pub slo: Vec<Slo>,
}

const SLO: &str = "Latency limit, such as 'p99<20ms'; repeatable";

fn slo_help() -> String {
    format!("{SLO}\n\nFigures: {}; units: us, ms, s; < or <=.", Slo::FIGURES.join(", "))
}

/// What is written where.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[command(next_help_heading = "Output")]
pub struct OutputOptions {
    /// Print a JSON document instead of the report
    #[arg(long)]
    pub json_output: bool,

    /// Also write the JSON document to this file
    ///
    /// - is stdout, as with --json-output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Also write the result as one HTML page to this file
    ///
    /// It needs no network, and opens in any browser.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Write an HdrHistogram interval log of the latency, one line a second
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub hdr_log: Option<PathBuf>,

    /// Print no progress, only report and errors
    #[arg(short, long)]
    pub quiet: bool,

    /// Print each step and each new kind of error
    ///
    /// The steps of the set-up, and the first error of each kind when it happens.
    #[arg(short, long)]
    pub verbose: bool,
}

/// Where the JSON document goes: whether to stdout, and to which file. `-` and the names of file descriptor 1 are stdout.
pub fn json_to(json_output: bool, output: Option<&Path>) -> (bool, Option<PathBuf>) {
    match output {
        Some(path) if is_stdout(path) => (true, None),
        file => (json_output, file.map(Path::to_owned)),
    }
}

/// Whether a path names this process's standard output.
pub fn is_stdout(path: &Path) -> bool {
    path == Path::new("-") || descriptor_of(path) == Some(1)
}

/// The file descriptor of this process that a path names.
pub fn descriptor_of(path: &Path) -> Option<u32> {
    let path = path.to_str()?;
    let number = ["/dev/fd/", "/proc/self/fd/"].iter().find_map(|folder| path.strip_prefix(folder)?.parse().ok());
    number
        .or_else(|| ["/dev/stdin", "/dev/stdout", "/dev/stderr"].iter().position(|name| *name == path)?.try_into().ok())
}
