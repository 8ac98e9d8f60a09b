//! Whether documents are parts of one test. Pure.

use std::collections::HashMap;

use serde_json::Value;

use super::{MergeError, Part, short};
use crate::result::{Config, THROWAWAY_TARGET};

/// How many differing options are named.
const NAMED_DIFFERENCES: usize = 3;

/// `parts` are sorted by share.
pub(super) fn check(parts: &[Part]) -> Result<(), MergeError> {
    let Some((first, others)) = parts.split_first() else { return Err(MergeError::Nothing) };
    twice(parts)?;
    let first_config = comparable(&first.result.config);
    for other in others {
        let hosts = || [first.label(), other.label()];
        let build = |part: &Part| (part.result.tool_version.clone(), part.result.tool_build.clone());
        if build(first) != build(other) {
            let builds = [build(first), build(other)]
                .map(|(version, build)| format!("version {} (build {})", short(&version), short(&build)));
            return Err(MergeError::OtherBuild { hosts: hosts(), builds });
        }
        let config = comparable(&other.result.config);
        if config != first_config {
            return Err(MergeError::UnlikeConfig { hosts: hosts(), differences: differences(&first_config, &config) });
        }
        let of = [first.result.run.share.of, other.result.run.share.of];
        if of[0] != of[1] {
            return Err(MergeError::OtherDivision { hosts: hosts(), of });
        }
        if config.target == THROWAWAY_TARGET {
            return Err(MergeError::ThrowawayServers { hosts: hosts() });
        }
    }
    // Sorted, so that the same shares stand side by side.
    for pair in parts.windows(2) {
        let [one, other] = [&pair[0], &pair[1]];
        if one.result.run.share == other.result.run.share {
            let hosts = [one.label(), other.label()];
            return Err(MergeError::SameShareTwice { hosts, share: one.result.run.share });
        }
    }
    Ok(())
}

/// The same document is better called so than "two of the same share".
fn twice(parts: &[Part]) -> Result<(), MergeError> {
    let mut seen = HashMap::new();
    for part in parts {
        let run = &part.result.run;
        let key = (part.result.hostname.as_str(), run.share.index, run.share.of, run.started_unix_ns);
        // Two processes on one VM may have been given one share and one T0.
        if let Some(other) = seen.insert(key, part).filter(|other| other.result == part.result) {
            return Err(MergeError::SameResultTwice { hosts: [other.label(), part.label()] });
        }
    }
    Ok(())
}

/// What has to be alike.
pub(crate) fn comparable(config: &Config) -> Config {
    Config {
        workers: 0,
        threads: 0,
        target_rps_per_vm: None,
        target_rps_total: None,
        workers_per_vm: None,
        ..config.clone()
    }
}

/// `duration_seconds 10.0 and 20.0, seed 1 and 2`
pub(crate) fn differences(one: &Config, other: &Config) -> String {
    // A struct of plain values always has a form as JSON.
    let fields = |config| serde_json::to_value(config).unwrap_or_default();
    let (one, other) = (fields(one), fields(other));
    let (Value::Object(one), Value::Object(other)) = (one, other) else { return "their options differ".to_owned() };
    let differing: Vec<String> = one
        .iter()
        .filter(|(name, value)| other.get(*name) != Some(value))
        .map(|(name, value)| {
            let text = |value: Option<&Value>| value.map_or("nothing".to_owned(), |value| short(&value.to_string()));
            format!("{name} is {} and {}", text(Some(value)), text(other.get(name)))
        })
        .collect();
    let named = differing.iter().take(NAMED_DIFFERENCES).cloned().collect::<Vec<_>>().join(", ");
    match differing.len().saturating_sub(NAMED_DIFFERENCES) {
        0 => named,
        more => format!("{named}, and {more} more"),
    }
}
