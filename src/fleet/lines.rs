//! The lines to and from one agent: orders out, events in, and their end, however it comes.
//!
//! Knows bytes and lines, not SSH: what carries them is given as reader and writer.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use crate::agent::protocol::{AgentEvent, Line, MAX_LINE_BYTES, Order, VERSION};
use crate::clock::now_ns;
use crate::text::terminal::{brief, printable};

/// How much of the agent's standard error is kept, bytes: its end tells why it ended.
const STDERR_BYTES: usize = 2_000;

/// Lines of all VMs together that may be waiting to be taken in; a VM that says more has to wait.
pub(super) const WAITING: usize = 64;

/// An agent says some lines a second; one that says more than so many at once …
const LINES_AT_ONCE: u64 = 1_000;
/// … or a second, over a longer time, is none.
const LINES_A_SECOND: u64 = 100;

/// Characters of what the parser says of a line; it may repeat some of it.
const ERROR_CHARS: usize = 200;

/// A line buffer that has grown beyond this is given back, bytes.
const KEPT_BUFFER: usize = 64 * 1024;

/// Begins every line of an agent; what stands before it in the same line is somebody else's.
const MARK: &[u8] = b"{\"agent\":";

/// Something from the VM at place `vm` of the list, `at_ns` of our monotonic clock.
#[derive(Debug)]
pub struct Heard {
    pub vm: usize,
    pub at_ns: u64,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    Event(Box<AgentEvent>),
    /// The agent breaks the protocol, and how. It lives, but nothing that it says counts any more.
    Broken(String),
    /// Nothing more will come, and why, as a sentence without its full stop.
    Ended(String),
}

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

/// Opens the lines to VM number `vm`. What is heard goes to `heard`, with `Ended` last; standard input of the agent is closed when
/// all [`Orders`] are dropped. `stderr` is read to its end on the side. `carrier_words` tells what was said by what carries
/// all this, once it has ended.
pub fn open(
    vm: usize,
    stdin: impl AsyncWrite + Unpin + Send + 'static,
    stdout: impl AsyncBufRead + Unpin + Send + 'static,
    stderr: impl AsyncRead + Unpin + Send + 'static,
    carrier_words: impl Fn() -> Option<String> + Send + 'static,
    heard: mpsc::Sender<Heard>,
) -> Orders {
    let (lines, orders) = mpsc::unbounded_channel();
    tokio::spawn(write(stdin, orders));
    let (said, complaint) = watch::channel(String::new());
    tokio::spawn(keep_end(stderr, said));
    tokio::spawn(async move {
        let mut stdout = stdout;
        let listener = Listener { vm, heard };
        if let Some(reason) = read(&mut stdout, &listener).await {
            listener.tell(now_ns(), What::Broken(reason)).await;
            // To its end, so that it is known when the agent is gone.
            let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
        }
        listener.tell(now_ns(), What::Ended(farewell(complaint, carrier_words).await)).await;
    });
    Orders { lines }
}

struct Listener {
    vm: usize,
    heard: mpsc::Sender<Heard>,
}

impl Listener {
    /// Waits where much is waiting already. Where nobody listens any more there is nothing to tell.
    async fn tell(&self, at_ns: u64, what: What) {
        let _ = self.heard.send(Heard { vm: self.vm, at_ns, what }).await;
    }
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
async fn read(mut stdout: impl AsyncBufRead + Unpin, listener: &Listener) -> Option<String> {
    let (mut line, mut lines, begun_ns) = (Vec::new(), 0, now_ns());
    loop {
        line.clear();
        line.shrink_to(KEPT_BUFFER);
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
        match understood(&line) {
            Ok(None) => {}
            Ok(Some(event)) => {
                lines += 1;
                if lines > LINES_AT_ONCE + at_ns.saturating_sub(begun_ns) / 1_000_000_000 * LINES_A_SECOND {
                    return Some(format!("its load_test sent {lines} lines, far more than it could have to say"));
                }
                listener.tell(at_ns, What::Event(Box::new(event))).await;
            }
            Err(reason) => return Some(reason),
        }
    }
}

/// What a line says; `None` where it is somebody else's.
///
/// # Errors
/// It is an agent's, and what it means is lost, and with it whether the counts are whole.
pub(super) fn understood(line: &[u8]) -> Result<Option<AgentEvent>, String> {
    let Some(at) = line.windows(MARK.len()).position(|window| window == MARK) else { return Ok(None) };
    match serde_json::from_slice::<Line>(&line[at..]) {
        Ok(Line { agent: VERSION, event }) => Ok(Some(event)),
        Ok(Line { agent, .. }) => Err(format!(
            "its load_test speaks version {agent} of the protocol, and this coordinator version {VERSION}; leave out \
             --deploy never, or install the same version"
        )),
        // A line of another version may well be of another form.
        Err(_) if spoken_version(&line[at..]).is_some_and(|version| version != VERSION) => {
            Err("its load_test is of another version; leave out --deploy never".to_owned())
        }
        Err(error) => {
            let error = brief(&error.to_string(), ERROR_CHARS);
            Err(format!("its load_test sent what is not understood ({error})"))
        }
    }
}

/// Of a line whose rest may be of any form.
fn spoken_version(line: &[u8]) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct Spoken {
        agent: u32,
    }
    serde_json::from_slice(line).ok().map(|Spoken { agent }| agent)
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

/// What the agent complained of last and how it ended, else what the carrier says, or that nobody said anything.
async fn farewell(mut complaint: watch::Receiver<String>, carrier_words: impl Fn() -> Option<String>) -> String {
    // Standard error is a stream of its own, so it may end a little later.
    let ended = async { while complaint.changed().await.is_ok() {} };
    let _ = tokio::time::timeout(std::time::Duration::from_millis(500), ended).await;
    let said = complaint.borrow().clone();
    let status = said.lines().rev().find_map(|line| line.strip_prefix("@plt ended ")?.trim().parse().ok());
    let how = status.and_then(how_it_ended);
    match (last_words(&said), how) {
        (Some(words), Some(how)) => format!("its load_test {how}: {words}"),
        (Some(words), None) => format!("its load_test ended: {words}"),
        (None, Some(how)) => format!("its load_test {how}"),
        (None, None) if status.is_some() => "its load_test ended without a word".to_owned(),
        (None, None) => match carrier_words() {
            Some(words) => format!("the SSH connection ended ({words})"),
            None => "the SSH connection or its load_test ended without a word".to_owned(),
        },
    }
}

/// The line that tells most, fit for a terminal.
fn last_words(said: &str) -> Option<String> {
    // What a shell says of a signal is told by the exit status; how to get a backtrace tells nobody there anything.
    let is_noise = |line: &&str| {
        line.is_empty()
            || line.starts_with("@plt ended ")
            || line.starts_with("note: run with")
            || line.starts_with("skipping backtrace printing")
            || line.starts_with("stack backtrace:")
            || ["Killed", "Aborted", "Segmentation fault", "Terminated"]
                .iter()
                .any(|noise| line.ends_with(noise) || line.ends_with(&format!("{noise} (core dumped)")))
    };
    let line = said.lines().map(str::trim).rev().find(|line| !is_noise(line))?;
    let wants_memory =
        ["(os error 11)", "(os error 12)", "memory allocation of"].iter().any(|part| line.contains(part));
    let remedy = if wants_memory { "; check that VM's memory and its limits (ulimit -a)" } else { "" };
    Some(printable(line.trim_start_matches("error: ")) + remedy)
}

/// What an exit status of a shell says, beyond that of the program itself.
fn how_it_ended(status: i32) -> Option<String> {
    Some(match status {
        126 => "cannot be executed there (exit status 126)".to_owned(),
        127 => "was not found there, or lacks a library (exit status 127)".to_owned(),
        137 => "was killed (SIGKILL), as systems do where memory runs out: see that VM's dmesg".to_owned(),
        134 => "aborted (SIGABRT)".to_owned(),
        139 => "crashed (SIGSEGV)".to_owned(),
        143 => "was ended there (SIGTERM)".to_owned(),
        129..=192 => format!("was ended there (signal {})", status - 128),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::BufReader;

    async fn hear(stdout: &[u8], stderr: &[u8]) -> (Vec<AgentEvent>, String) {
        let (heard, mut receiver) = mpsc::channel(1);
        let reader = BufReader::new(std::io::Cursor::new(stdout.to_vec()));
        let _orders = open(3, tokio::io::sink(), reader, std::io::Cursor::new(stderr.to_vec()), || None, heard);
        let mut events = Vec::new();
        loop {
            match receiver.recv().await.unwrap() {
                Heard { vm: 3, what: What::Event(event), .. } => events.push(*event),
                Heard { what: What::Ended(reason) | What::Broken(reason), .. } => return (events, reason),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn noise_around_the_lines_is_passed_over() {
        let noise = b"Welcome to \xff\xfe!\r\n{\"json\":1}\n  last login {\"agent\":5,\"event\":\"alive\"}\n\n{\"agent\":5,\"event\":\"set_up\"}\nbye";
        let (events, reason) = hear(noise, b"").await;
        assert!(matches!(events[..], [AgentEvent::Alive, AgentEvent::SetUp]), "{events:?}");
        assert!(reason.contains("without a word"), "{reason}");
    }

    #[tokio::test]
    async fn the_end_is_told_with_the_agents_last_words() {
        let (_, reason) = hear(b"", b"warning: x\nerror: no \x1b[31mspace\n\n").await;
        assert_eq!(reason, "its load_test ended: no \\u{1b}[31mspace");
    }

    #[tokio::test]
    async fn how_the_agent_ended_is_told_with_its_last_words() {
        for (stderr, expected) in [
            (&b"\n@plt ended 137\n"[..], "its load_test was killed (SIGKILL), as systems do"),
            (b"Killed\n\n@plt ended 137\n", "its load_test was killed (SIGKILL), as systems do"),
            (b"error: no space\n\n@plt ended 3\n", "its load_test ended: no space"),
            (b"\n@plt ended 1\n", "its load_test ended without a word"),
            (
                b"memory allocation of 9 bytes failed\nAborted (core dumped)\n\n@plt ended 134\n",
                "its load_test aborted (SIGABRT): memory allocation of 9 bytes failed; check that VM's memory",
            ),
            (
                b"thread 'main' panicked at src/x.rs:1:\nno threads (os error 11)\nnote: run with `RUST_BACKTRACE=1`\n",
                "its load_test ended: no threads (os error 11); check that VM's memory",
            ),
            (
                b"x: error while loading shared libraries: libz.so\n\n@plt ended 127\n",
                "lacks a library (exit status 127): x: error while loading",
            ),
        ] {
            let (_, reason) = hear(b"", stderr).await;
            assert!(reason.contains(expected), "{reason}");
        }
    }

    #[tokio::test]
    async fn other_versions_and_rubbish_end_the_conversation() {
        for (line, part) in [
            (&b"{\"agent\":4,\"event\":\"alive\"}\n"[..], "version 4"),
            (b"{\"agent\":6,\"event\":\"sing\"}\n", "another version"),
            (b"{\"agent\":5,\"event\":\"sing\"}\n", "not understood"),
            (&[b'x'; MAX_LINE_BYTES + 1][..], "more than"),
            (&[b"{\"agent\":5,\"event\":\"", &[b'\x9b'; 9_000][..], b"\"}\n"].concat(), "not understood"),
            (&[b"{\"agent\":5,\"event\":\"", "\u{9b}2J".repeat(9_000).as_bytes(), b"\"}\n"].concat(), "not understood"),
        ] {
            let (events, reason) = hear(line, b"").await;
            assert!(events.is_empty() && reason.contains(part), "{reason}");
            assert!(reason.len() < 1_000 && !reason.chars().any(crate::text::terminal::steers), "{reason:?}");
        }
    }

    #[tokio::test]
    async fn an_agent_that_never_stops_talking_is_not_listened_to() {
        let (events, reason) = hear(&b"{\"agent\":5,\"event\":\"alive\"}\n".repeat(100_000), b"").await;
        assert!(events.len() < 10_000 && reason.contains("far more"), "{}: {reason}", events.len());
    }

    proptest::proptest! {
        #[test]
        fn no_line_does_harm(line: Vec<u8>, json in "[\\[{\",:a-z0-9\\]}]{0,80}", known in 0usize..11) {
            let name = ["hello", "preflight", "set_up", "ready", "started", "second", "incident", "result", "failed", "pong", "alive"][known];
            let whole = [
                &line[..], b"\n{\"agent\":5", json.as_bytes(), b"\n", format!("{{\"agent\":5,\"event\":\"{name}\",{json}}}\n").as_bytes(),
            ].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let (_, reason) = runtime.block_on(hear(&whole, &line));
            proptest::prop_assert!(!reason.chars().any(crate::text::terminal::steers), "{:?}", reason);
        }
    }
}
