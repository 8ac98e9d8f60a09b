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
//! settings   the configuration's text         folder     the private folder, its lock, the clearing
//! processes  whose process is this, ending it launch     initdb, the server up to "ready"
//! ```

mod account;
mod folder;
mod launch;
mod locate;
mod processes;
mod settings;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};

pub use rustix::process::Signal;

pub use self::locate::ServerVersion;
pub use self::settings::LEAST_CONNECTIONS;

use self::account::Account;
use self::folder::Folder;
use self::launch::Site;
use self::locate::Programs;

/// The socket's folder is private, so the port in its name can be the usual one.
const SOCKET_PORT: u16 = 5432;
/// How often another free TCP port is tried when somebody takes the one just found.
const PORT_ATTEMPTS: usize = 5;

/// What kind of server to start. The default is a tuned one on a socket alone.
#[derive(Clone)]
pub struct ThrowawayOptions {
    /// Further server settings, name and value; they override the tuned ones.
    pub settings: Vec<(String, String)>,
    /// Connections the server must take, its reserve for superusers included; at least [`LEAST_CONNECTIONS`] are given.
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

impl Default for ThrowawayOptions {
    fn default() -> Self {
        Self {
            settings: Vec::new(),
            max_connections: LEAST_CONNECTIONS,
            tcp: false,
            hba: None,
            superuser_password: None,
            temp_root: None,
            program_dirs: None,
        }
    }
}

/// Leaves the password out.
impl fmt::Debug for ThrowawayOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ThrowawayOptions")
            .field("settings", &self.settings)
            .field("max_connections", &self.max_connections)
            .field("tcp", &self.tcp)
            .field("hba", &self.hba)
            .field("superuser_password", &self.superuser_password.as_ref().map(|_| "…"))
            .field("temp_root", &self.temp_root)
            .field("program_dirs", &self.program_dirs)
            .finish()
    }
}

/// Why there is no throwaway server, or why it would not go.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThrowawayError {
    /// No folder with `postgres` and `initdb` was found. `advice` is the command that installs them.
    #[error(
        "--ephemeral needs PostgreSQL's server programs, postgres and initdb in one folder, and they are not here: looked \
         {looked}; install them with: {advice}"
    )]
    NotInstalled {
        /// Where they were looked for.
        looked: String,
        /// The command for the system that this runs on.
        advice: String,
    },
    /// PostgreSQL is there, but cannot be used.
    #[error("PostgreSQL in {} cannot be used: {reason}", dir.display())]
    Unusable {
        /// The folder of its programs.
        dir: PathBuf,
        /// What was in the way.
        reason: String,
    },
    /// The caller is root, as whom PostgreSQL refuses to run, and there is no account to lend.
    #[error(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as (looked in {looked}); run as \
         another user, or make one of them"
    )]
    NoAccount {
        /// Where they were looked for.
        looked: String,
    },
    /// The caller's user ID has no name, and initdb wants one.
    #[error(
        "the user ID {uid} has no name on this machine, and PostgreSQL's initdb needs one: add a line to /etc/passwd \
         (echo 'loadtest:x:{uid}:{gid}::/tmp:/bin/sh' >> /etc/passwd), run as another user, or give a server with \
         --postgres-url; it was also tried with unshare: {tried}"
    )]
    Nameless {
        /// The user ID.
        uid: u32,
        /// Its group.
        gid: u32,
        /// What came of lending initdb another ID.
        tried: String,
    },
    /// No temporary folder is fit.
    #[error(
        "there is no temporary folder for the throwaway server ({reasons}); set TMPDIR to a short path that it can reach"
    )]
    NoRoot {
        /// Each folder that was looked at, and what is wrong with it.
        reasons: String,
    },
    /// A setting that cannot be given.
    #[error("the server setting {name:?} cannot be given: {reason}")]
    Setting {
        /// Its name as it was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// TCP without any rule on who may come in.
    #[error("a throwaway server on TCP needs a superuser's password or its own pg_hba.conf")]
    OpenDoor,
    /// No free TCP port.
    #[error("there is no free TCP port on 127.0.0.1")]
    Port(#[source] io::Error),
    /// A fault with the private folder.
    #[error("cannot {action} {}", path.display())]
    Folder {
        /// What was tried, to be followed by the path.
        action: &'static str,
        /// The folder, or the root it was to be made in.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A program could not be run at all.
    #[error("cannot run {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// initdb failed.
    #[error("initdb {}; its last lines:\n{log}", status.map_or("did not end in time".to_owned(), |status| format!("failed ({status})")))]
    Initdb {
        /// How it ended; `None` if it went on.
        status: Option<ExitStatus>,
        /// The last lines that it wrote.
        log: String,
    },
    /// The server ended or did not become ready.
    #[error("the throwaway server {}; its log's last lines:\n{log}", status.map_or("was not ready in time".to_owned(), |status| format!("did not start ({status})")))]
    Server {
        /// How it ended; `None` if it went on without becoming ready.
        status: Option<ExitStatus>,
        /// The last lines of its log.
        log: String,
    },
    /// Processes of the server are still there after a kill.
    #[error("processes of the throwaway server cannot be ended: {pids:?}")]
    Undying {
        /// Their process ids.
        pids: Vec<u32>,
    },
}

/// A running PostgreSQL of our own. Dropping it stops the server at once and removes its folder.
#[derive(Debug)]
pub struct ThrowawayServer {
    /// `None` once stopped; then there is nothing left to do on drop.
    folder: Option<Folder>,
    site: Site,
    server: Option<Child>,
    pid: u32,
    port: u16,
    tcp: bool,
    cleared: Vec<PathBuf>,
}

impl ThrowawayServer {
    /// Clears what earlier, killed runs left, then starts a server and waits until it takes connections.
    ///
    /// # Errors
    /// See [`ThrowawayError`]. Nothing is left behind.
    pub fn start(options: &ThrowawayOptions) -> Result<Self, ThrowawayError> {
        settings::check(&options.settings)?;
        let hba = settings::pg_hba_conf(options)?;
        let account = Account::choose()?;
        let programs = locate::locate(options.program_dirs.as_deref(), &account)?;

        let roots = folder::roots(options.temp_root.as_deref());
        let cleared = sweep(&roots, &programs, &account);
        let chosen = options.temp_root.is_some() || std::env::var_os("TMPDIR").is_some_and(|dir| !dir.is_empty());
        let root = folder::choose_root(&roots, &account, chosen)?;
        let folder = Folder::create(&root, &account).map_err(|source| ThrowawayError::Folder {
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
            std::fs::remove_file(file).map_err(|source| throwaway.fault("remove the password's file in", source))?;
        }
        throwaway.start_on_a_free_port(options)?;
        Ok(throwaway)
    }

    /// Somebody may take the port between our finding it and the server's binding it.
    fn start_on_a_free_port(&mut self, options: &ThrowawayOptions) -> Result<(), ThrowawayError> {
        let cluster_name = self.folder_path().file_name().unwrap_or_default().to_string_lossy().into_owned();
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
        folder.write(name, text, &self.site.account).map_err(|source| self.fault("write configuration in", source))
    }

    fn fault(&self, action: &'static str, source: io::Error) -> ThrowawayError {
        ThrowawayError::Folder { action, path: self.site.folder.clone(), source }
    }

    /// For libpq and tokio-postgres: the socket, user and database `postgres`, no password.
    pub fn connection_string(&self) -> String {
        format!("host='{}' port={} user=postgres dbname=postgres", self.socket_dir().display(), self.port)
    }

    /// The number in the socket's name; with `tcp` also the port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it listens on 127.0.0.1 too.
    pub fn listens_on_tcp(&self) -> bool {
        self.tcp
    }

    /// The private folder: all there is of this server.
    pub fn folder_path(&self) -> &Path {
        &self.site.folder
    }

    /// The folder with the socket, which is a host name to libpq.
    pub fn socket_dir(&self) -> PathBuf {
        self.site.folder.join("socket")
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.site.data()
    }

    /// The file that the server logs to.
    pub fn log_file(&self) -> PathBuf {
        self.site.log()
    }

    /// The folder of the PostgreSQL programs in use.
    pub fn program_dir(&self) -> &Path {
        &self.site.programs.dir
    }

    /// The server's version.
    pub fn version(&self) -> &ServerVersion {
        &self.site.programs.version
    }

    /// The server's main process; the last one's if it has been killed.
    pub fn postmaster_pid(&self) -> u32 {
        self.pid
    }

    /// The user it runs as when the caller is root; `None` when it runs as the caller.
    pub fn runs_as(&self) -> Option<&'static str> {
        self.site.account.stand_in
    }

    /// Whether its files are kept in memory (tmpfs): figures then say nothing about a disk. Known on Linux only.
    pub fn in_memory(&self) -> bool {
        folder::in_memory(&self.site.folder)
    }

    /// Folders of killed runs that the start has cleared.
    pub fn cleared(&self) -> &[PathBuf] {
        &self.cleared
    }

    /// The server's main process and all of its backends and helpers.
    pub fn processes(&self) -> Vec<u32> {
        processes::members(&self.data_dir())
    }

    /// Sends a signal to the server's main process; no fault if it is gone.
    pub fn signal_postmaster(&self, signal: Signal) {
        if self.server.is_some() {
            processes::send(self.pid, signal);
        }
    }

    /// Sends a signal to the main process, then to every backend and helper, also those that start meanwhile.
    pub fn signal_all(&self, signal: Signal) {
        if self.server.is_some() {
            processes::send_to_all(&self.data_dir(), self.pid, signal);
        }
    }

    /// Stops the server at once (as a crash would) if it runs, and starts it on the same data, port and settings.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_again(&mut self) -> Result<(), ThrowawayError> {
        self.halt()?;
        self.launch()
    }

    /// Stops the server at once, keeping its folder until the drop or [`Self::start_again`].
    ///
    /// # Errors
    /// When a process cannot be ended.
    pub fn halt(&mut self) -> Result<(), ThrowawayError> {
        let left = processes::halt(&self.data_dir());
        if let Some(mut server) = self.server.take() {
            launch::end(&mut server);
        }
        if left.is_empty() { Ok(()) } else { Err(ThrowawayError::Undying { pids: left }) }
    }

    /// What dropping does, with a word on how it went.
    ///
    /// # Errors
    /// When a process cannot be ended or the folder not be removed.
    pub fn stop(mut self) -> Result<(), ThrowawayError> {
        self.dispose()
    }

    fn dispose(&mut self) -> Result<(), ThrowawayError> {
        let Some(folder) = self.folder.take() else { return Ok(()) };
        let halted = self.halt();
        self.site.release_shared_memory();
        folder.remove().map_err(|source| self.fault("remove", source))?;
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
    let release = |folder: &Path| {
        let site = Site { programs: programs.clone(), account: account.clone(), folder: folder.to_path_buf() };
        site.release_shared_memory();
    };
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
