//! The distribution of all requests: the curve of percentiles, their table, and the round trips.

use maud::{Markup, html};

use super::Panel;
use super::chart::{Axis, Chart, Mark, Series};
use super::scale::{ms, short};
use super::view::bounded;
use crate::measure::durations::Durations;
use crate::result::{RunResult, Summary};
use crate::text::words::thousands;
use crate::verdict::Slo;

/// Points of a curve.
const POINTS: usize = 160;
/// Nines that are shown at most.
const MAX_NINES: f64 = 5.0;

/// Latency against service time, on an axis on which each further nine is one step.
pub(super) fn curve(result: &RunResult, slos: &[Slo]) -> Panel {
    let (id, title) = ("percentiles", "Latency by percentile");
    let decoded = |name: &str, encoded: &crate::result::Histograms| match name {
        "latency" => encoded.latency.decode().ok(),
        _ => encoded.service_time.decode().ok(),
    };
    let Some(latency) = decoded("latency", &result.histograms).filter(|latency| latency.count() > 0) else {
        return Panel::empty(id, title, "No request was answered, so there is nothing to draw.");
    };
    let is_open = result.config.target_rps.is_some();
    let nines = (result.latency_ms.requests.max(1) as f64).log10().ceil().clamp(2.0, MAX_NINES);
    let axis = axis(nines);
    let unanswered = result.accounting.unanswered();
    let mut series = Vec::new();
    add_curve(&mut series, "latency", 1, &latency, unanswered, &axis);
    if let Some(service) = decoded("service_time", &result.histograms).filter(|service| is_open && service.count() > 0)
    {
        add_curve(&mut series, "service time", 0, &service, result.accounting.unfinished, &axis);
    }
    let mut chart =
        Chart::new("c-curve", "Latency and service time by percentile", &axis, "milliseconds, log scale", series);
    chart.is_log = true;
    chart.marks = slos.iter().filter_map(|slo| mark(result, slo, nines)).collect();
    // A limit far above all that was measured would leave no room for the curves.
    let most_ms = chart.series.iter().flat_map(|series| &series.values).flatten().copied().fold(0.0, f64::max);
    chart.marks.iter_mut().for_each(|mark| mark.is_drawn = mark.y <= most_ms * 10.0);
    let lead = if is_open {
        "Latency counts from the time a request was due, service time from the time it was sent. Where the curves part, \
         requests waited."
    } else {
        "With --rps max there are no due times: latency is service time."
    };
    let body = html! {
        (chart.markup())
        @if unanswered > 0 {
            p class="caution" { (thousands(unanswered)) " requests got no answer. They count as slower than all others; "
                "where they reach a percentile, the dashed line is a lower bound." }
        }
        (table(result, is_open))
    };
    Panel::new(id, title, lead, body, vec![chart.data()])
}

fn axis(nines: f64) -> Axis {
    let label = |nines: u32| match nines {
        1 => "90".to_owned(),
        2 => "99".to_owned(),
        more => format!("99.{}", "9".repeat(more as usize - 2)),
    };
    let mut ticks = vec![(nines_of(0.5), "50".to_owned())];
    ticks.extend((1..=nines as u32).map(|at| (f64::from(at), label(at))));
    Axis {
        edges: (0..=POINTS).map(|at| at as f64 * nines / POINTS as f64).collect(),
        low: 0.0,
        high: nines,
        ticks,
        is_time: false,
        title: "percentile",
    }
}

/// How many nines a percentile has: 1 for 90 %, 2 for 99 %.
fn nines_of(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

/// A curve, and a dashed one where requests without an answer reach it.
fn add_curve(all: &mut Vec<Series>, name: &str, colour: usize, known: &Durations, unanswered: u64, axis: &Axis) {
    let answered = known.histogram.len();
    let total = answered.saturating_add(known.past_range).saturating_add(unanswered);
    let max_ms = known.histogram.max() as f64 / 1_000.0;
    let (mut exact, mut at_least) = (Vec::new(), Vec::new());
    for edges in axis.edges.windows(2) {
        let quantile = 1.0 - 10f64.powf(-(edges[0] + edges[1]) / 2.0);
        let rank = ((quantile * total as f64).ceil() as u64).max(1);
        let is_known = rank <= answered;
        // Half a rank less, because the histogram rounds quantiles up to ranks.
        let within = (rank.min(answered) as f64 - 0.5) / answered.max(1) as f64;
        let value = known.histogram.value_at_quantile(within.max(0.0)).min(known.histogram.max()) as f64 / 1_000.0;
        exact.push(is_known.then_some(value));
        at_least.push((!is_known && answered > 0).then_some(max_ms));
    }
    // The second curve lies upon the first one, which must be seen where they are one.
    let series = if all.is_empty() { Series::thick } else { Series::line };
    all.push(series(name, colour, exact));
    if at_least.iter().any(Option::is_some) {
        all.push(Series::dashed(&format!("{name}, more than"), colour, at_least));
    }
}

/// Where a limit stands. The average is no percentile.
fn mark(result: &RunResult, slo: &Slo, nines: f64) -> Option<Mark> {
    let x = match slo.figure {
        "max" => nines,
        figure => nines_of(figure.strip_prefix('p')?.parse::<f64>().ok()? / 100.0).min(nines),
    };
    let found = result.latency_ms.figure(slo.figure);
    let is_kept = found.is_some_and(|found| {
        let kept = found.value.is_some_and(|ms| ms < slo.limit_ms || (slo.inclusive && ms == slo.limit_ms));
        kept && !found.is_lower_bound
    });
    let text = format!("SLO {slo}: {}", if is_kept { "kept" } else { "not kept" });
    Some(Mark { x, y: slo.limit_ms, text, is_bad: !is_kept, is_drawn: true })
}

fn table(result: &RunResult, is_open: bool) -> Markup {
    let all: [(&str, &Summary); 4] = [
        ("Latency", &result.latency_ms),
        ("Service time", &result.service_time_ms),
        ("Lateness", &result.lateness_ms),
        ("Wait", &result.wait_for_connection_ms),
    ];
    let columns = if is_open { &all[..] } else { &all[..1] };
    html! {
        div class="scroll" tabindex="0" role="region" aria-label="Percentiles as a table" {
            table {
                thead { tr { th scope="col" { "" } @for (name, _) in columns { th scope="col" class="number" { (name) } } } }
                tbody {
                    @for (at, (name, _)) in result.latency_ms.figures().iter().enumerate() {
                        tr {
                            th scope="row" { (name) }
                            @for (_, summary) in columns {
                                td class="number" {
                                    (bounded(Some(summary.figures()[at].1)))
                                    @if summary.is_max(name) { "*" }
                                }
                            }
                        }
                    }
                    tr {
                        th scope="row" { "requests" }
                        @for (_, summary) in columns { td class="number" { (thousands(summary.count)) } }
                    }
                }
            }
        }
        @if columns.iter().any(|(_, summary)| summary.p99_9_is_max) {
            p class="small" { "* the maximum, because there are too few requests for this percentile" }
        }
    }
}

/// How long each round trip took. Left out where a transaction is one round trip.
pub(super) fn round_trips(result: &RunResult) -> Option<Panel> {
    let (id, title) = ("round-trips", "Round trips");
    if result.phases_ms.is_empty() {
        let why = "With --pipeline a transaction is one round trip: its service time.";
        return result.config.pipeline.then(|| Panel::empty(id, title, why));
    }
    let most = result.phases_ms.iter().filter_map(|phase| phase.summary.avg).fold(0.0, f64::max);
    let width = |value: Option<f64>| match value {
        Some(value) if most > 0.0 => super::scale::percent((value / most).clamp(0.0, 1.0)),
        _ => "0".to_owned(),
    };
    let body = html! {
        div class="scroll" tabindex="0" role="region" aria-label="Round trips as a table" {
            table {
                thead {
                    tr {
                        th scope="col" { "Round trip" }
                        th scope="col" class="wide" { "Average" }
                        @for name in ["p50", "p99", "max"] { th scope="col" class="number" { (name) } }
                    }
                }
                tbody {
                    @for phase in &result.phases_ms {
                        tr {
                            th scope="row" { (phase.name) }
                            td class="wide" {
                                svg class="meter" width="100%" height="10" aria-hidden="true" {
                                    rect class="area c0" width=(width(phase.summary.avg)) height="10" rx="2" {}
                                }
                                (phase.summary.avg.map_or("–".to_owned(), ms))
                            }
                            @for name in ["p50", "p99", "max"] {
                                td class="number" { (bounded(phase.summary.figure(name))) }
                            }
                        }
                    }
                }
            }
        }
    };
    let sum = result.phases_ms.iter().filter_map(|phase| phase.summary.avg).sum::<f64>();
    let lead =
        format!("The parts of the service time, in order: {} ms on average. The first one includes BEGIN.", short(sum));
    Some(Panel::new(id, title, &lead, body, Vec::new()))
}
