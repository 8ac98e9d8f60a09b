//! The tables: making them, telling ours from others', emptying them, and putting in what requests refer to.
//!
//! Only tables with our mark, a comment that begins with [`MARK`], are ever written, emptied or dropped.

mod holders;

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::writable;
use crate::measure::outcome::chain;
use crate::postgres::connect::{ConnectError, ConnectErrorKind, Connector};
use crate::postgres::link::{Link, LinkError, Parameters};
use crate::workload::Workload;
use crate::workload::table::{Material, Role, Table};

/// With this begins the comment on every table that our schema files make.
pub const MARK: &str = "postgres_load_test:";

/// Whether the tables survive a crash of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
pub enum Persistence {
    /// ordinary tables: schema.sql
    Logged,
    /// tables without write-ahead log: schema_unlogged.sql
    Unlogged,
}

impl Persistence {
    pub fn name(self) -> &'static str {
        match self {
            Self::Logged => "logged",
            Self::Unlogged => "unlogged",
        }
    }
}

/// Why the database is not ready. Each message is one sentence with a remedy.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("these tables are missing: {}; make them with --setup, or with psql -f schema.sql", .0.join(", "))]
    Missing(Vec<String>),
    #[error(
        "these tables were not made by this tool: {}; nothing was written.{more} {} the load test a database of its own \
         (another name in --postgres-url, with --setup to create it)",
        tables.join(", "),
        if more.ends_with(|c: char| c.is_alphabetic()) { "give" } else { "Give" }
    )]
    NotOurs { tables: Vec<String>, more: String },
    #[error("the database role may not {what}; grant it the right, or use another role in --postgres-url: {cause}")]
    NotAllowed { what: String, cause: String },
    #[error("the database role lacks rights that the run needs: {0}")]
    Rights(String),
    #[error(
        "row security is active on {}: --verify would take rows that the role cannot see for lost. Let the role see all rows \
         (ALTER ROLE … BYPASSRLS), use the owner of the tables, or leave --verify out", .0.join(", ")
    )]
    RowSecurity(Vec<String>),
    #[error(
        "the tables are locked by another session, and were not free within {LOCK_TIMEOUT}{}; is another load test \
         running on this database? Wait for it, use another database, or end that session \
         (SELECT pg_terminate_backend(pid))", told(.0)
    )]
    Locked(Vec<String>),
    #[error(
        "the tables were not emptied before --start-at ({0}): give a later time, and see pg_locks for another session that \
         holds them"
    )]
    Late(String),
    #[error("{0}")]
    ReadOnly(String),
    #[error(
        "there is no database {0}, and that is only the user's name, as none was given: name the database in \
         --postgres-url or PGDATABASE"
    )]
    Unnamed(String),
    #[error(
        "the database {name} is missing, and neither postgres nor template1 can be connected to for creating it; have it \
         created (createdb {name}), or let the role connect to one of them:\npostgres: {postgres}\ntemplate1: {template1}"
    )]
    NoMaintenance { name: String, postgres: Box<ConnectError>, template1: Box<ConnectError> },
    #[error("could not {what}: {cause}")]
    Other { what: String, cause: String },
}

impl SchemaError {
    /// Of a query that failed while it tried to do `what`.
    pub(crate) fn of(what: &str, error: &LinkError) -> Self {
        let (what, cause) = (what.to_owned(), chain(error));
        match error.code() {
            Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => Self::NotAllowed { what, cause },
            Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => Self::Locked(Vec::new()),
            Some(code) if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Self::ReadOnly(format!(
                "could not {what}, since the session cannot write; see SHOW default_transaction_read_only and SELECT \
                 pg_is_in_recovery() there: {cause}"
            )),
            _ => Self::Other { what, cause },
        }
    }
}

fn told(holders: &[String]) -> String {
    if holders.is_empty() { String::new() } else { format!(": {}", holders.join("; ")) }
}

/// The advisory lock under which the schema files make tables.
const SET_UP_LOCK: i64 = 7_021_867_105_284;

/// How long a table that another session holds is waited for: longer than a session of this program outlives its VM.
const LOCK_TIMEOUT: &str = "15s";

/// How long the server may take to make the tables, to empty them or to fill the pool.
const WORK_LIMIT: Option<Duration> = Some(Duration::from_secs(600));

/// How long to wait before a database is tried to be created again.
const CREATE_PAUSE: Duration = Duration::from_millis(200);

/// Connects, making the database first where it is missing and `create` says so.
pub async fn connect(connector: &Connector, create: bool) -> Result<Link, SchemaError> {
    match Link::open(connector).await {
        Err(error) if create && error.kind() == ConnectErrorKind::DatabaseMissing => {
            create_database(connector).await?;
            Ok(Link::open(connector).await?)
        }
        connected => Ok(connected?),
    }
}

async fn create_database(connector: &Connector) -> Result<(), SchemaError> {
    let name = connector.spec().dbname.clone();
    if !connector.spec().is_dbname_given {
        return Err(SchemaError::Unnamed(name));
    }
    let mut link = maintenance(connector, &name).await?;
    let created = match writable::why_not(&mut link).await {
        Ok(Some(why)) => Err(SchemaError::ReadOnly(why)),
        _ => run_create(&mut link, &name).await,
    };
    link.close().await;
    created
}

/// A connection from which a database can be created: to `postgres`, else to `template1`, as createdb does.
async fn maintenance(connector: &Connector, name: &str) -> Result<Link, SchemaError> {
    use ConnectErrorKind::{DatabaseMissing, NotAllowed, Other, TooManyConnections};
    let postgres = match Link::open(&connector.with_dbname("postgres")).await {
        Err(error) if matches!(error.kind(), DatabaseMissing | NotAllowed | Other | TooManyConnections) => {
            Box::new(error)
        }
        connected => return Ok(connected?),
    };
    Link::open(&connector.with_dbname("template1")).await.map_err(|template1| SchemaError::NoMaintenance {
        name: name.to_owned(),
        postgres,
        template1: Box::new(template1),
    })
}

async fn run_create(link: &mut Link, name: &str) -> Result<(), SchemaError> {
    let statement = format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""));
    let mut attempts_left = 20;
    loop {
        let Err(error) = link.ask_within(WORK_LIMIT, &statement).await else { return Ok(()) };
        match error.code() {
            // Another host was first.
            Some(code) if *code == SqlState::DUPLICATE_DATABASE || *code == SqlState::UNIQUE_VIOLATION => return Ok(()),
            // Somebody is connected to the template, another host that creates its database, for example.
            Some(code) if *code == SqlState::OBJECT_IN_USE && attempts_left > 0 => {
                attempts_left -= 1;
                tokio::time::sleep(CREATE_PAUSE).await;
            }
            _ => return Err(SchemaError::of(&format!("create the database {name}"), &error)),
        }
    }
}

/// A table's name as the session's search_path finds it.
#[derive(Clone, Debug)]
struct Found {
    table: Table,
    exists: bool,
    ours: bool,
    persistence: Option<Persistence>,
}

/// Looks for all tables of the workload; refuses those that are not ours.
async fn look(link: &mut Link, tables: &[Table]) -> Result<Vec<Found>, SchemaError> {
    let names: Vec<&str> = tables.iter().map(|table| table.name).collect();
    let sql = "SELECT c.oid IS NOT NULL, coalesce(obj_description(c.oid, 'pg_class'), '') LIKE $2, \
               c.relpersistence = 'u' \
               FROM unnest($1::text[]) WITH ORDINALITY AS wanted(name, position) \
               LEFT JOIN pg_class c ON c.oid = to_regclass(wanted.name) ORDER BY position";
    let rows = link
        .query(sql, &[(&names, Type::TEXT_ARRAY), (&format!("{MARK}%"), Type::TEXT)])
        .await
        .map_err(|error| SchemaError::of("look for the tables", &error))?;
    let persistence = |unlogged| if unlogged { Persistence::Unlogged } else { Persistence::Logged };
    let found = |(table, row): (&Table, tokio_postgres::Row)| Found {
        table: *table,
        exists: row.get(0),
        ours: row.get(1),
        persistence: row.get::<_, Option<bool>>(2).map(persistence),
    };
    let found: Vec<Found> = tables.iter().zip(rows).map(found).collect();
    let foreign: Vec<String> =
        found.iter().filter(|found| found.exists && !found.ours).map(|found| found.table.name.to_owned()).collect();
    if foreign.is_empty() { Ok(found) } else { Err(SchemaError::NotOurs { tables: foreign, more: String::new() }) }
}

/// Makes the tables where they are missing or of the other kind; leaves them alone where they fit. Of several processes
/// that do so at once one makes them, and the others find them. `lock` comes first in the transaction
/// ([`super::mark::Mark::lock_sql`]).
pub async fn set_up(link: &mut Link, workload: &Workload, kind: Persistence, lock: &str) -> Result<(), SchemaError> {
    if fits(link, workload, kind).await? {
        return Ok(());
    }
    let made = make(link, workload, kind, lock).await;
    if made.is_err() {
        // The transaction stays open after an error.
        let _ = link.ask("ROLLBACK").await;
    }
    match made {
        Err(SchemaError::Locked(_)) => {
            Err(SchemaError::Locked(holders::of_tables(link, workload.tables(), Some(SET_UP_LOCK)).await))
        }
        made => made,
    }
}

async fn fits(link: &mut Link, workload: &Workload, kind: Persistence) -> Result<bool, SchemaError> {
    let is_right = |found: &Found| found.ours && (found.table.role == Role::Source || found.persistence == Some(kind));
    Ok(look(link, workload.tables()).await?.iter().all(is_right))
}

async fn make(link: &mut Link, workload: &Workload, kind: Persistence, lock: &str) -> Result<(), SchemaError> {
    let wrong = |error: LinkError| SchemaError::of("make the tables", &error);
    // The lock is that of the schema file, taken beforehand so that a process that had to wait looks again instead of
    // making anew what the other one has just made. With a stricter isolation it would see what was there before.
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; {lock}\
         SELECT pg_advisory_xact_lock({SET_UP_LOCK})"
    );
    link.ask_within(WORK_LIMIT, &begin).await.map_err(wrong)?;
    let rest = match fits(link, workload, kind).await? {
        true => "COMMIT",
        // The file's BEGIN only earns a notice.
        false => workload.schema(kind == Persistence::Unlogged),
    };
    link.ask_within(WORK_LIMIT, rest).await.map_err(wrong)?;
    Ok(())
}

/// Checks that all tables that a run needs are there and ours.
pub async fn check(link: &mut Link, workload: &Workload) -> Result<Persistence, SchemaError> {
    let found = look(link, workload.tables()).await?;
    let needed = found.iter().filter(|found| found.table.role != Role::Source || workload.uses(&found.table));
    let missing: Vec<String> = needed.filter(|found| !found.exists).map(|found| found.table.name.to_owned()).collect();
    if !missing.is_empty() {
        return Err(SchemaError::Missing(missing));
    }
    let unlogged = found.iter().any(|found| found.persistence == Some(Persistence::Unlogged));
    Ok(if unlogged { Persistence::Unlogged } else { Persistence::Logged })
}

/// Empties the tables that are written. [`check`] has to come before.
///
/// It takes no longer than `within`: where other parts of the test begin at a set time, emptying the tables after it
/// would take their rows away. `lock` comes first in the transaction ([`super::mark::Mark::lock_sql`]).
pub async fn reset(
    link: &mut Link,
    workload: &Workload,
    within: Option<Duration>,
    lock: &str,
) -> Result<(), SchemaError> {
    let limit = within
        .map_or(String::new(), |within| format!("SET LOCAL statement_timeout = '{}ms'; ", within.as_millis().max(1)));
    let tables = workload.written_tables().collect::<Vec<_>>().join(", ");
    let sql = format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; {lock}{limit}TRUNCATE {tables}; COMMIT");
    let Err(error) = link.ask_within(WORK_LIMIT, &sql).await else { return Ok(()) };
    let _ = link.ask("ROLLBACK").await;
    let mut holders = async || holders::of_tables(link, workload.tables(), None).await;
    Err(match error.code() {
        Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => SchemaError::Locked(holders().await),
        Some(code) if within.is_some() && *code == SqlState::QUERY_CANCELED => {
            SchemaError::Late(chain(&error) + &told(&holders().await))
        }
        _ => SchemaError::of("empty the tables", &error),
    })
}

/// Puts the material into the database, where it is not there yet. Where this process is the whole test, `alone`, that of
/// other runs is removed, so that it does not pile up.
pub async fn put(link: &mut Link, material: &Material<'_>, alone: bool) -> Result<(), SchemaError> {
    let work = async {
        if link.ask(&material.find).await?.is_empty() {
            if alone {
                link.ask_within(WORK_LIMIT, material.remove_others).await?;
            }
            let parameters: Parameters<'_> = &[(&material.bytes, Type::BYTEA)];
            link.query_within(WORK_LIMIT, &material.insert, parameters).await?;
        }
        Ok(())
    };
    work.await.map_err(|error: LinkError| SchemaError::of(&format!("fill {}", material.what), &error))
}
