//! One connection that runs requests: `BEGIN`, four writes, `COMMIT`.
//!
//! Owns the judgement of what became of the transaction. Knows neither the schedule nor the recorder. `BEGIN` travels
//! with the first write, so a sequential request is one round trip for each write and one for COMMIT; pipelined, it is
//! one round trip in all.

use std::time::Duration;

use futures::future::join_all;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement};

use crate::clock;
use crate::database::connect::{ConnectError, Connector};
use crate::database::link::{Io, Link};
use crate::outcome::{Failure, Outcome};
use crate::workload::Workload;
use crate::workload::payload::{Pool, RawJson};
use crate::workload::request::{INPUT_MESSAGES, MODEL_OUTPUT, Request};
use crate::workload::sql::{Sql, Write, statements};

/// How requests are put on the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionOptions {
    /// Named prepared statements; otherwise unnamed ones, which poolers in transaction mode need.
    pub prepared: bool,
    /// The whole transaction in one round trip.
    pub pipeline: bool,
    /// The server cancels a statement that runs longer.
    pub statement_timeout: Option<Duration>,
}

/// A connection with the statements of its workload.
pub struct Session {
    client: Client,
    io: Io,
    begin: String,
    statements: Vec<(Sql, Option<Statement>)>,
    pipeline: bool,
    /// The seed as the pool's key in the database.
    pool_seed: i64,
    server_side_data: bool,
    /// An answer that takes longer will never come: the server's own timeouts have all passed.
    give_up: Option<Duration>,
    /// Whether the request in hand has handed its COMMIT to the connection.
    commit_sent: bool,
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

/// Four writes and COMMIT.
pub const MAX_ROUND_TRIPS: usize = 5;

type Params<'a> = [&'a (dyn ToSql + Sync)];

impl Session {
    /// Connects and prepares.
    ///
    /// # Errors
    /// The connection cannot be opened, or a statement cannot be prepared (tables missing or unlike ours).
    pub async fn open(connector: &Connector, options: &SessionOptions, workload: &Workload) -> Result<Self, OpenError> {
        let mut link = Link::new(connector.connect().await?);
        let preparing = prepare(&mut link, options, workload);
        let prepared = tokio::time::timeout(Duration::from_secs(PREPARE_SECONDS), preparing)
            .await
            .map_err(|_| OpenError::PrepareTimeout)??;
        let Link { client, io } = link;
        let rounds = prepared.len() as u32 + 2;
        Ok(Self {
            client,
            io,
            begin: begin(options.statement_timeout),
            statements: prepared,
            pipeline: options.pipeline,
            pool_seed: workload.seed as i64,
            server_side_data: workload.server_side_data,
            give_up: options.statement_timeout.map(|timeout| timeout * rounds + Duration::from_secs(5)),
            commit_sent: false,
        })
    }

    /// The names of the round trips that [`Execution::ends_ns`] tells; none where the whole request is one.
    pub fn phase_names(options: &SessionOptions, workload: &Workload) -> Vec<String> {
        if options.pipeline {
            return Vec::new();
        }
        statements(workload).iter().map(|sql| sql.write.table()).chain(["commit"]).map(str::to_owned).collect()
    }

    /// Runs one request to its end. A failed transaction is rolled back before this returns (after `done`).
    pub async fn run(&mut self, request: &Request, pool: &Pool) -> Execution {
        let Some(limit) = self.give_up else {
            return self.run_unbounded(request, pool).await;
        };
        match tokio::time::timeout(limit, self.run_unbounded(request, pool)).await {
            Ok(execution) => execution,
            Err(_) => {
                let message = format!("no answer within {limit:?}, although the statement timeout had passed");
                let failure = Failure::own("no answer", message, true);
                let outcome = if self.commit_sent { Outcome::Unknown(failure) } else { Outcome::Failed(failure) };
                Execution::new(outcome, Ends::default())
            }
        }
    }

    async fn run_unbounded(&mut self, request: &Request, pool: &Pool) -> Execution {
        let bound = Bound::new(request, pool, self.pool_seed);
        self.commit_sent = self.pipeline;
        if self.pipeline { self.run_pipelined(&bound).await } else { self.run_sequentially(&bound).await }
    }

    async fn run_sequentially(&mut self, bound: &Bound<'_>) -> Execution {
        let Self { client, io, begin, statements, server_side_data, commit_sent, .. } = self;
        let mut ends = Ends::default();
        for (at, statement) in statements.iter().enumerate() {
            let failure = if at == 0 {
                // Polled in this order, hence sent in this order, in one packet.
                let both = async {
                    futures::join!(client.batch_execute(begin), execute(client, statement, bound, *server_side_data))
                };
                match io.drive(both).await {
                    (Err(error), _) => {
                        let failure = Failure::of(&error, io.end_error());
                        // COMMIT was never sent. But where the session lives on without its BEGIN, the write stood
                        // alone and may have committed by itself.
                        let outcome = if failure.connection_lost { Outcome::Failed } else { Outcome::Unknown };
                        return Execution::new(outcome(Failure { connection_lost: true, ..failure }), ends);
                    }
                    (Ok(()), written) => check(written, io, statement.0.write),
                }
            } else {
                let written = io.drive(execute(client, statement, bound, *server_side_data)).await;
                check(written, io, statement.0.write)
            };
            if let Err(mut failure) = failure {
                let execution = Execution::new(Outcome::Ok, ends);
                if !failure.connection_lost && io.drive(client.batch_execute("ROLLBACK")).await.is_err() {
                    failure.connection_lost = true;
                }
                return Execution { outcome: Outcome::Failed(failure), ..execution };
            }
            ends.mark();
        }
        *commit_sent = true;
        let outcome = match io.drive(client.batch_execute("COMMIT")).await {
            Ok(()) => Outcome::Ok,
            Err(error) => commit_failed(Failure::of(&error, io.end_error())),
        };
        ends.mark();
        Execution::new(outcome, ends)
    }

    async fn run_pipelined(&mut self, bound: &Bound<'_>) -> Execution {
        let Self { client, io, begin, statements, server_side_data, .. } = self;
        // The tuple is polled in order, and so is `join_all` below its limit of 30 futures.
        let all = async {
            futures::join!(
                client.batch_execute(begin),
                join_all(statements.iter().map(|statement| execute(client, statement, bound, *server_side_data))),
                client.batch_execute("COMMIT")
            )
        };
        let (began, written, committed) = io.drive(all).await;
        if let Err(error) = began {
            let failure = Failure::of(&error, io.end_error());
            let outcome = if server_ended_session(&failure) { Outcome::Failed } else { Outcome::Unknown };
            return Execution::new(outcome(Failure { connection_lost: true, ..failure }), Ends::default());
        }
        let mut first_failure: Option<Failure> = None;
        for (statement, result) in statements.iter().zip(written) {
            if let Err(failure) = check(result, io, statement.0.write)
                && first_failure.as_ref().is_none_or(Failure::is_aftermath)
            {
                first_failure = Some(failure);
            }
        }
        let outcome = match (first_failure, committed) {
            (None, Ok(())) => Outcome::Ok,
            (None, Err(error)) => commit_failed(Failure::of(&error, io.end_error())),
            // The server said no to a write: it answers COMMIT with ROLLBACK, or ended the session before reading it.
            (Some(failure), committed)
                if server_ended_session(&failure) || (failure.sqlstate.is_some() && !failure.connection_lost) =>
            {
                Outcome::Failed(Failure { connection_lost: committed.is_err(), ..failure })
            }
            // The network failed when COMMIT was on its way already, or a write did not change one row.
            (Some(failure), committed) => {
                let connection_lost = failure.connection_lost || committed.is_err();
                Outcome::Unknown(Failure { connection_lost, ..failure })
            }
        };
        Execution::new(outcome, Ends::default())
    }

    /// Completes when the server or the network ends the connection.
    pub async fn until_lost(&mut self) {
        self.io.until_ended().await;
    }

    /// Whether the connection is over.
    pub fn is_lost(&self) -> bool {
        self.io.has_ended()
    }

    /// Why it is over.
    pub fn loss(&self) -> Failure {
        match self.io.end_error() {
            Some(error) => Failure::of(error, Some(error)),
            None => Failure::own("connection lost (closed by the server)", "closed while idle".to_owned(), true),
        }
    }

    /// Says good-bye to the server.
    pub async fn close(self) {
        Link { client: self.client, io: self.io }.close().await;
    }
}

impl Execution {
    fn new(outcome: Outcome, ends: Ends) -> Self {
        Self { outcome, done_ns: clock::now_ns(), round_trips: ends.count, ends_ns: ends.at_ns }
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
    /// A connection, but a statement could not be prepared.
    #[error("the statements cannot be prepared ({}); {}", crate::outcome::chain(.0), prepare_remedy(.0))]
    Prepare(#[from] Error),
    /// A connection, but no answer while the statements were prepared.
    #[error(
        "the server did not prepare the statements within {PREPARE_SECONDS} s; is a table locked by another session? \
         Wait for it, or end it (see pg_locks)"
    )]
    PrepareTimeout,
}

/// How long the preparation of all statements may take.
const PREPARE_SECONDS: u64 = 10;

fn prepare_remedy(error: &Error) -> &'static str {
    match error.code().map(SqlState::code) {
        Some("26000" | "42P05") => "a pooler in transaction mode stands between: add --no-prepared-statements",
        Some("42501") => "grant the role INSERT, SELECT and UPDATE on the tables",
        _ => "the tables may be of another version: make them anew with psql -f schema.sql",
    }
}

impl OpenError {
    /// The error as a class.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Prepare(error) => Failure::of(error, None),
            Self::PrepareTimeout => Failure::own("no answer while preparing", self.to_string(), true),
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

async fn prepare(
    link: &mut Link,
    options: &SessionOptions,
    workload: &Workload,
) -> Result<Vec<(Sql, Option<Statement>)>, Error> {
    let mut prepared = Vec::with_capacity(4);
    for sql in statements(workload) {
        let statement = match options.prepared {
            true => Some(link.run(|client| client.prepare_typed(sql.text, sql.types)).await?),
            false => None,
        };
        prepared.push((sql, statement));
    }
    Ok(prepared)
}

/// The first message of a transaction. `SET LOCAL` ends with it, so it is safe behind a pooler.
fn begin(statement_timeout: Option<Duration>) -> String {
    match statement_timeout {
        Some(timeout) => format!("BEGIN; SET LOCAL statement_timeout = {}", timeout.as_millis().max(1)),
        None => "BEGIN".to_owned(),
    }
}

/// Whether it was the server itself that ended the session, in place of the answer: then it read nothing that came
/// later. Class 08 is a pooler's word for having lost the server, which may have read on.
fn server_ended_session(failure: &Failure) -> bool {
    failure.connection_lost && failure.sqlstate.as_deref().is_some_and(|state| !state.starts_with("08"))
}

/// After COMMIT was sent only an error that leaves the session alive proves that it was rolled back.
fn commit_failed(failure: Failure) -> Outcome {
    if failure.connection_lost || failure.sqlstate.is_none() {
        Outcome::Unknown(Failure { connection_lost: true, ..failure })
    } else {
        Outcome::Failed(failure)
    }
}

/// A write must have changed one row.
fn check(written: Result<u64, Error>, io: &Io, write: Write) -> Result<(), Failure> {
    match written {
        Ok(1) => Ok(()),
        Ok(rows) => {
            let message = format!("a write to {} changed {rows} rows instead of one", write.table());
            Err(Failure::own("wrong number of rows", message, false))
        }
        Err(error) => Err(Failure::of(&error, io.end_error())),
    }
}

/// The values of a request as parameters.
struct Bound<'a> {
    request: &'a Request,
    pool: &'a Pool,
    pool_seed: i64,
    pool_length: i32,
}

impl<'a> Bound<'a> {
    fn new(request: &'a Request, pool: &'a Pool, pool_seed: i64) -> Self {
        Self { request, pool, pool_seed, pool_length: pool.sql_length() }
    }
}

/// Binds the parameters of one write and sends it; the answer is the number of rows.
async fn execute(
    client: &Client,
    (sql, statement): &(Sql, Option<Statement>),
    bound: &Bound<'_>,
    server_side_data: bool,
) -> Result<u64, Error> {
    let Bound { request: r, pool, pool_seed, pool_length } = bound;
    let (statement, types) = (statement.as_ref(), sql.types);
    let send = async |params: &Params<'_>| match statement {
        Some(statement) => client.execute(statement, params).await,
        None => {
            let typed: Vec<_> = params.iter().copied().zip(types.iter().cloned()).collect();
            client.execute_typed(sql.text, &typed).await
        }
    };
    let (inference_params, tags) = (RawJson(&r.inference_params), RawJson(&r.tags));
    let (input_messages, model_output) = (RawJson(INPUT_MESSAGES), RawJson(MODEL_OUTPUT));
    match (sql.write, server_side_data) {
        (Write::ChatInference, false) => {
            let (input, output) = (pool.document(r.input), pool.document(r.output));
            send(&[
                &r.inference_id,
                &r.function_name,
                &r.variant_name,
                &r.episode_id,
                &inference_params,
                &tags,
                &r.processing_time_ms,
                &input,
                &output,
            ])
            .await
        }
        (Write::ChatInference, true) => {
            send(&[
                &r.inference_id,
                &r.function_name,
                &r.variant_name,
                &r.episode_id,
                &inference_params,
                &tags,
                &r.processing_time_ms,
                &r.input.sql_offset(),
                &r.input.sql_length(),
                &r.output.sql_offset(),
                &r.output.sql_length(),
                pool_seed,
                pool_length,
            ])
            .await
        }
        (Write::ModelInference, false) => {
            let (raw_request, raw_response) = (pool.document(r.raw_request), pool.document(r.raw_response));
            send(&[
                &r.model_inference_id,
                &r.inference_id,
                &r.model_name,
                &r.model_provider_name,
                &r.input_tokens,
                &r.output_tokens,
                &r.response_time_ms,
                &input_messages,
                &model_output,
                &raw_request,
                &raw_response,
            ])
            .await
        }
        (Write::ModelInference, true) => {
            send(&[
                &r.model_inference_id,
                &r.inference_id,
                &r.model_name,
                &r.model_provider_name,
                &r.input_tokens,
                &r.output_tokens,
                &r.response_time_ms,
                &input_messages,
                &model_output,
                &r.raw_request.sql_offset(),
                &r.raw_request.sql_length(),
                &r.raw_response.sql_offset(),
                &r.raw_response.sql_length(),
                pool_seed,
                pool_length,
            ])
            .await
        }
        (Write::ResourceBucket, _) => send(&[&r.bucket_key]).await,
        (Write::VariantByEpisode, _) => send(&[&r.function_name, &r.episode_id, &r.variant_name]).await,
    }
}
