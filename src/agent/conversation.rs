//! The agent's side of the conversation, from the plan to the result: one phase for each order.
//!
//! Whatever is under way is dropped when the coordinator is gone, or when it orders something else meanwhile. Times are
//! nanoseconds of the wall clock where they go over the wire, and of the monotonic clock otherwise.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::coordinator::Coordinator;
use super::protocol::{AgentEvent, Order, PlanOrder, Preflight, ReadyToRun, Snapshot, name_of};
use crate::cli::plan::Plan;
use crate::clock::{self, Epoch};
use crate::engine::{self, Incident};
use crate::machine::{self, Room};
use crate::measure::outcome::chain;
use crate::postgres::conninfo::Environment;
use crate::result::Verification;
use crate::run::{self, Live, RunError, TotalCounter};
use crate::signals::Stops;
use crate::workload::payload::Pool;

/// T0 may lie this far ahead, nanoseconds: an hour. What is further comes from a clock that is wrong.
const FURTHEST_START_NS: u64 = 3_600 * 1_000_000_000;

/// As many shares as there can be, as on the command line.
const MOST_SHARES: u64 = 100_000;

/// Incidents told between two seconds; more of them are counted all the same.
const INCIDENTS_A_SECOND: usize = 5;

/// Characters of an incident's message that are told.
const INCIDENT_CHARS: usize = 300;

/// How long the result may take to be written when the coordinator has hung up already.
const LAST_WORDS: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) enum End {
    Done,
    /// The agent cannot go on: a sentence, yet to be told.
    Failed(String),
    /// The coordinator is gone: a sentence.
    Gone(String),
}

impl From<RunError> for End {
    fn from(error: RunError) -> Self {
        Self::Failed(chain(&error))
    }
}

pub(super) struct Conversation {
    coordinator: Coordinator,
    stops: Stops,
    /// After the run, where the plan says `--verify`.
    total: Option<TotalCounter>,
}

enum Turn {
    Order(Order),
    /// Somebody on this machine wants the agent to stop.
    Signal,
}

impl Conversation {
    pub(super) fn new(coordinator: Coordinator, stops: Stops) -> Self {
        Self { coordinator, stops, total: None }
    }

    /// All phases, up to the result. Returns the number of that message.
    pub(super) async fn run(&mut self) -> Result<u64, End> {
        let order = match self.next().await? {
            Turn::Order(Order::Plan(order)) => *order,
            turn => return Err(out_of_turn(&turn, "plan")),
        };
        let plan = resolve(order)?;
        machine::check(&plan, &Room::of_process()).map_err(End::Failed)?;
        let drawing = draw(&plan);

        let reached = self.during(run::reach(&plan, None, &mut quiet)).await??;
        self.say(AgentEvent::Preflight(Box::new(Preflight {
            server: reached.info().cloned(),
            database: reached.identity().map(str::to_owned),
            target: reached.describe(),
            workers: plan.engine.workers,
            clock_vs_database: reached.clock(),
        })));

        self.expect("set_up", |order| matches!(order, Order::SetUp)).await?;
        let pool = self.during(drawing).await?;
        let pool = pool.map_err(|error| End::Failed(format!("the payloads could not be drawn: {error}")))?;
        let database = self.during(run::set_up(&plan, reached, Some(&pool), &mut quiet)).await??;
        let identity = database.identity().map(str::to_owned);
        self.say(AgentEvent::SetUp);

        self.expect("connect", |order| matches!(order, Order::Connect)).await?;
        let ready = self.during(run::prepare(plan, database, pool, &mut quiet)).await??;
        self.say(AgentEvent::Ready(Box::new(ReadyToRun {
            config: ready.config().clone(),
            server: ready.server().clone(),
            database: identity,
            phases: ready.phase_names().to_vec(),
            warnings: ready.warnings().to_vec(),
            clock_vs_database: ready.clock_vs_database(),
        })));

        let epoch = match self.next().await? {
            Turn::Order(Order::Start { at_unix_ns }) => epoch(at_unix_ns)?,
            turn => return Err(out_of_turn(&turn, "start")),
        };
        let ahead_ns = epoch.mono_ns.saturating_sub(clock::now_ns());
        let live = ready.start_at(epoch);
        self.say(AgentEvent::Started { ahead_ms: ahead_ns as f64 / 1e6 });
        self.drive(live).await
    }

    /// Tells of the run until it is over, and says the result. Returns the number of that message.
    async fn drive(&mut self, mut live: Live) -> Result<u64, End> {
        let (mut signals, mut incidents, mut is_aborted) = (0, 0, false);
        let mut readings = Vec::new();
        loop {
            let event = tokio::select! {
                event = live.next() => event?,
                turn = self.next() => {
                    match turn? {
                        Turn::Order(Order::Stop) => live.stop(false),
                        Turn::Order(Order::Abort) => {
                            is_aborted = true;
                            live.stop(true);
                        }
                        Turn::Signal => {
                            signals += 1;
                            is_aborted |= signals > 1;
                            live.stop(is_aborted);
                        }
                        turn => return Err(out_of_turn(&turn, "stop or abort")),
                    }
                    continue;
                }
            };
            match event {
                engine::Event::Second { index, recorded } => {
                    incidents = 0;
                    self.say(AgentEvent::Second(Box::new(Snapshot::new(index, &recorded))));
                    let newest = live.watched();
                    if newest != readings {
                        readings.clone_from(&newest);
                        self.say(AgentEvent::Watched { readings: newest });
                    }
                }
                engine::Event::Incident(Incident::StoodStill { started_s, seconds }) => {
                    let message = format!("for {seconds:.1} s at {started_s:.1} s");
                    self.say(AgentEvent::Incident { class: "the generator stood still".to_owned(), message });
                }
                engine::Event::Incident(Incident::NewError(failure) | Incident::ReconnectFailed(failure)) => {
                    incidents += 1;
                    if incidents <= INCIDENTS_A_SECOND {
                        let message = failure.message.chars().take(INCIDENT_CHARS).collect();
                        self.say(AgentEvent::Incident { class: failure.class, message });
                    }
                }
                engine::Event::Finished(record) => {
                    self.total = live.total_counter();
                    let verification = match is_aborted {
                        true => live.unverified(&record),
                        false => self.wind_up(&mut live, &record).await?,
                    };
                    // Who is told to end at once ends its connections by ending.
                    if self.total.is_none() && !is_aborted {
                        live.release().await;
                    }
                    // An order to stop that came after this VM's window cost its share nothing.
                    let result = live.conclude(&record, verification, false)?;
                    return Ok(self.coordinator.outbox.say(AgentEvent::Result(Box::new(result))));
                }
            }
        }
    }

    /// Asks what is known only after the run, and counts its rows, unless it is told to make an end of it.
    async fn wind_up(&mut self, live: &mut Live, record: &engine::RunRecord) -> Result<Option<Verification>, End> {
        {
            let mut winding_up = pin!(live.wind_up(record));
            loop {
                let turn = tokio::select! {
                    verification = &mut winding_up => return Ok(verification),
                    turn = self.next() => turn?,
                };
                // The window of this VM has closed already.
                if !matches!(turn, Turn::Order(Order::Stop)) {
                    break;
                }
            }
        }
        Ok(live.unverified(record))
    }

    /// Stays for the coordinator's last pings, until it hangs up or says no more. `result` is the message that has to
    /// reach it; pongs that do not are no loss.
    pub(super) async fn linger(&mut self, result: u64) -> End {
        let reason = loop {
            let order = tokio::select! {
                biased;
                reason = gone(&mut self.coordinator.gone) => break reason,
                Some(order) = self.coordinator.orders.recv() => order,
            };
            // All others came too late to matter.
            let Order::CountTotal = order else { continue };
            let count = match &self.total {
                None => None,
                Some(counter) => tokio::select! {
                    biased;
                    reason = gone(&mut self.coordinator.gone) => break reason,
                    count = counter.count() => count,
                },
            };
            self.coordinator.outbox.say(AgentEvent::Total { count });
        };
        match tokio::time::timeout(LAST_WORDS, self.coordinator.outbox.written(result)).await {
            Ok(()) => End::Done,
            Err(_) => End::Gone(reason),
        }
    }

    /// Completes when the coordinator is gone: why, in a sentence.
    pub(super) async fn gone(&mut self) -> String {
        gone(&mut self.coordinator.gone).await
    }

    fn say(&self, event: AgentEvent) {
        self.coordinator.outbox.say(event);
    }

    async fn next(&mut self) -> Result<Turn, End> {
        tokio::select! {
            biased;
            reason = gone(&mut self.coordinator.gone) => Err(End::Gone(reason)),
            () = self.stops.next() => Ok(Turn::Signal),
            Some(order) = self.coordinator.orders.recv() => Ok(Turn::Order(order)),
        }
    }

    async fn expect(&mut self, due: &str, is_due: impl Fn(&Order) -> bool) -> Result<(), End> {
        match self.next().await? {
            Turn::Order(order) if is_due(&order) => Ok(()),
            turn => Err(out_of_turn(&turn, due)),
        }
    }

    /// Does something to its end, unless something comes from outside.
    async fn during<F: Future>(&mut self, work: F) -> Result<F::Output, End> {
        tokio::select! {
            biased;
            turn = self.next() => Err(out_of_turn(&turn?, "stop or abort")),
            output = work => Ok(output),
        }
    }
}

async fn gone(news: &mut watch::Receiver<Option<String>>) -> String {
    match news.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone().unwrap_or_default(),
        Err(_) => "the agent no longer listens".to_owned(),
    }
}

/// What becomes of a conversation in which something else came than was due.
fn out_of_turn(turn: &Turn, due: &str) -> End {
    End::Failed(match turn {
        Turn::Signal | Turn::Order(Order::Stop | Order::Abort) => "stopped before the load began".to_owned(),
        Turn::Order(order) => format!(
            "the order {} came where {due} was due; are coordinator and agent of one version?",
            name_of(order, "order")
        ),
    })
}

/// What the options mean here, or all that is wrong with them.
fn resolve(order: PlanOrder) -> Result<Plan, End> {
    let PlanOrder { mut options, test, share, pgpassword } = order;
    let mut faults = Vec::new();
    let mut refuse = |is_given: bool, fault: &str| {
        if is_given {
            faults.push(fault.to_owned());
        }
    };
    refuse(options.local.ephemeral, "--ephemeral: each VM would have a server of its own; give --postgres-url instead");
    refuse(
        options.local.docker_container.is_some(),
        "--docker-container: only load_test itself watches a container; leave it out",
    );
    refuse(options.part.share.is_some(), "--share: the coordinator gives each VM its share; leave it out");
    refuse(options.part.start_at_unix_ns.is_some(), "--start-at: the coordinator says when to begin; leave it out");
    refuse(
        share.of == 0 || share.of > MOST_SHARES || share.index >= share.of,
        "the coordinator gave a share that does not exist; are coordinator and agent of one version?",
    );
    // What concerns the output is up to the coordinator, and what was refused need not be judged any further.
    (options.local, options.part, options.output) = Default::default();
    // The coordinator has put all that its own environment says into the connection string.
    let mut environment = Environment::of_process().without_variables();
    if let Some(password) = &pgpassword {
        environment = environment.with("PGPASSWORD", password);
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    match Plan::resolve(&options, &environment, clock::unix_ns(), processors) {
        Ok(plan) if plan.database.setup_only => {
            faults.push("--duration: 0 measures nothing; give a longer one".to_owned());
        }
        Ok(plan) if faults.is_empty() => return Ok(plan.coordinated(test, share, options.target.no_reset)),
        Ok(_) => {}
        Err(wrong) => faults.extend(wrong.iter().map(ToString::to_string)),
    }
    Err(End::Failed(faults.join("; ")))
}

/// Draws the text from which documents are cut, beside everything else: it may be hundreds of megabytes.
fn draw(plan: &Plan) -> JoinHandle<Pool> {
    let (workload, seed) = (plan.workload, plan.engine.schedule.seed);
    tokio::task::spawn_blocking(move || workload.pool(seed))
}

/// T0 on both clocks.
fn epoch(at_unix_ns: u64) -> Result<Epoch, End> {
    let now_ns = clock::unix_ns();
    let off =
        |sentence: String| End::Failed(format!("{sentence}; this machine's clock may be off, or its connection slow"));
    if at_unix_ns.saturating_sub(now_ns) > FURTHEST_START_NS {
        return Err(off("T0 is more than an hour away by this machine's clock".to_owned()));
    }
    Epoch::at_unix_ns(at_unix_ns).ok_or_else(|| {
        let late_ms = now_ns.saturating_sub(at_unix_ns) as f64 / 1e6;
        off(format!("T0 had passed by {late_ms:.1} ms when the order to start came"))
    })
}

fn quiet(_: &str) {}
