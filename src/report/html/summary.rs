//! The verdict, the headline figures and what limited the run.

use maud::{Markup, html};

use super::Panel;
use super::scale::short;
use super::view::bounded;
use crate::report::headline::errors;
use crate::result::{LimitKind, RunResult, Status};
use crate::text::words::thousands;

/// Who measured what, and when.
pub(super) fn subtitle(result: &RunResult) -> Markup {
    let server = result.server.version.as_ref().map(|version| format!("PostgreSQL {version}"));
    let from = match &result.fleet {
        Some(fleet) => format!("{} VMs", fleet.num_vms),
        None => result.hostname.clone(),
    };
    let started = result.run.started_at.split('.').next().unwrap_or_default().replace('T', " ");
    let started = format!("{} UTC", started.trim_end_matches('Z'));
    let pieces = server.into_iter().chain([result.config.target.clone(), format!("from {from}"), started]);
    html! { @for piece in pieces { span class="piece" { (piece) } " " } }
}

pub(super) fn panel(result: &RunResult) -> Panel {
    let (class, sign) = match result.status {
        Status::Passed => ("good", "✓"),
        Status::Degraded | Status::Interrupted => ("fair", "!"),
        Status::Failed | Status::Invalid | Status::LostWrites => ("bad", "✕"),
    };
    let markup = html! {
        section class=(format!("verdict {class}")) id="summary" aria-labelledby="summary-h" {
            h1 id="summary-h" {
                span class="sign" aria-hidden="true" { (sign) }
                (result.status)
            }
            p class="reason" { (result.reason) }
        }
        div class="tiles" { (tiles(result)) }
        (limit(result))
    };
    Panel { markup, data: Vec::new() }
}

fn tiles(result: &RunResult) -> Markup {
    let throughput = &result.throughput;
    let of_target = match (throughput.target_achieved_pct, result.config.target_rps) {
        (Some(pct), Some(target)) => format!("{}% of {}/s", short(pct), short(target)),
        _ => "as fast as the workers can".to_owned(),
    };
    let latency = |name: &str| bounded(result.latency_ms.figure(name));
    let count = errors(result);
    let share = match throughput.success_rate {
        Some(pct) => format!("{pct:.2}% of answers were ok"),
        None => "no request was answered".to_owned(),
    };
    let unanswered = match result.accounting.unanswered() {
        0 => share,
        some => format!("{} more got no answer", thousands(some)),
    };
    let few = if result.latency_ms.p99_is_max { ", the maximum of so few" } else { "" };
    html! {
        (tile("Rate", &format!("{}/s", short(throughput.actual_rps)), &of_target))
        (tile("Latency p50", &latency("p50"), "half of the requests were faster"))
        (tile("Latency p99", &latency("p99"), &format!("of {} requests{few}", thousands(result.latency_ms.requests))))
        (tile("Errors", &thousands(count), &unanswered))
    }
}

fn tile(name: &str, value: &str, note: &str) -> Markup {
    html! {
        div class="tile" {
            p class="name" { (name) }
            p class="value" { (value) }
            p class="more" { (note) }
        }
    }
}

fn limit(result: &RunResult) -> Markup {
    let limit = &result.limit;
    let name = match serde_json::to_value(limit.kind) {
        Ok(serde_json::Value::String(name)) => name.replace('-', " "),
        _ => String::new(),
    };
    let sentence = match (limit.sentence.is_empty(), limit.kind) {
        (false, _) => limit.sentence.as_str(),
        (true, LimitKind::None) => "Nothing: the target was held and nothing piled up.",
        (true, _) => "There is no evidence of what limited this run.",
    };
    let share = limit.share_pct.map(|pct| format!(" · {}%", short(pct))).unwrap_or_default();
    html! {
        section class="card limit" id="limit" aria-labelledby="limit-h" {
            h2 id="limit-h" { "Limit: " (name) (share) }
            p class="sentence" { (sentence) }
            @if !limit.evidence.is_empty() || !limit.r#try.is_empty() {
                div class="columns" {
                    @if !limit.evidence.is_empty() {
                        div { h3 { "Evidence" } ul { @for line in &limit.evidence { li { (line) } } } }
                    }
                    @if !limit.r#try.is_empty() {
                        div { h3 { "What to try" } ol { @for line in &limit.r#try { li { (line) } } } }
                    }
                }
            }
        }
    }
}
