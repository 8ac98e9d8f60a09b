//! Opening connections: which host, which socket, TLS or not, which password, and the sentence when it fails. Owns the
//! order of the attempts, which is libpq's. Spawns nothing and reads its files once; runs on any tokio runtime with
//! I/O and time, current-thread ones too.
//!
//! What can go wrong, and what happens then:
//! - A host that is unreachable, starting up or not what `target_session_attrs` asks for: the next address or host is
//!   tried. Any other answer of a server (a wrong password, a missing database) is final, as with libpq.
//! - `sslmode=prefer`: when TLS fails or `pg_hba.conf` refuses it, plaintext is tried on a new socket;
//!   `sslmode=allow` is the reverse. On Unix sockets TLS is never used, whatever `sslmode` says.
//! - `connect_timeout` covers the whole of an attempt at one address, from the first packet to the end of
//!   authentication. It also bounds the resolution of a name.

mod cancel;
mod error;
mod password;
mod session;
mod socket;
mod stream;
mod tls_error;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio_postgres::config as pg;
use tokio_postgres::tls::TlsConnect;
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

pub use cancel::Canceller;
pub use error::{ConnectError, ConnectErrorKind};
pub use stream::Stream;

use super::conninfo::{
    ChannelBinding, ConnectionSpec, Host, HostSpec, LoadBalanceHosts, SslMode, SslNegotiation, TargetSessionAttrs,
};
use super::passfile::Passfile;
use super::tls;
use error::Attempt;
use session::Announced;
use socket::Endpoint;
use stream::{Tap, TapTls};

/// The I/O half of a connection: whoever uses the client must poll it. Ends when the client is dropped or the
/// connection breaks; a broken socket's reason appears here, while pending requests only see "closed".
pub type Driver = Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>;

/// Everything needed to open connections. Cloning is cheap, and threads may share it.
#[derive(Clone)]
pub struct Connector {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    spec: ConnectionSpec,
    application_name: String,
    tls: Option<MakeRustlsConnect>,
    passfile: Passfile,
    /// Why the password file was ignored.
    passfile_fault: Option<String>,
    warnings: Vec<String>,
    /// SQL that sets what every session is to have; empty where nothing is set.
    session_settings: String,
}

/// A connection, and what the server said about itself while it was opened.
struct Opened {
    client: Client,
    driver: Driver,
    announced: Announced,
    /// What the driver reads and writes through.
    tap: Tap,
    canceller: Canceller,
}

pub struct Connection {
    pub client: Client,
    /// Moves bytes. Once the client is dropped, it ends when the server has let go of the connection.
    pub driver: Driver,
    pub canceller: Canceller,
    /// The server process, as the server or a pooler names it; `None` where it names none. Poolers make one up.
    pub process_id: Option<i32>,
}

impl Connector {
    /// Reads certificates, keys and the password file. `application_name` is what `pg_stat_activity` shows unless the
    /// specification has a name of its own. Fails if a file that TLS needs cannot be used.
    pub fn new(spec: ConnectionSpec, application_name: &str) -> Result<Self, ConnectError> {
        let mut warnings = Vec::new();
        let tls = load_tls(&spec, &mut warnings)?;
        let (mut passfile, mut passfile_fault) = (Passfile::default(), None);
        if let (None, Some(path)) = (&spec.password, &spec.passfile) {
            (passfile, passfile_fault) = Passfile::load(path);
            warnings.extend(passfile_fault.clone());
        }
        let names = [&spec.application_name, &spec.fallback_application_name];
        let application_name = names.into_iter().flatten().next().map_or(application_name, String::as_str).to_owned();
        let session_settings = String::new();
        let inner = Inner { spec, application_name, tls, passfile, passfile_fault, warnings, session_settings };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same server and user, but another database.
    pub fn with_dbname(&self, dbname: &str) -> Self {
        let mut inner = Inner::clone(&self.inner);
        dbname.clone_into(&mut inner.spec.dbname);
        Self { inner: Arc::new(inner) }
    }

    /// The same, as another name in `pg_stat_activity`.
    pub fn with_application_name(&self, name: &str) -> Self {
        let mut inner = Inner::clone(&self.inner);
        name.clone_into(&mut inner.application_name);
        Self { inner: Arc::new(inner) }
    }

    /// What `pg_stat_activity` shows of our sessions.
    pub fn application_name(&self) -> &str {
        &self.inner.application_name
    }

    /// The same, with SQL that is run on each connection before it is handed out. Where the server refuses it, the
    /// connection is used all the same.
    pub fn with_session_settings(&self, sql: &str) -> Self {
        let mut inner = Inner::clone(&self.inner);
        sql.clone_into(&mut inner.session_settings);
        Self { inner: Arc::new(inner) }
    }

    /// See [`Self::with_session_settings`].
    pub fn session_settings(&self) -> &str {
        &self.inner.session_settings
    }

    pub fn spec(&self) -> &ConnectionSpec {
        &self.inner.spec
    }

    /// Sentences about what was ignored: a password file that others may read, a certificate that is not there.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    /// Opens one connection to the first host that will do.
    pub async fn connect(&self) -> Result<(Client, Driver), ConnectError> {
        let Connection { client, driver, .. } = self.connect_whole().await?;
        Ok((client, driver))
    }

    /// Opens one connection to the first host that will do.
    pub async fn connect_whole(&self) -> Result<Connection, ConnectError> {
        let Opened { client, driver, tap, canceller, .. } = self.open().await?;
        let process_id = tap.process_id();
        let driver = Box::pin(async move {
            driver.await?;
            // A server process that is still ending takes up one of the connections that are allowed.
            cancel::until_end_of(&tap).await;
            Ok(())
        });
        Ok(Connection { client, driver, canceller, process_id })
    }

    /// Opens one connection to the first host that will do, for someone who speaks the protocol without the driver:
    /// the server is ready for a query, and none of what it sent after saying so is lost.
    pub async fn connect_stream(&self) -> Result<(Stream, Canceller), ConnectError> {
        let Opened { tap, canceller, .. } = self.open().await?;
        let stream = tap.take();
        let none = || ConnectError::new(ConnectErrorKind::Other, "The connection has no stream.".to_owned());
        Ok((stream.ok_or_else(none)?, canceller))
    }

    async fn open(&self) -> Result<Opened, ConnectError> {
        let spec = &self.inner.spec;
        let passes: &[_] = match spec.target_session_attrs {
            TargetSessionAttrs::PreferStandby => &[TargetSessionAttrs::Standby, TargetSessionAttrs::Any],
            ref only => std::slice::from_ref(only),
        };
        let mut hosts: Vec<_> = spec.hosts.iter().collect();
        if spec.load_balance_hosts == LoadBalanceHosts::Random {
            socket::shuffle(&mut hosts);
        }
        let mut failures = Vec::new();
        for &wanted in passes {
            failures.clear();
            for host in &hosts {
                match self.inner.try_host(host, wanted).await {
                    Ok(connected) => return Ok(connected),
                    Err(failure) if is_for_the_next(&failure) => failures.push(failure),
                    Err(failure) => return Err(failure),
                }
            }
        }
        Err(ConnectError::combined(failures))
    }
}

/// Shows the specification, in which the password is hidden, and not the keys.
impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("spec", &self.inner.spec).finish_non_exhaustive()
    }
}

/// Sockets need no TLS files, and where plaintext will do a broken file only rules TLS out.
fn load_tls(spec: &ConnectionSpec, warnings: &mut Vec<String>) -> Result<Option<MakeRustlsConnect>, ConnectError> {
    if spec.hosts.iter().all(|host| matches!(host.host, Host::Unix(_))) {
        return Ok(None);
    }
    match tls::load(&spec.tls) {
        Ok(loaded) => Ok(loaded.map(|(connector, told)| {
            warnings.extend(told);
            connector
        })),
        Err(error) if spec.tls.mode < SslMode::Require => {
            warnings.push(format!("TLS is not used. {error}"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a failure of one server says nothing about the next.
fn is_for_the_next(failure: &ConnectError) -> bool {
    use ConnectErrorKind::{Dns, Lost, Refused, SessionAttrs, StartingUp, Timeout};
    matches!(failure.kind(), Dns | Lost | Refused | Timeout | StartingUp | SessionAttrs)
}

impl Inner {
    async fn try_host(&self, host: &HostSpec, wanted: TargetSessionAttrs) -> Result<Opened, ConnectError> {
        let mut attempt = Attempt { inner: self, host, server: host.to_string() };
        let resolved = self.limited(&attempt, async { Ok(socket::endpoints(host).await) }).await?;
        let mut endpoints = resolved.map_err(|error| attempt.dns(&error))?;
        if self.spec.load_balance_hosts == LoadBalanceHosts::Random {
            socket::shuffle(&mut endpoints);
        }
        let mut last = None;
        for endpoint in endpoints {
            if let Endpoint::Unix(path) = &endpoint {
                attempt.server = path.display().to_string().replace('\0', "@");
            }
            match self.limited(&attempt, self.try_endpoint(&endpoint, wanted, &attempt)).await {
                Ok(connected) => return Ok(connected),
                Err(failure) if is_for_the_next(&failure) => last = Some(failure),
                Err(failure) => return Err(failure),
            }
        }
        Err(ConnectError::combined(last.into_iter().collect()))
    }

    async fn limited<T>(
        &self,
        attempt: &Attempt<'_>,
        work: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        match self.spec.connect_timeout {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(attempt.timeout(limit))),
        }
    }

    async fn try_endpoint(
        &self,
        endpoint: &Endpoint,
        wanted: TargetSessionAttrs,
        attempt: &Attempt<'_>,
    ) -> Result<Opened, ConnectError> {
        let mut opened = self.open_by_mode(endpoint, attempt).await?;
        let Opened { client, driver, announced, tap, .. } = &mut opened;
        let wanted_and_ready = async {
            let is_wanted = session::is_wanted(wanted, *announced, client, driver).await?;
            if is_wanted && !self.session_settings.is_empty() {
                session::set(&self.session_settings, client, driver).await?;
            }
            between_messages(driver, tap).await?;
            Ok(is_wanted)
        };
        match wanted_and_ready.await {
            Ok(true) => Ok(opened),
            Ok(false) => Err(ConnectError::new(
                ConnectErrorKind::SessionAttrs,
                format!(
                    "{} is not a {} server, which target_session_attrs in --postgres-url asks for: name another host, \
                     or leave it out.",
                    attempt.server,
                    wanted.as_str()
                ),
            )),
            Err(error) => Err(attempt.postgres(&error)),
        }
    }

    /// One or two sockets, as `sslmode` has it.
    async fn open_by_mode(&self, endpoint: &Endpoint, attempt: &Attempt<'_>) -> Result<Opened, ConnectError> {
        // `Prefer` is TLS unless the server says that it has none.
        use pg::SslMode::{Disable as Plain, Prefer as Offered, Require as Demanded};
        let (first, second) = match (endpoint, self.spec.tls.mode) {
            (Endpoint::Unix(_), _) | (_, SslMode::Disable) => (Plain, None),
            (_, SslMode::Allow | SslMode::Prefer) if self.tls.is_none() => (Plain, None),
            (_, SslMode::Allow) => (Plain, Some(Demanded)),
            (_, SslMode::Prefer) => (Offered, Some(Plain)),
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => (Demanded, None),
        };
        let failure = match self.open(endpoint, first, attempt).await {
            Ok(opened) => return Ok(opened),
            Err(failure) => failure,
        };
        let Some(second) = second.filter(|_| invites_other_encryption(failure.kind())) else { return Err(failure) };
        self.open(endpoint, second, attempt).await.map_err(|other| {
            // The second attempt only explains more if it came further.
            if invites_other_encryption(other.kind()) { failure } else { other }
        })
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        encryption: pg::SslMode,
        attempt: &Attempt<'_>,
    ) -> Result<Opened, ConnectError> {
        let config = self.config(attempt.host, encryption);
        let stream = match endpoint {
            Endpoint::Unix(path) => Stream::Unix(socket::unix(path).await.map_err(|error| attempt.socket(&error))?),
            Endpoint::Tcp(address) => Stream::Tcp(socket::tcp(*address, attempt).await?),
        };
        // On Unix sockets TLS is never used.
        let tls = self.tls.clone().filter(|_| encryption != pg::SslMode::Disable && matches!(stream, Stream::Tcp(_)));
        let asks = tls.is_some() && self.spec.tls.negotiation == SslNegotiation::Postgres;
        let tap = Tap::new(stream, asks, true);
        let outcome = match tls.clone() {
            None => handshake(&tap, NoTls, &config).await,
            Some(tls) => handshake(&tap, TapTls { tls, host: attempt.host.name().to_owned() }, &config).await,
        };
        let (client, driver, announced) = outcome.map_err(|error| attempt.postgres(&error))?;
        let (endpoint, host, token) = (endpoint.clone(), attempt.host.name().to_owned(), client.cancel_token());
        let canceller = Canceller { endpoint, host, tls, asks_for_tls: asks, token };
        Ok(Opened { client, driver, announced, tap, canceller })
    }

    fn config(&self, host: &HostSpec, encryption: pg::SslMode) -> tokio_postgres::Config {
        let spec = &self.spec;
        let mut config = tokio_postgres::Config::new();
        config.user(&spec.user).dbname(&spec.dbname).application_name(&self.application_name);
        if let Some(password) = self.password(host) {
            config.password(password.expose());
        }
        if let Some(options) = &spec.options {
            config.options(options);
        }
        config.ssl_mode(encryption);
        config.ssl_negotiation(match spec.tls.negotiation {
            SslNegotiation::Postgres => pg::SslNegotiation::Postgres,
            SslNegotiation::Direct => pg::SslNegotiation::Direct,
        });
        config.channel_binding(match spec.channel_binding {
            ChannelBinding::Disable => pg::ChannelBinding::Disable,
            ChannelBinding::Prefer => pg::ChannelBinding::Prefer,
            ChannelBinding::Require => pg::ChannelBinding::Require,
        });
        config
    }
}

/// Whether TLS in place of plaintext, or plaintext in place of TLS, could get further.
fn invites_other_encryption(kind: ConnectErrorKind) -> bool {
    use ConnectErrorKind::{Lost, NotAllowed, Other, TlsOther, TlsRefusedByServer, TlsUntrusted, TlsWrongName};
    matches!(kind, Lost | NotAllowed | Other | TlsOther | TlsRefusedByServer | TlsUntrusted | TlsWrongName)
}

/// TLS if the configuration has it, start-up and authentication.
async fn handshake<T>(
    tap: &Tap,
    tls: T,
    config: &tokio_postgres::Config,
) -> Result<(Client, Driver, Announced), tokio_postgres::Error>
where
    T: TlsConnect<Tap>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect_raw(tap.clone(), tls).await?;
    let announced = Announced::from_parameters(|name| connection.parameter(name));
    Ok((client, Box::pin(connection), announced))
}

/// Lets the driver read on until no message has come by halves, so that it holds none of them.
async fn between_messages(driver: &mut Driver, tap: &Tap) -> Result<(), tokio_postgres::Error> {
    poll_fn(|cx| match driver.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(ended),
        Poll::Pending if tap.is_between_messages() => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await
}
