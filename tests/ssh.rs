//! SSH sessions, their faults and their end, and the bootstrap of the agent, against a real sshd on loopback. Owns what
//! these tests share. Where a test cannot run, it says SKIPPED on stderr.

#[path = "ssh/channel.rs"]
mod channel;
#[path = "ssh/deploy.rs"]
mod deploy;
#[path = "ssh/faults.rs"]
mod faults;
#[path = "ssh/jump.rs"]
mod jump;
#[path = "support/program.rs"]
mod program;
#[path = "ssh/sessions.rs"]
mod sessions;
#[path = "support/sshd.rs"]
mod sshd;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use openssh::Session;
use postgres_load_test::fleet::binary::AgentBinary;
use postgres_load_test::fleet::deploy::{self as bootstrap, DeployError, DeployMode, DeployOptions, Launched};
use postgres_load_test::fleet::hosts::{self, Host};
use postgres_load_test::fleet::ssh::{HostKeys, Sessions, SshOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use self::program::small_binary;
use self::sshd::TestSshd;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn options(sshd: &TestSshd) -> SshOptions {
    SshOptions {
        user: None,
        port: None,
        keyfile: None,
        config: Some(sshd.config()),
        host_keys: HostKeys::AcceptNew,
        connect_timeout: Duration::from_secs(20),
        concurrency: 8,
    }
}

fn host(text: &str) -> Host {
    hosts::parse(text, &|path| fs::read_to_string(path)).unwrap().remove(0)
}

/// The folder of the sockets, from that of one.
fn folder_of(session: &Session) -> PathBuf {
    session.control_socket().parent().unwrap().parent().unwrap().to_owned()
}

/// The processes whose command line names the folder: masters, ssh that connects.
fn processes_of(folder: &Path) -> Vec<(u32, String)> {
    let folder = folder.to_str().unwrap();
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let lines = pids.filter_map(|pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
    });
    lines.filter(|(_, line)| line.contains(folder)).collect()
}

fn assert_nothing_left(folder: &Path) {
    assert_no_process(folder);
    assert!(!folder.exists(), "{} is still there", folder.display());
}

/// A process that has said its last may still be there for a moment.
fn assert_no_process(folder: &Path) {
    let until = Instant::now() + Duration::from_secs(2);
    while !processes_of(folder).is_empty() {
        assert!(Instant::now() < until, "{:?}", processes_of(folder));
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One sshd, and one session to it.
struct Bench {
    sshd: TestSshd,
    sessions: Sessions,
    session: Arc<Session>,
    host: Host,
}

impl Bench {
    async fn start() -> Self {
        Self::start_with("").await
    }

    async fn start_with(extra: &str) -> Self {
        let sshd = TestSshd::start_with(extra);
        let sessions = Sessions::new(options(&sshd)).unwrap();
        let host = host("127.0.0.1");
        let session = sessions.open(&host).await.unwrap_or_else(|error| panic!("{error}\n{}", sshd.log()));
        Self { sshd, sessions, session, host }
    }

    async fn launch(&self, options: &DeployOptions) -> Result<Launched, DeployError> {
        // A session without a channel ends by itself after some seconds: tests look around between launches.
        let session = match self.session.check().await {
            Ok(()) => Arc::clone(&self.session),
            Err(_) => self.sessions.open(&self.host).await.unwrap(),
        };
        bootstrap::launch(session, &self.host, options, &Semaphore::new(2)).await
    }

    fn installed(&self, name: &str) -> PathBuf {
        self.sshd.home().join(name).join("load_test")
    }

    async fn finish(self) {
        self.sessions.finish().await;
    }
}

/// What a folder's file of a build is called.
fn file_of(binary: &AgentBinary) -> String {
    format!("load_test-{}", &binary.sha256[..16])
}

fn deploy_options(remote_path: &str, mode: DeployMode) -> DeployOptions {
    static BINARY: OnceLock<AgentBinary> = OnceLock::new();
    let binary = BINARY.get_or_init(|| AgentBinary::read(small_binary()).unwrap());
    DeployOptions { remote_path: remote_path.into(), mode, binaries: vec![binary.clone()] }
}

/// A stand-in for the agent: a script, which answers to `--version` and otherwise does `body`.
fn install_script(path: &Path, body: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n[ \"$1\" = --agent ] || exit 0\n{body}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Sends the agent a line and end-of-file, and returns all that it prints.
async fn talk(launched: Launched, line: &str) -> (String, String) {
    let Launched { mut stdin, mut stdout, mut stderr, child, .. } = launched;
    // An agent that does not read may be gone by now.
    let _ = stdin.write_all(format!("{line}\n").as_bytes()).await;
    drop(stdin);
    let (mut out, mut errors) = (String::new(), String::new());
    let all = async {
        stdout.read_to_string(&mut out).await.unwrap();
        stderr.read_to_string(&mut errors).await.unwrap();
        let _ = child.wait().await;
    };
    tokio::time::timeout(PATIENCE, all).await.expect("the agent ends");
    (out, errors)
}

/// What is in a folder, by name; nothing where there is none.
fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn skipped(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED ssh::{test}: {reason}");
}
