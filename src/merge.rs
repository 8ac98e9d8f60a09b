//! Results of several machines → one result. Pure.
//!
//! Histograms are added, counts are summed, percentiles are computed anew from the sums and never averaged. Rates are
//! taken over the time in which all machines were measuring.

use crate::result::{ClockComparison, FailedVm, RunResult};

/// One machine's result, with what is known about it from outside.
#[derive(Clone, Debug)]
pub struct Part {
    /// What the machine is called in the report.
    pub hostname: String,
    /// Its document.
    pub result: RunResult,
    /// How its clock compares, where somebody asked.
    pub clock: Option<ClockComparison>,
    /// When it began, against the common T0 and on one clock for all, milliseconds.
    pub start_skew_ms: Option<f64>,
    /// Why its result ends early, where it does.
    pub lost: Option<String>,
    /// Slots of its share that it was not seen to run, because it was lost.
    pub slots_lost: u64,
}

/// Why results cannot be merged.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MergeError {
    /// No machine delivered anything.
    #[error("no machine delivered a result")]
    Nothing,
}

/// Merges the results of one test. `missing` are machines that delivered nothing.
///
/// # Errors
/// The results do not belong together, or one of them contradicts itself.
pub fn merge(_parts: Vec<Part>, _missing: Vec<FailedVm>) -> Result<RunResult, MergeError> {
    Err(MergeError::Nothing)
}
