//! What is known of a VM's clock: the offset before T0, the one after the test, and the one by which its T0 was told. Sends
//! nothing itself. Times are nanoseconds.

use std::collections::HashMap;

use super::super::clock::{Offset, Reference};
use crate::merge;
use crate::result::{ClockComparison, ClockReference, ClockVsDatabase};

/// Unanswered pings that are remembered: a VM that answers none of them is lost long before there are as many.
const PINGS_KEPT: u64 = 64;

/// The estimates of one VM's clock.
#[derive(Debug, Default)]
pub struct ClockEstimates {
    /// Against ours, before T0.
    pub before: Option<Offset>,
    /// Against ours, after the test.
    after: Option<Offset>,
    /// The offset with which its T0 was computed.
    at_start: Option<Offset>,
    /// Against the database's, where the VMs are compared through that.
    vs_database: Option<ClockVsDatabase>,
    /// The estimate that a new series of samples replaces; it counts where the series fails.
    replaced: Option<Offset>,
    /// When each unanswered ping was sent, on our monotonic clock.
    pings: HashMap<u64, u64>,
    next_ping: u64,
    /// Round trips that are still wanted, one right after the other.
    pub samples_wanted: u32,
}

impl ClockEstimates {
    /// Notes that a ping is sent. Returns its number.
    pub fn ping(&mut self, now_ns: u64) -> u64 {
        let number = self.next_ping;
        self.next_ping += 1;
        self.pings.retain(|known, _| known + PINGS_KEPT > number);
        self.pings.insert(number, now_ns);
        number
    }

    /// Takes in the time there. Returns whether another round trip is wanted at once.
    pub fn pong(&mut self, number: u64, unix_ns: u64, at_ns: u64, reference: &Reference) -> bool {
        let Some(sent_ns) = self.pings.remove(&number) else { return false };
        let [sent_ns, at_ns] = [sent_ns, at_ns].map(|ns| reference.unix_ns_at(ns));
        let offset = Offset::of_round_trip(sent_ns, unix_ns, at_ns);
        let best = self.estimate();
        *best = Some(offset.or_better(*best));
        self.samples_wanted = self.samples_wanted.saturating_sub(1);
        self.samples_wanted > 0
    }

    /// From here on `samples` round trips in a row tell the offset.
    pub fn begin_samples(&mut self, samples: u32) {
        self.replaced = self.estimate().take();
        self.samples_wanted = samples;
    }

    pub fn end_samples(&mut self) {
        self.samples_wanted = 0;
        let replaced = self.replaced.take();
        let estimate = self.estimate();
        *estimate = estimate.or(replaced);
    }

    /// Fixes the offset by which T0 is told: `through` the database's clock where that is given, otherwise against ours.
    pub fn fix(&mut self, through: Option<(Offset, ClockVsDatabase)>) {
        self.vs_database = through.map(|(_, clock)| clock);
        self.at_start = through.map(|(offset, _)| offset).or(self.before);
    }

    /// An instant of our clock as the VM's shows it, by the offset that was fixed.
    pub fn there_ns(&self, here_ns: u64) -> u64 {
        self.at_start.map_or(here_ns, |clock| clock.there_ns(here_ns))
    }

    /// What is being estimated: the offset before T0, or the one after the test.
    fn estimate(&mut self) -> &mut Option<Offset> {
        if self.at_start.is_some() { &mut self.after } else { &mut self.before }
    }

    /// What is to be reported; `is_whole` tells whether the VM was there until the end.
    pub fn comparison(&self, is_whole: bool) -> Option<ClockComparison> {
        let after = self.after.filter(|_| is_whole);
        if let Some(at_first) = self.vs_database {
            // Through the database they were compared before only; since then each has drifted by what we see ourselves.
            let drift = self
                .before
                .zip(after)
                .map(|(before, after)| (after.offset_ms() - before.offset_ms(), after.bound_ms() + before.bound_ms()));
            return Some(ClockComparison {
                offset_after_ms: drift.map(|(ms, _)| at_first.offset_ms + ms),
                bound_after_ms: drift.map(|(_, bound_ms)| at_first.bound_ms + bound_ms),
                ..merge::comparison(at_first)
            });
        }
        let before = self.before?;
        Some(ClockComparison {
            reference: ClockReference::Coordinator,
            offset_ms: before.offset_ms(),
            bound_ms: before.bound_ms(),
            offset_after_ms: after.map(|after| after.offset_ms()),
            bound_after_ms: after.map(|after| after.bound_ms()),
        })
    }
}
