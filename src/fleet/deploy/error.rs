//! Why the agent does not run on a host: one sentence with the host, what was said there, and what to do. What comes from
//! afar is shortened, and was made printable before.

use std::time::Duration;

use crate::fleet::hosts::Host;
use crate::text::terminal::{brief, printable};

/// Of a host's words more is not repeated.
const LONGEST_WORDS_CHARS: usize = 300;

/// The kinds of failure, for decisions; the sentence is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeployErrorKind {
    WrongPath,
    NoChannel,
    /// No answer in time, or one that makes no sense.
    NoAnswer,
    /// The channel ended: no shell, no login, killed, the network.
    Ended,
    /// There is nothing to run, and nothing may be sent.
    Missing,
    NothingFits,
    NoHashTool,
    DiskFull,
    NotWritable,
    /// What is there does not run.
    NotExecutable,
    /// What arrived is not what was sent.
    Damaged,
}

/// Why the agent does not run. `Display` is one sentence with the host and the remedy, fit for a terminal.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct DeployError {
    kind: DeployErrorKind,
    message: String,
}

impl DeployError {
    pub(super) fn new(host: &Host, remote_path: &str, cause: Cause) -> Self {
        let message = format!("{host}: {}.", cause.clause(remote_path));
        Self { kind: cause.kind(), message: printable(&message) }
    }

    pub fn kind(&self) -> DeployErrorKind {
        self.kind
    }
}

#[derive(Debug)]
pub(super) enum Cause {
    WrongPath(String),
    NoChannel(String),
    /// With what else came from there.
    Silent(Duration, String),
    Stalled(Duration),
    Nonsense(String),
    /// With the exit status, where it is known, and what else came from there.
    Ended {
        stage: Stage,
        code: Option<i32>,
        words: String,
    },
    Missing(String),
    NothingFits(String),
    NoHashTool,
    /// The script there gave up.
    Failed {
        stage: String,
        words: String,
    },
}

/// What was being done when a channel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing of ours ran yet.
    Login,
    /// The binary was on its way.
    Upload,
    /// The binary was run for the first time.
    Trial,
}

impl Cause {
    /// Without what is found out later.
    pub(super) fn ended() -> Self {
        Self::Ended { stage: Stage::Login, code: None, words: String::new() }
    }

    fn kind(&self) -> DeployErrorKind {
        use DeployErrorKind as Kind;
        match self {
            Self::WrongPath(_) => Kind::WrongPath,
            Self::NoChannel(_) => Kind::NoChannel,
            Self::Silent(..) | Self::Stalled(_) | Self::Nonsense(_) => Kind::NoAnswer,
            Self::Ended { .. } => Kind::Ended,
            Self::Missing(_) => Kind::Missing,
            Self::NothingFits(_) => Kind::NothingFits,
            Self::NoHashTool => Kind::NoHashTool,
            Self::Failed { stage, words } => match stage.as_str() {
                _ if words.contains("No space left") || words.contains("uota exceeded") => Kind::DiskFull,
                "execute" => Kind::NotExecutable,
                "short" | "checksum" => Kind::Damaged,
                "create" | "place" | "write" => Kind::NotWritable,
                _ => Kind::NoAnswer,
            },
        }
    }

    fn clause(&self, path: &str) -> String {
        match self {
            Self::WrongPath(what) => format!("\"{path}\" cannot be a path there ({what}): correct --remote-path"),
            Self::NoChannel(words) => format!(
                "ssh is connected, but no command can be run ({}): check MaxSessions and ForceCommand in its sshd_config",
                short(words)
            ),
            Self::Silent(limit, words) => format!(
                "its shell did not answer within {} s{}: check that VM's load, and that its login shell runs commands \
                 with /bin/sh",
                limit.as_secs(),
                said(words)
            ),
            Self::Stalled(limit) => format!(
                "the upload of load_test did not get on for {} s: check the network and that VM's disk",
                limit.as_secs()
            ),
            Self::Nonsense(answer) => format!(
                "its shell answered what was not asked (\"{}\"): check what its login shell prints and reads",
                short(answer)
            ),
            Self::Ended { stage, code, words } => ended(*stage, *code, words),
            Self::Missing(there) => {
                format!(
                    "there is no {there}: leave out --deploy never, or install load_test there, or give --remote-path"
                )
            }
            Self::NothingFits(what) => what.clone(),
            Self::NoHashTool => {
                "it has none of sha256sum, shasum and openssl to check an upload with: install one there, or \
                                 install load_test there and give --deploy never"
                    .to_owned()
            }
            Self::Failed { words, .. } => {
                let words = if words.is_empty() { "without a reason".to_owned() } else { short(words) };
                self.failed(path, &words)
            }
        }
    }

    fn failed(&self, path: &str, words: &str) -> String {
        match self.kind() {
            DeployErrorKind::DiskFull => format!(
                "the disk is full there ({words}): make room, or give a folder on another disk with --remote-path instead of \
                 {path}"
            ),
            DeployErrorKind::NotWritable => format!(
                "load_test cannot be written to {path} ({words}): give a folder that the user there can write with \
                 --remote-path"
            ),
            DeployErrorKind::NotExecutable => format!(
                "load_test in {path} does not run there ({words}): check its permissions, and that its disk is not mounted \
                 noexec; otherwise give another folder with --remote-path, or a load_test built for that VM with \
                 --agent-binary"
            ),
            DeployErrorKind::Damaged => format!(
                "what arrived is not the load_test that was sent ({words}): try again, and check that VM's disk"
            ),
            _ => format!("the script there failed ({words}): check what its login shell reads from standard input"),
        }
    }
}

fn ended(stage: Stage, code: Option<i32>, words: &str) -> String {
    let status = code.map(|code| format!("exit status {code}"));
    let words = Some(words).filter(|words| !words.is_empty()).map(|words| format!("\"{}\"", short(words)));
    let why: Vec<String> = status.into_iter().chain(words).collect();
    let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join(", ")) };
    match stage {
        Stage::Login => format!(
            "the command there ended before the agent ran{why}: check that the account may log in with a shell, that there \
             is /bin/sh, that no ForceCommand replaces it, and that nothing kills it"
        ),
        Stage::Upload => format!(
            "the connection or the command there ended while load_test was sent{why}: check the network, and that VM's \
             memory, limits and disk; then try again"
        ),
        Stage::Trial => format!(
            "the connection or the command there ended while load_test was tried out{why}: check the network, and that \
             VM's memory and limits (ulimit -a)"
        ),
    }
}

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(" (\"{}\")", short(words)) }
}

fn short(words: &str) -> String {
    brief(words, LONGEST_WORDS_CHARS)
}
