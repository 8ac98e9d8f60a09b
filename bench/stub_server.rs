//! A server that costs nothing, in front of a PostgreSQL: what load_test reaches with it is load_test's own ceiling.
//!
//! `stub_server [--spin] [--tcp PORT] SERVER_SOCKET LISTEN_SOCKET` forwards every connection to the server behind
//! SERVER_SOCKET, both ways, so that start-up, preflight and the preparation of statements are real. Only the
//! transactions of the load are answered here, at once, and never reach the server: from BEGIN to COMMIT, on
//! connections that have prepared an `INSERT INTO chat_inference` by name. Without named statements
//! (`--no-prepared-statements`) everything is forwarded.
//!
//! It says `ready` (with TCP, also the port; 0 is any) and ends when its standard input does, so it cannot outlive its
//! parent; then it prints what it has counted. A request that it cannot answer ends the connection, with a word on
//! standard error.
//!
//! One read and one write for each batch that comes in one piece: bodies are skipped, and the answers to all that was
//! read go out together. Each connection has a thread that sleeps until something comes, and the sender pays for waking
//! it. With `--spin` one thread keeps looking at all of them, which spares the sender that.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::thread;

/// Room for what comes in one read. Also the longest text of a statement that is looked at.
const BUFFER: usize = 256 * 1024;
/// Kind and length of a message.
const HEADER: usize = 5;
/// This much of a Bind is waited for: it begins with the names of portal and statement.
const NAMES: usize = 256;
/// Codes that stand in place of a protocol version.
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

static COMMITS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static READS: AtomicU64 = AtomicU64::new(0);
static WRITES: AtomicU64 = AtomicU64::new(0);

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let spin = arguments.first().is_some_and(|first| first == "--spin");
    let (server, listen, port) = match &arguments[usize::from(spin)..] {
        [server, listen] => (server, listen, None),
        [tcp, port, server, listen] if tcp == "--tcp" => (server, listen, Some(port)),
        _ => return Err(io::Error::other("usage: stub_server [--spin] [--tcp PORT] SERVER_SOCKET LISTEN_SOCKET")),
    };
    let server: Arc<Path> = Path::new(server).into();
    let unix = UnixListener::bind(listen)?;
    let mut ready = "ready".to_owned();
    if let Some(port) = port {
        let port = port.parse().map_err(|_| io::Error::other(format!("{port} is no port")))?;
        let tcp = TcpListener::bind(("127.0.0.1", port))?;
        ready = format!("ready {}", tcp.local_addr()?.port());
        let server = Arc::clone(&server);
        thread::spawn(move || {
            let prompt = |client: TcpStream| client.set_nodelay(true).map(|()| client);
            welcome(tcp.incoming().map(|client| client.and_then(prompt)), &server, spin);
        });
    }
    thread::spawn(move || welcome(unix.incoming(), &server, spin));
    println!("{ready}");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    std::fs::remove_file(listen)?;
    let [commits, bytes, reads, writes] = [&COMMITS, &BYTES, &READS, &WRITES].map(|counter| counter.load(Relaxed));
    println!(r#"{{"commits": {commits}, "bytes": {bytes}, "reads": {reads}, "writes": {writes}}}"#);
    Ok(())
}

/// What both kinds of socket can do.
trait Socket: Read + Write + Send + Sized + 'static {
    fn twin(&self) -> io::Result<Self>;
    fn never_block(&self) -> io::Result<()>;
    fn hang_up(&self) -> io::Result<()>;
}

macro_rules! socket {
    ($($stream:ty),*) => {$(
        impl Socket for $stream {
            fn twin(&self) -> io::Result<Self> {
                self.try_clone()
            }

            fn never_block(&self) -> io::Result<()> {
                self.set_nonblocking(true)
            }

            fn hang_up(&self) -> io::Result<()> {
                self.shutdown(Shutdown::Both)
            }
        }
    )*};
}

socket!(UnixStream, TcpStream);

/// Writes all, also to a socket that never blocks.
struct Patient<'a, S>(&'a mut S);

impl<S: Socket> Write for Patient<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Serves all clients that come.
fn welcome<S: Socket>(clients: impl Iterator<Item = io::Result<S>>, server: &Arc<Path>, spin: bool) {
    let spinner = spin.then(|| {
        let (spinner, arrivals) = mpsc::channel();
        thread::spawn(|| spin_on(arrivals));
        spinner
    });
    for client in clients {
        let (server, spinner) = (Arc::clone(server), spinner.clone());
        thread::spawn(move || {
            complain(client.and_then(|client| connect(client, &server)).and_then(|connected| {
                match (connected, spinner) {
                    // The spinner never ends.
                    (Some(connection), Some(spinner)) => {
                        connection.client.never_block()?;
                        _ = spinner.send(connection);
                    }
                    (Some(mut connection), None) => while connection.step()? {},
                    (None, _) => {}
                }
                Ok(())
            }));
        });
    }
}

/// Serves all connections in turns.
fn spin_on<S: Socket>(arrivals: Receiver<Connection<S>>) {
    let mut connections = Vec::new();
    loop {
        if connections.is_empty() {
            connections.extend(arrivals.recv());
        }
        connections.extend(arrivals.try_iter());
        let mut idle = true;
        connections.retain_mut(|connection: &mut Connection<S>| match connection.step() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            Ok(more) => {
                idle = false;
                more
            }
            Err(error) => {
                complain(Err(error));
                false
            }
        });
        if idle {
            // Answers of the server pass through other threads.
            thread::yield_now();
        }
    }
}

/// Clients may leave as they like; all else is told.
fn complain(result: io::Result<()>) {
    if let Err(error) = result
        && error.kind() == ErrorKind::Other
    {
        eprintln!("stub_server: {error}");
    }
}

/// Start-up, up to the client's first message; `None` where it has none.
fn connect<S: Socket>(mut client: S, server: &Path) -> io::Result<Option<Connection<S>>> {
    let mut server = UnixStream::connect(server).map_err(|error| io::Error::other(format!("no server: {error}")))?;
    let mut packet = [0; 8];
    let length = loop {
        if client.read_exact(&mut packet).is_err() {
            return Ok(None);
        }
        let [length, code] = [&packet[..4], &packet[4..]].map(number);
        if code != SSL_REQUEST && code != GSS_REQUEST {
            break length as usize;
        }
        client.write_all(b"N")?;
    };
    let mut rest = vec![0; length.clamp(8, BUFFER) - 8];
    client.read_exact(&mut rest)?;
    server.write_all(&[&packet[..], &rest].concat())?;

    let (mut from_server, mut to_client) = (server.try_clone()?, client.twin()?);
    thread::spawn(move || {
        // However it ends, the client is to learn that the server is gone.
        _ = io::copy(&mut from_server, &mut Patient(&mut to_client));
        _ = to_client.hang_up();
    });
    Ok(Some(Connection::new(client, server)))
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// What a statement is, as far as its answer goes. Those of the load are in capitals.
#[derive(Clone, Copy, PartialEq)]
enum Statement {
    Begin,
    Commit,
    Rollback,
    Set,
    Insert,
    Other,
}

impl Statement {
    fn of(text: &[u8]) -> Self {
        match text.trim_ascii_start().split(|byte| !byte.is_ascii_alphabetic()).next() {
            Some(b"BEGIN") => Self::Begin,
            Some(b"COMMIT") => Self::Commit,
            Some(b"ROLLBACK") => Self::Rollback,
            Some(b"SET") => Self::Set,
            Some(b"INSERT") => Self::Insert,
            _ => Self::Other,
        }
    }

    /// Those of a simple query. No text of the load has a semicolon within a statement.
    fn all_of(text: &[u8]) -> impl Iterator<Item = Self> {
        text.split(|byte| *byte == b';').filter(|text| !text.trim_ascii().is_empty()).map(Self::of)
    }

    /// CommandComplete; every write changes one row.
    fn answer(self) -> Option<&'static [u8]> {
        Some(match self {
            Self::Begin => b"C\0\0\0\x0aBEGIN\0",
            Self::Commit => b"C\0\0\0\x0bCOMMIT\0",
            Self::Rollback => b"C\0\0\0\x0dROLLBACK\0",
            Self::Set => b"C\0\0\0\x08SET\0",
            Self::Insert => b"C\0\0\0\x0fINSERT 0 1\0",
            Self::Other => return None,
        })
    }
}

/// Who answers.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// The server has no batch in hand: if BEGIN comes now, the transaction is ours.
    Idle,
    /// The server, until the batch ends.
    Forwarding,
    /// We do, until the transaction ends.
    Answering { in_transaction: bool },
}

/// The client's side of a connection after start-up.
struct Connection<S: Socket> {
    client: S,
    server: UnixStream,
    buffer: Vec<u8>,
    /// How much of the buffer is to be looked at.
    filled: usize,
    /// How much is still to come of a message that has been dealt with, and whether the server gets it.
    missing: usize,
    forward_missing: bool,
    /// By name.
    statements: HashMap<Vec<u8>, Statement>,
    carries_load: bool,
    state: State,
    /// What Execute will execute; nobody needs more than one portal at a time.
    bound: Statement,
    answers: Vec<u8>,
    /// Whether the client waits for the answers.
    is_due: bool,
}

impl<S: Socket> Connection<S> {
    fn new(client: S, server: UnixStream) -> Self {
        Self {
            client,
            server,
            buffer: vec![0; BUFFER],
            filled: 0,
            missing: 0,
            forward_missing: false,
            statements: HashMap::new(),
            carries_load: false,
            state: State::Idle,
            bound: Statement::Other,
            answers: Vec::new(),
            is_due: false,
        }
    }

    /// Reads once, and deals with what has come; false at the end.
    fn step(&mut self) -> io::Result<bool> {
        let read = self.client.read(&mut self.buffer[self.filled..])?;
        READS.fetch_add(1, Relaxed);
        BYTES.fetch_add(read as u64, Relaxed);
        self.filled += read;
        // For as long as its messages are looked at, the buffer is not ours to lend.
        let mut buffer = std::mem::take(&mut self.buffer);
        let at = self.take_all(&buffer[..self.filled])?;
        buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        self.buffer = buffer;
        if self.is_due {
            Patient(&mut self.client).write_all(&self.answers)?;
            WRITES.fetch_add(1, Relaxed);
            self.answers.clear();
            self.is_due = false;
        }
        Ok(read > 0)
    }

    /// Deals with all messages of which enough is there, and says how many bytes that was.
    fn take_all(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut at = bytes.len().min(self.missing);
        self.missing -= at;
        if self.forward_missing {
            self.server.write_all(&bytes[..at])?;
        }
        while let Some((message, length)) = message(&bytes[at..])? {
            self.forward_missing = !self.take(message)?;
            if self.forward_missing {
                self.server.write_all(message)?;
            }
            at += message.len();
            self.missing = length - message.len();
        }
        Ok(at)
    }

    /// Answers a message, or says that the server has to.
    fn take(&mut self, message: &[u8]) -> io::Result<bool> {
        let (kind, body) = (message[0], &message[HEADER..]);
        if self.state == State::Idle && self.carries_load && self.is_begin(kind, body) {
            self.state = State::Answering { in_transaction: false };
        }
        if matches!(self.state, State::Answering { .. }) && kind != b'X' {
            self.answer(kind, body)?;
            return Ok(true);
        }
        if kind == b'P' {
            self.remember(body);
        }
        // Query and Sync end a batch; a password belongs to none.
        self.state = if matches!(kind, b'Q' | b'S' | b'p') { State::Idle } else { State::Forwarding };
        Ok(false)
    }

    /// Whether a transaction begins that can be answered here.
    fn is_begin(&self, kind: u8, body: &[u8]) -> bool {
        match kind {
            b'Q' => {
                let mut statements = Statement::all_of(texts(body).0);
                statements.next() == Some(Statement::Begin) && statements.all(|statement| statement.answer().is_some())
            }
            b'B' => self.statements.get(texts(body).1) == Some(&Statement::Begin),
            b'P' => matches!(texts(body), (b"", text) if Statement::of(text) == Statement::Begin),
            _ => false,
        }
    }

    fn remember(&mut self, parse: &[u8]) {
        let (name, text) = texts(parse);
        self.carries_load |= !name.is_empty() && text.starts_with(b"INSERT INTO chat_inference");
        self.statements.insert(name.to_vec(), Statement::of(text));
    }

    fn answer(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        match kind {
            b'Q' => {
                for statement in Statement::all_of(texts(body).0) {
                    self.execute(statement)?;
                }
                self.ready();
            }
            b'P' => {
                self.remember(body);
                self.answers.extend(b"1\0\0\0\x04");
            }
            b'B' => {
                self.bound = *self.statements.get(texts(body).1).unwrap_or(&Statement::Other);
                self.answers.extend(b"2\0\0\0\x04");
            }
            b'D' => self.answers.extend(b"n\0\0\0\x04"),
            b'E' => self.execute(self.bound)?,
            b'C' => self.answers.extend(b"3\0\0\0\x04"),
            b'H' => self.is_due = true,
            b'S' => self.ready(),
            _ => return Err(io::Error::other(format!("no answer to a message {:?}", char::from(kind)))),
        }
        Ok(())
    }

    fn execute(&mut self, statement: Statement) -> io::Result<()> {
        let answer = statement.answer().ok_or_else(|| io::Error::other("no answer to a statement of a transaction"))?;
        self.answers.extend(answer);
        match statement {
            Statement::Begin => self.state = State::Answering { in_transaction: true },
            Statement::Commit | Statement::Rollback => self.state = State::Answering { in_transaction: false },
            _ => {}
        }
        if statement == Statement::Commit {
            COMMITS.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// ReadyForQuery: the answers go out with the next write.
    fn ready(&mut self) {
        let in_transaction = self.state == State::Answering { in_transaction: true };
        self.answers.extend(if in_transaction { b"Z\0\0\0\x05T" } else { b"Z\0\0\0\x05I" });
        self.is_due = true;
        if !in_transaction {
            self.state = State::Idle;
        }
    }
}

impl<S: Socket> Drop for Connection<S> {
    /// Both sides may be gone already.
    fn drop(&mut self) {
        _ = self.client.hang_up();
        _ = self.server.shutdown(Shutdown::Both);
    }
}

/// The first message, as much of it as is there, and its whole length; `None` where too little of it is there.
fn message(bytes: &[u8]) -> io::Result<Option<(&[u8], usize)>> {
    let Some(header) = bytes.get(..HEADER) else { return Ok(None) };
    let length = number(&header[1..]) as usize + 1;
    if length < HEADER {
        return Err(io::Error::other("a message is shorter than its header"));
    }
    let needed = match header[0] {
        b'Q' | b'P' => length.min(BUFFER),
        b'B' => length.min(NAMES),
        _ => HEADER,
    };
    Ok((bytes.len() >= needed).then(|| (&bytes[..length.min(bytes.len())], length)))
}

/// The first two of the texts with which a body begins; the statement of a Bind is the second.
fn texts(body: &[u8]) -> (&[u8], &[u8]) {
    let mut texts = body.splitn(3, |byte| *byte == 0);
    (texts.next().unwrap_or_default(), texts.next().unwrap_or_default())
}
