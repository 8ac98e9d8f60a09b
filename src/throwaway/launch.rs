//! Owns running PostgreSQL's programs in a private folder: initdb, the server up to "ready", and the one thing a
//! killed server leaves outside of the folder. Must not know options or who asked.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;

use super::account::{Account, some_named_account};
use super::locate::Programs;
use super::{ThrowawayError, processes, program};

/// Recovery after a kill writes up to `max_wal_size` again; a start from nothing takes a fraction of a second.
const STARTUP_LIMIT: Duration = Duration::from_secs(120);
/// It takes a second or two; on a disk that hardly answers, longer.
const INITDB_LIMIT: Duration = Duration::from_secs(120);
/// How much of a log an error carries.
const TAIL_LINES: usize = 12;
const TAIL_BYTES: u64 = 8 * 1024;
/// What initdb says where its user ID has no name, in the C locale.
const NAMELESS: &str = "could not look up effective user ID";

/// Where postmaster.pid holds the shared memory's key and the status, counted from 0. Source: PostgreSQL's
/// `src/include/utils/pidfile.h`, which is what pg_ctl waits by.
const SHARED_MEMORY_LINE: usize = 6;
const STATUS_LINE: usize = 7;

/// The programs, and the account and folder they run with.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) programs: Programs,
    pub(super) account: Account,
    pub(super) folder: PathBuf,
}

impl Site {
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// Fills the data directory: no fsync (it is thrown away), the C locale (nothing to look up).
    ///
    /// initdb looks up the name of its user ID, and in containers that run as any ID there may be none. There it is tried
    /// again in a user namespace that shows it the ID of an account with a name; outside of it nothing is different.
    pub(super) fn initdb(&self, password_file: Option<&Path>) -> Result<(), ThrowawayError> {
        let program = self.programs.dir.join("initdb");
        match self.initdb_by(self.account.command(&program, &self.data()), password_file) {
            Err(ThrowawayError::Initdb { log, .. }) if log.contains(NAMELESS) => {}
            result => return result,
        }
        let nameless = |tried: String| ThrowawayError::Nameless { uid: self.account.uid, gid: self.account.gid, tried };
        let Some(unshare) = program::find("unshare") else {
            return Err(nameless("the program is not on this machine".to_owned()));
        };
        let Some((uid, gid)) = some_named_account() else {
            return Err(nameless("there is no account whose ID could be lent".to_owned()));
        };
        let mut command = self.account.command(unshare, &self.data());
        command.args(["--user", &format!("--map-user={uid}"), &format!("--map-group={gid}"), "--"]).arg(program);
        self.initdb_by(command, password_file).map_err(|error| match error {
            ThrowawayError::Initdb { log, .. } => nameless(log.lines().last().unwrap_or("it failed").to_owned()),
            error => error,
        })
    }

    /// `command` runs initdb, and lacks only its arguments.
    fn initdb_by(&self, mut command: Command, password_file: Option<&Path>) -> Result<(), ThrowawayError> {
        let log = self.folder.join("initdb.log");
        command.args(["--no-sync", "--username=postgres", "--encoding=UTF8", "--locale=C", "--auth=trust"]);
        if let Some(file) = password_file {
            // Versions below 14 would otherwise store the password as MD5.
            command.arg("--auth-host=scram-sha-256").arg("--pwfile").arg(file);
        }
        command.arg("-D").arg(self.data());
        let mut initdb = self.spawn(command, &log)?;
        let status = wait(&mut initdb, INITDB_LIMIT).map_err(|source| self.fault("wait for initdb in", source))?;
        if status.is_none() {
            processes::halt(&self.data());
            end(&mut initdb);
        }
        match status {
            Some(status) if status.success() => Ok(()),
            status => Err(ThrowawayError::Initdb { status, log: tail(&log) }),
        }
    }

    /// Starts the server and waits until it takes connections.
    pub(super) fn start(&self) -> Result<Child, ThrowawayError> {
        let mut server = self.spawn_server()?;
        let ready =
            self.wait_for(&mut server, |lines| lines.get(STATUS_LINE).is_some_and(|text| text.trim() == "ready"));
        match ready {
            Ok(()) => Ok(server),
            Err(status) => {
                processes::halt(&self.data());
                end(&mut server);
                Err(ThrowawayError::Server { status, log: tail(&self.log()) })
            }
        }
    }

    /// Frees the shared memory of a server that was killed. Only a server on the same directory knows which it is
    /// and clears it first of all; this one is stopped right afterwards. A server that left by itself has also
    /// removed postmaster.pid, and there is nothing to do.
    pub(super) fn release_shared_memory(&self) {
        if !self.data().join("postmaster.pid").exists() || !processes::members(&self.data()).is_empty() {
            return;
        }
        let Ok(mut server) = self.spawn_server() else { return };
        // Signals wait until the server is set up, so that the stop cannot come too early.
        if self.wait_for(&mut server, |lines| lines.len() > SHARED_MEMORY_LINE).is_ok() {
            processes::halt(&self.data());
        }
        end(&mut server);
    }

    fn spawn_server(&self) -> Result<Child, ThrowawayError> {
        let mut command = self.account.command(self.programs.dir.join("postgres"), &self.data());
        command.arg("-D").arg(self.data());
        for (setting, file) in [("config_file", "postgresql.conf"), ("hba_file", "pg_hba.conf")] {
            command.arg("-c").arg(format!("{setting}={}", self.folder.join(file).display()));
        }
        self.spawn(command, &self.log())
    }

    /// Starts `command` with what it prints appended to the file `log`.
    fn spawn(&self, mut command: Command, log: &Path) -> Result<Child, ThrowawayError> {
        let open = || -> std::io::Result<(File, File)> {
            let file = OpenOptions::new().append(true).create(true).open(log)?;
            Ok((file.try_clone()?, file))
        };
        let (out, err) = open().map_err(|source| self.fault("write the log in", source))?;
        let program = PathBuf::from(command.get_program());
        command.stdout(out).stderr(err).spawn().map_err(|source| ThrowawayError::Spawn { program, source })
    }

    /// Waits until the lines of `server`'s own postmaster.pid satisfy `met`. Fails with the exit status of a server
    /// that ended instead, or `None` when the limit passed.
    fn wait_for(&self, server: &mut Child, met: impl Fn(&[&str]) -> bool) -> Result<(), Option<ExitStatus>> {
        let file = self.data().join("postmaster.pid");
        let ended = processes::poll(STARTUP_LIMIT, || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            // The file of a killed predecessor says "ready" too.
            let own = lines.first().is_some_and(|line| line.trim().parse() == Ok(server.id()));
            if own && met(&lines) {
                return Some(Ok(()));
            }
            server.try_wait().ok().flatten().map(|status| Err(Some(status)))
        });
        ended.unwrap_or(Err(None))
    }

    pub(super) fn fault(&self, action: &'static str, source: std::io::Error) -> ThrowawayError {
        ThrowawayError::Folder { action, path: self.folder.clone(), source }
    }
}

/// Waits for the end of a process; `None` where it has not come within the limit.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    processes::poll(limit, || child.try_wait().transpose()).transpose()
}

/// Takes the process away for good; it may have been halted already.
pub(super) fn end(server: &mut Child) {
    if let Ok(None) = server.try_wait() {
        processes::send(server.id(), Signal::KILL);
    }
    let _ = server.wait();
}

/// The last lines of a log; empty when there is none.
fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_waited_for_only_so_long() {
        let spawn = |seconds: &str| Command::new("sleep").arg(seconds).spawn().unwrap();
        assert!(wait(&mut spawn("0"), Duration::from_secs(60)).unwrap().is_some_and(|status| status.success()));
        let mut endless = spawn("600");
        assert_eq!(wait(&mut endless, Duration::from_millis(20)).unwrap(), None);
        end(&mut endless);
    }

    #[test]
    fn the_tail_is_short() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        assert_eq!(tail(&log), "");
        let lines: Vec<String> = (0..5000).map(|number| format!("line {number}")).collect();
        fs::write(&log, lines.join("\n")).unwrap();
        assert_eq!(tail(&log), lines[5000 - TAIL_LINES..].join("\n"));
    }
}
