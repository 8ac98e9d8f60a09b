//! The channel to the script on a host: orders there, marked lines back, whatever else comes in between. Every wait has a
//! bound. Owns the reading of answers; nothing that the agent prints later is taken from the caller.

use std::sync::Arc;
use std::time::Duration;

use openssh::{Child, ChildStderr, ChildStdin, ChildStdout, Session, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::error::{Cause, Stage};
use super::script::{COMMAND, MARK};
use crate::fleet::binary::{AgentBinary, Probe};
use crate::fleet::ssh::words_of;
use crate::measure::outcome::chain;
use crate::text::terminal::printable;

/// For the shell to start and the script to look around.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// For an order that makes the host read the binary or try it out.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// For one chunk of an upload to leave this machine.
const CHUNK_WITHIN: Duration = Duration::from_secs(30);
/// How long all of the program may take; the script there waits no longer either.
const UPLOAD_WITHIN: Duration = Duration::from_secs(600);
const CHUNK_BYTES: usize = 64 << 10;
/// For the reason to arrive of a channel that has ended.
const REASON_WITHIN: Duration = Duration::from_secs(2);
/// Of a line more is not kept; of noise and of stderr, neither.
const KEPT_BYTES: usize = 4096;
/// The script tells eight facts.
const MOST_FACTS: usize = 20;

/// What a host told before it said "ready".
pub(super) struct Facts {
    pub(super) probe: Probe,
    pub(super) present: bool,
    pub(super) can_hash: bool,
}

pub(super) struct Channel {
    child: Child<Arc<Session>>,
    stdin: ChildStdin,
    ear: Ear,
    session: Arc<Session>,
    stage: Stage,
}

impl Channel {
    pub(super) async fn open(session: Arc<Session>) -> Result<Self, Cause> {
        let mut command = Arc::clone(&session).arc_raw_command(COMMAND);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let no_channel = |error| {
            let words = words_of(&session).unwrap_or_else(|| chain(&error));
            Cause::NoChannel(printable(&words))
        };
        let mut child = within(FIRST_ANSWER_WITHIN, async { command.spawn().await.map_err(no_channel) }).await?;
        let pipes = (child.stdin().take(), child.stdout().take(), child.stderr().take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(Cause::NoChannel("it has no pipes".to_owned()));
        };
        let (line, noise, tail) = Default::default();
        let ear = Ear { stdout: BufReader::new(stdout), stderr, stderr_ended: false, line, noise, tail };
        Ok(Self { child, stdin, ear, session, stage: Stage::Login })
    }

    pub(super) async fn order(&mut self, line: &str) -> Result<(), Cause> {
        let line = format!("{line}\n");
        match within(CHUNK_WITHIN, async { Ok(self.stdin.write_all(line.as_bytes()).await) }).await? {
            Ok(()) => Ok(()),
            Err(_) => Err(self.reason().await),
        }
    }

    pub(super) async fn facts(&mut self) -> Result<Facts, Cause> {
        let mut answers = Vec::new();
        let all = async {
            loop {
                match self.ear.answer().await? {
                    ready if ready == "ready" => return Ok(()),
                    answer if answers.len() >= MOST_FACTS => return Err(Cause::Nonsense(answer)),
                    answer => answers.push(answer),
                }
            }
        };
        within(FIRST_ANSWER_WITHIN, all).await?;
        let value = |key: &str| {
            let values = answers.iter().rev().filter_map(|answer| answer.split_once('='));
            values.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).next().unwrap_or_default()
        };
        let probe = Probe {
            system: value("system"),
            machine: value("machine"),
            libc: value("libc"),
            path: value("path"),
            identity: Some(value("id")).filter(|id| !id.starts_with(' ')).unwrap_or_default(),
            sha256: Some(value("sha")).filter(|sha256| !sha256.is_empty()),
        };
        Ok(Facts { probe, present: value("present") == "yes", can_hash: !value("tool").is_empty() })
    }

    /// Lets what is there say its version.
    pub(super) async fn try_out(&mut self) -> Result<(), Cause> {
        self.stage = Stage::Trial;
        self.order("try").await?;
        self.expect("tried").await
    }

    /// Puts the binary there; whether it was sent. It is not where somebody else did that meanwhile, unless `force`.
    pub(super) async fn put(&mut self, binary: &AgentBinary, force: bool) -> Result<bool, Cause> {
        self.stage = Stage::Upload;
        let order = if force { "force" } else { "put" };
        self.order(&format!("{order} {} {}", binary.bytes.len(), binary.sha256)).await?;
        match within(ANSWER_WITHIN, self.ear.answer()).await? {
            kept if kept == "kept" => return Ok(false),
            send if send == "send" => {}
            other => return Err(Cause::Nonsense(other)),
        }
        let (stdin, ear) = (&mut self.stdin, &mut self.ear);
        let sending = async {
            for chunk in binary.bytes.chunks(CHUNK_BYTES) {
                match timeout(CHUNK_WITHIN, stdin.write_all(chunk)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Ok(false),
                    Err(_) => return Err(Cause::Stalled(CHUNK_WITHIN)),
                }
            }
            Ok(true)
        };
        // An answer before the last byte can only be a failure, such as a full disk.
        let sent = tokio::select! {
            biased;
            answer = ear.answer() => return Err(answer.map_or_else(|cause| cause, Cause::Nonsense)),
            sent = timeout(UPLOAD_WITHIN, sending) => sent.unwrap_or(Err(Cause::Stalled(UPLOAD_WITHIN)))?,
        };
        if !sent {
            return Err(self.reason().await);
        }
        self.expect("stored").await?;
        Ok(true)
    }

    async fn expect(&mut self, wanted: &str) -> Result<(), Cause> {
        match within(ANSWER_WITHIN, self.ear.answer()).await? {
            answer if answer == wanted => Ok(()),
            other => Err(Cause::Nonsense(other)),
        }
    }

    /// Why nobody reads there any more.
    async fn reason(&mut self) -> Cause {
        match within(REASON_WITHIN, self.ear.answer()).await {
            Err(cause @ Cause::Failed { .. }) => cause,
            _ => Cause::ended(),
        }
    }

    /// A failure that has no words, with those that came from there otherwise.
    pub(super) async fn explained(mut self, cause: Cause) -> Cause {
        match cause {
            Cause::Ended { .. } => {
                self.ear.hear_out().await;
                let said = self.ear.words();
                drop(self.stdin);
                let code = match timeout(REASON_WITHIN, self.child.wait()).await {
                    // 255 is also what ssh gives a command whose connection is lost.
                    Ok(Ok(status)) => status.code().filter(|code| *code != 255),
                    // So the crate tells exit status 127.
                    Ok(Err(openssh::Error::Remote(_))) => Some(127),
                    _ => None,
                };
                let words = if said.is_empty() { words_of(&self.session).unwrap_or_default() } else { said };
                Cause::Ended { stage: self.stage, code, words: printable(&words) }
            }
            Cause::Silent(limit, _) => Cause::Silent(limit, self.ear.words()),
            other => other,
        }
    }

    pub(super) fn into_parts(self) -> (ChildStdin, BufReader<ChildStdout>, ChildStderr, Child<Arc<Session>>) {
        (self.stdin, self.ear.stdout, self.ear.stderr, self.child)
    }
}

async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, Cause>>) -> Result<T, Cause> {
    timeout(limit, answer).await.unwrap_or_else(|_| Err(Cause::Silent(limit, String::new())))
}

/// Both outputs of the host: answers in one, noise in both.
struct Ear {
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
    stderr_ended: bool,
    /// The line that has begun.
    line: Vec<u8>,
    /// The first of what is no answer.
    noise: Vec<u8>,
    /// The last of stderr.
    tail: Vec<u8>,
}

impl Ear {
    /// The next marked line, without the mark. Cancel-safe: what has been read is kept.
    async fn answer(&mut self) -> Result<String, Cause> {
        let mut chunk = [0; KEPT_BYTES];
        loop {
            tokio::select! {
                biased;
                read = self.stderr.read(&mut chunk), if !self.stderr_ended => match read {
                    Ok(length) if length > 0 => keep_last(&mut self.tail, &chunk[..length]),
                    _ => self.stderr_ended = true,
                },
                available = self.stdout.fill_buf() => {
                    let available = match available {
                        Ok(available) if !available.is_empty() => available,
                        _ => return Err(Cause::ended()),
                    };
                    let end = available.iter().position(|&byte| byte == b'\n');
                    keep_first(&mut self.line, &available[..end.unwrap_or(available.len())]);
                    let used = end.map_or(available.len(), |end| end + 1);
                    self.stdout.consume(used);
                    if end.is_some() && let Some(answer) = self.complete_line() {
                        return answer;
                    }
                }
            }
        }
    }

    fn complete_line(&mut self) -> Option<Result<String, Cause>> {
        let line = std::mem::take(&mut self.line);
        let Some(answer) = line.strip_prefix(MARK) else {
            keep_first(&mut self.noise, &line);
            keep_first(&mut self.noise, b" ");
            return None;
        };
        let answer = printable(&String::from_utf8_lossy(answer));
        let Some(failure) = answer.strip_prefix("failed ") else { return Some(Ok(answer)) };
        let (stage, words) = failure.split_once(' ').unwrap_or((failure, ""));
        Some(Err(Cause::Failed { stage: stage.to_owned(), words: words.trim().to_owned() }))
    }

    /// What still comes over stderr from a process that is ending.
    async fn hear_out(&mut self) {
        let mut chunk = [0; KEPT_BYTES];
        let rest = async {
            while let Ok(length @ 1..) = self.stderr.read(&mut chunk).await {
                keep_last(&mut self.tail, &chunk[..length]);
            }
        };
        let _ = timeout(REASON_WITHIN, rest).await;
    }

    /// What came from there that was no answer: errors before noise.
    fn words(&self) -> String {
        let text =
            |bytes: &[u8]| printable(String::from_utf8_lossy(bytes).trim()).replace("\\r", "").replace("\\n", " ");
        match text(&self.tail) {
            errors if errors.is_empty() => text(&[&self.noise[..], &self.line[..]].concat()),
            errors => errors,
        }
    }
}

fn keep_first(kept: &mut Vec<u8>, more: &[u8]) {
    let room = KEPT_BYTES.saturating_sub(kept.len());
    kept.extend_from_slice(&more[..more.len().min(room)]);
}

fn keep_last(kept: &mut Vec<u8>, more: &[u8]) {
    kept.extend_from_slice(more);
    kept.drain(..kept.len().saturating_sub(KEPT_BYTES));
}
