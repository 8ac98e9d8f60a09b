//! The database before the load, in two steps between which other VMs may catch up: [`reach`] changes nothing,
//! [`set_up`] makes everything ready.

use std::sync::Arc;
use std::time::Duration;

use super::{RunError, Tell};
use crate::cli::plan::{Plan, Target};
use crate::database::clock;
use crate::database::evidence::Baseline;
use crate::database::foreign;
use crate::database::limits::{self, SessionLimits};
use crate::database::mark::{self, Claim, Mark, Marking};
use crate::database::preflight;
use crate::database::rights;
use crate::database::schema::{self, SchemaError};
use crate::database::verify;
use crate::database::writable;
use crate::monitor::server::{Begins, Watched};
use crate::postgres::connect::{ConnectErrorKind, Connector};
use crate::postgres::conninfo::{ConnectionSpec, Environment};
use crate::postgres::link::Link;
use crate::result::{ClockVsDatabase, ServerInfo};
use crate::schedule::Share;
use crate::throwaway::ThrowawayServer;
use crate::verdict::clocks::LIMIT_MS as CLOCK_LIMIT_MS;
use crate::workload::payload::Pool;

/// A database server that answers, perhaps a throwaway server. No connection is open.
pub struct Reached {
    connector: Connector,
    server: Option<ThrowawayServer>,
    found: Option<Found>,
}

/// What a database reports.
pub(super) struct Found {
    pub(super) info: ServerInfo,
    identity: Option<String>,
    pub(super) limits: SessionLimits,
    pub(super) clock: Option<ClockVsDatabase>,
}

/// A database whose tables are ready, perhaps on a throwaway server.
pub struct Database {
    pub(super) connector: Connector,
    pub(super) server: Option<ThrowawayServer>,
    pub(super) found: Found,
    pub(super) warnings: Vec<String>,
    /// [`verify::total`] before the run, if it is needed after it.
    pub(super) total_before: Option<u64>,
    /// What the tables are before the load, where all processes of the test have emptied them by then.
    pub(super) before: Option<Baseline>,
    /// That the tables are this test's; absent where they could not be marked.
    pub(super) mark: Option<Arc<Mark>>,
}

/// Connects, and asks what there is. Changes nothing. With `--setup` it is no error that the database is missing.
///
/// # Errors
/// The server cannot be reached, or stands behind a pooler that loses prepared statements.
pub async fn reach(plan: &Plan, server: Option<ThrowawayServer>, tell: Tell<'_>) -> Result<Reached, RunError> {
    let spec = match (&plan.database.target, &server) {
        (Target::Existing(spec), _) => (**spec).clone(),
        // The process's PG… variables are meant for other servers than this one.
        (Target::Ephemeral, Some(server)) => {
            ConnectionSpec::parse(&server.connection_string(), &Environment::default())
                .unwrap_or_else(|error| unreachable!("the throwaway server's own string: {error}"))
        }
        (Target::Ephemeral, None) => unreachable!("start_server comes first"),
    };
    tell(&format!("connecting to {}", spec.describe()));
    let connector = Connector::new(spec, &plan.database.application_name)?;
    let found = match Link::open(&connector).await {
        Ok(mut link) => {
            let found = look(plan, &mut link, &connector).await?;
            link.close().await;
            Some(found)
        }
        Err(error) if plan.database.setup.is_some() && error.kind() == ConnectErrorKind::DatabaseMissing => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Reached { connector, server, found })
}

async fn look(plan: &Plan, link: &mut Link, connector: &Connector) -> Result<Found, RunError> {
    let info = preflight::server_info(link).await?;
    if let Some(why) = writable::why_not(link).await? {
        return Err(SchemaError::ReadOnly(why).into());
    }
    let identity = preflight::identity(link).await;
    let clock = clock::compare(link).await;
    if !plan.engine.session.pipeline && !plan.database.setup_only {
        preflight::check_transactions(link).await?;
    }
    if plan.engine.session.prepared && !plan.database.setup_only {
        preflight::check_prepared_statements(link, connector).await?;
    }
    let limits = limits::lacking(link).await?;
    let info = ServerInfo { pooled: limits.pooled, ..info };
    Ok(Found { info, identity, limits, clock })
}

impl Reached {
    /// What the server reports, without tables; `None` where the database does not exist yet.
    pub fn info(&self) -> Option<&ServerInfo> {
        self.found.as_ref().map(|found| &found.info)
    }

    /// [`preflight::identity`]; `None` also where the database is still to be created.
    pub fn identity(&self) -> Option<&str> {
        self.found.as_ref()?.identity.as_deref()
    }

    /// [`clock::compare`]; `None` also where the database is still to be created.
    pub fn clock(&self) -> Option<ClockVsDatabase> {
        self.found.as_ref()?.clock
    }

    /// Where it is; never a password.
    pub fn describe(&self) -> String {
        self.connector.spec().describe()
    }
}

/// Makes database and tables ready: creates them (`--setup`), or looks whether they are there; empties them; fills the
/// pool for server-side data. Several processes may do so at once. Without a `pool` no load follows, and nothing is
/// emptied or filled.
///
/// # Errors
/// Tables are missing or not ours, the role may not, or `--start-at` passed.
pub async fn set_up(plan: &Plan, reached: Reached, pool: Option<&Pool>, tell: Tell<'_>) -> Result<Database, RunError> {
    let Reached { connector, server, found } = reached;
    let mut link = schema::connect(&connector, plan.database.setup.is_some()).await?;
    let mut found = match found {
        Some(found) => found,
        None => look(plan, &mut link, &connector).await?,
    };
    let connector = connector.with_session_settings(&found.limits.session_sql);
    tell("marking the tables as in use");
    let claim = Claim::new(plan.test, plan.engine.schedule.share);
    let setup = plan.database.setup.is_some();
    let (mark, unmarked) = match mark::take(&connector, &mut link, &plan.workload, claim, setup).await? {
        Marking::Held(mark) => (Some(Arc::new(mark)), None),
        Marking::Impossible(why) => (None, Some(why)),
    };
    let lock = mark.as_ref().map_or("", |mark| mark.lock_sql());
    if let Some(kind) = plan.database.setup {
        tell(&format!("making sure that the {} tables are there", kind.name()));
        let made = schema::set_up(&mut link, &plan.workload, kind, lock).await;
        foreign::explained(&mut link, made).await?;
    }
    let checked = schema::check(&mut link, &plan.workload).await;
    let kind = foreign::explained(&mut link, checked).await?;
    found.info.tables = Some(kind.name().to_owned());
    if pool.is_some() {
        rights::check(&mut link, &plan.workload, plan.database.reset, plan.database.verify).await?;
    }
    if plan.database.reset && pool.is_some() {
        tell("emptying the tables");
        let left = |unix_ns| left_until(unix_ns).ok_or(RunError::StartMissed);
        let within = plan.start_at_unix_ns.map(left).transpose()?;
        schema::reset(&mut link, &plan.workload, within, lock).await?;
    }
    let schedule = &plan.engine.schedule;
    if let Some(material) = pool.and_then(|pool| plan.workload.material(schedule.seed, pool)) {
        tell(&format!("filling {}", material.what));
        schema::put(&mut link, &material, schedule.share == Share::WHOLE).await?;
    }
    let total_before = match plan.workload.total().filter(|_| plan.database.verify && pool.is_some()) {
        Some(total) => {
            let counted = verify::total(&mut link, &total).await;
            Some(counted.map_err(|error| SchemaError::of(&format!("count the {}", total.unit), &error))?)
        }
        None => None,
    };
    // Setting up may have taken long, and clocks drift.
    found.clock = clock::compare(&mut link).await.or(found.clock);
    link.close().await;
    if pool.is_none()
        && let Some(mark) = &mark
    {
        mark.release().await;
    }
    let mut warnings: Vec<String> = connector.warnings().iter().chain(&plan.warnings).cloned().collect();
    if server.as_ref().is_some_and(ThrowawayServer::in_memory) {
        warnings.push("The throwaway server's files are in memory, which is faster than any disk.".to_owned());
    }
    warnings.extend(start_at_warning(plan, found.clock));
    warnings.extend(unmarked);
    Ok(Database { connector, server, found, warnings, total_before, before: None, mark })
}

impl Database {
    /// What the tables were before the load, if it is known.
    pub(super) fn before(&self) -> Option<Baseline> {
        self.before.clone().or_else(|| self.mark.as_ref()?.before())
    }

    /// What the server monitor watches during this run. One process of a test has that monitor.
    pub(super) fn watched(&self, plan: &Plan) -> Option<Watched> {
        let share = plan.engine.schedule.share;
        (plan.database.server_stats && share.index == 0).then(|| Watched {
            connector: self.connector.clone(),
            is_pooled: self.found.limits.may_be_pooled(),
            left_out: mark::APPLICATION_NAME_LIKE,
            tables: plan.workload.used_tables().collect(),
            hostname: crate::machine::hostname(),
            begins: match (share.of, plan.start_at_unix_ns) {
                (1, _) => Begins::AtOnce,
                (_, None) => Begins::WithT0Known,
                (_, Some(_)) => Begins::AtT0,
            },
        })
    }

    /// What the server reports, with the tables.
    pub fn info(&self) -> &ServerInfo {
        &self.found.info
    }

    /// [`preflight::identity`]
    pub fn identity(&self) -> Option<&str> {
        self.found.identity.as_deref()
    }

    /// Where it is; never a password.
    pub fn describe(&self) -> String {
        self.connector.spec().describe()
    }
}

/// What to know of a start at an instant of this VM's wall clock, where that is certainly not the database's.
pub(super) fn start_at_warning(plan: &Plan, clock: Option<ClockVsDatabase>) -> Option<String> {
    plan.start_at_unix_ns?;
    let ClockVsDatabase { offset_ms, bound_ms } = clock?;
    (offset_ms.abs() - bound_ms > CLOCK_LIMIT_MS).then(|| {
        let seconds = offset_ms.abs() / 1e3;
        let (how, when) = if offset_ms < 0.0 { ("behind", "later") } else { ("ahead of", "earlier") };
        format!(
            "This VM's clock is {seconds:.1} s {how} the database's, and --start-at is by this VM's clock: it starts \
             {seconds:.1} s {when} than a VM whose clock agrees with the database's. Set the clocks (chrony or another \
             NTP client)."
        )
    })
}

/// How long until an instant of the wall clock; `None` if it has passed, or nearly.
fn left_until(unix_ns: u64) -> Option<Duration> {
    const LEAST: Duration = Duration::from_millis(50);
    let left = Duration::from_nanos(unix_ns.checked_sub(crate::clock::unix_ns())?);
    left.checked_sub(LEAST).filter(|left| !left.is_zero())
}
