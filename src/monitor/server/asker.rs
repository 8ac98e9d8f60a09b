//! The monitor's connection: asks within limits, and tells an answer that is a refusal from no answer.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::error::Severity;

use super::snapshot::Row;
use crate::measure::outcome::chain;
use crate::postgres::connect::Connector;
use crate::postgres::link::{Link, LinkError};

/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How long an answer may take. The server gives up sooner, see [`LIMITS`], unless it has no time to.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How long the server may take for a statement, and how long a statement may wait for a lock.
const LIMITS: [(&str, u32); 2] = [("statement_timeout", 500), ("lock_timeout", 200)];

/// Characters of a reason that are kept.
const REASON_CHARS: usize = 200;

pub struct Asker {
    connector: Connector,
    link: Option<Link>,
    /// Before each question: limits that a pooler does not keep for us.
    prefix: String,
    is_pooled: bool,
    /// Questions that this connection has prepared, with their numbers.
    prepared: Vec<(String, u64)>,
    prepared_before: u64,
}

/// Why a question has no rows.
#[derive(Debug)]
pub enum NoRows {
    /// The server will not answer this question, and why: the role lacks a right, or the server lacks what was asked for.
    /// The connection is good.
    Refused(String),
    /// The server did not answer this time, and why: it is overloaded, or the statement took too long. The connection is
    /// good.
    NotNow(String),
    /// There was no answer. The connection is gone.
    Silent(String),
}

impl NoRows {
    pub fn reason(self) -> String {
        match self {
            Self::Refused(reason) | Self::NotNow(reason) | Self::Silent(reason) => reason,
        }
    }
}

impl Asker {
    /// Connects nowhere yet.
    pub fn new(connector: &Connector, application: &str, is_pooled: bool) -> Self {
        let set = |set: &str| LIMITS.map(|(name, ms)| format!("{set} {name} = {ms}; ")).concat();
        let connector = connector.with_application_name(application);
        let (connector, prefix) = if is_pooled {
            // A setting of the session would stay with the pooler's connection.
            (connector, set("SET LOCAL"))
        } else {
            let settings = format!("{}{}", connector.session_settings(), set("SET"));
            (connector.with_session_settings(&settings), String::new())
        };
        Self { connector, link: None, prefix, is_pooled, prepared: Vec::new(), prepared_before: 0 }
    }

    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// Connects in one attempt, so that nobody who needs a connection finds it taken twice.
    pub async fn connect(&mut self) -> Result<(), String> {
        self.link = None;
        self.prepared.clear();
        match timeout(CONNECT_WITHIN, Link::try_open(&self.connector)).await {
            Ok(Ok(link)) => {
                self.link = Some(link);
                Ok(())
            }
            Ok(Err(error)) => Err(short(&chain(&error))),
            Err(_) => Err(format!("no connection within {} s", CONNECT_WITHIN.as_secs())),
        }
    }

    pub async fn ask(&mut self, sql: &str) -> Result<Vec<Row>, NoRows> {
        let Some(link) = &mut self.link else { return Err(NoRows::Silent("there is no connection".to_owned())) };
        let sql = format!("{}{sql}", self.prefix);
        // Not `Link`'s own limit: that cancels, and a pooler may die of it (PgBouncer 1.18).
        let error = match timeout(ANSWER_WITHIN, link.ask_within(None, &sql)).await {
            Ok(Ok(rows)) => {
                return Ok(rows
                    .iter()
                    .map(|row| {
                        let values = row.columns().iter().enumerate();
                        values
                            .filter_map(|(at, column)| Some((column.name().to_owned(), row.get(at)?.to_owned())))
                            .collect()
                    })
                    .collect());
            }
            Ok(Err(error)) => error,
            Err(_) => {
                self.link = None;
                return Err(NoRows::Silent(format!("no answer within {} s", ANSWER_WITHIN.as_secs())));
            }
        };
        let reason = short(&chain(&error));
        if is_answer(&error) && link.io.is_open() {
            let is_final = error.code().is_some_and(|code| is_final(code.code()));
            return Err(if is_final { NoRows::Refused(reason) } else { NoRows::NotNow(reason) });
        }
        self.link = None;
        Err(NoRows::Silent(reason))
    }

    /// As [`Self::ask`], for what is asked again and again: the server plans it once for each connection, which is four
    /// fifths of its work. Behind a pooler nothing can be prepared.
    pub async fn ask_again(&mut self, sql: &str) -> Result<Vec<Row>, NoRows> {
        if self.is_pooled {
            return self.ask(sql).await;
        }
        let known = self.prepared.iter().find(|(known, _)| known == sql).map(|(_, number)| *number);
        let (number, text) = match known {
            Some(number) => (number, format!("EXECUTE monitor_{number}")),
            None => {
                self.prepared_before += 1;
                let number = self.prepared_before;
                self.prepared.push((sql.to_owned(), number));
                (number, format!("PREPARE monitor_{number} AS {sql}; EXECUTE monitor_{number}"))
            }
        };
        let answer = self.ask(&text).await;
        if answer.is_err() {
            // It may be there or not: next time it gets another name.
            self.prepared.retain(|(_, known)| *known != number);
        }
        answer
    }

    /// The value of `answer` in the first row.
    pub async fn ask_one(&mut self, sql: &str) -> Result<String, NoRows> {
        let rows = self.ask(sql).await?;
        let answer = rows.first().and_then(|row| row.get("answer")).cloned();
        answer.ok_or_else(|| NoRows::Refused("there is no answer".to_owned()))
    }

    pub async fn close(&mut self) {
        if let Some(link) = self.link.take() {
            link.close().await;
        }
    }
}

/// Whether it is the server's answer to the statement, and not the end of the session.
fn is_answer(error: &LinkError) -> bool {
    let LinkError::Database(error) = error else { return false };
    error.as_db_error().is_some_and(|error| error.parsed_severity().is_none_or(|severity| severity == Severity::Error))
}

/// Whether asking again would have the same answer: a name or a right that is missing (class 42), or something that the
/// server cannot do (0A). All else may pass, above all our own limits (57014, 55P03), which an overloaded server exceeds.
/// A prepared statement of the same name (42P05) is no reason either: each attempt has another name.
fn is_final(code: &str) -> bool {
    (code.starts_with("42") || code.starts_with("0A")) && code != "42P05"
}

/// One line of an error.
fn short(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(REASON_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_server_lacks_or_forbids_is_final() {
        for code in ["42501", "42P01", "42703", "42883", "0A000"] {
            assert!(is_final(code), "{code}");
        }
        for code in ["42P05", "57014", "55P03", "53100", "53200", "53300", "40001", "40P01", "57P01", "57P03", "XX000"]
        {
            assert!(!is_final(code), "{code}");
        }
    }
}
