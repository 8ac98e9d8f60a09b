//! Arrivals of a Poisson process that can be counted without being drawn one by one. Pure.
//!
//! Time is cut into blocks in which 64 arrivals are expected. How many a block really has comes from a binary tree over
//! all blocks: given the arrivals of a node, each of them falls into the left half with probability 1/2, so the left
//! child's number is binomial (Devroye, "Non-Uniform Random Variate Generation", 1986, chapters X.4 and XI.2: a Poisson
//! process given its total is a uniform sample). Within a block the times are uniform. Every node draws from a
//! generator of its own, so the arrivals before any instant are known after one walk from the root to a leaf, however
//! many there are.
//!
//! The logarithm and cosine come from `libm`, which gives the same bits on every platform.

use super::{Rate, Share, Slot};
use crate::random::SplitMix64;

/// Arrivals that are expected in a block.
const PER_BLOCK: u64 = 64;
/// Depth of the tree. Its 2^56 blocks last for thousands of years at the greatest rate.
const LEVELS: usize = 56;
/// Up to here the binomial numbers are drawn exactly. Beyond, the normal distribution differs from them by less than
/// one part in ten thousand.
const EXACT_UP_TO: u64 = 4096;

/// The arrivals of the whole test. Only those of one share are kept.
///
/// Every share draws all arrivals and keeps its own, so the shares together are exactly the schedule of one process.
#[derive(Debug)]
pub(super) struct PoissonArrivals {
    rate: Rate,
    share: Share,
    seed: u64,
    /// The block whose arrivals are in `dues_ns`.
    block: u64,
    /// How many arrivals each node has on the way from the root to `block`.
    path: [u64; LEVELS + 1],
    dues_ns: Vec<u64>,
    /// Position of the next arrival in `dues_ns`.
    next: usize,
    /// Its number among all arrivals.
    next_number: u64,
}

impl PoissonArrivals {
    /// From the first arrival on.
    pub(super) fn new(rate: Rate, share: Share, seed: u64) -> Self {
        Self::from_block(rate, share, seed, 0)
    }

    /// How many arrivals of the share are due before `end_ns`.
    pub(super) fn count_before(rate: Rate, share: Share, seed: u64, end_ns: u64) -> u64 {
        let block = rate.slots_before(end_ns.saturating_add(1)).saturating_sub(1) / PER_BLOCK;
        let arrivals = Self::from_block(rate, share, seed, block);
        let within = arrivals.dues_ns.partition_point(|due_ns| *due_ns < end_ns) as u64;
        share.count_of(arrivals.next_number.saturating_add(within))
    }

    fn from_block(rate: Rate, share: Share, seed: u64, block: u64) -> Self {
        let seed = seed ^ 0x5EED_A221_7A15_0000;
        let mut arrivals =
            Self { rate, share, seed, block, path: [0; LEVELS + 1], dues_ns: Vec::new(), next: 0, next_number: 0 };
        arrivals.path[0] = arrivals.total();
        arrivals.walk(0);
        arrivals.next_number =
            (0..LEVELS).filter(|level| arrivals.is_right(*level)).map(|level| arrivals.left(level)).sum();
        arrivals.fill();
        arrivals
    }

    /// The next slot of the share.
    pub(super) fn next_slot(&mut self) -> Slot {
        loop {
            while self.next >= self.dues_ns.len() {
                self.block += 1;
                // Above this level both blocks have the same ancestors.
                self.walk(LEVELS - 1 - (self.block.trailing_zeros() as usize).min(LEVELS - 1));
                self.fill();
            }
            let slot = Slot { number: self.next_number, due_ns: self.dues_ns[self.next] };
            self.next += 1;
            self.next_number += 1;
            if slot.number % self.share.of == self.share.index {
                return slot;
            }
        }
    }

    /// Arrivals in all blocks together. The mean is so large that a Poisson number is a normal one.
    fn total(&self) -> u64 {
        let mean = PER_BLOCK << LEVELS;
        let spread = (mean as f64).sqrt() * standard_normal(&mut SplitMix64::for_slot(self.seed, 0));
        mean.saturating_add_signed(spread as i64)
    }

    /// Whether the block lies in the right half of its ancestor at a level; the root's level is 0.
    fn is_right(&self, level: usize) -> bool {
        self.block >> (LEVELS - 1 - level) & 1 == 1
    }

    /// Arrivals in the left half of the block's ancestor at a level.
    fn left(&self, level: usize) -> u64 {
        // The children of node n are 2n and 2n + 1; 0 names the draw for the root itself.
        let node = (1 << level) | (self.block >> (LEVELS - level));
        half_of(self.path[level], &mut SplitMix64::for_slot(self.seed, node))
    }

    /// Fills in the path from a level down to the block.
    fn walk(&mut self, from_level: usize) {
        for level in from_level..LEVELS {
            let left = self.left(level);
            self.path[level + 1] = if self.is_right(level) { self.path[level] - left } else { left };
        }
    }

    /// Draws the arrivals of the block.
    fn fill(&mut self) {
        let start_ns = self.rate.due_ns(self.block * PER_BLOCK);
        let length_ns = self.rate.due_ns((self.block + 1) * PER_BLOCK) - start_ns;
        let mut random = SplitMix64::for_slot(self.seed, (1 << LEVELS) | self.block);
        self.next = 0;
        self.dues_ns.clear();
        self.dues_ns.extend((0..self.path[LEVELS]).map(|_| start_ns + random.below(length_ns)));
        self.dues_ns.sort_unstable();
    }
}

/// How many of `number` tossed coins show heads.
fn half_of(number: u64, random: &mut SplitMix64) -> u64 {
    if number <= EXACT_UP_TO {
        let whole: u64 = (0..number / 64).map(|_| u64::from(random.next_u64().count_ones())).sum();
        let rest = random.next_u64() & ((1 << (number % 64)) - 1);
        return whole + u64::from(rest.count_ones());
    }
    let spread = (number as f64).sqrt() / 2.0 * standard_normal(random);
    (number / 2).saturating_add_signed(spread.round() as i64).min(number)
}

/// A normal deviate with mean 0 and variance 1 (Box and Muller, 1958).
fn standard_normal(random: &mut SplitMix64) -> f64 {
    let mut uniform = || ((random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    let (radius, angle) = (uniform(), uniform());
    (-2.0 * libm::log(radius)).sqrt() * libm::cos(std::f64::consts::TAU * angle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arrivals(rate: &str, seed: u64) -> PoissonArrivals {
        PoissonArrivals::new(Rate::parse(rate).unwrap(), Share::WHOLE, seed)
    }

    fn mean_and_variance(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64)
    }

    #[test]
    fn gaps_are_exponential() {
        let mut arrivals = arrivals("1000", 42);
        let dues: Vec<u64> = (0..100_000).map(|_| arrivals.next_slot().due_ns).collect();
        let gaps: Vec<f64> = dues.windows(2).map(|w| (w[1] - w[0]) as f64 / 1e6).collect();
        let (mean, variance) = mean_and_variance(&gaps);
        assert!((mean - 1.0).abs() < 0.02, "mean gap {mean} ms");
        assert!((variance.sqrt() - 1.0).abs() < 0.03, "standard deviation {} ms", variance.sqrt());
        // P(gap > t) = e^-t.
        for (limit, expected) in [(0.1, 0.904_8), (1.0, 0.367_9), (3.0, 0.049_8)] {
            let part = gaps.iter().filter(|gap| **gap > limit).count() as f64 / gaps.len() as f64;
            assert!((part - expected).abs() < 0.01, "{part} of the gaps are longer than {limit} ms");
        }
        // Neighbours know nothing of each other, also across the edges of blocks.
        let pairs: Vec<f64> = gaps.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).collect();
        assert!((pairs.iter().sum::<f64>() / pairs.len() as f64 / variance).abs() < 0.02);
    }

    #[test]
    fn counts_have_a_poisson_variance_at_every_scale() {
        // The exact draw of the binomial numbers, the edge between the two draws, and the normal one.
        for (window_s, windows) in [(0.1, 4_000), (10.0, 4_000), (100.0, 2_000)] {
            let rate = Rate::parse("640").unwrap();
            let before = |index: u64| {
                PoissonArrivals::count_before(rate, Share::WHOLE, 11, (index as f64 * window_s * 1e9) as u64)
            };
            let counts: Vec<f64> = (0..windows).map(|index| (before(index + 1) - before(index)) as f64).collect();
            let (mean, variance) = mean_and_variance(&counts);
            assert!((mean / (640.0 * window_s) - 1.0).abs() < 0.01, "{window_s} s: mean {mean}");
            assert!((variance / mean - 1.0).abs() < 0.12, "{window_s} s: variance {variance}, mean {mean}");
        }
    }

    #[test]
    fn a_year_at_the_greatest_rate_is_counted_without_being_drawn() {
        let rate = Rate::parse("10000000").unwrap();
        let expected = 366.0 * 86_400.0 * 1e7;
        let counted = PoissonArrivals::count_before(rate, Share::WHOLE, 5, 366 * 86_400 * 1_000_000_000);
        assert!((counted as f64 - expected).abs() < 6.0 * f64::sqrt(expected), "{counted}");
        // Far ends of the range do not overflow.
        for rate in ["0.000001", "10000000"] {
            let _ = PoissonArrivals::count_before(Rate::parse(rate).unwrap(), Share::WHOLE, 5, u64::MAX);
        }
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_is_drawn(seed: u64, micro in 1_000_000u64..3_000_000_000, end_ns in 0u64..3_000_000_000, of in 1u64..5) {
            let rate = Rate::parse(&format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000)).unwrap();
            let share = Share { index: of - 1, of };
            let mut arrivals = PoissonArrivals::new(rate, share, seed);
            let drawn = (0..).take_while(|_| arrivals.next_slot().due_ns < end_ns).count() as u64;
            prop_assert_eq!(PoissonArrivals::count_before(rate, share, seed, end_ns), drawn);
        }
    }
}
