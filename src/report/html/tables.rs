//! Panels that are tables: where requests went, notes, and what was asked for.

use maud::{Markup, html};
use serde_json::{Map, Value};

use super::Panel;
use super::scale::{percent, short};
use crate::measure::outcome::ErrorOrigin;
use crate::result::{Config, RunResult, THROWAWAY_TARGET};
use crate::text::words::{number, thousands};

/// Where every request went, and the errors.
pub(super) fn accounting(result: &RunResult) -> Panel {
    let counts = &result.accounting;
    let all = [
        ("ok", counts.ok, 2, "COMMIT acknowledged"),
        ("failed", counts.failed, 3, "known not to have committed"),
        ("unknown", counts.unknown, 1, "may or may not have committed"),
        ("skipped", counts.skipped, 5, "given up by --max-lag"),
        ("not started", counts.not_started, 4, "waited for a worker when the window closed"),
        ("unfinished", counts.unfinished, 6, "in flight when the drain ended"),
        ("unreported", counts.unreported, 8, "of lost or missing VMs"),
    ];
    let shown: Vec<_> = all.into_iter().filter(|(name, count, ..)| *count > 0 || *name == "ok").collect();
    let share = |count: u64| count as f64 / counts.scheduled.max(1) as f64;
    let mut from = 0.0;
    let mut parts = Vec::new();
    for (_, count, colour, _) in &shown {
        parts.push((from, share(*count), *colour));
        from += share(*count);
    }
    let body = html! {
        svg class="shares" width="100%" height="22" role="img" aria-labelledby="c-accounting-t" {
            title id="c-accounting-t" { "Shares of all requests, as in the table below" }
            @for (from, share, colour) in &parts {
                rect class=(format!("area c{colour}")) x=(percent(*from)) width=(percent(*share)) height="22" {}
            }
        }
        div class="scroll" tabindex="0" role="region" aria-label="Where every request went, as a table" {
            table {
                tbody {
                    @for (name, count, colour, meaning) in &shown {
                        tr {
                            th scope="row" {
                                span class=(format!("key c{colour}")) {}
                                (name)
                                span class="meaning" { (meaning) }
                            }
                            td class="number" { (thousands(*count)) }
                            td class="number" { (share_of(*count, counts.scheduled)) }
                        }
                    }
                    tr class="sum" {
                        th scope="row" { "scheduled" span class="meaning" { "due in the window" } }
                        td class="number" { (thousands(counts.scheduled)) }
                        td {}
                    }
                }
            }
        }
        (errors(result))
    };
    let lead = "Every request that was due is counted exactly once.";
    Panel::new("accounting", "Where every request went", lead, body, Vec::new())
}

fn share_of(count: u64, all: u64) -> String {
    let share = count as f64 / all.max(1) as f64 * 100.0;
    match share {
        share if count > 0 && share < 0.01 => "< 0.01%".to_owned(),
        share if count < all && share > 99.99 => "> 99.99%".to_owned(),
        share if share < 10.0 => format!("{share:.2}%"),
        share => format!("{}%", short(share)),
    }
}

fn errors(result: &RunResult) -> Markup {
    html! {
        @if !result.errors.is_empty() {
            h3 { "Errors" }
            ul class="errors" {
                @for error in &result.errors {
                    li {
                        b { (thousands(error.count)) " × " (error.class) }
                        @if let Some(state) = &error.sqlstate { " [" (state) "]" }
                        @match error.origin {
                            ErrorOrigin::Request => "",
                            ErrorOrigin::Warmup => " in the warm-up",
                            ErrorOrigin::Connection => " between requests",
                            ErrorOrigin::Retry => ", tried again",
                        }
                        @if let (Some(first), Some(last)) = (error.first_s, error.last_s) {
                            span class="muted" { " · " (short(first)) " s to " (short(last)) " s" }
                        }
                        br;
                        code { (error.example) }
                    }
                }
            }
        }
    }
}

/// Warnings and advice; left out where there are none.
pub(super) fn notes(result: &RunResult) -> Option<Panel> {
    if result.warnings.is_empty() && result.advice.is_empty() {
        return None;
    }
    let body = html! {
        div class="columns" {
            @for (title, lines) in [("Warnings", &result.warnings), ("Advice", &result.advice)] {
                @if !lines.is_empty() { div { h3 { (title) } ul { @for line in lines { li { (line) } } } } }
            }
        }
    };
    Some(Panel::new("notes", "Warnings and advice", "", body, Vec::new()))
}

/// What was asked for, and the command that asks for it again.
pub(super) fn configuration(result: &RunResult) -> Panel {
    let config = fields(&result.config);
    let server = fields(&result.server);
    let body = html! {
        h3 { "Command" }
        p class="small" { "The options that make the same load. Give the connection string in POSTGRES_URL." }
        pre tabindex="0" {
            code { @for word in command(&result.config, result.fleet.is_some()) { span { (word) } " " } }
        }
        @if let Some(found) = &result.verification {
            h3 { "Verification" }
            p {
                @match &found.error {
                    Some(error) => { "The rows could not be verified: " (error) }
                    None => { (thousands(found.acknowledged)) " requests were acknowledged; the database was asked for their rows." }
                }
            }
        }
        div class="columns" {
            div { h3 { "Asked for" } (pairs(&config)) }
            div { h3 { "The server said" } (pairs(&server)) }
        }
    };
    let lead = "Fields as in the JSON document.";
    Panel::new("configuration", "Configuration", lead, body, Vec::new())
}

fn fields(value: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn pairs(fields: &Map<String, Value>) -> Markup {
    html! {
        table class="pairs-table" {
            tbody {
                @for (name, value) in fields {
                    @let text = match value {
                        Value::Null => "–".to_owned(),
                        Value::String(text) => text.clone(),
                        Value::Number(value) if value.is_f64() => number(value.as_f64().unwrap_or_default()),
                        value => value.to_string(),
                    };
                    tr { th scope="row" { (name) } td { (text) } }
                }
            }
        }
    }
}

/// The options that make the same load; without the connection string.
fn command(config: &Config, is_fleet: bool) -> Vec<String> {
    let fields = fields(config);
    let mut words = vec![if is_fleet { "coordinator --vms …".to_owned() } else { "load_test".to_owned() }];
    let mut add = |flag: &str, value: String| words.push(format!("--{flag} {value}").trim_end().to_owned());
    if config.target == THROWAWAY_TARGET {
        add("ephemeral", String::new());
    }
    let rate = config.target_rps.map_or("max".to_owned(), number);
    add(if is_fleet && config.target_rps.is_some() { "total-rps" } else { "rps" }, rate);
    add("duration", format!("{}s", number(config.duration_seconds)));
    match (is_fleet, config.workers_per_vm) {
        (true, Some(workers)) => add("workers", workers.to_string()),
        (true, None) => {}
        (false, _) => add("workers", config.workers.to_string()),
    }
    for name in ["output_size_kb", "raw_response_size_kb", "input_size_kb", "raw_request_size_kb"] {
        if let Some(kb) = fields.get(name).and_then(Value::as_f64) {
            add(&name.replace('_', "-"), number(kb));
        }
    }
    let is = |name: &str, wanted: bool| fields.get(name).and_then(Value::as_bool) == Some(wanted);
    let switches = [
        ("no-rate-limiting", is("rate_limiting", false)),
        ("no-experimentation", is("experimentation", false)),
        ("server-side-data", is("server_side_data", true)),
        ("pipeline", config.pipeline),
        ("no-prepared-statements", !config.prepared_statements),
    ];
    switches.into_iter().filter(|(_, is_on)| *is_on).for_each(|(flag, _)| add(flag, String::new()));
    for name in ["arrival", "isolation"] {
        if let Some(value) = fields.get(name).and_then(Value::as_str).filter(|value| *value != "constant") {
            add(name, value.to_owned());
        }
    }
    if config.warmup_seconds > 0.0 {
        add("warmup", format!("{}s", number(config.warmup_seconds)));
    }
    if config.drain_seconds != 30.0 {
        add("drain", format!("{}s", number(config.drain_seconds)));
    }
    for (flag, seconds) in
        [("max-lag", config.max_lag_seconds), ("statement-timeout", config.statement_timeout_seconds)]
    {
        seconds.into_iter().for_each(|seconds| add(flag, format!("{}s", number(seconds))));
    }
    if config.max_tries != 1 {
        add("max-tries", config.max_tries.to_string());
    }
    if config.seed != 1 {
        add("seed", config.seed.to_string());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options::LoadTestOptions;
    use crate::result::tests::sample;
    use clap::Parser;

    #[test]
    fn the_command_asks_for_the_same_load() {
        let mut config = sample().config;
        config.arrival = Some(crate::schedule::Arrival::Poisson);
        (config.pipeline, config.max_lag_seconds, config.seed) = (true, Some(2.5), 7);
        let command = command(&config, false).join(" ");
        let options = LoadTestOptions::try_parse_from(command.split_whitespace()).expect(&command);
        assert_eq!(options.data.workload(), config.workload);
        assert_eq!((options.load.workers, options.load.seed), (config.workers, 7));
        assert!(options.load.pipeline && options.load.arrival == crate::schedule::Arrival::Poisson, "{command}");
        assert_eq!(options.load.max_lag, Some(std::time::Duration::from_millis(2_500)));
    }

    #[test]
    fn a_share_that_is_not_all_is_never_rounded_to_all() {
        let shares = [(1, 1), (999_999, 1_000_000), (1, 1_000_000), (0, 5)].map(|(count, all)| share_of(count, all));
        assert_eq!(shares, ["100%", "> 99.99%", "< 0.01%", "0.00%"]);
    }
}
