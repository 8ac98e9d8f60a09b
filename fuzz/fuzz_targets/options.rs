//! Command lines of both programs, one argument a line.
#![no_main]

use std::ffi::OsString;

use clap::Parser;
use libfuzzer_sys::fuzz_target;
use postgres_load_test::database::conninfo::Environment;
use postgres_load_test::fleet::plan::FleetPlan;
use postgres_load_test::handover::Secrets;
use postgres_load_test::options::{CoordinatorOptions, LoadTestOptions};
use postgres_load_test::plan::{Fault, Plan};

const NOW: u64 = 1_800_000_000_000_000_000;

fuzz_target!(|text: &str| {
    let arguments = || std::iter::once("program").chain(text.lines());
    if let Ok(options) = LoadTestOptions::try_parse_from(arguments()) {
        match Plan::resolve(&options, &Environment::of_user("me"), NOW, 4) {
            Ok(plan) => _ = plan.config("db".to_owned()),
            Err(faults) => told(&faults),
        }
    }
    if let Ok(options) = CoordinatorOptions::parse_from_arguments(arguments().map(OsString::from)) {
        let read_file = |_: &std::path::Path| Ok(text.to_owned());
        if let Err(faults) = FleetPlan::resolve(&options, &Secrets::default(), &Environment::of_user("me"), NOW, &read_file) {
            told(&faults);
        }
    }
});

fn told(faults: &[Fault]) {
    assert!(!faults.is_empty() && faults.len() < 200, "{} faults", faults.len());
}
