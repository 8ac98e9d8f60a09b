//! Owns telling which processes belong to a data directory, and ending them. Must not know how they were started:
//! the owner may be a program that is long gone.
//!
//! The server's backends leave its process group, and survive it for a while when it is killed; so members are
//! recognised by where they live, never by a number that was noted down earlier and may since belong to another.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The server itself kills what has not left 5 s after an immediate stop; it gets time to do so.
const GRACE: Duration = Duration::from_secs(8);
/// How long the system may take to take away a killed process.
const AFTER_KILL: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(3);

/// Process ids of the server, its backends and of an initdb in a data directory, run by the owner of that folder.
pub(super) use platform::members;

/// Sends `signal`; a process that is already gone is no fault.
pub(super) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Ends every member: the server by an immediate stop, whatever is left by force. Returns who is left even then.
pub(super) fn halt(data_dir: &Path) -> Vec<u32> {
    let found = members(data_dir);
    if let Some(server) = noted_server(data_dir).filter(|pid| found.contains(pid)) {
        // The signal to quit comes before the one that thaws it, or a frozen server would go on with its work for a moment.
        send(server, Signal::QUIT);
        found.iter().for_each(|pid| send(*pid, Signal::CONT));
        wait_until_none(data_dir, GRACE);
    }
    members(data_dir).into_iter().for_each(|pid| send(pid, Signal::KILL));
    wait_until_none(data_dir, AFTER_KILL)
}

/// The server's process id as postmaster.pid has it; a single-user process of initdb writes a negative one.
pub(super) fn noted_server(data_dir: &Path) -> Option<u32> {
    std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
}

fn wait_until_none(data_dir: &Path, limit: Duration) -> Vec<u32> {
    let mut left = Vec::new();
    poll(limit, || {
        left = members(data_dir);
        left.is_empty().then_some(())
    });
    left
}

/// Asks again and again until there is an answer; `None` where there is none within the limit.
pub(super) fn poll<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let answer = ask();
        if answer.is_some() || start.elapsed() > limit {
            return answer;
        }
        std::thread::sleep(POLL);
    }
}

/// Linux: every process of a server (and, as it is started here, of initdb) has the data directory as its working
/// directory. Compared by device and inode, so that an equal path in another container is not mistaken for ours.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod platform {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    pub(in crate::throwaway) fn members(data_dir: &Path) -> Vec<u32> {
        let (Ok(home), Ok(entries)) = (fs::metadata(data_dir), fs::read_dir("/proc")) else { return Vec::new() };
        let belongs = |proc: &Path| {
            let owned = fs::metadata(proc).is_ok_and(|process| process.uid() == home.uid());
            let here =
                || fs::metadata(proc.join("cwd")).is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == (home.dev(), home.ino()));
            // Someone's shell may stand in the folder too.
            let known =
                || fs::read_to_string(proc.join("comm")).is_ok_and(|name| matches!(name.trim(), "postgres" | "initdb"));
            owned && here() && known()
        };
        let numbered = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        entries
            .flatten()
            .filter_map(|entry| Some((numbered(&entry)?, entry.path())))
            .filter(|(_, path)| belongs(path))
            .map(|(pid, _)| pid)
            .collect()
    }
}

/// Elsewhere: by the command line, which holds the data directory (the server, initdb) or the cluster's name, which
/// is the name of the folder around it (the backends).
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod platform {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::process::{Command, Stdio};

    pub(in crate::throwaway) fn members(data_dir: &Path) -> Vec<u32> {
        let Ok(home) = std::fs::metadata(data_dir) else { return Vec::new() };
        let listing = Command::new("ps").args(super::PS_ARGUMENTS).stdin(Stdio::null()).output();
        listing.map_or(Vec::new(), |output| {
            super::members_in_listing(&String::from_utf8_lossy(&output.stdout), data_dir, home.uid())
        })
    }
}

#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
const PS_ARGUMENTS: [&str; 4] = ["-A", "-ww", "-o", "pid=,uid=,command="];

/// The members in a listing of `ps` with the arguments above.
#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
fn members_in_listing(listing: &str, data_dir: &Path, uid: u32) -> Vec<u32> {
    let cluster =
        data_dir.parent().and_then(Path::file_name).map(|name| format!("postgres: {}: ", name.to_string_lossy()));
    let folder = format!(" -D {}", data_dir.display());
    let member = |line: &str| {
        let (pid, rest) = line.trim_start().split_once(' ')?;
        let (owner, command) = rest.trim_start().split_once(' ')?;
        let command = command.trim_start();
        let program = command.split(" -").next()?.rsplit('/').next()?;
        let server =
            matches!(program.trim(), "postgres" | "initdb") && format!("{command} ").contains(&format!("{folder} "));
        let backend = cluster.as_ref().is_some_and(|title| command.starts_with(title));
        (owner.parse() == Ok(uid) && (server || backend)).then(|| pid.parse().ok())?
    };
    listing.lines().filter_map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn listing_of_ps() {
        let listing = "\
  100   501 /opt/homebrew/bin/postgres -D /tmp/pg_load_test-abc/data -c config_file=/x
  101   501 postgres: pg_load_test-abc: checkpointer
  102   501 postgres: pg_load_test-abcd: checkpointer
  103   502 /opt/homebrew/bin/postgres -D /tmp/pg_load_test-abc/data
  104   501 vi -D /tmp/pg_load_test-abc/data
  105   501 /Applications/My App/bin/initdb -D /tmp/pg_load_test-abc/data
  106   501 postgres -D /tmp/pg_load_test-abc/data2
nonsense
";
        let found = members_in_listing(listing, Path::new("/tmp/pg_load_test-abc/data"), 501);
        assert_eq!(found, [100, 101, 105]);
    }

    #[test]
    fn ps_understands_the_arguments() {
        let output = Command::new("ps").args(PS_ARGUMENTS).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let own = std::process::id().to_string();
        assert!(text.lines().any(|line| line.trim_start().starts_with(&format!("{own} "))), "{text}");
    }

    #[test]
    fn a_stranger_in_the_folder_is_no_member() {
        let folder = tempfile::tempdir().unwrap();
        let mut stranger = Command::new("sleep").arg("60").current_dir(folder.path()).spawn().unwrap();
        assert!(members(folder.path()).is_empty());
        assert!(halt(folder.path()).is_empty());
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
