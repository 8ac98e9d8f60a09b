//! Whether one document is what this program could have written. Pure.

use super::{MergeError, Part, sums};
use crate::outages::Outage;
use crate::outcome::ErrorCount;
use crate::recorder::{Durations, Timeline};
use crate::report::text::steers;
use crate::result::{
    Bounded, ClockVsDatabase, Config, FORMAT, RunResult, ServerInfo, Summary, Throughput, VERSION, Verification,
    WarmupCounts,
};
use crate::stalls::{self, Stalls};
use crate::workload::TABLES;

/// No count of a document is greater. So many requests take years at the greatest rate, and the sum over as many
/// machines as there can be shares still fits into 64 bits.
pub(crate) const MAX_COUNT: u64 = 100_000_000_000_000;
/// Into how many shares a test can be divided.
const MAX_SHARES: u64 = 100_000;
/// A request has five round trips at most.
pub(crate) const MAX_PHASES: usize = 8;
/// Classes of errors and warnings in a document; this program writes far fewer.
const MAX_ENTRIES: usize = 1_000;
/// Some thirty years, in seconds: longer than any window.
const MAX_SECONDS: f64 = 1e9;
/// A bin of the timeline is then a year long.
const MAX_BIN_SECONDS: u64 = 1 << 25;
/// No rate, size, duration or percentage of a document is greater.
const MAX_NUMBER: f64 = 1e15;
/// The longest name of anything, bytes: DNS has no longer one of a machine.
const MAX_NAME: usize = 253;
/// The longest sentence, bytes; a list of hosts in a connection string may be such.
const MAX_TEXT: usize = 10_000;
/// A document's own figures may differ from its histograms by so much: their precision and rounding, many times over.
const FIGURES_WITHIN: f64 = 0.01;
/// And by so many milliseconds where they are small.
const FIGURES_WITHIN_MS: f64 = 0.01;

/// Everything that can be seen without decoding histograms.
pub(crate) fn check(part: &Part) -> Result<(), MergeError> {
    let (result, host) = (&part.result, || short(&part.hostname));
    if result.format != FORMAT || result.version != VERSION {
        let found = format!("{} version {}", short(&result.format), result.version);
        return Err(MergeError::OtherFormat { host: host(), found });
    }
    if result.fleet.is_some() {
        return Err(MergeError::AlreadyMerged { host: host() });
    }
    match contradiction(part) {
        Some(what) => Err(MergeError::Contradiction { host: host(), what }),
        None => Ok(()),
    }
}

/// The same, and everything that its histograms show.
pub(crate) fn check_whole(part: &Part) -> Result<(), MergeError> {
    check(part)?;
    sums::Sums::of(std::slice::from_ref(part)).map(drop)
}

/// A text from a document, in a length that fits a message.
pub(crate) fn short(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn contradiction(part: &Part) -> Option<String> {
    let result = &part.result;
    let share = &result.run.share;
    if share.of == 0 || share.of > MAX_SHARES || share.index >= share.of {
        return Some(format!("share {} of {}", share.index.saturating_add(1), share.of));
    }
    text_out_of_range(part).or_else(|| number_out_of_range(part)).or_else(|| figures_disagree(result))
}

/// Names that no part of this program gives to anything, and texts of megabytes, which would be a report's.
fn text_out_of_range(part: &Part) -> Option<String> {
    let result = &part.result;
    let names = [
        ("name", &part.hostname),
        ("hostname", &result.hostname),
        ("tool_version", &result.tool_version),
        ("tool_build", &result.tool_build),
        ("started_at", &result.run.started_at),
    ];
    let phases = result.phases_ms.iter().take(MAX_PHASES).map(|phase| ("phase", &phase.name));
    let container = result.container.iter().map(|container| ("container.name", &container.name));
    let warnings = result.warnings.iter().take(MAX_ENTRIES).map(|text| ("warning", text));
    let advice = result.advice.iter().take(MAX_ENTRIES).map(|text| ("advice", text));
    let whys = result.container.iter().filter_map(|container| Some(("container.warning", container.warning.as_ref()?)));
    let texts = warnings.chain(advice).chain(whys).chain([("reason", &result.reason)]);
    let name = names.into_iter().chain(phases).chain(container).find_map(|(what, text)| wrong_name(what, text));
    name.or_else(|| texts.into_iter().find_map(|(what, text)| wrong_text(what, text)))
        .or_else(|| wrong_text("config.target", &result.config.target))
        .or_else(|| wrong_server(&result.server))
        .or_else(|| wrong_errors(&result.errors))
        .or_else(|| result.run.aborted.as_ref().and_then(|text| wrong_text("aborted", text)))
        .or_else(|| result.verification.as_ref().and_then(|found| wrong_verification(found, result)))
        .or_else(|| wrong_outages(&result.outages))
        .or_else(|| wrong_stalls(&result.generator.stood_still, result))
}

/// What is wrong with what a machine tells of its rows.
fn wrong_verification(found: &Verification, result: &RunResult) -> Option<String> {
    let written = TABLES.into_iter().filter(|table| match *table {
        // Of this one the tickets are counted.
        "resource_bucket" => false,
        "variant_by_episode" => result.config.experimentation,
        _ => true,
    });
    let is_counted = found.error.is_none();
    let tables = found.tables.iter().map(|table| table.table.as_str());
    if !tables.eq(written.filter(|_| is_counted)) || (!is_counted && found.tickets_taken.is_some()) {
        return Some("it counted rows of other tables than it wrote".to_owned());
    }
    let counts = [found.acknowledged, found.unsettled, found.committed, found.not_committed];
    let rows = found.tables.iter().map(|table| table.rows).chain(found.tickets_taken).chain(counts);
    let (account, warmup) = (&result.accounting, &result.run.warmup);
    if let Some(count) = rows.max().filter(|count| *count > MAX_COUNT) {
        return Some(format!("it verified {count} rows"));
    }
    let in_doubt = [account.unknown, account.unfinished, warmup.unknown, warmup.unfinished];
    let in_doubt = in_doubt.into_iter().fold(0, u64::saturating_add);
    if account.ok.checked_add(warmup.ok) != Some(found.acknowledged)
        || found.unsettled != in_doubt
        || found.committed.saturating_add(found.not_committed) > found.unsettled
    {
        return Some("it verified other requests than it ran".to_owned());
    }
    found.error.as_ref().and_then(|text| wrong_text("verification", text))
}

fn wrong_outages(outages: &[Outage]) -> Option<String> {
    if outages.len() > MAX_ENTRIES {
        return Some(format!("it has {} outages", outages.len()));
    }
    outages.iter().find_map(|outage| {
        let times = [Some(outage.started_s), outage.first_error_s, outage.recovered_s, Some(outage.seconds)];
        let time = times.into_iter().find_map(|seconds| wrong_number("outage", seconds));
        time.or_else(|| outage.hostname.as_ref().and_then(|name| wrong_name("hostname", name)))
    })
}

/// What is wrong with when a generator is told to have stood still.
fn wrong_stalls(told: &Stalls, result: &RunResult) -> Option<String> {
    let listed = told.stalls.len();
    if told.stall_count > MAX_COUNT || listed as u64 > told.stall_count || listed > stalls::MAX_LISTED {
        return Some(format!("its generator stood still {} times, and {listed} of them are listed", told.stall_count));
    }
    if told.stalled_requests > result.accounting.scheduled || (told.stall_count == 0 && told.stalled_requests > 0) {
        return Some(format!("{} requests were held up by its generator", told.stalled_requests));
    }
    let times = told.stalls.iter().flat_map(|stall| [stall.started_s, stall.seconds]).chain([told.stalled_seconds]);
    let wrong = times.into_iter().find_map(|seconds| wrong_number("stall", Some(seconds)));
    wrong.or_else(|| {
        told.stalls.iter().filter_map(|stall| stall.hostname.as_ref()).find_map(|name| wrong_name("hostname", name))
    })
}

/// What is wrong with the name of something, where it is none that this program gives.
pub(crate) fn wrong_name(what: &str, name: &str) -> Option<String> {
    if name.len() > MAX_NAME {
        return Some(format!("its {what} has {} bytes", name.len()));
    }
    name.chars().any(steers).then(|| format!("its {what} holds control characters"))
}

/// What is wrong with a text of which only the length is known beforehand.
pub(crate) fn wrong_text(what: &str, text: &str) -> Option<String> {
    (text.len() > MAX_TEXT).then(|| format!("its {what} has {} bytes", text.len()))
}

/// What is wrong with what a database is told to have said of itself.
pub(crate) fn wrong_server(server: &ServerInfo) -> Option<String> {
    let ServerInfo { version, max_connections, synchronous_commit, fsync, shared_buffers, tables, round_trip_ms } =
        server;
    let texts = [version, synchronous_commit, fsync, shared_buffers, tables];
    let text = texts.into_iter().flatten().find_map(|text| wrong_text("server", text));
    text.or_else(|| max_connections.filter(|most| *most > MAX_COUNT).map(|most| format!("max_connections is {most}")))
        .or_else(|| wrong_number("round_trip_ms", *round_trip_ms))
}

/// What is wrong with a comparison of clocks.
pub(crate) fn wrong_clock(clock: Option<&ClockVsDatabase>) -> Option<String> {
    let ClockVsDatabase { offset_ms, bound_ms } = clock?;
    wrong_number("clock_vs_database", Some(offset_ms.abs())).or_else(|| wrong_number("bound_ms", Some(*bound_ms)))
}

/// What is wrong with options as a machine understands them.
pub(crate) fn wrong_config(config: &Config) -> Option<String> {
    let counts = [("workers", config.workers), ("threads", config.threads)];
    let wrong = counts.into_iter().find(|(_, count)| *count as u64 > MAX_COUNT);
    let numbers = [
        ("target_rps", config.target_rps),
        ("duration_seconds", Some(config.duration_seconds)),
        ("input_size_kb", Some(config.input_size_kb)),
        ("output_size_kb", Some(config.output_size_kb)),
        ("raw_request_size_kb", Some(config.raw_request_size_kb)),
        ("raw_response_size_kb", Some(config.raw_response_size_kb)),
        ("warmup_seconds", Some(config.warmup_seconds)),
        ("drain_seconds", Some(config.drain_seconds)),
        ("max_lag_seconds", config.max_lag_seconds),
        ("statement_timeout_seconds", config.statement_timeout_seconds),
        ("target_rps_per_vm", config.target_rps_per_vm),
        ("target_rps_total", config.target_rps_total),
    ];
    let wrong = wrong.map(|(name, count)| format!("{name} is {count}"));
    wrong.or_else(|| numbers.into_iter().find_map(|(name, number)| wrong_number(name, number)))
}

/// What is wrong with counts of errors.
pub(crate) fn wrong_errors(errors: &[ErrorCount]) -> Option<String> {
    let sum = errors.iter().try_fold(0u64, |sum, error| sum.checked_add(error.count));
    if errors.len() > MAX_ENTRIES || sum.is_none_or(|sum| sum > MAX_COUNT) {
        return Some("it has more errors than there can be".to_owned());
    }
    errors.iter().find_map(|error| {
        let state = error.sqlstate.as_ref().and_then(|state| wrong_name("sqlstate", state));
        state
            .or_else(|| wrong_name("class", &error.class))
            .or_else(|| wrong_text("example", &error.example))
            .or_else(|| wrong_number("first_s", error.first_s))
            .or_else(|| wrong_number("last_s", error.last_s))
            .or_else(|| match (error.first_s, error.last_s) {
                (None, None) => None,
                (Some(first), Some(last)) if first <= last => None,
                _ => Some("its last error came before its first".to_owned()),
            })
    })
}

/// What is wrong with a number that cannot be below zero.
pub(crate) fn wrong_number(name: &str, number: Option<f64>) -> Option<String> {
    number.filter(|number| !(0.0..MAX_NUMBER).contains(number)).map(|number| format!("{name} is {number:e}"))
}

/// Numbers that are not finite, below zero, or absurdly large. After this, sums of counts cannot overflow.
fn number_out_of_range(part: &Part) -> Option<String> {
    let result = &part.result;
    let (run, config, throughput) = (&result.run, &result.config, &result.throughput);
    let (accounting, warmup, generator) = (&result.accounting, &run.warmup, &result.generator);
    let histograms = &result.histograms;
    let mut counts = vec![
        ("scheduled", accounting.scheduled),
        ("ok", accounting.ok),
        ("failed", accounting.failed),
        ("unknown", accounting.unknown),
        ("skipped", accounting.skipped),
        ("not_started", accounting.not_started),
        ("unfinished", accounting.unfinished),
        ("warmup.ok", warmup.ok),
        ("warmup.failed", warmup.failed),
        ("warmup.unknown", warmup.unknown),
        ("warmup.skipped", warmup.skipped),
        ("warmup.unfinished", warmup.unfinished),
        ("completed_in_window", throughput.completed_in_window),
        ("total_requests", throughput.total_requests),
        ("reconnects", result.reconnects),
        ("retried", result.retried),
        ("retries", result.retries),
    ];
    for histogram in
        [&histograms.latency, &histograms.service_time, &histograms.lateness, &histograms.wait_for_connection]
            .into_iter()
            .chain(histograms.phases.iter().take(MAX_PHASES))
    {
        counts.push(("past_range", histogram.past_range));
    }
    let mut numbers = vec![
        ("window_start_s", Some(run.window_start_s)),
        ("window_seconds", Some(run.window_seconds)),
        ("start_delay_ms", run.start_delay_ms),
        ("actual_rps", Some(throughput.actual_rps)),
        ("offered_rps", throughput.offered_rps),
        ("target_achieved_pct", throughput.target_achieved_pct),
        ("success_rate", throughput.success_rate),
        ("data_written_mb", Some(result.data_written_mb)),
        ("cpu_seconds", Some(generator.cpu_seconds)),
        ("cpu_us_per_request", generator.cpu_us_per_request),
        ("busiest_thread_pct", Some(generator.busiest_thread_pct)),
        ("run_queue_wait_pct", generator.run_queue_wait_pct),
        ("occupied_pct", generator.occupied_pct),
    ];
    if let Some(container) = &result.container {
        counts.push(("samples", container.samples));
        numbers.extend([
            ("cpu_percent_avg", container.cpu_percent_avg),
            ("cpu_percent_max", container.cpu_percent_max),
            ("memory_mib_avg", container.memory_mib_avg),
            ("memory_mib_max", container.memory_mib_max),
        ]);
    }
    for summary in [&result.latency_ms, &result.service_time_ms, &result.lateness_ms, &result.wait_for_connection_ms]
        .into_iter()
        .chain(result.phases_ms.iter().take(MAX_PHASES).map(|phase| &phase.summary))
    {
        counts.push(("count", summary.count));
        numbers.extend(summary.figures().map(|(name, bounded)| (name, bounded.value)));
    }
    let wrong_count = counts.into_iter().find(|(_, count)| *count > MAX_COUNT);
    let wrong_number = numbers.into_iter().find_map(|(name, number)| wrong_number(name, number));
    let too_long = [run.window_start_s, run.window_seconds].into_iter().find(|seconds| *seconds > MAX_SECONDS);
    if let Some(wrong) = wrong_clock(run.clock_vs_database.as_ref()) {
        return Some(wrong);
    }
    let sign_free = [part.start_skew_ms, part.clock.map(|c| c.offset_ms), part.clock.and_then(|c| c.offset_after_ms)];
    if let Some((name, count)) = wrong_count {
        Some(format!("{name} is {count}"))
    } else if let Some(wrong) = wrong_number.or_else(|| wrong_config(config)) {
        Some(wrong)
    } else if let Some(seconds) = too_long {
        Some(format!("its window reaches over {seconds:.0} s"))
    } else {
        let wild = sign_free.into_iter().flatten().find(|ms| !ms.is_finite() || ms.abs() > MAX_SECONDS * 1e3);
        wild.map(|ms| format!("its clock is off by {ms:e} ms"))
    }
}

/// Figures that do not fit together.
fn figures_disagree(result: &RunResult) -> Option<String> {
    let (accounting, throughput) = (&result.accounting, &result.throughput);
    if !accounting.holds() {
        let (found, scheduled) = (accounting.answered() + accounting.unanswered(), accounting.scheduled);
        return Some(format!("{scheduled} requests were scheduled and {found} are accounted for"));
    }
    // It knows what became of its own slots.
    if accounting.unreported > 0 {
        return Some(format!("{} of its own requests are unreported", accounting.unreported));
    }
    let failed = accounting.failed + accounting.unknown;
    let totals = (throughput.total_requests, throughput.successful_writes, throughput.failed_writes);
    if totals != (accounting.answered(), accounting.ok, failed) {
        return Some("throughput and accounting have different totals".to_owned());
    }
    let answered = [&result.latency_ms, &result.service_time_ms];
    if answered.iter().any(|summary: &&Summary| summary.count != accounting.answered()) {
        return Some(format!("not every one of {} answered requests has a latency", accounting.answered()));
    }
    if result.config.warmup_seconds == 0.0 && result.run.warmup != WarmupCounts::default() {
        return Some("it has requests of a warm-up, and none was asked for".to_owned());
    }
    if throughput.completed_in_window > accounting.ok + result.run.warmup.ok {
        return Some("more requests were completed than were ok".to_owned());
    }
    if result.config.target_rps.is_some() != throughput.offered_rps.is_some() {
        return Some("it has a target rate and offered none, or the other way round".to_owned());
    }
    if result.warnings.len() > MAX_ENTRIES || result.advice.len() > MAX_ENTRIES {
        return Some(format!("it has {} warnings", result.warnings.len().max(result.advice.len())));
    }
    let (phases, histograms) = (result.phases_ms.len(), result.histograms.phases.len());
    if phases != histograms || phases > MAX_PHASES {
        return Some(format!("it has {phases} round trips and {histograms} histograms of them"));
    }
    timeline_disagrees(&throughput.timeline, throughput.completed_in_window).or_else(|| rates_disagree(result))
}

/// Rates that do not follow from the counts beside them.
fn rates_disagree(result: &RunResult) -> Option<String> {
    let (accounting, given) = (&result.accounting, &result.throughput);
    let per_second = |count: u64| {
        let seconds = result.run.window_seconds;
        if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
    };
    let offered = given.offered_rps.map(|_| per_second(accounting.scheduled));
    let actual = per_second(given.completed_in_window);
    let right = Throughput::new(accounting, actual, offered, given.completed_in_window, Timeline::default());
    let rates = [
        ("actual_rps", Some(given.actual_rps), Some(right.actual_rps)),
        ("offered_rps", given.offered_rps, right.offered_rps),
        ("target_achieved_pct", given.target_achieved_pct, right.target_achieved_pct),
        ("success_rate", given.success_rate, right.success_rate),
    ];
    let wrong = rates.into_iter().find(|(_, given, right)| !alike(*given, *right));
    wrong.map(|(name, ..)| format!("its {name} does not follow from its counts"))
}

/// Figures of a distribution that are not those of its histogram. `unanswered` count as slower than all.
pub(super) fn summary_disagrees(given: &Summary, durations: &Durations, unanswered: u64) -> Option<&'static str> {
    let right = Summary::new(durations, unanswered);
    if given.count != right.count {
        return Some("count");
    }
    let pairs = given.figures().into_iter().zip(right.figures());
    let wrong = |(given, right): (Bounded, Bounded)| {
        given.is_lower_bound != right.is_lower_bound || !alike(given.value, right.value)
    };
    pairs.map(|((name, given), (_, right))| (name, (given, right))).find(|(_, pair)| wrong(*pair)).map(|(name, _)| name)
}

fn alike(given: Option<f64>, right: Option<f64>) -> bool {
    match (given, right) {
        (Some(given), Some(right)) => (given - right).abs() <= FIGURES_WITHIN_MS.max(right.abs() * FIGURES_WITHIN),
        (given, right) => given.is_none() && right.is_none(),
    }
}

fn timeline_disagrees(timeline: &Timeline, completed: u64) -> Option<String> {
    let Timeline { bin_seconds, completed: bins } = timeline;
    if !bin_seconds.is_power_of_two() || *bin_seconds > MAX_BIN_SECONDS || bins.len() > Timeline::MAX_BINS {
        return Some(format!("its timeline has {} bins of {bin_seconds} s", bins.len()));
    }
    let sum = bins.iter().try_fold(0u64, |sum, count| sum.checked_add(*count));
    (sum != Some(completed)).then(|| "its timeline does not add up to the completed requests".to_owned())
}
