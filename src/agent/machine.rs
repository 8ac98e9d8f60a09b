//! The machine that the agent runs on: who it is.

use super::protocol::Hello;
use crate::version::BUILD;

/// Says who this is. `open_files` is how many files the process may open.
pub(super) fn introduce(open_files: Option<u64>) -> Hello {
    Hello {
        build: BUILD.to_owned(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        hostname: crate::machine::hostname(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        open_files,
    }
}
