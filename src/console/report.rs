//! `load_test report`: parse → read → show → exit code.

use std::ffi::OsString;
use std::fmt::Display;
use std::io;

use clap::CommandFactory;

use super::{COULD_NOT_RUN, WRONG_USE, code_of_output, note, refuse, say, say_result, wrong_use};
use crate::cli;
use crate::cli::options::{ReportOptions, is_stdout};
use crate::cli::plan::OutputPlan;
use crate::merge::{self, files};
use crate::report::exporter::Exporter;
use crate::report::exporters::Exporters;
use crate::report::html::HtmlReport;
use crate::result::RunResult;
use crate::text::terminal;

const PROGRAM: &str = "load_test report";

/// Shows the result that the arguments name, "report" being the first of them. Returns the exit code: what became of the
/// run is not what became of showing it.
pub fn run(arguments: impl Iterator<Item = OsString>) -> u8 {
    let options: ReportOptions = match cli::read(&ReportOptions::command(), arguments) {
        Ok((options, faults)) if faults.is_empty() => options,
        Ok((_, faults)) => return refuse(&faults, PROGRAM),
        Err(error) => return wrong_use(&error, PROGRAM),
    };
    let files = std::slice::from_ref(&options.file);
    let outputs = [("--html", options.html.as_deref())];
    let read = files::check_output(files, &outputs).and_then(|()| files::read(files, &mut io::stdin().lock()));
    let mut parts = match read {
        Ok(parts) => parts,
        Err(error) => return told(&error, COULD_NOT_RUN),
    };
    let Some(part) = parts.pop().filter(|_| parts.is_empty()) else {
        let several = "the file holds several results; merge them with coordinator merge, or give one of them";
        return told(&several, WRONG_USE);
    };
    if let Some(why) = merge::not_presentable(&part.result) {
        return told(&format!("{}: {why}", part.file.as_deref().unwrap_or("the document")), COULD_NOT_RUN);
    }
    match shown(&part.result, &options) {
        Ok(()) => 0,
        Err((error, code)) => told(&error, code),
    }
}

fn shown(result: &RunResult, options: &ReportOptions) -> Result<(), (String, u8)> {
    let failed = |error: &dyn Display| (error.to_string(), COULD_NOT_RUN);
    match &options.html {
        None => say_result(result, false).map_err(|error| failed(&error)),
        Some(path) if is_stdout(path) => {
            let mut page = Vec::new();
            let slos = options.slo.clone();
            HtmlReport { slos }.finish(&mut page, result).map_err(|error| failed(&error))?;
            say(&String::from_utf8_lossy(&page)).map_err(|error| failed(&error))
        }
        Some(path) => {
            let plan = OutputPlan { html: Some(path.clone()), slos: options.slo.clone(), ..OutputPlan::default() };
            let mut exporters = Exporters::open(&plan).map_err(|error| (error.to_string(), code_of_output(&error)))?;
            exporters.finish(result).first().map_or(Ok(()), |error| Err(failed(error)))
        }
    }
}

fn told(error: &dyn Display, code: u8) -> u8 {
    note(&format!("error: {}", terminal::printable_lines(&error.to_string())));
    code
}
