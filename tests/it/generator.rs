//! A generator that is the bottleneck says so. These tests take all processors, so they run alone.

use std::path::Path;
use std::process::Stdio;

use crate::harness::{Program, SMALL, Started, TestServer, alone, load_test, ms};

/// A server that answers transactions at once, in front of a real one (see bench/stub_server.rs).
fn start_stub(server: &TestServer, listen: &Path) -> Started {
    // target/…/deps/it-… and target/…/examples/stub_server
    let program = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/stub_server");
    let at = program.display();
    assert!(program.exists(), "{at} is missing: `cargo build --example stub_server` makes it");
    let socket = format!(".s.PGSQL.{}", server.port());
    let sockets = [server.socket_dir().join(&socket), listen.join(&socket)];
    // It ends with its input.
    let stub = Program::new(&program).args(sockets).stdin(Stdio::piped()).start();
    stub.wait_for_stdout("ready\n");
    stub
}

#[test]
fn a_server_that_answers_at_once_leaves_only_the_generator_to_blame() {
    alone();
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let _stub = start_stub(&server, folder.path());
    let (port, host) = (server.port().to_string(), folder.path().to_str().unwrap());
    let to_the_stub = ["--postgres-url", &format!("host='{host}' port={port} user=postgres dbname=postgres")];
    let beyond = ["--rps", "1000000", "--duration", "3", "--workers", "32", "--threads", "1", "--pipeline"];
    let arguments = [&["--json-output", "--no-reset"][..], &to_the_stub, &SMALL, &beyond].concat();
    let json = load_test(&arguments).run().expect(1).json();
    assert_eq!(json["status"], "INVALID", "{} {}", json["reason"], json["generator"]);
    assert!(json["reason"].as_str().unwrap().starts_with("Generator-limited"), "{}", json["reason"]);
    // It was not for want of answers.
    assert_eq!(json["throughput"]["failed_writes"], 0, "{}", json["errors"]);
    assert!(json["throughput"]["target_achieved_pct"].as_f64().unwrap() < 90.0);
}

#[test]
fn a_machine_that_others_keep_busy_shows_in_the_lateness_and_makes_the_run_invalid() {
    alone();
    let server = TestServer::with_tables();
    let load = || server.load(&["--rps", "100", "--duration", "4", "--workers", "8"]);
    let processors = std::thread::available_parallelism().unwrap().get();
    // With a limit of their own, in case this program is killed: seconds of CPU time.
    let endless = || Program::new("sh").args(["-c", "ulimit -t 60; while :; do :; done"]).start();
    let busy: Vec<Started> = (0..3 * processors).map(|_| endless()).collect();
    // Behind them in priority, so that the database gets its share of the processors.
    let beside_others = |niceness: &str| {
        let json = load().within(&["nice", "-n", niceness]).run().expect(1).json();
        assert_eq!(json["status"], "INVALID", "{} {} {}", json["reason"], json["generator"], json["lateness_ms"]);
        json
    };
    let slowed = beside_others("10");
    // It hardly runs, so that no worker ever waits for a slot, and none of them is late by the definition of lateness.
    let starved = beside_others("19");
    drop(busy);
    let idle = load().run().expect_measured().json();
    // It may be starved too, where others keep the machine even busier.
    let late = slowed["lateness_ms"]["p99"].as_f64();
    assert!(late.is_none_or(|late| late > ms(&idle, "lateness_ms", "p99")), "{}", slowed["lateness_ms"]);
    for contended in [&slowed, &starved] {
        let [waited, usual] = [contended, &idle].map(|json| json["generator"]["run_queue_wait_pct"].as_f64().unwrap());
        assert!(waited > usual, "{waited} {usual}");
    }
}
