//! What does not belong together, and what is no result.

use std::path::Path;

use serde_json::{Value, json};

use super::{merge, run_shares};
use crate::harness::{TestServer, document, text};

fn write(folder: &Path, name: &str, json: &Value) -> String {
    let path = folder.join(name);
    std::fs::write(&path, json.to_string()).unwrap();
    text(&path).to_owned()
}

#[test]
fn results_that_do_not_belong_together_are_refused() {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let files = run_shares(&server, folder.path(), &["1/2", "2/2"], &["--rps", "20", "--duration", "1"]);
    let [one, two] = [text(&files[0]), text(&files[1])];
    merge(&[one, one]).run().expect_refusal(3, &["twice", one]);
    let original = document(&files[1]);
    let changes: [(&str, Value, &[&str]); 8] = [
        ("/run/share/index", json!(0), &["share 1 of 2"]),
        ("/run/share/of", json!(3), &["10 slots of its window"]),
        ("/config/drain_seconds", json!(9.0), &["drain_seconds is 30.0 and 9.0"]),
        ("/tool_build", json!("000000000000"), &["build 000000000000", "same load_test"]),
        ("/version", json!(2), &["version 2"]),
        ("/accounting/ok", json!(1_000), &["contradicts itself"]),
        ("/histograms/latency/base64", json!("HISTFAAAAB94nJNpmSzMwMD"), &["histogram of latency"]),
        ("/run/started_unix_ns", json!("1700000000123456789"), &["its run.started_at is"]),
    ];
    for (pointer, value, words) in changes {
        let mut changed = original.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        // So that a share that is there twice is not taken for the same file.
        changed["hostname"] = "elsewhere".into();
        let changed = write(folder.path(), "changed.json", &changed);
        merge(&[one, &changed]).run().expect_refusal(3, &[&["elsewhere"], words].concat());
    }
    // What steers a terminal comes out neither of a document's own words nor of the parser's about it.
    for (pointer, value, words) in [
        ("/hostname", json!("\u{1b}]0;owned\u{7}\u{9b}2J"), &["its name holds control characters"][..]),
        (
            "/latency_ms/p99",
            json!(0.001),
            &["elsewhere", "its latency_ms.p99 is 0.001, and its histograms and counts say"],
        ),
        ("/run/started_at", json!("x".repeat(1_000_000)), &["elsewhere", "its run.started_at has 1000000 bytes"]),
        ("/status", json!("\u{1b}[31m\u{202e}PASSED"), &["is not a result", "\\u{1b}[31m"]),
    ] {
        let mut changed = original.clone();
        changed["hostname"] = "elsewhere".into();
        *changed.pointer_mut(pointer).unwrap() = value;
        let ran = merge(&[one, &write(folder.path(), "changed.json", &changed)]).run();
        let ran = ran.expect_refusal(3, words);
        let wild = ran.stderr.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
        assert!(wild.is_none() && ran.stderr.len() < 1_000, "{wild:?}: {}", ran.stderr);
    }
    let report = merge(&[one, two]).run().stdout;
    let cut = &std::fs::read(&files[1]).unwrap()[..2_000];
    for (content, words) in [
        (&b""[..], &["is empty", "stderr"][..]),
        (report.as_bytes(), &["a report for people", "--json-output"]),
        (b"bash: load_test: command not found", &["other text", "--json-output"]),
        (cut, &["breaks off"]),
    ] {
        let file = folder.path().join("other.json");
        std::fs::write(&file, content).unwrap();
        merge(&[one, text(&file)]).run().expect_refusal(3, &[&["other.json"], words].concat());
        merge(&[one, "-"]).input(content).run().expect_refusal(3, &[&["standard input"], words].concat());
    }
    merge(&[one, text(folder.path())]).run().expect_refusal(3, &["is a folder"]);
    merge(&["/nowhere/r.json"]).run().expect_refusal(3, &["/nowhere/r.json"]);
    merge(&[]).run().expect_refusal(2, &["FILE"]);
    merge(&["--min-achieved", "x", "--slo", "fast", one, two]).run().expect_refusal(2, &["--min-achieved", "--slo"]);
    merge(&["--output", "/nowhere/at/all", one, two]).run().expect_refusal(3, &["--output", "another path"]);
}
