//! Times in which the generator stood still: no thread of it acted, so nothing in them is the database's fault. Pure.
//!
//! A process stands still when it is stopped, when its container or VM is paused, or when it gets no processor for long.
//! The engine finds it by the time between two looks at the clock (`engine::looks`).

use serde::{Deserialize, Serialize};

/// A gap between two looks at the clock is a stall from here on, nanoseconds. Threads look every few milliseconds; a busy
/// machine lets them wait for some tens of milliseconds.
pub const LEAST_NS: u64 = 200_000_000;

/// Stalls that are listed one by one.
pub const MAX_LISTED: usize = 100;

/// A part of a clock's time, nanoseconds: from `start_ns` on, and before `end_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its start.
    pub start_ns: u64,
    /// Its end.
    pub end_ns: u64,
}

impl Span {
    /// How much of it lies between two instants, nanoseconds.
    pub fn within_ns(&self, start_ns: u64, end_ns: u64) -> u64 {
        self.end_ns.min(end_ns).saturating_sub(self.start_ns.max(start_ns))
    }
}

/// For how long between two instants the generator stood still, nanoseconds.
pub fn stood_still_ns(stalls: &[Span], start_ns: u64, end_ns: u64) -> u64 {
    stalls.iter().map(|stall| stall.within_ns(start_ns, end_ns)).fold(0, u64::saturating_add)
}

/// A time in which the generator stood still.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// The VM whose generator it was, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// When it began, seconds after T0.
    pub started_s: f64,
    /// How long it was.
    pub seconds: f64,
    /// Whether the whole machine was asleep, and the clock of the schedule with it: no slot came due meanwhile.
    #[serde(default)]
    pub asleep: bool,
}

/// All times in which the generator stood still, up to the end of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stalls {
    /// The first [`MAX_LISTED`] of them, in their order.
    #[serde(default)]
    pub stalls: Vec<Stall>,
    /// How many there were.
    #[serde(default)]
    pub stall_count: u64,
    /// How long they were together, as far as they fell into the measured window.
    #[serde(default)]
    pub stalled_seconds: f64,
    /// Requests of the measured window that were due or in flight meanwhile, or that had to wait for those.
    #[serde(default)]
    pub stalled_requests: u64,
}
