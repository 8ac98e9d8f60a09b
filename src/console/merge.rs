//! `coordinator merge`: parse → read → merge → print → exit code.

use std::ffi::OsString;
use std::io;

use clap::CommandFactory;

use super::{BUG, COULD_NOT_RUN, WRONG_USE, code_of, code_of_output, deliver, note, refuse, wrong_use};
use crate::cli;
use crate::cli::options::{MergeOptions, is_stdout, json_to};
use crate::cli::plan::{OutputPlan, criteria};
use crate::cli::values::Fault;
use crate::merge::files::{self, ReadError};
use crate::report::exporters::Exporters;
use crate::text::terminal;
use crate::{merge, verdict};

const PROGRAM: &str = "coordinator merge";

/// Merges the results that the arguments name, "merge" being the first of them. Returns the exit code.
pub fn run(arguments: impl Iterator<Item = OsString>) -> u8 {
    let options: MergeOptions = match cli::read(&MergeOptions::command(), arguments) {
        Ok((options, faults)) if faults.is_empty() => options,
        Ok((_, faults)) => return refuse(&faults, PROGRAM),
        Err(error) => return wrong_use(&error, PROGRAM),
    };
    let told = |error: &dyn std::fmt::Display, code| {
        note(&format!("error: {}", terminal::printable_lines(&error.to_string())));
        code
    };
    if options.html.as_deref().is_some_and(is_stdout) {
        let fault = Fault::new("--html", "standard output carries the report or the JSON document", "give a file");
        return refuse(&[fault], PROGRAM);
    }
    let (json_output, output) = json_to(options.json_output, options.output.as_deref());
    let outputs = [("--output", options.output.as_deref()), ("--html", options.html.as_deref())];
    let parts = files::check_output(&options.files, &outputs)
        .and_then(|()| files::read(&options.files, &mut io::stdin().lock()));
    let parts = match parts {
        Ok(parts) => parts,
        Err(error @ ReadError::NothingNamed) => return told(&error, WRONG_USE),
        Err(error) => return told(&error, COULD_NOT_RUN),
    };
    let mut result = match merge::merge(parts, Vec::new()) {
        Ok(result) => result,
        Err(error) => return told(&error, if error.is_bug() { BUG } else { COULD_NOT_RUN }),
    };
    verdict::judge(&mut result, &criteria(&options.criteria));
    // Opened only now, so that a refusal leaves no empty file.
    let plan =
        OutputPlan { json_file: output, html: options.html, slos: options.criteria.slo, ..OutputPlan::default() };
    let mut exporters = match Exporters::open(&plan) {
        Ok(exporters) => exporters,
        Err(error) => return told(&error, code_of_output(&error)),
    };
    match deliver(&mut exporters, &result, json_output) {
        Ok(()) => code_of(&result, false),
        Err(error) => told(&error, COULD_NOT_RUN),
    }
}
