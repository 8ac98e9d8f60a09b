//! Faults of the network, and servers that do not keep to the protocol, by a proxy between.

use std::time::Duration;

use serde_json::Value;

use super::{
    MOST_ATTEMPTS, assert_no_storm, assert_went_on, conclude, empty, now, of_class, reconnects, server_on_tcp, settle,
};
use crate::harness::proxy::{Arrival, Proxy, Then, When};
use crate::harness::{Started, TestServer, count, load_at, ms, start_at, wait_until};

const WORKERS: u64 = 4;

/// 100 requests/s on four workers.
const LOAD: [&str; 4] = ["--rps", "100", "--workers", "4"];

/// How often a trap is sprung.
const TIMES: usize = 3;

fn rig() -> (TestServer, Proxy) {
    let server = server_on_tcp();
    let proxy = Proxy::before(server.port());
    (server, proxy)
}

/// A run of so many seconds that has begun to write.
fn load_for(server: &TestServer, proxy: &Proxy, seconds: &str, more: &[&str]) -> Started {
    empty(server);
    let started = load_at(&proxy.url(), &[&LOAD[..], &["--duration", seconds], more].concat()).start();
    server.wait_for_rows();
    settle();
    started
}

#[track_caller]
fn assert_no_errors(json: &Value) {
    assert_eq!(json["errors"].as_array().unwrap().len(), 0, "{}", json["errors"]);
    assert_eq!((reconnects(json), count(json, "unfinished")), (0, 0), "{}", json["accounting"]);
}

#[test]
fn distance_is_felt_once_a_round_trip() {
    let (server, proxy) = rig();
    proxy.set(|rules| (rules.delay, rules.jitter) = (Duration::from_millis(10), Duration::from_millis(10)));
    let mut service = Vec::new();
    // There and back takes 20 ms at least.
    for (more, least_ms) in [(&[][..], 100.0), (&["--pipeline"], 20.0)] {
        let arguments = [&["--rps", "15", "--workers", "4", "--duration", "2"], more].concat();
        let json = conclude(load_at(&proxy.url(), &arguments).start(), &server, 30, WORKERS);
        assert_no_errors(&json);
        assert!(ms(&json, "service_time_ms", "min") >= least_ms, "{}", json["service_time_ms"]);
        service.push(ms(&json, "service_time_ms", "avg"));
    }
    assert!(service[1] < service[0], "{service:?}");
}

#[test]
fn a_stall_is_waited_for_and_shows() {
    let (server, proxy) = rig();
    for more in [&[][..], &["--pipeline"]] {
        let started = load_for(&server, &proxy, "4", more);
        proxy.set(|rules| rules.stalled = true);
        std::thread::sleep(Duration::from_millis(1_200));
        let since = now(&server);
        proxy.set(|rules| rules.stalled = false);
        let json = conclude(started, &server, 400, WORKERS);
        assert_no_errors(&json);
        assert!(ms(&json, "latency_ms", "max") >= 1_000.0, "{}", json["latency_ms"]);
        assert_went_on(&server, &json, &since);
    }
}

#[test]
fn a_few_bytes_at_a_time_are_enough() {
    let (server, proxy) = rig();
    proxy.set(|rules| rules.drip = Some(7));
    for more in [&[][..], &["--pipeline"], &["--no-prepared-statements"]] {
        let small = ["--output-size-kb", "0.1", "--raw-response-size-kb", "0.1", "--input-size-kb", "0.1"];
        let arguments = [&["--rps", "20", "--workers", "4", "--duration", "2"], &small[..], more].concat();
        let json = conclude(load_at(&proxy.url(), &arguments).start(), &server, 40, WORKERS);
        assert_no_errors(&json);
    }
}

/// A run in which a trap is sprung three times; returns the result and how many rows there are beyond those of
/// requests that were ok.
fn trapped(rig: &(TestServer, Proxy), when: When, statement: &'static str, then: Then, more: &[&str]) -> (Value, u64) {
    let (server, proxy) = rig;
    let started = load_for(server, proxy, "3", more);
    proxy.trap(when, statement, then, TIMES);
    wait_until("the trap is sprung", || proxy.sprung() == TIMES);
    let since = now(server);
    let json = conclude(started, server, 300, WORKERS);
    assert_went_on(server, &json, &since);
    assert_eq!(reconnects(&json), TIMES as u64, "{}", json["errors"]);
    assert_eq!(count(&json, "unfinished"), 0, "{}", json["accounting"]);
    let beyond = server.rows("chat_inference") - count(&json, "ok");
    (json, beyond)
}

#[track_caller]
fn assert_failed_and_unknown(json: &Value, failed: usize, unknown: usize) {
    let found = (count(json, "failed"), count(json, "unknown"));
    assert_eq!(found, (failed as u64, unknown as u64), "{}", json["errors"]);
}

#[test]
fn what_a_reset_means_depends_on_when_it_comes() {
    let rig = rig();
    let reset = |when, statement, more: &[&str]| trapped(&rig, when, statement, Then::Reset, more);
    for more in [&[][..], &["--no-prepared-statements"]] {
        for statement in ["BEGIN", "INSERT INTO resource_bucket"] {
            let (json, beyond) = reset(When::Sent, statement, more);
            assert_failed_and_unknown(&json, TIMES, 0);
            assert_eq!(beyond, 0);
            assert_eq!(of_class(&json, "request", "connection lost (reset)"), TIMES as u64, "{}", json["errors"]);
        }
    }
    // COMMIT may have arrived, as far as one can know; here it has not.
    let (json, beyond) = reset(When::Sent, "COMMIT", &[]);
    assert_failed_and_unknown(&json, 0, TIMES);
    assert_eq!(beyond, 0);
}

#[test]
fn a_commit_whose_answer_is_lost_is_unknown_and_in_the_database() {
    let rig = rig();
    for more in [&[][..], &["--pipeline"], &["--pipeline", "--no-prepared-statements"]] {
        let (json, beyond) = trapped(&rig, When::Answered, "COMMIT", Then::Reset, more);
        assert_failed_and_unknown(&json, 0, TIMES);
        assert_eq!(beyond, TIMES as u64, "{}", json["accounting"]);
    }
}

/// With --pipeline COMMIT is on its way together with BEGIN.
#[test]
fn a_pipelined_request_that_is_lost_on_its_way_is_unknown() {
    let (json, beyond) = trapped(&rig(), When::Sent, "BEGIN", Then::Reset, &["--pipeline"]);
    assert_failed_and_unknown(&json, 0, TIMES);
    assert_eq!(beyond, 0);
}

#[test]
fn half_an_answer_is_none() {
    let rig = rig();
    let (json, beyond) = trapped(&rig, When::Answered, "COMMIT", Then::Truncate, &[]);
    assert_failed_and_unknown(&json, 0, TIMES);
    assert_eq!(beyond, TIMES as u64);
    assert_eq!(of_class(&json, "request", "connection lost (closed"), TIMES as u64, "{}", json["errors"]);
    let (json, beyond) = trapped(&rig, When::Answered, "INSERT INTO chat_inference", Then::Truncate, &[]);
    assert_failed_and_unknown(&json, TIMES, 0);
    assert_eq!(beyond, 0);
}

#[test]
fn rubbish_ends_the_connection_and_not_the_run() {
    let rig = rig();
    for then in [Then::Garbage, Then::EndlessMessage] {
        let (json, _) = trapped(&rig, When::Answered, "INSERT INTO resource_bucket", then, &[]);
        assert_failed_and_unknown(&json, TIMES, 0);
        assert_eq!(of_class(&json, "request", "protocol error"), TIMES as u64, "{}", json["errors"]);
        let (json, beyond) = trapped(&rig, When::Answered, "COMMIT", then, &["--pipeline"]);
        assert_failed_and_unknown(&json, 0, TIMES);
        assert_eq!(beyond, TIMES as u64);
    }
}

#[test]
fn connections_that_are_lost_before_the_start_are_replaced_for_it() {
    let (server, proxy) = rig();
    let start_at = start_at(4);
    let arguments = [&LOAD[..], &["--duration", "2", "--start-at", &start_at]].concat();
    let started = load_at(&proxy.url(), &arguments).start();
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postgres_load_test'";
    wait_until("all workers are connected", || server.sql(ours) == "4");
    settle();
    proxy.reset_all();
    let json = conclude(started, &server, 200, WORKERS);
    assert_failed_and_unknown(&json, 0, 0);
    assert_eq!(reconnects(&json), WORKERS);
    assert_eq!(of_class(&json, "connection", "connection lost (reset)"), WORKERS, "{}", json["errors"]);
}

/// A load without pauses must not become a storm of connections where each is lost at once.
#[test]
fn connections_that_never_last_are_not_replaced_without_pause() {
    let (_server, proxy) = rig();
    proxy.trap(When::Sent, "BEGIN", Then::Reset, usize::MAX);
    let arguments = ["--rps", "max", "--workers", "4", "--duration", "3", "--pipeline"];
    let json = load_at(&proxy.url(), &arguments).run().expect(1).json();
    assert_eq!(count(&json, "ok"), 0);
    assert!(count(&json, "unknown") >= WORKERS, "{}", json["accounting"]);
    assert_no_storm(&json, WORKERS);
    assert!(proxy.connections() <= WORKERS * MOST_ATTEMPTS, "{}", proxy.connections());
}

#[test]
fn a_server_that_falls_silent_is_waited_for_until_the_drain_ends() {
    let (server, proxy) = rig();
    let started = load_for(&server, &proxy, "2", &["--drain", "1"]);
    proxy.trap(When::Sent, "INSERT INTO resource_bucket", Then::Silence, 1);
    let json = conclude(started, &server, 200, WORKERS);
    // The others go on.
    assert_eq!(count(&json, "unfinished"), 1, "{}", json["accounting"]);
    assert_eq!((count(&json, "ok") + count(&json, "not_started"), reconnects(&json)), (199, 0));
}

#[test]
fn with_a_statement_timeout_silence_is_given_up_and_the_connection_replaced() {
    let (server, proxy) = rig();
    // 200 ms times six, and five seconds.
    let started = load_for(&server, &proxy, "9", &["--statement-timeout", "200ms"]);
    proxy.trap(When::Sent, "INSERT INTO resource_bucket", Then::Silence, 2);
    wait_until("the trap is sprung", || proxy.sprung() == 2);
    proxy.trap(When::Answered, "COMMIT", Then::Silence, 2);
    let json = conclude(started, &server, 900, WORKERS);
    assert_eq!(of_class(&json, "request", "no answer"), 4, "{}", json["errors"]);
    assert_failed_and_unknown(&json, 2, 2);
    assert_eq!((reconnects(&json), count(&json, "unfinished")), (4, 0));
    assert_eq!(server.rows("chat_inference") - count(&json, "ok"), 2);
}

/// The other side takes nothing any more: the system's own limit, given in the connection string, finds that out.
#[test]
fn bytes_that_nobody_takes_are_bounded_by_tcp_user_timeout() {
    let (server, proxy) = rig();
    let url = proxy.url_with("sslmode=disable&tcp_user_timeout=1000&connect_timeout=2");
    let large = ["--output-size-kb", "20000", "--raw-response-size-kb", "1"];
    proxy.set(|rules| rules.takes = Some(1 << 20));
    let started = load_at(&url, &[&["--rps", "5", "--workers", "1", "--duration", "6"], &large[..]].concat()).start();
    // Two look at the server and prepare it, one is the mark's, one the worker's, and one the server monitor's.
    wait_until("a connection is replaced", || proxy.connections() > 5);
    proxy.set(|rules| rules.takes = None);
    let json = conclude(started, &server, 30, 1);
    let timed_out = of_class(&json, "request", "connection lost (timed out)");
    assert!(timed_out >= 1, "{}", json["errors"]);
    assert_eq!((count(&json, "failed"), count(&json, "unknown"), reconnects(&json)), (timed_out, 0, timed_out));
}

#[test]
fn a_server_that_accepts_and_says_nothing_costs_no_more_than_connect_timeout() {
    let (server, proxy) = rig();
    let url = proxy.url_with("sslmode=disable&connect_timeout=1");
    proxy.set(|rules| rules.arrival = Arrival::Silence);
    load_at(&url, &LOAD).run().expect_refusal(3, &["127.0.0.1", "1 s", "connect_timeout"]);
    // And in the middle of a run.
    proxy.set(|rules| rules.arrival = Arrival::Server);
    let started = load_at(&url, &[&LOAD[..], &["--duration", "5"]].concat()).start();
    server.wait_for_rows();
    settle();
    proxy.set(|rules| rules.arrival = Arrival::Silence);
    proxy.reset_all();
    std::thread::sleep(Duration::from_millis(1_500));
    proxy.set(|rules| rules.arrival = Arrival::Server);
    let since = now(&server);
    let json = conclude(started, &server, 500, WORKERS);
    assert_eq!(reconnects(&json), WORKERS, "{}", json["errors"]);
    assert!(of_class(&json, "connection", "cannot connect (Timeout") >= WORKERS, "{}", json["errors"]);
    assert_went_on(&server, &json, &since);
}

/// As a pooler does that is paused, or whose server is gone.
#[test]
fn a_server_that_stops_answering_before_the_run_costs_no_more_than_connect_timeout() {
    let (_server, proxy) = rig();
    let url = proxy.url_with("sslmode=disable&connect_timeout=1");
    for (question, part) in [
        ("SHOW server_version", "no answer within 1s"),
        ("SELECT c.oid", "could not look for the tables"),
        ("SELECT pg_backend_pid()", "no answer within 1s"),
    ] {
        proxy.trap(When::Sent, question, Then::Silence, usize::MAX);
        let ran = load_at(&url, &LOAD).run().expect_refusal(3, &[part, "connect_timeout"]);
        assert!(!ran.stderr.contains("bug"), "{}", ran.stderr);
    }
}

#[test]
fn tls_that_is_cut_in_the_handshake_is_told() {
    let (server, proxy) = rig();
    let require = proxy.url_with("sslmode=require&connect_timeout=1");
    for (arrival, parts) in [(Arrival::ResetInTls, &["TLS"][..]), (Arrival::SilenceInTls, &["1 s", "connect_timeout"])]
    {
        proxy.set(|rules| rules.arrival = arrival);
        load_at(&require, &LOAD).run().expect_refusal(3, &[&["127.0.0.1"], parts].concat());
    }
    // Where plaintext will do, it is tried next.
    proxy.set(|rules| rules.arrival = Arrival::ResetTlsAlone);
    let prefer = proxy.url_with("sslmode=prefer");
    let json = conclude(load_at(&prefer, &["--rps", "50", "--duration", "1"]).start(), &server, 50, 8);
    assert_no_errors(&json);
}
