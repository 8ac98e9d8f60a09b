//! The only thing that drives load: threads, workers, pacing, drain.
//!
//! [`prepare`] opens every connection; [`Prepared::start`] begins at T0; [`Running::next`] tells what happens until
//! [`RunRecord`] comes. Knows the schedule, the workload and sessions; nothing of options, reports or other hosts.
//!
//! Each thread has a single-threaded runtime on which its workers, their connections and their timers live; nothing of
//! a request crosses threads but the atomic cursor that hands out slots.

mod in_hand;
pub mod lead;
pub mod looks;
mod readiness;
pub mod session;
mod thread;
pub mod timer;
pub mod wire;
mod worker;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::{self, Epoch};
use crate::measure::outages::{Outage, Outages};
use crate::measure::record::ThreadTime;
use crate::measure::recorder::Recorder;
use crate::measure::stalls::{SeenStalls, Span};
use crate::measure::timeline::Timeline;
use crate::postgres::connect::Connector;
use crate::schedule::{Cursor, Pace, Schedule};
use crate::workload::RequestMaker;
use crate::workload::script::{self, Script, SessionOptions};
use thread::{ThreadEvent, ThreadRecord, ThreadSetup};
use worker::Shared;

pub use crate::measure::record::RunRecord;
pub use thread::PrepareError;
pub use worker::Incident;

/// A stall of the generator that is so long is told while the run goes on, nanoseconds.
const TOLD_AT_ONCE_NS: u64 = 1_000_000_000;

/// How long the connections of a run that cannot begin may take to be closed.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq)]
pub struct EngineOptions {
    pub schedule: Schedule,
    pub workers: usize,
    /// Threads, at least 1 and at most `workers`.
    pub threads: usize,
    /// How long requests in flight are waited for after the window has closed.
    pub drain: Duration,
    /// Slots later than this are given up.
    pub max_lag: Option<Duration>,
    /// How often a request is tried at most, at least 1.
    pub max_tries: u32,
    pub session: SessionOptions,
}

/// Every connection open, every statement prepared, every thread waiting for T0.
pub struct Prepared {
    running: Running,
    starts: Vec<oneshot::Sender<Epoch>>,
}

pub struct Running {
    options: EngineOptions,
    shared: Arc<Shared>,
    phase_names: Vec<String>,
    threads: Vec<JoinHandle<()>>,
    events: mpsc::UnboundedReceiver<ThreadEvent>,
    closing: watch::Sender<bool>,
    abort: watch::Sender<bool>,
    epoch: Epoch,
    stalls_told: usize,
    /// An empty recorder goes back for each full one.
    spares: Vec<mpsc::UnboundedSender<Box<Recorder>>>,
    gathered: Gathered,
    interrupted_at_ns: Option<u64>,
}

struct Gathered {
    /// By second since T0: how many threads have reported it, and what they recorded.
    seconds: BTreeMap<u64, (usize, Box<Recorder>)>,
    total: Recorder,
    completed: Timeline,
    outages: Outages,
    finished: Vec<ThreadRecord>,
    /// CPU time of the process when it was last looked at, nanoseconds.
    cpu_ns: u64,
}

#[derive(Debug)]
pub enum Event {
    /// Second `index` since T0 has ended.
    Second {
        index: u64,
        recorded: Box<Recorder>,
    },
    Incident(Incident),
    Finished(Box<RunRecord>),
}

/// Opens all connections. Nothing is written to the database.
///
/// # Errors
/// The first connection or statement that could not be had; the rest are closed.
pub async fn prepare(
    options: EngineOptions,
    connector: Connector,
    maker: RequestMaker,
) -> Result<Prepared, PrepareError> {
    let script = Script::new(&options.session, maker.workload(), maker.nonce());
    let phase_names = script::phase_names(options.session.pipeline, maker.workload());
    let shared = Arc::new(Shared {
        connector,
        script,
        maker,
        cursor: Cursor::new(&options.schedule),
        looks: Arc::default(),
        warmup_ns: options.schedule.warmup_ns,
        end_ns: AtomicU64::new(options.schedule.end_ns()),
        process_cpu_at_t0_ns: AtomicU64::new(0),
        max_lag_ns: options.max_lag.map(clock::duration_ns),
        max_tries: options.max_tries,
    });
    let (sender, mut events) = mpsc::unbounded_channel();
    let (closing, abort) = (watch::Sender::new(false), watch::Sender::new(false));
    let (mut threads, mut starts, mut spares) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..options.threads {
        let (start, started) = oneshot::channel();
        let (spare, spares_of_thread) = mpsc::unbounded_channel();
        let _ = spare.send(Box::new(Recorder::new(phase_names.len())));
        spares.push(spare);
        let setup = ThreadSetup {
            index,
            shared: Arc::clone(&shared),
            workers: options.workers / options.threads + usize::from(index < options.workers % options.threads),
            phases: phase_names.len(),
            events: sender.clone(),
            spares: spares_of_thread,
            start: started,
            closing: closing.subscribe(),
            abort: abort.subscribe(),
        };
        starts.push(start);
        threads.push(std::thread::Builder::new().name(format!("load-{index}")).spawn(|| thread::run(setup))?);
    }
    drop(sender);
    let mut ready = Ok(());
    for _ in 0..options.threads {
        ready = ready.and(match events.recv().await {
            Some(ThreadEvent::Ready(ready)) => ready.map_err(|error| error.of_workers(options.workers)),
            _ => Err(std::io::Error::other("a generator thread ended before it was ready").into()),
        });
        if ready.is_err() {
            break;
        }
    }
    if let Err(error) = ready {
        // Connections that are open are closed, so that they are free for another attempt.
        drop(starts);
        let ended = async { while events.recv().await.is_some() {} };
        let _ = tokio::time::timeout(CLOSED_WITHIN, ended).await;
        return Err(error);
    }
    let outages = Outages::new(matches!(options.schedule.pace, Pace::Closed));
    let running = Running {
        options,
        shared,
        gathered: Gathered {
            seconds: BTreeMap::new(),
            total: Recorder::new(phase_names.len()),
            completed: Timeline::default(),
            outages,
            finished: Vec::new(),
            cpu_ns: 0,
        },
        phase_names,
        threads,
        events,
        closing,
        abort,
        epoch: Epoch { mono_ns: 0, unix_ns: 0 },
        spares,
        stalls_told: 0,
        interrupted_at_ns: None,
    };
    Ok(Prepared { running, starts })
}

impl Prepared {
    pub fn phase_names(&self) -> &[String] {
        &self.running.phase_names
    }

    /// Begins at T0, which should not have passed yet.
    pub fn start(self, epoch: Epoch) -> Running {
        let is_closed = matches!(self.running.options.schedule.pace, Pace::Closed);
        // What comes due in a closed loop never waits for what came before.
        self.running.shared.looks.have_backlogs_from(if is_closed { u64::MAX } else { epoch.mono_ns });
        for start in self.starts {
            // A thread that is gone is noticed when its record does not come.
            let _ = start.send(epoch);
        }
        let mut running = Running { epoch, ..self.running };
        running.gathered.cpu_ns = clock::process_cpu_ns();
        running
    }
}

impl Running {
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Starts no more requests: closes the window now. Those in flight are waited for.
    pub fn interrupt(&mut self) {
        let now_ns = clock::now_ns().saturating_sub(self.epoch.mono_ns);
        if self.interrupted_at_ns.is_none() && now_ns < self.shared.end_ns.load(Ordering::Acquire) {
            self.shared.end_ns.store(now_ns, Ordering::Release);
            self.interrupted_at_ns = Some(now_ns);
            self.closing.send_replace(true);
        }
    }

    /// Abandons the requests in flight: they are counted as unfinished.
    pub fn abort(&mut self) {
        self.interrupt();
        self.abort.send_replace(true);
    }

    /// Waits for what happens next. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Event, EngineDied> {
        loop {
            if let Some(event) = self.complete_second() {
                return Ok(event);
            }
            if let Some(incident) = self.new_stall() {
                return Ok(Event::Incident(incident));
            }
            let left = Duration::from_nanos(self.drain_ends_ns().saturating_sub(clock::now_ns()));
            let event = tokio::select! {
                event = self.events.recv() => event,
                () = tokio::time::sleep(left), if !*self.abort.borrow() => {
                    // Answers that came while the generator stood still are yet to be read.
                    let now_ns = clock::now_ns();
                    self.shared.looks.look(now_ns);
                    if now_ns >= self.drain_ends_ns() {
                        self.abort.send_replace(true);
                    }
                    continue;
                }
            };
            match event {
                Some(ThreadEvent::Ready(_)) => {}
                Some(ThreadEvent::Incident(incident)) => return Ok(Event::Incident(incident)),
                Some(ThreadEvent::Second { thread, index, recorded }) => {
                    let _ = self.spares[thread].send(Box::new(Recorder::new(self.phase_names.len())));
                    self.add(index, recorded);
                }
                Some(ThreadEvent::Done(record)) => self.gathered.finished.push(record),
                Some(ThreadEvent::Died) => {
                    self.abort();
                    return Err(EngineDied);
                }
                None => return self.finish().map(|record| Event::Finished(Box::new(record))),
            }
        }
    }

    /// When requests in flight are given up, on the monotonic clock.
    fn drain_ends_ns(&self) -> u64 {
        let window_ends_ns = self.epoch.mono_ns + self.shared.end_ns.load(Ordering::Acquire);
        let stood_still_ns = self.shared.looks.stood_still_ns(window_ends_ns, u64::MAX);
        window_ends_ns + clock::duration_ns(self.options.drain) + stood_still_ns
    }

    /// A stall that is worth a line at once, where there is a new one.
    fn new_stall(&mut self) -> Option<Incident> {
        let (known, latest) = self.shared.looks.latest();
        let is_new = known > std::mem::replace(&mut self.stalls_told, known);
        let span = latest.filter(|span| is_new && span.end_ns - span.start_ns >= TOLD_AT_ONCE_NS)?;
        let seconds = |from_ns: u64, to_ns: u64| to_ns.saturating_sub(from_ns) as f64 / 1e9;
        Some(Incident::StoodStill {
            started_s: seconds(self.epoch.mono_ns, span.start_ns),
            seconds: seconds(span.start_ns, span.end_ns),
        })
    }

    fn add(&mut self, index: u64, mut recorded: Box<Recorder>) {
        let cpu_ns = clock::process_cpu_ns();
        let used_ns = cpu_ns.saturating_sub(std::mem::replace(&mut self.gathered.cpu_ns, cpu_ns));
        recorded.bins.close_second(index, &recorded.counters, used_ns);
        self.gathered.total.merge(&recorded);
        self.gathered.completed.add(index, recorded.counters.completed_in_window);
        match self.gathered.seconds.entry(index) {
            Entry::Vacant(vacant) => _ = vacant.insert((1, recorded)),
            Entry::Occupied(mut occupied) => {
                let (threads, sum) = occupied.get_mut();
                *threads += 1;
                sum.merge(&recorded);
            }
        }
    }

    /// The oldest second, where every thread has reported it or ended before it.
    fn complete_second(&mut self) -> Option<Event> {
        let threads = self.threads.len();
        let entry = self.gathered.seconds.first_entry()?;
        let ended = self.gathered.finished.iter().filter(|record| record.last_second < *entry.key()).count();
        (entry.get().0 + ended >= threads).then(|| {
            let (index, (_, recorded)) = entry.remove_entry();
            self.gathered.outages.add(&recorded.pulse, recorded.counters.acknowledged());
            Event::Second { index, recorded }
        })
    }

    fn finish(&mut self) -> Result<RunRecord, EngineDied> {
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| EngineDied)?;
        }
        let recorder = std::mem::replace(&mut self.gathered.total, Recorder::new(0));
        let mut window_end_ns = self.shared.end_ns.load(Ordering::Acquire);
        if let (Some(_), Some(last_ns)) = (self.interrupted_at_ns, recorder.last_started_due_ns) {
            // A request that started in the instant of the interrupt belongs to the window.
            window_end_ns = window_end_ns.max(last_ns + 1);
        }
        let claimed = self.shared.cursor.claimed();
        let seen = self.shared.looks.seen();
        let outages = self.outages(&recorder, window_end_ns, &seen);
        Ok(RunRecord {
            epoch: self.epoch,
            window_start_ns: self.options.schedule.warmup_ns.min(window_end_ns),
            window_end_ns,
            interrupted: self.interrupted_at_ns.is_some(),
            claimed,
            process_cpu_ns: match self.shared.process_cpu_at_t0_ns.load(Ordering::Relaxed) {
                0 => 0,
                at_t0_ns => clock::process_cpu_ns().saturating_sub(at_t0_ns),
            },
            threads: self
                .gathered
                .finished
                .iter()
                .map(|record| ThreadTime { cpu_ns: record.cpu_ns, run_queue_ns: record.run_queue_ns })
                .collect(),
            machine_cpu_pct: self.gathered.finished.iter().find_map(|record| record.machine_cpu_pct),
            start_delay_ns: self.gathered.finished.iter().filter_map(|record| record.start_delay_ns).min(),
            completed: std::mem::take(&mut self.gathered.completed),
            outages,
            seen,
            recorder,
        })
    }

    /// All outages up to the end of the window. Takes a slot from the cursor.
    fn outages(&mut self, recorder: &Recorder, window_end_ns: u64, seen: &SeenStalls) -> Vec<Outage> {
        let t0_ns = self.epoch.mono_ns;
        let after_t0 = |span: &Span| Span {
            start_ns: span.start_ns.saturating_sub(t0_ns),
            end_ns: span.end_ns.saturating_sub(t0_ns),
        };
        let stalls: Vec<Span> = seen.spans.iter().map(after_t0).collect();
        let figures = &recorder.figures;
        let answers = [&figures.service_time, &recorder.warmup_latency].into_iter().find(|answers| answers.count() > 0);
        let usual_ns = answers.map(|answers| answers.histogram.value_at_quantile(0.5).saturating_mul(1_000));
        let next_due_ns = self.shared.cursor.claim(window_end_ns).due_ns;
        std::mem::take(&mut self.gathered.outages).finish(window_end_ns, Some(next_due_ns), usual_ns, &stalls)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a generator thread has panicked; its counts are lost, so there is no report. This is a bug")]
pub struct EngineDied;
