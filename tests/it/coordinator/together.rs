//! What happens to all VMs at once is told once, and what each of them counted is not lost.

use std::time::Duration;

use rustix::process::Signal;

use super::fleet::TestFleet;
use super::trio::Trio;
use crate::harness::count;

/// The server goes and does not come back: what was acknowledged is known all the same, and Ctrl-C is heard while the VMs
/// still look for their rows.
#[test]
fn a_database_that_stays_down_is_one_outage_and_hides_no_counts() {
    let fleet = TestFleet::start();
    let arguments = ["--rps", "20", "--duration", "7", "--verify", "--json-output"];
    let started = fleet.start_run("127.0.1.[1-3]", &arguments);
    fleet.wait_for_rows();
    std::thread::sleep(Duration::from_secs(2));
    fleet.server.kill();
    // Workers without a connection fail no request.
    started.wait_for_stderr(" connection errors");
    started.wait_for_stderr("Waiting for the results of 127.0.1.1, 127.0.1.2, 127.0.1.3 for ");
    assert!(started.stderr().contains("they look for their rows in the database"), "{}", started.stderr());
    started.signal(Signal::INT);
    let ran = started.finish().expect(130);
    let json = ran.json();
    let found = &json["verification"];
    assert!(count(&json, "ok") > 0);
    assert_eq!((&found["acknowledged"], &found["unverified"]), (&json["accounting"]["ok"], &json["accounting"]["ok"]));
    let expected = "3 of 3 VMs were not verified: 127.0.1.1, 127.0.1.2, 127.0.1.3: it was interrupted";
    assert_eq!(found["error"], expected);
    let outages = json["outages"].as_array().unwrap();
    let last = outages.last().unwrap();
    assert_eq!((&last["vms"], last["hostname"].is_null(), last["recovered_s"].is_null()), (&3.into(), true, true));
    assert!(outages.iter().filter(|outage| outage["recovered_s"].is_null()).count() == 1, "{outages:?}");
}

/// Nobody has counted the rows of the one that is lost; those of the others are compared.
#[test]
fn the_rows_of_the_others_are_verified_where_one_is_lost() {
    let trio = Trio::start();
    let started = trio.begin(&["--duration", "7", "--verify"]);
    trio.signal_agent(Signal::KILL);
    let ran = started.finish().expect(1);
    let json = trio.assert_lost(&ran, &trio.name());
    let found = &json["verification"];
    let number = |name: &str| found[name].as_u64().unwrap();
    assert_eq!(number("acknowledged"), count(&json, "ok"));
    assert_eq!(number("unverified"), count(&json["per_vm_results"][2]["result"], "ok"));
    assert!(number("unverified") > 0);
    for table in found["tables"].as_array().unwrap() {
        assert_eq!(table["rows"], number("acknowledged") - number("unverified"), "{found}");
    }
    let error = found["error"].as_str().unwrap();
    assert!(error.starts_with(&format!("1 of 3 VMs were not verified: {}: it was lost", trio.name())), "{error}");
    assert_ne!(json["status"], "LOST WRITES", "{}", json["reason"]);
    assert!(ran.stdout.contains("Unreported:") && ran.stdout.contains("Not verified:"), "{}", ran.stdout);
    trio.assert_nothing_left();
}
