//! Faults of the server, with each version of PostgreSQL that there is. What tests/load_test/faults.rs shows of the
//! installed one is shown here of 18 alone.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use serde_json::Value;

use super::{assert_went_on, conclude, now, of_class, reconnects, settle, setup_of, with_sqlstate};
use crate::harness::{
    Program, Started, TestServer, TmpFs, Version, assert_rows_match, count, load_at, load_test, ms, psql, wait_until,
};

const WORKERS: u64 = 4;

/// 100 requests/s on four workers that go by the name `load`.
const LOAD: [&str; 6] = ["--rps", "100", "--workers", "4", "--application-name", "load"];

/// A run of so many seconds that has begun to write.
fn load_for(server: &TestServer, seconds: &str, more: &[&str]) -> Started {
    load_with_url(server, &server.url(), seconds, more)
}

fn load_with_url(server: &TestServer, url: &str, seconds: &str, more: &[&str]) -> Started {
    let started = load_at(url, &[&LOAD[..], &["--duration", seconds], more].concat()).start();
    server.wait_for_rows();
    settle();
    started
}

macro_rules! on_18 {
    ($($name:ident),+ $(,)?) => {
        mod only_18 {
            $(#[test] fn $name() { super::$name(crate::harness::Version::Eighteen) })+
        }
    };
}

on_each_version!(
    a_smart_shutdown_lets_the_run_finish,
    a_fast_restart,
    an_immediate_restart,
    frozen_for_longer_than_is_waited_for,
    somebody_else_takes_the_connections,
    a_full_disk,
    read_only_for_a_while,
    a_lock_of_another_session,
    deadlocks,
    serialization_failures,
);

on_18!(a_crash, frozen_for_two_seconds, terminated, statements_that_take_too_long);

/// New connections are refused, but those that are open stay.
fn a_smart_shutdown_lets_the_run_finish(version: Version) {
    let Some(setup) = setup_of(version) else { return };
    let mut server = setup.start();
    let started = load_for(&server, "3", &[]);
    server.signal_main(Signal::TERM);
    let ran = started.finish().expect_measured();
    wait_until("the server has left", || server.processes().is_empty());
    server.start_again();
    let json = ran.json();
    assert_rows_match(&server, &json);
    assert_eq!(count(&json, "scheduled"), 300);
    assert_eq!((reconnects(&json), json["errors"].as_array().unwrap().len()), (0, 0), "{}", json["errors"]);
}

fn a_fast_restart(version: Version) {
    let Some(json) = restarted(version, Signal::INT) else { return };
    assert!(with_sqlstate(&json, "57P01") > 0, "{}", json["errors"]);
}

/// Sessions are ended with a mere warning.
fn an_immediate_restart(version: Version) {
    let Some(json) = restarted(version, Signal::QUIT) else { return };
    assert!(lost(&json) > 0, "{}", json["errors"]);
}

/// Requests and idle workers whose connection ended without an error of the server.
fn lost(json: &Value) -> u64 {
    // Of idle connections the server says that it ends them.
    let told = of_class(json, "connection", "terminated by an administrator");
    told + ["request", "connection"].iter().map(|origin| of_class(json, origin, "connection lost")).sum::<u64>()
}

fn restarted(version: Version, signal: Signal) -> Option<Value> {
    let mut server = setup_of(version)?.start();
    let started = load_for(&server, "8", &[]);
    server.signal_main(signal);
    wait_until("the server has left", || server.processes().is_empty());
    // Long enough to be noticed.
    settle();
    Some(come_back(&mut server, started))
}

/// Starts the server again, and looks at what the run made of it.
fn come_back(server: &mut TestServer, started: Started) -> Value {
    server.start_again();
    let since = now(server);
    let json = conclude(started, server, 800, WORKERS);
    assert_eq!(reconnects(&json), WORKERS, "{}", json["errors"]);
    assert!(of_class(&json, "connection", "cannot connect (") > 0, "{}", json["errors"]);
    // Each worker had one request on its way at most.
    assert!(count(&json, "failed") + count(&json, "unknown") <= WORKERS, "{}", json["accounting"]);
    assert_went_on(server, &json, &since);
    json
}

/// Every process is killed at once.
fn a_crash(version: Version) {
    let Some(setup) = setup_of(version) else { return };
    let mut server = setup.start();
    let started = load_for(&server, "8", &["--pipeline"]);
    server.kill();
    settle();
    let json = come_back(&mut server, started);
    assert!(lost(&json) > 0, "{}", json["errors"]);
}

fn frozen_for_two_seconds(version: Version) {
    let Some(setup) = setup_of(version) else { return };
    let server = setup.start();
    let started = load_for(&server, "4", &[]);
    server.freeze();
    std::thread::sleep(Duration::from_secs(2));
    server.thaw();
    let since = now(&server);
    let json = conclude(started, &server, 400, WORKERS);
    assert_eq!((reconnects(&json), count(&json, "failed"), count(&json, "unknown")), (0, 0, 0), "{}", json["errors"]);
    assert!(ms(&json, "latency_ms", "max") >= 1_900.0, "{}", json["latency_ms"]);
    assert_went_on(&server, &json, &since);
}

/// With a statement timeout of 100 ms a request is given up after 5.6 s: six times that, and five seconds.
fn frozen_for_longer_than_is_waited_for(version: Version) {
    let Some(setup) = setup_of(version) else { return };
    let server = setup.start();
    let url = format!("{}?connect_timeout=3", server.url());
    let started = load_with_url(&server, &url, "10", &["--statement-timeout", "100ms"]);
    server.freeze();
    std::thread::sleep(Duration::from_millis(6_500));
    server.thaw();
    let since = now(&server);
    let json = conclude(started, &server, 1_000, WORKERS);
    let given_up = of_class(&json, "request", "no answer");
    assert!((1..=WORKERS).contains(&given_up), "{}", json["errors"]);
    assert_eq!(reconnects(&json), given_up, "{}", json["errors"]);
    assert_eq!(count(&json, "unfinished"), 0);
    assert_went_on(&server, &json, &since);
}

/// Processes that are ended, with what they have started, when this is dropped.
struct Others(Vec<Started>);

impl Others {
    /// So many clients that want a connection for themselves, and take any that they can get.
    fn greedy(url: &str, clients: usize) -> Self {
        let sleep = psql().args(["-Xq", "-c", "SELECT pg_sleep(60)", url]).shell_words();
        let wait = format!("until {sleep}; do sleep 0.02; done");
        let client = || Program::new("sh").args(["-c", &wait]).env("PGAPPNAME", "greedy").start();
        Self((0..clients).map(|_| client()).collect())
    }

    fn end(self, server: &TestServer) {
        drop(self.0);
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'greedy'");
    }
}

/// Of twelve connections three are kept for superusers, and so for the test itself.
fn somebody_else_takes_the_connections(version: Version) {
    let Some(setup) = setup_of(version) else { return };
    let server = setup.set("max_connections", "12").set("superuser_reserved_connections", "3").start();
    server.sql("CREATE ROLE mortal LOGIN; CREATE ROLE rival LOGIN");
    server.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO mortal");
    let url_of = |role: &str| server.url().replacen("://postgres", &format!("://{role}"), 1);
    let (url, theirs) = (url_of("mortal"), url_of("rival"));
    let started = load_with_url(&server, &url, "8", &[]);
    // Kept out by a limit of their own until the others have taken all.
    server.sql("ALTER ROLE mortal CONNECTION LIMIT 0");
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mortal'");
    let others = Others::greedy(&theirs, 9);
    let greedy = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'greedy'";
    // The test itself has the ninth that is not reserved.
    wait_until("the others have all", || ["8", "9"].contains(&&*server.sql(greedy)));
    server.sql("ALTER ROLE mortal CONNECTION LIMIT -1");
    settle();
    others.end(&server);
    let since = now(&server);
    let json = conclude(started, &server, 800, WORKERS);
    assert!(with_sqlstate(&json, "53300") > 0, "{}", json["errors"]);
    assert!(with_sqlstate(&json, "57P01") > 0, "{}", json["errors"]);
    assert_eq!(reconnects(&json), WORKERS, "{}", json["errors"]);
    assert_went_on(&server, &json, &since);
}

/// Takes all of a disk but so many bytes.
fn fill_but(disk: &TmpFs, left: u64) -> PathBuf {
    let space = rustix::fs::statvfs(disk.path()).unwrap();
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; (space.f_bavail * space.f_frsize - left) as usize]).unwrap();
    ballast
}

/// Unlogged tables, since a full disk for the write-ahead log is the end of the server.
fn a_full_disk(version: Version) {
    let Some(setup) = setup_of(version) else { return };
    let Some(disk) = TmpFs::mount("size=200m,mode=755") else { return };
    let server = setup.below(disk.path()).start();
    load_test(&["--setup", "unlogged", "--duration", "0", "--postgres-url", &server.url()]).run().expect(0);
    let ballast = fill_but(&disk, 6 << 20);
    let started = load_for(&server, "4", &["--output-size-kb", "50", "--raw-response-size-kb", "50"]);
    std::thread::sleep(Duration::from_millis(1_200));
    std::fs::remove_file(ballast).unwrap();
    let since = now(&server);
    let json = conclude(started, &server, 400, WORKERS);
    assert_eq!(with_sqlstate(&json, "53100"), count(&json, "failed"), "{}", json["errors"]);
    assert!(count(&json, "failed") > 0, "{}", json["accounting"]);
    assert_eq!((reconnects(&json), count(&json, "unknown")), (0, 0), "{}", json["errors"]);
    assert_went_on(&server, &json, &since);
}

fn read_only_for_a_while(version: Version) {
    let Some(setup) = setup_of(version) else { return };
    let server = setup.start();
    let started = load_for(&server, "4", &[]);
    let switch = |to: &str| {
        server.sql(&format!("ALTER SYSTEM SET default_transaction_read_only = {to}"));
        server.sql("SELECT pg_reload_conf()");
    };
    switch("on");
    std::thread::sleep(Duration::from_secs(1));
    switch("off");
    settle();
    let since = now(&server);
    let json = conclude(started, &server, 400, WORKERS);
    assert_eq!(with_sqlstate(&json, "25006"), count(&json, "failed"), "{}", json["errors"]);
    assert!(count(&json, "failed") > 10, "{}", json["accounting"]);
    assert_eq!((reconnects(&json), count(&json, "unknown")), (0, 0), "{}", json["errors"]);
    assert_went_on(&server, &json, &since);
}

fn terminated(version: Version) {
    let Some(setup) = setup_of(version) else { return };
    let server = setup.start();
    let started = load_for(&server, "3", &["--pipeline", "--no-prepared-statements"]);
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'load'";
    assert_eq!(server.sql(terminate), "4");
    let since = now(&server);
    let json = conclude(started, &server, 300, WORKERS);
    assert_eq!((reconnects(&json), with_sqlstate(&json, "57P01")), (WORKERS, WORKERS), "{}", json["errors"]);
    assert_went_on(&server, &json, &since);
}

/// Without a time limit requests wait as long as it takes, and none is lost.
fn a_lock_of_another_session(version: Version) {
    let Some(setup) = setup_of(version) else { return };
    let server = setup.start();
    let started = load_for(&server, "4", &[]);
    server.sql("BEGIN; LOCK TABLE model_inference IN EXCLUSIVE MODE; SELECT pg_sleep(1); COMMIT");
    let since = now(&server);
    let json = conclude(started, &server, 400, WORKERS);
    assert_eq!(json["errors"].as_array().unwrap().len(), 0, "{}", json["errors"]);
    assert_eq!((reconnects(&json), count(&json, "unfinished")), (0, 0));
    assert!(ms(&json, "latency_ms", "max") >= 900.0, "{}", json["latency_ms"]);
    assert_went_on(&server, &json, &since);
}

fn statements_that_take_too_long(version: Version) {
    let Some(setup) = setup_of(version) else { return };
    let server = setup.start();
    let started = load_for(&server, "4", &["--pipeline", "--statement-timeout", "300ms"]);
    server.sql("BEGIN; LOCK TABLE model_inference IN EXCLUSIVE MODE; SELECT pg_sleep(1); COMMIT");
    let since = now(&server);
    let json = conclude(started, &server, 400, WORKERS);
    assert!(with_sqlstate(&json, "57014") >= WORKERS, "{}", json["errors"]);
    assert_eq!((reconnects(&json), count(&json, "unknown")), (0, 0), "{}", json["errors"]);
    assert_went_on(&server, &json, &since);
}

/// Requests lock a row of resource_bucket and then write to variant_by_episode; the other session does the reverse. It
/// is patient, so that the requests are the ones to be ended.
fn deadlocks(version: Version) {
    let Some(setup) = setup_of(version) else { return };
    let server = setup.set("deadlock_timeout", "500ms").start();
    let started = load_for(&server, "4", &[]);
    server.try_sql_in(
        "postgres",
        "SET deadlock_timeout = '10s'; SET lock_timeout = '1500ms'; BEGIN; \
         LOCK TABLE variant_by_episode IN EXCLUSIVE MODE; SELECT pg_sleep(0.1); \
         UPDATE resource_bucket SET tickets = tickets; COMMIT",
    );
    let since = now(&server);
    let json = conclude(started, &server, 400, WORKERS);
    assert!(with_sqlstate(&json, "40P01") > 0, "{}", json["errors"]);
    assert_eq!(of_class(&json, "request", "deadlock"), count(&json, "failed"), "{}", json["errors"]);
    assert_eq!((reconnects(&json), count(&json, "unknown")), (0, 0), "{}", json["errors"]);
    assert_went_on(&server, &json, &since);
}

/// The ten hot rows make for conflicts enough.
fn serialization_failures(version: Version) {
    let Some(setup) = setup_of(version) else { return };
    let server = setup.start();
    let since = now(&server);
    server.sql("ALTER DATABASE postgres SET default_transaction_isolation = 'serializable'");
    let started = load_at(&server.url(), &["--rps", "400", "--workers", "8", "--duration", "2"]).start();
    let json = conclude(started, &server, 800, 8);
    assert!(with_sqlstate(&json, "40001") > 0, "{}", json["errors"]);
    assert_eq!(with_sqlstate(&json, "40001"), count(&json, "failed"), "{}", json["errors"]);
    assert_eq!((reconnects(&json), count(&json, "unknown")), (0, 0), "{}", json["errors"]);
    assert_went_on(&server, &json, &since);
}
