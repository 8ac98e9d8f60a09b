//! What this machine has, and whether a run gets by with it: open files and memory. Asked before anything is done, so
//! that a shortage is a sentence with a remedy, and not a run that fails in its middle.
//!
//! [`check`] is pure; [`Room::of_process`] and [`raise_open_files`] ask the system.

mod memory;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::database::conninfo::Host;
use crate::engine::EngineOptions;
use crate::plan::{Plan, Target};
pub use memory::Memory;

/// Descriptors of a worker: its socket, its timer, and a second one for the socket while that is full. (While it
/// connects, looking up a name takes no more.)
const FILES_PER_WORKER: u64 = 3;

/// Descriptors of a generator thread: those of its runtime, its timer, and a file that it reads.
const FILES_PER_THREAD: u64 = 6;

/// Everything else: standard streams, the main runtime, connections for the set-up, reading certificates, the resolver.
const FILES_BESIDE: u64 = 48;

/// What this machine calls itself. Results name it, and `merge` refuses one without a name.
pub fn hostname() -> String {
    let name = gethostname::gethostname().to_string_lossy().into_owned();
    if name.trim().is_empty() { "localhost".to_owned() } else { name }
}

/// What a process may use here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// How many files it may open; `None` where there is no limit.
    pub open_files: Option<u64>,
    /// How much memory it may take; `None` where the system does not tell.
    pub memory: Option<Memory>,
}

impl Room {
    /// What this process may use, with the limit of open files raised as far as it goes.
    pub fn of_process() -> Self {
        Self { open_files: raise_open_files(), memory: Memory::available() }
    }
}

/// Raises the soft limit to the hard one. Returns what then counts; `None` where there is no limit.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    // Where it is not allowed, the old limit counts.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    getrlimit(Resource::Nofile).current
}

/// Whether a run gets by with what there is. What the database's server takes is not counted, even where it is on this
/// machine.
///
/// # Errors
/// A sentence for each thing that is short, with the flags and how much it takes.
pub fn check(plan: &Plan, room: &Room) -> Result<(), String> {
    let mut engine = plan.engine.clone();
    if plan.setup_only {
        (engine.workers, engine.threads) = (0, 0);
    }
    let files = check_open_files(&engine, room.open_files);
    let memory = memory::check(&engine, &plan.workload, is_on_unix_sockets(&plan.target), room.memory.as_ref());
    let lacking: Vec<String> = [files, memory].into_iter().filter_map(Result::err).collect();
    if lacking.is_empty() { Ok(()) } else { Err(lacking.join("; ")) }
}

fn is_on_unix_sockets(target: &Target) -> bool {
    match target {
        Target::Ephemeral => true,
        Target::Existing(spec) => spec.hosts.iter().any(|host| !matches!(host.host, Host::Tcp(_))),
    }
}

fn check_open_files(engine: &EngineOptions, open_files: Option<u64>) -> Result<(), String> {
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
