//! Shares of one test, merged.

use rustix::process::Signal;
use serde_json::Value;

use super::{merge, run_shares, share_of, soon};
use crate::harness::{Program, SMALL, TestServer, assert_rows_match, count, document, is_installed, text};

#[test]
fn two_shares_make_the_whole() {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let files =
        run_shares(&server, folder.path(), &["1/2", "2/2"], &["--rps", "51", "--duration", "3", "--warmup", "1"]);
    let [one, two] = [&files[0], &files[1]];
    let whole = folder.path().join("whole.json");
    let ran = merge(&["--json-output", "--output", text(&whole), text(one), text(two)]).run();
    let json = ran.json();
    assert!(matches!(ran.code, Some(0 | 1)), "{ran:?}");
    let passed = json["status"] == "PASSED";
    assert_eq!((passed, ran.stderr.is_empty()), (ran.code == Some(0), passed), "{ran:?}");
    assert_eq!(json, document(&whole));
    // 51/s for 3 s, whichever way the shares divide them.
    assert_eq!(count(&json, "scheduled"), 153);
    assert_rows_match(&server, &json);
    let parts = [document(one), document(two)];
    for name in ["scheduled", "ok", "failed", "unknown", "skipped", "not_started", "unfinished"] {
        assert_eq!(count(&json, name), parts.iter().map(|part| count(part, name)).sum::<u64>(), "{name}");
    }
    // One of them asked the server.
    assert_eq!(parts[1]["server_stats"], Value::Null);
    assert!(parts[0]["server_stats"]["tables"][0]["inserted"].as_u64() > Some(0), "{}", parts[0]["server_stats"]);
    assert_eq!(json["server_stats"], parts[0]["server_stats"]);
    // What the Python coordinator's readers look for.
    assert_eq!(
        (&json["success"], &json["num_vms"], &json["failed_vms"]),
        (&true.into(), &2.into(), &serde_json::json!([]))
    );
    let config = &json["config"];
    assert_eq!((&config["target_rps_total"], &config["target_rps_per_vm"]), (&51.0.into(), &25.5.into()));
    assert_eq!((&config["workers_per_vm"], &config["workers"]), (&8.into(), &16.into()));
    for (vm, part) in json["per_vm_results"].as_array().unwrap().iter().zip(&parts) {
        assert_eq!(vm["actual_rps"], part["throughput"]["actual_rps"]);
        assert_eq!(vm["success_rate"], part["throughput"]["success_rate"]);
        assert_eq!(vm["latency_p50"], part["latency_ms"]["p50"]);
        // Its document, with everything computed anew: what has changed is the last digit of the round trips.
        let told = |document: &serde_json::Value| {
            let mut document = document.clone();
            document["phases_ms"].take();
            document
        };
        assert_eq!(told(&vm["result"]), told(part));
    }
    assert_eq!(json["run"]["share"], serde_json::json!({"index": 0, "of": 1}));
    assert_eq!((&json["run"]["window_start_s"], &json["run"]["window_seconds"]), (&1.0.into(), &3.0.into()));
    // In any order, and through standard input, it is the same.
    assert_eq!(merge(&["--json-output", text(two), text(one)]).run().json(), json);
    let both = [one, two].map(|file| std::fs::read(file).unwrap());
    let noisy = [b"Welcome to h1!\nLast login: {today}\n", &both[0][..], b"\n\n", &both[1][..]].concat();
    assert_eq!(merge(&["--json-output", "-"]).input(noisy).run().json(), json);
    assert_eq!(merge(&["--json-output", text(one), "-"]).input(both[1].clone()).run().json(), json);

    let report = merge(&[text(one), text(two)]).run().stdout;
    for part in [
        "LOAD TEST RESULTS",
        "\n  Scheduled:          153\n",
        "\nVMS:\n",
        "two significant digits",
        "(share 1/2)",
        "\nSTATUS: ",
    ] {
        // Long names of VMs are shortened in the middle, but not their shares.
        let part = if part.starts_with('(') { "re 1/2)" } else { part };
        assert!(report.contains(part), "{part:?} is missing from\n{report}");
    }
    assert!(report.lines().all(|line| line.chars().count() <= 80), "{report}");
    // A merged result is refused, and a limit that cannot be kept fails the test.
    merge(&[text(&whole)]).run().expect_refusal(3, &["merged result already"]);
    assert_eq!(merge(&["--slo", "p50<=1us", text(one), text(two)]).run().code, Some(1));
}

#[test]
fn a_missing_share_makes_the_test_invalid() {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let shares = ["1/4", "2/4", "4/4"];
    let files = run_shares(&server, folder.path(), &shares, &["--rps", "40", "--duration", "2", "--workers", "2"]);
    let files: Vec<&str> = files.iter().map(|file| text(file)).collect();
    let ran = merge(&[&["--json-output"], &files[..]].concat()).run();
    let json = ran.json();
    assert_eq!((ran.code, &json["status"], &json["success"]), (Some(1), &"INVALID".into(), &false.into()));
    assert_eq!((&json["num_vms"], &json["failed_vms"][0]["hostname"]), (&4.into(), &"share 3 of 4".into()));
    assert!(json["reason"].as_str().unwrap().contains("share 3 of 4"), "{}", json["reason"]);
    // The test has 80 requests, 20 of them in the share that is missing.
    assert_eq!((count(&json, "scheduled"), count(&json, "unreported")), (80, 20));
    assert_eq!(json["throughput"]["offered_rps"], 40.0);
    assert!(json["throughput"]["target_achieved_pct"].as_f64().unwrap() <= 75.0, "{}", json["throughput"]);
    assert_rows_match(&server, &json);
    let report = merge(&files).run().stdout;
    assert!(report.contains("\n  Unreported:         20 (lost or missing: share 3 of 4)\n"), "{report}");
    assert!(report.contains("MISSING") && report.contains("* share 3 of 4: "), "{report}");
}

/// The commands of docs/distributed.md, with GNU parallel to launch the shares.
#[test]
fn gnu_parallel_may_launch_the_shares() {
    if !is_installed("parallel") {
        return;
    }
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "parallel --will-cite -j0 '\"$LOAD_TEST\" --json-output --share {{#}}/3 --start-at {} --rps 60 --duration 2 --workers 2 \
         {} > r{{#}}.json' ::: a b c; \"$COORDINATOR\" merge --json-output r*.json",
        soon(),
        SMALL.join(" ")
    );
    let ran = Program::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env("HOME", folder.path())
        .env("POSTGRES_URL", server.url())
        .env("LOAD_TEST", env!("CARGO_BIN_EXE_load_test"))
        .env("COORDINATOR", env!("CARGO_BIN_EXE_coordinator"))
        .run();
    let json = ran.json();
    assert_eq!((count(&json, "scheduled"), &json["num_vms"], &json["success"]), (120, &3.into(), &true.into()));
    assert_rows_match(&server, &json);
}

/// A test whose shares were all stopped is interrupted as a whole. Where one went on to its end, the other is missing.
#[test]
fn stopped_shares_make_an_interrupted_test() {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let start_at = soon();
    let file = |name: String| folder.path().join(name);
    let running = [1, 2].map(|number| {
        // A closed loop, which a busy machine cannot make late.
        let arguments = ["--rps", "max", "--duration", "600", "--workers", "1"];
        let mut load = share_of(&server, &format!("{number}/2"), &start_at, &arguments);
        load.stdout(std::fs::File::create(file(format!("r{number}.json"))).unwrap()).start()
    });
    running.iter().for_each(|share| share.wait_for_stderr("Progress: "));
    running.iter().for_each(|share| share.signal(Signal::INT));
    running.into_iter().for_each(|share| _ = share.finish().expect(130));
    let [one, two] = [1, 2].map(|number| file(format!("r{number}.json")));
    let ran = merge(&["--json-output", text(&one), text(&two)]).run();
    let json = ran.json();
    let reason = json["reason"].as_str().unwrap();
    assert_eq!((ran.code, &json["status"]), (Some(130), &"INTERRUPTED".into()), "{reason}");
    assert!(reason.starts_with("Stopped after ") && reason.contains(" of 600 s; until then: All writes"), "{reason}");
    assert_eq!(ran.stderr, format!("STATUS: INTERRUPTED - {reason}\n"));
    let report = merge(&[text(&one), text(&two)]).run();
    assert_eq!((report.code, report.stderr.as_str()), (Some(130), ""));
    assert!(report.stdout.lines().last().unwrap().starts_with("INTERRUPTED: "), "{}", report.stdout);

    // As if the one that was stopped last had come to its end.
    let mut parts = [document(&one), document(&two)];
    let window = |part: &Value| part["run"]["window_seconds"].as_f64().unwrap();
    parts.sort_by(|one, other| window(one).total_cmp(&window(other)));
    let [mut cut, mut whole] = parts;
    whole["run"]["interrupted"] = false.into();
    let planned = window(&whole);
    for part in [&mut cut, &mut whole] {
        part["config"]["duration_seconds"] = planned.into();
    }
    std::fs::write(&one, cut.to_string()).unwrap();
    let changed = file("whole.json".to_owned());
    std::fs::write(&changed, whole.to_string()).unwrap();
    let ran = merge(&["--json-output", text(&one), text(&changed)]).run();
    assert_eq!((ran.code, &ran.json()["status"]), (Some(1), &"INVALID".into()), "{ran:?}");
}
