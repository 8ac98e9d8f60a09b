//! Where output goes: no file is written by two writers, and none is left that nobody wrote.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::harness::{Program, Ran, SMALL, TestServer, all_written, document, load_test, text};

const SHORT: [&str; 4] = ["--rps", "20", "--duration", "1"];

/// Runs the program through a shell that does the redirections in `line`, where `$load_test` is the program with a
/// short run.
fn shell(url: &str, folder: &Path, line: &str) -> Ran {
    let program = [&[env!("CARGO_BIN_EXE_load_test"), "--postgres-url", url][..], &SHORT, &SMALL].concat().join(" ");
    Program::new("bash").args(["-c", line]).env("load_test", program).current_dir(folder).run()
}

#[test]
fn two_writers_of_one_file_are_refused_before_the_run_however_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.json");
    let here = |name: &str| folder.path().join(name);
    let twice = |hdr_log: &Path| {
        let ran = load_test(&["--output", text(&file), "--hdr-log", text(hdr_log)]).run();
        ran.expect_refusal(2, &["--hdr-log", "the same file as --output", "give each a file of its own"]);
    };
    twice(&file);
    twice(&here(".").join("r.json"));
    assert!(!file.exists(), "an empty file was left");
    fs::write(&file, "precious").unwrap();
    fs::hard_link(&file, here("hard")).unwrap();
    symlink(&file, here("soft")).unwrap();
    twice(&here("hard"));
    twice(&here("soft"));
    for line in [
        "$load_test --json-output --output r.json >> r.json",
        "$load_test --output hard >> soft",
        "$load_test --hdr-log r.json >> r.json",
        "$load_test --output r.json 2>> r.json",
    ] {
        let ran = shell("postgres://localhost:1/none", folder.path(), line);
        assert_eq!(ran.code, Some(2), "{line}: {ran:?}");
        // The error itself may have gone to the file.
        let said = fs::read_to_string(&file).unwrap();
        assert!(said.starts_with("precious"), "{line}: {said}");
    }
    // Devices are not files: nothing is lost there.
    let ran = shell(
        "postgres://localhost:1/none",
        folder.path(),
        "$load_test --output /dev/null --hdr-log /dev/null >/dev/null",
    );
    assert_eq!(ran.code, Some(3), "{ran:?}");
}

#[test]
fn a_dash_and_the_names_of_descriptor_1_are_stdout() {
    let (server, folder) = (TestServer::with_tables(), tempfile::tempdir().unwrap());
    for name in ["-", "/dev/stdout", "/proc/self/fd/1"] {
        let log = folder.path().join("log");
        fs::write(&log, "before\n").unwrap();
        shell(&server.url(), folder.path(), &format!("$load_test --output {name} >> log")).expect_measured();
        let written = fs::read_to_string(&log).unwrap();
        let json = written.strip_prefix("before\n").unwrap_or_else(|| panic!("{name} erased the log: {written}"));
        all_written(&serde_json::from_str(json).unwrap(), 20);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a file named - was made");
    let ran = load_test(&["--hdr-log", "-"]).run();
    ran.expect_refusal(2, &["--hdr-log", "standard output", "give a file"]);
}

#[test]
fn other_descriptors_are_appended_to() {
    let (server, folder) = (TestServer::with_tables(), tempfile::tempdir().unwrap());
    let log = folder.path().join("log");
    for (redirection, name) in [("3>>", "/dev/fd/3"), ("2>>", "/dev/stderr")] {
        fs::write(&log, "before\n").unwrap();
        let line = format!("$load_test --output {name} {redirection} log");
        shell(&server.url(), folder.path(), &line).expect_measured();
        let written = fs::read_to_string(&log).unwrap();
        assert!(written.starts_with("before\n"), "{name} erased the log: {written}");
        all_written(&serde_json::from_str(&written[written.find('{').unwrap()..]).unwrap(), 20);
    }
}

#[test]
fn a_run_that_does_not_begin_leaves_no_file_and_changes_none() {
    let folder = tempfile::tempdir().unwrap();
    let [new, old] = ["new", "old"].map(|name| folder.path().join(name));
    fs::write(&old, "precious").unwrap();
    let url = "postgres://127.0.0.1:1/none";
    let arguments = ["--postgres-url", url, "--output", text(&new), "--hdr-log", text(&old)];
    let ran = load_test(&arguments).run();
    ran.expect_refusal(3, &["127.0.0.1"]);
    assert!(!new.exists());
    assert_eq!(fs::read_to_string(&old).unwrap(), "precious");
    // One that does overwrites what was there.
    let server = TestServer::with_tables();
    server.load(&[&SHORT[..], &["--output", text(&old)]].concat()).run().expect_measured();
    all_written(&document(&old), 20);
}
