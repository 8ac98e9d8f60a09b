//! What a workload says of its tables: which there are, what requests do with them, and what can be counted in them.
//! Data alone.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    pub name: &'static str,
    pub role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A request inserts one row.
    Inserted,
    /// A request inserts a row, or updates it where it is there already.
    Upserted,
    /// As [`Self::Upserted`], but all requests share a few rows and wait for one another's locks.
    Shared,
    /// Requests read it. It is filled before the load ([`Material`]) and not emptied.
    Source,
}

/// Rows of one run that can be counted by their IDs. Every request that committed has one of them.
#[derive(Clone, Debug)]
pub struct Count {
    pub name: &'static str,
    /// Returns one bigint. `$1` and `$2` are the least and the greatest ID of the run, `$3` is the tag in its IDs.
    pub sql: String,
}

/// A count in a table with the role [`Role::Shared`]. No row there belongs to one process, so only the growth during the
/// whole test can be compared with its committed requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total {
    pub table: &'static str,
    /// What is counted, in the plural.
    pub unit: &'static str,
    /// Returns one bigint.
    pub sql: &'static str,
}

/// Bytes that must be in the database before the load, so that requests can refer to them.
#[derive(Clone, Debug)]
pub struct Material<'a> {
    /// For sentences: `fill …`.
    pub what: &'static str,
    /// Returns a row where they are there already.
    pub find: String,
    /// Removes those of other runs.
    pub remove_others: &'static str,
    /// Writes them; `$1` is `bytes`. It is no error if another process was first.
    pub insert: String,
    pub bytes: &'a [u8],
}
