//! Reading what ssh says: what kind of failure it is, which of several ssh says it, and what of it is worth repeating. Pure.

use super::SshErrorKind as Kind;
use crate::text::terminal::printable;

/// Of ssh's own words more is not repeated.
const LONGEST_WORDS_CHARS: usize = 300;

/// The place of the jump host that failed, of `hops`; `None` where none of them said so. Those behind it, and the last ssh,
/// find their connection closed, and each says it in a line of this form; what comes first is the cause.
pub(super) fn guilty_hop(way: &str, hops: usize) -> Option<usize> {
    let first = way.lines().map(str::trim).find(|line| is_of_ssh(line))?;
    let closed = way.lines().filter(|line| line.trim().starts_with(HUNG_UP)).count();
    let behind = closed.saturating_sub(usize::from(first.starts_with(HUNG_UP)));
    hops.checked_sub(1).map(|last| last.saturating_sub(behind))
}

/// Begins the line of an ssh whose connection is closed before the other side has said what it is.
const HUNG_UP: &str = "kex_exchange_identification:";

/// Whether a line is a failure that ssh tells, and not a greeting of a server, which comes the same way.
fn is_of_ssh(line: &str) -> bool {
    let starts = [
        "ssh:",
        HUNG_UP,
        "ssh_",
        "channel ",
        "stdio forwarding failed",
        "Host key verification failed",
        "Host key for ",
        "Connection ",
        "Received disconnect",
        "Disconnected from",
        "Unable to negotiate",
        "Load key",
        "banner exchange",
        "Timeout, server",
        "Bad ",
        "command-line",
        "Permissions ",
    ];
    let parts =
        ["Permission denied (", "host key is known for", "onfiguration option", "HOST IDENTIFICATION HAS CHANGED"];
    !line.starts_with("Connection to UNKNOWN")
        && (starts.iter().any(|start| line.starts_with(start)) || parts.iter().any(|part| line.contains(part)))
}

pub(super) fn kind_of(log: &str) -> Kind {
    let has = |part: &str| log.contains(part);
    if has("HOST IDENTIFICATION HAS CHANGED") {
        Kind::HostKeyChanged
    } else if has("host key is known for") || has("Host key verification failed") {
        Kind::HostKeyUnknown
    } else if has("Permission denied (") || has("Too many authentication failures") {
        if has("UNPROTECTED PRIVATE KEY FILE") { Kind::KeyFile } else { Kind::Denied }
    } else if has("onfiguration option") || has("Bad owner or permissions") || has("an't open user config file") {
        Kind::Config
    } else if has("administratively prohibited") || has("unknown channel type") {
        Kind::Forwarding
    } else if has("Temporary failure in name resolution") {
        Kind::ResolverFailed
    } else if has("Could not resolve hostname") || has("Name or service not known") {
        Kind::Unresolved
    } else if has("Connection refused") {
        Kind::Refused
    } else if has("No route to host") || has("is unreachable") {
        Kind::Unreachable
    } else if has("timed out") || has("Timeout, server") {
        Kind::Timeout
    } else if has("exchange_identification") {
        Kind::Dropped
    } else if ["Connection reset", "Connection closed", "Broken pipe", "stdio forwarding failed"]
        .iter()
        .any(|part| has(part))
    {
        Kind::Closed
    } else {
        Kind::Other
    }
}

pub(super) const SAID_NOTHING: &str = "it did not say why";

/// What ssh said, in one line; nothing that only decorates.
pub(in crate::fleet::ssh) fn last_words(log: &str) -> String {
    let decorates =
        ["@", "Warning: Permanently added", "Failed to add the host to the list", "Connection closed by UNKNOWN"];
    let lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.filter(|line| !decorates.iter().any(|start| line.starts_with(start))).collect();
    // A greeting comes before a failure.
    let begin = lines.iter().position(|line| is_of_ssh(line)).unwrap_or_default();
    let words = lines[begin..].iter().map(|line| printable(line.trim_end_matches('.'))).collect::<Vec<_>>().join("; ");
    let words = words.strip_prefix("ssh: ").unwrap_or(&words);
    let length = words.chars().count();
    match length > LONGEST_WORDS_CHARS {
        true => format!("… {}", words.chars().skip(length - LONGEST_WORDS_CHARS).collect::<String>()),
        false if words.is_empty() => SAID_NOTHING.to_owned(),
        false => words.to_owned(),
    }
}
