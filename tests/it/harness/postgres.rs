//! A PostgreSQL server for one test, in a folder of its own, on a socket and, if asked, on 127.0.0.1. Gone when dropped.
//!
//! `initdb` takes a second of a processor, so its result is kept in the build's folder, without and with the tables, and
//! each server starts from a copy. Nothing is flushed to the disk unless a test asks for it. Started by root it runs as
//! `postgres`, because the server refuses root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::Signal;
use tempfile::TempDir;

use super::files::{fast_folder, public_folder_in};
use super::processes::{children, is_alive, send};
use super::{PATIENCE, Program, Ran, Started, free_port, wait_until};

mod account;
mod session;
mod setup;
mod template;

use account::{as_server_user, give_to_server_user};
use session::Sessions;
pub use setup::{Setup, Version, psql};

/// A running server.
pub struct TestServer {
    setup: Setup,
    folder: TempDir,
    port: u16,
    main: Child,
    sessions: Sessions,
}

impl TestServer {
    /// On a socket alone, without tables.
    pub fn start() -> Self {
        Self::setup().start()
    }

    /// On a socket alone, with the tables.
    pub fn with_tables() -> Self {
        Self::setup().tables().start()
    }

    /// Fills the data directory by `fill`, and starts the server on it.
    fn new(setup: Setup, fill: impl FnOnce(&Setup, &Path)) -> Self {
        let folder = match &setup.folder {
            None => fast_folder(),
            Some(folder) => public_folder_in(folder),
        };
        for name in ["data", "socket"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, private_mode()).unwrap();
            give_to_server_user(&path);
        }
        fill(&setup, &folder.path().join("data"));
        // The socket's folder is private, so the port in its name can be the usual one.
        let port = if setup.addresses.is_empty() { 5432 } else { free_port() };
        let main = Command::new("true").spawn().unwrap();
        let mut server = Self { setup, folder, port, main, sessions: Sessions::default() };
        server.configure();
        server.launch();
        if let Some(password) = &server.setup.password {
            server.sql(&format!("ALTER ROLE postgres PASSWORD '{}'", password.replace('\'', "''")));
        }
        server
    }

    fn configure(&self) {
        let setup = &self.setup;
        let file = self.data_dir().join("postgresql.conf");
        let mut text = fs::read_to_string(&file).unwrap();
        let mut set = |name: &str, value: &str| {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''")));
        };
        for (name, value) in [
            ("shared_buffers", "128MB"),
            ("wal_buffers", "16MB"),
            ("max_wal_size", "1GB"),
            ("synchronous_commit", "off"),
            ("fsync", "off"),
            ("max_connections", "100"),
            // Idle servers leave the processors to others.
            ("autovacuum", "off"),
            // In the data directory, and so gone with it, also after a kill.
            ("dynamic_shared_memory_type", "mmap"),
        ] {
            set(name, value);
        }
        setup.settings.iter().for_each(|(name, value)| set(name, value));
        set("listen_addresses", &setup.addresses.join(","));
        set("port", &self.port.to_string());
        set("unix_socket_directories", &self.socket_dir().display().to_string());
        self.install("postgresql.conf", &text);
        let remote = if setup.password.is_some() { "host all all 127.0.0.1/32 scram-sha-256\n" } else { "" };
        let hba = format!("local all all trust\n{remote}");
        self.install("pg_hba.conf", setup.hba.as_ref().unwrap_or(&hba));
        setup.files.iter().for_each(|(name, text)| self.install(name, text));
    }

    /// Writes a file of the data directory.
    pub fn install(&self, name: &str, text: &str) {
        let path = self.data_dir().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        give_to_server_user(&path);
    }

    /// Starts the server and waits until it takes connections.
    fn launch(&mut self) {
        let _ = self.main.wait();
        let log = fs::OpenOptions::new().append(true).create(true).open(self.folder.path().join("log")).unwrap();
        let mut command = as_server_user(self.setup.programs.join("postgres"));
        command.arg("-D").arg(self.data_dir()).stdout(log.try_clone().unwrap()).stderr(log);
        self.main = command.spawn().unwrap();
        let begun = Instant::now();
        // Line 8 is the status, which is what pg_ctl waits by; the file of a killed predecessor says "ready" too.
        while !self.pid_file().is_some_and(|lines| {
            lines[0].trim() == self.main.id().to_string() && lines.get(7).is_some_and(|text| text.trim() == "ready")
        }) {
            let has_ended = self.main.try_wait().unwrap().is_some();
            assert!(!has_ended && begun.elapsed() < PATIENCE, "the server does not start: {}", self.log());
            sleep(Duration::from_millis(4));
        }
    }

    fn pid_file(&self) -> Option<Vec<String>> {
        let text = fs::read_to_string(self.data_dir().join("postmaster.pid")).ok()?;
        Some(text.lines().map(str::to_owned).collect()).filter(|lines: &Vec<_>| !lines.is_empty())
    }

    /// As a `postgresql://` URL: over TCP if the server listens there, else with the socket's folder as the host.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The same for another database.
    pub fn url_of(&self, database: &str) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let password = self.setup.password.as_deref().map_or(String::new(), |text| format!(":{}", encoded(text)));
        let host = match self.setup.addresses.first() {
            Some(address) => address.clone(),
            None => encoded(&self.socket_dir().display().to_string()),
        };
        format!("postgresql://postgres{password}@{host}:{}/{}", self.port, encoded(database))
    }

    /// The socket's folder as the host, also where it listens on TCP.
    pub fn socket_url(&self) -> String {
        let folder = utf8_percent_encode(&self.socket_dir().display().to_string(), NON_ALPHANUMERIC).to_string();
        format!("postgresql://postgres@{folder}:{}/postgres", self.port)
    }

    /// The number in the socket's name, and the port on TCP.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket_dir(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// The answer to `sql` in the database `postgres` as `psql -At` prints it, without the last line break.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        let config = self.config("postgres");
        // Of changes the server's statistics know for certain once the session has ended.
        let is_question = ["SELECT", "SHOW"].iter().any(|word| sql.starts_with(word));
        let answer = if is_question { self.sessions.ask(&config, sql) } else { session::ask_once(&config, sql) };
        answer.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The same in another database.
    #[track_caller]
    pub fn sql_in(&self, database: &str, sql: &str) -> String {
        session::ask_once(&self.config(database), sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    fn config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.socket_dir()).port(self.port).user("postgres").dbname(database);
        config.application_name("test");
        config
    }

    /// Ends the session in which [`Self::sql`] asks, for tests in which each connection counts.
    pub fn end_session(&self) {
        self.sessions.close();
    }

    /// psql itself, which runs until its end; it may fail.
    pub fn try_sql_in(&self, database: &str, sql: &str) -> Ran {
        self.psql(&self.url_of(database)).args(["-c", sql]).run()
    }

    /// psql with a connection string. It prints values alone, and stops at the first error.
    pub fn psql(&self, url: &str) -> Program {
        let mut psql = Program::new(self.setup.programs.join("psql"));
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url]).env("PGCONNECT_TIMEOUT", "30");
        psql
    }

    pub fn create_database(&self, name: &str) {
        self.sql(&format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\"")));
    }

    pub fn rows(&self, table: &str) -> u64 {
        self.sql(&format!("SELECT count(*) FROM {table}")).parse().unwrap()
    }

    /// Waits until the load has begun.
    #[track_caller]
    pub fn wait_for_rows(&self) {
        wait_until("rows appear", || self.rows("chat_inference") > 0);
    }

    /// Takes a table's lock and holds it until dropped. All requests wait for it.
    pub fn lock(&self, table: &str) -> Lock<'_> {
        self.lock_in(table, "ACCESS EXCLUSIVE")
    }

    /// The same in a mode of `LOCK TABLE`.
    pub fn lock_in(&self, table: &str, mode: &str) -> Lock<'_> {
        let sql = format!("BEGIN; LOCK TABLE {table} IN {mode} MODE; SELECT pg_sleep(600)");
        let psql = self.psql(&self.url()).args(["-c", &sql]).start();
        wait_until("the table is locked", || self.sql(&format!("SELECT count(*) {HOLDER}")) == "1");
        Lock { server: self, psql: Some(psql) }
    }

    /// How many sessions wait for a lock.
    pub fn lock_waiters(&self) -> u64 {
        self.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").parse().unwrap()
    }

    /// The main process and all of its children.
    pub fn processes(&self) -> Vec<u32> {
        let main = self.main.id();
        if is_alive(main) { [vec![main], children(main)].concat() } else { Vec::new() }
    }

    /// Sends the main process a signal; TERM, INT and QUIT shut the server down in their own ways.
    pub fn signal_main(&self, signal: Signal) {
        self.sessions.close();
        send(self.main.id(), signal);
    }

    fn signal_all(&self, signal: Signal) {
        self.processes().into_iter().for_each(|pid| send(pid, signal));
    }

    /// Stops the main process and all sessions (SIGSTOP): sockets stay open, nobody answers.
    pub fn freeze(&self) {
        // The main process first, so that it starts no others meanwhile.
        self.signal_main(Signal::STOP);
        self.signal_all(Signal::STOP);
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    /// Ends the main process and all sessions at once (SIGKILL), as a crash does. [`Self::start_again`] brings it back.
    pub fn kill(&self) {
        self.signal_main(Signal::STOP);
        let all = self.processes();
        // The children first: they would be nobody's once the main process is gone.
        all.iter().rev().for_each(|pid| send(*pid, Signal::KILL));
        wait_until("the server is gone", || !all.iter().any(|pid| is_alive(*pid)));
    }

    /// Starts it on the same data, port and settings. A server that runs is killed first.
    pub fn start_again(&mut self) {
        self.kill();
        self.launch();
    }

    /// Restarts it in recovery, as a standby with nothing to follow.
    pub fn become_standby(&mut self) {
        self.install("standby.signal", "");
        self.start_again();
    }

    /// Shuts down at once, without the checkpoint that other ways would make.
    fn stop(&mut self) {
        self.thaw();
        self.signal_main(Signal::QUIT);
        let begun = Instant::now();
        while self.main.try_wait().is_ok_and(|status| status.is_none()) && begun.elapsed() < Duration::from_secs(10) {
            sleep(Duration::from_millis(4));
        }
        self.kill();
        let _ = self.main.wait();
        // A server that was killed leaves a segment of shared memory, whose number is the second on line 7.
        let segment = self.pid_file().and_then(|lines| Some(lines.get(6)?.split_whitespace().nth(1)?.to_owned()));
        if let Some(segment) = segment {
            let _ = Command::new("ipcrm").args(["-m", &segment]).stderr(Stdio::null()).status();
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn private_mode() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o700)
}

const HOLDER: &str = "FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE 'BEGIN; LOCK TABLE %'";

/// A lock that another session holds. Released when dropped.
pub struct Lock<'a> {
    server: &'a TestServer,
    psql: Option<Started>,
}

impl Lock<'_> {
    /// The server process that holds it.
    pub fn pid(&self) -> String {
        self.server.sql(&format!("SELECT pid {HOLDER}"))
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.server.sql(&format!("SELECT pg_terminate_backend(pid) {HOLDER}"));
        if let Some(psql) = self.psql.take() {
            psql.finish();
        }
    }
}
