//! Whatever number or text of a document is changed: it is refused, or no other figure of the merged result changes.

use serde_json::{Value, json};

use super::*;
use crate::measure::counters::Recoveries;
use crate::measure::durations::{COARSE_DIGITS, Durations};
use crate::measure::outages::Outage;
use crate::measure::stalls::{Stall, Stalls};
use crate::monitor::docker::ContainerUsage;
use crate::result::{TableRows, Verification};

/// What nothing in a document can prove or refute: the VM's own words and measurements. `merge` hands them on, and computes
/// none of its other figures from them. Everything else is refused if it was changed.
const CLAIMS: &[&str] = &[
    // Who and where.
    "hostname",
    "config.workers",
    "config.threads",
    "server",
    // The VM's measurements of its own process.
    "run.start_delay_ms",
    "run.warmup.unfinished",
    "run.aborted",
    // Of a whole window: that it was stopped while it waited for its last answers.
    "run.interrupted",
    "reconnects",
    "retried",
    "outages",
    "generator.busiest_thread_pct",
    "generator.run_queue_wait_pct",
    "generator.occupied_pct",
    "generator.machine_cpu_pct",
    "generator.stalls",
    "generator.stall_count",
    "generator.stalled_seconds",
    "generator.stalled_requests",
    "run.clock_vs_database",
    "container",
    // What was counted in which bin; the sums are not.
    "timeline",
    "server_stats",
    // What it found in the database.
    "verification",
    // Of errors the words, and how many there were between requests.
    "errors.class",
    "errors.sqlstate",
    "errors.example",
    "errors.first_s",
    "errors.last_s",
    // Its verdict on its own share.
    "warnings",
    "advice",
    "status",
    "reason",
    "events",
    "limit",
];

/// A document with something in every field.
fn rich(index: u64) -> Part {
    let latencies = (1..=200).map(|us| 500 + us * 10 * (index + 1));
    let mut part =
        part(index, 2, &Went { failed: 3, skipped: 2, not_started: 4, unfinished: 1, ..Went::well(latencies) });
    let result = &mut part.result;
    // 21/s for 1 s of warm-up and 10 s, divided among the shares.
    result.config.arrival = Some(Arrival::Constant);
    result.config.target_rps = Some(41.4);
    result.config.warmup_seconds = 1.0;
    result.config.max_tries = 3;
    result.config.max_lag_seconds = Some(2.5);
    result.config.statement_timeout_seconds = Some(5.0);
    result.config.isolation = Some(crate::workload::script::Isolation::Serializable);
    result.run.window_start_s = 1.0;
    result.run.warmup = crate::result::WarmupCounts { ok: 12, failed: 2, unknown: 1, skipped: 1, unfinished: 1 };
    result.recoveries = Recoveries { reconnects: 2, retried: 4, retries: 6 };
    let error = |origin, count| ErrorCount {
        origin,
        class: "serialization failure".to_owned(),
        sqlstate: Some("40001".to_owned()),
        count,
        example: "could not serialize access".to_owned(),
        first_s: Some(1.5),
        last_s: Some(3.5),
    };
    result.errors.extend([
        error(ErrorOrigin::Retry, 6),
        error(ErrorOrigin::Warmup, 3),
        error(ErrorOrigin::Connection, 5),
    ]);
    result.outages = vec![Outage {
        hostname: None,
        vms: None,
        started_s: 2.0,
        first_error_s: Some(2.5),
        recovered_s: Some(4.0),
        seconds: 2.0,
    }];
    let (acknowledged, rows) = (result.accounting.ok + 12, result.accounting.ok + 13);
    let tables = ["chat_inference", "model_inference", "variant_by_episode"];
    result.verification = Some(Verification {
        acknowledged,
        unsettled: 3,
        unverified: 0,
        committed: 1,
        not_committed: 2,
        tables: tables.map(|table| TableRows { table: table.to_owned(), rows }).into(),
        total: None,
        error: None,
    });
    result.run.clock_vs_database = Some(ClockVsDatabase { offset_ms: -0.4, bound_ms: 0.2 });
    let stall = Stall { hostname: None, started_s: 2.0, seconds: 0.5, asleep: false };
    result.generator.stood_still =
        Stalls { stalls: vec![stall], stall_count: 1, stalled_seconds: 0.5, stalled_requests: 4 };
    result.generator.busiest_thread_pct = 10.0;
    result.generator.run_queue_wait_pct = Some(5.0);
    result.generator.machine_cpu_pct = Some(50.0);
    result.generator.occupied_pct = Some(14.0);
    result.findings.container = Some(ContainerUsage {
        name: "db".to_owned(),
        samples: 9,
        cpu_percent_avg: Some(50.0),
        cpu_percent_max: Some(90.0),
        memory_mib_avg: Some(100.0),
        memory_mib_max: Some(110.0),
        warning: None,
    });
    result.findings.server_stats = Some(crate::monitor::server::ServerStats { seconds: 12.0, ..Default::default() });
    result.events = vec![crate::result::Event {
        kind: crate::result::EventKind::Checkpoint,
        started_s: 2.0,
        seconds: 1.0,
        hostname: None,
        text: "checkpoint".to_owned(),
    }];
    result.server.version = Some("15.1".to_owned());
    result.server.round_trip_ms = Some(0.1);
    result.warnings = vec!["autovacuum is off".to_owned()];
    result.advice = vec!["switch it on".to_owned()];
    rederive(&mut part);
    part
}

pub(super) fn rich_parts() -> Vec<Part> {
    (0..2).map(rich).collect()
}

/// What may stand in a value's place.
fn lies(value: &Value) -> Vec<Value> {
    match value {
        Value::Number(number) => {
            let (whole, float) = (number.as_u64(), number.as_f64().unwrap());
            let near = whole.map_or_else(
                || vec![json!(float + 1.0), json!(float * 1.003), json!(float * 0.9), json!(float + 0.001)],
                |n| vec![json!(n + 1), json!(n * 2), json!(n.saturating_sub(1))],
            );
            [near, vec![json!(0), json!(1_000_000), json!(1e300), json!(-1)]].concat()
        }
        Value::String(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            let number: u64 = text.parse().unwrap();
            vec![json!((number + 1).to_string()), json!((number + 1_000_000_000).to_string()), json!("0")]
        }
        Value::String(text) => {
            vec![json!(""), json!("x"), json!(format!("{text}x")), json!("poisson"), json!("FAILED")]
        }
        Value::Bool(truth) => vec![json!(!truth)],
        Value::Null => vec![json!(0.5), json!(7), json!("x"), json!(true), json!([])],
        Value::Array(items) if items.is_empty() => vec![json!([1]), json!(["x"])],
        Value::Array(items) => {
            let (first, rest) = (items[0].clone(), items[1..].to_vec());
            vec![json!([]), json!(rest), json!([vec![first], items.clone()].concat())]
        }
        Value::Object(_) => vec![json!(null)],
    }
}

/// Every place of a document as a JSON pointer.
fn pointers(value: &Value, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| pointers(field, &format!("{path}/{name}"), found))
        }
        Value::Array(items) => {
            // The bins of the timeline are alike.
            let few = items.iter().enumerate().take(3);
            few.for_each(|(at, item)| pointers(item, &format!("{path}/{at}"), found));
        }
        _ => {}
    }
}

/// A pointer without the numbers of entries, as [`CLAIMS`] has it.
fn named(pointer: &str) -> String {
    let names = pointer.split('/').filter(|name| !name.is_empty() && name.parse::<usize>().is_err());
    names.collect::<Vec<_>>().join(".")
}

fn is_claim(pointer: &str) -> bool {
    let name = named(pointer);
    CLAIMS.iter().any(|claim| name == *claim || name.starts_with(&format!("{claim}.")))
}

/// Takes out what are the VMs' own words, of the document and of those in it.
fn without_claims(value: &mut Value, path: &str) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !is_claim(&format!("{path}/{name}")));
            if let Some(errors) = fields.get_mut("errors") {
                *errors = by_origin(errors);
            }
            // Follows from the workers of each.
            fields.remove("workers_per_vm");
            for (name, field) in fields {
                let inner = if name == "result" { String::new() } else { format!("{path}/{name}") };
                without_claims(field, &inner);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| without_claims(item, path)),
        _ => {}
    }
}

/// Without classes, which are the VM's words; and without errors between requests, which no other count proves.
fn by_origin(errors: &Value) -> Value {
    let counts = ["request", "warmup", "retry"].map(|origin| {
        let of_origin = errors.as_array().unwrap().iter().filter(|error| error["origin"] == origin);
        of_origin.map(|error| error["count"].as_u64().unwrap()).sum::<u64>()
    });
    json!(counts)
}

fn figures(result: &RunResult) -> Value {
    let mut value = serde_json::to_value(result).unwrap();
    for vm in value["per_vm_results"].as_array_mut().unwrap() {
        vm["hostname"].take();
        // These follow from the clocks, and each VM reports its own.
        vm["clock"].take();
        vm["start_skew_ms"].take();
    }
    value["start_skew_ms"].take();
    for name in ["started_at", "started_unix_ns"] {
        value["run"][name].take();
    }
    without_claims(&mut value, "");
    value
}

#[test]
fn a_changed_document_is_refused_or_changes_no_figure() {
    let rich = rich_parts();
    let honest = figures(&merged(rich.clone()));
    let document = serde_json::to_value(&rich[1].result).unwrap();
    let mut places = Vec::new();
    pointers(&document, "", &mut places);
    let (mut refused, mut harmless, mut harm, mut unused) = (0, 0, Vec::new(), CLAIMS.to_vec());
    for pointer in &places {
        // Most places are percentiles, which are alike.
        let most = if pointer.contains("_ms/") { 2 } else { usize::MAX };
        for lie in lies(document.pointer(pointer).unwrap()).into_iter().take(most) {
            let mut changed = document.clone();
            *changed.pointer_mut(pointer).unwrap() = lie.clone();
            if changed == document {
                continue;
            }
            let Ok(result) = serde_json::from_value::<RunResult>(changed) else { continue };
            let mut parts = rich.clone();
            parts[1].hostname = result.hostname.clone();
            parts[1].result = result;
            // Quicker than merging both.
            if check::check(&parts[1]).is_err() {
                refused += 1;
                continue;
            }
            match merge(parts, Vec::new()) {
                Err(error) => {
                    assert!(!error.is_bug(), "{pointer} {lie}: {error}");
                    refused += 1;
                }
                Ok(merged) => {
                    let merged = figures(&merged);
                    let mut places = Vec::new();
                    pointers(&merged, "", &mut places);
                    let is_changed =
                        |place: &&String| !place.is_empty() && merged.pointer(place) != honest.pointer(place);
                    if merged != honest {
                        harm.push(format!("{pointer} is {lie}: {:?}", places.iter().rfind(is_changed)));
                    }
                    harmless += 1;
                    unused.retain(|claim| {
                        !(named(pointer) == *claim || named(pointer).starts_with(&format!("{claim}.")))
                    });
                }
            }
        }
    }
    assert!(harm.is_empty(), "{}", harm.join("\n"));
    // So that the test cannot pass by refusing everything, and the list of claims by being too long.
    assert!(refused > 300 && harmless > 50, "{refused} refused, {harmless} harmless");
    // Verified rows prove it here.
    assert_eq!(unused, ["run.warmup.unfinished"], "these are no claims");
}

#[test]
fn the_security_page_lists_what_is_taken_at_a_vms_word() {
    let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md"));
    let (_, rest) = page.split_once("Nothing can prove").unwrap();
    let listed = rest.split("\n\n").next().unwrap();
    let missing: Vec<_> = CLAIMS.iter().filter(|claim| !listed.contains(&format!("`{claim}`"))).collect();
    assert!(missing.is_empty() && listed.matches('`').count() == 2 * CLAIMS.len(), "{missing:?}");
}

/// Of two histograms that were exchanged, together with all that follows from them.
#[test]
fn histograms_in_each_others_place_are_refused() {
    type Swap = fn(&mut Histograms);
    let swaps: [(&str, Swap); 3] = [
        ("the min of its latency is below", |h| std::mem::swap(&mut h.latency, &mut h.service_time)),
        ("round trips are longer than its service time", |h| {
            let longest = h.phases[4].clone();
            h.phases.iter_mut().for_each(|phase| *phase = longest.clone());
            std::mem::swap(&mut h.service_time, &mut h.latency);
            h.latency = h.service_time.clone();
            let coarse = EncodedHistogram::new(&h.latency.decode().unwrap().coarse());
            h.phases.iter_mut().for_each(|phase| *phase = coarse.clone());
        }),
        ("values are in the histogram of", |h| h.phases.swap(0, 4)),
    ];
    for (said, swap) in swaps {
        let latencies = (1..=200).map(|us| 500_000 + us * 10_000);
        let mut parts = vec![two().remove(0), part(1, 2, &Went::well(latencies))];
        if said.starts_with("values") {
            // A request that failed at its second statement.
            let mut figures = parts[1].result.histograms.decode().unwrap();
            figures.phases[4] = Durations { past_range: 199, ..Durations::with_digits(COARSE_DIGITS) };
            parts[1].result.histograms.phases = figures.encode().phases;
        }
        swap(&mut parts[1].result.histograms);
        rederive(&mut parts[1]);
        let error = merge(parts, Vec::new()).expect_err(said).to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn a_figure_that_a_reader_has_rounded_is_taken_and_computed_anew() {
    let honest = merged(rich_parts());
    let mut parts = rich_parts();
    let rate = &mut parts[1].result.throughput.success_rate;
    *rate = rate.map(|pct| (pct * 1e8).round() / 1e8);
    assert_eq!(merged(parts), honest);
}

#[test]
fn slots_that_the_schedule_does_not_have_are_refused() {
    let mut parts = rich_parts();
    parts[1].result.accounting.scheduled += 1;
    parts[1].result.accounting.not_started += 1;
    rederive(&mut parts[1]);
    let error = merge(parts, Vec::new()).unwrap_err().to_string();
    assert!(error.contains("208 slots of its window"), "{error}");
}
