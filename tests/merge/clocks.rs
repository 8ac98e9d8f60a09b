//! Runs that were started with one `--start-at` on clocks that do not agree.

use std::path::PathBuf;
use std::process::Stdio;

use crate::tool::{SMALL, clean, merge, parsed, server_with_tables, soon, text};

/// Debian's `libfaketime`, which answers for the C library when it is asked for the time of day.
fn libfaketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let found = folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|path| path.exists());
    found.expect("no libfaketime in /usr/lib/*/faketime: run scripts/test.sh, which installs it")
}

#[test]
fn a_clock_that_is_two_seconds_slow_is_found_through_the_database() {
    let server = server_with_tables();
    let folder = tempfile::tempdir().unwrap();
    let (url, start_at) = (server.url(), soon());
    let running: Vec<_> = ["1/3", "2/3", "3/3"]
        .iter()
        .map(|share| {
            let file = folder.path().join(format!("{}.json", &share[..1]));
            let mut command = clean(env!("CARGO_BIN_EXE_load_test"));
            command.args(["--json-output", "--postgres-url", &url, "--share", share, "--start-at", &start_at]);
            command.args(SMALL).args(["--rps", "60", "--duration", "5", "--workers", "2"]);
            if *share == "3/3" {
                command.env("LD_PRELOAD", libfaketime()).env("FAKETIME", "-2s");
                command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
            }
            let out = std::fs::File::create(&file).unwrap();
            (file, command.stdout(out).stderr(Stdio::piped()).spawn().unwrap())
        })
        .collect();
    let ran: Vec<(PathBuf, String)> = running
        .into_iter()
        .map(|(file, child)| {
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(matches!(output.status.code(), Some(0 | 1)), "{stderr}");
            (file, stderr)
        })
        .collect();
    let said: Vec<bool> =
        ran.iter().map(|(_, stderr)| stderr.contains("warning: This VM's clock is 2.0 s behind")).collect();
    assert_eq!(said, [false, false, true], "{ran:?}");
    let files: Vec<&PathBuf> = ran.iter().map(|(file, _)| file).collect();
    let warned =
        |file: &&PathBuf| parsed(file)["warnings"].to_string().contains("and --start-at is by this VM's clock");
    assert_eq!(files.iter().map(warned).collect::<Vec<_>>(), [false, false, true]);
    let slow = parsed(files[2]);
    assert!(slow["warnings"].to_string().contains("This VM's clock is 2.0 s behind"), "{}", slow["warnings"]);

    let json =
        merge(&[&["--json-output"], &files.iter().map(|file| text(file)).collect::<Vec<_>>()[..]].concat(), b"").json();
    let reason = json["reason"].as_str().unwrap();
    assert!(reason.starts_with("Clocks are off") && reason.contains("(share 3/3) (-2"), "{reason}");
    assert!(!reason.contains("share 1/3") && !reason.contains("share 2/3"), "{reason}");
    // It began two seconds after the others, as its clock says nothing of.
    assert!((json["start_skew_ms"].as_f64().unwrap() - 2_000.0).abs() < 500.0, "{}", json["start_skew_ms"]);
    let seconds = json["run"]["window_seconds"].as_f64().unwrap();
    assert!((seconds - 3.0).abs() < 0.5, "{seconds}");
    assert_eq!(json["per_vm_results"][2]["clock"]["reference"], "database");
}
