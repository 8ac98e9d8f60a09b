//! One ssh process: its command line, its start, and its end. It connects in the foreground and then goes to the
//! background as the master of a control socket. A process is signalled only if its command line names our own folder.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, Read, Seek};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use openssh_mux_client::Connection;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::agent::{self, Keys};
use super::error::{Facts, Jump, SshError, SshErrorKind};
use super::key::{self, KeyFile};
use super::route::{Hop, Route};
use super::{HostKeys, SshOptions};
use crate::fleet::hosts::Host;

/// ssh's own limit ends with the exchange of keys; the login behind it gets this much more.
const LOGIN_WITHIN: Duration = Duration::from_secs(20);
/// How long a master may take to answer on its socket.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// How long a process has from SIGTERM to SIGKILL.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// When an attempt takes so long, the agent is asked whether it answers at all.
const AGENT_ASKED_AFTER: Duration = Duration::from_secs(3);
/// Of ssh's last words more is not read.
const LONGEST_LOG_BYTES: u64 = 16 << 10;

/// A program on the path.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// The ssh program on the path.
pub(super) fn find_program() -> Result<PathBuf, SshError> {
    on_path("ssh").ok_or_else(|| {
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
    /// setsid, where there is one.
    pub(super) setsid: Option<&'a Path>,
    pub(super) keyfile: Option<&'a KeyFile>,
    pub(super) route: &'a Route,
    /// Where to note one.
    pub(super) stuck_agents: &'a Mutex<Vec<PathBuf>>,
    /// The configuration that jump hosts are connected to with.
    pub(super) jump_config: &'a Path,
    /// Of its own, and not there yet.
    pub(super) folder: PathBuf,
}

impl Attempt<'_> {
    pub(super) async fn run(&self, mut interrupted: watch::Receiver<bool>) -> Result<Master, SshError> {
        self.has_public_key_s_other_half().await?;
        let mut child = self.start().map_err(|error| SshError::local(self.host, &error))?;
        let limit = self.whole_timeout() + LOGIN_WITHIN;
        let interruption = async { drop(interrupted.wait_for(|&interrupted| interrupted).await) };
        let outcome = tokio::select! {
            status = child.wait() => self.master(status).await,
            () = interruption => Err(SshError::interrupted(self.host)),
            socket = self.stuck_agent() => Err(SshError::stuck_agent(self.host, &socket)),
            () = tokio::time::sleep(limit) => Err(SshError::login_timeout(self.host, limit)),
        };
        if outcome.is_err() {
            stop(&mut child).await;
            self.end_unexpected_master().await;
            let _ = fs::remove_dir_all(&self.folder);
        }
        outcome
    }

    /// A public key is one that the agent has the private half of.
    async fn has_public_key_s_other_half(&self) -> Result<(), SshError> {
        let (Some(KeyFile::Public(public)), Some(path)) = (self.keyfile, &self.options.keyfile) else { return Ok(()) };
        let Some(socket) = self.route.agent_socket() else { return Err(SshError::public_key(self.host, path)) };
        match agent::keys(&socket).await {
            Keys::Held(held) if held.contains(public) => Ok(()),
            Keys::Stuck => Err(SshError::stuck_agent(self.host, &socket)),
            _ => Err(SshError::public_key(self.host, path)),
        }
    }

    /// Resolves where an agent that ssh may be waiting for does not answer, and never otherwise.
    async fn stuck_agent(&self) -> PathBuf {
        sleep(AGENT_ASKED_AFTER).await;
        let hops = self.hops().await;
        let mut sockets: Vec<PathBuf> =
            hops.iter().map(|hop| &hop.route).chain([self.route]).filter_map(Route::agent_socket).collect();
        sockets.dedup();
        for socket in sockets {
            if agent::keys(&socket).await == Keys::Stuck {
                self.stuck_agents.lock().unwrap_or_else(PoisonError::into_inner).push(socket.clone());
                return socket;
            }
        }
        std::future::pending().await
    }

    async fn hops(&self) -> Vec<Hop> {
        self.route.all_hops(self.program, self.jump_config).await
    }

    fn start(&self) -> io::Result<Child> {
        DirBuilder::new().mode(0o700).create(&self.folder)?;
        let way = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("way"))?;
        let child = self.command().stderr(way).spawn()?;
        if let Some(pid) = child.id() {
            fs::write(self.folder.join("pid"), format!("{pid}\n"))?;
        }
        Ok(child)
    }

    fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.options.connect_timeout.as_secs().max(1))
    }

    /// Jump hosts have this time each, and say themselves where they need longer.
    fn whole_timeout(&self) -> Duration {
        let hops = u32::try_from(self.route.jumps.len()).unwrap_or_default();
        self.connect_timeout().saturating_mul(hops.saturating_add(1))
    }

    fn command(&self) -> Command {
        // A session of its own: an interrupt from the terminal is this program's to act upon, and neither this ssh nor one
        // that it starts for a jump host finds a terminal to ask questions on.
        let mut command = match self.setsid {
            Some(setsid) => Command::new(setsid),
            None => Command::new(self.program),
        };
        match self.setsid {
            Some(_) => command.arg(self.program),
            None => command.process_group(0),
        };
        command.env("SSH_ASKPASS_REQUIRE", "never").env("SSH_ASKPASS", "/bin/false").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.arg("-E").arg(self.folder.join("log")).args(["-M", "-N", "-f", "-T", "-S"]);
        command.arg(without_tokens(&self.folder.join("m")));
        let mut set = |option: &str| {
            command.args(["-o", option]);
        };
        set("BatchMode=yes");
        // With it, what is said on the way would be thrown away.
        set("ControlPersist=no");
        set("ServerAliveInterval=2");
        set("ServerAliveCountMax=5");
        set(&format!("ConnectTimeout={}", self.whole_timeout().as_secs()));
        // What failed is read from the log. What suits an interactive login would only get in the way of many.
        set("LogLevel=INFO");
        set("ClearAllForwardings=yes");
        set("ForwardAgent=no");
        set("ForwardX11=no");
        set("PermitLocalCommand=no");
        set("RemoteCommand=none");
        for (option, value) in host_key_options(self.options.host_keys) {
            set(&format!("{option}={value}"));
        }
        command.args(self.target());
        command
    }

    /// What says where to: also for ssh to tell what its configuration says of it.
    fn target(&self) -> Vec<OsString> {
        let config = match self.route.jumps.is_empty() {
            true => self.options.config.as_deref(),
            false => Some(self.jump_config),
        };
        target(self.host, self.options, config)
    }

    fn user(&self) -> Option<&str> {
        self.host.user.as_deref().or(self.options.user.as_deref())
    }

    async fn master(&self, status: io::Result<ExitStatus>) -> Result<Master, SshError> {
        let status = status.map_err(|error| SshError::local(self.host, &error))?;
        if !status.success() {
            return Err(self.error().await);
        }
        let mut master = Master { folder: self.folder.clone(), pid: None };
        master.pid = master.ask_pid().await;
        let Some(pid) = master.pid else { return Err(self.error().await) };
        let written = fs::write(self.folder.join("pid"), format!("{}\n", pid.as_raw_nonzero()));
        written.map_err(|error| SshError::local(self.host, &error))?;
        Ok(master)
    }

    /// From what ssh wrote.
    async fn error(&self) -> SshError {
        let log = match read_log(&self.folder.join("log")) {
            Ok(log) => log,
            Err(error) => return SshError::local(self.host, &error),
        };
        let way = read_log(&self.folder.join("way")).unwrap_or_default();
        let mut jumps = Vec::new();
        for hop in self.hops().await {
            jumps.push(Jump { locked_keys: locked_keys(&hop.route).await, name: hop.name });
        }
        let facts = Facts {
            host: self.host,
            user: self.user(),
            key: self.options.keyfile.as_deref(),
            key_is_encrypted: self.keyfile == Some(&KeyFile::Locked),
            connect_timeout: self.connect_timeout(),
            jumps: &jumps,
            proxy_command: self.route.proxy_command.as_deref(),
            locked_keys: &locked_keys(self.route).await,
        };
        facts.error(&log, &way)
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

/// Which keys of a configuration want a passphrase, and are not in the agent.
async fn locked_keys(route: &Route) -> Vec<PathBuf> {
    let held = match route.agent_socket() {
        Some(socket) => match agent::keys(&socket).await {
            Keys::Held(held) => held,
            _ => Vec::new(),
        },
        None => Vec::new(),
    };
    route.key_files().into_iter().filter(|path| key::is_locked(path, &held)).collect()
}

/// The end of what was written.
pub(super) fn read_log(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(LONGEST_LOG_BYTES)))?;
    let mut log = Vec::new();
    file.take(LONGEST_LOG_BYTES).read_to_end(&mut log)?;
    Ok(String::from_utf8_lossy(&log).into_owned())
}

/// Which options of ssh a policy for host keys is.
pub(super) fn host_key_options(host_keys: HostKeys) -> &'static [(&'static str, &'static str)] {
    match host_keys {
        HostKeys::Strict => &[("StrictHostKeyChecking", "yes")],
        HostKeys::AcceptNew => &[("StrictHostKeyChecking", "accept-new")],
        HostKeys::Off => &[
            ("StrictHostKeyChecking", "no"),
            ("UserKnownHostsFile", "/dev/null"),
            ("GlobalKnownHostsFile", "/dev/null"),
        ],
    }
}

/// ssh's arguments that say where to and as whom.
pub(super) fn target(host: &Host, options: &SshOptions, config: Option<&Path>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    if let Some(key) = &options.keyfile {
        // Otherwise an agent full of others is tried first, and servers hang up after a few.
        arguments.extend(["-o".into(), "IdentitiesOnly=yes".into(), "-i".into(), key.into()]);
    }
    if let Some(config) = config {
        arguments.extend(["-F".into(), config.into()]);
    }
    if let Some(user) = host.user.as_ref().or(options.user.as_ref()) {
        arguments.extend(["-l".into(), user.into()]);
    }
    if let Some(port) = host.port.or(options.port) {
        arguments.extend(["-p".into(), port.to_string().into()]);
    }
    arguments.extend(["--".into(), host.address.clone().into()]);
    arguments
}

/// ssh replaces tokens such as `%h` in the path of its socket.
fn without_tokens(path: &Path) -> OsString {
    let doubled = path.as_os_str().as_bytes().iter().flat_map(|&byte| vec![byte; if byte == b'%' { 2 } else { 1 }]);
    OsString::from_vec(doubled.collect())
}

async fn stop(child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let Some(pid) = pid else { return };
    // With what it has started for the way, which would go on by itself.
    let signal = |signal| {
        let _ = kill_process_group(pid, signal);
        let _ = kill_process(pid, signal);
    };
    signal(Signal::TERM);
    if timeout(ENDS_WITHIN, child.wait()).await.is_err() {
        signal(Signal::KILL);
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

    /// What it and those on the way have said.
    pub(super) fn said(&self) -> String {
        ["log", "way"].map(|name| read_log(&self.folder.join(name)).unwrap_or_default()).join("\n")
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
