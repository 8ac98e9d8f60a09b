//! Ctrl-C, SIGTERM, and being asked twice.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{TestServer, all_written, assert_rows_match, count, start_at};

#[test]
fn a_signal_ends_the_window_and_what_was_measured_is_reported() {
    for signal in [Signal::INT, Signal::TERM] {
        let server = TestServer::with_tables();
        let started = server.load(&["--rps", "100", "--duration", "600", "--workers", "3"]).start();
        server.wait_for_rows();
        std::thread::sleep(Duration::from_secs(1));
        started.signal(signal);
        let json = started.finish().expect(130).json();
        assert_eq!(json["run"]["interrupted"], true);
        assert!((50..20_000).contains(&count(&json, "ok")), "{}", json["accounting"]);
        assert_eq!(count(&json, "unfinished"), 0);
        assert_rows_match(&server, &json);
    }
}

#[test]
fn an_overloaded_run_can_be_interrupted_too() {
    let server = TestServer::with_tables();
    let started = server.load(&["--rps", "30000", "--duration", "600", "--workers", "3"]).start();
    server.wait_for_rows();
    std::thread::sleep(Duration::from_secs(1));
    started.signal(Signal::INT);
    let json = started.finish().expect(130).json();
    assert!(count(&json, "not_started") > 0);
    assert_rows_match(&server, &json);
}

#[test]
fn the_second_signal_does_not_wait_for_a_server_that_does_not_answer() {
    let server = TestServer::with_tables();
    let arguments = ["--rps", "100", "--duration", "600", "--drain", "600", "--workers", "3", "--verify"];
    let started = server.load(&arguments).start();
    server.wait_for_rows();
    server.freeze();
    std::thread::sleep(Duration::from_millis(500));
    started.signal(Signal::INT);
    started.wait_for_stderr("once more");
    started.signal(Signal::INT);
    let asked = Instant::now();
    let ran = started.finish().expect(130);
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    server.thaw();
    let json = ran.json();
    assert_eq!(count(&json, "unfinished"), 3, "{}", json["accounting"]);
    // Nor do the rows wait for it.
    assert_eq!(json["verification"]["error"], "it was interrupted");
    assert_rows_match(&server, &json);
}

#[test]
fn a_drain_that_is_too_short_leaves_requests_unfinished() {
    let server = TestServer::with_tables();
    let started = server.load(&["--rps", "100", "--duration", "2", "--drain", "1", "--workers", "3"]).start();
    server.wait_for_rows();
    server.freeze();
    let json = started.finish().expect(1).json();
    server.thaw();
    assert_eq!(count(&json, "unfinished"), 3, "{}", json["accounting"]);
    assert!(count(&json, "not_started") > 0);
    assert_eq!(json["latency_ms"]["max_is_lower_bound"], true);
}

/// Before T0 nothing was due, so there is nothing to report, but the identity holds and nobody waits.
#[test]
fn a_run_can_be_stopped_before_it_begins() {
    let server = TestServer::with_tables();
    for rate in ["100", "max"] {
        let arguments = ["--rps", rate, "--duration", "5", "--verbose", "--start-at", &start_at(3_600)];
        let started = server.load(&arguments).start();
        started.wait_for_stderr("opening");
        std::thread::sleep(Duration::from_secs(1));
        started.signal(Signal::INT);
        let json = started.finish().expect(130).json();
        assert_eq!((count(&json, "scheduled"), count(&json, "ok")), (0, 0), "{rate}");
        assert_eq!(json["status"], "INVALID");
    }
}

#[test]
fn without_a_drain_and_with_two_signals_at_once_the_identity_holds() {
    let server = TestServer::with_tables();
    for (rate, drain) in [("200", "0"), ("max", "0"), ("200", "30"), ("20000", "0")] {
        server.sql("TRUNCATE chat_inference");
        let started = server.load(&["--rps", rate, "--duration", "600", "--drain", drain, "--workers", "4"]).start();
        server.wait_for_rows();
        started.signal(Signal::HUP);
        started.signal(Signal::TERM);
        let json = started.finish().expect(130).json();
        assert_rows_match(&server, &json);
    }
    let json = server.load(&["--rps", "3000", "--duration", "1", "--drain", "0"]).start().finish().json();
    assert_rows_match(&server, &json);
}

#[test]
fn a_dead_server_and_no_drain_lose_no_slot() {
    let server = TestServer::with_tables();
    let started = server.load(&["--rps", "50", "--duration", "600", "--drain", "0", "--workers", "4"]).start();
    server.wait_for_rows();
    server.kill();
    std::thread::sleep(Duration::from_secs(1));
    started.signal(Signal::INT);
    let json = started.finish().expect(130).json();
    assert!(count(&json, "not_started") > 0, "{}", json["accounting"]);
}

/// `nohup load_test … &`: nohup ignores SIGHUP, and a shell without job control ignores SIGINT of what it starts in the
/// background.
#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    let server = TestServer::with_tables();
    let mut ignoring = server.load(&["--rps", "100", "--duration", "4"]).under_shell("trap '' HUP INT");
    let started = ignoring.start();
    server.wait_for_rows();
    for _ in 0..3 {
        started.signal(Signal::HUP);
        started.signal(Signal::INT);
    }
    let json = started.finish().expect_measured().json();
    assert_eq!(json["run"]["interrupted"], false);
    all_written(&json, 400);

    // The others still stop it.
    ignoring.args(["--duration", "600"]);
    server.sql("TRUNCATE chat_inference");
    let started = ignoring.start();
    server.wait_for_rows();
    started.signal(Signal::INT);
    started.signal(Signal::TERM);
    assert_eq!(started.finish().expect(130).json()["run"]["interrupted"], true);
}
