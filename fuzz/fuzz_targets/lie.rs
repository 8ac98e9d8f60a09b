//! An honest conversation with lies in some places, as an agent's lines and as a result file.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use postgres_load_test::testing::protocol::AgentEvent;
use postgres_load_test::testing::hostile::{hear, honest, lines, spoil, spoken, told};
use postgres_load_test::testing::{files, merge};
use serde_json::Value;

/// The lines of a conversation, and the result in it.
static HONEST: LazyLock<(Vec<Value>, Value)> = LazyLock::new(|| {
    let events = honest();
    let Some(AgentEvent::Result(result)) = events.last() else { unreachable!("no result at its end") };
    (lines(&events), serde_json::to_value(result).unwrap_or_default())
});

fuzz_target!(|lies: Vec<(u8, u16, u8)>| {
    let (mut conversation, mut document) = HONEST.clone();
    let count = conversation.len();
    for (line, place, lie) in lies.into_iter().take(8) {
        spoil(&mut conversation[usize::from(line) % count], place.into(), lie.into());
        spoil(&mut document, place.into(), lie.into());
    }
    match hear(&spoken(&conversation)) {
        Ok(part) => _ = told(vec![part]),
        Err(reason) => assert!(reason.len() < 20_000, "{} bytes of reason", reason.len()),
    }
    match files::read(&["-".into()], &mut document.to_string().as_bytes()) {
        Ok(parts) => match merge(parts.clone(), Vec::new()) {
            Ok(_) => _ = told(parts),
            Err(error) => assert!(!error.is_bug() && error.to_string().len() < 5_000, "{error}"),
        },
        Err(error) => assert!(error.to_string().len() < 5_000, "{error}"),
    }
});
