//! Slots whose outcome nobody reported: those of lost VMs after their last report, and those of shares
//! without a result. Pure.

use std::ops::Range;

use super::Part;
use crate::measure::counters::MAX_COUNT;
use crate::result::Config;
use crate::schedule::{Arrival, Pace, Rate, Schedule, Share};

/// Slots that nobody reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unreported {
    /// Of each part; zero where it was not lost.
    pub by_part: Vec<u64>,
    /// Of the shares that no part ran.
    pub absent: u64,
}

impl Unreported {
    /// `parts` are checked, sorted by share, and of one test. `window_ns` is the measured window of the whole test, as
    /// [`test_window`] gives it. A closed loop has no slots that could go unreported.
    pub fn of(parts: &[Part], window_ns: &Range<u64>) -> Self {
        let first = parts.first().map(|part| &part.result);
        let Some((first, whole)) = first.and_then(|first| Some((first, schedule(&first.config)?))) else {
            return Self { by_part: vec![0; parts.len()], absent: 0 };
        };
        let planned = |share| planned(&Schedule { share, ..whole }, window_ns);
        let by_part = parts.iter().map(|part| match part.lost {
            Some(_) => planned(part.result.run.share).saturating_sub(part.result.accounting.scheduled),
            None => 0,
        });
        Self { by_part: by_part.collect(), absent: absent_slots(parts, first.run.share.of, planned) }
    }

    pub fn total(&self) -> u64 {
        self.by_part.iter().sum::<u64>().saturating_add(self.absent)
    }
}

/// Counts the slots of the shares that no part ran. There may be very many shares, so the smaller side is counted.
fn absent_slots(parts: &[Part], shares: u64, planned: impl Fn(Share) -> u64) -> u64 {
    let mut present = parts.iter().map(|part| part.result.run.share.index).peekable();
    if shares - parts.len() as u64 > parts.len() as u64 {
        let ran: u64 = present.map(|index| planned(Share { index, of: shares })).sum();
        return planned(Share::WHOLE).saturating_sub(ran);
    }
    let absent = (0..shares).filter(|index| present.next_if_eq(index).is_none());
    absent.map(|index| planned(Share { index, of: shares })).sum()
}

/// The measured window of the whole test, nanoseconds after T0: until the last VM that was not lost closed its own. Where
/// all were lost it ends `closed_ns` after T0 if the test was stopped then, or else as planned.
pub(super) fn test_window(parts: &[Part], closed_ns: Option<u64>) -> Range<u64> {
    let ns = |seconds: f64| (seconds * 1e9).round() as u64;
    let Some(first) = parts.first() else { return 0..0 };
    let config = &first.result.config;
    let start = ns(config.warmup_seconds);
    let planned_end = start.saturating_add(ns(config.duration_seconds));
    let end = |part: &Part| ns(part.result.run.window_start_s).saturating_add(ns(part.result.run.window_seconds));
    let last = parts.iter().filter(|part| part.lost.is_none()).map(end).max();
    let end = last.unwrap_or_else(|| {
        let closed = closed_ns.map_or(planned_end, |closed| closed.min(planned_end));
        parts.iter().map(end).max().unwrap_or_default().max(closed)
    });
    start.min(end)..end
}

/// The whole schedule that the options ask for; `None` where there is none, or more than can be.
fn schedule(config: &Config) -> Option<Schedule> {
    let ns = |seconds: f64| (seconds * 1e9).round() as u64;
    let target_rps = config.target_rps?;
    // Rates have six decimals, so this is the rate that was asked for.
    let rate = Rate::parse(&format!("{target_rps:.6}")).ok()?;
    if target_rps * (config.warmup_seconds + config.duration_seconds) > MAX_COUNT as f64 {
        return None;
    }
    let arrival = config.arrival.unwrap_or(Arrival::Constant);
    Some(Schedule {
        pace: Pace::Open { rate, arrival },
        share: Share::WHOLE,
        seed: config.seed,
        warmup_ns: ns(config.warmup_seconds),
        duration_ns: ns(config.duration_seconds),
    })
}

/// Slots of a share that are due in a window.
fn planned(schedule: &Schedule, window_ns: &Range<u64>) -> u64 {
    let until = schedule.scheduled_before(window_ns.end);
    until.zip(schedule.scheduled_before(window_ns.start)).map_or(0, |(until, before)| until.saturating_sub(before))
}
