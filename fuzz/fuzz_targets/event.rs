//! Lines that a coordinator reads of an agent, and all that is done with them: up to the merged report.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postgres_load_test::fleet::hostile::{hear, honest, lines, spoken, told};

fuzz_target!(|input: (u8, &[u8])| {
    let (honest_lines, bytes) = input;
    // After so many honest lines, since nothing counts that comes before its turn.
    let mut conversation = lines(&honest());
    conversation.truncate(usize::from(honest_lines) % (conversation.len() + 1));
    match hear(&[&spoken(&conversation), bytes].concat()) {
        Ok(part) => _ = told(vec![part]),
        Err(reason) => assert!(reason.len() < 20_000, "{} bytes of reason", reason.len()),
    }
});
