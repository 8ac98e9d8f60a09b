//! The map of the crate: what stands where, which way data goes, and who may know whom.
//!
//! ```text
//! options ─→ plan ─┬─→ schedule ─┐
//!                  ├─→ workload ─┼─→ engine ─→ recorder ─→ result ─┬─→ verdict ─→ report
//!                  └─→ database ─┘                                 └─→ JSON
//!
//! many machines: coordinator's options ─→ fleet ⇄ (SSH) ⇄ agent ─→ run, on each machine
//!                                           └─→ merge ─→ result ─→ verdict ─→ report
//! ```
//!
//! - [`options`]: the command lines as typed. [`plan`]: what they mean, or all that is wrong with them.
//! - [`schedule`]: when each request is due; shares of one schedule. Pure.
//! - [`workload`]: what a request writes, as a function of (seed, slot); the SQL. Pure.
//! - [`database`]: connection strings, TLS, connections, tables, the throwaway server.
//! - [`engine`]: the only thing that drives load: threads, workers, pacing, drain.
//! - [`clock`]: monotonic time, and T0 on the wall clock.
//! - [`recorder`]: a thread's histograms and counters. [`outcome`]: database errors in classes. [`outages`]: times in
//!   which something was due and nothing acknowledged. [`stalls`]: times in which the generator stood still. Pure.
//! - [`result`]: the versioned JSON document, of one machine or of many. [`merge`]: many of them → one. Pure.
//! - [`verdict`]: status, reason, warnings, advice. Pure.
//! - [`report`]: result → text, live lines, the interval log.
//! - [`docker`]: CPU and memory of a container, from the Docker Engine.
//! - [`run`]: one run from a plan to a result, in order; what the binary calls. [`signals`]: being asked to stop.
//! - [`agent`]: the same run, led by a coordinator through standard input and output; the protocol between both.
//! - [`fleet`]: many machines: which, SSH to them, how the program gets there, and the phases that all go through
//!   together. SSH lives only here; nothing here knows Postgres.
//! - [`console`]: what both programs say, and the codes that they exit with.
//! - [`number`]: decimal numbers as people type them. Pure.
//! - [`machine`]: what this machine has of open files and memory, and whether a run gets by with it.
//! - [`handover`]: takes passwords out of a process's arguments and environment.
//!
//! Pure modules know no tokio, no clock and no socket. `engine` knows nothing of options and reports. Only the binaries
//! print and exit. Times are nanoseconds of the monotonic clock inside, microseconds in histograms, milliseconds in
//! what people and scripts read; names say which.

pub mod agent;
pub mod clock;
pub mod console;
pub mod database;
pub mod docker;
pub mod engine;
pub mod fleet;
pub mod handover;
pub mod machine;
pub mod merge;
pub mod number;
pub mod options;
pub mod outages;
pub mod outcome;
pub mod plan;
pub mod recorder;
pub mod report;
pub mod result;
pub mod run;
pub mod schedule;
pub mod signals;
pub mod stalls;
pub mod verdict;
pub mod workload;
