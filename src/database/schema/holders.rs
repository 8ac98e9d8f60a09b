//! Whose locks on our tables others wait for.

use tokio_postgres::Row;
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
    let mut told: Vec<String> = rows.iter().take(NAMED).map(holder).collect();
    if rows.len() > NAMED {
        told.push(format!("and {} more", rows.len() - NAMED));
    }
    told
}

fn holder(row: &Row) -> String {
    let text = |column| row.try_get::<_, Option<String>>(column).ok().flatten();
    let transaction_s = row.try_get::<_, Option<f64>>(5).ok().flatten();
    described(row.try_get(0).unwrap_or_default(), [1, 2, 3, 4].map(text), transaction_s)
}

/// A session in words. The server hides what sessions of other roles do, unless this role may know.
fn described(pid: i32, [user, application, address, state]: [Option<String>; 4], transaction_s: Option<f64>) -> String {
    let mut told = format!("pid {pid}");
    if let Some(application) = application.filter(|name| !name.is_empty()) {
        told += &format!(" ({application})");
    }
    if let Some(user) = user {
        told += &format!(" of {user}");
    }
    match address {
        Some(address) => told += &format!(" from {address}"),
        None if state.is_some() => told += " on a local socket",
        None => {}
    }
    if let Some(state) = state {
        told += &format!(", {state}");
    }
    if let Some(seconds) = transaction_s {
        told += &format!(", its transaction open for {seconds:.0} s");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_described_as_far_as_it_is_known() {
        let session = |values: [&str; 4], transaction_s| {
            described(42, values.map(|value| (value != "?").then(|| value.to_owned())), transaction_s)
        };
        assert_eq!(
            session(["app", "psql", "10.0.0.7", "idle in transaction"], Some(61.4)),
            "pid 42 (psql) of app from 10.0.0.7, idle in transaction, its transaction open for 61 s"
        );
        assert_eq!(session(["app", "psql", "?", "idle"], None), "pid 42 (psql) of app on a local socket, idle");
        assert_eq!(session(["app", "", "?", "?"], None), "pid 42 of app");
        assert_eq!(session(["?"; 4], None), "pid 42");
    }
}
