//! What no value of a document or message can be, wherever it stands. Pure.
//!
//! One walk over the JSON bounds every field by default, also one that is added later, and names it by its path; a bounded
//! type for each kind of field would have to be chosen again for each, and a forgotten one would be trusted.

use serde::Serialize;
use serde_json::Value;

use super::short;
use crate::measure::counters::MAX_COUNT;
use crate::text::terminal::steers;

/// No rate, size, duration or percentage of a document is greater.
const MAX_NUMBER: f64 = 1e15;
/// Entries of any list or map: classes of errors, warnings, bins of a timeline, settings.
const MAX_ENTRIES: usize = 1_000;
/// The longest name of anything, bytes: DNS has no longer one of a VM.
const MAX_NAME: usize = 253;
/// The longest sentence, bytes; a list of hosts in a connection string may be such.
const MAX_TEXT: usize = 10_000;
/// Parts of the names of fields that may be below zero. Names that end in `_ns` may be above [`MAX_COUNT`].
const SIGNED: [&str; 3] = ["offset", "skew", "ahead"];
/// Fields whose strings are sentences of people or servers. All other strings are names: short, not empty, and without
/// control characters. What is printed of a sentence is escaped there.
const TEXTS: [&str; 14] = [
    "target",
    "reason",
    "warnings",
    "advice",
    "example",
    "aborted",
    "error",
    "warning",
    "database",
    "server",
    "events",
    "limit",
    "server_stats",
    "lost",
];

/// The first value that this program would not have written, as a sentence without its full stop.
pub(crate) fn out_of_bounds(document: &impl Serialize) -> Option<String> {
    match serde_json::to_value(document) {
        Ok(value) => wrong(&value, "", false),
        Err(error) => Some(format!("it cannot be written as JSON: {error}")),
    }
}

fn wrong(value: &Value, path: &str, is_text: bool) -> Option<String> {
    match value {
        Value::Null | Value::Bool(_) => None,
        Value::Number(number) => {
            let is_time = path.ends_with("_ns");
            let least = if SIGNED.iter().any(|name| path.contains(name)) { -MAX_NUMBER } else { 0.0 };
            let is_right = match (number.as_u64(), number.as_f64()) {
                (Some(count), _) => is_time || count <= MAX_COUNT,
                (None, number) => number.is_some_and(|number| (least..MAX_NUMBER).contains(&number)),
            };
            let shown = || {
                number.as_u64().map_or_else(|| format!("{:e}", number.as_f64().unwrap_or(f64::NAN)), |n| n.to_string())
            };
            (!is_right).then(|| format!("its {path} is {}", shown()))
        }
        Value::String(text) if path.ends_with("base64") => {
            // Decoding has a limit of its own.
            text.chars().any(steers).then(|| format!("its {path} holds control characters"))
        }
        Value::String(text) => wrong_string(path, text, is_text),
        Value::Array(items) if items.len() > MAX_ENTRIES => Some(format!("its {path} has {} entries", items.len())),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(at, item)| wrong(item, &format!("{path}[{at}]"), is_text))
        }
        Value::Object(fields) if fields.len() > MAX_ENTRIES => Some(format!("its {path} has {} fields", fields.len())),
        Value::Object(fields) => fields.iter().find_map(|(name, field)| {
            let name = short(name);
            let is_text = is_text || TEXTS.contains(&name.as_str());
            let path = if path.is_empty() { name } else { format!("{path}.{name}") };
            wrong(field, &path, is_text)
        }),
    }
}

fn wrong_string(path: &str, text: &str, is_text: bool) -> Option<String> {
    let most = match path {
        _ if is_text => MAX_TEXT,
        // That of a merge names several VMs.
        "hostname" => 4 * MAX_NAME,
        _ => MAX_NAME,
    };
    if text.len() > most {
        return Some(format!("its {path} has {} bytes", text.len()));
    }
    if is_text {
        return None;
    }
    if text.trim().is_empty() {
        return Some(format!("its {path} is empty"));
    }
    text.chars().any(steers).then(|| format!("its {path} holds control characters"))
}

/// What is wrong with the name of a VM, where it is none that this program gives.
pub(super) fn wrong_name(name: &str) -> Option<String> {
    wrong_string("name", name, false)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use serde_json::json;

    #[test]
    fn each_kind_of_value_has_its_bounds() {
        for (document, said) in [
            (json!({"a": {"b": [1, -1]}}), Some("its a.b[1] is -1e0")),
            (json!({"count": MAX_COUNT}), None),
            (json!({"count": MAX_COUNT + 1}), Some("its count is 100000000000001")),
            (json!({"at_ns": u64::MAX, "offset_ms": -0.5, "start_skew_ms": -3}), None),
            (json!({"offset_ms": -1e300}), Some("its offset_ms is -1e300")),
            (json!({"rate": 1e300}), Some("its rate is 1e300")),
            (json!({"rate": 0.0, "none": null, "yes": true}), None),
            (json!({"name": " "}), Some("its name is empty")),
            (json!({"names": ["a", ""]}), Some("its names[1] is empty")),
            (json!({"name": "\u{1b}[2J"}), Some("its name holds control characters")),
            (json!({"name": "x".repeat(254)}), Some("its name has 254 bytes")),
            (json!({"warnings": ["", "\u{1b}[2J is escaped where it is printed", "x".repeat(254)]}), None),
            (json!({"server": {"version": "x".repeat(10_001)}}), Some("its server.version has 10001 bytes")),
            (json!({"list": vec![0; 1_001]}), Some("its list has 1001 entries")),
            (
                json!({"map": (0..1_001).map(|at| (at.to_string(), 0)).collect::<HashMap<_, _>>()}),
                Some("its map has 1001 fields"),
            ),
            (json!({"hostname": "x".repeat(3 * 253 + 20)}), None),
        ] {
            assert_eq!(out_of_bounds(&document).as_deref(), said, "{document}");
        }
    }
}
