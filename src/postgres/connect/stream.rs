//! An authenticated connection as plain bytes.
//!
//! The driver owns its stream for good. So it is given a [`Tap`], which whoever holds another copy of can empty once
//! start-up is over: between two messages nothing is lost by that, since the driver keeps no bytes of its own then.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<dyn Encrypted>),
}

/// A stream of bytes that are encrypted on their way.
pub trait Encrypted: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Encrypted for T {}

macro_rules! on_stream {
    ($stream:expr, $method:ident($($argument:expr),*)) => {
        match $stream.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Unix(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on_stream!(self, poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, poll_shutdown(cx))
    }
}

/// The longest message that a server has to send before the load and after it; what it says of errors is shorter.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The type of the message that names the server process.
const BACKEND_KEY_DATA: u8 = b'K';

/// A stream that can be taken away from whoever reads and writes through a copy of this. Copies share one stream.
#[derive(Clone)]
pub(super) struct Tap {
    tapped: Arc<Mutex<Tapped>>,
}

struct Tapped {
    /// `None` while TLS is being negotiated on it, and once it was taken.
    stream: Option<Stream>,
    read: Framing,
    /// Of the TLS session. Asked for once, during authentication.
    binding: Option<ChannelBinding>,
    may_shut_down: bool,
}

impl Tap {
    /// A tap on a fresh stream. `asks_for_tls` where the first byte to come is the server's answer to that question.
    /// Where the other side is to end the stream, and not `may_shut_down`, shutting it down does nothing.
    pub(super) fn new(stream: Stream, asks_for_tls: bool, may_shut_down: bool) -> Self {
        let read = Framing { lone_bytes: usize::from(asks_for_tls), ..Framing::default() };
        Self { tapped: Arc::new(Mutex::new(Tapped { stream: Some(stream), read, binding: None, may_shut_down })) }
    }

    /// Whether what was read so far ends with a whole message.
    pub(super) fn is_between_messages(&self) -> bool {
        self.with(|tapped| tapped.read.is_between_messages())
    }

    /// The server process that was named during start-up.
    pub(super) fn process_id(&self) -> Option<i32> {
        self.with(|tapped| tapped.read.process_id.as_slice().try_into().ok().map(i32::from_be_bytes))
    }

    /// Takes the stream away. `None` where that was done before.
    pub(super) fn take(&self) -> Option<Stream> {
        self.with(|tapped| tapped.stream.take())
    }

    fn with<R>(&self, use_it: impl FnOnce(&mut Tapped) -> R) -> R {
        use_it(&mut self.tapped.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn poll<R>(&self, poll: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        self.with(|tapped| match &mut tapped.stream {
            Some(stream) => poll(Pin::new(stream)),
            None => Poll::Ready(Err(io::Error::other("the stream was taken"))),
        })
    }
}

impl AsyncRead for Tap {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = self.poll(|stream| stream.poll_read(cx, buf));
        let length = self.with(|tapped| {
            tapped.read.advance(&buf.filled()[before..]);
            tapped.read.body_bytes
        });
        // The driver would make room for all of it before it has come.
        if length > MAX_MESSAGE_BYTES {
            let text = format!(
                "the server announces a message of {length} bytes, and none is longer than {MAX_MESSAGE_BYTES}"
            );
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        polled
    }
}

impl AsyncWrite for Tap {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.with(|tapped| tapped.may_shut_down) {
            self.poll(|stream| stream.poll_shutdown(cx))
        } else {
            Poll::Ready(Ok(()))
        }
    }
}

/// TLS for a tap: the tap's stream is replaced by the encrypted one.
pub(super) struct TapTls {
    pub(super) tls: MakeRustlsConnect,
    /// What the certificate has to name.
    pub(super) host: String,
}

impl TlsConnect<Tap> for TapTls {
    type Stream = Tap;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Tap>> + Send>>;

    fn connect(mut self, tap: Tap) -> Self::Future {
        Box::pin(async move {
            let plain = tap.take().ok_or_else(|| io::Error::other("the stream was taken"))?;
            let Ok(tls) = MakeTlsConnect::<Stream>::make_tls_connect(&mut self.tls, &self.host);
            let stream = tls.connect(plain).await?;
            let binding = Some(stream.channel_binding());
            let stream = Some(Stream::Tls(Box::new(stream)));
            tap.with(|tapped| (tapped.stream, tapped.read, tapped.binding) = (stream, Framing::default(), binding));
            Ok(tap)
        })
    }
}

impl TlsStream for Tap {
    fn channel_binding(&self) -> ChannelBinding {
        self.with(|tapped| tapped.binding.take()).unwrap_or_else(ChannelBinding::none)
    }
}

/// Follows the frames of the protocol: a byte for the type, four for the length (without the type), the rest.
#[derive(Debug, Default)]
struct Framing {
    /// Bytes still to come that stand outside of any frame.
    lone_bytes: usize,
    header: [u8; 5],
    /// How many bytes of the header have come.
    header_bytes: usize,
    /// How many bytes of the frame are still to come after its header.
    body_bytes: usize,
    /// The first four bytes of BackendKeyData.
    process_id: Vec<u8>,
}

impl Framing {
    fn is_between_messages(&self) -> bool {
        self.header_bytes == 0
    }

    fn advance(&mut self, mut read: &[u8]) {
        let lone = self.lone_bytes.min(read.len());
        self.lone_bytes -= lone;
        read = &read[lone..];
        while !read.is_empty() {
            if self.header_bytes < self.header.len() {
                self.header[self.header_bytes] = read[0];
                self.header_bytes += 1;
                read = &read[1..];
                if self.header_bytes == self.header.len() {
                    let [_, length @ ..] = self.header;
                    self.body_bytes = (u32::from_be_bytes(length) as usize).saturating_sub(4);
                }
            } else {
                let body = self.body_bytes.min(read.len());
                if self.header[0] == BACKEND_KEY_DATA {
                    let missing = size_of::<i32>().saturating_sub(self.process_id.len());
                    self.process_id.extend_from_slice(&read[..body.min(missing)]);
                }
                self.body_bytes -= body;
                read = &read[body..];
            }
            if self.header_bytes == self.header.len() && self.body_bytes == 0 {
                self.header_bytes = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_server_process_is_known_however_its_name_comes() {
        let bytes =
            [&b"R\0\0\0\x08\0\0\0\0"[..], b"K\0\0\0\x0c\0\x01\x02\x03\x09\x09\x09\x09", b"Z\0\0\0\x05I"].concat();
        for piece in 1..=bytes.len() {
            let mut framing = Framing::default();
            bytes.chunks(piece).for_each(|bytes| framing.advance(bytes));
            assert_eq!(framing.process_id, [0, 1, 2, 3], "in pieces of {piece}");
        }
    }

    proptest! {
        #[test]
        fn the_ends_of_messages_are_found_however_the_bytes_come(
            bodies in prop::collection::vec(0usize..40, 1..6),
            pieces in prop::collection::vec(1usize..12, 1..200),
            asks_for_tls: bool,
        ) {
            let mut bytes = if asks_for_tls { vec![b'N'] } else { Vec::new() };
            let mut ends = vec![0, bytes.len()];
            for length in bodies {
                bytes.push(b'C');
                bytes.extend((length as u32 + 4).to_be_bytes());
                bytes.extend(std::iter::repeat_n(b'x', length));
                ends.push(bytes.len());
            }
            let mut framing = Framing { lone_bytes: usize::from(asks_for_tls), ..Framing::default() };
            let mut at = 0;
            for piece in pieces {
                let end = (at + piece).min(bytes.len());
                framing.advance(&bytes[at..end]);
                at = end;
                prop_assert_eq!(framing.is_between_messages(), ends.contains(&at), "after {} bytes", at);
            }
        }
    }
}
