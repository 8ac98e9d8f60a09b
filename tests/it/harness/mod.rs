//! What the integration tests stand on: our programs and the servers that they are tested against, each started for one
//! test and gone when dropped.
//!
//! - [`program`]: runs `load_test`, `coordinator` or another program: arguments, environment, signals, output.
//! - [`result`]: reads result documents, and what must hold in each of them.
//! - [`postgres`]: a PostgreSQL server. [`pgbouncer`]: a PgBouncer in front of it.
//! - [`sshd`]: an SSH server that answers on every loopback address. [`namespace`]: a machine whose link can be cut.
//! - [`proxy`]: a TCP proxy that delays, cuts and garbles. [`delay`]: a relay that only delays.
//! - [`terminal`]: a terminal whose screen can be read. [`docker`]: a Docker engine.
//! - [`turns`]: tests that need the whole machine run alone.
//! - [`processes`], [`files`], [`wait`]: small helpers.
//!
//! A fault of the harness is a panic. A test that cannot run on this machine calls [`skipped`] and returns.

pub mod delay;
pub mod docker;
mod files;
mod namespace;
mod pgbouncer;
mod postgres;
pub mod processes;
mod program;
pub mod proxy;
mod result;
pub mod sshd;
pub mod terminal;
mod turns;
mod wait;

pub use files::{TmpFs, document, entries, public_folder, text, write_script};
pub use namespace::Namespace;
pub use pgbouncer::PgBouncer;
pub use postgres::{Setup, TestServer, Version, psql};
pub use program::{PASSWORD, Program, Ran, SMALL, Started, coordinator, load_at, load_test, python, small_binary};
pub use result::{all_written, assert_adds_up, assert_rows_match, count, ms};
pub use turns::{alone, take_part};
pub use wait::{PATIENCE, free_port, is_installed, skipped, start_at, user, wait_until, wait_until_gone};
