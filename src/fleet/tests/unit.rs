//! The phases, and which VM is unlike the others.

use clap::Parser;

use super::super::*;
use crate::cli::options::CoordinatorOptions;
use crate::fleet::listen::TICK;
use crate::postgres::conninfo::Environment;

#[tokio::test]
async fn a_vm_that_never_gets_ready_is_lost() {
    let options = ["coordinator", "--vms", "a,b", "--deploy", "never", "--on-host-loss", "continue"];
    let options = CoordinatorOptions::try_parse_from(options).unwrap();
    let plan = FleetPlan::resolve(&options, &Environment::of_user("me"), 0, &|_| unreachable!()).unwrap();
    let mut fleet = Fleet::new(plan).unwrap();
    let is_first = |vm: &Vm| vm.host.name == "a";
    fleet.until_all_in_time(&[0, 1], TICK / 2, "set up the tables", is_first).await;
    assert_eq!(fleet.vms[0].lost(), None);
    let reason = fleet.vms[1].lost().unwrap();
    assert_eq!(reason, "it still responds, but did not set up the tables within 0 min");
}

#[test]
fn one_that_is_unlike_all_others_is_alone_wherever_it_stands() {
    for values in ["baaa", "abaa", "aaab", "abab", "a"] {
        let known: Vec<(usize, char)> = values.chars().enumerate().collect();
        let expected = values.find('a').map(|at| (at, &'a'));
        assert_eq!(most_common(&known), expected, "{values}");
    }
    assert_eq!(most_common::<char>(&[]), None);
}
