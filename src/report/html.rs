//! The result as one HTML page: offline, readable without a script, in the dark and on paper.
//!
//! Everything is drawn here, as HTML with inline SVG. The script only adds exact values under the pointer, zoom and
//! switches. A content security policy lets nothing run or load but this script and this style, which it knows by their
//! hashes; so a document from elsewhere can do nothing, even if a text were not escaped.
//!
//! - [`scale`], [`chart`]: axes and charts of any values. [`view`]: what they show of a result.
//! - [`summary`], [`time_panels`], [`latency`], [`server`], [`vms`], [`tables`]: the panels, in the order of the page.

mod chart;
#[cfg(test)]
mod fixtures;
mod latency;
mod scale;
mod server;
mod summary;
mod tables;
#[cfg(test)]
mod tests;
mod time_panels;
mod view;
mod vms;

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::exporter::Exporter;
use crate::result::RunResult;
use crate::text::terminal::printable_json;
use crate::verdict::Slo;
use view::View;

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");

/// Longer documents are not embedded, bytes: a browser would be slow with them.
const MAX_EMBEDDED_BYTES: usize = 8 << 20;

/// The page.
pub struct HtmlReport {
    /// Limits that are marked in the curve of percentiles.
    pub slos: Vec<Slo>,
}

impl Exporter for HtmlReport {
    fn finish(&mut self, out: &mut dyn Write, result: &RunResult) -> io::Result<()> {
        out.write_all(page(result, &self.slos)?.as_bytes())
    }
}

/// A part of the page with a heading, and the values of its charts for the script.
struct Panel {
    markup: Markup,
    data: Vec<Value>,
}

impl Panel {
    fn new(id: &str, title: &str, lead: &str, body: Markup, data: Vec<Value>) -> Self {
        let heading = format!("{id}-h");
        let markup = html! {
            section class="card" id=(id) aria-labelledby=(heading) {
                h2 id=(heading) { (title) }
                @if !lead.is_empty() { p class="lead" { (lead) } }
                (body)
            }
        };
        Self { markup, data }
    }

    /// One that has nothing to show, with the reason.
    fn empty(id: &str, title: &str, why: &str) -> Self {
        Self::new(id, title, "", html! { p class="empty" { (why) } }, Vec::new())
    }
}

/// The whole page.
///
/// # Errors
/// The document cannot be written as JSON.
fn page(result: &RunResult, slos: &[Slo]) -> io::Result<String> {
    let view = View::new(result);
    let mut panels = vec![summary::panel(result)];
    panels.extend(time_panels::rates(&view));
    panels.push(time_panels::latency(&view));
    panels.push(latency::curve(result, slos));
    panels.extend(latency::round_trips(result));
    panels.push(tables::accounting(result));
    panels.push(server::waits(&view));
    panels.extend(server::counters(result));
    panels.push(time_panels::generator(&view));
    panels.extend(vms::panel(&view));
    panels.extend(tables::notes(result));
    panels.push(tables::configuration(result));
    let data: Vec<Value> = panels.iter().flat_map(|panel| panel.data.iter().cloned()).collect();
    let document = serde_json::to_string(result)?;
    let is_embedded = document.len() <= MAX_EMBEDDED_BYTES;
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; base-uri 'none'; form-action 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    let title = format!("{}: load test of {}", result.status, result.run.started_at);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a class="skip" href="#summary" { "Skip to the result" }
                header class="top" {
                    div {
                        p class="brand" { "Postgres load test" }
                        p class="when" { (summary::subtitle(result)) }
                    }
                    div class="buttons" {
                        button type="button" id="reset" hidden { "Reset zoom" }
                        button type="button" id="theme" hidden { "Dark or light" }
                        @if is_embedded { button type="button" id="download" hidden { "Download JSON" } }
                    }
                }
                main {
                    @for panel in &panels { (panel.markup) }
                }
                footer {
                    p { "Written by postgres_load_test " (result.tool_version) " (" (result.tool_build) "). "
                        "Latency belongs to the time in which a request was due, rates to the time in which it was completed." }
                    @if !is_embedded {
                        p { "The JSON document is not in this page, because it is too long. Write it with --output." }
                    }
                }
                div id="tip" role="status" hidden {}
                script type="application/json" id="charts" { (PreEscaped(embedded(&serde_json::to_string(&data)?))) }
                @if is_embedded {
                    script type="application/json" id="document" { (PreEscaped(embedded(&document))) }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    // Nothing in a text may turn its direction or hide in it.
    Ok(printable_json(&page.into_string()))
}

/// JSON that cannot end the element it stands in: `<` may stand within texts only, where an escape means the same.
fn embedded(json: &str) -> String {
    printable_json(json).replace('<', "\\u003c")
}

/// What the policy calls a script or style.
fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text.as_bytes())))
}
