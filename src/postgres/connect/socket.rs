//! Sockets: where a host's servers can be reached, and the connected socket with its options. Knows nothing of the
//! Postgres protocol. Times are [`Duration`]s.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use super::error::{Attempt, ConnectError};
use crate::postgres::conninfo::{Host, HostSpec, Keepalives};

/// Where Debian's and PostgreSQL's own builds put the server's socket.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// How long to wait for room in the backlog of a Unix socket, where connecting fails instead of waiting.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// All the ways to reach a host, in the order in which to try them. Resolving a name takes as long as it takes.
pub(super) async fn endpoints(host: &HostSpec) -> io::Result<Vec<Endpoint>> {
    let name = match (&host.host, host.hostaddr) {
        (_, Some(address)) => return Ok(vec![Endpoint::Tcp((address, host.port).into())]),
        (Host::Unix(directory), None) => return Ok(vec![Endpoint::Unix(socket_path(directory, host.port))]),
        (Host::Default, None) => match default_socket(host.port) {
            Some(path) => return Ok(vec![Endpoint::Unix(path)]),
            None => "localhost",
        },
        (Host::Tcp(name), None) => name,
    };
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(vec![Endpoint::Tcp((address, host.port).into())]);
    }
    let addresses: Vec<_> = tokio::net::lookup_host((name, host.port)).await?.map(Endpoint::Tcp).collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
    }
    Ok(addresses)
}

/// Whether `.pgpass` calls a socket in this directory `localhost`.
pub(super) fn is_default_directory(directory: &str) -> bool {
    SOCKET_DIRECTORIES.contains(&directory.trim_end_matches('/'))
}

fn default_socket(port: u16) -> Option<PathBuf> {
    SOCKET_DIRECTORIES.into_iter().map(|directory| socket_path(directory, port)).find(|path| path.exists())
}

/// `directory/.s.PGSQL.port`; a leading `@` stands for the NUL byte of Linux's abstract namespace.
fn socket_path(directory: &str, port: u16) -> PathBuf {
    match directory.strip_prefix('@') {
        Some(name) => PathBuf::from(format!("\0{name}/.s.PGSQL.{port}")),
        None => Path::new(directory).join(format!(".s.PGSQL.{port}")),
    }
}

/// Connects over TCP: no delaying of small packets, and the keepalives of the specification.
pub(super) async fn tcp(address: SocketAddr, attempt: &Attempt<'_>) -> Result<TcpStream, ConnectError> {
    let stream = TcpStream::connect(address).await.map_err(|error| attempt.socket(&error))?;
    stream.set_nodelay(true).map_err(|error| attempt.socket(&error))?;
    let socket = SockRef::from(&stream);
    let spec = &attempt.inner.spec;
    let named = |parameter| move |error| attempt.socket_option(parameter, &error);
    let Keepalives { enabled, idle, interval, count } = spec.keepalives;
    socket.set_keepalive(enabled).map_err(named("keepalives"))?;
    // One after the other, so that the one that is refused can be named.
    let settings = [
        ("keepalives_idle", idle.map(|idle| TcpKeepalive::new().with_time(idle))),
        ("keepalives_interval", interval.map(|interval| TcpKeepalive::new().with_interval(interval))),
        ("keepalives_count", count.map(|count| TcpKeepalive::new().with_retries(count))),
    ];
    for (parameter, setting) in settings {
        if let Some(setting) = setting.filter(|_| enabled) {
            socket.set_tcp_keepalive(&setting).map_err(named(parameter))?;
        }
    }
    #[cfg(target_os = "linux")]
    if let Some(timeout) = spec.tcp_user_timeout {
        socket.set_tcp_user_timeout(Some(timeout)).map_err(named("tcp_user_timeout"))?;
    }
    Ok(stream)
}

/// Connects to a Unix socket. Waits as long as it takes for room in the server's backlog.
pub(super) async fn unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(BACKLOG_PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// Brings the items into a random order (Fisher and Yates).
pub(super) fn shuffle<T>(items: &mut [T]) {
    let random = RandomState::new();
    for at in (1..items.len()).rev() {
        let mut hasher = random.build_hasher();
        hasher.write_usize(at);
        items.swap(at, (hasher.finish() % (at as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_paths() {
        assert_eq!(socket_path("/tmp", 5432), Path::new("/tmp/.s.PGSQL.5432"));
        assert_eq!(socket_path("@name", 1), Path::new("\0name/.s.PGSQL.1"));
    }

    #[test]
    fn shuffling_keeps_every_item_and_varies() {
        let orders: std::collections::BTreeSet<Vec<u8>> = (0..64)
            .map(|_| {
                let mut items = vec![1, 2, 3, 4, 5];
                shuffle(&mut items);
                items
            })
            .collect();
        assert!(orders.len() > 1);
        assert!(orders.into_iter().all(|mut order| {
            order.sort_unstable();
            order == [1, 2, 3, 4, 5]
        }));
    }
}
