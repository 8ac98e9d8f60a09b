//! The mark by which a running test keeps others off its tables.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::TestServer;
use crate::tool::{
    Ran, SMALL, Started, all_written, rows, run, run_on, server_with_tables, start_on, wait_for_rows, wait_until,
};

const MARKS: &str = "application_name LIKE 'load_test % pid % since %'";

fn loaded(server: &TestServer, arguments: &[&str]) -> Started {
    let started = start_on(server, &[&["--rps", "50", "--duration", "60"], arguments].concat());
    wait_for_rows(server, "chat_inference");
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
    let server = server_with_tables();
    let first = loaded(&server, &[]);
    let oid = "SELECT 'chat_inference'::regclass::oid";
    let (table, before) = (server.psql(oid), rows(&server, "chat_inference"));
    let others = [
        &["--duration", "1"][..],
        &["--duration", "1", "--no-reset", "--verify"],
        &["--duration", "1", "--setup", "unlogged"],
        &["--duration", "0", "--setup", "unlogged"],
        &["--duration", "1", "--share", "1/2"],
    ];
    let others: Vec<Started> = others.iter().map(|arguments| start_on(&server, arguments)).collect();
    for other in others {
        assert_kept_out(other.finish(), &first);
    }
    // Whoever does it by hand is told, too.
    for sql in
        [include_str!("../../schema.sql"), include_str!("../../schema_unlogged.sql"), "SELECT reset_loadtest_tables()"]
    {
        let output = server.try_psql_in("postgres", sql);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains("a load test uses these tables"), "{error}");
    }
    assert_eq!(server.psql(oid), table);
    assert!(rows(&server, "chat_inference") > before);
    // The mark keeps vacuum from nothing.
    let holds =
        format!("SELECT count(*) FROM pg_stat_activity WHERE {MARKS} AND backend_xmin IS NULL AND backend_xid IS NULL");
    wait_until("the mark has no snapshot", || server.psql(&holds) == "1");

    // Another schema, and another database, have tables of their own.
    server.psql("CREATE SCHEMA other");
    let url = format!("{}?options=-csearch_path%3Dother", server.url());
    for url in [url, server.url_of("other")] {
        let arguments = ["--setup", "--duration", "1", "--rps", "20", "--postgres-url", &url];
        run(&[&arguments[..], &SMALL].concat()).expect_measured();
    }

    // Killed, it leaves nothing behind that keeps others off.
    first.signal(Signal::KILL);
    run_on(&server, &["--duration", "1", "--rps", "20"]).expect_measured();
    assert!(rows(&server, "chat_inference") <= 20);
    assert_eq!(server.psql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
}

#[test]
fn of_tests_that_start_at_once_one_runs() {
    let server = server_with_tables();
    let arguments = ["--rps", "50", "--duration", "5", "--verify"];
    let started: Vec<Started> = (0..4).map(|_| start_on(&server, &arguments)).collect();
    let ran: Vec<Ran> = started.into_iter().map(Started::finish).collect();
    let (refused, measured): (Vec<Ran>, Vec<Ran>) = ran.into_iter().partition(|ran| ran.code == Some(3));
    assert_eq!((refused.len(), measured.len()), (3, 1), "{refused:?} {measured:?}");
    assert!(refused.iter().all(|ran| ran.stderr.contains("another load test uses")), "{refused:?}");
    let found = &measured[0].json()["verification"];
    assert_eq!((&found["error"], &found["tickets_taken"]), (&Value::Null, &found["acknowledged"]), "{found}");
    assert_eq!(found["acknowledged"], rows(&server, "chat_inference"));
}

#[test]
fn what_a_killed_test_still_does_in_the_database_ends_by_itself() {
    let server = server_with_tables();
    let mut blocker =
        psql_in_background(&server, "BEGIN; LOCK TABLE model_inference IN SHARE MODE; SELECT pg_sleep(60)");
    wait_until("the table is locked", || {
        server.psql("SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock' AND relation = 'model_inference'::regclass")
            == "1"
    });
    let first = start_on(&server, &["--duration", "60"]);
    let emptying = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%TRUNCATE chat_inference%' AND wait_event_type = 'Lock' \
                    AND pid <> pg_backend_pid()";
    wait_until("it waits to empty the tables", || server.psql(emptying) == "1");
    first.signal(Signal::KILL);
    // It would empty the tables under the next test, whenever the lock is free.
    wait_until("the server has noticed", || server.psql(emptying) == "0");
    blocker.kill().unwrap();
    blocker.wait().unwrap();
    server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND pid <> pg_backend_pid()");
    run_on(&server, &["--duration", "1", "--rps", "20"]).expect_measured();
}

fn psql_in_background(server: &TestServer, sql: &str) -> std::process::Child {
    let psql = server.server().program_dir().join("psql");
    std::process::Command::new(psql).args(["-XAtq", "-c", sql, &server.url()]).spawn().unwrap()
}

#[test]
fn shares_of_one_test_know_each_other() {
    let server = server_with_tables();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let [start_at, another] = [now + 12, now + 13].map(|at| at.to_string());
    let share = |share: &str, start_at: &str| {
        start_on(&server, &["--share", share, "--start-at", start_at, "--rps", "40", "--duration", "3", "--verify"])
    };
    let shares = [share("1/2", &start_at), share("2/2", &start_at)];
    let marks = format!("SELECT count(*) FROM pg_stat_activity WHERE {MARKS}");
    wait_until("both have marked the tables", || server.psql(&marks) == "2");
    let others = [share("1/2", &another), share("2/3", &start_at), share("2/2", &start_at), start_on(&server, &[])];
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
    assert_eq!(rows(&server, "chat_inference"), 120);
}

#[test]
fn a_mark_that_is_lost_is_set_again_and_told() {
    let server = server_with_tables();
    let first = start_on(&server, &["--rps", "50", "--duration", "6", "--verify"]);
    wait_for_rows(&server, "chat_inference");
    let marks = format!("SELECT pid FROM pg_stat_activity WHERE {MARKS}");
    let before = server.psql(&marks);
    server.psql(&format!("SELECT pg_terminate_backend({before})"));
    wait_until("the tables are marked again", || !["", &before].contains(&server.psql(&marks).as_str()));
    assert_kept_out(run_on(&server, &["--duration", "1"]), &first);
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
    let server = server_with_tables();
    server.psql("CREATE ROLE few LOGIN CONNECTION LIMIT 4; GRANT ALL ON ALL TABLES IN SCHEMA public TO few");
    let url = server.url().replace("//postgres", "//few");
    let arguments = ["--json-output", "--rps", "20", "--duration", "1", "--verify", "--workers"];
    let run_as = |workers| run(&[&SMALL[..], &arguments, &[workers, "--postgres-url", &url]].concat());
    let unmarked = "could not be marked";
    let json = run_as("4").expect_measured().json();
    assert!(json["warnings"].to_string().contains(unmarked), "{}", json["warnings"]);
    assert_eq!(json["verification"]["error"], Value::Null);
    all_written(&json, 20);
    let json = run_as("3").expect_measured().json();
    assert!(!json["warnings"].to_string().contains(unmarked), "{}", json["warnings"]);
    // It does not disturb a test that has a mark.
    server.psql("ALTER ROLE few CONNECTION LIMIT 1");
    let first = loaded(&server, &[]);
    let one = ["1", "--no-prepared-statements", "--postgres-url", &url];
    assert_kept_out(run(&[&SMALL[..], &arguments, &one].concat()), &first);
}

#[test]
fn a_test_that_stands_still_keeps_its_tables() {
    let server = server_with_tables();
    let first = loaded(&server, &[]);
    first.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(2));
    assert_kept_out(run_on(&server, &["--duration", "1"]), &first);
    first.signal(Signal::CONT);
}
