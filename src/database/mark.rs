//! The mark that a test puts on its tables for as long as it runs, so that no second test empties or replaces them.
//!
//! The mark is a set of advisory locks in the load's database, held by transactions of a connection of its own. A
//! transaction ends with its connection, whatever happens to the process, and it stays on one server session behind a
//! pooler in transaction mode; a session-level lock would leak into the pool there. It has neither a snapshot nor a
//! transaction ID, so it does not hold back vacuum, and it costs nothing per request.
//!
//! Every second a new transaction takes the place of the last one, because a pooler's PAUSE waits for the end of all
//! transactions. For the moment between the two the tables are not marked, so a newcomer looks twice, `SETTLE` apart.
//!
//! | key (two 32-bit numbers) | mode | who |
//! |---|---|---|
//! | `CLASS` xor the schema's oid, the test's number | shared | every process of the test, and its set-up transactions |
//! | `SHARE_CLASS` xor the schema's oid, a number for test and share | exclusive | the process with that share |
//!
//! `schema.sql` knows the first one. While a process looks for other marks and sets its own first one, it holds `GATE`.

mod attempt;
mod claim;
mod holder;
mod keys;
mod look;

use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::measure::outcome::chain;
use crate::postgres::connect::{ConnectError, Connector};
use crate::postgres::link::{Link, LinkError};
use crate::workload::Workload;
use attempt::{Attempt, GATE, PATIENCE, PAUSE, attempt_patiently, roll_back};
use keys::{Keys, application_name};
use look::{MarkHolder, describe, look};

pub use claim::{Claim, random_test, test_of_shares};
pub use holder::Mark;
pub use keys::APPLICATION_NAME_LIKE;

/// How long the set-up connection may take to answer while the mark is held. A pool of one connection cannot.
const SECOND_CONNECTION: Duration = Duration::from_secs(5);

/// Why a test may not use the tables. Nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(
        "another load test uses these tables: {who}; nothing was changed. Wait until it has ended, stop it, or give this \
         test another database or schema in --postgres-url. If that test no longer runs, end its session: SELECT \
         pg_terminate_backend({pid})"
    )]
    Taken { who: String, pid: String },
    #[error(
        "another process runs the same share of this test: {who}; nothing was changed. Give each process a --share of its \
         own. If that process no longer runs, end its session: SELECT pg_terminate_backend({pid})"
    )]
    ShareTaken { who: String, pid: String },
    #[error(
        "another load test is being set up in this database and did not finish in time; wait for it, or end the session \
         that holds the advisory lock {GATE} (see pg_locks)"
    )]
    Gate,
    #[error("could not ask who uses the tables: {0}")]
    Silent(LinkError),
}

pub enum Marking {
    /// They are, until this is released or dropped.
    Held(Mark),
    /// They cannot be: a sentence. No other test holds a mark that this process can see.
    Impossible(String),
}

/// Marks the tables for the process. `link` is the connection that sets up the database; it is replaced where only one of the two
/// connections can be had. `makes_tables`: tables may be made in the current schema.
pub async fn take(
    connector: &Connector,
    link: &mut Link,
    workload: &Workload,
    claim: Claim,
    makes_tables: bool,
) -> Result<Marking, MarkError> {
    let schemas = match schemas(link, workload, makes_tables).await {
        Ok(schemas) => schemas,
        Err(error) if error.code().is_some() => return Ok(Marking::Impossible(impossible(&chain(&error)))),
        Err(error) => return Err(MarkError::Silent(error)),
    };
    let keys = Keys { schemas, tables: workload.tables(), claim, application: application_name() };
    let mut own = match Link::open(connector).await {
        Ok(own) => own,
        Err(error) => return unmarked(link, &keys, &chain(&error)).await,
    };
    match attempt_patiently(&mut own, &keys).await {
        Ok(Attempt::Marked) => {}
        Ok(Attempt::Taken(holders)) => {
            own.close().await;
            return Err(taken(&holders));
        }
        Ok(Attempt::Useless(cause)) => {
            own.close().await;
            return unmarked(link, &keys, &cause).await;
        }
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => return Err(MarkError::Gate),
        Err(error) => {
            drop(own);
            return unmarked(link, &keys, &chain(&error)).await;
        }
    }
    let is_pooled = is_pooled(&mut own).await;
    if link.ask_within(Some(SECOND_CONNECTION), "SELECT 1").await.is_err() {
        roll_back(&mut own).await;
        own.close().await;
        *link = Link::open(connector).await?;
        let cause = format!(
            "a second connection got no answer within {} s (a pool of one connection?)",
            SECOND_CONNECTION.as_secs()
        );
        return unmarked(link, &keys, &cause).await;
    }
    Ok(Marking::Held(Mark::hold(connector.clone(), own, keys, is_pooled)))
}

/// Whether a pooler stands between: then the server's process is not the one that it named at the login.
async fn is_pooled(link: &mut Link) -> bool {
    let told = link.ask_one("SELECT pg_backend_pid()").await.ok().flatten().and_then(|pid| pid.parse::<i32>().ok());
    told.is_none() || told != link.process_id()
}

/// The run goes on without a mark, unless another test has one.
async fn unmarked(link: &mut Link, keys: &Keys, cause: &str) -> Result<Marking, MarkError> {
    let mut left = PATIENCE;
    loop {
        match look(link, keys).await {
            Ok(holders) if holders.is_empty() => break,
            Ok(holders) if left.is_zero() => return Err(taken(&holders)),
            Ok(_) => {}
            Err(error) if error.code().is_some() => break,
            Err(error) => return Err(MarkError::Silent(error)),
        }
        tokio::time::sleep(PAUSE).await;
        left = left.saturating_sub(PAUSE);
    }
    Ok(Marking::Impossible(impossible(cause)))
}

pub fn impossible(cause: &str) -> String {
    let cause = cause.trim_end_matches(['.', '?']);
    format!("The tables could not be marked as in use, so another load test on them would not be refused: {cause}.")
}

/// Oids of the schemas in which the tables are, or will be made.
async fn schemas(link: &mut Link, workload: &Workload, makes_tables: bool) -> Result<Vec<u32>, LinkError> {
    let mut sql = format!(
        "SELECT DISTINCT relnamespace::bigint FROM pg_class WHERE oid IN ({})",
        workload.written_tables().map(|table| format!("to_regclass('{table}')")).collect::<Vec<_>>().join(", ")
    );
    if makes_tables {
        sql.push_str(" UNION SELECT oid::bigint FROM pg_namespace WHERE nspname = current_schema()");
    }
    Ok(link.ask(&sql).await?.iter().filter_map(|row| row.get(0)?.parse().ok()).collect())
}

fn taken(holders: &[MarkHolder]) -> MarkError {
    let Some(first) = holders.first() else { return MarkError::Gate };
    let (who, pid) = (describe(holders), first.pid.clone());
    match first.is_same_share {
        true => MarkError::ShareTaken { who, pid },
        false => MarkError::Taken { who, pid },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_named_with_what_is_known_of_it() {
        let holder = |pid: &str, application: &str, client: &str| MarkHolder {
            pid: pid.to_owned(),
            is_same_share: false,
            application: application.to_owned(),
            client: client.to_owned(),
            since: "2026-11-27 07:12:34".to_owned(),
        };
        let named = "load_test h1 pid 7 since 2026-11-27T07:12:33Z";
        let all = [holder("815", named, "10.0.0.5"), holder("815", named, ""), holder("816", named, "")];
        let text = taken(&all).to_string();
        let expected = format!(
            "another load test uses these tables: '{named}' (server process 815, client address 10.0.0.5) and 1 more; nothing"
        );
        assert!(text.starts_with(&expected), "{text}");
        assert!(text.ends_with("SELECT pg_terminate_backend(815)"), "{text}");
        let setting_up = taken(&[holder("817", "postgres_load_test", "")]).to_string();
        assert!(setting_up.contains("'postgres_load_test' since 2026-11-27 07:12:34 UTC (server process 817);"));
        assert!(application_name().len() <= 63, "{}", application_name());
    }
}
