//! A real PostgreSQL with TLS in a private directory, stopped when dropped. Started by root it runs as `postgres`,
//! since the server refuses root.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::certificates::{Authority, Pair};

/// How long anything here may take before the test fails; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

const HBA: &str = "\
local   all all                      trust
hostssl all certuser all             cert
host    all rejected all             reject
hostssl all plain_only all           reject
hostnossl all tls_only all           reject
host    all plain_only,tls_only all  password
host    all md5user all              md5
host    all clear all                password
host    all all all                  scram-sha-256
";

const ROLES: &str = "\
CREATE ROLE app LOGIN PASSWORD 'correct horse';
CREATE ROLE \"odd@/:?\" LOGIN PASSWORD 'p@s/s:w?r%d';
CREATE ROLE certuser LOGIN;
CREATE ROLE rejected LOGIN PASSWORD 'x';
CREATE ROLE plain_only LOGIN PASSWORD 'x';
CREATE ROLE tls_only LOGIN PASSWORD 'x';
CREATE ROLE clear LOGIN PASSWORD 'x';
CREATE ROLE crowded LOGIN PASSWORD 'x' CONNECTION LIMIT 0;
CREATE ROLE reader LOGIN PASSWORD 'x';
ALTER ROLE reader SET default_transaction_read_only = on;
SET password_encryption = md5;
CREATE ROLE md5user LOGIN PASSWORD 'x';
CREATE DATABASE app OWNER app;
CREATE DATABASE closed;
REVOKE CONNECT ON DATABASE closed FROM PUBLIC;
";

/// A process that is stopped, and waited for, when dropped.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // SIGINT: the fast way out for the server, and one that PgBouncer takes too.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.0.wait();
    }
}

pub struct Server {
    pub authority: Authority,
    pub port: u16,
    _process: Process,
    pub directory: TempDir,
}

impl Server {
    /// The server that the tests of this process share; it goes when the last of them ends.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    pub fn start() -> Self {
        let directory = private_directory();
        let data = directory.path().join("data");
        let mut initdb = as_server_user(&program("initdb"));
        run(initdb.args(["-N", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D"]).arg(&data));
        let authority = Authority::new("Private authority");
        let port = free_port();
        install(&data.join("pg_hba.conf"), HBA);
        install(&data.join("root.crt"), &authority.pem());
        let pair = authority.server("server", &["localhost", "127.0.0.1", "::1"]);
        install(&data.join("server.crt"), &pair.cert);
        install(&data.join("server.key"), &pair.key);
        let settings = format!(
            "ssl = on\nssl_ca_file = 'root.crt'\nlisten_addresses = 'localhost'\nport = {port}\nfsync = off\n\
             unix_socket_directories = '{}'\nunix_socket_permissions = 0777\n",
            directory.path().display()
        );
        let configuration = data.join("postgresql.conf");
        let original = std::fs::read_to_string(&configuration).unwrap();
        install(&configuration, &(original + &settings));
        let process = start_postgres(&data);
        let server = Self { authority, port, _process: process, directory };
        server.wait_until("the server is up", || server.psql("SELECT 1").is_ok());
        server.psql(ROLES).unwrap();
        server
    }

    /// Restarts the server in recovery, as a hot standby with nothing to follow.
    pub fn into_standby(self) -> Self {
        let Self { authority, port, _process: process, directory } = self;
        drop(process);
        let data = directory.path().join("data");
        install(&data.join("standby.signal"), "");
        let server = Self { authority, port, _process: start_postgres(&data), directory };
        server.wait_until("the standby is up", || server.psql("SELECT 1").is_ok());
        server
    }

    /// Gives the server another certificate and waits until new connections see it.
    pub fn use_certificate(&self, pair: &Pair) {
        let data = self.directory.path().join("data");
        install(&data.join("server.crt"), &pair.cert);
        install(&data.join("server.key"), &pair.key);
        let loaded_at = || self.psql("SELECT pg_conf_load_time()").unwrap();
        let before = loaded_at();
        self.psql("SELECT pg_reload_conf()").unwrap();
        self.wait_until("the configuration is reloaded", || loaded_at() != before);
    }

    /// Runs SQL as the superuser.
    pub fn psql(&self, sql: &str) -> Result<String, String> {
        let mut psql = as_server_user(&program("psql"));
        psql.env_clear().args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-h"]);
        psql.arg(self.directory.path()).args(["-p", &self.port.to_string()]);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = psql.spawn().unwrap();
        // Through stdin: passwords do not belong into an argument list.
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// A file beside the server's data, readable by the owner alone, with its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path.display().to_string()
    }

    fn wait_until(&self, what: &str, done: impl Fn() -> bool) {
        wait_until(what, done, || std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default());
    }
}

/// A PgBouncer in front of a server. Its users are `app` with the right password.
pub struct Bouncer {
    pub port: u16,
    _process: Process,
    _directory: TempDir,
}

impl Bouncer {
    pub fn start(server: &Server) -> Self {
        let directory = private_directory();
        let port = free_port();
        let path = |name: &str| directory.path().join(name);
        install(&path("users"), "\"app\" \"correct horse\"\n");
        let settings = format!(
            "[databases]\napp = host=127.0.0.1 port={} dbname=app\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\n\
             pool_mode = transaction\nlogfile = {}\n",
            server.port,
            path("users").display(),
            path("log").display()
        );
        install(&path("ini"), &settings);
        let mut command = as_server_user(Path::new("/usr/sbin/pgbouncer"));
        command.arg(path("ini")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process(command.spawn().expect("these tests need PgBouncer"));
        wait_until(
            "PgBouncer is up",
            || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(),
            || std::fs::read_to_string(path("log")).unwrap_or_default(),
        );
        Self { port, _process: process, _directory: directory }
    }
}

fn wait_until(what: &str, done: impl Fn() -> bool, log: impl Fn() -> String) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}; the log:\n{}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start_postgres(data: &Path) -> Process {
    let log = std::fs::File::create(data.parent().unwrap().join("log")).unwrap();
    let mut command = as_server_user(&program("postgres"));
    command.arg("-D").arg(data).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Process(command.spawn().unwrap())
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn private_directory() -> TempDir {
    let directory = tempfile::Builder::new().prefix("plt-connect-").tempdir_in("/tmp").unwrap();
    give_to_server_user(directory.path());
    directory
}

fn install(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    give_to_server_user(path);
}

fn give_to_server_user(path: &Path) {
    if let Some((uid, gid)) = server_user() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

/// The user to become, if this is root.
fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("root needs a user named postgres");
    let fields: Vec<_> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

fn as_server_user(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid).current_dir("/");
    }
    command
}

/// A program of PostgreSQL: in `PG_BINDIR`, where Debian and others install it, or in the `PATH`.
fn program(name: &str) -> PathBuf {
    let mut directories: Vec<PathBuf> = std::env::var_os("PG_BINDIR").map(PathBuf::from).into_iter().collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut debian: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    debian.sort();
    directories.extend(debian.into_iter().rev());
    directories.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    let found = directories.into_iter().map(|directory| directory.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("these tests need PostgreSQL, and {name} is in neither PG_BINDIR nor PATH"))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What psql, and so libpq, makes of a connection string: the first column of the query's first row, or its error.
pub fn psql_with(text: &str, query: &str) -> Result<String, String> {
    let home = private_directory();
    let mut psql = as_server_user(&program("psql"));
    psql.env_clear().env("HOME", home.path()).args(["-XAtqw", "-d", text, "-c", query]);
    let output = psql.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}
