//! The server's counters at an instant, and the difference of two. Pure.

use std::collections::BTreeMap;

use super::stats::{
    CheckpointActivity, IoActivity, ServerActivity, ServerStats, TableActivity, Unavailable, WalActivity,
};

/// What a snapshot consists of. Each is asked for by itself, so that one that fails costs none of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Database,
    Wal,
    Checkpoints,
    Io,
    Tables,
    Sizes,
}

impl View {
    pub const ALL: [Self; 6] = [Self::Database, Self::Wal, Self::Checkpoints, Self::Io, Self::Tables, Self::Sizes];

    /// What it is called where it is not available.
    pub fn name(self) -> &'static str {
        match self {
            Self::Database => "pg_stat_database",
            Self::Wal => "pg_stat_wal",
            Self::Checkpoints => "pg_stat_checkpointer",
            Self::Io => "pg_stat_io",
            Self::Tables => "pg_stat_user_tables",
            Self::Sizes => "pg_total_relation_size",
        }
    }
}

/// A row by the names of its columns; NULL is absent.
pub type Row = BTreeMap<String, String>;

/// The rows of an answer, or why there is none.
pub type Reading = Result<Vec<Row>, String>;

#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// In the order of [`View::ALL`].
    pub readings: [Reading; 6],
}

impl Snapshot {
    fn of(&self, view: View) -> &Reading {
        &self.readings[view as usize]
    }
}

/// Puts the differences between two snapshots into the document. What is not in both of them is named there.
///
/// A crash empties all counters, and does not always leave a time of the reset: where they have grown past their old
/// values since then, only the restart tells.
pub fn put_differences(stats: &mut ServerStats, before: &Snapshot, after: &Snapshot, was_restarted: bool) {
    stats.seconds = after.at_ns.saturating_sub(before.at_ns) as f64 / 1e9;
    let mut reset = was_restarted.then_some(RESTARTED);
    let mut single = |view: View| {
        let pair = Pair::single(before.of(view), after.of(view));
        if pair.as_ref().is_err_and(|reason| reason == RESET) {
            reset.get_or_insert(OTHERS_RESET);
        }
        match pair {
            Ok(_) if was_restarted && view == View::Database => Err(RESTARTED.to_owned()),
            pair => pair,
        }
        .map_err(|reason| stats.unavailable.push(Unavailable { what: view.name().to_owned(), reason }))
        .ok()
    };
    let database = single(View::Database);
    let (wal, checkpoints, io) = (single(View::Wal), single(View::Checkpoints), single(View::Io));
    stats.activity = database.map(|pair| ServerActivity {
        commits: pair.count_or_0("xact_commit"),
        rollbacks: pair.count_or_0("xact_rollback"),
        deadlocks: pair.count_or_0("deadlocks"),
        temp_bytes: pair.count_or_0("temp_bytes"),
        blocks_read: pair.count_or_0("blks_read"),
        blocks_hit: pair.count_or_0("blks_hit"),
        block_read_ms: pair.ms("blk_read_time").filter(|_| pair.after.get("io_timing").is_some_and(|on| on == "on")),
    });
    if wal.as_ref().is_some_and(|pair| !pair.after.contains_key("wal_records")) {
        let reason = "this server has no pg_stat_wal; only the bytes of its log are known".to_owned();
        stats.unavailable.push(Unavailable { what: View::Wal.name().to_owned(), reason });
    }
    stats.wal = wal.and_then(|pair| {
        Some(WalActivity {
            records: pair.count("wal_records"),
            full_page_images: pair.count("wal_fpi"),
            bytes: pair.count("wal_bytes")?,
            buffers_full: pair.count("wal_buffers_full"),
        })
    });
    stats.checkpoints = checkpoints.map(|pair| CheckpointActivity {
        timed: pair.count_or_0("timed"),
        requested: pair.count_or_0("requested"),
        write_ms: pair.ms("write_ms").unwrap_or_default(),
        sync_ms: pair.ms("sync_ms").unwrap_or_default(),
        buffers_written: pair.count_or_0("buffers"),
    });
    stats.io = io.map(|pair| IoActivity {
        reads: pair.count_or_0("reads"),
        writes: pair.count_or_0("writes"),
        extends: pair.count_or_0("extends"),
        fsyncs: pair.count_or_0("fsyncs"),
    });
    put_tables(stats, before, after, reset);
}

/// `reset` is why the counters may have begun anew: those of tables have no time of their own for it.
fn put_tables(stats: &mut ServerStats, before: &Snapshot, after: &Snapshot, reset: Option<&str>) {
    let mut lack = |view: View, reason: &str| {
        stats.unavailable.push(Unavailable { what: view.name().to_owned(), reason: reason.to_owned() });
    };
    let rows = match (before.of(View::Tables), after.of(View::Tables)) {
        (Ok(before), Ok(after)) => (before, after),
        (Err(reason), _) | (_, Err(reason)) => return lack(View::Tables, reason),
    };
    if let Some(reason) = reset {
        return lack(View::Tables, reason);
    }
    for reading in [before, after].map(|snapshot| snapshot.of(View::Sizes)) {
        if let Err(reason) = reading {
            lack(View::Sizes, reason);
            break;
        }
    }
    let size = |snapshot: &Snapshot, name: &str| -> Option<u64> {
        let rows = snapshot.of(View::Sizes).as_ref().ok()?;
        rows.iter().find(|row| row.get("name").is_some_and(|known| known == name))?.get("bytes")?.parse().ok()
    };
    for row in rows.1 {
        let Some(name) = row.get("name") else { continue };
        // A table of that name that was made meanwhile is another one.
        let same = rows.0.iter().find(|old| old.get("name") == Some(name) && old.get("id") == row.get("id"));
        let pair = same.ok_or_else(|| NOT_THERE.to_owned()).and_then(|old| Pair::of(old, row));
        match pair {
            Err(reason) => lack(View::Tables, &format!("{name}: {reason}")),
            Ok(pair) => stats.tables.push(TableActivity {
                name: name.clone(),
                inserted: pair.count_or_0("n_tup_ins"),
                updated: pair.count_or_0("n_tup_upd"),
                hot_updated: pair.count_or_0("n_tup_hot_upd"),
                dead_rows: row.get("n_dead_tup").and_then(|text| text.parse().ok()).unwrap_or(0),
                autovacuums: pair.count_or_0("autovacuum_count"),
                bytes_before: size(before, name),
                bytes_after: size(after, name),
            }),
        }
    }
}

const RESET: &str = "its counters were reset during the run";
const RESTARTED: &str = "the server was restarted during the run, so its counters may have been reset";
const OTHERS_RESET: &str = "other counters of the server were reset during the run, so these may have been as well";
const NOT_THERE: &str = "it was not there when the window began";

/// One row at two instants.
struct Pair<'a> {
    before: &'a Row,
    after: &'a Row,
}

/// Columns that are no counters.
const NO_COUNTERS: [&str; 5] = ["stats_reset", "io_timing", "name", "id", "n_dead_tup"];

impl<'a> Pair<'a> {
    fn single(before: &'a Reading, after: &'a Reading) -> Result<Self, String> {
        match (before.as_ref()?.first(), after.as_ref()?.first()) {
            (Some(before), Some(after)) => Self::of(before, after),
            _ => Err("the server has no row there".to_owned()),
        }
    }

    /// Fails where the counters began anew in between.
    fn of(before: &'a Row, after: &'a Row) -> Result<Self, String> {
        let pair = Self { before, after };
        let is_lower = |name: &&String| {
            !NO_COUNTERS.contains(&name.as_str()) && pair.values(name).is_some_and(|[before, after]| after < before)
        };
        if before.get("stats_reset") != after.get("stats_reset") || after.keys().any(|name| is_lower(&name)) {
            return Err(RESET.to_owned());
        }
        Ok(pair)
    }

    fn values(&self, name: &str) -> Option<[f64; 2]> {
        Some([self.before.get(name)?.parse().ok()?, self.after.get(name)?.parse().ok()?])
    }

    fn ms(&self, name: &str) -> Option<f64> {
        self.values(name).map(|[before, after]| after - before)
    }

    fn count(&self, name: &str) -> Option<u64> {
        let value = |row: &Row| row.get(name)?.parse::<i128>().ok();
        u64::try_from(value(self.after)? - value(self.before)?).ok()
    }

    fn count_or_0(&self, name: &str) -> u64 {
        self.count(name).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[(&str, &str)]) -> Row {
        values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn snapshot(at_s: u64, database: &[(&str, &str)], tables: Vec<Row>) -> Snapshot {
        let none = || Err("no answer".to_owned());
        let sizes = vec![row(&[("name", "a"), ("bytes", "8192")])];
        let readings = [Ok(vec![row(database)]), none(), none(), none(), Ok(tables), Ok(sizes)];
        Snapshot { at_ns: at_s * 1_000_000_000, readings }
    }

    fn differences(before: &Snapshot, after: &Snapshot) -> ServerStats {
        let mut stats = ServerStats::default();
        put_differences(&mut stats, before, after, false);
        stats
    }

    #[test]
    fn views_stand_where_they_are_looked_for() {
        for (position, view) in View::ALL.into_iter().enumerate() {
            assert_eq!(view as usize, position);
        }
    }

    #[test]
    fn counters_are_differences_and_what_fails_is_named() {
        let table = |inserted: &str, dead: &str| {
            row(&[("name", "a"), ("id", "1"), ("n_tup_ins", inserted), ("n_dead_tup", dead)])
        };
        let large = "18446744073709551614";
        let before = [("xact_commit", large), ("blk_read_time", "1.5"), ("io_timing", "off")];
        let after = [("xact_commit", "18446744073709551615"), ("blk_read_time", "4"), ("io_timing", "off")];
        let new = row(&[("name", "b"), ("id", "2")]);
        let stats =
            differences(&snapshot(1, &before, vec![table("5", "9")]), &snapshot(4, &after, vec![table("7", "3"), new]));
        assert_eq!(stats.seconds, 3.0);
        let activity = stats.activity.unwrap();
        assert_eq!((activity.commits, activity.block_read_ms), (1, None));
        let [table] = &stats.tables[..] else { panic!("{:?}", stats.tables) };
        assert_eq!((table.inserted, table.dead_rows, table.bytes_after), (2, 3, Some(8192)));
        let unavailable: Vec<_> =
            stats.unavailable.iter().map(|lack| (lack.what.as_str(), lack.reason.as_str())).collect();
        assert_eq!(
            unavailable,
            [
                ("pg_stat_wal", "no answer"),
                ("pg_stat_checkpointer", "no answer"),
                ("pg_stat_io", "no answer"),
                ("pg_stat_user_tables", "b: it was not there when the window began"),
            ]
        );
    }

    #[test]
    fn counters_that_were_reset_have_no_difference() {
        let at = |commits: &str, reset: &str| {
            snapshot(1, &[("xact_commit", commits), ("temp_bytes", "0"), ("stats_reset", reset)], Vec::new())
        };
        let is_known = |before, after| differences(&before, &after).activity.is_some();
        assert!(is_known(at("5", "noon"), at("5", "noon")));
        assert!(!is_known(at("5", "noon"), at("9", "one")));
        // A crash leaves no time of the reset.
        assert!(!is_known(at("5", "noon"), at("4", "noon")));
        let never = snapshot(1, &[("xact_commit", "5")], Vec::new());
        assert!(!is_known(never, at("9", "noon")));
    }

    #[test]
    fn tables_have_no_difference_after_a_restart_or_a_reset_of_other_counters() {
        let at = |inserted: &str, reset: &str| {
            let table = row(&[("name", "a"), ("id", "1"), ("n_tup_ins", inserted)]);
            snapshot(1, &[("xact_commit", inserted), ("stats_reset", reset)], vec![table])
        };
        let known = |before: &Snapshot, after: &Snapshot, was_restarted| {
            let mut stats = ServerStats::default();
            put_differences(&mut stats, before, after, was_restarted);
            let reason = stats.unavailable.iter().find(|lack| lack.what == "pg_stat_user_tables");
            (stats.activity.is_some(), stats.tables.len(), reason.map(|lack| lack.reason.clone()))
        };
        assert_eq!(known(&at("5", "noon"), &at("9", "noon"), false), (true, 1, None));
        assert_eq!(known(&at("5", "noon"), &at("9", "noon"), true), (false, 0, Some(RESTARTED.to_owned())));
        assert_eq!(known(&at("5", "noon"), &at("9", "one"), false), (false, 0, Some(OTHERS_RESET.to_owned())));
    }
}
