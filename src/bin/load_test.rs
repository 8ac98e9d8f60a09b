//! `load_test`: parse → plan → run → exit code. Also `load_test report`.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use clap::CommandFactory;
use postgres_load_test::program::{
    self, BUG, COULD_NOT_RUN, Ending, Environment, INTERRUPTED, LoadTestOptions, Plan, RunError, Stopped,
    code_of_output, note,
};

const PROGRAM: &str = "load_test";
const AGENT: &str = "--agent";
const REPORT: &str = "report";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == REPORT) {
        return ExitCode::from(program::report(arguments.into_iter().skip(1)));
    }
    if arguments.iter().any(|argument| argument == AGENT) {
        return agent();
    }
    if let Err(error) = program::hide_connection_string(&arguments) {
        return failure(&anyhow::Error::new(error).context("the connection string could not be hidden"));
    }
    let (mut options, faults) = match program::read::<LoadTestOptions>(&LoadTestOptions::command(), arguments) {
        Ok(read) => read,
        Err(error) => return ExitCode::from(program::wrong_use(&error, PROGRAM)),
    };
    options.target.is_url_from_variable = program::url_name() == program::URL_VARIABLE;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let plan = Plan::resolve(&options, &Environment::of_process(), program::unix_ns(), processors);
    let plan = match program::all_or_faults(faults, plan) {
        Ok(plan) => plan,
        Err(faults) => return ExitCode::from(program::refuse(&faults, PROGRAM)),
    };
    if let Err(lack) = program::check_machine(&plan, &program::Room::of_process()) {
        return failure(&anyhow::Error::msg(lack));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error.into()),
    };
    let hint = plan.database.hint;
    let code = match runtime.block_on(program::load_test(plan)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = failure(&error);
            hint.into_iter().for_each(note);
            code
        }
    };
    // A server that is still starting must be waited for, or nobody would stop it.
    drop(runtime);
    code
}

/// One of several VMs: the coordinator says what to do.
fn agent() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error.into()),
    };
    // Files of its own, because the library's locks and buffers would be in the way of ending at any time.
    let own = |descriptor: BorrowedFd| descriptor.try_clone_to_owned().map(File::from);
    let (input, output) = match (own(io::stdin().as_fd()), own(io::stdout().as_fd())) {
        (Ok(input), Ok(output)) => (input, output),
        (Err(error), _) | (_, Err(error)) => return failure(&error.into()),
    };
    let on_hang = || std::process::exit(i32::from(COULD_NOT_RUN));
    let ending = runtime.block_on(program::serve_coordinator(input, output, on_hang));
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
    match ending {
        Ending::Done => ExitCode::SUCCESS,
        Ending::Failed => ExitCode::from(COULD_NOT_RUN),
        Ending::Abandoned(reason) => {
            note(&format!("error: the agent ends: {reason}"));
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

fn failure(error: &anyhow::Error) -> ExitCode {
    program::say_error(error);
    ExitCode::from(match error.downcast_ref::<RunError>() {
        Some(error) if error.is_bug() => BUG,
        None if error.is::<Stopped>() => INTERRUPTED,
        _ => error.downcast_ref().map_or(COULD_NOT_RUN, code_of_output),
    })
}
