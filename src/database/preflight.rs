//! What the server reports before a run, and whether a pooler stands between.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use crate::measure::outcome::chain;
use crate::postgres::connect::{ConnectError, Connector};
use crate::postgres::link::{Link, LinkError, may_be_ending};
use crate::result::ServerInfo;

/// Asks for the settings that explain the figures. What the server does not tell is left out.
pub async fn server_info(link: &mut Link) -> Result<ServerInfo, LinkError> {
    let version = match link.ask_one("SHOW server_version").await {
        Err(silent @ LinkError::Silent(_)) => return Err(silent),
        version => version.ok().flatten(),
    };
    let mut info = ServerInfo {
        version,
        max_connections: show(link, "max_connections").await.and_then(|text| text.parse().ok()),
        synchronous_commit: show(link, "synchronous_commit").await,
        fsync: show(link, "fsync").await,
        shared_buffers: show(link, "shared_buffers").await,
        ..ServerInfo::default()
    };
    let mut round_trips = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        if link.ask("").await.is_ok() {
            round_trips.push(begun.elapsed().as_secs_f64() * 1_000.0);
        }
    }
    round_trips.sort_by(f64::total_cmp);
    info.round_trip_ms = round_trips.get(round_trips.len() / 2).copied();
    Ok(info)
}

/// Names server and database, the same for every machine that reaches the same: when the server process began, and
/// the database's number and name. `None` where the server will not say.
pub async fn identity(link: &mut Link) -> Option<String> {
    // Formatted in full, since the text of a timestamp depends on the session's settings.
    let sql = "SELECT to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || ' ' || \
               oid || ' ' || datname FROM pg_database WHERE datname = current_database()";
    link.ask_one(sql).await.ok().flatten()
}

async fn show(link: &mut Link, setting: &str) -> Option<String> {
    link.ask_one(&format!("SHOW {setting}")).await.ok().flatten()
}

/// How long a second connection is waited for: a server that takes one at a time keeps it waiting.
const SECOND_WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum PoolerError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Silent(#[from] LinkError),
    #[error(
        "a pooler in statement mode (PgBouncer?) stands between, which refuses transactions of several round trips \
         ({0}); set its pool_mode to transaction or session, connect past it, or add --no-prepared-statements \
         --pipeline"
    )]
    RefusesTransactions(String),
    #[error(
        "a pooler in transaction mode (PgBouncer?) stands between, and prepared statements get lost in it; \
         add --no-prepared-statements"
    )]
    LosesStatements,
}

/// Finds out whether a transaction may go on from one round trip to the next: poolers in statement mode end the connection
/// at its BEGIN.
pub async fn check_transactions(link: &mut Link) -> Result<(), PoolerError> {
    match link.ask("BEGIN").await {
        Err(error) if error.code() == Some(&SqlState::PROTOCOL_VIOLATION) => {
            return Err(PoolerError::RefusesTransactions(chain(&error)));
        }
        Err(silent @ LinkError::Silent(_)) => return Err(silent.into()),
        // Whatever else is wrong is told where it is met.
        _ => {}
    }
    let _ = link.ask("ROLLBACK").await;
    Ok(())
}

/// Finds out whether prepared statements survive between here and the server.
///
/// Poolers make the name of the server process up that they tell a client. So where it is the true one, there is none,
/// and no second connection is needed: there may be no room for one.
///
/// Two clients that are served by one backend have a pooler before them. Whether it keeps prepared statements is tried:
/// one client prepares, the other one holds the backend in a transaction, and the first executes. Where there is no
/// second connection to be had, it cannot be told, and shows in the run.
pub async fn check_prepared_statements(link: &mut Link, connector: &Connector) -> Result<(), PoolerError> {
    let pid = "SELECT pg_backend_pid()";
    let first_pid = match link.ask_one(pid).await {
        Ok(Some(first_pid)) => first_pid,
        Err(silent @ LinkError::Silent(_)) => return Err(silent.into()),
        _ => return Ok(()),
    };
    if link.process_id().is_some_and(|process_id| process_id.to_string() == first_pid) {
        return Ok(());
    }
    let asked = async {
        let mut second = Link::try_open(connector).await?;
        let second_pid = second.ask_one(pid).await;
        Ok((second, second_pid))
    };
    let (mut second, second_pid) = match tokio::time::timeout(SECOND_WITHIN, asked).await {
        Ok(Ok(asked)) => asked,
        Ok(Err(error)) if !may_be_ending(&error) => return Err(error.into()),
        _ => return Ok(()),
    };
    let shared_backend = matches!(second_pid, Ok(Some(second_pid)) if second_pid == first_pid);
    let lost = shared_backend && statements_get_lost(link, &mut second).await;
    second.close().await;
    if lost { Err(PoolerError::LosesStatements) } else { Ok(()) }
}

async fn statements_get_lost(link: &mut Link, second: &mut Link) -> bool {
    let missing = |error: &LinkError| {
        matches!(error.code(), Some(code) if *code == SqlState::INVALID_SQL_STATEMENT_NAME
            || *code == SqlState::DUPLICATE_PSTATEMENT)
    };
    let statement = match link.run(async |client| client.prepare("SELECT 1").await).await {
        Ok(statement) => statement,
        Err(error) => return missing(&error),
    };
    if second.ask("BEGIN").await.is_err() {
        return false;
    }
    // With a pool of one backend there is none left for this; then it cannot be told.
    let executing = link.run(async |client| client.execute(&statement, &[]).await);
    let executed = tokio::time::timeout(Duration::from_secs(2), executing).await;
    let _ = second.ask("ROLLBACK").await;
    matches!(executed, Ok(Err(error)) if missing(&error))
}
