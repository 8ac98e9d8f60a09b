//! What this machine has, and whether a run fits into it: open files and memory. Checked before anything is done, so that
//! a shortage is a sentence with a remedy instead of a run that fails halfway.
//!
//! [`check`] is pure; [`Room::of_process`] and [`raise_open_files`] ask the system.

mod memory;

use std::net::IpAddr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::plan::{Plan, Target};
use crate::engine::EngineOptions;
use crate::postgres::conninfo::Host;
pub use memory::Memory;

/// Descriptors of a worker: its socket and its timer.
const FILES_PER_WORKER: u64 = 2;

/// Requests up to this size fit into a socket, and need no second descriptor that waits for room in it.
const SMALL_REQUEST_BYTES: usize = 32 << 10;

/// Descriptors of a generator thread: those of its runtime, its timer, and a file that it reads.
const FILES_PER_THREAD: u64 = 6;

/// The main runtime, with what listens for signals.
const FILES_OF_RUNTIME: u64 = 6;

/// What is open now and then: a connection before or after the load, `--output`, `--hdr-log`, `--html`, the Docker engine, files
/// that are read.
const FILES_BESIDE: u64 = 9;

/// What this machine calls itself. Results name it, and `merge` refuses one without a name.
pub fn hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.trim().is_empty() { "localhost".to_owned() } else { name }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// How many files it may open; `None` where there is no limit.
    pub open_files: Option<u64>,
    /// How many it has open, those that it inherited included.
    pub open_already: u64,
    /// How much memory it may take; `None` where the system does not tell.
    pub memory: Option<Memory>,
}

impl Room {
    /// What this process may use, with the limit of open files raised as far as it goes.
    pub fn of_process() -> Self {
        Self { open_files: raise_open_files(), open_already: open_already(), memory: Memory::available() }
    }
}

/// Raises the soft limit to the hard one. Returns what then counts; `None` where there is no limit.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    // Where it is not allowed, the old limit counts.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    getrlimit(Resource::Nofile).current
}

/// How many files this process has open; the three standard streams where the system does not tell.
fn open_already() -> u64 {
    // One of them is the folder that is being read.
    std::fs::read_dir("/proc/self/fd").map_or(3, |files| (files.count() as u64).saturating_sub(1))
}

/// Whether a run fits into what there is. What a database server on this machine takes is not counted.
///
/// # Errors
/// A sentence for each thing that is short, with the flags and how much it takes.
pub fn check(plan: &Plan, room: &Room) -> Result<(), String> {
    let mut engine = plan.engine.clone();
    if plan.database.setup_only {
        (engine.workers, engine.threads) = (0, 0);
    }
    let files = check_open_files(&engine, files_per_worker(plan), room);
    let memory = memory::check(&engine, &plan.workload, room.memory);
    let lacking: Vec<String> = [files, memory].into_iter().filter_map(Result::err).collect();
    if lacking.is_empty() { Ok(()) } else { Err(lacking.join("; ")) }
}

/// A worker has a descriptor more while its socket is full, while it looks up a name in order to connect anew, or while
/// the server is asked to cancel a request that was given up.
fn files_per_worker(plan: &Plan) -> u64 {
    let is_large = plan.workload.document_bytes() > SMALL_REQUEST_BYTES;
    let looks_up = match &plan.database.target {
        Target::Ephemeral => false,
        Target::Existing(spec) => spec.hosts.iter().any(|host| match &host.host {
            Host::Tcp(name) => host.hostaddr.is_none() && name.parse::<IpAddr>().is_err(),
            Host::Default => true,
            Host::Unix(_) => false,
        }),
    };
    let gives_up = plan.engine.session.statement_timeout.is_some();
    FILES_PER_WORKER + u64::from(is_large || looks_up || gives_up)
}

fn check_open_files(engine: &EngineOptions, per_worker: u64, room: &Room) -> Result<(), String> {
    let (workers, threads) = (engine.workers as u64, engine.threads as u64);
    let needed =
        workers * per_worker + threads * FILES_PER_THREAD + room.open_already + FILES_OF_RUNTIME + FILES_BESIDE;
    match room.open_files {
        Some(open_files) if open_files < needed => Err(format!(
            "this machine lets a process open {open_files} files, which is too few for {workers} workers: raise the \
             limit (ulimit -n, nofile in limits.conf) to at least {needed}, or lower --workers"
        )),
        _ => Ok(()),
    }
}
