//! VMs whose login shell is not the usual one, or greets everybody.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;

use super::fleet::TestFleet;
use crate::harness::{Program, count, is_installed, write_script};

/// What a login shell of that name makes of the command, with a greeting before it.
fn run_through(shell: &str) {
    if !is_installed(shell) {
        return;
    }
    let greeting = "printf \"Welcome to \\377 this {\\\"machine\\\":1} \"";
    let fleet = TestFleet::start_with(&format!("ForceCommand {greeting}; {shell} -c \"$SSH_ORIGINAL_COMMAND\""));
    let ran = fleet.run("127.0.1.[1-2]", &["--rps", "10", "--duration", "1", "--json-output"]);
    let ran = ran.expect_measured();
    ran.json();
    let warning = "warning: 127.0.1.1, 127.0.1.2 are one VM under several names";
    assert_eq!(ran.stderr.matches(warning).count(), 1, "{}", ran.stderr);
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

/// The lines of docs/distributed.md from the one that starts with `begin` to the end of its block, with less load.
fn recipe(begin: &str) -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/distributed.md")).unwrap();
    let at = page.find(begin).unwrap_or_else(|| panic!("{begin} is not in docs/distributed.md"));
    let block = page[at..].split("```").next().unwrap();
    let small = "--rps 20 --duration 2 --workers 2 --output-size-kb 1 --raw-response-size-kb 1";
    block.replace("--rps 1000 --workers 16", small).replace("+1 minute", "+12 seconds")
}

/// The commands of docs/distributed.md for runs started by other means, if the VMs' login shell is this one.
fn run_recipes(shell: &str) {
    if !is_installed(shell) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let path = format!("export PATH='{}':$PATH", bin.display());
    let fleet = TestFleet::start_with(&format!("ForceCommand {path}; exec {shell} -c \"$SSH_ORIGINAL_COMMAND\""));
    symlink(env!("CARGO_BIN_EXE_load_test"), bin.join("load_test")).unwrap();
    symlink(env!("CARGO_BIN_EXE_coordinator"), bin.join("coordinator")).unwrap();
    let config = format!(
        "Host h1 h2 h3\n  HostName 127.0.0.1\n  StrictHostKeyChecking accept-new\nInclude {}\n",
        fleet.sshd.config().display()
    );
    fs::write(folder.path().join("config"), config).unwrap();
    let ssh = format!("exec /usr/bin/ssh -F '{}' \"$@\"", folder.path().join("config").display());
    write_script(&bin.join("ssh"), &ssh);
    let parallel = format!("export START_AT=$(date -ud '+12 seconds' +%FT%TZ)\n{}", recipe("one() {"));
    for (script, shares) in [(recipe("start_at=$(date"), 2), (parallel, 3)] {
        if shares == 3 && !is_installed("parallel") {
            continue;
        }
        let here = folder.path().join(shares.to_string());
        fs::create_dir(&here).unwrap();
        let mut command = Program::new("bash");
        command.args(["-c", &format!("{path}\n{script}")]).current_dir(&here);
        command
            .env("POSTGRES_URL", fleet.server.url())
            .env("PARALLEL_SHELL", "/bin/bash")
            .env("PARALLEL", "--will-cite");
        let ran = command.run();
        let results: Vec<Value> = (1..=shares)
            .map(|share| fs::read(here.join(format!("r{share}.json"))).unwrap_or_default())
            .map(|text| serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{error}: {ran:?}")))
            .collect();
        let ok = results.iter().map(|result| count(result, "ok")).sum::<u64>();
        assert!(ok > 0 && ran.stdout.contains("STATUS:"), "{ran:?}");
    }
}

#[test]
fn the_documented_commands_under_fish() {
    run_recipes("/usr/bin/fish");
}

#[test]
fn the_documented_commands_under_csh() {
    run_recipes("/usr/bin/tcsh");
}
