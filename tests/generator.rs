//! A generator that is the bottleneck says so. These take all processors, hence a test binary of their own, one at a time.

#[path = "load_test/tool.rs"]
#[allow(dead_code)] // A part of it is enough here.
mod tool;

mod support;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use tool::{SMALL, ms, server_with_tables};

static ALONE: Mutex<()> = Mutex::new(());

/// Ended when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that answers transactions at once, in front of a real one (see bench/stub_server.rs).
fn start_stub(server: &support::TestServer, listen: &std::path::Path) -> Process {
    // target/…/deps/generator-… and target/…/examples/stub_server
    let program: PathBuf = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/stub_server");
    let socket = format!(".s.PGSQL.{}", server.server().port());
    let mut stub = Command::new(&program)
        .args([server.server().socket_dir().join(&socket), listen.join(&socket)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{} ({error}); `cargo build --example stub_server` makes it", program.display())
        });
    let mut ready = String::new();
    BufReader::new(stub.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready.trim(), "ready");
    Process(stub)
}

#[test]
fn a_server_that_answers_at_once_leaves_only_the_generator_to_blame() {
    let _alone = ALONE.lock();
    let server = server_with_tables();
    let folder = tempfile::tempdir().unwrap();
    let _stub = start_stub(&server, folder.path());
    let (port, host) = (server.server().port().to_string(), folder.path().to_str().unwrap());
    let to_the_stub = ["--postgres-url", &format!("host='{host}' port={port} user=postgres dbname=postgres")];
    let beyond = ["--rps", "1000000", "--duration", "3", "--workers", "32", "--threads", "1", "--pipeline"];
    let arguments = [&["--json-output", "--no-reset"][..], &to_the_stub, &SMALL, &beyond].concat();
    let json = tool::run(&arguments).expect(1).json();
    assert_eq!(json["status"], "INVALID", "{} {}", json["reason"], json["generator"]);
    assert!(json["reason"].as_str().unwrap().starts_with("Generator-limited"), "{}", json["reason"]);
    // It was not for want of answers.
    assert_eq!(json["throughput"]["failed_writes"], 0, "{}", json["errors"]);
    assert!(json["throughput"]["target_achieved_pct"].as_f64().unwrap() < 90.0);
}

#[test]
fn a_machine_that_others_keep_busy_shows_in_the_lateness_and_makes_the_run_invalid() {
    let _alone = ALONE.lock();
    let server = server_with_tables();
    let url = server.url();
    let few = ["--rps", "100", "--duration", "4", "--workers", "8"];
    let arguments = [&["--json-output", "--postgres-url", &url][..], &SMALL, &few].concat();
    let processors = std::thread::available_parallelism().unwrap().get();
    let busy: Vec<Process> = (0..3 * processors)
        .map(|_| {
            let endless = Command::new("sh").args(["-c", "while :; do :; done"]).spawn();
            Process(endless.unwrap())
        })
        .collect();
    // Behind them in priority, so that the database gets its share of the processors.
    let beside_others = |niceness: &str| {
        let mut nice = Command::new("nice");
        nice.args(["-n", niceness, env!("CARGO_BIN_EXE_load_test")]).args(&arguments).stdin(Stdio::null());
        let json = tool::start_command(&mut nice).finish().expect(1).json();
        assert_eq!(json["status"], "INVALID", "{} {} {}", json["reason"], json["generator"], json["lateness_ms"]);
        json
    };
    let slowed = beside_others("10");
    // It hardly runs, so that no worker ever waits for a slot, and none of them is late by the definition of lateness.
    let starved = beside_others("19");
    drop(busy);
    let idle = tool::run(&arguments).expect_measured().json();
    assert!(ms(&slowed, "lateness_ms", "p99") > ms(&idle, "lateness_ms", "p99"), "{}", slowed["lateness_ms"]);
    for contended in [&slowed, &starved] {
        let [waited, usual] = [contended, &idle].map(|json| json["generator"]["run_queue_wait_pct"].as_f64().unwrap());
        assert!(waited > usual, "{waited} {usual}");
    }
}
