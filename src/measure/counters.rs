//! What a run counts, and the one way to add it up. Pure.
//!
//! A new counter is one field here. The recorder holds it, the protocol carries it, the coordinator sums it up, and the
//! bounds of `merge` apply to it, without another line.

use serde::{Deserialize, Serialize};

/// No count of a document or message is greater. So many requests take years at the greatest rate, and the sum over as many
/// VMs as there can be shares still fits into 64 bits.
pub const MAX_COUNT: u64 = 100_000_000_000_000;

/// A plain number among the fields of a [`tally`]. It stops at its maximum: counts of other VMs may be anything.
pub trait Tally {
    fn add(&mut self, other: &Self);
}

impl Tally for u64 {
    fn add(&mut self, other: &Self) {
        *self = self.saturating_add(*other);
    }
}

/// A struct of counts, or of other things with an `add`. Its own `add` adds every field.
macro_rules! tally {
    ($(#[$of_type:meta])* pub struct $name:ident { $($(#[$of_field:meta])* pub $field:ident: $kind:ty,)* }) => {
        $(#[$of_type])*
        pub struct $name { $($(#[$of_field])* pub $field: $kind,)* }

        impl $name {
            /// Adds another's counts, field by field.
            pub fn add(&mut self, other: &Self) {
                #[allow(unused_imports)]
                use $crate::measure::counters::Tally as _;
                $(self.$field.add(&other.$field);)*
            }
        }
    };
}
pub(crate) use tally;

tally! {
    /// All counts of a second, of a run, or of several VMs.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Counters {
        /// Requests of the measured window.
        pub measured: Counts,
        /// Requests of the warm-up.
        pub warmup: Counts,
        /// Requests that were ok and completed within the measured window, whenever they were due.
        pub completed_in_window: u64,
        /// Requests that were claimed after they were due, or skipped.
        pub late: u64,
        /// Requests of the measured window that the generator held up because it stood still.
        pub stalled: u64,
        /// What was done again after an error.
        pub recoveries: Recoveries,
    }
}

impl Counters {
    /// Requests of warm-up and window that failed or whose answer was lost.
    pub fn errors(&self) -> u64 {
        [self.measured, self.warmup].iter().map(|counts| counts.failed.saturating_add(counts.unknown)).sum()
    }

    /// Requests of warm-up and window that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.measured.ok.saturating_add(self.warmup.ok)
    }

    /// Requests of warm-up and window that may or may not have been committed. Has a meaning only for counts since T0.
    pub fn unsettled(&self) -> u64 {
        [self.measured, self.warmup].iter().map(|counts| counts.unknown.saturating_add(counts.in_flight())).sum()
    }
}

tally! {
    /// How many requests ended in which way.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Counts {
        /// COMMIT acknowledged.
        pub ok: u64,
        /// Known not to have committed.
        pub failed: u64,
        /// May or may not have committed.
        pub unknown: u64,
        /// Given up by `--max-lag`.
        pub skipped: u64,
        /// Handed to a connection, whatever became of it.
        pub started: u64,
    }
}

impl Counts {
    /// Requests that got an answer, be it an error.
    pub fn answered(&self) -> u64 {
        self.ok.saturating_add(self.failed).saturating_add(self.unknown)
    }

    /// Started, and no answer yet. Has a meaning only for counts since T0.
    pub fn in_flight(&self) -> u64 {
        self.started.saturating_sub(self.answered())
    }
}

tally! {
    /// What was done again after an error, in warm-up and window together.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[cfg_attr(test, derive(schemars::JsonSchema))]
    pub struct Recoveries {
        /// Connections opened in place of dead ones.
        pub reconnects: u64,
        /// Requests that were tried more than once (`--max-tries`), warm-up included.
        pub retried: u64,
        /// How many further tries these requests needed in all.
        pub retries: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_added_and_stops_at_its_maximum() {
        let counts = Counts { ok: 1, failed: 2, unknown: 3, skipped: 4, started: 5 };
        let recoveries = Recoveries { reconnects: 6, retried: 7, retries: u64::MAX };
        let one =
            Counters { measured: counts, warmup: counts, completed_in_window: 8, late: 9, stalled: 10, recoveries };
        let mut sum = one;
        sum.add(&one);
        let doubled = Counts { ok: 2, failed: 4, unknown: 6, skipped: 8, started: 10 };
        let expected = Counters {
            measured: doubled,
            warmup: doubled,
            completed_in_window: 16,
            late: 18,
            stalled: 20,
            recoveries: Recoveries { reconnects: 12, retried: 14, retries: u64::MAX },
        };
        assert_eq!(sum, expected);
        assert_eq!((one.acknowledged(), one.errors(), one.unsettled()), (2, 10, 6));
    }
}
