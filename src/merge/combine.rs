//! The merged document, from sums and from what the VMs' documents have in common. Pure.

use std::collections::HashMap;

use serde_json::Value;

use super::outages::outages;
use super::rates::{CommonTime, later_seconds, rates, t0_ns, timeline};
use super::server_stats::server_stats;
use super::stalls::stood_still;
use super::sums::Sums;
use super::unreported::Unreported;
use super::{MergeError, Part, short};
use crate::monitor::Findings;
use crate::result::{
    Config, FORMAT, FailedVm, Fleet, Generator, Limit, RunInfo, RunResult, ServerInfo, Status, Summary, Throughput,
    Timeline, VERSION, Verification, VmResult,
};
use crate::schedule::Share;
use crate::text::grouped;
use crate::text::words::name_list;
use crate::verdict;

/// Hosts that are named before "and N more".
const NAMED: usize = 3;
/// Warnings of single hosts that are repeated.
const MAX_WARNINGS: usize = 40;
/// Shares that are listed one by one where nobody delivered them.
const MAX_LISTED_SHARES: usize = 20;

/// `parts` are checked, sorted by share, and not empty.
pub(super) fn combine(
    parts: Vec<Part>,
    missing: Vec<FailedVm>,
    time: &CommonTime,
    sums: &Sums,
    unreported: &Unreported,
) -> Result<RunResult, MergeError> {
    let first = &parts.first().ok_or(MergeError::Nothing)?.result;
    let names: Vec<&str> = parts.iter().map(|part| part.hostname.as_str()).collect();
    let mut containers = parts.iter().filter_map(|part| part.result.findings.container.as_ref());
    let container = containers.next().filter(|_| containers.next().is_none()).cloned();
    let (server, server_differs) = server(&parts);
    let timelines: Vec<_> = parts.iter().map(|part| (&part.result.timeline, later_seconds(part, time))).collect();
    let over_time = Timeline::sum(&timelines).map_err(|source| MergeError::Histogram {
        host: first.hostname.clone(),
        histogram: "timeline".to_owned(),
        source,
    })?;
    let server_stats = server_stats(&parts, time, &over_time);
    let mut result = RunResult {
        format: FORMAT.to_owned(),
        version: VERSION,
        tool_version: first.tool_version.clone(),
        tool_build: first.tool_build.clone(),
        hostname: name_list(&names, NAMED),
        run: run(&parts, time, sums),
        config: config(&parts),
        server,
        accounting: sums.accounting,
        throughput: Throughput { timeline: timeline(&parts, time), ..Throughput::default() },
        latency_ms: Summary::default(),
        service_time_ms: Summary::default(),
        lateness_ms: Summary::default(),
        wait_for_connection_ms: Summary::default(),
        phases_ms: Vec::new(),
        data_written_mb: 0.0,
        errors: sums.errors.counts(),
        recoveries: sums.recoveries,
        outages: outages(&parts, |part| later_s(part, time)),
        verification: verification(&parts),
        generator: Generator::default(),
        findings: Findings { container, server_stats },
        timeline: over_time,
        histograms: sums.figures.encode(),
        events: Vec::new(),
        limit: Limit::default(),
        warnings: warnings(&parts, time, server_differs),
        advice: Vec::new(),
        status: Status::Invalid,
        reason: String::new(),
        fleet: None,
    };
    // The fields left empty above.
    result.derive(&sums.figures);
    // Two things do not follow from the sums alone: rates are over the time that all VMs have in common, and the CPU of a
    // VM that was lost is not known.
    let (actual_rps, offered_rps) = rates(&parts, time, unreported);
    result.throughput = Throughput::new(&sums.accounting, actual_rps, offered_rps, result.throughput.timeline);
    result.generator = generator(&parts, time);
    result.fleet = Some(fleet(parts, missing, unreported));
    Ok(result)
}

fn run(parts: &[Part], time: &CommonTime, sums: &Sums) -> RunInfo {
    let started_unix_ns = u64::try_from(time.t0_ns).unwrap_or_default();
    let delays = parts.iter().filter_map(|part| part.result.run.start_delay_ms);
    let (share, clock_vs_database) = match parts {
        [only] => (only.result.run.share, only.result.run.clock_vs_database),
        _ => (Share::WHOLE, None),
    };
    RunInfo {
        started_at: String::new(),
        started_unix_ns,
        share,
        clock_vs_database,
        start_delay_ms: delays.reduce(f64::max),
        interrupted: parts.iter().any(|part| part.result.run.interrupted),
        aborted: parts.iter().find_map(|part| part.result.run.aborted.clone()),
        window_start_s: (time.span.start - time.t0_ns) as f64 / 1e9,
        window_seconds: time.seconds,
        warmup: sums.warmup,
    }
}

fn config(parts: &[Part]) -> Config {
    let mut configs = parts.iter().map(|part| &part.result.config);
    let workers = parts.iter().map(|part| part.result.config.workers).sum();
    let threads = parts.iter().map(|part| part.result.config.threads).sum();
    let first = &parts[0].result;
    let of = first.run.share.of as f64;
    Config {
        workers,
        threads,
        target_rps_per_vm: first.config.target_rps.map(|total| total / of),
        target_rps_total: first.config.target_rps,
        workers_per_vm: configs.all(|config| config.workers == first.config.workers).then_some(first.config.workers),
        ..first.config.clone()
    }
}

/// What the database told the VMs, setting by setting: what it told all alike, and a warning with both values of the others.
/// The round trip is the median VM's.
fn server(parts: &[Part]) -> (ServerInfo, Option<String>) {
    let fields = |part: &Part| match serde_json::to_value(&part.result.server) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let told: Vec<_> = parts.iter().map(|part| (&part.hostname, fields(part))).collect();
    let mut common = told.first().map(|(_, fields)| fields.clone()).unwrap_or_default();
    let mut differing = Vec::new();
    for (name, value) in common.iter_mut().filter(|(name, _)| *name != "round_trip_ms") {
        let mut values = told.iter().map(|(host, fields)| (host, fields.get(name).unwrap_or(&Value::Null)));
        if values.clone().all(|(_, told)| told == value) {
            continue;
        }
        value.take();
        let shown = |value: &Value| short(value.as_str().unwrap_or(&value.to_string()));
        if let Some((one, value)) = values.find(|(_, told)| !told.is_null())
            && let Some((other, unlike)) = values.find(|(_, told)| !told.is_null() && *told != value)
        {
            differing.push(format!("{name} is {} ({one}) and {} ({other})", shown(value), shown(unlike)));
        }
    }
    let mut round_trips: Vec<f64> = parts.iter().filter_map(|part| part.result.server.round_trip_ms).collect();
    round_trips.sort_by(f64::total_cmp);
    let round_trip_ms = round_trips.get(round_trips.len() / 2).copied();
    let server = serde_json::from_value(Value::Object(common)).unwrap_or_default();
    let warning = (!differing.is_empty()).then(|| {
        format!(
            "The database told the VMs different things: {}; check that all reach the same server.",
            differing.join(", ")
        )
    });
    (ServerInfo { round_trip_ms, ..server }, warning)
}

/// The sum, where it was asked for; what a lost VM has written nobody has counted.
fn verification(parts: &[Part]) -> Option<Verification> {
    if parts.iter().all(|part| part.result.verification.is_none()) {
        return None;
    }
    let found: Vec<(&str, Verification)> = parts
        .iter()
        .map(|part| {
            let lost = || {
                let (acknowledged, unsettled) = part.result.acknowledged_and_unsettled();
                let error = "it was lost before its rows were counted".to_owned();
                Verification::failed(acknowledged, unsettled, error)
            };
            (part.hostname.as_str(), part.result.verification.clone().unwrap_or_else(lost))
        })
        .collect();
    let mut sum = Verification::default();
    found.iter().for_each(|(_, found)| sum.add(found));
    let failed: Vec<(&str, &str)> =
        found.iter().filter_map(|(host, found)| Some((*host, found.error.as_deref()?))).collect();
    if !failed.is_empty() {
        let errors = grouped::sentences(failed.iter().copied()).join("; ");
        sum.error = Some(match parts {
            [_] => errors,
            _ => format!("{} of {} VMs were not verified: {errors}", failed.len(), parts.len()),
        });
    }
    // One VM alone is the whole test, and has counted the total, too.
    if let [only] = parts {
        sum.total = only.result.verification.as_ref().and_then(|found| found.total);
    }
    Some(sum)
}

/// How long after the test's T0 a part's own T0 was, seconds.
fn later_s(part: &Part, time: &CommonTime) -> f64 {
    (t0_ns(part) - time.t0_ns) as f64 / 1e9
}

/// CPU of all VMs, the rest of the worst one. What a lost VM used is not known, so its requests do not count either.
fn generator(parts: &[Part], time: &CommonTime) -> Generator {
    let known = || parts.iter().filter(|part| part.lost.is_none()).map(|part| &part.result);
    let answered: u64 = known().map(RunResult::answered_with_warmup).sum();
    let cpu_seconds: f64 = known().map(|result| result.generator.cpu_seconds).sum();
    Generator {
        cpu_seconds,
        cpu_us_per_request: (answered > 0).then(|| cpu_seconds * 1e6 / answered as f64),
        busiest_thread_pct: known().map(|result| result.generator.busiest_thread_pct).fold(0.0, f64::max),
        run_queue_wait_pct: known().filter_map(|result| result.generator.run_queue_wait_pct).reduce(f64::max),
        occupied_pct: known().filter_map(|result| result.generator.occupied_pct).reduce(f64::max),
        machine_cpu_pct: known().filter_map(|result| result.generator.machine_cpu_pct).reduce(f64::max),
        stood_still: stood_still(parts, |part| later_s(part, time)),
    }
}

/// Each of the VMs' warnings once, with the names of those that have it unless all do. Warnings that the verdict derives from
/// a VM's figures are left out: it derives them again from the sum.
fn warnings(parts: &[Part], time: &CommonTime, server_differs: Option<String>) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut hosts: HashMap<String, Vec<&str>> = HashMap::new();
    for part in parts {
        let derived = verdict::warnings_of_figures(&part.result);
        for warning in part.result.warnings.iter().filter(|warning| !derived.contains(warning)) {
            let having = hosts.entry(warning.clone()).or_insert_with(|| {
                texts.push(warning.clone());
                Vec::new()
            });
            if having.last() != Some(&part.hostname.as_str()) {
                having.push(&part.hostname);
            }
        }
    }
    let mut warnings = Vec::new();
    if !time.is_every_window {
        // Where clocks were compared a coordinator has started all, and what ended early is told by itself.
        let by_hand = parts.iter().all(|part| part.clock.is_none());
        let remedy = if by_hand { "; start all VMs with one --start-at and let none end early" } else { "" };
        warnings.push(format!(
            "The VMs did not measure at the same time: rates are over the {:.1} s that all windows have in common, \
             the longest is {:.1} s{remedy}.",
            time.seconds, time.longest_seconds
        ));
    }
    warnings.extend(server_differs);
    let further = texts.len().saturating_sub(MAX_WARNINGS);
    warnings.extend(texts.into_iter().take(MAX_WARNINGS).map(|text| match hosts.get(&text) {
        Some(having) if having.len() < parts.len() => format!("{}: {text}", name_list(having, NAMED)),
        _ => text,
    }));
    if further > 0 {
        warnings.push(format!("Single VMs gave {further} further warnings; they stand in per_vm_results."));
    }
    warnings
}

fn fleet(parts: Vec<Part>, missing: Vec<FailedVm>, unreported: &Unreported) -> Fleet {
    let shares = parts.first().map_or(Share::WHOLE, |part| part.result.run.share).of;
    // Shares differ and are within range, so there are no more parts than shares.
    let absent = shares.saturating_sub(parts.len() as u64);
    let unnamed = absent.saturating_sub(missing.len() as u64);
    let lost = parts.iter().filter_map(|part| {
        part.lost.as_ref().map(|error| FailedVm { hostname: part.hostname.clone(), error: error.clone() })
    });
    let num_vms = parts.len() + missing.len() + usize::try_from(unnamed).unwrap_or(usize::MAX);
    let mut failed_vms = missing;
    failed_vms.extend(absent_shares(&parts, shares, unnamed));
    failed_vms.extend(lost);
    let skews: Option<Vec<f64>> = parts.iter().map(|part| part.start_skew_ms).collect();
    let start_skew_ms = skews.map(|skews| {
        let (least, most) =
            skews.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), ms| (least.min(*ms), most.max(*ms)));
        most - least
    });
    Fleet {
        success: failed_vms.is_empty(),
        num_vms,
        failed_vms,
        per_vm_results: parts.into_iter().zip(&unreported.by_part).map(|(part, lost)| vm_result(part, *lost)).collect(),
        start_skew_ms,
    }
}

/// Names `unnamed` of the shares that nobody delivered; the last ones, where the first are known by their hosts.
fn absent_shares(parts: &[Part], of: u64, unnamed: u64) -> Vec<FailedVm> {
    let mut present = parts.iter().map(|part| part.result.run.share.index).peekable();
    let absent: Vec<u64> = (0..of).filter(|index| present.next_if_eq(index).is_none()).collect();
    let unnamed = absent.len().min(usize::try_from(unnamed).unwrap_or(usize::MAX));
    let unnamed = &absent[absent.len() - unnamed..];
    let error = || "no result of it was given".to_owned();
    let listed = if unnamed.len() > MAX_LISTED_SHARES { MAX_LISTED_SHARES - 1 } else { unnamed.len() };
    let mut failed: Vec<FailedVm> = unnamed[..listed]
        .iter()
        .map(|index| FailedVm { hostname: format!("share {} of {of}", index + 1), error: error() })
        .collect();
    if listed < unnamed.len() {
        failed.push(FailedVm { hostname: format!("{} further shares", unnamed.len() - listed), error: error() });
    }
    failed
}

fn vm_result(part: Part, slots_lost: u64) -> VmResult {
    VmResult {
        hostname: part.hostname,
        actual_rps: part.result.throughput.actual_rps,
        success_rate: part.result.throughput.success_rate,
        latency_p50: part.result.latency_ms.p50,
        clock: part.clock,
        start_skew_ms: part.start_skew_ms,
        lost: part.lost,
        slots_lost,
        result: Box::new(part.result),
    }
}
