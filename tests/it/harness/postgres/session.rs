//! Sessions in which the harness asks a server. One that is idle is used again: to open one takes the server more of a
//! processor than most questions do, and tests that wait ask often.

use std::sync::{Mutex, PoisonError};

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};

struct Session {
    client: Client,
    driver: JoinHandle<Result<(), Error>>,
    runtime: Runtime,
}

impl Session {
    fn open(config: &Config) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (client, connection) = runtime.block_on(config.connect(NoTls))?;
        let driver = runtime.spawn(connection);
        Ok(Self { client, driver, runtime })
    }

    fn ask(&self, sql: &str) -> Result<String, Error> {
        let messages = self.runtime.block_on(self.client.simple_query(sql))?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let values: Vec<&str> = (0..row.len()).map(|column| row.get(column).unwrap_or_default()).collect();
                Some(values.join("|"))
            }
            _ => None,
        });
        Ok(rows.collect::<Vec<_>>().join("\n"))
    }

    /// Until the server has closed it too, so that nobody counts it.
    fn close(self) {
        let Self { client, driver, runtime } = self;
        drop(client);
        let _ = runtime.block_on(driver);
    }
}

/// The idle session of a server, if there is one.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Option<Session>>);

impl Sessions {
    fn idle(&self) -> Option<Session> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The answer to `sql` in the database that the harness uses.
    pub(super) fn ask(&self, config: &Config, sql: &str) -> Result<String, Error> {
        apart(|| {
            let session = match self.idle() {
                // It may have been terminated.
                Some(session) if session.ask("").is_ok() => session,
                _ => Session::open(config)?,
            };
            let answer = session.ask(sql)?;
            let former = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(session);
            former.into_iter().for_each(Session::close);
            Ok(answer)
        })
    }

    /// Closes it, before something happens to the server that sessions would be in the way of.
    pub(super) fn close(&self) {
        if let Some(session) = self.idle() {
            apart(|| session.close());
        }
    }
}

/// The answer to `sql` in a session of its own.
pub(super) fn ask_once(config: &Config, sql: &str) -> Result<String, Error> {
    apart(|| {
        let session = Session::open(config)?;
        let answer = session.ask(sql);
        session.close();
        answer
    })
}

/// In a thread of its own, because a test may have a runtime already.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}
