//! The panels over time: rates, latency, the generator.

use maud::{Markup, html};
use serde_json::Value;

use super::Panel;
use super::chart::{Chart, Series};
use super::scale::{short, time};
use super::view::{View, words};
use crate::result::MOST_EVENTS;
use crate::text::words::thousands;

/// Events that are listed under the latency.
const MAX_LISTED: usize = 40;

/// Offered, completed and failed. Left out where nothing was ever counted over time.
pub(super) fn rates(view: &View<'_>) -> Option<Panel> {
    let (id, title) = ("rates", "Rate");
    if view.bins() == 0 {
        return Some(Panel::empty(id, title, "The document has no timeline."));
    }
    let mut series = Vec::new();
    if !view.offered.is_empty() {
        let name = if view.result.config.target_rps.is_some() { "offered" } else { "started" };
        series.push(Series::dashed(name, 7, view.offered.clone()));
    }
    series.push(Series::line("completed", 0, view.completed.clone()));
    if view.errors.iter().flatten().any(|rate| *rate > 0.0) {
        series.push(Series::line("failed or unknown", 3, view.errors.clone()));
    }
    let mut chart = Chart::new("c-rates", "Requests per second over time", &view.axis, "requests per second", series);
    chart.bands = view.phases();
    let lead = "What was asked of the database each second, and what it completed.";
    Some(charts(id, title, lead, &[chart], html! {}))
}

/// Percentiles over time, with all that happened.
pub(super) fn latency(view: &View<'_>) -> Panel {
    let (id, title) = ("latency", "Latency over time");
    if view.latency[0].iter().all(Option::is_none) {
        let why = match view.result.accounting.answered() {
            0 => "No request was answered, so there is no latency.",
            _ => "The document has no latency over time.",
        };
        return Panel::empty(id, title, why);
    }
    let names = [("p50", 0), ("p90", 2), ("p99", 1), ("max", 7)];
    let series =
        names.iter().zip(&view.latency).map(|((name, colour), values)| Series::line(name, *colour, values.clone()));
    let mut chart =
        Chart::new("c-latency", "Latency over time", &view.axis, "milliseconds, log scale", series.collect());
    chart.is_log = true;
    chart.bands = view.bands.clone();
    let lead = "Percentiles of the requests that were due in each moment, and what happened meanwhile.";
    let listed = listed(view);
    charts(id, title, lead, &[chart], listed)
}

/// The events as a list: for print, for screen readers, and for exact times.
fn listed(view: &View<'_>) -> Markup {
    let mut events: Vec<_> = view.result.events.iter().take(MOST_EVENTS).collect();
    events.sort_by(|one, other| one.started_s.total_cmp(&other.started_s));
    let more = events.len().saturating_sub(MAX_LISTED);
    html! {
        @if !events.is_empty() {
            details {
                summary { "What happened when (" (thousands(events.len() as u64)) ")" }
                ul class="events" {
                    @for event in events.iter().take(MAX_LISTED) {
                        li { b { (time(event.started_s, view.axis.high)) } " " (words(event)) }
                    }
                    @if more > 0 { li { "and " (more) " more" } }
                }
            }
        }
    }
}

/// Whether the generator had room.
pub(super) fn generator(view: &View<'_>) -> Panel {
    let (id, title) = ("generator", "Generator");
    let timeline = &view.result.timeline;
    let known = &view.result.generator;
    let worked = known.busiest_thread_pct;
    let each = known.cpu_us_per_request.map(|us| format!(", {} µs a request", short(us))).unwrap_or_default();
    let lead = format!(
        "Whether the load itself was made in time. CPU: {} s{each}; the busiest thread was computing for {}% of the window.",
        short(known.cpu_seconds),
        short(worked)
    );
    if timeline.cpu_pct.is_empty() && timeline.busy_workers.is_empty() {
        return Panel::new(
            id,
            title,
            &lead,
            html! { p class="empty" { "The document has nothing of the generator over time." } },
            Vec::new(),
        );
    }
    let backlog: Vec<f64> = timeline.backlog.iter().map(|count| *count as f64).collect();
    let small = |id: &str, about: &str, unit, colour, list: &[f64]| {
        let mut chart = Chart::new(id, about, &view.axis, unit, vec![Series::line(about, colour, view.list(list))]);
        chart.is_small = true;
        chart
    };
    let all = [
        small("c-cpu", "CPU of the generator", "percent of one core", 0, &timeline.cpu_pct),
        small("c-lateness", "Greatest lateness", "milliseconds", 1, &timeline.lateness_max_ms),
        small("c-busy", "Busy workers", "workers", 2, &timeline.busy_workers),
        small("c-backlog", "Backlog", "requests due and not started", 3, &backlog),
    ];
    let body = html! {
        div class="pairs" {
            @for chart in &all { div { h3 { (chart.about) } (chart.markup()) } }
        }
    };
    Panel::new(id, title, &lead, body, all.iter().map(Chart::data).collect())
}

/// A panel of charts.
pub(super) fn charts(id: &str, title: &str, lead: &str, all: &[Chart<'_>], behind: Markup) -> Panel {
    let data: Vec<Value> = all.iter().map(Chart::data).collect();
    let body = html! {
        @for chart in all { (chart.markup()) }
        (behind)
    };
    Panel::new(id, title, lead, body, data)
}
