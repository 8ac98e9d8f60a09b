//! Sessions by wait event over time, from samples. Pure. Times are nanoseconds after T0.

use std::collections::VecDeque;

use super::stats::{WaitEvent, WaitTimeline};
use super::words;

/// Events with a row of their own; the rest is [`OTHER`].
const MOST_EVENTS: usize = 14;

/// With more bins than this, bins become twice as long, as those of the result's timeline do.
const MAX_BINS: usize = 200;

/// All events that have no row of their own.
const OTHER: &str = "other";

/// Samples that the live line tells of: a second of them.
const RECENT: usize = 5;

/// How many sessions were found in each event.
pub type Sample = Vec<(String, u64)>;

#[derive(Debug)]
pub struct Waits {
    bin_seconds: u64,
    names: Vec<String>,
    bins: Vec<Bin>,
    /// The measured window.
    window: Bin,
    recent: VecDeque<Sample>,
}

/// Sums of several samples.
#[derive(Clone, Debug, Default)]
struct Bin {
    samples: u64,
    /// Sessions by the position of their event in `names`; shorter where the last ones were never met.
    sessions: Vec<u64>,
}

impl Bin {
    fn add(&mut self, event: usize, sessions: u64) {
        if self.sessions.len() <= event {
            self.sessions.resize(event + 1, 0);
        }
        self.sessions[event] += sessions;
    }

    fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        other.sessions.iter().enumerate().for_each(|(event, sessions)| self.add(event, *sessions));
    }

    fn sum(&self, event: usize) -> u64 {
        self.sessions.get(event).copied().unwrap_or(0)
    }

    /// Average number of sessions in these events, to three decimals, so that the document stays small; 0 without a sample.
    fn average(&self, events: &[usize]) -> f64 {
        let sum: u64 = events.iter().map(|event| self.sum(*event)).sum();
        if self.samples == 0 { 0.0 } else { (sum as f64 * 1e3 / self.samples as f64).round() / 1e3 }
    }
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            bin_seconds: 1,
            names: Vec::new(),
            bins: Vec::new(),
            window: Bin::default(),
            recent: VecDeque::with_capacity(RECENT),
        }
    }
}

impl Waits {
    /// Takes what was found at one instant.
    pub fn add(&mut self, after_t0_ns: u64, is_in_window: bool, sample: Sample) {
        let mut found = Bin { samples: 1, sessions: Vec::new() };
        for (name, sessions) in &sample {
            let event = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
                self.names.push(name.clone());
                self.names.len() - 1
            });
            found.add(event, *sessions);
        }
        let second = after_t0_ns / 1_000_000_000;
        while (second / self.bin_seconds) as usize >= MAX_BINS {
            self.double();
        }
        let bin = (second / self.bin_seconds) as usize;
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, Bin::default());
        }
        self.bins[bin].merge(&found);
        if is_in_window {
            self.window.merge(&found);
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(sample);
    }

    fn double(&mut self) {
        self.bin_seconds *= 2;
        let pairs = self.bins.chunks(2).map(|pair| {
            pair.iter().fold(Bin::default(), |mut sum, bin| {
                sum.merge(bin);
                sum
            })
        });
        self.bins = pairs.collect();
    }

    /// What is not known any more is not shown.
    pub fn forget_recent(&mut self) {
        self.recent.clear();
    }

    /// What most sessions of the load waited for in the newest second, for the live line.
    pub fn live(&self) -> Option<String> {
        let ours = self.recent.iter().flatten().filter(|(event, _)| event != words::OTHER_APPLICATIONS);
        words::top(ours.map(|(event, sessions)| (event.as_str(), *sessions)))
    }

    pub fn window_samples(&self) -> u64 {
        self.window.samples
    }

    pub fn timeline(&self) -> WaitTimeline {
        let in_all = |event: usize| self.bins.iter().map(|bin| bin.sum(event)).sum::<u64>();
        let mut events: Vec<usize> = (0..self.names.len()).collect();
        events.sort_by_key(|event| std::cmp::Reverse((self.window.sum(*event), in_all(*event))));
        // Other applications are never hidden among rare events of the load.
        let others = events.iter().position(|event| self.names[*event] == words::OTHER_APPLICATIONS);
        if let Some(others) = others.filter(|others| *others >= MOST_EVENTS) {
            let others = events.remove(others);
            events.insert(MOST_EVENTS - 1, others);
        }
        let (own, rest) = events.split_at(events.len().min(MOST_EVENTS));
        let row = |name: &str, events: &[usize]| WaitEvent {
            event: name.to_owned(),
            sessions: self.window.average(events),
            by_bin: self.bins.iter().map(|bin| bin.average(events)).collect(),
        };
        let mut rows: Vec<WaitEvent> = own.iter().map(|event| row(&self.names[*event], &[*event])).collect();
        if !rest.is_empty() {
            rows.push(row(OTHER, rest));
        }
        WaitTimeline {
            bin_seconds: self.bin_seconds,
            samples: self.bins.iter().map(|bin| bin.samples).collect(),
            window_samples: self.window.samples,
            events: rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::bins::Bins;

    const SECOND_NS: u64 = 1_000_000_000;

    fn sample(events: &[(&str, u64)]) -> Sample {
        events.iter().map(|(name, sessions)| ((*name).to_owned(), *sessions)).collect()
    }

    #[test]
    fn averages_are_over_the_samples_of_bin_and_window() {
        let mut waits = Waits::default();
        waits.add(0, false, sample(&[("CPU", 8)]));
        waits.add(SECOND_NS, true, sample(&[("CPU", 1), ("Lock:tuple", 4)]));
        waits.add(SECOND_NS + 200_000_000, true, sample(&[("Lock:tuple", 2)]));
        // Second 2 is a gap.
        waits.add(3 * SECOND_NS, true, sample(&[]));
        let timeline = waits.timeline();
        assert_eq!((timeline.bin_seconds, timeline.window_samples), (1, 3));
        assert_eq!(timeline.samples, [1, 2, 0, 1]);
        let [lock, cpu] = &timeline.events[..] else { panic!("{timeline:?}") };
        assert_eq!((lock.event.as_str(), lock.sessions), ("Lock:tuple", 2.0));
        assert_eq!(lock.by_bin, [0.0, 3.0, 0.0, 0.0]);
        assert_eq!(cpu.by_bin, [8.0, 0.5, 0.0, 0.0]);
        assert_eq!(waits.live().as_deref(), Some("CPU 60%"));
        waits.forget_recent();
        assert_eq!(waits.live(), None);
    }

    #[test]
    fn bins_become_twice_as_long_and_keep_their_sums() {
        let mut waits = Waits::default();
        for second in 0..450 {
            waits.add(second * SECOND_NS, true, sample(&[("CPU", second % 2)]));
        }
        let timeline = waits.timeline();
        assert_eq!((timeline.bin_seconds, timeline.samples.len()), (4, 113));
        assert_eq!(timeline.samples.iter().sum::<u64>(), 450);
        assert_eq!(timeline.events[0].by_bin[7], 0.5);
        assert_eq!(timeline.events[0].sessions, 0.5);
        // A long gap.
        waits.add(100_000 * SECOND_NS, true, sample(&[]));
        let timeline = waits.timeline();
        assert!(timeline.samples.len() <= MAX_BINS, "{}", timeline.samples.len());
        assert_eq!(timeline.samples.iter().sum::<u64>(), 451);
    }

    #[test]
    fn bins_are_those_of_the_timeline() {
        assert_eq!(MAX_BINS as u64, Bins::MAX_BINS);
    }

    #[test]
    fn rare_events_are_one() {
        let mut waits = Waits::default();
        let all: Sample = (0..20).map(|event| (format!("LWLock:{event}"), 100 - event)).collect();
        waits.add(0, true, all);
        let timeline = waits.timeline();
        assert_eq!(timeline.events.len(), 15);
        assert_eq!(timeline.events[0].event, "LWLock:0");
        let other = timeline.events.last().unwrap();
        assert_eq!((other.event.as_str(), other.sessions), ("other", (81..=86).sum::<u64>() as f64));
    }

    #[test]
    fn other_applications_keep_their_row_and_are_not_in_the_live_word() {
        let mut waits = Waits::default();
        let mut all: Sample = (0..20).map(|event| (format!("LWLock:{event}"), 100 - event)).collect();
        all.push((words::OTHER_APPLICATIONS.to_owned(), 1));
        waits.add(0, true, all);
        let timeline = waits.timeline();
        assert_eq!(timeline.events.len(), 15);
        assert_eq!((timeline.events[13].event.as_str(), timeline.events[13].sessions), ("other applications", 1.0));
        assert_eq!(timeline.events[14].sessions, (81..=87).sum::<u64>() as f64);
        let mut waits = Waits::default();
        waits.add(0, true, sample(&[(words::OTHER_APPLICATIONS, 9)]));
        assert_eq!(waits.live(), None);
        waits.add(1, true, sample(&[(words::OTHER_APPLICATIONS, 9), ("CPU", 1)]));
        assert_eq!(waits.live().as_deref(), Some("CPU 100%"));
    }
}
