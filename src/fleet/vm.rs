//! One VM of the fleet, from connecting to its result: how far it has come, what it said, what is known of its clock. Whether
//! what it says comes in its turn is decided here, in one place; whether it can be so, in `check`.

mod clocks;

use std::sync::Arc;
use std::time::Duration;

use openssh::{Child, Session, Stdio};
use tokio::task::JoinHandle;

use super::check::{Expected, unbelievable};
use super::clock::{Offset, Reference};
use super::event::FleetEvent;
use super::hosts::Host;
use super::lines::Orders;
use super::totals::Totals;
use crate::agent::protocol::{AGENT_SILENCE, AgentEvent, Hello, Order, Preflight, ReadyToRun, name_of};
use crate::clock::{duration_ns, now_ns};
use crate::merge::Part;
use crate::monitor::Findings;
use crate::result::{Context, RunResult, assemble_lost};
use crate::schedule::Schedule;
use crate::text::terminal::{brief, brief_lines};
use crate::version::BUILD;
use clocks::ClockEstimates;

/// How long a program that was told to start may take to say its first word.
const FIRST_WORD: Duration = Duration::from_secs(30);
/// How long killing an agent's process may take.
const KILL_WITHIN: Duration = Duration::from_secs(2);
/// Characters of a class of errors, and of an error's words.
const INCIDENT_CHARS: [usize; 2] = [100, 400];
/// Readings of monitors that are shown, and characters of each.
const READINGS: usize = 3;
const READING_CHARS: usize = 40;
/// Characters of a reason that a VM gives: some sentences.
pub(super) const REASON_CHARS: usize = 2_000;

#[derive(Debug)]
pub struct Vm {
    /// As it was given.
    pub host: Host,
    /// Who its agent is, once it has said so.
    pub hello: Option<Hello>,
    state: State,
    pub(super) connection: Option<Connection>,
    pub(super) clocks: ClockEstimates,
}

/// How far a VM has come. Each state holds what is still needed from there on.
#[derive(Debug, Default)]
enum State {
    /// Its agent has not said anything yet.
    #[default]
    Connecting,
    /// Its agent is of the right build.
    Greeted,
    /// It has reached the database.
    Looked(Box<Preflight>),
    SetUp,
    Ready(Box<ReadyToRun>),
    Running(Box<Load>),
    Delivered(Box<RunResult>, Counted),
    /// Nothing more is expected of it.
    Lost {
        loss: Loss,
        until: Box<State>,
    },
}

/// A load that runs: what it is, and what the VM's seconds add up to.
#[derive(Debug)]
struct Load {
    ready: ReadyToRun,
    totals: Totals,
}

/// The question for the workload's total of the whole test. The answer is `None` where the database did not tell.
#[derive(Clone, Copy, Debug)]
enum Counted {
    NotAsked,
    Asked,
    Told(Option<u64>),
}

#[derive(Clone, Debug)]
pub(super) struct Loss {
    pub(super) reason: String,
    /// Whether what it said until then counts. It does not where it said what cannot be.
    is_believed: bool,
}

impl Loss {
    fn disbelieved(reason: String) -> Self {
        Self { reason, is_believed: false }
    }
}

impl From<String> for Loss {
    fn from(reason: String) -> Self {
        Self { reason, is_believed: true }
    }
}

/// The SSH connection to an agent.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) session: Arc<Session>,
    pub(super) orders: Orders,
    /// Held, since the SSH channel ends when it is dropped.
    pub(super) child: Child<Arc<Session>>,
    /// How long connecting took.
    pub(super) took: Duration,
    pub(super) deployed: bool,
    /// The same for every name of one VM; empty where it is not known.
    pub(super) identity: String,
    /// When something was last heard, on our monotonic clock.
    pub(super) heard_ns: u64,
    /// Whether nothing more can be heard.
    pub(super) ended: bool,
    /// Kills the agent of a lost VM; over within [`KILL_WITHIN`].
    pub(super) killing: Option<JoinHandle<()>>,
}

impl Vm {
    pub(super) fn new(host: Host) -> Self {
        Self { host, hello: None, state: State::Connecting, connection: None, clocks: ClockEstimates::default() }
    }

    /// Takes in what its agent says, as number `index` of the fleet. Returns what of it concerns a running load.
    ///
    /// # Errors
    /// It cannot go on, or says what cannot be.
    pub(super) fn answer(
        &mut self,
        index: usize,
        at_ns: u64,
        event: AgentEvent,
        expected: &Expected,
        reference: &Reference,
    ) -> Result<Option<FleetEvent>, Loss> {
        if let AgentEvent::Result(result) = &event
            && ((result.tool_build.as_str(), result.tool_version.as_str()) != (BUILD, env!("CARGO_PKG_VERSION"))
                || result.run.share != expected.schedule.share)
        {
            return Err("its result is that of another test".to_owned().into());
        }
        if let Some(wrong) = unbelievable(&event, self.ready(), &self.host, expected) {
            return Err(Loss::disbelieved(format!("what its load_test says cannot be so: {wrong}")));
        }
        let (next, news) = match (&mut self.state, event) {
            (_, AgentEvent::Alive) => return Ok(None),
            (_, AgentEvent::Pong { number, unix_ns }) => {
                if self.clocks.pong(number, unix_ns, at_ns, reference) {
                    self.ping();
                }
                return Ok(None);
            }
            (_, AgentEvent::Failed { message }) => return Err(message.into()),
            (State::Connecting, AgentEvent::Hello(hello)) => {
                self.hello = Some(same_build(hello)?);
                (State::Greeted, None)
            }
            (State::Greeted, AgentEvent::Preflight(found)) => (State::Looked(found), None),
            (State::Looked(_), AgentEvent::SetUp) => (State::SetUp, None),
            (State::SetUp, AgentEvent::Ready(ready)) => (State::Ready(ready), None),
            (State::Ready(ready), AgentEvent::Started { .. }) if expected.t0_there_ns.is_some() => {
                let load = Load { ready: (**ready).clone(), totals: Totals::new(ready.phases.len()) };
                (State::Running(Box::new(load)), None)
            }
            (State::Running(..), AgentEvent::Incident { class, message }) => {
                let [class, message] = [brief(&class, INCIDENT_CHARS[0]), brief(&message, INCIDENT_CHARS[1])];
                return Ok(Some(FleetEvent::Incident { vm: index, class, message }));
            }
            (State::Running(..), AgentEvent::Watched { readings }) => {
                let readings = readings.iter().take(READINGS).map(|text| brief(text, READING_CHARS)).collect();
                return Ok(Some(FleetEvent::Watched { vm: index, readings }));
            }
            (State::Running(load), AgentEvent::Second(snapshot)) => {
                let second = snapshot.index;
                let interval = load.totals.add(&snapshot).map_err(|error| {
                    Loss::disbelieved(format!("what its load_test says of second {second} cannot be so: {error}"))
                })?;
                return Ok(Some(FleetEvent::Second { vm: index, index: second, interval: Box::new(interval) }));
            }
            (State::Running(_), AgentEvent::Result(result)) => {
                let was_stopped_there = result.run.interrupted && !expected.stopped;
                let delivered = State::Delivered(result, Counted::NotAsked);
                // Nobody here has asked for the end: somebody has stopped it there. What it measured counts, and it is
                // missing from then on.
                match was_stopped_there {
                    true => {
                        let loss = "its load_test was stopped on the VM itself (a signal)".to_owned().into();
                        (State::Lost { loss, until: Box::new(delivered) }, Some(FleetEvent::Lost { vm: index }))
                    }
                    false => (delivered, Some(FleetEvent::Delivered { vm: index })),
                }
            }
            (State::Delivered(.., total @ Counted::Asked), AgentEvent::Total { count }) => {
                *total = Counted::Told(count);
                return Ok(None);
            }
            (_, event) => {
                return Err(Loss::disbelieved(format!(
                    "its load_test said \"{}\" out of turn",
                    name_of(&event, "event")
                )));
            }
        };
        self.state = next;
        Ok(news)
    }

    /// Nothing more is expected of it; its agent is ended. Returns whether that is news: what has been delivered is not lost
    /// any more, unless it cannot be believed.
    pub(super) fn lose(&mut self, loss: Loss) -> bool {
        if !self.is_present() || (self.is_delivered() && loss.is_believed) {
            return false;
        }
        let loss = Loss { reason: brief_lines(&loss.reason, REASON_CHARS), ..loss };
        self.end_agent();
        self.state = State::Lost { loss, until: Box::new(std::mem::take(&mut self.state)) };
        true
    }

    /// Whether something is still expected of it, or its result is there.
    pub fn is_present(&self) -> bool {
        !matches!(self.state, State::Lost { .. })
    }

    /// Why nothing more is expected of it.
    pub fn lost(&self) -> Option<&str> {
        match &self.state {
            State::Lost { loss, .. } => Some(&loss.reason),
            _ => None,
        }
    }

    /// Its state, or the one in which it was lost.
    fn reached(&self) -> &State {
        match &self.state {
            State::Lost { until, .. } => until,
            state => state,
        }
    }

    /// What its agent found, until the tables are set up.
    pub fn preflight(&self) -> Option<&Preflight> {
        match self.reached() {
            State::Looked(preflight) => Some(preflight),
            _ => None,
        }
    }

    /// What its agent is about to run, or runs.
    pub fn ready(&self) -> Option<&ReadyToRun> {
        match self.reached() {
            State::Ready(ready) => Some(ready),
            State::Running(load) => Some(&load.ready),
            _ => None,
        }
    }

    /// Its clock against ours, before T0.
    pub fn clock(&self) -> Option<Offset> {
        self.clocks.before
    }

    /// How long connecting to it took, and whether the program was sent to it.
    pub fn connected(&self) -> Option<(Duration, bool)> {
        self.connection.as_ref().map(|connection| (connection.took, connection.deployed))
    }

    pub(super) fn result(&self) -> Option<&RunResult> {
        match self.reached() {
            State::Delivered(result, _) => Some(result),
            _ => None,
        }
    }

    // Whether it has come so far, or further: an agent may answer before it is asked.

    pub(super) fn has_looked(&self) -> bool {
        !matches!(self.reached(), State::Connecting | State::Greeted)
    }

    pub(super) fn is_set_up(&self) -> bool {
        self.has_looked() && !matches!(self.reached(), State::Looked(..))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_set_up() && !matches!(self.reached(), State::SetUp)
    }

    pub(super) fn is_started(&self) -> bool {
        self.is_ready() && !matches!(self.reached(), State::Ready(..))
    }

    pub(super) fn is_delivered(&self) -> bool {
        matches!(self.reached(), State::Delivered(..))
    }

    /// Asks for the workload's total of the whole test.
    pub(super) fn ask_for_total(&mut self) {
        if let State::Delivered(.., total) = &mut self.state {
            *total = Counted::Asked;
            self.send(&Order::CountTotal);
        }
    }

    /// Whether [`Self::ask_for_total`] is still to be answered, and can be.
    pub(super) fn owes_total(&self) -> bool {
        let can_be_heard = self.connection.as_ref().is_some_and(|connection| !connection.ended);
        can_be_heard && matches!(self.state, State::Delivered(.., Counted::Asked))
    }

    /// The workload's total of the whole test, as far as it told.
    pub(super) fn total(&self) -> Option<u64> {
        match self.state {
            State::Delivered(.., Counted::Told(count)) => count,
            _ => None,
        }
    }

    /// What it measured, whole or until its last second; `None` where it never began, or said what cannot be.
    pub(super) fn part(&self, schedule: Schedule, t0_unix_ns: u64) -> Option<Part> {
        if matches!(&self.state, State::Lost { loss, .. } if !loss.is_believed) {
            return None;
        }
        let result = match self.reached() {
            State::Delivered(result, _) => (**result).clone(),
            State::Running(load) => {
                load.result(&self.hello.as_ref()?.hostname, schedule, self.clocks.there_ns(t0_unix_ns))
            }
            _ => return None,
        };
        Some(Part {
            hostname: self.host.name.clone(),
            file: None,
            clock: self.clocks.comparison(self.is_present()),
            // As it reports it itself. The comparison of the clocks, from which it has its T0, may be wrong by its bound.
            start_skew_ms: self.result().and_then(|result| result.run.start_delay_ms),
            result,
            lost: self.lost().map(str::to_owned),
        })
    }

    pub(super) fn send(&self, order: &Order) {
        if let Some(connection) = &self.connection {
            connection.orders.send(order);
        }
    }

    /// Asks for the time there.
    pub(super) fn ping(&mut self) {
        let number = self.clocks.ping(now_ns());
        self.send(&Order::Ping { number });
    }

    /// From here on `samples` round trips in a row tell its clock's offset, and what was known before only where they fail.
    pub(super) fn begin_clock_samples(&mut self, samples: u32) {
        self.clocks.begin_samples(samples);
        self.ping();
    }

    /// For how long it has said nothing, where that is too long.
    pub(super) fn silence(&self) -> Option<Duration> {
        let connection = self.connection.as_ref().filter(|connection| !connection.ended)?;
        let limit = if self.hello.is_some() { AGENT_SILENCE } else { FIRST_WORD };
        let silent_ns = now_ns().saturating_sub(connection.heard_ns);
        (silent_ns > duration_ns(limit)).then(|| Duration::from_nanos(silent_ns))
    }

    /// Ends its agent: by the end of its input, and by a signal where the VM can still be reached. One that is frozen would
    /// otherwise hold its locks in the database.
    fn end_agent(&mut self) {
        let Some(pid) = self.hello.as_ref().map(|hello| hello.pid) else { return };
        let Some(connection) = self.connection.as_mut().filter(|connection| !connection.ended) else { return };
        connection.orders.close();
        let session = Arc::clone(&connection.session);
        connection.killing = Some(tokio::spawn(async move { kill(&session, pid).await }));
    }
}

impl Load {
    /// What is known of it: everything until its last whole second. `t0_there_ns` is T0 as the VM's own clock shows it,
    /// which is how its own documents tell it.
    fn result(&self, hostname: &str, schedule: Schedule, t0_there_ns: u64) -> RunResult {
        let Self { ready, totals } = self;
        let context = Context {
            hostname: hostname.to_owned(),
            config: ready.config.clone(),
            server: ready.server.clone(),
            clock_vs_database: ready.clock_vs_database,
            schedule,
            findings: Findings::default(),
            verification: None,
            aborted: None,
            warnings: ready.warnings.clone(),
        };
        let known_ns = totals.seconds.saturating_mul(1_000_000_000);
        assemble_lost(&totals.recorder, &totals.timeline, t0_there_ns, known_ns, context)
    }
}

/// # Errors
/// It is another build than ours.
fn same_build(hello: Hello) -> Result<Hello, Loss> {
    if hello.build == BUILD {
        return Ok(hello);
    }
    let reason = format!(
        "its load_test is version {} of build {}, and this coordinator is build {BUILD}; leave out --deploy never, give an \
         --agent-binary of this build, or, where another coordinator has just replaced the file that --remote-path names, \
         give a folder",
        hello.tool_version, hello.build
    );
    Err(reason.into())
}

/// Kills a process there, if that can be done soon.
pub(super) async fn kill(session: &Arc<Session>, pid: u32) {
    let mut command = Arc::clone(session).arc_raw_command(format!("kill -KILL {pid}"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let killed = async {
        if let Ok(child) = command.spawn().await {
            let _ = child.wait().await;
        }
    };
    let _ = tokio::time::timeout(KILL_WITHIN, killed).await;
}
