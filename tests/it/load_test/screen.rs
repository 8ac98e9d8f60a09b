//! What a person sees on a terminal, and what stderr says when stdout carries a document.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::harness::terminal::{Terminal, last_words, position, rows_below};
use crate::harness::{Program, SMALL, TestServer, count, document, load_test};

const ABOVE: &str = "Starting workers...";

fn on_terminal(server: &TestServer, arguments: &[&str]) -> Program {
    load_test(&[&["--postgres-url", &server.url()], &SMALL[..], arguments].concat())
}

/// There is one live line, whole and in one row, whatever the width, and after every change of it.
#[test]
fn the_live_line_fits_terminals_of_any_width_and_survives_resizes() {
    let server = TestServer::with_tables();
    let load = on_terminal(&server, &["--rps", "50", "--duration", "600"]);
    let terminal = Terminal::run((80, 24), &load);
    let mut seen = 0;
    for size in [(80, 24), (40, 24), (200, 24), (60, 8), (79, 24), (40, 24)] {
        terminal.resize(size);
        // What was drawn for another size is gone with the next second at the latest.
        let screen = terminal.wait_until("two seconds more are shown", |screen| position(screen) > Some(seen + 1));
        seen = position(&screen).unwrap();
        let rows = rows_below(&screen, ABOVE);
        let parts: &[&str] = match size.0 {
            40 => &["/600s", " RPS", " errors"],
            60 => &["/600s", " RPS", "p99 ", " errors"],
            200 => &["  [", "/600s", "last ", " RPS", "p50 ", "p99 ", " errors"],
            _ => &["/600s", " RPS", "p50 ", "p99 ", " errors"],
        };
        assert!(rows.len() == 1 && parts.iter().all(|part| rows[0].contains(part)), "{size:?}: {screen:#?}");
        // What the server waits for comes last, where there is room.
        assert!(["errors", "late", "%"].iter().any(|end| rows[0].ends_with(end)), "{size:?}: {rows:?}");
    }
    terminal.resize((80, 24));
    terminal.press("C-c");
    let screen = terminal.wait_for_exit();
    assert!(last_words(&screen).1 == "130" && last_words(&screen).0.contains(" RPS "), "{screen:#?}");
    let history = terminal.history();
    assert!(history.contains("\nStopping: waiting for the requests in flight"), "{history}");
    assert!(!history.contains("/600s"), "the live line is left:\n{history}");
}

/// Verdict, rate, median, p99 and errors can be read without scrolling, in the last line of all.
#[test]
fn the_headline_is_on_the_screen_at_the_end() {
    let server = TestServer::with_tables();
    let ends = |arguments: &[&str]| {
        let terminal = Terminal::run((80, 24), &on_terminal(&server, arguments));
        terminal.wait_for_exit()
    };
    // A closed loop has no target that a busy machine could miss.
    for (arguments, verdict, code) in [
        (&["--rps", "max", "--duration", "1", "--workers", "2"][..], "PASSED", "0"),
        (&["--rps", "max", "--duration", "1", "--workers", "2", "--slo", "p50<1us"], "FAILED", "1"),
    ] {
        let screen = ends(arguments);
        let (headline, exited) = last_words(&screen);
        let figures = [" RPS, p50 ", " ms, p99 ", " ms, 0 errors"];
        assert!(headline.starts_with(&format!("{verdict}: ")), "{screen:#?}");
        assert!(figures.iter().all(|figure| headline.contains(figure)), "{headline}");
        assert_eq!(exited, code, "{screen:#?}");
        assert!(screen.iter().any(|row| row.starts_with(&format!("STATUS: {verdict} - "))), "{screen:#?}");
        assert!(screen.iter().any(|row| row.starts_with("  P99:")), "{screen:#?}");
    }
}

#[test]
fn a_dumb_terminal_gets_plain_lines() {
    let server = TestServer::with_tables();
    let mut load = on_terminal(&server, &["--rps", "50", "--duration", "6"]);
    load.env("TERM", "dumb");
    let terminal = Terminal::run((80, 24), &load);
    terminal.wait_for_exit();
    let history = terminal.history();
    assert!(history.contains("\n  Progress: 5s elapsed, 2"), "{history}");
    assert!(!history.contains("/6s"), "{history}");
}

#[test]
fn beside_a_document_that_is_not_passed_stderr_says_why() {
    let server = TestServer::with_tables();
    let base = ["--rps", "max", "--duration", "1"];
    let passed = server.load(&base).run().expect(0);
    assert_eq!(passed.stderr, "");
    let failed = server.load(&[&base[..], &["--slo", "p50<1us"]].concat()).run().expect(1);
    let status = format!("STATUS: FAILED - {}\n", failed.json()["reason"].as_str().unwrap());
    assert!(failed.stderr == status && status.contains("Latency p50 is "), "{failed:?}");
    // The report has it already.
    let report = load_test(&[&["--postgres-url", &server.url(), "--slo", "p50<1us"], &base[..], &SMALL].concat())
        .run()
        .expect(1);
    assert!(!report.stderr.contains("STATUS"), "{report:?}");
}

/// A run that is stopped did not do what was asked; whatever failed until then has failed.
#[test]
fn a_stopped_run_is_interrupted_unless_it_failed() {
    let server = TestServer::with_tables();
    let stopped = |arguments: &[&str]| {
        server.sql("TRUNCATE chat_inference");
        let started = server.load(&[&["--rps", "max", "--duration", "600"], arguments].concat()).start();
        server.wait_for_rows();
        started.signal(Signal::INT);
        started.finish().expect(130)
    };
    let ran = stopped(&[]);
    let json = ran.json();
    let reason = json["reason"].as_str().unwrap();
    assert_eq!(json["status"], "INTERRUPTED", "{reason}");
    assert!(reason.starts_with("Stopped after ") && reason.contains(" of 600 s; until then: All writes"), "{reason}");
    assert!(count(&json, "ok") > 0 && json["latency_ms"]["p50"].is_number());
    assert!(ran.stderr.ends_with(&format!("STATUS: INTERRUPTED - {reason}\n")), "{ran:?}");
    assert_eq!(stopped(&["--slo", "p50<1us"]).json()["status"], "FAILED");
}

/// Writes are refused from one instant to another, and the errors lie between them.
#[test]
fn errors_have_the_times_of_the_first_and_the_last() {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.json");
    let arguments = ["--rps", "50", "--duration", "6", "--output", file.to_str().unwrap(), "--postgres-url"];
    let started = load_test(&[&arguments[..], &[server.url().as_str()], &SMALL].concat()).start();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    server.wait_for_rows();
    let refused_from = now();
    server.sql("ALTER TABLE chat_inference ADD CONSTRAINT refuses CHECK (false) NOT VALID");
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    server.sql("ALTER TABLE chat_inference DROP CONSTRAINT refuses");
    let refused_until = now();
    let ran = started.finish().expect(1);
    let json: serde_json::Value = document(&file);
    let error = &json["errors"][0];
    assert_eq!((&error["sqlstate"], json["errors"].as_array().unwrap().len()), (&"23514".into(), 1), "{json}");
    let t0 = json["run"]["started_unix_ns"].as_str().unwrap().parse::<f64>().unwrap() / 1e9;
    let [first, last] = ["first_s", "last_s"].map(|name| error[name].as_f64().unwrap());
    assert!(refused_from <= t0 + first && first < last && t0 + last <= refused_until + 1.0, "{error} {t0}");
    // Fifty requests a second were due all the time.
    assert!(last - first > 0.5 && error["count"].as_u64().unwrap() > 10, "{error}");
    let told = format!("check violation [23514], {first:.2} s to {last:.2} s\n");
    assert!(ran.stdout.contains(&told), "{told} is missing from\n{}", ran.stdout);
}

#[test]
fn quiet_leaves_the_report_alone() {
    let server = TestServer::with_tables();
    let ran = on_terminal(&server, &["-q", "--rps", "max", "-d", "6", "-w", "2"]).run().expect(0);
    assert_eq!(ran.stderr, "");
    assert!(ran.stdout.contains("STATUS: PASSED") && !ran.stdout.contains("Starting workers"), "{}", ran.stdout);
}
