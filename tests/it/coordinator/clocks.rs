//! What is known of the VMs' clocks where the coordinator is far away from them.

use std::time::Duration;

use super::fleet::TestFleet;
use crate::harness::Ran;
use crate::harness::delay;

const COARSE: &str = "known only to within";

/// Two VMs, 150 ms away in each direction; the database is near to them.
fn from_afar(fleet: &TestFleet, vms: &str) -> Ran {
    let port = delay::start(fleet.sshd.port(), Duration::from_millis(150));
    let vms = vms.replace("PORT", &port.to_string());
    fleet.run(&vms, &["--rps", "20", "--duration", "2", "--json-output"]).expect_measured()
}

#[test]
fn a_coordinator_that_is_far_away_is_no_fault() {
    let fleet = TestFleet::start();
    let ran = from_afar(&fleet, "127.0.1.1:PORT,127.0.1.2:PORT");
    let json = ran.json();
    assert!(!json["reason"].as_str().unwrap().contains("Clock"), "{}", json["reason"]);
    for vm in json["per_vm_results"].as_array().unwrap() {
        // The database's clock is the better reference.
        assert_eq!(vm["clock"]["reference"], "database", "{}", vm["clock"]);
        assert!(vm["clock"]["bound_ms"].as_f64().unwrap() < 150.0, "{}", vm["clock"]);
        assert!(vm["clock"]["bound_after_ms"].as_f64().unwrap() > 150.0, "{}", vm["clock"]);
    }
    fleet.assert_nothing_left();
}

#[test]
fn what_is_not_known_exactly_is_said_before_the_load() {
    let fleet = TestFleet::start();
    // So that nobody can compare a clock with the database's.
    fleet.sql("ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO not_clock_timestamp");
    let ran = from_afar(&fleet, "127.0.1.1:PORT,127.0.1.2:PORT");
    let before = ran.stderr.split("Setting up the database").next().unwrap();
    let words = before.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["The clocks of 2 of 2 VMs are known only to within", "Run the coordinator nearer to the VMs"] {
        assert!(words.contains(part), "{part:?} is missing from {before}");
    }
    let json = ran.json();
    assert!(!json["reason"].as_str().unwrap().contains("Clock"), "{}", json["reason"]);
    let warnings = json["warnings"].as_array().unwrap();
    assert_eq!(warnings.iter().filter(|warning| warning.as_str().unwrap().contains(COARSE)).count(), 1, "{warnings:?}");
    assert!(json["per_vm_results"][0]["clock"]["bound_ms"].as_f64().unwrap() >= 150.0);
    // One VM alone has nobody to agree with.
    let ran = from_afar(&fleet, "127.0.1.1:PORT");
    assert!(!ran.stderr.contains(COARSE) && !ran.stdout.contains(COARSE), "{ran:?}");
    fleet.assert_nothing_left();
}
