//! The report on a terminal or in a file: long tables first, then the figures, the reasons and the headline, so that these
//! are on the screen when it ends.

use std::io::{self, Write};

use super::headline::headline;
use super::insight;
use super::layout::{RULE, bounded, line, marked, row, section, wrapped};
use super::vms;
use crate::measure::outcome::{ErrorCount, ErrorOrigin};
use crate::measure::stalls::Stalls;
use crate::result::{Bounded, RunResult, Summary, TableRows};
use crate::text::terminal::printable;
use crate::text::words::{capitalised, name_list, thousands};
use crate::workload::TOTAL;

/// Lost VMs that are named before "and N more".
const NAMED_VMS: usize = 3;
/// Outages that are listed.
const MAX_OUTAGES: usize = 20;
/// Times in which the generator stood still that are listed.
const MAX_STALLS: usize = 10;

pub fn report(out: &mut dyn Write, result: &RunResult) -> io::Result<()> {
    writeln!(out, "\n{RULE}\nLOAD TEST RESULTS\n{RULE}")?;
    // What a person acts on comes last, where it can be read without scrolling: first long tables, then the headline.
    result.fleet.as_ref().map_or(Ok(()), |fleet| vms::table(out, fleet))?;
    insight::events(out, result)?;
    outages(out, result)?;
    errors(out, result)?;
    phases(out, result)?;
    requests(out, result)?;
    verification(out, result)?;
    resources(out, result)?;
    insight::server(out, result)?;
    throughput(out, result)?;
    latency(out, result)?;
    section(out, "DATA WRITTEN")?;
    let mb = result.data_written_mb;
    let gb = if mb >= 1024.0 { format!(" ({:.2} GB)", mb / 1024.0) } else { String::new() };
    line(out, "Estimated", &format!("{mb:.1} MB{gb}"))?;
    list(out, "WARNINGS", &result.warnings)?;
    list(out, "ADVICE", &insight::other_advice(result))?;
    let status = wrapped(&format!("STATUS: {} - {}", result.status, result.reason), "", "  ");
    writeln!(out, "\n{RULE}\n{status}")?;
    insight::limit(out, result)?;
    writeln!(out, "{RULE}\n{}", headline(result))
}

fn throughput(out: &mut dyn Write, result: &RunResult) -> io::Result<()> {
    let throughput = &result.throughput;
    section(out, "THROUGHPUT")?;
    line(out, "Total Requests", &thousands(throughput.total_requests))?;
    line(out, "Successful Writes", &thousands(throughput.successful_writes))?;
    line(out, "Failed Writes", &thousands(throughput.failed_writes))?;
    if let Some(offered) = throughput.offered_rps {
        line(out, "Offered RPS", &format!("{offered:.1}"))?;
    }
    let of_target = throughput.target_achieved_pct.map(|pct| format!(" ({pct:.1}% of target)")).unwrap_or_default();
    line(out, "Actual RPS", &format!("{:.1}{of_target}", throughput.actual_rps))?;
    let rate = throughput.success_rate.map_or("-".to_owned(), |pct| format!("{pct:.2}%"));
    line(out, "Success Rate", &rate)?;
    insight::rate(result).map_or(Ok(()), |bars| line(out, "Completed", &bars))
}

fn latency(out: &mut dyn Write, result: &RunResult) -> io::Result<()> {
    let closed_loop = result.config.target_rps.is_none();
    let columns: &[(&str, &Summary)] = &[
        ("Latency", &result.latency_ms),
        ("Service", &result.service_time_ms),
        ("Lateness", &result.lateness_ms),
        ("Wait", &result.wait_for_connection_ms),
    ];
    let columns = if closed_loop { &columns[..1] } else { columns };
    let heads: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    write!(out, "\n{}", row("LATENCY (ms):", &heads))?;
    for (at, (name, _)) in result.latency_ms.figures().iter().enumerate() {
        let value = |summary: &Summary| marked(ms(summary.figures()[at].1), summary, name);
        let values: Vec<String> = columns.iter().map(|(_, summary)| value(summary)).collect();
        write!(out, "{}", row(&format!("  {}:", capitalised(name)), &values))?;
    }
    let counts: Vec<String> = columns.iter().map(|(_, summary)| thousands(summary.count)).collect();
    write!(out, "{}", row("  Requests:", &counts))?;
    let summaries = columns.iter().map(|(_, summary)| *summary);
    if summaries.chain(result.phases_ms.iter().map(|phase| &phase.summary)).any(|summary| summary.p99_9_is_max) {
        writeln!(out, "  *: the maximum, because there are too few requests for this percentile.")?;
    }
    if closed_loop {
        writeln!(out, "  With --rps max there are no due times: latency is service time.")
    } else {
        writeln!(
            out,
            "  Latency: since the request was due. Service: since it was sent. Lateness: sent\n  \
             after it was due, by the generator's fault. Wait: all workers were busy."
        )
    }
}

fn phases(out: &mut dyn Write, result: &RunResult) -> io::Result<()> {
    if result.phases_ms.is_empty() {
        return Ok(());
    }
    let heads = ["Avg", "P50", "P99", "Max"].map(str::to_owned);
    write!(out, "\n{}", row("ROUND TRIPS (ms):", &heads))?;
    for phase in &result.phases_ms {
        let summary = &phase.summary;
        let value = |name| summary.figure(name).map(|figure| marked(ms(figure), summary, name)).unwrap_or_default();
        write!(out, "{}", row(&format!("  {}:", printable(&phase.name)), &["avg", "p50", "p99", "max"].map(value)))?;
    }
    match &result.fleet {
        Some(_) => writeln!(out, "  To two significant digits: the histograms of round trips have no more."),
        None => Ok(()),
    }
}

fn requests(out: &mut dyn Write, result: &RunResult) -> io::Result<()> {
    let accounting = &result.accounting;
    section(out, "REQUESTS")?;
    line(out, "Scheduled", &thousands(accounting.scheduled))?;
    line(out, "OK", &thousands(accounting.ok))?;
    for (name, count) in [
        ("Failed", accounting.failed),
        ("Unknown", accounting.unknown),
        ("Skipped", accounting.skipped),
        ("Not started", accounting.not_started),
        ("Unfinished", accounting.unfinished),
        ("Tried again", result.recoveries.retried),
        ("Retries", result.recoveries.retries),
        ("Reconnects", result.recoveries.reconnects),
    ] {
        if count > 0 {
            line(out, name, &thousands(count))?;
        }
    }
    if accounting.unreported > 0 {
        let failed = result.fleet.iter().flat_map(|fleet| &fleet.failed_vms).map(|vm| printable(&vm.hostname));
        let names = name_list(&failed.collect::<Vec<_>>(), NAMED_VMS);
        let first = format!("{:<22}{} ", "  Unreported:", thousands(accounting.unreported));
        writeln!(out, "{}", wrapped(&format!("(lost or missing: {names})"), &first, &" ".repeat(22)))?;
    }
    if result.run.warmup.ok > 0 {
        line(out, "Warm-up (ok)", &thousands(result.run.warmup.ok))?;
    }
    Ok(())
}

fn outages(out: &mut dyn Write, result: &RunResult) -> io::Result<()> {
    if result.outages.is_empty() {
        return Ok(());
    }
    section(out, "OUTAGES (nothing acknowledged for a second or more)")?;
    for outage in result.outages.iter().take(MAX_OUTAGES) {
        let vms = result.fleet.as_ref().zip(outage.vms).map(|(fleet, vms)| format!("{vms} of {} VMs: ", fleet.num_vms));
        let host = outage.hostname.as_ref().map(|name| format!("{}: ", printable(name))).or(vms).unwrap_or_default();
        let error = outage.first_error_s.map_or("no error".to_owned(), |s| format!("first error at {s:.2} s"));
        let end = outage.recovered_s.map_or("not recovered".to_owned(), |s| format!("recovered at {s:.2} s"));
        let text = format!("{host}{:.2} s from {:.2} s on: {error}, {end}", outage.seconds, outage.started_s);
        writeln!(out, "{}", wrapped(&text, "  ", "    "))?;
    }
    match result.outages.len().saturating_sub(MAX_OUTAGES) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more"),
    }
}

fn verification(out: &mut dyn Write, result: &RunResult) -> io::Result<()> {
    let Some(found) = &result.verification else { return Ok(()) };
    section(out, "VERIFICATION (warm-up included)")?;
    line(out, "Acknowledged", &thousands(found.acknowledged))?;
    if found.unsettled > 0 {
        let settled = format!(
            "{} ({} committed after all, {} not)",
            thousands(found.unsettled),
            thousands(found.committed),
            thousands(found.not_committed)
        );
        line(out, "In doubt", &settled)?;
    }
    if let Some(error) = &found.error {
        writeln!(out, "{}", wrapped(error, "  Not verified: ", "    "))?;
        let verified = found.acknowledged.saturating_sub(found.unverified);
        line(out, "Verified", &format!("{} of these requests", thousands(verified)))?;
    }
    for TableRows { table, rows } in &found.tables {
        line(out, &printable(table), &thousands(*rows))?;
    }
    found.total.map_or(Ok(()), |total| line(out, TOTAL.table, &format!("{} {}", thousands(total), TOTAL.unit)))
}

fn errors(out: &mut dyn Write, result: &RunResult) -> io::Result<()> {
    if result.errors.is_empty() {
        return Ok(());
    }
    section(out, "ERRORS")?;
    for error in &result.errors {
        let state = error.sqlstate.as_deref().map(|state| format!(" [{}]", printable(state))).unwrap_or_default();
        let origin = match error.origin {
            ErrorOrigin::Request => "",
            ErrorOrigin::Warmup => " (warm-up)",
            ErrorOrigin::Connection => " (between requests)",
            ErrorOrigin::Retry => " (tried again)",
        };
        let text = format!("{}{state}{origin}{}", error.class, when(error));
        writeln!(out, "{}", wrapped(&text, &format!("  {:>8}  ", thousands(error.count)), "            "))?;
        writeln!(out, "{}", wrapped(&error.example, "            e.g. ", "            "))?;
    }
    Ok(())
}

fn when(error: &ErrorCount) -> String {
    let (Some(first), Some(last)) = (error.first_s, error.last_s) else { return String::new() };
    let (first, last) = (format!("{first:.2} s"), format!("{last:.2} s"));
    if first == last { format!(", at {first}") } else { format!(", {first} to {last}") }
}

fn resources(out: &mut dyn Write, result: &RunResult) -> io::Result<()> {
    let generator = &result.generator;
    section(out, "GENERATOR")?;
    let each = generator.cpu_us_per_request.map(|us| format!(" ({us:.0} us a request)")).unwrap_or_default();
    line(out, "CPU", &format!("{:.2} s{each}", generator.cpu_seconds))?;
    line(out, "Busiest thread", &format!("{:.1}%", generator.busiest_thread_pct))?;
    stalls(out, &generator.stood_still)?;
    if let Some(container) = &result.findings.container {
        section(out, &format!("DOCKER CONTAINER ({})", printable(&container.name)))?;
        let percent = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}%"));
        let mib = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0} MiB"));
        line(out, "CPU Avg", &percent(container.cpu_percent_avg))?;
        line(out, "CPU Max", &percent(container.cpu_percent_max))?;
        line(out, "Memory Avg", &mib(container.memory_mib_avg))?;
        line(out, "Memory Max", &mib(container.memory_mib_max))?;
    }
    Ok(())
}

fn stalls(out: &mut dyn Write, told: &Stalls) -> io::Result<()> {
    for stall in told.stalls.iter().take(MAX_STALLS) {
        let host = stall.hostname.as_ref().map(|name| format!("{}: ", printable(name))).unwrap_or_default();
        let asleep = if stall.asleep { ", asleep" } else { "" };
        line(out, "Stood still", &format!("{host}{:.1} s at {:.1} s{asleep}", stall.seconds, stall.started_s))?;
    }
    match told.stall_count.saturating_sub(told.stalls.len().min(MAX_STALLS) as u64) {
        0 => Ok(()),
        more => line(out, "Stood still", &format!("{} more times", thousands(more))),
    }
}

fn list(out: &mut dyn Write, title: &str, items: &[String]) -> io::Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    section(out, title)?;
    items.iter().try_for_each(|item| writeln!(out, "{}", wrapped(item, "  - ", "    ")))
}

fn ms(figure: Bounded) -> String {
    match figure {
        Bounded { value: None, is_lower_bound: true } => "no answer".to_owned(),
        figure => bounded(Some(figure), "> ", |ms| format!("{ms:.2}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::tests::sample;

    fn reported(result: &RunResult) -> String {
        let mut out = Vec::new();
        report(&mut out, result).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_seeds_fields_are_there_in_its_layout() {
        let text = reported(&sample());
        for field in [
            "LOAD TEST RESULTS",
            "\nTHROUGHPUT:\n  Total Requests:     6,000\n  Successful Writes:  6,000\n  Failed Writes:      0\n",
            "\n  Actual RPS:         100.0",
            "\n  Success Rate:       100.00%",
            "\nLATENCY (ms):",
            "\n  Min:                ",
            "\n  P50:                ",
            "\n  P95:                ",
            "\n  P99.9:              ",
            "\n  Max:                ",
            "\nDATA WRITTEN:\n  Estimated:          35.2 MB\n",
            "\nSTATUS: PASSED - ",
        ] {
            assert!(text.contains(field), "{field:?} is missing from\n{text}");
        }
    }

    #[test]
    fn what_a_person_acts_on_comes_last() {
        let mut result = sample();
        let errors = (0..60).map(|at| ErrorCount {
            origin: ErrorOrigin::Request,
            class: format!("class {at}"),
            sqlstate: Some("53100".to_owned()),
            count: 1 + at,
            example: "why".to_owned(),
            first_s: Some(0.5),
            last_s: Some(if at == 0 { 0.5 } else { 1_234.567 }),
        });
        result.errors = errors.collect();
        (result.warnings, result.advice) = (vec!["a warning".to_owned()], vec!["an advice".to_owned()]);
        let text = reported(&result);
        let sections = ["ERRORS:", "REQUESTS:", "GENERATOR:", "THROUGHPUT:", "LATENCY (ms):", "DATA WRITTEN:"];
        let sections = sections.iter().chain(&["WARNINGS:", "ADVICE:", "STATUS: PASSED"]);
        let found: Vec<_> = sections.map(|name| text.find(&format!("\n{name}")).expect(name)).collect();
        assert!(found.is_sorted(), "{found:?}\n{text}");
        assert!(text.contains("         1  class 0 [53100], at 0.50 s\n"), "{text}");
        assert!(text.contains("         2  class 1 [53100], 0.50 s to 1234.57 s\n"), "{text}");
        assert!(text.lines().last().unwrap().starts_with("PASSED: 100.0 RPS (100.0% of target), p50 "), "{text}");
    }

    #[test]
    fn lines_fit_a_terminal_of_eighty_columns() {
        let mut result = sample();
        result.reason = "word ".repeat(50);
        result.advice = vec![result.reason.clone(), "short".to_owned()];
        assert!(reported(&result).lines().all(|line| line.chars().count() <= 80), "{}", reported(&result));
    }

    #[test]
    fn lower_bounds_are_marked() {
        let mut result = sample();
        result.latency_ms.p99 = Some(12_340.0);
        result.latency_ms.p99_is_lower_bound = true;
        assert!(reported(&result).contains("P99:                > 12340.00"), "{}", reported(&result));
    }
}
