//! What is said where, while a test runs and after it.

use std::fs;
use std::process::Command;

use postgres_load_test::measure::recorder::{Durations, coarse_histogram};
use postgres_load_test::result::{EncodedHistogram, RunResult, encode};

use crate::tool::{Ran, TestFleet, assert_adds_up, count};

const VMS: &str = "127.0.1.[1-3]";

#[test]
fn the_report_has_the_seeds_sections_and_a_row_for_every_machine() {
    let fleet = TestFleet::start();
    let files = tempfile::tempdir().unwrap();
    let (json, log) = (files.path().join("r.json"), files.path().join("r.hlog"));
    let mut command = fleet.command(VMS, &["--rps", "20", "--duration", "6", "--output"]);
    let ran: Ran = command.arg(&json).arg("--hdr-log").arg(&log).output().unwrap().into();
    let ran = ran.expect_measured();
    for part in [
        "DISTRIBUTED POSTGRES LOAD TEST",
        "VMs:",
        "(from POSTGRES_URL)",
        "LOAD TEST RESULTS",
        "\nTHROUGHPUT:\n  Total Requests:     360\n",
        "\nLATENCY (ms):",
        "\nDATA WRITTEN:\n  Estimated: ",
        "\nVMS:\n",
        "\n  127.0.1.1 ",
        "\n  127.0.1.2 ",
        "\n  127.0.1.3 ",
        "\nSTATUS: ",
    ] {
        assert!(ran.stdout.contains(part), "{part:?} is missing from\n{}", ran.stdout);
    }
    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ran.stdout);
    for part in ["Machine ", "max_connections", "Starting 3 machines", "Progress: 5s elapsed, ", "p50 "] {
        assert!(ran.stderr.contains(part), "{part:?} is missing from\n{}", ran.stderr);
    }
    let written: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_adds_up(&written);
    // A line a second, with the latency of all machines together.
    let log = fs::read_to_string(&log).unwrap();
    let lines = log.lines().filter(|line| line.contains(",HISTFAAA"));
    let logged: u64 = lines
        .map(|line| {
            let base64 = line.rsplit(',').next().unwrap().to_owned();
            EncodedHistogram { base64, past_range: 0 }.decode().unwrap().count()
        })
        .sum();
    assert_eq!(logged, count(&written, "ok") + count(&written, "failed"));
}

#[test]
fn merged_histograms_are_the_sum_of_the_machines_bit_for_bit() {
    let fleet = TestFleet::start();
    let ran = fleet.run(VMS, &["--total-rps", "50", "--duration", "2s", "--arrival", "poisson", "--json-output"]);
    let merged: RunResult = serde_json::from_str(&ran.expect_measured().stdout).unwrap();
    let machines = &merged.fleet.as_ref().unwrap().per_vm_results;
    assert_eq!(machines.len(), 3);
    let of = |result: &RunResult| {
        let histograms = result.histograms.clone();
        [histograms.latency, histograms.service_time, histograms.lateness, histograms.wait_for_connection]
    };
    for (at, found) in of(&merged).iter().enumerate() {
        let mut sum = Durations::default();
        machines.iter().for_each(|machine| sum.add(&of(&machine.result)[at].decode().unwrap()));
        assert_eq!(found.base64, encode(&sum.histogram));
    }
    for (at, found) in merged.histograms.phases.iter().enumerate() {
        let mut sum = coarse_histogram();
        for machine in machines {
            sum.add(machine.result.histograms.phases[at].decode_coarse().unwrap()).unwrap();
        }
        assert_eq!(found.base64, encode(&sum));
    }
    assert_eq!(merged.phases_ms.len(), 5);
    // Its rows are the union of the shares: as many different ids as were acknowledged.
    assert_eq!(fleet.rows("chat_inference"), merged.accounting.ok);
}

#[test]
fn a_total_rate_that_does_not_divide_is_kept_exactly() {
    let fleet = TestFleet::start();
    let json = fleet.run(VMS, &["--total-rps", "50", "--duration", "2", "--json-output"]).expect_measured().json();
    assert_adds_up(&json);
    let scheduled: Vec<u64> = json["per_vm_results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|machine| count(&machine["result"], "scheduled"))
        .collect();
    assert_eq!(scheduled, [34, 33, 33]);
    assert_eq!(json["config"]["target_rps"], 50.0);
    let skew_ms = json["start_skew_ms"].as_f64().unwrap();
    assert!((0.0..1_000.0).contains(&skew_ms), "{skew_ms}");
}

#[test]
fn setting_up_and_nothing_else() {
    let fleet = TestFleet::start();
    fleet.server.create_database("fresh");
    fleet.server.psql("DROP DATABASE fresh");
    let mut command = fleet.command(VMS, &["--setup", "unlogged", "--duration", "0"]);
    let ran: Ran = command.env("POSTGRES_URL", fleet.server.url_of("fresh")).output().unwrap().into();
    assert!(ran.expect(0).stdout.contains("set up the tables"));
    assert_eq!(fleet.server.psql_in("fresh", "SELECT count(*) FROM chat_inference"), "0");
    fleet.assert_nothing_left();
}

#[test]
fn on_a_terminal_every_machine_has_a_line() {
    let fleet = TestFleet::start();
    let command = fleet.command("127.0.1.[1-2]", &["--rps", "10", "--duration", "3"]);
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap().replace('\'', "'\\''"));
    let line: Vec<String> = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    // It gives the program a terminal, and prints what the program writes there.
    let mut script = Command::new("script");
    script.args(["-qec", &line.join(" "), "/dev/null"]);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let ran: Ran = script.env("TERM", "xterm").stdin(std::process::Stdio::null()).output().unwrap().into();
    let ran = ran.expect_measured();
    for part in ["127.0.1.1", "127.0.1.2", "RPS, p50", "/3s", "STATUS: "] {
        assert!(ran.stdout.contains(part), "{part:?} is missing from\n{}", ran.stdout);
    }
    fleet.assert_nothing_left();
}

#[test]
fn wrong_options_are_told_all_at_once() {
    let fleet = TestFleet::start();
    let wrong = ["--rps", "fast", "--ssh-port", "x", "--deploy", "maybe", "--on-host-loss", "cry"];
    fleet
        .run("a,b,a", &wrong)
        .expect_refusal(2, &["--vms", "--rps", "--ssh-port", "--deploy", "--on-host-loss", "coordinator --help"]);
    let missing = ["--output", "/nonexistent/folder/r.json"];
    fleet.run("127.0.1.1", &missing).expect_refusal(3, &["--output", "another path"]);
}
