//! What the readings of a container have told so far: its present, and the measured window.
//!
//! Reads the clock, but knows neither engine nor tasks: it is told what arrives.

use std::time::{Duration, Instant};

use super::usage::{ContainerSample, ContainerUsage, Reading, Step, Tally};

/// A sample older than this is no longer the present: an engine sends one a second.
const STALE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Follower {
    previous: Option<Reading>,
    /// Whether `previous` was taken within the window, so that what follows lies wholly in it.
    previous_in_window: bool,
    latest: Option<(Instant, ContainerSample)>,
    window: Tally,
    heard_at: Instant,
    /// Readings in the window that found the container stopped, or started anew.
    interruptions: u64,
    ended: Option<String>,
}

impl Follower {
    pub(super) fn starting_with(first: Reading) -> Self {
        Self {
            previous: Some(first),
            previous_in_window: true,
            latest: None,
            window: Tally::default(),
            heard_at: Instant::now(),
            interruptions: 0,
            ended: None,
        }
    }

    pub(super) fn begin_window(&mut self) {
        self.previous_in_window = false;
        self.window = Tally::default();
        self.interruptions = 0;
    }

    /// Takes the next reading; `None` for an empty one.
    pub(super) fn take(&mut self, reading: Option<Reading>) {
        self.heard_at = Instant::now();
        match (&self.previous, &reading) {
            (Some(earlier), Some(later)) => match Step::between(earlier, later) {
                Step::Sample(sample, length_ns) => {
                    self.latest = Some((self.heard_at, sample));
                    if self.previous_in_window {
                        self.window.add(sample, length_ns);
                    }
                }
                Step::Nothing => {}
                Step::Restarted => self.interruptions += 1,
            },
            (_, None) => {
                self.latest = None;
                self.interruptions += 1;
            }
            (None, Some(_)) => {}
        }
        self.previous = reading;
        self.previous_in_window = true;
    }

    /// No more readings will come.
    pub(super) fn end(&mut self, reason: String) {
        self.ended = Some(reason);
    }

    pub(super) fn latest(&self) -> Option<ContainerSample> {
        self.latest.filter(|(at, _)| at.elapsed() < STALE).map(|(_, sample)| sample)
    }

    pub(super) fn usage(&self, name: &str) -> ContainerUsage {
        self.window.usage(name.to_owned(), self.warning(name))
    }

    /// The first that applies, since it explains those after it.
    fn warning(&self, name: &str) -> Option<String> {
        let silence = self.heard_at.elapsed();
        if let Some(reason) = &self.ended {
            Some(format!(
                "the statistics of container {name} ended during the run ({reason}); its figures cover the part before"
            ))
        } else if self.interruptions > 0 {
            Some(format!(
                "container {name} stopped or restarted during the run; its figures cover only the time it ran"
            ))
        } else if silence >= STALE {
            let silence_s = silence.as_secs();
            Some(format!(
                "the Docker engine sent no statistics of container {name} for the last {silence_s} s; its figures cover the part before"
            ))
        } else if self.window.samples() == 0 {
            Some(format!(
                "the run was too short for a sample of container {name}: the engine takes a reading a second, and a sample needs two"
            ))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One core of two is busy; `k` nanoseconds of CPU time since the container started.
    fn reading(k: u64) -> Option<Reading> {
        let json = format!(
            r#"{{"cpu_stats":{{"cpu_usage":{{"total_usage":{k}}},"system_cpu_usage":{},"online_cpus":2}},"memory_stats":{{"usage":1}}}}"#,
            2 * k + 1000
        );
        Reading::from_stats(&serde_json::from_str(&json).unwrap())
    }

    fn fed(readings: impl IntoIterator<Item = Option<Reading>>) -> Follower {
        let mut follower = Follower::starting_with(reading(1).unwrap());
        readings.into_iter().for_each(|reading| follower.take(reading));
        follower
    }

    #[test]
    fn a_window_counts_only_samples_that_lie_wholly_in_it() {
        let mut follower = fed([reading(2), reading(3)]);
        assert_eq!(follower.usage("db").samples, 2); // 1–2, 2–3
        follower.begin_window();
        assert_eq!(follower.usage("db").samples, 0);
        follower.take(reading(4)); // 3–4 began before the window
        assert_eq!(follower.usage("db").samples, 0);
        assert!(follower.latest().is_some(), "the progress line does not wait for the window");
        assert!(follower.usage("db").warning.unwrap().contains("too short"));
        follower.take(reading(5));
        assert_eq!(follower.usage("db").samples, 1);
        assert_eq!(follower.usage("db").warning, None);
    }

    #[test]
    fn interruptions_are_warned_of_and_leave_no_false_sample() {
        let table = [
            ("stopped", vec![reading(2), None, None], 1),
            ("stopped and started", vec![reading(2), None, reading(1), reading(2)], 2), // 1–2, and 1–2 after it
            ("restarted between readings", vec![reading(5), reading(1), reading(2)], 2), // 1–5, and 1–2 after it
        ];
        for (what, readings, samples) in table {
            let usage = fed(readings).usage("db");
            assert_eq!((usage.samples, usage.cpu_percent_max), (samples, Some(100.0)), "{what}");
            assert!(usage.warning.unwrap().contains("stopped or restarted"), "{what}");
        }
    }

    #[test]
    fn an_interruption_before_the_window_is_none_of_the_run() {
        let mut follower = fed([None, reading(1)]);
        follower.begin_window();
        follower.take(reading(2));
        follower.take(reading(3));
        assert_eq!(follower.usage("db").warning, None);
    }
}
