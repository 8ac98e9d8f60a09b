//! Outages: times in which the database acknowledged nothing although it was asked. Pure.
//!
//! Each thread notes when in a second it was answered ([`Pulse`]); the sum of all threads, second by second, tells where
//! no answer came ([`Outages`]). All times are nanoseconds after T0.

use serde::{Deserialize, Serialize};

/// Shorter gaps are no outages, nanoseconds.
const LEAST_NS: u64 = 1_000_000_000;

/// A gap without any error is an outage only where it is so many times as long as answers usually are apart.
const TIMES_THE_USUAL: u64 = 10;

/// More outages than this are only counted.
const MAX_OUTAGES: usize = 100;

/// A time of at least a second without an acknowledged request, with errors or in which requests had to wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    /// The VM that saw it, where there are several and only one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// How many VMs saw it, where results were merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vms: Option<u64>,
    /// When the last request before it was acknowledged, seconds after T0.
    pub started_s: f64,
    /// When its first error came, seconds after T0; `null` where there was none.
    pub first_error_s: Option<f64>,
    /// When the next request was acknowledged, seconds after T0; `null` where none was.
    pub recovered_s: Option<f64>,
    /// How long it was, to its recovery or to the end of the run.
    pub seconds: f64,
}

/// When a thread, or all together, was answered within a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// The first acknowledgement, and when its request was due.
    first_ok: Option<(u64, u64)>,
    last_ok_ns: Option<u64>,
    first_error_ns: Option<u64>,
    /// The first error after the last acknowledgement.
    error_since_ns: Option<u64>,
    last_error_ns: Option<u64>,
}

impl Pulse {
    /// A request was acknowledged at `done_ns`.
    pub fn ok(&mut self, due_ns: u64, done_ns: u64) {
        self.first_ok = Some(self.first_ok.unwrap_or((done_ns, due_ns)));
        self.last_ok_ns = self.last_ok_ns.max(Some(done_ns));
        self.error_since_ns = None;
    }

    /// A request or a connection failed at `at_ns`.
    pub fn error(&mut self, at_ns: u64) {
        self.first_error_ns = Some(self.first_error_ns.unwrap_or(at_ns));
        self.error_since_ns = Some(self.error_since_ns.unwrap_or(at_ns));
        self.last_error_ns = self.last_error_ns.max(Some(at_ns));
    }

    /// Adds what another thread noted in the same second.
    pub fn merge(&mut self, other: &Self) {
        let earlier = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
        self.first_ok = self.first_ok.into_iter().chain(other.first_ok).min();
        self.last_ok_ns = self.last_ok_ns.max(other.last_ok_ns);
        self.first_error_ns = earlier(self.first_error_ns, other.first_error_ns);
        // Where a thread's first error since its own last acknowledgement was before another's, its last one may not be: that
        // is later than the first that counts, by less than a second.
        let since = |pulse: &Self| {
            [pulse.error_since_ns, pulse.last_error_ns]
                .into_iter()
                .flatten()
                .find(|at_ns| Some(*at_ns) > self.last_ok_ns)
        };
        let (mine, theirs) = (since(self), since(other));
        self.error_since_ns = earlier(mine, theirs);
        self.last_error_ns = self.last_error_ns.max(other.last_error_ns);
    }
}

/// Finds outages, from one second to the next.
#[derive(Clone, Debug, Default)]
pub struct Outages {
    found: Vec<Outage>,
    last_ok_ns: u64,
    /// The first error since then.
    error_ns: Option<u64>,
    acknowledged: u64,
}

impl Outages {
    /// Takes in the next second, in which `acknowledged` requests were.
    pub fn add(&mut self, pulse: &Pulse, acknowledged: u64) {
        let Some((ok_ns, due_ns)) = pulse.first_ok else {
            self.error_ns = self.error_ns.or(pulse.first_error_ns);
            return;
        };
        self.error_ns = self.error_ns.or(pulse.first_error_ns.filter(|error_ns| *error_ns < ok_ns));
        self.close(Some(ok_ns), ok_ns, ok_ns.saturating_sub(due_ns) >= LEAST_NS);
        self.last_ok_ns = pulse.last_ok_ns.unwrap_or(ok_ns).max(self.last_ok_ns);
        self.error_ns = pulse.error_since_ns;
        self.acknowledged = self.acknowledged.saturating_add(acknowledged);
    }

    /// The gap since the last acknowledgement ends at `end_ns`.
    fn close(&mut self, recovered_ns: Option<u64>, end_ns: u64, waited: bool) {
        let gap_ns = end_ns.saturating_sub(self.last_ok_ns);
        // Before the first answer it is not known what is usual.
        let usual_ns = self.last_ok_ns.checked_div(self.acknowledged);
        let is_silence = waited && usual_ns.is_some_and(|ns| gap_ns >= ns.saturating_mul(TIMES_THE_USUAL));
        if gap_ns < LEAST_NS || (self.error_ns.is_none() && !is_silence) || self.found.len() >= MAX_OUTAGES {
            return;
        }
        let seconds = |ns: u64| ns as f64 / 1e9;
        self.found.push(Outage {
            hostname: None,
            vms: None,
            started_s: seconds(self.last_ok_ns),
            first_error_s: self.error_ns.map(seconds),
            recovered_s: recovered_ns.map(seconds),
            seconds: seconds(gap_ns),
        });
    }

    /// All outages of a run that ended at `end_ns`. `waited` tells whether requests were still waiting then.
    pub fn finish(mut self, end_ns: u64, waited: bool) -> Vec<Outage> {
        self.close(None, end_ns, waited);
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;

    /// Requests as (due, done, ok), milliseconds, on `threads` threads in turns.
    fn outages(requests: &[(u64, u64, bool)], end_ms: u64, waited: bool, threads: usize) -> Vec<Outage> {
        let mut found = Outages::default();
        for second in 0..=end_ms / 1_000 {
            let mut pulses = vec![Pulse::default(); threads];
            let mut acknowledged = 0;
            for (at, (due, done, ok)) in requests.iter().enumerate().filter(|(_, (_, done, _))| done / 1_000 == second)
            {
                let pulse = &mut pulses[at % threads];
                if *ok {
                    pulse.ok(due * MS, done * MS);
                    acknowledged += 1;
                } else {
                    pulse.error(done * MS);
                }
            }
            let mut sum = Pulse::default();
            pulses.iter().for_each(|pulse| sum.merge(pulse));
            found.add(&sum, acknowledged);
        }
        found.finish(end_ms * MS, waited)
    }

    fn steady(from_ms: u64, to_ms: u64) -> impl Iterator<Item = (u64, u64, bool)> {
        (from_ms..to_ms).step_by(10).map(|due| (due, due + 2, true))
    }

    #[test]
    fn a_restart_is_an_outage_from_the_last_answer_to_the_next() {
        let errors = (3_000..5_500).step_by(50).map(|at| (at, at + 1, false));
        let requests: Vec<_> = steady(0, 3_000).chain(errors).chain(steady(5_500, 9_000)).collect();
        for threads in 1..4 {
            let found = outages(&requests, 9_000, false, threads);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(
                (found[0].started_s, found[0].first_error_s, found[0].recovered_s),
                (2.992, Some(3.001), Some(5.502))
            );
            assert!((found[0].seconds - 2.51).abs() < 1e-9);
        }
    }

    #[test]
    fn silence_is_an_outage_where_requests_waited_and_not_where_there_were_none() {
        let frozen = [(2_000, 4_100, true)];
        let requests: Vec<_> = steady(0, 2_000).chain(frozen).chain(steady(4_100, 6_000)).collect();
        assert_eq!(outages(&requests, 6_000, false, 2).len(), 1);
        // One request every three seconds: nobody waited.
        let rare: Vec<_> = (0..5).map(|at| (at * 3_000, at * 3_000 + 2, true)).collect();
        assert_eq!(outages(&rare, 15_000, false, 1), []);
        // One worker whose requests take two seconds each.
        let slow: Vec<_> = (0..10).map(|at| (at * 10, (at + 1) * 2_000, true)).collect();
        assert_eq!(outages(&slow, 20_000, true, 1), []);
    }

    #[test]
    fn an_error_counts_also_where_its_thread_had_one_before_anothers_last_answer() {
        let [mut one, mut other] = [Pulse::default(); 2];
        one.ok(90 * MS, 100 * MS);
        one.error(200 * MS);
        one.error(900 * MS);
        other.ok(490 * MS, 500 * MS);
        let mut sum = Pulse::default();
        [one, other].iter().for_each(|pulse| sum.merge(pulse));
        assert_eq!(sum.error_since_ns, Some(900 * MS));
        let mut reversed = other;
        reversed.merge(&one);
        assert_eq!(reversed.error_since_ns, Some(900 * MS));
    }

    #[test]
    fn an_outage_may_last_to_the_end() {
        let requests: Vec<_> = steady(0, 2_000).chain([(2_100, 2_500, false)]).collect();
        let found = outages(&requests, 6_000, true, 2);
        assert_eq!((found.len(), found[0].recovered_s), (1, None));
        assert!((found[0].seconds - 4.008).abs() < 1e-9, "{found:?}");
        // A single error among answers is none.
        let requests: Vec<_> = steady(0, 2_000).chain([(1_000, 1_001, false)]).collect();
        let mut sorted = requests;
        sorted.sort_by_key(|(_, done, _)| *done);
        assert_eq!(outages(&sorted, 2_000, false, 2), []);
    }

    proptest! {
        #[test]
        fn outages_do_not_overlap_and_none_is_shorter_than_a_second(
            mut requests in prop::collection::vec((0u64..20_000, 0u64..3_000, any::<bool>()), 0..60),
            threads in 1usize..4,
        ) {
            requests.iter_mut().for_each(|(due, done, _)| *done += *due);
            requests.sort_by_key(|(_, done, _)| *done);
            let found = outages(&requests, 24_000, true, threads);
            for outage in &found {
                prop_assert!(outage.seconds * 1e9 >= S as f64 - 1.0);
            }
            for pair in found.windows(2) {
                prop_assert!(pair[0].recovered_s.unwrap() <= pair[1].started_s);
            }
        }
    }
}
