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

use crate::agent::protocol::{Order, PlanOrder, Ready};
use crate::cli::options::OnHostLoss;
use crate::clock::{duration_ns, now_ns};
use crate::database::mark;
use crate::measure::recorder::Interval;
use crate::merge;
use crate::result::FailedVm;
use crate::run::VERIFIED_WITHIN;
use crate::schedule::Schedule;
use crate::workload::script;
use channel::Heard;
use clock::Reference;
use connect::{Connected, binaries};
use deploy::DeployOptions;
pub use error::FleetError;
use error::STARTING;
pub use finish::HOST_KEYS_OFF;
use listen::{RESULT_WITHIN, hear};
pub use member::Member;
use plan::FleetPlan;
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
/// What a clock is off by that was never set: ten years, nanoseconds.
const WILD_CLOCK_NS: u64 = 10 * 365 * 86_400 * 1_000_000_000;
/// How long what a lost machine began to set up may go on: until it ends by itself, and its lock is given up.
const SET_UP_OUTLIVES: Duration = Duration::from_secs(18);
/// How long a machine may take for each of what it does before the load: making the tables and emptying them may take ten
/// minutes each.
const PHASE_WITHIN: Duration = Duration::from_secs(30 * 60);
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
    /// Names the test to the agents.
    test: u32,
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
    /// When the test was first stopped, nanoseconds after T0.
    closed_ns: Option<u64>,
    phase_within: Duration,
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
            test: mark::random_test(),
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
            closed_ns: None,
            phase_within: PHASE_WITHIN,
            pending: VecDeque::new(),
        })
    }

    /// All machines, in the order of their shares.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// What to warn of once all machines are connected.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.sessions.notes();
        warnings.extend(connect::same_machine_warnings(&self.members));
        warnings
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
        if self.plan.plan.database.setup_only {
            // An agent is asked for one phase after the other, so it need not know that there will be no load.
            options.load.duration = Duration::from_secs(1);
        }
        for index in self.present() {
            let plan = PlanOrder {
                options: options.clone(),
                test: self.test,
                share: self.plan.share(index),
                pgpassword: self.plan.pgpassword.clone(),
            };
            self.members[index].send(&Order::Plan(Box::new(plan)));
        }
        let all = self.present();
        self.until_all_in_time(&all, "looked at the database", |member| member.preflight.is_some()).await;
        self.compare_clocks().await;
        self.lose_with_wild_clocks();
        if !self.plan.plan.database.setup_only {
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
            self.set_up_on(&[*first]).await;
            self.all_or("setting up the tables")?;
            // Where it was lost and the others go on, the next one does it alone.
            if self.members[*first].is_set_up {
                break;
            }
        }
        for group in others.chunks(SET_UP_AT_ONCE) {
            self.set_up_on(group).await;
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
        self.each(&all, &Order::Connect, "opened its connections", |member| member.ready.is_some()).await;
        for index in self.present() {
            let member = &mut self.members[index];
            member.totals = Totals::new(member.ready.as_ref().map_or(0, |ready| ready.phases.len()));
        }
        // A database that has just been made could not be told from another before.
        self.lose_unlike(|member| member.ready.as_ref()?.database.clone(), |first, _, _| other_server(first));
        // Found now, since results that cannot be merged would be found after the test.
        for index in self.present() {
            if let Some(reason) = self.members[index].ready.as_ref().and_then(|ready| self.not_as_asked(ready)) {
                self.lose(index, reason);
            }
        }
        self.lose_unlike(
            |member| member.ready.as_ref().map(|ready| ready.config.target.clone()),
            |first, one, other| format!("it connects to {other}, and {first} to {one}; {SAME_URL}"),
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
        self.choose_clock_reference(&all);
        let slowest_ns = self.members.iter().filter_map(|member| member.clock).map(|clock| clock.bound_ns).max();
        let head_start = HEAD_START
            + HEAD_START_PER_MACHINE * u32::try_from(all.len()).unwrap_or(u32::MAX)
            + Duration::from_nanos(slowest_ns.unwrap_or_default()).min(CLOCK_WITHIN) * 4;
        self.t0_unix_ns = self.reference.unix_ns_at(now_ns()) + duration_ns(head_start);
        for index in &all {
            let member = &mut self.members[*index];
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
        if self.plan.plan.database.verify { VERIFIED_WITHIN } else { Duration::ZERO }
    }

    /// A machine's part of the schedule.
    fn schedule(&self, index: usize) -> Schedule {
        Schedule { share: self.plan.share(index), ..self.plan.plan.engine.schedule }
    }

    /// Places of the machines of which something is still expected.
    fn present(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|index| self.members[*index].is_present()).collect()
    }

    async fn set_up_on(&mut self, hosts: &[usize]) {
        self.each(hosts, &Order::SetUp, "set up the tables", |member| member.is_set_up).await;
    }

    /// Sends an order to some machines and waits until it is `done` by all of them, or they are lost.
    async fn each(&mut self, hosts: &[usize], order: &Order, what: &str, done: impl Fn(&Member) -> bool) {
        hosts.iter().for_each(|index| self.members[*index].send(order));
        self.until_all_in_time(hosts, what, done).await;
    }

    /// Waits until all are `done`. Those that take too long are lost: a machine may be alive and still never answer.
    async fn until_all_in_time(&mut self, hosts: &[usize], what: &str, done: impl Fn(&Member) -> bool) {
        let within = self.phase_within;
        if tokio::time::timeout(within, self.until_all(hosts, &done)).await.is_ok() {
            return;
        }
        let late: Vec<usize> = hosts.iter().copied().filter(|index| !done(&self.members[*index])).collect();
        for index in late {
            self.lose(index, format!("it lives, but has not {what} within {} min", within.as_secs() / 60));
        }
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

    /// Fixes the offsets by which T0 is told: those against our clock, or through the database's where that is better.
    fn choose_clock_reference(&mut self, all: &[usize]) {
        let clock_vs_database = |member: &Member| member.ready.as_ref().and_then(|ready| ready.clock_vs_database);
        let known: Vec<clock::Known> = all
            .iter()
            .map(|index| &self.members[*index])
            .map(|member| (member.clock, clock_vs_database(member)))
            .collect();
        let through = clock::through_database(&known);
        for (at, index) in all.iter().enumerate() {
            let member = &mut self.members[*index];
            member.clock_vs_database = through.as_ref().and_then(|_| clock_vs_database(member));
            member.clock_at_start = through.as_ref().map_or(member.clock, |through| Some(through[at]));
        }
    }

    /// In what a machine is about to run something else than it was asked to.
    fn not_as_asked(&self, ready: &Ready) -> Option<String> {
        let plan = &self.plan.plan;
        if ready.phases != script::phase_names(plan.engine.session.pipeline, &plan.workload) {
            return Some("its requests have other round trips than were asked for".to_owned());
        }
        // Where it connects to may depend on what is set there.
        let [asked, understood] = [&plan.config(ready.config.target.clone()), &ready.config].map(merge::comparable);
        let differs = asked != understood;
        differs.then(|| {
            format!("it understands the options otherwise than here: {}", merge::differences(&asked, &understood))
        })
    }

    /// Loses the machines whose clocks are off by decades: ids and results hold times that nobody would believe.
    fn lose_with_wild_clocks(&mut self) {
        for index in self.present() {
            let offset_ns = self.members[index].clock.map_or(0, |clock| clock.offset_ns.unsigned_abs());
            if offset_ns > WILD_CLOCK_NS {
                let years = offset_ns / (365 * 86_400 * 1_000_000_000);
                self.lose(index, format!("its clock is off by {years} years: set it, and start a time service there"));
            }
        }
    }

    /// Loses the machines that are unlike most others in something, or unlike the first one where there is no majority.
    fn lose_unlike<T: PartialEq>(
        &mut self,
        of: impl Fn(&Member) -> Option<T>,
        reason: impl Fn(&str, &T, &T) -> String,
    ) {
        let known: Vec<(usize, T)> =
            self.present().into_iter().filter_map(|index| Some((index, of(&self.members[index])?))).collect();
        let Some((first, like)) = most_common(&known) else { return };
        let name = self.members[first].host.name.clone();
        for (index, found) in known.iter().filter(|(_, found)| found != like) {
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

/// What stands there most often, with the first machine of those; where two do, the one that comes first.
fn most_common<T: PartialEq>(known: &[(usize, T)]) -> Option<(usize, &T)> {
    let how_often = |like: &T| known.iter().filter(|(_, found)| found == like).count();
    // The last of equals would be taken.
    known.iter().rev().max_by_key(|(_, like)| how_often(like)).map(|(index, like)| (*index, like))
}

const SAME_URL: &str = "give a --postgres-url that means the same on all machines";

fn other_server(first: &str) -> String {
    format!(
        "it reaches another database server than {first}, and figures of several servers are not those of one; {SAME_URL}"
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::options::CoordinatorOptions;
    use crate::postgres::conninfo::Environment;

    #[tokio::test]
    async fn a_machine_that_never_gets_ready_is_lost() {
        let options = ["coordinator", "--vms", "a,b", "--deploy", "never", "--on-host-loss", "continue"];
        let options = CoordinatorOptions::try_parse_from(options).unwrap();
        let plan = FleetPlan::resolve(&options, &Environment::of_user("me"), 0, &|_| unreachable!()).unwrap();
        let mut fleet = Fleet::new(plan).unwrap();
        fleet.phase_within = TICK / 2;
        fleet.members[0].is_set_up = true;
        fleet.set_up_on(&[0, 1]).await;
        assert_eq!(fleet.members[0].lost, None);
        let reason = fleet.members[1].lost.as_deref().unwrap();
        assert_eq!(reason, "it lives, but has not set up the tables within 0 min");
    }

    #[test]
    fn one_that_is_unlike_all_others_is_alone_wherever_it_stands() {
        for values in ["baaa", "abaa", "aaab", "abab", "a"] {
            let known: Vec<(usize, char)> = values.chars().enumerate().collect();
            let expected = values.find('a').map(|at| (at, &'a'));
            assert_eq!(most_common(&known), expected, "{values}");
        }
        assert_eq!(most_common::<char>(&[]), None);
    }
}
