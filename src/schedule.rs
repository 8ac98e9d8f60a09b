//! When each request is due: slots, arrival processes, shares, windows.
//!
//! Pure arithmetic in integer nanoseconds relative to T0, the start of the test. Knows no clock, no thread and no
//! database. A slot is the number of a request in the schedule of the *whole* test; a share is the part of those
//! slots that one process runs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

mod poisson;

use crate::text::number::{Decimal, Misfit};
use poisson::PoissonArrivals;

/// Nanoseconds in a second.
pub const NANOS_PER_SECOND: u64 = 1_000_000_000;

const MICRO: u128 = 1_000_000;

/// Requests per second of the whole test, in millionths, so that `0.5` or `33.3` are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    micro_per_s: u64,
}

impl Rate {
    /// The greatest rate that can be asked for: ten million requests a second.
    pub const MAX_PER_S: f64 = 10_000_000.0;

    /// A rate from its decimal text, exact to six decimals.
    ///
    /// # Errors
    /// Says what is wrong with the text: not a number, not above zero, more decimals than six, or too large.
    pub fn parse(text: &str) -> Result<Self, String> {
        let micro = match Decimal::parse_count(text)?.scaled(6) {
            Ok(micro) => micro,
            Err(Misfit::TooFine) => return Err("has more than six decimals".to_owned()),
            Err(Misfit::TooLarge) => u64::MAX,
        };
        match micro {
            0 => Err("is zero".to_owned()),
            m if m as f64 / MICRO as f64 > Self::MAX_PER_S => Err("is above ten million".to_owned()),
            micro_per_s => Ok(Self { micro_per_s }),
        }
    }

    /// Requests per second.
    pub fn per_second(self) -> f64 {
        self.micro_per_s as f64 / MICRO as f64
    }

    /// The rate of `vms` VMs together, if each has this one.
    ///
    /// # Errors
    /// The product is too large.
    pub fn times(self, vms: u64) -> Result<Self, String> {
        let micro_per_s = self.micro_per_s.checked_mul(vms);
        let within = micro_per_s.filter(|micro| *micro as f64 / MICRO as f64 <= Self::MAX_PER_S);
        within.map(|micro_per_s| Self { micro_per_s }).ok_or_else(|| "is above ten million for all VMs".to_owned())
    }

    /// The instant at which slot `k` is due with constant spacing: `k / rate`, in nanoseconds, rounded down.
    ///
    /// Computed from `k` and never by adding a rounded period, so that the schedule does not drift.
    pub fn due_ns(self, k: u64) -> u64 {
        let ns = u128::from(k) * u128::from(NANOS_PER_SECOND) * MICRO / u128::from(self.micro_per_s);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// How many slots of the whole schedule are due before `end_ns`: the least `k` with `due_ns(k) >= end_ns`.
    pub fn slots_before(self, end_ns: u64) -> u64 {
        // floor(k * c / r) >= e  <=>  k * c >= e * r  <=>  k >= ceil(e * r / c)
        let product = u128::from(end_ns) * u128::from(self.micro_per_s);
        u64::try_from(product.div_ceil(u128::from(NANOS_PER_SECOND) * MICRO)).unwrap_or(u64::MAX)
    }
}

/// The decimal text that [`Rate::parse`] reads, exactly.
impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micro = MICRO as u64;
        let text = format!("{}.{:06}", self.micro_per_s / micro, self.micro_per_s % micro);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

/// Which part of one schedule this process runs: slots `k` with `k % of == index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Share {
    /// Position among the processes, counted from 0 (`--share` counts from 1).
    pub index: u64,
    /// How many processes run the schedule together, at least 1.
    pub of: u64,
}

impl Share {
    /// The whole schedule.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// The slot in the schedule of the whole test that this share runs as its `i`-th.
    pub fn slot(self, i: u64) -> u64 {
        i.saturating_mul(self.of).saturating_add(self.index)
    }

    /// How many of the first `slots` slots of the whole schedule belong to this share.
    pub fn count_of(self, slots: u64) -> u64 {
        slots.saturating_sub(self.index).div_ceil(self.of)
    }
}

/// How the slots are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Arrival {
    /// evenly: slot k is due at k / rate
    Constant,
    /// random, as from many independent callers: exponential gaps drawn from the seed
    Poisson,
}

/// Open loop at a rate, or closed loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Requests are due whether or not earlier ones have been answered.
    Open {
        /// Rate of the whole test.
        rate: Rate,
        /// Spacing of the slots.
        arrival: Arrival,
    },
    /// `--rps max`: every worker starts its next request at once.
    Closed,
}

/// The schedule of one process: its share of the slots, and the windows that they fall into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Open or closed loop.
    pub pace: Pace,
    /// The part that this process runs.
    pub share: Share,
    /// Seed of the arrival process.
    pub seed: u64,
    /// Length of the warm-up before the measured window, nanoseconds.
    pub warmup_ns: u64,
    /// Length of the measured window, nanoseconds.
    pub duration_ns: u64,
}

impl Schedule {
    /// End of the measured window, nanoseconds after T0.
    pub fn end_ns(&self) -> u64 {
        self.warmup_ns.saturating_add(self.duration_ns)
    }

    /// How many of this share's slots are due before `end_ns`; `None` in a closed loop, which has no schedule. Takes
    /// microseconds, however long the schedule is.
    pub fn scheduled_before(&self, end_ns: u64) -> Option<u64> {
        match self.pace {
            Pace::Closed => None,
            Pace::Open { rate, arrival: Arrival::Constant } => Some(self.share.count_of(rate.slots_before(end_ns))),
            Pace::Open { rate, arrival: Arrival::Poisson } => {
                Some(PoissonArrivals::count_before(rate, self.share, self.seed, end_ns))
            }
        }
    }
}

/// A slot that a worker has claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Number in the schedule of the whole test.
    pub number: u64,
    /// Nanoseconds after T0 at which it is due.
    pub due_ns: u64,
}

/// Hands out this share's slots, in order, each exactly once, to any number of threads.
#[derive(Debug)]
pub struct Cursor {
    share: Share,
    claimed: AtomicU64,
    kind: CursorKind,
}

#[derive(Debug)]
enum CursorKind {
    Constant(Rate),
    /// Slots are drawn a block at a time and in order, so this one needs a lock; it is held for some nanoseconds, and for
    /// about a microsecond once a block.
    Poisson(Box<Mutex<PoissonArrivals>>),
    Closed,
}

impl Cursor {
    /// A cursor at the schedule's first slot.
    pub fn new(schedule: &Schedule) -> Self {
        let kind = match schedule.pace {
            Pace::Closed => CursorKind::Closed,
            Pace::Open { rate, arrival: Arrival::Constant } => CursorKind::Constant(rate),
            Pace::Open { rate, arrival: Arrival::Poisson } => {
                CursorKind::Poisson(Box::new(Mutex::new(PoissonArrivals::new(rate, schedule.share, schedule.seed))))
            }
        };
        Self { share: schedule.share, claimed: AtomicU64::new(0), kind }
    }

    /// Claims the next slot. In a closed loop it is due at `now_ns`.
    pub fn claim(&self, now_ns: u64) -> Slot {
        match &self.kind {
            CursorKind::Poisson(arrivals) => {
                let mut arrivals = arrivals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                self.claimed.fetch_add(1, Ordering::Relaxed);
                arrivals.next_slot()
            }
            CursorKind::Constant(rate) => {
                let number = self.share.slot(self.claimed.fetch_add(1, Ordering::Relaxed));
                Slot { number, due_ns: rate.due_ns(number) }
            }
            CursorKind::Closed => {
                let number = self.share.slot(self.claimed.fetch_add(1, Ordering::Relaxed));
                Slot { number, due_ns: now_ns }
            }
        }
    }

    /// How many slots have been claimed so far.
    pub fn claimed(&self) -> u64 {
        self.claimed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(rate: &str, arrival: Arrival, share: Share) -> Schedule {
        let pace = Pace::Open { rate: Rate::parse(rate).unwrap(), arrival };
        Schedule { pace, share, seed: 7, warmup_ns: 0, duration_ns: 10 * NANOS_PER_SECOND }
    }

    #[test]
    fn due_times_are_computed_from_the_slot_number() {
        for (rate, k, due_ns) in [
            ("100", 0, 0),
            ("100", 1, 10_000_000),
            ("3", 1, 333_333_333),                                          // 1e9 / 3, rounded down
            ("3", 3, NANOS_PER_SECOND),                                     // no drift: exactly one second
            ("0.5", 1, 2 * NANOS_PER_SECOND),                               // one request in two seconds
            ("33.3", 333, 10_000_000_000),                                  // 333 / 33.3 = 10 s
            ("10000000", 86_400_000_000_000, 8_640_000 * NANOS_PER_SECOND), // 100 days at the greatest rate
        ] {
            assert_eq!(Rate::parse(rate).unwrap().due_ns(k), due_ns, "{rate}/s, slot {k}");
        }
    }

    #[test]
    fn rates_that_make_no_sense_are_refused() {
        for text in ["", "0", "0.0000001", "-1", "ten", "10000001", "1e8", "11M", "NaN", "99999999999999999999"] {
            assert!(Rate::parse(text).is_err(), "{text:?}");
        }
        for (text, same) in [("1.", "1"), (".5", "0.5"), ("1e3", "1000"), ("10k", "10000"), ("1.5M", "1500000")] {
            assert_eq!(Rate::parse(text), Rate::parse(same), "{text}");
        }
    }

    #[test]
    fn rates_multiply_and_are_written_exactly() {
        let third = Rate::parse("33.333333").unwrap();
        assert_eq!(third.times(3).unwrap().to_string(), "99.999999");
        assert_eq!(Rate::parse("250").unwrap().times(4).unwrap().to_string(), "1000");
        assert!(Rate::parse("9999999").unwrap().times(2).is_err());
    }

    #[test]
    fn a_window_holds_rate_times_duration_slots() {
        let ten_seconds = 10 * NANOS_PER_SECOND;
        for (rate, slots) in [("100", 1000), ("3", 30), ("0.5", 5), ("0.3", 3), ("0.01", 1), ("33.3", 333)] {
            assert_eq!(Rate::parse(rate).unwrap().slots_before(ten_seconds), slots, "{rate}/s");
        }
    }

    #[test]
    fn threads_share_the_cursor_without_losing_or_repeating_a_slot() {
        for arrival in [Arrival::Constant, Arrival::Poisson] {
            let cursor = Cursor::new(&schedule("1000", arrival, Share { index: 1, of: 3 }));
            let mut slots: Vec<Slot> = std::thread::scope(|scope| {
                let claim = || (0..5_000).map(|_| cursor.claim(0)).collect::<Vec<_>>();
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(claim)).collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            slots.sort_by_key(|slot| slot.number);
            assert!(slots.iter().map(|slot| slot.number).eq((0..20_000).map(|i| 3 * i + 1)));
            assert!(slots.is_sorted_by_key(|slot| slot.due_ns));
            assert_eq!(cursor.claimed(), 20_000);
        }
    }

    proptest! {
        #[test]
        fn slots_before_is_the_first_slot_that_is_not_due(micro in 1u64..10_000_000_000_000, end_ns in 0u64..100_000_000_000) {
            let rate = Rate { micro_per_s: micro };
            let slots = rate.slots_before(end_ns);
            prop_assert!(rate.due_ns(slots) >= end_ns);
            prop_assert!(slots == 0 || rate.due_ns(slots - 1) < end_ns);
        }

        #[test]
        fn shares_sum_to_the_whole(micro in 1_000_000u64..3_000_000_000, of in 1u64..20, seed: u64, poisson: bool) {
            let rate = format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000);
            let arrival = if poisson { Arrival::Poisson } else { Arrival::Constant };
            let with_share = |share| Schedule { seed, duration_ns: NANOS_PER_SECOND, ..schedule(&rate, arrival, share) };
            let slots_of = |share| {
                let schedule = with_share(share);
                let cursor = Cursor::new(&schedule);
                let count = schedule.scheduled_before(schedule.end_ns()).unwrap();
                let slots: Vec<Slot> = (0..count).map(|_| cursor.claim(0)).collect();
                assert!(cursor.claim(0).due_ns >= schedule.end_ns(), "one slot too few was counted");
                slots
            };
            let mut together: Vec<Slot> = (0..of).flat_map(|index| slots_of(Share { index, of })).collect();
            together.sort_by_key(|slot| slot.number);
            prop_assert_eq!(together, slots_of(Share::WHOLE));
        }
    }
}
