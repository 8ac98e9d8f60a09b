//! What follows from the rest of a document. Pure.
//!
//! Fresh, merged and read results are all completed here, so that `merge` can compare what a document says with what its
//! histograms and counts say. A new field that follows from others needs one line here, and none in `merge`.

use super::{Phase, RunResult, Summary, Throughput};
use crate::measure::figures::Figures;
use crate::text::words::rfc3339;
use crate::workload::script;

impl RunResult {
    /// Computes everything that follows from counts, times, options and histograms. `figures` is what the histograms hold;
    /// the round trips may have fewer digits.
    pub(crate) fn derive(&mut self, figures: &Figures) {
        let accounting = self.accounting;
        self.run.started_at = rfc3339(self.run.started_unix_ns);
        self.latency_ms = Summary::new(&figures.latency, accounting.unanswered());
        self.service_time_ms = Summary::new(&figures.service_time, accounting.unfinished);
        self.lateness_ms = Summary::new(&figures.lateness, 0);
        self.wait_for_connection_ms =
            Summary::new(&figures.wait_for_connection, accounting.skipped + accounting.not_started);
        // No round trip takes longer than its request.
        let most_ms =
            self.service_time_ms.max.filter(|_| figures.service_time.past_range == 0).unwrap_or(f64::INFINITY);
        let names = script::phase_names(self.config.pipeline, &self.config.workload);
        let phase = |(name, durations)| Phase { name, summary: Summary::at_most(durations, 0, most_ms) };
        self.phases_ms = names.into_iter().zip(&figures.phases).map(phase).collect();
        self.data_written_mb = accounting.ok as f64 * self.config.workload.document_bytes() as f64 / 1_048_576.0;
        let timeline = std::mem::take(&mut self.throughput.timeline);
        let seconds = self.run.window_seconds;
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let offered_rps = self.config.target_rps.map(|_| per_second(accounting.scheduled));
        self.throughput = Throughput::new(&accounting, per_second(timeline.total()), offered_rps, timeline);
        let answered = self.answered_with_warmup();
        let generator = &mut self.generator;
        generator.cpu_us_per_request = (answered > 0).then(|| generator.cpu_seconds * 1e6 / answered as f64);
    }

    /// Requests of warm-up and window whose COMMIT was acknowledged, and those that may or may not have been committed.
    pub(crate) fn acknowledged_and_unsettled(&self) -> (u64, u64) {
        let (window, warmup) = (&self.accounting, &self.run.warmup);
        let unsettled = window.unknown + window.unfinished + warmup.unknown + warmup.unfinished;
        (window.ok + warmup.ok, unsettled)
    }

    /// Requests that got an answer, those of the warm-up included.
    pub(crate) fn answered_with_warmup(&self) -> u64 {
        self.accounting.answered() + self.run.warmup.answered()
    }
}
