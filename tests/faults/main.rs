//! Runs that something goes wrong in: the server, the network, a pooler. Whatever it is, the run comes to its end, its
//! counts add up and fit the rows, errors are named by class, and load goes on as soon as it can.

#[path = "../load_test/tool.rs"]
#[allow(dead_code)] // A part of it is enough here.
mod tool;

#[path = "../support/namespace.rs"]
mod namespace;
#[path = "../support/mod.rs"]
mod support;

/// The same with each version of PostgreSQL.
macro_rules! on_each_version {
    ($($name:ident),+ $(,)?) => {
        mod installed {
            $(#[test] fn $name() { super::$name(crate::support::Version::Installed) })+
        }
        mod postgres_18 {
            $(#[test] fn $name() { super::$name(crate::support::Version::Eighteen) })+
        }
    };
}

mod limits;
mod network;
mod pooler;
mod proxy;
mod server;
mod silence;

use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use postgres_load_test::throwaway::ThrowawayOptions;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use support::{TestServer, Version};
use tool::{Ran, SMALL, Started, assert_rows_match, count};

/// How long a run may take beside what it was asked to, on a machine however busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one worker may try to connect during a run of these tests, which takes at most ten seconds: pauses double from
/// 25 ms to a second at least, and each outage begins with an attempt at once.
const MOST_ATTEMPTS: u64 = 20;

/// A server with the tables; `None`, said aloud, where this version is left out.
///
/// Commits are synchronous, so that what was acknowledged survives a crash; of the server and not of the machine, so
/// that nothing needs to be brought to the disk.
fn server_of(version: Version, settings: &[(&str, &str)]) -> Option<TestServer> {
    let options = ThrowawayOptions { program_dirs: program_dirs(version)?, ..options(settings) };
    Some(with_tables(TestServer::start_with(options)))
}

/// The same on 127.0.0.1, with the password `secret`, for what stands between it and the program.
fn server_on_tcp(settings: &[(&str, &str)]) -> TestServer {
    server_on_tcp_of(Version::Installed, settings).expect("only another version may be left out")
}

/// The same of a version; `None` where it is left out.
fn server_on_tcp_of(version: Version, settings: &[(&str, &str)]) -> Option<TestServer> {
    let (program_dirs, superuser_password) = (program_dirs(version)?, Some("secret".to_owned()));
    let options = ThrowawayOptions { tcp: true, superuser_password, program_dirs, ..options(settings) };
    Some(with_tables(TestServer::start_with(options)))
}

fn options(settings: &[(&str, &str)]) -> ThrowawayOptions {
    let settings = [("synchronous_commit", "on"), ("fsync", "off")].iter().chain(settings);
    let settings = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    ThrowawayOptions { settings, ..ThrowawayOptions::default() }
}

fn with_tables(server: TestServer) -> TestServer {
    tool::run(&["--setup", "--duration", "0", "--postgres-url", &server.url()]).expect(0);
    server
}

/// For [`ThrowawayOptions::program_dirs`]; `None` where this version is left out.
#[allow(clippy::option_option)] // As the options have it.
fn program_dirs(version: Version) -> Option<Option<Vec<std::path::PathBuf>>> {
    match version {
        Version::Installed => Some(None),
        Version::Eighteen => match support::postgres_18() {
            Some(folder) => Some(Some(vec![folder])),
            None => {
                // Not by a macro, whose text is only shown where a test fails.
                let _ = writeln!(std::io::stderr(), "LEFT OUT: PostgreSQL 18, as PG18_BINDIR has it");
                None
            }
        },
    }
}

/// Begins a run: JSON, small documents.
fn start_at(url: &str, arguments: &[&str]) -> Started {
    tool::start(&[&["--json-output", "--postgres-url", url], &SMALL[..], arguments].concat())
}

/// Waits for the end of a run, and ends it by force where it does not come to one.
#[track_caller]
fn finish(started: Started) -> Ran {
    let pid = Pid::from_raw(started.id() as i32).unwrap();
    let (finished, watched) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let hangs = watched.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
        if hangs {
            let _ = kill_process(pid, Signal::KILL);
        }
        hangs
    });
    let ran = started.finish();
    drop(finished);
    assert!(!watchdog.join().unwrap(), "the run hangs: {}", ran.stderr);
    ran
}

/// The result of a run with `workers`, after all that holds in every fault: it ended, its counts add up and fit the
/// rows, the schedule has not moved, and nobody stormed the server.
#[track_caller]
fn conclude(started: Started, server: &TestServer, scheduled: u64, workers: u64) -> Value {
    let json = finish(started).expect_measured().json();
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
    server.psql("SELECT clock_timestamp()")
}

/// Transactions that began after `since` have been committed.
#[track_caller]
fn assert_went_on(server: &TestServer, json: &Value, since: &str) {
    let rows: u64 =
        server.psql(&format!("SELECT count(*) FROM chat_inference WHERE timestamp > '{since}'")).parse().unwrap();
    assert!(rows > 4, "{rows} rows after the fault: {} {}", json["accounting"], json["errors"]);
}

/// Takes away the rows of earlier runs, so that the first row is that of the next one.
fn empty(server: &TestServer) {
    server.psql("SELECT reset_loadtest_tables()");
}

/// How long the load is left alone before a fault.
fn settle() {
    std::thread::sleep(Duration::from_millis(300));
}
