//! Memory: what is to be had here, and what a run takes.
//!
//! What a run takes depends little on the documents: all are cut from one pool, and go from there to the socket. It is
//! an estimate on the safe side, by the parts that grow with an option.

use std::fs;
use std::path::{Path, PathBuf};

use crate::engine::EngineOptions;
use crate::engine::wire::SEND_BUFFER_BYTES;
use crate::workload::Workload;

const MIB: u64 = 1 << 20;

/// The program itself, the sums of what was recorded, and the result.
const BASE_BYTES: u64 = 32 * MIB;

/// Copies of the pool's text while it is sent to the database: a message is put together and then framed. All else
/// shares the one text.
const POOL_COPIES_SENT: u64 = 2;

/// A generator thread: its recorders of this second and of those that are on their way.
const THREAD_BYTES: u64 = 12 * MIB;

/// A worker: its request, and what TLS holds of it. (What the system holds for TCP sockets it limits by itself, for all
/// of them together.)
const WORKER_BYTES: u64 = 256 << 10;

/// What the system may hold of a request for a Unix socket, where its limit is not to be read; Linux's default, twice.
const UNIX_SOCKET_BYTES: u64 = 2 * 212_992;

/// Memory that a process may still take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// How much.
    pub bytes: u64,
    /// What limits it: the machine, or a control group as containers and services have it.
    pub limited_by: Limit,
    /// How much of what was sent to a Unix socket, and not read yet, the system holds at most.
    pub unix_socket_bytes: u64,
}

/// What memory is limited by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// There is no more in it.
    Machine,
    /// The control group may have no more.
    ControlGroup,
}

impl Memory {
    /// What the system lets this process have without swapping; `None` where it does not tell (only Linux does).
    pub fn available() -> Option<Self> {
        let read = |name: &str| fs::read_to_string(Path::new("/proc").join(name)).ok();
        let machine = read("meminfo").and_then(|text| kib_of(&text, "MemAvailable:"));
        let group = read("self/cgroup").zip(read("self/mountinfo")).and_then(|(groups, mounts)| left(&groups, &mounts));
        // The system doubles what is asked for, to have room for its own notes.
        let send_buffer = read("sys/net/core/wmem_max").and_then(|text| text.trim().parse::<u64>().ok());
        let unix_socket_bytes = send_buffer.map_or(UNIX_SOCKET_BYTES, |most| 2 * most.min(SEND_BUFFER_BYTES as u64));
        let of = |limited_by: Limit| move |bytes: u64| Self { bytes, limited_by, unix_socket_bytes };
        let limits = [machine.map(of(Limit::Machine)), group.map(of(Limit::ControlGroup))];
        limits.into_iter().flatten().min_by_key(|memory| memory.bytes)
    }
}

/// A line of `/proc/meminfo`, in bytes.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the control groups of a process leave it, the closest limit of all that it is in. `groups` is its
/// `/proc/self/cgroup`, `mounts` its `/proc/self/mountinfo`.
fn left(groups: &str, mounts: &str) -> Option<u64> {
    let of_process = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let files = if controllers.is_empty() {
            &UNIFIED
        } else if controllers.split(',').any(|controller| controller == "memory") {
            &LEGACY
        } else {
            return None;
        };
        folders(files, path, mounts)?.into_iter().filter_map(|folder| files.left(&folder)).min()
    };
    groups.lines().filter_map(of_process).min()
}

/// The folder of a group and those of the groups that it is in, as far as they are to be seen here.
fn folders(files: &Files, path: &str, mounts: &str) -> Option<Vec<PathBuf>> {
    let (root, top) = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let (mut mount, mut kind) = (mount.split(' ').skip(3), kind.split(' '));
        let is_it = kind.next()? == files.file_system
            && (files.option.is_empty() || kind.nth(1)?.split(',').any(|option| option == files.option));
        is_it.then_some((mount.next()?, Path::new(mount.next()?)))
    })?;
    // In a container the mount may show a part of the tree alone, or the path lie outside of it.
    let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    let below = if below.components().any(|part| part.as_os_str() == "..") { Path::new("") } else { below };
    let folder = top.join(below);
    Some(folder.ancestors().take_while(|folder| folder.starts_with(top)).map(Path::to_owned).collect())
}

/// The names of a version of control groups.
struct Files {
    file_system: &'static str,
    /// Among the mount's options; empty where there is one tree for all controllers.
    option: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// Lines of `memory.stat`: what makes room when it is needed.
    cached: &'static [&'static str],
}

/// <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files>
const UNIFIED: Files = Files {
    file_system: "cgroup2",
    option: "",
    limit: "memory.max",
    usage: "memory.current",
    cached: &["inactive_file ", "active_file ", "slab_reclaimable "],
};

/// <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>
const LEGACY: Files = Files {
    file_system: "cgroup",
    option: "memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cached: &["total_inactive_file ", "total_active_file "],
};

impl Files {
    /// What a group leaves its processes; `None` where it has no limit.
    fn left(&self, folder: &Path) -> Option<u64> {
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        // "max" is no number.
        let (limit, usage) = (number(self.limit)?, number(self.usage)?);
        let stat = read("memory.stat").unwrap_or_default();
        let cached_in = |name: &&str| stat.lines().find_map(|line| line.strip_prefix(*name)?.parse::<u64>().ok());
        let cached: u64 = self.cached.iter().filter_map(cached_in).sum();
        Some(limit.saturating_sub(usage.saturating_sub(cached)))
    }
}

/// What a run takes, in bytes, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needed {
    documents: u64,
    workers: u64,
    threads: u64,
}

impl Needed {
    /// `socket_bytes` is what the system may hold for a socket.
    fn of(engine: &EngineOptions, workload: &Workload, socket_bytes: u64) -> Self {
        let (held_bytes, copies) = match workload.needs_material() {
            true => (0, 1 + POOL_COPIES_SENT),
            false => (socket_bytes.min(workload.document_bytes() as u64), 1),
        };
        Self {
            documents: copies * workload.pool_bytes() as u64,
            workers: engine.workers as u64 * (WORKER_BYTES + held_bytes),
            threads: engine.threads as u64 * THREAD_BYTES,
        }
    }

    fn total(&self) -> u64 {
        BASE_BYTES + self.documents + self.workers + self.threads
    }
}

/// Whether a run gets by with so much memory. `on_unix_sockets`: the database is reached over them.
///
/// # Errors
/// A sentence, with what it takes and which options make it less.
pub(super) fn check(
    engine: &EngineOptions,
    workload: &Workload,
    on_unix_sockets: bool,
    memory: Option<&Memory>,
) -> Result<(), String> {
    let Some(Memory { bytes, limited_by, unix_socket_bytes }) = memory else { return Ok(()) };
    let needed = Needed::of(engine, workload, if on_unix_sockets { *unix_socket_bytes } else { 0 });
    if needed.total() <= *bytes {
        return Ok(());
    }
    let mut parts =
        [(needed.documents, Workload::SIZE_FLAGS), (needed.workers, "--workers"), (needed.threads, "--threads")];
    parts.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let worth_naming = |part: &&(u64, &str)| part.0 >= needed.total() / 10;
    let lower: Vec<String> =
        parts.iter().filter(worth_naming).map(|(bytes, flag)| format!("{flag} ({} MB of it)", mib(*bytes))).collect();
    let (whose, more) = match limited_by {
        Limit::Machine => ("this machine has", "use a larger machine"),
        Limit::ControlGroup => ("the control group (container, service) may have", "raise its memory limit"),
    };
    Err(format!(
        "this run takes up to {} MB of memory, and {whose} {} MB more: lower {}, or {more}",
        mib(needed.total()),
        bytes / MIB,
        if lower.is_empty() { "--workers".to_owned() } else { lower.join(", ") },
    ))
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(MIB)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Pace, Schedule, Share};
    use crate::workload::payload::MAX_BYTES;
    use crate::workload::script::SessionOptions;

    const MEMINFO: &str = "MemTotal:       24682612 kB\nMemFree:         1672000 kB\nMemAvailable:   2000 kB\n";

    #[test]
    fn what_the_machine_has_left_is_read_in_bytes() {
        assert_eq!(kib_of(MEMINFO, "MemAvailable:"), Some(2_048_000));
        for text in ["", "MemFree: 1 kB\n", "MemAvailable: many kB\n", "MemAvailable: 5\n", "MemAvailable: -1 kB\n"] {
            assert_eq!(kib_of(text, "MemAvailable:"), None, "{text}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_tells() {
        assert!(Memory::available().is_some_and(|memory| memory.bytes > 0));
    }

    fn group(folder: &Path, files: &Files, limit: &str, usage: u64, cached: u64) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(files.limit), format!("{limit}\n")).unwrap();
        fs::write(folder.join(files.usage), format!("{usage}\n")).unwrap();
        // All but one byte in the last of them.
        let lines = files.cached.iter().enumerate().map(|(at, line)| match at + 1 == files.cached.len() {
            true => format!("{line}{}\n", cached.saturating_sub(1)),
            false => format!("{line}{}\n", u64::from(at == 0 && cached > 0)),
        });
        let stat = format!("anon 5\nslab 1\n{}unevictable 0\n", lines.collect::<String>());
        fs::write(folder.join("memory.stat"), stat).unwrap();
    }

    #[test]
    fn the_closest_limit_of_all_groups_counts() {
        let tree = tempfile::tempdir().unwrap();
        let top = tree.path();
        group(top, &UNIFIED, "max", 9_000, 0);
        group(&top.join("a"), &UNIFIED, "5000", 4_000, 600);
        group(&top.join("a/b"), &UNIFIED, "3000", 1_000, 0);
        let mounts = |root: &str| {
            format!(
                "22 1 0:20 / /proc rw - proc proc rw\n30 22 0:27 {root} {} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n",
                top.display()
            )
        };
        assert_eq!(left("0::/a/b\n", &mounts("/")), Some(1_600));
        assert_eq!(left("0::/a\n", &mounts("/")), Some(1_600));
        assert_eq!(left("0::/\n", &mounts("/")), None, "a group without a limit");
        // A container that sees its own part of the tree alone, with the whole path and without.
        assert_eq!(left("0::/pods/x/a/b\n", &mounts("/pods/x")), Some(1_600));
        assert_eq!(left("0::/../../a\n", &mounts("/")), None);
        group(top, &UNIFIED, "700", 200, 0);
        assert_eq!(left("0::/../../a\n", &mounts("/")), Some(500));
        assert_eq!(left("0::/gone\n", &mounts("/")), Some(500));
        group(top, &UNIFIED, "700", 900, 0);
        assert_eq!(left("0::/a\n", &mounts("/")), Some(0));
        assert_eq!(left("0::/a\n", "22 1 0:20 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn version_1_has_a_tree_for_each_controller() {
        let tree = tempfile::tempdir().unwrap();
        group(&tree.path().join("x"), &LEGACY, "4000", 3_000, 500);
        group(tree.path(), &LEGACY, "9223372036854771712", 3_000, 500);
        let mounts = format!(
            "31 22 0:28 / /elsewhere rw - cgroup cgroup rw,cpu\n32 22 0:29 / {} rw shared:9 - cgroup cgroup rw,memory\n",
            tree.path().display()
        );
        let groups = "9:name=systemd:/x\n4:cpu,cpuacct:/x\n3:memory:/x\n0::/\n";
        assert_eq!(left(groups, &mounts), Some(1_500));
        assert_eq!(left("", ""), None);
    }

    fn run(workers: usize, threads: usize, largest: usize) -> (EngineOptions, Workload) {
        let schedule =
            Schedule { pace: Pace::Closed, share: Share::WHOLE, seed: 1, warmup_ns: 0, duration_ns: 1_000_000_000 };
        let session = SessionOptions {
            prepared: true,
            pipeline: false,
            statement_timeout: None,
            isolation: None,
            idle_in_transaction: None,
        };
        let engine = EngineOptions {
            schedule,
            workers,
            threads,
            drain: std::time::Duration::ZERO,
            max_lag: None,
            max_tries: 1,
            session,
        };
        (engine, Workload::of_kb(largest as f64 / 1024.0))
    }

    fn memory(bytes: u64, limited_by: Limit) -> Memory {
        Memory { bytes, limited_by, unix_socket_bytes: MIB }
    }

    fn refusal(workers: usize, threads: usize, largest: usize, limited_by: Limit) -> String {
        let (engine, workload) = run(workers, threads, largest);
        check(&engine, &workload, false, Some(&memory(100 * MIB, limited_by))).unwrap_err()
    }

    #[test]
    fn a_refusal_names_what_it_takes_and_the_flags_that_take_most() {
        let large = refusal(8, 2, MAX_BYTES, Limit::Machine);
        for part in ["this machine has 100 MB more", "lower the largest of --output-size-kb", "use a larger machine"] {
            assert!(large.contains(part), "{part:?}: {large}");
        }
        assert!(!large.contains("--workers") && !large.contains("--threads"), "{large}");
        let many = refusal(10_000, 2, 10_240, Limit::ControlGroup);
        for part in ["lower --workers (2500 MB of it), or raise its memory limit", "control group"] {
            assert!(many.contains(part), "{part:?}: {many}");
        }
        let threads = refusal(1_024, 1_024, 10_240, Limit::Machine);
        assert!(threads.contains("lower --threads"), "{threads}");
    }

    #[test]
    fn exactly_enough_is_enough() {
        let (engine, workload) = run(8, 2, 1 << 20);
        let total = Needed::of(&engine, &workload, 0).total();
        let fits = |workload: &Workload, on_unix_sockets: bool, bytes: u64| {
            check(&engine, workload, on_unix_sockets, Some(&memory(bytes, Limit::Machine))).is_ok()
        };
        assert!(fits(&workload, false, total) && !fits(&workload, false, total - 1));
        // Of a request of 4 MiB the system may hold one.
        assert!(fits(&workload, true, total + 8 * MIB) && !fits(&workload, true, total + 8 * MIB - 1));
        assert!(!fits(&workload.with_material(), false, total), "the pool is sent, and that takes more");
    }

    #[test]
    fn where_nobody_tells_nothing_is_refused() {
        let (engine, workload) = run(100_000, 1_024, MAX_BYTES);
        assert_eq!(check(&engine, &workload, true, None), Ok(()));
    }
}
