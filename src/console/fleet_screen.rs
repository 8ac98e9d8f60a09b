//! What is shown while a fleet runs, on stderr. Knows what is said; not when the test ends.

use std::time::{Duration, Instant};

use super::lines;
use super::screen::Screen;
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
pub(super) struct FleetScreen {
    pub(super) progress: FleetProgress,
    pub(super) out: Screen,
    shown: Instant,
    verbose: bool,
    /// When a VM last told of a second.
    pub(super) last_second: Instant,
    /// Lines that said what is waited for.
    waits: u64,
    closed: bool,
}

impl FleetScreen {
    pub(super) fn new(fleet: &Fleet) -> Self {
        let plan = &fleet.plan().plan;
        let seconds = plan.engine.schedule.end_ns().div_ceil(1_000_000_000);
        let mut progress = FleetProgress::new(fleet.vms().iter().map(|vm| vm.host.name.as_str()), seconds);
        for (index, _) in fleet.vms().iter().enumerate().filter(|(_, vm)| !vm.is_present()) {
            progress.gone(index, "lost");
        }
        let mut screen = Self {
            progress,
            out: Screen::new(plan.output.quiet),
            shown: Instant::now(),
            verbose: plan.output.verbose,
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
        if !has_new && self.shown.elapsed() < DRAWN_EVERY {
            return;
        }
        self.shown = Instant::now();
        let progress = &self.progress;
        let plain = || {
            let lost = match progress.lost() {
                0 => String::new(),
                lost => format!(", {} lost", vm_count(lost)),
            };
            progress.total.line(progress.watched()) + &lost
        };
        self.out.show(progress.total.seconds(), |columns, rows| progress.terminal_lines(columns, rows), plain);
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
        if self.out.is_quiet || !self.waits_for_results() || !is_read_within(Duration::ZERO) {
            return;
        }
        let silent = self.last_second.elapsed().as_secs();
        let text = waiting(&self.progress.awaited(), silent, verifying);
        match &mut self.out.terminal {
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
            self.out.print(&terminal::printable(&format!("{name}: first error of its kind: {class}: {message}")));
        }
    }

    pub(super) fn lost(&mut self, fleet: &Fleet, index: usize) {
        self.progress.gone(index, "lost");
        let vm = &fleet.vms()[index];
        let reason = vm.lost().unwrap_or("nothing is known");
        self.out.print(&terminal::printable_lines(&format!("LOST {}: {reason}", vm.host.name)));
    }

    pub(super) fn stopping(&mut self, signals: u32) {
        // From here on only answers are waited for.
        self.close();
        self.out.print(super::stopping(signals));
    }
}

pub(super) fn vm_count(number: usize) -> String {
    if number == 1 { "1 VM".to_owned() } else { format!("{number} VMs") }
}
