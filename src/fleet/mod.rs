//! One test on many machines.

pub mod clock;
pub mod totals;
