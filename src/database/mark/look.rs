//! Which sessions of other tests hold the tables.

use std::fmt::Write as _;

use super::keys::Keys;
use crate::postgres::link::{Link, LinkError};

/// A session that holds a lock which keeps this process out.
pub(super) struct MarkHolder {
    pub(super) pid: String,
    pub(super) is_same_share: bool,
    pub(super) application: String,
    pub(super) client: String,
    pub(super) since: String,
}

/// Sessions that keep this process out.
pub(super) async fn look(link: &mut Link, keys: &Keys) -> Result<Vec<MarkHolder>, LinkError> {
    if keys.schemas.is_empty() {
        return Ok(Vec::new());
    }
    let list = |classes: Vec<u32>| classes.iter().map(|class| format!("'{class}'::oid")).collect::<Vec<_>>().join(", ");
    let marks = list(keys.marks().collect());
    let shares = list(keys.shares().collect());
    let same_share = match shares.is_empty() {
        true => "false".to_owned(),
        false => format!("held.classid IN ({shares}) AND held.objid = '{}'::oid", keys.claim.share_key()),
    };
    let sql = format!(
        "SELECT held.pid, {same_share}, session.application_name, host(session.client_addr), \
         to_char(session.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') \
         FROM pg_locks AS held LEFT JOIN pg_stat_activity AS session ON session.pid = held.pid \
         WHERE held.locktype = 'advisory' AND held.objsubid = 2 AND held.pid <> pg_backend_pid() \
         AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND (held.classid IN ({marks}) AND held.objid <> '{}'::oid OR {same_share}) \
         ORDER BY session.xact_start NULLS LAST, held.pid",
        keys.claim.test
    );
    let rows = link.ask(&sql).await?;
    let holder = |row: &tokio_postgres::SimpleQueryRow| {
        let text = |column| row.get(column).unwrap_or_default().to_owned();
        MarkHolder {
            pid: text(0),
            is_same_share: row.get(1) == Some("t"),
            application: text(2),
            client: text(3),
            since: text(4),
        }
    };
    Ok(rows.iter().map(holder).collect())
}

/// The session that has held the tables longest, and how many there are besides.
pub(super) fn describe(holders: &[MarkHolder]) -> String {
    let Some(first) = holders.first() else { return String::new() };
    let mut who = match first.application.as_str() {
        "" => "a session without a name".to_owned(),
        name => format!("'{name}'"),
    };
    // A mark's own transaction is always young, so its name tells since when.
    if !first.since.is_empty() && !first.application.contains(" since ") {
        let _ = write!(who, " since {} UTC", first.since);
    }
    let _ = write!(who, " (server process {}", first.pid);
    if !first.client.is_empty() {
        let _ = write!(who, ", client address {}", first.client);
    }
    who.push(')');
    let mut others: Vec<&str> =
        holders.iter().map(|holder| holder.pid.as_str()).filter(|pid| *pid != first.pid).collect();
    others.sort_unstable();
    others.dedup();
    if !others.is_empty() {
        let _ = write!(who, " and {} more", others.len());
    }
    who
}
