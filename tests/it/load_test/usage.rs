//! The command line: help, faults, defaults.

use crate::harness::load_test;

#[test]
fn help_is_grouped_and_names_units_and_defaults() {
    let help = load_test(&["--help"]).run().expect(0).stdout;
    for part in [
        "Database:",
        "Load:",
        "Data:",
        "Verdict:",
        "Output:",
        "One of several VMs:",
        "[default: 100]",
        "[default: 60]",
        "[default: 8]",
        "[default: 2048]",
        "[default: 1.5]",
        "[default: 1.0]",
        "[env: POSTGRES_URL]",
        "Exit codes",
        "5m",
    ] {
        assert!(help.contains(part), "{part:?} is missing from the help");
    }
    for option in [
        "postgres-url",
        "rps",
        "duration",
        "workers",
        "output-size-kb",
        "raw-response-size-kb",
        "input-size-kb",
        "raw-request-size-kb",
        "no-rate-limiting",
        "no-experimentation",
        "docker-container",
        "server-side-data",
        "verbose",
        "json-output",
        "no-prepared-statements",
        "arrival",
        "warmup",
        "drain",
        "max-lag",
        "threads",
        "pipeline",
        "statement-timeout",
        "seed",
        "setup",
        "no-reset",
        "ephemeral",
        "application-name",
        "min-achieved",
        "max-error-rate",
        "slo",
        "share",
        "start-at",
        "output",
        "hdr-log",
    ] {
        assert!(help.contains(&format!("--{option}")), "--{option} is missing from the help");
    }
}

#[test]
fn the_environments_url_is_used_and_not_shown() {
    let secret = "postgres://u:hunter2@127.0.0.1:1/db";
    let help = load_test(&["--help"]).env("POSTGRES_URL", secret).run();
    assert!(!help.stdout.contains("hunter2"));
    let ran = load_test(&["--duration", "1"]).env("POSTGRES_URL", secret).run();
    let ran = ran.expect_refusal(3, &["127.0.0.1:1"]);
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
}

#[test]
fn wrong_values_are_all_reported_at_once() {
    let ran = load_test(&[
        "--rps",
        "quick",
        "--workers",
        "-3",
        "--duration",
        "1 fortnight",
        "--slo",
        "p99>1ms",
        "--slo",
        "fast",
    ])
    .run();
    let ran =
        ran.expect_refusal(2, &["--rps:", "--workers:", "--duration:", "--slo: 'p99>1ms'", "--slo: 'fast'", "--help"]);
    assert!(ran.stderr.lines().filter(|line| line.starts_with("error: ")).count() == 5, "{}", ran.stderr);
}

#[test]
fn an_unknown_option_is_wrong_use() {
    load_test(&["--durration", "5"]).run().expect_refusal(2, &["--durration", "--duration"]);
}

#[test]
fn the_last_of_a_repeated_option_counts_and_limits_add_up() {
    let ran = load_test(&["--rps", "x", "--rps", "y", "--slo", "a", "--slo", "b"]).run();
    let ran = ran.expect_refusal(2, &["'y'", "'a'", "'b'"]);
    assert!(!ran.stderr.contains("'x'"), "{}", ran.stderr);
}

#[test]
fn a_connection_string_in_the_wrong_place_is_not_repeated() {
    for arguments in
        [&["--setup", "postgres://u:hunter2@h/db"][..], &["postgres://u:hunter2@h/db"], &["--slo", "password=hunter2"]]
    {
        let ran = load_test(arguments).run().expect(2);
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
        assert!(ran.stderr.contains("error: "), "{}", ran.stderr);
    }
}
