//! Finds out when the generator stood still: by the time between two looks at the clock.
//!
//! Every load thread looks every few milliseconds, and before it claims a slot. Where no thread has looked for
//! [`LEAST_NS`], none could send or receive anything. Whoever looks first afterwards notes it, before any worker judges why
//! its slot is late: the others see the old time, wait for the note, and find it there.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock;
use crate::measure::stalls::{LEAST_NS, SeenStalls, Sleep, Span, stood_still_ns};

/// How often a thread looks where it has nothing else to do.
pub const EVERY: Duration = Duration::from_millis(25);

/// A thread that looked so recently need not tell the others, nanoseconds.
const RECENT_NS: u64 = 10_000_000;

/// Stalls that are remembered; later ones are only counted.
const MAX_SPANS: usize = 1_000;

/// Sleeps of the machine that are remembered.
const MAX_SLEEPS: usize = 100;

/// What all threads have seen of the clock. All times are nanoseconds of the monotonic clock.
#[derive(Debug)]
pub struct Looks {
    /// When a thread looked last; 0 before the first look.
    last_ns: AtomicU64,
    /// For how long the machine has slept since it was started, nanoseconds; 0 before the first look.
    slept_ns: AtomicU64,
    /// Starts and ends of stalls. Only the first `known` are valid.
    spans: Box<[[AtomicU64; 2]]>,
    known: AtomicUsize,
    /// The end of the latest stall, while slots that came due meanwhile are still waiting; 0 otherwise.
    backlog_of_ns: AtomicU64,
    /// Stalls that ended before this have none.
    backlogs_from_ns: AtomicU64,
    /// How long the generator stood still in the stalls whose backlog it is.
    backlog_stood_ns: AtomicU64,
    /// Whether a worker was idle when that stall began: then the whole backlog comes from it.
    had_idle: AtomicBool,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    count: u64,
    sleeps: Vec<Sleep>,
}

impl Default for Looks {
    fn default() -> Self {
        Self {
            last_ns: AtomicU64::new(0),
            slept_ns: AtomicU64::new(0),
            spans: (0..MAX_SPANS).map(|_| Default::default()).collect(),
            known: AtomicUsize::new(0),
            backlog_of_ns: AtomicU64::new(0),
            backlogs_from_ns: AtomicU64::new(0),
            backlog_stood_ns: AtomicU64::new(0),
            had_idle: AtomicBool::new(false),
            notes: Mutex::default(),
        }
    }
}

impl Looks {
    /// A thread of the generator looks at the clock.
    pub fn look(&self, now_ns: u64) {
        let is_stall = |last_ns: u64| last_ns != 0 && now_ns.saturating_sub(last_ns) >= LEAST_NS;
        if is_stall(self.last_ns.load(Ordering::Acquire)) {
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have noted it meanwhile.
            let last_ns = self.last_ns.load(Ordering::Acquire);
            if is_stall(last_ns) {
                notes.count += 1;
                self.note(last_ns, now_ns);
                self.last_ns.fetch_max(now_ns, Ordering::Release);
            }
        } else {
            self.last_ns.fetch_max(now_ns, Ordering::Release);
        }
    }

    /// Called with the lock held.
    fn note(&self, start_ns: u64, end_ns: u64) {
        let at = self.known.load(Ordering::Relaxed);
        let Some([start, end]) = self.spans.get(at) else { return };
        start.store(start_ns, Ordering::Relaxed);
        end.store(end_ns, Ordering::Relaxed);
        // A stall while a backlog is being worked off lengthens it; another cause does not come to it.
        let goes_on = self.backlog_of_ns.load(Ordering::Relaxed) != 0 && self.had_idle.load(Ordering::Relaxed);
        let before_ns = if goes_on { self.backlog_stood_ns.load(Ordering::Relaxed) } else { 0 };
        self.backlog_stood_ns.store(before_ns.saturating_add(end_ns.saturating_sub(start_ns)), Ordering::Relaxed);
        self.had_idle.store(goes_on, Ordering::Relaxed);
        self.backlog_of_ns.store(end_ns, Ordering::Relaxed);
        self.known.store(at + 1, Ordering::Release);
    }

    /// A thread looks at how long the machine has slept since it was started.
    fn look_at_sleep(&self, slept_ns: u64, now_ns: u64) {
        let before_ns = self.slept_ns.fetch_max(slept_ns.max(1), Ordering::AcqRel);
        let length_ns = slept_ns.saturating_sub(before_ns);
        if before_ns != 0 && length_ns >= LEAST_NS {
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            notes.count += 1;
            if notes.sleeps.len() < MAX_SLEEPS {
                notes.sleeps.push(Sleep { at_ns: now_ns, length_ns });
            }
        }
    }

    fn spans(&self) -> impl Iterator<Item = Span> {
        let known = self.known.load(Ordering::Acquire);
        self.spans[..known]
            .iter()
            .map(|[start, end]| Span { start_ns: start.load(Ordering::Relaxed), end_ns: end.load(Ordering::Relaxed) })
    }

    /// Whether there has been any stall: a plain load, for the way of a request.
    fn any(&self) -> bool {
        self.known.load(Ordering::Acquire) > 0
    }

    /// A stall that ended before `from_ns` left no slot waiting: there were none to wait.
    pub fn have_backlogs_from(&self, from_ns: u64) {
        self.backlogs_from_ns.store(from_ns, Ordering::Relaxed);
    }

    /// When the stall ended whose backlog is being worked off; 0 where there is none.
    fn backlog_of_ns(&self) -> u64 {
        let of_ns = self.backlog_of_ns.load(Ordering::Relaxed);
        if of_ns > self.backlogs_from_ns.load(Ordering::Relaxed) { of_ns } else { 0 }
    }

    /// A worker claimed a slot before it was due, so no slot waits any more.
    pub fn caught_up(&self, claimed_ns: u64) {
        let backlog_of_ns = self.backlog_of_ns();
        if backlog_of_ns != 0 && claimed_ns >= backlog_of_ns {
            let _ = self.backlog_of_ns.compare_exchange(backlog_of_ns, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// A worker that had claimed a slot before it was due sends it at `sent_ns`.
    pub fn was_idle(&self, claimed_ns: u64, sent_ns: u64) {
        let backlog_of_ns = self.backlog_of_ns();
        if backlog_of_ns != 0 && claimed_ns < backlog_of_ns && sent_ns >= backlog_of_ns {
            self.had_idle.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a slot that was claimed after it was due had to wait because the generator stood still: it came due
    /// meanwhile; or it waited mostly for that; or it came due later, while the backlog of the stall was worked off. A
    /// backlog that was there before the stall excuses nothing.
    pub fn excuses(&self, due_ns: u64, claimed_ns: u64) -> bool {
        if !self.any() {
            return false;
        }
        let backlog_of_ns = self.backlog_of_ns();
        if backlog_of_ns != 0 && due_ns >= backlog_of_ns {
            // Whatever is later than the stall was long has another cause as well.
            let is_within = claimed_ns.saturating_sub(due_ns) <= self.backlog_stood_ns.load(Ordering::Relaxed);
            return is_within && self.had_idle.load(Ordering::Relaxed);
        }
        let mut stood_ns = 0u64;
        for span in self.spans() {
            if (span.start_ns..span.end_ns).contains(&due_ns) {
                return true;
            }
            stood_ns = stood_ns.saturating_add(span.within_ns(due_ns, claimed_ns));
        }
        stood_ns.saturating_mul(2) > claimed_ns.saturating_sub(due_ns)
    }

    /// Whether the generator stood still at some time between two instants.
    pub fn stood_still(&self, start_ns: u64, end_ns: u64) -> bool {
        self.any() && self.spans().any(|span| span.within_ns(start_ns, end_ns) > 0)
    }

    /// For how long between two instants it did, nanoseconds.
    pub fn stood_still_ns(&self, start_ns: u64, end_ns: u64) -> u64 {
        if self.any() { stood_still_ns(&self.spans().collect::<Vec<_>>(), start_ns, end_ns) } else { 0 }
    }

    pub fn seen(&self) -> SeenStalls {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        SeenStalls {
            spans: self.spans().collect(),
            count: notes.count,
            sleeps: notes.sleeps.clone(),
            has_backlog: self.backlog_of_ns() != 0 && self.had_idle.load(Ordering::Relaxed),
        }
    }

    /// The latest stall, and how many there were.
    pub fn latest(&self) -> (usize, Option<Span>) {
        (self.known.load(Ordering::Acquire), self.spans().last())
    }
}

#[derive(Debug)]
pub struct ThreadLooks {
    shared: Arc<Looks>,
    last_ns: Cell<u64>,
}

impl ThreadLooks {
    pub fn new(shared: Arc<Looks>) -> Self {
        let looks = Self { shared, last_ns: Cell::new(0) };
        looks.tick();
        looks
    }

    /// Looks, with a clock that was read anyway.
    pub fn look(&self, now_ns: u64) {
        if now_ns.saturating_sub(self.last_ns.get()) >= RECENT_NS {
            self.last_ns.set(now_ns);
            self.shared.look(now_ns);
        }
    }

    /// Looks at all clocks.
    pub fn tick(&self) {
        let now_ns = clock::now_ns();
        self.look(now_ns);
        if let Some(slept_ns) = clock::slept_ns() {
            self.shared.look_at_sleep(slept_ns, now_ns);
        }
    }

    pub fn all(&self) -> &Looks {
        &self.shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Looks every 20 ms from 1 s to 10 s, and then from 14 s on.
    fn frozen() -> Looks {
        let looks = Looks::default();
        (50..=500).chain([700]).for_each(|at| looks.look(at * 20 * MS));
        looks
    }

    const FROM: u64 = 10_000 * MS;
    const TO: u64 = 14_000 * MS;

    #[test]
    fn a_stall_is_found_once_by_whoever_looks_first() {
        let looks = Arc::new(frozen());
        looks.look(TO + MS);
        looks.look(TO - MS);
        assert_eq!(looks.seen().spans, [Span { start_ns: FROM, end_ns: TO }]);
        // Many at once.
        let looks = Arc::new(Looks::default());
        looks.look(1);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let looks = Arc::clone(&looks);
                scope.spawn(move || {
                    looks.look(5_000 * MS + thread);
                    assert!(looks.excuses(3_000 * MS, 5_000 * MS + thread));
                });
            }
        });
        assert_eq!((looks.seen().spans.len(), looks.seen().count), (1, 1));
    }

    #[test]
    fn a_busy_machine_is_no_stall() {
        let looks = Looks::default();
        (1..100).for_each(|at| looks.look(at * (LEAST_NS - 1)));
        assert!(looks.seen().spans.is_empty() && !looks.excuses(LEAST_NS, 2 * LEAST_NS));
    }

    #[test]
    fn slots_due_in_a_stall_and_in_its_backlog_are_excused_and_others_are_not() {
        let looks = frozen();
        assert!(looks.excuses(FROM, TO) && looks.excuses(TO - MS, TO + 500 * MS));
        // It waited for 10 ms, and then for the stall.
        assert!(looks.excuses(FROM - 10 * MS, TO));
        // It had waited for ten seconds already.
        assert!(!looks.excuses(FROM - 9_000 * MS, TO));
        // Nobody knows yet whether the server kept up before.
        assert!(!looks.excuses(TO + MS, TO + 5 * MS));
        looks.was_idle(FROM - 5 * MS, TO + MS);
        assert!(looks.excuses(TO + MS, TO + 5 * MS));
        assert!(looks.seen().has_backlog);
        // A slot that was claimed before the stall shows nothing, and one that is claimed before it is due all.
        looks.caught_up(FROM - MS);
        assert!(looks.excuses(TO + MS, TO + 5 * MS));
        looks.caught_up(TO + 600 * MS);
        assert!(!looks.excuses(TO + 700 * MS, TO + 705 * MS) && !looks.seen().has_backlog);
        // What came due in the stall stays excused.
        assert!(looks.excuses(FROM + MS, TO + 900 * MS));
    }

    #[test]
    fn a_second_stall_while_the_backlog_is_worked_off_is_excused_as_the_first() {
        let looks = frozen();
        looks.was_idle(FROM - MS, TO);
        looks.look(TO + 1_000 * MS);
        assert_eq!(looks.seen().spans.len(), 2);
        assert!(looks.excuses(TO + 1_200 * MS, TO + 1_300 * MS));
    }

    #[test]
    fn more_stalls_than_can_be_kept_are_counted() {
        let looks = Looks::default();
        (1..=MAX_SPANS as u64 + 11).for_each(|at| looks.look(at * LEAST_NS));
        assert_eq!((looks.seen().spans.len(), looks.seen().count), (MAX_SPANS, MAX_SPANS as u64 + 10));
    }

    #[test]
    fn a_machine_that_slept_is_noticed_although_the_schedule_saw_nothing() {
        let looks = Looks::default();
        for (slept_ms, at_ms) in [(7_000, 1_000), (7_000, 1_020), (7_100, 1_040), (67_100, 1_060), (67_100, 1_080)] {
            looks.look(at_ms * MS);
            looks.look_at_sleep(slept_ms * MS, at_ms * MS);
        }
        let seen = looks.seen();
        assert_eq!(seen.sleeps, [Sleep { at_ns: 1_060 * MS, length_ns: 60_000 * MS }]);
        assert_eq!((seen.count, seen.spans.len()), (1, 0));
    }
}
