//! PgBouncer between the program and the server: its three modes, its end, its pauses, and a pool that is too small.

use std::time::Duration;

use rustix::process::Signal;

use super::{
    assert_went_on, conclude, empty, now, of_class, reconnects, server_on_tcp, server_on_tcp_of, settle, with_sqlstate,
};
use crate::harness::{
    PgBouncer, Started, TestServer, Version, assert_rows_match, count, load_at, load_test, ms, wait_until,
};

const WORKERS: u64 = 6;

/// 100 requests/s on six workers.
const LOAD: [&str; 4] = ["--rps", "100", "--workers", "6"];

/// The ways that a pooler in transaction mode allows.
const UNNAMED: [&[&str]; 2] = [&["--no-prepared-statements"], &["--no-prepared-statements", "--pipeline"]];

/// A run of so many seconds that has begun to write.
fn load_for(bouncer: &PgBouncer, server: &TestServer, seconds: &str, more: &[&str]) -> Started {
    empty(server);
    let started = load_at(&bouncer.url(), &[&LOAD[..], &["--duration", seconds], more].concat()).start();
    server.wait_for_rows();
    settle();
    started
}

#[test]
fn session_mode_needs_nothing_special() {
    let server = server_on_tcp();
    let bouncer = PgBouncer::before(&server, "session", 10);
    for more in [&[][..], &["--pipeline"], &["--no-prepared-statements"], &["--no-prepared-statements", "--pipeline"]] {
        let arguments = [&LOAD[..], &["--duration", "1"], more].concat();
        let json = conclude(load_at(&bouncer.url(), &arguments).start(), &server, 100, WORKERS);
        assert_eq!(json["errors"].as_array().unwrap().len(), 0, "{more:?}: {}", json["errors"]);
        assert_eq!(count(&json, "ok") + count(&json, "not_started"), 100, "{more:?}: {}", json["accounting"]);
    }
}

#[test]
fn a_session_pool_with_fewer_connections_than_workers_is_refused() {
    let server = server_on_tcp();
    let bouncer = PgBouncer::before(&server, "session", 3);
    let ran = load_at(&bouncer.url(), &[&LOAD[..], &["--duration", "1"]].concat()).run();
    ran.expect_refusal(3, &["within 10 s", "pool", "--workers"]);
}

#[test]
fn a_transaction_pool_with_fewer_connections_than_workers_lets_them_take_turns() {
    let server = server_on_tcp();
    let bouncer = PgBouncer::before(&server, "transaction", 2);
    for more in UNNAMED {
        let arguments = [&LOAD[..], &["--duration", "2"], more].concat();
        let json = conclude(load_at(&bouncer.url(), &arguments).start(), &server, 200, WORKERS);
        assert_eq!(json["errors"].as_array().unwrap().len(), 0, "{more:?}: {}", json["errors"]);
        assert_eq!(count(&json, "ok") + count(&json, "not_started"), 200, "{more:?}: {}", json["accounting"]);
        assert!(count(&json, "ok") > 20, "{more:?}: {}", json["accounting"]);
    }
}

#[test]
fn statement_mode_is_refused_unless_the_transaction_is_sent_at_once() {
    let server = server_on_tcp();
    let bouncer = PgBouncer::before(&server, "statement", 10);
    for more in [&[][..], &["--no-prepared-statements"]] {
        let arguments = [&LOAD[..], &["--duration", "1"], more].concat();
        let ran = load_at(&bouncer.url(), &arguments).run();
        ran.expect_refusal(3, &["statement mode", "pool_mode"]);
    }
    assert_eq!(server.sql("SELECT count(*) FROM chat_inference"), "0");
    let arguments = [&LOAD[..], &["--duration", "1"], UNNAMED[1]].concat();
    let json = conclude(load_at(&bouncer.url(), &arguments).start(), &server, 100, WORKERS);
    assert_eq!(count(&json, "ok") + count(&json, "not_started"), 100, "{} {}", json["accounting"], json["errors"]);
    assert!(count(&json, "ok") > 20, "{}", json["accounting"]);
}

#[test]
fn a_pause_is_waited_for_and_shows() {
    let server = server_on_tcp();
    let bouncer = PgBouncer::before(&server, "transaction", 10);
    for more in UNNAMED {
        let started = load_for(&bouncer, &server, "4", more);
        bouncer.command(&server, "PAUSE");
        std::thread::sleep(Duration::from_millis(1_200));
        let since = now(&server);
        bouncer.command(&server, "RESUME");
        let json = conclude(started, &server, 400, WORKERS);
        assert_eq!(json["errors"].as_array().unwrap().len(), 0, "{more:?}: {}", json["errors"]);
        assert_eq!((reconnects(&json), count(&json, "unfinished")), (0, 0), "{more:?}");
        assert!(ms(&json, "latency_ms", "max") >= 1_000.0, "{more:?}: {}", json["latency_ms"]);
        assert_went_on(&server, &json, &since);
    }
}

#[test]
fn a_pause_before_the_run_is_told() {
    let server = server_on_tcp();
    let bouncer = PgBouncer::before(&server, "transaction", 10);
    // Only a pooler that knows the server lets clients in while it pauses.
    load_test(&["--setup", "--duration", "0", "--postgres-url", &bouncer.url()]).run().expect(0);
    bouncer.command(&server, "PAUSE");
    let url = format!("{}&connect_timeout=1", bouncer.url());
    load_at(&url, &LOAD).run().expect_refusal(3, &["connect_timeout"]);
}

#[test]
fn a_restart_of_the_pooler_is_survived() {
    let server = server_on_tcp();
    let mut bouncer = PgBouncer::before(&server, "transaction", 10);
    for more in UNNAMED {
        let started = load_for(&bouncer, &server, "6", more);
        bouncer.kill();
        settle();
        bouncer.start();
        let since = now(&server);
        let json = conclude(started, &server, 600, WORKERS);
        assert_eq!(reconnects(&json), WORKERS, "{more:?}: {}", json["errors"]);
        assert!(of_class(&json, "connection", "cannot connect (Refused") > 0, "{more:?}: {}", json["errors"]);
        assert!(count(&json, "failed") + count(&json, "unknown") <= WORKERS, "{more:?}: {}", json["accounting"]);
        assert_went_on(&server, &json, &since);
    }
}

on_each_version!(
    a_crash_of_the_server_behind_a_pooler,
    a_fast_restart_of_the_server_behind_a_pooler,
    a_server_that_is_frozen_behind_a_pooler,
    errors_of_the_server_come_through_a_pooler,
);

/// The pooler's clients stay connected, and are told by it that the server is gone.
fn a_crash_of_the_server_behind_a_pooler(version: Version) {
    restarted(version, TestServer::kill);
}

fn a_fast_restart_of_the_server_behind_a_pooler(version: Version) {
    restarted(version, |server| {
        server.signal_main(Signal::INT);
        wait_until("the server has left", || server.processes().is_empty());
    });
}

fn restarted(version: Version, end: impl FnOnce(&TestServer)) {
    let Some(mut server) = server_on_tcp_of(version) else { return };
    let bouncer = PgBouncer::before(&server, "transaction", 10);
    let started = load_for(&bouncer, &server, "8", UNNAMED[0]);
    end(&server);
    settle();
    server.start_again();
    let since = now(&server);
    let json = started.finish().expect_measured().json();
    assert_rows_match(&server, &json);
    assert_eq!(count(&json, "scheduled"), 800);
    assert!(!json["errors"].as_array().unwrap().is_empty(), "{}", json["accounting"]);
    assert_went_on(&server, &json, &since);
}

fn a_server_that_is_frozen_behind_a_pooler(version: Version) {
    let Some(server) = server_on_tcp_of(version) else { return };
    let bouncer = PgBouncer::before(&server, "transaction", 10);
    let started = load_for(&bouncer, &server, "4", UNNAMED[1]);
    server.freeze();
    std::thread::sleep(Duration::from_secs(2));
    server.thaw();
    let since = now(&server);
    let json = conclude(started, &server, 400, WORKERS);
    assert_eq!((reconnects(&json), count(&json, "failed"), count(&json, "unknown")), (0, 0, 0), "{}", json["errors"]);
    assert!(ms(&json, "latency_ms", "max") >= 1_900.0, "{}", json["latency_ms"]);
    assert_went_on(&server, &json, &since);
}

/// One after the other in one run: statements that take too long, a server that only reads, sessions that are ended.
fn errors_of_the_server_come_through_a_pooler(version: Version) {
    let Some(server) = server_on_tcp_of(version) else { return };
    let bouncer = PgBouncer::before(&server, "transaction", 10);
    let started = load_for(&bouncer, &server, "6", &[UNNAMED[0], &["--statement-timeout", "300ms"]].concat());
    server.sql("BEGIN; LOCK TABLE model_inference IN EXCLUSIVE MODE; SELECT pg_sleep(1); COMMIT");
    let switch = |to: &str| {
        server.sql(&format!("ALTER SYSTEM SET default_transaction_read_only = {to}"));
        server.sql("SELECT pg_reload_conf()");
    };
    switch("on");
    std::thread::sleep(Duration::from_millis(500));
    switch("off");
    settle();
    let others = "pid <> pg_backend_pid() AND backend_type = 'client backend'";
    server.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"));
    let since = now(&server);
    let json = conclude(started, &server, 600, WORKERS);
    for (fault, sqlstate) in [("statement timeout", "57014"), ("read-only", "25006")] {
        assert!(with_sqlstate(&json, sqlstate) > 0, "{fault}: {}", json["errors"]);
    }
    assert_went_on(&server, &json, &since);
}
