//! Files of runs that no coordinator led: their clocks are compared through the database's. Pure.

use super::Part;
use crate::result::{ClockComparison, ClockReference, ClockVsDatabase};

/// Where nobody has compared the clocks of several parts and every run has compared its own with the database's: what each
/// clock showed more than the database's, and how long after the first T0 each began.
pub(super) fn compare(parts: &mut [Part]) {
    let known: Option<Vec<ClockVsDatabase>> = parts.iter().map(|part| part.result.run.clock_vs_database).collect();
    let (Some(known), true) = (known, parts.len() > 1 && parts.iter().all(|part| part.clock.is_none())) else { return };
    let t0_ms: Vec<f64> = parts.iter().zip(&known).map(|(part, clock)| t0_ms(part, clock)).collect();
    let first_ms = t0_ms.iter().copied().fold(f64::INFINITY, f64::min);
    for ((part, clock), t0_ms) in parts.iter_mut().zip(known).zip(t0_ms) {
        part.start_skew_ms = part.result.run.start_delay_ms.map(|delay_ms| t0_ms - first_ms + delay_ms);
        part.clock = Some(comparison(clock));
    }
}

/// As a comparison of several VMs.
pub(crate) fn comparison(clock: ClockVsDatabase) -> ClockComparison {
    let ClockVsDatabase { offset_ms, bound_ms } = clock;
    let reference = ClockReference::Database;
    ClockComparison { offset_ms, bound_ms, offset_after_ms: None, bound_after_ms: None, reference }
}

/// T0 as the database's clock showed it, milliseconds since 1970.
fn t0_ms(part: &Part, clock: &ClockVsDatabase) -> f64 {
    part.result.run.started_unix_ns as f64 / 1e6 - clock.offset_ms
}
