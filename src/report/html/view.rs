//! What the charts show, taken from a result: times, rates, percentiles and events. Pure.

use super::chart::{Axis, Band};
use super::scale::{self, ms, short, time_ticks};
use crate::measure::bins::Bins;
use crate::measure::durations::{COARSE_DIGITS, Durations};
use crate::measure::timeline::Timeline as CompletedTimeline;
use crate::result::{Event, EventKind, MOST_EVENTS, RunResult, Timeline};

/// The lanes that a legend explains.
pub(super) const OUTAGE: &str = "outage";
pub(super) const STALL: &str = "stall";
pub(super) const NO_STATISTICS: &str = "no stats";
const WARMUP: &str = "warm-up";
const AFTER: &str = "drain";

/// A result over time.
pub(super) struct View<'a> {
    pub(super) result: &'a RunResult,
    pub(super) axis: Axis,
    /// Of each bin: p50, p90, p99 and maximum, milliseconds.
    pub(super) latency: [Vec<Option<f64>>; 4],
    /// Of each bin, requests per second.
    pub(super) offered: Vec<Option<f64>>,
    pub(super) completed: Vec<Option<f64>>,
    pub(super) errors: Vec<Option<f64>>,
    /// Warm-up, drain, and everything that happened.
    pub(super) bands: Vec<Band>,
}

impl<'a> View<'a> {
    pub(super) fn new(result: &'a RunResult) -> Self {
        let timeline = &result.timeline;
        // Documents of elsewhere may have lists of any length.
        let has_bins = timeline.bin_seconds > 0 && !timeline.offered.is_empty();
        let (bin_s, bins) = match has_bins {
            true => (timeline.bin_seconds as f64, timeline.offered.len()),
            false => (result.throughput.timeline.bin_seconds.max(1) as f64, result.throughput.timeline.completed.len()),
        };
        let bins = bins.min(if has_bins { Bins::MAX_BINS as usize } else { CompletedTimeline::MAX_BINS });
        let end_s = window_end_s(result);
        let covered = |at: usize| covered_s(at as f64 * bin_s, bin_s, end_s);
        let rate = |list: &[u64]| -> Vec<Option<f64>> {
            (0..bins).map(|at| list.get(at).map(|count| *count as f64 / covered(at))).collect()
        };
        let (offered, mut completed, errors) = match has_bins {
            true => (rate(&timeline.offered), rate(&timeline.completed), rate(&timeline.errors)),
            false => (Vec::new(), rate(&result.throughput.timeline.completed), Vec::new()),
        };
        if has_bins {
            without_drain(result, bin_s, end_s, &mut completed);
        }
        let edges = (0..=bins).map(|at| at as f64 * bin_s).collect();
        let high = (bins as f64 * bin_s).max(1.0);
        let (ticks, _) = time_ticks(high);
        let axis = Axis {
            edges,
            low: 0.0,
            high,
            ticks: ticks.into_iter().map(|tick| (tick, scale::time(tick, high))).collect(),
            is_time: true,
            title: "time since the start",
        };
        let latency = percentiles(timeline, bins);
        let mut view = Self { result, axis, latency, offered, completed, errors, bands: Vec::new() };
        view.bands = view.all_bands();
        view
    }

    /// On the time axis of another, so that both can be compared.
    pub(super) fn on_axis_of(mut self, other: &View<'_>) -> Self {
        (self.axis.high, self.axis.ticks) = (other.axis.high, other.axis.ticks.clone());
        self
    }

    pub(super) fn bins(&self) -> usize {
        self.axis.edges.len().saturating_sub(1)
    }

    fn all_bands(&self) -> Vec<Band> {
        let mut bands = self.phases();
        let latest_s = self.axis.high * 0.999;
        let shown = self.result.events.iter().filter(|event| event.started_s <= self.axis.high);
        for event in shown.take(MOST_EVENTS) {
            let to_s = (event.started_s + event.seconds).clamp(0.0, self.axis.high);
            let text = format!("{} (from {} s on)", words(event), short(event.started_s));
            bands.push(Band { kind: lane(event.kind), from_s: event.started_s.clamp(0.0, latest_s), to_s, text });
        }
        bands
    }

    /// Warm-up and drain.
    pub(super) fn phases(&self) -> Vec<Band> {
        let mut bands = Vec::new();
        let (start_s, end_s) = (self.result.run.window_start_s, window_end_s(self.result));
        if start_s > 0.0 && start_s.is_finite() {
            let (from_s, to_s) = (0.0, start_s.min(self.axis.high));
            let text = format!("warm-up until {} s: not in the figures", short(start_s));
            bands.push(Band { kind: WARMUP, from_s, to_s, text });
        }
        if end_s < self.axis.high {
            let text = "after the window: requests in flight are waited for".to_owned();
            bands.push(Band { kind: AFTER, from_s: end_s.max(0.0), to_s: self.axis.high, text });
        }
        bands
    }

    /// A list of the timeline in the length of the axis.
    pub(super) fn list<T: Copy + Into<f64>>(&self, list: &[T]) -> Vec<Option<f64>> {
        (0..self.bins())
            .map(|at| list.get(at).map(|value| (*value).into()).filter(|value: &f64| value.is_finite()))
            .collect()
    }
}

/// What happened, and to which VM.
pub(super) fn words(event: &Event) -> String {
    let name = event.hostname.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
    format!("{name}{}", event.text)
}

/// The row of bands that an event belongs to.
fn lane(kind: EventKind) -> &'static str {
    match kind {
        EventKind::LostVm => "lost VM",
        EventKind::Restart => "restart",
        EventKind::Outage => OUTAGE,
        EventKind::FirstError | EventKind::LastError => "errors",
        EventKind::Stall => STALL,
        EventKind::Checkpoint => "checkpoint",
        EventKind::Autovacuum => "autovacuum",
        EventKind::NoStatistics => NO_STATISTICS,
    }
}

/// When the window closed, seconds after T0.
fn window_end_s(result: &RunResult) -> f64 {
    result.run.window_start_s + result.run.window_seconds
}

/// How much of a bin the schedule covers, seconds: the last one may end later than it.
fn covered_s(from_s: f64, bin_s: f64, end_s: f64) -> f64 {
    if end_s > from_s && end_s < from_s + bin_s { end_s - from_s } else { bin_s }
}

/// In the bin in which the window ends, only what was completed within the window counts: the backlog that drains must
/// not look like keeping up.
fn without_drain(result: &RunResult, bin_s: f64, end_s: f64, completed: &mut [Option<f64>]) {
    let within = &result.throughput.timeline;
    let last = (end_s / bin_s).floor();
    let from_s = last * bin_s;
    if !(end_s > from_s && within.bin_seconds > 0 && within.bin_seconds as f64 <= bin_s) {
        return;
    }
    if let Some(rate) = completed.get_mut(last as usize) {
        let skipped = (from_s / within.bin_seconds as f64) as usize;
        let count = within.completed.iter().skip(skipped).fold(0u64, |sum, count| sum.saturating_add(*count));
        *rate = Some(count as f64 / covered_s(from_s, bin_s, end_s));
    }
}

/// p50, p90, p99 and maximum of each bin, milliseconds. A histogram that cannot be read leaves a gap.
pub(super) fn percentiles(timeline: &Timeline, bins: usize) -> [Vec<Option<f64>>; 4] {
    let mut lists = [const { Vec::new() }; 4];
    for at in 0..bins {
        let durations = timeline.latency.get(at).and_then(|encoded| encoded.decode_digits(COARSE_DIGITS).ok());
        let known = durations.filter(|durations| !durations.histogram.is_empty());
        for (list, quantile) in lists.iter_mut().zip([0.5, 0.9, 0.99, 1.0]) {
            list.push(known.as_ref().map(|durations| quantile_ms(durations, quantile)));
        }
    }
    lists
}

/// The nearest rank among what was recorded, milliseconds.
pub(super) fn quantile_ms(durations: &Durations, quantile: f64) -> f64 {
    let histogram = &durations.histogram;
    histogram.value_at_quantile(quantile).min(histogram.max()) as f64 / 1_000.0
}

/// A value in milliseconds, or why there is none.
pub(super) fn bounded(figure: Option<crate::result::Bounded>) -> String {
    match figure {
        Some(crate::result::Bounded { value: Some(value), is_lower_bound }) => {
            format!("{}{}", if is_lower_bound { "> " } else { "" }, ms(value))
        }
        Some(crate::result::Bounded { is_lower_bound: true, .. }) => "no answer".to_owned(),
        _ => "–".to_owned(),
    }
}
