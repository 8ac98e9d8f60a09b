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

/// What another role's session does the server tells only to those who may know.
fn holder(row: &Row) -> String {
    let text = |column| row.try_get::<_, Option<String>>(column).ok().flatten();
    let mut told = format!("pid {}", row.try_get::<_, i32>(0).unwrap_or_default());
    if let Some(application) = text(2).filter(|name| !name.is_empty()) {
        told += &format!(" ({application})");
    }
    if let Some(user) = text(1) {
        told += &format!(" of {user}");
    }
    let state = text(4);
    match text(3) {
        Some(address) => told += &format!(" from {address}"),
        None if state.is_some() => told += " on a local socket",
        None => {}
    }
    if let Some(state) = state {
        told += &format!(", {state}");
    }
    if let Ok(Some(seconds)) = row.try_get::<_, Option<f64>>(5) {
        told += &format!(", its transaction open for {seconds:.0} s");
    }
    told
}
