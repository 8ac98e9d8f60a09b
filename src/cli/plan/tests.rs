//! Tests of plans.

use super::*;
use crate::cli::{all_or_faults, read};
use crate::schedule::Arrival;
use clap::{CommandFactory, Parser};

const NOW: u64 = 1_800_000_000_000_000_000;

fn resolve(arguments: &[&str]) -> Result<Plan, Vec<Fault>> {
    let arguments = std::iter::once(&"load_test").chain(arguments);
    // The test must not depend on the environment that it runs in.
    let command = LoadTestOptions::command().mut_arg("postgres_url", |url| url.env(clap::builder::Resettable::Reset));
    let (mut options, faults) = read::<LoadTestOptions>(&command, arguments.map(Into::into)).unwrap();
    options.target.postgres_url.get_or_insert(DEFAULT_POSTGRES_URL.to_owned());
    all_or_faults(faults, Plan::resolve(&options, &Environment::default(), NOW, 4))
}

#[test]
fn defaults() {
    let plan = resolve(&[]).unwrap();
    let config = plan.config(String::new());
    assert_eq!((config.target_rps, config.duration_seconds, config.workers), (Some(100.0), 60.0, 8));
    let workload = serde_json::json!({
        "input_size_kb": 1.5, "output_size_kb": 2048.0, "raw_request_size_kb": 1.0, "raw_response_size_kb": 2048.0,
        "server_side_data": false, "rate_limiting": true, "experimentation": true,
    });
    assert_eq!(serde_json::to_value(config.workload).unwrap(), workload);
    assert!(config.prepared_statements && !config.pipeline && plan.database.reset && plan.database.setup.is_none());
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
    let mut flags: Vec<&str> = faults.iter().map(|fault| fault.flag.as_str()).collect();
    flags.sort_unstable();
    flags.dedup();
    assert_eq!(flags.len(), 24, "{faults:#?}");
    assert!(faults.iter().all(|fault| fault.text.contains("; ")), "{faults:#?}");
}

#[test]
fn a_start_in_the_past_is_refused() {
    let fault = &resolve(&["--start-at", "1799999999"]).unwrap_err()[0];
    assert_eq!(
        fault.to_string(),
        "--start-at: 2027-01-15T07:59:59.000000Z has passed 1.0 s ago; give a time to come, as 2026-01-31T12:00:00Z or in seconds since 1970"
    );
    assert_eq!(resolve(&["--start-at", "1800000001"]).unwrap().start_at_unix_ns, Some(NOW + 1_000_000_000));
}

#[test]
fn only_parts_with_a_common_start_empty_the_tables() {
    assert!(!resolve(&["--share", "1/2"]).unwrap().database.reset);
    assert_eq!(resolve(&["--share", "1/2"]).unwrap().warnings.len(), 1);
    assert!(resolve(&["--share", "2/2", "--start-at", "1800000009"]).unwrap().database.reset);
    assert!(resolve(&["--share", "1/1"]).unwrap().database.reset);
    assert!(!resolve(&["--no-reset"]).unwrap().database.reset);
}

#[test]
fn a_coordinated_part_empties_the_tables_without_a_warning() {
    let share = Share { index: 1, of: 2 };
    let plan = resolve(&["--share", "1/2"]).unwrap().coordinated(7, share, false);
    assert_eq!((plan.database.reset, plan.warnings.len(), plan.engine.schedule.share), (true, 0, share));
    assert!(!resolve(&[]).unwrap().coordinated(7, share, true).database.reset);
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
    options.target.is_url_from_variable = url.is_some_and(|(_, from)| from == URL_VARIABLE);
    match Plan::resolve(&options, environment, NOW, 4) {
        Ok(plan) => match plan.database.target {
            Target::Existing(spec) => Ok((spec.describe(), plan.database.target_from)),
            Target::Ephemeral => unreachable!(),
        },
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
    let error = target(None, &me.clone().with("PGHOST", "")).unwrap_err();
    assert!(error.starts_with("environment: PGHOST is set but empty"), "{error}");
    let unreadable = |name: &str| target(None, &me.clone().with_unreadable(&[name.to_owned()])).unwrap_err();
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
    let command = LoadTestOptions::command();
    for argument in
        command.get_arguments().filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
    {
        assert!(argument.get_help_heading().is_some(), "{argument} has no group");
        assert!(argument.get_help().is_some(), "{argument} has no help");
    }
}
