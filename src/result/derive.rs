//! What follows from the rest of a document. Pure.
//!
//! A fresh result, a merged one and one that was read are all completed here, so that `merge` can compare what a document
//! says with what its histograms and counts say. A new field that follows from others needs one line here, and none
//! in `merge`.

use super::{EncodedHistogram, HistogramError, Histograms, Phase, RunResult, Summary, Throughput};
use crate::measure::recorder::{Durations, Figures};
use crate::text::words::rfc3339;
use crate::workload::script;

impl RunResult {
    /// Computes anew everything that follows from counts, times, options and histograms. `figures` is what the histograms
    /// hold, the round trips maybe with fewer digits.
    pub(crate) fn derive(&mut self, figures: &Figures) {
        let accounting = self.accounting;
        self.run.started_at = rfc3339(self.run.started_unix_ns);
        self.latency_ms = Summary::new(&figures.latency, accounting.unanswered());
        self.service_time_ms = Summary::new(&figures.service, accounting.unfinished);
        self.lateness_ms = Summary::new(&figures.lateness, 0);
        self.wait_for_connection_ms = Summary::new(&figures.wait, accounting.skipped + accounting.not_started);
        // No round trip takes longer than its request.
        let most_ms = self.service_time_ms.max.filter(|_| figures.service.past_range == 0);
        let names = script::phase_names(self.config.pipeline, &self.config.workload);
        let phase = |(name, durations)| Phase { name, summary: Summary::new(durations, 0).at_most(most_ms) };
        self.phases_ms = names.into_iter().zip(&figures.phases).map(phase).collect();
        self.data_written_mb = accounting.ok as f64 * self.config.workload.document_bytes() as f64 / 1_048_576.0;
        let timeline = std::mem::take(&mut self.throughput.timeline);
        let completed = timeline.completed.iter().fold(0u64, |sum, count| sum.saturating_add(*count));
        let seconds = self.run.window_seconds;
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let offered_rps = self.config.target_rps.map(|_| per_second(accounting.scheduled));
        self.throughput = Throughput::new(&accounting, per_second(completed), offered_rps, completed, timeline);
        let answered = self.answered_with_warmup();
        let generator = &mut self.generator;
        generator.cpu_us_per_request = (answered > 0).then(|| generator.cpu_seconds * 1e6 / answered as f64);
    }

    /// Requests that got an answer, those of the warm-up included.
    pub(crate) fn answered_with_warmup(&self) -> u64 {
        let warmup = &self.run.warmup;
        self.accounting.answered() + warmup.ok + warmup.failed + warmup.unknown
    }
}

impl Histograms {
    /// Encodes what was recorded.
    pub fn new(figures: &Figures) -> Self {
        Self {
            latency: EncodedHistogram::new(&figures.latency),
            service_time: EncodedHistogram::new(&figures.service),
            lateness: EncodedHistogram::new(&figures.lateness),
            wait_for_connection: EncodedHistogram::new(&figures.wait),
            phases: figures.phases.iter().map(EncodedHistogram::coarse).collect(),
        }
    }

    /// What was recorded; the round trips with two significant digits.
    ///
    /// # Errors
    /// One is no histogram of this program: its name, and why.
    pub fn decode(&self) -> Result<Figures, (String, HistogramError)> {
        let fine = |name: &str, encoded: &EncodedHistogram| encoded.decode().map_err(|error| (name.to_owned(), error));
        let coarse = |(at, encoded): (usize, &EncodedHistogram)| {
            let histogram = encoded.decode_coarse().map_err(|error| (format!("phases[{at}]"), error))?;
            Ok(Durations { histogram, past_range: encoded.past_range })
        };
        Ok(Figures {
            latency: fine("latency", &self.latency)?,
            service: fine("service_time", &self.service_time)?,
            lateness: fine("lateness", &self.lateness)?,
            wait: fine("wait_for_connection", &self.wait_for_connection)?,
            phases: self.phases.iter().enumerate().map(coarse).collect::<Result<_, _>>()?,
        })
    }
}
