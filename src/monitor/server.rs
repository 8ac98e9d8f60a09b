//! Watches the database server during a run: its counters, its settings, and what its sessions wait for.
//!
//! A task with one connection of its own asks, as long as [`watcher`] says; each answer has a limit, and none of the
//! load's work waits for it. The connection is opened once the load has all of its own. Where there is none left, or
//! the server refuses, the figures say so, and the run goes on without them.
//!
//! Two snapshots of counters ([`snapshot`]), at the window's start and after the load; samples of the sessions five times a
//! second ([`waits`]); and a look at locks, checkpoints and autovacuum once a second ([`blockers`], [`events`]).

mod asker;
mod blockers;
mod collected;
mod events;
mod questions;
mod snapshot;
mod stats;
mod waits;
mod watcher;
pub mod words;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::clock;
use crate::postgres::connect::Connector;
use collected::Collected;
use watcher::{Phase, Watcher, lock};

pub use collected::WindowTimes;
#[allow(unused_imports, reason = "the types of the document stand together")]
pub use stats::{
    Blocker, CheckpointActivity, Gap, IoActivity, ServerActivity, ServerEvent, ServerEventKind, ServerStats, Standby,
    TableActivity, Unavailable, WaitEvent, WaitTimeline, WalActivity,
};
pub use words::OTHER_APPLICATIONS;

/// How long the start of the run waits for the first connection.
const ATTACH_WITHIN: Duration = Duration::from_millis(500);

/// How long the end of the run waits for the last snapshot: where the server answers, and where it does not.
const CONCLUDE_WITHIN: Duration = Duration::from_millis(2_500);
const GIVE_UP_WITHIN: Duration = Duration::from_millis(2_000);

/// What is watched, and from where.
pub struct Watched {
    /// As the load connects.
    pub connector: Connector,
    /// Whether a pooler may stand between. Then no setting of the session is touched, and names of sessions are not relied on.
    pub is_pooled: bool,
    /// Sessions whose name is like this (as in SQL) belong to the test and not to its load.
    pub left_out: &'static str,
    /// Those that requests write.
    pub tables: Vec<&'static str>,
    /// This machine.
    pub hostname: String,
    pub begins: Begins,
}

/// When the monitor may connect. The connections that other processes of the test need come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// This process runs the whole test.
    AtOnce,
    /// Once T0 is known, since a coordinator tells it when all are ready.
    WithT0Known,
    AtT0,
}

/// Watches the server until it is dropped.
pub struct ServerMonitor {
    collected: Arc<Mutex<Collected>>,
    phase: watch::Sender<Phase>,
    task: JoinHandle<()>,
}

impl ServerMonitor {
    /// Begins to watch. Never fails, and waits a moment at most.
    pub async fn attach(watched: Watched) -> Self {
        let waits = watched.begins == Begins::AtOnce && !watched.is_pooled;
        let collected = Arc::new(Mutex::new(Collected::default()));
        lock(&collected).known.hostname = Some(watched.hostname.clone());
        let (phase, mut attached) = watch::channel(Phase::default());
        let watcher = Watcher::new(watched, Arc::clone(&collected), phase.clone());
        let monitor = Self { collected, phase, task: tokio::spawn(watcher.run()) };
        if waits {
            let _ = timeout(ATTACH_WITHIN, attached.wait_for(|phase| phase.is_attached)).await;
        }
        monitor
    }
}

impl super::Monitor for ServerMonitor {
    fn expect_window(&mut self, window: WindowTimes) {
        lock(&self.collected).window = Some(window);
        self.phase.send_modify(|phase| phase.window = Some(window));
    }

    fn begin_window(&mut self) {}

    fn live(&self) -> Vec<String> {
        lock(&self.collected).live().into_iter().collect()
    }

    fn finish(&self, findings: &mut super::Findings) {
        let (mut collected, now_ns) = (lock(&self.collected), clock::now_ns());
        collected.close_window(now_ns);
        findings.server_stats = Some(collected.stats(now_ns));
    }

    fn conclude<'a>(&'a mut self, findings: &'a mut super::Findings) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let ended = Instant::now();
            self.phase.send_modify(|phase| _ = phase.ended.get_or_insert(ended));
            let limit = if lock(&self.collected).is_silent() { GIVE_UP_WITHIN } else { CONCLUDE_WITHIN };
            if !self.task.is_finished() {
                let _ = timeout(limit, &mut self.task).await;
            }
            self.task.abort();
            findings.server_stats = Some(lock(&self.collected).stats(clock::now_ns()));
        })
    }
}

impl Drop for ServerMonitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}
