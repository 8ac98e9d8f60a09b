//! What the server said: what its sessions waited for, and its counters.

use maud::{Markup, html};

use super::Panel;
use super::chart::{Axis, Chart, Series};
use super::scale::{bytes, ms, short};
use super::view::{NO_STATISTICS, View};
use crate::monitor::server::{ServerStats, TableActivity};
use crate::result::RunResult;
use crate::text::words::thousands;

/// Events that have a colour of their own.
const COLOURED: usize = 8;
const NO_STATS: &str = "The server's statistics were not read (--no-server-stats), or the server gave none.";

/// Sessions by what they waited for, over time.
pub(super) fn waits(view: &View<'_>) -> Panel {
    let (id, title) = ("waits", "What the server's sessions waited for");
    let Some(stats) = &view.result.findings.server_stats else { return Panel::empty(id, title, NO_STATS) };
    let waits = &stats.waits;
    let bins = waits.events.iter().map(|event| event.by_bin.len()).max().unwrap_or(0).min(10_000);
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
    let mut series: Vec<Series> = waits
        .events
        .iter()
        .take(COLOURED)
        .enumerate()
        .map(|(at, event)| Series::line(&event.event, at, list(&event.by_bin)))
        .collect();
    let rest = waits.events.get(COLOURED..).unwrap_or_default();
    if !rest.is_empty() {
        let sum = |at: usize| rest.iter().filter_map(|event| event.by_bin.get(at)).sum::<f64>();
        series.push(Series::line("all others", COLOURED, list(&(0..bins).map(sum).collect::<Vec<_>>())));
    }
    let mut chart =
        Chart::new("c-waits", "Sessions at work by wait event over time", &axis, "sessions, average", series);
    chart.is_stacked = true;
    chart.bands = view.phases();
    chart.bands.extend(view.bands().into_iter().filter(|band| band.kind == NO_STATISTICS));
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

fn why_none(stats: &ServerStats) -> String {
    let reason = stats.unavailable.iter().find(|missing| missing.what.contains("activity"));
    match reason {
        Some(missing) => format!("Not available: {} ({}).", missing.what, missing.reason),
        None => "No session was seen at work.".to_owned(),
    }
}

fn events(stats: &ServerStats) -> Markup {
    let all: f64 = stats.waits.events.iter().map(|event| event.sessions).sum();
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
                        @for event in &stats.waits.events {
                            tr {
                                th scope="row" { (event.event) }
                                td class="number" { (format!("{:.2}", event.sessions)) }
                                td class="number" { (format!("{:.0}%", event.sessions / all.max(1e-9) * 100.0)) }
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
