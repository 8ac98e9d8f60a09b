//! A private sshd, for one test: own folder, own keys, own home. Owns its processes and ends them all. Must not know what
//! is tested with it; nothing of it touches the real `~/.ssh` or the real home.
//!
//! It listens on every IPv4 address, so that 127.0.0.1, 127.0.0.2, … are as many hosts as a test wants, and on `::1`. A
//! test binary takes it in with `#[path = "support/sshd.rs"] mod sshd;`.

#![allow(dead_code)] // Every test binary uses a part of it.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running sshd. Gone when dropped, with its sessions and what runs in them.
pub struct TestSshd {
    folder: TempDir,
    port: u16,
    server: Option<Child>,
}

impl TestSshd {
    /// With nothing special about it.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With further lines of `sshd_config`, such as `MaxStartups 3:50:6`. They come first, and so win.
    pub fn start_with(extra: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("sshd-").tempdir().unwrap();
        // Privilege separation wants it, and a package that has never started sshd has not made it.
        let _ = fs::create_dir_all("/run/sshd");
        fs::create_dir(folder.path().join("home")).unwrap();
        fs::write(folder.path().join("known_hosts"), "").unwrap();
        generate_key(&folder.path().join("host_key"));
        generate_key(&folder.path().join("key"));
        fs::copy(folder.path().join("key.pub"), folder.path().join("authorized_keys")).unwrap();
        let mut sshd = Self { folder, port: 0, server: None };
        // Between finding a free port and taking it, somebody else can.
        for _ in 0..5 {
            sshd.port = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port();
            sshd.configure(extra);
            if sshd.try_start() {
                return sshd;
            }
        }
        panic!("sshd does not start: {}", sshd.log());
    }

    fn configure(&self, extra: &str) {
        let (folder, port, user) = (self.folder.path().display(), self.port, user());
        // Of several lines `SetEnv` only the first counts.
        let extra = extra.replace("{home}", &format!("{folder}/home"));
        let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).map_or("", |_| "ListenAddress ::1");
        // Of this option sshd takes the last.
        let startups = if extra.contains("MaxStartups") { "" } else { "MaxStartups 200" };
        let server = format!(
            "{extra}\nPort {port}\nListenAddress 0.0.0.0\n{v6}\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\n\
             AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nPermitRootLogin yes\nPrintMotd no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\nLogLevel VERBOSE\n\
             MaxSessions 100\n{startups}\nSetEnv HOME={folder}/home\n"
        );
        fs::write(self.path("sshd_config"), server).unwrap();
        let client = format!(
            "Host *\n  Port {port}\n  User {user}\n  IdentityFile {folder}/key\n  IdentitiesOnly yes\n  IdentityAgent none\n  \
             UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        );
        fs::write(self.path("ssh_config"), client).unwrap();
    }

    fn try_start(&mut self) -> bool {
        let log = fs::File::create(self.path("log")).unwrap();
        // sshd starts itself again for every connection, and so wants its full path.
        let mut command = Command::new(program());
        command.arg("-D").arg("-e").arg("-f").arg(self.path("sshd_config"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().unwrap();
        let until = Instant::now() + PATIENCE;
        let started = loop {
            if child.try_wait().unwrap().is_some() || Instant::now() > until {
                break false;
            }
            if self.log().contains("Server listening on 0.0.0.0")
                && TcpStream::connect(("127.0.0.1", self.port)).is_ok()
            {
                break true;
            }
            sleep(Duration::from_millis(20));
        };
        self.server = Some(child);
        if !started {
            self.stop();
        }
        started
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// On all IPv4 addresses and `::1`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The private key that is let in.
    pub fn key(&self) -> PathBuf {
        self.path("key")
    }

    /// For `ssh -F`: port, user, key, and a known hosts file in the folder.
    pub fn config(&self) -> PathBuf {
        self.path("ssh_config")
    }

    /// The known hosts file of [`Self::config`], empty at first.
    pub fn known_hosts(&self) -> PathBuf {
        self.path("known_hosts")
    }

    /// `$HOME` of what runs in sessions.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// What sshd has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// How many connections have been made to it so far, the one that found out whether it listens left out.
    pub fn connections(&self) -> usize {
        self.log().matches("Connection from ").count().saturating_sub(1)
    }

    /// The processes of sshd that each serve one connection, logged in or not.
    pub fn sessions(&self) -> Vec<u32> {
        self.server.as_ref().map_or(Vec::new(), |server| children(server.id()))
    }

    /// Kills (SIGKILL) a connection's processes of sshd and what runs in it: the client sees the connection end.
    pub fn kill_session(&self, session: u32) {
        self.signal_session(session, Signal::KILL);
    }

    /// Stops (SIGSTOP) them: the connection stays open and nobody answers, as behind a dead network.
    pub fn freeze_session(&self, session: u32) {
        self.signal_session(session, Signal::STOP);
    }

    /// Lets them go on (SIGCONT).
    pub fn thaw_session(&self, session: u32) {
        self.signal_session(session, Signal::CONT);
    }

    /// Freezes the listening process: connections are made by the kernel, and nobody greets.
    pub fn freeze(&self) {
        self.server.iter().for_each(|server| send(server.id(), Signal::STOP));
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.server.iter().for_each(|server| send(server.id(), Signal::CONT));
    }

    fn signal_session(&self, session: u32, signal: Signal) {
        assert!(self.sessions().contains(&session), "{session} is not a session of this sshd");
        [vec![session], descendants(session)].concat().into_iter().for_each(|pid| send(pid, signal));
    }

    /// Stops listening and ends all sessions: from now on connections are refused.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        // The children of a dead process are nobody's: they are looked up before. Twice, as some may just be starting.
        send(server.id(), Signal::STOP);
        for _ in 0..2 {
            descendants(server.id()).into_iter().for_each(|pid| send(pid, Signal::KILL));
        }
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Replaces the host key, as if the machine had been installed anew; the port stays.
    pub fn change_host_key(&mut self) {
        self.stop();
        fs::remove_file(self.path("host_key")).unwrap();
        generate_key(&self.path("host_key"));
        assert!(self.try_start(), "{}", self.log());
    }
}

impl Drop for TestSshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes an ed25519 key without a passphrase, and its `.pub`.
pub fn generate_key(path: &Path) {
    generate_key_with(path, "");
}

/// Makes an ed25519 key with a passphrase, and its `.pub`.
pub fn generate_key_with(path: &Path, passphrase: &str) {
    let mut command = Command::new("ssh-keygen");
    let output =
        command.args(["-q", "-t", "ed25519", "-C", "test", "-N", passphrase, "-f"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The user of this process: the only one whom an sshd without privileges can let in.
pub fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn program() -> PathBuf {
    let places = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd", "/sbin/sshd"];
    let found = places.iter().map(PathBuf::from).find(|path| path.is_file());
    found.expect("sshd is not installed: apt-get install openssh-server")
}

/// The processes that run and whose parent is `parent`.
pub fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| parent_of(pid) == Some(parent)).collect()
}

/// Those, and theirs, and so on.
pub fn descendants(of: u32) -> Vec<u32> {
    let children = children(of);
    let further: Vec<u32> = children.iter().flat_map(|&child| descendants(child)).collect();
    [children, further].concat()
}

/// From `/proc/PID/stat`, whose second field, the name in parentheses, can hold anything. Zombies have none.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let (state, parent) = (fields.next()?, fields.next()?);
    if state == "Z" { None } else { parent.parse().ok() }
}

/// Sends a signal; a process that is gone by now is none to worry about.
pub fn send(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal);
}
