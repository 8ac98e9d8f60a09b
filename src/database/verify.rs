//! Finding out what the database holds of a run: rows by their ids, and tickets.

use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::evidence::{Doubt, Evidence, Form};
use crate::measure::outcome::chain;
use crate::postgres::connect::Connector;
use crate::postgres::link::{Link, LinkError};
use crate::result::{TableRows, Verification};
use crate::workload::request::TAG_BYTES;

/// How long all of it may take. A server that is down is waited for meanwhile.
pub const WITHIN: Duration = Duration::from_secs(60);

/// Between two looks at a server that is down or still busy.
const PAUSE: Duration = Duration::from_millis(300);

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
    /// What the tables were before the load, where it is known.
    pub before: Option<(Form, Evidence)>,
    /// What somebody else was seen to do to the tables during the run.
    pub disturbed: Option<Doubt>,
}

/// How long statistics of the server may be behind, or a standby: PostgreSQL 15 and later write them after 10 s.
const LATE_WITHIN: Duration = Duration::from_secs(12);

/// Before missing rows are looked for once more.
const LATE_PAUSE: Duration = Duration::from_millis(1_500);

/// Looks for everything that `claims` says.
pub async fn verify(connector: &Connector, claims: &Claims) -> Verification {
    let (mut last_error, mut since) = (None, None);
    let mut waited = Duration::ZERO;
    let found = tokio::time::timeout(WITHIN, async {
        loop {
            match look(connector, claims, &mut since).await {
                Ok((found, now)) => {
                    let Some(short) = found.shortfall() else { return Ok(found) };
                    // The gravest word is not said after one look.
                    match claims.doubt(&found, now.as_ref()) {
                        Some(doubt) if !doubt.may_pass || waited >= LATE_WITHIN => {
                            return Err(format!("{} ({short})", doubt.text));
                        }
                        None if !waited.is_zero() => return Ok(found),
                        _ => {}
                    }
                    tokio::time::sleep(LATE_PAUSE).await;
                    waited += LATE_PAUSE;
                    continue;
                }
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

impl Claims {
    /// What else explains that rows are missing.
    fn doubt(&self, found: &Verification, now: Option<&Evidence>) -> Option<Doubt> {
        let (Some((_, before)), Some(now)) = (&self.before, now) else {
            let text = "this server does not tell whether somebody else emptied or changed the tables";
            return Some(Doubt { text: text.to_owned(), may_pass: false });
        };
        self.disturbed.clone().or_else(|| before.doubt(now, &found.short_tables(), self.acknowledged))
    }
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

/// What the database holds, and what the tables are at the same moment.
type Looked = (Verification, Option<Evidence>);

async fn look(connector: &Connector, claims: &Claims, since: &mut Option<String>) -> Result<Looked, LookError> {
    let mut link = Link::open(connector).await.map_err(|error| LookError { text: chain(&error), may_pass: true })?;
    let found = look_with(&mut link, claims, since).await;
    link.close().await;
    found
}

async fn look_with(link: &mut Link, claims: &Claims, since: &mut Option<String>) -> Result<Looked, LookError> {
    if claims.unsettled > 0 {
        // A session may outlive its connection, and commit later.
        let busy = busy_sessions(link, since).await;
        if busy > 0 {
            let text = format!("sessions that wrote when the run ended still do ({busy}), and may commit");
            return Err(LookError { text, may_pass: true });
        }
    }
    // All in one statement, so that it is one moment of which all counts tell.
    let tickets = match claims.tickets_before {
        Some(_) => TICKETS,
        None => "SELECT NULL::bigint",
    };
    let variants = match claims.experimentation {
        true => rows_of("variant_by_episode", "episode_id"),
        false => "SELECT NULL::bigint".to_owned(),
    };
    let evidence = claims.before.as_ref().map_or("NULL::text".to_owned(), |(form, _)| form.sql());
    let sql = format!(
        "SELECT ({}), ({}), ({variants}), ({tickets}), \
         (SELECT count(*) FROM chat_inference WHERE id = ANY($4::uuid[])), {evidence}",
        rows_of("chat_inference", "id"),
        rows_of("model_inference", "id"),
    );
    let (first_ms, last_ms) = claims.unix_ms;
    let first = Uuid::from_u128(u128::from(first_ms) << 80).to_string();
    let last = Uuid::from_u128(((u128::from(last_ms) + 1) << 80) - 1).to_string();
    let tag = claims.tag.as_slice();
    let in_doubt: Vec<String> = claims.unsettled_ids.iter().map(Uuid::to_string).collect();
    let parameters: [(&(dyn ToSql + Sync), Type); 4] =
        [(&first, Type::TEXT), (&last, Type::TEXT), (&tag, Type::BYTEA), (&in_doubt, Type::TEXT_ARRAY)];
    // Counting takes as long as the tables are large.
    let rows = link.run_within(Some(WITHIN), async |client| client.query_typed(&sql, &parameters).await).await?;
    let (mut counts, mut now) = ([None; 5], None);
    if let Some(row) = rows.first() {
        for (column, count) in counts.iter_mut().enumerate() {
            let found: Option<i64> = row.try_get(column).map_err(LinkError::from)?;
            *count = found.and_then(|count| u64::try_from(count).ok());
        }
        let text: Option<String> = row.try_get(counts.len()).map_err(LinkError::from)?;
        now = text.and_then(|text| Evidence::parse(&text));
    }
    let [chats, models, variants, tickets, committed] = counts;
    let tables = [("chat_inference", chats), ("model_inference", models), ("variant_by_episode", variants)];
    let committed = committed.unwrap_or_default();
    let found = Verification {
        acknowledged: claims.acknowledged,
        unsettled: claims.unsettled,
        unverified: 0,
        committed,
        not_committed: (claims.unsettled_ids.len() as u64).saturating_sub(committed),
        tables: tables
            .into_iter()
            .filter_map(|(table, rows)| Some(TableRows { table: table.to_owned(), rows: rows? }))
            .collect(),
        tickets_taken: claims.tickets_before.map(|before| tickets.unwrap_or_default().saturating_sub(before)),
        error: None,
    };
    Ok((found, now))
}

/// How many other sessions are still in a transaction that writes our tables and began before this was first asked, at
/// `since`: one of this run may be among them. None where the server does not tell. Names would not do, since strings,
/// users and poolers change them.
async fn busy_sessions(link: &mut Link, since: &mut Option<String>) -> u64 {
    if since.is_none() {
        // What was sent last may still be unread, where nobody sees it.
        tokio::time::sleep(PAUSE).await;
        let sql = "SELECT extract(epoch FROM clock_timestamp())::text";
        let rows = link.run(async |client| client.query_typed(sql, &[]).await).await.unwrap_or_default();
        *since = rows.first().and_then(|row| row.try_get(0).ok());
    }
    let sql = "SELECT count(*) FROM pg_stat_activity AS session WHERE datname = current_database() \
               AND usename = current_user AND xact_start <= to_timestamp($1::float8) \
               AND EXISTS (SELECT FROM pg_locks WHERE pg_locks.pid = session.pid AND mode = 'RowExclusiveLock' \
               AND relation IN ('chat_inference'::regclass, 'model_inference'::regclass, \
               'resource_bucket'::regclass, 'variant_by_episode'::regclass))";
    count(link, sql, &[(&*since, Type::TEXT)]).await.unwrap_or_default()
}

/// Counts the rows whose ids were made by this process in this run.
fn rows_of(table: &str, id: &str) -> String {
    format!(
        "SELECT count(*) FROM {table} WHERE {id} BETWEEN $1::uuid AND $2::uuid \
         AND substring(uuid_send({id}) from {} for {}) = $3",
        TAG_BYTES.start + 1,
        TAG_BYTES.len()
    )
}

const TICKETS: &str = "SELECT coalesce(sum(1001 - tickets), 0)::bigint FROM resource_bucket";

/// How many requests have taken a ticket since the tables were emptied: the first of a key leaves 1,000 tickets, and
/// each further one takes one of them.
///
/// # Errors
/// The driver's.
pub async fn tickets_taken(link: &mut Link) -> Result<u64, LinkError> {
    count(link, TICKETS, &[]).await
}

/// As [`tickets_taken`], after the run; `None` where the count says nothing of the run, because the table is not what it was
/// `before` it.
///
/// # Errors
/// The driver's.
pub async fn tickets_taken_since(link: &mut Link, before: &(Form, Evidence)) -> Result<Option<u64>, LinkError> {
    let (form, before) = before;
    let sql = format!("SELECT ({TICKETS}), {}", form.sql());
    let rows = link.run_within(Some(WITHIN), async |client| client.query_typed(&sql, &[]).await).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (taken, now): (Option<i64>, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
    let now = now.and_then(|text| Evidence::parse(&text));
    let is_same = now.is_some_and(|now| before.replaced(&now, &["resource_bucket"]).is_none());
    Ok(taken.and_then(|taken| u64::try_from(taken).ok()).filter(|_| is_same))
}

async fn count(link: &mut Link, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<u64, LinkError> {
    // Counting takes as long as the tables are large.
    let rows = link.run_within(Some(WITHIN), async |client| client.query_typed(sql, parameters).await).await?;
    let found: Option<i64> = rows.first().map(|row| row.try_get(0)).transpose()?;
    Ok(found.and_then(|count| u64::try_from(count).ok()).unwrap_or_default())
}
