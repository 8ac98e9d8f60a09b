//! Whole runs in which all goes well.

use serde_json::Value;

use crate::tool::{TestFleet, assert_adds_up, count};

const VMS: &str = "127.0.1.[1-3]";

#[test]
fn three_machines_run_one_schedule_and_their_results_are_merged() {
    let fleet = TestFleet::start();
    let ran = fleet.run(VMS, &["--rps", "20", "--duration", "3", "--json-output"]).expect_measured();
    let json = ran.json();
    assert_adds_up(&json);
    // 20 a second each, for 3 s.
    assert_eq!(count(&json, "scheduled"), 180);
    assert_eq!(fleet.rows("chat_inference"), count(&json, "ok"));
    assert_eq!((&json["success"], &json["num_vms"]), (&Value::Bool(true), &Value::from(3)));
    assert_eq!(json["config"]["target_rps_per_vm"], 20.0);
    assert_eq!(json["config"]["target_rps_total"], 60.0);
    let machines = json["per_vm_results"].as_array().unwrap();
    let names: Vec<&str> = machines.iter().map(|machine| machine["hostname"].as_str().unwrap()).collect();
    assert_eq!(names, ["127.0.1.1", "127.0.1.2", "127.0.1.3"]);
    assert!(machines.iter().all(|machine| machine["start_skew_ms"].is_number() && machine["clock"].is_object()));
    fleet.assert_nothing_left();
}
