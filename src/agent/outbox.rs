//! What is to be said to the coordinator: a queue, bounded in bytes, and the thread that owns the output.
//!
//! Nobody who says something ever waits for the channel. The thread also says that the agent is there when nobody else
//! has said anything, and looks at the clock for a pong only when it is its turn to be written.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::protocol::{AgentEvent, HEARTBEAT, Line, VERSION};
use crate::clock;

/// With more than this waiting, the coordinator is taken for gone, bytes.
const MOST_WAITING: usize = 64 * 1024 * 1024;

/// Takes what is to be said; [`Self::write_all`] sends it.
#[derive(Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    filled: Condvar,
    progress: Notify,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// Of all entries.
    bytes: usize,
    /// How many entries have been put in since the beginning.
    said: u64,
    /// How many of them have been handed to the channel in full.
    written: u64,
    overflown: bool,
}

enum Entry {
    Line(Vec<u8>),
    Pong(u64),
}

impl Entry {
    /// About; what counts is that every entry counts.
    fn bytes(&self) -> usize {
        match self {
            Self::Line(line) => line.len(),
            Self::Pong(_) => 128,
        }
    }
}

impl Outbox {
    /// Says something as soon as the channel is free. Returns its number, for [`Self::written`].
    pub(super) fn say(&self, event: AgentEvent) -> u64 {
        self.push(Entry::Line(line(event)))
    }

    /// Answers a ping, with the time at which the answer is written.
    pub(super) fn pong(&self, number: u64) {
        self.push(Entry::Pong(number));
    }

    fn push(&self, entry: Entry) -> u64 {
        let mut queue = self.queue();
        queue.said += 1;
        if queue.bytes + entry.bytes() > MOST_WAITING {
            // What was left out would be missing in the middle, so nothing is sent any more.
            queue.overflown = true;
            queue.entries.clear();
        }
        if !queue.overflown {
            queue.bytes += entry.bytes();
            queue.entries.push_back(entry);
        }
        self.filled.notify_one();
        queue.said
    }

    /// Whether the coordinator has read too little for too long.
    pub(super) fn has_overflown(&self) -> bool {
        self.queue().overflown
    }

    /// Completes when what has this number has been written. What was said later does not matter.
    pub(super) async fn written(&self, number: u64) {
        loop {
            let progress = self.progress.notified();
            if self.queue().written >= number {
                return;
            }
            progress.await;
        }
    }

    /// Writes what is said, and that the agent is there where nothing is, until the output fails: the body of the
    /// writing thread.
    ///
    /// # Errors
    /// Always, in the end: nobody reads any more.
    pub(super) fn write_all(&self, mut output: impl Write) -> io::Error {
        // A login shell may have printed something without ending the line.
        let mut written = output.write_all(b"\n");
        loop {
            if let Err(error) = written {
                return error;
            }
            let next = self.next();
            let is_said = next.is_some();
            let bytes = match next {
                Some(Entry::Line(line)) => line,
                Some(Entry::Pong(number)) => line(AgentEvent::Pong { number, unix_ns: clock::unix_ns() }),
                None => line(AgentEvent::Alive),
            };
            written = output.write_all(&bytes).and_then(|()| output.flush());
            if written.is_ok() && is_said {
                self.queue().written += 1;
                self.progress.notify_waiters();
            }
        }
    }

    /// The next entry; `None` where there was none for so long that the agent has to say that it is there.
    fn next(&self) -> Option<Entry> {
        let begun = Instant::now();
        let mut queue = self.queue();
        loop {
            if let Some(entry) = queue.entries.pop_front() {
                queue.bytes -= entry.bytes();
                return Some(entry);
            }
            let left = HEARTBEAT.checked_sub(begun.elapsed())?;
            (queue, _) = self.filled.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it holds the lock, and if it did, the queue would still be one.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event as one line, its end included.
fn line(event: AgentEvent) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(&Line { agent: VERSION, event })
        .unwrap_or_else(|error| unreachable!("events are maps with text keys: {error}"));
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::time::Duration;

    fn incident(length: usize) -> AgentEvent {
        AgentEvent::Incident { class: "class".to_owned(), message: "x".repeat(length) }
    }

    #[test]
    fn a_reader_that_stands_still_holds_nobody_up_until_too_much_waits() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let outbox = Arc::new(Outbox::default());
        let megabyte = 1024 * 1024;
        let _ = outbox.say(incident(megabyte));
        let writing = outbox.clone();
        let writer = std::thread::spawn(move || writing.write_all(ours));
        (1..60).for_each(|_| _ = outbox.say(incident(megabyte)));
        assert!(!outbox.has_overflown());
        (0..8).for_each(|_| _ = outbox.say(incident(megabyte)));
        assert!(outbox.has_overflown());
        let mut some = [0; 100];
        theirs.read_exact(&mut some).unwrap();
        assert!(some.starts_with(b"\n{\"agent\":5,\"event\":\"incident\""));
        drop(theirs);
        writer.join().unwrap();
    }

    #[test]
    fn it_says_that_it_is_there_when_nobody_says_anything() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let outbox = Arc::new(Outbox::default());
        std::thread::spawn(move || outbox.write_all(ours));
        let mut bytes = [0; 29];
        theirs.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"\n{\"agent\":5,\"event\":\"alive\"}\n".as_slice());
    }
}
