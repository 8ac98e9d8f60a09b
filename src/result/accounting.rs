//! What became of every slot, the rates that follow, and what it cost the generator. Pure.

use serde::{Deserialize, Serialize};

use super::Summary;
use crate::measure::counters::tally;
use crate::measure::stalls::Stalls;
use crate::measure::timeline::Timeline;

tally! {
    /// Where every slot of the measured window went.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[cfg_attr(test, derive(schemars::JsonSchema))]
    pub struct Accounting {
        /// Slots that were due in the window.
        pub scheduled: u64,
        /// COMMIT acknowledged.
        pub ok: u64,
        /// Known not to have committed.
        pub failed: u64,
        /// May or may not have committed: the connection died after COMMIT may have been sent.
        pub unknown: u64,
        /// Given up by `--max-lag`.
        pub skipped: u64,
        /// Still waiting for a worker when the window closed.
        pub not_started: u64,
        /// In flight when the drain ended.
        pub unfinished: u64,
        /// Slots of lost or missing VMs that nobody reported; 0 unless results were merged.
        #[serde(default)]
        pub unreported: u64,
    }
}

impl Accounting {
    /// Whether every slot is accounted for exactly once.
    pub fn holds(&self) -> bool {
        self.scheduled == self.answered().saturating_add(self.unanswered())
    }

    /// Slots that got an answer, be it an error.
    pub fn answered(&self) -> u64 {
        self.ok.saturating_add(self.failed).saturating_add(self.unknown)
    }

    /// Slots that never got one: slower than any that did.
    pub fn unanswered(&self) -> u64 {
        [self.not_started, self.unfinished, self.unreported].into_iter().fold(self.skipped, u64::saturating_add)
    }
}

/// Rates and totals of the measured window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Throughput {
    /// Requests that got an answer: ok + failed + unknown.
    pub total_requests: u64,
    /// Requests that were ok.
    pub successful_writes: u64,
    /// failed + unknown.
    pub failed_writes: u64,
    /// Requests that were ok and completed within the window, per second of it. With several VMs: over the time in which
    /// all were measuring.
    pub actual_rps: f64,
    /// scheduled ÷ length of the window, requests per second; `null` with `--rps max`.
    pub offered_rps: Option<f64>,
    /// actual ÷ offered, percent; `null` with `--rps max`.
    pub target_achieved_pct: Option<f64>,
    /// ok ÷ total, percent; `null` if no request was answered.
    pub success_rate: Option<f64>,
    /// Requests that were ok and completed within the window.
    pub completed_in_window: u64,
    /// When these were completed.
    pub timeline: Timeline,
}

impl Throughput {
    /// What follows from the account and the two rates, requests per second.
    pub(crate) fn new(accounting: &Accounting, actual_rps: f64, offered_rps: Option<f64>, timeline: Timeline) -> Self {
        let total = accounting.answered();
        Self {
            total_requests: total,
            successful_writes: accounting.ok,
            failed_writes: accounting.failed.saturating_add(accounting.unknown),
            actual_rps,
            offered_rps,
            target_achieved_pct: offered_rps.filter(|rps| *rps > 0.0).map(|offered| actual_rps / offered * 100.0),
            success_rate: (total > 0).then(|| accounting.ok as f64 / total as f64 * 100.0),
            completed_in_window: timeline.total(),
            timeline,
        }
    }
}

/// One round trip of the requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Phase {
    /// The table that is written, or `commit`. The first round trip includes BEGIN.
    pub name: String,
    #[serde(flatten)]
    pub summary: Summary,
}

/// How hard the generator had to work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Generator {
    /// CPU seconds (user and system) of the process from T0 to the end of the drain.
    pub cpu_seconds: f64,
    /// CPU time per answered request, warm-up included, microseconds; `null` if there was none.
    pub cpu_us_per_request: Option<f64>,
    /// How much of the window the busiest thread was computing, percent.
    pub busiest_thread_pct: f64,
    /// How much of the window the worst thread waited for a processor, percent; `null` if the system does not tell.
    pub run_queue_wait_pct: Option<f64>,
    /// How much of the window the most occupied thread was computing or waiting for a processor, percent; `null` if the
    /// system does not tell.
    pub occupied_pct: Option<f64>,
    /// How busy all processors of its machine were from T0 to the end of the window (the warm-up included), by whatever ran
    /// there, percent; with several VMs, of the busiest; `null` if the system does not tell.
    pub machine_cpu_pct: Option<f64>,
    /// When it stood still.
    #[serde(flatten)]
    pub stood_still: Stalls,
}
