//! `coordinator`: parse → plan → fleet → drive → merge → print → exit code. Also `coordinator merge`.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use postgres_load_test::console::{
    self, BUG, COULD_NOT_RUN, INTERRUPTED, SECONDS_BETWEEN_LINES, Stopped, WRONG_USE, code_of, note, say, say_result,
};
use postgres_load_test::fleet::plan::FleetPlan;
use postgres_load_test::fleet::{Fleet, FleetError, FleetEvent, HOST_KEYS_OFF};
use postgres_load_test::merge::command::{self, CommandError};
use postgres_load_test::merge::files::ReadError;
use postgres_load_test::options::{CoordinatorOptions, MergeOptions};
use postgres_load_test::report::fleet::{FleetHeader, fleet_header};
use postgres_load_test::report::live_fleet::FleetProgress;
use postgres_load_test::report::outputs::{Outputs, all_written};
use postgres_load_test::report::{preflight, text};
use postgres_load_test::result::RunResult;
use postgres_load_test::run::aborts;
use postgres_load_test::signals::Stops;
use postgres_load_test::{clock, handover, machine};

const PROGRAM: &str = "coordinator";
const MERGE: &str = "merge";

/// The longest list of hosts that is read, bytes.
const MOST_LIST_BYTES: u64 = 16 << 20;

/// Lines of the terminal that are not for machines.
const OTHER_LINES: usize = 3;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == MERGE) {
        return ExitCode::from(merge(arguments));
    }
    let (secrets, arguments) = match handover::hide_secrets(arguments) {
        Ok(split) => split,
        Err(error) => {
            note(&format!("error: the connection string could not be taken out of sight: {error}"));
            return ExitCode::from(COULD_NOT_RUN);
        }
    };
    // Some descriptors for each machine.
    machine::raise_open_files();
    let options = match CoordinatorOptions::parse_from_arguments(arguments) {
        Ok(options) => options,
        Err(error) => return ExitCode::from(console::wrong_use(&error, PROGRAM)),
    };
    let plan = match FleetPlan::resolve(&options, &secrets, clock::unix_ns(), &read_list) {
        Ok(plan) => plan,
        Err(faults) => return ExitCode::from(console::refuse(&faults, PROGRAM)),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error.into()),
    };
    match runtime.block_on(coordinate(plan)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => failure(&error),
    }
}

/// The text of a list of hosts; what is longer is none, such as a disk.
fn read_list(path: &Path) -> io::Result<String> {
    let is_input = ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|input| path == Path::new(input));
    if is_input && handover::has_replaced_input() {
        return Err(io::Error::other(
            "standard input cannot be read where a connection string or PGPASSWORD is given; use a file, or @<(...)",
        ));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(MOST_LIST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_LIST_BYTES { Err(io::Error::other("it is longer than 16 MB")) } else { Ok(text) }
}

/// Merges the JSON results of load_test --share 1/N ... N/N into one, exactly
#[derive(Parser)]
#[command(
    name = "merge",
    bin_name = "coordinator merge",
    max_term_width = 100,
    args_override_self = true,
    allow_negative_numbers = true,
    after_help = "Exit codes: 0 PASSED; 1 DEGRADED, FAILED or INVALID; 2 wrong use; 3 it could not be merged."
)]
struct Merge {
    #[command(flatten)]
    options: MergeOptions,
}

fn merge(arguments: Vec<OsString>) -> u8 {
    let options = match Merge::try_parse_from(arguments.into_iter().skip(1)) {
        Ok(Merge { options }) => options,
        Err(error) => return console::wrong_use(&error, "coordinator merge"),
    };
    let told = |error: &dyn std::fmt::Display, code| {
        note(&format!("error: {}", text::printable(&error.to_string())));
        code
    };
    let result = match command::run(&options, &mut io::stdin().lock()) {
        Ok(result) => result,
        Err(CommandError::Options(faults)) => return console::refuse(&faults, "coordinator merge"),
        Err(error @ CommandError::Read(ReadError::NothingNamed)) => return told(&error, WRONG_USE),
        Err(CommandError::Merge(error)) if error.is_bug() => return told(&error, BUG),
        Err(error) => return told(&error, COULD_NOT_RUN),
    };
    // Opened only now, so that a refusal leaves no empty file.
    let mut outputs = match Outputs::open_files(options.output.as_deref(), None) {
        Ok(outputs) => outputs,
        Err(error) => return told(&error, COULD_NOT_RUN),
    };
    let written = outputs.write(&result);
    match all_written(written, say_result(&result, options.json_output)) {
        Ok(()) => code_of(&result, false),
        Err(error) => told(&error, COULD_NOT_RUN),
    }
}

/// Everything between the command line and the exit code. Whatever happens, nothing is left on the machines.
async fn coordinate(plan: FleetPlan) -> Result<u8> {
    let mut outputs = Outputs::open(&plan.plan)?;
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
async fn test(fleet: &mut Fleet, outputs: &mut Outputs, stops: &mut Stops) -> Result<Option<(RunResult, bool)>> {
    let (json, setup_only) = (fleet.plan().plan.json_output, fleet.plan().plan.setup_only);
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
    outputs.begin_hdr_log(fleet.t0_unix_ns())?;
    let (mut stopped, aborted) = drive(fleet, outputs, stops).await;
    let tickets = tokio::select! {
        tickets = fleet.count_tickets() => tickets,
        () = stops.next() => {
            stopped = true;
            Err("it was interrupted".to_owned())
        }
    };
    let result = fleet.conclude(aborted, tickets).await?;
    // Both are tried before either's failure ends the program: a full disk must not cost the report.
    let written = outputs.write(&result);
    all_written(written, say_result(&result, json))?;
    Ok(Some((result, stopped)))
}

/// Connected, looked at, set up.
async fn make_ready(fleet: &mut Fleet) -> Result<()> {
    if fleet.plan().ssh.host_keys == postgres_load_test::fleet::ssh::HostKeys::Off {
        note(&format!("warning: {HOST_KEYS_OFF}"));
    }
    let all = fleet.members().len();
    note(&format!("Connecting to {} ...", machines(all)));
    let mut told = 0;
    let mut tell = |there: usize| {
        // Some lines for many machines, none for a few.
        if there >= told + 16 && there < all {
            told = there;
            note(&format!("  {there} of {all} are there"));
        }
    };
    let connected = fleet.connect(&mut tell).await;
    let looked = match connected {
        Ok(()) => fleet.preflight().await,
        failed => failed,
    };
    let mut table = Vec::new();
    preflight::table(&mut table, fleet.members(), looked.is_ok())?;
    note(String::from_utf8_lossy(&table).trim_end());
    looked?;
    note("Setting up the database ...");
    Ok(fleet.set_up().await?)
}

/// Connections, header, T0.
async fn begin(fleet: &mut Fleet, json: bool) -> Result<()> {
    note("Opening connections ...");
    fleet.open_connections().await?;
    if !json {
        let mut header = Vec::new();
        write_header(&mut header, fleet)?;
        say(&format!("\n{}", String::from_utf8_lossy(&header)))?;
    }
    fleet.start().await?;
    note(&format!("Starting {} ...", machines(fleet.members().iter().filter(|member| member.is_present()).count())));
    Ok(())
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
async fn drive(fleet: &mut Fleet, outputs: &mut Outputs, stops: &mut Stops) -> (bool, Option<String>) {
    let mut screen = Screen::new(fleet);
    let (mut signals, mut failed, mut aborted) = (0, 0u64, None);
    loop {
        let event = tokio::select! {
            event = fleet.next() => event,
            () = stops.next() => {
                signals += 1;
                screen.stopping(signals);
                fleet.stop(signals > 1);
                continue;
            }
        };
        match event {
            FleetEvent::Second { host, index, interval } => {
                failed = failed.saturating_add(interval.errors);
                screen.progress.add(host, index, &interval);
                let reason = aborts(fleet.plan().plan.abort_on_errors, failed).filter(|_| aborted.is_none());
                if let Some(reason) = reason {
                    fleet.stop(false);
                    screen.progress.close();
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
        screen.seconds(outputs);
        screen.show();
    }
}

/// Progress on stderr: a line a machine and one for all on a terminal, otherwise a line every few seconds.
struct Screen {
    progress: FleetProgress,
    bars: Option<Bars>,
    verbose: bool,
    lines: u64,
}

struct Bars {
    all: MultiProgress,
    machines: Vec<ProgressBar>,
    more: Option<ProgressBar>,
    total: ProgressBar,
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
        let bars = io::stderr().is_terminal().then(|| Bars::new(progress.machines(), seconds)).flatten();
        Self { progress, bars, verbose: plan.verbose, lines: 0 }
    }

    /// Takes in the seconds that are complete.
    fn seconds(&mut self, outputs: &mut Outputs) {
        for (index, interval) in self.progress.complete() {
            outputs.second(index, &interval);
        }
    }

    fn show(&mut self) {
        if !console::is_read_within(Duration::ZERO) {
            return;
        }
        let total = &self.progress.total;
        if let Some(bars) = &self.bars {
            for (host, bar) in bars.machines.iter().enumerate() {
                bar.set_message(self.progress.line(host));
            }
            bars.total.set_position(total.seconds().min(bars.total.length().unwrap_or(u64::MAX)));
            let draining = if total.is_draining() { "draining, " } else { "" };
            bars.total.set_message(format!("{draining}{}", total.recent()));
        } else if total.seconds() / SECONDS_BETWEEN_LINES > self.lines {
            self.lines = total.seconds() / SECONDS_BETWEEN_LINES;
            let lost = match self.progress.lost() {
                0 => String::new(),
                lost => format!(", {} lost", machines(lost)),
            };
            note(&format!("  {}{lost}", total.line(None)));
        }
    }

    fn incident(&self, fleet: &Fleet, host: usize, class: &str, message: &str) {
        if self.verbose {
            let name = &fleet.members()[host].host.name;
            self.print(&text::printable(&format!("{name}: first error of its kind: {class}: {message}")));
        }
    }

    fn lost(&mut self, fleet: &Fleet, host: usize) {
        self.progress.gone(host, "lost");
        let member = &fleet.members()[host];
        let reason = member.lost.as_deref().unwrap_or("nothing is known");
        self.print(&text::printable(&format!("LOST {}: {reason}", member.host.name)));
    }

    fn stopping(&mut self, signals: u32) {
        // From here on only answers are waited for.
        self.progress.close();
        self.print(console::stopping(signals));
    }

    fn print(&self, line: &str) {
        if !console::is_read() {
            return;
        }
        match &self.bars {
            Some(bars) => bars.all.suspend(|| note(line)),
            None => note(line),
        }
    }

    fn end(&self) {
        if let Some(bars) = &self.bars {
            if !console::is_read() {
                bars.all.set_draw_target(ProgressDrawTarget::hidden());
            }
            let _ = bars.all.clear();
        }
    }
}

impl Bars {
    /// As many machines as the terminal has lines for.
    fn new(machines: usize, seconds: u64) -> Option<Self> {
        let rows = rustix::termios::tcgetwinsize(io::stderr()).map_or(24, |size| usize::from(size.ws_row));
        let shown = machines.min(rows.saturating_sub(OTHER_LINES).max(1));
        let line = ProgressStyle::with_template("  {wide_msg}").ok()?;
        let bar = ProgressStyle::with_template("  {bar:20} {pos}/{len}s  {wide_msg}").ok()?;
        let all = MultiProgress::new();
        let add = |style: &ProgressStyle, length| all.add(ProgressBar::new(length).with_style(style.clone()));
        let machine_bars = (0..shown).map(|_| add(&line, 1)).collect();
        let more = (shown < machines).then(|| add(&line, 1));
        if let Some(more) = &more {
            more.set_message(format!("... and {} more", machines - shown));
        }
        let total = add(&bar, seconds);
        total.tick();
        Some(Self { all, machines: machine_bars, more, total })
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.machines.iter().chain(&self.more).chain([&self.total]).for_each(ProgressBar::finish_and_clear);
    }
}

fn failure(error: &anyhow::Error) -> ExitCode {
    // The list of machines has lines of its own.
    let shown: Vec<String> = format!("{error:#}").lines().map(text::printable).collect();
    note(&format!("error: {}", shown.join("\n")));
    ExitCode::from(match error.downcast_ref::<FleetError>() {
        Some(FleetError::Merge(error)) if error.is_bug() => BUG,
        None if error.is::<Stopped>() => INTERRUPTED,
        _ => COULD_NOT_RUN,
    })
}
