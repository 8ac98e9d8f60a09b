//! Time: the monotonic clock for everything that is measured, the wall clock only to agree on T0.
//!
//! Instants are nanoseconds of `CLOCK_MONOTONIC`, as one integer, so that a due time is plain arithmetic and can be
//! handed to the operating system as an absolute deadline.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Now, in nanoseconds of the monotonic clock. Its zero is arbitrary but the same for all threads of a process.
pub fn now_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// CPU time that the calling thread has used, nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    read(ClockId::ThreadCPUTime)
}

/// CPU time (user and system) that this process has used, nanoseconds.
pub fn process_cpu_ns() -> u64 {
    read(ClockId::ProcessCPUTime)
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Now, in nanoseconds since 1970 (UTC).
pub fn unix_ns() -> u64 {
    duration_ns(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A duration in nanoseconds; 584 years at most.
pub fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// T0 on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// On the monotonic clock of this process.
    pub mono_ns: u64,
    /// Nanoseconds since 1970.
    pub unix_ns: u64,
}

impl Epoch {
    /// T0 after `delay` from now.
    pub fn after(delay: Duration) -> Self {
        let delay_ns = duration_ns(delay);
        Self { mono_ns: now_ns() + delay_ns, unix_ns: unix_ns() + delay_ns }
    }

    /// T0 at an instant of the wall clock; `None` where that has passed.
    pub fn at_unix_ns(target_unix_ns: u64) -> Option<Self> {
        let ahead_ns = target_unix_ns.checked_sub(unix_ns())?;
        Some(Self { mono_ns: now_ns() + ahead_ns, unix_ns: target_unix_ns })
    }
}
