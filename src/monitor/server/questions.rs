//! What the server is asked, as SQL. Pure.
//!
//! All names are looked up in `pg_catalog`, and columns are left out that the server does not have: which there are
//! depends on its version, and on who made it.

use std::collections::BTreeSet;

use super::snapshot::View;
use super::words::OTHER_APPLICATIONS;

/// Views whose columns differ between versions, or that some servers do not have.
const PROBED: [&str; 9] = [
    "pg_stat_activity",
    "pg_stat_bgwriter",
    "pg_stat_checkpointer",
    "pg_stat_database",
    "pg_stat_io",
    "pg_stat_progress_vacuum",
    "pg_stat_replication",
    "pg_stat_user_tables",
    "pg_stat_wal",
];

/// Settings that decide how fast a server writes, and how its figures are to be read.
const SETTINGS: [&str; 19] = [
    "autovacuum",
    "checkpoint_completion_target",
    "checkpoint_timeout",
    "commit_delay",
    "data_checksums",
    "default_toast_compression",
    "fsync",
    "full_page_writes",
    "huge_pages",
    "max_connections",
    "max_wal_size",
    "shared_buffers",
    "synchronous_commit",
    "synchronous_standby_names",
    "track_io_timing",
    "wal_buffers",
    "wal_compression",
    "wal_level",
    "wal_sync_method",
];

/// Names as `view.column`, for the columns that the server has.
pub type Columns = BTreeSet<String>;

/// Asks for [`Columns`]: rows of one value, `found`.
pub fn columns() -> String {
    let views = PROBED.map(|view| format!("pg_catalog.to_regclass('pg_catalog.{view}')")).join(", ");
    format!(
        "SELECT c.relname || '.' || a.attname AS found FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
         WHERE c.oid IN ({views}) AND a.attnum > 0 AND NOT a.attisdropped"
    )
}

/// Rows of `name` and `value`, with units as people write them.
pub fn settings() -> String {
    let names = SETTINGS.map(|name| format!("'{name}'")).join(", ");
    format!(
        "SELECT name, pg_catalog.current_setting(name) AS value FROM pg_catalog.pg_settings WHERE name IN ({names})"
    )
}

/// One row with `answer`: whether the role sees what sessions of other roles do.
pub const SEES_ALL: &str = "SELECT pg_catalog.pg_has_role(current_user, 'pg_monitor', 'usage') \
                            OR pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'usage') AS answer";

pub const IS_STANDBY: &str = "SELECT pg_catalog.pg_is_in_recovery() AS answer";

/// One row of `server` and `checkpointer`: when each was started. After a crash of one session the server starts all
/// others anew, and stays the same process. Roles that do not see the checkpointer get NULL for it.
pub const STARTED: &str = "SELECT extract(epoch FROM pg_catalog.pg_postmaster_start_time()) AS server, \
     (SELECT extract(epoch FROM max(backend_start)) FROM pg_catalog.pg_stat_activity \
     WHERE backend_type = 'checkpointer') AS checkpointer";

/// One row with `answer`: what `pg_stat_activity` makes of a name. Servers replace characters that are not ASCII, each
/// version in its own way, and cut the name. The name of this session is the same as before afterwards.
pub fn shown_name(name: &str) -> String {
    format!("SELECT pg_catalog.left(pg_catalog.set_config('application_name', {}, true), 63) AS answer", quoted(name))
}

/// Sessions of this database that are at work, but for those that match `left_out` or have the monitor's name: rows of
/// `event` and `sessions`. Sessions that are not named `load` are one event; without `load`, all are the load's. Sessions
/// whose state the role may not see are none of them.
pub fn sessions(load: Option<&str>, monitor: &str, left_out: &str) -> String {
    let others = load.map_or_else(String::new, |load| {
        format!("WHEN coalesce(application_name, '') <> {} THEN '{OTHER_APPLICATIONS}' ", quoted(load))
    });
    format!(
        "SELECT CASE {others}WHEN state <> 'active' THEN 'idle in transaction' WHEN wait_event IS NULL THEN 'CPU' \
         ELSE wait_event_type || ':' || wait_event END AS event, count(*) AS sessions {AT_WORK} \
         AND coalesce(application_name, '') <> {} AND coalesce(application_name, '') NOT LIKE {} GROUP BY 1",
        quoted(monitor),
        quoted(left_out)
    )
}

const AT_WORK: &str = "FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' \
                       AND datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid() \
                       AND (state = 'active' OR state LIKE 'idle in transaction%')";

/// Sessions that are asked about at once.
const WAITING_AT_ONCE: u32 = 20;

/// Whom sessions named `application` wait for: rows of `pid`, `application_name` and `username`. Sessions named so are
/// left out, and so is the monitor's, and those that match `left_out`.
pub fn blockers(application: &str, monitor: &str, left_out: &str) -> String {
    let (application, monitor, left_out) = (quoted(application), quoted(monitor), quoted(left_out));
    format!(
        "WITH waiting AS MATERIALIZED (SELECT pid {AT_WORK} AND wait_event_type = 'Lock' \
         AND application_name = {application} LIMIT {WAITING_AT_ONCE}), \
         holders AS (SELECT DISTINCT unnest(pg_catalog.pg_blocking_pids(pid)) AS pid FROM waiting) \
         SELECT h.pid, CASE WHEN h.pid = 0 THEN 'prepared transaction' \
         WHEN a.backend_type <> 'client backend' THEN a.backend_type \
         ELSE a.application_name END AS application_name, a.usename AS username \
         FROM holders h LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = h.pid \
         WHERE (h.pid = 0 OR a.pid IS NOT NULL) AND coalesce(a.application_name, '') NOT IN ({application}, {monitor}) \
         AND coalesce(a.application_name, '') NOT LIKE {left_out}"
    )
}

/// One row of `timed`, `requested` and `busy_ms`; `None` where the server has no such counters.
pub fn checkpoints(columns: &Columns) -> Option<String> {
    let (view, [timed, requested, write, sync]) = checkpoint_columns(columns)?;
    Some(format!(
        "SELECT {timed} AS timed, {requested} AS requested, {write} + {sync} AS busy_ms FROM pg_catalog.{view}"
    ))
}

pub const NO_CHECKPOINTS: &str = "this server has neither pg_stat_checkpointer nor the columns of pg_stat_bgwriter";

fn checkpoint_columns(columns: &Columns) -> Option<(&'static str, [&'static str; 4])> {
    let known = [
        ("pg_stat_checkpointer", ["num_timed", "num_requested", "write_time", "sync_time"]),
        ("pg_stat_bgwriter", ["checkpoints_timed", "checkpoints_req", "checkpoint_write_time", "checkpoint_sync_time"]),
    ];
    known.into_iter().find(|(view, names)| names.iter().all(|name| columns.contains(&format!("{view}.{name}"))))
}

/// Rows of `name`: tables that autovacuum works on. A role without `pg_read_all_stats` gets none.
pub fn vacuums(tables: &[&str]) -> String {
    format!(
        "SELECT t.name || CASE WHEN p.relid = t.oid THEN '' ELSE ' (TOAST)' END AS name \
         FROM pg_catalog.pg_stat_progress_vacuum p \
         JOIN (SELECT n.name, c.oid, c.reltoastrelid FROM {} JOIN pg_catalog.pg_class c \
         ON c.oid = pg_catalog.to_regclass(n.name)) t ON p.relid IN (t.oid, t.reltoastrelid) \
         JOIN pg_catalog.pg_stat_activity a ON a.pid = p.pid WHERE a.backend_type = 'autovacuum worker'",
        names(tables)
    )
}

/// Rows of `name`, `sync_state`, `lag_bytes` and `replay_lag_ms`.
pub const STANDBYS: &str = "SELECT application_name AS name, sync_state, \
     pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), replay_lsn) AS lag_bytes, \
     extract(epoch FROM replay_lag) * 1000 AS replay_lag_ms FROM pg_catalog.pg_stat_replication \
     ORDER BY application_name LIMIT 20";

/// The counters of a snapshot.
///
/// # Errors
/// The server has no such view: what is missing; or why it does not tell which views it has.
pub fn counters(view: View, columns: Result<&Columns, &str>, tables: &[&str]) -> Result<String, String> {
    let select = |name: &str, wanted: &[&str]| {
        let columns = columns?;
        let found: Vec<&str> =
            wanted.iter().copied().filter(|column| columns.contains(&format!("{name}.{column}"))).collect();
        if found.is_empty() { Err(format!("this server has no {name}")) } else { Ok(found.join(", ")) }
    };
    match view {
        View::Database => {
            let wanted = [
                "xact_commit",
                "xact_rollback",
                "deadlocks",
                "temp_bytes",
                "blks_read",
                "blks_hit",
                "blk_read_time",
                "stats_reset",
            ];
            Ok(format!(
                "SELECT {}, pg_catalog.current_setting('track_io_timing', true) AS io_timing \
                 FROM pg_catalog.pg_stat_database WHERE datname = pg_catalog.current_database()",
                select("pg_stat_database", &wanted)?
            ))
        }
        View::Wal => {
            let wanted = ["wal_records", "wal_fpi", "wal_bytes", "wal_buffers_full", "stats_reset"];
            Ok(match select("pg_stat_wal", &wanted) {
                Ok(found) => format!("SELECT {found} FROM pg_catalog.pg_stat_wal"),
                // PostgreSQL 13 at least tells how far the log has come.
                Err(_) => {
                    "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0') AS wal_bytes".to_owned()
                }
            })
        }
        View::Checkpoints => {
            let (view, [timed, requested, write, sync]) = checkpoint_columns(columns?).ok_or(NO_CHECKPOINTS)?;
            let buffers = if view == "pg_stat_bgwriter" { "buffers_checkpoint" } else { "buffers_written" };
            Ok(format!(
                "SELECT {timed} AS timed, {requested} AS requested, {write} AS write_ms, {sync} AS sync_ms, \
                 {buffers} AS buffers, stats_reset FROM pg_catalog.{view}"
            ))
        }
        View::Io => {
            let wanted = ["reads", "writes", "extends", "fsyncs"];
            select("pg_stat_io", &wanted)?;
            let sums = wanted.map(|name| format!("sum({name}) AS {name}")).join(", ");
            Ok(format!("SELECT {sums}, max(stats_reset) AS stats_reset FROM pg_catalog.pg_stat_io"))
        }
        View::Tables => {
            let wanted = ["n_tup_ins", "n_tup_upd", "n_tup_hot_upd", "n_dead_tup", "autovacuum_count"];
            Ok(format!(
                "SELECT n.name, s.relid AS id, {} FROM {} JOIN pg_catalog.pg_stat_user_tables s \
                 ON s.relid = pg_catalog.to_regclass(n.name)",
                select("pg_stat_user_tables", &wanted)?,
                names(tables)
            ))
        }
        // A lock on a table keeps its size from being read, so that the sizes stand alone.
        View::Sizes => Ok(format!(
            "SELECT n.name, pg_catalog.pg_total_relation_size(pg_catalog.to_regclass(n.name)) AS bytes FROM {}",
            names(tables)
        )),
    }
}

/// The names as a table `n` with the column `name`.
fn names(tables: &[&str]) -> String {
    let names: Vec<String> = tables.iter().map(|table| format!("({})", quoted(table))).collect();
    format!("(VALUES {}) n (name)", names.join(", "))
}

/// A string constant, whatever `standard_conforming_strings` is.
fn quoted(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str]) -> Columns {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_the_server_lacks_is_not_asked_for() {
        let of = |view, names: &[&str]| counters(view, Ok(&found(names)), &["a"]);
        let new = of(View::Wal, &["pg_stat_wal.wal_records", "pg_stat_wal.wal_bytes"]).unwrap();
        assert_eq!(new, "SELECT wal_records, wal_bytes FROM pg_catalog.pg_stat_wal");
        assert!(of(View::Wal, &[]).unwrap().contains("pg_current_wal_lsn"));
        assert_eq!(of(View::Io, &[]), Err("this server has no pg_stat_io".to_owned()));
        let [timed, req, write, sync] =
            ["checkpoints_timed", "checkpoints_req", "checkpoint_write_time", "checkpoint_sync_time"]
                .map(|name| format!("pg_stat_bgwriter.{name}"));
        let old = of(View::Checkpoints, &[&timed, &req, &write, &sync]).unwrap();
        assert!(old.contains("checkpoints_req AS requested") && old.contains("buffers_checkpoint AS buffers"), "{old}");
        assert!(of(View::Checkpoints, &[&timed]).is_err());
        for view in [View::Database, View::Checkpoints, View::Io, View::Tables] {
            assert_eq!(counters(view, Err("denied"), &["a"]), Err("denied".to_owned()));
        }
        assert!(
            counters(View::Wal, Err("denied"), &[]).is_ok() && counters(View::Sizes, Err("denied"), &["a"]).is_ok()
        );
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(quoted(r"it's \ so"), r"E'it\'s \\ so'");
        assert!(blockers("a'b", "m", "mark %").contains(r"application_name = E'a\'b' LIMIT"));
    }

    #[test]
    fn sessions_of_other_names_are_one_event_unless_a_pooler_may_drop_names() {
        let own = sessions(Some("a'b"), "m", "mark %");
        assert!(own.contains(r"CASE WHEN coalesce(application_name, '') <> E'a\'b' THEN 'other applications' WHEN"));
        assert!(!sessions(None, "m", "mark %").contains("other applications"));
    }
}
