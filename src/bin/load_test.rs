//! `load_test`: parse → plan → prepare → drive → print → exit code.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::CommandFactory;
use postgres_load_test::agent::{self, Ending};
use postgres_load_test::cli::options::LoadTestOptions;
use postgres_load_test::cli::plan::Plan;
use postgres_load_test::cli::{handover, options};
use postgres_load_test::console::lines::{self, Lines};
use postgres_load_test::console::{
    self, BUG, COULD_NOT_RUN, INTERRUPTED, SECONDS_BETWEEN_LINES, Stopped, code_of, code_of_output, note, say,
    say_result,
};
use postgres_load_test::engine::{Event, Incident, RunRecord};
use postgres_load_test::monitor::docker::ContainerSample;
use postgres_load_test::postgres::conninfo::Environment;
use postgres_load_test::report::live::Progress;
use postgres_load_test::report::outputs::{Outputs, all_written};
use postgres_load_test::report::text;
use postgres_load_test::run::{self, Live, RunError};
use postgres_load_test::signals::Stops;
use postgres_load_test::text::terminal;
use postgres_load_test::{clock, machine};

const PROGRAM: &str = "load_test";
const AGENT: &str = "--agent";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.iter().any(|argument| argument == AGENT) {
        // Its secrets come with its orders, on the standard input that is needed for them.
        return agent();
    }
    let (secrets, arguments) = match handover::hide_secrets(arguments) {
        Ok(split) => split,
        Err(error) => {
            return failure(&anyhow::Error::new(error).context("the password could not be taken out of sight"));
        }
    };
    let mut options: LoadTestOptions = match options::read(LoadTestOptions::command(), arguments) {
        Ok(options) => options,
        Err(error) => return ExitCode::from(console::wrong_use(&error, PROGRAM)),
    };
    let environment = secrets.put_back(Environment::of_process());
    secrets.put_into(&mut options.target);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let plan = match Plan::resolve(&options, &environment, clock::unix_ns(), processors) {
        Ok(plan) => plan,
        Err(faults) => return ExitCode::from(console::refuse(&faults, PROGRAM)),
    };
    if let Err(lack) = machine::check(&plan, &machine::Room::of_process()) {
        return failure(&anyhow::Error::msg(lack));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error.into()),
    };
    let hint = plan.hint;
    let code = match runtime.block_on(load_test(plan)) {
        Ok(code) => code,
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

/// One of several machines: the coordinator says what to do.
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
    let ending = runtime.block_on(agent::serve(input, output, on_hang));
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

async fn load_test(plan: Plan) -> Result<ExitCode> {
    let mut outputs = Outputs::open(&plan)?;
    let mut stops = Stops::listen()?;
    let Some(mut live) = make_ready(&plan, &mut stops).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    if !plan.json_output {
        say("Starting workers...\n")?;
    }
    outputs.begin_hdr_log(live.epoch().unix_ns)?;
    let (record, signals) = drive(&plan, &mut live, &mut outputs, &mut stops).await?;
    let mut stopped = signals > 0;
    // Who has pressed twice waits for nothing more.
    let verification = if signals > 1 {
        live.unverified(&record)
    } else {
        if plan.verify {
            note("  Comparing the rows in the database with what was acknowledged...");
        }
        tokio::select! {
            verification = live.verify(&record) => verification,
            () = stops.next() => {
                stopped = true;
                live.unverified(&record)
            }
        }
    };
    live.release().await;
    let result = live.conclude(&record, verification, stopped)?;
    // Both are tried before either's failure ends the program: a full disk must not cost the report.
    let written = outputs.write(&result);
    all_written(written, say_result(&result, plan.json_output))?;
    Ok(ExitCode::from(code_of(&result, stopped)))
}

/// Server, tables, connections, T0; `None` where only the set-up was asked for.
async fn make_ready(plan: &Plan, stops: &mut Stops) -> Result<Option<Live>> {
    let verbose = plan.verbose;
    let mut tell = move |what: &str| {
        if verbose {
            note(what);
        }
    };
    let for_server = plan.clone();
    let mut starting = tokio::task::spawn_blocking(move || run::start_server(&for_server));
    let server = tokio::select! {
        server = &mut starting => server??,
        () = stops.next() => {
            // Whatever has been started by now is removed when it is dropped here.
            drop(starting.await);
            return Err(Stopped.into());
        }
    };
    let ready = async {
        let pool = (!plan.setup_only).then(|| plan.workload.pool(plan.engine.schedule.seed));
        let reached = run::reach(plan, server, &mut tell).await?;
        let database = run::set_up(plan, reached, pool.as_ref(), &mut tell).await?;
        let Some(pool) = pool else {
            let tables = database.info().tables.as_deref().unwrap_or_default();
            let ready = format!("Ready: {tables} tables in {}", database.describe());
            if plan.json_output {
                note(&ready)
            } else {
                say(&format!("{ready}\n"))?
            }
            return Ok(None);
        };
        let ready = run::prepare(plan.clone(), database, pool, &mut tell).await?;
        if !plan.json_output {
            let mut header = Vec::new();
            text::header(&mut header, &text::Header::new(&ready))?;
            say(&String::from_utf8_lossy(&header))?;
        }
        ready.clock_warning().iter().for_each(|warning| note(&format!("warning: {warning}")));
        anyhow::Ok(Some(ready.start()?))
    };
    tokio::select! {
        live = ready => live,
        () = stops.next() => Err(Stopped.into()),
    }
}

/// Shows the run until it is over. The first signal stops it gently, the second one at once. Returns how many came.
async fn drive(plan: &Plan, live: &mut Live, outputs: &mut Outputs, stops: &mut Stops) -> Result<(RunRecord, u32)> {
    let mut screen = Screen::new(plan, live.planned_seconds());
    let mut signals = 0;
    loop {
        let event = tokio::select! {
            event = live.next() => event?,
            () = stops.next() => {
                signals += 1;
                screen.stopping(signals);
                live.stop(signals > 1);
                continue;
            }
        };
        match event {
            Event::Second { index, recorded } => {
                let interval = recorded.interval();
                outputs.second(index, &interval);
                screen.progress.add(index, &interval);
                screen.aborting(live);
                screen.show(live);
            }
            Event::Incident(incident) => screen.incident(&incident),
            Event::Finished(record) => {
                screen.end();
                return Ok((*record, signals));
            }
        }
    }
}

/// Progress on stderr: a line that is kept up to date on a terminal, otherwise a line every few seconds.
struct Screen {
    progress: Progress,
    terminal: Option<Lines>,
    verbose: bool,
    lines: u64,
    said_aborted: bool,
}

impl Screen {
    fn new(plan: &Plan, seconds: u64) -> Self {
        let (progress, terminal) = (Progress::new(seconds), Lines::on_terminal());
        let mut screen = Self { progress, terminal, verbose: plan.verbose, lines: 0, said_aborted: false };
        screen.draw(None);
        screen
    }

    fn draw(&mut self, container: Option<ContainerSample>) {
        if let Some(terminal) = &mut self.terminal {
            terminal.draw(vec![self.progress.terminal_line(lines::columns() - 1, container)]);
        }
    }

    fn show(&mut self, live: &Live) {
        let container = live.container();
        if self.terminal.is_some() {
            self.draw(container);
        } else if self.progress.seconds() / SECONDS_BETWEEN_LINES > self.lines
            && console::is_read_within(Duration::ZERO)
        {
            self.lines = self.progress.seconds() / SECONDS_BETWEEN_LINES;
            note(&format!("  {}", self.progress.line(container)));
        }
    }

    fn incident(&mut self, incident: &Incident) {
        let (what, failure) = match incident {
            Incident::NewError(failure) => ("first of its kind", failure),
            Incident::ReconnectFailed(failure) => ("while connecting anew", failure),
            Incident::StoodStill { started_s, seconds } => {
                self.print(&format!("  The generator stood still for {seconds:.1} s at {started_s:.1} s"));
                return;
            }
        };
        if self.verbose {
            self.print(&terminal::printable(&format!("error ({what}): {}: {}", failure.class, failure.message)));
        }
    }

    /// Says so, once, where the run ends itself.
    fn aborting(&mut self, live: &Live) {
        if let Some(reason) = live.aborted().filter(|_| !self.said_aborted) {
            self.said_aborted = true;
            self.progress.close();
            self.print(&format!("{reason}; waiting for requests in flight"));
        }
    }

    fn stopping(&mut self, signals: u32) {
        // From here on only answers are waited for.
        self.progress.close();
        self.print(console::stopping(signals));
    }

    fn print(&mut self, line: &str) {
        match &mut self.terminal {
            Some(terminal) => terminal.print_above(line),
            None => note(line),
        }
    }

    fn end(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.clear();
        }
    }
}

fn failure(error: &anyhow::Error) -> ExitCode {
    console::say_error(error);
    ExitCode::from(match error.downcast_ref::<RunError>() {
        Some(error) if error.is_bug() => BUG,
        None if error.is::<Stopped>() => INTERRUPTED,
        _ => error.downcast_ref().map_or(COULD_NOT_RUN, code_of_output),
    })
}
