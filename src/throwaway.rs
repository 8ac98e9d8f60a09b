//! Owns the throwaway server: a PostgreSQL for one run, in a private folder, on a private socket, tuned for writing,
//! gone afterwards. Must not know what is done with the server; opens no connection to it.
//!
//! The server goes when [`ThrowawayServer`] is dropped, which covers a normal end, a panic, and a Ctrl-C that the
//! program handles (a terminal's Ctrl-C does not reach the server itself). An owner that is killed drops nothing:
//! its lock on the folder ends with it, and the next start on this machine by the same user clears what it left.
//!
//! Starting and stopping block for about a second: call them from a thread that may wait, and let a start that was
//! begun come to its end even when its result is no longer wanted.
//!
//! ```text
//! account    who the programs run as          locate     where they are, and the advice if nowhere
//! program    a program of the system
//! settings   the configuration's text         folder     the private folder, its lock, the clearing
//! processes  whose process is this, ending it launch     initdb, the server up to "ready"
//! ```

mod account;
mod folder;
mod launch;
mod locate;
mod processes;
mod program;
mod settings;
mod testing;

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};

pub use rustix::process::Signal;

pub use self::locate::ServerVersion;

use self::account::Account;
use self::folder::PrivateFolder;
use self::launch::Site;
use self::locate::Programs;

/// The socket's folder is private, so the port in its name can be the usual one.
const SOCKET_PORT: u16 = 5432;
/// How often another free TCP port is tried when somebody takes the one just found.
const PORT_ATTEMPTS: usize = 5;

/// What kind of server to start. The default is a tuned one on a socket alone.
#[derive(Clone, Default)]
pub struct ThrowawayOptions {
    /// Further server settings, name and value; they override the tuned ones.
    pub settings: Vec<(String, String)>,
    /// Connections the server must take, its reserve for superusers included; at least 200 are given.
    pub max_connections: u32,
    /// Also listen on a free TCP port of 127.0.0.1. Needs `superuser_password` or `hba`.
    pub tcp: bool,
    /// The text of pg_hba.conf. Default: trust on the socket, the superuser's password over TCP.
    pub hba: Option<String>,
    /// The password of the user `postgres`. Default: none.
    pub superuser_password: Option<String>,
    /// Where the private folder is made. Default: TMPDIR if set and fit, else /tmp or /var/tmp, rather on a disk
    /// than in memory.
    pub temp_root: Option<PathBuf>,
    /// The folders to look for PostgreSQL's programs in. Default: PATH and where distributions put them.
    pub program_dirs: Option<Vec<PathBuf>>,
}

/// Why there is no throwaway server, or why it would not go.
#[derive(Debug, thiserror::Error)]
pub enum ThrowawayError {
    #[error(
        "--ephemeral needs PostgreSQL's server programs, postgres and initdb in one folder, and they are not here: looked \
         {looked}; install them with: {advice}"
    )]
    NotInstalled { looked: String, advice: String },
    #[error("PostgreSQL in {} cannot be used: {reason}", dir.display())]
    Unusable { dir: PathBuf, reason: String },
    #[error(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as (looked in {looked}); run as \
         another user, or make one of them"
    )]
    NoAccount { looked: String },
    #[error(
        "the user ID {uid} has no name on this machine, and PostgreSQL's initdb needs one: add a line to /etc/passwd \
         (echo 'loadtest:x:{uid}:{gid}::/tmp:/bin/sh' >> /etc/passwd), run as another user, or give a server with \
         --postgres-url; it was also tried with unshare: {tried}"
    )]
    Nameless { uid: u32, gid: u32, tried: String },
    #[error(
        "there is no temporary folder for the throwaway server ({reasons}); set TMPDIR to a short path that it can reach"
    )]
    NoRoot { reasons: String },
    #[error("a throwaway server on TCP needs a superuser's password or its own pg_hba.conf")]
    OpenDoor,
    #[error("there is no free TCP port on 127.0.0.1")]
    Port(#[source] io::Error),
    #[error("cannot {action} {}", path.display())]
    Folder { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot run {}", program.display())]
    Spawn { program: PathBuf, source: io::Error },
    #[error("initdb {}; its last lines:\n{log}", status.map_or("did not end in time".to_owned(), |status| format!("failed ({status})")))]
    Initdb { status: Option<ExitStatus>, log: String },
    #[error("the throwaway server {}; its log's last lines:\n{log}", status.map_or("was not ready in time".to_owned(), |status| format!("did not start ({status})")))]
    Server { status: Option<ExitStatus>, log: String },
    #[error("processes of the throwaway server cannot be ended: {pids:?}")]
    Undying { pids: Vec<u32> },
}

/// A running PostgreSQL of our own. Dropping it stops the server at once and removes its folder.
#[derive(Debug)]
pub struct ThrowawayServer {
    /// `None` once stopped; then there is nothing left to do on drop.
    folder: Option<PrivateFolder>,
    site: Site,
    server: Option<Child>,
    pid: u32,
    port: u16,
    tcp: bool,
    cleared: Vec<PathBuf>,
}

impl ThrowawayServer {
    /// Clears what earlier, killed runs left, then starts a server and waits until it takes connections.
    pub fn start(options: &ThrowawayOptions) -> Result<Self, ThrowawayError> {
        let hba = settings::pg_hba_conf(options)?;
        let account = Account::choose()?;
        let programs = locate::locate(options.program_dirs.as_deref(), &account)?;

        let roots = folder::roots(options.temp_root.as_deref());
        let cleared = sweep(&roots, &programs, &account);
        let chosen = options.temp_root.is_some() || std::env::var_os("TMPDIR").is_some_and(|dir| !dir.is_empty());
        let root = folder::choose_root(&roots, &account, chosen)?;
        let folder = PrivateFolder::create(&root, &account).map_err(|source| ThrowawayError::Folder {
            action: "make a private folder in",
            path: root,
            source,
        })?;

        let site = Site { programs, account, folder: folder.path().to_path_buf() };
        let mut throwaway =
            Self { folder: Some(folder), site, server: None, pid: 0, port: SOCKET_PORT, tcp: options.tcp, cleared };
        throwaway.write("pg_hba.conf", &hba)?;
        let password = options.superuser_password.as_ref().map(|text| throwaway.write("password", text)).transpose()?;
        throwaway.site.initdb(password.as_deref())?;
        if let Some(file) = password {
            std::fs::remove_file(file)
                .map_err(|source| throwaway.site.fault("remove the password's file in", source))?;
        }
        throwaway.start_on_a_free_port(options)?;
        Ok(throwaway)
    }

    /// Somebody may take the port between our finding it and the server's binding it.
    fn start_on_a_free_port(&mut self, options: &ThrowawayOptions) -> Result<(), ThrowawayError> {
        let cluster_name = self.site.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let socket_dir = self.socket_dir().display().to_string();
        for attempt in 1.. {
            if self.tcp {
                self.port = free_port()?;
            }
            self.write("postgresql.conf", &settings::postgresql_conf(options, self.port, &socket_dir, &cluster_name))?;
            match self.launch() {
                Err(ThrowawayError::Server { log, .. }) if self.tcp && attempt < PORT_ATTEMPTS && port_taken(&log) => {}
                result => return result,
            }
        }
        Ok(())
    }

    fn launch(&mut self) -> Result<(), ThrowawayError> {
        let server = self.site.start()?;
        self.pid = server.id();
        self.server = Some(server);
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, ThrowawayError> {
        let Some(folder) = &self.folder else { return Ok(self.site.folder.join(name)) };
        folder.write(name, text, &self.site.account).map_err(|source| self.site.fault("write configuration in", source))
    }

    /// For libpq and tokio-postgres: the socket, user and database `postgres`, no password.
    pub fn connection_string(&self) -> String {
        format!("host='{}' port={} user=postgres dbname=postgres", self.socket_dir().display(), self.port)
    }

    /// The folder with the socket, which is a host name to libpq.
    pub fn socket_dir(&self) -> PathBuf {
        self.site.folder.join("socket")
    }

    /// Whether its files are kept in memory (tmpfs): figures then say nothing about a disk. Known on Linux only.
    pub fn in_memory(&self) -> bool {
        folder::in_memory(&self.site.folder)
    }

    /// Stops the server at once, keeping its folder until the drop or [`Self::start_again`].
    fn halt(&mut self) -> Result<(), ThrowawayError> {
        let left = processes::halt(&self.site.data());
        if let Some(mut server) = self.server.take() {
            launch::end(&mut server);
        }
        if left.is_empty() { Ok(()) } else { Err(ThrowawayError::Undying { pids: left }) }
    }

    fn dispose(&mut self) -> Result<(), ThrowawayError> {
        let Some(folder) = self.folder.take() else { return Ok(()) };
        let halted = self.halt();
        self.site.release_shared_memory();
        folder.remove().map_err(|source| self.site.fault("remove", source))?;
        halted
    }
}

impl Drop for ThrowawayServer {
    fn drop(&mut self) {
        // There is nobody to tell; the next run tries again.
        let _ = self.dispose();
    }
}

fn sweep(roots: &[PathBuf], programs: &Programs, account: &Account) -> Vec<PathBuf> {
    let site = |folder: &Path| Site { programs: programs.clone(), account: account.clone(), folder: folder.into() };
    let release = |folder: &Path| site(folder).release_shared_memory();
    roots.iter().flat_map(|root| folder::sweep(root, release)).collect()
}

fn free_port() -> Result<u16, ThrowawayError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(ThrowawayError::Port)?;
    Ok(listener.local_addr().map_err(ThrowawayError::Port)?.port())
}

/// The server's message in the C locale, which is the one it runs with.
fn port_taken(log: &str) -> bool {
    log.contains("could not create any TCP/IP sockets")
}
