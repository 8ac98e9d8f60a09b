//! Result documents: reading them, and what must hold in each.

use serde_json::Value;

use super::TestServer;

/// What becomes of a slot.
const ENDS: [&str; 7] = ["ok", "failed", "unknown", "skipped", "not_started", "unfinished", "unreported"];

pub fn count(json: &Value, name: &str) -> u64 {
    json["accounting"][name].as_u64().unwrap_or_else(|| panic!("no count {name} in {json}"))
}

pub fn ms(json: &Value, figure: &str, name: &str) -> f64 {
    json[figure][name].as_f64().unwrap_or_else(|| panic!("no {figure}.{name}"))
}

/// The document says what its format is, and its counts add up.
#[track_caller]
pub fn assert_sound(json: &Value) {
    assert_eq!((&json["format"], &json["version"]), (&"postgres_load_test/result".into(), &1.into()));
    assert_adds_up(json);
}

/// Every slot came to one end, and all figures are of those that were answered. In a document of several VMs this
/// holds for each of them, and the whole is their sum and what no machine reported.
#[track_caller]
pub fn assert_adds_up(json: &Value) {
    assert_counts(json);
    let Some(vms) = json["per_vm_results"].as_array() else { return };
    let results = vms.iter().map(|vm| &vm["result"]);
    results.clone().for_each(assert_counts);
    for name in &ENDS[..6] {
        let sum: u64 = results.clone().map(|result| count(result, name)).sum();
        assert_eq!(count(json, name), sum, "{name}");
    }
    let scheduled: u64 = results.map(|result| count(result, "scheduled")).sum();
    assert_eq!(count(json, "scheduled"), scheduled + count(json, "unreported"), "{}", json["accounting"]);
    if vms.len() as u64 == json["num_vms"].as_u64().unwrap() {
        let lost: u64 = vms.iter().map(|vm| vm["slots_lost"].as_u64().unwrap_or(0)).sum();
        assert_eq!(count(json, "unreported"), lost);
    }
}

#[track_caller]
fn assert_counts(json: &Value) {
    let accounting = &json["accounting"];
    // A run by itself has nothing unreported.
    let sum: u64 = ENDS.iter().map(|name| accounting[name].as_u64().unwrap_or(0)).sum();
    assert_eq!(count(json, "scheduled"), sum, "{accounting}");
    let answered = count(json, "ok") + count(json, "failed") + count(json, "unknown");
    assert_eq!(json["throughput"]["total_requests"], answered, "{accounting}");
    assert_eq!(json["latency_ms"]["count"], answered, "{accounting}");
    assert_eq!(json["service_time_ms"]["count"], answered, "{accounting}");
    let split = ["lateness_ms", "wait_for_connection_ms"].map(|name| json[name]["count"].as_u64().unwrap());
    assert_eq!(split.iter().sum::<u64>(), answered, "{accounting}");
    let errors = json["errors"].as_array().unwrap().iter().filter(|error| error["origin"] == "request");
    let by_class: u64 = errors.map(|error| error["count"].as_u64().unwrap()).sum();
    assert_eq!(by_class, count(json, "failed") + count(json, "unknown"), "{}", json["errors"]);
}

/// Every request was written, but for those that a busy machine had not begun when the window closed. Returns how many
/// were.
#[track_caller]
pub fn all_written(json: &Value, scheduled: u64) -> u64 {
    let (ok, not_started) = (count(json, "ok"), count(json, "not_started"));
    assert_eq!(ok + not_started, scheduled, "{} {}", json["accounting"], json["errors"]);
    assert!(ok > 0, "{}", json["accounting"]);
    ok
}

/// Rows = acknowledged writes, and at most those whose outcome is not known.
#[track_caller]
pub fn assert_rows_match(server: &TestServer, json: &Value) {
    let warmup = |name: &str| json["run"]["warmup"][name].as_u64().unwrap();
    let least = count(json, "ok") + warmup("ok");
    let most = least + count(json, "unknown") + count(json, "unfinished") + warmup("unknown") + warmup("unfinished");
    let (test, failed) = (std::thread::current(), count(json, "failed"));
    let (in_doubt, found) = (most - least, server.rows("chat_inference"));
    // For tables of what faults come to: cargo test -- --nocapture.
    let test = test.name().unwrap_or_default();
    eprintln!("FIGURE {test}: {least} acknowledged, {failed} failed, {in_doubt} in doubt, {found} rows");
    for table in ["chat_inference", "model_inference", "variant_by_episode"] {
        let rows = server.rows(table);
        assert!((least..=most).contains(&rows), "{table}: {rows} rows, {}", json["accounting"]);
    }
    // Each key starts at 1000 with its first request; every further one takes a ticket.
    let used: u64 = server.sql("SELECT coalesce(sum(1001 - tickets), 0) FROM resource_bucket").parse().unwrap();
    assert!((least..=most).contains(&used), "resource_bucket: {used} requests, {}", json["accounting"]);
}
