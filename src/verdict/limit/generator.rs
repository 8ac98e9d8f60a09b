//! The generator and its machine. Pure.

use super::{found, remedies};
use crate::result::{Limit, LimitKind, RunResult, THROWAWAY_TARGET};

/// From here on a generator's threads, and not the way to the server, may be what sessions wait for, percent.
pub(super) const OCCUPIED_PCT: f64 = 50.0;
/// From here on a machine has no processor to spare, percent.
const ALL_BUSY_PCT: f64 = 90.0;
/// A busy machine holds the generator up where its threads wait for a processor for this part of the time, percent.
const WAITED_PCT: f64 = 10.0;

/// Where the verdict is that the figures show the generator.
pub(super) fn limit(result: &RunResult, reason: Option<String>) -> Limit {
    let generator = &result.generator;
    let mut evidence: Vec<String> = reason.into_iter().collect();
    if generator.stood_still.stalled_seconds > 0.0 {
        let (seconds, window) = (generator.stood_still.stalled_seconds, result.run.window_seconds);
        evidence.push(format!("It stood still for {seconds:.1} of {window:.0} s."));
    }
    if let Some(pct) = generator.occupied_pct {
        evidence.push(format!(
            "Its most occupied thread was computing or waiting for a processor for {pct:.0}% of the time."
        ));
    }
    let remedies = remedies::of(LimitKind::Generator, result);
    let sentence = "The machine that made the load, not the database".to_owned();
    found(LimitKind::Generator, generator.occupied_pct, sentence, evidence, remedies)
}

/// The processors of the generator's machine, where none is idle, or its threads wait for one for much of the time. Where
/// the database is on that machine, and all of it is busy, both lack them.
pub(super) fn processors(result: &RunResult, mut evidence: Vec<String>) -> Option<Limit> {
    let generator = &result.generator;
    // Others may keep a machine busy without holding anybody up.
    let is_held_up = generator.run_queue_wait_pct.is_some_and(|pct| pct >= WAITED_PCT);
    let busy_pct = generator.machine_cpu_pct.filter(|pct| *pct >= ALL_BUSY_PCT && is_held_up);
    let starved_pct = generator
        .run_queue_wait_pct
        .filter(|waited_pct| generator.occupied_pct.is_some_and(|pct| pct >= OCCUPIED_PCT && waited_pct * 2.0 >= pct));
    let share_pct = busy_pct.or(starved_pct)?;
    let waited_pct = starved_pct.or(generator.run_queue_wait_pct);
    evidence.extend(waited_pct.map(|pct| format!("The generator waited {pct:.0}% of the time for a processor.")));
    evidence.extend(
        generator.machine_cpu_pct.map(|pct| format!("Its machine's processors were busy for {pct:.0}% of the time.")),
    );
    let (kind, sentence, remedies) = if busy_pct.is_some() && is_on_this_machine(result) {
        let remedy = "Give the database and the generator machines of their own.".to_owned();
        let sentence = "The processors of this machine, which the generator and the database share";
        (LimitKind::Cpu, sentence, vec![remedy])
    } else {
        let sentence = "The machine that made the load, not the database: the generator lacked a processor";
        (LimitKind::Generator, sentence, remedies::of(LimitKind::Generator, result))
    };
    Some(found(kind, Some(share_pct), sentence.to_owned(), evidence, remedies))
}

/// Whether the database is on the generator's machine, as its address says: a socket, loopback, or a server of this run.
/// What a pooler on this machine leads to may be anywhere.
pub(super) fn is_on_this_machine(result: &RunResult) -> bool {
    let target = &result.config.target;
    let host = target.rsplit_once('@').map_or(target.as_str(), |(_, host)| host);
    let is_local = ["[/", "localhost", "127.", "[::1]"].iter().any(|local| host.starts_with(local));
    target == THROWAWAY_TARGET || (is_local && result.server.pooled != Some(true))
}
