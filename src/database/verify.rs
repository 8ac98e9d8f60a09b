//! Finding out what the database holds of a run: rows by their ids, and tickets.

use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::connect::Connector;
use super::link::{Link, LinkError};
use crate::outcome::chain;
use crate::result::{TableRows, Verification};
use crate::workload::request::TAG_BYTES;

/// How long all of it may take. A server that is down is waited for meanwhile.
pub const WITHIN: Duration = Duration::from_secs(60);

/// Between two looks at a server that is down or still busy.
const PAUSE: Duration = Duration::from_millis(300);

/// Ids that are looked up at once.
const AT_ONCE: usize = 10_000;

/// What a run says of itself.
#[derive(Clone, Debug)]
pub struct Claims {
    /// Requests whose COMMIT was acknowledged.
    pub acknowledged: u64,
    /// Requests of which that is not known.
    pub unsettled: u64,
    /// Ids of those in `chat_inference`, as far as they were kept.
    pub unsettled_ids: Vec<Uuid>,
    /// What the ids of its rows have in common.
    pub tag: [u8; 4],
    /// The first and the last time in its ids, milliseconds since 1970.
    pub unix_ms: (u64, u64),
    /// Whether `variant_by_episode` was written.
    pub experimentation: bool,
    /// [`tickets_taken`] before the run, where the tickets are to be counted.
    pub tickets_before: Option<u64>,
    /// Under which name its connections show.
    pub application_name: String,
}

/// Looks for everything that `claims` says.
pub async fn verify(connector: &Connector, claims: &Claims) -> Verification {
    let mut last_error = None;
    let found = tokio::time::timeout(WITHIN, async {
        loop {
            match look(connector, claims).await {
                Ok(found) => return Ok(found),
                Err(error) if !error.may_pass => return Err(error.text),
                Err(error) => last_error = Some(error.text),
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
    let error = match found {
        Ok(Ok(found)) => return found,
        Ok(Err(error)) => error,
        Err(_) => {
            let why = last_error.map_or(String::new(), |error| format!(": {error}"));
            format!("the database did not tell within {} s{why}", WITHIN.as_secs())
        }
    };
    Verification::failed(claims.acknowledged, claims.unsettled, error)
}

/// Why nothing was found out this time.
struct LookError {
    text: String,
    /// Whether it may be otherwise in a moment, as where the server is just being started again.
    may_pass: bool,
}

impl From<LinkError> for LookError {
    fn from(error: LinkError) -> Self {
        // Connection exceptions, insufficient resources, operator intervention; all others say that it cannot be done.
        let passing = |state: &str| ["08", "53", "57"].iter().any(|class| state.starts_with(class));
        let may_pass = error.code().is_none_or(|state| passing(state.code()));
        Self { text: chain(&error), may_pass }
    }
}

async fn look(connector: &Connector, claims: &Claims) -> Result<Verification, LookError> {
    let mut link = Link::open(connector).await.map_err(|error| LookError { text: chain(&error), may_pass: true })?;
    let found = look_with(&mut link, claims).await;
    link.close().await;
    found
}

async fn look_with(link: &mut Link, claims: &Claims) -> Result<Verification, LookError> {
    // A session may outlive its connection, and commit later.
    let busy = if claims.unsettled > 0 { busy_sessions(link, &claims.application_name).await } else { 0 };
    if busy > 0 {
        let text = format!("{busy} sessions of this test are still at work, so that more may be committed");
        return Err(LookError { text, may_pass: true });
    }
    let (mut committed, mut looked_up) = (0, 0);
    for ids in claims.unsettled_ids.chunks(AT_ONCE) {
        let texts: Vec<String> = ids.iter().map(Uuid::to_string).collect();
        let sql = "SELECT count(*) FROM chat_inference WHERE id = ANY($1::uuid[])";
        committed += count(link, sql, &[(&texts, Type::TEXT_ARRAY)]).await?;
        looked_up += ids.len() as u64;
    }
    let keys = [("chat_inference", "id"), ("model_inference", "id"), ("variant_by_episode", "episode_id")];
    let mut tables = Vec::new();
    for (table, id) in &keys[..if claims.experimentation { 3 } else { 2 }] {
        tables.push(TableRows { table: (*table).to_owned(), rows: rows(link, table, id, claims).await? });
    }
    let tickets_taken = match claims.tickets_before {
        Some(before) => Some(tickets_taken(link).await?.saturating_sub(before)),
        None => None,
    };
    Ok(Verification {
        acknowledged: claims.acknowledged,
        unsettled: claims.unsettled,
        committed,
        not_committed: looked_up.saturating_sub(committed),
        tables,
        tickets_taken,
        error: None,
    })
}

/// How many other sessions of this name are busy; none where the server does not tell.
async fn busy_sessions(link: &mut Link, application_name: &str) -> u64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = current_user \
               AND application_name = $1 AND pid <> pg_backend_pid() AND state <> 'idle'";
    count(link, sql, &[(&application_name, Type::TEXT)]).await.unwrap_or_default()
}

/// Rows whose ids were made by this process in this run.
async fn rows(link: &mut Link, table: &str, id: &str, claims: &Claims) -> Result<u64, LinkError> {
    let sql = format!(
        "SELECT count(*) FROM {table} WHERE {id} BETWEEN $1::uuid AND $2::uuid \
         AND substring(uuid_send({id}) from {} for {}) = $3",
        TAG_BYTES.start + 1,
        TAG_BYTES.len()
    );
    let (first_ms, last_ms) = claims.unix_ms;
    let first = Uuid::from_u128(u128::from(first_ms) << 80).to_string();
    let last = Uuid::from_u128(((u128::from(last_ms) + 1) << 80) - 1).to_string();
    let tag = claims.tag.as_slice();
    count(link, &sql, &[(&first, Type::TEXT), (&last, Type::TEXT), (&tag, Type::BYTEA)]).await
}

/// How many requests have taken a ticket since the tables were emptied: the first of a key leaves 1,000 tickets, and
/// each further one takes one of them.
///
/// # Errors
/// The driver's.
pub async fn tickets_taken(link: &mut Link) -> Result<u64, LinkError> {
    count(link, "SELECT coalesce(sum(1001 - tickets), 0)::bigint FROM resource_bucket", &[]).await
}

async fn count(link: &mut Link, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<u64, LinkError> {
    // Counting takes as long as the tables are large.
    let rows = link.run_within(Some(WITHIN), async |client| client.query_typed(sql, parameters).await).await?;
    let found: Option<i64> = rows.first().map(|row| row.try_get(0)).transpose()?;
    Ok(found.and_then(|count| u64::try_from(count).ok()).unwrap_or_default())
}
