//! A generator that stands still, and outages: who is blamed for which silence.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{SMALL, TestServer, assert_rows_match, count, document, load_test, ms};

fn stalls(json: &Value) -> Vec<(f64, f64)> {
    let stalls = json["generator"]["stalls"].as_array().unwrap();
    stalls.iter().map(|stall| (stall["started_s"].as_f64().unwrap(), stall["seconds"].as_f64().unwrap())).collect()
}

/// The run is invalid because of the stall of this length, and nothing is said against the database.
#[track_caller]
fn assert_only_the_generator_is_blamed(json: &Value, seconds: f64) {
    let reason = json["reason"].as_str().unwrap();
    assert_eq!(json["status"], "INVALID", "{reason}");
    assert!(reason.starts_with("The generator stood still for "), "{reason}");
    assert_eq!(json["outages"], Value::Array(Vec::new()), "{}", json["generator"]);
    assert!(!json["advice"].to_string().contains("the server paused"), "{}", json["advice"]);
    let longest = stalls(json).into_iter().map(|(_, seconds)| seconds).fold(0.0, f64::max);
    assert!(longest >= seconds - 0.1, "{}", json["generator"]);
}

#[test]
fn a_frozen_generator_blames_itself_and_not_the_database() {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("r.json");
    let url = server.url();
    let arguments = ["--rps", "100", "--workers", "8", "--duration", "7", "--postgres-url", &url, "--output"];
    let started = load_test(&[&arguments[..], &[output.to_str().unwrap()], &SMALL].concat()).start();
    server.wait_for_rows();
    std::thread::sleep(Duration::from_millis(1_500));
    started.freeze(Duration::from_millis(2_500));
    let ran = started.finish().expect(1);
    let json: Value = document(&output);
    assert_only_the_generator_is_blamed(&json, 2.5);
    // What came due meanwhile is lateness, and no wait for a connection.
    let held_up = json["generator"]["stalled_requests"].as_u64().unwrap();
    assert!((225..700).contains(&held_up), "{}", json["generator"]);
    assert!(ms(&json, "lateness_ms", "max") > 2_300.0, "{}", json["lateness_ms"]);
    let waits = json["wait_for_connection_ms"]["count"].as_u64().unwrap();
    assert!(waits + held_up <= 710, "{waits} {held_up}");
    assert_eq!((count(&json, "scheduled"), count(&json, "failed")), (700, 0));
    assert!(ran.stdout.contains("  Stood still:        2."), "{}", ran.stdout);
    assert!(ran.stderr.contains("The generator stood still for 2."), "{}", ran.stderr);
    assert!(!ran.stdout.contains("OUTAGES"), "{}", ran.stdout);
    assert_rows_match(&server, &json);
}

#[test]
fn a_generator_that_is_frozen_over_the_end_of_the_window_is_invalid_and_not_degraded() {
    let server = TestServer::with_tables();
    let started = server.load(&["--rps", "100", "--workers", "4", "--duration", "3", "--warmup", "1"]).start();
    server.wait_for_rows();
    std::thread::sleep(Duration::from_millis(1_000));
    started.freeze(Duration::from_millis(4_000));
    let json = started.finish().expect(1).json();
    assert_only_the_generator_is_blamed(&json, 4.0);
    assert!(count(&json, "not_started") > 0, "{}", json["accounting"]);
    assert!(json["generator"]["stalled_requests"].as_u64().unwrap() >= count(&json, "not_started"));
    assert!(json["generator"]["stalled_seconds"].as_f64().unwrap() < 3.0, "{}", json["generator"]);
}

#[test]
fn in_a_closed_loop_a_frozen_generator_is_no_outage_and_fails_no_request() {
    let server = TestServer::with_tables();
    let arguments = ["--rps", "max", "--workers", "4", "--duration", "9", "--no-rate-limiting"];
    // After five seconds and six times this without an answer a request is given up.
    let started = server.load(&[&arguments[..], &["--statement-timeout", "200ms"]].concat()).start();
    server.wait_for_rows();
    started.freeze(Duration::from_millis(7_000));
    let json = started.finish().expect(1).json();
    assert_only_the_generator_is_blamed(&json, 7.0);
    assert!(!json["errors"].to_string().contains("no answer"), "{}", json["errors"]);
}

/// The server keeps up with a fifth of the rate: what waits does so because of that, before and after the stall.
#[test]
fn a_stall_does_not_excuse_a_server_that_was_behind_before() {
    let server = TestServer::with_tables();
    server.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END'; \
         CREATE TRIGGER slow BEFORE INSERT ON chat_inference FOR EACH ROW EXECUTE FUNCTION slow()",
    );
    let started = server.load(&["--rps", "100", "--workers", "2", "--duration", "6"]).start();
    server.wait_for_rows();
    std::thread::sleep(Duration::from_millis(2_000));
    started.freeze(Duration::from_millis(500));
    let json = started.finish().expect(1).json();
    let stalled = json["generator"]["stalled_requests"].as_u64().unwrap();
    // Half a second of six, and two in flight; those that came due later are not among them. Other stalls of a busy machine
    // count as well.
    let all_s: f64 = stalls(&json).iter().map(|(_, seconds)| seconds).sum();
    assert!(stalled as f64 <= 100.0 * all_s + 20.0 * stalls(&json).len() as f64, "{}", json["generator"]);
    assert!(count(&json, "not_started") > 300, "{}", json["accounting"]);
}

#[test]
fn idle_connections_that_are_ended_are_no_outage_where_nothing_is_due() {
    let server = TestServer::with_tables();
    let url = format!("{}?options=-c%20idle_session_timeout%3D700ms", server.url());
    let arguments = ["--json-output", "--rps", "0.5", "--duration", "7", "--workers", "2", "--postgres-url", &url];
    let json = load_test(&[&arguments[..], &SMALL].concat()).start().finish().expect_measured().json();
    // One may have been ended in the instant in which its request was sent.
    assert!(count(&json, "scheduled") == 4 && count(&json, "ok") >= 2, "{}", json["errors"]);
    assert!(json["reconnects"].as_u64().unwrap() > 2, "{}", json["errors"]);
    assert_eq!(json["outages"], Value::Array(Vec::new()), "{}", json["generator"]);
}

#[test]
fn requests_that_fail_now_and_then_at_a_low_rate_are_failures_and_no_outage() {
    let server = TestServer::with_tables();
    // The second to the fourth of five.
    server.sql(
        "CREATE SEQUENCE calls; \
         CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN IF nextval(''calls'') IN (2, 3, 4) THEN RAISE ''bad luck''; END IF; RETURN NEW; END'; \
         CREATE TRIGGER fails BEFORE INSERT ON chat_inference FOR EACH ROW EXECUTE FUNCTION fails()",
    );
    let json = server.load(&["--rps", "0.5", "--duration", "9", "--workers", "2"]).run().expect(1).json();
    assert_eq!((count(&json, "ok"), count(&json, "failed")), (2, 3), "{}", json["errors"]);
    assert_eq!(json["status"], "FAILED");
    assert_eq!(json["outages"], Value::Array(Vec::new()));
}

#[test]
fn an_outage_at_a_low_rate_begins_with_the_first_request_that_was_due() {
    let mut server = TestServer::with_tables();
    let started = server.load(&["--rps", "0.5", "--duration", "15", "--workers", "2"]).start();
    server.wait_for_rows();
    server.kill();
    // More than a second past the second request, however soon the server is up again; less than until the third.
    std::thread::sleep(Duration::from_millis(3_200));
    server.start_again();
    let json = started.finish().expect_measured().json();
    let outages = json["outages"].as_array().unwrap();
    // On a busy machine the server may still be slow after it.
    assert!(!outages.is_empty(), "{} {}", json["accounting"], json["errors"]);
    let began = outages[0]["started_s"].as_f64().unwrap();
    assert!((began - 2.0).abs() < 0.01, "{outages:?}");
    let [recovered, seconds] = ["recovered_s", "seconds"].map(|name| outages[0][name].as_f64().unwrap_or(15.0));
    assert!(seconds > 1.0 && seconds < recovered - began + 0.001, "{outages:?}");
}

#[test]
fn percentiles_of_few_requests_are_marked() {
    let server = TestServer::start();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("r.json");
    let url = server.url();
    let arguments =
        ["--setup", "--rps", "3", "--duration", "2", "--slo", "p99<100s", "--postgres-url", &url, "--output"];
    let ran =
        load_test(&[&arguments[..], &[output.to_str().unwrap()], &SMALL].concat()).start().finish().expect_measured();
    let json: Value = document(&output);
    let latency = &json["latency_ms"];
    assert_eq!((&latency["requests"], &latency["p99"]), (&Value::from(6), &latency["max"]), "{latency}");
    for (flag, expected) in [("p50_is_max", false), ("p90_is_max", true), ("p99_is_max", true), ("p99_9_is_max", true)]
    {
        assert_eq!(latency[flag], expected, "{flag}");
    }
    let p99 = ran.stdout.lines().find(|line| line.starts_with("  P99: ")).unwrap();
    assert!(p99.contains('*') && ran.stdout.contains("  *: the maximum"), "{}", ran.stdout);
    assert!(
        json["warnings"].to_string().contains("The latency p99 of 6 requests is their maximum"),
        "{}",
        json["warnings"]
    );
}
