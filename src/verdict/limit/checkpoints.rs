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
/// Full-page images are this part of the log's bytes, percent, where checkpoints are what makes it long.
const IMAGES_PCT: f64 = 50.0;
/// Checkpoints that write for this part of the time hold others up, percent.
const WRITING_PCT: f64 = 50.0;
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

/// Checkpoints so frequent that most of the log are full-page images, or that they always write.
pub(super) fn permanent(result: &RunResult, stats: &ServerStats) -> Option<Limit> {
    let (checkpoints, wal) = (stats.checkpoints.as_ref()?, stats.wal.as_ref()?);
    let (count, seconds) = (checkpoints.timed + checkpoints.requested, stats.seconds.max(1.0));
    // Compressed images have any length.
    let is_plain = stats.settings.get("wal_compression").is_none_or(|value| value == "off");
    let images = wal.full_page_images.filter(|_| is_plain);
    let images_pct = images.map(|images| (images as f64 * PAGE_BYTES / wal.bytes.max(1) as f64 * 100.0).min(100.0));
    let writing_pct = ((checkpoints.write_ms + checkpoints.sync_ms) / (seconds * 10.0)).min(100.0);
    let is_frequent = checkpoints.requested >= 3 && checkpoints.requested as f64 * PERMANENT_S >= stats.seconds;
    let long_pct = images_pct.filter(|pct| *pct >= IMAGES_PCT);
    let share_pct = long_pct.or(Some(writing_pct).filter(|pct| *pct >= WRITING_PCT)).filter(|_| is_frequent)?;
    let each = wal.bytes / count.max(1);
    // The server asks for one before the log is as long as that: it leaves room for what is written meanwhile.
    let is_full = stats.settings.get("max_wal_size").and_then(|size| bytes(size)).is_some_and(|most| each >= most / 5);
    let every_s = seconds / count as f64;
    let (why, remedies) = if is_full {
        ("because the log reached max_wal_size", remedies::of(LimitKind::Checkpoints, result))
    } else {
        ("which somebody asked for", vec!["Find who asks for checkpoints: CHECKPOINT, or a base backup.".to_owned()])
    };
    let sentence = format!("Checkpoints: one every {every_s:.1} s, {why}");
    let mut evidence = vec![
        format!("{count} checkpoints in {:.0} s, {} of them requested.", stats.seconds, checkpoints.requested),
        format!("They were writing for {writing_pct:.0}% of the time."),
    ];
    evidence.extend(images_pct.map(|pct| format!("Full-page images are about {pct:.0}% of the log.")));
    Some(found(LimitKind::Checkpoints, Some(share_pct), sentence, evidence, remedies))
}

/// A size as the server shows it, such as `1GB`.
fn bytes(size: &str) -> Option<u64> {
    let digits = size.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &size[digits.len()..] {
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}
