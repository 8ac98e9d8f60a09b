//! Finding out what the database holds of a run: the counts of its workload.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::evidence::{Baseline, Doubt, Evidence};
use crate::measure::outcome::chain;
use crate::postgres::connect::Connector;
use crate::postgres::link::{Link, LinkError, Parameters};
use crate::result::{TableRows, Verification};
use crate::workload::Workload;
use crate::workload::table::Total;

/// How long all of it may take. A server that is down is waited for meanwhile.
pub const WITHIN: Duration = Duration::from_secs(60);

/// Between two looks at a server that is down or still busy.
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Clone, Debug)]
pub struct Claims {
    /// Requests whose COMMIT was acknowledged.
    pub acknowledged: u64,
    /// Requests of which that is not known.
    pub unsettled: u64,
    /// By which those can be looked up, as far as they were kept.
    pub unsettled_ids: Vec<Uuid>,
    /// What the ids of its rows have in common.
    pub tag: [u8; 4],
    /// The first and the last time in its ids, milliseconds since 1970.
    pub unix_ms: (u64, u64),
    pub workload: Workload,
    /// [`total`] before the run, where the process is the whole test.
    pub total_before: Option<u64>,
    /// What the tables were before the load, where it is known.
    pub before: Option<Baseline>,
    /// What somebody else was seen to do to the tables during the run.
    pub disturbed: Option<Doubt>,
}

/// How long statistics of the server may be behind, or a standby: PostgreSQL 15 and later write them after 10 s.
const LATE_WITHIN: Duration = Duration::from_secs(12);

/// Before missing rows are looked for once more.
const LATE_PAUSE: Duration = Duration::from_millis(1_500);

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
    fn doubt(&self, found: &Verification, now: Option<&Evidence>) -> Option<Doubt> {
        let (Some(before), Some(now)) = (&self.before, now) else {
            return Some(Doubt::lasting(
                "this server does not tell whether somebody else emptied or changed the tables",
            ));
        };
        self.disturbed.clone().or_else(|| before.doubt(now, &found.short_tables(), self.acknowledged))
    }
}

impl From<LinkError> for Doubt {
    fn from(error: LinkError) -> Self {
        // Connection exceptions, insufficient resources, operator intervention; all others say that it cannot be done.
        let passing = |state: &str| ["08", "53", "57"].iter().any(|class| state.starts_with(class));
        let may_pass = error.code().is_none_or(|state| passing(state.code()));
        Self { text: chain(&error), may_pass }
    }
}

/// What the database holds, and what the tables are at the same moment.
type Looked = (Verification, Option<Evidence>);

async fn look(connector: &Connector, claims: &Claims, since: &mut Option<String>) -> Result<Looked, Doubt> {
    let looked = Link::once(connector, async |link| look_with(link, claims, since).await).await;
    looked.unwrap_or_else(|error| Err(Doubt::passing(chain(&error))))
}

async fn look_with(link: &mut Link, claims: &Claims, since: &mut Option<String>) -> Result<Looked, Doubt> {
    if claims.unsettled > 0 {
        // A session may outlive its connection, and commit later.
        let busy = busy_sessions(link, &claims.workload, since).await;
        if busy > 0 {
            return Err(Doubt::passing(format!(
                "sessions that wrote when the run ended still do ({busy}), and may commit"
            )));
        }
    }
    // All in one statement, so that all counts are of the same moment.
    let (counts, workload) = (claims.workload.counts(), &claims.workload);
    let total = workload.total().filter(|_| claims.total_before.is_some());
    let mut columns: Vec<&str> = counts.iter().map(|count| count.sql.as_str()).collect();
    columns.extend([workload.committed_sql(), total.map_or("SELECT NULL::bigint", |total| total.sql)]);
    let evidence = claims.before.as_ref().map_or("NULL::text".to_owned(), Baseline::sql);
    let sql = format!("SELECT ({}), {evidence}", columns.join("), ("));
    let (first_ms, last_ms) = claims.unix_ms;
    let first = Uuid::from_u128(u128::from(first_ms) << 80).to_string();
    let last = Uuid::from_u128(((u128::from(last_ms) + 1) << 80) - 1).to_string();
    let tag = claims.tag.as_slice();
    let in_doubt: Vec<String> = claims.unsettled_ids.iter().map(Uuid::to_string).collect();
    let parameters: [(&(dyn ToSql + Sync), Type); 4] =
        [(&first, Type::TEXT), (&last, Type::TEXT), (&tag, Type::BYTEA), (&in_doubt, Type::TEXT_ARRAY)];
    // Counting takes as long as the tables are large.
    let rows = link.query_within(Some(WITHIN), &sql, &parameters).await?;
    let row = rows.first().ok_or_else(|| Doubt::passing("the database answered without a row"))?;
    let found = |column| number(row, column);
    let text: Option<String> = row.try_get(columns.len()).map_err(LinkError::from)?;
    let now = text.and_then(|text| Evidence::parse(&text));
    let mut tables = Vec::new();
    for (column, count) in counts.iter().enumerate() {
        tables.push(TableRows { table: count.name.to_owned(), rows: found(column)?.unwrap_or_default() });
    }
    let committed = found(counts.len())?.unwrap_or_default();
    let total = found(counts.len() + 1)?;
    let found = Verification {
        acknowledged: claims.acknowledged,
        unsettled: claims.unsettled,
        unverified: 0,
        committed,
        not_committed: (claims.unsettled_ids.len() as u64).saturating_sub(committed),
        tables,
        total: total.zip(claims.total_before).map(|(total, before)| total.saturating_sub(before)),
        error: None,
    };
    Ok((found, now))
}

/// How many other sessions are still in a transaction that writes our tables and began before this was first asked, at
/// `since`: one of this run may be among them. None where the server does not tell. Names would not do, since strings,
/// users and poolers change them.
async fn busy_sessions(link: &mut Link, workload: &Workload, since: &mut Option<String>) -> u64 {
    if since.is_none() {
        // What was sent last may still be unread, where nobody sees it.
        tokio::time::sleep(PAUSE).await;
        *since = link.ask_one("SELECT extract(epoch FROM clock_timestamp())::text").await.ok().flatten();
    }
    let tables = workload.written_tables().map(|table| format!("'{table}'::regclass")).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity AS session WHERE datname = current_database() \
         AND usename = current_user AND xact_start <= to_timestamp($1::float8) \
         AND EXISTS (SELECT FROM pg_locks WHERE pg_locks.pid = session.pid AND mode = 'RowExclusiveLock' \
         AND relation IN ({tables}))"
    );
    count(link, &sql, &[(&*since, Type::TEXT)]).await.unwrap_or_default()
}

/// [`Workload::total`], as it stands now.
pub async fn total(link: &mut Link, total: &Total) -> Result<u64, LinkError> {
    count(link, total.sql, &[]).await
}

/// As [`total`], after the run; `None` where the count says nothing of the run, because the table is not what it was
/// `before` it.
pub async fn total_since(link: &mut Link, total: &Total, before: &Baseline) -> Result<Option<u64>, LinkError> {
    let sql = format!("SELECT ({}), {}", total.sql, before.sql());
    let rows = link.query_within(Some(WITHIN), &sql, &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let now = row.try_get::<_, Option<String>>(1)?.and_then(|text| Evidence::parse(&text));
    let is_same = now.is_some_and(|now| before.replaced(&now, &[total.table]).is_none());
    Ok(number(row, 0)?.filter(|_| is_same))
}

async fn count(link: &mut Link, sql: &str, parameters: Parameters<'_>) -> Result<u64, LinkError> {
    // Counting takes as long as the tables are large.
    let rows = link.query_within(Some(WITHIN), sql, parameters).await?;
    let found = rows.first().map(|row| number(row, 0)).transpose()?;
    Ok(found.flatten().unwrap_or_default())
}

/// A bigint that is no less than 0.
fn number(row: &Row, column: usize) -> Result<Option<u64>, LinkError> {
    Ok(row.try_get::<_, Option<i64>>(column)?.and_then(|number| u64::try_from(number).ok()))
}
