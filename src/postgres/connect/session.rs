//! `target_session_attrs`: is this server what was asked for? Owns the two questions and the choice between the
//! server's own announcement (PostgreSQL 14 and later) and a query.

use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::Driver;
use crate::postgres::conninfo::TargetSessionAttrs;

/// What the server announced about itself while connecting; `None` where it said nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Announced {
    /// `in_hot_standby`
    pub(super) in_recovery: Option<bool>,
    /// `default_transaction_read_only`
    pub(super) read_only: Option<bool>,
}

impl Announced {
    /// Reads the parameters that a connection collected.
    pub(super) fn from_parameters<'a>(parameter: impl Fn(&str) -> Option<&'a str>) -> Self {
        let flag = |name| match parameter(name) {
            Some("on") => Some(true),
            Some("off") => Some(false),
            _ => None,
        };
        Self { in_recovery: flag("in_hot_standby"), read_only: flag("default_transaction_read_only") }
    }

    /// Whether sessions may not write, as far as it was announced.
    fn transactions_read_only(self) -> Option<bool> {
        Some(self.in_recovery? || self.read_only?)
    }
}

/// Whether the server will do. Asks it only if it did not announce the answer.
pub(super) async fn is_wanted(
    wanted: TargetSessionAttrs,
    announced: Announced,
    client: &Client,
    driver: &mut Driver,
) -> Result<bool, Error> {
    use TargetSessionAttrs::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};
    let (answer, query, expected) = match wanted {
        Any => return Ok(true),
        ReadWrite => (announced.transactions_read_only(), "SHOW transaction_read_only", false),
        ReadOnly => (announced.transactions_read_only(), "SHOW transaction_read_only", true),
        Primary => (announced.in_recovery, "SELECT pg_catalog.pg_is_in_recovery()", false),
        Standby | PreferStandby => (announced.in_recovery, "SELECT pg_catalog.pg_is_in_recovery()", true),
    };
    match answer {
        Some(answer) => Ok(answer == expected),
        None => {
            let is_true = |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(row) if matches!(row.get(0), Some("on" | "t")));
            Ok(run(query, client, driver).await?.iter().any(is_true) == expected)
        }
    }
}

/// Runs SQL that sets something. What the server refuses stays as it is.
pub(super) async fn set(sql: &str, client: &Client, driver: &mut Driver) -> Result<(), Error> {
    match run(sql, client, driver).await {
        Err(error) if error.as_db_error().is_none() => Err(error),
        _ => Ok(()),
    }
}

async fn run(query: &str, client: &Client, driver: &mut Driver) -> Result<Vec<SimpleQueryMessage>, Error> {
    let answer = client.simple_query(query);
    tokio::pin!(answer);
    tokio::select! {
        biased;
        messages = &mut answer => messages,
        ended = driver => { ended?; answer.await }
    }
}
