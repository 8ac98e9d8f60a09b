//! What both programs say on a terminal or to a script, and the codes that they exit with.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::cli::values::Fault;
use crate::measure::outcome::chain;
use crate::report::exporter::Exporter;
use crate::report::exporters::Exporters;
use crate::report::json::JsonDocument;
use crate::report::output_file::OutputError;
use crate::report::text::report;
use crate::result::{Accounting, RunResult, Status};
use crate::text::terminal;

pub mod fleet;
mod fleet_screen;
pub mod lines;
pub mod load_test;
pub mod merge;
pub mod report;
mod screen;

/// DEGRADED, FAILED, INVALID or LOST WRITES.
pub const NOT_PASSED: u8 = 1;
/// The command line makes no sense.
pub const WRONG_USE: u8 = 2;
/// There was no test.
pub const COULD_NOT_RUN: u8 = 3;
/// The program is at fault.
pub const BUG: u8 = 70;
/// Stopped by a signal.
pub const INTERRUPTED: u8 = 130;

/// How often the progress is printed where there is no terminal.
pub const SECONDS_BETWEEN_LINES: u64 = 5;

/// Stopped before there was anything to report.
#[derive(Debug, thiserror::Error)]
#[error("interrupted before the test began")]
pub struct Stopped;

/// What is said when a run is asked to stop, for the first time or again.
pub fn stopping(signals: u32) -> &'static str {
    match signals {
        1 => "Stopping: waiting for the requests in flight (once more to stop at once) ...",
        _ => "Stopping at once.",
    }
}

/// How long [`note`] waits for somebody to read.
const NOTE_WITHIN: Duration = Duration::from_secs(1);

/// Whether the last line was not read in time. Then no further line waits, until somebody reads.
static UNREAD: AtomicBool = AtomicBool::new(false);

/// Writes a line to stderr if somebody still reads it: a terminal that is gone or stopped (Ctrl-S) must not stop the
/// program.
pub fn note(line: &str) {
    if is_read() {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Whether somebody reads stderr. Waits a second for that, once.
pub fn is_read() -> bool {
    let limit = if UNREAD.load(Ordering::Relaxed) { Duration::ZERO } else { NOTE_WITHIN };
    let is_read = is_read_within(limit);
    UNREAD.store(!is_read, Ordering::Relaxed);
    is_read
}

/// Whether stderr takes a line within a time. A stopped terminal does not, and neither does a full pipe that nobody reads:
/// a write to either would block.
pub fn is_read_within(limit: Duration) -> bool {
    let stderr = io::stderr();
    let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
    // Where it cannot be told, writing fails or succeeds by itself. A signal does not wait for it.
    !matches!(poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&limit)), Ok(0) | Err(Errno::INTR))
}

/// Writes to stdout. A pipe that was closed early is not an error.
///
/// # Errors
/// The disk is full, for one.
pub fn say(text: &str) -> io::Result<()> {
    write_out(text).map(|_| ())
}

/// Writes to stdout; false where nobody reads it any more.
fn write_out(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(io::Error::new(error.kind(), format!("standard output cannot be written: {error}"))),
    }
}

/// Says that all is set up, where nothing more was asked for; stdout is for the document where one is wanted.
pub fn say_ready(ready: &str, json: bool) -> io::Result<()> {
    if json {
        note(ready);
        return Ok(());
    }
    say(&format!("{ready}\n"))
}

#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct UnwrittenError(Vec<String>);

/// Writes the result to its files, and says it. Both are tried before either's failure ends the program: a full disk must
/// not cost the report.
pub fn deliver(outputs: &mut Exporters, result: &RunResult, json: bool) -> Result<(), UnwrittenError> {
    let mut failures: Vec<String> = outputs.finish(result).iter().map(ToString::to_string).collect();
    failures.extend(say_result(result, json).err().map(|error| error.to_string()));
    if failures.is_empty() { Ok(()) } else { Err(UnwrittenError(failures)) }
}

/// Writes the result to stdout: as one JSON document, or as the report. Stderr has the verdict if nobody reads stdout any
/// more, and in addition to a document that is not PASSED.
fn say_result(result: &RunResult, json: bool) -> io::Result<()> {
    let verdict = format!("STATUS: {} - {}", result.status, terminal::printable(&result.reason));
    // A person who sends the document to a file sees nothing else. It comes first: if both streams go to one file, as in
    // the logs of a container, nothing may follow the document.
    let is_told = json && result.status != Status::Passed;
    if is_told {
        note(&verdict);
    }
    let mut text = Vec::new();
    match json {
        true => JsonDocument { is_indented: false }.finish(&mut text, result)?,
        false => report(&mut text, result)?,
    }
    let is_read = write_out(&String::from_utf8_lossy(&text))?;
    if !is_read {
        let Accounting { scheduled, ok, .. } = result.accounting;
        note(&format!(
            "Standard output was closed before the result was written: {ok} of {scheduled} requests were OK."
        ));
        if !is_told {
            note(&verdict);
        }
    }
    Ok(())
}

pub fn code_of(result: &RunResult, was_stopped: bool) -> u8 {
    match result.status {
        _ if was_stopped => INTERRUPTED,
        Status::Passed => 0,
        Status::Interrupted => INTERRUPTED,
        Status::Degraded | Status::Failed | Status::Invalid | Status::LostWrites => NOT_PASSED,
    }
}

/// The code for an output that cannot be opened or written.
pub fn code_of_output(error: &OutputError) -> u8 {
    match error {
        OutputError::System { .. } => COULD_NOT_RUN,
        OutputError::SameFile { .. } => WRONG_USE,
    }
}

/// Tells all that is wrong with a command line. Returns the code.
pub fn refuse(faults: &[Fault], program: &str) -> u8 {
    faults.iter().for_each(|fault| note(&format!("error: {}", terminal::printable_lines(&fault.to_string()))));
    note(&format!("\nFor all options, try '{program} --help'."));
    WRONG_USE
}

/// A command line that cannot be understood; also help and version, which are not errors. Returns the code.
pub fn wrong_use(error: &clap::Error, program: &str) -> u8 {
    let arguments: Vec<String> = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let looks_secret = |argument: &String| argument.contains("://") || argument.contains("password=");
    if error.use_stderr() && arguments.iter().any(looks_secret) {
        // clap repeats what it does not understand, and that may be a connection string with its password.
        let names = arguments.iter().filter(|argument| argument.starts_with("--"));
        let names: Vec<String> = names.map(|name| name.split('=').next().unwrap_or_default().to_owned()).collect();
        note(&format!(
            "error: the options are not understood ({:?}, among {}); give a connection string only with \
             --postgres-url, or in POSTGRES_URL\n\nFor all options, try '{program} --help'.",
            error.kind(),
            names.join(" ")
        ));
        return WRONG_USE;
    }
    let _ = error.print();
    if error.use_stderr() { WRONG_USE } else { 0 }
}

/// An error with its causes, each once, on as many lines as they have.
pub fn say_error(error: &anyhow::Error) {
    note(&format!("error: {}", terminal::printable_lines(&chain(error.as_ref()))));
}
