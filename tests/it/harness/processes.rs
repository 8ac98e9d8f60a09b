//! Processes of this machine, from `/proc`.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

fn all() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The processes whose command line contains `text`, with that line, whose arguments are separated by blanks.
pub fn naming(text: &str) -> Vec<(u32, String)> {
    let lines = all().filter_map(|pid| Some((pid, fs::read(format!("/proc/{pid}/cmdline")).ok()?)));
    // Threads of the kernel have none.
    let lines = lines.filter(|(_, line)| !line.is_empty());
    let lines = lines.map(|(pid, line)| (pid, String::from_utf8_lossy(&line).replace('\0', " ")));
    lines.filter(|(_, line)| line.contains(text)).collect()
}

/// The programs that run from a folder, by name.
pub fn running_from(folder: &Path) -> Vec<String> {
    let programs = all().filter_map(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok());
    // A file of the same bytes may have taken its place.
    let name = |exe: PathBuf| exe.file_name().unwrap().to_string_lossy().trim_end_matches(" (deleted)").to_owned();
    let mut names: Vec<_> = programs.filter(|exe| exe.parent() == Some(folder)).map(name).collect();
    names.sort();
    names
}

/// The processes whose parent is `parent`.
pub fn children(parent: u32) -> Vec<u32> {
    all().filter(|&pid| parent_of(pid) == Some(parent)).collect()
}

/// Those, and theirs, and so on.
pub fn descendants(of: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = all().filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
    let (mut found, mut looked_at) = (vec![of], 0);
    while let Some(&parent) = found.get(looked_at) {
        found.extend(parents.iter().filter(|(_, other)| *other == parent).map(|(pid, _)| *pid));
        looked_at += 1;
    }
    found.split_off(1)
}

/// From `/proc/PID/stat`, whose second field, the name in parentheses, can hold anything. Zombies have none.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let (state, parent) = (fields.next()?, fields.next()?);
    if state == "Z" { None } else { parent.parse().ok() }
}

/// Whether a process is there, and not only waits to be reaped.
pub fn is_alive(pid: u32) -> bool {
    parent_of(pid).is_some()
}

/// Sends a signal. It does not matter if the process is gone.
pub fn send(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal);
}
