//! A client together with its connection, polled in one task.
//!
//! tokio-postgres splits a connection in two: the client queues requests, the driver moves bytes. Usually the driver
//! is spawned as a task of its own; polling it from within the task that waits for the answer saves two wake-ups per
//! round trip, and keeps the error with which the socket ended, which the client alone does not tell.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, SimpleQueryMessage, SimpleQueryRow};

use super::connect::{Canceller, ConnectError, ConnectErrorKind, Connection, Connector, Driver};

pub struct Io {
    state: State,
}

enum State {
    Open(Driver),
    /// The driver is dropped as soon as it has ended: what waits for its answers is woken by that alone.
    Ended(Option<tokio_postgres::Error>),
}

impl Io {
    pub fn new(driver: Driver) -> Self {
        Self { state: State::Open(driver) }
    }

    fn poll_driver(&mut self, cx: &mut Context<'_>) {
        if let State::Open(driver) = &mut self.state
            && let Poll::Ready(result) = driver.as_mut().poll(cx)
        {
            self.state = State::Ended(result.err());
        }
    }

    /// Runs a future that uses the client of this connection, moving bytes meanwhile.
    ///
    /// When the connection ends, what waits for an answer fails with "connection closed", so this always returns.
    pub async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            self.poll_driver(cx);
            // The driver has just handed over what it read: look again before giving the thread away.
            future.as_mut().poll(cx)
        })
        .await
    }

    /// Completes when the connection has ended; meanwhile it notices what the server sends unasked.
    pub async fn until_ended(&mut self) {
        poll_fn(|cx| {
            self.poll_driver(cx);
            if let State::Ended(_) = self.state { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// The error with which the socket ended, if it ended with one.
    pub fn end_error(&self) -> Option<&tokio_postgres::Error> {
        match &self.state {
            State::Ended(error) => error.as_ref(),
            State::Open(_) => None,
        }
    }
}

/// The parameters of a statement, with their types.
pub type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// A client and its connection, for everything outside of the measured request.
pub struct Link {
    /// Queues requests. They proceed only while [`Link::run`] or [`Io::drive`] runs.
    pub client: Client,
    pub io: Io,
    /// How long [`Link::run`] waits.
    limit: Option<Duration>,
    canceller: Canceller,
    process_id: Option<i32>,
}

/// How long to wait before connecting is tried a second time.
const PAUSE: Duration = Duration::from_millis(300);

/// Why there is no answer to what was asked through a [`Link`].
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Database(#[from] tokio_postgres::Error),
    #[error(
        "there was no answer within {0:?}; is the server busy or cut off, or a pooler before it paused or full? \
         (A question is waited for as long as connect_timeout in --postgres-url allows)"
    )]
    Silent(Duration),
    #[error("it was not done within {0:?}; is the server busy or cut off?")]
    Unfinished(Duration),
}

impl LinkError {
    /// The server's error code, where the failure is the server's answer.
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Database(error) => error.code(),
            Self::Silent(_) | Self::Unfinished(_) => None,
        }
    }
}

impl Link {
    /// Connects. A question may take as long as connecting may (`connect_timeout`).
    ///
    /// Tried a second time where the server has no connection left, or hangs up: a connection of ours that was there
    /// before may still be ending.
    pub async fn open(connector: &Connector) -> Result<Self, ConnectError> {
        match Self::try_open(connector).await {
            Err(error) if may_be_ending(&error) => {
                tokio::time::sleep(PAUSE).await;
                Self::try_open(connector).await
            }
            opened => opened,
        }
    }

    pub async fn try_open(connector: &Connector) -> Result<Self, ConnectError> {
        let Connection { client, driver, canceller, process_id } = connector.connect_whole().await?;
        let limit = connector.spec().connect_timeout;
        Ok(Self { client, io: Io::new(driver), limit, canceller, process_id })
    }

    /// Connects for one piece of work, and closes the connection after it.
    pub async fn once<T>(connector: &Connector, work: impl AsyncFnOnce(&mut Self) -> T) -> Result<T, ConnectError> {
        let mut link = Self::open(connector).await?;
        let done = work(&mut link).await;
        link.close().await;
        Ok(done)
    }

    /// Runs statements without parameters, and returns their rows as text. Behind every pooler it stays one message.
    pub async fn ask(&mut self, sql: &str) -> Result<Vec<SimpleQueryRow>, LinkError> {
        Ok(rows(self.run(async |client| client.simple_query(sql).await).await?))
    }

    /// As [`Self::ask`], within `limit` or as long as it takes.
    pub async fn ask_within(&mut self, limit: Option<Duration>, sql: &str) -> Result<Vec<SimpleQueryRow>, LinkError> {
        Ok(rows(self.run_within(limit, async |client| client.simple_query(sql).await).await?))
    }

    /// The first value of the first row of [`Self::ask`].
    pub async fn ask_one(&mut self, sql: &str) -> Result<Option<String>, LinkError> {
        Ok(self.ask(sql).await?.first().and_then(|row| row.get(0)).map(str::to_owned))
    }

    pub async fn query(&mut self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, LinkError> {
        self.run(async |client| client.query_typed(sql, parameters).await).await
    }

    pub async fn query_within(
        &mut self,
        limit: Option<Duration>,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, LinkError> {
        self.run_within(limit, async |client| client.query_typed(sql, parameters).await).await
    }

    /// The server process, as whoever answers names it; `None` where it names none. A pooler makes one up.
    pub fn process_id(&self) -> Option<i32> {
        self.process_id
    }

    /// Runs what `work` does with the client: a question that is answered at once. Where the server ended the
    /// connection instead of answering, the error is the server's own. Where it does not answer in time, the connection
    /// is given up.
    pub async fn run<'a, F, T>(&'a mut self, work: impl FnOnce(&'a Client) -> F) -> Result<T, LinkError>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        let limit = self.limit;
        self.run_within(limit, work).await.map_err(|error| match error {
            LinkError::Unfinished(limit) => LinkError::Silent(limit),
            error => error,
        })
    }

    /// As [`Link::run`], for work that takes the server some time: as long as `limit`, or as it takes.
    pub async fn run_within<'a, F, T>(
        &'a mut self,
        limit: Option<Duration>,
        work: impl FnOnce(&'a Client) -> F,
    ) -> Result<T, LinkError>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        let working = self.io.drive(work(&self.client));
        let result = match limit {
            None => working.await,
            Some(limit) => match tokio::time::timeout(limit, working).await {
                Ok(result) => result,
                Err(_) => {
                    self.canceller.cancel().await;
                    // An answer that still comes would be taken for that to the next question.
                    self.io.state = State::Ended(None);
                    return Err(LinkError::Unfinished(limit));
                }
            },
        };
        match result {
            Err(error) if error.is_closed() => Err(match &mut self.io.state {
                State::Ended(cause) => cause.take().unwrap_or(error),
                State::Open(_) => error,
            }
            .into()),
            result => Ok(result?),
        }
    }

    /// Says good-bye to the server, and waits until it has let go of the connection, a second at most: a role may be
    /// allowed no more than one at a time.
    pub async fn close(self) {
        let Self { client, mut io, .. } = self;
        drop(client);
        let _ = tokio::time::timeout(Duration::from_secs(1), io.until_ended()).await;
    }
}

fn rows(messages: Vec<SimpleQueryMessage>) -> Vec<SimpleQueryRow> {
    let row = |message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None };
    messages.into_iter().filter_map(row).collect()
}

/// Whether a failure to connect may come of a connection of ours that the server has not yet let go of.
pub fn may_be_ending(error: &ConnectError) -> bool {
    matches!(error.kind(), ConnectErrorKind::TooManyConnections | ConnectErrorKind::Lost)
}
