//! `load_test`: parse → plan → prepare → drive → print → exit code.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use postgres_load_test::clock;
use postgres_load_test::database::conninfo::Environment;
use postgres_load_test::engine::{Event, Incident, RunRecord};
use postgres_load_test::options::LoadTestOptions;
use postgres_load_test::plan::Plan;
use postgres_load_test::report::hdr_log::HdrLog;
use postgres_load_test::report::live::{Progress, container_text};
use postgres_load_test::report::text;
use postgres_load_test::result::{RunResult, Status};
use postgres_load_test::run::{self, Live, RunError};
use postgres_load_test::workload::payload::Pool;
use tokio::signal::unix::{Signal, SignalKind, signal};

const NOT_PASSED: u8 = 1;
const WRONG_USE: u8 = 2;
const COULD_NOT_RUN: u8 = 3;
const BUG: u8 = 70;
const INTERRUPTED: u8 = 130;

/// How often the progress is printed where there is no terminal.
const SECONDS_BETWEEN_LINES: u64 = 5;

fn main() -> ExitCode {
    let options = match LoadTestOptions::try_parse() {
        Ok(options) => options,
        Err(error) => return wrong_use(&error),
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let plan = match Plan::resolve(&options, &Environment::of_process(), clock::unix_ns(), processors) {
        Ok(plan) => plan,
        Err(faults) => {
            faults.iter().for_each(|fault| note(&format!("error: {fault}")));
            note("\nFor all options, try 'load_test --help'.");
            return ExitCode::from(WRONG_USE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error.into()),
    };
    let code = match runtime.block_on(load_test(plan)) {
        Ok(code) => code,
        Err(error) => failure(&error),
    };
    // A server that is still starting must be waited for, or nobody would stop it.
    drop(runtime);
    code
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
    outputs.begin_hdr_log(&live)?;
    let (record, stopped) = drive(&plan, &mut live, &mut outputs, &mut stops).await?;
    let result = live.conclude(&record)?;
    // Both are tried before either's failure ends the program: a full disk must not cost the report.
    let written = outputs.write(&result);
    if plan.json_output {
        say(&format!("{}\n", serde_json::to_string(&result)?))?;
    } else {
        let mut report = Vec::new();
        text::report(&mut report, &result)?;
        say(&String::from_utf8_lossy(&report))?;
    }
    written?;
    Ok(match result.status {
        _ if stopped => ExitCode::from(INTERRUPTED),
        Status::Passed => ExitCode::SUCCESS,
        Status::Degraded | Status::Failed | Status::Invalid => ExitCode::from(NOT_PASSED),
    })
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
        let pool = Pool::generate(plan.workload.seed, &plan.workload.sizes);
        let database = run::open_database(plan, server, &pool, &mut tell).await?;
        if plan.setup_only {
            let tables = database.info().tables.as_deref().unwrap_or_default();
            let ready = format!("Ready: {tables} tables in {}", database.describe());
            if plan.json_output {
                note(&ready)
            } else {
                say(&format!("{ready}\n"))?
            }
            return Ok(None);
        }
        let ready = run::prepare(plan.clone(), database, pool, &mut tell).await?;
        if !plan.json_output {
            let mut header = Vec::new();
            text::header(&mut header, &ready.header())?;
            say(&String::from_utf8_lossy(&header))?;
        }
        anyhow::Ok(Some(ready.start()?))
    };
    tokio::select! {
        live = ready => live,
        () = stops.next() => Err(Stopped.into()),
    }
}

/// Shows the run until it is over. The first signal stops it gently, the second one at once.
async fn drive(plan: &Plan, live: &mut Live, outputs: &mut Outputs, stops: &mut Stops) -> Result<(RunRecord, bool)> {
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
                screen.show(live);
            }
            Event::Incident(incident) => screen.incident(&incident),
            Event::Finished(record) => {
                screen.end();
                return Ok((*record, signals > 0));
            }
        }
    }
}

/// Progress on stderr: a bar on a terminal, otherwise a line every few seconds.
struct Screen {
    progress: Progress,
    bar: Option<ProgressBar>,
    verbose: bool,
    lines: u64,
}

impl Screen {
    fn new(plan: &Plan, seconds: u64) -> Self {
        let style = ProgressStyle::with_template("  {bar:20} {pos}/{len}s  {msg}");
        let bar = style.ok().filter(|_| io::stderr().is_terminal()).map(|style| {
            let bar = ProgressBar::new(seconds).with_style(style);
            bar.tick();
            bar
        });
        Self { progress: Progress::new(seconds), bar, verbose: plan.verbose, lines: 0 }
    }

    fn show(&mut self, live: &Live) {
        let container = live.container();
        if let Some(bar) = &self.bar {
            bar.set_position(self.progress.seconds().min(bar.length().unwrap_or(u64::MAX)));
            let draining = if self.progress.is_draining() { "draining, " } else { "" };
            bar.set_message(format!("{draining}{}{}", self.progress.recent(), container_text(container)));
        } else if self.progress.seconds() / SECONDS_BETWEEN_LINES > self.lines {
            self.lines = self.progress.seconds() / SECONDS_BETWEEN_LINES;
            note(&format!("  {}", self.progress.line(container)));
        }
    }

    fn incident(&self, incident: &Incident) {
        let (what, failure) = match incident {
            Incident::NewError(failure) => ("first of its kind", failure),
            Incident::ReconnectFailed(failure) => ("while connecting anew", failure),
        };
        if self.verbose {
            self.print(&format!("error ({what}): {}: {}", failure.class, text::printable(&failure.message)));
        }
    }

    fn stopping(&mut self, signals: u32) {
        // From here on only answers are waited for.
        self.progress.close();
        self.print(match signals {
            1 => "Stopping: waiting for the requests in flight (once more to stop at once) ...",
            _ => "Stopping at once.",
        });
    }

    fn print(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(line)),
            None => note(line),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The files that the run writes, opened before it, so that a bad path fails early.
struct Outputs {
    json: Option<File>,
    hdr_file: Option<File>,
    hdr_log: Option<HdrLog<BufWriter<File>>>,
    hdr_failure: Option<io::Error>,
}

impl Outputs {
    fn open(plan: &Plan) -> Result<Self> {
        let open = |flag: &str, path: &Path| {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
            file.with_context(|| format!("{flag} cannot be written to {}; give another path", path.display()))
        };
        let json = plan.output.as_deref().map(|path| open("--output", path)).transpose()?;
        let hdr_file = plan.hdr_log.as_deref().map(|path| open("--hdr-log", path)).transpose()?;
        Ok(Self { json, hdr_file, hdr_log: None, hdr_failure: None })
    }

    fn begin_hdr_log(&mut self, live: &Live) -> Result<()> {
        if let Some(file) = self.hdr_file.take() {
            truncate(&file).context("--hdr-log cannot be written")?;
            let begun = HdrLog::begin(BufWriter::new(file), live.epoch().unix_ns);
            self.hdr_log = Some(begun.context("--hdr-log cannot be written")?);
        }
        Ok(())
    }

    /// A log that cannot be written ends there; the run goes on, and the failure is told with the report.
    fn second(&mut self, index: u64, interval: &postgres_load_test::recorder::Interval) {
        if let Some(log) = &mut self.hdr_log
            && let Err(error) = log.second(index, interval)
        {
            self.hdr_log = None;
            self.hdr_failure = Some(error);
        }
    }

    fn write(&mut self, result: &RunResult) -> Result<()> {
        if let Some(file) = &mut self.json {
            truncate(file)
                .and_then(|()| file.write_all(format!("{}\n", serde_json::to_string_pretty(result)?).as_bytes()))
                .context("--output cannot be written")?;
        }
        self.hdr_failure.take().map_or(Ok(()), |error| Err(error).context("--hdr-log cannot be written"))
    }
}

/// Empties a regular file; a pipe or terminal has nothing to empty.
fn truncate(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) }
}

/// SIGINT, SIGTERM and SIGHUP, all of which ask to stop.
struct Stops {
    signals: [Signal; 3],
}

impl Stops {
    fn listen() -> io::Result<Self> {
        let of = |kind| signal(kind);
        let signals = [of(SignalKind::interrupt())?, of(SignalKind::terminate())?, of(SignalKind::hangup())?];
        Ok(Self { signals })
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Stopped before there was anything to report.
#[derive(Debug, thiserror::Error)]
#[error("interrupted before the test began")]
struct Stopped;

fn failure(error: &anyhow::Error) -> ExitCode {
    note(&format!("error: {}", text::printable(&format!("{error:#}"))));
    ExitCode::from(match error.downcast_ref::<RunError>() {
        Some(error) if error.is_bug() => BUG,
        None if error.is::<Stopped>() => INTERRUPTED,
        _ => COULD_NOT_RUN,
    })
}

/// Writes a line to stderr, where somebody still reads it: a terminal that is gone is no reason to stop.
fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// What is not even a command line; and help and version, which are no errors.
fn wrong_use(error: &clap::Error) -> ExitCode {
    let looks_secret = |argument: String| argument.contains("://") || argument.contains("password=");
    if error.use_stderr() && std::env::args().any(looks_secret) {
        // clap repeats what it does not understand, and that may be a connection string with its password.
        let names = std::env::args().filter(|argument| argument.starts_with("--"));
        let names: Vec<String> = names.map(|name| name.split('=').next().unwrap_or_default().to_owned()).collect();
        note(&format!(
            "error: the options are not understood ({:?}, among {}); give a connection string only with \
             --postgres-url, or in POSTGRES_URL\n\nFor all options, try 'load_test --help'.",
            error.kind(),
            names.join(" ")
        ));
        return ExitCode::from(WRONG_USE);
    }
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(WRONG_USE) } else { ExitCode::SUCCESS }
}

/// Writes to stdout. Whoever closes a pipe early does not want the rest.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
