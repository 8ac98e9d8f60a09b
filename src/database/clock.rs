//! How far this VM's wall clock is from the database's. Every VM of a test can see the database, so its clock is a common
//! reference for theirs.

use crate::clock::{Epoch, now_ns};
use crate::postgres::link::Link;
use crate::result::ClockVsDatabase;

/// The round trip that took least counts.
const ROUND_TRIPS: usize = 5;

/// Whole microseconds since 1970, in the text of an integer on every server.
const NOW_US: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Compares the clocks by some round trips; `None` where the database does not tell.
pub async fn compare(link: &mut Link) -> Option<ClockVsDatabase> {
    let mut best: Option<ClockVsDatabase> = None;
    for _ in 0..ROUND_TRIPS {
        let sent = Epoch::now();
        let there_us: u64 = link.ask_one(NOW_US).await.ok()??.parse().ok()?;
        let round_trip_ns = now_ns().saturating_sub(sent.mono_ns);
        let found = of_round_trip(sent.unix_ns, there_us.checked_mul(1_000)?, round_trip_ns);
        if best.is_none_or(|best| found.bound_ms < best.bound_ms) {
            best = Some(found);
        }
    }
    best
}

/// The database's clock was read at some instant of the round trip: in its middle, give or take half of it.
fn of_round_trip(sent_ns: u64, there_ns: u64, round_trip_ns: u64) -> ClockVsDatabase {
    let middle_ns = i128::from(sent_ns) + i128::from(round_trip_ns / 2);
    let offset_ms = (middle_ns - i128::from(there_ns)) as f64 / 1e6;
    // The database tells whole microseconds.
    ClockVsDatabase { offset_ms, bound_ms: round_trip_ns as f64 / 2e6 + 0.001 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_round_trip_counts() {
        const T: u64 = 1_767_225_600_000_000_000;
        // Sent at T, back 20 ms later; the database's clock is 2 s ahead.
        let found = of_round_trip(T, T + 2_010_000_000, 20_000_000);
        assert_eq!(found, ClockVsDatabase { offset_ms: -2_000.0, bound_ms: 10.001 });
        let found = of_round_trip(T, 0, u64::MAX);
        assert!(found.offset_ms.is_finite() && found.bound_ms.is_finite());
    }
}
