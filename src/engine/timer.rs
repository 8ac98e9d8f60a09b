//! Waiting until an absolute instant, finer than a millisecond.
//!
//! tokio's own timers are rounded up to whole milliseconds. On Linux each worker has a timer descriptor with an
//! absolute deadline on the monotonic clock; elsewhere the runtime's timer must do, and lateness shows what that costs.
//! The last microseconds are spent looking at the clock, as far as [`Lead`] allows it.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

#[cfg(target_os = "linux")]
use linux::Alarm;
#[cfg(not(target_os = "linux"))]
use portable::Alarm;

use super::lead::Lead;
use crate::clock;

/// One deadline at a time.
#[derive(Debug)]
pub struct Timer {
    alarm: Alarm,
    /// Of the thread, shared by its timers.
    lead: Rc<RefCell<Lead>>,
}

impl Timer {
    pub fn new(lead: Rc<RefCell<Lead>>) -> io::Result<Self> {
        Ok(Self { alarm: Alarm::new()?, lead })
    }

    /// Returns at `deadline_ns` of the monotonic clock, or at once where that has passed. May be dropped at any time:
    /// the next call sets a new deadline.
    pub async fn until(&mut self, deadline_ns: u64) {
        let mut now_ns = clock::now_ns();
        if now_ns >= deadline_ns {
            return;
        }
        let lead_ns = self.lead.borrow_mut().ask(now_ns);
        let alarm_ns = deadline_ns.saturating_sub(lead_ns);
        if now_ns < alarm_ns {
            self.alarm.until(alarm_ns).await;
            now_ns = clock::now_ns();
            self.lead.borrow_mut().woke(now_ns.saturating_sub(alarm_ns));
        }
        let looking_since_ns = now_ns;
        while now_ns < deadline_ns {
            // Others of this thread go on meanwhile.
            tokio::task::yield_now().await;
            now_ns = clock::now_ns();
        }
        self.lead.borrow_mut().spent(now_ns.saturating_sub(looking_since_ns));
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::OwnedFd;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    use crate::clock;
    use crate::engine::readiness::watch;

    #[derive(Debug)]
    pub struct Alarm {
        descriptor: AsyncFd<OwnedFd>,
    }

    impl Alarm {
        pub fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            Ok(Self { descriptor: watch(descriptor, Interest::READABLE)? })
        }

        pub async fn until(&mut self, deadline_ns: u64) {
            // An expiry that nobody waited for leaves the descriptor readable, hence the look at the clock.
            while clock::now_ns() < deadline_ns {
                if self.arm(deadline_ns).is_err() || self.expired().await.is_err() {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            }
        }

        fn arm(&self, deadline_ns: u64) -> io::Result<()> {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let value =
                Timespec { tv_sec: (deadline_ns / 1_000_000_000) as i64, tv_nsec: (deadline_ns % 1_000_000_000) as _ };
            let new = Itimerspec { it_interval: zero, it_value: value };
            timerfd_settime(self.descriptor.get_ref(), TimerfdTimerFlags::ABSTIME, &new)?;
            Ok(())
        }

        async fn expired(&self) -> io::Result<()> {
            let mut guard = self.descriptor.readable().await?;
            // Setting the timer anew clears the expiry; reading the count would be one more system call.
            guard.clear_ready();
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    use std::io;
    use std::time::Duration;

    use crate::clock;

    #[derive(Debug)]
    pub struct Alarm;

    impl Alarm {
        pub fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub async fn until(&mut self, deadline_ns: u64) {
            while let Some(left @ 1..) = deadline_ns.checked_sub(clock::now_ns()) {
                tokio::time::sleep(Duration::from_nanos(left)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[tokio::test(flavor = "current_thread")]
    async fn it_never_returns_early_and_can_be_used_again_after_being_dropped() {
        let mut timer = Timer::new(Rc::new(RefCell::new(Lead::new(clock::now_ns())))).unwrap();
        for round in 0..50 {
            let deadline = clock::now_ns() + 300_000;
            timer.until(deadline).await;
            assert!(clock::now_ns() >= deadline, "round {round}");
            let abandoned = clock::now_ns() + 100_000;
            tokio::select! { biased; () = timer.until(abandoned) => {}, () = std::future::ready(()) => {} }
        }
        timer.until(1).await;
    }
}
