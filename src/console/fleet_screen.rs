//! What is shown while a fleet runs, on stderr. Knows what is said; not when the test ends.

use std::time::{Duration, Instant};

use super::lines::{self, Lines};
use super::{SECONDS_BETWEEN_LINES, is_read_within, note};
use crate::fleet::{Fleet, Vm};
use crate::report::exporters::Exporters;
use crate::report::live_fleet::{FleetProgress, waiting};
use crate::text::terminal;

/// How often the lines of all VMs are drawn where no second is complete: there may be a hundred VMs, each with a second of
/// its own.
const DRAWN_EVERY: Duration = Duration::from_millis(250);
/// After the window has closed and no second was told for so long, only results are waited for.
const SILENT: Duration = Duration::from_secs(2);

/// Progress on stderr: a line a VM and one for all on a terminal, otherwise a line every few seconds.
pub(super) struct Screen {
    pub(super) progress: FleetProgress,
    terminal: Option<Lines>,
    shown: Instant,
    verbose: bool,
    is_quiet: bool,
    lines: u64,
    /// When a VM last told of a second.
    pub(super) last_second: Instant,
    /// Lines that said what is waited for.
    waits: u64,
    /// Whether the window was closed early.
    closed: bool,
}

impl Screen {
    pub(super) fn new(fleet: &Fleet) -> Self {
        let plan = &fleet.plan().plan;
        let seconds = plan.engine.schedule.end_ns().div_ceil(1_000_000_000);
        let mut progress = FleetProgress::new(fleet.vms().iter().map(|vm| vm.host.name.as_str()), seconds);
        for (index, _) in fleet.vms().iter().enumerate().filter(|(_, vm)| !vm.is_present()) {
            progress.gone(index, "lost");
        }
        let (terminal, shown) = (Lines::on_terminal().filter(|_| !plan.output.quiet), Instant::now());
        let mut screen = Self {
            progress,
            terminal,
            shown,
            verbose: plan.output.verbose,
            is_quiet: plan.output.quiet,
            lines: 0,
            last_second: Instant::now(),
            waits: 0,
            closed: false,
        };
        screen.show(true);
        screen
    }

    /// Takes in the seconds that are complete; false where there is none.
    pub(super) fn seconds(&mut self, outputs: &mut Exporters) -> bool {
        let complete = self.progress.complete();
        for (index, interval) in &complete {
            outputs.second(*index, interval);
        }
        !complete.is_empty()
    }

    /// Shows what is known now; not with every VM's second, but with the last one of them, or where it is late.
    pub(super) fn show(&mut self, has_new: bool) {
        let total = &self.progress.total;
        if let Some(terminal) = &mut self.terminal {
            if !has_new && self.shown.elapsed() < DRAWN_EVERY {
                return;
            }
            self.shown = Instant::now();
            let (columns, rows) = lines::size();
            terminal.draw(self.progress.terminal_lines(columns - 1, rows));
        } else if !self.is_quiet
            && total.seconds() / SECONDS_BETWEEN_LINES > self.lines
            && is_read_within(Duration::ZERO)
        {
            self.lines = total.seconds() / SECONDS_BETWEEN_LINES;
            let lost = match self.progress.lost() {
                0 => String::new(),
                lost => format!(", {} lost", vm_count(lost)),
            };
            note(&format!("  {}{lost}", total.line(&[])));
        }
    }

    pub(super) fn close(&mut self) {
        self.progress.close();
        self.closed = true;
    }

    /// Whether the load is over, and nothing is told any more until the results come.
    pub(super) fn waits_for_results(&self) -> bool {
        (self.closed || self.progress.total.is_over()) && self.last_second.elapsed() > SILENT
    }

    pub(super) fn waiting(&mut self, verifying: bool) {
        if self.is_quiet || !self.waits_for_results() || !is_read_within(Duration::ZERO) {
            return;
        }
        let silent = self.last_second.elapsed().as_secs();
        let text = waiting(&self.progress.awaited(), silent, verifying);
        match &mut self.terminal {
            Some(terminal) => {
                let (columns, _) = lines::size();
                terminal.draw(vec![terminal::cut(&format!("  {text}"), columns - 1)]);
            }
            None if silent / SECONDS_BETWEEN_LINES >= self.waits => {
                self.waits = silent / SECONDS_BETWEEN_LINES + 1;
                note(&format!("  {text}"));
            }
            None => {}
        }
    }

    pub(super) fn incident(&mut self, vm: &Vm, class: &str, message: &str) {
        if self.verbose {
            let name = &vm.host.name;
            self.print(&terminal::printable(&format!("{name}: first error of its kind: {class}: {message}")));
        }
    }

    pub(super) fn lost(&mut self, fleet: &Fleet, index: usize) {
        self.progress.gone(index, "lost");
        let vm = &fleet.vms()[index];
        let reason = vm.lost().unwrap_or("nothing is known");
        self.print(&terminal::printable_lines(&format!("LOST {}: {reason}", vm.host.name)));
    }

    pub(super) fn stopping(&mut self, signals: u32) {
        // From here on only answers are waited for.
        self.close();
        self.print(super::stopping(signals));
    }

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

pub(super) fn vm_count(number: usize) -> String {
    if number == 1 { "1 VM".to_owned() } else { format!("{number} VMs") }
}
