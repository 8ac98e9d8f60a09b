//! What a run writes to files, each in a format of its own.
//!
//! A format is a file in this folder, a line in [`Exporters::open`], and its option. All files are opened before the run,
//! so that a bad path fails early.

use std::io::{self, Write};
use std::path::PathBuf;

use super::exporter::Exporter;
use super::hdr_log::HdrLog;
use super::html::HtmlReport;
use super::json::JsonDocument;
use super::output_file::{OutputError, OutputFile};
use crate::cli::plan::OutputPlan;
use crate::measure::recorder::Interval;
use crate::result::RunResult;

pub struct Exporters {
    exports: Vec<Export>,
    failures: Vec<OutputError>,
}

struct Export {
    file: OutputFile,
    exporter: Box<dyn Exporter>,
}

impl Exporters {
    /// Opens what is asked for. Nothing that is there is touched yet, and a file that stays empty is removed again.
    ///
    /// # Errors
    /// A file cannot be opened for writing, or two outputs are one file.
    pub fn open(output: &OutputPlan) -> Result<Self, OutputError> {
        let formats: [(&str, &Option<PathBuf>, Box<dyn Exporter>); _] = [
            ("--output", &output.json_file, Box::new(JsonDocument { is_indented: true })),
            ("--hdr-log", &output.hdr_log, Box::new(HdrLog)),
            ("--html", &output.html, Box::new(HtmlReport { slos: output.slos.clone() })),
        ];
        let mut exports: Vec<Export> = Vec::new();
        for (flag, path, exporter) in formats {
            let Some(path) = path else { continue };
            let file = OutputFile::open(flag, path)?;
            file.check_unlike_streams()?;
            exports.iter().try_for_each(|other| file.check_unlike(&other.file))?;
            exports.push(Export { file, exporter });
        }
        Ok(Self { exports, failures: Vec::new() })
    }

    /// The load begins.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn begin(&mut self, t0_unix_ns: u64) -> Result<(), OutputError> {
        self.each(|exporter, out| exporter.begin(out, t0_unix_ns));
        self.failures.pop().map_or(Ok(()), Err)
    }

    /// What cannot be written ends there; the run goes on, and the failure is told with the report.
    pub fn second(&mut self, index: u64, interval: &Interval) {
        self.each(|exporter, out| exporter.second(out, index, interval));
    }

    /// The result is there. Returns what could not be written, also of the seconds before.
    pub fn finish(&mut self, result: &RunResult) -> Vec<OutputError> {
        self.each(|exporter, out| exporter.finish(out, result));
        std::mem::take(&mut self.failures)
    }

    fn each(&mut self, mut write: impl FnMut(&mut dyn Exporter, &mut dyn Write) -> io::Result<()>) {
        let Self { exports, failures } = self;
        exports.retain_mut(|export| match write(&mut *export.exporter, &mut export.file) {
            Ok(()) => true,
            Err(source) => {
                failures.push(export.file.cannot_write(source));
                false
            }
        });
    }
}
