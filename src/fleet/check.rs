//! Whether what a VM says can be so: no length and no number that nothing here has. Whoever holds a VM can say anything in
//! its name. Pure.

use super::hosts::Host;
use crate::agent::protocol::{AgentEvent, ReadyToRun};
use crate::merge::{self, Part, out_of_bounds};
use crate::result::RunResult;
use crate::schedule::Schedule;

/// A VM's seconds may be ahead of ours by so many, since clocks are compared only so well.
const SECONDS_AHEAD: u64 = 10;
/// T0 in a result is the one that was ordered, to the nanosecond; this much is rounding.
const T0_WITHIN_NS: u64 = 1_000_000;
/// A window may be longer or shorter than was ordered by so many seconds.
const WINDOW_WITHIN_S: f64 = 0.001;

/// What is known here of the test, to compare with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub schedule: Schedule,
    /// Whether T0 has been ordered, and how it was told to this VM, nanoseconds since 1970.
    pub t0_there_ns: Option<u64>,
    /// Time since T0, nanoseconds; 0 before it.
    pub since_t0_ns: u64,
    pub stopped: bool,
    pub verify: bool,
}

/// What is wrong with an event, where it cannot be believed, from a VM that is `ready` to run. The counts of a second are
/// checked where they are added.
pub(super) fn unbelievable(
    event: &AgentEvent,
    ready: Option<&ReadyToRun>,
    host: &Host,
    expected: &Expected,
) -> Option<String> {
    match event {
        // To kill process 0 means one's own group.
        AgentEvent::Hello(hello) if hello.pid == 0 => Some("it is process number 0".to_owned()),
        AgentEvent::Second(snapshot) => {
            let latest = expected.since_t0_ns / 1_000_000_000 + SECONDS_AHEAD;
            let ahead = format!("it tells of second {}, and second {latest} cannot have been yet", snapshot.index);
            (snapshot.index >= latest).then_some(ahead)
        }
        AgentEvent::Result(result) => wrong_result(ready?, host, result, expected),
        // Their texts are cut where they are shown.
        AgentEvent::Incident { .. } | AgentEvent::Failed { .. } => None,
        // Every other event is bounded as a whole, also one that is added later.
        _ => out_of_bounds(event),
    }
}

fn wrong_result(ready: &ReadyToRun, host: &Host, result: &RunResult, expected: &Expected) -> Option<String> {
    let (schedule, run) = (&expected.schedule, &result.run);
    // What all VMs had in common before the load they must have after it, or nothing of it could be merged.
    let phases = result.phases_ms.iter().map(|phase| &phase.name);
    if merge::comparable(&result.config) != merge::comparable(&ready.config)
        || (result.config.workers, result.config.threads) != (ready.config.workers, ready.config.threads)
        || !phases.eq(&ready.phases)
    {
        return Some("its result is of other options than it told before the load".to_owned());
    }
    if run.share != schedule.share || expected.t0_there_ns?.abs_diff(run.started_unix_ns) > T0_WITHIN_NS {
        return Some("its result is of another share or another T0".to_owned());
    }
    if result.verification.is_some() != expected.verify {
        return Some("its rows were not verified as was asked for".to_owned());
    }
    let [start, length] = [schedule.warmup_ns, schedule.duration_ns].map(|ns| ns as f64 / 1e9);
    let beyond = |seconds: f64, most: f64| seconds > most + WINDOW_WITHIN_S;
    let cut = run.window_start_s < start - WINDOW_WITHIN_S || run.window_seconds < length - WINDOW_WITHIN_S;
    let begun = run.window_seconds > 0.0;
    if beyond(run.window_start_s, start)
        || (begun && run.window_start_s < start - WINDOW_WITHIN_S)
        || beyond(run.window_seconds, length)
        || (cut && !run.interrupted && !expected.stopped)
    {
        let window = format!("{:e} s from {:e} s on", run.window_seconds, run.window_start_s);
        return Some(format!("its result is of another window than was ordered: {window}"));
    }
    let part = Part {
        hostname: host.name.clone(),
        file: None,
        result: result.clone(),
        clock: None,
        start_skew_ms: None,
        lost: None,
    };
    // Its name is said wherever the reason is.
    let wrong = merge::check_whole(&part).err()?.to_string();
    Some(wrong.strip_prefix(&format!("{}: ", part.label())).unwrap_or(&wrong).to_owned())
}
