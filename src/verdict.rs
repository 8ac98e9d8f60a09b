//! From figures to a status, its reason, the limiting factor, warnings and advice. Pure.
//!
//! INVALID comes before PASSED and FAILED: figures that do not describe the database can neither pass nor fail it.
//! [`limit`] names what limited the run; advice on speed comes from it alone.
//! [`criteria`] are the limits that the user sets; [`fleet`] adds what can be wrong only with several VMs.

mod advice;
pub mod clocks;
mod criteria;
pub mod fleet;
mod held_up;
mod lateness;
mod limit;
mod stalls;
#[cfg(test)]
mod tests;
mod warnings;

pub use criteria::{Criteria, Slo};
pub(crate) use warnings::of_figures as warnings_of_figures;

use crate::measure::outcome::{ErrorCount, ErrorOrigin};
use crate::result::{RunResult, Status, Verification, events};
use crate::text::words::{capitalised, thousands};

/// A thread that computed for more than this part of the window had nothing left, percent.
const THREAD_CPU_LIMIT_PCT: f64 = 90.0;
/// Nor had one that computed or waited for a processor for more than this part: what it waits to do is late, too.
const THREAD_OCCUPIED_LIMIT_PCT: f64 = 80.0;
/// Below this part of the target a run has failed, percent.
const DEGRADED_FROM_PCT: f64 = 50.0;

/// Fills in what happened, status, reason, the limiting factor, warnings and advice.
pub fn judge(result: &mut RunResult, criteria: &Criteria) {
    result.events = events(result);
    let (status, reason) = status(result, criteria);
    let mut warnings = warnings_of_figures(result);
    warnings.extend(result.findings.warnings());
    warnings.extend(result.fleet.iter().flat_map(fleet::warnings));
    warnings.extend(criteria.slos.iter().filter_map(|slo| slo.of_few(result)));
    let limit = limit::limit(result, status);
    let advice = advice::advice(result, &limit);
    result.limit = limit;
    result.status = status;
    result.reason = reason;
    for warning in warnings {
        // A merged result may have it from its VMs, with a name before it.
        if !result.warnings.iter().any(|known| known.ends_with(&warning)) {
            result.warnings.push(warning);
        }
    }
    result.advice = advice;
}

/// In which way the database does not hold what was acknowledged: of a VM's part, with its name, or of all together.
/// What one has too few another may have too many.
fn lost_writes(result: &RunResult) -> Option<String> {
    let vms = result.fleet.iter().flat_map(|fleet| &fleet.per_vm_results);
    let by_vm = vms
        .filter_map(|vm| Some(format!("{}: {}", vm.hostname, vm.result.verification.as_ref()?.difference()?)))
        .collect::<Vec<_>>();
    match by_vm.split_first() {
        Some((first, [])) => Some(first.clone()),
        Some((first, more)) => Some(format!("{first}; and {} more", more.len())),
        None => result.verification.as_ref().and_then(Verification::difference),
    }
}

fn status(result: &RunResult, criteria: &Criteria) -> (Status, String) {
    let failed = result.throughput.failed_writes;
    // A fact, whatever the figures are worth.
    if let Some(difference) = lost_writes(result) {
        return (Status::LostWrites, difference);
    }
    // Errors of tries that were made again, or of connections that were replaced, are no failed requests.
    let of = |origin| result.errors.iter().find(|error: &&ErrorCount| error.origin == origin);
    let most = of(ErrorOrigin::Request).or_else(|| of(ErrorOrigin::Warmup));
    let most = most.map(|error| format!("; most often: {}", error.class)).unwrap_or_default();
    if let Some(reason) = &result.run.aborted {
        return (Status::Failed, format!("{reason}{most}"));
    }
    if let Some(reason) = invalid(result) {
        let also = if failed > 0 { format!(" Besides, {} writes failed.", thousands(failed)) } else { String::new() };
        return (Status::Invalid, format!("{reason}{also}"));
    }
    let unverified = result.verification.as_ref().and_then(Verification::doubt);
    let unverified = unverified.map(|error| format!("The rows could not be verified: {error}"));
    // Somebody who stops the run also stops the verification.
    if let Some(reason) = unverified.clone().filter(|_| !result.run.interrupted) {
        return (Status::Failed, reason);
    }
    let total = result.throughput.total_requests;
    let error_rate_pct = failed as f64 / total.max(1) as f64 * 100.0;
    if error_rate_pct > criteria.max_error_rate_pct {
        let rate = format!("{} of {} writes failed ({error_rate_pct:.2}%)", thousands(failed), thousands(total));
        return (Status::Failed, format!("{rate}{most}"));
    }
    if result.accounting.ok == 0 {
        return (Status::Failed, "No request was acknowledged".to_owned());
    }
    let achieved = result.throughput.target_achieved_pct;
    if let Some(pct) = achieved.filter(|pct| *pct < DEGRADED_FROM_PCT.min(criteria.min_achieved_pct)) {
        return (Status::Failed, format!("Only {pct:.1}% of the target RPS achieved"));
    }
    let violations =
        criteria.slos.iter().filter_map(|slo| Some((stalls::may_explain(slo, result), slo.violation(result)?)));
    let (explained, violations): (Vec<_>, Vec<_>) = violations.partition(|(is_explained, _)| *is_explained);
    let list = |of: Vec<(bool, String)>| of.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("; ");
    if !violations.is_empty() {
        return (Status::Failed, capitalised(&list(violations)));
    }
    if !explained.is_empty() {
        return (Status::Invalid, stalls::hides(&list(explained), result));
    }
    if let Some(pct) = achieved.filter(|pct| *pct < criteria.min_achieved_pct) {
        let wanted = criteria.min_achieved_pct;
        return (Status::Degraded, format!("Only {pct:.1}% of the target RPS achieved, {wanted}% is needed to pass"));
    }
    let passed = passed(failed, achieved);
    if result.run.interrupted {
        let unverified = unverified.map(|reason| format!(". {reason}")).unwrap_or_default();
        return (Status::Interrupted, format!("{}: {passed}{unverified}", stopped_after(result)));
    }
    (Status::Passed, passed)
}

/// How far an interrupted run came.
fn stopped_after(result: &RunResult) -> String {
    let (measured, planned) = (result.run.window_seconds, result.config.duration_seconds);
    if measured < planned {
        format!("Stopped after {measured:.1} of {planned} s; until then")
    } else {
        format!("Stopped after the measured window of {planned} s, before the end of the run")
    }
}

fn passed(failed: u64, achieved: Option<f64>) -> String {
    let writes = match failed {
        0 => "All writes successful".to_owned(),
        failed => format!("{} failed writes, within --max-error-rate", thousands(failed)),
    };
    match achieved {
        None => format!("{writes}, no target rate"),
        Some(pct) if pct >= 99.0 => format!("{writes}, target RPS achieved"),
        Some(pct) => format!("{writes}, {pct:.1}% of the target RPS achieved"),
    }
}

/// Why the figures do not describe the database, where they do not.
fn invalid(result: &RunResult) -> Option<String> {
    if result.accounting.scheduled == 0 && result.run.interrupted {
        return Some("Interrupted before anything was measured.".to_owned());
    }
    if let Some(reason) = result.fleet.as_ref().and_then(fleet::invalid) {
        return Some(reason);
    }
    // In a closed loop requests are due whenever a worker is free: there it is the database that was not reached.
    if result.accounting.scheduled == 0 && result.config.target_rps.is_some() {
        return Some("No request was due in the measured window; raise --rps or --duration.".to_owned());
    }
    generator_at_fault(result)
}

/// Why the figures describe the machine that made the load, where they do.
fn generator_at_fault(result: &RunResult) -> Option<String> {
    let busiest_pct = result.generator.busiest_thread_pct;
    if busiest_pct > THREAD_CPU_LIMIT_PCT {
        return Some(format!(
            "Generator-limited: its busiest thread was computing for {busiest_pct:.0}% of the time, so the figures \
             show this machine and not the database; raise --threads, use a larger machine, or several."
        ));
    }
    let is_open = result.config.target_rps.is_some();
    // Where it hardly runs, no worker ever waits for its slot, and there is no lateness to show it.
    let occupied_pct = result.generator.occupied_pct.filter(|pct| is_open && *pct > THREAD_OCCUPIED_LIMIT_PCT);
    if let Some(occupied_pct) = occupied_pct {
        return Some(format!(
            "Generator-limited: a thread of it was computing or waiting for a processor for {occupied_pct:.0}% of the \
             time, so the figures show this machine and not the database; free it of other work (the database itself?), \
             or use another."
        ));
    }
    if let Some(reason) = stalls::invalid(result) {
        return Some(reason);
    }
    lateness::invalid(result)
}
