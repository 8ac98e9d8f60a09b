//! Sums of histograms, counts and errors. Pure.
//!
//! One machine's histograms are decoded, added and let go before the next one's, so that memory does not grow with the
//! number of machines.

use hdrhistogram::Histogram;

use super::check::{MAX_COUNT, summary_disagrees};
use super::{MergeError, Part};
use crate::outcome::ErrorTable;
use crate::recorder::{Durations, coarse_histogram};
use crate::result::{Accounting, EncodedHistogram, Histograms, Phase, RunResult, Summary, WarmupCounts, encode};

/// What all machines recorded together.
pub(super) struct Sums {
    /// Where every slot went.
    pub accounting: Accounting,
    /// Requests of the warm-up.
    pub warmup: WarmupCounts,
    /// Requests that were ok and completed within their machine's window.
    pub completed_in_window: u64,
    /// Units of 1,048,576 bytes.
    pub data_written_mb: f64,
    /// Connections opened in place of dead ones.
    pub reconnects: u64,
    /// Requests that were tried more than once, and how often in all.
    pub retried: (u64, u64),
    /// By origin, class and state.
    pub errors: ErrorTable,
    latency: Durations,
    service: Durations,
    lateness: Durations,
    wait: Durations,
    phases: Vec<PhaseSum>,
}

/// One round trip of all machines.
struct PhaseSum {
    histogram: Histogram<u64>,
    past_range: u64,
    min: Option<f64>,
    max: Option<f64>,
    /// Mean × known values, milliseconds.
    total_ms: f64,
}

impl Sums {
    /// Adds up what the documents hold. They have been checked, but for the counts of their histograms.
    pub fn of(parts: &[Part]) -> Result<Self, MergeError> {
        let phases = parts.first().map_or(0, |part| part.result.phases_ms.len());
        let mut sums = Self {
            accounting: Accounting::default(),
            warmup: WarmupCounts::default(),
            completed_in_window: 0,
            data_written_mb: 0.0,
            reconnects: 0,
            retried: (0, 0),
            errors: ErrorTable::default(),
            latency: Durations::default(),
            service: Durations::default(),
            lateness: Durations::default(),
            wait: Durations::default(),
            phases: (0..phases).map(|_| PhaseSum::new()).collect(),
        };
        for part in parts {
            sums.add_counts(&part.result);
            sums.add_histograms(part)?;
        }
        if sums.accounting.holds() { Ok(sums) } else { Err(MergeError::DoesNotAddUp) }
    }

    /// Slots that were planned and of which no document tells.
    pub fn add_unreported(&mut self, slots: u64) {
        self.accounting.scheduled += slots;
        self.accounting.unreported += slots;
    }

    fn add_counts(&mut self, result: &RunResult) {
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
        self.completed_in_window += result.throughput.completed_in_window;
        self.data_written_mb += result.data_written_mb;
        self.reconnects += result.reconnects;
        self.retried.0 = self.retried.0.saturating_add(result.retried);
        self.retried.1 = self.retried.1.saturating_add(result.retries);
        self.errors.merge(&result.errors);
    }

    fn add_histograms(&mut self, part: &Part) -> Result<(), MergeError> {
        let (encoded, accounting) = (&part.result.histograms, &part.result.accounting);
        let answered = accounting.answered();
        let contradiction = |what: &str, count: Option<u64>| {
            let count = count.map_or("too many".to_owned(), |count| count.to_string());
            let what = format!("{answered} requests were answered, and {count} values are in the histogram of {what}");
            Err(MergeError::Contradiction { host: part.hostname.clone(), what })
        };
        let latency = decoded(part, "latency", &encoded.latency)?;
        let service = decoded(part, "service_time", &encoded.service_time)?;
        for (name, durations) in [("latency", &latency), ("service_time", &service)] {
            match count(&durations.histogram, durations.past_range) {
                Some(count) if count == answered => {}
                count => return contradiction(name, count),
            }
        }
        let lateness = decoded(part, "lateness", &encoded.lateness)?;
        let wait = decoded(part, "wait_for_connection", &encoded.wait_for_connection)?;
        let [on_time, waited] = [&lateness, &wait].map(|d| count(&d.histogram, d.past_range));
        // Every answered request is in one of the two, and a skipped one in the first where its worker was waiting.
        let started = on_time.zip(waited).map(|(on_time, waited)| on_time + waited);
        if !started.is_some_and(|started| (answered..=answered + accounting.skipped).contains(&started)) {
            return contradiction("lateness and of wait_for_connection", started);
        }
        let Accounting { skipped, not_started, unfinished, .. } = *accounting;
        let result = &part.result;
        for (name, summary, durations, unanswered) in [
            ("latency", &result.latency_ms, &latency, accounting.unanswered()),
            ("service time", &result.service_time_ms, &service, unfinished),
            ("lateness", &result.lateness_ms, &lateness, 0),
            ("wait for a connection", &result.wait_for_connection_ms, &wait, skipped + not_started),
        ] {
            if let Some(figure) = summary_disagrees(summary, durations, unanswered) {
                let what = format!("the {figure} of its {name} is not that of its histogram");
                return Err(MergeError::Contradiction { host: part.hostname.clone(), what });
            }
        }
        for (sum, (phase, encoded)) in self.phases.iter_mut().zip(part.result.phases_ms.iter().zip(&encoded.phases)) {
            let histogram = encoded.decode_coarse().map_err(|source| unusable(part, &phase.name, source))?;
            match count(&histogram, encoded.past_range) {
                // A request that failed may not have come so far.
                Some(count) if count <= answered && count == phase.summary.count => {}
                count => return contradiction(&phase.name, count),
            }
            sum.add(&histogram, encoded.past_range, &phase.summary);
        }
        self.latency.add(&latency);
        self.service.add(&service);
        self.lateness.add(&lateness);
        self.wait.add(&wait);
        Ok(())
    }

    /// Of latency, service time, lateness and wait for a connection, as for one machine.
    pub fn summaries(&self) -> [Summary; 4] {
        let Accounting { skipped, not_started, unfinished, .. } = self.accounting;
        [
            Summary::new(&self.latency, self.accounting.unanswered()),
            Summary::new(&self.service, unfinished),
            Summary::new(&self.lateness, 0),
            Summary::new(&self.wait, skipped + not_started),
        ]
    }

    /// Of the round trips, whose names are those of `first`.
    pub fn phases(&self, first: &RunResult) -> Vec<Phase> {
        let names = first.phases_ms.iter().map(|phase| phase.name.clone());
        names.zip(&self.phases).map(|(name, sum)| Phase { name, summary: sum.summary() }).collect()
    }

    /// The sums, encoded as one machine's are.
    pub fn histograms(&self) -> Histograms {
        let phases = self.phases.iter();
        Histograms {
            latency: EncodedHistogram::new(&self.latency),
            service_time: EncodedHistogram::new(&self.service),
            lateness: EncodedHistogram::new(&self.lateness),
            wait_for_connection: EncodedHistogram::new(&self.wait),
            phases: phases
                .map(|sum| EncodedHistogram { base64: encode(&sum.histogram), past_range: sum.past_range })
                .collect(),
        }
    }
}

impl PhaseSum {
    fn new() -> Self {
        Self { histogram: coarse_histogram(), past_range: 0, min: None, max: None, total_ms: 0.0 }
    }

    fn add(&mut self, histogram: &Histogram<u64>, past_range: u64, summary: &Summary) {
        // Fails only where the other holds values past this range, and decoding refuses other ranges than ours.
        if self.histogram.add(histogram).is_err() {
            self.past_range += histogram.len();
        }
        self.past_range += past_range;
        self.min = self.min.into_iter().chain(summary.min).reduce(f64::min);
        self.max = self.max.into_iter().chain(summary.max).reduce(f64::max);
        self.total_ms += summary.avg.unwrap_or(0.0) * histogram.len() as f64;
    }

    /// Percentiles from the sum; the rest from the machines' own figures, which have a digit more.
    fn summary(&self) -> Summary {
        let durations = Durations { histogram: self.histogram.clone(), past_range: self.past_range };
        let known = self.histogram.len();
        Summary {
            min: self.min,
            avg: (known > 0).then(|| self.total_ms / known as f64),
            max: self.max,
            ..Summary::new(&durations, 0)
        }
    }
}

fn decoded(part: &Part, name: &str, encoded: &EncodedHistogram) -> Result<Durations, MergeError> {
    encoded.decode().map_err(|source| unusable(part, name, source))
}

fn unusable(part: &Part, name: &str, source: crate::result::HistogramError) -> MergeError {
    MergeError::Histogram { host: part.hostname.clone(), histogram: super::check::short(name), source }
}

/// How many values there are; `None` where they are more than can be.
fn count(histogram: &Histogram<u64>, past_range: u64) -> Option<u64> {
    histogram.len().checked_add(past_range).filter(|count| *count <= MAX_COUNT)
}
