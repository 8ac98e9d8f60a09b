//! What is said where, while a test runs and after it.

use std::fs;

use super::fleet::TestFleet;
use crate::harness::{assert_adds_up, count, document};
use crate::library::{EncodedHistogram, Figures, RunResult};

const VMS: &str = "127.0.1.[1-3]";

#[test]
fn the_report_has_the_seeds_sections_and_a_row_for_every_vm() {
    let fleet = TestFleet::start();
    let files = tempfile::tempdir().unwrap();
    let (json, log) = (files.path().join("r.json"), files.path().join("r.hlog"));
    let mut command = fleet.command(VMS, &["--rps", "20", "--duration", "6", "--output"]);
    let ran = command.arg(&json).arg("--hdr-log").arg(&log).run();
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
    for part in ["VM  ", "max_connections", "Starting 3 VMs", "Progress: 5s elapsed, ", "p50 "] {
        assert!(ran.stderr.contains(part), "{part:?} is missing from\n{}", ran.stderr);
    }
    let written: serde_json::Value = document(&json);
    assert_adds_up(&written);
    // A line a second, with the latency of all VMs together.
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
fn merged_histograms_are_the_sum_of_the_vms_bit_for_bit() {
    let fleet = TestFleet::start();
    let ran = fleet.run(VMS, &["--total-rps", "50", "--duration", "2s", "--arrival", "poisson", "--json-output"]);
    let merged: RunResult = serde_json::from_str(&ran.expect_measured().stdout).unwrap();
    let vms = &merged.fleet.as_ref().unwrap().per_vm_results;
    assert_eq!(vms.len(), 3);
    let mut sum = Figures::of_decoded(5);
    vms.iter().for_each(|vm| sum.add(&vm.result.histograms.decode().unwrap()));
    assert_eq!(merged.histograms, sum.encode());
    assert_eq!(merged.phases_ms.len(), 5);
    // Its rows are the union of the shares: as many different ids as were acknowledged.
    assert_eq!(fleet.rows("chat_inference"), merged.accounting.ok);
}

#[test]
fn a_total_rate_that_does_not_divide_is_kept_exactly() {
    let fleet = TestFleet::start();
    let json = fleet.run(VMS, &["--total-rps", "50", "--duration", "2", "--json-output"]).expect_measured().json();
    let scheduled: Vec<u64> =
        json["per_vm_results"].as_array().unwrap().iter().map(|vm| count(&vm["result"], "scheduled")).collect();
    assert_eq!(scheduled, [34, 33, 33]);
    assert_eq!(json["config"]["target_rps"], 50.0);
    let skew_ms = json["start_skew_ms"].as_f64().unwrap();
    assert!((0.0..1_000.0).contains(&skew_ms), "{skew_ms}");
}

#[test]
fn setting_up_and_nothing_else() {
    let fleet = TestFleet::start();
    fleet.server.create_database("fresh");
    fleet.server.sql("DROP DATABASE fresh");
    let mut command = fleet.command(VMS, &["--setup", "unlogged", "--duration", "0"]);
    let ran = command.env("POSTGRES_URL", fleet.server.url_of("fresh")).run();
    assert!(ran.expect(0).stdout.contains("set up the tables"));
    assert_eq!(fleet.server.sql_in("fresh", "SELECT count(*) FROM chat_inference"), "0");
    fleet.assert_nothing_left();
}

#[test]
fn on_a_terminal_every_vm_has_a_line() {
    let fleet = TestFleet::start();
    let ran = fleet.command("127.0.1.[1-2]", &["--rps", "10", "--duration", "3"]).on_terminal().run();
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
