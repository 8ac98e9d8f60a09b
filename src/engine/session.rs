//! One connection that runs requests: `BEGIN`, four writes, `COMMIT`.
//!
//! Owns the judgement of what became of the transaction. Knows neither the schedule nor the recorder. `BEGIN` travels
//! with the first write, so a sequential request is one round trip for each write and one for COMMIT; pipelined, it is
//! one round trip in all.

use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use super::looks::ThreadLooks;
use super::wire::{Answer, Wire};
use crate::clock;
use crate::measure::outcome::{Failure, Outcome, readable_state};
use crate::postgres::connect::{Canceller, ConnectError, Connector};
use crate::postgres::link::may_be_ending;
use crate::workload::batch::{Batch, Outgoing};
use crate::workload::payload::Pool;
use crate::workload::script::{MAX_ROUND_TRIPS, Script, Step};

pub struct Session {
    wire: Wire,
    canceller: Canceller,
    give_up: Option<Duration>,
    /// Whether the part in hand may commit, once so much of it was sent.
    may_commit: bool,
    /// Whether a request was begun and has not been answered to its end.
    is_busy: bool,
}

/// How long to wait before connecting is tried a second time.
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub struct Execution {
    pub outcome: Outcome,
    /// When its last answer came, nanoseconds of the monotonic clock.
    pub done_ns: u64,
    /// How many round trips were answered, and when each of them was.
    pub round_trips: usize,
    /// Their ends; only the first `round_trips` count.
    pub ends_ns: [u64; MAX_ROUND_TRIPS],
}

impl Session {
    /// Connects and prepares.
    ///
    /// # Errors
    /// The connection cannot be opened, or a statement cannot be prepared (tables missing or unlike ours).
    pub async fn open(connector: &Connector, script: &Script) -> Result<Self, OpenError> {
        let (stream, canceller) = connector.connect_stream().await?;
        let mut wire = Wire::new(stream)?;
        if let Some(messages) = script.preparation() {
            let preparing = wire.exchange(Outgoing::plain(messages), |_, _| {});
            let limit = Duration::from_secs(PREPARE_SECONDS);
            // Not cancelled: PgBouncer 1.18 dies of a request to cancel for a client that gets its turn at that moment, and
            // a server ends a session that waits for a lock when it finds the client gone.
            let Ok(answer) = tokio::time::timeout(limit, preparing).await else {
                return Err(OpenError::PrepareTimeout);
            };
            if let Some(failure) = answer.failure {
                return Err(OpenError::Prepare(failure));
            }
        }
        Ok(Self { wire, canceller, give_up: script.give_up(), may_commit: false, is_busy: false })
    }

    /// As [`Session::open`], for the first connections of a run: tried a second time where the server has none left, or
    /// hangs up, since one that was needed before the run may still be ending.
    pub async fn open_first(connector: &Connector, script: &Script) -> Result<Self, OpenError> {
        match Self::open(connector, script).await {
            Err(OpenError::Connect(error)) if may_be_ending(&error) => {
                tokio::time::sleep(PAUSE).await;
                Self::open(connector, script).await
            }
            opened => opened,
        }
    }

    /// Runs one request to its end. A failed transaction is rolled back before this returns (after `done`). Where it is
    /// given up, or this is dropped, the session [is abandoned](Self::is_abandoned).
    pub async fn run(&mut self, script: &Script, batch: &Batch, pool: &Pool, looks: &ThreadLooks) -> Execution {
        self.is_busy = true;
        if let Some(execution) = self.run_until_given_up(script, batch, pool, looks).await {
            self.is_busy = false;
            return execution;
        }
        let waited = self.give_up.unwrap_or_default();
        let message = format!("no answer within {waited:?}, although the statement timeout had passed");
        let failure = Failure::own("no answer", message, true);
        self.wire.end_with(failure.clone());
        let outcome = if self.may_commit { Outcome::Unknown(failure) } else { Outcome::Failed(failure) };
        Execution::new(outcome, Ends::default())
    }

    /// `None` where there was no answer in time.
    async fn run_until_given_up(
        &mut self,
        script: &Script,
        batch: &Batch,
        pool: &Pool,
        looks: &ThreadLooks,
    ) -> Option<Execution> {
        let Some(mut limit) = self.give_up else {
            return Some(self.run_unbounded(script, batch, pool).await);
        };
        let mut running = pin!(self.run_unbounded(script, batch, pool));
        while !limit.is_zero() {
            let begun_ns = clock::now_ns();
            if let Ok(execution) = tokio::time::timeout(limit, &mut running).await {
                return Some(execution);
            }
            // While the generator stood still it could not read an answer, nor send what comes next.
            let now_ns = clock::now_ns();
            looks.look(now_ns);
            limit = Duration::from_nanos(looks.all().stood_still_ns(begun_ns, now_ns));
        }
        None
    }

    /// Whether the server may still be at work on a request that nobody waits for any more.
    pub fn is_abandoned(&self) -> bool {
        self.is_busy || self.wire.end().is_some_and(Failure::is_protocol)
    }

    /// Has the server stop its work on an abandoned request, and closes the connection. Takes a second at most.
    pub async fn cancel(self) {
        self.canceller.cancel().await;
    }

    async fn run_unbounded(&mut self, script: &Script, batch: &Batch, pool: &Pool) -> Execution {
        let mut ends = Ends::default();
        let one_part = script.parts().len() == 1;
        for (part, steps) in script.parts().iter().enumerate() {
            let outgoing = batch.outgoing(part, pool);
            // Until it is known how much was sent, COMMIT may have been.
            self.may_commit = outgoing.may_commit_after(outgoing.length());
            let mut seen = Replies::default();
            let answer = self.wire.exchange(outgoing, |at, tag| seen.completed(steps.get(at), tag)).await;
            self.may_commit = outgoing.may_commit_after(self.wire.sent());
            let is_last = part + 1 == script.parts().len();
            let whole = answer.failure.is_none() && seen.wrong.is_none() && answer.completed == steps.len();
            if !one_part && (whole || is_last) {
                ends.mark();
            }
            if !whole || is_last {
                let in_transaction = answer.in_transaction;
                let outcome = judge(answer, seen, self.may_commit, steps.len());
                let execution = Execution::new(outcome, ends);
                if in_transaction && self.wire.end().is_none() {
                    self.roll_back().await;
                }
                return execution.with_loss(self.wire.end().is_some());
            }
        }
        unreachable!("every script has parts")
    }

    async fn roll_back(&mut self) {
        let mut message = BytesMut::new();
        // Fails only where the text has a NUL byte.
        let _ = frontend::query("ROLLBACK", &mut message);
        let answer = self.wire.exchange(Outgoing::plain(&message), |_, _| {}).await;
        if let Some(failure) = answer.failure {
            self.wire.end_with(failure);
        }
    }

    /// Completes when the server or the network ends the connection.
    pub async fn until_lost(&mut self) {
        self.wire.until_ended().await;
    }

    pub fn loss(&self) -> Option<&Failure> {
        self.wire.end()
    }

    /// Says good-bye to the server, so that it does not log a lost connection.
    pub async fn close(self) {
        let mut terminate = BytesMut::new();
        frontend::terminate(&mut terminate);
        let _ = tokio::time::timeout(Duration::from_secs(1), self.wire.close_with(&terminate)).await;
    }
}

/// What the commands of a part said, beside errors.
#[derive(Debug, Default)]
struct Replies {
    /// How COMMIT was answered: a transaction that has failed answers it with ROLLBACK.
    committed: Option<bool>,
    /// The first answer that is not what was asked for.
    wrong: Option<Failure>,
}

impl Replies {
    fn completed(&mut self, step: Option<&Step>, tag: &[u8]) {
        let own =
            |class: &str, what: &str| Failure::own(class, format!("{what} was answered with {}", text(tag)), false);
        let wrong = match step {
            Some(Step::Begin | Step::SetTimeout) => return,
            // A write must have changed one row.
            Some(Step::Write(_)) if tag.rsplit(|byte| *byte == b' ').next() == Some(b"1") => return,
            Some(Step::Write(table)) => own("wrong number of rows", &format!("a write to {table}")),
            Some(Step::Commit) => {
                self.committed = Some(tag == b"COMMIT");
                if self.committed == Some(true) {
                    return;
                }
                own("rolled back instead of committed", "COMMIT")
            }
            None => Failure::protocol(format!("more answers than commands: {}", text(tag))),
        };
        self.wrong.get_or_insert(wrong);
    }
}

fn text(tag: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(tag))
}

/// What became of a transaction that has come to its end, or has not come further. `may_commit` tells whether the
/// server may have got COMMIT.
fn judge(answer: Answer, seen: Replies, may_commit: bool, steps: usize) -> Outcome {
    if seen.committed == Some(true) {
        // Whatever came later. Where a write did not change one row, it did commit, but not what it should have.
        return seen.wrong.map_or(Outcome::Ok, Outcome::Unknown);
    }
    let refused = seen.committed == Some(false) || answer.failure.as_ref().is_some_and(rules_out_commit);
    let why = match answer.failure {
        Some(lost) if lost.connection_lost => lost,
        failure => seen
            .wrong
            .or(failure)
            .unwrap_or_else(|| Failure::protocol(format!("{} of {steps} commands were answered", answer.completed))),
    };
    if may_commit && !refused { Outcome::Unknown(why) } else { Outcome::Failed(why) }
}

/// Whether an error in place of the answer to COMMIT proves that the server has not committed, and will not: it leaves
/// out all that follows an error. Class 08 is a pooler's word for having lost the server, which may have gone on, and 40003
/// says itself that nobody knows.
///
/// What ends the session proves it only where it is told to a session that waits for its next command: its own time
/// limits, and being told to end. 57P02 is the word of one process for all when another one has crashed; a panic may come
/// after the commit record; and a pooler can end a session for reasons of its own.
fn rules_out_commit(failure: &Failure) -> bool {
    let Some(state) = failure.sqlstate.as_deref().filter(|_| failure.has_readable_state()) else { return false };
    if failure.connection_lost {
        return !failure.is_panic() && (state.starts_with("25") || state.starts_with("57") && state != "57P02");
    }
    !state.starts_with("08") && state != "40003" && state != "57P02"
}

impl Execution {
    fn new(outcome: Outcome, ends: Ends) -> Self {
        Self { outcome, done_ns: clock::now_ns(), round_trips: ends.count, ends_ns: ends.at_ns }
    }

    /// Says of a failure whether the connection is of use any more.
    fn with_loss(mut self, lost: bool) -> Self {
        if let Outcome::Failed(failure) | Outcome::Unknown(failure) = &mut self.outcome {
            failure.connection_lost |= lost;
        }
        self
    }
}

#[derive(Default)]
struct Ends {
    count: usize,
    at_ns: [u64; MAX_ROUND_TRIPS],
}

impl Ends {
    fn mark(&mut self) {
        self.at_ns[self.count] = clock::now_ns();
        self.count += 1;
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the connection cannot be watched ({0}); lower --workers or raise the limit (ulimit -n)")]
    System(#[from] std::io::Error),
    #[error("the statements cannot be prepared ({}); {}", .0.message, prepare_remedy(.0))]
    Prepare(Failure),
    #[error(
        "the server did not prepare the statements within {PREPARE_SECONDS} s; is a table locked by another session \
         (see pg_locks)? Wait for it, or end it. Or has a pooler in session mode fewer connections than workers? Lower \
         --workers, or raise its pool"
    )]
    PrepareTimeout,
}

/// How long the preparation of all statements may take.
const PREPARE_SECONDS: u64 = 10;

fn prepare_remedy(failure: &Failure) -> &'static str {
    match failure.sqlstate.as_deref() {
        Some("26000" | "42P05") => "a pooler in transaction mode stands between: add --no-prepared-statements",
        Some("42501") => "grant the role INSERT, SELECT and UPDATE on the tables",
        _ => "the tables may be of another version: make them anew with psql -f schema.sql",
    }
}

impl OpenError {
    pub fn failure(&self) -> Failure {
        match self {
            Self::Prepare(failure) => failure.clone(),
            Self::PrepareTimeout => Failure::own("no answer while preparing", self.to_string(), true),
            Self::System(_) => Failure::own("cannot connect (system)", self.to_string(), true),
            Self::Connect(error) => {
                let sqlstate = error.sqlstate().map(|state| readable_state(state.code()).to_owned());
                let class = match &sqlstate {
                    Some(state) => format!("cannot connect ({:?}, {state})", error.kind()),
                    None => format!("cannot connect ({:?})", error.kind()),
                };
                Failure { sqlstate, ..Failure::own(&class, error.to_string(), true) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [Step; 3] = [Step::Begin, Step::Write("a_table"), Step::Commit];

    /// The outcome of a pipelined request, by whether the server has seen COMMIT and by the answers in order.
    fn outcome(tags: &[&str], failure: Option<Failure>, may_commit: bool) -> Outcome {
        let mut seen = Replies::default();
        for (at, tag) in tags.iter().enumerate() {
            seen.completed(STEPS.get(at), tag.as_bytes());
        }
        let answer = Answer { completed: tags.len(), failure, in_transaction: false };
        judge(answer, seen, may_commit, STEPS.len())
    }

    fn server(severity: &str, state: &str) -> Option<Failure> {
        Some(Failure::of_server(format!("S{severity}\0V{severity}\0C{state}\0Mwhy\0\0").as_bytes()))
    }

    #[test]
    fn an_acknowledged_commit_stands_whatever_comes_later() {
        let all = ["BEGIN", "INSERT 0 1", "COMMIT"];
        assert_eq!(outcome(&all, None, true), Outcome::Ok);
        assert_eq!(outcome(&all, Some(Failure::closed()), true), Outcome::Ok);
        assert_eq!(outcome(&all, server("FATAL", "57P01"), true), Outcome::Ok);
    }

    #[test]
    fn an_error_of_the_server_itself_means_that_nothing_was_committed() {
        for (severity, state) in [("ERROR", "23514"), ("ERROR", "40001"), ("FATAL", "57P01"), ("FATAL", "25P03")] {
            let found = outcome(&["BEGIN"], server(severity, state), true);
            assert!(matches!(&found, Outcome::Failed(why) if why.sqlstate.as_deref() == Some(state)), "{found:?}");
        }
        assert!(matches!(outcome(&["BEGIN", "INSERT 0 1", "ROLLBACK"], None, true), Outcome::Failed(_)));
    }

    #[test]
    fn where_commit_may_have_been_read_silence_and_hearsay_prove_nothing() {
        let words = [
            Some(Failure::closed()),
            Some(Failure::of_socket(&std::io::ErrorKind::ConnectionReset.into())),
            server("FATAL", "08P01"),
            server("ERROR", "08006"),
            server("FATAL", "57P02"),
            server("PANIC", "58030"),
            // Of CockroachDB: the result is ambiguous.
            server("ERROR", "40003"),
            // A pooler's reasons, and no reasons at all.
            server("FATAL", "58000"),
            server("FATAL", "XX000"),
            server("ERROR", "nonsense"),
            Some(Failure::protocol("rubbish".to_owned())),
            None,
        ];
        for word in words {
            let found = outcome(&["BEGIN", "INSERT 0 1"], word.clone(), true);
            assert!(matches!(found, Outcome::Unknown(_)), "{word:?}: {found:?}");
            let found = outcome(&["BEGIN"], word.clone(), false);
            assert!(matches!(found, Outcome::Failed(_)), "COMMIT was not sent, {word:?}: {found:?}");
        }
    }

    #[test]
    fn a_write_that_did_not_change_one_row_is_never_ok() {
        for tag in ["INSERT 0 0", "INSERT 0 2", "INSERT 0 11", "SELECT"] {
            assert!(matches!(outcome(&["BEGIN", tag, "COMMIT"], None, true), Outcome::Unknown(_)), "{tag}");
            assert!(matches!(outcome(&["BEGIN", tag], None, false), Outcome::Failed(_)), "{tag}");
        }
        let too_many = outcome(&["BEGIN", "INSERT 0 1", "COMMIT", "INSERT 0 1"], None, true);
        assert!(matches!(too_many, Outcome::Unknown(why) if why.connection_lost), "another's answer");
    }
}
