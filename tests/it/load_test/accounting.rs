//! The schedule, the figures and the accounting, held against the rows in the tables.

use crate::harness::{
    SMALL, TestServer, all_written, assert_rows_match, count, load_test, ms, public_folder, start_at, wait_until,
};

#[test]
fn an_open_loop_holds_its_rate_and_every_request_is_a_row() {
    let server = TestServer::with_tables();
    let json = server.load(&["--rps", "100", "--duration", "3", "--workers", "4"]).run().json();
    assert_eq!(count(&json, "scheduled"), 300);
    all_written(&json, 300);
    assert_rows_match(&server, &json);
    assert_eq!(json["throughput"]["offered_rps"], 100.0);
    // A response time is never shorter than its service time, and a sum of round trips never longer.
    assert!(ms(&json, "latency_ms", "avg") >= ms(&json, "service_time_ms", "avg"));
    let phases = json["phases_ms"].as_array().unwrap();
    assert_eq!(phases.len(), 5);
    let sum: f64 = phases.iter().map(|phase| phase["avg"].as_f64().unwrap()).sum();
    assert!(sum <= ms(&json, "service_time_ms", "avg") * 1.01 + 0.01, "{sum}");
}

#[test]
fn every_way_of_sending_writes_the_same_rows() {
    let server = TestServer::with_tables();
    for ways in [
        &[][..],
        &["--pipeline"],
        &["--no-prepared-statements"],
        &["--no-prepared-statements", "--pipeline"],
        &["--arrival", "poisson"],
        &["--statement-timeout", "20s"],
        &["--statement-timeout", "20s", "--pipeline"],
        &["--server-side-data"],
        &["--server-side-data", "--pipeline", "--no-prepared-statements"],
        &["--threads", "1"],
        &["--rps", "max"],
        &["--rps", "max", "--pipeline"],
    ] {
        let json = server.load(&[&["--rps", "150", "--duration", "1", "--workers", "3"], ways].concat()).run().json();
        // A busy machine may not come to the last ones within the window.
        let reached = count(&json, "ok") + count(&json, "not_started");
        assert_eq!(reached, count(&json, "scheduled"), "{ways:?}: {}", json["errors"]);
        assert!(count(&json, "ok") > 50, "{ways:?}: {}", json["accounting"]);
        // As many round trips in every way, but for the one that makes them one.
        let round_trips = if ways.contains(&"--pipeline") { 0 } else { 5 };
        assert_eq!(json["phases_ms"].as_array().unwrap().len(), round_trips, "{ways:?}");
        assert_rows_match(&server, &json);
    }
}

#[test]
fn writes_that_are_left_out_leave_their_tables_empty() {
    let server = TestServer::with_tables();
    let arguments = ["--rps", "100", "--duration", "1", "--no-rate-limiting", "--no-experimentation"];
    let json = server.load(&arguments).run().json();
    let counts = ["chat_inference", "model_inference", "resource_bucket", "variant_by_episode"];
    let ok = all_written(&json, 100);
    assert_eq!(counts.map(|table| server.rows(table)), [ok, ok, 0, 0]);
    assert_eq!(json["phases_ms"].as_array().unwrap().len(), 3);
}

#[test]
fn the_warm_up_is_run_but_not_measured() {
    let server = TestServer::with_tables();
    let json = server.load(&["--rps", "100", "--duration", "2", "--warmup", "1s"]).run().json();
    assert_eq!(json["run"]["warmup"]["ok"], 100);
    assert_eq!(count(&json, "scheduled"), 200);
    assert_rows_match(&server, &json);
}

#[test]
fn a_closed_loop_counts_what_it_started() {
    let server = TestServer::with_tables();
    let json = server.load(&["--rps", "max", "--duration", "2", "--warmup", "500ms", "--workers", "3"]).run().json();
    assert_eq!(json["config"]["target_rps"], serde_json::Value::Null);
    assert_eq!(json["throughput"]["target_achieved_pct"], serde_json::Value::Null);
    assert!(count(&json, "ok") > 0);
    assert_rows_match(&server, &json);
}

/// Two seconds in which nobody answers must be seen by every request that was due meanwhile.
#[test]
fn a_frozen_server_is_not_hidden_by_waiting_politely() {
    let server = TestServer::with_tables();
    let (rate, seconds) = (100, 6);
    let started = server.load(&["--rps", "100", "--duration", "6", "--workers", "2"]).start();
    server.wait_for_rows();
    std::thread::sleep(std::time::Duration::from_millis(500));
    server.freeze();
    std::thread::sleep(std::time::Duration::from_secs(2));
    server.thaw();
    let json = started.finish().json();
    assert_rows_match(&server, &json);
    assert!(ms(&json, "latency_ms", "max") >= 1_900.0, "{}", json["latency_ms"]);
    // 200 of 600 requests were due in the freeze and waited a second on average: with coordinated omission two would.
    assert_eq!(count(&json, "scheduled"), rate * seconds);
    assert!(ms(&json, "latency_ms", "p99") >= 1_500.0, "{}", json["latency_ms"]);
    assert!(ms(&json, "latency_ms", "p90") >= 1_000.0, "{}", json["latency_ms"]);
    // Only those that were on their way took that long to serve.
    assert!(ms(&json, "service_time_ms", "p90") < ms(&json, "latency_ms", "p90") / 2.0);
    assert!(json["wait_for_connection_ms"]["count"].as_u64().unwrap() >= 100);
}

#[test]
fn a_rate_that_cannot_be_held_ends_with_its_backlog_counted() {
    let server = TestServer::with_tables();
    let ran = server.watched_load(&["--rps", "50000", "--duration", "2", "--workers", "2"]).run().expect(1);
    let json = ran.json();
    assert_rows_match(&server, &json);
    assert_eq!(count(&json, "scheduled"), 100_000);
    assert!(count(&json, "not_started") > 50_000, "{}", json["accounting"]);
    // What completed after the window does not count for the rate.
    let completed = json["throughput"]["completed_in_window"].as_u64().unwrap();
    assert!(completed <= count(&json, "ok"));
    assert_eq!(json["throughput"]["actual_rps"].as_f64().unwrap(), completed as f64 / 2.0);
    // Most were never answered, so even the median is only known from below.
    assert_eq!(json["latency_ms"]["p50_is_lower_bound"], true);
    assert_ne!(json["status"], "PASSED");
    // Which factor depends on how busy the machine is.
    assert_ne!(json["limit"]["kind"], "none", "{}", json["limit"]);
    assert!(!json["limit"]["evidence"].as_array().unwrap().is_empty(), "{}", json["limit"]);
}

#[test]
fn slots_that_are_too_late_are_given_up_and_counted() {
    let server = TestServer::with_tables();
    let arguments = ["--rps", "20000", "--duration", "2", "--workers", "2", "--max-lag", "100ms"];
    let json = server.load(&arguments).run().expect(1).json();
    assert!(count(&json, "skipped") > 1_000, "{}", json["accounting"]);
    assert_rows_match(&server, &json);
}

#[test]
fn two_parts_are_one_schedule() {
    let server = TestServer::with_tables();
    let start_at = format!("{}.125", start_at(5));
    let part = |share: &str, seconds: &str| {
        let arguments = ["--rps", "101", "--duration", seconds, "--workers", "3", "--share", share];
        server.load(&[&arguments[..], &["--start-at", &start_at]].concat()).start()
    };
    let parts = [part("1/2", "3"), part("2/2", "3")].map(|part| part.finish().json());
    let scheduled = parts.each_ref().map(|json| count(json, "scheduled"));
    assert_eq!(scheduled, [152, 151]);
    let ok: u64 = [(&parts[0], 152), (&parts[1], 151)].map(|(json, of)| all_written(json, of)).iter().sum();
    assert_eq!(server.rows("chat_inference"), ok);
    assert_eq!(parts[0]["run"]["started_unix_ns"], parts[1]["run"]["started_unix_ns"]);
}

/// A part that is not ready in time must not take away the rows of those that were.
#[test]
fn a_part_that_misses_the_start_empties_nothing() {
    let server = TestServer::with_tables();
    server.load(&["--rps", "50", "--duration", "1"]).run().expect_measured();
    let before = server.rows("chat_inference");
    assert!(before > 0);
    let locked = "SELECT count(*) = 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted \
                  AND relation = 'chat_inference'::regclass";
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            server.sql("BEGIN; LOCK TABLE chat_inference IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(6); COMMIT")
        });
        wait_until("the table is locked", || server.sql(locked) == "t");
        let start_at = start_at(3);
        server.load(&["--share", "1/2", "--duration", "1", "--start-at", &start_at]).run().expect(3)
    });
    assert!(ran.stderr.contains("locked") || ran.stderr.contains("--start-at"), "{}", ran.stderr);
    assert_eq!(server.rows("chat_inference"), before);
}

#[test]
fn limits_decide_the_verdict_and_the_exit_code() {
    let server = TestServer::with_tables();
    // A closed loop has no target and no due times, so a busy machine cannot spoil it.
    let base = ["--rps", "max", "--duration", "1"];
    let json = server.load(&[&base[..], &["--slo", "p99<1us", "--slo", "p50<1h"]].concat()).run();
    assert_eq!(json.code, Some(2), "an hour is no unit");
    let json = server.load(&[&base[..], &["--slo", "p50<1us", "--slo", "max<100s"]].concat()).run().expect(1).json();
    assert_eq!(json["status"], "FAILED");
    assert!(json["reason"].as_str().unwrap().contains("p50"), "{}", json["reason"]);
    assert!(!json["reason"].as_str().unwrap().contains("max"), "{}", json["reason"]);
    let json = server.load(&[&base[..], &["--slo", "max<100s"]].concat()).run().expect(0).json();
    assert_eq!(json["status"], "PASSED");
}

#[test]
fn a_throwaway_server_needs_nothing_else() {
    let ran =
        load_test(&[&["--ephemeral", "--rps", "50", "--duration", "1", "--json-output"][..], &SMALL].concat()).run();
    assert_eq!(ran.json()["config"]["target"], "throwaway server of this run");
}

#[test]
fn a_throwaway_server_is_gone_after_an_interrupt() {
    // The server's own account must be able to pass through.
    let folder = public_folder();
    let mut command = load_test(&["--ephemeral", "--rps", "50", "--duration", "60", "--verbose"]);
    let started = command.env("TMPDIR", folder.path()).start();
    started.wait_for_stderr("opening");
    assert_ne!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    std::thread::sleep(std::time::Duration::from_secs(1));
    started.signal(rustix::process::Signal::INT);
    let ran = started.finish().expect(130);
    assert!(ran.stdout.contains("LOAD TEST RESULTS"), "{}", ran.stdout);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn contents_are_a_function_of_the_seed() {
    let server = TestServer::with_tables();
    let digest = |seed: &str| {
        server.load(&["--rps", "50", "--duration", "1", "--seed", seed]).run().expect_measured();
        server.sql("SELECT md5(string_agg(md5(output::text), '' ORDER BY md5(output::text))) FROM chat_inference")
    };
    let (first, again, other) = (digest("7"), digest("7"), digest("8"));
    assert_eq!(first, again);
    assert_ne!(first, other);
}

#[test]
fn rows_of_earlier_runs_are_kept_on_request() {
    let server: TestServer = TestServer::with_tables();
    let written = |more: &[&str]| {
        let arguments = [&["--rps", "50", "--duration", "1"], more].concat();
        all_written(&server.load(&arguments).run().expect_measured().json(), 50)
    };
    let both = written(&[]) + written(&["--no-reset"]);
    assert_eq!(server.rows("chat_inference"), both);
}
