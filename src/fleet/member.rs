//! One machine of the fleet, from connecting to its result: what it said, what is known of its clock, what became of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use openssh::{Child, Session, Stdio};
use tokio::task::JoinHandle;

use super::channel::Orders;
use super::check::{Expected, unbelievable};
use super::clock::{Offset, Reference};
use super::hosts::Host;
use super::totals::Totals;
use crate::agent::protocol::{AGENT_SILENCE, Event, Hello, Order, Preflight, Ready};
use crate::clock::{duration_ns, now_ns};
use crate::measure::recorder::Interval;
use crate::merge::{self, Part};
use crate::result::{ClockComparison, ClockReference, ClockVsDatabase, Context, RunResult, assemble_lost};
use crate::schedule::Schedule;
use crate::text::terminal::brief;
use crate::version::BUILD;

/// How long a program that was told to start may take to say its first word.
const FIRST_WORD: Duration = Duration::from_secs(30);

/// How long a process is given to be ended from beside.
const KILL_WITHIN: Duration = Duration::from_secs(2);

/// Characters of a class of errors, and of an error's words.
const INCIDENT_CHARS: [usize; 2] = [100, 400];

/// What of a machine's words concerns others.
#[derive(Debug)]
pub(super) enum News {
    Nothing,
    Second {
        index: u64,
        interval: Box<Interval>,
    },
    Incident {
        class: String,
        message: String,
    },
    Delivered,
    /// It has delivered its result, and was stopped by somebody else than us.
    StoppedThere,
}

/// One machine.
#[derive(Debug)]
pub struct Member {
    /// As it was given.
    pub host: Host,
    /// Its SSH connection.
    pub(super) link: Option<Link>,
    /// Who its agent is.
    pub hello: Option<Hello>,
    /// What its agent found.
    pub preflight: Option<Preflight>,
    /// What its agent is about to run.
    pub ready: Option<Ready>,
    pub(super) is_set_up: bool,
    pub(super) is_started: bool,
    /// How long connecting took.
    pub connected_in: Duration,
    /// Whether the program was sent to it.
    pub deployed: bool,
    /// The same for every name of one machine; empty where it is not known.
    pub(super) identity: String,
    /// Its clock, before T0.
    pub clock: Option<Offset>,
    /// Its clock against the database's, where the VMs are compared through that.
    pub(super) clock_vs_database: Option<ClockVsDatabase>,
    /// The offset with which its T0 was computed.
    pub(super) clock_at_start: Option<Offset>,
    /// Its clock, after the test.
    pub(super) clock_after: Option<Offset>,
    known_before: Option<Offset>,
    /// What its snapshots add up to.
    pub totals: Totals,
    /// Its whole result.
    pub result: Option<RunResult>,
    /// How many tickets the whole test has taken, and whether the answer is there.
    pub(super) tickets: Option<Option<u64>>,
    pub(super) is_asked_for_tickets: bool,
    /// That it said what cannot be, so that nothing it said counts, and what that was.
    pub(super) distrusted: Option<String>,
    /// Why nothing more is expected of it.
    pub lost: Option<String>,
    /// Ends its agent from beside; over within [`KILL_WITHIN`].
    pub(super) killing: Option<JoinHandle<()>>,
    /// Whether its stream of events has ended.
    pub(super) ended: bool,
    pub(super) last_heard_ns: u64,
    pings: HashMap<u64, u64>,
    next_ping: u64,
    /// How many more round trips are wanted at once.
    pub(super) samples_wanted: u32,
}

/// What holds a connection to an agent.
#[derive(Debug)]
pub(super) struct Link {
    pub session: Arc<Session>,
    pub orders: Orders,
    /// Held, since the channel ends when it is dropped.
    pub child: Child<Arc<Session>>,
}

impl Member {
    pub(super) fn new(host: Host) -> Self {
        Self {
            host,
            link: None,
            hello: None,
            preflight: None,
            ready: None,
            is_set_up: false,
            is_started: false,
            connected_in: Duration::ZERO,
            deployed: false,
            identity: String::new(),
            clock: None,
            clock_vs_database: None,
            clock_at_start: None,
            clock_after: None,
            known_before: None,
            totals: Totals::default(),
            result: None,
            tickets: None,
            is_asked_for_tickets: false,
            distrusted: None,
            lost: None,
            killing: None,
            ended: false,
            last_heard_ns: now_ns(),
            pings: HashMap::new(),
            next_ping: 0,
            samples_wanted: 0,
        }
    }

    /// Whether something is still expected of it.
    pub fn is_present(&self) -> bool {
        self.lost.is_none()
    }

    /// Takes in what it says.
    ///
    /// # Errors
    /// It cannot go on, or says what cannot be.
    pub(super) fn answer(
        &mut self,
        at_ns: u64,
        event: Event,
        expected: &Expected,
        reference: &Reference,
    ) -> Result<News, String> {
        if let Event::Result(result) = &event
            && ((result.tool_build.as_str(), result.tool_version.as_str()) != (BUILD, env!("CARGO_PKG_VERSION"))
                || result.run.share != expected.schedule.share)
        {
            return Err("its result is that of another test".to_owned());
        }
        if let Some(reason) = unbelievable(self, &event, expected) {
            self.distrusted = Some(reason.clone());
            return Err(reason);
        }
        match event {
            Event::Alive => {}
            Event::Pong { number, unix_ns } => self.pong(number, unix_ns, at_ns, reference),
            Event::Hello(hello) => self.greet(hello)?,
            Event::Preflight(preflight) => self.preflight = Some(*preflight),
            Event::SetUp => self.is_set_up = true,
            Event::Ready(ready) => self.ready = Some(*ready),
            Event::Started { .. } => self.is_started = true,
            Event::Failed { message } => return Err(message),
            Event::Tickets { taken } => self.tickets = Some(taken),
            Event::Incident { class, message } => {
                let [class, message] = [brief(&class, INCIDENT_CHARS[0]), brief(&message, INCIDENT_CHARS[1])];
                return Ok(News::Incident { class, message });
            }
            Event::Second(snapshot) => {
                let index = snapshot.index;
                let interval = self.totals.add(&snapshot).map_err(|error| {
                    let reason = format!("what its load_test says of second {index} cannot be so: {error}");
                    self.distrusted = Some(reason.clone());
                    reason
                })?;
                return Ok(News::Second { index, interval: Box::new(interval) });
            }
            Event::Result(result) => {
                // Nobody here has asked for it: somebody has stopped it there. What it measured counts, and it is missing
                // from then on.
                let was_stopped_there = result.run.interrupted && !expected.stopped;
                self.result = Some(*result);
                if was_stopped_there {
                    self.lost = Some("its load_test was stopped on the machine itself (a signal)".to_owned());
                    return Ok(News::StoppedThere);
                }
                return Ok(News::Delivered);
            }
        }
        Ok(News::Nothing)
    }

    /// What it measured, whole or until its last second; `None` where it never began, or said what cannot be.
    pub(super) fn part(&self, schedule: Schedule, t0_unix_ns: u64) -> Option<Part> {
        if self.distrusted.is_some() {
            return None;
        }
        let hostname = self.host.name.clone();
        let (clock, start_skew_ms) = (self.clock_comparison(), self.start_skew_ms());
        if let Some(result) = &self.result {
            return Some(Part {
                hostname,
                file: None,
                result: result.clone(),
                clock,
                start_skew_ms,
                lost: self.lost.clone(),
            });
        }
        let (hello, ready) = (self.hello.as_ref()?, self.ready.as_ref().filter(|_| self.is_started)?);
        let context = Context {
            hostname: hello.hostname.clone(),
            config: ready.config.clone(),
            server: ready.server.clone(),
            clock_vs_database: ready.clock_vs_database,
            schedule,
            container: None,
            verification: None,
            aborted: None,
            warnings: ready.warnings.clone(),
        };
        // Its documents tell T0 as its own clock shows it, and so does this one.
        let t0_there_ns = self.t0_there_ns(t0_unix_ns);
        let known_ns = self.totals.seconds().saturating_mul(1_000_000_000);
        let (recorder, timeline) = (self.totals.recorder(), self.totals.timeline());
        let result = assemble_lost(recorder, timeline, t0_there_ns, known_ns, context);
        Some(Part { hostname, file: None, result, clock, start_skew_ms, lost: self.lost.clone() })
    }

    pub(super) fn send(&self, order: &Order) {
        if let Some(link) = &self.link {
            link.orders.send(order);
        }
    }

    /// Asks for the time there.
    pub(super) fn ping(&mut self) {
        let number = self.next_ping;
        self.next_ping += 1;
        // A machine that answers nothing is lost long before this grows.
        self.pings.retain(|known, _| known + 64 > number);
        self.pings.insert(number, now_ns());
        self.send(&Order::Ping { number });
    }

    /// Takes in the time there. Asks again where more round trips are wanted.
    pub(super) fn pong(&mut self, number: u64, unix_ns: u64, at_ns: u64, reference: &Reference) {
        let Some(sent_ns) = self.pings.remove(&number) else { return };
        let [sent_ns, at_ns] = [sent_ns, at_ns].map(|ns| reference.unix_ns_at(ns));
        let offset = Offset::of_round_trip(sent_ns, unix_ns, at_ns);
        let best = self.estimate();
        *best = Some(offset.or_better(*best));
        self.samples_wanted = self.samples_wanted.saturating_sub(1);
        if self.samples_wanted > 0 {
            self.ping();
        }
    }

    /// T0 as its own clock shows it, once it is ordered.
    pub(super) fn t0_there_ns(&self, t0_unix_ns: u64) -> u64 {
        self.clock_at_start.map_or(t0_unix_ns, |clock| clock.there_ns(t0_unix_ns))
    }

    /// What is being estimated: the offset before T0, or the one after the test.
    fn estimate(&mut self) -> &mut Option<Offset> {
        if self.clock_at_start.is_some() { &mut self.clock_after } else { &mut self.clock }
    }

    /// From here on `samples` round trips in a row tell the offset, and what was known before only where they fail.
    pub(super) fn begin_clock_samples(&mut self, samples: u32) {
        self.known_before = self.estimate().take();
        self.samples_wanted = samples;
        self.ping();
    }

    pub(super) fn end_clock_samples(&mut self) {
        self.samples_wanted = 0;
        let known_before = self.known_before.take();
        let estimate = self.estimate();
        *estimate = estimate.or(known_before);
    }

    /// Takes in who it is.
    ///
    /// # Errors
    /// It is another build than ours.
    pub(super) fn greet(&mut self, hello: Hello) -> Result<(), String> {
        if hello.build != BUILD {
            return Err(format!(
                "its load_test is version {} of build {}, and this coordinator is build {BUILD}; leave out --deploy \
                 never, give an --agent-binary of this build, or, where another coordinator has just replaced the file that \
                 --remote-path names, give a folder",
                hello.tool_version, hello.build
            ));
        }
        self.hello = Some(hello);
        Ok(())
    }

    /// For how long it has said nothing, where that is too long.
    pub(super) fn silence(&self) -> Option<Duration> {
        let limit = if self.hello.is_some() { AGENT_SILENCE } else { FIRST_WORD };
        let silent_ns = now_ns().saturating_sub(self.last_heard_ns);
        (silent_ns > duration_ns(limit)).then(|| Duration::from_nanos(silent_ns))
    }

    /// Ends its agent: by the end of its input, and from beside where the machine can still be reached. One that is
    /// frozen would otherwise hold its locks in the database.
    pub(super) fn end_agent(&mut self) {
        let (Some(link), Some(hello)) = (&self.link, &self.hello) else { return };
        link.orders.close();
        let (session, pid) = (Arc::clone(&link.session), hello.pid);
        self.killing = Some(tokio::spawn(async move { kill(&session, pid).await }));
    }

    /// What is to be reported of its clock.
    pub(super) fn clock_comparison(&self) -> Option<ClockComparison> {
        let after = self.clock_after.filter(|_| self.lost.is_none());
        if let Some(at_first) = self.clock_vs_database {
            // Through the database they were compared before only; since then each has drifted by what we see ourselves.
            let drift = self
                .clock
                .zip(after)
                .map(|(before, after)| (after.offset_ms() - before.offset_ms(), after.bound_ms() + before.bound_ms()));
            return Some(ClockComparison {
                offset_after_ms: drift.map(|(ms, _)| at_first.offset_ms + ms),
                bound_after_ms: drift.map(|(_, bound_ms)| at_first.bound_ms + bound_ms),
                ..merge::comparison(at_first)
            });
        }
        let before = self.clock?;
        Some(ClockComparison {
            reference: ClockReference::Coordinator,
            offset_ms: before.offset_ms(),
            bound_ms: before.bound_ms(),
            offset_after_ms: after.map(|after| after.offset_ms()),
            bound_after_ms: after.map(|after| after.bound_ms()),
        })
    }

    /// How long after the common T0 it began, milliseconds, as it reports it itself. The comparison of the clocks, from
    /// which it has its T0, may be wrong by its bound.
    pub(super) fn start_skew_ms(&self) -> Option<f64> {
        self.result.as_ref()?.run.start_delay_ms
    }
}

/// Ends a process there without a word, if that can be done soon.
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
