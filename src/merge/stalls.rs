//! When the generators of several VMs stood still, and what that explains of the others. Pure.

use super::Part;
use crate::outages::Outage;
use crate::stalls::{MAX_LISTED, Stall, Stalls};

/// When the VMs' generators stood still, in the order of their beginning.
pub(super) fn stood_still(parts: &[Part]) -> Stalls {
    let of = |part: &Part| {
        let named = part.result.generator.stood_still.stalls.iter().take(MAX_LISTED);
        let name = |stall: &Stall| Stall { hostname: Some(part.hostname.clone()), ..stall.clone() };
        named.map(name).collect::<Vec<_>>()
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
/// have held locks that the others waited for, which is not the database's fault.
pub(super) fn explain(parts: &[Part], part: &Part, outage: &Outage) -> bool {
    parts.iter().filter(|other| !std::ptr::eq(*other, part)).any(|other| explains(other, outage))
}

fn explains(other: &Part, outage: &Outage) -> bool {
    let end_s = outage.recovered_s.unwrap_or(outage.started_s + outage.seconds);
    let common_s =
        |stall: &Stall| (end_s.min(stall.started_s + stall.seconds) - outage.started_s.max(stall.started_s)).max(0.0);
    let stalls = other.result.generator.stood_still.stalls.iter().filter(|stall| !stall.asleep);
    let stood_still_s: f64 = stalls.map(common_s).sum();
    stood_still_s > 0.0 && outage.seconds - stood_still_s < 1.0
}
