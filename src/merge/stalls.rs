//! When the generators of several VMs stood still, and what that explains of the others. Pure.

use super::Part;
use crate::measure::outages::Outage;
use crate::measure::outcome::ErrorOrigin;
use crate::measure::stalls::{MAX_LISTED, Stall, Stalls};

/// When the VMs' generators stood still, in the order of their beginning.
/// `t0_s` tells how long after the test's T0 each part's own T0 was, seconds.
pub(super) fn stood_still(parts: &[Part], t0_s: impl Fn(&Part) -> f64) -> Stalls {
    let of = |part: &Part| {
        let named = |stall: &Stall| {
            let started_s = (stall.started_s + t0_s(part)).max(0.0);
            Stall { hostname: Some(part.hostname.clone()), started_s, ..stall.clone() }
        };
        part.result.generator.stood_still.stalls.iter().take(MAX_LISTED).map(named).collect::<Vec<_>>()
    };
    let each = || parts.iter().map(|part| &part.result.generator.stood_still);
    let mut stalls: Vec<Stall> = parts.iter().flat_map(of).collect();
    stalls.sort_by(|one, other| one.started_s.total_cmp(&other.started_s));
    Stalls {
        stalls,
        stall_count: each().map(|one| one.stall_count).sum(),
        stalled_seconds: each().map(|one| one.stalled_seconds).fold(0.0, f64::max),
        stalled_requests: each().map(|one| one.stalled_requests).sum(),
    }
}

/// Whether another VM stood still for so long during an outage of `part` that less than a second of it is left: it may
/// have held locks that the others waited for, which is not the database's fault. No lock breaks a connection, and
/// without a shared table there are no rows that two VMs write.
pub(super) fn explain(parts: &[Part], part: &Part, outage: &Outage, t0_s: impl Fn(&Part) -> f64) -> bool {
    let end_s = end_s(outage);
    let broke = part.result.errors.iter().filter(|error| error.origin == ErrorOrigin::Connection).any(|error| {
        error.first_s.is_none_or(|first_s| first_s <= end_s)
            && error.last_s.is_none_or(|last_s| last_s >= outage.started_s)
    });
    let others = || parts.iter().filter(|other| !std::ptr::eq(*other, part));
    part.result.config.workload.shared_table().is_some()
        && !broke
        && others().any(|other| explains(other, outage, t0_s(other) - t0_s(part)))
}

/// When an outage was over, seconds after T0.
pub(super) fn end_s(outage: &Outage) -> f64 {
    outage.recovered_s.unwrap_or(outage.started_s + outage.seconds)
}

/// `later_s` is how long the other's T0 was after that of the outage's VM.
fn explains(other: &Part, outage: &Outage, later_s: f64) -> bool {
    let common_s = |stall: &Stall| {
        let started_s = stall.started_s + later_s;
        (end_s(outage).min(started_s + stall.seconds) - outage.started_s.max(started_s)).max(0.0)
    };
    let stalls = other.result.generator.stood_still.stalls.iter().filter(|stall| !stall.asleep);
    let stood_still_s: f64 = stalls.map(common_s).sum();
    stood_still_s > 0.0 && outage.seconds - stood_still_s < 1.0
}
