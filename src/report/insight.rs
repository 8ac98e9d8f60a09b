//! What limited the run, what happened when, and the server's own figures: a few lines each. Pure but for the writer.

use std::io::{self, Write};

use super::layout::{line, section, wrapped};
use crate::monitor::server::{OTHER_APPLICATIONS, ServerStats};
use crate::result::{Event, LimitKind, MOST_EVENTS, RunResult};
use crate::text::terminal::{brief, shortened};
use crate::text::words::{name_list, thousands};

/// Sentences of evidence under the factor, and of what to try.
const EVIDENCE: usize = 2;
const REMEDIES: usize = 2;
/// Events that are listed; the least important are left out.
const EVENTS: usize = 6;
/// Columns of the picture of the rate.
const BARS: usize = 40;
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Characters of a name.
const NAME: usize = 40;
/// Characters of what is not available.
const LACKS: usize = 55;
/// Characters of what happened.
const TEXT: usize = 100;
const MB: f64 = 1_048_576.0;

/// The factor under the verdict, with evidence and what to try.
pub(super) fn limit(out: &mut dyn Write, result: &RunResult) -> io::Result<()> {
    let limit = &result.limit;
    if limit.sentence.is_empty() {
        return Ok(());
    }
    writeln!(out, "{}", wrapped(&format!("LIMIT: {}", limit.sentence), "", "  "))?;
    // The verdict's reason says the same of a generator, and at length.
    let skipped = usize::from(limit.kind == LimitKind::Generator && limit.evidence.first() == Some(&result.reason));
    for text in limit.evidence.iter().skip(skipped).take(EVIDENCE) {
        writeln!(out, "{}", wrapped(text, "  - ", "    "))?;
    }
    for text in limit.r#try.iter().take(REMEDIES) {
        writeln!(out, "{}", wrapped(text, "  Try: ", "    "))?;
    }
    Ok(())
}

/// What happened, in the order of time.
pub(super) fn events(out: &mut dyn Write, result: &RunResult) -> io::Result<()> {
    if result.events.is_empty() {
        return Ok(());
    }
    let mut found: Vec<&Event> = result.events.iter().take(MOST_EVENTS).collect();
    found.sort_by_key(|event| event.kind);
    let more = found.len().saturating_sub(EVENTS);
    found.truncate(EVENTS);
    found.sort_by(|one, other| one.started_s.total_cmp(&other.started_s));
    section(out, "WHAT HAPPENED WHEN (seconds after the start)")?;
    for event in &found {
        let of = event.hostname.as_ref().map(|name| format!(" ({})", shortened(name, NAME))).unwrap_or_default();
        let text = format!("{}{of}", brief(&event.text, TEXT));
        writeln!(out, "{}", wrapped(&text, &format!("  {:>8.1}  ", event.started_s), "            "))?;
    }
    match more {
        0 => Ok(()),
        more => writeln!(out, "            and {more} more; see the JSON"),
    }
}

/// The server's figures of the window.
pub(super) fn server(out: &mut dyn Write, result: &RunResult) -> io::Result<()> {
    let Some(stats) = &result.findings.server_stats else { return Ok(()) };
    let lines = server_lines(result, stats);
    if lines.is_empty() {
        return Ok(());
    }
    section(out, "SERVER")?;
    lines.iter().try_for_each(|(name, value)| match *name {
        "" => writeln!(out, "{:<22}{value}", ""),
        name => line(out, name, value),
    })
}

fn server_lines(result: &RunResult, stats: &ServerStats) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let events = || stats.waits.events.iter().filter(|event| event.sessions >= 0.05);
    // Sessions that are not of the load come last.
    let of_load = events().filter(|event| event.event != OTHER_APPLICATIONS).take(3);
    let most: Vec<_> = of_load.chain(events().find(|event| event.event == OTHER_APPLICATIONS)).collect();
    if let Some((first, more)) = most.split_first() {
        let one = |event: &str, sessions: f64| format!("{} {sessions:.1}", shortened(event, 24));
        let whose = if stats.sees_all_sessions { "" } else { " (own role)" };
        lines.push(("Sessions", format!("{}{whose}", one(&first.event, first.sessions))));
        lines.extend(more.iter().map(|event| ("", one(&event.event, event.sessions))));
    }
    if let Some(wal) = &stats.wal {
        let rate = wal.bytes as f64 / stats.seconds.max(0.001) / MB;
        let each = match result.accounting.ok {
            0 => String::new(),
            ok => format!(", {:.1} KB a request", wal.bytes as f64 / 1_024.0 / ok as f64),
        };
        let images =
            wal.full_page_images.map(|count| format!(", {} full-page images", thousands(count))).unwrap_or_default();
        lines.push(("WAL", format!("{rate:.1} MB/s{each}{images}")));
    }
    if let Some(checkpoints) = &stats.checkpoints {
        let count = checkpoints.timed.saturating_add(checkpoints.requested);
        let seconds = (checkpoints.write_ms + checkpoints.sync_ms) / 1_000.0;
        let requested = format!("{count} ({} requested), writing for {seconds:.1} s", checkpoints.requested);
        lines.push(("Checkpoints", if count == 0 { "none".to_owned() } else { requested }));
    }
    let sum = |of: fn(&crate::monitor::server::TableActivity) -> u64| {
        stats.tables.iter().map(of).fold(0, u64::saturating_add)
    };
    if !stats.tables.is_empty() {
        let (updated, hot, dead) =
            (sum(|table| table.updated), sum(|table| table.hot_updated), sum(|table| table.dead_rows));
        let hot_pct = hot as f64 / updated.max(1) as f64 * 100.0;
        let hot = if updated > 0 { format!("{} ({hot_pct:.0}% HOT), ", thousands(updated)) } else { String::new() };
        lines.push(("Updates", format!("{hot}{} dead rows", thousands(dead))));
        let grown: Option<Vec<f64>> =
            stats.tables.iter().map(|table| Some(table.bytes_after? as f64 - table.bytes_before? as f64)).collect();
        if let Some(grown) = grown {
            lines.push(("Tables grew by", format!("{:.1} MB", grown.iter().sum::<f64>() / MB)));
        }
    }
    if let Some(activity) = &stats.activity {
        let deadlocks =
            if activity.deadlocks > 0 { format!(", {} deadlocks", activity.deadlocks) } else { String::new() };
        lines.push((
            "Commits",
            format!("{} ({} of ours){deadlocks}", thousands(activity.commits), thousands(result.accounting.ok)),
        ));
    }
    lines.extend(unavailable(stats).map(|what| ("Not available", what)));
    lines
}

/// What the server does not give, in one line; the reason where it is one thing.
fn unavailable(stats: &ServerStats) -> Option<String> {
    match &stats.unavailable[..] {
        [] => None,
        [only] => Some(brief(&format!("{} ({})", only.what, only.reason), LACKS)),
        several => {
            let names: Vec<&str> = several.iter().map(|missing| missing.what.as_str()).collect();
            Some(brief(&name_list(&names, 2), LACKS))
        }
    }
}

/// Requests completed per second over time, in one line.
pub(super) fn rate(result: &RunResult) -> Option<String> {
    let (bins, seconds) = (&result.timeline.completed, result.timeline.bin_seconds.max(1));
    // The last bin is not whole, and after the window only the backlog is worked off.
    let end_s = result.run.window_start_s + result.run.window_seconds;
    let bins = &bins[..bins.len().min(((end_s + 0.01) / seconds as f64) as usize)];
    if bins.len() < 3 {
        return None;
    }
    let per_bar = bins.len().div_ceil(BARS);
    let rate = |bar: &[u64]| bar.iter().map(|count| *count as f64).sum::<f64>() / (bar.len() as f64 * seconds as f64);
    let rates: Vec<f64> = bins.chunks(per_bar).map(rate).collect();
    let most = rates.iter().copied().fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let level = |rate: &f64| LEVELS[((rate / most * 8.0).ceil() as usize).clamp(1, 8) - 1];
    Some(format!("{} {most:.0}/s at most", rates.iter().map(level).collect::<String>()))
}

/// Advice that does not stand under the factor already.
pub(super) fn other_advice(result: &RunResult) -> Vec<String> {
    let shown = result.limit.r#try.iter().take(REMEDIES);
    let is_shown = |text: &String| !result.limit.sentence.is_empty() && shown.clone().any(|known| known == text);
    result.advice.iter().filter(|text| !is_shown(text)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::outages::Outage;
    use crate::monitor::server::{
        ServerActivity, ServerEvent, ServerEventKind, TableActivity, Unavailable, WaitEvent, WalActivity,
    };
    use crate::result::Limit;
    use crate::result::tests::sample;

    fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        text
    }

    #[test]
    fn the_factor_has_two_lines_of_evidence_and_what_to_try() {
        let mut result = sample();
        assert_eq!(written(|out| limit(out, &result)), "");
        let texts = |name: &str| (1..=3).map(|at| format!("{name} {at}")).collect::<Vec<_>>();
        result.limit = Limit {
            kind: LimitKind::RowLocks,
            share_pct: Some(77.0),
            sentence: "Row locks: 77%".to_owned(),
            evidence: texts("Evidence"),
            r#try: texts("Remedy"),
        };
        let expected = "LIMIT: Row locks: 77%\n  - Evidence 1\n  - Evidence 2\n  Try: Remedy 1\n  Try: Remedy 2\n";
        assert_eq!(written(|out| limit(out, &result)), expected);
        result.advice = vec!["Remedy 2".to_owned(), "Remedy 3".to_owned()];
        assert_eq!(other_advice(&result), ["Remedy 3"]);
    }

    #[test]
    fn the_most_important_events_are_listed_by_time() {
        let mut result = sample();
        assert_eq!(written(|out| events(out, &result)), "");
        let outage = |started_s, seconds| Outage {
            hostname: None,
            vms: None,
            started_s,
            first_error_s: None,
            recovered_s: Some(started_s + seconds),
            seconds,
        };
        result.outages = vec![outage(30.0, 2.5)];
        let event =
            |started_s, kind, detail: &str| ServerEvent { started_s, seconds: 1.0, kind, detail: detail.to_owned() };
        let mut happened: Vec<_> =
            (0..8).map(|at| event(f64::from(at) * 5.0, ServerEventKind::Checkpoint, "")).collect();
        happened.push(event(31.0, ServerEventKind::Restart, ""));
        happened.push(event(1.0, ServerEventKind::Autovacuum, "chat_inference"));
        result.findings.server_stats = Some(ServerStats { events: happened, ..ServerStats::default() });
        result.events = crate::result::events(&result);
        let text = written(|out| events(out, &result));
        assert!(
            text.contains(
                "\n      30.0  outage of 2.5 s\n      31.0  the server was restarted, or another one answers, 1.0 s\n"
            ),
            "{text}"
        );
        assert!(text.contains("\n       0.0  checkpoint, 1.0 s\n") && text.contains("and 5 more"), "{text}");
        assert!(!text.contains("autovacuum"), "{text}");
    }

    #[test]
    fn the_servers_figures_take_a_few_lines() {
        let mut result = sample();
        assert_eq!(written(|out| server(out, &result)), "");
        let table = TableActivity {
            updated: 6_000,
            hot_updated: 5_400,
            dead_rows: 12,
            bytes_before: Some(0),
            bytes_after: Some(3 << 20),
            ..TableActivity::default()
        };
        let mut stats = ServerStats { seconds: 60.0, tables: vec![table], ..ServerStats::default() };
        stats.waits.events =
            vec![WaitEvent { event: "Lock:transactionid".to_owned(), sessions: 9.04, by_bin: Vec::new() }];
        // 60 × 2 MB in a minute, of 6,000 requests.
        stats.wal = Some(WalActivity { bytes: 120 << 20, full_page_images: Some(1_234), ..WalActivity::default() });
        stats.activity = Some(ServerActivity { commits: 6_010, ..ServerActivity::default() });
        let unavailable = |what: &str| Unavailable { what: what.to_owned(), reason: "permission denied".to_owned() };
        stats.unavailable = vec![unavailable("pg_stat_replication")];
        let other = WaitEvent { event: "other applications".to_owned(), sessions: 12.0, by_bin: Vec::new() };
        stats.waits.events.insert(0, other);
        result.findings.server_stats = Some(stats);
        let expected = "\nSERVER:\n  Sessions:           Lock:transactionid 9.0 (own role)\n                      other applications 12.0\n  \
            WAL:                2.0 MB/s, 20.5 KB a request, 1,234 full-page images\n  \
            Updates:            6,000 (90% HOT), 12 dead rows\n  Tables grew by:     3.0 MB\n  \
            Commits:            6,010 (6,000 of ours)\n  Not available:      pg_stat_replication (permission denied)\n";
        assert_eq!(written(|out| server(out, &result)), expected);
        let many = ["pg_stat_replication", "pg_stat_checkpointer", "pg_stat_io"].map(unavailable);
        result.findings.server_stats = Some(ServerStats { unavailable: many.into(), ..ServerStats::default() });
        let expected = "\nSERVER:\n  Not available:      pg_stat_replication, pg_stat_checkpointer and 1 more\n";
        assert_eq!(written(|out| server(out, &result)), expected);
    }

    #[test]
    fn the_rate_over_time_fits_a_line() {
        let mut result = sample();
        assert_eq!(rate(&result), None);
        result.timeline.bin_seconds = 1;
        result.timeline.completed = [vec![100; 30], vec![10; 30], vec![999; 5]].concat();
        // Two bins a bar; what came after the window is left out.
        let expected = format!("{}{} 100/s at most", "█".repeat(15), "▁".repeat(15));
        assert_eq!(rate(&result).unwrap(), expected);
    }
}
