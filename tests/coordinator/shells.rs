//! Machines whose login shell is not the usual one, or greets everybody.

use std::io::Write as _;
use std::path::Path;

use crate::tool::{TestFleet, assert_adds_up};

/// What a login shell of that name makes of the command, with a greeting before it.
fn run_through(shell: &str) {
    if !Path::new(shell).exists() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {shell} is not installed");
        return;
    }
    let greeting = "printf \"Welcome to \\377 this {\\\"machine\\\":1} \"";
    let fleet = TestFleet::start_with(&format!("ForceCommand {greeting}; {shell} -c \"$SSH_ORIGINAL_COMMAND\""));
    let ran = fleet.run("127.0.1.[1-2]", &["--rps", "10", "--duration", "1", "--json-output"]);
    assert_adds_up(&ran.expect_measured().json());
    fleet.assert_nothing_left();
}

#[test]
fn fish() {
    run_through("/usr/bin/fish");
}

#[test]
fn csh() {
    run_through("/usr/bin/tcsh");
}

#[test]
fn dash() {
    run_through("/bin/dash");
}
