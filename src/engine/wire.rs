//! A connection as bytes: sends the messages of a round trip and reads the answers, in the worker's own task.
//!
//! Knows the frames of the protocol, not what a request is. Data is written from where it lies, in one system call where
//! the socket takes it all. A plain socket is watched for incoming data alone, since a Unix socket otherwise wakes its
//! writer each time that the server has read something; for room to write only while there is none.

mod input;

use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use super::readiness::watch;
use crate::measure::outcome::Failure;
use crate::postgres::connect::Stream;
use crate::workload::batch::{MAX_SLICES, Outgoing};
use input::{Input, tag};

const TLS_CHUNK_BYTES: usize = 64 << 10;

/// What a local socket takes without the server having read it.
pub const SEND_BUFFER_BYTES: usize = 4 << 20;

pub struct Wire {
    transport: Transport,
    input: Input,
    /// Bytes of the last messages that were handed to the socket.
    sent: usize,
    end: Option<Failure>,
}

/// What came back for the messages up to a Sync.
#[derive(Debug)]
pub struct Answer {
    pub completed: usize,
    /// The server's first error, or why there is no whole answer.
    pub failure: Option<Failure>,
    /// Whether the server is within a transaction now.
    pub in_transaction: bool,
}

impl Wire {
    /// Takes over a stream on which the server waits for queries.
    pub fn new(stream: Stream) -> io::Result<Self> {
        Ok(Self { transport: Transport::new(stream)?, input: Input::default(), sent: 0, end: None })
    }

    /// Sends messages that end with Sync (or a simple query), and reads their answers. `completed` is called with
    /// the number of each completed command, counted from 0, and its tag, such as `INSERT 0 1`.
    pub async fn exchange(&mut self, outgoing: Outgoing<'_>, mut completed: impl FnMut(usize, &[u8])) -> Answer {
        self.sent = 0;
        let (mut sending, mut broken) = (Sending::Data, None);
        let mut answer = Answer { completed: 0, failure: None, in_transaction: false };
        poll_fn(|cx| {
            if self.end.is_none() && broken.is_none() && sending != Sending::Done {
                match self.transport.poll_send(cx, outgoing, &mut self.sent, sending) {
                    Ok(so_far) => sending = so_far,
                    // The server may have said why before it went.
                    Err(error) => broken = Some(error),
                }
            }
            while !self.take_answers(&mut answer, &mut completed) {
                let is_pending = self.poll_input(cx).is_pending();
                match &broken {
                    None if is_pending => return Poll::Pending,
                    // The system tells an error once. Who reads after it is told that the stream has ended; that the
                    // server has ended it is only so where it was closed before we wrote.
                    Some(error) if is_pending || self.is_closed() && error.kind() != io::ErrorKind::BrokenPipe => {
                        self.end = Some(Failure::of_socket(error));
                    }
                    _ => {}
                }
            }
            Poll::Ready(())
        })
        .await;
        self.transport.finish_sending();
        if self.end.is_none() && sending != Sending::Done {
            self.end = Some(Failure::protocol("the server answered before it was asked".to_owned()));
        }
        if let Some(end) = &self.end {
            answer.failure.get_or_insert_with(|| end.clone());
        }
        answer
    }

    /// Takes the answers that have come; true where no more are to be waited for.
    fn take_answers(&mut self, answer: &mut Answer, completed: &mut impl FnMut(usize, &[u8])) -> bool {
        while self.end.is_none() {
            let (tag, body) = match self.input.next() {
                Ok(Some((tag, body))) => (tag, self.input.bytes(body)),
                Ok(None) => return false,
                Err(failure) => {
                    self.end = Some(failure);
                    break;
                }
            };
            match tag {
                tag::PARSE_COMPLETE | tag::BIND_COMPLETE => {}
                tag::COMMAND_COMPLETE => {
                    completed(answer.completed, body.strip_suffix(&[0]).unwrap_or(body));
                    answer.completed += 1;
                }
                tag::READY_FOR_QUERY => {
                    answer.in_transaction = body != b"I";
                    return true;
                }
                tag::ERROR_RESPONSE => {
                    let failure = Failure::of_server(body);
                    if failure.connection_lost {
                        self.end = Some(failure.clone());
                    }
                    answer.failure.get_or_insert(failure);
                }
                other => self.end = Some(unexpected(other)),
            }
        }
        true
    }

    /// How many bytes of the last messages were handed to the socket.
    pub fn sent(&self) -> usize {
        self.sent
    }

    pub fn end(&self) -> Option<&Failure> {
        self.end.as_ref()
    }

    pub fn end_with(&mut self, failure: Failure) {
        self.end.get_or_insert(failure);
    }

    /// Completes when the server or the network ends the connection. May be dropped at any time.
    pub async fn until_ended(&mut self) {
        poll_fn(|cx| {
            while self.end.is_none() {
                match self.input.next() {
                    Ok(Some((tag::ERROR_RESPONSE, body))) => {
                        // Nothing was asked, so it can only be a farewell.
                        let failure = Failure::of_server(self.input.bytes(body));
                        self.end = Some(Failure { connection_lost: true, ..failure });
                    }
                    Ok(Some((other, _))) => self.end = Some(unexpected(other)),
                    Ok(None) => ready!(self.poll_input(cx)),
                    Err(failure) => self.end = Some(failure),
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Sends what asks the server to close the connection, and waits until it has.
    pub async fn close_with(mut self, farewell: &[u8]) {
        if self.end.is_none() {
            let (outgoing, mut sent, mut sending) = (Outgoing::plain(farewell), 0, Sending::Data);
            poll_fn(|cx| match self.transport.poll_send(cx, outgoing, &mut sent, sending) {
                Ok(Sending::Done) | Err(_) => Poll::Ready(()),
                Ok(so_far) => {
                    sending = so_far;
                    Poll::Pending
                }
            })
            .await;
            self.until_ended().await;
        }
    }

    /// Whether the stream came to its end without a word.
    fn is_closed(&self) -> bool {
        self.end.as_ref() == Some(&Failure::closed())
    }

    /// Reads more, or finds that there is no more to come.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let read = ready!(self.transport.poll_read(cx, self.input.space()));
        match read {
            Ok(0) => self.end = Some(Failure::closed()),
            Ok(count) => self.input.add(count),
            Err(error) => self.end = Some(Failure::of_socket(&error)),
        }
        Poll::Ready(())
    }
}

fn unexpected(tag: u8) -> Failure {
    Failure::protocol(format!("the server sent a message of type {:?} that nothing asked for", char::from(tag)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Data,
    /// All bytes are encrypted, but not all of them have left.
    Flush,
    Done,
}

enum Transport {
    Plain(Plain),
    Tls { stream: Stream, chunk: Vec<u8> },
}

impl Transport {
    fn new(stream: Stream) -> io::Result<Self> {
        Ok(match stream {
            Stream::Tcp(stream) => Self::Plain(Plain::new(Socket::Tcp(stream.into_std()?))?),
            Stream::Unix(stream) => {
                // Each filling costs a switch to the server and back. The system gives at most net.core.wmem_max. (TCP
                // sizes its buffers by itself, and stops when it is told.)
                let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES);
                Self::Plain(Plain::new(Socket::Unix(stream.into_std()?))?)
            }
            stream @ Stream::Tls(_) => Self::Tls { stream, chunk: Vec::new() },
        })
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        outgoing: Outgoing<'_>,
        sent: &mut usize,
        from: Sending,
    ) -> io::Result<Sending> {
        while from == Sending::Data && *sent < outgoing.length() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = outgoing.slices(*sent, &mut slices);
            match self.poll_write(cx, &slices[..count]) {
                Poll::Pending => return Ok(Sending::Data),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => *sent += written,
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        let flushed = match self {
            Self::Plain(_) => true,
            Self::Tls { stream, .. } => Pin::new(stream).poll_flush(cx)?.is_ready(),
        };
        Ok(if flushed { Sending::Done } else { Sending::Flush })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(plain) => plain.poll_write(cx, slices),
            // What was gathered and not taken is gathered again.
            Self::Tls { stream, chunk } => {
                chunk.clear();
                for slice in slices {
                    let room = TLS_CHUNK_BYTES - chunk.len();
                    chunk.extend_from_slice(&slice[..slice.len().min(room)]);
                }
                Pin::new(stream).poll_write(cx, chunk)
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(plain) => plain.poll_read(cx, into),
            Self::Tls { stream, .. } => {
                let mut into = ReadBuf::new(into);
                ready!(Pin::new(stream).poll_read(cx, &mut into))?;
                Poll::Ready(Ok(into.filled().len()))
            }
        }
    }

    fn finish_sending(&mut self) {
        if let Self::Plain(plain) = self {
            plain.writable = None;
        }
    }
}

struct Plain {
    socket: AsyncFd<Socket>,
    /// Watches for room to write, while there is none.
    writable: Option<AsyncFd<OwnedFd>>,
}

impl Plain {
    fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self { socket: watch(socket, Interest::READABLE)?, writable: None })
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(cx))?;
            match self.socket.get_ref().read(into) {
                Ok(count) => {
                    // It was not filled, so there is nothing left; asking for it would be one more system call.
                    if (1..into.len()).contains(&count) {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let guard = match &self.writable {
                Some(writable) => Some(ready!(writable.poll_write_ready(cx))?),
                None => None,
            };
            match self.socket.get_ref().write_vectored(slices) {
                Ok(count) => {
                    if let Some(mut guard) = guard.filter(|_| count < slices.iter().map(|slice| slice.len()).sum()) {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match guard {
                    Some(mut guard) => guard.clear_ready(),
                    // A descriptor can be watched once, hence a second one for the same socket.
                    None => {
                        let descriptor = self.socket.get_ref().as_fd().try_clone_to_owned()?;
                        self.writable = Some(watch(descriptor, Interest::WRITABLE)?);
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&mut &*stream).read(into),
            Self::Unix(stream) => (&mut &*stream).read(into),
        }
    }

    fn write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&mut &*stream).write_vectored(slices),
            Self::Unix(stream) => (&mut &*stream).write_vectored(slices),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
