//! Limits that our sessions carry, so that the server ends them, and with them their locks, when this side is gone.
//!
//! A VM that is cut off from the database leaves its transactions open there: nobody says good-bye. Without limits of
//! their own such sessions hold their locks for hours, and whoever needs the same rows waits for them.
//!
//! Straight to the server the limits are set once for each session. Behind a pooler a setting of the session would stay
//! in the pool for others, so there only what can be set for one transaction is used; see [`SessionLimits`].

use std::fmt::Write;
use std::time::Duration;

use crate::postgres::link::{Link, LinkError};

/// How long a session may be idle within a transaction. This program pauses there only when its process stands still.
const IDLE_IN_TRANSACTION: Limit =
    Limit { name: "idle_in_transaction_session_timeout", most: 10_000, needs_tcp: false };

/// In the units of `pg_settings`: milliseconds, or seconds for `tcp_keepalives_idle` and `_interval`. A peer that no
/// longer answers is found after about 11 s of silence, or after 10 s in which it acknowledged nothing.
const LIMITS: [Limit; 6] = [
    IDLE_IN_TRANSACTION,
    // PostgreSQL 14 and later. While a statement runs or waits, a client that has left is otherwise not noticed.
    Limit { name: "client_connection_check_interval", most: 2_000, needs_tcp: false },
    Limit { name: "tcp_keepalives_idle", most: 5, needs_tcp: true },
    Limit { name: "tcp_keepalives_interval", most: 2, needs_tcp: true },
    Limit { name: "tcp_keepalives_count", most: 3, needs_tcp: true },
    Limit { name: "tcp_user_timeout", most: 10_000, needs_tcp: true },
];

/// A setting of the server, and the greatest value that it should have; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    name: &'static str,
    most: u64,
    needs_tcp: bool,
}

/// The limits that a session lacks, and how to set them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionLimits {
    /// SQL for each new session; empty behind a pooler.
    pub session_sql: String,
    /// What each transaction sets for itself behind a pooler (`idle_in_transaction_session_timeout`).
    pub idle_in_transaction: Option<Duration>,
    /// Whether a pooler is between; `None` where the server does not tell which session answers.
    pub pooled: Option<bool>,
}

impl SessionLimits {
    pub fn is_pooled(&self) -> bool {
        self.pooled == Some(true)
    }

    /// Whether a setting of a session might stay with a pooler's connection, for others to find.
    pub fn may_be_pooled(&self) -> bool {
        self.pooled != Some(false)
    }
}

/// Finds out which limits our sessions still lack: a stricter one, as of `ALTER ROLE` or `options`, is left alone. Where
/// the server does not tell, or refuses, there are none.
pub async fn lacking(link: &mut Link) -> Result<SessionLimits, LinkError> {
    let names = LIMITS.map(|limit| format!("'{}'", limit.name)).join(", ");
    let sql = format!(
        "SELECT name, setting, pg_backend_pid(), inet_client_addr() IS NOT NULL FROM pg_settings WHERE name IN ({names})"
    );
    let rows = match link.ask(&sql).await {
        Ok(rows) => rows,
        Err(silent @ LinkError::Silent(_)) => return Err(silent),
        Err(_) => return Ok(SessionLimits::default()),
    };
    let process_id = link.process_id().map(|id| id.to_string());
    let (mut pooled, mut wanted) = (None, Vec::new());
    for row in &rows {
        let [name, setting, pid, is_tcp] = [0, 1, 2, 3].map(|column| row.try_get(column).ok().flatten());
        pooled = pid.map(|pid| process_id.as_deref() != Some(pid));
        let limit = LIMITS.into_iter().find(|limit| Some(limit.name) == name);
        wanted.extend(limit.filter(|limit| is_lax(*limit, setting) && (!limit.needs_tcp || is_tcp == Some("t"))));
    }
    if pooled != Some(false) {
        let limit = wanted.contains(&IDLE_IN_TRANSACTION).then(|| Duration::from_millis(IDLE_IN_TRANSACTION.most));
        return Ok(SessionLimits { idle_in_transaction: limit, pooled, ..SessionLimits::default() });
    }
    Ok(SessionLimits { session_sql: accepted(link, &wanted).await, pooled, ..SessionLimits::default() })
}

/// Whether a setting is greater than the limit, or off.
fn is_lax(limit: Limit, setting: Option<&str>) -> bool {
    let value = setting.and_then(|text| text.parse::<u64>().ok());
    value.is_some_and(|value| value == 0 || value > limit.most)
}

/// SQL with those settings that the server takes: not every platform can check whether a client is still there.
async fn accepted(link: &mut Link, wanted: &[Limit]) -> String {
    if link.ask(&sql_of(wanted)).await.is_ok() {
        return sql_of(wanted);
    }
    let mut taken = Vec::new();
    for limit in wanted {
        if link.ask(&sql_of(&[*limit])).await.is_ok() {
            taken.push(*limit);
        }
    }
    sql_of(&taken)
}

fn sql_of(limits: &[Limit]) -> String {
    limits.iter().fold(String::new(), |mut sql, limit| {
        let _ = write!(sql, "SET {} = {};", limit.name, limit.most);
        sql
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_or_greater_is_lax_and_what_is_stricter_is_left_alone() {
        for (setting, lax) in [(Some("0"), true), (Some("10001"), true), (Some("10000"), false), (Some("1"), false)] {
            assert_eq!(is_lax(IDLE_IN_TRANSACTION, setting), lax, "{setting:?}");
        }
        assert!(!is_lax(IDLE_IN_TRANSACTION, None) && !is_lax(IDLE_IN_TRANSACTION, Some("on")));
    }
}
