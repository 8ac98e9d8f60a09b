//! What the VMs say, what their silence means, and being asked to stop. Sends heartbeats on the way.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Fleet;
use super::check::Expected;
use super::event::FleetEvent;
use super::lines::{self, Heard, What};
use super::vm::{Loss, Vm};
use crate::agent::protocol::{AgentEvent, HEARTBEAT, Order};
use crate::cli::options::OnHostLoss;
use crate::clock::now_ns;

/// How often silence is looked for.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// How long after the end of the drain a result may take.
pub(super) const RESULT_WITHIN: Duration = Duration::from_secs(20);
/// Ticks further apart than this tell that this process itself did not run.
const STALL: Duration = Duration::from_secs(1);
/// How long a result may take after an abort.
const ABORTED_WITHIN: Duration = Duration::from_secs(3);

pub(super) struct Hearing {
    pub(super) speak: mpsc::Sender<Heard>,
    heard: mpsc::Receiver<Heard>,
    ticks: Interval,
    last_ping: Instant,
    last_tick: Instant,
}

impl Hearing {
    pub(super) fn new() -> Self {
        let (speak, heard) = mpsc::channel(lines::WAITING);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { speak, heard, ticks, last_ping: Instant::now(), last_tick: Instant::now() }
    }

    /// What is heard next; `None` where a tick came first.
    pub(super) async fn next(&mut self) -> Option<Heard> {
        tokio::select! {
            // What was said before the tick counts before the silence that it would find.
            biased;
            heard = self.heard.recv() => heard,
            _ = self.ticks.tick() => None,
        }
    }
}

impl Fleet {
    /// Waits for what happens next. May be dropped and called again.
    pub async fn next(&mut self) -> FleetEvent {
        loop {
            // What is done with an event may take a while, and many may be waiting.
            self.send_heartbeats();
            if let Some(event) = self.pending.pop_front() {
                return event;
            }
            if self.vms.iter().all(|vm| vm.is_delivered() || !vm.is_present()) {
                return FleetEvent::Finished;
            }
            if self.course.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.course.deadline = None;
                for vm in self.present() {
                    self.lose_later(vm, "it did not deliver its result in time".to_owned());
                }
                continue;
            }
            let heard = self.hearing.next().await;
            if let Some(event) = self.take(heard) {
                return event;
            }
        }
    }

    /// The first stop closes the window on all VMs and lets them wait for what is in flight; the second one has
    /// them abandon it.
    pub fn stop(&mut self, at_once: bool) {
        let since_t0_ns = self.since_t0_ns();
        self.course.closed_ns.get_or_insert(since_t0_ns);
        let order = if at_once { Order::Abort } else { Order::Stop };
        self.vms.iter().filter(|vm| vm.is_present()).for_each(|vm| vm.send(&order));
        let within = if at_once { ABORTED_WITHIN } else { self.result_within() };
        let deadline = Instant::now().checked_add(within);
        self.course.deadline = self.course.deadline.into_iter().chain(deadline).min();
    }

    /// Nothing more is expected of a VM. Returns whether that is news.
    pub(super) fn lose(&mut self, vm: usize, loss: impl Into<Loss>) -> bool {
        let is_news = self.vms[vm].lose(loss.into());
        if is_news {
            self.abort_where_asked();
        }
        is_news
    }

    /// The same, where [`Self::next`] is to tell it.
    pub(super) fn lose_later(&mut self, vm: usize, reason: String) {
        if self.lose(vm, reason) {
            self.pending.push_back(FleetEvent::Lost { vm });
        }
    }

    /// A VM has just been lost.
    fn abort_where_asked(&mut self) {
        let wants_abort = self.plan.on_host_loss == Some(OnHostLoss::Abort);
        if self.course.t0_unix_ns > 0 && wants_abort && self.course.closed_ns.is_none() {
            self.stop(false);
        }
    }

    /// Takes in what was heard, or that nothing was for a while. Returns what concerns a running load.
    pub(super) fn take(&mut self, heard: Option<Heard>) -> Option<FleetEvent> {
        // Also where there is so much to hear that no tick comes through.
        self.send_heartbeats();
        let Some(Heard { vm: index, at_ns, what }) = heard else {
            self.tick();
            return None;
        };
        let expected = self.expected(index);
        let vm = &mut self.vms[index];
        if let Some(connection) = &mut vm.connection {
            connection.heard_ns = at_ns;
            connection.ended |= matches!(what, What::Ended(_));
        }
        let answered = match what {
            What::Ended(reason) | What::Broken(reason) => Err(reason.into()),
            // What a VM says after it was given up comes too late to count.
            What::Event(_) if !vm.is_present() => return None,
            // Of a VM that has delivered its result, only the time and the total are still of interest.
            What::Event(event)
                if vm.is_delivered() && !matches!(*event, AgentEvent::Pong { .. } | AgentEvent::Total { .. }) =>
            {
                return None;
            }
            What::Event(event) => vm.answer(index, at_ns, *event, &expected, &self.course.reference),
        };
        match answered {
            Ok(event) => {
                if let Some(FleetEvent::Lost { .. }) = event {
                    self.abort_where_asked();
                }
                event
            }
            Err(loss) => self.lose(index, loss).then_some(FleetEvent::Lost { vm: index }),
        }
    }

    fn expected(&self, vm: usize) -> Expected {
        let t0_unix_ns = self.course.t0_unix_ns;
        Expected {
            schedule: self.schedule(vm),
            t0_there_ns: (t0_unix_ns > 0).then(|| self.vms[vm].clocks.there_ns(t0_unix_ns)),
            since_t0_ns: self.since_t0_ns(),
            stopped: self.course.closed_ns.is_some(),
            verify: self.plan.plan.database.verify,
        }
    }

    /// Time since T0, nanoseconds; 0 before it.
    fn since_t0_ns(&self) -> u64 {
        match self.course.t0_unix_ns {
            0 => 0,
            t0_unix_ns => self.course.reference.unix_ns_at(now_ns()).saturating_sub(t0_unix_ns),
        }
    }

    fn send_heartbeats(&mut self) {
        if self.hearing.last_ping.elapsed() >= HEARTBEAT {
            self.hearing.last_ping = Instant::now();
            self.vms.iter_mut().filter(|vm| vm.is_present() && vm.connection.is_some()).for_each(Vm::ping);
        }
    }

    /// Looks for VMs that have fallen silent. That they are lost waits to be asked for.
    fn tick(&mut self) {
        let since = std::mem::replace(&mut self.hearing.last_tick, Instant::now()).elapsed();
        if since > STALL {
            // We stood still ourselves (stopped, a terminal that took nothing), and what was said meanwhile has not been
            // read yet.
            self.vms.iter_mut().filter_map(|vm| vm.connection.as_mut()).for_each(|vm| vm.heard_ns = now_ns());
            return;
        }
        let silent = self.vms.iter().enumerate().filter_map(|(index, vm)| Some((index, vm.silence()?)));
        // Where a network fails, many fall silent together.
        for (vm, silence) in silent.collect::<Vec<_>>() {
            let said = format!(
                "nothing was heard of it for {:.1} s: the VM, its network or its load_test stands still",
                silence.as_secs_f64()
            );
            self.lose_later(vm, said);
        }
    }
}
