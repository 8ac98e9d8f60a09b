//! Running the programs, and reading what they say.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::TestServer;

/// Small documents, so that a busy test machine is not the bottleneck.
pub const SMALL: [&str; 4] = ["--output-size-kb", "1", "--raw-response-size-kb", "1"];

/// A program with none of the surroundings' settings.
pub fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG") || name.starts_with("POSTGRES")) {
        command.env_remove(name);
    }
    command
}

/// What one run of the coordinator came to.
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
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// No result, but a message with all of `words`.
    #[track_caller]
    pub fn expect_refusal(&self, code: i32, words: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{self:?}");
        assert!(self.stderr.starts_with("error: "), "{self:?}");
        assert!(words.iter().all(|word| self.stderr.contains(word)), "{words:?}: {}", self.stderr);
    }
}

/// Runs `coordinator merge`, with `stdin` to read.
pub fn merge(arguments: &[&str], stdin: &[u8]) -> Ran {
    let mut command = clean(env!("CARGO_BIN_EXE_coordinator"));
    command.arg("merge").args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Not everything is read where the arguments are refused first.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap().into()
}

/// A server with the tables.
pub fn server_with_tables() -> TestServer {
    let server = TestServer::start();
    let url = server.url();
    let made = clean(env!("CARGO_BIN_EXE_load_test"))
        .args(["--setup", "--duration", "0", "--postgres-url", &url])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    server
}

/// An instant some seconds ahead, as `--start-at` takes it: time enough to connect on a busy machine.
pub fn soon() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now + Duration::from_secs(8)).as_secs().to_string()
}

/// Runs each share in a process of its own, all at once, and leaves their results in `folder`.
pub fn run_shares(server: &TestServer, folder: &Path, shares: &[&str], arguments: &[&str]) -> Vec<PathBuf> {
    let (url, start_at) = (server.url(), soon());
    let files: Vec<PathBuf> = (1..=shares.len()).map(|number| folder.join(format!("r{number}.json"))).collect();
    let running: Vec<_> = shares
        .iter()
        .zip(&files)
        .map(|(share, file)| {
            clean(env!("CARGO_BIN_EXE_load_test"))
                .args(["--json-output", "--postgres-url", &url, "--share", share, "--start-at", &start_at])
                .args(SMALL)
                .args(arguments)
                .stdout(std::fs::File::create(file).unwrap())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in running {
        let output = child.wait_with_output().unwrap();
        // Whether a share passed is up to the machine, which may be busy.
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stderr));
    }
    files
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn parsed(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub fn count(json: &Value, name: &str) -> u64 {
    json["accounting"][name].as_u64().unwrap_or_else(|| panic!("no count {name} in {json}"))
}

pub fn rows(server: &TestServer, table: &str) -> u64 {
    server.psql(&format!("SELECT count(*) FROM {table}")).parse().unwrap()
}

/// Rows = acknowledged writes, and at most those whose fate is not known. The identity of the accounting holds.
#[track_caller]
pub fn assert_rows_match(server: &TestServer, json: &Value) {
    let parts = ["ok", "failed", "unknown", "skipped", "not_started", "unfinished", "unreported"];
    assert_eq!(count(json, "scheduled"), parts.iter().map(|name| count(json, name)).sum::<u64>());
    let warmup = json["run"]["warmup"]["ok"].as_u64().unwrap();
    let least = count(json, "ok") + warmup;
    let most = least + count(json, "unknown") + count(json, "unfinished");
    for table in ["chat_inference", "model_inference", "variant_by_episode"] {
        let rows = rows(server, table);
        assert!((least..=most).contains(&rows), "{table}: {rows} rows, {}", json["accounting"]);
    }
}
