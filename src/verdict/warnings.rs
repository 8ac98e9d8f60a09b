//! What the reader of the figures should know, as far as the figures themselves tell it. Pure.

use super::{lateness, stalls};
use crate::result::{RunResult, ServerInfo};
use crate::text::words::thousands;

/// What the reader of the figures should know, and can be told from the figures themselves: of a merged result, it says
/// what the same warnings of its VMs say, in sum.
pub(crate) fn of_figures(result: &RunResult) -> Vec<String> {
    let mut warnings = Vec::new();
    let accounting = &result.accounting;
    if accounting.unanswered() > 0 {
        warnings.push(format!(
            "{} of {} requests never got an answer ({} skipped, {} not started, {} unfinished{}); percentiles count \
             them as slower than any answer.",
            thousands(accounting.unanswered()),
            thousands(accounting.scheduled),
            thousands(accounting.skipped),
            thousands(accounting.not_started),
            thousands(accounting.unfinished),
            match accounting.unreported {
                0 => String::new(),
                unreported => format!(", {} unreported", thousands(unreported)),
            }
        ));
    }
    let settled = result.verification.as_ref().filter(|found| found.error.is_none());
    match settled {
        _ if accounting.unknown == 0 => {}
        None => warnings.push(format!(
            "{} requests may or may not be in the database: their connection died after COMMIT may have been sent.",
            thousands(accounting.unknown)
        )),
        Some(found) => warnings.push(format!(
            "Of {} requests whose answer was lost, {} were committed after all, and {} were not.",
            thousands(found.unsettled),
            thousands(found.committed),
            thousands(found.not_committed)
        )),
    }
    if result.throughput.failed_writes > 0 {
        warnings.push("Latency includes the requests that failed, up to their error.".to_owned());
    }
    if let Some(pct) = result.generator.run_queue_wait_pct.filter(|pct| *pct > 10.0) {
        warnings.push(format!(
            "The generator waited {pct:.0}% of the time for a processor: it shares this machine with something busy \
             (the database itself?), which slows both."
        ));
    }
    warnings.extend(lateness::warning(result));
    warnings.extend(stalls::warning(result));
    if result.run.interrupted {
        warnings.push(format!("Interrupted: the window was {:.1} s long.", result.run.window_seconds));
    }
    let warmup = &result.run.warmup;
    if warmup.failed + warmup.unknown > 0 {
        warnings.push(format!("{} requests of the warm-up failed.", thousands(warmup.failed + warmup.unknown)));
    }
    warnings.extend(durability(&result.server));
    warnings
}

/// What the server leaves out that a durable one has to do.
fn durability(server: &ServerInfo) -> Option<String> {
    let off = |setting: &Option<String>| setting.as_deref() == Some("off");
    let mut lacks = Vec::new();
    if off(&server.fsync) {
        lacks.push("fsync is off");
    }
    if off(&server.synchronous_commit) {
        lacks.push("synchronous_commit is off");
    }
    if server.tables.as_deref() == Some("unlogged") {
        lacks.push("the tables are unlogged");
    }
    let list = lacks.join(", ");
    (!lacks.is_empty())
        .then(|| format!("Acknowledged writes may be lost in a crash ({list}); durable ones are slower."))
}
