//! One agent from hello to the end.

use std::time::Duration;

use rustix::process::Signal;

use super::driver::{Agent, connections, plan};
use crate::harness::{TestServer, wait_until};
use crate::library::{BUILD, Counts, Figures, Order, Recorder, RunResult, Snapshot, wall_clock_ns};

/// The sum of the seconds is the result: counts, and histograms bit for bit.
#[track_caller]
fn assert_seconds_make_up(seconds: &[Snapshot], result: &RunResult) {
    let phases = result.phases_ms.len();
    let mut sum = Recorder::with(Figures::of_decoded(phases));
    for (index, second) in seconds.iter().enumerate() {
        assert_eq!(second.index, index as u64);
        sum.merge(&second.recorded().unwrap());
    }
    let (accounting, counters) = (&result.accounting, &sum.counters);
    let Counts { ok, failed, unknown, skipped, .. } = counters.measured;
    assert_eq!(
        [ok, failed, unknown, skipped, counters.measured.in_flight()],
        [accounting.ok, accounting.failed, accounting.unknown, accounting.skipped, accounting.unfinished]
    );
    assert_eq!(counters.warmup.ok, result.run.warmup.ok);
    assert_eq!(counters.completed_in_window, result.throughput.completed_in_window);
    assert_eq!(sum.errors.counts(), result.errors);
    assert_eq!(counters.recoveries, result.recoveries);
    assert_eq!(sum.figures.encode(), result.histograms);
}

#[test]
fn a_whole_conversation() {
    let server = TestServer::with_tables();
    server.sql("INSERT INTO variant_by_episode SELECT 'old', gen_random_uuid(), 'row' FROM generate_series(1, 9)");
    let mut agent = Agent::start();
    assert_eq!(agent.hello.build, BUILD);
    assert_eq!(agent.hello.pid, agent.id());
    assert!(agent.hello.processors > 0 && !agent.hello.hostname.is_empty());
    let preflight = agent.plan(plan(&server, &["--rps", "100", "--duration", "3", "--warmup", "1", "--workers", "5"]));
    assert_eq!((preflight.workers, connections(&server)), (5, 0));
    assert!(preflight.target.ends_with("/postgres"), "{}", preflight.target);
    assert_eq!(preflight.server.unwrap().tables, None);
    assert_eq!(server.sql("SELECT count(*) FROM variant_by_episode"), "9", "nothing is changed yet");
    agent.set_up();
    assert_eq!(server.sql("SELECT count(*) FROM variant_by_episode"), "0");
    let ready = agent.connect();
    assert_eq!((ready.config.workers, connections(&server)), (5, 5));
    assert_eq!(ready.server.tables.as_deref(), Some("logged"));
    assert_eq!(ready.phases.len(), 5);
    // Read off the pings whenever something else is read, so they come with the answers.
    let at_unix_ns = wall_clock_ns() + 1_500_000_000;
    let ahead_ms = agent.begin_at(at_unix_ns);
    assert!(ahead_ms > 0.0 && ahead_ms <= 1_500.0, "{ahead_ms}");
    assert_eq!(server.rows("chat_inference"), 0);
    let result = agent.result();
    assert!(wall_clock_ns() >= at_unix_ns + 4_000_000_000);
    assert_eq!(result.run.started_unix_ns, at_unix_ns);
    assert!(!result.run.interrupted);
    // A busy machine may not begin all of them.
    let (accounting, warmup_ok) = (&result.accounting, result.run.warmup.ok);
    assert_eq!((accounting.scheduled, accounting.ok + accounting.not_started), (300, 300));
    assert!(accounting.ok > 0 && warmup_ok > 0, "{accounting:?} {warmup_ok}");
    assert_eq!(server.rows("chat_inference"), accounting.ok + warmup_ok);
    assert_eq!(result.config, ready.config);
    assert_eq!(
        result.phases_ms.iter().map(|phase| &phase.name).collect::<Vec<_>>(),
        ready.phases.iter().collect::<Vec<_>>()
    );
    assert!(!result.reason.is_empty(), "it is judged");
    assert_seconds_make_up(&agent.seconds, &result);
    // Clocks are compared once more when all is over.
    let before = wall_clock_ns();
    agent.send(&Order::Ping { number: 1_000_000 });
    wait_until("the last ping is answered", || {
        std::thread::sleep(Duration::from_millis(100));
        agent.drain();
        agent.pongs.iter().any(|(number, ..)| *number == 1_000_000)
    });
    let (_, unix_ns, _) = agent.pongs.iter().find(|(number, ..)| *number == 1_000_000).unwrap();
    assert!((before..=wall_clock_ns()).contains(unix_ns));
    assert!(agent.pongs.len() > 5);
    agent.part();
    assert_eq!(connections(&server), 0);
}

#[test]
fn without_more_pings_it_leaves_after_the_result() {
    let server = TestServer::with_tables();
    let mut agent = Agent::start_up_to(&server, "start", &["--rps", "50", "--duration", "1"]);
    agent.result();
    agent.stop_pinging();
    let ended = agent.wait();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

/// A coordinator that has the result may hang up: pongs that are still to be sent are no loss.
#[test]
fn a_delivered_result_is_a_success_whatever_is_still_to_be_said() {
    let server = TestServer::with_tables();
    let mut agent = Agent::start_on_narrow_channel();
    agent.plan(plan(&server, &["--rps", "50", "--duration", "1"]));
    agent.set_up();
    agent.connect();
    agent.begin(Duration::from_millis(200));
    agent.result();
    agent.stall(true);
    for number in 0..5_000 {
        agent.send(&Order::Ping { number });
    }
    agent.hang_up();
    agent.expect_code(0);
}

#[test]
fn stop_closes_the_window_and_waits_for_what_is_in_flight() {
    let server = TestServer::with_tables();
    let mut agent = Agent::start_up_to(&server, "start", &["--rps", "200", "--duration", "600", "--workers", "3"]);
    wait_until("rows appear", || server.rows("chat_inference") > 20);
    agent.send(&Order::Stop);
    let result = agent.result();
    assert!(result.run.interrupted);
    assert!(result.accounting.ok >= 20, "{:?}", result.accounting);
    assert_eq!(result.accounting.unfinished, 0);
    assert_eq!(server.rows("chat_inference"), result.accounting.ok);
    assert_seconds_make_up(&agent.seconds, &result);
    // Too late to matter.
    agent.send(&Order::Stop);
    agent.send(&Order::Abort);
    agent.part();
}

#[test]
fn abort_does_not_wait_for_a_server_that_does_not_answer() {
    let server = TestServer::with_tables();
    let arguments = ["--rps", "200", "--duration", "600", "--workers", "3", "--drain", "600"];
    let mut agent = Agent::start_up_to(&server, "start", &arguments);
    wait_until("rows appear", || server.rows("chat_inference") > 20);
    server.freeze();
    std::thread::sleep(Duration::from_millis(500));
    agent.send(&Order::Stop);
    agent.send(&Order::Abort);
    let result = agent.result();
    server.thaw();
    assert!(result.run.interrupted);
    assert_eq!(result.accounting.unfinished, 3, "{:?}", result.accounting);
    assert_seconds_make_up(&agent.seconds, &result);
    agent.part();
}

#[test]
fn waiting_for_t0_can_be_ended() {
    let server = TestServer::with_tables();
    for order in [Order::Stop, Order::Abort] {
        let mut agent = Agent::start_up_to(&server, "connect", &["--rps", "50"]);
        agent.begin(Duration::from_secs(1_000));
        agent.send(&order);
        let result = agent.result();
        assert!(result.run.interrupted);
        assert_eq!((result.accounting.scheduled, server.rows("chat_inference")), (0, 0));
        agent.part();
    }
}

#[test]
fn signals_are_like_stop_and_then_like_abort() {
    let server = TestServer::with_tables();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let arguments = ["--rps", "200", "--duration", "600", "--workers", "3", "--drain", "600"];
        let mut agent = Agent::start_up_to(&server, "start", &arguments);
        wait_until("rows appear", || server.rows("chat_inference") > 20);
        if signal == Signal::TERM {
            server.freeze();
            std::thread::sleep(Duration::from_millis(300));
            agent.signal(signal);
            std::thread::sleep(Duration::from_millis(300));
        }
        agent.signal(signal);
        let result = agent.result();
        server.thaw();
        assert!(result.run.interrupted);
        assert_eq!(result.accounting.unfinished, if signal == Signal::TERM { 3 } else { 0 }, "{:?}", result.accounting);
        agent.part();
    }
    let agent = Agent::start_up_to(&server, "plan", &[]);
    agent.signal(Signal::TERM);
    assert_eq!(agent.failure(), "stopped before the load began");
}

#[test]
fn a_coordinator_that_reads_nothing_for_a_while_does_not_hold_up_the_load() {
    let server = TestServer::with_tables();
    let mut agent = Agent::start_on_narrow_channel();
    agent.plan(plan(&server, &["--rps", "300", "--duration", "6", "--workers", "4"]));
    agent.set_up();
    agent.connect();
    agent.begin(Duration::from_millis(300));
    agent.stall(true);
    std::thread::sleep(Duration::from_secs(5));
    agent.stall(false);
    let result = agent.result();
    // A busy test machine may not have begun all of them.
    let accounting = &result.accounting;
    assert_eq!((accounting.ok + accounting.not_started, accounting.scheduled), (1_800, 1_800), "{accounting:?}");
    // A worker that waits for the channel would wait for seconds.
    assert!(result.lateness_ms.max.unwrap_or_default() < 2_000.0, "{:?}", result.lateness_ms);
    assert_seconds_make_up(&agent.seconds, &result);
    agent.part();
}

#[test]
fn errors_are_told_once_of_a_kind() {
    let server = TestServer::with_tables();
    let mut agent = Agent::start_up_to(&server, "start", &["--rps", "100", "--duration", "600", "--workers", "4"]);
    wait_until("rows appear", || server.rows("chat_inference") > 20);
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE application_name LIKE 'agent%' AND application_name NOT LIKE '%monitor'";
    assert_eq!(server.sql(sql), "4");
    let before = server.rows("chat_inference");
    wait_until("it goes on", || server.rows("chat_inference") > before + 20);
    agent.send(&Order::Stop);
    let result = agent.result();
    assert_eq!(result.recoveries.reconnects, 4);
    assert!((1..=10).contains(&agent.incidents), "{}", agent.incidents);
    assert_seconds_make_up(&agent.seconds, &result);
    agent.part();
}
