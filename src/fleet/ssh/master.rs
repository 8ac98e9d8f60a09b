//! One ssh process: its command line, its start, and its end. It connects in the foreground and then goes to the
//! background as the master of a control socket. It ends when it has had no channel for some seconds, so that nothing stays
//! behind this program, whichever way that ends.

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
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{OnceCell, watch};
use tokio::time::{sleep, timeout};

use super::agent::{self, Keys};
use super::error::{Facts, Jump, SshError, SshErrorKind};
use super::key::{self, KeyFile};
use super::route::{self, Hop, Route};
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
/// How long a master stays without a channel, seconds; the agent's channel is opened right after the login.
const IDLE_FOR_S: u32 = 10;
/// Of ssh's last words more is not read.
const LONGEST_LOG_BYTES: u64 = 256 << 10;
/// Files in an attempt's folder: the control socket, what its ssh says, and what those on the way say.
pub(super) const SOCKET: &str = "m";
pub(super) const LOG: &str = "log";
const WAY: &str = "way";

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// What every ssh process of a test is started with.
#[derive(Debug)]
pub(super) struct Ssh {
    pub(super) options: SshOptions,
    program: PathBuf,
    setsid: Option<PathBuf>,
    keyfile: Option<KeyFile>,
    /// Of all control sockets.
    folder: PathBuf,
    /// The configuration that jump hosts are connected to with, once it is written.
    jump_config: OnceCell<PathBuf>,
    stuck_agents: Mutex<Vec<PathBuf>>,
}

impl Ssh {
    pub(super) fn new(options: SshOptions, folder: &Path) -> Result<Self, SshError> {
        let program = on_path("ssh").ok_or_else(|| {
            let what = "There is no ssh program on this machine's PATH: install it, on Debian and Ubuntu with apt-get \
                        install openssh-client.";
            SshError::new(SshErrorKind::ProgramMissing, what.into())
        })?;
        let keyfile = options.keyfile.as_deref().map(key::check).transpose()?;
        if let Some(config) = &options.config {
            key::check_config(config)?;
        }
        Ok(Self {
            options,
            program,
            setsid: on_path("setsid"),
            keyfile,
            folder: folder.to_owned(),
            jump_config: OnceCell::new(),
            stuck_agents: Mutex::new(Vec::new()),
        })
    }

    /// Asks ssh for the way to a host.
    pub(super) async fn route(&self, host: &Host) -> Result<Route, SshError> {
        let route = Route::ask(&self.program, &target(host, &self.options, self.options.config.as_deref())).await;
        if !route.jumps.is_empty() {
            let written = self.jump_config.get_or_try_init(async || self.write_jump_config(&route)).await;
            written.map_err(|error| SshError::local(host, &error))?;
        }
        Ok(route)
    }

    /// The configuration for jump hosts: they get the same options as the host itself.
    fn write_jump_config(&self, route: &Route) -> io::Result<PathBuf> {
        let fixed =
            ["BatchMode yes", "ControlMaster no", "ControlPersist no", "LogLevel INFO", "PermitLocalCommand no"];
        let mut ours: Vec<String> = fixed.map(str::to_owned).into();
        ours.push(format!("ConnectTimeout {}", self.connect_timeout().as_secs()));
        let host_keys = host_key_options(self.options.host_keys);
        ours.extend(host_keys.iter().map(|(option, value)| format!("{option} {value}")));
        let path = self.folder.join("config");
        route::write_config(&path, &ours, self.options.config.as_deref(), &route.files)?;
        Ok(path)
    }

    fn jump_config(&self) -> &Path {
        self.jump_config.get().map_or(Path::new(""), PathBuf::as_path)
    }

    fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.options.connect_timeout.as_secs().max(1))
    }

    pub(super) fn is_stuck(&self, agent: &PathBuf) -> bool {
        self.stuck_agents.lock().unwrap_or_else(PoisonError::into_inner).contains(agent)
    }
}

pub(super) struct Attempt<'a> {
    pub(super) ssh: &'a Ssh,
    pub(super) host: &'a Host,
    pub(super) route: &'a Route,
    /// Of its own, and not there yet.
    pub(super) folder: PathBuf,
}

impl Attempt<'_> {
    pub(super) async fn run(&self, mut interrupted: watch::Receiver<bool>) -> Result<(), SshError> {
        self.has_public_key_s_other_half().await?;
        let mut child = self.start().map_err(|error| SshError::local(self.host, &error))?;
        let limit = self.whole_timeout() + LOGIN_WITHIN;
        let interruption = async { drop(interrupted.wait_for(|&interrupted| interrupted).await) };
        let outcome = tokio::select! {
            status = child.wait() => self.check_master(status).await,
            () = interruption => Err(SshError::interrupted(self.host)),
            socket = self.stuck_agent() => Err(SshError::stuck_agent(self.host, &socket)),
            () = tokio::time::sleep(limit) => Err(SshError::login_timeout(self.host, limit)),
        };
        if outcome.is_err() {
            stop(&mut child).await;
            // It may have gone to the background in the moment in which it was given up.
            end(&self.folder).await;
        }
        outcome
    }

    /// A public key is one that the agent has the private half of.
    async fn has_public_key_s_other_half(&self) -> Result<(), SshError> {
        let (Some(KeyFile::Public(public)), Some(path)) = (&self.ssh.keyfile, &self.ssh.options.keyfile) else {
            return Ok(());
        };
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
                self.ssh.stuck_agents.lock().unwrap_or_else(PoisonError::into_inner).push(socket.clone());
                return socket;
            }
        }
        std::future::pending().await
    }

    async fn hops(&self) -> Vec<Hop> {
        self.route.all_hops(&self.ssh.program, self.ssh.jump_config()).await
    }

    fn start(&self) -> io::Result<Child> {
        DirBuilder::new().mode(0o700).create(&self.folder)?;
        let way = fs::OpenOptions::new().create(true).append(true).open(self.folder.join(WAY))?;
        self.command().stderr(way).spawn()
    }

    /// Jump hosts have this time each, and say themselves where they need longer.
    fn whole_timeout(&self) -> Duration {
        let hops = u32::try_from(self.route.jumps.len()).unwrap_or_default();
        self.ssh.connect_timeout().saturating_mul(hops.saturating_add(1))
    }

    fn command(&self) -> Command {
        // A session of its own: an interrupt from the terminal is this program's to act upon, and neither this ssh nor one
        // that it starts for a jump host finds a terminal to ask questions on.
        let mut command = match &self.ssh.setsid {
            Some(setsid) => Command::new(setsid),
            None => Command::new(&self.ssh.program),
        };
        match self.ssh.setsid {
            Some(_) => command.arg(&self.ssh.program),
            None => command.process_group(0),
        };
        command.env("SSH_ASKPASS_REQUIRE", "never").env("SSH_ASKPASS", "/bin/false").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // Without -v, ControlPersist would throw away what jump hosts and the ProxyCommand say: why they failed.
        command.arg("-v").arg("-E").arg(self.folder.join(LOG)).args(["-M", "-N", "-f", "-T", "-S"]);
        command.arg(without_tokens(&self.folder.join(SOCKET)));
        let mut set = |option: &str| {
            command.args(["-o", option]);
        };
        set("BatchMode=yes");
        // Ends the master when this program is gone, also by SIGKILL: the end of the program closes all channels.
        set(&format!("ControlPersist={IDLE_FOR_S}"));
        // The program that is sent has some 8 MB, and less than half of that compressed.
        set("Compression=yes");
        set("ServerAliveInterval=2");
        set("ServerAliveCountMax=5");
        set(&format!("ConnectTimeout={}", self.whole_timeout().as_secs()));
        // What suits an interactive login would only get in the way of many.
        set("ClearAllForwardings=yes");
        set("ForwardAgent=no");
        set("ForwardX11=no");
        set("PermitLocalCommand=no");
        set("RemoteCommand=none");
        for (option, value) in host_key_options(self.ssh.options.host_keys) {
            set(&format!("{option}={value}"));
        }
        command.args(self.target());
        command
    }

    /// What says where to: also for ssh to tell what its configuration says of it.
    fn target(&self) -> Vec<OsString> {
        let config = match self.route.jumps.is_empty() {
            true => self.ssh.options.config.as_deref(),
            false => Some(self.ssh.jump_config()),
        };
        target(self.host, &self.ssh.options, config)
    }

    fn user(&self) -> Option<&str> {
        self.host.user.as_deref().or(self.ssh.options.user.as_deref())
    }

    async fn check_master(&self, status: io::Result<ExitStatus>) -> Result<(), SshError> {
        let status = status.map_err(|error| SshError::local(self.host, &error))?;
        let answers = status.success() && pid_behind(&self.folder.join(SOCKET)).await.is_some();
        if answers { Ok(()) } else { Err(self.error().await) }
    }

    async fn error(&self) -> SshError {
        let log = match read_log(&self.folder.join(LOG)) {
            Ok(log) => log,
            Err(error) => return SshError::local(self.host, &error),
        };
        let way = read_log(&self.folder.join(WAY)).unwrap_or_default();
        let mut jumps = Vec::new();
        for hop in self.hops().await {
            jumps.push(Jump { locked_keys: locked_keys(&hop.route).await, name: hop.name });
        }
        let facts = Facts {
            host: self.host,
            user: self.user(),
            key: self.ssh.options.keyfile.as_deref(),
            key_is_encrypted: self.ssh.keyfile == Some(KeyFile::Locked),
            connect_timeout: self.ssh.connect_timeout(),
            jumps: &jumps,
            proxy_command: self.route.proxy_command.as_deref(),
            locked_keys: &locked_keys(self.route).await,
        };
        facts.error(&log, &way)
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

/// The end of what ssh wrote, without what only -v makes it say.
fn read_log(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(LONGEST_LOG_BYTES)))?;
    let mut log = Vec::new();
    file.take(LONGEST_LOG_BYTES).read_to_end(&mut log)?;
    let verbose = ["debug1: ", "OpenSSH_", "Authenticated to ", "Transferred: ", "Bytes per second: "];
    let log = String::from_utf8_lossy(&log);
    let kept = log.lines().filter(|line| !verbose.iter().any(|start| line.starts_with(start)));
    Ok(kept.map(|line| format!("{line}\n")).collect())
}

/// What the ssh in a folder and those on the way have said, each in its order.
pub(super) fn said(folder: &Path) -> String {
    [WAY, LOG].map(|name| read_log(&folder.join(name)).unwrap_or_default()).concat()
}

fn host_key_options(host_keys: HostKeys) -> &'static [(&'static str, &'static str)] {
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
fn target(host: &Host, options: &SshOptions, config: Option<&Path>) -> Vec<OsString> {
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

/// Ends the master in a folder, politely, then by force, and removes the folder. Its process is asked for at the last moment:
/// ids are used again.
pub(super) async fn end(folder: &Path) {
    let socket = folder.join(SOCKET);
    if let Some(pid) = pid_behind(&socket).await {
        // On a dead network it hangs in saying goodbye.
        for signal in [Signal::TERM, Signal::KILL] {
            let _ = kill_process(pid, signal);
            if timeout(ENDS_WITHIN, gone(&socket)).await.is_ok() {
                break;
            }
        }
    }
    let _ = fs::remove_dir_all(folder);
}

async fn gone(socket: &Path) {
    while UnixStream::connect(socket).await.is_ok() {
        sleep(Duration::from_millis(50)).await;
    }
}

/// The process that answers on the socket. The socket's own credentials are of one that is gone: it was opened before ssh
/// went to the background.
async fn pid_behind(socket: &Path) -> Option<Pid> {
    let asking = async { Connection::connect(socket).await.ok()?.send_alive_check().await.ok() };
    let pid = timeout(ANSWERS_WITHIN, asking).await.ok().flatten()?;
    i32::try_from(pid.get()).ok().and_then(Pid::from_raw)
}
