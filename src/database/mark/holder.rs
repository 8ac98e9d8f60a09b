//! Holding a mark: a task that owns its connection, uses it now and then, and marks the tables again where it was lost.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::attempt::{Attempt, SETTLE, attempt, renew, roll_back};
use super::keys::{Keys, TEST_SETTING};
use super::look::{describe, look};
use crate::database::evidence::{Baseline, Doubt, Evidence};
use crate::measure::outcome::chain;
use crate::postgres::connect::Connector;
use crate::postgres::link::{Link, LinkError};
use crate::workload::table::{Role, Table};

/// How often the mark is renewed. It also keeps firewalls and poolers from closing the connection as idle.
const RENEWAL: Duration = Duration::from_secs(1);

/// The tables are looked at with every so manyth renewal.
const LOOK_EVERY: u32 = 5;

/// How long to wait before the tables are marked again, at first and at most.
const AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// How long [`Mark::release`] may take.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// A mark that is held. Dropping it ends its connection.
pub struct Mark {
    lock: String,
    shared: Arc<TableWatch>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct TableWatch {
    state: Mutex<State>,
    /// Asks the task to look at the tables.
    look: Notify,
    released: Notify,
}

#[derive(Default)]
struct State {
    /// What the tables were before the load.
    before: Option<Baseline>,
    /// Until then other processes of the test may still empty the tables.
    emptied_until: Option<Instant>,
    /// The first change that no load test makes.
    disturbed: Option<Doubt>,
    /// Why the mark was lost, at first.
    lost: Option<String>,
    is_lost: bool,
    /// Why it could not be had again: another test had it.
    invaded: Option<String>,
}

impl TableWatch {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mark {
    pub(super) fn hold(connector: Connector, link: Link, keys: Keys, is_pooled: bool) -> Self {
        let shared = Arc::new(TableWatch::default());
        let lock = format!("SET LOCAL {TEST_SETTING} = '{}'; {}", keys.claim.test, keys.lock_shared());
        let task = tokio::spawn(hold(connector, link, keys, is_pooled, Arc::clone(&shared)));
        Self { lock, shared, task: Mutex::new(Some(task)) }
    }

    /// SQL by which a set-up transaction keeps the tables marked for as long as the server works on it, also where its
    /// process is killed meanwhile.
    pub fn lock_sql(&self) -> &str {
        &self.lock
    }

    /// From here on the tables are watched: nobody else should change them. Other processes of the test may empty them
    /// for as long as `emptied_for`.
    pub fn watch(&self, before: Option<Baseline>, emptied_for: Option<Duration>) {
        let mut state = self.shared.state();
        state.before = before;
        state.emptied_until = emptied_for.and_then(|left| Instant::now().checked_add(left));
        drop(state);
        self.shared.look.notify_one();
    }

    /// What the tables were before the load, where it is known.
    pub fn before(&self) -> Option<Baseline> {
        let state = self.shared.state();
        state.before.clone().filter(|_| state.emptied_until.is_none())
    }

    /// What somebody else did to the tables during the run.
    pub fn disturbed(&self) -> Option<Doubt> {
        self.shared.state().disturbed.clone()
    }

    /// What is to be said with the result.
    pub fn warning(&self) -> Option<String> {
        let state = self.shared.state();
        let cause = match (&state.lost, &state.invaded) {
            (Some(cause), _) => cause.as_str(),
            (None, Some(_)) => "it could not be renewed in time",
            (None, None) => return None,
        };
        let now = match (&state.invaded, state.is_lost) {
            (Some(who), _) => format!("Then another load test marked them: {who}."),
            (None, true) => "It could not be marked again.".to_owned(),
            (None, false) => "They were marked again.".to_owned(),
        };
        Some(format!(
            "The tables were not marked as in use for a part of the run, so another load test could have used them: {}. {now}",
            cause.trim_end_matches('.')
        ))
    }

    /// Gives the tables up, and waits until they are.
    pub async fn release(&self) {
        self.shared.released.notify_one();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && tokio::time::timeout(RELEASE_WITHIN, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            task.abort();
        }
    }
}

async fn hold(connector: Connector, mut link: Link, keys: Keys, is_pooled: bool, shared: Arc<TableWatch>) {
    let released = shared.released.notified();
    tokio::pin!(released);
    loop {
        let cause = tokio::select! {
            Err(cause) = watch(&mut link, &keys, is_pooled, &shared) => cause,
            () = &mut released => {
                roll_back(&mut link).await;
                return link.close().await;
            }
        };
        {
            let mut state = shared.state();
            state.lost.get_or_insert(cause);
            state.is_lost = true;
            if state.emptied_until.take().is_some() {
                // Whether the tables are as they should be at the start is not known any more.
                state.before = None;
            }
        }
        drop(link);
        link = tokio::select! {
            link = mark_again(&connector, &keys, &shared) => link,
            () = &mut released => return,
        };
        shared.state().is_lost = false;
    }
}

/// Renews the mark until it is lost: why.
async fn watch(link: &mut Link, keys: &Keys, is_pooled: bool, shared: &TableWatch) -> Result<Infallible, String> {
    let in_words = |error: LinkError| chain(&error);
    let mut renewals: u32 = 0;
    loop {
        let until_emptied = shared.state().emptied_until.map(|until| until.saturating_duration_since(Instant::now()));
        tokio::select! {
            () = tokio::time::sleep(until_emptied.unwrap_or(RENEWAL).min(RENEWAL)) => {}
            () = shared.look.notified() => continue,
            () = link.io.until_ended() => {
                return Err(link.io.end_error().map_or_else(|| "its connection ended".to_owned(), |error| chain(error)));
            }
        }
        renewals = renewals.wrapping_add(1);
        let (sql, is_emptied) = {
            let state = shared.state();
            let is_emptied = state.emptied_until.is_some_and(|until| until <= Instant::now());
            (state.before.as_ref().map(Baseline::sql), is_emptied)
        };
        let is_due = renewals.is_multiple_of(LOOK_EVERY) || is_emptied;
        if let Some(sql) = sql.filter(|_| is_due) {
            let rows = link.ask_within(None, &format!("SELECT {sql}")).await.map_err(in_words)?;
            if let Some(now) = rows.last().and_then(|row| Evidence::parse(row.get(0)?)) {
                note(&mut shared.state(), keys.tables, &now, is_emptied);
            }
        }
        if is_emptied {
            shared.state().emptied_until = None;
        }
        if renew(link, keys, is_pooled).await.map_err(in_words)? {
            // A newcomer that sees this mark gives up by then, one that is far away a little later.
            let mut holders = Vec::new();
            for pause in [2 * SETTLE, 4 * SETTLE] {
                tokio::time::sleep(pause).await;
                holders = look(link, keys).await.map_err(in_words)?;
                if holders.is_empty() {
                    break;
                }
            }
            if !holders.is_empty() {
                shared.state().invaded.get_or_insert_with(|| describe(&holders));
            }
        }
    }
}

/// Compares the tables with what they were; where they have just been `emptied` for the last time, they count from now on.
fn note(state: &mut State, tables: &[Table], now: &Evidence, emptied: bool) {
    let Some(before) = &mut state.before else { return };
    match state.emptied_until {
        Some(_) if emptied => before.take_files_of(now),
        Some(_) => {}
        None => {
            let all: Vec<&str> = tables.iter().map(|table| table.name).collect();
            // An upsert that loses a race deletes its own row again, and shared rows see such races.
            let plain = tables.iter().filter(|table| table.role != Role::Shared);
            let plain: Vec<&str> = plain.map(|table| table.name).collect();
            // How many rows must be there is not known yet.
            let doubt = before.replaced(now, &all).or_else(|| before.doubt(now, &plain, 0));
            state.disturbed = state.disturbed.take().or(doubt.filter(|doubt| !doubt.may_pass));
        }
    }
}

async fn mark_again(connector: &Connector, keys: &Keys, shared: &TableWatch) -> Link {
    let [mut pause, most] = AGAIN;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(most);
        let Ok(mut link) = Link::open(connector).await else { continue };
        match attempt(&mut link, keys).await {
            Ok(Attempt::Marked) => return link,
            Ok(Attempt::Taken(holders)) => {
                shared.state().invaded.get_or_insert_with(|| describe(&holders));
                link.close().await;
            }
            _ => {}
        }
    }
}
