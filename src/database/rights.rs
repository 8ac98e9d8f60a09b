//! Whether the role may do what a run does, asked before anything is emptied or written. `role.sql` gives these rights.

use tokio_postgres::types::Type;

use super::schema::{self, SchemaError};
use crate::postgres::link::Link;
use crate::workload::sql::{Write, statements};
use crate::workload::{POOL_TABLE, TABLES, Workload};

/// A right and the tables that it is missing on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Right {
    name: &'static str,
    table: &'static str,
}

/// What a run of this workload needs beside connecting.
fn needed(workload: &Workload, reset: bool, verify: bool) -> Vec<Right> {
    let mut rights = Vec::new();
    let mut need = |name, table| rights.push(Right { name, table });
    for write in statements(workload).into_iter().map(|statement| statement.write) {
        let table = write.table();
        need("INSERT", table);
        match write {
            Write::ChatInference | Write::ModelInference if verify => need("SELECT", table),
            Write::ChatInference | Write::ModelInference => {}
            Write::ResourceBucket | Write::VariantByEpisode => {
                need("SELECT", table);
                need("UPDATE", table);
            }
        }
    }
    if workload.server_side_data {
        need("SELECT", POOL_TABLE);
    }
    if reset {
        TABLES.into_iter().for_each(|table| need("TRUNCATE", table));
    }
    rights
}

/// Checks that the role has all rights that a run needs. A right on some columns counts: whether they are the right
/// ones shows in the run, and nobody is refused wrongly. Where the server does not tell, nothing is refused.
///
/// # Errors
/// Rights are missing, or there is no answer.
pub async fn check(link: &mut Link, workload: &Workload, reset: bool, verify: bool) -> Result<(), SchemaError> {
    let needed = needed(workload, reset, verify);
    let names: Vec<&str> = needed.iter().map(|right| right.name).collect();
    let tables: Vec<&str> = needed.iter().map(|right| right.table).collect();
    let sql = "SELECT CASE WHEN name = 'TRUNCATE' THEN has_table_privilege(to_regclass(tab)::oid, name) \
               ELSE has_any_column_privilege(to_regclass(tab)::oid, name) END \
               FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted(name, tab, position) ORDER BY position";
    let parameters = async |client: &tokio_postgres::Client| {
        client.query_typed(sql, &[(&names, Type::TEXT_ARRAY), (&tables, Type::TEXT_ARRAY)]).await
    };
    let rows = match link.run(parameters).await {
        Ok(rows) => rows,
        Err(error) if error.code().is_some() => return Ok(()),
        Err(error) => return Err(schema::error("ask for the role's rights", &error)),
    };
    let has = rows.iter().map(|row| row.get::<_, Option<bool>>(0));
    let missing = needed.into_iter().zip(has).filter(|(_, has)| *has == Some(false));
    let missing: Vec<Right> = missing.map(|(right, _)| right).collect();
    if !missing.is_empty() {
        return Err(SchemaError::Rights(sentence(&missing)));
    }
    if verify { check_row_security(link, workload).await } else { Ok(()) }
}

/// Checks that row security hides no rows from the role, for `--verify` counts them. Where the server does not tell, nothing
/// is refused.
async fn check_row_security(link: &mut Link, workload: &Workload) -> Result<(), SchemaError> {
    let tables: Vec<&str> = statements(workload).into_iter().map(|statement| statement.write.table()).collect();
    let sql = "SELECT name FROM unnest($1::text[]) WITH ORDINALITY AS written(name, position) \
               WHERE row_security_active(to_regclass(name)::oid) ORDER BY position";
    match link.run(async |client| client.query_typed(sql, &[(&tables, Type::TEXT_ARRAY)]).await).await {
        Ok(rows) if rows.is_empty() => Ok(()),
        Ok(rows) => Err(SchemaError::RowSecurity(rows.iter().filter_map(|row| row.try_get(0).ok()).collect())),
        Err(error) if error.code().is_some() => Ok(()),
        Err(error) => Err(schema::error("ask for row security", &error)),
    }
}

/// What is missing, and what to do: `INSERT on a, b; UPDATE on b; …`
fn sentence(missing: &[Right]) -> String {
    let of = |name: &'static str| missing.iter().filter(move |right| right.name == name);
    let listed = ["INSERT", "SELECT", "UPDATE", "TRUNCATE"].into_iter().filter(|name| of(name).next().is_some());
    let listed: Vec<String> = listed
        .map(|name| format!("{name} on {}", of(name).map(|right| right.table).collect::<Vec<_>>().join(", ")))
        .collect();
    let only_reset = missing.iter().all(|right| right.name == "TRUNCATE");
    let remedy = if only_reset { "Add --no-reset, have" } else { "Have" };
    format!(
        "{}. {remedy} the owner of the tables run role.sql for it (psql -v role=NAME -f role.sql), or use another role in \
         --postgres-url",
        listed.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::payload::Sizes;

    fn workload(server_side_data: bool, upserts: bool) -> Workload {
        let sizes = Sizes { input: 100, output: 100, raw_request: 100, raw_response: 100 };
        Workload { sizes, rate_limiting: upserts, experimentation: upserts, server_side_data, seed: 1 }
    }

    #[test]
    fn what_is_missing_is_told_by_right() {
        assert_eq!(needed(&workload(false, false), false, false).len(), 2);
        let all = sentence(&needed(&workload(true, true), true, true));
        let tables = TABLES.join(", ");
        let expected = format!(
            "INSERT on {tables}; SELECT on {tables}, loadtest_payload_pool; UPDATE on resource_bucket, \
             variant_by_episode; TRUNCATE on {tables}. Have the owner"
        );
        assert!(all.starts_with(&expected), "{all}");
        let reset = sentence(&[Right { name: "TRUNCATE", table: "chat_inference" }]);
        assert!(reset.starts_with("TRUNCATE on chat_inference. Add --no-reset, have the owner"), "{reset}");
    }
}
