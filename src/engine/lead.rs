//! How much before a deadline to wake up, so that the waking is over when it comes. Pure.
//!
//! A sleeping processor needs some tens of microseconds to run a thread again. Whoever wakes that much earlier and
//! looks at the clock until it is time starts punctually, but computes meanwhile. So the time that is spent looking is
//! rationed: a generator must not take from the database beside it what it gains in punctuality.

/// No lead is longer: what takes longer than this is not the waking, but others that have the processor.
const MAX_NS: u64 = 100_000;
const FIRST_NS: u64 = 50_000;
/// One part in so many of a thread's time may be spent looking at the clock: 2 %.
const RATION: u64 = 50;
/// What is not spent is saved up to this.
const MAX_SAVED_NS: u64 = 2_000_000;

#[derive(Clone, Debug)]
pub struct Lead {
    estimate_ns: u64,
    saved_ns: u64,
    as_of_ns: u64,
}

impl Lead {
    /// Begins with nothing saved at `now_ns`.
    pub fn new(now_ns: u64) -> Self {
        Self { estimate_ns: FIRST_NS, saved_ns: 0, as_of_ns: now_ns }
    }

    /// How much before its deadline a wait that begins now is to end, nanoseconds; 0 where the ration is used up.
    pub fn ask(&mut self, now_ns: u64) -> u64 {
        let earned_ns = now_ns.saturating_sub(self.as_of_ns) / RATION;
        self.saved_ns = (self.saved_ns + earned_ns).min(MAX_SAVED_NS);
        self.as_of_ns = now_ns;
        if self.saved_ns < self.estimate_ns { 0 } else { self.estimate_ns }
    }

    /// A thread that wanted to wake at an instant ran again `late_ns` after it. The estimate follows long waits faster
    /// than short ones, so that most waits are shorter than it.
    pub fn woke(&mut self, late_ns: u64) {
        let late_ns = late_ns.min(MAX_NS);
        if late_ns > self.estimate_ns {
            self.estimate_ns += (late_ns - self.estimate_ns) / 4;
        } else {
            self.estimate_ns -= (self.estimate_ns - late_ns) / 32;
        }
    }

    /// How long the worker polled the clock before the slot was due.
    pub fn spent(&mut self, spent_ns: u64) {
        self.saved_ns = self.saved_ns.saturating_sub(spent_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_comes_to_lie_above_most_waits() {
        let mut lead = Lead::new(0);
        let mut covered = 0;
        for round in 0..1_000 {
            let late_ns = 10_000 + round * 7_919 % 20_000;
            covered += usize::from(lead.estimate_ns >= late_ns);
            lead.woke(late_ns);
        }
        assert!((600..1_000).contains(&covered), "{covered}");
        lead.woke(3_600_000_000_000);
        assert!(lead.estimate_ns <= MAX_NS);
    }

    #[test]
    fn no_more_than_the_ration_is_spent() {
        let mut lead = Lead::new(0);
        let (mut now_ns, mut spent_ns) = (0, 0);
        let mut granted = 0;
        while now_ns < 1_000_000_000 {
            let looked_ns = lead.ask(now_ns);
            lead.spent(looked_ns);
            granted += usize::from(looked_ns > 0);
            spent_ns += looked_ns;
            now_ns += 100_000 + looked_ns;
        }
        assert!(granted > 100, "{granted}");
        assert!(spent_ns <= now_ns / RATION, "{spent_ns} of {now_ns}");
    }
}
