//! Rates of several VMs over the time in which all of them were measuring. Pure.
//!
//! Windows lie on the wall clock: T0 of each VM, corrected by what its clock was found to be off, plus the window's
//! start. Integer nanoseconds.

use std::ops::Range;

use super::unreported::Unreported;
use super::{MergeError, Part};
use crate::measure::timeline::Timeline;

/// Windows whose edges differ by less are one window.
const ALIKE_NS: i128 = 50_000_000;
const SECOND_NS: i128 = 1_000_000_000;

/// When the VMs were measuring together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CommonTime {
    /// T0 of the first VM, nanoseconds since 1970.
    pub t0_ns: i128,
    /// Its beginning and end, nanoseconds since 1970.
    pub span: Span,
    /// Length of it, seconds.
    pub seconds: f64,
    /// The longest window of a single VM, seconds.
    pub longest_seconds: f64,
    /// Whether every VM's window is this one; VMs that measured nothing do not count.
    pub is_every_window: bool,
    /// The measured window of the whole test, nanoseconds after T0.
    pub test_ns: Range<u64>,
}

/// A part of the wall clock's time, nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start: i128,
    pub end: i128,
}

impl Span {
    fn seconds(self) -> f64 {
        (self.end - self.start) as f64 / 1e9
    }

    /// How much of it lies within the other.
    fn shared(self, other: Self) -> i128 {
        (self.end.min(other.end) - self.start.max(other.start)).max(0)
    }
}

/// T0, nanoseconds since 1970, as the clock would have told that all VMs are compared with.
pub(super) fn t0_ns(part: &Part) -> i128 {
    let offset_ns = part.clock.map_or(0.0, |clock| clock.offset_ms * 1e6).round() as i128;
    i128::from(part.result.run.started_unix_ns) - offset_ns
}

/// When a VM was to measure: a lost one as long as the test went on, and any other one until it closed its window.
fn window(part: &Part, test_ns: &Range<u64>) -> Span {
    if part.lost.is_some() {
        let t0_ns = t0_ns(part);
        return Span { start: t0_ns + i128::from(test_ns.start), end: t0_ns + i128::from(test_ns.end) };
    }
    let ns = |seconds: f64| (seconds * 1e9).round() as i128;
    let start = t0_ns(part) + ns(part.result.run.window_start_s);
    Span { start, end: start + ns(part.result.run.window_seconds) }
}

/// The time that all windows have in common. A VM that was stopped before its window opened has none, and is left
/// out.
pub(super) fn common_time(parts: &[Part], test_ns: Range<u64>) -> Result<CommonTime, MergeError> {
    let window = |part: &Part| window(part, &test_ns);
    let t0 = parts.iter().map(t0_ns).min().ok_or(MergeError::Nothing)?;
    let measuring: Vec<&Part> = parts.iter().filter(|part| window(part).seconds() > 0.0).collect();
    let edge = |edge: fn(Span) -> i128| measuring.iter().map(|part| edge(window(part))).collect::<Vec<_>>();
    let (Some(first_start), Some(last_start)) =
        (edge(|w| w.start).into_iter().min(), edge(|w| w.start).into_iter().max())
    else {
        let start = parts.iter().map(|part| window(part).start).min().unwrap_or(t0);
        let span = Span { start, end: start };
        return Ok(CommonTime { t0_ns: t0, span, seconds: 0.0, longest_seconds: 0.0, is_every_window: true, test_ns });
    };
    let ends = edge(|w| w.end);
    let (first_end, last_end) = (*ends.iter().min().unwrap_or(&t0), *ends.iter().max().unwrap_or(&t0));
    let longest_seconds = measuring.iter().map(|part| window(part).seconds()).fold(0.0, f64::max);
    if last_start - first_start <= ALIKE_NS && last_end - first_end <= ALIKE_NS {
        let span = Span { start: first_start, end: last_end };
        let seconds = longest_seconds;
        return Ok(CommonTime { t0_ns: t0, span, seconds, longest_seconds, is_every_window: true, test_ns });
    }
    if last_start >= first_end {
        let named = |at: fn(Span) -> i128, ns: i128| {
            let part = measuring.iter().find(|part| at(window(part)) == ns);
            part.map(|part| part.label()).unwrap_or_default()
        };
        let hosts = [named(|w| w.end, first_end), named(|w| w.start, last_start)];
        return Err(MergeError::NoCommonTime { hosts, apart_s: (last_start - first_end) as f64 / 1e9 });
    }
    let span = Span { start: last_start, end: first_end };
    Ok(CommonTime { t0_ns: t0, span, seconds: span.seconds(), longest_seconds, is_every_window: false, test_ns })
}

/// Requests per second that were ok and completed, and that were due, of all VMs.
pub(super) fn rates(parts: &[Part], time: &CommonTime, unreported: &Unreported) -> (f64, Option<f64>) {
    let per_second = |count: f64, seconds: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
    let is_open = parts.iter().all(|part| part.result.throughput.offered_rps.is_some());
    if time.is_every_window {
        let sum = |count: fn(&Part) -> u64| parts.iter().map(count).sum::<u64>();
        let scheduled = sum(|part| part.result.accounting.scheduled).saturating_add(unreported.total());
        let offered = is_open.then(|| per_second(scheduled as f64, time.seconds));
        let completed = sum(|part| part.result.throughput.completed_in_window);
        return (per_second(completed as f64, time.seconds), offered);
    }
    let completed: f64 = parts.iter().map(|part| completed_within(part, time)).sum();
    let scheduled = parts.iter().zip(&unreported.by_part).map(|(part, lost)| {
        per_second((part.result.accounting.scheduled + lost) as f64, window(part, &time.test_ns).seconds())
    });
    let test_seconds = (time.test_ns.end - time.test_ns.start) as f64 / 1e9;
    let offered = scheduled.sum::<f64>() + per_second(unreported.absent as f64, test_seconds);
    (per_second(completed, time.seconds), is_open.then_some(offered))
}

/// Requests of one VM that were completed within the common time.
///
/// Whole bins of its timeline count whole. One that is cut counts for the part of it that was both in the VM's
/// window and in the span, as if its requests had been spread evenly.
fn completed_within(part: &Part, time: &CommonTime) -> f64 {
    let (window, timeline) = (window(part, &time.test_ns), &part.result.throughput.timeline);
    let length = i128::from(timeline.bin_seconds) * SECOND_NS;
    let bin = |index: i128| {
        let start = t0_ns(part) + index * length;
        Span { start, end: start + length }
    };
    // A request is in the bin in which it was written down, which may come just after the window has closed.
    let index_at = |ns: i128| (ns - t0_ns(part)).div_euclid(length);
    let (first, last) = (index_at(window.start), index_at(window.end - 1));
    let counted = timeline.completed.iter().enumerate().filter(|(_, completed)| **completed > 0);
    counted
        .map(|(index, completed)| {
            let bin = bin((index as i128).clamp(first, last.max(first)));
            let own = Span { start: bin.start.max(window.start), end: bin.end.min(window.end) };
            let own_ns = own.end - own.start;
            if own_ns > 0 { *completed as f64 * own.shared(time.span) as f64 / own_ns as f64 } else { 0.0 }
        })
        .sum()
}

/// By how many whole seconds a VM's T0 came later than that of the test.
pub(super) fn later_seconds(part: &Part, time: &CommonTime) -> u64 {
    u64::try_from((t0_ns(part) - time.t0_ns + SECOND_NS / 2) / SECOND_NS).unwrap_or_default()
}

/// All timelines in one, from the earliest T0 on: shifted by whole seconds, in bins as long as the longest ones.
pub(super) fn timeline(parts: &[Part], time: &CommonTime) -> Timeline {
    let bin_seconds = parts.iter().map(|part| part.result.throughput.timeline.bin_seconds).max().unwrap_or(1);
    let mut sum = Timeline { bin_seconds, completed: Vec::new() };
    for part in parts {
        let shift = later_seconds(part, time);
        let timeline = &part.result.throughput.timeline;
        for (index, completed) in timeline.completed.iter().enumerate().filter(|(_, completed)| **completed > 0) {
            sum.add(shift.saturating_add(index as u64 * timeline.bin_seconds), *completed);
        }
    }
    sum
}
