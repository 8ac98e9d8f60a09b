//! Memory: what this machine has left, and the large parts of what a run takes.
//!
//! All documents are cut from one pool and go from there to the socket, so a run takes little beyond the pool, and each
//! worker and thread takes about the same. What the system's socket buffers hold is not counted.

use std::fs;
use std::path::Path;

use crate::engine::EngineOptions;
use crate::workload::Workload;

const MIB: u64 = 1 << 20;

/// The program itself, the sums of what was recorded, and the result.
const BASE_BYTES: u64 = 32 * MIB;
/// A thread's recorders of this second and of those that are on their way.
const THREAD_BYTES: u64 = 12 * MIB;
/// A worker's request, and what TLS holds of it.
const WORKER_BYTES: u64 = 256 << 10;
/// With server-side data the pool is sent to the database: once as a message, once framed.
const POOL_COPIES_SENT: u64 = 2;

/// Where version 2 of control groups is mounted (<https://docs.kernel.org/admin-guide/cgroup-v2.html>).
const GROUPS: &str = "/sys/fs/cgroup";

/// Memory that a process may still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub bytes: u64,
    /// Whether a control group (container, service) limits it, and not the machine.
    pub is_of_group: bool,
}

impl Memory {
    /// What the system lets this process have without swapping; `None` where it does not tell (only Linux does).
    pub fn available() -> Option<Self> {
        let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_in(&text));
        let group = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| left(&text, Path::new(GROUPS)));
        let of = |is_of_group: bool| move |bytes: u64| Self { bytes, is_of_group };
        [machine.map(of(false)), group.map(of(true))].into_iter().flatten().min_by_key(|memory| memory.bytes)
    }
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn available_in(meminfo: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    value.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the group of a process and the groups around it leave it, the closest limit of all. `groups` is its
/// `/proc/self/cgroup`. A container may see only its own part of the tree, under a path that is longer.
fn left(groups: &str, top: &Path) -> Option<u64> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = top.join(path.trim_start_matches('/'));
    folder.ancestors().take_while(|folder| folder.starts_with(top)).filter_map(left_by).min()
}

/// What one group leaves its processes; `None` where it has no limit.
fn left_by(folder: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    // "max" is not a number.
    let (limit, usage) = (number("memory.max")?, number("memory.current")?);
    let stat = read("memory.stat").unwrap_or_default();
    let of =
        |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok()).unwrap_or_default();
    // The system makes room of these when it is needed.
    let cached = of("inactive_file ") + of("active_file ") + of("slab_reclaimable ");
    Some(limit.saturating_sub(usage.saturating_sub(cached)))
}

/// Whether a run fits into so much memory.
///
/// # Errors
/// A sentence, with what it takes and which options make it less.
pub(super) fn check(engine: &EngineOptions, workload: &Workload, memory: Option<Memory>) -> Result<(), String> {
    let Some(Memory { bytes, is_of_group }) = memory else { return Ok(()) };
    let copies = if workload.needs_material() { 1 + POOL_COPIES_SENT } else { 1 };
    let mut parts = [
        (copies * workload.pool_bytes() as u64, Workload::SIZE_FLAGS),
        (engine.workers as u64 * WORKER_BYTES, "--workers"),
        (engine.threads as u64 * THREAD_BYTES, "--threads"),
    ];
    let total = BASE_BYTES + parts.iter().map(|(bytes, _)| bytes).sum::<u64>();
    if total <= bytes {
        return Ok(());
    }
    parts.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let worth_naming = parts.iter().filter(|(bytes, _)| *bytes >= total / 10);
    let lower: Vec<_> =
        worth_naming.map(|(bytes, flag)| format!("{flag} ({} MB of it)", bytes.div_ceil(MIB))).collect();
    let (whose, more) = match is_of_group {
        false => ("this machine has", "use a larger machine"),
        true => ("the control group (container, service) may have", "raise its memory limit"),
    };
    Err(format!(
        "this run takes up to {} MB of memory, and {whose} {} MB more: lower {}, or {more}",
        total.div_ceil(MIB),
        bytes / MIB,
        if lower.is_empty() { "--workers".to_owned() } else { lower.join(", ") },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Pace, Schedule, Share};
    use crate::workload::payload::MAX_BYTES;
    use crate::workload::script::SessionOptions;

    #[test]
    fn what_the_machine_has_left_is_read_in_bytes() {
        let meminfo = "MemTotal:       24682612 kB\nMemFree:         1672000 kB\nMemAvailable:   2000 kB\n";
        assert_eq!(available_in(meminfo), Some(2_048_000));
        for text in ["", "MemFree: 1 kB\n", "MemAvailable: many kB\n", "MemAvailable: 5\n", "MemAvailable: -1 kB\n"] {
            assert_eq!(available_in(text), None, "{text}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_tells() {
        assert!(Memory::available().is_some_and(|memory| memory.bytes > 0));
    }

    fn group(folder: &Path, limit: &str, usage: u64, cached: u64) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("memory.max"), format!("{limit}\n")).unwrap();
        fs::write(folder.join("memory.current"), format!("{usage}\n")).unwrap();
        let stat = format!("anon 5\nslab 1\nactive_file {cached}\nunevictable 0\n");
        fs::write(folder.join("memory.stat"), stat).unwrap();
    }

    #[test]
    fn the_closest_limit_of_all_groups_counts() {
        let tree = tempfile::tempdir().unwrap();
        let top = tree.path();
        group(top, "max", 9_000, 0);
        group(&top.join("a"), "5000", 4_000, 600);
        group(&top.join("a/b"), "3000", 1_000, 0);
        assert_eq!(left("0::/a/b\n", top), Some(1_600));
        assert_eq!(left("0::/a\n", top), Some(1_600));
        assert_eq!(left("0::/\n", top), None, "a group without a limit");
        assert_eq!(left("3:memory:/a\n", top), None, "version 1");
        // A container that sees its own part of the tree alone, with a path from outside.
        group(top, "700", 200, 0);
        assert_eq!(left("0::/pods/x/gone\n", top), Some(500));
        assert_eq!(left("0::/../../gone\n", top), Some(500));
        group(top, "700", 900, 0);
        assert_eq!(left("0::/a\n", top), Some(0));
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

    fn refusal(workers: usize, threads: usize, largest: usize, is_of_group: bool) -> String {
        let (engine, workload) = run(workers, threads, largest);
        check(&engine, &workload, Some(Memory { bytes: 100 * MIB, is_of_group })).unwrap_err()
    }

    #[test]
    fn a_refusal_names_what_it_takes_and_the_flags_that_take_most() {
        let large = refusal(8, 2, MAX_BYTES, false);
        for part in ["this machine has 100 MB more", "lower the largest of --output-size-kb", "use a larger machine"] {
            assert!(large.contains(part), "{part:?}: {large}");
        }
        assert!(!large.contains("--workers") && !large.contains("--threads"), "{large}");
        let many = refusal(10_000, 2, 10_240, true);
        for part in ["lower --workers (2500 MB of it), or raise its memory limit", "control group"] {
            assert!(many.contains(part), "{part:?}: {many}");
        }
        let threads = refusal(1_024, 1_024, 10_240, false);
        assert!(threads.contains("lower --threads"), "{threads}");
    }

    #[test]
    fn exactly_enough_is_enough() {
        let (engine, workload) = run(8, 2, 1 << 20);
        let total = BASE_BYTES + 8 * WORKER_BYTES + 2 * THREAD_BYTES + workload.pool_bytes() as u64;
        let fits = |workload: &Workload, bytes: u64| {
            check(&engine, workload, Some(Memory { bytes, is_of_group: false })).is_ok()
        };
        assert!(fits(&workload, total) && !fits(&workload, total - 1));
        assert!(!fits(&workload.with_material(), total), "the pool is sent, and that takes more");
    }

    #[test]
    fn where_nobody_tells_nothing_is_refused() {
        let (engine, workload) = run(100_000, 1_024, MAX_BYTES);
        assert_eq!(check(&engine, &workload, None), Ok(()));
    }
}
