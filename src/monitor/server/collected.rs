//! All that was learnt from the server so far, and the document that it makes. Pure. Instants are nanoseconds of the
//! monotonic clock.

use super::blockers::{Blockers, FoundBlocker};
use super::events::{CheckpointCounts, Events};
use super::snapshot::{Snapshot, View, put_differences};
use super::stats::{Gap, ServerStats, Unavailable};
use super::waits::{Sample, Waits};

/// Gaps that are kept, so that the document stays small.
const MOST_GAPS: usize = 100;

/// T0 and the measured window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowTimes {
    pub t0_ns: u64,
    pub from_ns: u64,
    pub to_ns: u64,
}

impl WindowTimes {
    fn holds(&self, at_ns: u64) -> bool {
        (self.from_ns..self.to_ns).contains(&at_ns)
    }

    /// Seconds after T0; negative before it.
    fn after_t0_s(&self, at_ns: u64) -> f64 {
        if at_ns < self.t0_ns { -((self.t0_ns - at_ns) as f64) / 1e9 } else { (at_ns - self.t0_ns) as f64 / 1e9 }
    }

    /// How late the first snapshot may be: what happened before it is missing from differences that are divided by all
    /// requests of the window.
    pub fn snapshot_before_ns(&self) -> u64 {
        let tenth_ns = self.to_ns.saturating_sub(self.from_ns) / 10;
        self.from_ns + tenth_ns.clamp(1_000_000_000, 2_000_000_000)
    }
}

#[derive(Debug, Default)]
pub struct Collected {
    /// What is known at once: settings, rights, standbys, and what is not available.
    pub known: ServerStats,
    pub window: Option<WindowTimes>,
    pub before: Option<Snapshot>,
    pub after: Option<Snapshot>,
    waits: Waits,
    blockers: Blockers,
    events: Events,
    gaps: Vec<Gap>,
    /// Since when there is no answer, and why.
    silent: Option<(u64, String)>,
    /// Why there was no answer most recently.
    last_reason: Option<String>,
    was_restarted: bool,
}

impl Collected {
    pub fn lack(&mut self, what: &str, reason: String) {
        let unavailable = &mut self.known.unavailable;
        if !unavailable.iter().any(|known| known.what == what) {
            unavailable.push(Unavailable { what: what.to_owned(), reason });
        }
    }

    pub fn take_sample(&mut self, at_ns: u64, sample: Sample) {
        if let Some(window) = self.window.filter(|window| window.t0_ns <= at_ns) {
            self.waits.add(at_ns - window.t0_ns, window.holds(at_ns), sample);
        }
    }

    /// Takes the blockers of one look; none where nobody waited.
    pub fn take_blockers(&mut self, at_ns: u64, seen: Vec<FoundBlocker>) {
        if self.window.is_some_and(|window| window.holds(at_ns)) {
            self.blockers.add(seen);
        }
    }

    pub fn take_checkpoints(&mut self, at_ns: u64, counts: CheckpointCounts) {
        if let Some(window) = self.window {
            self.events.see_checkpoints(window.after_t0_s(at_ns), counts);
        }
    }

    pub fn take_vacuums(&mut self, at_ns: u64, tables: &[String]) {
        if let Some(window) = self.window {
            self.events.see_vacuums(window.after_t0_s(at_ns), tables);
        }
    }

    /// There was no answer to what was asked at this instant.
    pub fn falls_silent(&mut self, at_ns: u64, reason: String) {
        self.last_reason = Some(reason.clone());
        self.silent.get_or_insert((at_ns, reason));
        self.waits.forget_recent();
    }

    /// There is an answer again. Returns since when there was none.
    pub fn answers(&mut self, now_ns: u64) -> Option<u64> {
        let (since_ns, reason) = self.silent.take()?;
        let gap = self.gap(since_ns, now_ns, reason)?;
        if self.gaps.len() < MOST_GAPS {
            self.gaps.push(gap);
        }
        Some(since_ns)
    }

    pub fn is_silent(&self) -> bool {
        self.silent.is_some()
    }

    fn gap(&self, since_ns: u64, now_ns: u64, reason: String) -> Option<Gap> {
        let window = self.window?;
        let since_ns = since_ns.max(window.t0_ns);
        let seconds = now_ns.checked_sub(since_ns)? as f64 / 1e9;
        Some(Gap { started_s: window.after_t0_s(since_ns), seconds, reason })
    }

    pub fn was_restarted(&mut self, since_ns: u64, now_ns: u64) {
        // A first snapshot that is still to come is of the new server.
        self.was_restarted |= self.before.is_some();
        if let Some(window) = self.window {
            self.events.see_restart(window.after_t0_s(since_ns), window.after_t0_s(now_ns));
        }
    }

    /// The window is over, perhaps early.
    pub fn close_window(&mut self, now_ns: u64) {
        if let Some(window) = &mut self.window {
            window.to_ns = window.to_ns.min(now_ns);
        }
    }

    /// What the server's sessions wait for now, in a word or two.
    pub fn live(&self) -> Option<String> {
        self.waits.live()
    }

    /// What is known now.
    pub fn stats(&self, now_ns: u64) -> ServerStats {
        let mut stats = self.known.clone();
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => put_differences(&mut stats, before, after, self.was_restarted),
            // Where there never was a connection, that alone is said.
            _ if stats.unavailable.iter().any(|known| known.what == CONNECTION) => {}
            (before, _) => {
                // After the load only what is the matter now is the reason.
                let (when, why) = match before {
                    Some(_) => ("after the load", self.silent.as_ref().map(|(_, reason)| reason)),
                    None => ("when the window began", self.last_reason.as_ref()),
                };
                let reason = format!("the counters were not read {when}{}", because(why));
                let lacks = View::ALL.map(|view| Unavailable { what: view.name().to_owned(), reason: reason.clone() });
                stats.unavailable.extend(lacks);
            }
        }
        let is_known = |lack: &Unavailable| [CONNECTION, ACTIVITY].contains(&lack.what.as_str());
        if self.waits.window_samples() == 0 && !stats.unavailable.iter().any(is_known) {
            let reason =
                format!("no look at the sessions fell into the measured window{}", because(self.last_reason.as_ref()));
            stats.unavailable.push(Unavailable { what: ACTIVITY.to_owned(), reason });
        }
        let mut told: Vec<Unavailable> = Vec::new();
        for lack in std::mem::take(&mut stats.unavailable) {
            // An event and a counter may lack the same view.
            if !told.contains(&lack) {
                told.push(lack);
            }
        }
        stats.unavailable = told;
        stats.waits = self.waits.timeline();
        stats.blockers = self.blockers.shares();
        stats.events = self.window.map(|window| self.events.until(window.after_t0_s(now_ns))).unwrap_or_default();
        stats.gaps.clone_from(&self.gaps);
        let open = self.silent.clone().and_then(|(since_ns, reason)| self.gap(since_ns, now_ns, reason));
        stats.gaps.extend(open);
        shorten(&mut stats);
        stats
    }
}

/// Why there was no answer, as the end of a sentence; empty where that is not known.
fn because(reason: Option<&String>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}

/// Rounds figures to three decimals: none is known more exactly, and each digit makes the document longer.
fn shorten(stats: &mut ServerStats) {
    let short = |figure: &mut f64| *figure = (*figure * 1e3).round() / 1e3;
    short(&mut stats.seconds);
    stats.activity.iter_mut().filter_map(|activity| activity.block_read_ms.as_mut()).for_each(short);
    stats.checkpoints.iter_mut().flat_map(|all| [&mut all.write_ms, &mut all.sync_ms]).for_each(short);
    stats.standbys.iter_mut().filter_map(|standby| standby.replay_lag_ms.as_mut()).for_each(short);
    stats.blockers.iter_mut().for_each(|blocker| short(&mut blocker.share_pct));
    stats.events.iter_mut().flat_map(|event| [&mut event.started_s, &mut event.seconds]).for_each(short);
    stats.gaps.iter_mut().flat_map(|gap| [&mut gap.started_s, &mut gap.seconds]).for_each(short);
}

/// What is not available where the monitor gave up.
pub const CONNECTION: &str = "connection";

/// What is not available where there are no samples of sessions.
pub const ACTIVITY: &str = "pg_stat_activity";

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn running() -> Collected {
        let window = WindowTimes { t0_ns: 10 * SECOND_NS, from_ns: 12 * SECOND_NS, to_ns: 20 * SECOND_NS };
        Collected { window: Some(window), ..Collected::default() }
    }

    #[test]
    fn only_samples_in_the_window_count_and_those_before_t0_are_none() {
        let mut collected = running();
        for at_s in [9, 10, 12, 15, 19] {
            collected.take_sample(at_s * SECOND_NS, vec![("CPU".to_owned(), 1)]);
        }
        collected.close_window(16 * SECOND_NS);
        collected.take_sample(17 * SECOND_NS, vec![("CPU".to_owned(), 1)]);
        let waits = collected.stats(21 * SECOND_NS).waits;
        assert_eq!((waits.window_samples, waits.samples.iter().sum::<u64>()), (3, 5));
    }

    #[test]
    fn a_gap_lasts_from_the_first_failure_to_the_next_answer() {
        let mut collected = running();
        assert_eq!(collected.answers(13 * SECOND_NS), None);
        collected.falls_silent(13 * SECOND_NS, "closed".to_owned());
        collected.falls_silent(14 * SECOND_NS, "refused".to_owned());
        let gap = Gap { started_s: 3.0, seconds: 2.0, reason: "closed".to_owned() };
        assert_eq!(collected.stats(15 * SECOND_NS).gaps, std::slice::from_ref(&gap));
        assert_eq!(collected.answers(15 * SECOND_NS), Some(13 * SECOND_NS));
        assert_eq!(collected.stats(18 * SECOND_NS).gaps, [gap]);
    }

    #[test]
    fn a_window_without_samples_says_why() {
        let reason = |collected: &Collected| {
            let lacks = collected.stats(21 * SECOND_NS).unavailable;
            lacks.into_iter().find(|lack| lack.what == ACTIVITY).map(|lack| lack.reason)
        };
        let mut collected = running();
        assert_eq!(reason(&collected).unwrap(), "no look at the sessions fell into the measured window");
        collected.falls_silent(11 * SECOND_NS, "no answer within 1 s".to_owned());
        assert!(reason(&collected).unwrap().ends_with(": no answer within 1 s"));
        collected.answers(13 * SECOND_NS);
        collected.take_sample(13 * SECOND_NS, Vec::new());
        assert_eq!(reason(&collected), None);
    }

    #[test]
    fn what_happened_before_t0_is_no_event() {
        let mut collected = running();
        let counts = |requested| CheckpointCounts { timed: 0, requested, busy_ms: requested as f64 };
        collected.take_checkpoints(7 * SECOND_NS, counts(0));
        collected.take_checkpoints(8 * SECOND_NS, counts(1));
        collected.was_restarted(8 * SECOND_NS, 9 * SECOND_NS);
        assert_eq!(collected.stats(12 * SECOND_NS).events, []);
        assert!(!collected.was_restarted);
    }

    #[test]
    fn the_first_snapshot_may_be_two_seconds_late_at_most() {
        let late_s = |seconds: u64| {
            let window = WindowTimes { t0_ns: 0, from_ns: 0, to_ns: seconds * SECOND_NS };
            window.snapshot_before_ns() as f64 / 1e9
        };
        assert_eq!([2, 15, 60].map(late_s), [1.0, 1.5, 2.0]);
    }

    #[test]
    fn without_a_connection_that_alone_is_said() {
        let mut collected = running();
        assert_eq!(collected.stats(0).unavailable.len(), View::ALL.len() + 1);
        collected.lack(CONNECTION, "too many".to_owned());
        collected.lack(CONNECTION, "again".to_owned());
        let unavailable = collected.stats(0).unavailable;
        assert_eq!(unavailable.len(), 1);
        assert_eq!(unavailable[0].reason, "too many");
    }
}
