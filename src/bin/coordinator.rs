//! `coordinator`: parse → plan → fleet → drive → merge → print → exit code. Also `coordinator merge`.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::CommandFactory;
use postgres_load_test::cli::options::{CoordinatorOptions, HostKeys, MergeCommand, json_to};
use postgres_load_test::cli::plan::OutputPlan;
use postgres_load_test::cli::{self, handover};
use postgres_load_test::console::lines::{self, Lines};
use postgres_load_test::console::{
    self, BUG, COULD_NOT_RUN, INTERRUPTED, SECONDS_BETWEEN_LINES, Stopped, WRONG_USE, code_of, code_of_output, note,
    say, say_result,
};
use postgres_load_test::fleet::plan::FleetPlan;
use postgres_load_test::fleet::{Fleet, FleetError, FleetEvent, HOST_KEYS_OFF};
use postgres_load_test::merge::command::{self, CommandError};
use postgres_load_test::merge::files::ReadError;
use postgres_load_test::postgres::conninfo::Environment;
use postgres_load_test::report::exporters::{Exporters, all_written};
use postgres_load_test::report::header::{FleetHeader, fleet_header};
use postgres_load_test::report::live_fleet::{FleetProgress, waiting};
use postgres_load_test::report::preflight;
use postgres_load_test::result::RunResult;
use postgres_load_test::run::aborts;
use postgres_load_test::signals::Stops;
use postgres_load_test::text::terminal;
use postgres_load_test::{clock, machine};
use tokio::time::MissedTickBehavior;

const PROGRAM: &str = "coordinator";
const MERGE: &str = "merge";

/// How often the lines of all VMs are drawn where no second is complete: there may be a hundred VMs, each with a second of
/// its own.
const DRAWN_EVERY: Duration = Duration::from_millis(250);

/// The longest list of hosts that is read, bytes.
const MOST_LIST_BYTES: u64 = 16 << 20;

/// How often it is looked whether only results are waited for.
const LOOK: Duration = Duration::from_secs(1);
/// After the window has closed and no second was told for so long, only results are waited for.
const SILENT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == MERGE) {
        return ExitCode::from(merge(arguments));
    }
    if let Err(error) = handover::hide_connection_string(&arguments) {
        note(&format!("error: the connection string could not be hidden: {error}"));
        return ExitCode::from(COULD_NOT_RUN);
    }
    // Some descriptors for each machine.
    machine::raise_open_files();
    let (mut options, faults) = match CoordinatorOptions::parse_from_arguments(arguments) {
        Ok(read) => read,
        Err(error) => return ExitCode::from(console::wrong_use(&error, PROGRAM)),
    };
    options.target.is_url_from_variable = handover::url_name() == handover::URL_VARIABLE;
    let plan = FleetPlan::resolve(&options, &Environment::of_process(), clock::unix_ns(), &read_list);
    let plan = match cli::all_or_faults(faults, plan) {
        Ok(plan) => plan,
        Err(faults) => return ExitCode::from(console::refuse(&faults, PROGRAM)),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error.into()),
    };
    let hint = plan.plan.database.hint;
    match runtime.block_on(coordinate(plan)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = failure(&error);
            hint.into_iter().for_each(note);
            code
        }
    }
}

/// The text of a list of hosts; what is longer is none, such as a disk.
fn read_list(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MOST_LIST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_LIST_BYTES { Err(io::Error::other("it is longer than 16 MB")) } else { Ok(text) }
}

fn merge(arguments: Vec<OsString>) -> u8 {
    let options = match cli::read(&MergeCommand::command(), arguments.into_iter().skip(1)) {
        Ok((MergeCommand { options }, faults)) if faults.is_empty() => options,
        Ok((_, faults)) => return console::refuse(&faults, "coordinator merge"),
        Err(error) => return console::wrong_use(&error, "coordinator merge"),
    };
    let told = |error: &dyn std::fmt::Display, code| {
        note(&format!("error: {}", terminal::printable_lines(&error.to_string())));
        code
    };
    let (json_output, output) = json_to(options.json_output, options.output.as_deref());
    let result = match command::run(&options, &mut io::stdin().lock()) {
        Ok(result) => result,
        Err(error @ CommandError::Read(ReadError::NothingNamed)) => return told(&error, WRONG_USE),
        Err(CommandError::Merge(error)) if error.is_bug() => return told(&error, BUG),
        Err(error) => return told(&error, COULD_NOT_RUN),
    };
    // Opened only now, so that a refusal leaves no empty file.
    let mut outputs = match Exporters::open(&OutputPlan { json_file: output, ..OutputPlan::default() }) {
        Ok(outputs) => outputs,
        Err(error) => return told(&error, code_of_output(&error)),
    };
    let written = outputs.finish(&result);
    match all_written(written, say_result(&result, json_output)) {
        Ok(()) => code_of(&result, false),
        Err(error) => told(&error, COULD_NOT_RUN),
    }
}

/// Everything between the command line and the exit code. Whatever happens, nothing is left on the machines.
async fn coordinate(plan: FleetPlan) -> Result<u8> {
    let mut outputs = Exporters::open(&plan.plan.output)?;
    let mut stops = Stops::listen()?;
    let mut fleet = Fleet::new(plan)?;
    let outcome = test(&mut fleet, &mut outputs, &mut stops).await;
    // Tidying up takes some seconds at most; who has no patience for it has pressed more than twice by then.
    tokio::select! {
        () = fleet.shut_down() => {}
        () = async { for _ in 0..2 { stops.next().await } } => note("Left without tidying up; what is left ends by itself."),
    }
    let Some((result, stopped)) = outcome? else { return Ok(0) };
    Ok(code_of(&result, stopped))
}

/// The phases in their order; `None` where only the set-up was asked for.
async fn test(fleet: &mut Fleet, outputs: &mut Exporters, stops: &mut Stops) -> Result<Option<(RunResult, bool)>> {
    let (json, setup_only) = (fleet.plan().plan.output.is_json, fleet.plan().plan.database.setup_only);
    let ready = async {
        make_ready(fleet).await?;
        if setup_only { Ok(()) } else { begin(fleet, json).await }
    };
    tokio::select! {
        ready = ready => ready?,
        () = stops.next() => return Err(Stopped.into()),
    }
    if setup_only {
        let there = fleet.members().iter().filter(|member| member.is_present()).count();
        let ready = format!("Ready: {} of {} set up the tables", there, machines(fleet.members().len()));
        if json {
            note(&ready)
        } else {
            say(&format!("{ready}\n"))?
        }
        return Ok(None);
    }
    outputs.begin(fleet.t0_unix_ns())?;
    let (mut stopped, aborted) = drive(fleet, outputs, stops).await;
    let tickets = tokio::select! {
        tickets = fleet.count_tickets() => tickets,
        () = stops.next() => {
            stopped = true;
            Err("it was interrupted".to_owned())
        }
    };
    let result = fleet.conclude(aborted, tickets, stopped).await?;
    // Both are tried before either's failure ends the program: a full disk must not cost the report.
    let written = outputs.finish(&result);
    all_written(written, say_result(&result, json))?;
    Ok(Some((result, stopped)))
}

/// Connected, looked at, set up.
async fn make_ready(fleet: &mut Fleet) -> Result<()> {
    if fleet.plan().ssh.host_keys == HostKeys::Off {
        note(&format!("warning: {HOST_KEYS_OFF}"));
    }
    let all = fleet.members().len();
    let is_quiet = fleet.plan().plan.output.quiet;
    tell(is_quiet, &format!("Connecting to {} ...", machines(all)));
    let mut told = 0;
    let mut tell_connected = |there: usize| {
        // Some lines for many machines, none for a few.
        if there >= told + 16 && there < all {
            told = there;
            tell(is_quiet, &format!("  {there} of {all} are there"));
        }
    };
    let connected = fleet.connect(&mut tell_connected).await;
    for warning in fleet.warnings() {
        note(&format!("warning: {warning}"));
    }
    let looked = match connected {
        Ok(()) => fleet.preflight().await,
        failed => failed,
    };
    let mut table = Vec::new();
    preflight::table(&mut table, fleet.members(), looked.is_ok(), lines::columns() - 1)?;
    tell(is_quiet && looked.is_ok(), String::from_utf8_lossy(&table).trim_end());
    looked?;
    tell(is_quiet, "Setting up the database ...");
    Ok(fleet.set_up().await?)
}

/// Connections, header, T0.
async fn begin(fleet: &mut Fleet, json: bool) -> Result<()> {
    let is_quiet = fleet.plan().plan.output.quiet;
    tell(is_quiet, "Opening connections ...");
    fleet.open_connections().await?;
    if !json {
        let mut header = Vec::new();
        write_header(&mut header, fleet)?;
        say(&format!("\n{}", String::from_utf8_lossy(&header)))?;
    }
    fleet.start().await?;
    tell(
        is_quiet,
        &format!("Starting {} ...", machines(fleet.members().iter().filter(|member| member.is_present()).count())),
    );
    Ok(())
}

/// Says how far the test is, unless `--quiet` is given.
fn tell(is_quiet: bool, line: &str) {
    if !is_quiet {
        note(line);
    }
}

fn write_header(out: &mut Vec<u8>, fleet: &Fleet) -> io::Result<()> {
    let members = fleet.members();
    let Some(ready) = members.iter().find_map(|member| member.ready.as_ref()) else { return Ok(()) };
    let mut config = ready.config.clone();
    config.workers_per_vm = Some(config.workers);
    config.workers *= members.iter().filter(|member| member.ready.is_some()).count();
    let per_vm_rps = fleet.plan().rps_per_vm.or(config.target_rps.map(|total| total / members.len() as f64));
    let vms: Vec<String> = members.iter().map(|member| member.host.name.clone()).collect();
    let target_note = fleet.plan().url_from.as_str();
    fleet_header(out, &FleetHeader { config: &config, server: &ready.server, vms: &vms, per_vm_rps, target_note })
}

fn machines(number: usize) -> String {
    if number == 1 { "1 machine".to_owned() } else { format!("{number} machines") }
}

/// Shows the run until it is over. The first signal stops it gently, the second one at once. Returns whether one came,
/// and why the test ended itself, where it did.
async fn drive(fleet: &mut Fleet, outputs: &mut Exporters, stops: &mut Stops) -> (bool, Option<String>) {
    let mut screen = Screen::new(fleet);
    let (mut signals, mut failed, mut aborted) = (0, 0u64, None);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = fleet.next() => event,
            _ = looks.tick() => {
                screen.waiting(fleet.plan().plan.database.verify);
                continue;
            }
            () = stops.next() => {
                // The windows have closed by the time that only results are waited for.
                signals += if screen.waits_for_results() { 2 } else { 1 };
                screen.stopping(signals);
                fleet.stop(signals > 1);
                continue;
            }
        };
        match event {
            FleetEvent::Second { host, index, interval } => {
                screen.last_second = Instant::now();
                failed = failed.saturating_add(interval.errors);
                screen.progress.add(host, index, &interval);
                let reason = aborts(fleet.plan().plan.abort_on_errors, failed).filter(|_| aborted.is_none());
                if let Some(reason) = reason {
                    fleet.stop(false);
                    screen.close();
                    screen.print(&format!("{reason}; waiting for requests in flight"));
                    aborted = Some(reason);
                }
            }
            FleetEvent::Incident { host, class, message } => screen.incident(fleet, host, &class, &message),
            FleetEvent::Delivered { host } => screen.progress.gone(host, "done"),
            FleetEvent::Lost { host } => screen.lost(fleet, host),
            FleetEvent::Finished => {
                screen.seconds(outputs);
                screen.end();
                return (signals > 0, aborted);
            }
        }
        let has_new = screen.seconds(outputs);
        screen.show(has_new);
    }
}

/// Progress on stderr: a line a machine and one for all on a terminal, otherwise a line every few seconds.
struct Screen {
    progress: FleetProgress,
    terminal: Option<Lines>,
    shown: Instant,
    verbose: bool,
    is_quiet: bool,
    lines: u64,
    /// When a VM last told of a second.
    last_second: Instant,
    /// Lines that said what is waited for.
    waits: u64,
    /// Whether the window was closed early.
    closed: bool,
}

impl Screen {
    fn new(fleet: &Fleet) -> Self {
        let plan = &fleet.plan().plan;
        let seconds = plan.engine.schedule.end_ns().div_ceil(1_000_000_000);
        let names = fleet.members().iter().map(|member| member.host.name.as_str());
        let mut progress = FleetProgress::new(names, seconds);
        for (host, member) in fleet.members().iter().enumerate() {
            if !member.is_present() {
                progress.gone(host, "lost");
            }
        }
        let terminal = Lines::on_terminal().filter(|_| !plan.output.quiet);
        let shown = Instant::now();
        let mut screen = Self {
            progress,
            terminal,
            shown,
            verbose: plan.output.verbose,
            is_quiet: plan.output.quiet,
            lines: 0,
            last_second: Instant::now(),
            waits: 0,
            closed: false,
        };
        screen.show(true);
        screen
    }

    /// Takes in the seconds that are complete; false where there is none.
    fn seconds(&mut self, outputs: &mut Exporters) -> bool {
        let complete = self.progress.complete();
        for (index, interval) in &complete {
            outputs.second(*index, interval);
        }
        !complete.is_empty()
    }

    /// Shows what is known now; not with every VM's second, but with the last one of them, or where it is late.
    fn show(&mut self, has_new: bool) {
        let total = &self.progress.total;
        if let Some(terminal) = &mut self.terminal {
            if !has_new && self.shown.elapsed() < DRAWN_EVERY {
                return;
            }
            self.shown = Instant::now();
            let (columns, rows) = lines::size();
            terminal.draw(self.progress.terminal_lines(columns - 1, rows));
        } else if !self.is_quiet
            && total.seconds() / SECONDS_BETWEEN_LINES > self.lines
            && console::is_read_within(Duration::ZERO)
        {
            self.lines = total.seconds() / SECONDS_BETWEEN_LINES;
            let lost = match self.progress.lost() {
                0 => String::new(),
                lost => format!(", {} lost", machines(lost)),
            };
            note(&format!("  {}{lost}", total.line(&[])));
        }
    }

    fn close(&mut self) {
        self.progress.close();
        self.closed = true;
    }

    /// Whether the load is over, and nothing is told any more until the results come.
    fn waits_for_results(&self) -> bool {
        (self.closed || self.progress.total.is_over()) && self.last_second.elapsed() > SILENT
    }

    fn waiting(&mut self, verifying: bool) {
        if self.is_quiet || !self.waits_for_results() || !console::is_read_within(Duration::ZERO) {
            return;
        }
        let silent = self.last_second.elapsed().as_secs();
        let text = waiting(&self.progress.awaited(), silent, verifying);
        match &mut self.terminal {
            Some(terminal) => {
                let (columns, _) = lines::size();
                terminal.draw(vec![terminal::cut(&format!("  {text}"), columns - 1)]);
            }
            None if silent / SECONDS_BETWEEN_LINES >= self.waits => {
                self.waits = silent / SECONDS_BETWEEN_LINES + 1;
                note(&format!("  {text}"));
            }
            None => {}
        }
    }

    fn incident(&mut self, fleet: &Fleet, host: usize, class: &str, message: &str) {
        if self.verbose {
            let name = &fleet.members()[host].host.name;
            self.print(&terminal::printable(&format!("{name}: first error of its kind: {class}: {message}")));
        }
    }

    fn lost(&mut self, fleet: &Fleet, host: usize) {
        self.progress.gone(host, "lost");
        let member = &fleet.members()[host];
        let reason = member.lost.as_deref().unwrap_or("nothing is known");
        self.print(&terminal::printable_lines(&format!("LOST {}: {reason}", member.host.name)));
    }

    fn stopping(&mut self, signals: u32) {
        // From here on only answers are waited for.
        self.close();
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
    ExitCode::from(match error.downcast_ref::<FleetError>() {
        Some(FleetError::Merge(error)) if error.is_bug() => BUG,
        None if error.is::<Stopped>() => INTERRUPTED,
        _ => error.downcast_ref().map_or(COULD_NOT_RUN, code_of_output),
    })
}
