//! Ctrl-C, SIGTERM, and being asked twice.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::tool::{assert_rows_match, count, server_with_tables, start_on, wait_for_rows};

#[test]
fn a_signal_ends_the_window_and_what_was_measured_is_reported() {
    for signal in [Signal::INT, Signal::TERM] {
        let server = server_with_tables();
        let started = start_on(&server, &["--rps", "100", "--duration", "600", "--workers", "3"]);
        wait_for_rows(&server, "chat_inference");
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
    let server = server_with_tables();
    let started = start_on(&server, &["--rps", "30000", "--duration", "600", "--workers", "3"]);
    wait_for_rows(&server, "chat_inference");
    std::thread::sleep(Duration::from_secs(1));
    started.signal(Signal::INT);
    let json = started.finish().expect(130).json();
    assert!(count(&json, "not_started") > 0);
    assert_rows_match(&server, &json);
}

#[test]
fn the_second_signal_does_not_wait_for_a_server_that_does_not_answer() {
    let server = server_with_tables();
    let mut started = start_on(&server, &["--rps", "100", "--duration", "600", "--drain", "600", "--workers", "3"]);
    wait_for_rows(&server, "chat_inference");
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
    assert_rows_match(&server, &json);
}

#[test]
fn a_drain_that_is_too_short_leaves_requests_unfinished() {
    let server = server_with_tables();
    let started = start_on(&server, &["--rps", "100", "--duration", "2", "--drain", "1", "--workers", "3"]);
    wait_for_rows(&server, "chat_inference");
    server.freeze();
    let json = started.finish().expect(1).json();
    server.thaw();
    assert_eq!(count(&json, "unfinished"), 3, "{}", json["accounting"]);
    assert!(count(&json, "not_started") > 0);
    assert_eq!(json["latency_ms"]["max_is_lower_bound"], true);
}
