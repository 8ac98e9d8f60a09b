//! A result file as `coordinator merge` reads it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postgres_load_test::testing::hostile::told;
use postgres_load_test::testing::{files, merge};

fuzz_target!(|content: &[u8]| {
    match files::read(&["-".into()], &mut &content[..]) {
        Ok(parts) => match merge(parts.clone(), Vec::new()) {
            Ok(_) => _ = told(parts),
            Err(error) => assert!(!error.is_bug() && error.to_string().len() < 5_000, "{error}"),
        },
        Err(error) => assert!(error.to_string().len() < 5_000, "{error}"),
    }
});
