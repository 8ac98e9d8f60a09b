//! The conversation with one agent: orders out, events in, and the end of it, however it comes.
//!
//! Knows bytes and lines, not SSH: what carries them is given as reader and writer.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use crate::agent::protocol::{Event, Line, MAX_LINE_BYTES, Order, VERSION};
use crate::clock::now_ns;
use crate::report::text::printable;

/// How much of the agent's standard error is kept, bytes: its end tells why it ended.
const STDERR_BYTES: usize = 2_000;

/// Begins every line of an agent; what stands before it in the same line is somebody else's.
const MARK: &[u8] = b"{\"agent\":";

/// Something from one of the machines.
#[derive(Debug)]
pub struct Heard {
    /// Which machine, by its place in the list.
    pub host: usize,
    /// When it came, nanoseconds of our monotonic clock.
    pub at_ns: u64,
    /// What.
    pub what: What,
}

/// What was heard.
#[derive(Debug)]
pub enum What {
    /// A line of the agent.
    Event(Box<Event>),
    /// The agent breaks the protocol, and how. It lives, but nothing that it says counts any more.
    Broken(String),
    /// Nothing more will come, and why, as a sentence without its full stop.
    Ended(String),
}

/// Our end of a conversation.
#[derive(Clone, Debug)]
pub struct Orders {
    lines: mpsc::UnboundedSender<Vec<u8>>,
}

impl Orders {
    /// Sends an order. An agent that is gone is noticed by its silence.
    pub fn send(&self, order: &Order) {
        if let Ok(mut line) = serde_json::to_vec(order) {
            line.push(b'\n');
            let _ = self.lines.send(line);
        }
    }

    /// Closes the agent's standard input, which tells it to end. Further orders go nowhere.
    pub fn close(&self) {
        // An empty line is what no order is.
        let _ = self.lines.send(Vec::new());
    }
}

/// Opens the conversation. What is heard goes to `heard`, with `Ended` last; standard input of the agent is closed when
/// all [`Orders`] are dropped. `stderr` is read to its end on the side.
pub fn open(
    host: usize,
    stdin: impl AsyncWrite + Unpin + Send + 'static,
    stdout: impl AsyncBufRead + Unpin + Send + 'static,
    stderr: impl AsyncRead + Unpin + Send + 'static,
    heard: mpsc::UnboundedSender<Heard>,
) -> Orders {
    let (lines, orders) = mpsc::unbounded_channel();
    tokio::spawn(write(stdin, orders));
    let (said, complaint) = watch::channel(String::new());
    tokio::spawn(keep_end(stderr, said));
    tokio::spawn(async move {
        let tell = |at_ns, what| _ = heard.send(Heard { host, at_ns, what });
        let mut stdout = stdout;
        if let Some(reason) = read(&mut stdout, |at_ns, event| tell(at_ns, What::Event(Box::new(event)))).await {
            tell(now_ns(), What::Broken(reason));
            // To its end, so that it is known when the agent is gone.
            let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
        }
        tell(now_ns(), What::Ended(farewell(complaint).await));
    });
    Orders { lines }
}

async fn write(mut stdin: impl AsyncWrite + Unpin, mut orders: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(line) = orders.recv().await {
        if line.is_empty() || stdin.write_all(&line).await.is_err() || stdin.flush().await.is_err() {
            // The reader learns of the end, too, and tells it.
            return;
        }
    }
}

/// Reads lines until the end. Returns why, where the agent itself is at fault.
async fn read(mut stdout: impl AsyncBufRead + Unpin, mut tell: impl FnMut(u64, Event)) -> Option<String> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut stdout).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line).await;
        let at_ns = now_ns();
        match read {
            Ok(0) | Err(_) => return None,
            Ok(MAX_LINE_BYTES) if line.last() != Some(&b'\n') => {
                return Some(format!("its load_test sent a line of more than {MAX_LINE_BYTES} bytes"));
            }
            // Cut in the middle of a line.
            Ok(_) if line.last() != Some(&b'\n') => return None,
            Ok(_) => {}
        }
        let Some(at) = line.windows(MARK.len()).position(|window| window == MARK) else { continue };
        match serde_json::from_slice::<Line>(&line[at..]) {
            Ok(Line { agent: VERSION, event }) => tell(at_ns, event),
            Ok(Line { agent, .. }) => {
                return Some(format!(
                    "its load_test speaks version {agent} of the protocol, and this coordinator version {VERSION}; \
                     leave out --deploy never, or install the same version"
                ));
            }
            // A line of another version may well be of another form.
            Err(_) if spoken_version(&line[at..]).is_some_and(|version| version != VERSION) => {
                return Some("its load_test is of another version; leave out --deploy never".to_owned());
            }
            Err(error) => {
                // What the agent means is lost, and with it whether the counts are whole.
                return Some(format!("its load_test sent what is not understood ({error})"));
            }
        }
    }
}

fn spoken_version(line: &[u8]) -> Option<u32> {
    serde_json::from_slice::<serde_json::Value>(line).ok()?.get("agent")?.as_u64()?.try_into().ok()
}

/// Keeps the last bytes of what is read.
async fn keep_end(mut from: impl AsyncRead + Unpin, said: watch::Sender<String>) {
    let (mut end, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        end.extend_from_slice(&buffer[..read]);
        let surplus = end.len().saturating_sub(STDERR_BYTES);
        end.drain(..surplus);
        said.send_replace(String::from_utf8_lossy(&end).into_owned());
    }
}

/// What the agent complained of last, or that it said nothing.
async fn farewell(mut complaint: watch::Receiver<String>) -> String {
    // Standard error is a stream of its own, so it may end a little later.
    let ended = async { while complaint.changed().await.is_ok() {} };
    let _ = tokio::time::timeout(std::time::Duration::from_millis(500), ended).await;
    let said = complaint.borrow();
    match said.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("its load_test ended: {}", printable(line.trim().trim_start_matches("error: "))),
        None => "the SSH connection or its load_test ended without a word".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::BufReader;

    async fn hear(stdout: &[u8], stderr: &[u8]) -> (Vec<Event>, String) {
        let (heard, mut receiver) = mpsc::unbounded_channel();
        let reader = BufReader::new(std::io::Cursor::new(stdout.to_vec()));
        let _orders = open(3, tokio::io::sink(), reader, std::io::Cursor::new(stderr.to_vec()), heard);
        let mut events = Vec::new();
        loop {
            match receiver.recv().await.unwrap() {
                Heard { host: 3, what: What::Event(event), .. } => events.push(*event),
                Heard { what: What::Ended(reason) | What::Broken(reason), .. } => return (events, reason),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn noise_around_the_lines_is_passed_over() {
        let noise = b"Welcome to \xff\xfe!\r\n{\"json\":1}\n  last login {\"agent\":2,\"event\":\"alive\"}\n\n{\"agent\":2,\"event\":\"set_up\"}\nbye";
        let (events, reason) = hear(noise, b"").await;
        assert!(matches!(events[..], [Event::Alive, Event::SetUp]), "{events:?}");
        assert!(reason.contains("without a word"), "{reason}");
    }

    #[tokio::test]
    async fn the_end_is_told_with_the_agents_last_words() {
        let (_, reason) = hear(b"", b"warning: x\nerror: no \x1b[31mspace\n\n").await;
        assert_eq!(reason, "its load_test ended: no \\u{1b}[31mspace");
    }

    #[tokio::test]
    async fn other_versions_and_rubbish_end_the_conversation() {
        for (line, part) in [
            (&b"{\"agent\":3,\"event\":\"alive\"}\n"[..], "version 3"),
            (b"{\"agent\":3,\"event\":\"sing\"}\n", "another version"),
            (b"{\"agent\":2,\"event\":\"sing\"}\n", "not understood"),
            (&[b'x'; MAX_LINE_BYTES + 1][..], "more than"),
        ] {
            let (events, reason) = hear(line, b"").await;
            assert!(events.is_empty() && reason.contains(part), "{reason}");
        }
    }
}
