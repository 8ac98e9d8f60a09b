//! `coordinator`: one test on many machines. Not there yet.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("error: coordinator is not there yet; run load_test with --share and --start-at on each machine instead");
    ExitCode::from(3)
}
