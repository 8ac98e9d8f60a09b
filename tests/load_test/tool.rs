//! Running the program, and reading what it says.

use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::TestServer;

/// Small documents, so that a busy test machine is not the bottleneck.
pub const SMALL: [&str; 4] = ["--output-size-kb", "2", "--raw-response-size-kb", "2"];

/// The program, with none of the surroundings' settings.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load_test"));
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG") || name.starts_with("POSTGRES")) {
        command.env_remove(name);
    }
    command.env_remove("DATABASE_URL");
    command
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
    /// The one JSON document on stdout, which must say what its format is and add up.
    #[track_caller]
    pub fn json(&self) -> Value {
        let json: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(json["format"], "postgres_load_test/result");
        assert_eq!(json["version"], 1);
        assert_adds_up(&json);
        json
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// The run took place. Whether it passed is up to the machine, which may be busy, and not judged here.
    #[track_caller]
    pub fn expect_measured(self) -> Self {
        assert!(matches!(self.code, Some(0 | 1)), "{self:?}");
        self
    }

    /// The message of a run that could not begin.
    #[track_caller]
    pub fn expect_refusal(self, code: i32, parts: &[&str]) -> Self {
        let ran = self.expect(code);
        for part in parts {
            assert!(ran.stderr.contains(part), "{part:?} is missing from {:?}", ran.stderr);
        }
        assert_eq!(ran.stdout, "");
        ran
    }
}

/// Runs to the end.
pub fn run(arguments: &[&str]) -> Ran {
    command(arguments).output().unwrap().into()
}

/// Against this server, with small documents and JSON output.
pub fn run_on(server: &TestServer, arguments: &[&str]) -> Ran {
    start_on(server, arguments).finish()
}

/// A run in the background; killed when dropped.
pub struct Started {
    child: Option<Child>,
}

pub fn start_on(server: &TestServer, arguments: &[&str]) -> Started {
    start(&[&["--json-output", "--postgres-url", &server.url()], &SMALL[..], arguments].concat())
}

pub fn start(arguments: &[&str]) -> Started {
    start_command(&mut command(arguments))
}

pub fn start_command(command: &mut Command) -> Started {
    Started { child: Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()) }
}

impl Started {
    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn finish(mut self) -> Ran {
        self.child.take().unwrap().wait_with_output().unwrap().into()
    }

    /// Reads stderr up to a line that contains `text`.
    pub fn wait_for_stderr(&mut self, text: &str) {
        let stderr = self.child.as_mut().unwrap().stderr.as_mut().unwrap();
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !String::from_utf8_lossy(&seen).contains(text) {
            assert_eq!(stderr.read(&mut byte).unwrap(), 1, "stderr ended: {}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
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

/// A server with the tables.
pub fn server_with_tables() -> TestServer {
    let server = TestServer::start();
    run(&["--setup", "--duration", "0", "--postgres-url", &server.url()]).expect(0);
    server
}

pub fn rows(server: &TestServer, table: &str) -> u64 {
    server.psql(&format!("SELECT count(*) FROM {table}")).parse().unwrap()
}

/// Waits until `table` has rows, that is, until load has begun.
pub fn wait_for_rows(server: &TestServer, table: &str) {
    wait_until("rows appear", || rows(server, table) > 0);
}

#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited a minute until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn count(json: &Value, name: &str) -> u64 {
    json["accounting"][name].as_u64().unwrap_or_else(|| panic!("no count {name} in {json}"))
}

pub fn ms(json: &Value, figure: &str, name: &str) -> f64 {
    json[figure][name].as_f64().unwrap_or_else(|| panic!("no {figure}.{name}"))
}

/// scheduled = ok + failed + unknown + skipped + not_started + unfinished, and totals that follow from them.
#[track_caller]
pub fn assert_adds_up(json: &Value) {
    let parts = ["ok", "failed", "unknown", "skipped", "not_started", "unfinished"];
    let sum: u64 = parts.iter().map(|name| count(json, name)).sum();
    assert_eq!(count(json, "scheduled"), sum, "{}", json["accounting"]);
    let answered = count(json, "ok") + count(json, "failed") + count(json, "unknown");
    assert_eq!(json["throughput"]["total_requests"], answered);
    assert_eq!(json["latency_ms"]["count"], answered);
    assert_eq!(json["service_time_ms"]["count"], answered);
    let split = ["lateness_ms", "wait_for_connection_ms"].map(|name| json[name]["count"].as_u64().unwrap());
    assert_eq!(split.iter().sum::<u64>(), answered);
    let by_class: u64 = json["errors"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|error| error["origin"] == "request")
        .map(|error| error["count"].as_u64().unwrap())
        .sum();
    assert_eq!(by_class, count(json, "failed") + count(json, "unknown"), "{}", json["errors"]);
}

/// Every request was written, but for those that a busy machine had not begun when the window closed. Returns how many
/// were.
#[track_caller]
pub fn all_written(json: &Value, scheduled: u64) -> u64 {
    let (ok, not_started) = (count(json, "ok"), count(json, "not_started"));
    assert_eq!(ok + not_started, scheduled, "{} {}", json["accounting"], json["errors"]);
    assert!(ok > 0, "{}", json["accounting"]);
    ok
}

/// Rows = acknowledged writes, and at most those whose fate is not known.
#[track_caller]
pub fn assert_rows_match(server: &TestServer, json: &Value) {
    let warmup = |name: &str| json["run"]["warmup"][name].as_u64().unwrap();
    let least = count(json, "ok") + warmup("ok");
    let most = least + count(json, "unknown") + count(json, "unfinished") + warmup("unknown") + warmup("unfinished");
    // For tables of what faults come to: cargo test -- --nocapture.
    let (test, failed) = (std::thread::current(), count(json, "failed"));
    let (in_doubt, found) = (most - least, rows(server, "chat_inference"));
    let test = test.name().unwrap_or_default();
    eprintln!("FIGURE {test}: {least} acknowledged, {failed} failed, {in_doubt} in doubt, {found} rows");
    for table in ["chat_inference", "model_inference", "variant_by_episode"] {
        let rows = rows(server, table);
        assert!((least..=most).contains(&rows), "{table}: {rows} rows, {}", json["accounting"]);
    }
    // Each key starts at 1000 with its first request; every further one takes a ticket.
    let used: u64 = server.psql("SELECT coalesce(sum(1001 - tickets), 0) FROM resource_bucket").parse().unwrap();
    assert!((least..=most).contains(&used), "resource_bucket: {used} requests, {}", json["accounting"]);
}
