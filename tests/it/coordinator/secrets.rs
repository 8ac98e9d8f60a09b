//! Where passwords may not be, looked for while a test runs: arguments, files, output.

use std::fs;

use super::fleet::TestFleet;
use crate::harness::{PASSWORD, Started};

/// A password that nothing else on this machine can contain.
fn secret() -> String {
    format!("hunter-{}-{:x}", std::process::id(), fastrand())
}

fn fastrand() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

/// A role with that password, and the connection string with and without it.
fn role(fleet: &TestFleet, name: &str, secret: &str) -> (String, String) {
    fleet.server.sql(&format!("CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{secret}'"));
    let url = fleet.server.url();
    let address = &url[url.rfind('@').unwrap()..];
    (format!("postgresql://{name}:{secret}{address}"), format!("postgresql://{name}{address}"))
}

/// The processes whose arguments contain the text. (Only the same user and root can read an environment.)
fn processes_that_show(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path().join("cmdline");
        if fs::read(&path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text)) {
            found.push(path.display().to_string());
        }
    }
    found
}

fn files_that_show(folder: &std::path::Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files_that_show(&path, text)),
            // The control sockets cannot be read, and hold nothing.
            kind if kind.is_file()
                && fs::read(&path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text)) =>
            {
                found.push(path.display().to_string());
            }
            _ => {}
        }
    }
    found
}

fn assert_unseen(fleet: &TestFleet, run: Started, secret: &str) {
    fleet.wait_for_rows();
    // The agents are there, so a look at them is worth something.
    assert_eq!(fleet.agents().len(), 2);
    let mut control = std::process::Command::new("sh");
    control.args(["-c", "read line", secret]).stdin(std::process::Stdio::piped());
    let mut control = control.spawn().unwrap();
    let shown = processes_that_show(secret);
    control.kill().unwrap();
    control.wait().unwrap();
    assert_eq!(shown, [format!("/proc/{}/cmdline", control.id())]);
    for folder in [fleet.tmp.path(), &fleet.sshd.home()] {
        let shown = files_that_show(folder, secret);
        assert!(shown.is_empty(), "{shown:?}");
    }
    let ran = run.finish().expect_measured();
    assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret), "{ran:?}");
    assert!(!fleet.sshd.log().contains(secret));
    fleet.assert_nothing_left();
}

const RUN: [&str; 5] = ["--rps", "10", "--duration", "4", "--verbose"];

#[test]
fn a_password_on_the_command_line_is_out_of_sight_while_the_test_runs() {
    let (fleet, secret) = (TestFleet::start(), secret());
    let (url, _) = role(&fleet, "by_flag", &secret);
    let mut command = fleet.command("127.0.1.[1-2]", &RUN);
    command.env_remove("POSTGRES_URL").args(["--postgres-url", &url]);
    assert_unseen(&fleet, command.start(), &secret);
}

#[test]
fn passwords_in_the_environment_are_out_of_sight_while_the_test_runs() {
    let (fleet, secret) = (TestFleet::start(), secret());
    let (with, without) = role(&fleet, "by_environment", &secret);
    let mut command = fleet.command("127.0.1.[1-2]", &[&RUN[..], &["--json-output"]].concat());
    command.env("POSTGRES_URL", with);
    assert_unseen(&fleet, command.start(), &secret);

    fleet.server.sql("TRUNCATE chat_inference");
    let mut command = fleet.command("127.0.1.[1-2]", &RUN);
    command.env("POSTGRES_URL", without).env("PGPASSWORD", &secret);
    assert_unseen(&fleet, command.start(), &secret);
}

#[test]
fn what_is_wrong_is_said_without_the_password() {
    let (fleet, secret) = (TestFleet::start(), secret());
    let (url, _) = role(&fleet, "wrongly", &secret);
    for (postgres_url, code, part) in [
        (url.replace("wrongly:", "wrongly:not-"), 3, "127.0.1.1"),
        (format!("{url}?sslmode=nonsense"), 2, "POSTGRES_URL: sslmode"),
    ] {
        let mut command = fleet.command("127.0.1.[1-2]", &RUN);
        let ran = command.env("POSTGRES_URL", postgres_url).run();
        let ran = ran.expect_refusal(code, &[part]);
        assert!(!ran.stderr.contains(&secret), "{}", ran.stderr);
    }
    fleet.assert_nothing_left();
}

/// libpq's variables count where the coordinator runs, and nowhere else.
#[test]
fn the_coordinators_environment_counts_and_not_that_of_the_vms() {
    let fleet = TestFleet::start_with("SetEnv HOME={home} PGHOST=nowhere.invalid PGDATABASE=wrong PGSSLMODE=often");
    let (port, password) = (fleet.server.port().to_string(), PASSWORD);
    let mut command = fleet.command("127.0.1.1,127.0.1.2", &["--rps", "20", "--duration", "1"]);
    command.env_remove("POSTGRES_URL").env("PGHOST", "127.0.0.1").env("PGPORT", &port);
    command.env("PGUSER", "postgres").env("PGPASSWORD", password).env("PGDATABASE", "postgres");
    let ran = command.run();
    let ran = ran.expect_measured();
    let said = ran.stdout.replace("\n                     ", " ");
    let expected = format!("postgres@127.0.0.1:{port}/postgres (from PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD)");
    assert!(said.contains(&expected), "{said}");
    assert!(!said.contains(password) && !ran.stderr.contains(password), "{ran:?}");
    assert_eq!(fleet.rows("chat_inference"), 40);
}
