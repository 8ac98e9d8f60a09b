//! Connection strings, and the environment that fills them up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postgres_load_test::testing::{ConnectionSpec, Environment};

fuzz_target!(|texts: (&str, &str)| {
    let (text, variable) = texts;
    let environment =
        Environment::of_user("me").with("PGHOST", variable).with("PGPORT", variable).with("PGSSLMODE", variable);
    for environment in [Environment::of_user("me"), environment] {
        match ConnectionSpec::parse(text, &environment) {
            Ok(spec) => assert!(!spec.hosts.is_empty() && spec.describe().contains('@')),
            Err(error) => {
                let told = error.to_string();
                assert!(told.len() < 5_000, "{} bytes of error", told.len());
                assert!(!told.chars().any(char::is_control), "{told:?}");
            }
        }
    }
});
