//! Runs that were started with one `--start-at` on clocks that do not agree.

use std::path::PathBuf;

use super::{merge, share_of, soon};
use crate::harness::{Started, TestServer, document, text};

#[test]
fn a_clock_that_is_two_seconds_slow_is_found_through_the_database() {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let start_at = soon();
    let running: Vec<_> = ["1/3", "2/3", "3/3"]
        .iter()
        .map(|share| {
            let file = folder.path().join(format!("{}.json", &share[..1]));
            let arguments = ["--rps", "60", "--duration", "5", "--workers", "2"];
            let mut load = share_of(&server, share, &start_at, &arguments);
            if *share == "3/3" {
                load.fake_time("FAKETIME", "-2s");
            }
            let started = load.stdout(std::fs::File::create(&file).unwrap()).start();
            (file, started)
        })
        .collect();
    let finished = |(file, share): (PathBuf, Started)| (file, share.finish().expect_measured().stderr);
    let ran: Vec<(PathBuf, String)> = running.into_iter().map(finished).collect();
    let said: Vec<bool> =
        ran.iter().map(|(_, stderr)| stderr.contains("warning: This VM's clock is 2.0 s behind")).collect();
    assert_eq!(said, [false, false, true], "{ran:?}");
    let files: Vec<&PathBuf> = ran.iter().map(|(file, _)| file).collect();
    let warned =
        |file: &&PathBuf| document(file)["warnings"].to_string().contains("and --start-at is by this VM's clock");
    assert_eq!(files.iter().map(warned).collect::<Vec<_>>(), [false, false, true]);
    let slow = document(files[2]);
    assert!(slow["warnings"].to_string().contains("This VM's clock is 2.0 s behind"), "{}", slow["warnings"]);

    let json = merge(&[&["--json-output"], &files.iter().map(|file| text(file)).collect::<Vec<_>>()[..]].concat())
        .run()
        .json();
    let reason = json["reason"].as_str().unwrap();
    assert!(reason.starts_with("Clocks are off") && reason.contains("(share 3/3) (-2"), "{reason}");
    assert!(!reason.contains("share 1/3") && !reason.contains("share 2/3"), "{reason}");
    // It began two seconds after the others, as its clock says nothing of.
    assert!((json["start_skew_ms"].as_f64().unwrap() - 2_000.0).abs() < 500.0, "{}", json["start_skew_ms"]);
    let seconds = json["run"]["window_seconds"].as_f64().unwrap();
    assert!((seconds - 3.0).abs() < 0.5, "{seconds}");
    assert_eq!(json["per_vm_results"][2]["clock"]["reference"], "database");
}
