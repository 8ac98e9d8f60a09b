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
    pub start_ns: u64,
    pub end_ns: u64,
}

impl Span {
    /// How much of it lies between two instants, nanoseconds.
    pub fn within_ns(&self, start_ns: u64, end_ns: u64) -> u64 {
        self.end_ns.min(end_ns).saturating_sub(self.start_ns.max(start_ns))
    }
}

/// A time in which the machine was asleep, and the monotonic clock with it. Nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sleep {
    /// When that was noticed, on the monotonic clock.
    pub at_ns: u64,
    pub length_ns: u64,
}

/// All stalls that the threads of a generator have seen.
#[derive(Clone, Debug, Default)]
pub struct SeenStalls {
    /// In their order, nanoseconds of the monotonic clock.
    pub spans: Vec<Span>,
    /// How many there were; not all may be in `spans`.
    pub count: u64,
    /// When the machine slept.
    pub sleeps: Vec<Sleep>,
    /// Whether slots were still waiting because of the last stall, and of nothing else.
    pub has_backlog: bool,
}

/// For how long between two instants the generator stood still, nanoseconds.
pub fn stood_still_ns(stalls: &[Span], start_ns: u64, end_ns: u64) -> u64 {
    stalls.iter().map(|stall| stall.within_ns(start_ns, end_ns)).fold(0, u64::saturating_add)
}

/// A time in which the generator stood still.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Stall {
    /// Several VMs: the one whose generator it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// When it began, seconds after T0.
    pub started_s: f64,
    /// Its length, seconds.
    pub seconds: f64,
    /// Whether the whole machine was asleep, and the clock of the schedule with it, so that no slot came due meanwhile.
    #[serde(default)]
    pub asleep: bool,
}

/// All times in which the generator stood still, up to the end of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Stalls {
    /// Times in which the generator stood still: the first 100 of each VM.
    #[serde(default)]
    pub stalls: Vec<Stall>,
    /// How many there were in all.
    #[serde(default)]
    pub stall_count: u64,
    /// How long they were within the measured window, seconds. With several VMs: of the worst one.
    #[serde(default)]
    pub stalled_seconds: f64,
    /// Requests of the measured window that were due or in flight meanwhile, or waited for those.
    #[serde(default)]
    pub stalled_requests: u64,
}
