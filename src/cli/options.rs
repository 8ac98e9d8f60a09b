//! The command lines, as typed: raw values and help texts. No I/O, no judgement.
//!
//! Values stay text here, so that [`crate::cli::plan`] can report all wrong ones at once. Groups are structs of their own,
//! which both programs share.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the comments of fields are help texts, in which [default: …] is no link"
)]

mod command_line;
mod coordinator;
mod merge;

pub use command_line::read;
pub use coordinator::{CoordinatorOptions, FleetOptions};
pub use merge::MergeOptions;

use std::path::{Path, PathBuf};

use clap::{Args, Parser};
use serde::{Deserialize, Serialize};

use crate::version::VERSION;
use crate::workload::DataOptions;

/// The connection string that is used where none is given.
pub const DEFAULT_POSTGRES_URL: &str = "postgresql://postgres:postgres@localhost:5432/tensorzero_loadtest";

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
    after_help = "Numbers: 1000, .5, 1e3, 10k, 1.5M. Durations: 60, 60s, 500ms, 5m, 1h, 1m30s (seconds without a \
                  unit). Sizes: KB of 1,024 bytes, or with a unit: 10k, 1.5M.\n\n\
                  Exit codes: 0 PASSED; 1 DEGRADED, FAILED, INVALID or LOST WRITES; 2 wrong use; 3 it could not run; 130 interrupted.\n\n\
                  Time limits: connecting and each question before the run, connect_timeout of --postgres-url (10 s); \
                  locks on the tables 15 s, making or emptying them 10 min; a request, until --drain ends, or (writes + 2) x \
                  --statement-timeout + 5 s; --verify 60 s. docs/time-limits.md has all of them.\n\n\
                  Examples:\n  \
                  load_test --ephemeral --rps 100 --duration 10 --output-size-kb 10 --raw-response-size-kb 10\n  \
                  load_test --setup --rps 50 --workers 4 --output-size-kb 10 --raw-response-size-kb 10\n  \
                  POSTGRES_URL='postgres://…?sslmode=require' load_test --rps 1000 --workers 32 --slo 'p99<50ms'"
)]
pub struct LoadTestOptions {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: TargetOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub local: LocalOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub data: DataOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub part: PartOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub criteria: CriteriaOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputOptions,
}

/// Which database, and how it is made ready.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Database")]
pub struct TargetOptions {
    /// Where the database is: a URL or key=value string as psql takes it. Better in the environment than on the
    /// command line, which a shell remembers; other users of this machine can read neither while the test runs.
    /// [default: as psql, where PGHOST, PGHOSTADDR, PGPORT, PGUSER, PGDATABASE, PGPASSWORD, PGPASSFILE or PGSERVICE is
    /// set, else postgresql://postgres:postgres@localhost:5432/tensorzero_loadtest]
    #[arg(long, value_name = "URL", env = "POSTGRES_URL", hide_env_values = true)]
    pub postgres_url: Option<String>,

    /// Where the connection string stood: the flag, or the variable
    #[arg(skip)]
    #[serde(default)]
    pub postgres_url_from: Option<String>,

    /// Create the database where it is missing, and the tables (logged or unlogged), then go on. With --duration 0
    /// nothing else is done [default without a value: logged]
    #[arg(long, value_name = "KIND", num_args = 0..=1, default_missing_value = "logged")]
    pub setup: Option<String>,

    /// Keep the rows of earlier runs instead of emptying the tables first
    #[arg(long)]
    pub no_reset: bool,

    /// Use unnamed statements: for PgBouncer and other poolers in transaction mode
    #[arg(long)]
    pub no_prepared_statements: bool,

    /// Let the server cancel statements that run longer [default: the server's own]
    #[arg(long, value_name = "DURATION")]
    pub statement_timeout: Option<String>,

    /// After the run, compare the rows in the database with what was acknowledged, and look up the requests of which it
    /// is not known whether they were committed. Takes up to 60 s; a server that is down is waited for. A difference is
    /// LOST WRITES
    #[arg(long)]
    pub verify: bool,

    /// Name under which the connections show in pg_stat_activity
    #[arg(long, value_name = "NAME", default_value = "postgres_load_test")]
    pub application_name: String,
}

/// What concerns the machine that `load_test` itself runs on.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[command(next_help_heading = "This machine")]
pub struct LocalOptions {
    /// Start a throwaway PostgreSQL for this run, with tables, and remove it afterwards
    #[arg(long)]
    pub ephemeral: bool,

    /// Docker container whose CPU and memory are reported beside the figures
    #[arg(long, value_name = "NAME")]
    pub docker_container: Option<String>,
}

/// How much load, and for how long.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Load")]
pub struct LoadOptions {
    /// Target rate in requests per second, or "max": every worker starts its next request at once
    #[arg(long, value_name = "RATE|max", default_value = "100")]
    pub rps: String,

    /// Length of the measured window
    #[arg(long, value_name = "DURATION", default_value = "60")]
    pub duration: String,

    /// Number of workers, each with a connection of its own
    #[arg(long, value_name = "N", default_value = "8")]
    pub workers: String,

    /// Spacing of the requests: constant, or poisson (random, as from many independent callers)
    #[arg(long, value_name = "KIND", default_value = "constant")]
    pub arrival: String,

    /// Load before the measured window, which does not count
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub warmup: String,

    /// How long requests in flight are waited for when the window has closed
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub drain: String,

    /// Give up requests that are later than this, and count them as skipped [default: never]
    #[arg(long, value_name = "DURATION")]
    pub max_lag: Option<String>,

    /// Isolation level of the transactions: read-committed, repeatable-read or serializable [default: the server's own]
    #[arg(long, value_name = "LEVEL")]
    pub isolation: Option<String>,

    /// How often a request is tried where the server reports a serialization failure or a deadlock; its latency counts
    /// from the time it was due to its last answer
    #[arg(long, value_name = "N", default_value = "1")]
    pub max_tries: String,

    /// End the run early once so many requests have failed, and report what was measured until then. Looked at once a
    /// second [default without a value: 1]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1")]
    pub abort_on_errors: Option<String>,

    /// Threads that drive the workers [default: number of processors, at most --workers]
    #[arg(long, value_name = "N")]
    pub threads: Option<String>,

    /// Send the whole transaction in one round trip instead of one for each statement
    #[arg(long)]
    pub pipeline: bool,

    /// What payloads and random arrivals are a function of
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: String,
}

/// Being one of several processes that run one test.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[command(next_help_heading = "One of several machines")]
pub struct PartOptions {
    /// Run only part I of N of the schedule, I from 1; --rps is the rate of the whole test. Together the parts are
    /// exactly the whole. Tables are emptied only together with --start-at [default: 1/1]
    #[arg(long, value_name = "I/N")]
    pub share: Option<String>,

    /// When to begin: RFC 3339 (2026-01-31T12:00:00Z) or seconds since 1970. Everything is made ready before
    /// [default: as soon as all is ready]
    #[arg(long, value_name = "TIME")]
    pub start_at: Option<String>,

    /// Take options and orders from standard input and answer with events: how the coordinator runs this program.
    /// All other options are ignored
    #[arg(long)]
    pub agent: bool,
}

/// What a run must reach.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Verdict")]
pub struct CriteriaOptions {
    /// Least part of the target rate that passes, percent
    #[arg(long, value_name = "PERCENT", default_value = "90")]
    pub min_achieved: String,

    /// Greatest part of the requests that may fail, percent
    #[arg(long, value_name = "PERCENT", default_value = "0")]
    pub max_error_rate: String,

    /// Limit on the latency that fails the run where it is passed, such as 'p99<20ms'; figures: avg, p50, p90, p95,
    /// p99, p99.9, max; units: us, ms, s. May be given several times
    #[arg(long, value_name = "LIMIT")]
    pub slo: Vec<String>,
}

/// What is written where.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Output")]
pub struct OutputOptions {
    /// Print one JSON document on stdout instead of the report
    #[arg(long)]
    pub json_output: bool,

    /// Also write the JSON document to this file; - is stdout, as with --json-output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Write an HdrHistogram interval log of the latency, one line a second
    #[arg(long, value_name = "FILE")]
    pub hdr_log: Option<PathBuf>,

    /// Print the first error of each kind when it happens, and what is being set up
    #[arg(long)]
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
