//! A private sshd for one test, with a folder, keys and a home of its own: nothing of it touches the real `~/.ssh` or the
//! real home. It owns its processes and ends them all.
//!
//! It listens on every IPv4 address, so that 127.0.0.1, 127.0.0.2, … are as many hosts as a test wants, and on `::1`.

use std::fs;
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::processes::{children, descendants, send};
use super::{PATIENCE, free_port, public_folder, take_part, user};

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
        take_part();
        let folder = public_folder();
        // Privilege separation needs it, and a package that has never started sshd has not made it.
        let _ = fs::create_dir_all("/run/sshd");
        fs::create_dir(folder.path().join("home")).unwrap();
        fs::write(folder.path().join("known_hosts"), "").unwrap();
        generate_key(&folder.path().join("host_key"));
        generate_key(&folder.path().join("key"));
        fs::copy(folder.path().join("key.pub"), folder.path().join("authorized_keys")).unwrap();
        let mut sshd = Self { folder, port: free_port(), server: None };
        sshd.configure(extra);
        sshd.launch();
        sshd
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
        // The cipher and the key exchange that take the least of a processor.
        let client = format!(
            "Host *\n  Port {port}\n  User {user}\n  IdentityFile {folder}/key\n  IdentitiesOnly yes\n  IdentityAgent none\n  \
             UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n  \
             Ciphers aes128-gcm@openssh.com\n  KexAlgorithms curve25519-sha256\n"
        );
        fs::write(self.path("ssh_config"), client).unwrap();
    }

    fn launch(&mut self) {
        let log = fs::File::create(self.path("log")).unwrap();
        // sshd starts itself again for every connection, and so wants its full path.
        let mut command = Command::new(program());
        command.arg("-D").arg("-e").arg("-f").arg(self.path("sshd_config"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = self.server.insert(command.spawn().unwrap());
        let begun = Instant::now();
        loop {
            let has_ended = child.try_wait().unwrap().is_some();
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
            assert!(!has_ended && begun.elapsed() < PATIENCE, "sshd does not start: {log}");
            let listens = log.contains("Server listening on 0.0.0.0");
            if listens && TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            sleep(Duration::from_millis(10));
        }
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

    /// Whose keys are let in.
    pub fn authorized_keys(&self) -> PathBuf {
        self.path("authorized_keys")
    }

    /// Lets in the key of another sshd's configuration, and no other key.
    pub fn let_in(&self, other: &Self) {
        fs::copy(other.key().with_extension("pub"), self.authorized_keys()).unwrap();
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
        self.launch();
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

fn program() -> PathBuf {
    let places = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd", "/sbin/sshd"];
    let found = places.iter().map(PathBuf::from).find(|path| path.is_file());
    found.expect("sshd is not installed: apt-get install openssh-server")
}
