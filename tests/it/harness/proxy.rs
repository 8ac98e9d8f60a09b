//! A TCP proxy in front of a server, which does to the bytes what networks and bad servers do. Knows as much of the
//! protocol as it takes to tell which statement the client has just sent; only plaintext is taken apart.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::wait_until;

/// What happens to the bytes. May be changed at any time, also for connections that are open.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// How long everything is held back, in both directions.
    pub delay: Duration,
    /// As much again at most, at random.
    pub jitter: Duration,
    /// Nothing is read, in neither direction.
    pub stalled: bool,
    /// So much is taken from the client of each connection, and no more.
    pub takes: Option<usize>,
    /// At most so many bytes at a time.
    pub drip: Option<usize>,
    /// What becomes of new connections.
    pub arrival: Arrival,
    /// New connections are reset while there is another one.
    pub one_at_a_time: bool,
    /// What becomes of connections on which a certain statement is sent.
    pub trap: Option<Trap>,
    /// Connections made before are reset; see [`Proxy::reset_all`].
    resets: u64,
}

/// What a new connection meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrival {
    #[default]
    Server,
    /// Accepted, and then nothing.
    Silence,
    /// TLS is agreed to, and then nothing.
    SilenceInTls,
    /// TLS is agreed to, and the connection reset when the client begins with it.
    ResetInTls,
    /// Only TLS is cut so; plaintext is let through.
    ResetTlsAlone,
}

/// When, on which statement, what, and how often.
#[derive(Clone, Debug)]
pub struct Trap {
    pub when: When,
    /// The first words of the statement.
    pub statement: &'static str,
    pub then: Then,
    /// How many times in all.
    pub times: usize,
    /// How often so far; each trap has its own count, or the one before would be live again when it is reset.
    pub sprung: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// It was sent by the client, and does not reach the server.
    Sent,
    /// The server has answered it, and the answer does not reach the client.
    Answered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Both sides see the connection reset.
    Reset,
    /// The client's side stays open, and nothing comes any more. The server sees the connection end.
    Silence,
    /// The first half of the answer, and then the end of the stream.
    Truncate,
    /// Bytes that are no message in place of the answer. The connection stays open.
    Garbage,
    /// The head of a message that never ends in place of the answer. The connection stays open.
    EndlessMessage,
}

/// A running proxy. Gone when dropped, with its connections.
pub struct Proxy {
    address: std::net::SocketAddr,
    rules: watch::Sender<Rules>,
    /// How many connections were accepted.
    accepted: Arc<AtomicU64>,
    /// Shared by all connections that are open.
    open: Arc<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    /// In front of a port of 127.0.0.1, and there too.
    pub fn before(server: u16) -> Self {
        Self::at(&Ipv4Addr::LOCALHOST.to_string(), server)
    }

    /// On an address of this machine.
    pub fn at(address: &str, server: u16) -> Self {
        let listener = std::net::TcpListener::bind((address, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (rules, watched) = watch::channel(Rules::default());
        let (accepted, open) = (Arc::<AtomicU64>::default(), Arc::new(()));
        let (counted, shared) = (Arc::clone(&accepted), Arc::clone(&open));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(listen(listener, server, watched, counted, shared));
        });
        Self { address, rules, accepted, open, thread: Some(thread) }
    }

    /// For the user and database `postgres`, without TLS.
    pub fn url(&self) -> String {
        self.url_with("sslmode=disable")
    }

    /// With other parameters.
    pub fn url_with(&self, parameters: &str) -> String {
        format!("postgresql://postgres:secret@{}/postgres?{parameters}", self.address)
    }

    /// Changes the rules.
    pub fn set(&self, change: impl FnOnce(&mut Rules)) {
        self.rules.send_modify(change);
    }

    /// Sets a trap, whatever was set before.
    pub fn trap(&self, when: When, statement: &'static str, then: Then, times: usize) {
        let sprung = Arc::default();
        self.set(|rules| rules.trap = Some(Trap { when, statement, then, times, sprung }));
    }

    /// How often the trap was sprung.
    pub fn sprung(&self) -> usize {
        self.rules.borrow().trap.as_ref().map_or(0, |trap| trap.sprung.load(Ordering::Relaxed))
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until no connection is open.
    pub fn wait_until_idle(&self) {
        // One is the proxy's own, and one the listener's.
        wait_until("the proxy has no connection", || Arc::strong_count(&self.open) == 2);
    }

    /// Resets all connections that are open.
    pub fn reset_all(&self) {
        self.set(|rules| rules.resets += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its tasks end with the sender of the rules.
        drop(std::mem::replace(&mut self.rules, watch::Sender::new(Rules::default())));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn listen(
    listener: std::net::TcpListener,
    server: u16,
    mut rules: watch::Receiver<Rules>,
    accepted: Arc<AtomicU64>,
    open: Arc<()>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        tokio::select! {
            connection = listener.accept() => {
                let Ok((client, _)) = connection else { continue };
                accepted.fetch_add(1, Ordering::Relaxed);
                let mut rules = rules.clone();
                let now = rules.borrow_and_update().clone();
                if now.one_at_a_time && Arc::strong_count(&open) > 2 {
                    reset(client);
                    continue;
                }
                let (connection, open) = (Connection { client, rules, born: now.resets, dice: 1 }, Arc::clone(&open));
                tokio::spawn(async move {
                    connection.serve(now.arrival, server).await;
                    drop(open);
                });
            }
            changed = rules.changed() => if changed.is_err() { return },
        }
    }
}

struct Connection {
    client: TcpStream,
    rules: watch::Receiver<Rules>,
    /// How many times all connections had been reset before.
    born: u64,
    dice: u64,
}

impl Connection {
    async fn serve(self, arrival: Arrival, port: u16) {
        let _ = self.client.set_nodelay(true);
        match arrival {
            Arrival::Server => {}
            Arrival::Silence => return self.keep_silent().await,
            Arrival::SilenceInTls | Arrival::ResetInTls => return self.begin_tls(arrival).await,
            Arrival::ResetTlsAlone => {
                // SSLRequest is eight bytes; a start-up message is longer.
                let mut first = [0; 9];
                if self.client.peek(&mut first).await.is_ok_and(|count| count == 8) {
                    return self.begin_tls(Arrival::ResetInTls).await;
                }
            }
        }
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
        let _ = server.set_nodelay(true);
        self.pass_on(server).await;
    }

    async fn begin_tls(mut self, arrival: Arrival) {
        let mut buffer = [0; 4096];
        let _ = self.client.read(&mut buffer).await;
        let _ = self.client.write_all(b"S").await;
        if arrival == Arrival::SilenceInTls {
            return self.keep_silent().await;
        }
        let _ = self.client.read(&mut buffer).await;
        reset(self.client);
    }

    /// Until the client leaves, or all are reset.
    async fn keep_silent(mut self) {
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                read = self.client.read(&mut buffer) => if !matches!(read, Ok(1..)) { return },
                changed = self.rules.changed() => {
                    if changed.is_err() || self.rules.borrow().resets > self.born {
                        return reset(self.client);
                    }
                }
            }
        }
    }

    async fn pass_on(mut self, mut server: TcpStream) {
        let (mut asked, mut answer) = (vec![0; 65_536], vec![0; 65_536]);
        let mut statements = Statements::default();
        // What to do once the answer is complete, and what has come of it.
        let mut waiting: Option<(Then, Vec<u8>)> = None;
        let mut taken = 0;
        loop {
            let rules = self.rules.borrow_and_update().clone();
            if rules.resets > self.born {
                reset(server);
                return reset(self.client);
            }
            tokio::select! {
                changed = self.rules.changed() => if changed.is_err() { return },
                read = self.client.read(&mut asked), if !rules.stalled && rules.takes.is_none_or(|most| taken < most) => {
                    let Ok(count @ 1..) = read else { return };
                    taken += count;
                    for message in statements.take(&asked[..count]) {
                        let caught = rules.trap.as_ref().filter(|trap| {
                            let rest = message.statement.as_ref().and_then(|text| text.strip_prefix(trap.statement));
                            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
                        });
                        if let Some(trap) = caught.filter(|trap| Self::spring(trap)) {
                            match trap.when {
                                When::Answered => waiting = Some((trap.then, Vec::new())),
                                When::Sent => return self.act(trap.then, &[], server).await,
                            }
                        }
                        if write(&mut server, &message.bytes, &rules, &mut self.dice).await.is_err() {
                            return;
                        }
                    }
                }
                read = server.read(&mut answer), if !rules.stalled => {
                    let Ok(count @ 1..) = read else { return };
                    let bytes = &answer[..count];
                    match &mut waiting {
                        Some((then, so_far)) => {
                            so_far.extend_from_slice(bytes);
                            // ReadyForQuery
                            if so_far.len() >= 6 && so_far[..so_far.len() - 1].ends_with(b"Z\0\0\0\x05") {
                                let (then, so_far) = (*then, std::mem::take(so_far));
                                return self.act(then, &so_far, server).await;
                            }
                        }
                        None => {
                            if write(&mut self.client, bytes, &rules, &mut self.dice).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Whether the trap is still to be sprung.
    fn spring(trap: &Trap) -> bool {
        let more = |sprung| (sprung < trap.times).then_some(sprung + 1);
        trap.sprung.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    async fn act(mut self, then: Then, answer: &[u8], server: TcpStream) {
        drop(server);
        match then {
            Then::Reset => return reset(self.client),
            Then::Silence => {}
            Then::Truncate => {
                let _ = self.client.write_all(&answer[..answer.len() / 2]).await;
                return;
            }
            Then::Garbage => _ = self.client.write_all(&[0xa5; 64]).await,
            Then::EndlessMessage => _ = self.client.write_all(&[b'C', 0x7f, 0xff, 0xff, 0xff, 0]).await,
        }
        self.keep_silent().await;
    }
}

async fn write(to: &mut TcpStream, bytes: &[u8], rules: &Rules, dice: &mut u64) -> std::io::Result<()> {
    *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    let held_back = rules.delay + rules.jitter.mul_f64((*dice >> 32) as f64 / f64::from(u32::MAX));
    if !held_back.is_zero() {
        tokio::time::sleep(held_back).await;
    }
    for piece in bytes.chunks(rules.drip.unwrap_or(bytes.len().max(1))) {
        to.write_all(piece).await?;
        if rules.drip.is_some() {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Closes a connection so that the other side is told that it was lost (RST).
fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// A whole message of the client, and the text of the statement that it asks to be run.
struct Message {
    bytes: Vec<u8>,
    statement: Option<String>,
}

/// Takes apart what a client sends.
#[derive(Default)]
struct Statements {
    pending: Vec<u8>,
    started: bool,
    /// The texts of statements by their names.
    texts: HashMap<Vec<u8>, String>,
}

impl Statements {
    /// The messages that have become whole.
    fn take(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.pending.extend_from_slice(bytes);
        let mut messages = Vec::new();
        loop {
            // The first message has no type.
            let head = usize::from(self.started);
            let Some(length) = self.pending.get(head..head + 4) else { break };
            let end = head + u32::from_be_bytes(length.try_into().unwrap()) as usize;
            if self.pending.len() < end {
                break;
            }
            let rest = self.pending.split_off(end);
            let bytes = std::mem::replace(&mut self.pending, rest);
            let statement = if self.started { self.statement(&bytes) } else { None };
            self.started = true;
            messages.push(Message { bytes, statement });
        }
        messages
    }

    fn statement(&mut self, message: &[u8]) -> Option<String> {
        let mut texts = message[5..].split(|byte| *byte == 0);
        let (first, second) = (texts.next()?, texts.next()?);
        match message[0] {
            b'Q' => Some(String::from_utf8_lossy(first).into_owned()),
            b'P' => {
                self.texts.insert(first.to_vec(), String::from_utf8_lossy(second).into_owned());
                None
            }
            // The portal, then the statement.
            b'B' => self.texts.get(second).cloned(),
            _ => None,
        }
    }
}
