//! The pieces that texts for a terminal are made of: sections, lines, rows, and lines that wrap.

use std::io::{self, Write};

use crate::result::{Bounded, Summary};
use crate::text::terminal::lines_of;

pub(super) const RULE: &str = "============================================================";

/// Names and values under a title.
pub(super) fn title(title: &str, lines: &[(&'static str, String)]) -> String {
    let line = |(name, value): &(&str, String)| wrapped(value, &format!("{:<21}", format!("{name}:")), &" ".repeat(21));
    let lines = lines.iter().map(line).collect::<Vec<_>>().join("\n");
    format!("{RULE}\n{title}\n{RULE}\n{lines}\n{RULE}\n\n")
}

/// Text from anywhere in lines that a terminal of eighty columns holds.
pub(super) fn wrapped(text: &str, first: &str, further: &str) -> String {
    wrapped_within(78, text, first, further)
}

/// The same in lines of so many characters.
pub(super) fn wrapped_within(width: usize, text: &str, first: &str, further: &str) -> String {
    let options = textwrap::Options::new(width).initial_indent(first).subsequent_indent(further);
    textwrap::fill(&lines_of(text).join("\n"), options)
}

pub(super) fn section(out: &mut dyn Write, title: &str) -> io::Result<()> {
    writeln!(out, "\n{title}:")
}

pub(super) fn line(out: &mut dyn Write, name: &str, value: &str) -> io::Result<()> {
    writeln!(out, "{:<22}{value}", format!("  {name}:"))
}

pub(super) fn row(label: &str, values: &[String]) -> String {
    let values: Vec<String> = values.iter().map(|value| format!("{value:<11}")).collect();
    // A name as long as the column still needs a space behind it.
    format!("{}\n", format!("{label:<21} {}", values.concat()).trim_end())
}

/// A figure with `mark` before it where it is only a lower bound; `-` where there is none.
pub(super) fn bounded(figure: Option<Bounded>, mark: &str, shown: impl Fn(f64) -> String) -> String {
    match figure {
        Some(Bounded { value: Some(value), is_lower_bound: true }) => mark.to_owned() + &shown(value),
        Some(Bounded { value: Some(value), is_lower_bound: false }) => shown(value),
        _ => "-".to_owned(),
    }
}

/// A percentile, with a mark where it is the maximum because there are too few requests.
pub(super) fn marked(text: String, summary: &Summary, name: &str) -> String {
    if summary.is_max(name) { text + "*" } else { text }
}
