//! The task that asks the server, from the first connection to the last snapshot.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::asker::{Asker, NoRows};
use super::blockers::FoundBlocker;
use super::collected::{ACTIVITY, CONNECTION, Collected, WindowTimes};
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

/// How long before T0 the server is looked at, so that what is new after T0 can be told; and how long before it the
/// counters are read where there is no warm-up. A start that was agreed on long before would dilute the differences.
const LEAD_NS: u64 = 1_500_000_000;
const AT_LEISURE_NS: u64 = 1_000_000_000;

/// How long after its begin a snapshot may still ask something a second time.
const RETRIES_WITHIN_NS: u64 = 600_000_000;

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
    /// What the load's sessions are called, and this one.
    names: [String; 2],
    /// The server has answered what does not change.
    is_acquainted: bool,
    /// Or why the server does not tell them.
    columns: Result<Columns, String>,
    started: Option<Started>,
    sessions_sql: String,
    has_sampled: bool,
    blockers_sql: String,
    checkpoints_sql: Option<String>,
    vacuums_sql: Option<String>,
    /// Whether a session has waited for a lock since the last look at blockers.
    has_seen_locks: bool,
}

/// [`questions::STARTED`]
#[derive(Clone, Debug, PartialEq, Eq)]
struct Started {
    server: String,
    checkpointer: Option<String>,
}

impl Started {
    fn of(mut row: Row) -> Option<Self> {
        Some(Self { server: row.remove("server")?, checkpointer: row.remove("checkpointer") })
    }

    /// Whether it is the same server without a restart in between, as far as is known.
    fn is_same(&self, before: &Self) -> bool {
        let known = self.checkpointer.as_ref().zip(before.checkpointer.as_ref());
        self.server == before.server && known.is_none_or(|(now, before)| now == before)
    }
}

impl Watcher {
    pub fn new(watched: Watched, collected: Arc<Mutex<Collected>>, phase: watch::Sender<Phase>) -> Self {
        let load = watched.connector.application_name().to_owned();
        let own = own_name(&load);
        let asker = Asker::new(&watched.connector, &own, watched.is_pooled);
        let mut watcher = Self {
            asker,
            watched,
            collected,
            phase,
            names: [load, own],
            is_acquainted: false,
            columns: Ok(Columns::new()),
            started: None,
            sessions_sql: String::new(),
            has_sampled: false,
            blockers_sql: String::new(),
            checkpoints_sql: None,
            vacuums_sql: None,
            has_seen_locks: false,
        };
        watcher.use_names();
        watcher
    }

    /// Makes the questions that name sessions.
    fn use_names(&mut self) {
        let [load, own] = &self.names;
        let left_out = self.watched.left_out;
        self.sessions_sql = questions::sessions((!self.watched.is_pooled).then_some(load.as_str()), own, left_out);
        self.blockers_sql = questions::blockers(load, own, left_out);
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
            Ok(()) => self.get_acquainted().await,
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

    /// Learns what does not change, or tries again later. Fails where the monitor should give up.
    async fn get_acquainted(&mut self) -> Result<(), String> {
        let asked_ns = clock::now_ns();
        match self.learn().await {
            Ok(()) => self.is_acquainted = true,
            // The pool has no connection to spare. To try again would be to queue for one that the load needs.
            Err(NoRows::Silent(reason)) if self.watched.is_pooled => return Err(reason),
            Err(none) => self.collected().falls_silent(asked_ns, none.reason()),
        }
        Ok(())
    }

    /// Asks which columns there are, and what does not change. What the server refuses is noted; fails where there was no
    /// answer this time.
    async fn learn(&mut self) -> Result<(), NoRows> {
        let columns = match self.asker.ask(&questions::columns()).await {
            Ok(rows) => Ok(rows.into_iter().filter_map(|mut row| row.remove("found")).collect()),
            Err(NoRows::Refused(reason)) => Err(reason),
            Err(none) => return Err(none),
        };
        if let Some(rows) = self.try_ask("pg_settings", &questions::settings()).await? {
            let setting = |mut row: Row| Some((row.remove("name")?, row.remove("value").unwrap_or_default()));
            self.collected().known.settings = rows.into_iter().filter_map(setting).collect();
        }
        let sees_all = self.try_ask_one("pg_has_role", questions::SEES_ALL).await?.as_deref() == Some("t");
        let is_standby = self.try_ask_one("pg_is_in_recovery", questions::IS_STANDBY).await?;
        if let Some(rows) = self.try_ask("pg_postmaster_start_time", questions::STARTED).await? {
            self.started = rows.into_iter().next().and_then(Started::of);
        }
        if !self.watched.is_pooled {
            for name in &mut self.names {
                match self.asker.ask_one(&questions::shown_name(name)).await {
                    Ok(shown) => *name = shown,
                    Err(NoRows::Refused(_)) => {}
                    Err(none) => return Err(none),
                }
            }
            self.use_names();
        }
        let mut collected = lock(&self.collected);
        collected.known.sees_all_sessions = sees_all;
        collected.known.is_standby = is_standby.map(|answer| answer == "t");
        match &columns {
            Err(reason) => collected.lack("pg_attribute", reason.clone()),
            Ok(columns) => {
                self.checkpoints_sql = questions::checkpoints(columns);
                if columns.contains("pg_stat_progress_vacuum.relid") {
                    if sees_all {
                        self.vacuums_sql = Some(questions::vacuums(&self.watched.tables));
                    } else {
                        let reason = "only roles with pg_monitor or pg_read_all_stats see it".to_owned();
                        collected.lack("pg_stat_progress_vacuum", reason);
                    }
                }
            }
        }
        self.columns = columns.map_err(|reason| format!("the server does not tell which columns it has: {reason}"));
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
        let is_cold = window.from_ns == window.t0_ns;
        let first_ns = if is_cold { window.t0_ns.saturating_sub(AT_LEISURE_NS) } else { window.from_ns };
        let mut ended = self.phase.subscribe();
        tokio::select! {
            biased;
            _ = ended.wait_for(|phase| phase.ended.is_some()) => return,
            () = sleep_until_ns(window.t0_ns.saturating_sub(LEAD_NS)) => {}
        }
        let mut ticks = interval(SAMPLE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
            if !self.is_acquainted && Instant::now() >= next_attempt {
                next_attempt = Instant::now() + CONNECT_EVERY;
                if let Err(reason) = self.get_acquainted().await {
                    self.collected().falls_silent(clock::now_ns(), reason);
                }
            }
            let is_due = (first_ns..window.snapshot_before_ns()).contains(&clock::now_ns());
            if is_due && self.is_acquainted && self.collected().before.is_none() {
                let before = self.snapshot().await;
                // One that took too long is of no use; there is no time for another.
                let before = before.filter(|_| clock::now_ns() < window.snapshot_before_ns());
                self.collected().before = before;
            }
            if !self.asker.is_connected() {
                continue;
            }
            if can_sample {
                can_sample = self.sample().await;
                if !can_sample {
                    ticks = interval(SAMPLE_EVERY * SAMPLES_A_LOOK as u32);
                }
            }
            if !can_sample || samples.is_multiple_of(SAMPLES_A_LOOK) {
                self.look().await;
            }
            samples += 1;
        }
    }

    /// Returns whether the server answers again.
    async fn reconnect(&mut self) -> bool {
        let asked_ns = clock::now_ns();
        let started = match self.asker.connect().await {
            Ok(()) => self.ask_start().await,
            Err(reason) => Err(reason),
        };
        let started = match started {
            Ok(started) => started,
            Err(reason) => {
                self.collected().falls_silent(asked_ns, reason);
                self.asker.close().await;
                return false;
            }
        };
        let mut collected = lock(&self.collected);
        let now_ns = clock::now_ns();
        let since_ns = collected.answers(now_ns).unwrap_or(now_ns);
        if let Some(started) = started {
            match &self.started {
                Some(before) if started.is_same(before) => {}
                Some(_) => {
                    collected.was_restarted(since_ns, now_ns);
                    self.started = Some(started);
                }
                None => self.started = Some(started),
            }
        }
        true
    }

    /// When the server was started; `None` where it does not tell.
    async fn ask_start(&mut self) -> Result<Option<Started>, String> {
        let mut is_last = false;
        loop {
            let started = match self.asker.ask(questions::STARTED).await {
                Ok(rows) => rows.into_iter().next().and_then(Started::of),
                Err(NoRows::Refused(_)) => None,
                Err(none) => return Err(none.reason()),
            };
            let lacks = |started: &Option<Started>| started.as_ref().is_some_and(|it| it.checkpointer.is_none());
            // Right after a crash the new checkpointer may not be there yet.
            if is_last || !lacks(&started) || self.started.is_none() || lacks(&self.started) {
                return Ok(started);
            }
            is_last = true;
            sleep(SAMPLE_EVERY).await;
        }
    }

    /// Counts sessions once. Returns whether that may be tried again.
    async fn sample(&mut self) -> bool {
        let at_ns = clock::now_ns();
        let answer = self.asker.ask_again(&self.sessions_sql).await;
        let mut collected = lock(&self.collected);
        match answer {
            Ok(rows) => {
                let of_row = |mut row: Row| Some((row.remove("event")?, row.remove("sessions")?.parse().ok()?));
                let sample: Vec<(String, u64)> = rows.into_iter().filter_map(of_row).collect();
                self.has_seen_locks |= sample.iter().any(|(event, _)| event.starts_with("Lock:"));
                self.has_sampled = true;
                collected.answers(clock::now_ns());
                collected.take_sample(at_ns, sample);
            }
            Err(NoRows::Refused(reason)) if !self.has_sampled => {
                collected.lack(ACTIVITY, reason);
                return false;
            }
            Err(none) => collected.falls_silent(at_ns, none.reason()),
        }
        true
    }

    /// Looks at what changes more slowly than wait events do.
    async fn look(&mut self) {
        let at_ns = clock::now_ns();
        if let Err(reason) = self.try_look(at_ns).await {
            self.collected().falls_silent(at_ns, reason);
        }
    }

    /// Asks the cheapest question first: on an overloaded server the last one may never be answered in time.
    async fn try_look(&mut self, at_ns: u64) -> Result<(), String> {
        if let Some(sql) = &self.checkpoints_sql {
            match self.asker.ask_again(sql).await {
                Ok(rows) => {
                    let counts = rows.first().and_then(checkpoint_counts);
                    counts.into_iter().for_each(|counts| self.collected().take_checkpoints(at_ns, counts));
                }
                Err(NoRows::Refused(reason)) => {
                    self.collected().lack(View::Checkpoints.name(), reason);
                    self.checkpoints_sql = None;
                }
                Err(none) => return Err(none.reason()),
            }
        }
        if let Some(sql) = &self.vacuums_sql {
            match self.asker.ask_again(sql).await {
                Ok(rows) => {
                    let names: Vec<String> = rows.into_iter().filter_map(|mut row| row.remove("name")).collect();
                    self.collected().take_vacuums(at_ns, &names);
                }
                Err(NoRows::Refused(reason)) => {
                    self.collected().lack("pg_stat_progress_vacuum", reason);
                    self.vacuums_sql = None;
                }
                Err(none) => return Err(none.reason()),
            }
        }
        let mut blockers = Vec::new();
        if self.has_seen_locks {
            match self.asker.ask_again(&self.blockers_sql).await {
                Ok(rows) => blockers = rows.into_iter().filter_map(found_blocker).collect(),
                Err(NoRows::Refused(reason)) => self.collected().lack("pg_blocking_pids", reason),
                Err(none) => return Err(none.reason()),
            }
            self.has_seen_locks = false;
        }
        self.collected().take_blockers(at_ns, blockers);
        Ok(())
    }

    /// Reads all counters; `None` where there was no answer.
    async fn snapshot(&mut self) -> Option<Snapshot> {
        let at_ns = clock::now_ns();
        let mut readings: Vec<Reading> = Vec::new();
        for view in View::ALL {
            let columns = self.columns.as_ref().map_err(String::as_str);
            readings.push(match questions::counters(view, columns, &self.watched.tables) {
                Err(missing) => Err(missing),
                Ok(sql) => match self.ask_twice(&sql, at_ns + RETRIES_WITHIN_NS).await {
                    Ok(rows) => Ok(rows),
                    Err(NoRows::Refused(reason) | NoRows::NotNow(reason)) => Err(reason),
                    Err(NoRows::Silent(reason)) => {
                        self.collected().falls_silent(at_ns, reason);
                        return None;
                    }
                },
            });
        }
        Some(Snapshot { at_ns, readings: readings.try_into().ok()? })
    }

    /// Asks a second time, until `until_ns`, what the server did not answer in time.
    async fn ask_twice(&mut self, sql: &str, until_ns: u64) -> Result<Vec<Row>, NoRows> {
        match self.asker.ask(sql).await {
            Err(NoRows::NotNow(_)) if clock::now_ns() < until_ns => self.asker.ask(sql).await,
            answer => answer,
        }
    }

    /// The last snapshot, once the server has published what the load did.
    async fn conclude(&mut self) {
        let ended = self.phase.borrow().ended.unwrap_or_else(Instant::now);
        if self.asker.is_connected() || self.reconnect().await {
            sleep_until(ended + PUBLISHED_AFTER).await;
            if !self.is_acquainted {
                let _ = self.get_acquainted().await;
            }
            // Without a first one there is nothing to compare a last one with.
            if self.collected().before.is_some() {
                let after = self.snapshot().await;
                self.collected().after = after;
            }
            self.look_at_standbys().await;
        }
        self.asker.close().await;
    }

    async fn look_at_standbys(&mut self) {
        let has_view = |columns: &Columns| columns.contains("pg_stat_replication.replay_lag");
        let missing = match &self.columns {
            Ok(columns) if has_view(columns) => None,
            Ok(_) if self.is_acquainted => Some("this server has no pg_stat_replication".to_owned()),
            Ok(_) => Some("the server did not tell in time which columns it has".to_owned()),
            Err(reason) => Some(reason.clone()),
        };
        if let Some(reason) = missing {
            return self.collected().lack("pg_stat_replication", reason);
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

/// What this session is called. Servers show 63 bytes of a name, and up to four characters for each byte that is not
/// printable ASCII, so the load's name is cut: the end tells the two apart.
fn own_name(load: &str) -> String {
    const END: &str = " monitor";
    let mut room = 63 - END.len();
    let fits = |c: &char| {
        let shown = if matches!(c, ' '..='~') { 1 } else { 4 * c.len_utf8() };
        let left = room.checked_sub(shown);
        room = left.unwrap_or(0);
        left.is_some()
    };
    format!("{}{END}", load.chars().take_while(fits).collect::<String>())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_monitor_keeps_its_end() {
        assert_eq!(own_name("load"), "load monitor");
        assert_eq!(own_name(&"x".repeat(70)), format!("{} monitor", "x".repeat(55)));
        assert_eq!(own_name(&"ü".repeat(70)), format!("{} monitor", "ü".repeat(6)));
    }

    #[test]
    fn a_restart_is_another_start_of_the_server_or_of_its_checkpointer() {
        let started = |server: &str, checkpointer: Option<&str>| Started {
            server: server.to_owned(),
            checkpointer: checkpointer.map(str::to_owned),
        };
        let before = started("1", Some("2"));
        assert!(started("1", Some("2")).is_same(&before));
        assert!(started("1", None).is_same(&before) && before.is_same(&started("1", None)));
        assert!(!started("1", Some("3")).is_same(&before));
        assert!(!started("4", None).is_same(&before));
    }
}
