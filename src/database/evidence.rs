//! What else could explain that rows are not there: which tables these are, on which server, and what was done to them.
//! Read before the load and with the rows after it; the difference decides whether missing rows are the database's fault.

use serde::Deserialize;

use crate::postgres::link::{Link, LinkError};
use crate::workload::table::{Role, Table};

/// What one server said of the tables at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Evidence {
    /// Names the cluster: the same after a restart, a crash and a failover. Absent where the server does not tell.
    system: Option<String>,
    database: String,
    standby: bool,
    /// When the server process began. A crash discards the statistics.
    started: String,
    /// `track_counts`: whether the statistics count.
    counting: String,
    tables: Vec<Found>,
}

/// One table as the session's search_path finds it. The counts are those of the server's statistics.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Found {
    name: String,
    oid: Option<i64>,
    /// Changes with TRUNCATE, and where the table is written anew.
    file: Option<i64>,
    inserted: Option<i64>,
    updated: Option<i64>,
    deleted: Option<i64>,
    /// Whether row security hides rows from this role.
    hidden: Option<bool>,
}

/// What the tables were before the load, and how to ask for it again.
#[derive(Clone, Debug)]
pub struct Baseline {
    evidence: Evidence,
    tables: &'static [Table],
    /// Without the cluster's name, which some providers do not tell.
    is_nameless: bool,
}

/// Another explanation than a loss, or why it cannot be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// A sentence without its full stop.
    pub text: String,
    /// Whether it may be otherwise in some seconds: statistics come late, and so do standbys.
    pub may_pass: bool,
}

impl Doubt {
    pub(super) fn lasting(text: impl Into<String>) -> Self {
        Self { text: text.into(), may_pass: false }
    }

    pub(super) fn passing(text: impl Into<String>) -> Self {
        Self { text: text.into(), may_pass: true }
    }
}

/// An expression whose value is the evidence as text, to be read by [`Evidence::parse`]. It locks no table.
fn sql(tables: &[Table], is_nameless: bool) -> String {
    let system = match is_nameless {
        false => "(SELECT system_identifier::text FROM pg_control_system())",
        true => "NULL::text",
    };
    let written = tables.iter().filter(|table| table.role != Role::Source);
    let names = written.map(|table| format!("'{}'", table.name)).collect::<Vec<_>>().join(", ");
    format!(
        "json_build_object('system', {system}, 'database', current_database(), 'standby', pg_is_in_recovery(), \
         'started', extract(epoch FROM pg_postmaster_start_time())::text, \
         'counting', current_setting('track_counts'), 'tables', (SELECT json_agg(json_build_object('name', name, \
         'oid', id::bigint, 'file', pg_relation_filenode(id)::bigint, \
         'inserted', pg_stat_get_tuples_inserted(id), 'updated', pg_stat_get_tuples_updated(id), \
         'deleted', pg_stat_get_tuples_deleted(id), 'hidden', row_security_active(id)) ORDER BY position) \
         FROM (SELECT name, position, to_regclass(name)::oid AS id \
         FROM unnest(ARRAY[{names}]) WITH ORDINALITY AS wanted(name, position)) AS found))::text"
    )
}

impl Evidence {
    /// What [`Baseline::sql`] returned.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

impl Baseline {
    /// Asks for it. `None` where the server does not tell.
    pub async fn ask(link: &mut Link, tables: &'static [Table]) -> Result<Option<Self>, LinkError> {
        for is_nameless in [false, true] {
            match link.ask_one(&format!("SELECT {}", sql(tables, is_nameless))).await {
                Ok(text) => {
                    let evidence = text.and_then(|text| Evidence::parse(&text));
                    return Ok(evidence.map(|evidence| Self { evidence, tables, is_nameless }));
                }
                Err(error) if error.code().is_some() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// An expression that asks for the same at a later moment; see [`Evidence::parse`]. It locks no table.
    pub fn sql(&self) -> String {
        sql(self.tables, self.is_nameless)
    }

    /// Takes the tables' files from a later moment: other processes of the test may have emptied them since.
    pub fn take_files_of(&mut self, later: &Evidence) {
        for (mine, theirs) in self.evidence.tables.iter_mut().zip(&later.tables) {
            (mine.oid, mine.file) = (theirs.oid, theirs.file);
        }
    }

    /// Why what `later` shows of these tables says nothing of this run's rows: it is another server or table, or it was
    /// emptied.
    pub fn replaced(&self, later: &Evidence, tables: &[&str]) -> Option<Doubt> {
        let known = |one: &Option<String>, other: &Option<String>| one.is_none() || other.is_none() || one == other;
        if later.standby {
            return Some(Doubt::passing(
                "a standby answered in place of the primary, and may lag behind; point --postgres-url at the primary",
            ));
        }
        let begun_on = &self.evidence;
        if !known(&begun_on.system, &later.system) || begun_on.database != later.database {
            return Some(Doubt::passing(format!(
                "another database answered than the one that the load began on ({} in place of {})",
                later.database, begun_on.database
            )));
        }
        self.pairs(later, tables).find_map(|(before, after)| {
            let name = &before.name;
            let text = if after.hidden != Some(false) {
                format!(
                    "row security hides rows of {name} from this role: give it BYPASSRLS, or use the owner of the tables"
                )
            } else if before.oid.is_none() || before.oid != after.oid {
                format!(
                    "{name} is another table than before the load: it was made anew meanwhile, or search_path has changed"
                )
            } else if before.file != after.file {
                format!("{name} was emptied or rewritten during the run (TRUNCATE, VACUUM FULL)")
            } else {
                return None;
            };
            Some(Doubt::lasting(text))
        })
    }

    /// Any other explanation for rows that are missing in these `tables`, where `acknowledged` requests wrote one each.
    pub fn doubt(&self, later: &Evidence, tables: &[&str], acknowledged: u64) -> Option<Doubt> {
        if let Some(replaced) = self.replaced(later, tables) {
            return Some(replaced);
        }
        if later.counting != "on" || self.evidence.counting != "on" {
            return Some(Doubt::lasting("track_counts is off, so that a DELETE by somebody else would not show"));
        }
        let grew = |before: Option<i64>, after: Option<i64>| after != before && after.is_none_or(|count| count > 0);
        self.pairs(later, tables).find_map(|(before, after)| {
            let name = &before.name;
            let is_upserted = self.tables.iter().any(|table| table.name == name && table.role != Role::Inserted);
            if grew(before.deleted, after.deleted) || !is_upserted && grew(before.updated, after.updated) {
                return Some(Doubt::lasting(format!(
                    "rows of {name} were deleted or changed during the run, which a load test never does"
                )));
            }
            // Elsewhere is where a rule, a trigger, or another search_path of a pooled session sends them.
            let inserted = after.inserted.unwrap_or_default() - before.inserted.unwrap_or_default();
            let expected = i64::try_from(acknowledged).unwrap_or(i64::MAX);
            (!is_upserted && self.evidence.started == later.started && inserted < expected).then(|| {
                Doubt::passing(format!(
                    "the server counts only {inserted} rows inserted into {name}: requests wrote to another table (a \
                     rule, a trigger, or another search_path of a pooled session)"
                ))
            })
        })
    }

    fn pairs<'a>(&'a self, later: &'a Evidence, tables: &'a [&str]) -> impl Iterator<Item = (&'a Found, &'a Found)> {
        self.evidence.tables.iter().zip(&later.tables).filter(|(before, _)| tables.contains(&before.name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: [Table; 3] = [
        Table { name: "one", role: Role::Inserted },
        Table { name: "other", role: Role::Inserted },
        Table { name: "hot", role: Role::Shared },
    ];

    fn evidence() -> Evidence {
        let table = |table: Table| Found {
            name: table.name.to_owned(),
            oid: Some(1),
            file: Some(2),
            inserted: Some(100),
            updated: Some(0),
            deleted: Some(5),
            hidden: Some(false),
        };
        Evidence {
            system: Some("77".to_owned()),
            database: "load".to_owned(),
            standby: false,
            started: "1.5".to_owned(),
            counting: "on".to_owned(),
            tables: TABLES.map(table).into(),
        }
    }

    fn doubt(change: impl FnOnce(&mut Evidence)) -> Option<Doubt> {
        let mut later = evidence();
        later.tables.iter_mut().for_each(|table| table.inserted = Some(150));
        change(&mut later);
        let before = Baseline { evidence: evidence(), tables: &TABLES, is_nameless: false };
        before.doubt(&later, &["one", "hot"], 50)
    }

    #[test]
    fn rows_are_lost_only_where_nothing_else_explains_it() {
        assert_eq!(doubt(|_| ()), None);
        type Change = fn(&mut Evidence);
        let explained: [(Change, &str, bool); 12] = [
            (|e| e.standby = true, "standby", true),
            (|e| e.system = Some("78".to_owned()), "another database", true),
            (|e| e.database = "other".to_owned(), "another database", true),
            (|e| e.tables[0].hidden = Some(true), "row security", false),
            (|e| e.tables[0].hidden = None, "row security", false),
            (|e| e.tables[0].oid = Some(9), "another table", false),
            (|e| e.tables[0].file = Some(9), "emptied", false),
            (|e| e.tables[2].file = Some(9), "emptied", false),
            (|e| e.tables[0].deleted = Some(6), "deleted or changed", false),
            (|e| e.tables[0].updated = Some(1), "deleted or changed", false),
            (|e| e.tables[0].inserted = Some(149), "only 49 rows", true),
            (|e| e.counting = "off".to_owned(), "track_counts", false),
        ];
        for (change, part, may_pass) in explained {
            let found = doubt(change).unwrap_or_else(|| panic!("nothing about {part}"));
            assert!(found.text.contains(part) && found.may_pass == may_pass, "{found:?}");
        }
        // Tables that are whole explain nothing, and upserts update.
        assert_eq!(doubt(|e| e.tables[1].file = Some(9)), None);
        assert_eq!(doubt(|e| e.tables[2].updated = Some(9)), None);
    }

    #[test]
    fn a_crash_discards_the_statistics_and_explains_nothing() {
        let crash = |e: &mut Evidence| {
            e.started = "2.5".to_owned();
            e.tables.iter_mut().for_each(|table| (table.inserted, table.deleted) = (Some(3), Some(0)));
        };
        assert_eq!(doubt(crash), None);
        let no_system = |e: &mut Evidence| e.system = None;
        assert_eq!(doubt(no_system), None);
    }
}
