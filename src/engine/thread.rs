//! One thread of the generator: a single-threaded runtime with some of the workers. They share one recorder.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{StreamExt, TryStreamExt};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::lead::Lead;
use super::looks::{self, ThreadLooks};
use super::session::{OpenError, Session};
use super::timer::Timer;
use super::worker::{Incident, OfThread, Shared, Worker};
use crate::clock::{self, Epoch};
use crate::measure::outages::Asked;
use crate::measure::recorder::Recorder;
use crate::postgres::connect::{ConnectError, ConnectErrorKind};

const CANCELLED_AT_ONCE: usize = 16;

/// How long cancelling may hold up the result. The server ends what is left by the limits of the session.
const CANCELLED_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub enum ThreadEvent {
    /// All of its connections are open and prepared, or one could not be.
    Ready(Result<(), PrepareError>),
    Second {
        thread: usize,
        index: u64,
        recorded: Box<Recorder>,
    },
    Incident(Incident),
    Done(ThreadRecord),
    Died,
}

#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{error} Or lower --workers: there are {workers}, and each takes one.")]
    TooManyWorkers { error: ConnectError, workers: usize },
    #[error("the system gives no more descriptors or threads ({0}); lower --workers or raise the limit (ulimit -n)")]
    System(#[from] std::io::Error),
}

impl PrepareError {
    /// The same for a run of so many workers.
    pub fn of_workers(self, workers: usize) -> Self {
        match self {
            Self::Open(OpenError::Connect(error))
                if workers > 1 && error.kind() == ConnectErrorKind::TooManyConnections =>
            {
                Self::TooManyWorkers { error, workers }
            }
            other => other,
        }
    }
}

/// What a thread leaves behind, beside what it recorded.
#[derive(Debug)]
pub struct ThreadRecord {
    /// CPU time that it used from T0 to the end of the window, nanoseconds.
    pub cpu_ns: u64,
    /// Up to which second it has reported, that one included.
    pub last_second: u64,
    /// How long it was ready to run but waited for a processor in that time, nanoseconds; only Linux tells.
    pub run_queue_ns: Option<u64>,
    /// How busy the machine's processors were in that time; only Linux tells.
    pub machine_cpu_pct: Option<f64>,
    /// How long after T0 it woke to begin, nanoseconds; absent where the run ended before T0.
    pub start_delay_ns: Option<u64>,
}

pub struct ThreadSetup {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub workers: usize,
    /// How many round trips of a request are recorded one by one.
    pub phases: usize,
    pub events: mpsc::UnboundedSender<ThreadEvent>,
    /// Empty recorders, made elsewhere: to clear one takes some tenths of a millisecond, in which requests would be late.
    pub spares: mpsc::UnboundedReceiver<Box<Recorder>>,
    /// Tells T0. Closed where the run is called off.
    pub start: oneshot::Receiver<Epoch>,
    /// Becomes true when no more requests are to be started.
    pub closing: watch::Receiver<bool>,
    /// Becomes true when requests in flight are to be abandoned.
    pub abort: watch::Receiver<bool>,
}

pub fn run(setup: ThreadSetup) {
    let events = setup.events.clone();
    let _witness = Witness(setup.events.clone());
    lower_timer_slack();
    match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => {
            runtime.block_on(drive(setup));
            // A name that is still being looked up must not hold up the result.
            runtime.shutdown_background();
        }
        // The controller may be gone already, and then nobody wants to know.
        Err(error) => _ = events.send(ThreadEvent::Ready(Err(error.into()))),
    }
}

struct Witness(mpsc::UnboundedSender<ThreadEvent>);

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(ThreadEvent::Died);
        }
    }
}

/// By default Linux may delay a thread's timeouts by 50 µs to save wake-ups.
fn lower_timer_slack() {
    #[cfg(target_os = "linux")]
    {
        // Without permission timeouts are a little later, and lateness shows it.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    }
}

async fn drive(setup: ThreadSetup) {
    let ThreadSetup { index: thread, shared, workers, phases, events, spares, start, closing, mut abort } = setup;
    let lead = Rc::new(RefCell::new(Lead::new(clock::now_ns())));
    let opened = open_all(&shared, workers, &lead).await.and_then(|sessions| Ok((sessions, Timer::new(lead)?)));
    let (sessions, timer) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let _ = events.send(ThreadEvent::Ready(Err(error)));
            return;
        }
    };
    if events.send(ThreadEvent::Ready(Ok(()))).is_err() {
        return;
    }
    let Ok(epoch) = start.await else {
        join_all(sessions.into_iter().map(|(session, _)| session.close())).await;
        return;
    };

    let looks = Rc::new(ThreadLooks::new(Arc::clone(&shared.looks)));
    let recorder = Rc::new(RefCell::new(Recorder { t0_ns: epoch.mono_ns, ..Recorder::new(phases) }));
    let (abandoned, mut left_behind) = mpsc::unbounded_channel();
    let mut cancelling = futures::stream::poll_fn(|cx| left_behind.poll_recv(cx))
        .map(Session::cancel)
        .buffer_unordered(CANCELLED_AT_ONCE);
    let mut in_hand = Vec::new();
    let mut tasks = JoinSet::new();
    for session in sessions {
        let hand = Rc::new(Cell::new(None));
        in_hand.push(Rc::clone(&hand));
        let tell = events.clone();
        let incidents = Box::new(move |incident| _ = tell.send(ThreadEvent::Incident(incident)));
        let recorder = Rc::clone(&recorder);
        let of_thread = OfThread { recorder, looks: Rc::clone(&looks), in_hand: hand, abandoned: abandoned.clone() };
        let worker = Worker::new(Arc::clone(&shared), of_thread, incidents, session, closing.clone(), epoch);
        tasks.spawn_local(worker.run());
    }
    let mut usage = Box::pin(usage_until_end(Arc::clone(&shared), epoch, timer, closing));
    let mut used = None;
    let mut seconds = Seconds::new(epoch);
    let mut reports = Reports { thread, phases, recorder, in_hand, epoch, events, spares };
    let mut look = tokio::time::interval(looks::EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => looks.tick(),
            joined = tasks.join_next() => match joined {
                None => break,
                // A worker that panicked would leave its request uncounted: go down with it.
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(_) => {}
            },
            index = seconds.next() => reports.send(index),
            measured = &mut usage, if used.is_none() => used = Some(measured),
            Some(()) = cancelling.next() => {}
            _ = abort.wait_for(|abort| *abort) => break,
        }
    }
    tasks.shutdown().await;
    drop(abandoned);
    let mut cancelled = std::pin::pin!(tokio::time::timeout(CANCELLED_WITHIN, cancelling.for_each(async |()| ())));
    // The generator does not stand still meanwhile.
    loop {
        tokio::select! {
            _ = look.tick() => looks.tick(),
            _ = &mut cancelled => break,
        }
    }
    reports.send(seconds.index);
    let Usage { cpu_ns, run_queue_ns, machine_cpu_pct, start_delay_ns } = match used {
        Some(used) => used,
        None => usage.await,
    };
    let record = ThreadRecord { cpu_ns, last_second: seconds.index, run_queue_ns, machine_cpu_pct, start_delay_ns };
    let _ = reports.events.send(ThreadEvent::Done(record));
}

/// Opens all sessions of this thread, a few at a time, so that a server with a short backlog is not overrun.
async fn open_all(
    shared: &Arc<Shared>,
    workers: usize,
    lead: &Rc<RefCell<Lead>>,
) -> Result<Vec<(Session, Timer)>, PrepareError> {
    futures::stream::iter(0..workers)
        .map(|_| async {
            let timer = Timer::new(Rc::clone(lead))?;
            let session = Session::open_first(&shared.connector, &shared.script).await?;
            Ok((session, timer))
        })
        .buffer_unordered(16)
        .try_collect()
        .await
}

struct Reports {
    thread: usize,
    phases: usize,
    recorder: Rc<RefCell<Recorder>>,
    in_hand: Vec<Rc<Cell<Option<Asked>>>>,
    epoch: Epoch,
    events: mpsc::UnboundedSender<ThreadEvent>,
    spares: mpsc::UnboundedReceiver<Box<Recorder>>,
}

impl Reports {
    fn send(&mut self, index: u64) {
        let empty = self.spares.try_recv().unwrap_or_else(|_| Box::new(Recorder::new(self.phases)));
        let mut recorded = Box::new(self.recorder.borrow_mut().take(*empty));
        let now_ns = clock::now_ns().saturating_sub(self.epoch.mono_ns);
        recorded.pulse.end(self.in_hand.iter().filter_map(|hand| hand.get()), now_ns);
        let _ = self.events.send(ThreadEvent::Second { thread: self.thread, index, recorded });
    }
}

/// What a thread used from T0 to the end of the window.
struct Usage {
    cpu_ns: u64,
    run_queue_ns: Option<u64>,
    machine_cpu_pct: Option<f64>,
    start_delay_ns: Option<u64>,
}

async fn usage_until_end(
    shared: Arc<Shared>,
    epoch: Epoch,
    mut timer: Timer,
    mut closing: watch::Receiver<bool>,
) -> Usage {
    tokio::select! {
        () = timer.until(epoch.mono_ns) => {}
        _ = closing.wait_for(|closing| *closing) => {
            return Usage { cpu_ns: 0, run_queue_ns: Some(0), machine_cpu_pct: None, start_delay_ns: None };
        }
    }
    let start_delay_ns = Some(clock::now_ns().saturating_sub(epoch.mono_ns));
    let (cpu_before_ns, queue_before_ns, machine_before) = (clock::thread_cpu_ns(), run_queue_ns(), MachineTime::now());
    shared.process_cpu_at_t0_ns.store(clock::process_cpu_ns(), Ordering::Relaxed);
    let end_ns = epoch.mono_ns + shared.end_ns.load(Ordering::Acquire);
    tokio::select! {
        () = tokio::time::sleep(Duration::from_nanos(end_ns.saturating_sub(clock::now_ns()))) => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
    let run_queue_ns = run_queue_ns().zip(queue_before_ns).map(|(after, before)| after.saturating_sub(before));
    let machine_cpu_pct = machine_before.and_then(|before| MachineTime::now()?.busy_pct_since(&before));
    Usage { cpu_ns: clock::thread_cpu_ns() - cpu_before_ns, run_queue_ns, machine_cpu_pct, start_delay_ns }
}

/// Time of all processors of the machine, in ticks of a hundredth of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MachineTime {
    busy: u64,
    all: u64,
}

impl MachineTime {
    fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// By the first line of Linux's `/proc/stat` (proc(5)): user, nice, system, idle, iowait, irq, softirq and steal. Time
    /// that a hypervisor gave to others is as little to be had as what is in use.
    fn parse(stat: &str) -> Option<Self> {
        let ticks: Vec<u64> = stat
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace()
            .take(8)
            .map(|field| field.parse().ok())
            .collect::<Option<_>>()?;
        let (all, idle): (u64, u64) = (ticks.iter().sum(), ticks.get(3..5)?.iter().sum());
        Some(Self { busy: all - idle, all })
    }

    /// `None` where too little time has passed.
    fn busy_pct_since(&self, before: &Self) -> Option<f64> {
        let all = self.all.checked_sub(before.all).filter(|ticks| *ticks > 0)?;
        // The time that is spent waiting for disks may go back by a tick.
        let busy = self.busy.saturating_sub(before.busy).min(all);
        Some(busy as f64 / all as f64 * 100.0)
    }
}

/// Nanoseconds that this thread has waited for a processor: the second field of Linux's `schedstat`.
fn run_queue_ns() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split_whitespace().nth(1)?.parse().ok()
}

struct Seconds {
    epoch: Epoch,
    index: u64,
}

impl Seconds {
    fn new(epoch: Epoch) -> Self {
        Self { epoch, index: 0 }
    }

    /// Returns the number of the second that has just ended.
    async fn next(&mut self) -> u64 {
        let end_ns = self.epoch.mono_ns + (self.index + 1) * 1_000_000_000;
        tokio::time::sleep(Duration::from_nanos(end_ns.saturating_sub(clock::now_ns()))).await;
        self.index += 1;
        self.index - 1
    }
}
