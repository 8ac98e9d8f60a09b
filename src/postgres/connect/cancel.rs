//! Stopping what the server still does for a connection that is given up: CancelRequest, on a connection of its own.
//!
//! A server process that waits for a lock, or computes, does not notice that its client has left: it goes on, and so do
//! its locks. A request to cancel ends the statement, and the end of the connection does the rest. It has to come before
//! the connection is closed: a pooler forwards it only for clients that it still has.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::{CancelToken, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::socket::{self, Endpoint};
use super::stream::{Stream, Tap, TapTls};

/// How long one attempt may take. Nothing is gained by more: the server's own limits of the session follow.
const WITHIN: Duration = Duration::from_secs(1);

/// Cancels what one connection's server process is doing.
#[derive(Clone)]
pub struct Canceller {
    pub(super) endpoint: Endpoint,
    /// What a certificate has to name.
    pub(super) host: String,
    /// As the connection itself was opened.
    pub(super) tls: Option<MakeRustlsConnect>,
    /// Whether the server is asked for TLS before it is used.
    pub(super) asks_for_tls: bool,
    pub(super) token: CancelToken,
}

impl Canceller {
    /// Asks the server, and waits until it has taken note, a second at most. Whether anything was cancelled the server
    /// does not tell.
    pub async fn cancel(&self) {
        let _ = tokio::time::timeout(WITHIN, self.ask()).await;
    }

    async fn ask(&self) -> io::Result<()> {
        let stream = match &self.endpoint {
            Endpoint::Unix(path) => Stream::Unix(socket::unix(path).await?),
            Endpoint::Tcp(address) => Stream::Tcp(TcpStream::connect(address).await?),
        };
        // PgBouncer drops a request whose sender has shut its side down, and 1.18 may crash of it.
        let tap = Tap::new(stream, self.asks_for_tls, false);
        let asked = match self.tls.clone() {
            None => self.token.cancel_query_raw(tap.clone(), NoTls).await,
            Some(tls) => self.token.cancel_query_raw(tap.clone(), TapTls { tls, host: self.host.clone() }).await,
        };
        asked.map_err(io::Error::other)?;
        // The server hangs up once it has passed the request on.
        until_end_of(&tap).await;
        Ok(())
    }
}

/// Completes when the other side has closed the connection, or it has broken. What still comes is dropped.
pub(super) async fn until_end_of(tap: &Tap) {
    let (mut tap, mut bytes) = (tap.clone(), [0; 512]);
    poll_fn(|cx| {
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut tap).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    })
    .await;
}
