//! Whose locks on our tables others wait for.

use tokio_postgres::types::{ToSql, Type};

use crate::postgres::link::Link;
use crate::workload::table::Table;

/// Sessions that are named; the one whose transaction is the oldest first.
const NAMED: usize = 3;

/// Sessions that hold a lock on one of the tables, or the advisory lock `advisory`, one sentence part each: which
/// process, whose, from where, doing what, since when. Asked once the wait is over, so that no second connection is
/// needed. Empty where there are none any more, or the server does not tell.
pub(super) async fn of_tables(link: &mut Link, tables: &[Table], advisory: Option<i64>) -> Vec<String> {
    let sql = "WITH held AS (SELECT DISTINCT pid FROM pg_locks WHERE granted AND pid <> pg_backend_pid() \
               AND (relation IN (SELECT to_regclass(name)::oid FROM unnest($1::text[]) AS name) \
               OR locktype = 'advisory' AND objsubid = 1 AND (classid::int8 << 32 | objid::int8) = $2)) \
               SELECT pid, usename::text, application_name, host(client_addr), state, \
               extract(epoch FROM clock_timestamp() - xact_start)::float8 \
               FROM held JOIN pg_stat_activity USING (pid) ORDER BY xact_start NULLS LAST";
    let tables: Vec<&str> = tables.iter().map(|table| table.name).collect();
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&tables, Type::TEXT_ARRAY), (&advisory, Type::INT8)];
    let rows = link.query(sql, &parameters).await.unwrap_or_default();
    let text = |row: &tokio_postgres::Row, column| row.try_get::<_, Option<String>>(column).ok().flatten();
    let holders = rows.iter().map(|row| Holder {
        pid: row.try_get(0).unwrap_or_default(),
        user: text(row, 1),
        application: text(row, 2),
        address: text(row, 3),
        state: text(row, 4),
        transaction_s: row.try_get::<_, Option<f64>>(5).ok().flatten(),
    });
    let mut told: Vec<String> = holders.take(NAMED).map(|holder| holder.to_string()).collect();
    if rows.len() > NAMED {
        told.push(format!("and {} more", rows.len() - NAMED));
    }
    told
}

/// A session that holds a lock. What another role's session does the server tells only to those who may know.
#[derive(Debug)]
struct Holder {
    pid: i32,
    user: Option<String>,
    application: Option<String>,
    address: Option<String>,
    state: Option<String>,
    transaction_s: Option<f64>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pid {}", self.pid)?;
        if let Some(application) = self.application.as_deref().filter(|name| !name.is_empty()) {
            write!(f, " ({application})")?;
        }
        if let Some(user) = &self.user {
            write!(f, " of {user}")?;
        }
        match &self.address {
            Some(address) => write!(f, " from {address}")?,
            None if self.state.is_some() => write!(f, " on a local socket")?,
            None => {}
        }
        if let Some(state) = &self.state {
            write!(f, ", {state}")?;
        }
        if let Some(seconds) = self.transaction_s {
            write!(f, ", its transaction open for {seconds:.0} s")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_session_is_told() {
        let mut holder = Holder {
            pid: 42,
            user: Some("app".to_owned()),
            application: Some("psql".to_owned()),
            address: Some("10.0.0.7".to_owned()),
            state: Some("idle in transaction".to_owned()),
            transaction_s: Some(61.4),
        };
        let expected = "pid 42 (psql) of app from 10.0.0.7, idle in transaction, its transaction open for 61 s";
        assert_eq!(holder.to_string(), expected);
        holder.address = None;
        assert!(holder.to_string().contains("of app on a local socket, idle"), "{holder}");
        holder = Holder { application: Some(String::new()), state: None, transaction_s: None, ..holder };
        assert_eq!(holder.to_string(), "pid 42 of app");
    }
}
