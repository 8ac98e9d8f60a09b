//! Outages: times in which something was due and the database acknowledged nothing. Pure.
//!
//! An outage runs from the first slot that was due after the last acknowledgement (or from that acknowledgement, where a
//! request was in flight) to the next acknowledgement, a second or more. Three things that look alike are no outages:
//!
//! - single errors that were answered at once, where nothing was due for a second or more around them: the database was
//!   there, and the requests count as failed;
//! - requests that always take long: without any error, a gap must be ten times as long as usual;
//! - a generator that stood still, which could not have read any answer.
//!
//! Each thread notes for each second when its requests ended, and which were unanswered at its end ([`Pulse`]). The sum
//! of all threads, second by second, shows the gaps ([`Outages`]): a gap of a second or more contains the end of a second.
//! All times are nanoseconds after T0.

use serde::{Deserialize, Serialize};

use crate::measure::stalls::{Span, stood_still_ns};

/// Shorter gaps are no outages; and what lies closer together belongs together. Nanoseconds.
const LEAST_NS: u64 = 1_000_000_000;

/// A gap without any error is an outage only where it is so many times as long as answers usually take.
const TIMES_THE_USUAL: u64 = 10;

/// A request that was sent longer ago than this is stuck by itself: others were acknowledged meanwhile. Nanoseconds.
const STUCK_NS: u64 = 2 * LEAST_NS;

/// Outages that are reported.
const MAX_OUTAGES: usize = 100;

/// Gaps that are kept until the end, when it is known what is usual.
const MAX_GAPS: usize = 1_000;

/// Failed requests since its last acknowledgement that a thread remembers one by one in a second.
const MAX_FAILED: usize = 32;

/// A time of at least a second in which something was due and nothing was acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outage {
    /// Several VMs: the one that saw it; missing if more than one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Several VMs: how many saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vms: Option<u64>,
    /// When the first slot after the last acknowledgement was due, or the last acknowledgement itself if a request was in
    /// flight; seconds after T0.
    pub started_s: f64,
    /// When its first error came, seconds after T0, but not before `started_s`; `null` if there was none.
    pub first_error_s: Option<f64>,
    /// When the next request was acknowledged, seconds after T0; `null` if none was.
    pub recovered_s: Option<f64>,
    /// Its length, seconds: until recovery or the end of the run, without the time in which the generator stood still.
    pub seconds: f64,
}

/// A request that a worker has in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// When it was due.
    pub due_ns: u64,
    /// When it was sent; absent while it waits for its time or for a connection.
    pub sent_ns: Option<u64>,
}

impl Asked {
    /// Whether it tells at `at_ns` that the database was asked: it was due, and not sent long ago.
    fn tells(&self, at_ns: u64) -> bool {
        self.due_ns < at_ns && self.sent_ns.is_none_or(|sent_ns| at_ns.saturating_sub(sent_ns) <= STUCK_NS)
    }
}

/// What a thread, or all together, was answered within a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    first_ok_ns: Option<u64>,
    last_ok_ns: Option<u64>,
    /// The earliest due time of the requests that ended.
    asked_ns: Option<u64>,
    /// Requests that failed since the last acknowledgement: when they ended, and when they were due. Both grow: one that
    /// ended later and was due earlier replaces those before it.
    failed: Vec<(u64, u64)>,
    /// The earliest due time of the requests that were unanswered at the end of the second, and when that was.
    pending_ns: Option<(u64, u64)>,
    first_error_ns: Option<u64>,
    /// The first error after the last acknowledgement.
    error_since_ns: Option<u64>,
    last_error_ns: Option<u64>,
}

fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

impl Pulse {
    /// A request was acknowledged at `done_ns`.
    pub fn ok(&mut self, asked: Asked, done_ns: u64) {
        self.first_ok_ns = earlier(self.first_ok_ns, Some(done_ns));
        self.last_ok_ns = self.last_ok_ns.max(Some(done_ns));
        self.failed.clear();
        self.error_since_ns = None;
        if asked.tells(done_ns) {
            self.asked_ns = earlier(self.asked_ns, Some(asked.due_ns));
        }
    }

    /// A request failed at `done_ns`.
    pub fn failed(&mut self, asked: Asked, done_ns: u64) {
        self.error(done_ns);
        if asked.tells(done_ns) {
            self.asked_ns = earlier(self.asked_ns, Some(asked.due_ns));
            self.push_failed(done_ns, asked.due_ns);
        }
    }

    fn push_failed(&mut self, done_ns: u64, mut due_ns: u64) {
        while self.failed.last().is_some_and(|(_, earlier_ns)| *earlier_ns >= due_ns) {
            self.failed.pop();
        }
        if self.failed.len() >= MAX_FAILED
            && let Some((_, earlier_ns)) = self.failed.pop()
        {
            // So many in a second lie close together.
            due_ns = earlier_ns;
        }
        self.failed.push((done_ns, due_ns));
    }

    /// A connection could not be opened, or a request failed, at `at_ns`.
    pub fn error(&mut self, at_ns: u64) {
        self.first_error_ns = earlier(self.first_error_ns, Some(at_ns));
        self.error_since_ns = earlier(self.error_since_ns, Some(at_ns));
        self.last_error_ns = self.last_error_ns.max(Some(at_ns));
    }

    /// The second ends at `at_ns`, and these requests have no answer yet.
    pub fn end(&mut self, pending: impl IntoIterator<Item = Asked>, at_ns: u64) {
        let due_ns = pending.into_iter().filter(|asked| asked.tells(at_ns)).map(|asked| asked.due_ns).min();
        self.pending_ns = due_ns.map(|due_ns| (due_ns, at_ns));
    }

    /// Adds what another thread noted in the same second.
    pub fn merge(&mut self, other: &Self) {
        self.first_ok_ns = earlier(self.first_ok_ns, other.first_ok_ns);
        self.last_ok_ns = self.last_ok_ns.max(other.last_ok_ns);
        self.asked_ns = earlier(self.asked_ns, other.asked_ns);
        self.pending_ns = match (self.pending_ns, other.pending_ns) {
            (Some((due_ns, at_ns)), Some((other_due_ns, other_at_ns))) => {
                Some((due_ns.min(other_due_ns), at_ns.max(other_at_ns)))
            }
            (one, other) => one.or(other),
        };
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
        self.failed.extend(&other.failed);
        let last_ok_ns = self.last_ok_ns;
        self.failed.retain(|(done_ns, _)| Some(*done_ns) > last_ok_ns);
    }

    /// The earliest due time of requests that failed after `at_ns`, and the last time at which one did.
    fn failed_after(&self, at_ns: u64) -> Option<(u64, u64)> {
        let after = || self.failed.iter().filter(|(done_ns, _)| *done_ns > at_ns);
        let due_ns = after().map(|(_, due_ns)| *due_ns).min()?;
        Some((due_ns, after().map(|(done_ns, _)| *done_ns).max()?))
    }
}

fn is_long(span: Span) -> bool {
    span.end_ns.saturating_sub(span.start_ns) >= LEAST_NS
}

/// A time without an acknowledgement that may be an outage.
#[derive(Clone, Copy, Debug)]
struct Gap {
    /// When something was due, with less than a second between two.
    chain: Span,
    error_ns: Option<u64>,
    recovered_ns: Option<u64>,
    end_ns: u64,
}

/// Finds outages, from one second to the next.
#[derive(Clone, Debug, Default)]
pub struct Outages {
    /// Whether something is due at any time, as in a closed loop.
    always_due: bool,
    gaps: Vec<Gap>,
    last_ok_ns: u64,
    /// The first error since then.
    error_ns: Option<u64>,
    /// What was due since then: the first chain of a second or more, or the last one.
    chain: Option<Span>,
    acknowledged: u64,
}

impl Outages {
    /// None yet; in a closed loop something is due at any time.
    pub fn new(closed_loop: bool) -> Self {
        Self { always_due: closed_loop, ..Self::default() }
    }

    /// Takes in the next second, in which `acknowledged` requests were.
    pub fn add(&mut self, pulse: &Pulse, acknowledged: u64) {
        let Some(ok_ns) = pulse.first_ok_ns else {
            self.error_ns = self.error_ns.or(pulse.first_error_ns);
            self.due_after(pulse);
            return;
        };
        self.error_ns = self.error_ns.or(pulse.first_error_ns.filter(|error_ns| *error_ns < ok_ns));
        let due_ns = earlier(pulse.asked_ns, pulse.pending_ns.map(|(due_ns, _)| due_ns));
        if let Some(due_ns) = due_ns.filter(|due_ns| *due_ns < ok_ns) {
            self.due(due_ns, ok_ns);
        }
        self.close(Some(ok_ns), ok_ns);
        self.last_ok_ns = pulse.last_ok_ns.unwrap_or(ok_ns).max(self.last_ok_ns);
        self.error_ns = pulse.error_since_ns;
        self.acknowledged = self.acknowledged.saturating_add(acknowledged);
        self.chain = None;
        self.due_after(pulse);
    }

    /// What was due after the last acknowledgement of this second.
    fn due_after(&mut self, pulse: &Pulse) {
        let mut due = [pulse.failed_after(self.last_ok_ns), pulse.pending_ns];
        due.sort_unstable();
        due.into_iter().flatten().for_each(|(due_ns, until_ns)| self.due(due_ns, until_ns));
    }

    /// Something was due, and not acknowledged, from `from_ns` to `to_ns`.
    fn due(&mut self, from_ns: u64, to_ns: u64) {
        let found = Span { start_ns: from_ns.max(self.last_ok_ns), end_ns: to_ns };
        self.chain = Some(match self.chain {
            None => found,
            Some(known) if found.start_ns.saturating_sub(known.end_ns) >= LEAST_NS => {
                if is_long(known) {
                    known
                } else {
                    found
                }
            }
            Some(known) => {
                Span { start_ns: known.start_ns.min(found.start_ns), end_ns: known.end_ns.max(found.end_ns) }
            }
        });
    }

    /// The gap since the last acknowledgement ends at `end_ns`.
    fn close(&mut self, recovered_ns: Option<u64>, end_ns: u64) {
        if self.always_due {
            self.due(self.last_ok_ns, end_ns);
        }
        let Some(chain) = self.chain.filter(|chain| is_long(*chain) && chain.start_ns < end_ns) else { return };
        let gap = Gap { chain, error_ns: self.error_ns, recovered_ns, end_ns };
        if self.gaps.len() >= MAX_GAPS {
            // Requests that always take long make many, and all of them are short.
            let silent = self.gaps.iter().enumerate().filter(|(_, gap)| gap.error_ns.is_none());
            match silent.min_by_key(|(_, gap)| gap.end_ns - gap.chain.start_ns).map(|(index, _)| index) {
                Some(index) => _ = self.gaps.remove(index),
                None => return,
            }
        }
        self.gaps.push(gap);
    }

    fn gaps_until(&mut self, end_ns: u64) -> Vec<Gap> {
        self.close(None, end_ns);
        std::mem::take(&mut self.gaps)
    }

    /// All outages of a run that ended at `end_ns`. `next_due_ns` is when the first slot was due that nobody took,
    /// `usual_ns` how long answers take at the median, and `stalls` are the times in which the generator stood still.
    pub fn finish(
        mut self,
        end_ns: u64,
        next_due_ns: Option<u64>,
        usual_ns: Option<u64>,
        stalls: &[Span],
    ) -> Vec<Outage> {
        if let Some(due_ns) = next_due_ns.filter(|due_ns| *due_ns < end_ns) {
            self.due(due_ns, end_ns);
        }
        let gaps = self.gaps_until(end_ns);
        // Acknowledgements that are far apart only because little is asked for say nothing of how long answers take.
        let apart_ns = self.last_ok_ns.checked_div(self.acknowledged);
        let usual_ns = earlier(apart_ns, usual_ns.filter(|_| apart_ns.is_some())).unwrap_or(0);
        let outages = gaps.iter().filter_map(|gap| outage(gap, usual_ns, stalls));
        outages.take(MAX_OUTAGES).collect()
    }
}

fn outage(gap: &Gap, usual_ns: u64, stalls: &[Span]) -> Option<Outage> {
    let acting_ns = |start_ns: u64, end_ns: u64| {
        end_ns.saturating_sub(start_ns).saturating_sub(stood_still_ns(stalls, start_ns, end_ns))
    };
    let length_ns = acting_ns(gap.chain.start_ns, gap.end_ns);
    let due_ns = acting_ns(gap.chain.start_ns, gap.chain.end_ns);
    let is_usual = gap.error_ns.is_none() && length_ns < usual_ns.saturating_mul(TIMES_THE_USUAL);
    if length_ns.min(due_ns) < LEAST_NS || is_usual {
        return None;
    }
    let stall = stalls.iter().find(|stall| (stall.start_ns..stall.end_ns).contains(&gap.chain.start_ns));
    let start_ns = stall.map_or(gap.chain.start_ns, |stall| stall.end_ns);
    let seconds = |ns: u64| ns as f64 / 1e9;
    Some(Outage {
        hostname: None,
        vms: None,
        started_s: seconds(start_ns),
        first_error_s: gap.error_ns.map(|error_ns| seconds(error_ns.max(start_ns))),
        recovered_s: gap.recovered_ns.map(seconds),
        seconds: seconds(length_ns),
    })
}

#[cfg(test)]
mod tests;
