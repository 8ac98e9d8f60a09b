//! Whole runs in which all goes well.

use serde_json::Value;

use rustix::process::Signal;

use super::fleet::TestFleet;
use crate::harness::processes::send;
use crate::harness::{assert_adds_up, count, wait_until};

const VMS: &str = "127.0.1.[1-3]";

#[test]
fn three_vms_run_one_schedule_and_their_results_are_merged() {
    let fleet = TestFleet::start_empty();
    let ran = fleet.run(VMS, &["--rps", "20", "--duration", "3", "--json-output"]).expect_measured();
    let json = ran.json();
    // 20 a second each, for 3 s.
    assert_eq!(count(&json, "scheduled"), 180);
    assert_eq!(fleet.rows("chat_inference"), count(&json, "ok"));
    assert_eq!((&json["success"], &json["num_vms"]), (&Value::Bool(true), &Value::from(3)));
    assert_eq!(json["config"]["target_rps_per_vm"], 20.0);
    assert_eq!(json["config"]["target_rps_total"], 60.0);
    let vms = json["per_vm_results"].as_array().unwrap();
    let names: Vec<&str> = vms.iter().map(|vm| vm["hostname"].as_str().unwrap()).collect();
    assert_eq!(names, ["127.0.1.1", "127.0.1.2", "127.0.1.3"]);
    assert!(vms.iter().all(|vm| vm["start_skew_ms"].is_number() && vm["clock"].is_object()));
    fleet.assert_nothing_left();
}

#[test]
fn a_vm_whose_load_test_is_stopped_there_counts_as_lost_from_then_on() {
    let fleet = TestFleet::start();
    let run = fleet.start_run(VMS, &["--rps", "10", "--duration", "8", "--json-output"]);
    fleet.wait_for_rows();
    send(fleet.agents()[0], Signal::TERM);
    run.wait_for_stderr("LOST 127.0.1.");
    let ran = run.finish().expect(1);
    let json = ran.json();
    assert_eq!((&json["success"], &json["status"]), (&Value::Bool(false), &Value::from("INVALID")));
    let vms = json["per_vm_results"].as_array().unwrap();
    let lost: Vec<&Value> = vms.iter().filter(|vm| vm["lost"].is_string()).collect();
    assert_eq!(lost.len(), 1);
    // Its share is 80 requests.
    assert_eq!(count(&lost[0]["result"], "scheduled") + lost[0]["slots_lost"].as_u64().unwrap(), 80);
    assert_eq!(fleet.rows("chat_inference"), count(&json, "ok"));
    fleet.assert_nothing_left();
}

#[test]
fn rows_are_verified_for_each_share_and_tickets_for_all_together() {
    let fleet = TestFleet::start();
    let arguments = ["--rps", "20", "--duration", "2", "--warmup", "1", "--json-output", "--verify"];
    let json = fleet.run(VMS, &arguments).expect_measured().json();
    let (whole, vms) = (&json["verification"], json["per_vm_results"].as_array().unwrap());
    assert_eq!(
        (&whole["error"], &whole["acknowledged"], &whole["tickets_taken"]),
        (&Value::Null, &180.into(), &180.into())
    );
    assert!(whole["tables"].as_array().unwrap().iter().all(|table| table["rows"] == 180), "{whole}");
    for vm in vms {
        let share = &vm["result"]["verification"];
        assert_eq!((&share["acknowledged"], &share["tickets_taken"]), (&60.into(), &Value::Null));
        assert!(share["tables"].as_array().unwrap().iter().all(|table| table["rows"] == 60), "{share}");
    }
    assert_ne!(json["status"], "LOST WRITES", "{}", json["reason"]);

    // Rows vanish that nobody deletes: all other tables and the tickets are as they should be.
    fleet.sql("CREATE EXTENSION pg_surgery");
    // Those that the run before left are emptied first.
    fleet.sql("SELECT reset_loadtest_tables()");
    let run = fleet.start_run(VMS, &arguments);
    wait_until("rows appear", || fleet.rows("model_inference") > 20);
    fleet.sql(
        "DO $$ DECLARE lost tid[]; BEGIN SELECT array(SELECT ctid FROM model_inference LIMIT 3) INTO lost; \
         PERFORM heap_force_kill('model_inference', lost); END $$",
    );
    let json = run.finish().expect(1).json();
    assert_eq!(json["status"], "LOST WRITES");
    assert!(json["reason"].as_str().unwrap().contains("model_inference has"), "{}", json["reason"]);
    assert_eq!(json["verification"]["tickets_taken"], 180);
    fleet.assert_nothing_left();
}

#[test]
fn another_test_is_kept_off_the_tables_and_the_vms_of_one_know_each_other() {
    let fleet = TestFleet::start();
    let first = fleet.start_run(VMS, &["--rps", "10", "--duration", "60", "--verify"]);
    fleet.wait_for_rows();
    let marks = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'load_test % pid % since %'";
    assert_eq!(fleet.sql(marks), "3");
    let refused = "another load test uses these tables: 'load_test ";
    let second = fleet.run("127.0.1.[4-5]", &["--rps", "10", "--duration", "1"]);
    second.expect_refusal(3, &[refused, " and 2 more; nothing was changed", "pg_terminate_backend("]);
    // The marks of its VMs end with the VMs, within 10 s.
    first.signal(Signal::KILL);
    wait_until("the marks are gone", || fleet.sql(marks) == "0");
    drop(first);

    // Tickets that somebody takes away are no loss of the database.
    fleet.sql("SELECT reset_loadtest_tables()");
    let third = fleet.start_run(VMS, &["--rps", "10", "--duration", "3", "--verify", "--json-output"]);
    fleet.wait_for_rows();
    fleet.sql("TRUNCATE resource_bucket");
    let json = third.finish().expect(1).json();
    assert_ne!(json["status"], "LOST WRITES", "{} {}", json["reason"], json["verification"]);
    let error = json["verification"]["error"].as_str().unwrap_or_default();
    assert!(error.contains("tickets"), "{}", json["verification"]);
    fleet.assert_nothing_left();
}

#[test]
fn errors_of_all_vms_together_end_the_test() {
    let fleet = TestFleet::start();
    fleet.sql("ALTER TABLE chat_inference ADD CHECK (function_name <> 'function_3') NOT VALID");
    let arguments = ["--rps", "20", "--duration", "120", "--json-output", "--abort-on-errors", "6"];
    let ran = fleet.run(VMS, &arguments).expect(1);
    let json = ran.json();
    assert_eq!((&json["status"], &json["success"]), (&Value::from("FAILED"), &Value::from(true)), "{}", json["reason"]);
    assert!(json["reason"].as_str().unwrap().contains("--abort-on-errors 6"), "{}", json["reason"]);
    assert!(count(&json, "failed") >= 6 && count(&json, "scheduled") < 3_600, "{}", json["accounting"]);
    assert_adds_up(&json);
    fleet.assert_nothing_left();
}
