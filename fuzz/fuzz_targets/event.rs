//! Lines that a coordinator reads of an agent, and all that is done with them: up to the merged report.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use postgres_load_test::testing::hostile::{hear, honest, lines, spoken, told};

static HONEST: LazyLock<Vec<Vec<u8>>> =
    LazyLock::new(|| lines(&honest()).iter().map(|line| spoken(std::slice::from_ref(line))).collect());

fuzz_target!(|input: (u8, &[u8])| {
    let (honest_lines, bytes) = input;
    // After so many honest lines, since nothing counts that comes before its turn.
    let before = HONEST[..usize::from(honest_lines) % (HONEST.len() + 1)].concat();
    match hear(&[&before, bytes].concat()) {
        Ok(part) => _ = told(vec![part]),
        Err(reason) => assert!(reason.len() < 20_000, "{} bytes of reason", reason.len()),
    }
});
