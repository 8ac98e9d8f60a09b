//! What happened during a run, on the time axis of client and server. Pure.

use serde::{Deserialize, Serialize};

use super::RunResult;
use crate::measure::outcome::ErrorOrigin;
use crate::monitor::server::ServerEventKind;
use crate::text::words::thousands;

/// More events than this are not told: the least important are left out.
pub(crate) const MOST_EVENTS: usize = 200;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Event {
    /// What kind of event it was.
    pub kind: EventKind,
    /// When it began, seconds after T0.
    pub started_s: f64,
    /// How long it lasted, seconds; 0 where it has no length.
    pub seconds: f64,
    /// The VM; `null` with one VM, or where it does not belong to one.
    pub hostname: Option<String>,
    /// What happened, in words.
    pub text: String,
}

/// The most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The last answers of a VM that was lost.
    LostVm,
    /// The server was started anew.
    Restart,
    /// Requests were due and none was acknowledged.
    Outage,
    /// The first error of a class.
    FirstError,
    /// The generator stood still.
    Stall,
    /// The server wrote its changed pages to disk.
    Checkpoint,
    /// Autovacuum of a table that requests write.
    Autovacuum,
    /// The last error of a class.
    LastError,
    /// The server did not answer the questions for its statistics.
    NoStatistics,
}

/// All that the document tells, in the order of time.
pub(crate) fn events(result: &RunResult) -> Vec<Event> {
    let mut found = Vec::new();
    let mut add = |kind, hostname: Option<&String>, started_s: f64, seconds: f64, text: String| {
        // Times of documents from elsewhere may be anything.
        if started_s.is_finite() && seconds.is_finite() {
            found.push(Event { kind, started_s, seconds: seconds.max(0.0), hostname: hostname.cloned(), text });
        }
    };
    for vm in result.fleet.iter().flat_map(|fleet| &fleet.per_vm_results).filter(|vm| vm.lost.is_some()) {
        let timeline = &vm.result.throughput.timeline;
        let bins = timeline.completed.iter().rposition(|completed| *completed > 0).map_or(0, |last| last + 1);
        let at_s = bins as f64 * timeline.bin_seconds as f64;
        add(EventKind::LostVm, Some(&vm.hostname), at_s, 0.0, "last answers of a VM that was lost".to_owned());
    }
    for outage in &result.outages {
        let end = if outage.recovered_s.is_some() { "" } else { ", to the end" };
        let text = format!("outage of {:.1} s{end}", outage.seconds);
        add(EventKind::Outage, outage.hostname.as_ref(), outage.started_s, outage.seconds, text);
    }
    for stall in &result.generator.stood_still.stalls {
        let what = if stall.asleep { "the machine slept" } else { "the generator stood still" };
        let text = format!("{what} for {:.1} s", stall.seconds);
        add(EventKind::Stall, stall.hostname.as_ref(), stall.started_s, stall.seconds, text);
    }
    for error in &result.errors {
        let (Some(first_s), Some(last_s)) = (error.first_s, error.last_s) else { continue };
        let origin = if error.origin == ErrorOrigin::Retry { ", tried again" } else { "" };
        let text = format!("first error: {} ({} in all{origin})", error.class, thousands(error.count));
        add(EventKind::FirstError, None, first_s, 0.0, text);
        if error.count > 1 {
            add(EventKind::LastError, None, last_s, 0.0, format!("last error: {}", error.class));
        }
    }
    let stats = result.findings.server_stats.iter();
    for event in stats.clone().flat_map(|stats| &stats.events) {
        let (kind, name) = match event.kind {
            ServerEventKind::Restart => (EventKind::Restart, "the server was restarted, or another one answers"),
            ServerEventKind::Checkpoint => (EventKind::Checkpoint, "checkpoint"),
            ServerEventKind::Autovacuum => (EventKind::Autovacuum, "autovacuum"),
        };
        let detail = if event.detail.is_empty() { String::new() } else { format!(": {}", event.detail) };
        let length = if event.seconds >= 0.1 { format!(", {:.1} s", event.seconds) } else { String::new() };
        add(kind, None, event.started_s, event.seconds, format!("{name}{detail}{length}"));
    }
    for gap in stats.flat_map(|stats| &stats.gaps) {
        let text = format!("no statistics of the server: {}", gap.reason);
        add(EventKind::NoStatistics, None, gap.started_s, gap.seconds, text);
    }
    found.sort_by(|one, other| one.kind.cmp(&other.kind).then(one.started_s.total_cmp(&other.started_s)));
    found.truncate(MOST_EVENTS);
    found.sort_by(|one, other| one.started_s.total_cmp(&other.started_s));
    found
}
