//! What a run writes down about its requests. Pure.
//!
//! - [`recorder`]: a thread's histograms and counters. [`outcome`]: database errors in classes.
//! - [`outages`]: times in which something was due and nothing was acknowledged. [`stalls`]: times in which the generator
//!   stood still.

pub mod outages;
pub mod outcome;
pub mod recorder;
pub mod stalls;
