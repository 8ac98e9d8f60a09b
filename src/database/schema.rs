//! The tables: making them, telling ours from others', emptying them, and filling the pool for server-side data.
//!
//! Only tables with our mark, a comment that begins with [`MARK`], are ever written, emptied or dropped.

mod holders;

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::writable;
use crate::measure::outcome::chain;
use crate::postgres::connect::{ConnectError, ConnectErrorKind, Connector};
use crate::postgres::link::{Link, LinkError};
use crate::workload::payload::Pool;
use crate::workload::{POOL_TABLE, TABLES};

/// With this begins the comment on every table that our schema files make.
pub const MARK: &str = "postgres_load_test:";

const SCHEMA: &str = include_str!("../../schema.sql");
const SCHEMA_UNLOGGED: &str = include_str!("../../schema_unlogged.sql");

/// Whether the tables survive a crash of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
pub enum Persistence {
    /// ordinary tables: schema.sql
    Logged,
    /// tables without write-ahead log: schema_unlogged.sql
    Unlogged,
}

impl Persistence {
    /// `logged` or `unlogged`
    pub fn name(self) -> &'static str {
        match self {
            Self::Logged => "logged",
            Self::Unlogged => "unlogged",
        }
    }

    fn sql(self) -> &'static str {
        match self {
            Self::Logged => SCHEMA,
            Self::Unlogged => SCHEMA_UNLOGGED,
        }
    }
}

/// Why the database is not ready. Each message is one sentence with a remedy.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Tables are not there.
    #[error("these tables are missing: {}; make them with --setup, or with psql -f schema.sql", .0.join(", "))]
    Missing(Vec<String>),
    /// Tables of our names are somebody else's.
    #[error(
        "these tables were not made by this tool: {}; nothing was written.{more} {} the load test a database of its own \
         (another name in --postgres-url, with --setup to create it)",
        tables.join(", "),
        if more.ends_with(|c: char| c.is_alphabetic()) { "give" } else { "Give" }
    )]
    NotOurs {
        /// Their names.
        tables: Vec<String>,
        /// What they hold, and how they are dropped.
        more: String,
    },
    /// The role may not do something.
    #[error("the database role may not {what}; grant it the right, or use another role in --postgres-url: {cause}")]
    NotAllowed {
        /// What it tried.
        what: String,
        /// The server's words.
        cause: String,
    },
    /// The role may not do what the run does; which rights it lacks, and what to do.
    #[error("the database role lacks rights that the run needs: {0}")]
    Rights(String),
    /// Row security hides rows.
    #[error(
        "row security is active on {}: --verify would take rows that the role cannot see for lost. Let the role see all rows \
         (ALTER ROLE … BYPASSRLS), use the owner of the tables, or leave --verify out", .0.join(", ")
    )]
    RowSecurity(Vec<String>),
    /// Other sessions hold the tables: which, as far as the server tells.
    #[error(
        "the tables are locked by another session, and were not free within {LOCK_TIMEOUT}{}; is another load test \
         running on this database? Wait for it, use another database, or end that session \
         (SELECT pg_terminate_backend(pid))", told(.0)
    )]
    Locked(Vec<String>),
    /// Other parts of the test have begun by now.
    #[error(
        "the tables were not emptied before --start-at ({0}): give a later time, and see pg_locks for another session that \
         holds them"
    )]
    Late(String),
    /// The session cannot write: why, and what to do.
    #[error("{0}")]
    ReadOnly(String),
    /// The database is missing, and its name was never given.
    #[error(
        "there is no database {0}, and that is only the user's name, as none was given: name the database in \
         --postgres-url or PGDATABASE"
    )]
    Unnamed(String),
    /// No other database lets us in to create the missing one.
    #[error(
        "the database {name} is missing, and neither postgres nor template1 can be connected to for creating it; have it \
         created (createdb {name}), or let the role connect to one of them:\npostgres: {postgres}\ntemplate1: {template1}"
    )]
    NoMaintenance {
        /// The missing database.
        name: String,
        /// Why not to `postgres`.
        postgres: Box<ConnectError>,
        /// Why not to `template1`.
        template1: Box<ConnectError>,
    },
    /// Anything else.
    #[error("could not {what}: {cause}")]
    Other {
        /// What it tried.
        what: String,
        /// The server's words.
        cause: String,
    },
}

impl SchemaError {
    fn of(what: &str, error: &LinkError) -> Self {
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

/// Sessions, as a part of a sentence.
fn told(holders: &[String]) -> String {
    if holders.is_empty() { String::new() } else { format!(": {}", holders.join("; ")) }
}

/// An error of a query that belongs to making the database ready, while it tried to do `what`.
pub fn error(what: &str, error: &LinkError) -> SchemaError {
    SchemaError::of(what, error)
}

/// The advisory lock under which the schema files make tables.
const SET_UP_LOCK: i64 = 7_021_867_105_284;

/// How long a table that another session holds is waited for: longer than a session of this program outlives its VM.
const LOCK_TIMEOUT: &str = "15s";

/// How long the server may take to make the tables, to empty them or to fill the pool.
const WORK_LIMIT: Duration = Duration::from_secs(600);

/// How long to wait before a database is tried to be created again.
const CREATE_PAUSE: Duration = Duration::from_millis(200);

/// Connects, making the database first where it is missing and `create` says so.
///
/// # Errors
/// No connection, or the database could not be made.
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
        let created = link.run_within(Some(WORK_LIMIT), async |client| client.batch_execute(&statement).await).await;
        let Err(error) = created else { return Ok(()) };
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

/// One of our table names as the workload's statements would find it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    name: &'static str,
    exists: bool,
    ours: bool,
    persistence: Option<Persistence>,
}

async fn look(link: &mut Link) -> Result<Vec<Found>, SchemaError> {
    let names: Vec<&str> = TABLES.into_iter().chain([POOL_TABLE]).collect();
    let sql = "SELECT c.oid IS NOT NULL, coalesce(obj_description(c.oid, 'pg_class'), '') LIKE $2, \
               c.relpersistence = 'u' \
               FROM unnest($1::text[]) WITH ORDINALITY AS wanted(name, position) \
               LEFT JOIN pg_class c ON c.oid = to_regclass(wanted.name) ORDER BY position";
    let pattern = format!("{MARK}%");
    let types = [tokio_postgres::types::Type::TEXT_ARRAY, tokio_postgres::types::Type::TEXT];
    let [names_type, pattern_type] = types;
    let rows = link
        .run(async |client| client.query_typed(sql, &[(&names, names_type), (&pattern, pattern_type)]).await)
        .await
        .map_err(|error| SchemaError::of("look for the tables", &error))?;
    let found = |(name, row): (&'static str, tokio_postgres::Row)| Found {
        name,
        exists: row.get(0),
        ours: row.get(1),
        persistence: row
            .get::<_, Option<bool>>(2)
            .map(|unlogged| if unlogged { Persistence::Unlogged } else { Persistence::Logged }),
    };
    Ok(TABLES.into_iter().chain([POOL_TABLE]).zip(rows).map(found).collect())
}

/// Makes the tables where they are missing or of the other kind; leaves them alone where they fit. Of several processes
/// that do so at once one makes them, and the others find them. `lock` comes first in the transaction
/// ([`super::mark::Mark::lock_sql`]).
///
/// # Errors
/// Tables of the same names are not ours, or the role may not make them.
pub async fn set_up(link: &mut Link, kind: Persistence, lock: &str) -> Result<(), SchemaError> {
    if fits(link, kind).await? {
        return Ok(());
    }
    let made = make(link, kind, lock).await;
    if made.is_err() {
        // The transaction stays open after an error.
        let _ = link.run(async |client| client.batch_execute("ROLLBACK").await).await;
    }
    match made {
        Err(SchemaError::Locked(_)) => Err(SchemaError::Locked(holders::of_tables(link, Some(SET_UP_LOCK)).await)),
        made => made,
    }
}

async fn fits(link: &mut Link, kind: Persistence) -> Result<bool, SchemaError> {
    let found = look(link).await?;
    refuse_foreign(&found)?;
    Ok(found.iter().all(|table| table.ours && (table.name == POOL_TABLE || table.persistence == Some(kind))))
}

async fn make(link: &mut Link, kind: Persistence, lock: &str) -> Result<(), SchemaError> {
    let wrong = |error: LinkError| SchemaError::of("make the tables", &error);
    let limit = Some(WORK_LIMIT);
    // The lock is that of the schema files, taken beforehand so that a process that had to wait looks again instead of
    // making anew what the other one has just made. With a stricter isolation it would see what was there before.
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; {lock}\
         SELECT pg_advisory_xact_lock({SET_UP_LOCK})"
    );
    link.run_within(limit, async |client| client.batch_execute(&begin).await).await.map_err(wrong)?;
    if fits(link, kind).await? {
        return link.run(async |client| client.batch_execute("COMMIT").await).await.map_err(wrong);
    }
    // The file's BEGIN only earns a notice, and its COMMIT ends the transaction.
    link.run_within(limit, async |client| client.batch_execute(kind.sql()).await).await.map_err(wrong)
}

/// Checks that all tables that a run needs are there and ours.
///
/// # Errors
/// They are missing, or not ours.
pub async fn check(link: &mut Link, server_side_data: bool) -> Result<Persistence, SchemaError> {
    let found = look(link).await?;
    refuse_foreign(&found)?;
    let needed = found.iter().filter(|table| server_side_data || table.name != POOL_TABLE);
    let missing: Vec<String> = needed.filter(|table| !table.exists).map(|table| table.name.to_owned()).collect();
    if missing.is_empty() {
        let unlogged = found.iter().any(|table| table.persistence == Some(Persistence::Unlogged));
        Ok(if unlogged { Persistence::Unlogged } else { Persistence::Logged })
    } else {
        Err(SchemaError::Missing(missing))
    }
}

fn refuse_foreign(found: &[Found]) -> Result<(), SchemaError> {
    let foreign: Vec<String> =
        found.iter().filter(|table| table.exists && !table.ours).map(|table| table.name.to_owned()).collect();
    if foreign.is_empty() { Ok(()) } else { Err(SchemaError::NotOurs { tables: foreign, more: String::new() }) }
}

/// Empties the four tables. [`check`] has to come before.
///
/// It takes no longer than `within`: where other parts of the test begin at a set time, emptying the tables after it
/// would take their rows away. `lock` comes first in the transaction ([`super::mark::Mark::lock_sql`]).
///
/// # Errors
/// The role may not, or another session holds them.
pub async fn reset(link: &mut Link, within: Option<Duration>, lock: &str) -> Result<(), SchemaError> {
    let limit = within
        .map_or(String::new(), |within| format!("SET LOCAL statement_timeout = '{}ms'; ", within.as_millis().max(1)));
    let tables = TABLES.join(", ");
    let sql = format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; {lock}{limit}TRUNCATE {tables}; COMMIT");
    let emptied = link.run_within(Some(WORK_LIMIT), async |client| client.batch_execute(&sql).await).await;
    if let Err(error) = emptied {
        let _ = link.run(async |client| client.batch_execute("ROLLBACK").await).await;
        return Err(match error.code() {
            Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => {
                SchemaError::Locked(holders::of_tables(link, None).await)
            }
            Some(code) if within.is_some() && *code == SqlState::QUERY_CANCELED => {
                SchemaError::Late(chain(&error) + &told(&holders::of_tables(link, None).await))
            }
            _ => SchemaError::of("empty the tables", &error),
        });
    }
    Ok(())
}

/// Puts the pool into the database, where it is not there yet, so that documents can be cut from it in SQL. Where this
/// process is the whole test, `alone`, the pools of other seeds and sizes are removed, so that they do not pile up.
///
/// # Errors
/// The role may not write it, or it does not fit.
pub async fn fill_pool(link: &mut Link, seed: u64, pool: &Pool, alone: bool) -> Result<(), SchemaError> {
    use tokio_postgres::types::Type;
    let (seed, length) = (seed as i64, pool.sql_length());
    let wrong = |error: LinkError| SchemaError::of("fill the pool for --server-side-data", &error);
    let there = "SELECT 1 FROM loadtest_payload_pool WHERE seed = $1 AND length = $2";
    let rows = link
        .run(async |client| client.query_typed(there, &[(&seed, Type::INT8), (&length, Type::INT4)]).await)
        .await
        .map_err(wrong)?;
    if rows.is_empty() {
        if alone {
            let delete = "DELETE FROM loadtest_payload_pool";
            link.run_within(Some(WORK_LIMIT), async |client| client.execute_typed(delete, &[]).await)
                .await
                .map_err(wrong)?;
        }
        let fill = "INSERT INTO loadtest_payload_pool (seed, length, body) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let text = pool.text();
        link.run_within(Some(WORK_LIMIT), async |client| {
            client.execute_typed(fill, &[(&seed, Type::INT8), (&length, Type::INT4), (&text, Type::BYTEA)]).await
        })
        .await
        .map_err(wrong)?;
    }
    Ok(())
}
