//! Why a connection failed: one sentence that says what happened, where, and what to do. Owns the reading of
//! tokio-postgres's errors, whose own text says little more than "db error". Never holds a password.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

use super::Inner;
use crate::measure::outcome::chain;
use crate::postgres::conninfo::{ConnectionSpec, HostSpec, InvalidConnectionString};
use crate::postgres::tls::TlsSetupError;

/// The kinds of failure, for decisions; the sentence is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectErrorKind {
    InvalidString,
    Dns,
    /// Nothing listens there, or the network has no way to it.
    Refused,
    Timeout,
    TlsRefusedByServer,
    /// The server's certificate is not from a trusted authority, or out of date.
    TlsUntrusted,
    TlsWrongName,
    /// Another fault of TLS: files, versions, a certificate that the server wants.
    TlsOther,
    WrongPassword,
    MissingPassword,
    /// The server's rules (`pg_hba.conf`, privileges) keep this user out.
    NotAllowed,
    DatabaseMissing,
    TooManyConnections,
    StartingUp,
    /// Servers answer, but none is what `target_session_attrs` asks for.
    SessionAttrs,
    /// The server does not take a setting that the session asks for (`options`).
    Setting,
    /// A connection pooler does not take a parameter that Postgres would take.
    PoolerStartupParameter,
    /// The connection was lost before the server had let us in.
    Lost,
    Other,
}

/// Why a connection failed. `Display` is one sentence with the server's address and the remedy.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ConnectError {
    kind: ConnectErrorKind,
    message: String,
    sqlstate: Option<SqlState>,
}

impl ConnectError {
    pub(super) fn new(kind: ConnectErrorKind, message: String) -> Self {
        Self { kind, message, sqlstate: None }
    }

    pub fn kind(&self) -> ConnectErrorKind {
        self.kind
    }

    /// Whether the same attempt can succeed later with nothing corrected: the server may come back or have room again.
    pub fn is_retryable(&self) -> bool {
        use ConnectErrorKind::{Dns, Lost, Refused, SessionAttrs, StartingUp, Timeout, TooManyConnections};
        matches!(self.kind, Dns | Lost | Refused | SessionAttrs | StartingUp | Timeout | TooManyConnections)
    }

    pub fn sqlstate(&self) -> Option<&SqlState> {
        self.sqlstate.as_ref()
    }

    /// Several hosts were tried and none would do: the kind of the last, and the sentences of all.
    pub(super) fn combined(mut failures: Vec<Self>) -> Self {
        let messages: Vec<_> = failures.iter().map(|failure| failure.message.clone()).collect();
        let between = if messages.iter().any(|message| message.contains('\n')) { "\n" } else { " " };
        match failures.pop() {
            Some(last) if messages.len() == 1 => last,
            Some(last) => Self { message: format!("None of the hosts would do. {}", messages.join(between)), ..last },
            None => Self::new(ConnectErrorKind::Other, "There is no host to connect to.".into()),
        }
    }
}

impl From<InvalidConnectionString> for ConnectError {
    fn from(error: InvalidConnectionString) -> Self {
        Self::new(ConnectErrorKind::InvalidString, error.to_string())
    }
}

impl From<TlsSetupError> for ConnectError {
    fn from(error: TlsSetupError) -> Self {
        Self::new(ConnectErrorKind::TlsOther, error.to_string())
    }
}

/// What a sentence needs to know about the attempt that failed.
pub(super) struct Attempt<'a> {
    pub(super) inner: &'a Inner,
    pub(super) host: &'a HostSpec,
    /// `host:port`, or the path of the socket.
    pub(super) server: String,
}

use ConnectErrorKind as Kind;

impl Attempt<'_> {
    pub(super) fn timeout(&self, limit: Duration) -> ConnectError {
        let (server, seconds) = (&self.server, limit.as_secs());
        ConnectError::new(
            Kind::Timeout,
            format!(
                "{server} did not answer within {seconds} s: check the host, the port and the firewall, or raise \
                 connect_timeout in --postgres-url."
            ),
        )
    }

    pub(super) fn dns(&self, error: &io::Error) -> ConnectError {
        ConnectError::new(
            Kind::Dns,
            format!(
                "The host name {} cannot be resolved ({}): correct it in {}, or check this machine's DNS.",
                self.host.name(),
                chain(error),
                self.inner.spec.place
            ),
        )
    }

    pub(super) fn socket(&self, error: &io::Error) -> ConnectError {
        let (server, place) = (&self.server, &self.inner.spec.place);
        let (kind, message) = match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => (
                Kind::Refused,
                format!(
                    "No server listens at {server} ({}): start it, or correct the host and port in {place}.",
                    chain(error)
                ),
            ),
            io::ErrorKind::PermissionDenied => (
                Kind::NotAllowed,
                format!("This user may not use {server}: run as another user, or name a host in --postgres-url."),
            ),
            _ => (
                Kind::Refused,
                format!(
                    "{server} cannot be reached ({}): check the network, and the host and port in {place}.",
                    chain(error)
                ),
            ),
        };
        ConnectError::new(kind, message)
    }

    /// The socket is connected, and the operating system refuses a setting of it.
    pub(super) fn socket_option(&self, parameter: &str, error: &io::Error) -> ConnectError {
        let message = format!(
            "The operating system refuses {parameter} on a socket to {} ({}): correct {parameter} in --postgres-url, or \
             leave it out.",
            self.server,
            chain(error)
        );
        ConnectError::new(Kind::Other, message)
    }

    /// The connection stood, and TLS, start-up or authentication failed.
    pub(super) fn postgres(&self, error: &tokio_postgres::Error) -> ConnectError {
        if let Some(answer) = error.as_db_error() {
            return self.answer(answer);
        }
        if let Some(tls) = find::<rustls::Error>(error) {
            return self.tls(tls);
        }
        if let Some(error) = find::<io::Error>(error)
            && matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut)
        {
            return self.socket(error);
        }
        let text = chain(error);
        let server = &self.server;
        let mode = self.inner.spec.tls.mode.as_str();
        if text.contains("server does not support TLS") {
            return ConnectError::new(
                Kind::TlsRefusedByServer,
                format!(
                    "{server} does not offer TLS, which sslmode={mode} demands: turn on ssl at the server, or use \
                     sslmode=prefer or disable in --postgres-url if the network is trusted."
                ),
            );
        }
        if text.contains("tls handshake eof") {
            return ConnectError::new(
                Kind::TlsOther,
                format!(
                    "{server} hung up during the TLS handshake: leave sslnegotiation=direct out of --postgres-url if it \
                     stands there (PostgreSQL before 17 lacks it), or check what listens at that port."
                ),
            );
        }
        if text.contains("password missing") {
            let (user, remedy) = (&self.inner.spec.user, self.inner.password_remedy(self.host));
            let message = format!("{server} wants a password for {user} and none was given: {remedy}.");
            return ConnectError::new(Kind::MissingPassword, message);
        }
        if text.contains("channel binding") {
            return ConnectError::new(
                Kind::TlsOther,
                format!(
                    "{server} does not offer channel binding, which channel_binding=require in --postgres-url \
                     demands: it takes TLS, SCRAM and a certificate with an RSA or ECDSA signature; else leave it out."
                ),
            );
        }
        self.unclear(&text, error.is_closed() || find::<io::Error>(error).is_some_and(is_lost))
    }

    fn unclear(&self, text: &str, broken: bool) -> ConnectError {
        let server = &self.server;
        let (advice, kind) = if text.contains("unsupported authentication method") {
            ("use a user with a password or a client certificate", Kind::Other)
        } else if broken {
            ("check that a Postgres server listens there, and its log", Kind::Lost)
        } else {
            ("check that the port in --postgres-url is that of a Postgres server", Kind::Other)
        };
        ConnectError::new(kind, format!("Connecting to {server} failed ({text}): {advice}."))
    }

    /// The server answered with an error. PgBouncer before 1.2x gives most of its errors the code 08P01, so that some
    /// are told apart by their text.
    fn answer(&self, error: &DbError) -> ConnectError {
        let text = error.message();
        let kind = match *error.code() {
            SqlState::INVALID_PASSWORD => Kind::WrongPassword,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION | SqlState::INSUFFICIENT_PRIVILEGE => Kind::NotAllowed,
            SqlState::INVALID_CATALOG_NAME => Kind::DatabaseMissing,
            SqlState::TOO_MANY_CONNECTIONS => Kind::TooManyConnections,
            SqlState::INVALID_PARAMETER_VALUE
            | SqlState::UNDEFINED_OBJECT
            | SqlState::CANT_CHANGE_RUNTIME_PARAM
            | SqlState::SYNTAX_ERROR => Kind::Setting,
            SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN => Kind::StartingUp,
            _ => pooler_kind(text),
        };
        let mut message = self.answer_sentence(kind, text);
        for (name, more) in [("DETAIL", error.detail()), ("HINT", error.hint())] {
            message.extend(more.map(|more| format!("\n{name}: {more}")));
        }
        ConnectError { sqlstate: Some(error.code().clone()), ..ConnectError::new(kind, message) }
    }

    fn answer_sentence(&self, kind: Kind, text: &str) -> String {
        let (server, ConnectionSpec { user, dbname, place, .. }) = (&self.server, &self.inner.spec);
        match kind {
            Kind::WrongPassword => {
                format!(
                    "{server} did not accept the password of {user} ({text}): {}.",
                    self.inner.password_remedy(self.host)
                )
            }
            Kind::NotAllowed => format!(
                "{server} does not let {user} into the database {dbname} ({text}): correct the user, database or \
                 sslmode in {place}, or the server's pg_hba.conf and privileges."
            ),
            Kind::DatabaseMissing => format!(
                "There is no database {dbname} at {server} ({text}): create it, as --setup does, or correct its name in {place}."
            ),
            Kind::TooManyConnections => format!(
                "{server} has no connection left ({text}): close other connections, or raise the limit of the server \
                 (max_connections), the database or the role (CONNECTION LIMIT), or the pooler."
            ),
            Kind::StartingUp => format!("{server} takes no connections at the moment ({text}): try again shortly."),
            Kind::PoolerStartupParameter => format!(
                "The connection pooler at {server} does not take a parameter that Postgres would take ({text}): \
                 leave {} out of --postgres-url, or list it in the pooler's ignore_startup_parameters.",
                text.rsplit([' ', ':']).next().unwrap_or("it")
            ),
            Kind::Setting => format!(
                "{server} refused a setting of the session ({text}): correct options in --postgres-url, or PGOPTIONS."
            ),
            _ => format!("{server} refused the connection ({text}): see the server's log."),
        }
    }
}

/// Whether the other side left, or the way to it was lost; otherwise it said what cannot be read.
fn is_lost(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable};
    matches!(
        error.kind(),
        BrokenPipe
            | ConnectionAborted
            | ConnectionReset
            | NotConnected
            | UnexpectedEof
            | HostUnreachable
            | NetworkUnreachable
    )
}

/// What poolers say, in lower case.
const POOLER_WORDS: [(Kind, &[&str]); 6] = [
    (Kind::PoolerStartupParameter, &["unsupported startup parameter"]),
    (Kind::DatabaseMissing, &["no such database"]),
    (Kind::TooManyConnections, &["no more connections allowed", "too many connections", "sorry, too many clients"]),
    (Kind::WrongPassword, &["password authentication failed", "sasl authentication failed", "auth failed"]),
    (Kind::NotAllowed, &["no such user", "not allowed", "ssl required", "tls required", "login rejected"]),
    (Kind::StartingUp, &["shutting down", "starting up", "server login failed", "server login has been failing"]),
];

fn pooler_kind(text: &str) -> Kind {
    let text = text.to_ascii_lowercase();
    let known = POOLER_WORDS.iter().find(|(_, words)| words.iter().any(|word| text.contains(word)));
    known.map_or(Kind::Other, |(kind, _)| *kind)
}

/// The first error of a type in the chain. An `io::Error` that wraps another error does not name it as its source.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn chains_are_walked_and_wrapped_errors_found() {
        let error = Outer(io::Error::other(rustls::Error::DecryptError));
        assert_eq!(chain(&error), "outer: cannot decrypt peer's message");
        assert_eq!(find::<rustls::Error>(&error), Some(&rustls::Error::DecryptError));
        assert!(find::<std::fmt::Error>(&error).is_none());
    }
}
