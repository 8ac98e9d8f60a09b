//! Which processes are one test. Pure but for the numbers that are drawn.

use std::hash::{BuildHasher, RandomState};

use crate::random::SplitMix64;
use crate::schedule::Share;

/// Which test a process belongs to, and which share of it the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The same for all processes of one test.
    pub test: u32,
    pub share: Share,
}

impl Claim {
    /// Of a process, where `test` is known; otherwise the process is a test of its own.
    pub fn new(test: Option<u32>, share: Share) -> Self {
        Self { test: test.unwrap_or_else(random_test), share }
    }

    /// Names test and share.
    pub(super) fn share_key(self) -> u32 {
        test_of([u64::from(self.test), self.share.index])
    }
}

pub fn random_test() -> u32 {
    test_of([RandomState::new().hash_one(std::process::id()), 0])
}

/// The number of a test whose processes know nothing of each other but its start and how many shares it has.
pub fn test_of_shares(start_at_unix_ns: Option<u64>, shares: u64) -> u32 {
    test_of([start_at_unix_ns.unwrap_or_default(), shares])
}

/// Never 0, which stands for no test at all.
fn test_of([one, other]: [u64; 2]) -> u32 {
    (SplitMix64::for_slot(one, other).next_u64() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_with_one_start_are_one_test_and_all_others_are_not() {
        let start = Some(1_800_000_000_000_000_000);
        assert_eq!(test_of_shares(start, 2), test_of_shares(start, 2));
        let all = [
            test_of_shares(start, 2),
            test_of_shares(start, 3),
            test_of_shares(Some(1_800_000_000_000_000_001), 2),
            test_of_shares(None, 2),
            random_test(),
            random_test(),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(*one != 0 && !all[at + 1..].contains(one), "{all:?}");
        }
    }
}
