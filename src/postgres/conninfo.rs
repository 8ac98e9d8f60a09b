//! Connection strings: from the text that a user pastes, plus the environment, to a [`ConnectionSpec`]. Owns the
//! meaning that libpq gives to each parameter. Pure: no file, socket or clock is touched, and the environment comes in
//! as a value. Nothing here repeats a value of the string in an error, since it could be a piece of a password.
//!
//! Units: times are [`Duration`]s; in the strings `connect_timeout` and `keepalives_*` are seconds and
//! `tcp_user_timeout` is milliseconds, as libpq has them.

mod environment;
mod parameters;
mod service;
mod syntax;
mod values;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use environment::Environment;
pub use values::{
    ChannelBinding, LoadBalanceHosts, SslCertMode, SslMode, SslNegotiation, TargetSessionAttrs, TlsVersion,
};

use super::secret::Secret;
use parameters::Parameters;

pub const DEFAULT_PORT: u16 = 5432;

/// How long one connection attempt may take when `connect_timeout` is absent.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a connection string cannot be used. `Display` names parameters and remedies, and quotes no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The connection string (--postgres-url) cannot be used: {}.", faults.join("; "))]
pub struct InvalidConnectionString {
    pub faults: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Nothing was said: the usual local socket if there is one, else `localhost`.
    Default,
    /// A host name or IP address, reached over TCP.
    Tcp(String),
    /// The directory of a Unix socket, or `@name` in the abstract namespace.
    Unix(String),
}

/// One server of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// Its name, which TLS verifies and `.pgpass` is searched for.
    pub host: Host,
    /// The address to use instead of resolving the name.
    pub hostaddr: Option<IpAddr>,
    /// TCP port, or the number in the socket's file name.
    pub port: u16,
}

impl HostSpec {
    /// What a certificate has to name: the host's name or address, or its socket's directory.
    pub fn name(&self) -> &str {
        match &self.host {
            Host::Default => "localhost",
            Host::Tcp(name) | Host::Unix(name) => name,
        }
    }
}

impl fmt::Display for HostSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Unix(directory) => write!(f, "[{directory}]:{}", self.port),
            _ => write!(f, "{}:{}", self.name(), self.port),
        }
    }
}

/// `sslrootcert`: whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// `~/.postgresql/root.crt`, if it exists.
    Default,
    /// The authorities that the operating system trusts.
    System,
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSpec {
    pub mode: SslMode,
    pub root: RootCert,
    /// `sslcert`; absent: `~/.postgresql/postgresql.crt`, if it exists.
    pub cert: Option<PathBuf>,
    /// `sslkey`; absent: `~/.postgresql/postgresql.key`.
    pub key: Option<PathBuf>,
    pub cert_mode: SslCertMode,
    pub negotiation: SslNegotiation,
    /// `sslsni`: whether the host's name is sent in the clear, which proxies route by.
    pub sni: bool,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    pub home: Option<PathBuf>,
}

/// TCP keepalives. An absent figure is left to the operating system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keepalives {
    /// `keepalives`: whether they are sent at all.
    pub enabled: bool,
    /// `keepalives_idle`: silence before the first one.
    pub idle: Option<Duration>,
    /// `keepalives_interval`: between two of them.
    pub interval: Option<Duration>,
    /// `keepalives_count`: how many may be lost.
    pub count: Option<u32>,
}

/// A connection string, understood. `Debug` and [`describe`](Self::describe) hide the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionSpec {
    /// The servers, at least one, in the order in which to try them.
    pub hosts: Vec<HostSpec>,
    pub user: String,
    pub dbname: String,
    /// Whether the name of the database was given. Otherwise it is the user's name, as with libpq.
    pub is_dbname_given: bool,
    /// Where host, port, user and database stood: `--postgres-url`, or variables such as `PGHOST`.
    pub place: String,
    /// `password`, if the string or `PGPASSWORD` has it.
    pub password: Option<Secret>,
    pub is_password_from_environment: bool,
    /// The file to search for a password when `password` is absent.
    pub passfile: Option<PathBuf>,
    pub application_name: Option<String>,
    pub fallback_application_name: Option<String>,
    /// `options`: command-line options for the server's session.
    pub options: Option<String>,
    /// `connect_timeout`: for one address, from the first packet to the end of authentication. `None`: no limit.
    pub connect_timeout: Option<Duration>,
    pub keepalives: Keepalives,
    /// `tcp_user_timeout`: how long sent data may stay unacknowledged. `None`: the operating system's default.
    pub tcp_user_timeout: Option<Duration>,
    pub tls: TlsSpec,
    pub channel_binding: ChannelBinding,
    pub target_session_attrs: TargetSessionAttrs,
    pub load_balance_hosts: LoadBalanceHosts,
}

impl ConnectionSpec {
    /// Reads a URI (`postgres://…`) or a key=value string. What it does not mention comes from the environment, then
    /// from libpq's defaults. Every fault is reported at once.
    pub fn parse(text: &str, environment: &Environment) -> Result<Self, InvalidConnectionString> {
        let pairs = syntax::pairs(text).map_err(|fault| InvalidConnectionString { faults: vec![fault] })?;
        let mut parameters = Parameters::new(pairs, environment);
        let spec = Self::resolve(&mut parameters, environment);
        match spec {
            Some(spec) if parameters.faults.is_empty() => Ok(spec),
            _ => Err(InvalidConnectionString { faults: parameters.faults }),
        }
    }

    /// The same connection string with all that the environment adds to it, but for `PGPASSWORD`: for a process in other
    /// surroundings. Paths of files stay as they are.
    pub fn portable(text: &str, environment: &Environment) -> Result<Secret, InvalidConnectionString> {
        Self::parse(text, environment)?;
        let pairs = syntax::pairs(text).map_err(|fault| InvalidConnectionString { faults: vec![fault] })?;
        let mut given = Parameters::new(pairs, environment);
        let mut text = given.to_text();
        if let (None, Some(user)) = (given.text("user"), &environment.os_user) {
            text = format!("{text} {}", parameters::pair("user", user));
        }
        Ok(Secret::new(text.trim_start()))
    }

    /// `user@host:port/dbname`, several hosts separated by commas. Never the password.
    pub fn describe(&self) -> String {
        let hosts: Vec<_> = self.hosts.iter().map(HostSpec::to_string).collect();
        format!("{}@{}/{}", self.user, hosts.join(","), self.dbname)
    }

    fn resolve(given: &mut Parameters, environment: &Environment) -> Option<Self> {
        let hosts = hosts(given);
        let user = given.text("user").or_else(|| environment.os_user.clone());
        if user.is_none() {
            given.fault("user", "is missing, and the operating system has no name for the user: add it");
        }
        let user = user?;
        let home = environment.home.clone();
        let password = given.text("password").map(Secret::new);
        let keepalives = keepalives(given, &hosts);
        Some(Self {
            hosts,
            is_dbname_given: given.text("dbname").is_some(),
            place: given.place(),
            dbname: given.text("dbname").unwrap_or_else(|| user.clone()),
            user,
            password,
            is_password_from_environment: given.is_from_environment("password"),
            passfile: given.text("passfile").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".pgpass"))),
            application_name: given.text("application_name"),
            fallback_application_name: given.text("fallback_application_name"),
            options: given.text("options"),
            connect_timeout: match given.integer("connect_timeout", i32::MAX) {
                None => Some(DEFAULT_CONNECT_TIMEOUT),
                Some(seconds) => positive(seconds).map(Duration::from_secs),
            },
            keepalives,
            tcp_user_timeout: given.integer("tcp_user_timeout", i32::MAX).and_then(positive).map(Duration::from_millis),
            tls: tls(given, home),
            channel_binding: given.keyword("channel_binding", ChannelBinding::Prefer),
            target_session_attrs: given.keyword("target_session_attrs", TargetSessionAttrs::Any),
            load_balance_hosts: given.keyword("load_balance_hosts", LoadBalanceHosts::Disable),
        })
    }
}

/// The greatest figures that Linux takes (`MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPINTVL`, `MAX_TCP_KEEPCNT`).
const MOST_KEEPALIVE_SECONDS: i32 = 32_767;
const MOST_KEEPALIVE_COUNT: i32 = 127;

fn keepalives(given: &mut Parameters, hosts: &[HostSpec]) -> Keepalives {
    let enabled = given.flag("keepalives", true);
    // Where they are not used libpq does not look at them either.
    let are_used = enabled && hosts.iter().any(|host| !matches!(host.host, Host::Unix(_)));
    let most = |most| if are_used { most } else { i32::MAX };
    let mut seconds = |name| {
        let seconds = given.integer(name, most(MOST_KEEPALIVE_SECONDS)).and_then(positive);
        seconds.map(Duration::from_secs)
    };
    let (idle, interval) = (seconds("keepalives_idle"), seconds("keepalives_interval"));
    let count = given.integer("keepalives_count", most(MOST_KEEPALIVE_COUNT)).and_then(positive);
    Keepalives { enabled, idle, interval, count: count.and_then(|count| count.try_into().ok()) }
}

/// libpq reads zero and less as "leave it to the default".
fn positive(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| *number > 0)
}

fn hosts(given: &mut Parameters) -> Vec<HostSpec> {
    let list = |text: Option<String>| -> Vec<String> {
        text.map_or_else(Vec::new, |text| text.split(',').map(|item| item.trim().to_owned()).collect())
    };
    let names = list(given.text("host"));
    let addresses = list(given.text("hostaddr"));
    let ports = list(given.text("port"));
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        given.fault("hostaddr", "must list as many addresses as there are hosts");
    }
    let count = names.len().max(addresses.len()).max(1);
    if ports.len() > 1 && ports.len() != count {
        given.fault("port", "must be one number, or list as many as there are hosts");
    }
    let item = |list: &[String], at: usize| list.get(at).filter(|item| !item.is_empty()).cloned();
    (0..count)
        .map(|at| {
            let hostaddr = item(&addresses, at).and_then(|address| {
                let parsed = address.parse().ok();
                if parsed.is_none() {
                    given.fault("hostaddr", "must be IPv4 or IPv6 addresses; names belong in host");
                }
                parsed
            });
            let port = item(&ports, if ports.len() == 1 { 0 } else { at });
            HostSpec { host: host(item(&names, at), hostaddr), hostaddr, port: port_number(port, given) }
        })
        .collect()
}

fn host(name: Option<String>, hostaddr: Option<IpAddr>) -> Host {
    match (name, hostaddr) {
        (Some(name), None) if name.starts_with(['/', '@']) => Host::Unix(name),
        (Some(name), _) => Host::Tcp(name),
        (None, Some(address)) => Host::Tcp(address.to_string()),
        (None, None) => Host::Default,
    }
}

fn port_number(text: Option<String>, given: &mut Parameters) -> u16 {
    let Some(text) = text else { return DEFAULT_PORT };
    text.parse().ok().filter(|port| *port > 0).unwrap_or_else(|| {
        given.fault(
            "port",
            "must be a number from 1 to 65535 (if that was a piece of a password, percent-encode the password: / as %2F)",
        );
        DEFAULT_PORT
    })
}

fn tls(given: &mut Parameters, home: Option<PathBuf>) -> TlsSpec {
    let root = match given.text("sslrootcert") {
        None => RootCert::Default,
        Some(word) if word == "system" => RootCert::System,
        Some(path) => RootCert::File(path.into()),
    };
    let default_mode = if root == RootCert::System { SslMode::VerifyFull } else { SslMode::Prefer };
    let mode = given.keyword("sslmode", default_mode);
    if root == RootCert::System && mode != SslMode::VerifyFull {
        given.fault(
            "sslmode",
            "must be verify-full when sslrootcert is system, since anyone can get such a certificate",
        );
    }
    let negotiation = given.keyword("sslnegotiation", SslNegotiation::Postgres);
    if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
        given.fault("sslmode", "must be require, verify-ca or verify-full when sslnegotiation is direct");
    }
    let min_version = given.keyword("ssl_min_protocol_version", TlsVersion::V1_2);
    let max_version = given.keyword("ssl_max_protocol_version", TlsVersion::V1_3);
    if max_version < TlsVersion::V1_2 {
        given.fault("ssl_max_protocol_version", "must be TLSv1.2 or TLSv1.3, older versions are broken");
    } else if min_version > max_version {
        given.fault("ssl_min_protocol_version", "must not be above ssl_max_protocol_version");
    }
    TlsSpec {
        mode,
        root,
        cert: given.text("sslcert").map(PathBuf::from),
        key: given.text("sslkey").map(PathBuf::from),
        cert_mode: given.keyword("sslcertmode", SslCertMode::Allow),
        negotiation,
        sni: given.flag("sslsni", true),
        min_version,
        max_version,
        home,
    }
}

#[cfg(test)]
mod tests;
