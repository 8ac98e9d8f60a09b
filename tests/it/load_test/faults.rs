//! Servers that are not there, refuse, or die in the middle.

use std::time::Duration;

use crate::harness::{PASSWORD, TestServer, assert_rows_match, count, free_port, load_test, start_at};

const SHORT: [&str; 4] = ["--duration", "1", "--rps", "10"];

#[test]
fn what_keeps_a_run_from_starting_is_one_sentence_with_a_remedy() {
    let server = TestServer::setup().tcp(PASSWORD).start();
    let url = server.url();
    let at = |url: &str| load_test(&[&["--postgres-url", url], &SHORT[..]].concat()).run();
    let nobody = free_port();
    let refused = at(&format!("postgresql://postgres:hunter2@127.0.0.1:{nobody}/db"));
    refused.expect_refusal(3, &["127.0.0.1", "refused"]);
    let wrong = format!("postgresql://postgres:hunter2@{}", url.rsplit_once('@').unwrap().1);
    let ran = at(&wrong).expect_refusal(3, &["password"]);
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    let missing = format!("{}/nowhere", url.rsplit_once('/').unwrap().0);
    at(&missing).expect_refusal(3, &["nowhere", "--setup"]);
}

#[test]
fn too_many_connections_are_refused_before_the_start() {
    let server = TestServer::setup().tables().set("max_connections", "12").start();
    server.load(&["--duration", "1", "--workers", "40"]).run().expect_refusal(3, &["connections", "--workers"]);
    server.load(&["--duration", "1", "--workers", "4", "--rps", "20"]).run().expect_measured();
}

#[test]
fn connections_that_are_terminated_are_replaced_and_counted() {
    for more in [&[][..], &["--pipeline"], &["--no-prepared-statements"]] {
        terminate_all(more);
    }
}

fn terminate_all(more: &[&str]) {
    let server = TestServer::with_tables();
    let arguments = ["--rps", "200", "--duration", "4", "--workers", "4", "--application-name", "prey"];
    let started = server.load(&[&arguments[..], more].concat()).start();
    server.wait_for_rows();
    std::thread::sleep(Duration::from_millis(500));
    let ended =
        server.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'prey'");
    assert_eq!(ended, "4");
    let json = started.finish().json();
    assert_eq!(json["reconnects"], 4, "{json}");
    assert_rows_match(&server, &json);
    assert!(count(&json, "failed") + count(&json, "unknown") <= 4);
    assert_eq!(count(&json, "unfinished"), 0, "{more:?}: {}", json["accounting"]);
    assert!(json["errors"].to_string().contains("57P01"), "{}", json["errors"]);
    // A busy machine may not begin all of them.
    assert!(count(&json, "ok") >= 300 && count(&json, "scheduled") == 800, "{}", json["accounting"]);
}

#[test]
fn a_server_that_crashes_and_comes_back_loses_only_what_was_on_its_way() {
    let mut server = TestServer::with_tables();
    let started = server.load(&["--rps", "100", "--duration", "8", "--workers", "4", "--verbose"]).start();
    server.wait_for_rows();
    std::thread::sleep(Duration::from_millis(500));
    // With synchronous_commit=off acknowledged writes of the last moments may be lost; they are not the subject here.
    server.sql("ALTER SYSTEM SET synchronous_commit = on");
    server.sql("SELECT pg_reload_conf()");
    std::thread::sleep(Duration::from_millis(1_000));
    server.kill();
    server.start_again();
    let json = started.finish().json();
    assert_rows_match(&server, &json);
    assert!(json["reconnects"].as_u64().unwrap() >= 4, "{}", json["reconnects"]);
    assert!(count(&json, "ok") > 200, "{}", json["accounting"]);
}

#[test]
fn a_server_that_never_comes_back_does_not_hang_the_run() {
    let server = TestServer::with_tables();
    let started = server.load(&["--rps", "100", "--duration", "3", "--workers", "4"]).start();
    server.wait_for_rows();
    server.kill();
    let json = started.finish().expect(1).json();
    assert!(count(&json, "not_started") > 50, "{}", json["accounting"]);
    let by_connection = json["errors"].as_array().unwrap().iter().filter(|error| error["origin"] == "connection");
    assert!(by_connection.count() >= 1, "{}", json["errors"]);
}

#[test]
fn errors_of_statements_are_failures_by_class() {
    let server = TestServer::with_tables();
    // Every other request or so meets this: only rows of five of the ten functions are allowed.
    server.sql("ALTER TABLE resource_bucket ADD CHECK (key > 'rate_limit:function_4')");
    for more in [&[][..], &["--pipeline"], &["--no-prepared-statements"]] {
        let json = server.load(&[&["--rps", "100", "--duration", "2"], more].concat()).run().expect(1).json();
        // On a busy machine it is INVALID, and the reason still tells of the failures.
        assert!(["FAILED", "INVALID"].contains(&json["status"].as_str().unwrap()), "{}", json["status"]);
        assert!(json["reason"].as_str().unwrap().contains("writes failed"), "{}", json["reason"]);
        assert!(count(&json, "failed") > 20 && count(&json, "ok") > 20, "{}", json["accounting"]);
        assert_eq!(json["errors"][0]["sqlstate"], "23514");
        assert_eq!(json["errors"].as_array().unwrap().len(), 1, "{}", json["errors"]);
        assert_eq!(json["reconnects"], 0);
        assert_rows_match(&server, &json);
    }
}

#[test]
fn the_server_cancels_statements_that_run_too_long() {
    let server = TestServer::with_tables();
    let started =
        server.load(&["--rps", "50", "--duration", "3", "--workers", "2", "--statement-timeout", "200ms"]).start();
    server.wait_for_rows();
    server.sql("BEGIN; LOCK TABLE variant_by_episode IN EXCLUSIVE MODE; SELECT pg_sleep(1); COMMIT");
    let json = started.finish().expect(1).json();
    assert!(json["errors"].to_string().contains("57014"), "{}", json["errors"]);
    assert_rows_match(&server, &json);
}

#[test]
fn a_run_without_a_single_answer_has_failed() {
    let server = TestServer::with_tables();
    let started = server
        .load(&["--rps", "max", "--duration", "1", "--drain", "1", "--no-reset", "--start-at", &start_at(4)])
        .start();
    std::thread::sleep(Duration::from_secs(2));
    server.freeze();
    let ran = started.finish();
    server.thaw();
    let json = ran.expect(1).json();
    assert_eq!(json["status"], "FAILED", "{}", json["reason"]);
    assert_eq!((count(&json, "scheduled"), count(&json, "unfinished")), (8, 8));
}

/// Nothing was committed when the session was ended before COMMIT was sent.
#[test]
fn what_never_sent_its_commit_has_failed_and_is_not_unknown() {
    let server = TestServer::with_tables();
    let started =
        server.load(&["--rps", "max", "--duration", "3", "--workers", "4", "--application-name", "prey"]).start();
    server.wait_for_rows();
    // All of them wait for this lock in the middle of their transactions.
    server.sql(
        "BEGIN; LOCK TABLE variant_by_episode IN EXCLUSIVE MODE; SELECT pg_sleep(0.5); \
         SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'prey'; \
         SELECT pg_sleep(0.5); COMMIT",
    );
    let json = started.finish().expect(1).json();
    assert_eq!((count(&json, "failed"), count(&json, "unknown")), (4, 0), "{}", json["errors"]);
    assert_eq!(json["errors"][0]["sqlstate"], "57P01");
    assert_rows_match(&server, &json);
}

#[test]
fn failures_of_the_warm_up_are_told() {
    let server = TestServer::with_tables();
    server.sql("ALTER TABLE resource_bucket ADD CHECK (key > 'rate_limit:function_4')");
    let json = server.load(&["--rps", "100", "--duration", "1", "--warmup", "1s"]).run().expect(1).json();
    assert!(json["errors"].to_string().contains("warmup"), "{}", json["errors"]);
    assert!(json["warnings"].to_string().contains("warm-up failed"), "{}", json["warnings"]);
}
