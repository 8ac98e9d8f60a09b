//! Faults of our own side: what runs out or changes on the machine that makes the load.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    Program, Ran, SMALL, Started, TestServer, all_written, assert_rows_match, count, load_test, text, wait_until,
};

#[test]
fn too_few_open_files_are_told_before_anything_happens() {
    let server = TestServer::with_tables();
    server.sql("INSERT INTO variant_by_episode VALUES ('mine', gen_random_uuid(), 'mine')");
    let arguments = ["--workers", "100", "--threads", "2", "--rps", "100", "--duration", "60"];
    let ran = server.load(&arguments).under_shell("ulimit -n 200").run();
    let ran = ran.expect_refusal(3, &["200 files", "100 workers", "ulimit -n", "lower --workers"]);
    // Two for each worker, six for each thread, and what a program has open in any case.
    assert!((215..240).contains(&demanded(&ran)), "{}", ran.stderr);
    assert_eq!(server.rows("variant_by_episode"), 1, "the tables were emptied for a run that never came: {ran:?}");
    // It takes no worker to make tables.
    let set_up = ["--setup", "--duration", "0", "--workers", "100"];
    server.load(&set_up).under_shell("ulimit -n 200").run().expect(0);
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_goes() {
    let server = TestServer::with_tables();
    let arguments = ["--workers", "8", "--rps", "50", "--duration", "1"];
    let ran = server.load(&arguments).under_shell("ulimit -S -n 40").run();
    all_written(&ran.expect_measured().json(), 50);
}

/// How many open files a refusal asks for.
#[track_caller]
fn demanded(ran: &Ran) -> usize {
    let number = ran.stderr.split("at least ").nth(1).and_then(|rest| rest.split(',').next());
    number.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no number: {}", ran.stderr))
}

/// What a run with these arguments asks for, where it gets too little.
#[track_caller]
fn demand_of(command: &Program) -> usize {
    demanded(&command.under_shell("ulimit -n 20").run().expect(3))
}

fn descriptors(started: &Started) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", started.id())).map_or(0, Iterator::count)
}

#[test]
fn not_many_more_open_files_are_asked_for_than_a_run_has() {
    let server = TestServer::with_tables();
    let endless = server.load(&["--workers", "8", "--threads", "2", "--rps", "50", "--duration", "600"]);
    let demand = demand_of(&endless);
    // With exactly so many it runs, and with one less it is refused.
    endless.under_shell(&format!("ulimit -n {}", demand - 1)).run().expect_refusal(3, &["at least"]);
    let started = endless.under_shell(&format!("ulimit -n {demand}")).start();
    server.wait_for_rows();
    // Those of its workers at the start have come and gone; each is open for longer than one look takes.
    let most = (0..20).map(|_| descriptors(&started)).max().unwrap();
    started.signal(Signal::INT);
    started.finish().expect(130).json();
    assert!(most <= demand && demand - most <= 12, "{most} of {demand}");
    // A worker that gives a request up connects again before it cancels; a name has to be looked up.
    let workers = ["--workers", "8", "--threads", "2"];
    let gives_up = server.load(&[&workers[..], &["--statement-timeout", "1s"]].concat());
    let looks_up = load_test(&[&workers[..], &SMALL, &["--postgres-url", "postgresql://localhost/x"]].concat());
    assert_eq!([demand_of(&gives_up), demand_of(&looks_up)], [demand + 8; 2]);
}

/// The worst that there is: every socket full, so that every worker watches it with a second descriptor.
#[test]
fn as_many_open_files_as_it_asks_for_are_enough() {
    const WORKERS: usize = 60;
    let server = TestServer::with_tables();
    let mut command = server.load(&["--workers", "60", "--threads", "2", "--rps", "60", "--duration", "600"]);
    // More than a socket takes.
    command.args(["--pipeline", "--output-size-kb", "8192", "--raw-response-size-kb", "8192"]);
    let limit = demand_of(&command);
    let started = command.under_shell(&format!("ulimit -n {limit}")).start();
    let connected = "SELECT count(*) >= 60 FROM pg_stat_activity WHERE application_name = 'postgres_load_test'";
    wait_until("all are connected", || server.sql(connected) == "t");
    server.freeze();
    // More than two for each worker with all else that is counted on. Some may have been served by then.
    wait_until("most sockets are full", || descriptors(&started) > WORKERS * 2 + 2 * 6 + 17);
    let most = descriptors(&started);
    started.signal(Signal::INT);
    started.signal(Signal::TERM);
    let json = started.finish().expect(130).json();
    server.thaw();
    assert!(most <= limit, "{most} of {limit}");
    assert_eq!((count(&json, "failed"), count(&json, "unknown")), (0, 0), "{}", json["errors"]);
    assert!(count(&json, "unfinished") > 0, "{}", json["accounting"]);
}

#[test]
fn too_little_memory_is_told_before_anything_happens() {
    let folder = tempfile::tempdir().unwrap();
    let meminfo = folder.path().join("meminfo");
    std::fs::write(&meminfo, "MemTotal: 1000000 kB\nMemFree: 900000 kB\nMemAvailable:   307200 kB\n").unwrap();
    let script = format!("mount --bind '{}' /proc/meminfo", meminfo.display());
    let server = TestServer::with_tables();
    let tried = |arguments: &[&str]| server.load(arguments).with_mounts(&script).map(|mut program| program.run());
    let many = ["--workers", "4000", "--rps", "100", "--duration", "60"];
    let Some(ran) = tried(&many) else { return };
    ran.expect_refusal(3, &["this machine has 300 MB more", "lower --workers (10", "larger machine"]);
    let large = ["--output-size-kb", "260000", "--duration", "60", "--workers", "2"];
    tried(&large).unwrap().expect_refusal(3, &["300 MB", "--output-size-kb", "(255 MB of it)"]);
    // What fits is run.
    let json = tried(&["--rps", "50", "--duration", "1", "--threads", "2"]).unwrap().expect_measured().json();
    all_written(&json, 50);
}

#[test]
fn the_limit_of_a_control_group_counts() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    let group = tree.join("box");
    std::fs::create_dir_all(&group).unwrap();
    let write = |name: &str, text: &str| std::fs::write(group.join(name), text).unwrap();
    write("memory.max", "209715200\n");
    write("memory.current", "157286400\n");
    write("memory.stat", "inactive_file 10485760\nactive_file 10485760\n");
    // As a process in /box of a machine with control groups of version 2 sees it.
    let groups = folder.path().join("cgroup");
    std::fs::write(&groups, "0::/box\n").unwrap();
    let script = format!(
        "mount --bind '{}' /proc/$$/cgroup; mount --bind '{}' /sys/fs/cgroup",
        groups.display(),
        tree.display()
    );
    let server = TestServer::with_tables();
    let load = server.load(&["--workers", "1000", "--threads", "2", "--duration", "60"]);
    let Some(mut command) = load.with_mounts(&script) else { return };
    command.run().expect_refusal(3, &["the control group", "70 MB more", "--workers", "raise its memory limit"]);
}

#[test]
fn a_disk_that_fills_up_under_load_costs_neither_the_run_nor_the_report() {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let (json, log) = (disk.join("r.json"), disk.join("log.hdr"));
    // One page: enough for the log's header and its first lines, and neither for all of it nor for the document.
    let script = format!("mount -t tmpfs -o size=4k none '{}'", disk.display());
    let arguments = ["--rps", "300", "--duration", "20", "--output", text(&json), "--hdr-log", text(&log)];
    let Some(mut command) = server.load(&arguments).with_mounts(&script) else { return };
    let ran = command.run().expect(3);
    assert_eq!(count(&ran.json(), "scheduled"), 6_000);
    for part in ["--output cannot be written", "--hdr-log cannot be written", "No space left"] {
        assert!(ran.stderr.contains(part), "{part:?} is missing from {:?}", ran.stderr);
    }
    assert_rows_match(&server, &ran.json());
}

#[test]
fn an_output_that_cannot_take_the_report_is_named() {
    let server = TestServer::with_tables();
    let url = server.url();
    let arguments = ["--rps", "50", "--duration", "1", "--postgres-url", &url, "--output", "/dev/full"];
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ran = |json: &[&str]| -> Ran { load_test(&[&arguments[..], &SMALL, json].concat()).stdout(full()).run() };
    // The report's header comes before the load.
    ran(&[]).expect_refusal(3, &["standard output cannot be written"]);
    assert_eq!(server.rows("chat_inference"), 0);
    // The document comes after it, and both failures are told.
    ran(&["--json-output"]).expect_refusal(3, &["--output cannot be written", "standard output cannot be written"]);
    assert!((1..=50).contains(&server.rows("chat_inference")));
}

#[test]
fn a_result_that_nobody_reads_is_told_on_stderr() {
    let server = TestServer::with_tables();
    for json in [&[][..], &["--json-output"]] {
        let url = server.url();
        let arguments = [&["--rps", "50", "--duration", "2", "--postgres-url", &url], &SMALL[..], json].concat();
        let (unread, stdout) = std::io::pipe().unwrap();
        drop(unread);
        let ran = load_test(&arguments).stdout(stdout).run().expect_measured();
        for part in ["Standard output was closed", " of 100 requests were OK", "STATUS: "] {
            assert!(ran.stderr.contains(part), "{part:?} is missing from {:?}", ran.stderr);
        }
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        // The code is the verdict's.
        assert_eq!(ran.code == Some(0), ran.stderr.contains("STATUS: PASSED"), "{ran:?}");
        let written = server.rows("chat_inference");
        assert!(ran.stderr.contains(&format!(" {written} of 100")), "{written} rows: {ran:?}");
    }
}

/// A run whose wall clock is set while it goes on. The monotonic clock is left alone, as in life.
fn with_clock_set(set: &str) -> (TestServer, Value) {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let offset = folder.path().join("offset");
    std::fs::write(&offset, "+0\n").unwrap();
    let mut load = server.load(&["--rps", "100", "--duration", "4", "--workers", "4"]);
    let started = load.fake_time("FAKETIME_TIMESTAMP_FILE", &offset).env("FAKETIME_NO_CACHE", "1").start();
    server.wait_for_rows();
    std::thread::sleep(Duration::from_millis(500));
    std::fs::write(&offset, format!("{set}\n")).unwrap();
    let json = started.finish().expect_measured().json();
    (server, json)
}

#[test]
fn a_wall_clock_that_is_set_changes_nothing_but_is_warned_of() {
    for (set, expected) in [
        ("-3600", Some("The wall clock was set back by 3600.0 s during the run;")),
        ("+3600", Some("The wall clock was set forward by 3600.0 s during the run, or the machine slept;")),
        ("+0", None),
    ] {
        let (server, json) = with_clock_set(set);
        let warnings = json["warnings"].to_string();
        match expected {
            Some(warning) => assert!(warnings.contains(warning), "{set}: {warnings}"),
            None => assert!(!warnings.contains("wall clock"), "{set}: {warnings}"),
        }
        all_written(&json, 400);
        assert_eq!(json["run"]["window_seconds"], 4.0);
        // Whatever the day says: no request took an hour, or less than nothing.
        let max = json["latency_ms"]["max"].as_f64().unwrap();
        assert!((0.0..60_000.0).contains(&max), "{set}: {max}");
        assert_rows_match(&server, &json);
        // Ids begin with the time of day, by T0 and the schedule: they have gone on.
        let times = "SELECT ('x' || lpad(replace(left(id::text, 13), '-', ''), 16, '0'))::bit(64)::bigint AS ms";
        let span = server.sql(&format!("SELECT max(ms) - min(ms) FROM ({times} FROM chat_inference) AS ids"));
        assert!((3_900..4_100).contains(&span.parse::<i64>().unwrap()), "{set}: {span} ms");
    }
}

#[test]
fn what_is_needed_is_said_with_all_that_is_short() {
    // Both at once, without a server: nothing is connected to.
    let arguments = ["--workers", "100000", "--threads", "1024", "--postgres-url", "postgresql://nowhere.invalid/db"];
    let folder = tempfile::tempdir().unwrap();
    let meminfo = folder.path().join("meminfo");
    std::fs::write(&meminfo, "MemAvailable: 1024000 kB\n").unwrap();
    let script = format!("ulimit -n 1000; mount --bind '{}' /proc/meminfo", meminfo.display());
    let Some(mut command) = load_test(&arguments).with_mounts(&script) else { return };
    command.run().expect_refusal(3, &["1000 files", "this machine has 1000 MB more", "--workers", "--threads"]);
    load_test(&["--workers", "0"]).run().expect_refusal(2, &["--workers"]);
}
