//! The advisory locks of a mark, as SQL. Pure but for the session's name.

use std::fmt::Write as _;

use super::claim::Claim;
use crate::workload::table::Table;

/// First half of the key of a mark; `schema.sql` has the same number.
const CLASS: u32 = 0x5000_0000;

/// First half of the key that belongs to one share of a test.
const SHARE_CLASS: u32 = 0x6000_0000;

/// The setting by which `schema.sql` tells this test's own marks from others.
pub(super) const TEST_SETTING: &str = "postgres_load_test.test";

#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// Oids of the schemas with the tables.
    pub(super) schemas: Vec<u32>,
    pub(super) tables: &'static [Table],
    pub(super) claim: Claim,
    /// What the mark's session is called.
    pub(super) application: String,
}

impl Keys {
    /// Begins a transaction that no time limit of the role or database ends.
    pub(super) fn begin(&self) -> String {
        format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; \
             SELECT set_config('application_name', '{}', true), set_config('lock_timeout', '10s', true), \
             set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true), \
             CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL \
             THEN set_config('transaction_timeout', '0', true) END; ",
            self.application
        )
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = u32> {
        self.schemas.iter().map(|schema| CLASS ^ schema)
    }

    /// The process's own key, where the test has several.
    pub(super) fn shares(&self) -> impl Iterator<Item = u32> {
        self.schemas.iter().map(|schema| SHARE_CLASS ^ schema).filter(|_| self.claim.share.of > 1)
    }

    /// Takes the test's marks until the end of the transaction.
    pub(super) fn lock_shared(&self) -> String {
        self.marks().fold(String::new(), |mut sql, class| {
            let test = self.claim.test as i32;
            let _ = write!(sql, "SELECT pg_advisory_xact_lock_shared({}, {test}); ", class as i32);
            sql
        })
    }

    pub(super) fn lock_all(&self) -> String {
        self.shares().fold(self.lock_shared(), |mut sql, class| {
            let share = self.claim.share_key() as i32;
            let _ = write!(sql, "SELECT pg_advisory_xact_lock({}, {share}); ", class as i32);
            sql
        })
    }
}

/// What [`application_name`] is like, for SQL's LIKE.
pub const APPLICATION_NAME_LIKE: &str = "load_test % pid % since %";

/// What `pg_stat_activity` shows of the mark's session, to every role. At most 63 bytes, which is what the server keeps.
pub(super) fn application_name() -> String {
    let system = rustix::system::uname();
    let host: String = system
        .nodename()
        .to_string_lossy()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c))
        .take(14)
        .collect();
    let since: String = crate::text::words::rfc3339(crate::clock::unix_ns()).chars().take(19).collect();
    format!("load_test {host} pid {} since {since}Z", std::process::id())
}
