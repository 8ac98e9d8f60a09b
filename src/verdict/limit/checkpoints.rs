//! Whether latency rose while checkpoints ran. Pure.

use super::{found, remedies, window_bins};
use crate::measure::durations::{COARSE_DIGITS, Durations};
use crate::monitor::server::{ServerEventKind, ServerStats};
use crate::result::{Limit, LimitKind, RunResult};

/// Bins with a checkpoint, and without one, that a comparison needs of each …
const LEAST_BINS: usize = 2;
/// … and requests.
const LEAST_REQUESTS: u64 = 100;
/// The p99 with a checkpoint is so many times that without one …
const P99_TIMES: f64 = 2.0;
/// … and the mean so many times, so that a few slow requests prove nothing.
const MEAN_TIMES: f64 = 1.2;
/// More checkpoints than one in so many seconds are permanent: there is hardly a bin without one.
const PERMANENT_S: f64 = 10.0;
/// Whole pages are this part of the log's bytes, percent, where checkpoints are what makes it long.
const IMAGES_PCT: f64 = 50.0;
const PAGE_BYTES: f64 = 8_192.0;

/// Spikes: latency with a checkpoint against that without one.
pub(super) fn spikes(result: &RunResult, stats: &ServerStats) -> Option<Limit> {
    let seconds = result.timeline.bin_seconds.max(1) as f64;
    let events: Vec<_> = stats.events.iter().filter(|event| event.kind == ServerEventKind::Checkpoint).collect();
    let has_one = |bin: usize| {
        let (start_s, end_s) = (bin as f64 * seconds, (bin + 1) as f64 * seconds);
        events.iter().any(|event| event.started_s < end_s && event.started_s + event.seconds >= start_s)
    };
    let empty = || (0, Durations::with_digits(COARSE_DIGITS));
    let (mut with, mut without) = (empty(), empty());
    for bin in window_bins(result) {
        let latency = result.timeline.latency.get(bin)?.decode_digits(COARSE_DIGITS).ok()?;
        let (bins, sum) = if has_one(bin) { &mut with } else { &mut without };
        *bins += 1;
        sum.add(&latency);
    }
    let is_sample = |(bins, sum): &(usize, Durations)| *bins >= LEAST_BINS && sum.count() >= LEAST_REQUESTS;
    if !is_sample(&with) || !is_sample(&without) {
        return None;
    }
    let p99_ms = |sum: &Durations| sum.histogram.value_at_quantile(0.99) as f64 / 1_000.0;
    let mean_ms = |sum: &Durations| sum.histogram.mean() / 1_000.0;
    let ([with_ms, without_ms], [with_mean_ms, without_mean_ms]) =
        ([&with.1, &without.1].map(p99_ms), [&with.1, &without.1].map(mean_ms));
    if with_ms < P99_TIMES * without_ms || with_mean_ms < MEAN_TIMES * without_mean_ms {
        return None;
    }
    let share_pct = with.0 as f64 / (with.0 + without.0) as f64 * 100.0;
    let sentence = format!("Checkpoints: the p99 was {with_ms:.1} ms while one ran, and {without_ms:.1} ms otherwise");
    let evidence = vec![
        format!("A checkpoint ran in {} of {} bins of the timeline ({share_pct:.0}%).", with.0, with.0 + without.0),
        format!("The mean latency was {with_mean_ms:.1} ms while one ran, and {without_mean_ms:.1} ms otherwise."),
    ];
    Some(found(
        LimitKind::Checkpoints,
        Some(share_pct),
        sentence,
        evidence,
        remedies::of(LimitKind::Checkpoints, result),
    ))
}

/// Checkpoints so frequent that most of the log are whole pages, which is what sessions then wait for.
pub(super) fn permanent(result: &RunResult, stats: &ServerStats) -> Option<Limit> {
    let (checkpoints, wal) = (stats.checkpoints.as_ref()?, stats.wal.as_ref()?);
    let count = checkpoints.timed + checkpoints.requested;
    let images_pct = wal.full_page_images? as f64 * PAGE_BYTES / wal.bytes.max(1) as f64 * 100.0;
    let is_frequent = checkpoints.requested >= 3 && checkpoints.requested as f64 * PERMANENT_S >= stats.seconds;
    let is_long = images_pct >= IMAGES_PCT;
    let is_writing = checkpoints.write_ms + checkpoints.sync_ms >= 500.0 * stats.seconds;
    if !is_frequent || !(is_long || is_writing) {
        return None;
    }
    let every_s = stats.seconds / count as f64;
    let sentence = format!("Checkpoints: one every {every_s:.1} s, because the log reached max_wal_size");
    let busy_pct = (checkpoints.write_ms + checkpoints.sync_ms) / (stats.seconds * 1_000.0).max(1.0) * 100.0;
    let evidence = vec![
        format!("{count} checkpoints in {:.0} s, {} of them requested.", stats.seconds, checkpoints.requested),
        format!(
            "They were writing for {:.0}% of the time, and whole pages are {:.0}% of the log.",
            busy_pct.min(100.0),
            images_pct.min(100.0)
        ),
    ];
    let share_pct = if is_long { images_pct } else { busy_pct };
    Some(found(
        LimitKind::Checkpoints,
        Some(share_pct),
        sentence,
        evidence,
        remedies::of(LimitKind::Checkpoints, result),
    ))
}
