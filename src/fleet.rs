//! One test on many VMs: connect, look, set up, open all connections, start at one T0, watch, collect, clean up.
//!
//! [`Fleet`] goes through these phases in the order of its methods. Every one of them can be given up by dropping its
//! future; [`Fleet::shut_down`] then leaves nothing behind. What is heard meanwhile is taken in by `listen`. Knows SSH and
//! the agent's protocol; nothing of Postgres. Prints nothing.

pub mod binary;
mod check;
pub mod clock;
mod connect;
pub mod deploy;
mod error;
mod event;
mod finish;
pub mod hosts;
mod lines;
mod listen;
pub mod plan;
pub mod ssh;
#[cfg(any(test, fuzzing))]
pub mod tests;
pub mod totals;
mod vm;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::protocol::{Order, PlanOrder, ReadyToRun};
use crate::cli::options::OnHostLoss;
use crate::clock::{duration_ns, now_ns};
use crate::database::mark;
use crate::merge;
use crate::result::FailedVm;
use crate::run::VERIFIED_WITHIN;
use crate::schedule::Schedule;
use crate::workload::script;
use clock::Reference;
use connect::{Connected, binaries};
use deploy::DeployOptions;
pub use error::FleetError;
use error::STARTING;
pub use event::FleetEvent;
pub use finish::HOST_KEYS_OFF;
use listen::{Hearing, RESULT_WITHIN};
use plan::FleetPlan;
use ssh::Sessions;
pub use vm::Vm;

/// How many round trips estimate a clock.
const CLOCK_SAMPLES: u32 = 8;
/// How long they may take.
const CLOCK_WITHIN: Duration = Duration::from_secs(2);
/// How far ahead T0 is set, for the order to arrive everywhere in time; and for each VM more.
const HEAD_START: Duration = Duration::from_millis(500);
const HEAD_START_PER_VM: Duration = Duration::from_millis(10);
/// How long after T0 the answer to the order to begin may come.
const STARTED_WITHIN: Duration = Duration::from_secs(2);
/// What a clock is off by that was never set: ten years, nanoseconds.
const WILD_CLOCK_NS: u64 = 10 * 365 * 86_400 * 1_000_000_000;
/// How long what a lost VM began to set up may go on: until it ends by itself, and its lock is given up.
const SET_UP_OUTLIVES: Duration = Duration::from_secs(18);
/// How long a VM may take for each of what it does before the load: making the tables and emptying them may take ten
/// minutes each.
const PHASE_WITHIN: Duration = Duration::from_secs(30 * 60);
/// How many VMs set up the database at once, once one has done it alone.
const SET_UP_AT_ONCE: usize = 8;

pub struct Fleet {
    plan: FleetPlan,
    sessions: Arc<Sessions>,
    deploy: Arc<DeployOptions>,
    vms: Vec<Vm>,
    connecting: JoinSet<(usize, Result<Connected, String>)>,
    hearing: Hearing,
    course: Course,
    /// What happened before anybody asked for it.
    pending: VecDeque<FleetEvent>,
}

/// The instants of a test.
struct Course {
    reference: Reference,
    /// T0 on it; 0 before it is set.
    t0_unix_ns: u64,
    deadline: Option<Instant>,
    /// When the test was first stopped, nanoseconds after T0.
    closed_ns: Option<u64>,
}

impl Fleet {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// There is no ssh program, or no program to send, or the private folder cannot be made.
    pub fn new(plan: FleetPlan) -> Result<Self, FleetError> {
        let deploy =
            DeployOptions { remote_path: plan.remote_path.clone(), mode: plan.deploy, binaries: binaries(&plan)? };
        Ok(Self {
            vms: plan.hosts.iter().cloned().map(Vm::new).collect(),
            sessions: Arc::new(Sessions::new(plan.ssh.clone())?),
            plan,
            deploy: Arc::new(deploy),
            connecting: JoinSet::new(),
            hearing: Hearing::new(),
            course: Course { reference: Reference::now(), t0_unix_ns: 0, deadline: None, closed_ns: None },
            pending: VecDeque::new(),
        })
    }

    /// All VMs, in the order of their shares.
    pub fn vms(&self) -> &[Vm] {
        &self.vms
    }

    /// How many VMs are not lost.
    pub fn vms_left(&self) -> usize {
        self.present().len()
    }

    /// What to warn of once all VMs are connected.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.sessions.notes();
        warnings.extend(connect::same_vm_warnings(&self.vms));
        warnings
    }

    pub fn plan(&self) -> &FleetPlan {
        &self.plan
    }

    /// T0 on our wall clock, nanoseconds since 1970; 0 before it is set.
    pub fn t0_unix_ns(&self) -> u64 {
        self.course.t0_unix_ns
    }

    /// Tells every VM what to run, lets it look at the database, and compares the clocks. Changes nothing.
    ///
    /// # Errors
    /// All VMs that cannot go on.
    pub async fn preflight(&mut self) -> Result<(), FleetError> {
        let mut options = self.plan.options.clone();
        if self.plan.plan.database.setup_only {
            // An agent is asked for one phase after the other, so it need not know that there will be no load.
            options.load.duration = Duration::from_secs(1);
        }
        let test = mark::random_test();
        for index in self.present() {
            let plan = PlanOrder {
                options: options.clone(),
                test,
                share: self.plan.share(index),
                pgpassword: self.plan.pgpassword.clone(),
            };
            self.vms[index].send(&Order::Plan(Box::new(plan)));
        }
        let all = self.present();
        self.until_all_in_time(&all, PHASE_WITHIN, "look at the database", Vm::has_looked).await;
        self.compare_clocks().await;
        self.lose_with_wild_clocks();
        if !self.plan.plan.database.setup_only {
            self.lose_unlike(|vm| vm.preflight()?.database.clone(), |first, _, _| other_server(first));
        }
        self.all_or("looking at the database")
    }

    /// Makes database and tables ready: one VM alone, then the others, which mostly find it done. All are through
    /// before any begins.
    ///
    /// # Errors
    /// All VMs that cannot go on.
    pub async fn set_up(&mut self) -> Result<(), FleetError> {
        let all = self.present();
        let mut others = all.as_slice();
        while let Some((first, rest)) = others.split_first() {
            others = rest;
            self.set_up_on(&[*first]).await?;
            // Where it was lost and the others go on, the next one does it alone.
            if self.vms[*first].is_set_up() {
                break;
            }
        }
        for group in others.chunks(SET_UP_AT_ONCE) {
            self.set_up_on(group).await?;
        }
        if self.present().len() < all.len() {
            // What a lost VM has begun may still be waiting for a lock in the database, and would empty the tables
            // when the others have begun to write.
            let all = self.present();
            let _ = tokio::time::timeout(SET_UP_OUTLIVES, self.until_all(&all, |_| false)).await;
        }
        Ok(())
    }

    async fn set_up_on(&mut self, vms: &[usize]) -> Result<(), FleetError> {
        self.each(vms, &Order::SetUp, "set up the tables", Vm::is_set_up).await;
        self.all_or("setting up the tables")
    }

    /// Lets every VM open all of its connections.
    ///
    /// # Errors
    /// All VMs that cannot go on.
    pub async fn open_connections(&mut self) -> Result<(), FleetError> {
        let all = self.present();
        self.each(&all, &Order::Connect, "open its connections", Vm::is_ready).await;
        // A database that has just been made could not be told from another before.
        self.lose_unlike(|vm| vm.ready()?.database.clone(), |first, _, _| other_server(first));
        // Found now, since results that cannot be merged would be found after the test.
        for index in self.present() {
            if let Some(reason) = self.vms[index].ready().and_then(|ready| self.not_as_asked(ready)) {
                self.lose(index, reason);
            }
        }
        self.lose_unlike(
            |vm| vm.ready().map(|ready| ready.config.target.clone()),
            |first, one, other| format!("it connects to {other}, and {first} to {one}; {SAME_URL}"),
        );
        self.all_or("opening connections")
    }

    /// Compares the clocks once more, and sets T0 on every VM.
    ///
    /// # Errors
    /// T0 did not reach a VM in time; then all are stopped.
    pub async fn start(&mut self) -> Result<(), FleetError> {
        self.compare_clocks().await;
        self.all_or("comparing the clocks")?;
        let all = self.present();
        self.choose_clock_reference(&all);
        let slowest_ns = self.vms.iter().filter_map(Vm::clock).map(|clock| clock.bound_ns).max();
        let head_start = HEAD_START
            + HEAD_START_PER_VM * u32::try_from(all.len()).unwrap_or(u32::MAX)
            + Duration::from_nanos(slowest_ns.unwrap_or_default()).min(CLOCK_WITHIN) * 4;
        let t0_unix_ns = self.course.reference.unix_ns_at(now_ns()) + duration_ns(head_start);
        self.course.t0_unix_ns = t0_unix_ns;
        for vm in all.iter().map(|index| &self.vms[*index]) {
            vm.send(&Order::Start { at_unix_ns: vm.clocks.there_ns(t0_unix_ns) });
        }
        let answered = self.until_all(&all, Vm::is_started);
        if tokio::time::timeout(head_start + STARTED_WITHIN, answered).await.is_err() {
            // The others are running by now, and must not run for long without somebody who watches.
            for index in self.present().into_iter().filter(|index| !self.vms[*index].is_started()).collect::<Vec<_>>() {
                self.lose_later(index, "it did not answer the order to begin".to_owned());
            }
        }
        let planned = Duration::from_nanos(self.plan.plan.engine.schedule.end_ns());
        let within = head_start.saturating_add(planned).saturating_add(self.result_within());
        self.course.deadline = Instant::now().checked_add(within);
        self.all_or(STARTING)
    }

    /// How long after the end of the window all results have to be there.
    fn result_within(&self) -> Duration {
        let verified_within = if self.plan.plan.database.verify { VERIFIED_WITHIN } else { Duration::ZERO };
        self.plan.plan.engine.drain.saturating_add(RESULT_WITHIN).saturating_add(verified_within)
    }

    fn schedule(&self, index: usize) -> Schedule {
        Schedule { share: self.plan.share(index), ..self.plan.plan.engine.schedule }
    }

    /// The places of the VMs that are not lost.
    fn present(&self) -> Vec<usize> {
        (0..self.vms.len()).filter(|index| self.vms[*index].is_present()).collect()
    }

    /// Sends an order to some VMs and waits until it is `done` by all of them, or they are lost.
    async fn each(&mut self, vms: &[usize], order: &Order, what: &str, done: impl Fn(&Vm) -> bool) {
        vms.iter().for_each(|index| self.vms[*index].send(order));
        self.until_all_in_time(vms, PHASE_WITHIN, what, done).await;
    }

    /// Waits until all are `done`. Those that take too long are lost: a VM may respond and still never get on.
    async fn until_all_in_time(&mut self, vms: &[usize], within: Duration, what: &str, done: impl Fn(&Vm) -> bool) {
        if tokio::time::timeout(within, self.until_all(vms, &done)).await.is_ok() {
            return;
        }
        for index in vms.iter().copied().filter(|index| !done(&self.vms[*index])).collect::<Vec<_>>() {
            self.lose(index, format!("it still responds, but did not {what} within {} min", within.as_secs() / 60));
        }
    }

    async fn until_all(&mut self, vms: &[usize], done: impl Fn(&Vm) -> bool) {
        while vms.iter().any(|index| self.vms[*index].is_present() && !done(&self.vms[*index])) {
            let heard = self.hearing.next().await;
            if let Some(event) = self.take(heard) {
                // A VM whose clock is ahead may begin before the last one has answered.
                self.pending.push_back(event);
            }
        }
    }

    /// Estimates the clocks of all VMs anew, from some round trips with nothing else under way: clocks drift apart, so what
    /// was measured long ago tells little, however well it was.
    async fn compare_clocks(&mut self) {
        let all = self.present();
        for index in &all {
            self.vms[*index].begin_clock_samples(CLOCK_SAMPLES);
        }
        let sampled = self.until_all(&all, |vm| vm.clocks.samples_wanted == 0);
        let _ = tokio::time::timeout(CLOCK_WITHIN, sampled).await;
        self.vms.iter_mut().for_each(|vm| vm.clocks.end_samples());
    }

    /// Fixes the offsets by which T0 is told: those against our clock, or through the database's where that is better.
    fn choose_clock_reference(&mut self, all: &[usize]) {
        let clocks = |index: &usize| {
            let vm = &self.vms[*index];
            (vm.clock(), vm.ready().and_then(|ready| ready.clock_vs_database))
        };
        let known: Vec<clock::Known> = all.iter().map(clocks).collect();
        let through = clock::through_database(&known);
        for (at, index) in all.iter().enumerate() {
            let (_, vs_database) = known[at];
            self.vms[*index].clocks.fix(through.as_ref().and_then(|through| Some((through[at], vs_database?))));
        }
    }

    /// What a VM is about to run otherwise than it was asked to.
    fn not_as_asked(&self, ready: &ReadyToRun) -> Option<String> {
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

    /// Loses the VMs whose clocks are off by decades: ids and results hold times that nobody would believe.
    fn lose_with_wild_clocks(&mut self) {
        for index in self.present() {
            let offset_ns = self.vms[index].clock().map_or(0, |clock| clock.offset_ns.unsigned_abs());
            if offset_ns > WILD_CLOCK_NS {
                let years = offset_ns / (365 * 86_400 * 1_000_000_000);
                self.lose(index, format!("its clock is off by {years} years: set it, and start a time service there"));
            }
        }
    }

    /// Loses the VMs that are unlike most others in something, or unlike the first one where there is no majority.
    fn lose_unlike<T: PartialEq>(&mut self, of: impl Fn(&Vm) -> Option<T>, reason: impl Fn(&str, &T, &T) -> String) {
        let known: Vec<(usize, T)> =
            self.present().into_iter().filter_map(|index| Some((index, of(&self.vms[index])?))).collect();
        let Some((first, like)) = most_common(&known) else { return };
        let name = self.vms[first].host.name.clone();
        for (index, found) in known.iter().filter(|(_, found)| found != like) {
            self.lose(*index, reason(&name, like, found));
        }
    }

    /// All VMs are still there, or the plan says to go on with those that are.
    fn all_or(&self, phase: &'static str) -> Result<(), FleetError> {
        let lost = |vm: &Vm| Some(FailedVm { hostname: vm.host.name.clone(), error: vm.lost()?.to_owned() });
        let failures: Vec<FailedVm> = self.vms.iter().filter_map(lost).collect();
        let go_on = self.plan.on_host_loss == Some(OnHostLoss::Continue) && failures.len() < self.vms.len();
        if failures.is_empty() || go_on { Ok(()) } else { Err(FleetError::Vms { phase, failures }) }
    }
}

/// What stands there most often, with the first VM of those; where two do, the one that comes first.
fn most_common<T: PartialEq>(known: &[(usize, T)]) -> Option<(usize, &T)> {
    let how_often = |like: &T| known.iter().filter(|(_, found)| found == like).count();
    // The last of equals would be taken.
    known.iter().rev().max_by_key(|(_, like)| how_often(like)).map(|(index, like)| (*index, like))
}

const SAME_URL: &str = "give a --postgres-url that means the same on all VMs";

fn other_server(first: &str) -> String {
    format!(
        "it reaches another database server than {first}, and figures of several servers are not those of one; {SAME_URL}"
    )
}
