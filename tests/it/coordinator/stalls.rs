//! A VM whose generator stands still, not for so long that it is lost.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::trio::Trio;

#[test]
fn a_vm_whose_program_was_frozen_is_named_and_the_database_is_not_blamed() {
    let trio = Trio::start();
    let name = trio.name();
    let started = trio.begin(&["--duration", "9"]);
    trio.signal_agent(Signal::STOP);
    std::thread::sleep(Duration::from_millis(2_500));
    trio.signal_agent(Signal::CONT);
    let ran = started.finish().expect(1);
    let json = trio.document();
    assert_eq!(
        (json["status"].as_str(), &json["success"]),
        (Some("INVALID"), &Value::Bool(true)),
        "{}",
        json["reason"]
    );
    // On a busy machine another VM may have been late as well, and is named first.
    let (reason, own) = (json["reason"].as_str().unwrap(), &json["per_vm_results"][2]["result"]);
    let blamed = [format!("On {name}: The generator stood still for "), "On 127.0.1.".to_owned()];
    assert!(blamed.iter().any(|begin| reason.starts_with(begin)), "{reason}");
    assert!(own["reason"].as_str().unwrap().starts_with("The generator stood still for "), "{}", own["reason"]);
    let stalls = json["generator"]["stalls"].as_array().unwrap();
    let frozen = stalls.iter().find(|stall| stall["seconds"].as_f64().unwrap() > 2.3).unwrap();
    assert_eq!(frozen["hostname"], name, "{stalls:?}");
    assert_eq!(json["outages"], Value::Array(Vec::new()), "{stalls:?}");
    assert!(own["generator"]["stalled_requests"].as_u64().unwrap() >= 45, "{}", own["generator"]);
    assert!(ran.stdout.contains("Stood still:") && !ran.stdout.contains("OUTAGES"), "{}", ran.stdout);
    trio.assert_nothing_left();
}
