//! What the machines say, what their silence means, and being asked to stop. Sends heartbeats on the way.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::channel::{Heard, What};
use super::check::Expected;
use super::member::{Member, News};
use super::{Fleet, FleetEvent};
use crate::agent::protocol::{Event, HEARTBEAT, Order};
use crate::cli::options::OnHostLoss;
use crate::clock::now_ns;
use crate::text::terminal::brief_lines;

/// How long after the end of the drain a result may take.
pub(super) const RESULT_WITHIN: Duration = Duration::from_secs(20);
/// Ticks further apart than this tell that this process itself did not run.
const STALL: Duration = Duration::from_secs(1);
/// Characters of a reason that a machine gives: some sentences.
pub(super) const REASON_CHARS: usize = 2_000;
/// How long after an abort.
const ABORTED_WITHIN: Duration = Duration::from_secs(3);

impl Fleet {
    /// Waits for what happens next. May be dropped and called again.
    pub async fn next(&mut self) -> FleetEvent {
        loop {
            // What is done with an event may take a while, and many may be waiting.
            self.send_heartbeats();
            if let Some(event) = self.pending.pop_front() {
                return event;
            }
            if self.members.iter().all(|member| member.result.is_some() || !member.is_present()) {
                return FleetEvent::Finished;
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.deadline = None;
                for host in self.present() {
                    if self.members[host].result.is_none() {
                        self.lose(host, "it did not deliver its result in time".to_owned());
                        self.pending.push_back(FleetEvent::Lost { host });
                    }
                }
                continue;
            }
            let heard = hear(&mut self.heard, &mut self.ticks).await;
            if let Some(event) = self.take(heard) {
                return event;
            }
        }
    }

    /// The first stop closes the window on all machines and lets them wait for what is in flight; the second one has
    /// them abandon it.
    pub fn stop(&mut self, at_once: bool) {
        self.stopped = true;
        let since_t0_ns = self.reference.unix_ns_at(now_ns()).saturating_sub(self.t0_unix_ns);
        self.closed_ns.get_or_insert(since_t0_ns);
        let order = if at_once { Order::Abort } else { Order::Stop };
        self.members.iter().filter(|member| member.is_present()).for_each(|member| member.send(&order));
        let engine = &self.plan.plan.engine;
        let within = match at_once {
            true => ABORTED_WITHIN,
            false => engine.drain.saturating_add(RESULT_WITHIN).saturating_add(self.verified_within()),
        };
        let deadline = Instant::now().checked_add(within);
        self.deadline = match (self.deadline, deadline) {
            (Some(earlier), Some(deadline)) => Some(earlier.min(deadline)),
            (one, other) => one.or(other),
        };
    }

    /// Nothing more is expected of a machine.
    pub(super) fn lose(&mut self, index: usize, reason: String) {
        let member = &mut self.members[index];
        if member.lost.is_some() || member.result.is_some() {
            return;
        }
        member.lost = Some(brief_lines(&reason, REASON_CHARS));
        if !member.ended {
            member.end_agent();
        }
        self.abort_where_asked();
    }

    /// A machine has just been lost.
    fn abort_where_asked(&mut self) {
        if self.t0_unix_ns > 0 && self.plan.on_host_loss == Some(OnHostLoss::Abort) && !self.stopped {
            self.stop(false);
        }
    }

    /// Takes in what was heard, or that nothing was for a while. Returns what concerns a running load.
    pub(super) fn take(&mut self, heard: Option<Heard>) -> Option<FleetEvent> {
        // Also where there is so much to hear that no tick comes through.
        self.send_heartbeats();
        let Some(Heard { host, at_ns, what }) = heard else {
            self.tick();
            return None;
        };
        let member = &mut self.members[host];
        member.last_heard_ns = at_ns;
        match what {
            What::Ended(reason) => {
                member.ended = true;
                let expected = !member.is_present() || member.result.is_some();
                if expected {
                    return None;
                }
                self.lose(host, reason);
                Some(FleetEvent::Lost { host })
            }
            What::Broken(reason) => {
                if !member.is_present() || member.result.is_some() {
                    return None;
                }
                self.lose(host, reason);
                Some(FleetEvent::Lost { host })
            }
            // What a machine says after it was given up comes too late to count.
            What::Event(_) if !member.is_present() => None,
            // Of a machine that has delivered its result, only the time and the tickets are still of interest.
            What::Event(event)
                if member.result.is_some() && !matches!(*event, Event::Pong { .. } | Event::Tickets { .. }) =>
            {
                None
            }
            What::Event(event) => match self.answer(host, at_ns, *event) {
                Ok(event) => event,
                Err(reason) => {
                    self.lose(host, reason);
                    Some(FleetEvent::Lost { host })
                }
            },
        }
    }

    /// What a machine's words are compared with.
    fn expected(&self, host: usize) -> Expected {
        let schedule = self.schedule(host);
        let is_ordered = self.t0_unix_ns > 0;
        let now_ns = self.reference.unix_ns_at(now_ns());
        Expected {
            schedule,
            t0_there_ns: is_ordered.then(|| self.members[host].t0_there_ns(self.t0_unix_ns)),
            since_t0_ns: if is_ordered { now_ns.saturating_sub(self.t0_unix_ns) } else { 0 },
            stopped: self.stopped,
            verify: self.plan.plan.database.verify,
        }
    }

    /// # Errors
    /// The machine cannot go on, or says what cannot be.
    fn answer(&mut self, host: usize, at_ns: u64, event: Event) -> Result<Option<FleetEvent>, String> {
        let expected = self.expected(host);
        Ok(match self.members[host].answer(at_ns, event, &expected, &self.reference)? {
            News::Nothing => None,
            News::Second { index, interval } => Some(FleetEvent::Second { host, index, interval }),
            News::Incident { class, message } => Some(FleetEvent::Incident { host, class, message }),
            News::Delivered => Some(FleetEvent::Delivered { host }),
            News::StoppedThere => {
                self.abort_where_asked();
                Some(FleetEvent::Lost { host })
            }
        })
    }

    fn send_heartbeats(&mut self) {
        if self.last_ping.elapsed() >= HEARTBEAT {
            self.last_ping = Instant::now();
            self.members
                .iter_mut()
                .filter(|member| member.is_present() && member.link.is_some())
                .for_each(Member::ping);
        }
    }

    /// Looks for machines that have fallen silent. What they lose by it waits to be asked for.
    fn tick(&mut self) {
        let since = std::mem::replace(&mut self.last_tick, Instant::now()).elapsed();
        if since > STALL {
            // We stood still ourselves (stopped, a terminal that took nothing), and what was said meanwhile has not been
            // read yet.
            self.members.iter_mut().for_each(|member| member.last_heard_ns = now_ns());
            return;
        }
        let silent = self.members.iter().enumerate().filter_map(|(index, member)| {
            let expected = member.is_present() && member.link.is_some() && !member.ended && member.result.is_none();
            let silence = member.silence().filter(|_| expected)?;
            Some((index, silence))
        });
        // Where a network fails, many fall silent together.
        for (host, silence) in silent.collect::<Vec<_>>() {
            let said = format!(
                "nothing was heard of it for {:.1} s: the machine, its network or its load_test stands still",
                silence.as_secs_f64()
            );
            self.lose(host, said);
            self.pending.push_back(FleetEvent::Lost { host });
        }
    }
}

/// What is heard next; `None` where a tick came first.
pub(super) async fn hear(heard: &mut mpsc::Receiver<Heard>, ticks: &mut tokio::time::Interval) -> Option<Heard> {
    tokio::select! {
        // What was said before the tick counts before the silence that it would find.
        biased;
        heard = heard.recv() => heard,
        _ = ticks.tick() => None,
    }
}
