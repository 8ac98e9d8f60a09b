//! What integration tests ask of a throwaway server beyond a run: where it is, its processes, signals and restarts.

use std::path::{Path, PathBuf};

use super::{ServerVersion, Signal, ThrowawayError, ThrowawayServer, processes};

impl ThrowawayServer {
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

    pub fn data_dir(&self) -> PathBuf {
        self.site.data()
    }

    pub fn log_file(&self) -> PathBuf {
        self.site.log()
    }

    /// The folder of the PostgreSQL programs in use.
    pub fn program_dir(&self) -> &Path {
        &self.site.programs.dir
    }

    pub fn version(&self) -> &ServerVersion {
        &self.site.programs.version
    }

    /// The server's main process; the last one's if it has been killed.
    pub fn postmaster_pid(&self) -> u32 {
        self.pid
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
            send_to_all(&self.data_dir(), self.pid, signal);
        }
    }

    /// Stops the server at once (as a crash would) if it runs, and starts it on the same data, port and settings.
    pub fn start_again(&mut self) -> Result<(), ThrowawayError> {
        self.halt()?;
        self.launch()
    }

    /// What dropping does, with a word on how it went.
    pub fn stop(mut self) -> Result<(), ThrowawayError> {
        self.dispose()
    }
}

/// Sends `signal` to `first`, then to every member, until no new one turns up: whoever is to be frozen may just
/// have started another.
fn send_to_all(data_dir: &Path, first: u32, signal: Signal) {
    processes::send(first, signal);
    let mut done = vec![first];
    loop {
        let new: Vec<u32> = processes::members(data_dir).into_iter().filter(|pid| !done.contains(pid)).collect();
        if new.is_empty() {
            return;
        }
        for pid in new {
            processes::send(pid, signal);
            done.push(pid);
        }
    }
}
