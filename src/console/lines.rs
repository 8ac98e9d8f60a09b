//! Lines at the bottom of a terminal that are kept up to date.
//!
//! The cursor waits at the beginning of the first line, and each drawing clears everything from there on. So it does not
//! matter what became of the lines: a terminal that was made narrower breaks them in two, and moves the cursor with them.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::{is_read, is_read_within, note};

/// Where a terminal does not report its size, and where there is none.
const COLUMNS: usize = 80;
const ROWS: usize = 24;

/// Lines of stderr that are drawn again and again. They are gone when it is dropped.
#[derive(Debug)]
pub struct Lines {
    drawn: Vec<String>,
    is_shown: bool,
}

impl Lines {
    /// Nothing is drawn yet. `None` where stderr is no terminal, or one whose cursor cannot be moved (`TERM=dumb`).
    pub fn on_terminal() -> Option<Self> {
        let has_cursor = moves_cursor(std::env::var_os("TERM").as_deref());
        (io::stderr().is_terminal() && has_cursor).then_some(Self { drawn: Vec::new(), is_shown: false })
    }

    /// Draws other lines in their place, each cut to the terminal's width; nothing where nobody reads.
    pub fn draw(&mut self, lines: Vec<String>) {
        self.drawn = lines;
        if is_read_within(Duration::ZERO) {
            self.is_shown = true;
            write(&frame(&self.drawn, columns()));
        }
    }

    /// Writes a line above them, where somebody reads it.
    pub fn print_above(&mut self, line: &str) {
        if is_read() {
            self.clear();
            note(line);
            let lines = std::mem::take(&mut self.drawn);
            self.draw(lines);
        }
    }

    /// Takes them off the screen.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) && is_read() {
            write(CLEAR);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.clear();
    }
}

/// To the beginning of the line, and clear from there to the end of the screen.
const CLEAR: &str = "\r\u{1b}[J";

/// What draws lines and brings the cursor back to the first one. The last column stays free: some terminals go to the
/// next line when it is written to.
fn frame(lines: &[String], columns: usize) -> String {
    let cut = |line: &String| line.chars().take(columns.saturating_sub(1)).collect::<String>();
    let text = lines.iter().map(cut).collect::<Vec<_>>().join("\r\n");
    let up = match lines.len() {
        0 | 1 => String::new(),
        more => format!("\u{1b}[{}A", more - 1),
    };
    format!("{CLEAR}{text}{up}\r")
}

/// In one piece, so that nothing comes in between. A terminal that is gone is no reason to stop.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn moves_cursor(term: Option<&OsStr>) -> bool {
    term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// How many columns stderr's terminal has; eighty where there is none.
pub fn columns() -> usize {
    size().0
}

/// How many columns and rows stderr's terminal has.
pub fn size() -> (usize, usize) {
    let known = |cells: u16, otherwise| if cells == 0 { otherwise } else { usize::from(cells) };
    rustix::termios::tcgetwinsize(io::stderr())
        .map_or((COLUMNS, ROWS), |size| (known(size.ws_col, COLUMNS), known(size.ws_row, ROWS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_waits_at_the_beginning_of_the_first_line() {
        let lines = ["one", "two", "a third"].map(str::to_owned);
        assert_eq!(frame(&lines, 80), "\r\u{1b}[Jone\r\ntwo\r\na third\u{1b}[2A\r");
        assert_eq!(frame(&lines[..1], 80), "\r\u{1b}[Jone\r");
        assert_eq!(frame(&lines, 4), "\r\u{1b}[Jone\r\ntwo\r\na t\u{1b}[2A\r");
        assert_eq!(frame(&[], 0), "\r\u{1b}[J\r");
    }

    #[test]
    fn a_dumb_terminal_has_no_cursor_to_move() {
        for (term, moves) in [("xterm-256color", true), ("screen", true), ("dumb", false), ("", false)] {
            assert_eq!(moves_cursor(Some(OsStr::new(term))), moves, "{term}");
        }
        assert!(!moves_cursor(None));
    }
}
