//! Tables of our names that somebody else made: how many rows they hold, and how to get rid of those that may go.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::schema::SchemaError;
use crate::postgres::link::Link;
use crate::text::words::thousands;

/// Rows of a table that are counted; beyond that the planner's estimate is told.
const MOST_COUNTED: i64 = 10_000;

/// How long counting the rows of one table may take: it may be locked.
const COUNTED_WITHIN: Duration = Duration::from_secs(2);

/// Adds to a refusal of foreign tables what they hold and how they are dropped. Every other result stays as it is.
pub async fn explained<T>(link: &mut Link, result: Result<T, SchemaError>) -> Result<T, SchemaError> {
    match result {
        Err(SchemaError::NotOurs { tables, .. }) => {
            let more = more(link, &tables).await.unwrap_or_default();
            Err(SchemaError::NotOurs { tables, more })
        }
        result => result,
    }
}

/// `None` where the server does not tell.
async fn more(link: &mut Link, names: &[String]) -> Option<String> {
    let sql = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind::text, c.reltuples::int8 \
               FROM unnest($1::text[]) WITH ORDINALITY AS wanted(name, position) \
               JOIN pg_class c ON c.oid = to_regclass(wanted.name) JOIN pg_namespace n ON n.oid = c.relnamespace \
               ORDER BY position";
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let rows = link.query(sql, &[(&names, Type::TEXT_ARRAY)]).await.ok()?;
    let mut holds = Vec::new();
    for row in &rows {
        let (table, estimate): (String, i64) = (row.get(0), row.get(2));
        holds.extend(rows_of(link, &table, estimate).await.map(|rows| format!("{table} has {rows}")));
    }
    // What is no table, such as a view, is dropped by another statement, and was never a load test's.
    let tables: Vec<String> =
        rows.iter().filter(|row| ["r", "p"].contains(&row.get::<_, &str>(1))).map(|row| row.get(0)).collect();
    let holds = if holds.is_empty() { String::new() } else { format!(" {}.", holds.join(", ")) };
    if tables.len() < rows.len() {
        return Some(holds);
    }
    Some(format!(
        "{holds} Where they are those of the Python load test, which had the same names (TensorZero's own database has \
         tables of these names, too), they may be dropped: DROP TABLE {}. Otherwise",
        tables.join(", ")
    ))
}

/// `no rows`, `1 row`, `about 12,000 rows`; `None` where it cannot be told in time.
async fn rows_of(link: &mut Link, table: &str, estimate: i64) -> Option<String> {
    let sql = format!("SELECT count(*) FROM (SELECT FROM {table} LIMIT {}) AS counted", MOST_COUNTED + 1);
    let counted: i64 = link.query_within(Some(COUNTED_WITHIN), &sql, &[]).await.ok()?.first()?.try_get(0).ok()?;
    Some(match counted {
        0 => "no rows".to_owned(),
        1 => "1 row".to_owned(),
        n if n <= MOST_COUNTED => format!("{} rows", thousands(n.unsigned_abs())),
        _ if estimate > MOST_COUNTED => format!("about {} rows", thousands(estimate.unsigned_abs())),
        _ => format!("more than {} rows", thousands(MOST_COUNTED.unsigned_abs())),
    })
}
