//! Cheap pseudo-random numbers that give the same sequence on every platform and in every version.
//!
//! Results of a run are a function of its seed, across hosts and releases; general-purpose crates do not promise that.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

    /// A generator whose sequence is fixed by `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A generator for one slot of one run: independent of its neighbours', reached without drawing theirs.
    pub fn for_slot(seed: u64, slot: u64) -> Self {
        Self::new(mix(seed ^ mix(slot.wrapping_add(Self::GAMMA))))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(Self::GAMMA);
        mix(self.state)
    }

    /// A number in `0..bound`; the bias is below `bound / 2^64`. `bound` must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: i32, high: i32) -> i32 {
        low + self.below((high - low) as u64 + 1) as i32
    }
}

/// The output function of SplitMix64: a bijection on 64 bits in which every input bit moves every output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        // Reference values of the public-domain C implementation (Vigna, prng.di.unimi.it) for seed 1234567.
        let mut random = SplitMix64::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.next_u64()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn bounds_hold_and_are_reached() {
        let mut random = SplitMix64::new(3);
        let drawn: std::collections::BTreeSet<i32> = (0..1_000).map(|_| random.between(-2, 3)).collect();
        assert!(drawn.iter().copied().eq(-2..=3));
    }
}
