//! Owns what integration tests share: a real PostgreSQL of their own. Must not know what is tested with it.

#![allow(dead_code)] // Every test binary uses a part of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use postgres_load_test::throwaway::{Signal, ThrowawayOptions, ThrowawayServer};

/// A version of PostgreSQL to test with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The newest that is installed on this machine.
    Installed,
    /// PostgreSQL 18.
    Eighteen,
}

/// The folder with the programs of PostgreSQL 18: `PG18_BINDIR`, or where scripts/test.sh puts them. `None` where
/// `PG18_BINDIR` is `none`, which leaves it out.
///
/// # Panics
/// It is not there.
pub fn postgres_18() -> Option<PathBuf> {
    let folder = match std::env::var_os("PG18_BINDIR") {
        Some(text) if text == "none" => return None,
        Some(text) => PathBuf::from(text),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("postgres-18").join("bin"),
    };
    let folder = folder.canonicalize().unwrap_or(folder);
    assert!(
        folder.join("postgres").is_file(),
        "PostgreSQL 18 is not in {}: scripts/test.sh puts it there. PG18_BINDIR names another folder with its \
         programs; PG18_BINDIR=none leaves it out",
        folder.display()
    );
    Some(folder)
}

/// A throwaway server with a test's conveniences; every fault is a panic. Gone when dropped.
pub struct TestServer {
    server: ThrowawayServer,
    password: Option<String>,
}

impl TestServer {
    /// On a socket alone, tuned as for `--ephemeral`.
    pub fn start() -> Self {
        Self::start_with(ThrowawayOptions::default())
    }

    /// On 127.0.0.1 too, with a password.
    pub fn start_on_tcp() -> Self {
        let password = Some("a secret: 100%/@?".to_owned());
        Self::start_with(ThrowawayOptions { tcp: true, superuser_password: password, ..ThrowawayOptions::default() })
    }

    pub fn start_with(options: ThrowawayOptions) -> Self {
        let server = ThrowawayServer::start(&options).unwrap_or_else(|error| panic!("{error}: {error:?}"));
        Self { server, password: options.superuser_password }
    }

    /// As a `postgresql://` URL: over TCP if the server listens there, else the socket's folder as the host.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// As [`Self::url`], for another database.
    pub fn url_of(&self, database: &str) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let password = self.password.as_deref().map_or(String::new(), |text| format!(":{}", encoded(text)));
        let host = match self.server.listens_on_tcp() {
            true => "127.0.0.1".to_owned(),
            false => encoded(&self.server.socket_dir().display().to_string()),
        };
        format!("postgresql://postgres{password}@{host}:{}/{}", self.server.port(), encoded(database))
    }

    /// What psql prints for `sql` in the database `postgres` (`psql -XAtq`), without the last line break.
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    /// As [`Self::psql`], in another database.
    pub fn psql_in(&self, database: &str, sql: &str) -> String {
        let output = self.try_psql_in(database, sql);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
    }

    /// psql's whole answer, when it may fail.
    pub fn try_psql_in(&self, database: &str, sql: &str) -> Output {
        let psql = self.server.program_dir().join("psql");
        let url = self.url_of(database);
        Command::new(psql)
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, &url])
            .env("PGCONNECT_TIMEOUT", "30")
            .output()
            .unwrap()
    }

    pub fn create_database(&self, name: &str) {
        self.psql(&format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\"")));
    }

    /// Stops the main process and all backends in their tracks (SIGSTOP): sockets stay open, nobody answers.
    pub fn freeze(&self) {
        self.server.signal_all(Signal::STOP);
    }

    /// The end of [`Self::freeze`].
    pub fn thaw(&self) {
        self.server.signal_all(Signal::CONT);
    }

    /// Ends the main process and all backends without a word (SIGKILL). [`Self::start_again`] brings it back.
    pub fn kill(&self) {
        self.server.signal_all(Signal::KILL);
    }

    /// Starts it on the same data, port and settings; one that runs is stopped first, as by a crash.
    pub fn start_again(&mut self) {
        self.server.start_again().unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.server.log_file()).unwrap()
    }

    pub fn folder(&self) -> PathBuf {
        self.server.folder_path().to_path_buf()
    }

    pub fn server(&self) -> &ThrowawayServer {
        &self.server
    }

    pub fn server_mut(&mut self) -> &mut ThrowawayServer {
        &mut self.server
    }

    pub fn into_server(self) -> ThrowawayServer {
        self.server
    }
}
