//! What the server said: what its sessions waited for, and its counters.

use maud::{Markup, html};

use super::Panel;
use super::chart::{Axis, Chart, Series};
use super::scale::{bytes, ms, short};
use super::view::{NO_STATISTICS, View};
use crate::measure::bins::Bins;
use crate::monitor::server::{OTHER_APPLICATIONS, ServerStats, TableActivity, WaitEvent};
use crate::result::RunResult;
use crate::text::words::thousands;

/// Events that are read of a document; a run has no more.
const MOST_EVENTS: usize = 15;
/// Events that have a colour of their own.
const COLOURED: usize = 8;
/// The colour of sessions that are not of the load: grey.
const OTHERS_COLOUR: usize = 9;
const NO_STATS: &str = "The server's statistics were not read (--no-server-stats), or the server gave none.";

/// Sessions by what they waited for, over time.
pub(super) fn waits(view: &View<'_>) -> Panel {
    let (id, title) = ("waits", "What the server's sessions waited for");
    let Some(stats) = &view.result.findings.server_stats else { return Panel::empty(id, title, NO_STATS) };
    let waits = &stats.waits;
    let shown = in_order(stats);
    let bins = shown.iter().map(|event| event.by_bin.len()).max().unwrap_or(0).min(Bins::MAX_BINS as usize);
    if bins == 0 || waits.bin_seconds == 0 || waits.window_samples == 0 {
        return Panel::empty(id, title, &why_none(stats));
    }
    let bin_s = waits.bin_seconds as f64;
    let axis = Axis { edges: (0..=bins).map(|at| at as f64 * bin_s).collect(), ..view.axis.clone() };
    let list = |values: &[f64]| -> Vec<Option<f64>> {
        let has_samples = |at: usize| waits.samples.get(at).is_none_or(|samples| *samples > 0);
        let value = |at: usize| values.get(at).copied().filter(|value| value.is_finite() && has_samples(at));
        (0..bins).map(value).collect()
    };
    let (others, of_load): (Vec<&WaitEvent>, Vec<_>) = shown.into_iter().partition(|event| is_other(event));
    let (coloured, rest) = of_load.split_at(of_load.len().min(COLOURED));
    let mut series: Vec<Series> =
        coloured.iter().enumerate().map(|(at, event)| Series::line(&event.event, at, list(&event.by_bin))).collect();
    if !rest.is_empty() {
        let sum = |at: usize| rest.iter().filter_map(|event| event.by_bin.get(at)).sum::<f64>();
        series.push(Series::line("all others", COLOURED, list(&(0..bins).map(sum).collect::<Vec<_>>())));
    }
    series.extend(others.iter().map(|event| Series::line(&event.event, OTHERS_COLOUR, list(&event.by_bin))));
    let mut chart =
        Chart::new("c-waits", "Sessions at work by wait event over time", &axis, "sessions, average", series);
    chart.is_stacked = true;
    chart.bands = view.phases();
    chart.bands.extend(view.bands.iter().filter(|band| band.kind == NO_STATISTICS).cloned());
    let seen = match stats.sees_all_sessions {
        true => "all sessions of this database",
        false => "this role's own sessions only (grant pg_monitor to see all)",
    };
    let lead = format!(
        "Sessions that were at work, by wait event: an average of {} looks at {seen}. CPU: at work without waiting.",
        thousands(waits.window_samples)
    );
    let body = html! { (chart.markup()) (events(stats)) (blockers(stats)) };
    Panel::new(id, title, &lead, body, vec![chart.data()])
}

/// The events that are shown, those of the load first.
fn in_order(stats: &ServerStats) -> Vec<&WaitEvent> {
    let mut events: Vec<&WaitEvent> = stats.waits.events.iter().take(MOST_EVENTS).collect();
    events.sort_by_key(|event| is_other(event));
    events
}

fn is_other(event: &WaitEvent) -> bool {
    event.event == OTHER_APPLICATIONS
}

/// Why there are no sessions to show.
fn why_none(stats: &ServerStats) -> String {
    if stats.waits.window_samples > 0 {
        return "No session was seen at work.".to_owned();
    }
    let reason = |what: &str| stats.unavailable.iter().find(|missing| missing.what == what);
    match (reason("connection").or_else(|| reason("pg_stat_activity")), stats.gaps.first()) {
        (Some(missing), _) => format!("Not available: {} ({}).", missing.what, missing.reason),
        (None, Some(gap)) => format!("Nobody could look at the sessions in the measured window: {}.", gap.reason),
        (None, None) => "Nobody looked at the sessions in the measured window.".to_owned(),
    }
}

fn events(stats: &ServerStats) -> Markup {
    let shown = in_order(stats);
    let all: f64 = shown.iter().filter(|event| !is_other(event)).map(|event| event.sessions).sum();
    html! {
        details {
            summary { "Wait events in the measured window" }
            div class="scroll" tabindex="0" role="region" aria-label="Wait events as a table" {
                table {
                    thead { tr {
                        th scope="col" { "Event" } th scope="col" class="number" { "Sessions" }
                        th scope="col" class="number" { "Share" }
                    } }
                    tbody {
                        @for event in &shown {
                            tr {
                                th scope="row" { (event.event) }
                                td class="number" { (format!("{:.2}", event.sessions)) }
                                td class="number" {
                                    @if is_other(event) { "–" } @else { (format!("{:.0}%", event.sessions / all.max(1e-9) * 100.0)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn blockers(stats: &ServerStats) -> Markup {
    html! {
        @if !stats.blockers.is_empty() {
            h3 { "Other sessions that held locks" }
            ul {
                @for blocker in &stats.blockers {
                    li { (blocker.application_name) " (user " (blocker.user) ", pid " (blocker.pid) "): in "
                        (short(blocker.share_pct)) "% of the looks" }
                }
            }
        }
    }
}

/// WAL, checkpoints, tables. Left out where the panel before has said that there are none.
pub(super) fn counters(result: &RunResult) -> Option<Panel> {
    let stats = result.findings.server_stats.as_ref()?;
    let rows = rows(stats, result.accounting.ok);
    let body = html! {
        @if rows.is_empty() { p class="empty" { "The server gave no counters; see below for the reasons." } }
        dl class="facts" {
            @for (name, value, more) in &rows {
                div { dt { (name) } dd { (value) @if !more.is_empty() { span class="muted" { " " (more) } } } }
            }
        }
        (tables(&stats.tables))
        @if !stats.standbys.is_empty() {
            h3 { "Standbys" }
            ul { @for standby in &stats.standbys { li {
                (standby.name) " (" (standby.sync_state) ")"
                @if let Some(lag) = standby.lag_bytes { ", " (bytes(lag as f64)) " behind" }
                @if let Some(lag) = standby.replay_lag_ms { ", replay lag " (ms(lag)) }
            } } }
        }
        @if !stats.unavailable.is_empty() {
            details {
                summary { "Not available (" (stats.unavailable.len()) ")" }
                ul { @for missing in &stats.unavailable { li { b { (missing.what) } ": " (missing.reason) } } }
            }
        }
        @if !stats.settings.is_empty() {
            details {
                summary { "Settings of the server (" (stats.settings.len()) ")" }
                div class="scroll" tabindex="0" role="region" aria-label="Settings as a table" {
                    table { tbody {
                        @for (name, value) in &stats.settings { tr { th scope="row" { (name) } td { (value) } } }
                    } }
                }
            }
        }
    };
    let lead = format!(
        "Differences of the server's counters over {} s; they include what others did in this time.",
        short(stats.seconds)
    );
    Some(Panel::new("counters", "WAL, checkpoints and tables", &lead, body, Vec::new()))
}

fn rows(stats: &ServerStats, ok: u64) -> Vec<(&'static str, String, String)> {
    let mut rows = Vec::new();
    let per_request = |count: f64| if ok > 0 { count / ok as f64 } else { 0.0 };
    if let Some(wal) = &stats.wal {
        let rate = wal.bytes as f64 / stats.seconds.max(1e-9);
        let more = format!("{}/s, {} a request", bytes(rate), bytes(per_request(wal.bytes as f64)));
        rows.push(("WAL written", bytes(wal.bytes as f64), more));
        let optional = [
            ("WAL records", wal.records, ""),
            ("Full-page images", wal.full_page_images, "pages logged whole after a checkpoint"),
            ("WAL buffers full", wal.buffers_full, "times a session had to write"),
        ];
        for (name, count, more) in optional {
            rows.extend(count.map(|count| (name, thousands(count), more.to_owned())));
        }
    }
    if let Some(found) = &stats.checkpoints {
        let all = found.timed.saturating_add(found.requested);
        let more = format!("{} timed, {} requested", thousands(found.timed), thousands(found.requested));
        rows.push(("Checkpoints", thousands(all), more));
        let more = format!("write {}, sync {}", ms(found.write_ms), ms(found.sync_ms));
        rows.push(("Checkpoint buffers", thousands(found.buffers_written), more));
    }
    if let Some(found) = &stats.activity {
        let more = format!("{} rolled back", thousands(found.rollbacks));
        rows.push(("Commits", thousands(found.commits), more));
        let all = found.blocks_hit.saturating_add(found.blocks_read).max(1);
        let hits = format!("{:.2}%", found.blocks_hit as f64 / all as f64 * 100.0);
        let read_ms = found.block_read_ms.map(|took| format!(", {} reading", ms(took))).unwrap_or_default();
        rows.push(("Cache hits", hits, format!("{} pages read{read_ms}", thousands(found.blocks_read))));
        for (name, count) in [("Deadlocks", found.deadlocks), ("Temporary files, bytes", found.temp_bytes)] {
            if count > 0 {
                rows.push((name, thousands(count), String::new()));
            }
        }
    }
    if let Some(io) = &stats.io {
        let more = format!("{} extends, {} fsyncs", thousands(io.extends), thousands(io.fsyncs));
        rows.push(("I/O", format!("{} reads, {} writes", thousands(io.reads), thousands(io.writes)), more));
    }
    rows
}

fn tables(all: &[TableActivity]) -> Markup {
    let size = |bytes_then: Option<u64>| bytes_then.map_or("–".to_owned(), |size| bytes(size as f64));
    let hot = |table: &TableActivity| match table.updated {
        0 => "–".to_owned(),
        updated => format!("{:.0}%", table.hot_updated as f64 / updated as f64 * 100.0),
    };
    html! {
        @if !all.is_empty() {
            div class="scroll" tabindex="0" role="region" aria-label="Tables that requests write" {
                table {
                    thead { tr {
                        th scope="col" { "Table" }
                        @for name in ["Inserted", "Updated", "HOT", "Dead rows", "Autovacuums", "Before", "After"] {
                            th scope="col" class="number" { (name) }
                        }
                    } }
                    tbody {
                        @for table in all {
                            tr {
                                th scope="row" { (table.name) }
                                td class="number" { (thousands(table.inserted)) }
                                td class="number" { (thousands(table.updated)) }
                                td class="number" { (hot(table)) }
                                td class="number" { (thousands(table.dead_rows)) }
                                td class="number" { (thousands(table.autovacuums)) }
                                td class="number" { (size(table.bytes_before)) }
                                td class="number" { (size(table.bytes_after)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::server::{Gap, Unavailable};
    use crate::report::html::fixtures::{self, Shape};

    #[test]
    fn where_nobody_looked_the_reason_is_told() {
        let mut stats = ServerStats::default();
        assert_eq!(why_none(&stats), "Nobody looked at the sessions in the measured window.");
        stats.gaps = vec![Gap { started_s: 0.0, seconds: 60.0, reason: "the server closed it".to_owned() }];
        assert_eq!(why_none(&stats), "Nobody could look at the sessions in the measured window: the server closed it.");
        for (what, reason) in [("pg_stat_wal", "absent"), ("pg_stat_activity", "denied"), ("connection", "refused")] {
            stats.unavailable.push(Unavailable { what: what.to_owned(), reason: reason.to_owned() });
        }
        assert_eq!(why_none(&stats), "Not available: connection (refused).");
        stats.unavailable.pop();
        assert_eq!(why_none(&stats), "Not available: pg_stat_activity (denied).");
        stats.waits.window_samples = 5;
        assert_eq!(why_none(&stats), "No session was seen at work.");
    }

    #[test]
    fn sessions_of_others_come_last_and_are_grey() {
        let mut result = fixtures::run(&Shape::normal());
        let waits = &mut result.findings.server_stats.as_mut().unwrap().waits;
        let other = WaitEvent { event: OTHER_APPLICATIONS.to_owned(), ..waits.events[0].clone() };
        waits.events.insert(0, other);
        let page = waits_page(&result);
        let entry = page.find("area c9\"></span>other applications").expect("a grey entry");
        assert!(page.find("all others").is_some_and(|at| at < entry), "{page}");
        assert!(page.contains("area c0\"></span>Lock:transactionid"), "{page}");
    }

    fn waits_page(result: &RunResult) -> String {
        waits(&View::new(result)).markup.into_string()
    }
}
