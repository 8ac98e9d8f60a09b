//! Whether the role may do what a run does, asked before anything is emptied or written. `role.sql` gives these rights.

use tokio_postgres::types::Type;

use super::schema::SchemaError;
use crate::postgres::link::Link;
use crate::workload::Workload;
use crate::workload::table::Role;

/// A right and the tables that it is missing on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Right {
    name: &'static str,
    table: &'static str,
}

/// What a run of this workload needs beside connecting.
fn needed(workload: &Workload, reset: bool, verify: bool) -> Vec<Right> {
    let mut rights = Vec::new();
    for table in workload.tables().iter().filter(|table| workload.uses(table)) {
        let names: &[&str] = match table.role {
            Role::Inserted if verify => &["INSERT", "SELECT"],
            Role::Inserted => &["INSERT"],
            Role::Upserted | Role::Shared => &["INSERT", "SELECT", "UPDATE"],
            Role::Source => &["SELECT"],
        };
        rights.extend(names.iter().map(|name| Right { name, table: table.name }));
    }
    if reset {
        rights.extend(workload.written_tables().map(|table| Right { name: "TRUNCATE", table }));
    }
    rights
}

/// Checks that the role has all rights that a run needs. A right on some columns counts: whether they are the right
/// ones shows in the run, and nobody is refused wrongly. Where the server does not tell, nothing is refused.
pub async fn check(link: &mut Link, workload: &Workload, reset: bool, verify: bool) -> Result<(), SchemaError> {
    let needed = needed(workload, reset, verify);
    let names: Vec<&str> = needed.iter().map(|right| right.name).collect();
    let tables: Vec<&str> = needed.iter().map(|right| right.table).collect();
    let sql = "SELECT CASE WHEN name = 'TRUNCATE' THEN has_table_privilege(to_regclass(tab)::oid, name) \
               ELSE has_any_column_privilege(to_regclass(tab)::oid, name) END \
               FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted(name, tab, position) ORDER BY position";
    let rows = match link.query(sql, &[(&names, Type::TEXT_ARRAY), (&tables, Type::TEXT_ARRAY)]).await {
        Ok(rows) => rows,
        Err(error) if error.code().is_some() => return Ok(()),
        Err(error) => return Err(SchemaError::of("ask for the role's rights", &error)),
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
    let written = workload.tables().iter().filter(|table| table.role != Role::Source && workload.uses(table));
    let tables: Vec<&str> = written.map(|table| table.name).collect();
    let sql = "SELECT name FROM unnest($1::text[]) WITH ORDINALITY AS written(name, position) \
               WHERE row_security_active(to_regclass(name)::oid) ORDER BY position";
    match link.query(sql, &[(&tables, Type::TEXT_ARRAY)]).await {
        Ok(rows) if rows.is_empty() => Ok(()),
        Ok(rows) => Err(SchemaError::RowSecurity(rows.iter().filter_map(|row| row.try_get(0).ok()).collect())),
        Err(error) if error.code().is_some() => Ok(()),
        Err(error) => Err(SchemaError::of("ask for row security", &error)),
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

    #[test]
    fn what_is_missing_is_told_by_right() {
        assert_eq!(needed(&Workload::of_kb(1.0).without_upserts(), false, false).len(), 2);
        let all = sentence(&needed(&Workload::of_kb(1.0).with_material(), true, true));
        let tables = "chat_inference, model_inference, resource_bucket, variant_by_episode";
        let expected = format!(
            "INSERT on {tables}; SELECT on {tables}, loadtest_payload_pool; UPDATE on resource_bucket, \
             variant_by_episode; TRUNCATE on {tables}. Have the owner"
        );
        assert!(all.starts_with(&expected), "{all}");
        let reset = sentence(&[Right { name: "TRUNCATE", table: "chat_inference" }]);
        assert!(reset.starts_with("TRUNCATE on chat_inference. Add --no-reset, have the owner"), "{reset}");
    }
}
