//! The coordinator is asked to stop, is killed, or is cut off.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use super::fleet::{TestFleet, processes_naming};
use super::trio::{Trio, assert_no_secret};
use crate::harness::processes::{descendants, send};
use crate::harness::sshd::TestSshd;
use crate::harness::{Started, assert_adds_up, count, wait_until};

const VMS: &str = "127.0.1.[1-3]";
const LONG: [&str; 5] = ["--rps", "20", "--duration", "600", "--json-output"];

/// Promised are 10 s; the test machine is busy.
const ALL_OVER_WITHIN: Duration = Duration::from_secs(20);

fn in_the_middle(fleet: &TestFleet, arguments: &[&str]) -> Started {
    let started = fleet.start_run(VMS, &[&LONG[..], arguments].concat());
    started.wait_for_stderr("Starting 3 VMs");
    fleet.wait_for_rows();
    std::thread::sleep(Duration::from_millis(2_500));
    started
}

#[test]
fn each_signal_ends_the_window_on_all_vms_and_what_was_measured_is_reported() {
    let fleet = TestFleet::start();
    // However long the test would still have gone on: its slots are not drawn to be counted.
    let a_year: &[&str] = &["--arrival", "poisson", "--duration", "8784h"];
    for (signal, more) in [(Signal::INT, &[][..]), (Signal::TERM, a_year), (Signal::HUP, &[])] {
        let started = in_the_middle(&fleet, more);
        started.signal(signal);
        let asked = Instant::now();
        let ran = started.finish().expect(130);
        eprintln!("FIGURE from a signal to the report: {:.2} s", asked.elapsed().as_secs_f64());
        assert!(asked.elapsed() < ALL_OVER_WITHIN);
        assert_no_secret(&ran);
        let json = ran.json();
        assert_eq!(json["run"]["interrupted"], true);
        let vms = json["per_vm_results"].as_array().unwrap();
        assert_eq!(vms.len(), 3);
        assert!(vms.iter().all(|vm| vm["lost"].is_null() && count(&vm["result"], "ok") > 0));
        assert_eq!(count(&json, "unfinished"), 0, "{}", json["accounting"]);
        assert_eq!(fleet.rows("chat_inference"), count(&json, "ok"));
        assert_eq!((&json["success"], &json["failed_vms"]), (&Value::Bool(true), &Value::Array(Vec::new())));
        fleet.assert_nothing_left();
    }
}

#[test]
fn the_second_signal_does_not_wait_for_a_database_that_does_not_answer() {
    let fleet = TestFleet::start();
    let started = in_the_middle(&fleet, &["--drain", "600"]);
    fleet.server.freeze();
    std::thread::sleep(Duration::from_millis(500));
    started.signal(Signal::INT);
    started.wait_for_stderr("once more");
    started.signal(Signal::INT);
    let asked = Instant::now();
    let ran = started.finish().expect(130);
    let took = asked.elapsed();
    eprintln!("FIGURE from the second signal to the end: {:.2} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(20), "{took:?}");
    fleet.server.thaw();
    let json = ran.json();
    // Two workers each.
    assert_eq!(count(&json, "unfinished"), 6, "{}", json["accounting"]);
    fleet.assert_nothing_left();
    assert!(fleet.rows("chat_inference") >= count(&json, "ok"));
}

#[test]
fn connecting_can_be_interrupted() {
    let (fleet, mute) = (TestFleet::start(), TestSshd::start());
    mute.let_in(&fleet.sshd);
    mute.freeze();
    let vms = format!("127.0.1.[1-2],127.0.1.3:{}", mute.port());
    let started = fleet.start_run(&vms, &LONG);
    wait_until("two VMs are there", || fleet.agents().len() == 2);
    std::thread::sleep(Duration::from_millis(500));
    assert_interrupted_early(&fleet, started, || ());
    mute.thaw();
}

/// A terminal's Ctrl-C goes to all processes that belong to the foreground.
#[test]
fn a_terminal_interrupts_the_whole_process_group_and_no_vm_is_lost_by_it() {
    let fleet = TestFleet::start();
    let mut command = fleet.command(VMS, &LONG);
    command.own_group();
    let started = command.start();
    fleet.wait_for_rows();
    std::thread::sleep(Duration::from_millis(2_500));
    kill_process_group(Pid::from_raw(i32::try_from(started.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let ran = started.finish().expect(130);
    let json = ran.json();
    assert_eq!(json["failed_vms"].as_array().unwrap().len(), 0, "{}", ran.stderr);
    assert_eq!(fleet.rows("chat_inference"), count(&json, "ok"));
    fleet.assert_nothing_left();
}

/// Some ssh are masters by then, and one is still connecting.
#[test]
fn a_coordinator_that_is_killed_while_it_connects_leaves_nothing() {
    let (fleet, mute) = (TestFleet::start(), TestSshd::start());
    mute.let_in(&fleet.sshd);
    mute.freeze();
    let vms = format!("127.0.1.[1-2],127.0.1.3:{}", mute.port());
    let started = fleet.start_run(&vms, &LONG);
    wait_until("two VMs are there", || fleet.agents().len() == 2);
    started.signal(Signal::KILL);
    let killed = Instant::now();
    drop(started);
    let here = fleet.tmp.path().to_str().unwrap();
    wait_until("no ssh is left", || processes_naming(here).is_empty());
    fleet.sweep();
    fleet.assert_nothing_left();
    eprintln!("FIGURE until all is gone after SIGKILL while connecting: {:.2} s", killed.elapsed().as_secs_f64());
}

/// Emptying the tables waits for somebody's lock.
#[test]
fn setting_up_can_be_interrupted() {
    let fleet = TestFleet::start();
    let lock = fleet.server.lock("chat_inference");
    let started = fleet.start_run(VMS, &LONG);
    wait_until("somebody waits for the lock", || fleet.server.lock_waiters() == 1);
    std::thread::sleep(Duration::from_secs(3));
    assert!(!started.stderr().contains("error"), "waiting for a lock is no fault: {}", started.stderr());
    assert_interrupted_early(&fleet, started, || drop(lock));
}

/// What is half sent is removed there.
#[test]
fn sending_the_program_can_be_interrupted() {
    for signal in [Signal::INT, Signal::KILL] {
        let fleet = TestFleet::start_empty();
        let folder = fleet.sshd.home().join("postgres_load_test");
        let started = fleet.start_run(VMS, &LONG);
        let half_sent = || {
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with(".load_test."))
        };
        let until = Instant::now() + Duration::from_secs(30);
        while !half_sent() {
            assert!(Instant::now() < until, "{}", started.stderr());
            std::hint::spin_loop();
        }
        started.signal(signal);
        if signal == Signal::INT {
            started.finish().expect_refusal(130, &["interrupted before the test began"]);
        } else {
            drop(started);
            fleet.sweep();
        }
        fleet.assert_nothing_left();
    }
}

/// The disk for the report is full: the VMs are tidied up all the same.
#[test]
fn a_report_that_cannot_be_written_is_told_and_leaves_nothing() {
    let fleet = TestFleet::start();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = fleet.command(VMS, &["--rps", "20", "--duration", "2", "--json-output"]);
    let ran = command.stdout(full).run().expect(3);
    assert!(ran.stderr.contains("No space left"), "{}", ran.stderr);
    fleet.assert_nothing_left();
}

#[test]
fn looking_at_a_database_that_does_not_answer_can_be_interrupted() {
    let fleet = TestFleet::start();
    fleet.server.freeze();
    let started = fleet.start_run(VMS, &LONG);
    wait_until("three VMs are there", || fleet.agents().len() == 3);
    std::thread::sleep(Duration::from_millis(1_500));
    assert_interrupted_early(&fleet, started, || fleet.server.thaw());
}

#[track_caller]
fn assert_interrupted_early(fleet: &TestFleet, started: Started, afterwards: impl FnOnce()) {
    started.signal(Signal::INT);
    let asked = Instant::now();
    let ran = started.finish();
    let took = asked.elapsed();
    afterwards();
    let ran = ran.expect_refusal(130, &["interrupted before the test began"]);
    eprintln!("FIGURE from a signal before the load to the end: {:.2} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_no_secret(&ran);
    assert_eq!(fleet.rows("chat_inference"), 0);
    fleet.assert_nothing_left();
}

#[test]
fn after_a_killed_coordinator_nothing_runs_on() {
    let fleet = TestFleet::start();
    let started = in_the_middle(&fleet, &[]);
    assert_eq!(fleet.agents().len(), 3);
    started.signal(Signal::KILL);
    let killed = Instant::now();
    wait_until("no agent runs", || fleet.agents().is_empty());
    let took = killed.elapsed();
    eprintln!("FIGURE time until last remote process is gone after SIGKILL: {:.2} s", took.as_secs_f64());
    assert!(took < ALL_OVER_WITHIN, "{took:?}");
    wait_until("no connection is left", || fleet.connections() == 0);
    let here = fleet.tmp.path().to_str().unwrap();
    wait_until("no ssh is left", || processes_naming(here).is_empty());
    eprintln!("FIGURE time until all is gone here, too, after SIGKILL: {:.2} s", killed.elapsed().as_secs_f64());
    drop(started);
    fleet.sweep();
    fleet.assert_nothing_left();
}

/// Stops sshd's processes alone: for the agents, nothing comes any more and nothing is read.
fn cut_off(sshd: &TestSshd, agents: &[u32]) {
    let all = sshd.sessions().into_iter().flat_map(|session| [vec![session], descendants(session)].concat());
    all.filter(|pid| !agents.contains(pid)).for_each(|pid| send(pid, Signal::STOP));
}

#[test]
fn agents_that_are_cut_off_end_by_themselves_and_the_coordinator_reports() {
    for kill in [false, true] {
        let trio = Trio::start();
        let started = trio.begin(&["--duration", "600", "--no-rate-limiting"]);
        let agents = || [trio.agents(), trio.fleet.agents()].concat();
        let all = agents();
        assert_eq!(all.len(), 3);
        [&trio.prey, &trio.fleet.sshd].into_iter().for_each(|sshd| cut_off(sshd, &all));
        let cut = Instant::now();
        if kill {
            started.signal(Signal::KILL);
        }
        wait_until("no agent runs", || agents().is_empty());
        let took = cut.elapsed();
        eprintln!("FIGURE from the cut of all (killed: {kill}) to the end of all agents: {:.2} s", took.as_secs_f64());
        assert!(took < ALL_OVER_WITHIN, "{took:?}");
        wait_until("no connection is left", || trio.fleet.connections() == 0);
        if !kill {
            let ran = started.finish().expect(1);
            assert_eq!(ran.stderr.matches("LOST ").count(), 3, "{}", ran.stderr);
            let json = trio.document();
            assert_adds_up(&json);
            assert!(count(&json, "ok") > 0);
            assert_eq!(json["failed_vms"].as_array().unwrap().len(), 3);
            assert_no_secret(&ran);
        }
        // Also while sshd still stands still.
        if kill {
            trio.fleet.sweep();
        }
        trio.assert_nothing_left();
    }
}
