//! The statistics that one VM asked the server for, on the time axis of the whole test. Pure.

use super::Part;
use super::rates::{CommonTime, later_seconds, t0_ns};
use crate::measure::bins::Bins;
use crate::monitor::server::{ServerStats, WaitTimeline};
use crate::result::Timeline;

/// Those of the first VM that has any: one VM asks for all. Its times count from its own T0, and those of the result from
/// the first T0 of all.
pub(super) fn server_stats(parts: &[Part], time: &CommonTime, timeline: &Timeline) -> Option<ServerStats> {
    let part = parts.iter().find(|part| part.result.findings.server_stats.is_some())?;
    let mut stats = part.result.findings.server_stats.clone()?;
    let later_s = (t0_ns(part) - time.t0_ns) as f64 / 1e9;
    stats.events.iter_mut().for_each(|event| event.started_s += later_s);
    stats.gaps.iter_mut().for_each(|gap| gap.started_s += later_s);
    stats.waits = shifted(&stats.waits, later_seconds(part, time), timeline.bin_seconds);
    Some(stats)
}

/// The same some seconds later, in bins of the merged timeline where these are longer. A bin that does not fit is put where
/// it begins, as in [`Timeline::sum`]; averages count by their samples.
fn shifted(waits: &WaitTimeline, later_s: u64, bin_seconds: u64) -> WaitTimeline {
    if waits.bin_seconds == 0 || (later_s < waits.bin_seconds && bin_seconds <= waits.bin_seconds) {
        return waits.clone();
    }
    let bin_seconds = bin_seconds.max(waits.bin_seconds);
    let place = |at: usize| {
        let begins_s = waits.bin_seconds.saturating_mul(at as u64).saturating_add(later_s);
        Some((begins_s / bin_seconds) as usize).filter(|to| (*to as u64) < Bins::MAX_BINS)
    };
    let bins = (0..waits.samples.len()).filter_map(place).max().map_or(0, |last| last + 1);
    let mut samples = vec![0u64; bins];
    for (at, count) in waits.samples.iter().enumerate() {
        if let Some(to) = place(at) {
            samples[to] = samples[to].saturating_add(*count);
        }
    }
    let mut events = waits.events.clone();
    for event in &mut events {
        let mut sums = vec![0.0; bins];
        for (at, (sessions, count)) in event.by_bin.iter().zip(&waits.samples).enumerate() {
            if let Some(to) = place(at) {
                sums[to] += sessions * *count as f64;
            }
        }
        event.by_bin = sums.iter().zip(&samples).map(|(sum, count)| sum / (*count).max(1) as f64).collect();
    }
    WaitTimeline { bin_seconds, samples, window_samples: waits.window_samples, events }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::server::WaitEvent;

    fn waits() -> WaitTimeline {
        let event = WaitEvent { event: "CPU".to_owned(), sessions: 2.0, by_bin: vec![1.0, 0.0, 3.0] };
        WaitTimeline { bin_seconds: 2, samples: vec![10, 0, 5], window_samples: 15, events: vec![event] }
    }

    #[test]
    fn bins_move_by_whole_bins_and_become_as_long_as_those_of_the_merge() {
        assert_eq!(shifted(&waits(), 1, 2), waits());
        let later = shifted(&waits(), 4, 2);
        assert_eq!((later.bin_seconds, later.samples), (2, vec![0, 0, 10, 0, 5]));
        assert_eq!(later.events[0].by_bin, [0.0, 0.0, 1.0, 0.0, 3.0]);
        // The first two and the third; then by their samples.
        let longer = shifted(&waits(), 0, 4);
        assert_eq!(
            (longer.bin_seconds, longer.samples, longer.events[0].by_bin.clone()),
            (4, vec![10, 5], vec![1.0, 3.0])
        );
        let moved = shifted(&waits(), 4, 8);
        assert_eq!((moved.samples, moved.events[0].by_bin.clone()), (vec![10, 5], vec![1.0, 3.0]));
        let all = shifted(&waits(), 0, 8);
        assert_eq!((all.samples, all.events[0].by_bin.clone()), (vec![15], vec![25.0 / 15.0]));
    }

    #[test]
    fn documents_with_wild_times_take_no_space() {
        let wild = WaitTimeline { bin_seconds: u64::MAX / 2, samples: vec![1; 1_000], ..waits() };
        assert!(shifted(&wild, u64::MAX, 1).samples.len() <= 200);
        assert!(shifted(&waits(), u64::MAX, 1).samples.is_empty());
    }
}
