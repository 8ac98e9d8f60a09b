//! What the run was like over time, in bins that client and server share. Pure.

use serde::{Deserialize, Serialize};

use crate::measure::encoded::EncodedHistogram;

/// Bins of equal length from T0 on, the warm-up included. All lists have one entry a bin. Bins are merged by adding them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Timeline {
    /// Length of a bin, seconds: a power of two, so that there are no more than 200 bins.
    pub bin_seconds: u64,
    /// Slots that came due; with `--rps max` the requests that were started.
    pub offered: Vec<u64>,
    /// Requests that were ok, by the bin in which they were completed.
    pub completed: Vec<u64>,
    /// Requests that failed or of which it is not known whether they were committed, by the bin in which that was learnt.
    pub errors: Vec<u64>,
    /// Requests that were ok, by the bin in which they were due.
    pub ok: Vec<u64>,
    /// Requests that failed, by the bin in which they were due.
    pub failed: Vec<u64>,
    /// Requests of which it is not known whether they were committed, by the bin in which they were due.
    pub unknown: Vec<u64>,
    /// Slots that were given up (`--max-lag`), by the bin in which they were due.
    pub skipped: Vec<u64>,
    /// Latency of the answered requests, by the bin in which they were due: histograms of microseconds, with two significant
    /// digits.
    pub latency: Vec<EncodedHistogram>,
    /// The greatest lateness of a request that was due in the bin, milliseconds.
    pub lateness_max_ms: Vec<f64>,
    /// Workers that were busy with a request: the average over the bin.
    pub busy_workers: Vec<f64>,
    /// Slots that were due at the end of the bin, and neither started nor given up.
    pub backlog: Vec<u64>,
    /// CPU that the generator used, percent of one core.
    pub cpu_pct: Vec<f64>,
}

impl Timeline {
    /// With more bins than this, bins become twice as long: a histogram takes up to 1.7 KB.
    pub const MAX_BINS: usize = 200;
}
