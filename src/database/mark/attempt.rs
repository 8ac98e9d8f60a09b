//! The transactions of a mark: the first one, which looks for other tests, and those that take its place.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use super::keys::Keys;
use super::look::{MarkHolder, look};
use crate::measure::outcome::chain;
use crate::postgres::link::{Link, LinkError};

/// The advisory lock that lets one process at a time look and mark.
pub(super) const GATE: i64 = 7_021_867_105_285;

/// How long a mark of another test is looked at again before the test is refused: one that is ending, or whose process
/// was just killed, is gone by then.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// Between a newcomer's two looks. A renewal takes less, also behind a pooler with more to do than it has connections.
pub(super) const SETTLE: Duration = Duration::from_millis(500);

/// How long the gate is waited for, and for each share of the test more: all of them may come at once, and each takes
/// some round trips.
const GATE_WITHIN: Duration = Duration::from_secs(10);
const GATE_WITHIN_PER_SHARE: Duration = Duration::from_millis(500);

pub(super) enum Attempt {
    Marked,
    Taken(Vec<MarkHolder>),
    /// This server has no such locks: its words.
    Useless(String),
}

pub(super) async fn attempt_patiently(link: &mut Link, keys: &Keys) -> Result<Attempt, LinkError> {
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
pub(super) async fn attempt(link: &mut Link, keys: &Keys) -> Result<Attempt, LinkError> {
    let attempted = attempt_within(link, keys).await;
    if !matches!(attempted, Ok(Attempt::Marked)) {
        // The gate is a session's lock, which a rollback does not release, and behind a pooler the session is another one
        // after it. Where the gate was opened before, this is only a warning.
        let open = format!("ROLLBACK TO SAVEPOINT look; SELECT pg_advisory_unlock({GATE}); ROLLBACK");
        if link.ask(&open).await.is_err() {
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
    link.ask_within(Some(within + Duration::from_secs(5)), &begin).await?;
    let holders = look(link, keys).await?;
    if !holders.is_empty() {
        return Ok(Attempt::Taken(holders));
    }
    // Ends the locks on the catalogues that the look has taken.
    let mark = format!("ROLLBACK TO SAVEPOINT look; {}SAVEPOINT look", keys.lock_all());
    link.ask(&mark).await?;
    let ours = format!(
        "SELECT DISTINCT pid = pg_backend_pid() FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND \
         objid = '{}'::oid",
        keys.claim.test
    );
    let held = link.ask(&ours).await?;
    let is_held_by = |me: &str| held.iter().any(|row| row.get(0) == Some(me));
    // Servers have these functions for compatibility alone.
    if !keys.schemas.is_empty() && !is_held_by("t") {
        return Ok(Attempt::Useless("the server does not keep advisory locks".to_owned()));
    }
    let open = format!("ROLLBACK TO SAVEPOINT look; SELECT pg_advisory_unlock({GATE}); SAVEPOINT look");
    link.ask(&open).await?;
    // Where another process of this test was here before, all others have been kept out.
    if is_held_by("f") && keys.claim.share.of > 1 {
        return Ok(Attempt::Marked);
    }
    tokio::time::sleep(SETTLE).await;
    let holders = look(link, keys).await?;
    if !holders.is_empty() {
        return Ok(Attempt::Taken(holders));
    }
    link.ask("ROLLBACK TO SAVEPOINT look").await?;
    Ok(Attempt::Marked)
}

/// Lets a new transaction take the place of the last one, and returns whether that took so long that a newcomer may have
/// come between. There is no time limit: a pooler that pauses or a server that stands still is waited for.
pub(super) async fn renew(link: &mut Link, keys: &Keys, is_pooled: bool) -> Result<bool, LinkError> {
    if !is_pooled {
        // In one message, so that the gap does not grow with the distance.
        let again = format!("COMMIT; {}{}", keys.begin(), keys.lock_all());
        link.ask_within(None, &again).await?;
        return Ok(false);
    }
    link.ask_within(None, "COMMIT").await?;
    let since = Instant::now();
    let begin = keys.begin() + &keys.lock_all();
    link.ask_within(None, &begin).await?;
    Ok(since.elapsed() > SETTLE / 2)
}

pub(super) async fn roll_back(link: &mut Link) {
    let _ = link.ask("ROLLBACK").await;
}
