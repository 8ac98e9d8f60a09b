//! One connection that runs requests: `BEGIN`, four writes, `COMMIT`.
//!
//! Owns the judgement of what became of the transaction. Knows neither the schedule nor the recorder. `BEGIN` travels
//! with the first write, so a sequential request is one round trip for each write and one for COMMIT; pipelined, it is
//! one round trip in all.

use std::time::Duration;

use super::script::{Batch, MAX_ROUND_TRIPS, Outgoing, Script, Step};
use super::wire::{Answer, Wire};
use crate::clock;
use crate::database::connect::{ConnectError, Connector};
use crate::outcome::{Failure, Outcome};
use crate::workload::payload::Pool;

/// A connection with the statements of its workload.
pub struct Session {
    wire: Wire,
    give_up: Option<Duration>,
    /// Whether the part in hand may commit, once so much of it was sent.
    may_commit: bool,
}

/// What a request came to, and when.
#[derive(Debug)]
pub struct Execution {
    /// What became of the transaction.
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
        let mut wire = Wire::new(connector.connect_stream().await?)?;
        if let Some(messages) = script.preparation() {
            let preparing = wire.exchange(Outgoing::plain(messages), |_, _| {});
            let limit = Duration::from_secs(PREPARE_SECONDS);
            let answer = tokio::time::timeout(limit, preparing).await.map_err(|_| OpenError::PrepareTimeout)?;
            if let Some(failure) = answer.failure {
                return Err(OpenError::Prepare(failure));
            }
        }
        Ok(Self { wire, give_up: script.give_up(), may_commit: false })
    }

    /// Runs one request to its end. A failed transaction is rolled back before this returns (after `done`).
    pub async fn run(&mut self, script: &Script, batch: &Batch, pool: &Pool) -> Execution {
        let Some(limit) = self.give_up else {
            return self.run_unbounded(script, batch, pool).await;
        };
        match tokio::time::timeout(limit, self.run_unbounded(script, batch, pool)).await {
            Ok(execution) => execution,
            Err(_) => {
                let message = format!("no answer within {limit:?}, although the statement timeout had passed");
                let failure = Failure::own("no answer", message, true);
                self.wire.end_with(failure.clone());
                let outcome = if self.may_commit { Outcome::Unknown(failure) } else { Outcome::Failed(failure) };
                Execution::new(outcome, Ends::default())
            }
        }
    }

    async fn run_unbounded(&mut self, script: &Script, batch: &Batch, pool: &Pool) -> Execution {
        let mut ends = Ends::default();
        let one_part = script.parts().len() == 1;
        for (part, steps) in script.parts().iter().enumerate() {
            let outgoing = batch.outgoing(part, pool);
            // Until it is known how much was sent, COMMIT may have been.
            self.may_commit = outgoing.may_commit_after(outgoing.length());
            let mut seen = Seen::default();
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
        let message = b"Q\x00\x00\x00\x0dROLLBACK\0";
        let answer = self.wire.exchange(Outgoing::plain(message), |_, _| {}).await;
        if let Some(failure) = answer.failure {
            self.wire.end_with(failure);
        }
    }

    /// Completes when the server or the network ends the connection.
    pub async fn until_lost(&mut self) {
        self.wire.until_ended().await;
    }

    /// Why the connection is over, where it is.
    pub fn loss(&self) -> Option<&Failure> {
        self.wire.end()
    }

    /// Says good-bye to the server, so that it does not log a lost connection.
    pub async fn close(self) {
        let terminate = b"X\x00\x00\x00\x04";
        let _ = tokio::time::timeout(Duration::from_secs(1), self.wire.close_with(terminate)).await;
    }
}

/// What the commands of a part said, beside errors.
#[derive(Debug, Default)]
struct Seen {
    committed: bool,
    /// The first answer that is not what was asked for.
    wrong: Option<Failure>,
}

impl Seen {
    fn completed(&mut self, step: Option<&Step>, tag: &[u8]) {
        let wrong = match step {
            Some(Step::Begin | Step::SetTimeout) => None,
            // A write must have changed one row.
            Some(Step::Write(_)) if tag.rsplit(|byte| *byte == b' ').next() == Some(b"1") => None,
            Some(Step::Write(write)) => {
                let message = format!("a write to {} was answered with {}", write.table(), text(tag));
                Some(Failure::own("wrong number of rows", message, false))
            }
            Some(Step::Commit) => {
                self.committed = tag == b"COMMIT";
                let message = || format!("COMMIT was answered with {}", text(tag));
                (!self.committed).then(|| Failure::own("rolled back instead of committed", message(), false))
            }
            None => Some(Failure::protocol(format!("more answers than commands: {}", text(tag)))),
        };
        if let Some(wrong) = wrong {
            self.wrong.get_or_insert(wrong);
        }
    }
}

fn text(tag: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(tag))
}

/// What became of a transaction that has come to its end, or has not come further. `may_commit` tells whether the
/// server may have got COMMIT.
fn judge(answer: Answer, seen: Seen, may_commit: bool, steps: usize) -> Outcome {
    let Answer { completed, failure, .. } = answer;
    match (failure, seen) {
        // Whatever came later.
        (_, Seen { committed: true, wrong: None }) => Outcome::Ok,
        // It did commit, but not what it should have.
        (_, Seen { committed: true, wrong: Some(wrong) }) => Outcome::Unknown(wrong),
        (Some(failure), _) if failure.connection_lost => {
            if may_commit && !ended_instead_of_committing(&failure) {
                Outcome::Unknown(failure)
            } else {
                Outcome::Failed(failure)
            }
        }
        (failure, Seen { wrong, .. }) => match wrong.or(failure) {
            // An error that leaves the session alive comes in place of all that would have followed it.
            Some(failure) => Outcome::Failed(failure),
            None => {
                let message = format!("{completed} of {steps} commands were answered");
                let failure = Failure::protocol(message);
                if may_commit { Outcome::Unknown(failure) } else { Outcome::Failed(failure) }
            }
        },
    }
}

/// Whether it was the server itself that ended the session, in place of the answer to COMMIT: then it has not committed
/// and reads nothing that came later. Class 08 is a pooler's word for having lost the server, which may have gone on;
/// 57P02 is the word of one process for all when another one has crashed; and a panic may come after the commit record.
fn ended_instead_of_committing(failure: &Failure) -> bool {
    let by_itself = |state: &str| !state.starts_with("08") && state != "57P02";
    failure.sqlstate.as_deref().is_some_and(by_itself) && !failure.message.starts_with("PANIC")
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

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The system does not give what is needed to watch a connection.
    #[error("the connection cannot be watched ({0}); lower --workers or raise the limit (ulimit -n)")]
    System(#[from] std::io::Error),
    /// A connection, but a statement could not be prepared.
    #[error("the statements cannot be prepared ({}); {}", .0.message, prepare_remedy(.0))]
    Prepare(Failure),
    /// A connection, but no answer while the statements were prepared.
    #[error(
        "the server did not prepare the statements within {PREPARE_SECONDS} s; is a table locked by another session? \
         Wait for it, or end it (see pg_locks)"
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
    /// The error as a class.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Prepare(failure) => failure.clone(),
            Self::PrepareTimeout => Failure::own("no answer while preparing", self.to_string(), true),
            Self::System(_) => Failure::own("cannot connect (system)", self.to_string(), true),
            Self::Connect(error) => {
                let class = match error.sqlstate() {
                    Some(state) => format!("cannot connect ({:?}, {})", error.kind(), state.code()),
                    None => format!("cannot connect ({:?})", error.kind()),
                };
                Failure::own(&class, error.to_string(), true)
            }
        }
    }
}
