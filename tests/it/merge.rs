//! `coordinator merge` from the outside, with results that `load_test` wrote against real servers.

mod clocks;
mod files;
mod kubernetes;
mod refusals;
mod shares;

use std::path::{Path, PathBuf};

use crate::harness::{Program, TestServer, coordinator, start_at};

/// `coordinator merge`.
fn merge(arguments: &[&str]) -> Program {
    coordinator(&[&["merge"], arguments].concat())
}

/// An instant some seconds ahead, as `--start-at` takes it: time enough to connect on a busy machine.
fn soon() -> String {
    start_at(8)
}

/// A share of a run.
fn share_of(server: &TestServer, share: &str, start_at: &str, arguments: &[&str]) -> Program {
    server.watched_load(&[&["--share", share, "--start-at", start_at], arguments].concat())
}

/// Runs each share in a process of its own, all at once, and leaves their results in `folder`.
fn run_shares(server: &TestServer, folder: &Path, shares: &[&str], arguments: &[&str]) -> Vec<PathBuf> {
    let start_at = soon();
    let files: Vec<PathBuf> = (1..=shares.len()).map(|number| folder.join(format!("r{number}.json"))).collect();
    let started: Vec<_> = shares
        .iter()
        .zip(&files)
        .map(|(share, file)| {
            let file = std::fs::File::create(file).unwrap();
            share_of(server, share, &start_at, arguments).stdout(file).start()
        })
        .collect();
    // Whether a share passed is up to the machine, which may be busy.
    started.into_iter().for_each(|share| _ = share.finish().expect_measured());
    files
}
