//! `coordinator`: parse → plan → fleet → drive → merge → print → exit code. Also `coordinator merge`.

use std::ffi::OsString;
use std::process::ExitCode;

use postgres_load_test::program::{
    self, BUG, COULD_NOT_RUN, CoordinatorOptions, Environment, FleetError, FleetPlan, INTERRUPTED, Stopped,
    code_of_output, note,
};

const PROGRAM: &str = "coordinator";
const MERGE: &str = "merge";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    ExitCode::from(match arguments.get(1) {
        Some(first) if first == MERGE => program::merge(arguments.into_iter().skip(1)),
        _ => coordinator(arguments),
    })
}

fn coordinator(arguments: Vec<OsString>) -> u8 {
    if let Err(error) = program::hide_connection_string(&arguments) {
        note(&format!("error: the connection string could not be hidden: {error}"));
        return COULD_NOT_RUN;
    }
    // Some descriptors for each VM.
    program::raise_open_files();
    let (mut options, faults) = match CoordinatorOptions::parse_from_arguments(arguments) {
        Ok(read) => read,
        Err(error) => return program::wrong_use(&error, PROGRAM),
    };
    options.target.is_url_from_variable = program::url_name() == program::URL_VARIABLE;
    let plan = FleetPlan::resolve(&options, &Environment::of_process(), program::unix_ns(), &program::read_list);
    let plan = match program::all_or_faults(faults, plan) {
        Ok(plan) => plan,
        Err(faults) => return program::refuse(&faults, PROGRAM),
    };
    let hint = plan.plan.database.hint;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(program::coordinate(plan)));
    outcome.unwrap_or_else(|error| {
        program::say_error(&error);
        hint.into_iter().for_each(note);
        code_of_error(&error)
    })
}

fn code_of_error(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<FleetError>() {
        Some(FleetError::Merge(error)) if error.is_bug() => BUG,
        None if error.is::<Stopped>() => INTERRUPTED,
        _ => error.downcast_ref().map_or(COULD_NOT_RUN, code_of_output),
    }
}
