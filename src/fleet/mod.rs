//! One test on many machines: connect, look, set up, open all connections, start at one T0, watch, collect, clean up.
//!
//! [`Fleet`] goes through these phases in the order of its methods. Every one of them can be given up by dropping its
//! future; [`Fleet::shut_down`] then leaves nothing behind. What is heard meanwhile is taken in by `listen`. Knows SSH and the agent's protocol; nothing of Postgres.
//! Prints nothing.

pub mod binary;
mod channel;
mod check;
pub mod clock;
mod connect;
pub mod deploy;
mod error;
mod finish;
#[cfg(any(test, fuzzing))]
pub mod hostile;
pub mod hosts;
mod listen;
mod member;
pub mod plan;
pub mod ssh;
pub mod totals;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::agent::protocol::{Order, PlanOrder};
use crate::clock::{duration_ns, now_ns};
use crate::merge;
use crate::recorder::Interval;
use crate::result::FailedVm;
use crate::run::VERIFIED_WITHIN;
use crate::schedule::Schedule;
use channel::Heard;
use clock::Reference;
use connect::{Connected, binaries};
use deploy::DeployOptions;
pub use error::FleetError;
use error::STARTING;
pub use finish::HOST_KEYS_OFF;
use listen::{RESULT_WITHIN, hear};
pub use member::Member;
use plan::{FleetPlan, OnHostLoss};
use ssh::Sessions;
use totals::Totals;

/// How often silence is looked for.
const TICK: Duration = Duration::from_millis(250);
/// How many round trips estimate a clock.
const CLOCK_SAMPLES: u32 = 8;
/// How long they may take.
const CLOCK_WITHIN: Duration = Duration::from_secs(2);
/// How far ahead T0 is set, for the order to arrive everywhere in time; and for each machine more.
const HEAD_START: Duration = Duration::from_millis(500);
const HEAD_START_PER_MACHINE: Duration = Duration::from_millis(10);
/// How long after T0 the answer to the order to begin may come.
const STARTED_WITHIN: Duration = Duration::from_secs(2);
/// How long what a lost machine began to set up may go on: until it ends by itself, and its lock is given up.
const SET_UP_OUTLIVES: Duration = Duration::from_secs(18);
/// How many machines set up the database at once, once one has done it alone.
const SET_UP_AT_ONCE: usize = 8;

/// What happens while the load runs.
#[derive(Debug)]
pub enum FleetEvent {
    /// A machine's second.
    Second {
        /// Which machine.
        host: usize,
        /// Since T0, from 0.
        index: u64,
        /// What it was like.
        interval: Box<Interval>,
    },
    /// The first error of a kind on a machine.
    Incident {
        /// Which machine.
        host: usize,
        /// What the class is called.
        class: String,
        /// The error's words.
        message: String,
    },
    /// A machine is lost; why stands in [`Member::lost`].
    Lost {
        /// Which machine.
        host: usize,
    },
    /// A machine has delivered its result.
    Delivered {
        /// Which machine.
        host: usize,
    },
    /// Nothing more is expected.
    Finished,
}

/// All machines of a test.
pub struct Fleet {
    plan: FleetPlan,
    sessions: Arc<Sessions>,
    deploy: Arc<DeployOptions>,
    members: Vec<Member>,
    connecting: JoinSet<(usize, Result<Connected, String>)>,
    speak: mpsc::Sender<Heard>,
    heard: mpsc::Receiver<Heard>,
    ticks: tokio::time::Interval,
    last_ping: Instant,
    last_tick: Instant,
    reference: Reference,
    t0_unix_ns: u64,
    deadline: Option<Instant>,
    stopped: bool,
    /// What happened before anybody asked for it.
    pending: VecDeque<FleetEvent>,
}

impl Fleet {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// There is no ssh program, or no program to send, or the private folder cannot be made.
    pub fn new(plan: FleetPlan) -> Result<Self, FleetError> {
        let deploy =
            DeployOptions { remote_path: plan.remote_path.clone(), mode: plan.deploy, binaries: binaries(&plan)? };
        let sessions = Sessions::new(plan.ssh.clone())?;
        let (speak, heard) = mpsc::channel(channel::WAITING);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            members: plan.hosts.iter().cloned().map(Member::new).collect(),
            plan,
            sessions: Arc::new(sessions),
            deploy: Arc::new(deploy),
            connecting: JoinSet::new(),
            speak,
            heard,
            ticks,
            last_ping: Instant::now(),
            last_tick: Instant::now(),
            reference: Reference::now(),
            t0_unix_ns: 0,
            deadline: None,
            stopped: false,
            pending: VecDeque::new(),
        })
    }

    /// All machines, in the order of their shares.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// What is to be run.
    pub fn plan(&self) -> &FleetPlan {
        &self.plan
    }

    /// T0 on our wall clock, nanoseconds since 1970; 0 before it is set.
    pub fn t0_unix_ns(&self) -> u64 {
        self.t0_unix_ns
    }

    /// Tells every machine what to run, lets it look at the database, and compares the clocks. Changes nothing.
    ///
    /// # Errors
    /// Machines that cannot go on, all of them.
    pub async fn preflight(&mut self) -> Result<(), FleetError> {
        let mut options = self.plan.options.clone();
        if self.plan.plan.setup_only {
            // An agent is asked for one phase after the other, so it need not know that there will be no load.
            "1".clone_into(&mut options.load.duration);
        }
        for index in self.present() {
            let plan = PlanOrder {
                options: options.clone(),
                share: self.plan.share(index),
                pgpassword: self.plan.pgpassword.clone(),
            };
            self.members[index].send(&Order::Plan(Box::new(plan)));
        }
        let all = self.present();
        self.until_all(&all, |member| member.preflight.is_some()).await;
        self.compare_clocks().await;
        if !self.plan.plan.setup_only {
            self.lose_unlike(|member| member.preflight.as_ref()?.database.clone(), |first, _, _| other_server(first));
        }
        self.all_or("looking at the database")
    }

    /// Makes database and tables ready: one machine alone, then the others, which mostly find it done. All are through
    /// before any begins.
    ///
    /// # Errors
    /// Machines that cannot go on, all of them.
    pub async fn set_up(&mut self) -> Result<(), FleetError> {
        let all = self.present();
        let mut others = all.as_slice();
        while let Some((first, rest)) = others.split_first() {
            others = rest;
            self.each(&[*first], &Order::SetUp, |member| member.is_set_up).await;
            self.all_or("setting up the tables")?;
            // Where it was lost and the others go on, the next one does it alone.
            if self.members[*first].is_set_up {
                break;
            }
        }
        for group in others.chunks(SET_UP_AT_ONCE) {
            self.each(group, &Order::SetUp, |member| member.is_set_up).await;
            self.all_or("setting up the tables")?;
        }
        if all.iter().any(|index| !self.members[*index].is_present()) {
            // What a lost machine has begun may still be waiting for a lock in the database, and would empty the tables
            // when the others have begun to write.
            let all = self.present();
            let _ = tokio::time::timeout(SET_UP_OUTLIVES, self.until_all(&all, |_| false)).await;
        }
        Ok(())
    }

    /// Lets every machine open all of its connections.
    ///
    /// # Errors
    /// Machines that cannot go on, all of them.
    pub async fn open_connections(&mut self) -> Result<(), FleetError> {
        let all = self.present();
        self.each(&all, &Order::Connect, |member| member.ready.is_some()).await;
        for index in self.present() {
            let member = &mut self.members[index];
            member.totals = Totals::new(member.ready.as_ref().map_or(0, |ready| ready.phases.len()));
        }
        // A database that has just been made could not be told from another before.
        self.lose_unlike(|member| member.ready.as_ref()?.database.clone(), |first, _, _| other_server(first));
        self.lose_unlike(
            |member| member.ready.as_ref().map(|ready| ready.phases.clone()),
            |first, _, _| format!("its requests have other round trips than those of {first}"),
        );
        // Found now, since results that cannot be merged would be found after the test.
        self.lose_unlike(
            |member| member.ready.as_ref().map(|ready| merge::comparable(&ready.config)),
            |first, one, other| {
                format!("it understands the options unlike {first}: {}", merge::differences(one, other))
            },
        );
        self.all_or("opening connections")
    }

    /// Compares the clocks once more, and sets T0 on every machine.
    ///
    /// # Errors
    /// T0 did not reach a machine in time; then all are stopped.
    pub async fn start(&mut self) -> Result<(), FleetError> {
        self.compare_clocks().await;
        self.all_or("comparing the clocks")?;
        let all = self.present();
        let slowest_ns = self.members.iter().filter_map(|member| member.clock).map(|clock| clock.bound_ns).max();
        let head_start = HEAD_START
            + HEAD_START_PER_MACHINE * u32::try_from(all.len()).unwrap_or(u32::MAX)
            + Duration::from_nanos(slowest_ns.unwrap_or_default()).min(CLOCK_WITHIN) * 4;
        self.t0_unix_ns = self.reference.unix_ns_at(now_ns()) + duration_ns(head_start);
        for index in &all {
            let member = &mut self.members[*index];
            member.clock_at_start = member.clock;
            let at_unix_ns = member.t0_there_ns(self.t0_unix_ns);
            member.send(&Order::Start { at_unix_ns });
        }
        let answered = self.until_all(&all, |member| member.is_started);
        if tokio::time::timeout(head_start + STARTED_WITHIN, answered).await.is_err() {
            // The others are running by now, and must not run for long without somebody who watches.
            for index in self.present().into_iter().filter(|index| !self.members[*index].is_started).collect::<Vec<_>>()
            {
                self.lose(index, "it did not answer the order to begin".to_owned());
                self.pending.push_back(FleetEvent::Lost { host: index });
            }
        }
        let engine = &self.plan.plan.engine;
        let planned = Duration::from_nanos(engine.schedule.end_ns()).saturating_add(engine.drain);
        self.deadline = Instant::now().checked_add(
            head_start.saturating_add(planned).saturating_add(RESULT_WITHIN).saturating_add(self.verified_within()),
        );
        self.all_or(STARTING)
    }

    /// How much longer a result may take for the rows to be verified.
    fn verified_within(&self) -> Duration {
        if self.plan.plan.verify { VERIFIED_WITHIN } else { Duration::ZERO }
    }

    /// A machine's part of the schedule.
    fn schedule(&self, index: usize) -> Schedule {
        Schedule { share: self.plan.share(index), ..self.plan.plan.engine.schedule }
    }

    /// Places of the machines of which something is still expected.
    fn present(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|index| self.members[*index].is_present()).collect()
    }

    /// Sends an order to some machines and waits until it is `done` by all of them, or they are lost.
    async fn each(&mut self, hosts: &[usize], order: &Order, done: impl Fn(&Member) -> bool) {
        hosts.iter().for_each(|index| self.members[*index].send(order));
        self.until_all(hosts, done).await;
    }

    async fn until_all(&mut self, hosts: &[usize], done: impl Fn(&Member) -> bool) {
        while hosts.iter().any(|index| self.members[*index].is_present() && !done(&self.members[*index])) {
            let heard = hear(&mut self.heard, &mut self.ticks).await;
            if let Some(event) = self.take(heard) {
                // A machine whose clock is ahead may begin before the last one has answered.
                self.pending.push_back(event);
            }
        }
    }

    /// Estimates the clocks of all machines anew, from some round trips with nothing else under way: clocks drift apart,
    /// so what was measured long ago tells little, however well it was.
    async fn compare_clocks(&mut self) {
        let all = self.present();
        for index in &all {
            self.members[*index].begin_clock_samples(CLOCK_SAMPLES);
        }
        let sampled = self.until_all(&all, |member| member.samples_wanted == 0);
        let _ = tokio::time::timeout(CLOCK_WITHIN, sampled).await;
        self.members.iter_mut().for_each(Member::end_clock_samples);
    }

    /// Loses the machines that are unlike the first one in something.
    fn lose_unlike<T: PartialEq>(
        &mut self,
        of: impl Fn(&Member) -> Option<T>,
        reason: impl Fn(&str, &T, &T) -> String,
    ) {
        let known: Vec<(usize, T)> =
            self.present().into_iter().filter_map(|index| Some((index, of(&self.members[index])?))).collect();
        let Some(((first, like), others)) = known.split_first() else { return };
        let name = self.members[*first].host.name.clone();
        for (index, found) in others.iter().filter(|(_, found)| found != like) {
            self.lose(*index, reason(&name, like, found));
        }
    }

    /// All machines are still there, or the plan says to go on with those that are.
    fn all_or(&self, phase: &'static str) -> Result<(), FleetError> {
        let lost = self
            .members
            .iter()
            .filter_map(|member| Some(FailedVm { hostname: member.host.name.clone(), error: member.lost.clone()? }));
        let failures: Vec<FailedVm> = lost.collect();
        let go_on = self.plan.on_host_loss == Some(OnHostLoss::Continue) && failures.len() < self.members.len();
        if failures.is_empty() || go_on { Ok(()) } else { Err(FleetError::Machines { phase, failures }) }
    }
}

fn other_server(first: &str) -> String {
    format!(
        "it reaches another database server than {first}, and figures of several servers are not those of one; give a \
         --postgres-url that means the same on all machines"
    )
}
