//! A fleet of addresses on loopback, running the coordinator on it, and looking for what it leaves.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::program::small_binary;
use crate::sshd::TestSshd;
use crate::support::TestServer;

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Small documents and few connections, so that a busy test machine is not the bottleneck.
pub const SMALL: [&str; 6] = ["--output-size-kb", "1", "--raw-response-size-kb", "1", "--workers", "2"];

/// One sshd that answers on every 127.x.y.z, and a database on TCP with a password.
pub struct TestFleet {
    pub sshd: TestSshd,
    pub server: TestServer,
    /// The coordinator's own temporary folder, so that a test sees what it leaves there.
    pub tmp: tempfile::TempDir,
}

impl TestFleet {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With further lines of `sshd_config`.
    pub fn start_with(extra: &str) -> Self {
        let tmp = tempfile::Builder::new().prefix("c-").tempdir().unwrap();
        let fleet = Self { sshd: TestSshd::start_with(extra), server: TestServer::start_on_tcp(), tmp };
        let setup = ["--setup", "--duration", "0", "--postgres-url", &fleet.server.url()];
        let made = Command::new(env!("CARGO_BIN_EXE_load_test")).args(setup).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        fleet
    }

    /// The coordinator with this fleet's SSH configuration, the connection string in its environment, and none of the
    /// surroundings' settings.
    pub fn command(&self, vms: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG") || name.starts_with("POSTGRES")) {
            command.env_remove(name);
        }
        command.env("POSTGRES_URL", self.server.url()).env("TMPDIR", self.tmp.path());
        command.args(["--vms", vms, "--ssh-config"]).arg(self.sshd.config());
        command.arg("--agent-binary").arg(small_binary()).args(SMALL).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    pub fn run(&self, vms: &str, arguments: &[&str]) -> Ran {
        self.command(vms, arguments).output().unwrap().into()
    }

    /// Runs in the background.
    pub fn start_run(&self, vms: &str, arguments: &[&str]) -> Started {
        Started::new(&mut self.command(vms, arguments))
    }

    pub fn rows(&self, table: &str) -> u64 {
        self.server.psql(&format!("SELECT count(*) FROM {table}")).parse().unwrap()
    }

    pub fn psql(&self, sql: &str) -> String {
        self.server.psql(sql)
    }

    /// Connections of agents that the server still has.
    pub fn connections(&self) -> u64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postgres_load_test'";
        self.server.psql(sql).parse().unwrap()
    }

    /// Waits until load has begun.
    pub fn wait_for_rows(&self) {
        wait_until("rows appear", || self.rows("chat_inference") > 0);
    }

    /// Processes of agents: those whose program is the one that was sent to this fleet's home.
    pub fn agents(&self) -> Vec<u32> {
        processes_naming(self.sshd.home().to_str().unwrap())
    }

    /// The next run removes the folder of the control sockets that a killed one has left; on this port nothing listens.
    pub fn sweep(&self) {
        self.run("127.0.0.1:1", &["--rps", "1", "--duration", "1"]).expect(3);
    }

    /// No process of ours, no connection, no temporary file, on either side; waits a little for the last to go.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let tmp = self.tmp.path().to_str().unwrap();
        wait_until("all processes and connections are gone", || {
            self.agents().is_empty() && processes_naming(tmp).is_empty() && self.connections() == 0
        });
        wait_until("the coordinator's temporary folder is empty", || entries(self.tmp.path()).is_empty());
        let unfinished: Vec<PathBuf> = walk(&self.sshd.home());
        let unfinished: Vec<_> = unfinished
            .iter()
            .filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with("load_test"))
            .collect();
        assert!(unfinished.is_empty(), "left on the machines: {unfinished:?}");
    }
}

/// Processes whose command line names a path.
pub fn processes_naming(path: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let named = pids.filter(|pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
            let line = String::from_utf8_lossy(&line).into_owned();
            // sshd itself names its configuration in the same folder.
            line.contains(path) && !line.contains("sshd_config")
        })
    });
    named.collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect()
}

/// All files below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let (folders, mut files): (Vec<_>, Vec<_>) = entries(folder).into_iter().partition(|path| path.is_dir());
    files.extend(folders.iter().flat_map(|folder| walk(folder)));
    files
}

#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What one run of the program came to.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// The one JSON document on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// The run took place. Whether it passed is up to the machine, which may be busy, and not judged here.
    #[track_caller]
    pub fn expect_measured(self) -> Self {
        assert!(matches!(self.code, Some(0 | 1)), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Nothing was run, and the message has all of `parts`.
    #[track_caller]
    pub fn expect_refusal(self, code: i32, parts: &[&str]) -> Self {
        let ran = self.expect(code);
        for part in parts {
            assert!(ran.stderr.contains(part), "{part:?} is missing from {}", ran.stderr);
        }
        assert_eq!(ran.stdout, "");
        ran
    }
}

/// A run in the background; killed when dropped.
pub struct Started {
    child: Option<Child>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<std::thread::JoinHandle<String>>,
}

impl Started {
    pub fn new(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let (mut out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let seen = Arc::clone(&stderr);
        let readers = vec![
            std::thread::spawn(move || {
                let mut text = String::new();
                out.read_to_string(&mut text).unwrap();
                text
            }),
            std::thread::spawn(move || {
                for line in BufReader::new(err).lines() {
                    let mut seen = seen.lock().unwrap();
                    seen.push_str(&line.unwrap());
                    seen.push('\n');
                }
                String::new()
            }),
        ];
        Self { child: Some(child), stderr, readers }
    }

    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.id() as i32).unwrap(), signal).unwrap();
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn wait_for_stderr(&self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.stderr().contains(text) {
            assert!(Instant::now() < until, "{text:?} never came: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn finish(mut self) -> Ran {
        let status = self.child.take().unwrap().wait().unwrap();
        let stdout = self.readers.remove(0).join().unwrap();
        let _ = self.readers.remove(0).join();
        Ran { code: status.code(), stdout, stderr: self.stderr() }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn count(json: &Value, name: &str) -> u64 {
    json["accounting"][name].as_u64().unwrap_or_else(|| panic!("no count {name} in {json}"))
}

/// What becomes of a slot.
const ENDS: [&str; 7] = ["ok", "failed", "unknown", "skipped", "not_started", "unfinished", "unreported"];

/// scheduled = ok + failed + unknown + skipped + not_started + unfinished + unreported, of the whole and of every VM. The
/// whole is the sum of the VMs and of what no VM reported.
#[track_caller]
pub fn assert_adds_up(json: &Value) {
    let machines = json["per_vm_results"].as_array().unwrap();
    let results = machines.iter().map(|machine| &machine["result"]);
    for result in results.clone().chain([json]) {
        let sum: u64 = ENDS.iter().map(|name| count(result, name)).sum();
        assert_eq!(count(result, "scheduled"), sum, "{}", result["accounting"]);
        let answered = count(result, "ok") + count(result, "failed") + count(result, "unknown");
        assert_eq!(result["latency_ms"]["count"], answered);
    }
    for name in &ENDS[..6] {
        let sum: u64 = results.clone().map(|result| count(result, name)).sum();
        assert_eq!(count(json, name), sum, "{name}");
    }
    let scheduled: u64 = results.map(|result| count(result, "scheduled")).sum();
    assert_eq!(count(json, "scheduled"), scheduled + count(json, "unreported"), "{}", json["accounting"]);
    if machines.len() as u64 == json["num_vms"].as_u64().unwrap() {
        let lost: u64 = machines.iter().map(|machine| machine["slots_lost"].as_u64().unwrap()).sum();
        assert_eq!(count(json, "unreported"), lost);
    }
}
