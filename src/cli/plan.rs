//! The plan of a run: what the options mean together. All that is wrong is reported at once.
//!
//! Reads the environment and the clock only through its arguments; opens nothing.

use std::path::PathBuf;

use super::handover::URL_VARIABLE;
use super::options::{CriteriaOptions, DEFAULT_POSTGRES_URL, LoadTestOptions, OutputOptions, is_stdout, json_to};
use super::values::{Fault, INSTANT_REMEDY, TargetRate};
use crate::clock;
use crate::database::mark;
use crate::database::schema::Persistence;
use crate::engine::EngineOptions;
use crate::postgres::conninfo::{ConnectionSpec, Environment};
use crate::result::Config;
use crate::schedule::{Pace, Schedule, Share};
use crate::text::words::rfc3339;
use crate::verdict::{Criteria, Slo};
use crate::workload::Workload;
use crate::workload::script::SessionOptions;

#[derive(Clone, Debug)]
pub enum Target {
    Ephemeral,
    Existing(Box<ConnectionSpec>),
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub database: DatabasePlan,
    pub engine: EngineOptions,
    pub workload: Workload,
    /// End the run once this many requests have failed.
    pub abort_on_errors: Option<u64>,
    /// Names the test where other processes belong to it, too; drawn by the run where absent.
    pub test: Option<u32>,
    /// T0, nanoseconds since 1970; as soon as all is ready where absent.
    pub start_at_unix_ns: Option<u64>,
    pub criteria: Criteria,
    pub docker_container: Option<String>,
    pub output: OutputPlan,
    /// To be said with the result.
    pub warnings: Vec<String>,
}

/// Which database, and what is done there before and after the load.
#[derive(Clone, Debug)]
pub struct DatabasePlan {
    pub target: Target,
    /// Where the connection string came from, for the header; `None` where that needs no word.
    pub target_from: Option<String>,
    /// To be said after an error: what the user may have meant.
    pub hint: Option<&'static str>,
    /// For `pg_stat_activity`.
    pub application_name: String,
    /// Make database and tables first.
    pub setup: Option<Persistence>,
    /// Set up and nothing else.
    pub setup_only: bool,
    pub reset: bool,
    /// Compare what is in the database with what was acknowledged.
    pub verify: bool,
    /// Ask the server what it does during the run.
    pub server_stats: bool,
}

#[derive(Clone, Debug, Default)]
pub struct OutputPlan {
    pub is_json: bool,
    /// The JSON document goes there as well.
    pub json_file: Option<PathBuf>,
    pub hdr_log: Option<PathBuf>,
    /// The HTML page.
    pub html: Option<PathBuf>,
    /// Limits that the page marks.
    pub slos: Vec<Slo>,
    pub quiet: bool,
    pub verbose: bool,
}

impl Plan {
    /// Resolves the options. `now_unix_ns` is the wall clock, `processors` what this machine has.
    pub fn resolve(
        options: &LoadTestOptions,
        environment: &Environment,
        now_unix_ns: u64,
        processors: usize,
    ) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let share = options.part.share.unwrap_or(Share::WHOLE);
        let start_at_unix_ns = options.part.start_at_unix_ns;
        check_combinations(options, now_unix_ns, &mut faults);
        let database = database(options, environment, share, &mut faults);
        let Some(database) = database.filter(|_| faults.is_empty()) else { return Err(faults) };
        Ok(Self {
            engine: engine(options, share, processors),
            workload: options.data.workload(),
            abort_on_errors: options.load.abort_on_errors,
            test: (share != Share::WHOLE).then(|| mark::test_of_shares(start_at_unix_ns, share.of)),
            start_at_unix_ns,
            criteria: criteria(&options.criteria),
            docker_container: options.local.docker_container.clone(),
            output: output(&options.output, &options.criteria),
            warnings: if is_unsafe_to_empty(options, share) { vec![NOT_EMPTIED.to_owned()] } else { Vec::new() },
            database,
        })
    }

    /// The same as one share of a test that a coordinator leads. The coordinator sees to it that all tables are emptied
    /// before any share begins, and it says when that is; so shares empty the tables unless `no_reset` says otherwise.
    /// It also counts the errors of all shares.
    #[must_use]
    pub fn coordinated(mut self, test: u32, share: Share, no_reset: bool) -> Self {
        self.test = Some(test);
        self.engine.schedule.share = share;
        self.start_at_unix_ns = None;
        self.abort_on_errors = None;
        self.database.reset = !no_reset;
        self.warnings.retain(|warning| warning != NOT_EMPTIED);
        self
    }

    /// What was asked for, as it stands in the result.
    pub fn config(&self, target: String) -> Config {
        let EngineOptions { schedule, workers, threads, drain, max_lag, max_tries, session } = &self.engine;
        let (target_rps, arrival) = match schedule.pace {
            Pace::Open { rate, arrival } => (Some(rate.per_second()), Some(arrival)),
            Pace::Closed => (None, None),
        };
        Config {
            target_rps,
            duration_seconds: schedule.duration_ns as f64 / 1e9,
            workers: *workers,
            workload: self.workload,
            arrival,
            warmup_seconds: schedule.warmup_ns as f64 / 1e9,
            drain_seconds: drain.as_secs_f64(),
            max_lag_seconds: max_lag.map(|lag| lag.as_secs_f64()),
            threads: *threads,
            pipeline: session.pipeline,
            prepared_statements: session.prepared,
            statement_timeout_seconds: session.statement_timeout.map(|timeout| timeout.as_secs_f64()),
            isolation: session.isolation,
            max_tries: *max_tries,
            seed: schedule.seed,
            target,
            target_rps_per_vm: None,
            target_rps_total: None,
            workers_per_vm: None,
        }
    }
}

/// Said where a run fails that used the default though there is a `DATABASE_URL`.
const DATABASE_URL_IS_NOT_READ: &str =
    "DATABASE_URL is set, but not read: if that is the database, run it with POSTGRES_URL=\"$DATABASE_URL\".";

/// The connection string that counts, and where it stood.
pub(crate) struct GivenTarget<'a> {
    pub text: &'a str,
    /// The option or variable to name where it is wrong.
    flag: &'static str,
    /// For the header: `from POSTGRES_URL`; `None` where it is the flag.
    pub from: Option<String>,
    /// Where it is only the default, and something else may have been meant.
    hint: Option<&'static str>,
}

/// Which connection string counts: the given one; where there is none but variables of libpq say where to connect, an
/// empty one, to which they add everything, as with psql; else the default.
pub(crate) fn given_target<'a>(options: &'a LoadTestOptions, environment: &Environment) -> GivenTarget<'a> {
    let variables = environment.target_variables();
    match options.target.postgres_url.as_deref() {
        Some(text) if options.target.is_url_from_variable => {
            GivenTarget { text, flag: URL_VARIABLE, from: Some(format!("from {URL_VARIABLE}")), hint: None }
        }
        Some(text) => GivenTarget { text, flag: "--postgres-url", from: None, hint: None },
        None if !variables.is_empty() => GivenTarget {
            text: "",
            flag: "environment",
            from: Some(format!("from {}", variables.join(", "))),
            hint: None,
        },
        None => {
            let hint = environment.has_database_url.then_some(DATABASE_URL_IS_NOT_READ);
            let from = match hint {
                Some(_) => "the default; DATABASE_URL is not read, POSTGRES_URL is",
                None => "the default",
            };
            GivenTarget { text: DEFAULT_POSTGRES_URL, flag: "--postgres-url", from: Some(from.to_owned()), hint }
        }
    }
}

/// What is wrong with options that are right when each is seen alone.
fn check_combinations(options: &LoadTestOptions, now_unix_ns: u64, faults: &mut Vec<Fault>) {
    let mut add = |flag: &str, problem: &str, remedy: &str| faults.push(Fault::new(flag, problem, remedy));
    if options.load.duration.is_zero() {
        if setup(options).is_none() {
            add("--duration", "0 measures nothing", "give a longer one, or add --setup to set up only");
        }
        if options.local.ephemeral {
            add("--ephemeral", "a throwaway server is of no use with --duration 0", "leave out one of them");
        }
    }
    if options.load.max_lag.is_some_and(|lag| lag.is_zero()) {
        add("--max-lag", "0 gives up every request", "give a longer one, or leave it out");
    }
    if options.load.max_lag.is_some() && options.load.rps == TargetRate::Max {
        add("--max-lag", "has no meaning with --rps max, where no request is late", "leave it out");
    }
    for (flag, path) in [("--hdr-log", &options.output.hdr_log), ("--html", &options.output.html)] {
        if path.as_deref().is_some_and(is_stdout) {
            add(flag, "standard output carries the report or the JSON document", "give a file");
        }
    }
    if let Some(unix_ns) = options.part.start_at_unix_ns.filter(|unix_ns| *unix_ns < now_unix_ns) {
        let ago_s = (now_unix_ns - unix_ns) as f64 / 1e9;
        add("--start-at", &format!("{} has passed {ago_s:.1} s ago", rfc3339(unix_ns)), INSTANT_REMEDY);
    }
}

fn setup(options: &LoadTestOptions) -> Option<Persistence> {
    options.target.setup.or(options.local.ephemeral.then_some(Persistence::Logged))
}

fn database(
    options: &LoadTestOptions,
    environment: &Environment,
    share: Share,
    faults: &mut Vec<Fault>,
) -> Option<DatabasePlan> {
    let given = given_target(options, environment);
    let (target, target_from, hint) = match options.local.ephemeral {
        true => (Target::Ephemeral, None, None),
        false => {
            let spec = ConnectionSpec::parse(given.text, environment);
            let spec =
                spec.map_err(|error| faults.extend(error.faults.iter().map(|problem| fault_of(&given, problem))));
            (Target::Existing(Box::new(spec.ok()?)), given.from, given.hint)
        }
    };
    Some(DatabasePlan {
        target,
        target_from,
        hint,
        application_name: options.target.application_name.clone(),
        setup: setup(options),
        setup_only: options.load.duration.is_zero(),
        reset: !options.target.no_reset && !is_unsafe_to_empty(options, share),
        verify: options.target.verify,
        server_stats: !options.target.no_server_stats,
    })
}

/// A fault of the connection string. The text may hold a password, so only what is wrong with it is repeated.
fn fault_of(given: &GivenTarget<'_>, problem: &str) -> Fault {
    let problem = problem.trim_end_matches('.');
    if problem.starts_with("PG") {
        Fault::new("environment", problem, "correct the variable, or unset it")
    } else {
        Fault::new(given.flag, problem, "give a URL or key=value string as psql takes it")
    }
}

fn engine(options: &LoadTestOptions, share: Share, processors: usize) -> EngineOptions {
    let load = &options.load;
    let pace = match load.rps {
        TargetRate::Max => Pace::Closed,
        TargetRate::PerSecond(rate) => Pace::Open { rate, arrival: load.arrival },
    };
    EngineOptions {
        schedule: Schedule {
            pace,
            share,
            seed: load.seed,
            warmup_ns: clock::duration_ns(load.warmup),
            duration_ns: clock::duration_ns(load.duration),
        },
        workers: load.workers,
        threads: load.threads.unwrap_or(processors).min(load.workers),
        drain: load.drain,
        max_lag: load.max_lag,
        max_tries: load.max_tries,
        session: SessionOptions {
            prepared: !options.target.no_prepared_statements,
            pipeline: load.pipeline,
            statement_timeout: options.target.statement_timeout,
            isolation: load.isolation,
            idle_in_transaction: None,
        },
    }
}

pub(crate) fn criteria(options: &CriteriaOptions) -> Criteria {
    Criteria {
        min_achieved_pct: options.min_achieved,
        max_error_rate_pct: options.max_error_rate,
        slos: options.slo.clone(),
    }
}

fn output(options: &OutputOptions, criteria: &CriteriaOptions) -> OutputPlan {
    let (is_json, json_file) = json_to(options.json_output, options.output.as_deref());
    OutputPlan {
        is_json,
        json_file,
        hdr_log: options.hdr_log.clone(),
        html: options.html.clone(),
        slos: criteria.slo.clone(),
        quiet: options.quiet,
        verbose: options.verbose,
    }
}

const NOT_EMPTIED: &str = "The tables were not emptied: with --share that is safe only together with --start-at.";

/// One share of several must not empty the tables while another one is writing already: only with a common start is it
/// certain that all are emptied before any begins.
fn is_unsafe_to_empty(options: &LoadTestOptions, share: Share) -> bool {
    share != Share::WHOLE && options.part.start_at_unix_ns.is_none() && !options.target.no_reset
}

#[cfg(test)]
mod tests;
