//! The task that asks the server, from the first connection to the last snapshot.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::asker::{Asker, NoRows};
use super::blockers::FoundBlocker;
use super::collected::{CONNECTION, Collected, WindowTimes};
use super::events::CheckpointCounts;
use super::questions::{self, Columns};
use super::snapshot::{Reading, Row, Snapshot, View};
use super::stats::Standby;
use super::{Begins, Watched};
use crate::clock;

/// How often sessions are looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);

/// Samples for each look at what changes more slowly.
const SAMPLES_A_LOOK: u64 = 5;

/// How long after the load the counters are read: a busy session publishes its own at most once a second.
const PUBLISHED_AFTER: Duration = Duration::from_millis(1_500);

/// Pause between two attempts to connect.
const CONNECT_EVERY: Duration = Duration::from_secs(1);

/// What the task is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phase {
    pub window: Option<WindowTimes>,
    /// When the load ended.
    pub ended: Option<Instant>,
    /// The first connection has been tried.
    pub is_attached: bool,
}

pub fn lock(collected: &Mutex<Collected>) -> MutexGuard<'_, Collected> {
    // A panic elsewhere is no reason to lose the figures.
    collected.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Watcher {
    watched: Watched,
    asker: Asker,
    collected: Arc<Mutex<Collected>>,
    phase: watch::Sender<Phase>,
    columns: Columns,
    /// [`questions::STARTED`]
    started: Option<String>,
    sessions_sql: String,
    blockers_sql: String,
    checkpoints_sql: Option<String>,
    vacuums_sql: Option<String>,
    /// Whether a session has waited for a lock since the last look at blockers.
    has_seen_locks: bool,
}

impl Watcher {
    pub fn new(watched: Watched, collected: Arc<Mutex<Collected>>, phase: watch::Sender<Phase>) -> Self {
        let load = watched.connector.application_name();
        let own = format!("{} monitor", load.chars().take(50).collect::<String>());
        Self {
            asker: Asker::new(&watched.connector, &own, watched.is_pooled),
            sessions_sql: questions::sessions(watched.left_out),
            blockers_sql: questions::blockers(load, &[watched.left_out, &own.replace(['\\', '%', '_'], "_")]),
            watched,
            collected,
            phase,
            columns: Columns::new(),
            started: None,
            checkpoints_sql: None,
            vacuums_sql: None,
            has_seen_locks: false,
        }
    }

    fn collected(&self) -> MutexGuard<'_, Collected> {
        lock(&self.collected)
    }

    /// Asks until the load has ended.
    pub async fn run(mut self) {
        if self.watched.begins != Begins::AtOnce {
            let window = self.window().await;
            if self.watched.begins == Begins::AtT0 {
                sleep_until_ns(window.t0_ns).await;
            }
        }
        let attached = match self.asker.connect().await {
            Ok(()) => self.get_acquainted().await.map_err(NoRows::reason),
            Err(reason) => Err(reason),
        };
        self.phase.send_modify(|phase| phase.is_attached = true);
        if let Err(reason) = attached {
            return self.collected().lack(CONNECTION, reason);
        }
        let window = self.window().await;
        self.follow(&window).await;
        self.conclude().await;
    }

    /// Waits until T0 is known.
    async fn window(&mut self) -> WindowTimes {
        let mut phase = self.phase.subscribe();
        let known = phase.wait_for(|phase| phase.window.is_some()).await;
        match known.ok().and_then(|phase| phase.window) {
            Some(window) => window,
            // The sender is ours, so this is never reached.
            None => std::future::pending().await,
        }
    }

    /// Asks what there is to be asked, and what does not change. Fails only where there is no answer.
    async fn get_acquainted(&mut self) -> Result<(), NoRows> {
        if let Some(rows) = self.try_ask("pg_attribute", &questions::columns()).await? {
            self.columns = rows.into_iter().filter_map(|mut row| row.remove("found")).collect();
        }
        if let Some(rows) = self.try_ask("pg_settings", &questions::settings()).await? {
            let setting = |mut row: Row| Some((row.remove("name")?, row.remove("value").unwrap_or_default()));
            self.collected().known.settings = rows.into_iter().filter_map(setting).collect();
        }
        let sees_all = self.try_ask_one("pg_has_role", questions::SEES_ALL).await?;
        let is_standby = self.try_ask_one("pg_is_in_recovery", questions::IS_STANDBY).await?;
        self.started = self.try_ask_one("pg_postmaster_start_time", questions::STARTED).await?;
        {
            let mut collected = self.collected();
            collected.known.sees_all_sessions = sees_all.as_deref() == Some("t");
            collected.known.is_standby = is_standby.map(|answer| answer == "t");
        }
        self.checkpoints_sql = questions::checkpoints(&self.columns);
        if self.columns.contains("pg_stat_progress_vacuum.relid") {
            if sees_all.as_deref() == Some("t") {
                self.vacuums_sql = Some(questions::vacuums(&self.watched.tables));
            } else {
                let reason = "only roles with pg_monitor or pg_read_all_stats see it".to_owned();
                self.collected().lack("pg_stat_progress_vacuum", reason);
            }
        }
        Ok(())
    }

    /// Asks; what the server refuses is noted as not available.
    async fn try_ask(&mut self, what: &str, sql: &str) -> Result<Option<Vec<Row>>, NoRows> {
        match self.asker.ask(sql).await {
            Ok(rows) => Ok(Some(rows)),
            Err(NoRows::Refused(reason)) => {
                self.collected().lack(what, reason);
                Ok(None)
            }
            Err(silent) => Err(silent),
        }
    }

    async fn try_ask_one(&mut self, what: &str, sql: &str) -> Result<Option<String>, NoRows> {
        match self.asker.ask_one(sql).await {
            Ok(answer) => Ok(Some(answer)),
            Err(NoRows::Refused(reason)) => {
                self.collected().lack(what, reason);
                Ok(None)
            }
            Err(silent) => Err(silent),
        }
    }

    /// Takes samples until the load has ended.
    async fn follow(&mut self, window: &WindowTimes) {
        // Without a warm-up nothing happens before T0, and the counters can be read at leisure.
        let first_ns = if window.from_ns == window.t0_ns { 0 } else { window.from_ns };
        let mut ticks = interval(SAMPLE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ended = self.phase.subscribe();
        let (mut samples, mut next_attempt, mut can_sample): (u64, _, _) = (0, Instant::now(), true);
        loop {
            tokio::select! {
                biased;
                _ = ended.wait_for(|phase| phase.ended.is_some()) => return,
                _ = ticks.tick() => {}
            }
            if !self.asker.is_connected() {
                if Instant::now() < next_attempt {
                    continue;
                }
                next_attempt = Instant::now() + CONNECT_EVERY;
                if !self.reconnect().await {
                    continue;
                }
            }
            let due = clock::now_ns() >= first_ns && self.collected().before.is_none();
            if due {
                let before = self.snapshot().await;
                self.collected().before = before;
            }
            if !self.asker.is_connected() {
                continue;
            }
            if can_sample {
                can_sample = self.sample(samples == 0).await;
                if !can_sample {
                    ticks = interval(SAMPLE_EVERY * SAMPLES_A_LOOK as u32);
                }
            }
            samples += 1;
            if !can_sample || samples.is_multiple_of(SAMPLES_A_LOOK) {
                self.look().await;
            }
        }
    }

    async fn reconnect(&mut self) -> bool {
        let (asked_ns, mut reason) = (clock::now_ns(), None);
        let mut started = None;
        match self.asker.connect().await {
            Err(why) => reason = Some(why),
            Ok(()) => match self.asker.ask_one(questions::STARTED).await {
                Ok(answer) => started = Some(answer),
                Err(NoRows::Refused(_)) => {}
                Err(NoRows::Silent(why)) => reason = Some(why),
            },
        }
        let mut collected = lock(&self.collected);
        if let Some(reason) = reason {
            collected.falls_silent(asked_ns, reason);
            return false;
        }
        let now_ns = clock::now_ns();
        let since_ns = collected.answers(now_ns).unwrap_or(now_ns);
        if started.is_some() && started != self.started {
            collected.was_restarted(since_ns, now_ns);
            self.started = started;
        }
        true
    }

    /// Counts sessions once. Returns whether that may be tried again.
    async fn sample(&mut self, is_first: bool) -> bool {
        let at_ns = clock::now_ns();
        let answer = self.asker.ask_again(&self.sessions_sql).await;
        let mut collected = lock(&self.collected);
        match answer {
            Ok(rows) => {
                let of_row = |mut row: Row| Some((row.remove("event")?, row.remove("sessions")?.parse().ok()?));
                let sample: Vec<(String, u64)> = rows.into_iter().filter_map(of_row).collect();
                self.has_seen_locks |= sample.iter().any(|(event, _)| event.starts_with("Lock:"));
                collected.answers(clock::now_ns());
                collected.take_sample(at_ns, sample);
            }
            Err(NoRows::Refused(reason)) if is_first => {
                collected.lack("pg_stat_activity", reason);
                return false;
            }
            Err(none) => collected.falls_silent(at_ns, none.reason()),
        }
        true
    }

    /// Looks at what changes more slowly than wait events do.
    async fn look(&mut self) {
        let at_ns = clock::now_ns();
        let mut blockers = Vec::new();
        if std::mem::take(&mut self.has_seen_locks) {
            match self.asker.ask_again(&self.blockers_sql).await {
                Ok(rows) => blockers = rows.into_iter().filter_map(found_blocker).collect(),
                Err(NoRows::Refused(reason)) => self.collected().lack("pg_blocking_pids", reason),
                Err(NoRows::Silent(reason)) => return self.collected().falls_silent(at_ns, reason),
            }
        }
        self.collected().take_blockers(at_ns, blockers);
        if let Some(sql) = self.checkpoints_sql.take() {
            match self.asker.ask_again(&sql).await {
                Ok(rows) => {
                    let counts = rows.first().and_then(checkpoint_counts);
                    counts.into_iter().for_each(|counts| self.collected().take_checkpoints(at_ns, counts));
                    self.checkpoints_sql = Some(sql);
                }
                // The snapshots say why.
                Err(NoRows::Refused(_)) => {}
                Err(NoRows::Silent(reason)) => {
                    self.checkpoints_sql = Some(sql);
                    return self.collected().falls_silent(at_ns, reason);
                }
            }
        }
        if let Some(sql) = self.vacuums_sql.take() {
            match self.asker.ask_again(&sql).await {
                Ok(rows) => {
                    let names: Vec<String> = rows.into_iter().filter_map(|mut row| row.remove("name")).collect();
                    self.collected().take_vacuums(at_ns, &names);
                    self.vacuums_sql = Some(sql);
                }
                Err(NoRows::Refused(reason)) => self.collected().lack("pg_stat_progress_vacuum", reason),
                Err(NoRows::Silent(reason)) => {
                    self.vacuums_sql = Some(sql);
                    self.collected().falls_silent(at_ns, reason);
                }
            }
        }
    }

    /// Reads all counters; `None` where there was no answer.
    async fn snapshot(&mut self) -> Option<Snapshot> {
        let at_ns = clock::now_ns();
        let mut readings: Vec<Reading> = Vec::new();
        for view in View::ALL {
            readings.push(match questions::counters(view, &self.columns, &self.watched.tables) {
                Err(missing) => Err(missing),
                Ok(sql) => match self.asker.ask(&sql).await {
                    Ok(rows) => Ok(rows),
                    Err(NoRows::Refused(reason)) => Err(reason),
                    Err(NoRows::Silent(reason)) => {
                        self.collected().falls_silent(at_ns, reason);
                        return None;
                    }
                },
            });
        }
        Some(Snapshot { at_ns, readings: readings.try_into().ok()? })
    }

    /// The last snapshot, once the server has published what the load did.
    async fn conclude(&mut self) {
        let ended = self.phase.borrow().ended.unwrap_or_else(Instant::now);
        if self.asker.is_connected() || self.reconnect().await {
            sleep_until(ended + PUBLISHED_AFTER).await;
            let after = self.snapshot().await;
            self.collected().after = after;
            self.look_at_standbys().await;
        }
        self.asker.close().await;
    }

    async fn look_at_standbys(&mut self) {
        if !self.columns.contains("pg_stat_replication.replay_lag") {
            return self.collected().lack("pg_stat_replication", "this server has no pg_stat_replication".to_owned());
        }
        let rows = match self.asker.ask(questions::STANDBYS).await {
            Ok(rows) => rows,
            Err(none) => return self.collected().lack("pg_stat_replication", none.reason()),
        };
        let mut collected = self.collected();
        if rows.iter().any(|row| !row.contains_key("sync_state")) {
            let reason = "only roles with pg_monitor or pg_read_all_stats see what standbys do".to_owned();
            collected.lack("pg_stat_replication", reason);
        }
        let number = |row: &Row, name: &str| row.get(name)?.parse::<f64>().ok();
        let standby = |row: Row| Standby {
            lag_bytes: number(&row, "lag_bytes").map(|bytes| bytes as u64),
            replay_lag_ms: number(&row, "replay_lag_ms"),
            name: row.get("name").cloned().unwrap_or_default(),
            sync_state: row.get("sync_state").cloned().unwrap_or_default(),
        };
        collected.known.standbys = rows.into_iter().map(standby).collect();
    }
}

fn found_blocker(mut row: Row) -> Option<FoundBlocker> {
    Some(FoundBlocker {
        pid: row.remove("pid")?.parse().ok()?,
        application_name: row.remove("application_name").unwrap_or_default(),
        user: row.remove("username").unwrap_or_default(),
    })
}

fn checkpoint_counts(row: &Row) -> Option<CheckpointCounts> {
    Some(CheckpointCounts {
        timed: row.get("timed")?.parse().ok()?,
        requested: row.get("requested")?.parse().ok()?,
        busy_ms: row.get("busy_ms")?.parse().ok()?,
    })
}

async fn sleep_until_ns(at_ns: u64) {
    sleep(Duration::from_nanos(at_ns.saturating_sub(clock::now_ns()))).await;
}
