//! What the server is left with when a request is given up or this side is gone: nothing that runs on or holds locks.

use std::time::Duration;

use crate::library::{ConnectionSpec, Connector, Environment, Link, SessionLimits, lacking};
use rustix::process::Signal;
use tokio_postgres::SimpleQueryMessage;

use super::{empty, server_on_tcp};
use crate::harness::proxy::Proxy;
use crate::harness::{PgBouncer, Started, TestServer, all_written, count, load_at, wait_until};

const OURS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postgres_load_test'";

fn connector(url: &str) -> Connector {
    Connector::new(ConnectionSpec::parse(url, &Environment::default()).unwrap(), "postgres_load_test").unwrap()
}

#[tokio::main(flavor = "current_thread")]
async fn limits_of(url: &str) -> SessionLimits {
    let mut link = Link::open(&connector(url)).await.unwrap();
    let limits = lacking(&mut link).await.unwrap();
    link.close().await;
    limits
}

/// What a session has that is opened with these limits.
#[tokio::main(flavor = "current_thread")]
async fn setting(url: &str, limits: &SessionLimits, name: &str) -> String {
    let connector = connector(url).with_session_settings(&limits.session_sql);
    let mut link = Link::open(&connector).await.unwrap();
    let sql = format!("SHOW {name}");
    let answer = link.run(async |client| client.simple_query(&sql).await).await.unwrap();
    link.close().await;
    let value = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    value.unwrap()
}

#[test]
fn sessions_have_limits_and_stricter_ones_are_left_alone() {
    let server = server_on_tcp();
    let url = server.url();
    let limits = limits_of(&url);
    let expected = [
        ("idle_in_transaction_session_timeout", "10s"),
        ("client_connection_check_interval", "2s"),
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "2"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "10000"),
    ];
    for (name, value) in expected {
        assert_eq!(setting(&url, &limits, name), value, "{name}");
    }
    // Nothing of TCP on a Unix socket.
    assert!(!limits_of(&server.socket_url()).session_sql.contains("tcp_"), "{limits:?}");
    server.sql("ALTER ROLE postgres SET idle_in_transaction_session_timeout = '3s'");
    let with_options = format!("{url}?options=-c%20tcp_keepalives_count%3D1%20-c%20tcp_user_timeout%3D60000");
    let limits = limits_of(&with_options);
    for (name, value) in
        [("idle_in_transaction_session_timeout", "3s"), ("tcp_keepalives_count", "1"), ("tcp_user_timeout", "10000")]
    {
        assert_eq!(setting(&with_options, &limits, name), value, "{name}");
    }
}

#[test]
fn behind_a_pooler_a_limit_is_set_for_the_transaction_alone() {
    let server = server_on_tcp();
    for mode in ["transaction", "session"] {
        let bouncer = PgBouncer::before(&server, mode, 10);
        let ten = Some(Duration::from_secs(10));
        assert_eq!(
            limits_of(&bouncer.url()),
            SessionLimits { session_sql: String::new(), idle_in_transaction: ten, pooled: Some(true) }
        );
    }
    let bouncer = PgBouncer::before(&server, "transaction", 1);
    let load = ["--rps", "20", "--workers", "1", "--duration", "1", "--no-prepared-statements"];
    let json = load_at(&bouncer.url(), &load).run().expect_measured().json();
    all_written(&json, 20);
    // The one connection of the pool is as it was.
    let none = SessionLimits::default();
    assert_eq!(setting(&bouncer.url(), &none, "idle_in_transaction_session_timeout"), "0");
    // A round trip more there would be seen.
    assert_eq!(json["phases_ms"].as_array().unwrap().len(), 5, "{}", json["phases_ms"]);
}

/// With prepared statements, whose fate is tried with a second connection where there is room for one.
#[test]
fn a_session_pool_of_one_connection_is_enough_for_one_worker() {
    let server = server_on_tcp();
    let bouncer = PgBouncer::before(&server, "session", 1);
    let load = ["--rps", "20", "--workers", "1", "--duration", "1", "--verify"];
    let json = load_at(&bouncer.url(), &load).run().expect_measured().json();
    all_written(&json, 20);
    assert_eq!(json["verification"]["error"], serde_json::Value::Null, "{json}");
}

/// Freezes a run in the middle of a transaction: until the server has ended a session of it for that.
fn freeze_within_a_transaction(server: &TestServer, started: &Started) {
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' \
                AND query LIKE 'INSERT INTO %'";
    let is_caught = (0..200).any(|_| {
        started.signal(Signal::STOP);
        // What was on its way is answered by then.
        std::thread::sleep(Duration::from_millis(50));
        let is_idle = server.sql(idle) != "0";
        if !is_idle {
            started.signal(Signal::CONT);
            std::thread::sleep(Duration::from_millis(7));
        }
        is_idle
    });
    assert!(is_caught, "it never was frozen in a transaction");
}

#[test]
fn a_frozen_run_keeps_no_transaction_open() {
    let server = server_on_tcp();
    let bouncer = PgBouncer::before(&server, "transaction", 10);
    let told = "terminating connection due to idle-in-transaction timeout";
    for (at, url) in [server.url(), bouncer.url()].iter().enumerate() {
        empty(&server);
        let load = ["--rps", "max", "--workers", "2", "--duration", "600", "--no-prepared-statements"];
        let started = load_at(url, &load).start();
        server.wait_for_rows();
        freeze_within_a_transaction(&server, &started);
        wait_until("the server ends its transaction", || server.log().matches(told).count() > at);
        wait_until("no transaction is left", || {
            // But for the mark: the process is still there.
            let idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' \
                        AND application_name NOT LIKE 'load_test %'";
            server.sql(idle) == "0"
        });
        started.signal(Signal::CONT);
        let written = server.rows("chat_inference");
        wait_until("it goes on", || server.rows("chat_inference") > written + 10);
        started.signal(Signal::INT);
        let json = started.finish().expect(130).json();
        assert!(count(&json, "ok") > 0 && count(&json, "failed") > 0, "{}", json["errors"]);
    }
}

const CANCELLED: &str = "canceling statement due to user request";

#[test]
fn requests_that_are_abandoned_are_cancelled_on_the_server() {
    let server = server_on_tcp();
    let bouncer = PgBouncer::before(&server, "transaction", 10);
    let proxy = Proxy::before(server.port());
    let direct = server.url();
    let two_workers = ["--rps", "50", "--workers", "2", "--no-prepared-statements"];
    let cases: [(&str, &[&str]); 4] = [
        // The drain is over.
        (&direct, &["--duration", "4", "--drain", "1"]),
        // Ctrl-C twice.
        (&direct, &["--duration", "600"]),
        (&proxy.url(), &["--duration", "600"]),
        // Last, because its sessions with the server stay.
        (&bouncer.url(), &["--duration", "4", "--drain", "1", "--pipeline"]),
    ];
    for (url, more) in cases {
        empty(&server);
        let cancelled = || server.log().matches(CANCELLED).count();
        let before = cancelled();
        let started = load_at(url, &[&two_workers[..], more].concat()).start();
        server.wait_for_rows();
        let lock = server.lock("model_inference");
        wait_until("both workers wait", || server.lock_waiters() == 2);
        if more.contains(&"600") {
            started.signal(Signal::INT);
            std::thread::sleep(Duration::from_millis(300));
            started.signal(Signal::INT);
        }
        let ran = started.finish();
        assert!(matches!(ran.code, Some(0 | 1 | 130)), "{ran:?}");
        let json = ran.json();
        assert_eq!(count(&json, "unfinished"), 2, "{more:?}: {}", json["accounting"]);
        // By the time that the result is there, not because the lock was released or a limit has passed.
        wait_until("nothing waits any more", || server.lock_waiters() == 0);
        assert_eq!(cancelled() - before, 2, "{more:?}");
        drop(lock);
        wait_until("no session is left", || url == bouncer.url() || server.sql(OURS) == "0");
    }
}

/// PGlite's socket server resets a connection that is made while there is another one.
#[test]
fn a_server_that_takes_one_connection_at_a_time_is_enough_for_one_worker() {
    let server = server_on_tcp();
    let proxy = Proxy::before(server.port());
    proxy.set(|rules| rules.one_at_a_time = true);
    let load = ["--rps", "20", "--workers", "1", "--duration", "1", "--verify"];
    for more in [&[][..], &["--setup", "unlogged"], &["--pipeline", "--no-prepared-statements"]] {
        let before = proxy.connections();
        let json = load_at(&proxy.url(), &[&load[..], more].concat()).run().expect_measured().json();
        all_written(&json, 20);
        assert_eq!(json["verification"]["error"], serde_json::Value::Null, "{json}");
        // To look, to set up, for the mark (which is reset, and tried twice), to see what is there, the worker's, to verify.
        let opened = proxy.connections() - before;
        assert!((4..=8).contains(&opened), "{more:?}: {opened}");
        proxy.wait_until_idle();
    }
    let two = ["--rps", "20", "--workers", "2", "--duration", "1"];
    let ran = load_at(&proxy.url(), &two).run().expect_refusal(3, &["127.0.0.1"]);
    // On a busy machine the proxy may not have noticed yet that a look at the server is over.
    let words = ["Connecting to 127.0.0.1", "Connection reset"];
    assert!(words.iter().any(|word| ran.stderr.contains(word)), "{}", ran.stderr);
}

#[test]
fn who_holds_the_tables_before_a_run_is_told() {
    let server = server_on_tcp();
    let lock = server.lock("model_inference");
    let pid = lock.pid();
    let ran = load_at(&server.url(), &["--rps", "20", "--duration", "1"]).run();
    let named = format!("pid {pid} (psql) of postgres from 127.0.0.1, active, its transaction open for ");
    ran.expect_refusal(3, &["not free within 15s", &named, "pg_terminate_backend"]);
    drop(lock);
}
