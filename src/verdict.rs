//! From figures to a status, its reason, warnings and advice. Pure.
//!
//! INVALID comes first: figures that do not describe the database can neither pass nor fail it. The thresholds are
//! the seed's, and options. [`fleet`] adds what can be wrong only where there are several machines.

mod advice;
pub mod clocks;
pub mod fleet;
mod held_up;
mod lateness;
mod stalls;

use crate::measure::outcome::{ErrorCount, ErrorOrigin};
use crate::result::{Bounded, RunResult, ServerInfo, Status, Verification};
use crate::text::number::Decimal;
use crate::text::words::{capitalised, thousands};

/// A thread that computed for more than this part of the window had nothing left, percent.
const THREAD_CPU_LIMIT_PCT: f64 = 90.0;
/// Nor had one that computed or waited for a processor for more than this part: what it waits to do is late, too.
const THREAD_OCCUPIED_LIMIT_PCT: f64 = 80.0;
/// Below this part of the target a run has failed, percent.
const DEGRADED_FROM_PCT: f64 = 50.0;

/// What a run must reach.
#[derive(Clone, Debug, PartialEq)]
pub struct Criteria {
    /// Least part of the target rate that passes, percent.
    pub min_achieved_pct: f64,
    /// Greatest part of the requests that may fail, percent.
    pub max_error_rate_pct: f64,
    /// Limits on the latency.
    pub slos: Vec<Slo>,
}

/// A limit on one figure of the latency, such as `p99<20ms`.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    /// `min`, `avg`, `p50`, `p90`, `p95`, `p99`, `p99.9` or `max`
    pub figure: &'static str,
    /// Whether the limit itself is allowed.
    pub inclusive: bool,
    /// Milliseconds.
    pub limit_ms: f64,
}

impl Slo {
    /// A year. No request takes longer, so a greater limit is a slip.
    const MOST_MS: f64 = 366.0 * 86_400_000.0;
    /// The figures that can be limited.
    pub const FIGURES: [&'static str; 7] = ["avg", "p50", "p90", "p95", "p99", "p99.9", "max"];

    /// Reads `FIGURE<LIMIT` or `FIGURE<=LIMIT`, where the limit has the unit `us`, `ms` or `s`.
    ///
    /// # Errors
    /// Says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (figure, limit) = text.split_once('<').ok_or("has no '<'")?;
        let (inclusive, limit) = limit.strip_prefix('=').map_or((false, limit), |rest| (true, rest));
        let wanted = figure.trim().to_ascii_lowercase();
        let wanted = if wanted == "mean" { "avg".to_owned() } else { wanted };
        let figure = *Self::FIGURES
            .iter()
            .find(|known| **known == wanted)
            .ok_or_else(|| format!("names no figure (one of {})", Self::FIGURES.join(", ")))?;
        let limit = limit.trim();
        let digits = limit.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit_ms = match limit[digits.len()..].to_ascii_lowercase().as_str() {
            "us" => 0.001,
            "ms" => 1.0,
            "s" => 1_000.0,
            _ => return Err("needs a limit with the unit us, ms or s".to_owned()),
        };
        let value = Decimal::parse(digits).map_err(|problem| format!("has a limit that {problem}"))?.as_f64();
        if value == 0.0 {
            return Err("has a limit of zero, which no request keeps".to_owned());
        }
        let limit_ms = value * unit_ms;
        if limit_ms > Self::MOST_MS {
            return Err("has a limit of more than a year".to_owned());
        }
        Ok(Self { figure, inclusive, limit_ms })
    }

    /// Why the limit is not kept; `None` where it is. A lower bound below the limit proves nothing, so it fails.
    fn violation(&self, result: &RunResult) -> Option<String> {
        let Bounded { value, is_lower_bound } = result.latency_ms.figure(self.figure)?;
        let kept = value.is_some_and(|ms| ms < self.limit_ms || (self.inclusive && ms == self.limit_ms));
        if kept && !is_lower_bound {
            return None;
        }
        let found = match value {
            Some(ms) => format!("{}{ms:.2} ms", if is_lower_bound { "more than " } else { "" }),
            None => "unknown, for no request was answered".to_owned(),
        };
        let of_few = result.latency_ms.is_max(self.figure);
        let of_few =
            if of_few { format!(", the maximum of {} requests", result.latency_ms.requests) } else { String::new() };
        Some(format!("latency {} is {found}{of_few}, asked for {self}", self.figure))
    }
}

impl Slo {
    /// What to say where there are too few requests for the figure.
    fn of_few(&self, result: &RunResult) -> Option<String> {
        let latency = &result.latency_ms;
        latency.is_max(self.figure).then(|| {
            format!(
                "The latency {} of {} requests is their maximum, so the limit {self} is on that; a longer run has a {} of \
                 its own.",
                self.figure, latency.requests, self.figure
            )
        })
    }
}

impl std::fmt::Display for Slo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{} {} ms", self.figure, if self.inclusive { " ≤" } else { " <" }, self.limit_ms)
    }
}

/// As the text that [`Slo::parse`] reads.
impl serde::Serialize for Slo {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sign = if self.inclusive { "<=" } else { "<" };
        serializer.collect_str(&format_args!("{}{sign}{}ms", self.figure, self.limit_ms))
    }
}

impl<'de> serde::Deserialize<'de> for Slo {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Fills in status, reason, warnings and advice.
pub fn judge(result: &mut RunResult, criteria: &Criteria) {
    let (status, reason) = status(result, criteria);
    let mut warnings = warnings_of_figures(result);
    warnings.extend(result.container.iter().filter_map(|container| container.warning.clone()));
    warnings.extend(result.fleet.iter().flat_map(fleet::warnings));
    warnings.extend(criteria.slos.iter().filter_map(|slo| slo.of_few(result)));
    let advice = advice::advice(result, criteria, status);
    result.status = status;
    result.reason = reason;
    for warning in warnings {
        // A merged result may have it from its machines, with a name before it.
        if !result.warnings.iter().any(|known| known.ends_with(&warning)) {
            result.warnings.push(warning);
        }
    }
    result.advice = advice;
}

/// In which way the database does not hold what was acknowledged: of a machine's part, with its name, or of all together.
/// What one has too few another may have too many.
fn lost_writes(result: &RunResult) -> Option<String> {
    let machines = result.fleet.iter().flat_map(|fleet| &fleet.per_vm_results);
    let by_machine = machines
        .filter_map(|vm| Some(format!("{}: {}", vm.hostname, vm.result.verification.as_ref()?.difference()?)))
        .collect::<Vec<_>>();
    match by_machine.split_first() {
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

/// What the reader of the figures should know, and can be told from the figures themselves: of a merged result, it says
/// what the same warnings of its machines say, in sum.
pub(crate) fn warnings_of_figures(result: &RunResult) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::recorder::Durations;
    use crate::result::tests::{durations, sample};
    use crate::result::{Accounting, Summary, TableRows};

    fn criteria() -> Criteria {
        Criteria { min_achieved_pct: 90.0, max_error_rate_pct: 0.0, slos: Vec::new() }
    }

    fn judged(change: impl FnOnce(&mut RunResult), criteria: &Criteria) -> (Status, String) {
        let mut result = sample();
        change(&mut result);
        judge(&mut result, criteria);
        (result.status, result.reason)
    }

    #[test]
    fn the_thresholds_are_the_seeds() {
        for (pct, status) in [
            (100.0, Status::Passed),
            (90.0, Status::Passed),
            (89.9, Status::Degraded),
            (50.0, Status::Degraded),
            (49.9, Status::Failed),
        ] {
            let (found, reason) = judged(|r| r.throughput.target_achieved_pct = Some(pct), &criteria());
            assert_eq!(found, status, "{pct}: {reason}");
        }
    }

    #[test]
    fn one_failed_write_fails_the_run_unless_it_is_allowed() {
        let fail = |r: &mut RunResult| {
            r.throughput.failed_writes = 1;
            r.throughput.total_requests = 1_000;
        };
        assert_eq!(judged(fail, &criteria()).0, Status::Failed);
        assert_eq!(judged(fail, &Criteria { max_error_rate_pct: 0.1, ..criteria() }).0, Status::Passed);
    }

    #[test]
    fn what_is_said_to_fail_most_often_has_failed() {
        let error = |origin, class: &str, count| ErrorCount {
            origin,
            class: class.to_owned(),
            sqlstate: None,
            count,
            example: String::new(),
            first_s: None,
            last_s: None,
        };
        let fail = |r: &mut RunResult| {
            (r.throughput.failed_writes, r.throughput.total_requests) = (1, 1_000);
            r.errors = vec![error(ErrorOrigin::Retry, "deadlock", 900), error(ErrorOrigin::Request, "disk full", 1)];
        };
        let (_, reason) = judged(fail, &criteria());
        assert!(reason.ends_with("most often: disk full"), "{reason}");
    }

    #[test]
    fn what_the_database_lost_comes_before_everything_else() {
        let lost = |r: &mut RunResult| {
            r.generator.busiest_thread_pct = 97.0;
            let tables = vec![TableRows { table: "chat_inference".to_owned(), rows: 5_999 }];
            r.verification = Some(Verification { acknowledged: 6_000, tables, ..Verification::default() });
        };
        let (status, reason) = judged(lost, &criteria());
        assert_eq!(status, Status::LostWrites);
        assert!(reason.starts_with("1 of 6,000 committed requests are missing"), "{reason}");
        let unverified =
            |r: &mut RunResult| r.verification = Some(Verification::failed(6_000, 0, "it is down".to_owned()));
        assert_eq!(judged(unverified, &criteria()).0, Status::Failed);
    }

    #[test]
    fn a_run_that_ended_itself_has_failed_for_that_reason() {
        let aborted = |r: &mut RunResult| {
            r.run.aborted = Some("Ended early".to_owned());
            r.accounting = Accounting::default();
        };
        assert_eq!(judged(aborted, &criteria()), (Status::Failed, "Ended early".to_owned()));
    }

    #[test]
    fn an_interrupted_run_never_passes_and_otherwise_keeps_its_status() {
        let interrupted = |r: &mut RunResult| (r.run.interrupted, r.run.window_seconds) = (true, 3.9);
        let (status, reason) = judged(interrupted, &criteria());
        let until_then = "Stopped after 3.9 of 60 s; until then: All writes successful, target RPS achieved";
        assert_eq!((status, &*reason), (Status::Interrupted, until_then));
        let (status, reason) = judged(|r| r.run.interrupted = true, &criteria());
        assert_eq!(status, Status::Interrupted);
        assert!(reason.starts_with("Stopped after the measured window of 60 s, before the end"), "{reason}");
        let unverified = |r: &mut RunResult| {
            interrupted(r);
            r.verification = Some(Verification::failed(6_000, 0, "it was interrupted".to_owned()));
        };
        let (status, reason) = judged(unverified, &criteria());
        assert_eq!(status, Status::Interrupted);
        assert!(reason.ends_with("achieved. The rows could not be verified: it was interrupted"), "{reason}");
        type Change = fn(&mut RunResult);
        let cases: [(Change, Status); 6] = [
            (|r| (r.throughput.failed_writes, r.throughput.total_requests) = (1, 100), Status::Failed),
            (|r| r.throughput.target_achieved_pct = Some(40.0), Status::Failed),
            (|r| r.throughput.target_achieved_pct = Some(80.0), Status::Degraded),
            (|r| r.run.aborted = Some("Ended early".to_owned()), Status::Failed),
            (|r| r.generator.busiest_thread_pct = 97.0, Status::Invalid),
            (|r| r.accounting = Accounting::default(), Status::Invalid),
        ];
        for (at, (change, expected)) in cases.into_iter().enumerate() {
            let status = judged(
                |r| {
                    interrupted(r);
                    change(r);
                },
                &criteria(),
            )
            .0;
            assert_eq!(status, expected, "case {at}");
        }
    }

    #[test]
    fn a_late_generator_makes_the_run_invalid_only_where_it_matters() {
        let late = |lateness_ms: f64, p50_ms: f64| {
            judged(
                |r| {
                    r.lateness_ms.p99 = Some(lateness_ms);
                    r.latency_ms.p50 = Some(p50_ms);
                },
                &criteria(),
            )
            .0
        };
        assert_eq!(late(4.9, 1.0), Status::Passed); // not late enough
        assert_eq!(late(6.0, 100.0), Status::Passed); // 6 % of the latency
        assert_eq!(late(11.0, 100.0), Status::Invalid);
    }

    #[test]
    fn a_limit_on_a_percentile_of_few_requests_is_said_to_be_on_the_maximum() {
        let slo = Criteria { slos: vec![Slo::parse("p99<4ms").unwrap(), Slo::parse("p50<9ms").unwrap()], ..criteria() };
        let mut result = sample();
        result.latency_ms = Summary::new(&durations(1..=6), 0);
        judge(&mut result, &slo);
        assert_eq!(result.status, Status::Failed);
        assert!(
            result.reason.starts_with("Latency p99 is 6.00 ms, the maximum of 6 requests, asked for"),
            "{}",
            result.reason
        );
        let warned =
            |result: &RunResult| result.warnings.iter().filter(|text| text.contains("is their maximum")).count();
        assert_eq!(warned(&result), 1, "{:?}", result.warnings);
        let mut many = sample();
        judge(&mut many, &slo);
        assert_eq!(warned(&many), 0);
    }

    #[test]
    fn a_generator_out_of_cpu_is_called_by_its_name() {
        let (status, reason) = judged(|r| r.generator.busiest_thread_pct = 97.0, &criteria());
        assert_eq!(status, Status::Invalid);
        assert!(reason.starts_with("Generator-limited"), "{reason}");
        for (occupied_pct, name) in
            [(Some(93.0), "Generator-limited"), (Some(70.0), "All writes"), (None, "All writes")]
        {
            let reason = judged(|r| r.generator.occupied_pct = occupied_pct, &criteria()).1;
            assert!(reason.starts_with(name), "{occupied_pct:?}: {reason}");
        }
    }

    #[test]
    fn slos_are_read_and_kept_or_not() {
        for (text, figure, inclusive, limit_ms) in [
            ("p99<20ms", "p99", false, 20.0),
            ("P99.9 <= 1.5s", "p99.9", true, 1_500.0),
            ("mean<500us", "avg", false, 0.5),
        ] {
            assert_eq!(Slo::parse(text), Ok(Slo { figure, inclusive, limit_ms }));
        }
        for wrong in ["p99", "p98<1ms", "p99<", "p99<20", "p99<-1ms", "p99<NaNms", "p99<1h", "<1ms", "p99>20ms"] {
            assert!(Slo::parse(wrong).is_err(), "{wrong}");
        }
        let with = |text: &str| Criteria { slos: vec![Slo::parse(text).unwrap()], ..criteria() };
        let p99 = |r: &mut RunResult| r.latency_ms.p99 = Some(20.0);
        assert_eq!(judged(p99, &with("p99<=20ms")).0, Status::Passed);
        assert_eq!(judged(p99, &with("p99<20ms")).0, Status::Failed);
    }

    #[test]
    fn a_lower_bound_never_keeps_a_limit() {
        let unanswered = |r: &mut RunResult| r.latency_ms = Summary::new(&Durations::default(), 10);
        let slo = Criteria { slos: vec![Slo::parse("p50<1s").unwrap()], ..criteria() };
        assert_eq!(judged(unanswered, &slo).0, Status::Failed);
    }

    #[test]
    fn a_run_without_requests_is_invalid() {
        assert_eq!(judged(|r| r.accounting = Accounting::default(), &criteria()).0, Status::Invalid);
        // A closed loop has no rate to raise: nothing could be sent.
        let closed = |r: &mut RunResult| {
            r.accounting = Accounting::default();
            (r.config.target_rps, r.throughput.target_achieved_pct) = (None, None);
        };
        assert_eq!(judged(closed, &criteria()), (Status::Failed, "No request was acknowledged".to_owned()));
    }

    #[test]
    fn workers_follow_littles_law() {
        let mut result = sample();
        result.config.workers = 8;
        result.throughput.offered_rps = Some(1_000.0);
        result.throughput.target_achieved_pct = Some(60.0);
        result.service_time_ms.avg = Some(20.0);
        result.wait_for_connection_ms.count = 5_000;
        judge(&mut result, &criteria());
        // 1,000/s × 20 ms = 20 in service, and a quarter to spare.
        assert!(result.advice.iter().any(|line| line.contains("--workers to about 25")), "{:?}", result.advice);
        assert!(result.advice.iter().any(|line| line.contains("at most 400 requests/s")), "{:?}", result.advice);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
