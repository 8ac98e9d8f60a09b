//! The coordinator as the agent hears it: orders, and the news that it is gone.
//!
//! Threads of their own listen, write and watch the clock, so that pings are answered and silence is noticed whatever
//! the rest of the process is busy with. Standard input is read by a thread because tokio cannot give up reading it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::outbox::Outbox;
use super::protocol::{AgentEvent, COORDINATOR_SILENCE, Hello, MAX_LINE_BYTES, Order};
use crate::clock;

/// How often silence is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// How long the agent has for ending by itself when the coordinator is gone.
const GRACE: Duration = Duration::from_secs(2);

/// Orders that may wait; the coordinator never has more than one or two under way.
const ORDERS_WAITING: usize = 64;

/// A line buffer that has grown beyond this is given back, bytes.
const KEPT_BUFFER: usize = 64 * 1024;

pub(super) struct Coordinator {
    pub(super) outbox: Arc<Outbox>,
    /// What is heard, but for pings.
    pub(super) orders: mpsc::Receiver<Order>,
    /// Why the coordinator is taken for gone, once it is.
    pub(super) gone: watch::Receiver<Option<String>>,
}

impl Coordinator {
    /// Says hello, then begins to listen.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(super) fn open(
        input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
        hello: Hello,
        on_hang: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let outbox = Arc::<Outbox>::default();
        outbox.say(AgentEvent::Hello(hello));
        let (tell_gone, gone) = watch::channel(None);
        let presence = Arc::new(Presence { gone: tell_gone, heard_ns: AtomicU64::new(clock::now_ns()) });
        let (sender, orders) = mpsc::channel(ORDERS_WAITING);
        let (writing, writer_presence) = (outbox.clone(), presence.clone());
        spawn("agent-writer", move || {
            let error = writing.write_all(output);
            writer_presence.tell_gone(format!("nobody reads what the agent says ({error})"));
        })?;
        let (answering, reader_presence) = (outbox.clone(), presence.clone());
        spawn("agent-reader", move || {
            let reason = listen(BufReader::new(input), &sender, &answering, &reader_presence);
            reader_presence.tell_gone(reason);
        })?;
        let watched = outbox.clone();
        spawn("agent-watch", move || {
            presence.watch(&watched);
            on_hang();
        })?;
        Ok(Self { outbox, orders, gone })
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

/// What the threads know of the coordinator.
struct Presence {
    gone: watch::Sender<Option<String>>,
    /// When a line was last heard, on the monotonic clock.
    heard_ns: AtomicU64,
}

impl Presence {
    /// The first reason counts.
    fn tell_gone(&self, reason: String) {
        self.gone.send_if_modified(|gone| {
            let is_news = gone.is_none();
            gone.get_or_insert(reason);
            is_news
        });
    }

    /// Returns when the coordinator has been gone for [`GRACE`].
    fn watch(&self, outbox: &Outbox) {
        while self.gone.borrow().is_none() {
            thread::sleep(LOOK);
            let silence_ns = clock::now_ns().saturating_sub(self.heard_ns.load(Ordering::Relaxed));
            if silence_ns >= clock::duration_ns(COORDINATOR_SILENCE) {
                let seconds = COORDINATOR_SILENCE.as_secs();
                self.tell_gone(format!("nothing has been heard from the coordinator for {seconds} s"));
            }
            if outbox.has_overflown() {
                self.tell_gone("the coordinator does not read what the agent says".to_owned());
            }
        }
        thread::sleep(GRACE);
    }
}

/// Passes orders on and answers pings; returns why it stopped.
fn listen(mut input: impl BufRead, orders: &mpsc::Sender<Order>, outbox: &Outbox, presence: &Presence) -> String {
    let mut line = Vec::new();
    loop {
        match read_line(&mut input, &mut line) {
            Ok(Some(())) => {}
            Ok(None) => return "the coordinator has closed the connection".to_owned(),
            Err(error) => return format!("the coordinator cannot be heard: {error}"),
        }
        presence.heard_ns.store(clock::now_ns(), Ordering::Relaxed);
        // What is wrong with a line is not repeated: it could quote a piece of a password.
        let Ok(order) = serde_json::from_slice(&line) else {
            return "the coordinator sent a line that is no order; is it of another version?".to_owned();
        };
        if line.capacity() > KEPT_BUFFER {
            line = Vec::new();
        }
        match order {
            Order::Ping { number } => outbox.pong(number),
            order => {
                if orders.try_send(order).is_err() {
                    return "the coordinator sent more orders than can be followed".to_owned();
                }
            }
        }
    }
}

/// Reads a line into `line`, without its end; `None` at the end of the input, also in the middle of a line.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<()>> {
    line.clear();
    input.take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', line)?;
    match line.pop() {
        Some(b'\n') => Ok(Some(())),
        Some(_) if line.len() >= MAX_LINE_BYTES => Err(io::Error::other("a line is longer than any order")),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_up_to_the_bound_and_no_further() {
        let text = [vec![b'a'; MAX_LINE_BYTES], b"\n\nb\nc".to_vec()].concat();
        let (mut input, mut line) = (text.as_slice(), Vec::new());
        assert_eq!(read_line(&mut input, &mut line).unwrap(), Some(()));
        assert_eq!(line.len(), MAX_LINE_BYTES);
        for expected in ["", "b"] {
            assert_eq!(read_line(&mut input, &mut line).unwrap(), Some(()));
            assert_eq!(line, expected.as_bytes());
        }
        assert_eq!(read_line(&mut input, &mut line).unwrap(), None, "half a line is none");
        let endless = &mut BufReader::new(io::repeat(b'a'));
        assert!(read_line(endless, &mut line).is_err());
        assert!(line.capacity() <= 2 * MAX_LINE_BYTES);
    }
}
