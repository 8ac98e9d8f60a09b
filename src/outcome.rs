//! What became of a request, and why: database errors sorted into a bounded set of classes by SQLSTATE.
//!
//! Knows the driver's errors, not the engine. An example of each class is kept word for word (shortened), never more.

use std::collections::BTreeMap;
use std::error::Error as _;

use serde::{Deserialize, Serialize};
use tokio_postgres::error::{DbError, SqlState};

/// How a request ended. "Ok" means that its COMMIT was acknowledged, and nothing less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// COMMIT acknowledged.
    Ok,
    /// The transaction is known not to have committed.
    Failed(Failure),
    /// The connection died after COMMIT may have been sent: it may or may not be in the database.
    Unknown(Failure),
}

/// An error with the class that it counts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Five characters, where the server sent the error.
    pub sqlstate: Option<String>,
    /// What the class is called.
    pub class: String,
    /// The error's own words.
    pub message: String,
    /// Whether the connection is of no use any more.
    pub connection_lost: bool,
}

impl Failure {
    /// Sorts an error of the driver; `socket` is the error with which the connection itself ended, if it did.
    pub fn of(error: &tokio_postgres::Error, socket: Option<&tokio_postgres::Error>) -> Self {
        if let Some(db) = error.as_db_error().or_else(|| socket.and_then(tokio_postgres::Error::as_db_error)) {
            return Self::of_server(db, error.is_closed());
        }
        let cause = socket.unwrap_or(error);
        let connection_lost = error.is_closed() || socket.is_some() || io_error(error).is_some();
        let class = match io_error(cause) {
            Some(io) => format!("connection lost ({})", io_class(io.kind())),
            None if connection_lost => "connection lost (closed by the server)".to_owned(),
            None => "driver error".to_owned(),
        };
        Self { sqlstate: None, class, message: chain(cause), connection_lost }
    }

    /// An error that this program itself raises, of a class of its own.
    pub fn own(class: &str, message: String, connection_lost: bool) -> Self {
        Self { sqlstate: None, class: class.to_owned(), message, connection_lost }
    }

    fn of_server(db: &DbError, closed: bool) -> Self {
        let fatal = matches!(db.severity(), "FATAL" | "PANIC") || closed;
        let class = sqlstate_name(db.code()).map_or_else(|| format!("SQLSTATE {}", db.code().code()), str::to_owned);
        let detail = db.detail().map(|d| format!(" ({d})")).unwrap_or_default();
        Self {
            sqlstate: Some(db.code().code().to_owned()),
            class,
            message: format!("{}: {}{detail}", db.severity(), db.message()),
            connection_lost: fatal,
        }
    }

    /// Whether the error only says that an earlier statement of the transaction failed.
    pub fn is_aftermath(&self) -> bool {
        self.sqlstate.as_deref() == Some(SqlState::IN_FAILED_SQL_TRANSACTION.code())
    }
}

/// The texts of an error and of all its causes, `: ` between them, without repetitions. The driver's "db error", which
/// stands before every error that the server sent, is left out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let part = error.to_string();
        next = error.source();
        if text.is_empty() || text == "db error" {
            text = part;
        } else if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
    }
    text
}

fn io_error(error: &tokio_postgres::Error) -> Option<&std::io::Error> {
    error.source().and_then(|source| source.downcast_ref())
}

fn io_class(kind: std::io::ErrorKind) -> &'static str {
    use std::io::ErrorKind as Kind;
    match kind {
        Kind::ConnectionReset => "reset",
        Kind::BrokenPipe => "broken pipe",
        Kind::TimedOut => "timed out",
        Kind::UnexpectedEof => "closed by the server",
        Kind::HostUnreachable | Kind::NetworkUnreachable => "unreachable",
        _ => "I/O error",
    }
}

/// Names of the conditions that a load test is likely to meet (PostgreSQL's appendix A).
fn sqlstate_name(state: &SqlState) -> Option<&'static str> {
    Some(match state.code() {
        "08003" | "08006" | "08P01" => "connection exception",
        "22P02" | "22P05" => "invalid text",
        "23502" => "not-null violation",
        "23505" => "unique violation",
        "25006" => "read-only transaction",
        "25P02" => "transaction already aborted",
        "25P03" => "idle-in-transaction timeout",
        "26000" => "prepared statement missing",
        "28000" | "28P01" => "authentication failed",
        "3D000" => "database missing",
        "40001" => "serialization failure",
        "40P01" => "deadlock",
        "42501" => "permission denied",
        "42703" => "column missing",
        "42P01" => "table missing",
        "42P05" => "prepared statement already there",
        "53100" => "disk full",
        "53200" => "out of memory",
        "53300" => "too many connections",
        "53400" => "configuration limit exceeded",
        "55P03" => "lock not available",
        "57014" => "statement timeout or cancelled",
        "57P01" => "terminated by an administrator",
        "57P02" => "server crashed",
        "57P03" => "server starting up or shutting down",
        "58030" => "server I/O error",
        _ => return None,
    })
}

/// A class of errors with its count, as reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorCount {
    /// `request`: counted among failed or unknown; `warmup`: before the window; `connection`: a connection died
    /// between requests, or could not be replaced.
    pub origin: ErrorOrigin,
    /// What the class is called.
    pub class: String,
    /// Five characters, where the server sent the errors.
    pub sqlstate: Option<String>,
    /// How many.
    pub count: u64,
    /// The first one's words.
    pub example: String,
}

/// What the program was doing when the error came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorOrigin {
    /// Running a request of the measured window.
    Request,
    /// Running a request of the warm-up.
    Warmup,
    /// Opening a connection in place of a dead one.
    Connection,
}

/// Counts errors by class. However many kinds of error there are, its size stays bounded.
#[derive(Clone, Debug, Default)]
pub struct ErrorTable {
    classes: BTreeMap<(ErrorOrigin, String, Option<String>), (u64, String)>,
}

impl ErrorTable {
    const MAX_CLASSES: usize = 64;
    const MAX_EXAMPLE_CHARS: usize = 300;

    /// Counts one error. True where it is the first of its class.
    pub fn add(&mut self, origin: ErrorOrigin, failure: &Failure) -> bool {
        let example = failure.message.chars().take(Self::MAX_EXAMPLE_CHARS).collect();
        self.count((origin, failure.class.clone(), failure.sqlstate.clone()), 1, example)
    }

    /// Adds counts that were taken elsewhere.
    pub fn merge(&mut self, counts: &[ErrorCount]) {
        for count in counts {
            let key = (count.origin, count.class.clone(), count.sqlstate.clone());
            self.count(key, count.count, count.example.clone());
        }
    }

    fn count(&mut self, key: (ErrorOrigin, String, Option<String>), count: u64, example: String) -> bool {
        let full = self.classes.len() >= Self::MAX_CLASSES && !self.classes.contains_key(&key);
        let key = if full { (key.0, "other".to_owned(), None) } else { key };
        let is_new = !self.classes.contains_key(&key);
        let counted = &mut self.classes.entry(key).or_insert((0, example)).0;
        // Counts of other machines may be anything.
        *counted = counted.saturating_add(count);
        is_new
    }

    /// Takes the counts away. The classes stay known, so that their next error is not news.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let emptied = self.classes.iter().map(|(key, (_, example))| (key.clone(), (0, example.clone()))).collect();
        std::mem::replace(self, Self { classes: emptied })
    }

    /// All classes that were counted, the most frequent first.
    pub fn counts(&self) -> Vec<ErrorCount> {
        let mut counts: Vec<ErrorCount> = self
            .classes
            .iter()
            .filter(|(_, (count, _))| *count > 0)
            .map(|((origin, class, sqlstate), (count, example))| ErrorCount {
                origin: *origin,
                class: class.clone(),
                sqlstate: sqlstate.clone(),
                count: *count,
                example: example.clone(),
            })
            .collect();
        counts.sort_by_key(|count| std::cmp::Reverse(count.count));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_stay_bounded_and_no_error_is_lost() {
        let mut table = ErrorTable::default();
        for i in 0..1_000 {
            table.add(ErrorOrigin::Request, &Failure::own(&format!("class {i}"), "x".repeat(10_000), false));
        }
        let counts = table.counts();
        assert!(counts.len() <= ErrorTable::MAX_CLASSES + 1);
        assert_eq!(counts.iter().map(|c| c.count).sum::<u64>(), 1_000);
        assert_eq!(counts[0].class, "other");
        assert!(counts.iter().all(|c| c.example.len() <= ErrorTable::MAX_EXAMPLE_CHARS));
    }

    #[test]
    fn merging_equals_counting_together() {
        let failures: Vec<Failure> =
            [1, 2, 1, 3, 2, 1].map(|i| Failure::own(&format!("class {i}"), "why".to_owned(), false)).into();
        let table_of = |failures: &[Failure]| {
            let mut table = ErrorTable::default();
            failures.iter().for_each(|failure| _ = table.add(ErrorOrigin::Connection, failure));
            table
        };
        let mut merged = table_of(&failures[..3]);
        merged.merge(&table_of(&failures[3..]).counts());
        assert_eq!(merged.counts(), table_of(&failures).counts());
    }

    #[test]
    fn only_the_first_of_a_class_is_news() {
        let mut table = ErrorTable::default();
        let failure = Failure::own("full", "disk".to_owned(), false);
        assert!(table.add(ErrorOrigin::Request, &failure));
        assert!(!table.add(ErrorOrigin::Request, &failure));
    }
}
