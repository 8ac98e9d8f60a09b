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

/// For how long this machine has slept since it was started, nanoseconds: what the monotonic clock leaves out. `None` where
/// the system does not tell, or where its monotonic clock goes on meanwhile.
pub fn slept_ns() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        // In this order a thread that loses the processor between both reads too little, never too much.
        let since_boot_ns = read(ClockId::Boottime);
        Some(since_boot_ns.saturating_sub(now_ns()))
    }
    #[cfg(not(target_os = "linux"))]
    None
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
    /// Now, on both clocks.
    pub fn now() -> Self {
        // Who loses the processor between two looks tries again, and takes what lay closest together.
        let looks = (0..LOOKS_AT_BOTH).map(|_| {
            let (before_ns, unix_ns, after_ns) = (now_ns(), unix_ns(), now_ns());
            (after_ns - before_ns, Self { mono_ns: before_ns + (after_ns - before_ns) / 2, unix_ns })
        });
        let closest = looks.min_by_key(|(apart_ns, _)| *apart_ns);
        closest.map_or(Self { mono_ns: now_ns(), unix_ns: unix_ns() }, |(_, both)| both)
    }

    /// T0 after `delay` from now.
    pub fn after(delay: Duration) -> Self {
        let (now, delay_ns) = (Self::now(), duration_ns(delay));
        Self { mono_ns: now.mono_ns + delay_ns, unix_ns: now.unix_ns + delay_ns }
    }

    /// T0 at an instant of the wall clock; `None` where that has passed.
    pub fn at_unix_ns(target_unix_ns: u64) -> Option<Self> {
        let now = Self::now();
        let ahead_ns = target_unix_ns.checked_sub(now.unix_ns)?;
        Some(Self { mono_ns: now.mono_ns + ahead_ns, unix_ns: target_unix_ns })
    }

    /// By how much the wall clock was set between this instant and a later one, nanoseconds, forward above zero:
    /// what it went on by beyond what the monotonic clock did.
    pub fn set_by_ns(self, later: Self) -> i64 {
        let went_on = |from_ns: u64, to_ns: u64| i128::from(to_ns) - i128::from(from_ns);
        let by_ns = went_on(self.unix_ns, later.unix_ns) - went_on(self.mono_ns, later.mono_ns);
        by_ns.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// What is to be said with a result whose run began at this T0 and has ended now, where the wall clock was set
    /// meanwhile. Every figure is of the monotonic clock, so they hold.
    pub fn warning_of_set(self, now: Self) -> Option<String> {
        let by_ns = self.set_by_ns(now);
        if by_ns.unsigned_abs() <= SET_BY_NS {
            return None;
        }
        let seconds = by_ns.unsigned_abs() as f64 / 1e9;
        let how = if by_ns < 0 {
            format!("was set back by {seconds:.1} s during the run")
        } else {
            format!("was set forward by {seconds:.1} s during the run, or the machine slept")
        };
        Some(format!(
            "The wall clock {how}; the figures hold, as they are of the monotonic clock, but the run's times of day do \
             not fit those in other logs."
        ))
    }
}

/// How often both clocks are looked at.
const LOOKS_AT_BOTH: usize = 5;

/// From here on the wall clock was set, nanoseconds. Where it is only made to go faster or slower (as NTP does), the
/// monotonic clock is, too.
const SET_BY_NS: u64 = 100_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Epoch = Epoch { mono_ns: 5_000_000_000, unix_ns: 1_700_000_000_000_000_000 };

    /// T0 and `mono_ms` later by the one clock, `unix_ms` by the other.
    fn later(mono_ms: u64, unix_ms: i64) -> Epoch {
        let unix_ns = T0.unix_ns.saturating_add_signed(unix_ms * 1_000_000);
        Epoch { mono_ns: T0.mono_ns + mono_ms * 1_000_000, unix_ns }
    }

    #[test]
    fn only_a_clock_that_was_set_is_warned_of() {
        for (mono_ms, unix_ms, expected) in [
            (60_000, 60_000, None),
            (60_000, 60_100, None),
            (60_000, 59_900, None),
            (60_000, 60_101, Some("was set forward by 0.1 s during the run, or the machine slept;")),
            (60_000, 59_899, Some("was set back by 0.1 s during the run;")),
            (10_000, 10_000 - 3_600_000, Some("was set back by 3600.0 s during the run;")),
            (10_000, i64::MIN / 1_000_000, Some("was set back by")),
            (0, 3_600_000, Some("was set forward by 3600.0 s")),
        ] {
            let warning = T0.warning_of_set(later(mono_ms, unix_ms));
            let fits = match (&warning, expected) {
                (None, None) => true,
                (Some(warning), Some(part)) => warning.contains(part),
                _ => false,
            };
            assert!(fits, "{mono_ms} {unix_ms}: {warning:?}");
        }
    }

    #[test]
    fn both_clocks_are_read_at_one_instant() {
        let (before_ns, now, after_ns) = (now_ns(), Epoch::now(), now_ns());
        assert!((before_ns..=after_ns).contains(&now.mono_ns));
        assert_eq!(now.warning_of_set(Epoch::now()), None);
    }
}
