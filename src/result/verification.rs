//! What the database holds of a run, against what it acknowledged. Pure.

use serde::{Deserialize, Serialize};

use crate::text::words::{name_list, thousands};
use crate::workload::TOTAL;
use crate::workload::table::Total;

/// What was found in the database after the drain (`--verify`). The warm-up is part of all counts. Where there are
/// several VMs: acknowledged and unsettled requests of all, and the rows of those that could be verified.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Verification {
    /// Requests whose COMMIT was acknowledged, warm-up included.
    pub acknowledged: u64,
    /// Requests that may or may not have been committed (unknown or unfinished), warm-up included.
    pub unsettled: u64,
    /// Acknowledged requests whose rows nobody could count.
    #[serde(default)]
    pub unverified: u64,
    /// Unsettled requests that were committed after all.
    pub committed: u64,
    /// Unsettled requests that were not committed.
    pub not_committed: u64,
    /// Rows of this run in each table.
    pub tables: Vec<TableRows>,
    /// Growth of the workload's total since the run began (`resource_bucket`: one ticket for each committed request). `null` if
    /// it is not written, or if other parts of the test write it at the same time.
    #[serde(rename = "tickets_taken")]
    pub total: Option<u64>,
    /// Why the rows could not be verified; `null` if they could.
    pub error: Option<String>,
}

/// How many rows of a run a table holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TableRows {
    /// Name of the table.
    pub table: String,
    /// Rows with the run ID of this run.
    pub rows: u64,
}

/// Tables that a sentence names.
const NAMED: usize = 5;

impl Verification {
    /// One that could not be carried out.
    pub fn failed(acknowledged: u64, unsettled: u64, error: String) -> Self {
        Self { acknowledged, unsettled, unverified: acknowledged, error: Some(error), ..Self::default() }
    }

    /// How many requests at least, and at most, must be in the database.
    fn bounds(&self) -> (u64, u64) {
        let least = self.acknowledged.saturating_add(self.committed);
        let looked_up = self.committed.saturating_add(self.not_committed);
        (least, least.saturating_add(self.unsettled.saturating_sub(looked_up)))
    }

    /// What was found of each kind of row: table and count.
    fn found(&self) -> impl Iterator<Item = (String, u64)> {
        let total = self.total.map(|total| (format!("{} ({})", TOTAL.table, TOTAL.unit), total));
        self.tables.iter().map(|table| (table.table.clone(), table.rows)).chain(total)
    }

    /// How many requests must be there.
    fn expected(&self) -> String {
        match self.bounds() {
            (least, most) if least == most => thousands(least),
            (least, most) => format!("{} to {}", thousands(least), thousands(most)),
        }
    }

    /// The counts that are `wrong`, as a list.
    fn told(&self, wrong: impl Fn(u64) -> bool) -> String {
        let texts: Vec<String> = self
            .found()
            .filter(|(_, rows)| wrong(*rows))
            .map(|(table, rows)| format!("{table} has {}", thousands(rows)))
            .collect();
        name_list(&texts.iter().map(String::as_str).collect::<Vec<_>>(), NAMED)
    }

    /// The tables in which fewer requests are found than there must be.
    pub fn short_tables(&self) -> Vec<&str> {
        let (least, _) = self.bounds();
        let total = self.total.map(|total| (TOTAL.table, total));
        let tables = self.tables.iter().map(|table| (table.table.as_str(), table.rows)).chain(total);
        tables.filter(|(_, rows)| *rows < least).map(|(table, _)| table).collect()
    }

    /// Which tables show too few, and how many; `None` where none does.
    pub fn shortfall(&self) -> Option<String> {
        let (least, _) = self.bounds();
        (!self.short_tables().is_empty()).then(|| format!("of {}, {}", self.expected(), self.told(|rows| rows < least)))
    }

    /// In which way the database does not hold what was acknowledged, as a sentence without its full stop; `None` where
    /// it does, or where it is not known.
    pub fn difference(&self) -> Option<String> {
        if self.error.is_some() {
            // Where some of several VMs could be verified, their own parts tell of their rows.
            return None;
        }
        let (least, most) = self.bounds();
        let fewest = self.found().map(|(_, rows)| rows).min()?;
        if let Some(shortfall) = self.shortfall() {
            return Some(format!(
                "{} of {} committed requests are missing in the database: {shortfall}",
                thousands(least.saturating_sub(fewest)),
                thousands(least),
            ));
        }
        // Anybody may have added to the total, but only this test makes its ids.
        let greatest = self.tables.iter().map(|table| table.rows).max()?;
        (greatest > most).then(|| {
            format!(
                "{} requests are in the database that were never acknowledged: of {}, {}",
                thousands(greatest - most),
                self.expected(),
                self.told(|rows| rows > most),
            )
        })
    }

    /// Why it is not known whether the database holds what was acknowledged, as a sentence without its full stop; `None`
    /// where it is known.
    pub fn doubt(&self) -> Option<String> {
        if let Some(error) = &self.error {
            return Some(error.clone());
        }
        let (_, most) = self.bounds();
        let total = self.total.filter(|total| *total > most)?;
        let Total { table, unit, .. } = TOTAL;
        let (total, more) = (thousands(total), thousands(total - most));
        Some(format!(
            "somebody else wrote {table} during the run: {total} {unit} were taken, {more} more than by this test"
        ))
    }

    /// Adds another VM's part. The total is not counted by part, and of one whose rows could not be counted, the error is
    /// for the caller to tell.
    pub fn add(&mut self, other: &Self) {
        self.acknowledged = self.acknowledged.saturating_add(other.acknowledged);
        self.unsettled = self.unsettled.saturating_add(other.unsettled);
        if other.error.is_some() {
            self.unverified = self.unverified.saturating_add(other.acknowledged);
            return;
        }
        self.committed = self.committed.saturating_add(other.committed);
        self.not_committed = self.not_committed.saturating_add(other.not_committed);
        for theirs in &other.tables {
            match self.tables.iter_mut().find(|mine| mine.table == theirs.table) {
                Some(mine) => mine.rows = mine.rows.saturating_add(theirs.rows),
                None => self.tables.push(theirs.clone()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn verified(acknowledged: u64, (unsettled, committed, not_committed): (u64, u64, u64), rows: u64) -> Verification {
        let tables = ["chat_inference", "model_inference"].map(|table| TableRows { table: table.to_owned(), rows });
        Verification {
            acknowledged,
            unsettled,
            unverified: 0,
            committed,
            not_committed,
            tables: tables.into(),
            total: Some(rows),
            error: None,
        }
    }

    #[test]
    fn every_acknowledged_request_must_be_there_and_no_other() {
        for (found, is_right) in [
            (verified(100, (0, 0, 0), 100), true),
            (verified(100, (0, 0, 0), 99), false),
            (verified(100, (0, 0, 0), 101), false),
            // Two in doubt, one of them committed: exactly one more.
            (verified(100, (2, 1, 1), 101), true),
            (verified(100, (2, 1, 1), 100), false),
            (verified(100, (2, 1, 1), 102), false),
            // Five in doubt, and three of them not looked up.
            (verified(100, (5, 1, 1), 101), true),
            (verified(100, (5, 1, 1), 104), true),
            (verified(100, (5, 1, 1), 105), false),
        ] {
            assert_eq!(found.difference().is_none(), is_right, "{found:?}: {:?}", found.difference());
        }
    }

    #[test]
    fn a_table_that_lost_rows_is_named_with_its_count() {
        let mut found = verified(1_000, (0, 0, 0), 1_000);
        found.tables[1].rows = 990;
        let said = found.difference().unwrap();
        assert!(said.starts_with("10 of 1,000 ") && said.ends_with("of 1,000, model_inference has 990"), "{said}");
        found = verified(1_000, (0, 0, 0), 1_000);
        found.total = Some(996);
        assert!(found.difference().unwrap().contains("resource_bucket (tickets) has 996"));
        assert_eq!((found.short_tables(), found.doubt()), (vec!["resource_bucket"], None));
    }

    #[test]
    fn tickets_that_somebody_else_took_are_no_fault_of_the_database() {
        let mut found = verified(1_000, (0, 0, 0), 1_000);
        found.total = Some(1_004);
        assert_eq!(found.difference(), None);
        let doubt = found.doubt().unwrap();
        assert!(doubt.contains("1,004 tickets were taken, 4 more"), "{doubt}");
    }

    #[test]
    fn what_could_not_be_counted_is_acknowledged_all_the_same() {
        let mut sum = Verification::default();
        sum.add(&Verification { total: None, ..verified(1_000, (0, 0, 0), 1_000) });
        sum.add(&Verification::failed(321, 3, "it is down".to_owned()));
        assert_eq!((sum.acknowledged, sum.unverified, sum.unsettled), (1_321, 321, 3));
        assert_eq!(sum.tables[0].rows, 1_000);
        sum.error = Some("h2: it is down".to_owned());
        assert_eq!(sum.difference(), None);
    }

    proptest! {
        #[test]
        fn what_holds_for_each_vm_holds_for_the_sum(parts in prop::collection::vec((0u64..1_000, 0u64..50, 0u64..50), 1..6)) {
            let mut sum = Verification::default();
            for (acknowledged, committed, not_committed) in &parts {
                let unsettled = committed + not_committed;
                let mut part = verified(*acknowledged, (unsettled, *committed, *not_committed), acknowledged + committed);
                part.total = None;
                prop_assert_eq!(part.difference(), None);
                sum.add(&part);
            }
            prop_assert_eq!(sum.difference(), None);
            sum.tables[0].rows += 1;
            prop_assert!(sum.difference().is_some());
        }
    }
}
