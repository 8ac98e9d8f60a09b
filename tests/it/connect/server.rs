//! A server with TLS, and roles that its rules treat differently.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::certificates::{Authority, Pair};
use crate::harness::{PgBouncer, TestServer, psql, public_folder, wait_until};

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
";

pub struct Server {
    pub authority: Authority,
    pub port: u16,
    server: TestServer,
}

impl Server {
    /// The server that the tests of this topic share; it goes when the last of them ends.
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
        let authority = Authority::new("Private authority");
        let pair = authority.server("server", &["localhost", "127.0.0.1", "::1"]);
        let setup = TestServer::setup().also_at("localhost").hba(HBA).set("ssl", "on").set("ssl_ca_file", "root.crt");
        let files = [("root.crt", authority.pem()), ("server.crt", pair.cert), ("server.key", pair.key)];
        let server = files.into_iter().fold(setup, |setup, (name, text)| setup.file(name, text)).start();
        server.sql(ROLES);
        server.sql("CREATE DATABASE app OWNER app");
        server.sql("CREATE DATABASE closed");
        server.sql("REVOKE CONNECT ON DATABASE closed FROM PUBLIC");
        Self { authority, port: server.port(), server }
    }

    /// Restarts the server as a standby with nothing to follow.
    pub fn into_standby(mut self) -> Self {
        self.server.become_standby();
        self
    }

    /// Gives the server another certificate and waits until new connections see it.
    pub fn use_certificate(&self, pair: &Pair) {
        self.server.install("server.crt", &pair.cert);
        self.server.install("server.key", &pair.key);
        let loaded_at = || self.server.sql("SELECT pg_conf_load_time()");
        let before = loaded_at();
        self.server.sql("SELECT pg_reload_conf()");
        wait_until("the configuration is reloaded", || loaded_at() != before);
    }

    /// The folder of the socket, as a host.
    pub fn socket_dir(&self) -> String {
        self.server.socket_dir().display().to_string()
    }

    /// A file next to the server's data, readable by the owner alone, with its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        self.file_with_mode(name, text, 0o600)
    }

    /// A file that psql may read too, whichever user it runs as.
    pub fn public_file(&self, name: &str, text: &str) -> String {
        self.file_with_mode(name, text, 0o644)
    }

    fn file_with_mode(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.server.folder().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        path.display().to_string()
    }

    /// A PgBouncer in front of it, for the user `app` with the right password.
    pub fn bouncer(&self) -> PgBouncer {
        let databases = format!("app = host=127.0.0.1 port={} dbname=app", self.port);
        let settings = "auth_type = scram-sha-256\npool_mode = transaction\n";
        PgBouncer::configured("\"app\" \"correct horse\"\n", &databases, settings)
    }
}

/// What psql, and so libpq, makes of a connection string: the first column of the query's first row, or its error.
pub fn psql_with(text: &str, query: &str) -> Result<String, String> {
    let home = public_folder();
    let mut psql = psql();
    psql.env_clear().env("HOME", home.path()).args(["-XAtqw", "-d", text, "-c", query]);
    let ran = psql.run();
    if ran.code == Some(0) { Ok(ran.stdout.trim().to_owned()) } else { Err(ran.stderr) }
}
