//! SSH sessions, their faults and their end, and the bootstrap of the agent, against a real sshd on loopback.

mod channel;
mod deploy;
mod faults;
mod jump;
mod sessions;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use openssh::Session;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::harness::processes::naming;
use crate::harness::sshd::TestSshd;
use crate::harness::{PATIENCE, small_binary, text, write_script};
use crate::library::{
    AgentBinary, DeployError, DeployMode, DeployOptions, Host, HostKeys, Launched, Sessions, SshOptions,
    deploy as bootstrap, hosts,
};

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
    hosts::parse(text, &|path| std::fs::read_to_string(path)).unwrap().remove(0)
}

/// The folder of the sockets, from that of one.
fn folder_of(session: &Session) -> PathBuf {
    session.control_socket().parent().unwrap().parent().unwrap().to_owned()
}

/// The processes whose command line names the folder: masters, ssh that connects.
fn processes_of(folder: &Path) -> Vec<(u32, String)> {
    naming(text(folder))
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
    write_script(path, &format!("[ \"$1\" = --agent ] || exit 0\n{body}"));
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
