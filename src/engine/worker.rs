//! One worker: one connection, one request at a time.
//!
//! Claims slots from the cursor, waits until they are due, runs them, and writes down what happened. A worker whose
//! connection died replaces it; meanwhile it claims no further slot, so that other workers take them. A slot that it
//! holds already waits with it, and that shows as a wait for a connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::in_hand::{ClaimedSlot, InFlight};
use super::looks::{Looks, ThreadLooks};
use super::session::Session;
use super::timer::Timer;
use crate::clock::{self, Epoch};
use crate::measure::outages::Asked;
use crate::measure::outcome::{Failure, Outcome};
use crate::measure::recorder::{Instants, Recorder, Unsettled, Window};
use crate::postgres::connect::Connector;
use crate::random::SplitMix64;
use crate::schedule::{Cursor, Slot};
use crate::workload::batch::Batch;
use crate::workload::script::{MAX_ROUND_TRIPS, Script};
use crate::workload::{Request, RequestMaker};

/// What all workers of a run share. Nothing here is locked on the way of a request.
#[derive(Debug)]
pub struct Shared {
    pub connector: Connector,
    pub script: Script,
    pub maker: RequestMaker,
    pub cursor: Cursor,
    pub looks: Arc<Looks>,
    /// Length of the warm-up, nanoseconds.
    pub warmup_ns: u64,
    /// CPU time of the process at T0, nanoseconds; 0 before it.
    pub process_cpu_at_t0_ns: AtomicU64,
    /// When the window closes, nanoseconds after T0. Brought forward by an interrupt.
    pub end_ns: AtomicU64,
    /// Slots later than this are given up, nanoseconds.
    pub max_lag_ns: Option<u64>,
    pub max_tries: u32,
}

impl Shared {
    fn end_ns(&self) -> u64 {
        self.end_ns.load(Ordering::Acquire)
    }
}

#[derive(Clone, Debug)]
pub enum Incident {
    NewError(Failure),
    /// A connection could not be replaced, for the first time with this kind of error.
    ReconnectFailed(Failure),
    /// The generator stood still: no thread of it acted.
    StoodStill {
        /// When that began, seconds after T0.
        started_s: f64,
        seconds: f64,
    },
}

pub struct OfThread {
    /// Where all of the thread's workers write down what happened.
    pub recorder: Rc<RefCell<Recorder>>,
    pub looks: Rc<ThreadLooks>,
    pub in_hand: Rc<Cell<Option<Asked>>>,
    /// Where sessions go on which a request was given up.
    pub abandoned: Abandoned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Its worker was waiting for it: whatever is late is the generator's fault.
    Waited,
    /// It was claimed late, because the generator stood still: its fault, too.
    Stalled,
    /// It was claimed late, because all workers were busy or without a connection.
    Busy,
}

impl Start {
    fn is_lateness(self) -> bool {
        self != Self::Busy
    }
}

/// Takes sessions on which a request was given up, so that they are cancelled on the server.
pub type Abandoned = mpsc::UnboundedSender<Session>;

pub struct Worker {
    shared: Arc<Shared>,
    recorder: Rc<RefCell<Recorder>>,
    looks: Rc<ThreadLooks>,
    in_hand: Rc<Cell<Option<Asked>>>,
    incidents: Box<dyn Fn(Incident)>,
    session: Option<Session>,
    abandoned: Abandoned,
    timer: Timer,
    /// Changes when the window closes early.
    closing: watch::Receiver<bool>,
    epoch: Epoch,
    jitter: SplitMix64,
    /// How many attempts to connect there were since a connection last proved to be of use.
    fruitless: u32,
}

/// A worker that is ended while a request is under way leaves its session to be cancelled.
impl Drop for Worker {
    fn drop(&mut self) {
        self.abandon();
    }
}

enum Wake {
    Due,
    ConnectionLost,
    Closing,
}

impl Worker {
    pub fn new(
        shared: Arc<Shared>,
        OfThread { recorder, looks, in_hand, abandoned }: OfThread,
        incidents: Box<dyn Fn(Incident)>,
        (session, timer): (Session, Timer),
        closing: watch::Receiver<bool>,
        epoch: Epoch,
    ) -> Self {
        let (session, jitter) = (Some(session), SplitMix64::new(clock::now_ns()));
        Self {
            shared,
            recorder,
            looks,
            in_hand,
            incidents,
            session,
            abandoned,
            timer,
            closing,
            epoch,
            jitter,
            fruitless: 0,
        }
    }

    /// Runs requests until the window closes, and finishes the one in hand.
    pub async fn run(mut self) {
        let (mut request, mut batch) = (Request::default(), Batch::default());
        loop {
            if !self.ensure_connected().await {
                break;
            }
            let now_ns = self.now_ns();
            if now_ns >= self.shared.end_ns() {
                break;
            }
            let claim = ClaimedSlot::new(self.shared.cursor.claim(now_ns), Rc::clone(&self.recorder));
            let due_ns = claim.slot.due_ns;
            self.in_hand.set(Some(Asked { due_ns, sent_ns: None }));
            if due_ns >= self.shared.end_ns() || !self.run_slot(claim, &mut request, &mut batch).await {
                break;
            }
            self.in_hand.set(None);
        }
        // The slot that it has in hand may lie beyond the window.
        if self.in_hand.get().is_some_and(|asked| asked.due_ns >= self.shared.end_ns()) {
            self.in_hand.set(None);
        }
        self.close().await;
    }

    /// Closes the connection, but not before the window: good-byes are work for the server, too.
    async fn close(mut self) {
        let end_ns = self.epoch.mono_ns + self.shared.end_ns();
        if !*self.closing.borrow() {
            tokio::select! {
                () = self.timer.until(end_ns) => {}
                _ = self.closing.changed() => {}
            }
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    /// Runs one claimed slot; false where the window closed before it began.
    async fn run_slot(&mut self, claim: ClaimedSlot, request: &mut Request, batch: &mut Batch) -> bool {
        let (shared, slot) = (Arc::clone(&self.shared), claim.slot);
        let window = if slot.due_ns < shared.warmup_ns { Window::Warmup } else { Window::Measured };
        let unix_ms = (self.epoch.unix_ns + slot.due_ns) / 1_000_000;
        let due_ns = self.epoch.mono_ns + slot.due_ns;
        let (mut claimed_ns, mut start) = self.claimed(due_ns);
        // Made before the slot is due where there is time, so that making it does not delay the request.
        shared.maker.fill(request, slot.number, unix_ms);
        shared.script.encode(&shared.maker, request, batch);
        while start == Start::Waited {
            match self.wait_until(due_ns).await {
                Wake::Due => break,
                Wake::Closing => return false,
                Wake::ConnectionLost => {
                    if !self.ensure_connected().await {
                        return false;
                    }
                    (claimed_ns, start) = self.claimed(due_ns);
                }
            }
        }
        // An interrupt may have closed the window while the timer went off.
        if slot.due_ns >= shared.end_ns() {
            return false;
        }
        claim.keep();
        let now_ns = clock::now_ns();
        self.looks.look(now_ns);
        let lag_ns = now_ns.saturating_sub(due_ns);
        if shared.max_lag_ns.is_some_and(|max_lag_ns| lag_ns > max_lag_ns) {
            let mut recorder = self.recorder.borrow_mut();
            recorder.skip(window, slot.due_ns, start.is_lateness().then_some(lag_ns));
            let skipped = Instants { due: due_ns, claimed: claimed_ns, sent: now_ns, done: now_ns };
            if self.was_held_up(start, skipped) {
                recorder.stalled(window);
            }
            return true;
        }
        self.execute(slot, window, batch, claimed_ns, start, unix_ms).await;
        true
    }

    /// When this worker took a slot that is due at `due_ns`, and why not earlier.
    fn claimed(&self, due_ns: u64) -> (u64, Start) {
        let claimed_ns = clock::now_ns();
        self.looks.look(claimed_ns);
        let all = self.looks.all();
        if claimed_ns < due_ns {
            all.caught_up(claimed_ns);
            (claimed_ns, Start::Waited)
        } else if all.excuses(due_ns, claimed_ns) {
            (claimed_ns, Start::Stalled)
        } else {
            (claimed_ns, Start::Busy)
        }
    }

    /// Whether the generator stood still while a request was to be sent, or in flight.
    fn was_held_up(&self, start: Start, instants: Instants) -> bool {
        let all = self.looks.all();
        let since_ns = if start == Start::Waited { instants.due.min(instants.sent) } else { instants.sent };
        start == Start::Stalled || all.stood_still(since_ns, instants.done)
    }

    async fn execute(
        &mut self,
        slot: Slot,
        window: Window,
        batch: &Batch,
        claimed_ns: u64,
        start: Start,
        unix_ms: u64,
    ) {
        let Some(session) = self.session.as_mut() else { return };
        let request = Unsettled { slot: slot.number, unix_ms };
        let recorder = Rc::clone(&self.recorder);
        recorder.borrow_mut().start(window, slot.due_ns);
        let t0_ns = self.epoch.mono_ns;
        let sent_ns = clock::now_ns();
        let mut in_flight = InFlight { request, recorder, sent_ns, is_answered: false, is_settled: false };
        let asked = Asked { due_ns: slot.due_ns, sent_ns: Some(sent_ns.saturating_sub(t0_ns)) };
        self.in_hand.set(Some(asked));
        if start == Start::Waited {
            self.looks.all().was_idle(claimed_ns, sent_ns);
        }
        let (mut last_sent_ns, mut tries) = (sent_ns, 1);
        let execution = loop {
            let execution = session.run(&self.shared.script, batch, self.shared.maker.pool(), &self.looks).await;
            match &execution.outcome {
                Outcome::Failed(failure) if failure.is_worth_a_retry() && tries < self.shared.max_tries => {
                    if self.recorder.borrow_mut().retry(tries == 1, failure, execution.done_ns) {
                        (self.incidents)(Incident::NewError(failure.clone()));
                    }
                    tries += 1;
                    last_sent_ns = clock::now_ns();
                }
                _ => break execution,
            }
        };
        let done_ns = execution.done_ns;

        self.looks.look(done_ns);
        let instants = Instants { due: t0_ns + slot.due_ns, claimed: claimed_ns, sent: sent_ns, done: done_ns };
        let done_after_t0_ns = done_ns.saturating_sub(t0_ns);
        let done_in_window = (self.shared.warmup_ns..self.shared.end_ns()).contains(&done_after_t0_ns);
        let mut recorder = self.recorder.borrow_mut();
        if window == Window::Measured {
            let mut since_ns = last_sent_ns;
            let mut phases_ns = [0; MAX_ROUND_TRIPS];
            for (phase_ns, end_ns) in phases_ns.iter_mut().zip(&execution.ends_ns[..execution.round_trips]) {
                *phase_ns = end_ns - since_ns;
                since_ns = *end_ns;
            }
            recorder.phases(&phases_ns[..execution.round_trips]);
        }
        if self.was_held_up(start, instants) {
            recorder.stalled(window);
        }
        let is_news = recorder.finish(window, instants, start.is_lateness(), done_in_window, &execution.outcome);
        match execution.outcome {
            Outcome::Ok => recorder.pulse.ok(asked, done_after_t0_ns),
            _ => recorder.pulse.failed(asked, done_after_t0_ns),
        }
        drop(recorder);
        in_flight.is_answered = true;
        in_flight.is_settled = !matches!(execution.outcome, Outcome::Unknown(_));
        let lost = match &execution.outcome {
            Outcome::Ok => false,
            Outcome::Failed(failure) | Outcome::Unknown(failure) => failure.connection_lost,
        };
        if lost {
            self.abandon();
        } else {
            self.fruitless = 0;
        }
        if let Outcome::Failed(failure) | Outcome::Unknown(failure) = execution.outcome
            && is_news
        {
            (self.incidents)(Incident::NewError(failure));
        }
    }

    fn abandon(&mut self) {
        if let Some(session) = self.session.take().filter(Session::is_abandoned) {
            // The thread listens as long as there are workers.
            let _ = self.abandoned.send(session);
        }
    }

    /// Nanoseconds since T0; 0 before it, so that a closed loop's first requests are due at T0.
    fn now_ns(&self) -> u64 {
        clock::now_ns().saturating_sub(self.epoch.mono_ns)
    }

    async fn wait_until(&mut self, due_ns: u64) -> Wake {
        let Some(session) = self.session.as_mut() else { return Wake::ConnectionLost };
        if *self.closing.borrow() {
            return Wake::Closing;
        }
        tokio::select! {
            biased;
            () = self.timer.until(due_ns) => Wake::Due,
            () = session.until_lost() => Wake::ConnectionLost,
            _ = self.closing.changed() => Wake::Closing,
        }
    }

    /// Replaces the connection where it is gone, however often it takes; false where the window closed meanwhile. The
    /// first attempt is made at once. Connections that are lost before a request was answered on them count as failed
    /// attempts, or a load without pauses would open one after the other.
    async fn ensure_connected(&mut self) -> bool {
        if self.session.as_ref().is_some_and(|session| session.loss().is_none()) {
            return true;
        }
        // Died while idle: no request knows of it, so it is written down here.
        if let Some(failure) = self.session.take().and_then(|lost| lost.loss().cloned())
            && self.recorder.borrow_mut().connection_lost(&failure, self.now_ns())
        {
            (self.incidents)(Incident::ReconnectFailed(failure));
        }
        loop {
            let end_ns = self.epoch.mono_ns + self.shared.end_ns();
            let attempt = self.fruitless;
            self.fruitless = attempt.saturating_add(1);
            if attempt > 0 {
                let pause = self.backoff(attempt - 1);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.timer.until(end_ns) => return false,
                    _ = self.closing.changed() => return false,
                }
            }
            let shared = &self.shared;
            let open = Session::open(&shared.connector, &shared.script);
            let opened = tokio::select! {
                opened = open => opened,
                () = self.timer.until(end_ns) => return false,
                _ = self.closing.changed() => return false,
            };
            match opened {
                Ok(session) => {
                    self.session = Some(session);
                    self.recorder.borrow_mut().counters.recoveries.reconnects += 1;
                    return true;
                }
                Err(error) => {
                    let failure = error.failure();
                    let at_ns = self.now_ns();
                    if self.recorder.borrow_mut().reconnect_failed(&failure, at_ns) {
                        (self.incidents)(Incident::ReconnectFailed(failure));
                    }
                }
            }
        }
    }

    /// Doubles from 50 ms to 2 s, less a random part of up to half, so that workers do not come back all at once.
    fn backoff(&mut self, attempt: u32) -> Duration {
        let ceiling_ms = (50u64 << attempt.min(6)).min(2_000);
        Duration::from_millis(ceiling_ms / 2 + self.jitter.below(ceiling_ms / 2 + 1))
    }
}
