//! Whether one document is what this program could have written. Pure.
//!
//! What follows from its histograms and counts is computed again and compared ([`RunResult::derive`]); one walk finds values
//! that nothing can have ([`super::bounds`]). Only the rest is checked here: how counts, times and histograms depend on one
//! another.

use serde_json::Value;

use super::bounds::{out_of_bounds, wrong_name};
use super::{MergeError, Part, short};
use crate::measure::counters::Recoveries;
use crate::measure::figures::Figures;
use crate::measure::outages::Outage;
use crate::measure::outcome::{ErrorCount, ErrorOrigin};
use crate::measure::stalls::{self, Stalls};
use crate::result::{FORMAT, RunResult, Summary, VERSION, Verification, WarmupCounts};
use crate::schedule::{Arrival, Rate};
use crate::workload::script;

/// Into how many shares a test can be divided.
const MAX_SHARES: u64 = 100_000;
/// No clock is off by more: some thirty years, milliseconds.
const MAX_OFFSET_MS: f64 = 1e12;
/// A computed figure may differ from the document's by this part: the digits that a reader of JSON may drop.
const FIGURES_WITHIN: f64 = 1e-6;
/// The same of round trips, whose histograms have two digits.
const COARSE_WITHIN: f64 = 0.01;
/// How much sums of durations may differ, since a histogram rounds each: a part, and milliseconds a value.
const SUMS_WITHIN: (f64, f64) = (0.02, 0.002);
/// Above this many seconds an f64 does not hold every nanosecond.
const EXACT_SECONDS: f64 = 1e6;

/// The document with everything computed again that can be, and what its histograms hold.
///
/// # Errors
/// It contradicts itself, or is none of this program's.
pub(super) fn check(part: &Part) -> Result<(RunResult, Figures), MergeError> {
    let (result, host) = (&part.result, || part.label());
    if let Some(found) = other_format(result) {
        return Err(MergeError::OtherFormat { host: host(), found });
    }
    if result.fleet.is_some() {
        return Err(MergeError::AlreadyMerged { host: host() });
    }
    let refused = |what: String| MergeError::Contradiction { host: host(), what };
    if let Some(what) = wrong_name(&part.hostname)
        .or_else(|| wrong_clock(part))
        .or_else(|| out_of_bounds(result))
        .or_else(|| counts_disagree(result))
        .or_else(|| times_disagree(part))
        .or_else(|| claims_disagree(result))
    {
        return Err(refused(what));
    }
    let figures = result.histograms.decode();
    let figures = figures.map_err(|(histogram, source)| MergeError::Histogram { host: host(), histogram, source })?;
    match result.timeline.has_all_latencies() {
        Ok(true) => {}
        Ok(false) => return Err(refused("its timeline has other latencies than requests".to_owned())),
        Err(source) => {
            return Err(MergeError::Histogram { host: host(), histogram: "timeline".to_owned(), source });
        }
    }
    let mut right = result.clone();
    right.derive(&figures);
    let wrong = figures_disagree(&figures, right.accounting.answered(), right.accounting.skipped)
        .or_else(|| durations_disagree(&right, &figures))
        .or_else(|| difference(result, &right));
    wrong.map_or(Ok((right, figures)), |what| Err(refused(what)))
}

/// What a document is that this program does not know.
fn other_format(result: &RunResult) -> Option<String> {
    (result.format != FORMAT || result.version != VERSION)
        .then(|| format!("{} version {}", short(&result.format), result.version))
}

/// Why a document cannot be shown: it is of another format, or has values that nothing can have. It may be merged, and
/// its figures are believed. The sentence follows the name of its file.
pub(crate) fn not_presentable(result: &RunResult) -> Option<String> {
    if let Some(found) = other_format(result) {
        return Some(format!(
            "its document is {found}, and this program reads {FORMAT} version {VERSION}; use the load_test of the release \
             that wrote it"
        ));
    }
    out_of_bounds(result)
        .map(|what| format!("its document was changed or damaged ({what}); use it as load_test wrote it"))
}

/// Whether [`check`] finds nothing.
pub(crate) fn check_whole(part: &Part) -> Result<(), MergeError> {
    check(part).map(drop)
}

/// What is known of a VM from outside: its clock, and slots that nobody ran.
fn wrong_clock(part: &Part) -> Option<String> {
    let clock = part.clock;
    let offsets =
        [part.start_skew_ms, clock.map(|clock| clock.offset_ms), clock.and_then(|clock| clock.offset_after_ms)];
    let wild = offsets.into_iter().flatten().find(|ms| !ms.is_finite() || ms.abs() > MAX_OFFSET_MS);
    wild.map(|ms| format!("its clock is off by {ms:e} ms"))
}

/// Counts that do not add up.
fn counts_disagree(result: &RunResult) -> Option<String> {
    let (accounting, warmup, timeline) = (&result.accounting, &result.run.warmup, &result.throughput.timeline);
    let share = &result.run.share;
    if share.of == 0 || share.of > MAX_SHARES || share.index >= share.of {
        return Some(format!("share {} of {}", share.index.saturating_add(1), share.of));
    }
    if !accounting.holds() {
        let (found, scheduled) = (accounting.answered() + accounting.unanswered(), accounting.scheduled);
        return Some(format!("{scheduled} requests were scheduled and {found} are accounted for"));
    }
    // It knows what became of its own slots.
    if accounting.unreported > 0 {
        return Some(format!("{} of its own requests are unreported", accounting.unreported));
    }
    if result.config.warmup_seconds == 0.0 && *warmup != WarmupCounts::default() {
        return Some("it has requests of a warm-up, and none was asked for".to_owned());
    }
    if !timeline.is_possible() {
        return Some(format!("its timeline has {} bins of {} s", timeline.completed.len(), timeline.bin_seconds));
    }
    let counted = [
        accounting.ok + warmup.ok,
        accounting.failed + warmup.failed,
        accounting.unknown + warmup.unknown,
        accounting.skipped + warmup.skipped,
    ];
    if let Some(wrong) = result.timeline.wrong(counted) {
        return Some(wrong);
    }
    if timeline.total() > accounting.ok + warmup.ok {
        return Some("more requests were completed than were ok".to_owned());
    }
    // Before they are decoded: a histogram takes a thousand times the space of its text.
    let (phases, found) =
        (script::phase_names(result.config.pipeline, &result.config.workload), &result.histograms.phases);
    if found.len() != phases.len() {
        return Some(format!(
            "its requests have {} round trips, and it has histograms of {}",
            phases.len(),
            found.len()
        ));
    }
    let failed = [accounting.failed + accounting.unknown, warmup.failed + warmup.unknown, result.recoveries.retries];
    if let Some(wrong) = errors_disagree(&result.errors, failed) {
        return Some(wrong);
    }
    let (Recoveries { retried, retries, .. }, again) =
        (result.recoveries, u64::from(result.config.max_tries).saturating_sub(1));
    (retried > retries || retries > retried.saturating_mul(again))
        .then(|| format!("{retried} requests were tried again {retries} times, with {again} as the most"))
}

/// Errors by class that are not as many as were counted: of the window, of the warm-up, and of tries made again.
pub(crate) fn errors_disagree(errors: &[ErrorCount], counted: [u64; 3]) -> Option<String> {
    let origins = [ErrorOrigin::Request, ErrorOrigin::Warmup, ErrorOrigin::Retry];
    let names = ["requests failed", "requests of the warm-up failed", "tries were made again"];
    origins.into_iter().zip(names).zip(counted).find_map(|((origin, name), counted)| {
        let of_origin = errors.iter().filter(|error| error.origin == origin).map(|error| error.count);
        let found = of_origin.fold(0, u64::saturating_add);
        (found != counted).then(|| format!("{counted} {name}, and it has {found} such errors"))
    })
}

/// Times that do not follow from the options. Of a VM that was lost only a part of the window is known.
fn times_disagree(part: &Part) -> Option<String> {
    let (run, config, accounting) = (&part.result.run, &part.result.config, &part.result.accounting);
    if config.target_rps.is_some() != config.arrival.is_some() {
        return Some("it has a target rate and no arrivals, or the other way round".to_owned());
    }
    if part.lost.is_some() {
        return None;
    }
    let alike = |one: f64, other: f64| (one - other).abs() <= 1e-8;
    let end = run.window_start_s + run.window_seconds;
    let is_begun = alike(run.window_start_s, config.warmup_seconds);
    let is_whole = is_begun && alike(run.window_seconds, config.duration_seconds);
    // One that is stopped in the warm-up has an empty window.
    let is_cut = (is_begun || run.window_seconds == 0.0) && end < config.warmup_seconds + config.duration_seconds;
    // A run that is stopped while it waits for its last answers has a whole window.
    if !(is_whole || run.interrupted && is_cut) {
        return Some(format!(
            "its window is {} s from {} s on, of {} s from {} s on, and it was {}interrupted",
            run.window_seconds,
            run.window_start_s,
            config.duration_seconds,
            config.warmup_seconds,
            if run.interrupted { "" } else { "not " }
        ));
    }
    // The number of random arrivals follows from the seed, which is a claim itself.
    let (Some(Arrival::Constant), Some(target)) = (config.arrival, config.target_rps) else { return None };
    let Ok(rate) = Rate::parse(&target.to_string()) else { return Some(format!("its target_rps is {target}")) };
    let slots = |seconds: f64| run.share.count_of(rate.slots_before((seconds * 1e9).round() as u64));
    let (before, until) = (slots(run.window_start_s), slots(end));
    let warmup = run.warmup;
    let warmed_up = warmup.answered() + warmup.skipped + warmup.unfinished;
    if end > EXACT_SECONDS || (accounting.scheduled == until - before && warmed_up <= before) {
        return None;
    }
    Some(format!(
        "{} slots of its window and {warmed_up} before it are accounted for, and its schedule has {} and {before}",
        accounting.scheduled,
        until - before
    ))
}

/// What a VM found or measured and what cannot be so. Whether it is so nobody can tell: see `CLAIMS` in its tests.
fn claims_disagree(result: &RunResult) -> Option<String> {
    let verification = result.verification.as_ref().and_then(|found| verification_disagrees(found, result));
    if let Some(wrong) = verification.or_else(|| stalls_disagree(&result.generator.stood_still, result)) {
        return Some(wrong);
    }
    let in_order = |error: &ErrorCount| match (error.first_s, error.last_s) {
        (None, None) => true,
        (first, last) => first.zip(last).is_some_and(|(first, last)| first <= last),
    };
    if !result.errors.iter().all(in_order) {
        return Some("it has an error whose last time is before its first".to_owned());
    }
    if result.outages.iter().any(|outage| !is_outage(outage)) {
        return Some("it has an outage that ends before it begins".to_owned());
    }
    let generator = &result.generator;
    let parts = generator.run_queue_wait_pct.into_iter().chain([generator.busiest_thread_pct]);
    let least_pct = parts.fold(0.0, f64::max).min(100.0);
    if generator.occupied_pct.is_some_and(|occupied_pct| occupied_pct < least_pct * (1.0 - FIGURES_WITHIN)) {
        return Some("its occupied_pct is below what a thread computed or waited".to_owned());
    }
    let container = result.findings.container.as_ref()?;
    let figures =
        [(container.cpu_percent_avg, container.cpu_percent_max), (container.memory_mib_avg, container.memory_mib_max)];
    let is_right = |(avg, max): &(Option<f64>, Option<f64>)| match (avg, max) {
        (Some(avg), Some(max)) => container.samples > 0 && *avg <= max * (1.0 + FIGURES_WITHIN),
        (avg, max) => avg.is_none() && max.is_none(),
    };
    (!figures.iter().all(is_right)).then(|| "its container has an average above the maximum, or no samples".to_owned())
}

fn is_outage(outage: &Outage) -> bool {
    let after = |s: Option<f64>| s.is_none_or(|s| s >= outage.started_s);
    let length = outage.recovered_s.map(|s| s - outage.started_s);
    after(outage.first_error_s) && after(outage.recovered_s) && length.is_none_or(|s| outage.seconds <= s + 1e-6)
}

/// What a VM tells of its rows, of other tables or requests than it had.
fn verification_disagrees(found: &Verification, result: &RunResult) -> Option<String> {
    let is_counted = found.error.is_none();
    let counts = result.config.workload.counts();
    let names = counts.iter().map(|count| count.name).filter(|_| is_counted);
    let tables = found.tables.iter().map(|table| table.table.as_str());
    if !tables.eq(names) || (!is_counted && found.total.is_some()) {
        return Some("it counted rows of other tables than it wrote".to_owned());
    }
    ((found.acknowledged, found.unsettled) != result.acknowledged_and_unsettled()
        || found.committed + found.not_committed > found.unsettled)
        .then(|| "it verified other requests than it ran".to_owned())
}

/// Histograms that do not hold what was counted: of so many requests that were answered, and of some that were skipped.
pub(crate) fn figures_disagree(figures: &Figures, answered: u64, skipped: u64) -> Option<String> {
    let wrong = |name: &str, count: u64| {
        Some(format!("{answered} requests were answered, and {count} values are in the histogram of {name}"))
    };
    for (name, durations) in [("latency", &figures.latency), ("service_time", &figures.service_time)] {
        if durations.count() != answered {
            return wrong(name, durations.count());
        }
    }
    // Every answered request is in one of the two, and a skipped one in the first where its worker was waiting.
    let started = figures.lateness.count() + figures.wait_for_connection.count();
    if !(answered..=answered + skipped).contains(&started) {
        return wrong("lateness and of wait_for_connection", started);
    }
    // A request that failed did not come further.
    let mut most = answered;
    for (at, durations) in figures.phases.iter().enumerate() {
        if durations.count() > most {
            return wrong(&format!("phases[{at}]"), durations.count());
        }
        most = durations.count();
    }
    None
}

/// Histograms that are not of one another. `right` has the summaries of `figures`.
fn durations_disagree(right: &RunResult, figures: &Figures) -> Option<String> {
    let (answered, skipped) = (right.accounting.answered(), right.accounting.skipped);
    if [&figures.latency, &figures.service_time].iter().any(|durations| durations.past_range > 0) {
        return None;
    }
    // No request was answered before it was sent, and none was sent before it was due.
    let at_least = |whole: f64, parts: f64| whole * (1.0 + SUMS_WITHIN.0) + answered as f64 * SUMS_WITHIN.1 >= parts;
    let (latency, service) = (&right.latency_ms, &right.service_time_ms);
    let pairs = latency.figures().into_iter().zip(service.figures());
    for ((name, latency), (_, service)) in pairs {
        let [latency, service] = [latency, service].map(|figure| figure.value.unwrap_or_default());
        if latency * (1.0 + SUMS_WITHIN.0) + SUMS_WITHIN.1 < service {
            return Some(format!("the {name} of its latency is below that of its service time"));
        }
    }
    let before = total_ms(&right.lateness_ms) + total_ms(&right.wait_for_connection_ms);
    if skipped == 0 && !at_least(total_ms(latency), total_ms(service) + before) {
        return Some("its latency is shorter than its service time, lateness and wait together".to_owned());
    }
    let phases: f64 = right.phases_ms.iter().map(|phase| total_ms(&phase.summary)).sum();
    (!at_least(total_ms(service), phases)).then(|| "its round trips are longer than its service time".to_owned())
}

/// All durations together; those past the range are none.
fn total_ms(summary: &Summary) -> f64 {
    summary.avg.unwrap_or_default() * summary.count as f64
}

/// The first figure of a document that is not what follows from the rest of it.
fn difference(told: &RunResult, right: &RunResult) -> Option<String> {
    let [told, right] = [told, right].map(|result| serde_json::to_value(result).unwrap_or_default());
    let shown = |value: &Value| short(&value.to_string());
    differs(&told, &right, "").map(|(path, told, right)| {
        format!("its {path} is {}, and its histograms and counts say {}", shown(told), shown(right))
    })
}

/// What is wrong with when a generator is told to have stood still.
fn stalls_disagree(told: &Stalls, result: &RunResult) -> Option<String> {
    let listed = told.stalls.len();
    if listed as u64 > told.stall_count || listed > stalls::MAX_LISTED {
        return Some(format!("its generator stood still {} times, and {listed} of them are listed", told.stall_count));
    }
    (told.stalled_requests > result.accounting.scheduled || (told.stall_count == 0 && told.stalled_requests > 0))
        .then(|| format!("{} requests were held up by its generator", told.stalled_requests))
}

fn differs<'a>(told: &'a Value, right: &'a Value, path: &str) -> Option<(String, &'a Value, &'a Value)> {
    match (told, right) {
        (Value::Object(fields), Value::Object(others)) => fields.iter().find_map(|(name, field)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            differs(field, others.get(name).unwrap_or(&Value::Null), &path)
        }),
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            let pairs = items.iter().zip(others).enumerate();
            pairs.into_iter().find_map(|(at, (item, other))| differs(item, other, &format!("{path}[{at}]")))
        }
        (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
            let within = if path.starts_with("phases_ms") { COARSE_WITHIN } else { FIGURES_WITHIN };
            let [one, other] = [one, other].map(|number| number.as_f64().unwrap_or(f64::NAN));
            // Microseconds are the unit of the histograms.
            let is_alike = (one - other).abs() <= (other.abs() * within).max(within / 10.0);
            (!is_alike).then(|| (path.to_owned(), told, right))
        }
        _ => (told != right).then(|| (path.to_owned(), told, right)),
    }
}
