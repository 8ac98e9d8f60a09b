//! `coordinator merge`: parse → read → merge → print → exit code.

use std::ffi::OsString;
use std::io;

use clap::CommandFactory;

use super::{BUG, COULD_NOT_RUN, WRONG_USE, code_of, code_of_output, note, refuse, say_result, wrong_use};
use crate::cli::options::{self, MergeOptions, json_to};
use crate::merge::command::{self, CommandError};
use crate::merge::files::ReadError;
use crate::report::outputs::{Outputs, all_written};
use crate::text::terminal;

const PROGRAM: &str = "coordinator merge";

/// Merges the results that the arguments name, "merge" being the first of them. Returns the exit code.
pub fn merge(arguments: impl Iterator<Item = OsString>) -> u8 {
    let options: MergeOptions = match options::read(MergeOptions::command(), arguments) {
        Ok(options) => options,
        Err(error) => return wrong_use(&error, PROGRAM),
    };
    let told = |error: &dyn std::fmt::Display, code| {
        note(&format!("error: {}", terminal::printable_lines(&error.to_string())));
        code
    };
    let (json_output, output) = json_to(options.json_output, options.output.as_deref());
    let result = match command::run(&options, &mut io::stdin().lock()) {
        Ok(result) => result,
        Err(CommandError::Options(faults)) => return refuse(&faults, PROGRAM),
        Err(error @ CommandError::Read(ReadError::NothingNamed)) => return told(&error, WRONG_USE),
        Err(CommandError::Merge(error)) if error.is_bug() => return told(&error, BUG),
        Err(error) => return told(&error, COULD_NOT_RUN),
    };
    // Opened only now, so that a refusal leaves no empty file.
    let mut outputs = match Outputs::open_files(output.as_deref(), None) {
        Ok(outputs) => outputs,
        Err(error) => return told(&error, code_of_output(&error)),
    };
    let written = outputs.write(&result);
    match all_written(written, say_result(&result, json_output)) {
        Ok(()) => code_of(&result, false),
        Err(error) => told(&error, COULD_NOT_RUN),
    }
}
