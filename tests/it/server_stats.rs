//! The server monitor: what it finds out, what it does without, and that the run does not suffer from it.

use serde_json::Value;

use crate::harness::{
    PgBouncer, Ran, SMALL, TestServer, Version, assert_rows_match, count, load_at, load_test, processes, psql,
    wait_until,
};

const LOAD: [&str; 4] = ["--rps", "100", "--workers", "4"];

fn server_of(version: Version) -> Option<TestServer> {
    Some(TestServer::setup_of(version)?.tables().set("track_io_timing", "on").start())
}

fn run(server: &TestServer, more: &[&str]) -> Value {
    server.watched_load(&[&LOAD[..], more].concat()).run().expect_measured().json()
}

fn of(ran: Ran) -> Value {
    ran.expect_measured().json()["server_stats"].clone()
}

/// Why something is not available; `None` where it is.
fn lacks<'a>(stats: &'a Value, what: &str) -> Option<&'a str> {
    let all = stats["unavailable"].as_array().unwrap();
    all.iter().find(|lack| lack["what"] == what).map(|lack| lack["reason"].as_str().unwrap())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn table<'a>(stats: &'a Value, name: &str) -> &'a Value {
    let tables = stats["tables"].as_array().unwrap();
    tables.iter().find(|table| table["name"] == name).unwrap_or_else(|| panic!("no {name} in {stats}"))
}

fn a_superuser_is_told_everything(version: Version) {
    let Some(server) = server_of(version) else { return };
    let json = run(&server, &["--duration", "2", "--warmup", "1"]);
    let (stats, ok) = (&json["server_stats"], count(&json, "ok"));
    let lacking: Vec<_> = stats["unavailable"].as_array().unwrap().iter().map(|lack| &lack["what"]).collect();
    let expected: &[&str] = if version == Version::Installed { &["pg_stat_io"] } else { &[] };
    assert_eq!(lacking, expected, "{}", stats["unavailable"]);
    assert_eq!((&stats["sees_all_sessions"], &stats["is_standby"]), (&true.into(), &false.into()));
    assert_eq!(stats["settings"]["shared_buffers"], "128MB");
    assert!(number(&stats["activity"]["commits"]) >= ok as f64, "{}", stats["activity"]);
    assert!(stats["activity"]["block_read_ms"].is_number(), "{}", stats["activity"]);
    assert!(number(&stats["wal"]["bytes"]) > ok as f64 * 4096.0 && stats["wal"]["records"].is_number());
    assert!(stats["checkpoints"]["timed"].is_number());
    assert_eq!(stats["io"].is_object(), version == Version::Eighteen);
    let chat = table(stats, "chat_inference");
    // Of the warm-up, what was published after the first snapshot is among them.
    assert!((ok..=ok + 100).contains(&chat["inserted"].as_u64().unwrap()), "{chat}");
    assert!(number(&chat["bytes_after"]) > number(&chat["bytes_before"]), "{chat}");
    assert!(number(&table(stats, "resource_bucket")["updated"]) > 0.0);
    assert!(number(&stats["seconds"]) > 3.0, "{}", stats["seconds"]);
    assert_eq!(stats["gaps"], Value::Array(Vec::new()));
    let waits = &stats["waits"];
    assert_eq!(waits["bin_seconds"], 1);
    let samples: u64 = waits["samples"].as_array().unwrap().iter().map(|samples| samples.as_u64().unwrap()).sum();
    let in_window = waits["window_samples"].as_u64().unwrap();
    assert!((1..=11).contains(&in_window) && samples > in_window, "{waits}");
}

#[test]
fn a_superuser_is_told_everything_by_15() {
    a_superuser_is_told_everything(Version::Installed);
}

#[test]
fn a_superuser_is_told_everything_by_18() {
    a_superuser_is_told_everything(Version::Eighteen);
}

#[test]
fn an_ordinary_role_sees_its_own_sessions() {
    let server = TestServer::with_tables();
    let grant = |more: &[&str]| {
        let mut psql = psql();
        psql.args(["-X", "-q", "-d", &server.url(), "-v", "role=plain", "-f", "-"]).args(more);
        psql.input(include_str!("../../role.sql")).run().expect(0);
    };
    grant(&[]);
    let url = server.url().replace("//postgres", "//plain");
    // As fast as it can, so that there is something to see.
    let load = ["--rps", "max", "--workers", "8", "--duration", "2"];
    let stats = of(load_at(&url, &load).run());
    assert_eq!(stats["sees_all_sessions"], false);
    assert!(lacks(&stats, "pg_stat_progress_vacuum").unwrap().contains("pg_monitor"), "{stats}");
    let sessions: f64 =
        stats["waits"]["events"].as_array().unwrap().iter().map(|event| number(&event["sessions"])).sum();
    assert!(sessions > 0.0 && sessions <= 8.0, "{}", stats["waits"]);
    grant(&["-v", "stats=yes"]);
    let stats = of(load_at(&url, &load).run());
    assert_eq!((&stats["sees_all_sessions"], lacks(&stats, "pg_stat_progress_vacuum")), (&true.into(), None));
    grant(&[]);
    assert_eq!(server.sql("SELECT pg_has_role('plain', 'pg_read_all_stats', 'usage')"), "f");
}

#[test]
fn it_can_be_left_out() {
    let server = TestServer::with_tables();
    let started = server.watched_load(&[&LOAD[..], &["--duration", "2", "--no-server-stats"]].concat()).start();
    server.wait_for_rows();
    let monitors = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '% monitor'";
    assert_eq!(server.sql(monitors), "0");
    assert_eq!(of(started.finish()), Value::Null);
}

#[test]
fn it_takes_no_connection_that_the_load_needs() {
    let server = TestServer::with_tables();
    server.end_session();
    server.sql("CREATE ROLE few LOGIN CONNECTION LIMIT 4");
    server.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO few");
    let url = server.url().replace("//postgres", "//few");
    let json = load_at(&url, &[&LOAD[..], &["--duration", "1", "--verify"]].concat()).run().expect_measured().json();
    assert_eq!((&json["errors"], &json["verification"]["error"]), (&Value::Array(Vec::new()), &Value::Null));
    let stats = &json["server_stats"];
    assert!(lacks(stats, "connection").unwrap().contains("connection"), "{stats}");
    assert_eq!((&stats["activity"], &stats["waits"]["window_samples"]), (&Value::Null, &0.into()));
}

#[test]
fn a_restart_leaves_a_gap_and_ends_the_differences() {
    let mut server = TestServer::setup().tables().set("synchronous_commit", "on").start();
    let started = server.watched_load(&[&LOAD[..], &["--duration", "8"]].concat()).start();
    server.wait_for_rows();
    server.start_again();
    let json = started.finish().expect_measured().json();
    assert_rows_match(&server, &json);
    let stats = &json["server_stats"];
    let gaps = stats["gaps"].as_array().unwrap();
    assert!(!gaps.is_empty() && number(&gaps[0]["seconds"]) > 0.0, "{}", stats["gaps"]);
    assert!(!gaps[0]["reason"].as_str().unwrap().is_empty());
    let restarts: Vec<_> =
        stats["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "restart").collect();
    assert_eq!(restarts.len(), 1, "{}", stats["events"]);
    // A crash empties the statistics.
    assert!(lacks(stats, "pg_stat_database").unwrap().contains("reset"), "{stats}");
    assert!(number(&stats["waits"]["window_samples"]) > 5.0, "{}", stats["waits"]);
}

#[test]
fn whoever_holds_a_lock_is_named_with_what_waits_for_it() {
    let server = TestServer::with_tables();
    let started = server.watched_load(&[&LOAD[..], &["--duration", "6"]].concat()).start();
    server.wait_for_rows();
    let lock = server.lock_in("resource_bucket", "SHARE ROW EXCLUSIVE");
    let holder = "SELECT pid FROM pg_locks WHERE mode = 'ShareRowExclusiveLock' AND granted";
    let pid = server.sql(holder);
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    drop(lock);
    let stats = of(started.finish());
    let blockers = stats["blockers"].as_array().unwrap();
    assert_eq!(blockers.len(), 1, "{}", stats["blockers"]);
    assert_eq!((blockers[0]["pid"].to_string(), &blockers[0]["application_name"]), (pid, &"psql".into()));
    assert!(number(&blockers[0]["share_pct"]) > 10.0, "{}", stats["blockers"]);
    let events = stats["waits"]["events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["event"] == "Lock:relation"), "{}", stats["waits"]);
    // The holder is idle in a transaction.
    let others = events.iter().find(|event| event["event"] == "other applications").unwrap();
    assert!((0.1..=1.0).contains(&number(&others["sessions"])), "{}", stats["waits"]);
}

#[test]
fn sessions_of_the_load_are_known_by_a_name_that_the_server_changes() {
    for version in [Version::Installed, Version::Eighteen] {
        let Some(server) = server_of(version) else { continue };
        let name = format!("Größe {}", "x".repeat(60));
        let load = ["--rps", "max", "--workers", "4", "--duration", "2", "--application-name", &name];
        let stats = of(server.watched_load(&load).run());
        let events = stats["waits"]["events"].as_array().unwrap();
        assert!(!events.is_empty(), "{stats}");
        assert!(events.iter().all(|event| event["event"] != "other applications"), "{}", stats["waits"]);
    }
}

#[test]
fn the_recovery_after_the_crash_of_one_session_is_a_restart() {
    let server = TestServer::setup().tables().set("synchronous_commit", "on").start();
    let started = server.watched_load(&[&LOAD[..], &["--duration", "8"]].concat()).start();
    server.wait_for_rows();
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    let session = "SELECT pid FROM pg_stat_activity WHERE application_name = 'postgres_load_test' LIMIT 1";
    processes::send(server.sql(session).parse().unwrap(), rustix::process::Signal::KILL);
    let stats = of(started.finish());
    let events = stats["events"].as_array().unwrap();
    assert_eq!(events.iter().filter(|event| event["kind"] == "restart").count(), 1, "{}", stats["events"]);
    assert_eq!(stats["tables"], Value::Array(Vec::new()));
    assert!(lacks(&stats, "pg_stat_user_tables").unwrap().contains("restarted"), "{}", stats["unavailable"]);
}

#[test]
fn a_question_that_takes_too_long_once_is_asked_again() {
    let server = TestServer::with_tables();
    let started = server.watched_load(&[&LOAD[..], &["--duration", "6"]].concat()).start();
    server.wait_for_rows();
    // The monitor's own limit is the same refusal (57014).
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE '% monitor'";
    for _ in 0..200 {
        server.sql(cancel);
    }
    let stats = of(started.finish());
    assert_eq!((lacks(&stats, "pg_stat_activity"), lacks(&stats, "pg_stat_progress_vacuum")), (None, None), "{stats}");
    assert!(number(&stats["waits"]["window_samples"]) > 5.0, "{}", stats["waits"]);
    assert!(stats["checkpoints"]["timed"].is_number(), "{}", stats["unavailable"]);
}

#[test]
fn checkpoints_and_autovacuum_stand_on_the_axis_of_time() {
    let server = TestServer::with_tables();
    let started = server.watched_load(&[&LOAD[..], &["--duration", "6"]].concat()).start();
    server.wait_for_rows();
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    server.sql("CHECKPOINT");
    let stats = of(started.finish());
    let checkpoints: Vec<_> =
        stats["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "checkpoint").collect();
    assert_eq!(checkpoints.len(), 1, "{}", stats["events"]);
    assert_eq!(checkpoints[0]["detail"], "requested");
    assert!(number(&checkpoints[0]["started_s"]) > 1.0, "{}", stats["events"]);
    assert_eq!(stats["checkpoints"]["requested"], 1);
}

#[test]
fn behind_a_pooler_in_transaction_mode_the_pool_keeps_its_settings() {
    let server = TestServer::setup().tables().tcp("secret").start();
    let bouncer = PgBouncer::before(&server, "transaction", 6);
    let arguments = [
        &["--json-output", "--no-prepared-statements", "--duration", "2", "--postgres-url", &bouncer.url()],
        &LOAD[..],
        &SMALL,
    ];
    let json = load_test(&arguments.concat()).run().expect_measured().json();
    let stats = &json["server_stats"];
    assert_eq!((lacks(stats, "connection"), lacks(stats, "pg_stat_activity")), (None, None), "{stats}");
    // The pool keeps its sessions, and an idle one may keep its last second of counters to itself for 10 s.
    assert!(number(&stats["activity"]["commits"]) >= count(&json, "ok") as f64 / 4.0, "{}", stats["activity"]);
    assert!(number(&stats["waits"]["window_samples"]) > 0.0);
    // Every connection of the pool.
    wait_until("the pool has its settings", || {
        let shown = server.psql(&bouncer.url()).args(["-c", "SHOW statement_timeout"]).run().expect(0);
        shown.stdout.trim() == "0"
    });
}

#[test]
fn a_stop_at_once_does_not_wait_for_the_last_counters() {
    let server = TestServer::with_tables();
    let started = server.watched_load(&[&LOAD[..], &["--duration", "60"]].concat()).start();
    server.wait_for_rows();
    started.signal(rustix::process::Signal::INT);
    // Between the end of the load and the last snapshot lie 1.5 s.
    started.wait_for_stderr("Stopping");
    started.signal(rustix::process::Signal::INT);
    let json = started.finish().json();
    assert!(json["server_stats"].is_object(), "{}", json["server_stats"]);
    // On a busy machine the first ones may be missing as well.
    assert!(lacks(&json["server_stats"], "pg_stat_database").unwrap().contains("not read"), "{json}");
}
