//! The throwaway server of `--ephemeral`, on a real PostgreSQL and real signals. Nothing here judges by absolute times.
//!
//! Tests that need an owner to kill, or another user, run this program again with [`ROLE`] set: the child enters the same
//! test and is the owner in it.

mod leftovers;
mod server;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{Program, Ran, take_part};
use crate::library::{ThrowawayOptions, ThrowawayServer};

/// Set for a child: the folder in which it makes its server.
const ROLE: &str = "POSTGRES_LOAD_TEST_EPHEMERAL_ROOT";

/// Starts a server; a fault is a panic.
fn start(options: &ThrowawayOptions) -> ThrowawayServer {
    take_part();
    ThrowawayServer::start(options).unwrap_or_else(|error| panic!("{error}: {error:?}"))
}

/// In a folder of the test's own, so that other tests' servers are not in the way.
fn start_in(root: &Path) -> ThrowawayServer {
    start(&options_in(root))
}

fn options_in(root: &Path) -> ThrowawayOptions {
    ThrowawayOptions { temp_root: Some(root.to_path_buf()), ..ThrowawayOptions::default() }
}

/// What psql prints for `sql`, without the last line break.
#[track_caller]
fn psql(server: &ThrowawayServer, sql: &str) -> String {
    try_psql(server, &server.connection_string(), sql).expect(0).stdout.trim_end_matches('\n').to_owned()
}

/// psql with another connection string; it may fail.
fn try_psql(server: &ThrowawayServer, connection_string: &str, sql: &str) -> Ran {
    Program::new(server.program_dir().join("psql")).args(["-XAtqw", "-d", connection_string, "-c", sql]).run()
}

fn paths(root: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// This program again, in the test `name` of `module`, as the owner of a server in `root`.
fn owner(program: &Path, module: &str, name: &str, root: &Path) -> Command {
    let test = format!("{}::{name}", module.split_once("::").unwrap().1);
    let mut command = Command::new(program);
    command.args(["--exact", &test, "--nocapture"]).env(ROLE, root).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Starts a server, tells its process id, and waits for the other side to close our input.
fn be_the_owner(root: &str) {
    let server = start_in(Path::new(root));
    assert_eq!(psql(&server, "select 1"), "1");
    println!("\nOWNER {} {}", server.postmaster_pid(), server.folder_path().display());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn told_by(child: &mut Child) -> (u32, PathBuf) {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.starts_with("OWNER ")).expect("the child's line");
    let mut words = line.split(' ').skip(1);
    (words.next().unwrap().parse().unwrap(), PathBuf::from(words.next().unwrap()))
}
