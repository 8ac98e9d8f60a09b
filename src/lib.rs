//! The map of the crate: what stands where, which way data flows, and who may know whom.
//!
//! ```text
//! cli (options → plan) ─┬─→ schedule ─┐
//!                       ├─→ workload ─┼─→ engine ─→ measure ─→ result ─┬─→ verdict ─→ report
//!                       └─→ postgres ─┘                                └─→ JSON
//!
//! many VMs: cli (coordinator's options) ─→ fleet ⇄ (SSH) ⇄ agent ─→ run, on each VM
//!                                           └─→ merge ─→ result ─→ verdict ─→ report
//! ```
//!
//! From the ground up; each module knows only modules above it in this list:
//!
//! - [`text`]: values as words and words as values. [`clock`]: monotonic time, and T0 on the wall clock. [`random`]: numbers
//!   that are a function of a seed. [`signals`]: requests to stop. [`version`]: which program this is.
//! - [`schedule`]: when each request is due; shares of one schedule. Pure.
//! - [`workload`]: what a request writes, as a function of (seed, slot), and the messages that carry it. Pure.
//! - [`measure`]: counters and histograms with one `add`, errors in classes, outages and stalls; what a run leaves behind.
//!   Pure.
//! - [`postgres`]: connection strings, TLS, connections. [`throwaway`]: a server for one run.
//! - [`monitor`]: what is watched during a run: the database server, a Docker container.
//! - [`engine`]: drives load: threads, workers, pacing, drain.
//! - [`result`]: the versioned JSON document of one VM or of many. Pure.
//! - [`verdict`]: status, reason, warnings, advice. Pure.
//! - [`database`]: what a run asks of the database before and after the load: tables, rights, marks, verification.
//! - [`cli`]: options with their types and help, and the plan that they mean. [`machine`]: open files and memory of this machine.
//! - [`merge`]: many results → one. Pure, except that it reads the files.
//! - [`run`]: one run from a plan to a result. [`agent`]: the same run, led by a coordinator; the protocol between both.
//! - [`fleet`]: the coordinator's side: which VMs, SSH to them, how the program gets there, the phases of a test.
//! - [`report`]: result → text, JSON, HTML page, interval log; live lines. [`console`]: what both programs say, and their exit codes.
//!
//! Pure modules know no tokio, no clock and no socket. Only the binaries print and exit. Times are nanoseconds of the
//! monotonic clock inside, microseconds in histograms, milliseconds in what people and scripts read; names say which.

mod agent;
mod cli;
mod clock;
mod console;
mod database;
mod engine;
mod fleet;
mod machine;
mod measure;
mod merge;
mod monitor;
mod postgres;
mod random;
mod report;
mod result;
mod run;
mod schedule;
mod signals;
mod text;
mod throwaway;
mod verdict;
mod version;
mod workload;

/// What the two programs call.
pub mod program {
    pub use crate::agent::{Ending, serve as serve_coordinator};
    pub use crate::cli::handover::{URL_VARIABLE, hide_connection_string, url_name};
    pub use crate::cli::options::{CoordinatorOptions, LoadTestOptions};
    pub use crate::cli::plan::Plan;
    pub use crate::cli::{all_or_faults, read};
    pub use crate::clock::unix_ns;
    pub use crate::console::fleet::coordinate;
    pub use crate::console::load_test::load_test;
    pub use crate::console::merge::run as merge;
    pub use crate::console::report::run as report;
    pub use crate::console::{
        BUG, COULD_NOT_RUN, INTERRUPTED, Stopped, code_of_output, note, refuse, say_error, wrong_use,
    };
    pub use crate::fleet::FleetError;
    pub use crate::fleet::hosts::read_list;
    pub use crate::fleet::plan::FleetPlan;
    pub use crate::machine::{Room, check as check_machine, raise_open_files};
    pub use crate::postgres::conninfo::Environment;
    pub use crate::run::RunError;
}

/// What the integration tests and the fuzz targets look into. No promise: it changes with the code.
#[doc(hidden)]
pub mod testing {
    pub use crate::agent::protocol;
    pub use crate::cli::options::{CoordinatorOptions, LoadTestOptions};
    pub use crate::cli::plan::Plan;
    pub use crate::cli::values::Fault;
    pub use crate::cli::{all_or_faults, read};
    pub use crate::clock::unix_ns;
    pub use crate::database::limits::{SessionLimits, lacking};
    pub use crate::engine::wire::Wire;
    pub use crate::fleet::binary::AgentBinary;
    pub use crate::fleet::plan::FleetPlan;
    pub use crate::fleet::ssh::{HostKeys, Sessions, SshError, SshErrorKind, SshOptions};
    #[cfg(fuzzing)]
    pub use crate::fleet::tests::hostile;
    pub use crate::fleet::{deploy, hosts};
    pub use crate::measure::counters::Counts;
    pub use crate::measure::durations::Durations;
    pub use crate::measure::encoded::EncodedHistogram;
    pub use crate::measure::figures::Figures;
    pub use crate::measure::outcome::Failure;
    pub use crate::measure::recorder::Recorder;
    pub use crate::merge::{files, merge};
    pub use crate::monitor::docker::{ContainerError, ContainerMonitor};
    pub use crate::postgres::connect::{ConnectError, ConnectErrorKind, Connection, Connector, Driver, Stream};
    pub use crate::postgres::conninfo::{ConnectionSpec, Environment};
    pub use crate::postgres::link::Link;
    pub use crate::result::RunResult;
    pub use crate::schedule::Share;
    pub use crate::throwaway::{ThrowawayError, ThrowawayOptions, ThrowawayServer};
    pub use crate::version::BUILD;
    pub use crate::workload::batch::Outgoing;
}
