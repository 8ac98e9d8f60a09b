//! One run, in order: server → tables → connections → T0 → load → result.
//!
//! [`start_server`], [`reach`], [`set_up`] and [`prepare`] make everything ready, one after the other; [`Ready::start`]
//! begins; [`Live::next`] tells what happens until the result comes. Prints nothing and never exits; what it owns (the
//! throwaway server, connections) goes when it is dropped.

mod open;

pub use open::{Database, reach, set_up};

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::plan::{Plan, Target};
use crate::clock::Epoch;
use crate::database::evidence::Baseline;
use crate::database::mark::{self, Mark, MarkError};
use crate::database::preflight::PoolerError;
use crate::database::schema::SchemaError;
use crate::database::verify;
use crate::engine::session::OpenError;
use crate::engine::{self, EngineDied, Event, PrepareError, Prepared, Running};
use crate::monitor::Monitors;
use crate::monitor::docker::ContainerError;
use crate::monitor::server::WindowTimes;
use crate::postgres::connect::{ConnectError, ConnectErrorKind, Connector};
use crate::postgres::link::{Link, LinkError};
use crate::result::{self, AccountingError, ClockVsDatabase, Config, Context, RunResult, ServerInfo, Verification};
use crate::schedule::Share;
use crate::text::words::thousands;
use crate::throwaway::{ThrowawayError, ThrowawayOptions, ThrowawayServer};
use crate::verdict;
use crate::workload::RequestMaker;
use crate::workload::payload::Pool;
use crate::workload::table::Total;

/// How far ahead of "now" T0 lies, so that every thread is waiting for it.
const HEAD_START: Duration = Duration::from_millis(20);

/// How long [`Live::wind_up`] may take.
pub const VERIFIED_WITHIN: Duration = verify::WITHIN;

/// Connections of a throwaway server in addition to those of the workers.
const SPARE_CONNECTIONS: u32 = 20;

/// Why there is no result. Each message is a sentence with a remedy.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Throwaway(#[from] ThrowawayError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Silent(#[from] LinkError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error(transparent)]
    Mark(#[from] MarkError),
    #[error(transparent)]
    Pooler(#[from] PoolerError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("--start-at passed while the database was made ready; give a later time")]
    StartMissed,
    #[error(transparent)]
    EngineDied(#[from] EngineDied),
    #[error(transparent)]
    Accounting(#[from] AccountingError),
}

impl RunError {
    /// Whether the program itself is at fault.
    pub fn is_bug(&self) -> bool {
        matches!(self, Self::EngineDied(_) | Self::Accounting(_))
    }
}

/// Told what is being done.
pub type Tell<'a> = &'a mut dyn FnMut(&str);

/// Everything ready: only T0 is missing.
pub struct Ready {
    plan: Plan,
    database: Database,
    config: Config,
    maker: RequestMaker,
    prepared: Prepared,
    monitors: Monitors,
}

/// Starts the throwaway server, if one is asked for. Blocks for some seconds.
///
/// # Errors
/// PostgreSQL is not installed, or does not start.
pub fn start_server(plan: &Plan) -> Result<Option<ThrowawayServer>, RunError> {
    match plan.database.target {
        Target::Existing(_) => Ok(None),
        Target::Ephemeral => {
            let workers = u32::try_from(plan.engine.workers).unwrap_or(u32::MAX);
            let max_connections = workers.saturating_add(SPARE_CONNECTIONS);
            Ok(Some(ThrowawayServer::start(&ThrowawayOptions { max_connections, ..ThrowawayOptions::default() })?))
        }
    }
}

/// Opens every connection.
///
/// # Errors
/// One could not be opened, or there is no such container.
pub async fn prepare(plan: Plan, mut database: Database, pool: Pool, tell: Tell<'_>) -> Result<Ready, RunError> {
    let mut monitors = Monitors::attach(plan.docker_container.as_deref()).await?;
    let mut before = None;
    if plan.database.verify {
        let tables = plan.workload.tables();
        before = Link::once(&database.connector, async |link| Baseline::ask(link, tables).await).await??;
    }
    tell(&format!("opening {} connections", plan.engine.workers));
    let nonce = RandomState::new().hash_one(std::process::id());
    let maker = RequestMaker::new(plan.workload, plan.engine.schedule.seed, pool, nonce);
    let mut options = plan.engine.clone();
    options.session.idle_in_transaction = database.found.limits.idle_in_transaction;
    let mut prepared = engine::prepare(options.clone(), database.connector.clone(), maker.clone()).await;
    let is_pooled = database.found.limits.is_pooled();
    if let Err(error) = &prepared
        && is_for_want_of_connections(error, is_pooled)
        && let Some(mark) = database.mark.take()
    {
        // The load needs the mark's connection.
        mark.release().await;
        database.warnings.push(mark::impossible("all connections that can be had are needed for --workers"));
        // Other processes of the test give theirs up at the same time.
        let given_up = Instant::now();
        while given_up.elapsed() < GIVEN_UP_WITHIN {
            tokio::time::sleep(GIVEN_UP_PAUSE).await;
            prepared = engine::prepare(options.clone(), database.connector.clone(), maker.clone()).await;
            if !prepared.as_ref().is_err_and(|error| is_for_want_of_connections(error, is_pooled)) {
                break;
            }
        }
    }
    let prepared = prepared?;
    // Without a coordinator, other shares may empty the tables until the common start.
    let emptied_for = plan.start_at_unix_ns.filter(|_| plan.engine.schedule.share != Share::WHOLE);
    let emptied_for = emptied_for.map(|unix_ns| Duration::from_nanos(unix_ns.saturating_sub(crate::clock::unix_ns())));
    if let Some(mark) = &database.mark {
        mark.watch(before.clone(), emptied_for);
    }
    database.before = before.filter(|_| emptied_for.is_none());
    let target = match &database.server {
        Some(_) => result::THROWAWAY_TARGET.to_owned(),
        None => database.connector.spec().describe(),
    };
    let config = plan.config(target);
    if let Some(watched) = database.watched(&plan) {
        monitors.attach_server(watched).await;
    }
    Ok(Ready { plan, database, config, maker, prepared, monitors })
}

/// For how long the load's connections are tried again once the mark has been given up for them, and the pause before
/// each attempt.
const GIVEN_UP_WITHIN: Duration = Duration::from_millis(1_200);
const GIVEN_UP_PAUSE: Duration = Duration::from_millis(300);

/// Whether there may be too few connections; a pooler in session mode does not answer then.
fn is_for_want_of_connections(error: &PrepareError, is_pooled: bool) -> bool {
    match error {
        PrepareError::TooManyWorkers { .. } => true,
        PrepareError::Open(OpenError::Connect(error)) => error.kind() == ConnectErrorKind::TooManyConnections,
        PrepareError::Open(OpenError::PrepareTimeout) => is_pooled,
        _ => false,
    }
}

impl Ready {
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Version and settings that the server reports, and its tables.
    pub fn server(&self) -> &ServerInfo {
        &self.database.found.info
    }

    /// How this VM's clock compares with the database's.
    pub fn clock_vs_database(&self) -> Option<ClockVsDatabase> {
        self.database.found.clock
    }

    /// What to know of this VM's clock before the load, where `--start-at` depends on it. The result says it too.
    pub fn clock_warning(&self) -> Option<String> {
        open::start_at_warning(&self.plan, self.database.found.clock)
    }

    /// Names of the recorded round trips, in order.
    pub fn phase_names(&self) -> &[String] {
        self.prepared.phase_names()
    }

    pub fn warnings(&self) -> &[String] {
        &self.database.warnings
    }

    /// Fixes T0, as the plan says or as soon as can be, and lets the threads go.
    ///
    /// # Errors
    /// The time of `--start-at` has passed.
    pub fn start(self) -> Result<Live, RunError> {
        let epoch = match self.plan.start_at_unix_ns {
            Some(unix_ns) => Epoch::at_unix_ns(unix_ns).ok_or(RunError::StartMissed)?,
            None => Epoch::after(HEAD_START),
        };
        Ok(self.start_at(epoch))
    }

    /// Lets the threads go, which wait for T0; it should not have passed yet.
    pub fn start_at(self, epoch: Epoch) -> Live {
        let schedule = &self.plan.engine.schedule;
        let [from_ns, to_ns] = [schedule.warmup_ns, schedule.end_ns()].map(|ns| epoch.mono_ns.saturating_add(ns));
        let mut monitors = self.monitors;
        monitors.expect_window(WindowTimes { t0_ns: epoch.mono_ns, from_ns, to_ns });
        Live {
            running: self.prepared.start(epoch),
            monitors,
            plan: self.plan,
            config: self.config,
            maker: self.maker,
            database: self.database,
            failed: 0,
            aborted: None,
        }
    }
}

/// Why a test ends early in which `failed` requests have failed, where `--abort-on-errors` says so.
pub fn aborts(limit: Option<u64>, failed: u64) -> Option<String> {
    let limit = limit.filter(|limit| failed >= *limit)?;
    let failed = thousands(failed);
    Some(format!("Ended early by --abort-on-errors {limit}: {failed} requests had failed"))
}

/// A run under way.
pub struct Live {
    running: Running,
    monitors: Monitors,
    plan: Plan,
    config: Config,
    maker: RequestMaker,
    database: Database,
    /// Requests that have failed, the warm-up included.
    failed: u64,
    aborted: Option<String>,
}

/// Asks how much all parts of a test have added to the workload's total. Keeps the tables marked meanwhile.
pub struct TotalCounter {
    connector: Connector,
    total: Total,
    before: u64,
    tables: Baseline,
    _mark: Option<Arc<Mark>>,
}

impl TotalCounter {
    /// How long [`Self::count`] may take.
    pub const WITHIN: Duration = Duration::from_secs(15);

    /// What was added since the run began; `None` where the database does not tell in time.
    pub async fn count(&self) -> Option<u64> {
        let count = async |link: &mut Link| verify::total_since(link, &self.total, &self.tables).await;
        let counted = tokio::time::timeout(Self::WITHIN, Link::once(&self.connector, count));
        let count = counted.await.ok()?.ok()?.ok()??;
        Some(count.saturating_sub(self.before))
    }
}

impl Live {
    pub fn epoch(&self) -> Epoch {
        self.running.epoch()
    }

    /// The first stop closes the window and waits for what is in flight; the second one abandons it.
    pub fn stop(&mut self, at_once: bool) {
        self.monitors.close();
        if at_once { self.running.abort() } else { self.running.interrupt() }
    }

    /// How long the run was meant to go on after T0, seconds.
    pub fn planned_seconds(&self) -> u64 {
        self.plan.engine.schedule.end_ns().div_ceil(1_000_000_000)
    }

    /// The newest readings of the monitors, for the live line.
    pub fn watched(&self) -> Vec<String> {
        self.monitors.live()
    }

    /// Waits for what happens next. May be dropped and called again.
    ///
    /// # Errors
    /// A generator thread has panicked.
    pub async fn next(&mut self) -> Result<Event, RunError> {
        let event = tokio::select! {
            event = self.running.next() => event?,
            never = self.monitors.follow() => match never {},
        };
        if let Event::Second { recorded, .. } = &event {
            self.failed = self.failed.saturating_add(recorded.counters.errors());
            if let Some(reason) = aborts(self.plan.abort_on_errors, self.failed).filter(|_| self.aborted.is_none()) {
                self.aborted = Some(reason);
                self.stop(false);
            }
        }
        Ok(event)
    }

    /// Why the run ended itself, if it did.
    pub fn aborted(&self) -> Option<&str> {
        self.aborted.as_deref()
    }

    /// What is asked once the run has finished: of the server, what it counted, some seconds at most; where the plan asks
    /// for it, what the database holds, up to [`VERIFIED_WITHIN`]. May be dropped.
    pub async fn wind_up(&mut self, record: &engine::RunRecord) -> Option<Verification> {
        let Self { monitors, plan, maker, database, .. } = self;
        tokio::join!(verify_rows(plan, maker, database, record), monitors.conclude()).0
    }

    /// For reading the workload's total once all parts of a test are over, where the plan says `--verify`.
    pub fn total_counter(&self) -> Option<TotalCounter> {
        Some(TotalCounter {
            connector: self.database.connector.clone(),
            total: self.plan.workload.total()?,
            before: self.database.total_before?,
            tables: self.database.before()?,
            _mark: self.database.mark.clone(),
        })
    }

    /// Gives the tables up: another test may have them. Ask the database nothing after this.
    pub async fn release(&self) {
        if let Some(mark) = &self.database.mark {
            mark.release().await;
        }
    }

    /// [`Self::wind_up`] was given up.
    pub fn unverified(&self, record: &engine::RunRecord) -> Option<Verification> {
        let counters = record.recorder.counters;
        let (acknowledged, unsettled) = (counters.acknowledged(), counters.unsettled());
        let failed = || Verification::failed(acknowledged, unsettled, "it was interrupted".to_owned());
        self.plan.database.verify.then(failed)
    }

    /// The result of a run that has finished, judged; `stopped` tells whether a signal came before its end. Removes the
    /// throwaway server.
    ///
    /// # Errors
    /// The requests do not add up, which is a bug.
    pub fn conclude(
        self,
        record: &engine::RunRecord,
        verification: Option<Verification>,
        stopped: bool,
    ) -> Result<RunResult, RunError> {
        let mut warnings = self.database.warnings;
        warnings.extend(record.epoch.warning_of_set(Epoch::now()));
        warnings.extend(self.database.mark.as_ref().and_then(|mark| mark.warning()));
        let context = Context {
            hostname: crate::machine::hostname(),
            config: self.config,
            server: self.database.found.info,
            clock_vs_database: self.database.found.clock,
            schedule: self.plan.engine.schedule,
            findings: self.monitors.into_findings(),
            verification,
            aborted: self.aborted,
            warnings,
        };
        let mut result = result::assemble(record, context)?;
        result.run.interrupted |= stopped;
        verdict::judge(&mut result, &self.plan.criteria);
        Ok(result)
    }
}

/// What the database holds of a run that has finished, where the plan asks for it.
async fn verify_rows(
    plan: &Plan,
    maker: &RequestMaker,
    database: &Database,
    record: &engine::RunRecord,
) -> Option<Verification> {
    if !plan.database.verify {
        return None;
    }
    let recorder = &record.recorder;
    let (acknowledged, unsettled) = (recorder.counters.acknowledged(), recorder.counters.unsettled());
    let alone = plan.engine.schedule.share == Share::WHOLE;
    let unix_ms = |after_t0_ns: u64| (record.epoch.unix_ns + after_t0_ns) / 1_000_000;
    let claims = verify::Claims {
        acknowledged,
        unsettled,
        unsettled_ids: recorder.unsettled.iter().map(|request| maker.id_of(request.slot, request.unix_ms)).collect(),
        tag: maker.tag(),
        unix_ms: (unix_ms(0), unix_ms(record.window_end_ns)),
        workload: plan.workload,
        total_before: database.total_before.filter(|_| alone),
        before: database.before(),
        disturbed: database.mark.as_ref().and_then(|mark| mark.disturbed()),
    };
    Some(verify::verify(&database.connector, &claims).await)
}
