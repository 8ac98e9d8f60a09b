//! Sums of histograms, counts and errors. Pure.

use super::MergeError;
use crate::measure::outcome::ErrorTable;
use crate::measure::recorder::{Durations, Figures, coarse_histogram};
use crate::result::{Accounting, RunResult, WarmupCounts};

/// What all VMs recorded together.
pub(super) struct Sums {
    /// Where every slot went.
    pub accounting: Accounting,
    /// Requests of the warm-up.
    pub warmup: WarmupCounts,
    /// Connections opened in place of dead ones.
    pub reconnects: u64,
    /// Requests that were tried more than once, and how often in all.
    pub retried: (u64, u64),
    /// By origin, class and state.
    pub errors: ErrorTable,
    /// The histograms; of the round trips with two significant digits.
    pub figures: Figures,
}

impl Sums {
    /// Nothing yet, of requests with so many round trips.
    pub fn new(phases: usize) -> Self {
        let mut figures = Figures::new(phases);
        figures.phases.fill(Durations { histogram: coarse_histogram(), past_range: 0 });
        Self {
            accounting: Accounting::default(),
            warmup: WarmupCounts::default(),
            reconnects: 0,
            retried: (0, 0),
            errors: ErrorTable::default(),
            figures,
        }
    }

    /// Slots that were planned and of which no document tells.
    pub fn add_unreported(&mut self, slots: u64) {
        self.accounting.scheduled += slots;
        self.accounting.unreported += slots;
    }

    /// Adds a document that was checked.
    pub fn add(&mut self, result: &RunResult, figures: &Figures) {
        let (sum, one) = (&mut self.accounting, &result.accounting);
        sum.scheduled += one.scheduled;
        sum.ok += one.ok;
        sum.failed += one.failed;
        sum.unknown += one.unknown;
        sum.skipped += one.skipped;
        sum.not_started += one.not_started;
        sum.unfinished += one.unfinished;
        let (sum, one) = (&mut self.warmup, &result.run.warmup);
        sum.ok += one.ok;
        sum.failed += one.failed;
        sum.unknown += one.unknown;
        sum.skipped += one.skipped;
        sum.unfinished += one.unfinished;
        self.reconnects += result.reconnects;
        self.retried.0 += result.retried;
        self.retried.1 += result.retries;
        self.errors.merge(&result.errors);
        self.figures.add(figures);
    }

    /// # Errors
    /// Every part adds up, and the sum does not.
    pub fn checked(self) -> Result<Self, MergeError> {
        if self.accounting.holds() { Ok(self) } else { Err(MergeError::DoesNotAddUp) }
    }
}
