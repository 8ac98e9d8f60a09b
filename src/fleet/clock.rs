//! How far a VM's wall clock is from ours, estimated from round trips through the open channel. Pure.
//!
//! The smallest round trip wins: the VM's clock was read somewhere between sending and receiving, so the middle of
//! both is off by at most half of the round trip (Cristian's algorithm). Times are nanoseconds.

use crate::clock::{now_ns, unix_ns};
use crate::result::{ClockComparison, ClockReference, ClockVsDatabase};

/// Our wall clock, as the monotonic clock carries it on from the start of the program: it cannot be set meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    mono_ns: u64,
    unix_ns: u64,
}

impl Reference {
    pub fn now() -> Self {
        Self { mono_ns: now_ns(), unix_ns: unix_ns() }
    }

    /// The wall clock at an instant of the monotonic clock.
    pub fn unix_ns_at(&self, mono_ns: u64) -> u64 {
        (self.unix_ns + mono_ns).saturating_sub(self.mono_ns)
    }
}

/// An estimate: the VM's clock shows `offset_ns` more than ours, give or take `bound_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// Positive where the VM's clock is ahead.
    pub offset_ns: i64,
    /// Half of the round trip.
    pub bound_ns: u64,
}

impl Offset {
    /// From one round trip, all in nanoseconds since 1970: sent and received by our clock, read by the VM's.
    pub fn of_round_trip(sent_ns: u64, read_ns: u64, received_ns: u64) -> Self {
        let bound_ns = received_ns.saturating_sub(sent_ns).div_ceil(2);
        let middle_ns = i128::from(sent_ns) + i128::from(bound_ns);
        let offset_ns = i128::from(read_ns) - middle_ns;
        Self { offset_ns: offset_ns.clamp(i64::MIN.into(), i64::MAX.into()) as i64, bound_ns }
    }

    #[must_use]
    pub fn or_better(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other.bound_ns < self.bound_ns => other,
            _ => self,
        }
    }

    pub fn there_ns(&self, here_ns: u64) -> u64 {
        here_ns.saturating_add_signed(self.offset_ns)
    }

    pub fn offset_ms(&self) -> f64 {
        self.offset_ns as f64 / 1e6
    }

    pub fn bound_ms(&self) -> f64 {
        self.bound_ns as f64 / 1e6
    }
}

/// What is known of a VM's clock: against ours, and against the database's.
pub type Known = (Option<Offset>, Option<ClockVsDatabase>);

/// The VMs' clocks against ours by way of the database's, where that is the better reference: all VMs have compared their
/// clocks with it, and more exactly than we can. Against ours they then may all be off by the same, and against each other
/// by their two bounds at most.
pub fn through_database(known: &[Known]) -> Option<Vec<Offset>> {
    let theirs: Vec<Offset> = known.iter().map(|(_, theirs)| theirs.map(Offset::from)).collect::<Option<_>>()?;
    let ours: Vec<(Offset, Offset)> =
        known.iter().zip(&theirs).filter_map(|((ours, _), theirs)| Some(((*ours)?, *theirs))).collect();
    let coarsest_theirs = theirs.iter().map(|theirs| theirs.bound_ns).max()?;
    let coarsest_ours = ours.iter().map(|(ours, _)| ours.bound_ns).max()?;
    let is_better = ours.len() < known.len() || coarsest_theirs < coarsest_ours;
    if known.len() < 2 || !is_better {
        return None;
    }
    // What the database's clock shows more than ours, as each VM tells it. Who contradicts the best of them is wrong, or
    // lies, and nobody knows who.
    let database = ours.iter().map(|(ours, theirs)| Offset {
        offset_ns: ours.offset_ns.saturating_sub(theirs.offset_ns),
        bound_ns: ours.bound_ns.saturating_add(theirs.bound_ns),
    });
    let best = database.clone().min_by_key(|offset| offset.bound_ns)?;
    let agree = |one: Offset| one.offset_ns.abs_diff(best.offset_ns) <= one.bound_ns.saturating_add(best.bound_ns);
    if !database.clone().all(agree) {
        return None;
    }
    let through = |theirs: &Offset| Offset { offset_ns: best.offset_ns.saturating_add(theirs.offset_ns), ..*theirs };
    Some(theirs.iter().map(through).collect())
}

/// How the clocks compare by the better reference, as far as it is known before the load.
pub fn comparisons(known: &[Known]) -> Vec<Option<ClockComparison>> {
    let is_through_database = through_database(known).is_some();
    let of = |(ours, theirs): &Known| match theirs.filter(|_| is_through_database) {
        Some(theirs) => Some(crate::merge::comparison(theirs)),
        None => ours.map(|ours| ClockComparison {
            offset_ms: ours.offset_ms(),
            bound_ms: ours.bound_ms(),
            offset_after_ms: None,
            bound_after_ms: None,
            reference: ClockReference::Coordinator,
        }),
    };
    known.iter().map(of).collect()
}

impl From<ClockVsDatabase> for Offset {
    fn from(clock: ClockVsDatabase) -> Self {
        Self { offset_ns: (clock.offset_ms * 1e6) as i64, bound_ns: (clock.bound_ms * 1e6).ceil() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: i64 = 1_000_000;

    fn known(ours_ms: (i64, i64), theirs_ms: (f64, f64)) -> Known {
        let ours = Offset { offset_ns: ours_ms.0 * MS, bound_ns: (ours_ms.1 * MS) as u64 };
        (Some(ours), Some(ClockVsDatabase { offset_ms: theirs_ms.0, bound_ms: theirs_ms.1 }))
    }

    #[test]
    fn a_database_that_is_nearer_compares_better() {
        // We are 151 ms away; the second VM's clock is 30 ms ahead of the first one's, and the database's 1 s behind it.
        let far = [known((40, 151), (1_000.0, 0.5)), known((-20, 150), (1_030.0, 0.4))];
        let through = through_database(&far).unwrap();
        assert_eq!(through[1].offset_ns - through[0].offset_ns, 30 * MS);
        assert_eq!(through.iter().map(|offset| offset.bound_ns).collect::<Vec<_>>(), [500_000, 400_000]);
        // As told by the second one, which knows it best: -20 - 1030 + 1000 = -50.
        assert_eq!(through[0].offset_ns, -50 * MS);
        let compared = comparisons(&far);
        assert!(compared.iter().flatten().all(|clock| clock.reference == ClockReference::Database));

        // The database is further away than we are, a VM could not read its clock, or is alone.
        for near in [
            vec![known((0, 1), (0.0, 5.0)), known((0, 1), (0.0, 0.1))],
            vec![known((0, 151), (0.0, 0.5)), (known((0, 151), (0.0, 0.5)).0, None)],
            vec![known((0, 151), (0.0, 0.5))],
            Vec::new(),
        ] {
            assert_eq!(through_database(&near), None, "{near:?}");
            assert!(comparisons(&near).iter().flatten().all(|clock| clock.reference == ClockReference::Coordinator));
        }
    }

    #[test]
    fn a_vm_that_contradicts_the_others_about_the_database_spoils_that_reference() {
        let lie = [known((0, 151), (0.0, 0.5)), known((0, 151), (0.0, 0.5)), known((0, 151), (9_000.0, 0.01))];
        assert_eq!(through_database(&lie), None);
        // One whose clock we could not read at all is compared through the database.
        let unread = [known((0, 10), (0.0, 0.5)), (None, Some(ClockVsDatabase { offset_ms: 700.0, bound_ms: 0.5 }))];
        assert_eq!(through_database(&unread).unwrap()[1].offset_ns, 700 * MS);
    }

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
