//! The mark that a test puts on its tables for as long as it runs, so that no second test empties or replaces them.
//!
//! The mark is a set of advisory locks in the load's database, held by transactions of a connection of its own. A
//! transaction ends with its connection, whatever happens to the process, and it stays on one server session behind a
//! pooler in transaction mode; a session-level lock would leak into the pool there. It has neither a snapshot nor a
//! transaction ID, so it does not hold back vacuum, and it costs nothing per request.
//!
//! Every second a new transaction takes the place of the last one, because a pooler's PAUSE waits for the end of all
//! transactions. For the moment between the two the tables are not marked, so a newcomer looks twice, `SETTLE` apart.
//!
//! | key (two 32-bit numbers) | mode | who |
//! |---|---|---|
//! | `CLASS` xor the schema's oid, the test's number | shared | every process of the test, and its set-up transactions |
//! | `SHARE_CLASS` xor the schema's oid, a number for test and share | exclusive | the process with that share |
//!
//! `schema.sql` knows the first one. While a process looks for other marks and sets its own first one, it holds `GATE`.

mod claim;
mod holder;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use crate::measure::outcome::chain;
use crate::postgres::connect::{ConnectError, Connector};
use crate::postgres::link::{Link, LinkError};
use crate::workload::TABLES;

pub use claim::{Claim, random_test, test_of_shares};
pub use holder::Mark;

/// First half of the key of a mark; `schema.sql` has the same number.
const CLASS: u32 = 0x5000_0000;

/// First half of the key that belongs to one share of a test.
const SHARE_CLASS: u32 = 0x6000_0000;

/// The advisory lock that lets one process at a time look and mark.
const GATE: i64 = 7_021_867_105_285;

/// The setting by which `schema.sql` tells this test's own marks from others.
pub const TEST_SETTING: &str = "postgres_load_test.test";

/// How long a mark of another test is looked at again before the test is refused: one that is ending, or whose process
/// was just killed, is gone by then.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Between a newcomer's two looks. A renewal takes less.
const SETTLE: Duration = Duration::from_millis(250);

/// How long the set-up connection may take to answer while the mark is held. A pool of one connection cannot.
const SECOND_CONNECTION: Duration = Duration::from_secs(5);

/// How long the gate is waited for, and for each share of the test more: all of them may come at once, and each takes
/// some round trips.
const GATE_WITHIN: Duration = Duration::from_secs(10);
const GATE_WITHIN_PER_SHARE: Duration = Duration::from_millis(500);

/// Why a test may not use the tables. Nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Another test uses them.
    #[error(
        "another load test uses these tables: {who}; nothing was changed. Wait until it has ended, stop it, or give this \
         test another database or schema in --postgres-url. If that test no longer runs, end its session: SELECT \
         pg_terminate_backend({pid})"
    )]
    Taken {
        /// Who holds them, and since when.
        who: String,
        /// Of the server's process.
        pid: String,
    },
    /// Another process runs the same share.
    #[error(
        "another process runs the same share of this test: {who}; nothing was changed. Give each process a --share of its \
         own. If that process no longer runs, end its session: SELECT pg_terminate_backend({pid})"
    )]
    ShareTaken {
        /// Who runs it, and since when.
        who: String,
        /// Of the server's process.
        pid: String,
    },
    /// The gate stayed closed.
    #[error(
        "another load test is being set up in this database and did not finish in time; wait for it, or end the session \
         that holds the advisory lock {GATE} (see pg_locks)"
    )]
    Gate,
    /// The server does not answer.
    #[error("could not ask who uses the tables: {0}")]
    Silent(LinkError),
}

/// Whether the tables are marked.
pub enum Marking {
    /// They are, until this is released or dropped.
    Held(Mark),
    /// They cannot be: a sentence. No other test holds a mark that this process can see.
    Impossible(String),
}

/// The keys of a process's locks.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    schemas: Vec<u32>,
    claim: Claim,
    /// What the mark's session is called.
    application: String,
}

/// A session that holds a lock which keeps this process out.
struct Holder {
    pid: String,
    is_same_share: bool,
    application: String,
    client: String,
    since: String,
}

/// What came of an attempt to mark the tables.
enum Attempt {
    Marked,
    Taken(Vec<Holder>),
    /// This server has no such locks: its words.
    Useless(String),
}

/// Marks the tables for the process. `link` is the connection that sets up the database; it is replaced where only one of the two
/// connections can be had. `makes_tables`: tables may be made in the current schema.
///
/// # Errors
/// Another test uses the tables, or there is no answer.
pub async fn take(
    connector: &Connector,
    link: &mut Link,
    claim: Claim,
    makes_tables: bool,
) -> Result<Marking, MarkError> {
    let schemas = match schemas(link, makes_tables).await {
        Ok(schemas) => schemas,
        Err(error) if error.code().is_some() => return Ok(Marking::Impossible(impossible(&chain(&error)))),
        Err(error) => return Err(MarkError::Silent(error)),
    };
    let keys = Keys { schemas, claim, application: application_name() };
    let mut own = match Link::open(connector).await {
        Ok(own) => own,
        Err(error) => return unmarked(link, &keys, &chain(&error)).await,
    };
    match attempt_patiently(&mut own, &keys).await {
        Ok(Attempt::Marked) => {}
        Ok(Attempt::Taken(holders)) => {
            own.close().await;
            return Err(taken(&holders));
        }
        Ok(Attempt::Useless(cause)) => {
            own.close().await;
            return unmarked(link, &keys, &cause).await;
        }
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => return Err(MarkError::Gate),
        Err(error) => {
            drop(own);
            return unmarked(link, &keys, &chain(&error)).await;
        }
    }
    let is_pooled = is_pooled(&mut own).await;
    let answer = link.run_within(Some(SECOND_CONNECTION), async |client| client.simple_query("SELECT 1").await).await;
    if answer.is_err() {
        roll_back(&mut own).await;
        own.close().await;
        *link = Link::open(connector).await?;
        let cause = format!(
            "a second connection got no answer within {} s (a pool of one connection?)",
            SECOND_CONNECTION.as_secs()
        );
        return unmarked(link, &keys, &cause).await;
    }
    Ok(Marking::Held(Mark::hold(connector.clone(), own, keys, is_pooled)))
}

/// Whether a pooler stands between: then the server's process is not the one that it named at the login.
async fn is_pooled(link: &mut Link) -> bool {
    let asked = link.run(async |client| client.simple_query("SELECT pg_backend_pid()").await).await;
    let told = asked.ok().and_then(|messages| rows(&messages).next()?.get(0)?.parse::<i32>().ok());
    told.is_none() || told != link.process_id()
}

/// The run goes on without a mark, unless another test has one.
async fn unmarked(link: &mut Link, keys: &Keys, cause: &str) -> Result<Marking, MarkError> {
    let mut left = PATIENCE;
    loop {
        match look(link, keys).await {
            Ok(holders) if holders.is_empty() => break,
            Ok(holders) if left.is_zero() => return Err(taken(&holders)),
            Ok(_) => {}
            Err(error) if error.code().is_some() => break,
            Err(error) => return Err(MarkError::Silent(error)),
        }
        tokio::time::sleep(PAUSE).await;
        left = left.saturating_sub(PAUSE);
    }
    Ok(Marking::Impossible(impossible(cause)))
}

/// What is said where the tables are not marked.
pub fn impossible(cause: &str) -> String {
    let cause = cause.trim_end_matches(['.', '?']);
    format!("The tables could not be marked as in use, so another load test on them would not be refused: {cause}.")
}

/// Oids of the schemas in which the tables are, or will be made.
async fn schemas(link: &mut Link, makes_tables: bool) -> Result<Vec<u32>, LinkError> {
    let mut sql = format!(
        "SELECT DISTINCT relnamespace::bigint FROM pg_class WHERE oid IN ({})",
        TABLES.map(|table| format!("to_regclass('{table}')")).join(", ")
    );
    if makes_tables {
        sql.push_str(" UNION SELECT oid::bigint FROM pg_namespace WHERE nspname = current_schema()");
    }
    let messages = link.run(async |client| client.simple_query(&sql).await).await?;
    Ok(rows(&messages).filter_map(|row| row.get(0)?.parse().ok()).collect())
}

async fn attempt_patiently(link: &mut Link, keys: &Keys) -> Result<Attempt, LinkError> {
    let mut left = PATIENCE;
    loop {
        match attempt(link, keys).await {
            Ok(Attempt::Taken(_)) if !left.is_zero() => {}
            done => return done,
        }
        tokio::time::sleep(PAUSE).await;
        left = left.saturating_sub(PAUSE);
    }
}

/// Begins the transaction that is the mark, unless another test has one. No transaction is left open otherwise.
async fn attempt(link: &mut Link, keys: &Keys) -> Result<Attempt, LinkError> {
    let attempted = attempt_within(link, keys).await;
    if !matches!(attempted, Ok(Attempt::Marked)) {
        // The gate is a session's lock, which a rollback does not release, and behind a pooler the session is another one
        // after it. Where the gate was opened before, this is only a warning.
        let open = format!("ROLLBACK TO SAVEPOINT look; SELECT pg_advisory_unlock({GATE}); ROLLBACK");
        if link.run(async |client| client.batch_execute(&open).await).await.is_err() {
            roll_back(link).await;
        }
    }
    match attempted {
        Err(error) if error.code().is_some_and(|code| *code != SqlState::LOCK_NOT_AVAILABLE) => {
            Ok(Attempt::Useless(chain(&error)))
        }
        attempted => attempted,
    }
}

async fn attempt_within(link: &mut Link, keys: &Keys) -> Result<Attempt, LinkError> {
    let within =
        GATE_WITHIN + GATE_WITHIN_PER_SHARE.saturating_mul(u32::try_from(keys.claim.share.of).unwrap_or(u32::MAX));
    let within = within.min(Duration::from_secs(300));
    let begin = format!(
        "{}SET LOCAL lock_timeout = {}; SELECT pg_advisory_lock({GATE}); SAVEPOINT look",
        keys.begin(),
        within.as_millis()
    );
    link.run_within(Some(within + Duration::from_secs(5)), async |client| client.batch_execute(&begin).await).await?;
    let holders = look(link, keys).await?;
    if !holders.is_empty() {
        return Ok(Attempt::Taken(holders));
    }
    // Ends the locks on the catalogues that the look has taken.
    let mark = format!("ROLLBACK TO SAVEPOINT look; {}SAVEPOINT look", keys.lock_all());
    link.run(async |client| client.batch_execute(&mark).await).await?;
    let ours = format!(
        "SELECT DISTINCT pid = pg_backend_pid() FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND \
         objid = '{}'::oid",
        keys.claim.test
    );
    let messages = link.run(async |client| client.simple_query(&ours).await).await?;
    let is_held_by = |me: &str| rows(&messages).any(|row| row.get(0) == Some(me));
    // Servers have these functions for compatibility alone.
    if !keys.schemas.is_empty() && !is_held_by("t") {
        return Ok(Attempt::Useless("the server does not keep advisory locks".to_owned()));
    }
    let open = format!("ROLLBACK TO SAVEPOINT look; SELECT pg_advisory_unlock({GATE}); SAVEPOINT look");
    link.run(async |client| client.batch_execute(&open).await).await?;
    // Where another process of this test was here before, all others have been kept out.
    if is_held_by("f") && keys.claim.share.of > 1 {
        return Ok(Attempt::Marked);
    }
    tokio::time::sleep(SETTLE).await;
    let holders = look(link, keys).await?;
    if !holders.is_empty() {
        return Ok(Attempt::Taken(holders));
    }
    link.run(async |client| client.batch_execute("ROLLBACK TO SAVEPOINT look").await).await?;
    Ok(Attempt::Marked)
}

/// Lets a new transaction take the place of the last one, and returns whether that took so long that a newcomer may have
/// come between. There is no time limit: a pooler that pauses or a server that stands still is waited for.
async fn renew(link: &mut Link, keys: &Keys, is_pooled: bool) -> Result<bool, LinkError> {
    if !is_pooled {
        // In one message, so that the gap does not grow with the distance.
        let again = format!("COMMIT; {}{}", keys.begin(), keys.lock_all());
        link.run_within(None, async |client| client.batch_execute(&again).await).await?;
        return Ok(false);
    }
    link.run_within(None, async |client| client.batch_execute("COMMIT").await).await?;
    let since = Instant::now();
    let begin = keys.begin() + &keys.lock_all();
    link.run_within(None, async |client| client.batch_execute(&begin).await).await?;
    Ok(since.elapsed() > SETTLE / 2)
}

impl Keys {
    /// Begins a transaction that no time limit of the role or database ends.
    fn begin(&self) -> String {
        format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; \
             SELECT set_config('application_name', '{}', true), set_config('lock_timeout', '10s', true), \
             set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true), \
             CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL \
             THEN set_config('transaction_timeout', '0', true) END; ",
            self.application
        )
    }

    fn marks(&self) -> impl Iterator<Item = u32> {
        self.schemas.iter().map(|schema| CLASS ^ schema)
    }

    /// The process's own key, where the test has several.
    fn shares(&self) -> impl Iterator<Item = u32> {
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

    fn lock_all(&self) -> String {
        self.shares().fold(self.lock_shared(), |mut sql, class| {
            let share = self.claim.share_key() as i32;
            let _ = write!(sql, "SELECT pg_advisory_xact_lock({}, {share}); ", class as i32);
            sql
        })
    }
}

/// Sessions that keep this process out.
async fn look(link: &mut Link, keys: &Keys) -> Result<Vec<Holder>, LinkError> {
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
    let messages = link.run(async |client| client.simple_query(&sql).await).await?;
    let holder = |row: &tokio_postgres::SimpleQueryRow| {
        let text = |column| row.get(column).unwrap_or_default().to_owned();
        Holder {
            pid: text(0),
            is_same_share: row.get(1) == Some("t"),
            application: text(2),
            client: text(3),
            since: text(4),
        }
    };
    Ok(rows(&messages).map(holder).collect())
}

fn taken(holders: &[Holder]) -> MarkError {
    let Some(first) = holders.first() else { return MarkError::Gate };
    let (who, pid) = (describe(holders), first.pid.clone());
    match first.is_same_share {
        true => MarkError::ShareTaken { who, pid },
        false => MarkError::Taken { who, pid },
    }
}

/// The session that has held the tables longest, and how many there are besides.
fn describe(holders: &[Holder]) -> String {
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

/// What `pg_stat_activity` shows of the mark's session, to every role. At most 63 bytes, which is what the server keeps.
fn application_name() -> String {
    let host = rustix::system::uname();
    let host: String = host
        .nodename()
        .to_string_lossy()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c))
        .take(14)
        .collect();
    let since: String = crate::text::words::rfc3339(crate::clock::unix_ns()).chars().take(19).collect();
    format!("load_test {host} pid {} since {since}Z", std::process::id())
}

async fn roll_back(link: &mut Link) {
    let _ = link.run(async |client| client.batch_execute("ROLLBACK").await).await;
}

fn rows(messages: &[SimpleQueryMessage]) -> impl Iterator<Item = &tokio_postgres::SimpleQueryRow> {
    messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_named_with_what_is_known_of_it() {
        let holder = |pid: &str, application: &str, client: &str| Holder {
            pid: pid.to_owned(),
            is_same_share: false,
            application: application.to_owned(),
            client: client.to_owned(),
            since: "2026-11-27 07:12:34".to_owned(),
        };
        let named = "load_test h1 pid 7 since 2026-11-27T07:12:33Z";
        let all = [holder("815", named, "10.0.0.5"), holder("815", named, ""), holder("816", named, "")];
        let text = taken(&all).to_string();
        let expected = format!(
            "another load test uses these tables: '{named}' (server process 815, client address 10.0.0.5) and 1 more; nothing"
        );
        assert!(text.starts_with(&expected), "{text}");
        assert!(text.ends_with("SELECT pg_terminate_backend(815)"), "{text}");
        let setting_up = taken(&[holder("817", "postgres_load_test", "")]).to_string();
        assert!(setting_up.contains("'postgres_load_test' since 2026-11-27 07:12:34 UTC (server process 817);"));
        assert!(application_name().len() <= 63, "{}", application_name());
    }
}
