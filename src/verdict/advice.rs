//! What to do about what the figures show. Pure.
//!
//! Advice needs evidence in the same result, and never contradicts the status, a warning or other advice. Where the
//! evidence allows several causes, it says nothing.

use crate::result::{Limit, LimitKind, RunResult};

/// In the order of importance.
pub(super) fn advice(result: &RunResult, limit: &Limit) -> Vec<String> {
    let errors = [prepared_statements(result), connections(result), idle_in_transaction(result)].into_iter().flatten();
    let advice: Vec<String> = errors.collect();
    // Such errors come first: what else the figures show may be their consequence. Where the generator is the limit, the
    // reason of the verdict says what to do; and where nothing limits, there is nothing to do.
    if !advice.is_empty() || matches!(limit.kind, LimitKind::None | LimitKind::Generator) {
        return advice;
    }
    // How fast it was, and what would help, is said in one place.
    limit.r#try.clone()
}

fn has_error(result: &RunResult, states: &[&str]) -> bool {
    result.errors.iter().any(|error| error.sqlstate.as_deref().is_some_and(|state| states.contains(&state)))
}

fn prepared_statements(result: &RunResult) -> Option<String> {
    (result.config.prepared_statements && has_error(result, &["26000", "42P05"])).then(|| {
        "The server does not know statements that were prepared: probably a pooler in transaction mode is in between. \
         Add --no-prepared-statements."
            .to_owned()
    })
}

/// This program never pauses within a transaction: whatever did so was stopped, or cut off.
fn idle_in_transaction(result: &RunResult) -> Option<String> {
    has_error(result, &["25P03"]).then(|| {
        "The server ended sessions that stood still within a transaction (idle_in_transaction_session_timeout; this tool \
         sets 10 s, so that locks are released): see what stopped the generator, or cut it off."
            .to_owned()
    })
}

fn connections(result: &RunResult) -> Option<String> {
    let fewer = if result.config.workers > 1 { "Lower --workers, or raise" } else { "Raise" };
    has_error(result, &["53300"]).then(|| {
        format!(
            "Connections were refused because a limit was reached. {fewer} that limit: the server's max_connections, or \
             CONNECTION LIMIT of the role or the database."
        )
    })
}

#[cfg(test)]
mod tests;
