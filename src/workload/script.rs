//! A request as messages of the protocol (PostgreSQL's documentation, "Frontend/Backend Protocol", version 3). Pure.
//!
//! What is the same in every request is encoded once ([`Script`]); the rest is put into a [`Batch`]. A request has one
//! part for each round trip, and every part ends with one Sync: when a statement fails, the server leaves out everything
//! up to the next Sync, so nothing is ever written outside of the transaction.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, Bind, Statement};
use super::{Request, RequestMaker, Workload, Write};

#[derive(Clone, Debug, PartialEq)]
pub struct SessionOptions {
    /// Named prepared statements; otherwise unnamed ones, which poolers in transaction mode need.
    pub prepared: bool,
    /// The whole transaction in one round trip.
    pub pipeline: bool,
    /// The server cancels a statement that runs longer.
    pub statement_timeout: Option<Duration>,
    /// Isolation level of the transactions; the server's own where absent.
    pub isolation: Option<Isolation>,
    /// How long the server lets a transaction be idle, where each has to say so for itself: behind a pooler. A pipelined
    /// one is never idle.
    pub idle_in_transaction: Option<Duration>,
}

/// Isolation levels that PostgreSQL tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    #[value(aliases = ["read committed", "read_committed"])]
    ReadCommitted,
    #[value(aliases = ["repeatable read", "repeatable_read"])]
    RepeatableRead,
    Serializable,
}

impl Isolation {
    fn sql(self) -> &'static str {
        match self {
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        }
    }
}

/// The names of a request's round trips; none where the whole request is one.
pub fn phase_names(pipeline: bool, workload: &Workload) -> Vec<String> {
    if pipeline {
        return Vec::new();
    }
    workload.writes().map(Write::table).chain(["commit"]).map(str::to_owned).collect()
}

/// A command that the server answers with CommandComplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Begin,
    /// `SET LOCAL` of a timeout. It ends with the transaction, so it is safe behind a pooler.
    SetTimeout,
    /// A write to this table, which must change one row.
    Write(&'static str),
    Commit,
}

/// No request has more round trips: four writes and COMMIT.
pub const MAX_ROUND_TRIPS: usize = 5;

/// The shape that all requests of a run have.
#[derive(Clone, Debug)]
pub struct Script {
    options: SessionOptions,
    writes: Vec<Binding>,
    /// BEGIN, and what belongs to it.
    opening: BytesMut,
    commit: BytesMut,
    /// Execute of the unnamed portal.
    execute: BytesMut,
    sync: BytesMut,
    /// Parses all statements; empty where none are kept.
    preparation: BytesMut,
    /// What is asked for in each round trip.
    parts: Vec<Vec<Step>>,
}

/// A write up to its first parameter.
#[derive(Clone, Debug)]
struct Binding {
    write: Write,
    /// Parse where the statement is unnamed, and the head of Bind.
    head: BytesMut,
    /// Where Bind begins in it.
    bind_at: usize,
}

impl Script {
    /// The script of a run. `nonce` must differ between processes, or a pooler that keeps server connections could mix
    /// their statements up.
    pub fn new(options: &SessionOptions, workload: &Workload, nonce: u64) -> Self {
        let mut script = Self {
            options: options.clone(),
            writes: Vec::new(),
            opening: BytesMut::new(),
            commit: BytesMut::new(),
            execute: BytesMut::new(),
            sync: BytesMut::new(),
            preparation: BytesMut::new(),
            parts: Vec::new(),
        };
        frontend::sync(&mut script.sync);
        infallible(frontend::execute("", 0, &mut script.execute));
        let name = |what: &str| if options.prepared { format!("loadtest_{nonce:x}_{what}") } else { String::new() };

        let mut steps = vec![Step::Begin];
        let begin =
            options.isolation.map_or("BEGIN".to_owned(), |level| format!("BEGIN ISOLATION LEVEL {}", level.sql()));
        script.opening = script.command(&name("begin"), &begin);
        let idle = options.idle_in_transaction.filter(|_| !options.pipeline);
        let timeouts = [
            ("timeout", "statement_timeout", options.statement_timeout),
            ("idle", "idle_in_transaction_session_timeout", idle),
        ];
        for (what, setting, timeout) in timeouts {
            let Some(timeout) = timeout else { continue };
            steps.push(Step::SetTimeout);
            let text = format!("SET LOCAL {setting} = {}", timeout.as_millis().max(1));
            let set = script.command(&name(what), &text);
            script.opening.extend_from_slice(&set);
        }
        for (at, write) in workload.writes().enumerate() {
            let binding = script.binding(&name(&at.to_string()), write, &workload.statement(write));
            script.writes.push(binding);
            steps.push(Step::Write(write.table()));
            if !options.pipeline {
                script.parts.push(std::mem::take(&mut steps));
            }
        }
        script.commit = script.command(&name("commit"), "COMMIT");
        steps.push(Step::Commit);
        script.parts.push(steps);
        if options.prepared {
            frontend::sync(&mut script.preparation);
        }
        script
    }

    fn command(&mut self, name: &str, text: &str) -> BytesMut {
        let mut out = self.statement(name, text, &[]);
        let bound = frontend::bind("", name, [], [(); 0], |(), _| Ok(postgres_protocol::IsNull::Yes), [], &mut out);
        if bound.is_err() {
            unreachable!("there is nothing to convert");
        }
        out.extend_from_slice(&self.execute);
        out
    }

    fn binding(&mut self, name: &str, write: Write, statement: &Statement) -> Binding {
        let types: Vec<u32> = statement.types.iter().map(tokio_postgres::types::Type::oid).collect();
        let mut head = self.statement(name, &statement.text, &types);
        let bind_at = head.len();
        head.put_u8(b'B');
        head.put_i32(0); // the length, put in later
        head.put_u8(0); // the unnamed portal
        head.put_slice(name.as_bytes());
        head.put_u8(0);
        head.put_slice(&[0, 1, 0, 1]); // one format for all parameters: binary
        head.put_u16(types.len() as u16);
        Binding { write, head, bind_at }
    }

    /// Parses a named statement once, when a connection is prepared; an unnamed one each time.
    fn statement(&mut self, name: &str, text: &str, types: &[u32]) -> BytesMut {
        let mut out = BytesMut::new();
        let parsed_in = if self.options.prepared { &mut self.preparation } else { &mut out };
        infallible(frontend::parse(name, text, types.iter().copied(), parsed_in));
        out
    }

    pub fn parts(&self) -> &[Vec<Step>] {
        &self.parts
    }

    /// What a connection has to be sent before its first request; `None` where statements are unnamed.
    pub fn preparation(&self) -> Option<&[u8]> {
        self.options.prepared.then_some(&self.preparation)
    }

    /// After so long the server's own timeouts have all passed: an answer that takes longer will never come.
    pub fn give_up(&self) -> Option<Duration> {
        let rounds = self.writes.len() as u32 + 2;
        self.options.statement_timeout.map(|timeout| timeout * rounds + Duration::from_secs(5))
    }

    /// Puts a request into `batch`, in place of what was there.
    pub fn encode(&self, maker: &RequestMaker, request: &Request, batch: &mut Batch) {
        batch.clear();
        batch.put(&self.opening);
        for binding in &self.writes {
            let mut bind = Bind::begin(batch, &binding.head, binding.bind_at);
            maker.bind(binding.write, request, &mut bind);
            bind.end();
            batch.put(&self.execute);
            if !self.options.pipeline {
                batch.end_part(&self.sync);
            }
        }
        batch.note_commit();
        batch.put(&self.commit);
        batch.end_part(&self.sync);
    }
}

/// Only names and texts with a NUL byte cannot be encoded.
fn infallible(encoded: std::io::Result<()>) {
    if let Err(error) = encoded {
        unreachable!("no statement has a NUL byte: {error}");
    }
}
