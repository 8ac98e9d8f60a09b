//! Runs in which the server, the network or a pooler fails. In each case the run ends, its counts add up and match the
//! rows, errors are named by class, and load goes on as soon as it can.

/// The same with each version of PostgreSQL.
macro_rules! on_each_version {
    ($($name:ident),+ $(,)?) => {
        mod installed {
            $(#[test] fn $name() { super::$name(crate::harness::Version::Installed) })+
        }
        mod postgres_18 {
            $(#[test] fn $name() { super::$name(crate::harness::Version::Eighteen) })+
        }
    };
}

mod limits;
mod network;
mod pooler;
mod server;
mod silence;

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Setup, Started, TestServer, Version, assert_rows_match, count};

/// What one worker may try to connect during a run of these tests, which takes at most ten seconds: pauses double from
/// 25 ms to a second at least, and each outage begins with an attempt at once.
const MOST_ATTEMPTS: u64 = 20;

/// A server with the tables; `None`, with the reason told, where this version is left out.
///
/// Commits are synchronous, so that what was acknowledged survives a crash; of the server and not of the machine, so
/// nothing needs to be flushed to the disk.
fn setup_of(version: Version) -> Option<Setup> {
    TestServer::setup_of(version).map(|setup| setup.tables().set("synchronous_commit", "on"))
}

/// The same on 127.0.0.1, with the password `secret`, for what stands between it and the program.
fn server_on_tcp() -> TestServer {
    server_on_tcp_of(Version::Installed).expect("only another version may be left out")
}

/// The same of a version; `None` where it is left out.
fn server_on_tcp_of(version: Version) -> Option<TestServer> {
    Some(setup_of(version)?.tcp("secret").start())
}

/// The result of a run with `workers`, after all that holds in every fault: it ended, its counts add up and fit the
/// rows, the schedule has not moved, and nobody stormed the server.
#[track_caller]
fn conclude(started: Started, server: &TestServer, scheduled: u64, workers: u64) -> Value {
    let json = started.finish().expect_measured().json();
    assert_rows_match(server, &json);
    assert_eq!(count(&json, "scheduled"), scheduled, "{}", json["accounting"]);
    assert_no_storm(&json, workers);
    json
}

#[track_caller]
fn assert_no_storm(json: &Value, workers: u64) {
    let attempts =
        reconnects(json) + errors(json, "connection").map(|error| error["count"].as_u64().unwrap()).sum::<u64>();
    assert!(attempts <= workers * MOST_ATTEMPTS, "{attempts} attempts: {}", json["errors"]);
}

fn reconnects(json: &Value) -> u64 {
    json["reconnects"].as_u64().unwrap()
}

fn errors<'a>(json: &'a Value, origin: &'a str) -> impl Iterator<Item = &'a Value> {
    json["errors"].as_array().unwrap().iter().filter(move |error| error["origin"] == origin)
}

/// How often an error with this code was met, by requests and while connecting.
fn with_sqlstate(json: &Value, sqlstate: &str) -> u64 {
    let all = json["errors"].as_array().unwrap().iter();
    all.filter(|error| error["sqlstate"] == sqlstate).map(|error| error["count"].as_u64().unwrap()).sum()
}

/// How many requests met an error of a class that begins so.
fn of_class(json: &Value, origin: &str, class: &str) -> u64 {
    errors(json, origin)
        .filter(|error| error["class"].as_str().unwrap().starts_with(class))
        .map(|error| error["count"].as_u64().unwrap())
        .sum()
}

/// The server's clock, for [`assert_went_on`].
fn now(server: &TestServer) -> String {
    server.sql("SELECT clock_timestamp()")
}

/// Transactions that began after `since` have been committed.
#[track_caller]
fn assert_went_on(server: &TestServer, json: &Value, since: &str) {
    let rows: u64 =
        server.sql(&format!("SELECT count(*) FROM chat_inference WHERE timestamp > '{since}'")).parse().unwrap();
    assert!(rows > 4, "{rows} rows after the fault: {} {}", json["accounting"], json["errors"]);
}

/// Takes away the rows of earlier runs, so that the first row is that of the next one.
fn empty(server: &TestServer) {
    server.sql("SELECT reset_loadtest_tables()");
}

/// How long the load is left alone before a fault.
fn settle() {
    std::thread::sleep(Duration::from_millis(300));
}
