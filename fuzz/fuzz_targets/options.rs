//! Command lines of both programs, one argument a line.
#![no_main]

use std::ffi::OsString;

use clap::CommandFactory;
use libfuzzer_sys::fuzz_target;
use postgres_load_test::testing::{CoordinatorOptions, LoadTestOptions};
use postgres_load_test::testing::Plan;
use postgres_load_test::testing::Fault;
use postgres_load_test::testing::{all_or_faults, read};
use postgres_load_test::testing::FleetPlan;
use postgres_load_test::testing::Environment;

const NOW: u64 = 1_800_000_000_000_000_000;

fuzz_target!(|text: &str| {
    let arguments = || std::iter::once("program").chain(text.lines()).map(OsString::from);
    let environment = Environment::of_user("me");
    if let Ok((options, faults)) = read::<LoadTestOptions>(&LoadTestOptions::command(), arguments()) {
        match all_or_faults(faults, Plan::resolve(&options, &environment, NOW, 4)) {
            Ok(plan) => _ = plan.config("db".to_owned()),
            Err(faults) => told(&faults),
        }
    }
    if let Ok((options, faults)) = CoordinatorOptions::parse_from_arguments(arguments()) {
        let read_file = |_: &std::path::Path| Ok(text.to_owned());
        let resolved = FleetPlan::resolve(&options, &environment, NOW, &read_file);
        if let Err(faults) = all_or_faults(faults, resolved) {
            told(&faults);
        }
    }
});

fn told(faults: &[Fault]) {
    assert!(!faults.is_empty() && faults.len() < 200, "{} faults", faults.len());
}
