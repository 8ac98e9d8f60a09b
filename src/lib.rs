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
//! - [`monitor`]: what is watched next to a run: a Docker container.
//! - [`postgres`]: connection strings, TLS, connections. [`throwaway`]: a server for one run.
//! - [`engine`]: drives load: threads, workers, pacing, drain.
//! - [`result`]: the versioned JSON document of one VM or of many. Pure.
//! - [`verdict`]: status, reason, warnings, advice. Pure.
//! - [`database`]: what a run asks of the database before and after the load: tables, rights, marks, verification.
//! - [`cli`]: options with their types and help, and the plan that they mean. [`machine`]: open files and memory of this machine.
//! - [`merge`]: many results → one. Pure, except that it reads the files.
//! - [`run`]: one run from a plan to a result. [`agent`]: the same run, led by a coordinator; the protocol between both.
//! - [`fleet`]: the coordinator's side: which VMs, SSH to them, how the program gets there, the phases of a test.
//! - [`report`]: result → text, JSON, interval log; live lines. [`console`]: what both programs say, and their exit codes.
//!
//! Pure modules know no tokio, no clock and no socket. Only the binaries print and exit. Times are nanoseconds of the
//! monotonic clock inside, microseconds in histograms, milliseconds in what people and scripts read; names say which.

pub mod agent;
pub mod cli;
pub mod clock;
pub mod console;
pub mod database;
pub mod engine;
pub mod fleet;
pub mod machine;
pub mod measure;
pub mod merge;
pub mod monitor;
pub mod postgres;
pub mod random;
pub mod report;
pub mod result;
pub mod run;
pub mod schedule;
pub mod signals;
pub mod text;
pub mod throwaway;
pub mod verdict;
pub mod version;
pub mod workload;
