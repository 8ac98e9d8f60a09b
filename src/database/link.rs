//! A client together with its connection, polled in one task.
//!
//! tokio-postgres splits a connection in two: the client queues requests, the driver moves bytes. Usually the driver
//! is spawned as a task of its own; polling it from within the task that waits for the answer saves two wake-ups per
//! round trip, and keeps the error with which the socket ended, which the client alone does not tell.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use super::connect::Driver;

/// The I/O half of a connection.
pub struct Io {
    state: State,
}

enum State {
    Open(Driver),
    /// The driver is dropped as soon as it has ended: what waits for its answers is woken by that alone.
    Ended(Option<tokio_postgres::Error>),
}

impl Io {
    /// Takes over a fresh driver.
    pub fn new(driver: Driver) -> Self {
        Self { state: State::Open(driver) }
    }

    /// Moves bytes, if there are any to move.
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
            if self.has_ended() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Whether the connection is over.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// The error with which the socket ended, if it ended with one.
    pub fn end_error(&self) -> Option<&tokio_postgres::Error> {
        match &self.state {
            State::Ended(error) => error.as_ref(),
            State::Open(_) => None,
        }
    }
}

/// A client and its connection, for everything outside of the measured request.
pub struct Link {
    /// Queues requests. They proceed only while [`Link::run`] or [`Io::drive`] runs.
    pub client: tokio_postgres::Client,
    /// Moves bytes.
    pub io: Io,
}

impl Link {
    /// Puts the two halves together.
    pub fn new((client, driver): (tokio_postgres::Client, Driver)) -> Self {
        Self { client, io: Io::new(driver) }
    }

    /// Runs what `work` does with the client. Where the server ended the connection instead of answering, the
    /// error is the server's own.
    ///
    /// # Errors
    /// The driver's.
    pub async fn run<'a, F, T>(
        &'a mut self,
        work: impl FnOnce(&'a tokio_postgres::Client) -> F,
    ) -> Result<T, tokio_postgres::Error>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        let result = self.io.drive(work(&self.client)).await;
        match result {
            Err(error) if error.is_closed() => Err(match &mut self.io.state {
                State::Ended(cause) => cause.take().unwrap_or(error),
                State::Open(_) => error,
            }),
            result => result,
        }
    }

    /// Says good-bye to the server, so that it does not log a lost connection.
    pub async fn close(self) {
        let Self { client, mut io } = self;
        drop(client);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), io.until_ended()).await;
    }
}
