//! Why there is no session: one sentence with the host, what ssh said of it, and what to do. Owns the reading of ssh's
//! words, of which there is no form that a program is meant to read. Nothing from afar gets through as it came.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::fleet::hosts::Host;
use crate::report::text::printable;

/// Of ssh's own words more is not repeated.
const LONGEST_WORDS_CHARS: usize = 300;

/// The kinds of failure, for decisions; the sentence is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SshErrorKind {
    /// There is no ssh program here.
    ProgramMissing,
    /// The private key cannot be used.
    KeyFile,
    /// ssh's configuration cannot be used.
    Config,
    /// This machine gave no folder, no process.
    Local,
    /// The server takes none of the keys.
    Denied,
    /// The server shows another key than it once did.
    HostKeyChanged,
    /// The server's key is not known, and unknown ones are not accepted.
    HostKeyUnknown,
    /// The name has no address.
    Unresolved,
    /// DNS could not be asked.
    ResolverFailed,
    /// Nothing listens on the port.
    Refused,
    /// No way there.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The server hung up before the login, as overloaded ones do.
    Dropped,
    /// Ended from here.
    Interrupted,
    /// Anything else.
    Other,
}

/// Why there is no session. `Display` is one sentence with the host and the remedy, fit for a terminal.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct SshError {
    kind: SshErrorKind,
    message: String,
}

impl SshError {
    pub(super) fn new(kind: SshErrorKind, message: String) -> Self {
        Self { kind, message: printable(&message) }
    }

    pub(super) fn local(host: &Host, error: &io::Error) -> Self {
        let what =
            format!("{host}: ssh cannot be started here ({error}): check this machine's disk, memory and limits.");
        Self::new(SshErrorKind::Local, what)
    }

    pub(super) fn interrupted(host: &Host) -> Self {
        Self::new(
            SshErrorKind::Interrupted,
            format!("{host}: the connection was given up, as everything is being stopped."),
        )
    }

    pub(super) fn login_timeout(host: &Host, limit: Duration) -> Self {
        let seconds = limit.as_secs();
        let what = format!(
            "{host}: the login was not complete within {seconds} s: check that machine's load, its name service, and jump \
             hosts on the way, or raise --connect-timeout."
        );
        Self::new(SshErrorKind::Timeout, what)
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> SshErrorKind {
        self.kind
    }

    /// How many attempts in all are worth it.
    pub(super) fn attempts(&self) -> u32 {
        match self.kind {
            // Such a server is there and only busy; each drop also lowers the number of those that ask it at once.
            SshErrorKind::Dropped => 8,
            SshErrorKind::Timeout => 4,
            SshErrorKind::Refused | SshErrorKind::ResolverFailed => 2,
            _ => 1,
        }
    }
}

/// What a sentence needs to know about the attempt that failed.
pub(super) struct Facts<'a> {
    pub(super) host: &'a Host,
    pub(super) user: Option<&'a str>,
    pub(super) key: Option<&'a Path>,
    pub(super) key_is_encrypted: bool,
    pub(super) connect_timeout: Duration,
}

use SshErrorKind as Kind;

impl Facts<'_> {
    /// The order matters: behind a jump host the first cause is followed by its consequences.
    pub(super) fn error(&self, log: &str) -> SshError {
        let kind = kind_of(log);
        let (host, words) = (self.host, last_words(log));
        let sentence = match kind {
            Kind::HostKeyChanged => self.changed(log),
            Kind::HostKeyUnknown => format!(
                "{host}: its host key is not in the known hosts files, and only known ones are accepted ({words}): connect \
                 to it once by hand, or give --host-keys accept-new."
            ),
            Kind::KeyFile => format!("{host}: ssh cannot use a private key ({words}): correct the file, or --ssh-key."),
            Kind::Denied => self.denied(log, &words),
            Kind::Config => {
                format!("{host}: ssh does not understand its configuration ({words}): correct it, or --ssh-config.")
            }
            Kind::Unresolved | Kind::ResolverFailed => format!(
                "{host}: its name has no address ({words}): correct it in --vms, or check this machine's DNS and ssh \
                 configuration."
            ),
            Kind::Refused => format!(
                "{host}: nothing listens there ({words}): check that sshd runs, and its port (--ssh-port, or host:port in \
                 --vms)."
            ),
            Kind::Unreachable => {
                format!("{host}: there is no way to it ({words}): check the address, the routes and the firewalls.")
            }
            Kind::Timeout => format!(
                "{host}: no answer within {} s ({words}): check the address and the firewalls, or raise --connect-timeout.",
                self.connect_timeout.as_secs()
            ),
            Kind::Dropped => format!(
                "{host}: the server hung up before the login, again and again ({words}): raise MaxStartups in its \
                 sshd_config or lower --ssh-concurrency; or it bans this machine after failed logins."
            ),
            _ => format!("{host}: ssh could not connect ({words}): try ssh by hand with the same options."),
        };
        SshError::new(kind, sentence)
    }

    fn denied(&self, log: &str, words: &str) -> String {
        let host = self.host;
        // ssh tells whom it tried as "user@host: Permission denied (publickey)."
        let told = log.lines().rev().find_map(|line| line.split_once(": Permission denied (")).map(|(who, _)| who);
        let told = told.and_then(|who| who.rsplit_once('@')).map(|(user, _)| user);
        let user =
            self.user.or(told).map_or("the user of ssh's configuration".to_owned(), |user| format!("user {user}"));
        let Some(key) = self.key.map(Path::display) else {
            return format!(
                "{host}: {user} was not let in with any key of ssh's agent and configuration ({words}): give the key with \
                 --ssh-key, the user with --ssh-user, or add the key to that user's authorized_keys."
            );
        };
        if self.key_is_encrypted {
            return format!(
                "{host}: {user} was not let in, and the key {key} has a passphrase, which cannot be asked for here \
                 ({words}): run ssh-add {key} first, or give another key with --ssh-key."
            );
        }
        format!(
            "{host}: {user} was not let in with the key {key} ({words}): check --ssh-key and --ssh-user, or add the key to \
             that user's authorized_keys."
        )
    }

    fn changed(&self, log: &str) -> String {
        let host = self.host;
        let between = |before: &str, behind: &str| {
            log.lines().find_map(|line| line.split_once(before)?.1.split_once(behind).map(|(found, _)| found.trim()))
        };
        // The other side may say all of this itself, and it is to be put into a shell.
        let tame = |text: &&str| text.chars().all(|c| c.is_ascii_alphanumeric() || "._-:[],@/~+".contains(c));
        let entry = between("Host key for ", " has changed").filter(tame).unwrap_or(&host.address);
        // "Offending ED25519 key in /home/me/.ssh/known_hosts:3"
        let offending = log.lines().find(|line| line.contains("Offending")).and_then(|line| line.split_once(" in "));
        let place = offending.map(|(_, place)| place.trim());
        let file = place.and_then(|place| place.rsplit_once(':')).map(|(file, _)| file).filter(tame);
        let file = file.map(|file| format!("-f '{file}' "));
        format!(
            "{host}: its host key is not the one that is known{}: that is an attack, or the machine was installed anew; if \
             you know that it was, run ssh-keygen {}-R '{entry}'.",
            place.map(|place| format!(" ({place})")).unwrap_or_default(),
            file.unwrap_or_default()
        )
    }
}

fn kind_of(log: &str) -> Kind {
    let has = |part: &str| log.contains(part);
    if has("HOST IDENTIFICATION HAS CHANGED") {
        Kind::HostKeyChanged
    } else if has("host key is known for") {
        Kind::HostKeyUnknown
    } else if has("Permission denied (") || has("Too many authentication failures") {
        if has("UNPROTECTED PRIVATE KEY FILE") { Kind::KeyFile } else { Kind::Denied }
    } else if has("onfiguration option") || has("Bad owner or permissions") || has("an't open user config file") {
        Kind::Config
    } else if has("Temporary failure in name resolution") {
        Kind::ResolverFailed
    } else if has("Could not resolve hostname") {
        Kind::Unresolved
    } else if has("Connection refused") {
        Kind::Refused
    } else if has("No route to host") || has("is unreachable") {
        Kind::Unreachable
    } else if has("timed out") || has("Timeout, server") {
        Kind::Timeout
    } else if ["kex_exchange_identification", "Connection reset", "Connection closed", "Broken pipe"]
        .iter()
        .any(|part| has(part))
    {
        Kind::Dropped
    } else {
        Kind::Other
    }
}

/// The end of what ssh said, in one line; nothing that only decorates.
fn last_words(log: &str) -> String {
    let lines = log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('@') && !line.starts_with("Warning: Permanently added"));
    let words = lines.map(|line| printable(line.trim_end_matches('.'))).collect::<Vec<_>>().join("; ");
    let words = words.strip_prefix("ssh: ").unwrap_or(&words);
    let length = words.chars().count();
    match length > LONGEST_WORDS_CHARS {
        true => format!("… {}", words.chars().skip(length - LONGEST_WORDS_CHARS).collect::<String>()),
        false if words.is_empty() => "it did not say why".to_owned(),
        false => words.to_owned(),
    }
}

#[cfg(test)]
mod tests;
