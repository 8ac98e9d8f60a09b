//! How far a machine's wall clock is from ours, estimated from round trips through the open channel. Pure.
//!
//! The smallest round trip wins: the machine's clock was read somewhere between sending and receiving, so the middle of
//! both is off by at most half of the round trip (Cristian's algorithm). Times are nanoseconds.

use crate::clock::{now_ns, unix_ns};

/// Our wall clock, as the monotonic clock carries it on from the start of the program: it cannot be set meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    mono_ns: u64,
    unix_ns: u64,
}

impl Reference {
    /// From now on.
    pub fn now() -> Self {
        Self { mono_ns: now_ns(), unix_ns: unix_ns() }
    }

    /// The wall clock at an instant of the monotonic clock.
    pub fn unix_ns_at(&self, mono_ns: u64) -> u64 {
        (self.unix_ns + mono_ns).saturating_sub(self.mono_ns)
    }
}

/// An estimate: the machine's clock shows `offset_ns` more than ours, give or take `bound_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// Positive where the machine's clock is ahead.
    pub offset_ns: i64,
    /// Half of the round trip.
    pub bound_ns: u64,
}

impl Offset {
    /// From one round trip, all in nanoseconds since 1970: sent and received by our clock, read by the machine's.
    pub fn of_round_trip(sent_ns: u64, read_ns: u64, received_ns: u64) -> Self {
        let bound_ns = received_ns.saturating_sub(sent_ns).div_ceil(2);
        let middle_ns = i128::from(sent_ns) + i128::from(bound_ns);
        let offset_ns = i128::from(read_ns) - middle_ns;
        Self { offset_ns: offset_ns.clamp(i64::MIN.into(), i64::MAX.into()) as i64, bound_ns }
    }

    /// The better one of two.
    #[must_use]
    pub fn or_better(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other.bound_ns < self.bound_ns => other,
            _ => self,
        }
    }

    /// What the machine's clock shows at an instant of ours.
    pub fn there_ns(&self, here_ns: u64) -> u64 {
        here_ns.saturating_add_signed(self.offset_ns)
    }

    /// Milliseconds.
    pub fn offset_ms(&self) -> f64 {
        self.offset_ns as f64 / 1e6
    }

    /// Milliseconds.
    pub fn bound_ms(&self) -> f64 {
        self.bound_ns as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_tightest_round_trip_wins() {
        let loose = Offset::of_round_trip(1_000, 5_000, 3_000);
        assert_eq!(loose, Offset { offset_ns: 3_000, bound_ns: 1_000 });
        let tight = Offset::of_round_trip(1_000, 4_100, 1_200);
        assert_eq!(tight, Offset { offset_ns: 3_000, bound_ns: 100 });
        assert_eq!(loose.or_better(Some(tight)), tight);
        assert_eq!(tight.or_better(Some(loose)), tight);
        assert_eq!(tight.or_better(None), tight);
    }

    proptest! {
        #[test]
        fn the_true_offset_lies_within_the_bound(
            sent in 1u64 << 60..1 << 61,
            there in 0u64..1_000_000_000,
            back in 0u64..1_000_000_000,
            truth in -1_000_000_000_000i64..1_000_000_000_000,
        ) {
            let read = (sent + there).saturating_add_signed(truth);
            let offset = Offset::of_round_trip(sent, read, sent + there + back);
            prop_assert!(offset.offset_ns.abs_diff(truth) <= offset.bound_ns + 1);
        }

        #[test]
        fn no_clock_reading_does_harm(sent: u64, read: u64, received: u64, here: u64) {
            let _ = Offset::of_round_trip(sent, read, received).there_ns(here);
        }
    }
}
