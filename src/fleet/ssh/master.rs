//! One ssh process: its command line, its start, and its end. It connects in the foreground and then goes to the
//! background as the master of a control socket. A process is signalled only if its command line names our own folder.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use openssh_mux_client::Connection;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::error::{Facts, SshError, SshErrorKind};
use super::{HostKeys, SshOptions};
use crate::fleet::hosts::Host;

/// ssh's own limit ends with the exchange of keys; the login behind it gets this much more.
const LOGIN_WITHIN: Duration = Duration::from_secs(20);
/// How long a master may take to answer on its socket.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// How long a process has from SIGTERM to SIGKILL.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// Of ssh's last words more is not read.
const LONGEST_LOG_BYTES: u64 = 16 << 10;

/// The ssh program on the path.
pub(super) fn find_program() -> Result<PathBuf, SshError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("ssh")).find(|program| program.is_file());
    found.ok_or_else(|| {
        let what = "There is no ssh program on this machine's PATH: install it, on Debian and Ubuntu with apt-get install \
                    openssh-client.";
        SshError::new(SshErrorKind::ProgramMissing, what.into())
    })
}

/// One try to connect.
pub(super) struct Attempt<'a> {
    pub(super) host: &'a Host,
    pub(super) options: &'a SshOptions,
    pub(super) program: &'a Path,
    pub(super) key_is_encrypted: bool,
    /// Of its own, and not there yet.
    pub(super) folder: PathBuf,
}

impl Attempt<'_> {
    pub(super) async fn run(&self, mut interrupted: watch::Receiver<bool>) -> Result<Master, SshError> {
        let mut child = self.start().map_err(|error| SshError::local(self.host, &error))?;
        let limit = self.connect_timeout() + LOGIN_WITHIN;
        let interruption = async { drop(interrupted.wait_for(|&interrupted| interrupted).await) };
        let outcome = tokio::select! {
            status = child.wait() => self.master(status).await,
            () = interruption => Err(SshError::interrupted(self.host)),
            () = tokio::time::sleep(limit) => Err(SshError::login_timeout(self.host, limit)),
        };
        if outcome.is_err() {
            stop(&mut child).await;
            self.end_unexpected_master().await;
            let _ = fs::remove_dir_all(&self.folder);
        }
        outcome
    }

    fn start(&self) -> io::Result<Child> {
        DirBuilder::new().mode(0o700).create(&self.folder)?;
        let child = self.command().spawn()?;
        if let Some(pid) = child.id() {
            fs::write(self.folder.join("pid"), format!("{pid}\n"))?;
        }
        Ok(child)
    }

    fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.options.connect_timeout.as_secs().max(1))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        // A process group of its own: an interrupt from the terminal is this program's to act upon.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.arg("-E").arg(self.folder.join("log")).args(["-M", "-N", "-f", "-T", "-S"]);
        command.arg(without_tokens(&self.folder.join("m")));
        let mut set = |option: &str| {
            command.args(["-o", option]);
        };
        set("BatchMode=yes");
        set("ControlPersist=3s");
        set("ServerAliveInterval=2");
        set("ServerAliveCountMax=5");
        set(&format!("ConnectTimeout={}", self.connect_timeout().as_secs()));
        // What failed is read from the log. What suits an interactive login would only get in the way of many.
        set("LogLevel=INFO");
        set("ClearAllForwardings=yes");
        set("ForwardAgent=no");
        set("ForwardX11=no");
        set("PermitLocalCommand=no");
        set("RemoteCommand=none");
        match self.options.host_keys {
            HostKeys::Strict => set("StrictHostKeyChecking=yes"),
            HostKeys::AcceptNew => set("StrictHostKeyChecking=accept-new"),
            HostKeys::Off => {
                set("StrictHostKeyChecking=no");
                set("UserKnownHostsFile=/dev/null");
                set("GlobalKnownHostsFile=/dev/null");
            }
        }
        if let Some(key) = &self.options.keyfile {
            // Otherwise an agent full of others is tried first, and servers hang up after a few.
            set("IdentitiesOnly=yes");
            command.arg("-i").arg(key);
        }
        if let Some(config) = &self.options.config {
            command.arg("-F").arg(config);
        }
        if let Some(user) = self.user() {
            command.args(["-l", user]);
        }
        if let Some(port) = self.host.port.or(self.options.port) {
            command.args(["-p", &port.to_string()]);
        }
        command.args(["--", &self.host.address]);
        command
    }

    fn user(&self) -> Option<&str> {
        self.host.user.as_deref().or(self.options.user.as_deref())
    }

    async fn master(&self, status: io::Result<ExitStatus>) -> Result<Master, SshError> {
        let status = status.map_err(|error| SshError::local(self.host, &error))?;
        if !status.success() {
            return Err(self.error());
        }
        let mut master = Master { folder: self.folder.clone(), pid: None };
        master.pid = master.ask_pid().await;
        let Some(pid) = master.pid else { return Err(self.error()) };
        let written = fs::write(self.folder.join("pid"), format!("{}\n", pid.as_raw_nonzero()));
        written.map_err(|error| SshError::local(self.host, &error))?;
        Ok(master)
    }

    /// From what ssh wrote.
    fn error(&self) -> SshError {
        let mut log = Vec::new();
        let read = fs::File::open(self.folder.join("log"))
            .and_then(|log_file| log_file.take(LONGEST_LOG_BYTES).read_to_end(&mut log));
        if let Err(error) = read {
            return SshError::local(self.host, &error);
        }
        let facts = Facts {
            host: self.host,
            user: self.user(),
            key: self.options.keyfile.as_deref(),
            key_is_encrypted: self.key_is_encrypted,
            connect_timeout: self.connect_timeout(),
        };
        facts.error(&String::from_utf8_lossy(&log))
    }

    /// One that went to the background in the moment in which it was given up.
    async fn end_unexpected_master(&self) {
        let mut master = Master { folder: self.folder.clone(), pid: None };
        if master.socket().exists() {
            master.pid = master.ask_pid().await;
            master.end().await;
        }
    }
}

/// ssh replaces tokens such as `%h` in the path of its socket.
fn without_tokens(path: &Path) -> OsString {
    let doubled = path.as_os_str().as_bytes().iter().flat_map(|&byte| vec![byte; if byte == b'%' { 2 } else { 1 }]);
    OsString::from_vec(doubled.collect())
}

async fn stop(child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let Some(pid) = pid else { return };
    let _ = kill_process(pid, Signal::TERM);
    if timeout(ENDS_WITHIN, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// A connected ssh in the background.
#[derive(Debug)]
pub(super) struct Master {
    folder: PathBuf,
    pid: Option<Pid>,
}

impl Master {
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("m")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Ends it politely, then by force, and removes its folder.
    pub(super) async fn end(self) {
        if let Some(pid) = self.pid {
            for signal in [Signal::TERM, Signal::KILL] {
                if self.is(pid).await {
                    let _ = kill_process(pid, signal);
                }
                if timeout(ENDS_WITHIN, self.gone(pid)).await.is_ok() {
                    break;
                }
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }

    async fn gone(&self, pid: Pid) {
        while self.is(pid).await {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether the process is there and is this master: ids are used again. A dead one that nobody has collected has no
    /// command line any more.
    async fn is(&self, pid: Pid) -> bool {
        if cfg!(target_os = "linux") {
            let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            let folder = self.folder.as_os_str().as_bytes();
            line.windows(folder.len()).any(|part| part == folder)
        } else {
            self.ask_pid().await == Some(pid)
        }
    }

    /// The process that answers on the socket. The socket's own credentials are of one that is gone: it was opened before
    /// ssh went to the background.
    async fn ask_pid(&self) -> Option<Pid> {
        let asking = async { Connection::connect(self.socket()).await.ok()?.send_alive_check().await.ok() };
        let pid = timeout(ANSWERS_WITHIN, asking).await.ok().flatten()?;
        i32::try_from(pid.get()).ok().and_then(Pid::from_raw)
    }
}
