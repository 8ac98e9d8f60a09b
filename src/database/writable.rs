//! Whether the session may write at all, and where not, why: asked before anything is made, emptied or loaded.

use crate::postgres::link::{Link, LinkError};

/// Why transactions are read-only, and what to do: a sentence for [`super::schema::SchemaError::ReadOnly`].
///
/// # Errors
/// There is no answer. A server that does not know the question is taken for one that writes.
pub async fn why_not(link: &mut Link) -> Result<Option<String>, LinkError> {
    // The setting of the transaction, which a standby turns on whatever the default is.
    let sql = "SELECT pg_catalog.current_setting('transaction_read_only'), pg_catalog.pg_is_in_recovery(), \
               (SELECT source FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only'), \
               pg_catalog.quote_ident(session_user), pg_catalog.quote_ident(pg_catalog.current_database())";
    let rows = match link.ask(sql).await {
        Ok(rows) => rows,
        Err(error) if error.code().is_some() => return Ok(None),
        Err(error) => return Err(error),
    };
    let column = |at| rows.first().and_then(|row| row.try_get(at).ok().flatten()).unwrap_or_default();
    if column(0) != "on" {
        return Ok(None);
    }
    Ok(Some(sentence(column(1) == "t", column(2), column(3), column(4))))
}

/// `source` is where the server says that `default_transaction_read_only` was set.
fn sentence(is_standby: bool, source: &str, role: &str, database: &str) -> String {
    const SETTING: &str = "default_transaction_read_only";
    if is_standby {
        return "the server is a standby (in recovery), where nothing can be written: point --postgres-url at the primary"
            .to_owned();
    }
    let reset = |what: &str| format!("use another role, or run ALTER {what} RESET {SETTING}");
    let (place, remedy) = match source {
        "user" => (format!("for the role {role}"), reset(&format!("ROLE {role}"))),
        "database user" => (
            format!("for the role {role} in the database {database}"),
            reset(&format!("ROLE {role} IN DATABASE {database}")),
        ),
        "database" => (
            format!("for the database {database}"),
            format!("use another database, or run ALTER DATABASE {database} RESET {SETTING}"),
        ),
        "client" => ("by options in --postgres-url or PGOPTIONS".to_owned(), "leave it out there".to_owned()),
        "session" | "interactive" => (
            "in this session, as a pooler does that hands on the sessions of others".to_owned(),
            "connect past the pooler, or let it reset its sessions".to_owned(),
        ),
        "default" => {
            return "transactions are read-only, and the server does not say why: see its log and settings".to_owned();
        }
        _ => (
            "for the whole server".to_owned(),
            "turn it off there; some providers turn it on when the disk is nearly full".to_owned(),
        ),
    };
    format!("{SETTING} is on {place}, so nothing can be written: {remedy}")
}
