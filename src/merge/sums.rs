//! Sums of histograms, counts and errors. Pure.

use crate::measure::counters::Recoveries;
use crate::measure::figures::Figures;
use crate::measure::outcome::ErrorTable;
use crate::result::{Accounting, RunResult, WarmupCounts};

/// What all VMs recorded together.
pub(super) struct Sums {
    pub accounting: Accounting,
    pub warmup: WarmupCounts,
    pub recoveries: Recoveries,
    pub errors: ErrorTable,
    pub figures: Figures,
}

impl Sums {
    /// Nothing yet, of requests with so many round trips.
    pub fn new(phases: usize) -> Self {
        Self {
            accounting: Accounting::default(),
            warmup: WarmupCounts::default(),
            recoveries: Recoveries::default(),
            errors: ErrorTable::default(),
            figures: Figures::of_decoded(phases),
        }
    }

    /// Adds a document that was checked.
    pub fn add(&mut self, result: &RunResult, figures: &Figures) {
        self.accounting.add(&result.accounting);
        self.warmup.add(&result.run.warmup);
        self.recoveries.add(&result.recoveries);
        self.errors.merge(&result.errors);
        self.figures.add(figures);
    }
}
