//! The mark by which a running test keeps others off its tables.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Ran, SMALL, Started, TestServer, all_written, load_at, load_test, start_at, wait_until};

const MARKS: &str = "application_name LIKE 'load_test % pid % since %'";

fn loaded(server: &TestServer, arguments: &[&str]) -> Started {
    let started = server.load(&[&["--rps", "50", "--duration", "60"], arguments].concat()).start();
    server.wait_for_rows();
    started
}

/// Refused because of `holder`, with all that is needed to go on.
#[track_caller]
fn assert_kept_out(ran: Ran, holder: &Started) {
    let name = format!(" pid {} since 20", holder.id());
    ran.expect_refusal(
        3,
        &[
            "another load test uses these tables: 'load_test ",
            &name,
            "(server process ",
            "nothing was changed",
            "pg_terminate_backend(",
        ],
    );
}

#[test]
fn a_second_test_is_refused_before_it_touches_anything() {
    let server = TestServer::with_tables();
    let first = loaded(&server, &[]);
    let oid = "SELECT 'chat_inference'::regclass::oid";
    let (table, before) = (server.sql(oid), server.rows("chat_inference"));
    let others = [
        &["--duration", "1"][..],
        &["--duration", "1", "--no-reset", "--verify"],
        &["--duration", "1", "--setup", "unlogged"],
        &["--duration", "0", "--setup", "unlogged"],
        &["--duration", "1", "--share", "1/2"],
    ];
    let others: Vec<Started> = others.iter().map(|arguments| server.load(arguments).start()).collect();
    for other in others {
        assert_kept_out(other.finish(), &first);
    }
    // By hand it is refused too.
    for sql in [
        include_str!("../../../schema.sql"),
        include_str!("../../../schema_unlogged.sql"),
        "SELECT reset_loadtest_tables()",
    ] {
        let output = server.try_sql_in("postgres", sql);
        let error = output.stderr;
        assert!(output.code != Some(0) && error.contains("a load test uses these tables"), "{error}");
    }
    assert_eq!(server.sql(oid), table);
    assert!(server.rows("chat_inference") > before);
    // The mark keeps vacuum from nothing.
    let holds =
        format!("SELECT count(*) FROM pg_stat_activity WHERE {MARKS} AND backend_xmin IS NULL AND backend_xid IS NULL");
    wait_until("the mark has no snapshot", || server.sql(&holds) == "1");

    // Another schema, and another database, have tables of their own.
    server.sql("CREATE SCHEMA other");
    let url = format!("{}?options=-csearch_path%3Dother", server.url());
    for url in [url, server.url_of("other")] {
        let arguments = ["--setup", "--duration", "1", "--rps", "20", "--postgres-url", &url];
        load_test(&[&arguments[..], &SMALL].concat()).run().expect_measured();
    }

    // Killed, it leaves nothing behind that keeps others off.
    first.signal(Signal::KILL);
    server.load(&["--duration", "1", "--rps", "20"]).run().expect_measured();
    assert!(server.rows("chat_inference") <= 20);
    assert_eq!(server.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
}

#[test]
fn of_tests_that_start_at_once_one_runs() {
    let server = TestServer::with_tables();
    let arguments = ["--rps", "50", "--duration", "5", "--verify"];
    let started: Vec<Started> = (0..4).map(|_| server.load(&arguments).start()).collect();
    let ran: Vec<Ran> = started.into_iter().map(Started::finish).collect();
    let (refused, measured): (Vec<Ran>, Vec<Ran>) = ran.into_iter().partition(|ran| ran.code == Some(3));
    assert_eq!((refused.len(), measured.len()), (3, 1), "{refused:?} {measured:?}");
    assert!(refused.iter().all(|ran| ran.stderr.contains("another load test uses")), "{refused:?}");
    let found = &measured[0].json()["verification"];
    assert_eq!((&found["error"], &found["tickets_taken"]), (&Value::Null, &found["acknowledged"]), "{found}");
    assert_eq!(found["acknowledged"], server.rows("chat_inference"));
}

#[test]
fn what_a_killed_test_still_does_in_the_database_ends_by_itself() {
    let server = TestServer::with_tables();
    let lock = server.lock_in("model_inference", "SHARE");
    let first = server.load(&["--duration", "60"]).start();
    let emptying = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%TRUNCATE chat_inference%' AND wait_event_type = 'Lock' \
                    AND pid <> pg_backend_pid()";
    wait_until("it waits to empty the tables", || server.sql(emptying) == "1");
    first.signal(Signal::KILL);
    // It would empty the tables under the next test, whenever the lock is free.
    wait_until("the server has noticed", || server.sql(emptying) == "0");
    drop(lock);
    server.load(&["--duration", "1", "--rps", "20"]).run().expect_measured();
}

#[test]
fn shares_of_one_test_know_each_other() {
    let server = TestServer::with_tables();
    let [start_at, another] = [12, 13].map(start_at);
    let share = |share: &str, start_at: &str| {
        server.load(&["--share", share, "--start-at", start_at, "--rps", "40", "--duration", "3", "--verify"]).start()
    };
    let shares = [share("1/2", &start_at), share("2/2", &start_at)];
    let marks = format!("SELECT count(*) FROM pg_stat_activity WHERE {MARKS}");
    wait_until("both have marked the tables", || server.sql(&marks) == "2");
    let others = [share("1/2", &another), share("2/3", &start_at), share("2/2", &start_at), server.load(&[]).start()];
    let [other_start, other_number, same_share, whole] = others.map(Started::finish);
    for ran in [other_start, other_number, whole] {
        ran.expect_refusal(3, &["another load test uses these tables", " and 1 more"]);
    }
    let name = format!(" pid {} since 20", shares[1].id());
    same_share.expect_refusal(3, &["another process runs the same share", &name]);
    for ran in shares.map(Started::finish) {
        let json = ran.expect_measured().json();
        let found = &json["verification"];
        assert_eq!((&found["error"], &found["acknowledged"]), (&Value::Null, &60.into()), "{found}");
        assert!(!json["warnings"].to_string().contains("marked"), "{}", json["warnings"]);
    }
    assert_eq!(server.rows("chat_inference"), 120);
}

#[test]
fn a_mark_that_is_lost_is_set_again_and_told() {
    let server = TestServer::with_tables();
    let first = server.load(&["--rps", "50", "--duration", "6", "--verify"]).start();
    server.wait_for_rows();
    let marks = format!("SELECT pid FROM pg_stat_activity WHERE {MARKS}");
    let before = server.sql(&marks);
    server.sql(&format!("SELECT pg_terminate_backend({before})"));
    wait_until("the tables are marked again", || !["", &before].contains(&server.sql(&marks).as_str()));
    assert_kept_out(server.load(&["--duration", "1"]).run(), &first);
    let json = first.finish().expect_measured().json();
    assert_eq!(json["verification"]["error"], Value::Null);
    let warnings = json["warnings"].to_string();
    assert!(
        warnings.contains("were not marked") && warnings.contains("terminat") && warnings.contains("marked again"),
        "{warnings}"
    );
}

#[test]
fn a_load_that_needs_all_connections_runs_without_a_mark() {
    let server = TestServer::with_tables();
    server.sql("CREATE ROLE few LOGIN CONNECTION LIMIT 4; GRANT ALL ON ALL TABLES IN SCHEMA public TO few");
    let url = server.url().replace("//postgres", "//few");
    let arguments = ["--rps", "20", "--duration", "1", "--verify", "--workers"];
    let run_as = |workers| load_at(&url, &[&arguments[..], &[workers]].concat()).run();
    let unmarked = "could not be marked";
    let json = run_as("4").expect_measured().json();
    assert!(json["warnings"].to_string().contains(unmarked), "{}", json["warnings"]);
    assert_eq!(json["verification"]["error"], Value::Null);
    all_written(&json, 20);
    let json = run_as("3").expect_measured().json();
    assert!(!json["warnings"].to_string().contains(unmarked), "{}", json["warnings"]);
    // It does not disturb a test that has a mark.
    server.sql("ALTER ROLE few CONNECTION LIMIT 1");
    let first = loaded(&server, &[]);
    let one = ["1", "--no-prepared-statements"];
    assert_kept_out(load_at(&url, &[&arguments[..], &one].concat()).run(), &first);
}

#[test]
fn a_test_that_stands_still_keeps_its_tables() {
    let server = TestServer::with_tables();
    let first = loaded(&server, &[]);
    first.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(2));
    assert_kept_out(server.load(&["--duration", "1"]).run(), &first);
    first.signal(Signal::CONT);
}
