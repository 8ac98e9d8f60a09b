//! Report, JSON, files: what people and scripts read.

use serde_json::Value;

use crate::harness::{PASSWORD, Program, SMALL, TestServer, all_written, count, document, load_test, ms, python};

fn decoded_by_python(script: &str, argument: &str) -> Value {
    let ran = Program::new(python()).args(["-c", script, argument]).run().expect(0);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn the_python_tools_fields_keep_their_names() {
    let server = TestServer::with_tables();
    let json = server.load(&["--rps", "50", "--duration", "1"]).run().json();
    for (group, names) in [
        (
            "config",
            &[
                "target_rps",
                "duration_seconds",
                "workers",
                "input_size_kb",
                "output_size_kb",
                "raw_request_size_kb",
                "raw_response_size_kb",
                "server_side_data",
            ][..],
        ),
        (
            "throughput",
            &[
                "total_requests",
                "successful_writes",
                "failed_writes",
                "actual_rps",
                "target_achieved_pct",
                "success_rate",
            ],
        ),
        ("latency_ms", &["min", "avg", "p50", "p95", "p99", "max"]),
    ] {
        for name in names {
            assert!(!json[group][name].is_null(), "{group}.{name} is missing");
        }
    }
    for name in ["hostname", "data_written_mb", "status"] {
        assert!(!json[name].is_null(), "{name} is missing");
    }
    assert_eq!(json["throughput"]["success_rate"], 100.0);
    // 1.5 + 2 + 1 + 2 KB a request.
    assert!((json["data_written_mb"].as_f64().unwrap() - 50.0 * 6.5 / 1024.0).abs() < 0.001);
}

#[test]
fn others_decode_the_histograms_and_find_the_same_figures() {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let (json_file, hdr_log) = (folder.path().join("r.json"), folder.path().join("log.hdr"));
    let arguments = [
        "--rps",
        // Two hundred requests, where the rank of p99 is whole: libraries round ranks differently. For other percentiles
        // the script asks for the nearest rank, as the report does.
        "50",
        "--duration",
        "4",
        "--output",
        json_file.to_str().unwrap(),
        "--hdr-log",
        hdr_log.to_str().unwrap(),
    ];
    // A request that was not started makes the percentiles lower bounds, which the histogram cannot know.
    let complete = || Some(server.load(&arguments).run().json()).filter(|json| count(json, "not_started") == 0);
    let json = (0..5).find_map(|_| complete()).expect("five runs in a row could not hold 50 requests/s");
    let written: Value = document(&json_file);
    assert_eq!(written, json);

    let script = "import json, sys\n\
                  from hdrh.histogram import HdrHistogram\n\
                  histograms = json.load(open(sys.argv[1]))['histograms']\n\
                  def figures(name):\n\
                  \x20   h = HdrHistogram.decode(histograms[name]['base64'])\n\
                  \x20   n = h.get_total_count()\n\
                  \x20   at = lambda m: h.get_value_at_percentile(100 * -(-n * m // 1000) / n) if n else 0\n\
                  \x20   p = {m / 10: at(m) for m in (500, 900, 950, 990, 999)}\n\
                  \x20   return {'count': h.get_total_count(), **{f'p{q:g}'.replace('.', '_'): v / 1000 for q, v in p.items()}, 'plain_p99': h.get_value_at_percentile(99) / 1000}\n\
                  print(json.dumps({n: figures(n) for n in ('latency', 'service_time', 'lateness', 'wait_for_connection')}))";
    let decoded = decoded_by_python(script, json_file.to_str().unwrap());
    for (histogram, figure) in
        [("latency", "latency_ms"), ("service_time", "service_time_ms"), ("lateness", "lateness_ms")]
    {
        assert_eq!(decoded[histogram]["count"], json[figure]["count"], "{histogram}");
        for name in ["p50", "p90", "p95", "p99", "p99_9"] {
            let (theirs, ours) = (decoded[histogram][name].as_f64().unwrap(), ms(&json, figure, name));
            assert!((theirs - ours).abs() < 0.0005, "{histogram} {name}: {theirs} and {ours}");
        }
    }
    assert!((decoded["latency"]["plain_p99"].as_f64().unwrap() - ms(&json, "latency_ms", "p99")).abs() < 0.0005);
    assert_eq!(decoded["wait_for_connection"]["count"], json["wait_for_connection_ms"]["count"]);

    let script = "import json, sys\n\
                  from hdrh.log import HistogramLogReader\n\
                  from hdrh.histogram import HdrHistogram\n\
                  total = HdrHistogram(1, 86400000000, 3)\n\
                  reader, lines = HistogramLogReader(sys.argv[1], total), 0\n\
                  while True:\n\
                  \x20   h = reader.get_next_interval_histogram()\n\
                  \x20   if h is None: break\n\
                  \x20   lines += 1\n\
                  \x20   total.add(h)\n\
                  print(json.dumps({'count': total.get_total_count(), 'lines': lines, 'p50': total.get_value_at_percentile(50) / 1000}))";
    let log = decoded_by_python(script, hdr_log.to_str().unwrap());
    assert_eq!(log["count"], json["latency_ms"]["count"]);
    assert!(log["lines"].as_u64().unwrap() >= 3, "{log}");
    assert!((log["p50"].as_f64().unwrap() - ms(&json, "latency_ms", "p50")).abs() < 0.0005);
    let text = std::fs::read_to_string(&hdr_log).unwrap();
    assert!(text.contains("#[Histogram log format version 1.3]"));
    let mut starts: Vec<&str> = text.lines().skip(4).map(|line| line.split(',').next().unwrap()).collect();
    let lines = starts.len();
    starts.dedup();
    assert_eq!(starts.len(), lines, "a second has two lines");
}

#[test]
fn the_report_is_on_stdout_and_the_progress_on_stderr() {
    let server = TestServer::with_tables();
    let arguments = ["--rps", "50", "--duration", "6", "--postgres-url", &server.url()];
    let ran = load_test(&[&arguments[..], &SMALL].concat()).run().expect_measured();
    for part in [
        "POSTGRES LOAD TEST FOR TENSORZERO",
        "Target RPS:          50",
        "Duration:            6s",
        "Connections:         8",
        "Rate limiting:       enabled",
        "Experimentation:     enabled",
        "LOAD TEST RESULTS",
        "  Total Requests:     300",
        "  Successful Writes:  300",
        "  Failed Writes:      0",
        "  Success Rate:       100.00%",
        "  P99.9:",
        "Service",
        "Lateness",
        "Wait",
        "  Scheduled:          300",
        "STATUS: ",
    ] {
        assert!(ran.stdout.contains(part), "{part:?} is missing from\n{}", ran.stdout);
    }
    assert!(ran.stderr.contains("  Progress: 5s elapsed, 2"), "{}", ran.stderr);
    assert!(!ran.stdout.contains("Progress"));
}

#[test]
fn a_terminal_gets_a_bar() {
    let server = TestServer::with_tables();
    let arguments = ["--rps", "50", "--duration", "3", "--postgres-url", &server.url()];
    let text = load_test(&[&arguments[..], &SMALL].concat()).on_terminal().run().expect_measured().stdout;
    assert!(text.contains("/3s") && text.contains("p99"), "{text}");
    assert!(!text.contains("Progress:"), "{text}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let server = TestServer::with_tables();
    let line =
        format!("{} | true; echo ${{PIPESTATUS[0]}}", server.load(&["--rps", "max", "--duration", "1"]).shell_words());
    let ran = Program::new("bash").args(["-c", &line]).run();
    assert!(["0\n", "1\n"].contains(&&*ran.stdout), "{ran:?}");
}

#[test]
fn no_password_is_shown_anywhere() {
    let server = TestServer::setup().tcp(PASSWORD).start();
    let url = server.url();
    let (_, password) = url.split_once("//postgres:").unwrap();
    let encoded = password.split('@').next().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let json_file = folder.path().join("r.json");
    let mut command = load_test(&["--setup", "--verbose", "--rps", "20", "--duration", "1", "--output-size-kb", "1"]);
    let ran = command.env("POSTGRES_URL", &url).args(["--output", json_file.to_str().unwrap()]).start();
    let ran = ran.finish().expect_measured();
    let everything = [ran.stdout, ran.stderr, std::fs::read_to_string(json_file).unwrap(), server.log()].concat();
    for secret in [encoded.as_str(), PASSWORD] {
        assert!(!everything.contains(secret));
    }
}

#[test]
fn a_path_that_cannot_be_written_is_found_before_the_run() {
    for flag in ["--output", "--hdr-log"] {
        load_test(&[flag, "/nowhere/at/all", "--duration", "60"]).run().expect_refusal(3, &[flag, "/nowhere/at/all"]);
    }
}

#[test]
fn a_full_disk_costs_neither_the_run_nor_the_report() {
    let server = TestServer::with_tables();
    let ran = server.load(&["--rps", "50", "--duration", "2", "--output", "/dev/full"]).run().expect(3);
    assert_eq!(ran.json()["accounting"]["scheduled"], 100);
    assert!(ran.stderr.contains("--output"), "{}", ran.stderr);
    // Here not even the header can be written, which shows before the load.
    server.load(&["--duration", "60", "--hdr-log", "/dev/full"]).run().expect_refusal(3, &["--hdr-log"]);
}

/// As on a terminal that was stopped with Ctrl-S.
#[test]
fn progress_that_is_not_read_holds_nothing_up() {
    let server = TestServer::with_tables();
    let (unread, mut stderr) = std::io::pipe().unwrap();
    // Fills the pipe, as far as it takes whole pages.
    let flags = rustix::fs::fcntl_getfl(&stderr).unwrap();
    rustix::fs::fcntl_setfl(&stderr, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    while std::io::Write::write(&mut stderr, &[b'.'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&stderr, flags).unwrap();
    let ran = server.load(&["--verbose", "--rps", "50", "--duration", "6"]).stderr(stderr).run().expect_measured();
    all_written(&ran.json(), 300);
    drop(unread);
}

#[test]
fn nobody_has_to_read_the_progress() {
    let server = TestServer::with_tables();
    let load = server.load(&["--rps", "max", "--duration", "6", "--verbose"]).shell_words();
    let line = format!("{load} 2>&1 >/dev/null | head -1; echo ${{PIPESTATUS[0]}}");
    let ran = Program::new("bash").args(["-c", &line]).run();
    assert!(ran.stdout.ends_with("\n0\n"), "{ran:?}");
}
