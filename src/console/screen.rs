//! The live part of stderr: lines at the bottom of a terminal, otherwise a line every few seconds.

use std::time::Duration;

use super::lines::{self, Lines};
use super::{SECONDS_BETWEEN_LINES, is_read_within, note};

pub(super) struct Screen {
    pub(super) terminal: Option<Lines>,
    pub(super) is_quiet: bool,
    /// Lines written where there is no terminal.
    told: u64,
}

impl Screen {
    pub(super) fn new(is_quiet: bool) -> Self {
        Self { terminal: Lines::on_terminal().filter(|_| !is_quiet), is_quiet, told: 0 }
    }

    /// Shows where the run is after so many seconds: `lines_of` makes lines of a terminal of so many columns and rows,
    /// `plain` one for a log.
    pub(super) fn show(
        &mut self,
        seconds: u64,
        lines_of: impl Fn(usize, usize) -> Vec<String>,
        plain: impl Fn() -> String,
    ) {
        if let Some(terminal) = &mut self.terminal {
            let (columns, rows) = lines::size();
            terminal.draw(lines_of(columns - 1, rows));
        } else if !self.is_quiet && seconds / SECONDS_BETWEEN_LINES > self.told && is_read_within(Duration::ZERO) {
            self.told = seconds / SECONDS_BETWEEN_LINES;
            note(&format!("  {}", plain()));
        }
    }

    /// Writes a line that stays.
    pub(super) fn print(&mut self, line: &str) {
        match &mut self.terminal {
            Some(terminal) => terminal.print_above(line),
            None => note(line),
        }
    }

    pub(super) fn end(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.clear();
        }
    }
}
