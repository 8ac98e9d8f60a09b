//! The files of `--output` and `--hdr-log`, opened before the run, so that a bad path fails early.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::hdr_log::HdrLog;
use super::output_file::{OutputFile, same_file};
use crate::cli::plan::Plan;
use crate::measure::recorder::Interval;
use crate::result::RunResult;
use crate::text::terminal::printable_json;

/// A file that cannot be had or written. Names the flag.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The system's error.
    #[error("{flag} {what}: {source}")]
    System {
        /// The option that names the file.
        flag: &'static str,
        /// What could not be done.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// One of two writers would overwrite what the other wrote.
    #[error("{flag} {path} is the same file as {other}; give each a file of its own")]
    SameFile {
        /// The option that names the file.
        flag: &'static str,
        /// As given.
        path: String,
        /// The other writer.
        other: &'static str,
    },
}

/// All that could not be written at the end of a run, in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct UnwrittenError(Vec<String>);

/// What came of writing the files and of saying the result: a disk that is full may fail both, and either's failure is
/// to be told.
///
/// # Errors
/// What failed.
pub fn all_written(files: Result<(), UnwrittenError>, said: io::Result<()>) -> Result<(), UnwrittenError> {
    let mut failures = files.err().map_or_else(Vec::new, |error| error.0);
    failures.extend(said.err().map(|error| error.to_string()));
    if failures.is_empty() { Ok(()) } else { Err(UnwrittenError(failures)) }
}

const OUTPUT: &str = "--output";
const HDR_LOG: &str = "--hdr-log";

/// The files that a run writes.
#[derive(Debug)]
pub struct Outputs {
    json: Option<OutputFile>,
    hdr_file: Option<OutputFile>,
    hdr_log: Option<HdrLog<BufWriter<File>>>,
    hdr_failure: Option<OutputError>,
}

impl Outputs {
    /// Opens what the plan asks for. Nothing that is there is touched yet, and what is not written in the end is removed
    /// again.
    ///
    /// # Errors
    /// A file cannot be opened for writing, or two outputs are one file.
    pub fn open(plan: &Plan) -> Result<Self, OutputError> {
        Self::open_files(plan.output.as_deref(), plan.hdr_log.as_deref())
    }

    /// The same from the paths.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_files(json: Option<&Path>, hdr_log: Option<&Path>) -> Result<Self, OutputError> {
        let json = json.map(|path| OutputFile::open(OUTPUT, path)).transpose()?;
        let hdr_file = hdr_log.map(|path| OutputFile::open(HDR_LOG, path)).transpose()?;
        if let Some(json) = &json {
            json.check_unlike_streams(OUTPUT)?;
        }
        if let Some(log) = &hdr_file {
            log.check_unlike_streams(HDR_LOG)?;
            if json.as_ref().is_some_and(|json| json.is_same_file(log.identity())) {
                return Err(same_file(HDR_LOG, &log.path, OUTPUT));
            }
        }
        Ok(Self { json, hdr_file, hdr_log: None, hdr_failure: None })
    }

    /// Begins the interval log, where there is one. `t0_unix_ns` is T0.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin_hdr_log(&mut self, t0_unix_ns: u64) -> Result<(), OutputError> {
        if let Some(file) = self.hdr_file.take() {
            let begun = file.begin().and_then(|file| HdrLog::begin(BufWriter::new(file), t0_unix_ns));
            self.hdr_log = Some(begun.map_err(|source| cannot_write(HDR_LOG, source))?);
        }
        Ok(())
    }

    /// A log that cannot be written ends there; the run goes on, and the failure is told with the report.
    pub fn second(&mut self, index: u64, interval: &Interval) {
        if let Some(log) = &mut self.hdr_log
            && let Err(source) = log.second(index, interval)
        {
            self.hdr_log = None;
            self.hdr_failure = Some(cannot_write(HDR_LOG, source));
        }
    }

    /// Writes the document, where a file is wanted.
    ///
    /// # Errors
    /// It cannot be written, or the log could not.
    pub fn write(&mut self, result: &RunResult) -> Result<(), UnwrittenError> {
        let json_failure = self.json.take().and_then(|file| {
            let written = file.begin().and_then(|mut file| {
                let json = printable_json(&serde_json::to_string_pretty(result)?);
                file.write_all(format!("{json}\n").as_bytes())
            });
            written.map_err(|source| cannot_write(OUTPUT, source)).err()
        });
        let failures: Vec<_> = [json_failure, self.hdr_failure.take()].into_iter().flatten().collect();
        if failures.is_empty() {
            return Ok(());
        }
        Err(UnwrittenError(failures.iter().map(ToString::to_string).collect()))
    }
}

fn cannot_write(flag: &'static str, source: io::Error) -> OutputError {
    OutputError::System { flag, what: "cannot be written".to_owned(), source }
}
