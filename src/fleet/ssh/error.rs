//! Why there is no session: one sentence with the host, what ssh said of it, and what to do. Owns the reading of ssh's
//! words, because ssh has no output for programs (`words`). Nothing from afar gets through as it came.

mod words;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fleet::hosts::Host;
use crate::text::terminal::printable;

pub(super) use self::words::last_words;
use self::words::{SAID_NOTHING, guilty_hop, kind_of};

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
    /// The server hung up before it said what it is, as overloaded ones do.
    Dropped,
    /// The connection ended later than that, before the login was complete.
    Closed,
    /// A jump host makes no connections for others.
    Forwarding,
    /// ssh's agent on this machine does not answer.
    Agent,
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
    /// Whether it is not the host itself that failed.
    is_on_the_way: bool,
}

impl SshError {
    pub(super) fn new(kind: SshErrorKind, message: String) -> Self {
        Self { kind, message: printable(&message), is_on_the_way: false }
    }

    pub(super) fn on_the_way(self) -> Self {
        Self { is_on_the_way: true, ..self }
    }

    pub(super) fn stuck_agent(host: &Host, socket: &Path) -> Self {
        let socket = socket.display();
        let what = format!(
            "{host}: ssh's agent on this machine does not answer ({socket}), and ssh would wait for it for ever: restart it, or \
             unset SSH_AUTH_SOCK (IdentityAgent none in ssh's configuration)."
        );
        // All hosts behind the same jump host meet it.
        Self::new(SshErrorKind::Agent, what).on_the_way()
    }

    pub(super) fn public_key(host: &Host, key: &Path) -> Self {
        let key = key.display();
        let what = format!(
            "{host}: {key} is a public key, and ssh's agent does not hold its private key: give the private key with \
             --ssh-key, usually the same path without \".pub\", or add it to the agent with ssh-add."
        );
        Self::new(SshErrorKind::KeyFile, what)
    }

    /// The same for another host, where it would only be met again: each refused login may count for a ban.
    pub(super) fn also_for(&self, from: &Host, to: &Host) -> Option<Self> {
        let is_certain = matches!(
            self.kind,
            Kind::Denied | Kind::HostKeyChanged | Kind::HostKeyUnknown | Kind::KeyFile | Kind::Forwarding | Kind::Agent
        );
        let clause = self.message.strip_prefix(&format!("{from}: "))?;
        (self.is_on_the_way && is_certain).then(|| Self { message: format!("{to}: {clause}"), ..self.clone() })
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
            "{host}: the login was not complete within {seconds} s: check that VM's load, its name service, jump hosts \
             on the way, and whether ssh's agent waits for a key to be confirmed; or raise --connect-timeout."
        );
        Self::new(SshErrorKind::Timeout, what)
    }

    pub fn kind(&self) -> SshErrorKind {
        self.kind
    }

    /// How many attempts in all are worth it.
    pub(super) fn attempts(&self) -> u32 {
        match self.kind {
            // Such a server is there and only busy; each drop also lowers the number of those that ask it at once.
            SshErrorKind::Dropped => 8,
            SshErrorKind::Timeout if self.is_on_the_way => 2,
            SshErrorKind::Timeout => 4,
            SshErrorKind::Refused if self.is_on_the_way => 1,
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
    /// Jump hosts, in the order in which they are connected to.
    pub(super) jumps: &'a [Jump],
    pub(super) proxy_command: Option<&'a str>,
    /// Keys of the configuration that want a passphrase and are not in the agent.
    pub(super) locked_keys: &'a [PathBuf],
}

#[derive(Debug, Clone)]
pub(super) struct Jump {
    pub(super) name: String,
    /// Keys for it that want a passphrase and are not in the agent.
    pub(super) locked_keys: Vec<PathBuf>,
}

use SshErrorKind as Kind;

impl Facts<'_> {
    /// `log` is what the ssh said that connects to the host itself, `way` what jump hosts' and ProxyCommand's said.
    pub(super) fn error(&self, log: &str, way: &str) -> SshError {
        let is_consequence = matches!(kind_of(log), Kind::Dropped | Kind::Timeout | Kind::Closed)
            || (kind_of(log) == Kind::Other && last_words(log) == SAID_NOTHING);
        match self.culprit(way).filter(|_| is_consequence) {
            Some(Culprit::At(jump)) => self.at_jump(jump, way).on_the_way(),
            Some(Culprit::Behind(jump, failed)) => self.behind_jump(jump, failed, way),
            Some(Culprit::Command(command)) => self.of_command(command, log, way).on_the_way(),
            None => self.at_target(log),
        }
    }

    fn culprit(&self, way: &str) -> Option<Culprit<'_>> {
        if let Some(command) = self.proxy_command {
            return Some(Culprit::Command(command));
        }
        let at = guilty_hop(way, self.jumps.len())?;
        let [jump, next] = [at, at + 1].map(|at| self.jumps.get(at));
        let jump = jump?;
        Some(if way.contains("open failed: connect failed") { Culprit::Behind(jump, next) } else { Culprit::At(jump) })
    }

    fn at_target(&self, log: &str) -> SshError {
        let kind = kind_of(log);
        let (host, words) = (self.host, last_words(log));
        let sentence = match kind {
            Kind::HostKeyChanged => format!("{host}: its host key {}", self.changed(log, &host.address)),
            Kind::HostKeyUnknown => format!("{host}: its host key {}", unknown(&words, &host.address)),
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
            Kind::Closed => format!(
                "{host}: the connection ended during the login ({words}): read that VM's sshd log (journalctl -u ssh), and \
                 check the network."
            ),
            _ => format!("{host}: ssh could not connect ({words}): try ssh by hand with the same options."),
        };
        SshError::new(kind, sentence)
    }

    fn at_jump(&self, jump: &Jump, way: &str) -> SshError {
        let (kind, host, name, words) = (kind_of(way), self.host, &jump.name, last_words(way));
        let clause = match kind {
            Kind::HostKeyChanged => format!("the host key of its jump host {name} {}", self.changed(way, name)),
            Kind::HostKeyUnknown => format!("the host key of its jump host {name} {}", unknown(&words, name)),
            Kind::Denied | Kind::KeyFile => format!(
                "its jump host {name} did not let us in ({words}): {}",
                match jump.locked_keys.first().map(|key| key.display()) {
                    Some(key) => format!(
                        "the key {key} has a passphrase, which cannot be asked for here; run ssh-add {key} first."
                    ),
                    None => format!(
                        "check User and IdentityFile for {name} in ssh's configuration, or add the key to its authorized_keys."
                    ),
                }
            ),
            Kind::Forwarding => format!(
                "its jump host {name} does not connect to others ({words}): allow it with AllowTcpForwarding and PermitOpen in \
                 the sshd_config of {name}, and for the key in authorized_keys there."
            ),
            Kind::Unresolved | Kind::ResolverFailed => format!(
                "its jump host {name} has no address ({words}): correct ProxyJump or HostName in ssh's configuration, or \
                 check this machine's DNS."
            ),
            Kind::Refused => format!(
                "nothing listens on its jump host {name} ({words}): check that sshd runs there, and its port in ssh's \
                 configuration."
            ),
            Kind::Unreachable => format!(
                "there is no way to its jump host {name} ({words}): check the address, the routes and the firewalls."
            ),
            Kind::Timeout => {
                // Each one waits for all that are before it, for the same time.
                let names: Vec<&str> = self.jumps.iter().map(|jump| jump.name.as_str()).collect();
                let who = match words.contains("banner exchange") && names.len() > 1 {
                    true => format!("one of its jump hosts {}", names.join(", ")),
                    false => format!("its jump host {name}"),
                };
                format!(
                    "{who} did not answer within {} s ({words}): check its address and the firewalls, or raise \
                     --connect-timeout.",
                    self.connect_timeout.as_secs()
                )
            }
            Kind::Dropped => format!(
                "its jump host {name} hung up before the login, again and again ({words}): raise MaxStartups in its \
                 sshd_config or lower --ssh-concurrency; or it bans this machine after failed logins."
            ),
            _ => format!("the way through its jump host {name} failed ({words}): try ssh {name} by hand."),
        };
        SshError::new(kind, format!("{host}: {clause}"))
    }

    /// A jump host works, and gets no connection to the next one, or to the host.
    fn behind_jump(&self, jump: &Jump, failed: Option<&Jump>, way: &str) -> SshError {
        let (kind, host, name, words) = (kind_of(way), self.host, &jump.name, last_words(way));
        let whom = failed.map_or("it".to_owned(), |failed| format!("the next jump host, {},", failed.name));
        let remedy = match kind {
            Kind::Refused => "check that sshd runs there, and its port",
            Kind::Unresolved | Kind::ResolverFailed => {
                "names are looked up there: correct the name, or give the address"
            }
            _ => "check the address, and the routes and firewalls between both",
        };
        let sentence = format!("{host}: its jump host {name} gets no connection to {whom} ({words}): {remedy}.");
        let error = SshError::new(kind, sentence);
        if failed.is_some() { error.on_the_way() } else { error }
    }

    fn of_command(&self, command: &str, log: &str, way: &str) -> SshError {
        let host = self.host;
        let words = last_words(way);
        if words != SAID_NOTHING {
            let what =
                format!("{host}: the ProxyCommand of ssh's configuration failed ({words}): run it by hand: {command}");
            return SshError::new(kind_of(way), what);
        }
        let (words, seconds) = (last_words(log), self.connect_timeout.as_secs());
        if kind_of(log) == Kind::Timeout {
            let what = format!(
                "{host}: no answer within {seconds} s through the ProxyCommand of ssh's configuration ({words}): run it by \
                 hand: {command}"
            );
            return SshError::new(Kind::Timeout, what);
        }
        let what = format!(
            "{host}: the ProxyCommand of ssh's configuration ended before the login, and did not say why ({words}): run it \
             by hand, without -q: {command}"
        );
        SshError::new(Kind::Other, what)
    }

    fn denied(&self, log: &str, words: &str) -> String {
        let host = self.host;
        // ssh tells whom it tried as "user@host: Permission denied (publickey)."
        let told = log.lines().rev().find_map(|line| line.split_once(": Permission denied (")).map(|(who, _)| who);
        let told = told.and_then(|who| who.rsplit_once('@')).map(|(user, _)| user);
        let user =
            self.user.or(told).map_or("the user of ssh's configuration".to_owned(), |user| format!("user {user}"));
        let key = self.key.map(Path::display);
        let locked = match (&key, self.locked_keys.first()) {
            (Some(key), _) => self.key_is_encrypted.then(|| key.to_string()),
            (None, locked) => locked.map(|key| key.display().to_string()),
        };
        if let Some(key) = locked {
            return format!(
                "{host}: {user} was not let in, and the key {key} has a passphrase, which cannot be asked for here \
                 ({words}): run ssh-add {key} first, or give another key with --ssh-key."
            );
        }
        let Some(key) = key else {
            return format!(
                "{host}: {user} was not let in with any key of ssh's agent and configuration ({words}): give the key with \
                 --ssh-key, the user with --ssh-user, or add the key to that user's authorized_keys."
            );
        };
        format!(
            "{host}: {user} was not let in with the key {key} ({words}): check --ssh-key and --ssh-user, or add the key to \
             that user's authorized_keys."
        )
    }

    fn changed(&self, log: &str, address: &str) -> String {
        let between = |before: &str, behind: &str| {
            log.lines().find_map(|line| line.split_once(before)?.1.split_once(behind).map(|(found, _)| found.trim()))
        };
        // The other side may say all of this itself, and it is to be put into a shell.
        let tame = |text: &&str| text.chars().all(|c| c.is_ascii_alphanumeric() || "._-:[],@/~+".contains(c));
        let entry = between("Host key for ", " has changed").filter(tame).unwrap_or(address);
        // "Offending ED25519 key in /home/me/.ssh/known_hosts:3"
        let offending = log.lines().find(|line| line.contains("Offending")).and_then(|line| line.split_once(" in "));
        let place = offending.map(|(_, place)| place.trim());
        let file = place.and_then(|place| place.rsplit_once(':')).map(|(file, _)| file).filter(tame);
        let file = file.map(|file| format!("-f '{file}' "));
        format!(
            "is not the one that is known{}: that is an attack, or the machine was installed anew; if \
             you know that it was, run ssh-keygen {}-R '{entry}'.",
            place.map(|place| format!(" ({place})")).unwrap_or_default(),
            file.unwrap_or_default()
        )
    }
}

enum Culprit<'a> {
    At(&'a Jump),
    /// Between a jump host and the next one, or the host where there is none.
    Behind(&'a Jump, Option<&'a Jump>),
    Command(&'a str),
}

fn unknown(words: &str, name: &str) -> String {
    format!(
        "is not in the known hosts files, and only known ones are accepted ({words}): connect to it once by hand (ssh \
         {name}), or give --host-keys accept-new."
    )
}

#[cfg(test)]
mod tests;
