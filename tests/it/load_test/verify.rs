//! `--verify`: what the database holds against what was acknowledged; a durability test with a server that is killed.
//! And what belongs to runs in which something breaks: outages, retries, an early end.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{TestServer, all_written, assert_rows_match, count, load_at, load_test, wait_until};

fn verified(json: &Value, name: &str) -> u64 {
    json["verification"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {}", json["verification"]))
}

/// All that was in doubt is settled, and everything else is as it should be.
#[track_caller]
fn assert_clean(json: &Value) {
    let found = &json["verification"];
    assert_eq!(found["error"], Value::Null, "{found}");
    assert_ne!(json["status"], "LOST WRITES", "{} {found}", json["reason"]);
    assert_eq!(verified(json, "unsettled"), verified(json, "committed") + verified(json, "not_committed"), "{found}");
    let expected = verified(json, "acknowledged") + verified(json, "committed");
    for table in found["tables"].as_array().unwrap() {
        assert_eq!(table["rows"], expected, "{found}");
    }
    assert_eq!(verified(json, "tickets_taken"), expected, "{found}");
}

#[test]
fn every_row_of_the_run_is_found_and_no_other() {
    let server = TestServer::with_tables();
    let arguments = ["--rps", "50", "--duration", "2", "--warmup", "1", "--verify"];
    let mut written = 0;
    for more in [&["--no-reset"][..], &["--no-reset", "--pipeline"], &["--no-reset", "--no-prepared-statements"]] {
        let json = server.load(&[&arguments[..], more].concat()).run().expect_measured().json();
        assert_clean(&json);
        // The warm-up's too.
        assert_eq!(verified(&json, "acknowledged"), all_written(&json, 100) + 50);
        written += verified(&json, "acknowledged");
        assert_eq!(json["verification"]["tables"].as_array().unwrap().len(), 3);
    }
    assert_eq!(server.rows("chat_inference"), written);
    let fewer = ["--no-rate-limiting", "--no-experimentation", "--server-side-data", "--rps", "max"];
    let json = server.load(&[&arguments[..], &fewer].concat()).run().expect_measured().json();
    assert_eq!(json["verification"]["tables"].as_array().unwrap().len(), 2);
    assert_eq!(json["verification"]["tickets_taken"], Value::Null);
    assert_ne!(json["status"], "LOST WRITES", "{}", json["reason"]);
    assert_eq!(verified(&json, "acknowledged"), server.rows("model_inference"));
    let report = load_test(&["--verify", "--duration", "1", "--rps", "5", "--postgres-url", &server.url()])
        .run()
        .expect_measured();
    assert!(report.stdout.contains("VERIFICATION") && report.stdout.contains("5 tickets"), "{}", report.stdout);
    let json = server.load(&["--duration", "1", "--rps", "5"]).run().json();
    assert_eq!(json["verification"], Value::Null);
}

#[test]
fn rows_that_nobody_took_away_are_lost_writes() {
    let server = TestServer::with_tables();
    // Rows that a fault of the storage takes away, which nobody deletes.
    server.sql("CREATE EXTENSION pg_surgery");
    let started = server.load(&["--rps", "100", "--duration", "2", "--verify"]).start();
    wait_until("rows appear", || server.rows("chat_inference") > 20);
    server.sql(
        "DO $$ DECLARE lost tid[]; BEGIN SELECT array(SELECT ctid FROM chat_inference LIMIT 3) INTO lost; \
         PERFORM heap_force_kill('chat_inference', lost); END $$",
    );
    let json = started.finish().expect(1).json();
    assert_eq!(json["status"], "LOST WRITES", "{} {}", json["reason"], json["verification"]);
    let reason = json["reason"].as_str().unwrap();
    assert!(reason.starts_with("3 of 200 committed requests are missing"), "{reason}");
    assert!(reason.contains("chat_inference has 197") && !reason.contains("model_inference"), "{reason}");
}

/// COMMIT takes a second, nobody waits for its answer, and it goes on where it is asked to stop.
#[test]
fn requests_in_doubt_are_looked_up_and_settled() {
    let server = TestServer::with_tables();
    server.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN BEGIN PERFORM pg_sleep(1); \
         EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(0.5); END; RETURN NULL; END $$",
    );
    server.sql(
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON chat_inference DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
         EXECUTE FUNCTION slow()",
    );
    let arguments = ["--rps", "max", "--duration", "2500ms", "--workers", "8", "--drain", "0", "--verify"];
    for more in [&[][..], &["--pipeline"]] {
        let json = server.load(&[&arguments[..], more].concat()).run().expect_measured().json();
        assert_clean(&json);
        assert_eq!(count(&json, "unfinished"), verified(&json, "unsettled"), "{}", json["accounting"]);
        // The server goes on with a COMMIT although its client has hung up.
        assert!(verified(&json, "committed") > 0, "{}", json["verification"]);
    }
}

#[test]
fn a_killed_server_keeps_what_it_acknowledged_with_synchronous_commit_and_is_found_out_without() {
    for (synchronous_commit, keeps_all) in [("on", true), ("off", false)] {
        let settings = [
            ("synchronous_commit", synchronous_commit),
            ("fsync", "on"),
            // Without synchronous_commit, the log stays in memory for so long.
            ("wal_writer_delay", "10s"),
            ("wal_writer_flush_after", "1GB"),
        ];
        let setup = settings.iter().fold(TestServer::setup(), |setup, (name, value)| setup.set(name, value));
        let mut server = setup.tables().start();
        let started = server.load(&["--rps", "200", "--duration", "7", "--workers", "8", "--verify"]).start();
        server.wait_for_rows();
        std::thread::sleep(Duration::from_millis(1_500));
        server.kill();
        server.start_again();
        let ran = started.finish().expect(1);
        let json = ran.json();
        assert!(count(&json, "ok") > 200, "{}", json["accounting"]);
        let outages = json["outages"].as_array().unwrap();
        if keeps_all {
            assert_clean(&json);
            assert_rows_match(&server, &json);
        } else {
            assert_eq!(json["status"], "LOST WRITES", "{} {}", json["reason"], json["verification"]);
            let expected = verified(&json, "acknowledged") + verified(&json, "committed");
            assert!(server.rows("chat_inference") < expected, "{}", json["verification"]);
        }
        // A start that is quicker than a second is no outage.
        for outage in outages {
            let [started, recovered, length] =
                ["started_s", "recovered_s", "seconds"].map(|name| outage[name].as_f64().unwrap());
            assert!(started > 0.5 && recovered < 7.5 && (recovered - started - length).abs() < 0.001, "{outage}");
            assert!(outage["first_error_s"].as_f64().unwrap() >= started, "{outage}");
        }
    }
}

/// Their connections are gone, but the server works on: what it commits later has to be in the figures. No name tells which
/// sessions they are, and another client that writes the same tables all the time is none of them.
#[test]
fn sessions_that_outlive_the_run_are_waited_for() {
    let server = TestServer::with_tables();
    // Requests are cancelled when they are given up, and these go on all the same.
    server.sql(
        "CREATE FUNCTION stubborn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN BEGIN PERFORM pg_sleep(60); \
         EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(0.7); END; RETURN NEW; END $$; \
         CREATE TRIGGER stubborn BEFORE INSERT ON model_inference FOR EACH ROW EXECUTE FUNCTION stubborn()",
    );
    let busy = "DO $$ BEGIN FOR i IN 1..10000 LOOP \
                INSERT INTO variant_by_episode VALUES ('f', gen_random_uuid(), 'v'); PERFORM pg_sleep(0.05); COMMIT; \
                END LOOP; END $$";
    let other = server.psql(&server.url()).args(["-c", busy]).start();
    wait_until("rows appear", || server.rows("variant_by_episode") > 0);
    let url = format!("{}?application_name=somebody", server.url());
    let arguments = [
        "--verify",
        "--no-reset",
        "--no-rate-limiting",
        "--pipeline",
        "--workers",
        "3",
        "--rps",
        "100",
        "--duration",
        "3",
        "--drain",
        "0",
    ];
    let started = load_at(&url, &arguments).start();
    let ours = "SELECT count(*) = 3 FROM pg_stat_activity WHERE application_name = 'somebody' AND query <> ''";
    wait_until("its sessions are at work", || server.sql(ours) == "t");
    let json = started.finish().expect(1).json();
    assert_eq!(count(&json, "unfinished"), 3, "{}", json["accounting"]);
    let found = &json["verification"];
    assert_eq!((found["error"].as_str(), &found["tickets_taken"]), (None, &Value::Null), "{found}");
    // The server may find that its client has left before one of them commits.
    let (committed, not_committed) = (verified(&json, "committed"), verified(&json, "not_committed"));
    assert_eq!((verified(&json, "unsettled"), committed + not_committed), (3, 3), "{found}");
    assert!(committed > 0, "{found}");
    assert_ne!(json["status"], "LOST WRITES", "{}", json["reason"]);
    drop(other);
}

#[test]
fn a_server_that_stands_still_is_an_outage_with_its_length() {
    let server = TestServer::with_tables();
    let started = server.load(&["--rps", "100", "--duration", "7", "--workers", "4"]).start();
    server.wait_for_rows();
    std::thread::sleep(Duration::from_millis(1_000));
    server.freeze();
    std::thread::sleep(Duration::from_millis(2_500));
    server.thaw();
    let ran = started.finish();
    let json = ran.json();
    let outages = json["outages"].as_array().unwrap();
    assert!(!outages.is_empty(), "{}", json["latency_ms"]);
    let longest = outages.iter().map(|outage| outage["seconds"].as_f64().unwrap()).fold(0.0, f64::max);
    assert!((2.4..6.0).contains(&longest), "{outages:?}");
    assert!(outages.iter().all(|outage| outage["recovered_s"].is_number() && outage["hostname"].is_null()));
    // The schedule did not wait.
    assert_eq!(count(&json, "scheduled"), 700);
    assert_rows_match(&server, &json);
}

#[test]
fn a_run_ends_early_where_errors_are_to_end_it() {
    let server = TestServer::with_tables();
    server.sql("ALTER TABLE chat_inference ADD CHECK (function_name <> 'function_3') NOT VALID");
    let arguments = ["--rps", "100", "--duration", "60", "--abort-on-errors", "5"];
    let ran = server.load(&arguments).run().expect(1);
    let json = ran.json();
    assert_eq!((&json["status"], &json["run"]["interrupted"]), (&Value::from("FAILED"), &Value::from(true)));
    let reason = json["reason"].as_str().unwrap();
    assert!(reason.contains("--abort-on-errors 5") && reason.contains("check"), "{reason}");
    assert!(count(&json, "failed") >= 5 && count(&json, "scheduled") < 3_000, "{}", json["accounting"]);
    assert!(ran.stderr.contains("--abort-on-errors 5"), "{}", ran.stderr);
    assert_rows_match(&server, &json);
    // Fewer errors than that end nothing.
    let json = server.load(&["--rps", "50", "--duration", "1", "--abort-on-errors", "1000"]).run().expect(1).json();
    assert_eq!((count(&json, "scheduled"), &json["run"]["aborted"]), (50, &Value::Null));
}

#[test]
fn serialization_failures_are_tried_again_as_often_as_asked() {
    let server = TestServer::with_tables();
    let arguments = ["--rps", "max", "--duration", "2", "--workers", "8", "--isolation", "repeatable-read", "--verify"];
    // Ten hot rows and eight workers.
    let once = server.load(&arguments).run().expect(1).json();
    assert!(count(&once, "failed") > 0, "{}", once["accounting"]);
    assert!(once["errors"].to_string().contains("40001"), "{}", once["errors"]);
    assert_eq!((&once["retried"], &once["retries"]), (&Value::from(0), &Value::from(0)));
    assert_clean(&once);
    let often = server.load(&[&arguments[..], &["--max-tries", "1000"]].concat()).run().expect_measured().json();
    let [retried, retries] = ["retried", "retries"].map(|name| often[name].as_u64().unwrap());
    assert!(retried > 0 && retries >= retried, "{retried} {retries}");
    assert_eq!(count(&often, "failed"), 0, "{}", often["errors"]);
    assert!(often["errors"].as_array().unwrap().iter().all(|error| error["origin"] == "retry"), "{}", often["errors"]);
    assert_eq!(often["config"]["isolation"], "repeatable-read");
    assert_clean(&often);
}
