//! SSH sessions to many VMs, through the ssh program of this machine and so with the user's configuration, keys and
//! known hosts. Owns their life: one ssh process ("master") a host, which all channels to it share; attempts, their
//! number and pace; and that nothing is left of them, whichever way this process ends. Must not know what runs there.
//!
//! The masters are started here and not by the `openssh` crate: its connecting cannot be cancelled without leaving an
//! ssh behind, its closing does not end a master on a dead network, and it loses what jump hosts say. Times are
//! [`Duration`]s.

mod agent;
mod error;
mod folder;
mod key;
mod master;
mod route;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use openssh::Session;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::timeout;

pub use self::error::{SshError, SshErrorKind};

use self::error::last_words;
use self::folder::SocketFolder;
use self::master::{Attempt, Ssh};
use self::route::Route;
pub use crate::cli::options::HostKeys;
use crate::fleet::hosts::Host;
use crate::text::terminal::printable;

/// Each server that drops connections lowers the number of those that connect at once, but not below this.
const LEAST_CONCURRENCY: usize = 2;
/// The pause before the second attempt; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// How long the end of all is waited for where something does not answer.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// How to connect. What is left out is as ssh's own configuration says.
#[derive(Debug, Clone)]
pub struct SshOptions {
    /// The account there, for hosts that name none.
    pub user: Option<String>,
    /// The port, for hosts that name none.
    pub port: Option<u16>,
    /// The private key, or a public one whose private key ssh's agent has.
    pub keyfile: Option<PathBuf>,
    /// Instead of `~/.ssh/config`.
    pub config: Option<PathBuf>,
    pub host_keys: HostKeys,
    /// For TCP and the exchange of keys of one attempt; at least 1 s, in whole seconds.
    pub connect_timeout: Duration,
    /// How many connect at once; at least 1.
    pub concurrency: usize,
}

/// All sessions of one test. End it with [`Sessions::finish`]; where that does not happen, ssh processes without a channel end
/// by themselves within some 10 s (ControlPersist), and those on a dead network, too (ServerAliveInterval).
#[derive(Debug)]
pub struct Sessions {
    pool: Arc<Pool>,
    folder: SocketFolder,
}

/// What attempts know; they may outlive the future that waits for them.
#[derive(Debug)]
struct Pool {
    ssh: Ssh,
    /// Of the control sockets.
    folder: PathBuf,
    /// By the ways that they lead to.
    gates: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Gate>>>>,
    notes: Mutex<Vec<String>>,
    started: AtomicUsize,
    permits: Arc<Semaphore>,
    concurrency: AtomicUsize,
    /// Each task that connects holds a receiver of it.
    connecting: watch::Sender<()>,
    interrupted: watch::Sender<bool>,
}

impl Sessions {
    /// Makes the private folder of the sockets, and removes those that killed runs of this user left.
    ///
    /// # Errors
    /// Without an ssh program; when the key or the configuration cannot be read; when there is no place for the folder.
    pub fn new(options: SshOptions) -> Result<Self, SshError> {
        let folder = SocketFolder::create()?;
        let concurrency = options.concurrency.clamp(1, Semaphore::MAX_PERMITS);
        let pool = Pool {
            ssh: Ssh::new(options, folder.path())?,
            folder: folder.path().to_owned(),
            gates: Mutex::new(HashMap::new()),
            notes: Mutex::new(Vec::new()),
            started: AtomicUsize::new(0),
            permits: Arc::new(Semaphore::new(concurrency)),
            concurrency: AtomicUsize::new(concurrency),
            connecting: watch::Sender::new(()),
            interrupted: watch::Sender::new(false),
        };
        Ok(Self { pool: Arc::new(pool), folder })
    }

    /// A session to the host, after several attempts where an error looks as if it passes. Dropping the future leaves
    /// nothing behind.
    ///
    /// # Errors
    /// After the last attempt, or at once where another cannot help; after [`Sessions::interrupt`].
    pub async fn open(&self, host: &Host) -> Result<Arc<Session>, SshError> {
        let permit = self.permit(host).await?;
        let route = Arc::new(self.pool.ssh.route(host).await?);
        drop(permit);
        if let Some(socket) = route.agent_socket().filter(|socket| self.pool.ssh.is_stuck(socket)) {
            return Err(SshError::stuck_agent(host, &socket));
        }
        // Where many hosts are behind one jump host, a single attempt finds out whether it lets us through.
        let Some(gate) = self.gate(&route) else { return self.attempts(host, &route).await };
        let mut gate = gate.lock().await;
        if let Gate::Shut(first, error) = &*gate
            && let Some(error) = error.also_for(first, host)
        {
            return Err(error);
        }
        if matches!(*gate, Gate::Open) {
            drop(gate);
            return self.attempts(host, &route).await;
        }
        let outcome = self.attempts(host, &route).await;
        *gate = match &outcome {
            Err(error) if error.also_for(host, host).is_some() => Gate::Shut(host.clone(), error.clone()),
            Err(error) if error.kind() == SshErrorKind::Interrupted => Gate::Unknown,
            _ => Gate::Open,
        };
        outcome
    }

    /// Warnings about this machine's ssh, each once.
    pub fn notes(&self) -> Vec<String> {
        self.pool.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for its turn, unless everything is being stopped.
    async fn permit(&self, host: &Host) -> Result<OwnedSemaphorePermit, SshError> {
        let permit = Arc::clone(&self.pool.permits).acquire_owned().await;
        permit.ok().filter(|_| !*self.pool.interrupted.borrow()).ok_or_else(|| SshError::interrupted(host))
    }

    /// `None` where there is nothing between.
    fn gate(&self, route: &Route) -> Option<Arc<tokio::sync::Mutex<Gate>>> {
        let way = match &route.proxy_command {
            Some(command) => command.clone(),
            None if route.jumps.is_empty() => return None,
            None => route.jumps.join(","),
        };
        let mut gates = self.pool.gates.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(gates.entry(way).or_default()))
    }

    async fn attempts(&self, host: &Host, route: &Arc<Route>) -> Result<Arc<Session>, SshError> {
        let mut interrupted = self.pool.interrupted.subscribe();
        let mut attempt = 1;
        loop {
            let error = match self.attempt(host, Arc::clone(route)).await {
                Ok(session) => return Ok(Arc::new(session)),
                Err(error) => error,
            };
            if attempt >= error.attempts() {
                return Err(error);
            }
            let stopped = async { drop(interrupted.wait_for(|&interrupted| interrupted).await) };
            if timeout(pause_after(attempt), stopped).await.is_ok() {
                return Err(SshError::interrupted(host));
            }
            attempt += 1;
        }
    }

    /// Connects in a task of its own, which ends what it started where nobody waits for it any more.
    async fn attempt(&self, host: &Host, route: Arc<Route>) -> Result<Session, SshError> {
        let permit = self.permit(host).await?;
        let pool = Arc::clone(&self.pool);
        let connecting = pool.connecting.subscribe();
        let (sender, receiver) = oneshot::channel();
        let host_there = host.clone();
        tokio::spawn(async move {
            let outcome = pool.connect(&host_there, &route).await;
            pool.give_back(permit, &outcome);
            if let Err(Ok(unwanted)) = sender.send(outcome) {
                end(&unwanted).await;
            }
            drop(connecting);
        });
        receiver.await.unwrap_or_else(|_| Err(SshError::interrupted(host)))
    }

    /// Ends the session, whatever state its network is in, within 2 s. What channels have not delivered by now is lost.
    pub async fn close(&self, session: Arc<Session>) {
        end(&session).await;
    }

    /// Ends the attempts that are under way and makes all further ones fail at once. Open sessions stay.
    pub fn interrupt(&self) {
        self.pool.interrupted.send_replace(true);
    }

    /// Ends everything: attempts, sessions, and removes the folder. Takes some seconds at most.
    pub async fn finish(self) {
        self.interrupt();
        let _ = timeout(FINISH_WITHIN, self.pool.connecting.closed()).await;
        let entries = std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        let folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        join_all(folders.iter().map(|folder| master::end(folder))).await;
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.interrupt();
    }
}

async fn end(session: &Session) {
    if let Some(folder) = session.control_socket().parent() {
        master::end(folder).await;
    }
}

impl Pool {
    async fn connect(&self, host: &Host, route: &Route) -> Result<Session, SshError> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.join(number.to_string());
        let attempt = Attempt { ssh: &self.ssh, host, route, folder: folder.clone() };
        attempt.run(self.interrupted.subscribe()).await?;
        self.note_unwritten_keys(&master::said(&folder));
        Ok(Session::resume_mux(folder.join(master::SOCKET).into(), Some(folder.join(master::LOG).into())))
    }

    /// ssh goes on where it cannot write a new host's key down; then a change of it is never noticed.
    fn note_unwritten_keys(&self, said: &str) {
        let Some(failed) =
            said.lines().find(|line| line.starts_with("Failed to add the host to the list of known hosts"))
        else {
            return;
        };
        let file =
            failed.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or("known_hosts", |(file, _)| file);
        let note = printable(&format!(
            "ssh cannot write the keys of new hosts to {file}, so that a changed key would not be noticed: make it a file that \
             can be written"
        ));
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// Where a server drops connections, there are too many at once: one fewer from now on.
    fn give_back(&self, permit: OwnedSemaphorePermit, outcome: &Result<Session, SshError>) {
        let dropped = outcome.as_ref().is_err_and(|error| error.kind() == SshErrorKind::Dropped);
        let lower = |now: usize| (now > LEAST_CONCURRENCY).then(|| now - 1);
        if dropped && self.concurrency.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower).is_ok() {
            permit.forget();
        }
    }
}

/// Whether a way to hosts is known to be open.
#[derive(Debug, Default)]
enum Gate {
    #[default]
    Unknown,
    Open,
    /// With the host for which it was tried.
    Shut(Host, SshError),
}

/// What the ssh of a session and those on the way have said since it began, in one line; nothing where they were silent.
pub fn words_of(session: &Session) -> Option<String> {
    let said = master::said(session.control_socket().parent()?);
    let begin =
        said.find("client_loop").or_else(|| said.find("Timeout, server")).or_else(|| said.find("Connection to "));
    Some(last_words(&said[begin?..]))
}

/// Doubles with each attempt, give or take a half: what failed together shall not come back together.
fn pause_after(attempt: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(8)).min(LONGEST_PAUSE);
    // A hasher's keys are the standard library's source of randomness.
    let random = RandomState::new().build_hasher().finish() % 1000;
    pause.mul_f64(0.5 + random as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter() {
        for (attempt, least_ms, most_ms) in
            [(1, 150, 450), (2, 300, 900), (3, 600, 1800), (5, 1500, 4500), (99, 1500, 4500)]
        {
            let pause = pause_after(attempt);
            let expected = Duration::from_millis(least_ms)..=Duration::from_millis(most_ms);
            assert!(expected.contains(&pause), "{attempt}: {pause:?}");
        }
        assert!((0..50).any(|_| pause_after(1) != pause_after(1)));
    }
}
