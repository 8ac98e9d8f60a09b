//! The machine that the agent runs on: who it is, and how many files it may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::protocol::Hello;
use crate::engine::EngineOptions;
use crate::options::BUILD;

/// Descriptors of a worker: its socket and its timer.
const FILES_PER_WORKER: u64 = 2;

/// Descriptors of a generator thread: those of its runtime and its timer.
const FILES_PER_THREAD: u64 = 6;

/// Everything else: standard streams, the main runtime, connections for the set-up, reading certificates, the resolver.
const FILES_BESIDE: u64 = 48;

/// Raises the limit of open files as far as it goes, and says who this is.
pub(super) fn introduce() -> Hello {
    Hello {
        build: BUILD.to_owned(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        hostname: gethostname::gethostname().to_string_lossy().into_owned(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        open_files: raise_open_files(),
    }
}

/// Raises the soft limit to the hard one. Returns what then counts; `None` where there is no limit.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    // Where it is not allowed, the old limit counts.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    getrlimit(Resource::Nofile).current
}

/// Whether a run gets by with `open_files` descriptors.
///
/// # Errors
/// A sentence, with how many it takes.
pub(super) fn check_open_files(engine: &EngineOptions, open_files: Option<u64>) -> Result<(), String> {
    let (workers, threads) = (engine.workers as u64, engine.threads as u64);
    let needed = workers * FILES_PER_WORKER + threads * FILES_PER_THREAD + FILES_BESIDE;
    match open_files {
        Some(open_files) if open_files < needed => Err(format!(
            "this machine lets a process open {open_files} files, which is too few for {workers} workers: raise the \
             limit (ulimit -n, nofile in limits.conf) to at least {needed}, or lower --workers"
        )),
        _ => Ok(()),
    }
}
