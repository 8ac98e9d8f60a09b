//! The resolved, validated plan of a run. All faults of the command line are found, and reported at once.
//!
//! Reads the environment and the clock only through its arguments; opens nothing.

mod values;

pub use values::{Fault, parse_duration};

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::handover::URL_VARIABLE;
use crate::cli::options::{CriteriaOptions, DEFAULT_POSTGRES_URL, LoadTestOptions, is_stdout, json_to};
use crate::clock;
use crate::database::mark;
use crate::database::schema::Persistence;
use crate::engine::EngineOptions;
use crate::postgres::conninfo::{ConnectionSpec, Environment};
use crate::result::Config;
use crate::schedule::{Arrival, Pace, Rate, Schedule, Share};
use crate::verdict::{Criteria, Slo};
use crate::workload::Workload;
use crate::workload::script::{Isolation, SessionOptions};
use values::{Faults, parse_instant};

/// Where the database is.
#[derive(Clone, Debug)]
pub enum Target {
    /// A throwaway server that this run starts.
    Ephemeral,
    /// One that is there.
    Existing(Box<ConnectionSpec>),
}

/// Everything that a run needs to know.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the database is.
    pub target: Target,
    /// Make database and tables first.
    pub setup: Option<Persistence>,
    /// Set up and nothing else.
    pub setup_only: bool,
    /// Empty the tables first.
    pub reset: bool,
    /// Compare what is in the database with what was acknowledged.
    pub verify: bool,
    /// End the run once so many requests have failed.
    pub abort_on_errors: Option<u64>,
    /// How load is driven.
    pub engine: EngineOptions,
    /// What requests write.
    pub workload: Workload,
    /// Names the test where other processes belong to it, too; drawn by the run where absent.
    pub test: Option<u32>,
    /// T0, nanoseconds since 1970; as soon as all is ready where absent.
    pub start_at_unix_ns: Option<u64>,
    /// What the run must reach.
    pub criteria: Criteria,
    /// For `pg_stat_activity`.
    pub application_name: String,
    /// A container to watch.
    pub docker_container: Option<String>,
    /// Print JSON instead of the report.
    pub json_output: bool,
    /// The JSON document goes there as well.
    pub output: Option<PathBuf>,
    /// The interval log goes there.
    pub hdr_log: Option<PathBuf>,
    /// Tell more.
    pub verbose: bool,
    /// To be said with the result.
    pub warnings: Vec<String>,
    /// Where the connection string came from, for the header; `None` where that needs no word.
    pub target_from: Option<String>,
    /// To be said behind an error: what the user may have meant.
    pub hint: Option<&'static str>,
}

impl Plan {
    /// Resolves the options. `now_unix_ns` is the wall clock, `processors` what this machine has.
    ///
    /// # Errors
    /// All faults together.
    pub fn resolve(
        options: &LoadTestOptions,
        environment: &Environment,
        now_unix_ns: u64,
        processors: usize,
    ) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let share = share(options, &mut faults);
        let seed = faults.whole("--seed", &options.load.seed, 0..=u64::MAX);
        let duration = faults.duration("--duration", &options.load.duration);
        let setup = setup(options, &mut faults);
        let setup_only = duration.is_zero();
        if setup_only && setup.is_none() {
            faults.add("--duration", "0 measures nothing", "give a longer one, or add --setup to set up only");
        }
        if setup_only && options.local.ephemeral {
            faults.add("--ephemeral", "a throwaway server is of no use with --duration 0", "leave out one of them");
        }
        let target = target(options, environment, &mut faults);
        let start_at_unix_ns = start_at(options, now_unix_ns, &mut faults);
        let engine = engine(options, share, seed, duration, processors, &mut faults);
        let workload = options.data.workload(|flag, given| faults.size(flag, given));
        let criteria = criteria(&options.criteria, &mut faults);
        let (json_output, output) = json_to(options.output.json_output, options.output.output.as_deref());
        if options.output.hdr_log.as_deref().is_some_and(is_stdout) {
            faults.add("--hdr-log", "standard output carries the report or the JSON document", "give a file");
        }
        let abort_on_errors =
            options.load.abort_on_errors.as_deref().map(|given| faults.whole("--abort-on-errors", given, 1..=u64::MAX));
        let (reset, warnings) = reset(options, share, start_at_unix_ns.is_some());
        let Some(target) = target.filter(|_| faults.0.is_empty()) else {
            return Err(faults.0);
        };
        let given = Some(given_target(options, environment)).filter(|_| !options.local.ephemeral);
        Ok(Self {
            target,
            setup,
            setup_only,
            reset,
            verify: options.target.verify,
            abort_on_errors,
            engine,
            workload,
            test: (share != Share::WHOLE).then(|| mark::test_of_shares(start_at_unix_ns, share.of)),
            start_at_unix_ns,
            criteria,
            application_name: options.target.application_name.clone(),
            docker_container: options.local.docker_container.clone(),
            json_output,
            output,
            hdr_log: options.output.hdr_log.clone(),
            verbose: options.output.verbose,
            warnings,
            hint: given.as_ref().and_then(|given| given.hint),
            target_from: given.and_then(|given| given.from),
        })
    }

    /// The same as part of a test that a coordinator leads: it sees to it that all tables are emptied before any part
    /// begins, and it says when that is. So parts empty the tables unless `no_reset` says otherwise. It also counts the errors of all parts.
    #[must_use]
    pub fn coordinated(mut self, test: u32, share: Share, no_reset: bool) -> Self {
        self.test = Some(test);
        self.engine.schedule.share = share;
        self.start_at_unix_ns = None;
        self.abort_on_errors = None;
        self.reset = !no_reset;
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
    /// The string.
    pub text: &'a str,
    /// The flag or variable to name where it is wrong.
    pub flag: &'static str,
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
        Some(text) if options.target.postgres_url_from.as_deref() == Some(URL_VARIABLE) => {
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

fn target(options: &LoadTestOptions, environment: &Environment, faults: &mut Faults) -> Option<Target> {
    if options.local.ephemeral {
        return Some(Target::Ephemeral);
    }
    let given = given_target(options, environment);
    if environment.is_unreadable(URL_VARIABLE) {
        faults.add(URL_VARIABLE, "is not UTF-8", "give a URL or key=value string as psql takes it");
        return None;
    }
    if given.text.trim().is_empty() && options.target.postgres_url.is_some() {
        let remedy = "give a URL or key=value string as psql takes it, or leave it out for the default";
        faults.add(given.flag, "is set but empty (a secret that is missing?)", remedy);
        return None;
    }
    match ConnectionSpec::parse(given.text, environment) {
        Ok(spec) => Some(Target::Existing(Box::new(spec))),
        Err(error) => {
            // The text may hold a password, so only what is wrong with it is repeated.
            for problem in error.faults {
                let problem = problem.trim_end_matches('.');
                if problem.starts_with("PG") {
                    faults.add("environment", problem, "correct the variable, or unset it");
                } else {
                    faults.add(given.flag, problem, "give a URL or key=value string as psql takes it");
                }
            }
            None
        }
    }
}

fn setup(options: &LoadTestOptions, faults: &mut Faults) -> Option<Persistence> {
    let given = options.target.setup.as_deref().or(options.local.ephemeral.then_some("logged"))?;
    let parsed = match given {
        "logged" => Ok(Persistence::Logged),
        "unlogged" => Ok(Persistence::Unlogged),
        _ => Err("is no kind of table".to_owned()),
    };
    faults.take("--setup", given, "give logged or unlogged", parsed)
}

fn share(options: &LoadTestOptions, faults: &mut Faults) -> Share {
    let Some(given) = options.part.share.as_deref() else { return Share::WHOLE };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let parsed = match given.split_once('/').map(|(index, of)| (number(index), number(of))) {
        Some((Some(0), Some(_))) => Err("is part 0, and parts are counted from 1".to_owned()),
        Some((Some(index), Some(of))) if index <= of && of <= 100_000 => Ok(Share { index: index - 1, of }),
        Some((Some(_), Some(_))) => Err("is out of range".to_owned()),
        _ => Err("is not of the form I/N".to_owned()),
    };
    faults.take("--share", given, "give for example 1/4, 2/4, 3/4 and 4/4", parsed).unwrap_or(Share::WHOLE)
}

fn start_at(options: &LoadTestOptions, now_unix_ns: u64, faults: &mut Faults) -> Option<u64> {
    let given = options.part.start_at.as_deref()?;
    let parsed = parse_instant(given).and_then(|unix_ns| match unix_ns.checked_sub(now_unix_ns) {
        None => Err(format!("has passed {:.1} s ago", (now_unix_ns - unix_ns) as f64 / 1e9)),
        Some(_) => Ok(unix_ns),
    });
    faults.take("--start-at", given, "give a time to come, as 2026-01-31T12:00:00Z or in seconds since 1970", parsed)
}

/// What the server's `statement_timeout` holds.
const MOST_STATEMENT_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

fn engine(
    options: &LoadTestOptions,
    share: Share,
    seed: u64,
    duration: Duration,
    processors: usize,
    faults: &mut Faults,
) -> EngineOptions {
    let load = &options.load;
    let arrival = match load.arrival.as_str() {
        "constant" => Ok(Arrival::Constant),
        "poisson" => Ok(Arrival::Poisson),
        _ => Err("is no kind of arrival".to_owned()),
    };
    let arrival =
        faults.take("--arrival", &load.arrival, "give constant or poisson", arrival).unwrap_or(Arrival::Constant);
    let pace = if load.rps.trim().eq_ignore_ascii_case("max") {
        Pace::Closed
    } else {
        let remedy = "give requests per second from 0.000001 to 10000000, or max";
        faults
            .take("--rps", &load.rps, remedy, Rate::parse(load.rps.trim()))
            .map_or(Pace::Closed, |rate| Pace::Open { rate, arrival })
    };
    let workers = faults.whole("--workers", &load.workers, 1..=100_000) as usize;
    let threads = match &load.threads {
        Some(given) => faults.whole("--threads", given, 1..=1_024) as usize,
        None => processors,
    };
    let max_lag = load.max_lag.as_deref().map(|given| faults.duration("--max-lag", given));
    if max_lag.is_some_and(|lag| lag.is_zero()) {
        faults.add("--max-lag", "0 gives up every request", "give a longer one, or leave it out");
    }
    if max_lag.is_some() && pace == Pace::Closed {
        faults.add("--max-lag", "has no meaning with --rps max, where no request is late", "leave it out");
    }
    let statement_timeout =
        options.target.statement_timeout.as_deref().map(|given| faults.duration("--statement-timeout", given));
    if let (Some(timeout), Some(given)) = (statement_timeout, &options.target.statement_timeout) {
        let fits = (Duration::from_millis(1)..=MOST_STATEMENT_TIMEOUT).contains(&timeout);
        let remedy = "give 1ms to 596h (the server holds 2147483647 ms), or leave it out";
        let parsed = if fits { Ok(()) } else { Err("is out of range".to_owned()) };
        faults.take("--statement-timeout", given, remedy, parsed);
    }
    let warmup = faults.duration("--warmup", &load.warmup);
    let isolation = load.isolation.as_deref().and_then(|given| {
        let parsed = match given.to_ascii_lowercase().replace([' ', '_'], "-").as_str() {
            "read-committed" => Ok(Isolation::ReadCommitted),
            "repeatable-read" => Ok(Isolation::RepeatableRead),
            "serializable" => Ok(Isolation::Serializable),
            _ => Err("is no isolation level".to_owned()),
        };
        faults.take("--isolation", given, "give read-committed, repeatable-read or serializable", parsed)
    });
    EngineOptions {
        schedule: Schedule {
            pace,
            share,
            seed,
            warmup_ns: clock::duration_ns(warmup),
            duration_ns: clock::duration_ns(duration),
        },
        workers,
        threads: threads.min(workers),
        drain: faults.duration("--drain", &load.drain),
        max_lag,
        max_tries: faults.whole("--max-tries", &load.max_tries, 1..=1_000) as u32,
        session: SessionOptions {
            prepared: !options.target.no_prepared_statements,
            pipeline: load.pipeline,
            statement_timeout,
            isolation,
            idle_in_transaction: None,
        },
    }
}

/// What a result must reach, for whoever judges without having run it.
///
/// # Errors
/// All faults together.
pub fn resolve_criteria(options: &CriteriaOptions) -> Result<Criteria, Vec<Fault>> {
    let mut faults = Faults::default();
    let criteria = criteria(options, &mut faults);
    if faults.0.is_empty() { Ok(criteria) } else { Err(faults.0) }
}

fn criteria(criteria: &CriteriaOptions, faults: &mut Faults) -> Criteria {
    let remedy = "give for example 'p99<20ms' (figures: avg, p50, p90, p95, p99, p99.9, max)";
    Criteria {
        min_achieved_pct: faults.percent("--min-achieved", &criteria.min_achieved),
        max_error_rate_pct: faults.percent("--max-error-rate", &criteria.max_error_rate),
        slos: criteria.slo.iter().filter_map(|given| faults.take("--slo", given, remedy, Slo::parse(given))).collect(),
    }
}

const NOT_EMPTIED: &str = "The tables were not emptied: with --share that is safe only together with --start-at.";

/// One part of several must not empty the tables while another part is writing already: only with a common start is
/// it certain that all are emptied before any begins.
fn reset(options: &LoadTestOptions, share: Share, starts_together: bool) -> (bool, Vec<String>) {
    if share != Share::WHOLE && !starts_together && !options.target.no_reset {
        return (false, vec![NOT_EMPTIED.to_owned()]);
    }
    (!options.target.no_reset, Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    const NOW: u64 = 1_800_000_000_000_000_000;

    fn resolve(arguments: &[&str]) -> Result<Plan, Vec<Fault>> {
        let arguments = std::iter::once(&"load_test").chain(arguments);
        let mut options = LoadTestOptions::try_parse_from(arguments).unwrap();
        // The test must not depend on the environment that it runs in.
        options.target.postgres_url.get_or_insert(DEFAULT_POSTGRES_URL.to_owned());
        Plan::resolve(&options, &Environment::default(), NOW, 4)
    }

    #[test]
    fn defaults_are_the_seeds() {
        let plan = resolve(&[]).unwrap();
        let config = plan.config(String::new());
        assert_eq!((config.target_rps, config.duration_seconds, config.workers), (Some(100.0), 60.0, 8));
        let workload = serde_json::json!({
            "input_size_kb": 1.5, "output_size_kb": 2048.0, "raw_request_size_kb": 1.0, "raw_response_size_kb": 2048.0,
            "server_side_data": false, "rate_limiting": true, "experimentation": true,
        });
        assert_eq!(serde_json::to_value(config.workload).unwrap(), workload);
        assert!(config.prepared_statements && !config.pipeline && plan.reset && plan.setup.is_none());
        assert_eq!((config.drain_seconds, config.threads, config.arrival), (30.0, 4, Some(Arrival::Constant)));
        assert_eq!(plan.criteria, Criteria { min_achieved_pct: 90.0, max_error_rate_pct: 0.0, slos: Vec::new() });
    }

    #[test]
    fn all_faults_are_reported_at_once_with_flag_and_remedy() {
        let faults = resolve(&[
            "--rps",
            "fast",
            "--duration",
            "5 parsecs",
            "--workers",
            "0",
            "--arrival",
            "bursty",
            "--warmup",
            "x",
            "--drain",
            "-1",
            "--max-lag",
            "y",
            "--threads",
            "0",
            "--seed",
            "z",
            "--output-size-kb",
            "0",
            "--raw-response-size-kb",
            "999999999",
            "--input-size-kb",
            "NaN",
            "--raw-request-size-kb",
            "one",
            "--min-achieved",
            "101",
            "--max-error-rate",
            "-0.1",
            "--slo",
            "p98<1ms",
            "--share",
            "0/3",
            "--start-at",
            "yesterday",
            "--statement-timeout",
            "0",
            "--isolation",
            "splendid",
            "--max-tries",
            "0",
            "--abort-on-errors",
            "some",
            "--setup",
            "sideways",
            "--postgres-url",
            "mysql://h/db",
        ])
        .unwrap_err();
        let mut flags: Vec<&str> = faults.iter().map(|fault| fault.flag).collect();
        flags.sort_unstable();
        flags.dedup();
        assert_eq!(flags.len(), 24, "{faults:#?}");
        assert!(faults.iter().all(|fault| !fault.problem.is_empty() && !fault.remedy.is_empty()));
    }

    #[test]
    fn a_start_in_the_past_is_refused() {
        let fault = &resolve(&["--start-at", "1799999999"]).unwrap_err()[0];
        assert_eq!(
            fault.to_string(),
            "--start-at: '1799999999' has passed 1.0 s ago; give a time to come, as 2026-01-31T12:00:00Z or in seconds since 1970"
        );
        assert_eq!(resolve(&["--start-at", "1800000001"]).unwrap().start_at_unix_ns, Some(NOW + 1_000_000_000));
    }

    #[test]
    fn only_parts_with_a_common_start_empty_the_tables() {
        assert!(!resolve(&["--share", "1/2"]).unwrap().reset);
        assert_eq!(resolve(&["--share", "1/2"]).unwrap().warnings.len(), 1);
        assert!(resolve(&["--share", "2/2", "--start-at", "1800000009"]).unwrap().reset);
        assert!(resolve(&["--share", "1/1"]).unwrap().reset);
        assert!(!resolve(&["--no-reset"]).unwrap().reset);
    }

    #[test]
    fn a_coordinated_part_empties_the_tables_without_a_warning() {
        let share = Share { index: 1, of: 2 };
        let plan = resolve(&["--share", "1/2"]).unwrap().coordinated(7, share, false);
        assert_eq!((plan.reset, plan.warnings.len(), plan.engine.schedule.share), (true, 0, share));
        assert!(!resolve(&[]).unwrap().coordinated(7, share, true).reset);
    }

    #[test]
    fn a_wrong_connection_string_is_not_repeated() {
        let faults = resolve(&["--postgres-url", "postgres://u:hunter2@h/db?nonsense=hunter3"]).unwrap_err();
        assert!(faults[0].to_string().contains("nonsense"), "{}", faults[0]);
        assert!(!faults[0].to_string().contains("hunter"), "{}", faults[0]);
    }

    /// The target that counts, as it is described, and where it came from.
    fn target(url: Option<(&str, &str)>, environment: &Environment) -> Result<(String, Option<String>), String> {
        let mut options = LoadTestOptions::try_parse_from(["load_test"]).unwrap();
        options.target.postgres_url = url.map(|(url, _)| url.to_owned());
        options.target.postgres_url_from = url.map(|(_, from)| from.to_owned());
        match Plan::resolve(&options, environment, NOW, 4) {
            Ok(Plan { target: Target::Existing(spec), target_from, .. }) => Ok((spec.describe(), target_from)),
            Ok(_) => unreachable!(),
            Err(faults) => Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        }
    }

    #[test]
    fn variables_of_libpq_count_before_the_default() {
        let me = || Environment::of_user("me");
        let from = |text: &str| Some(format!("from {text}"));
        let of = |environment| target(None, &environment).unwrap();
        let default = "postgres@localhost:5432/tensorzero_loadtest".to_owned();
        assert_eq!(of(me()), (default.clone(), Some("the default".to_owned())));
        // These say neither where nor as whom.
        assert_eq!(of(me().with("PGSSLMODE", "disable").with("PGAPPNAME", "x")).0, default);
        assert_eq!(of(me().with("PGHOST", "h")), ("me@h:5432/me".to_owned(), from("PGHOST")));
        assert_eq!(of(me().with("PGDATABASE", "d")), ("me@localhost:5432/d".to_owned(), from("PGDATABASE")));
        let all = me().with("PGHOST", "h").with("PGPORT", "7").with("PGUSER", "u").with("PGPASSWORD", "p");
        assert_eq!(of(all), ("u@h:7/u".to_owned(), from("PGHOST, PGPORT, PGUSER, PGPASSWORD")));
        let service = me().with("PGSERVICE", "lt").with_service_file("/f".as_ref(), "[lt]\nhost=s\n");
        assert_eq!(of(service), ("me@s:5432/me".to_owned(), from("PGSERVICE")));
        // A connection string comes first.
        let given = Some(("postgres://u@x/d", "POSTGRES_URL"));
        assert_eq!(target(given, &me().with("PGHOST", "h")).unwrap(), ("u@x:5432/d".to_owned(), from("POSTGRES_URL")));
    }

    #[test]
    fn what_is_set_but_empty_is_refused_by_name() {
        let me = Environment::of_user("me");
        for from in ["POSTGRES_URL", "--postgres-url"] {
            for text in ["", "  ", "\n"] {
                let error = target(Some((text, from)), &me).unwrap_err();
                assert!(error.starts_with(&format!("{from}: is set but empty")), "{error}");
            }
        }
        let error = target(None, &me.clone().with("PGHOST", "")).unwrap_err();
        assert!(error.starts_with("environment: PGHOST is set but empty"), "{error}");
        let unreadable = |name: &str| target(None, &me.clone().with_unreadable(&[name.to_owned()])).unwrap_err();
        assert!(unreadable("POSTGRES_URL").starts_with("POSTGRES_URL: is not UTF-8"));
        assert!(unreadable("PGPASSWORD").starts_with("environment: PGPASSWORD is not UTF-8"));
    }

    #[test]
    fn a_timeout_that_the_server_does_not_hold_is_refused() {
        for (given, fits) in [("1ms", true), ("596h", true), ("2147483.647", true), ("597h", false), ("0.5ms", false)] {
            assert_eq!(resolve(&["--statement-timeout", given]).is_ok(), fits, "{given}");
        }
        let fault = &resolve(&["--statement-timeout", "600h"]).unwrap_err()[0];
        assert!(fault.to_string().contains("'600h' is out of range; give 1ms to 596h"), "{fault}");
    }

    #[test]
    fn the_help_names_every_option_with_a_group() {
        use clap::CommandFactory;
        let command = LoadTestOptions::command();
        for argument in
            command.get_arguments().filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
        {
            assert!(argument.get_help_heading().is_some(), "{argument} has no group");
            assert!(argument.get_help().is_some(), "{argument} has no help");
        }
    }
}
