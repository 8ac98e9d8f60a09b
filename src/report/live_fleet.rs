//! What is shown while several VMs run a test: each of them, and all together.

use std::collections::BTreeMap;

use super::live::Progress;
use crate::measure::recorder::Interval;
use crate::run::VERIFIED_WITHIN;
use crate::text::terminal::{cut, printable, shortened};
use crate::text::words::name_list;

/// VMs that are named before "and N more".
const NAMED: usize = 3;
/// Characters of a VM's name in its line, at most; on a narrow terminal a third of it.
const NAME: usize = 24;

const INDENT: &str = "  ";

/// Lines of a terminal that are not for VMs: all together, how many more there are, and one that stays free.
const OTHER_LINES: usize = 3;

/// How many seconds are kept back for a VM that has not reported them: a second takes some hundred KB.
const MOST_PENDING: usize = 60;

#[derive(Debug)]
pub struct FleetProgress {
    pub total: Progress,
    vms: Vec<Vm>,
    /// Seconds that not all VMs have reported yet.
    pending: BTreeMap<u64, Interval>,
    /// Seconds before this one have been handed out.
    told: u64,
    /// What the monitors of a VM show now, with the VM. One VM of a test watches the server.
    watched: Option<(usize, Vec<String>)>,
}

#[derive(Debug)]
struct Vm {
    name: String,
    progress: Progress,
    /// Why nothing more will come from it.
    gone: Option<&'static str>,
}

impl FleetProgress {
    /// Nothing has happened yet; the window closes after `planned_seconds`.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>, planned_seconds: u64) -> Self {
        let vms = names.into_iter().map(|name| Vm {
            name: printable(name),
            progress: Progress::new(planned_seconds),
            gone: None,
        });
        Self {
            total: Progress::new(planned_seconds),
            vms: vms.collect(),
            pending: BTreeMap::new(),
            told: 0,
            watched: None,
        }
    }

    /// Takes in second `index` of a VM.
    pub fn add(&mut self, host: usize, index: u64, interval: &Interval) {
        self.vms[host].progress.add(index, interval);
        // A second that comes too late for the sum is still in the VM's own line, and in its result.
        if index >= self.told {
            self.pending.entry(index).or_default().add(interval);
        }
    }

    /// Nothing more will come from a VM: `why` is a word, such as `lost`.
    pub fn gone(&mut self, host: usize, why: &'static str) {
        self.vms[host].gone = Some(why);
        // Its last reading is not what the server does now.
        self.watched.take_if(|(watching, _)| *watching == host);
    }

    /// What the monitors of a VM show now.
    pub fn watch(&mut self, host: usize, readings: Vec<String>) {
        self.watched = Some((host, readings));
    }

    /// What monitors show now.
    pub fn watched(&self) -> &[String] {
        self.watched.as_ref().map_or(&[], |(_, readings)| readings)
    }

    /// The window has been closed early.
    pub fn close(&mut self) {
        self.total.close();
        self.vms.iter_mut().for_each(|vm| vm.progress.close());
    }

    /// The seconds that all VMs that are still there have reported by now, oldest first, each once.
    pub fn complete(&mut self) -> Vec<(u64, Interval)> {
        let there = self.vms.iter().filter(|vm| vm.gone.is_none());
        let until = there.map(|vm| vm.progress.seconds()).min().unwrap_or(u64::MAX);
        let surplus = self.pending.len().saturating_sub(MOST_PENDING);
        let overdue = surplus
            .checked_sub(1)
            .and_then(|at| self.pending.keys().nth(at))
            .map_or(0, |index| index.saturating_add(1));
        let until = until.max(overdue);
        let rest = self.pending.split_off(&until);
        let complete = std::mem::replace(&mut self.pending, rest);
        self.told = self.told.max(complete.keys().next_back().map_or(0, |last| last.saturating_add(1)));
        complete.iter().for_each(|(index, interval)| self.total.add(*index, interval));
        complete.into_iter().collect()
    }

    /// The VMs whose results are still expected.
    pub fn awaited(&self) -> Vec<&str> {
        self.vms.iter().filter(|vm| vm.gone.is_none()).map(|vm| vm.name.as_str()).collect()
    }

    /// The lines of a terminal of so many columns and rows: as many VMs as there is room for, and all together.
    pub fn terminal_lines(&self, columns: usize, rows: usize) -> Vec<String> {
        let all = self.vms.len();
        let shown = all.min(rows.saturating_sub(OTHER_LINES));
        let mut lines: Vec<String> = self.vms[..shown].iter().map(|vm| self.line(vm, columns)).collect();
        if shown < all && shown > 0 {
            lines.push(cut(&format!("{INDENT}... and {} more", all - shown), columns));
        }
        lines.push(self.total.terminal_line(columns, self.watched()));
        lines
    }

    fn line(&self, Vm { name, progress, gone }: &Vm, columns: usize) -> String {
        let longest = self.vms.iter().map(|vm| vm.name.chars().count()).max().unwrap_or_default();
        let width = longest.min(NAME).min(columns / 3).max(1);
        let name = format!("{INDENT}{:<width$}  ", shortened(name, width));
        let figures = match gone {
            Some(why) => (*why).to_owned(),
            None if progress.seconds() == 0 => "-".to_owned(),
            None => progress.recent_within(columns.saturating_sub(name.chars().count()), &[]),
        };
        cut(&(name + &figures), columns)
    }

    /// How many VMs are gone without a result.
    pub fn lost(&self) -> usize {
        self.vms.iter().filter(|vm| vm.gone == Some("lost")).count()
    }
}

/// What is said when the load is over and the results have not come.
pub fn waiting(awaited: &[&str], silent_seconds: u64, verifying: bool) -> String {
    let what = match verifying {
        true => format!(": they look for their rows in the database, for up to {} s", VERIFIED_WITHIN.as_secs()),
        false => String::new(),
    };
    format!("Waiting for the results of {} for {silent_seconds} s{what}", name_list(awaited, NAMED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(ok: u64) -> Interval {
        let mut interval = Interval { ok, ..Interval::default() };
        (0..ok).for_each(|_| interval.latency.record_ns(2_000_000));
        interval
    }

    #[test]
    fn a_second_counts_when_all_that_are_there_have_told_it() {
        let mut progress = FleetProgress::new(["a", "b"], 10);
        progress.add(0, 0, &interval(3));
        progress.add(0, 1, &interval(3));
        assert!(progress.complete().is_empty());
        progress.add(1, 0, &interval(4));
        let complete = progress.complete();
        assert_eq!((complete.len(), complete[0].0, complete[0].1.ok), (1, 0, 7));
        progress.gone(1, "lost");
        assert_eq!(progress.complete().len(), 1);
        assert_eq!((progress.total.requests(), progress.lost()), (10, 1));
        let lines = progress.terminal_lines(100, 24);
        assert_eq!(lines[0], "  a  last 2s: 3.0 RPS, p50 2.0 ms, p99 2.0 ms, 0 errors");
        assert_eq!(lines[1], "  b  lost");
        assert!(lines[2].contains("] 2/10s  last 2s: 5.0 RPS"), "{lines:?}");
        progress.watch(0, vec!["row locks 56%".to_owned()]);
        assert!(progress.terminal_lines(120, 24)[2].ends_with(", row locks 56%"), "{lines:?}");
    }

    #[test]
    fn the_last_reading_of_a_vm_that_is_gone_is_not_shown_as_the_present() {
        for why in ["lost", "done"] {
            let mut progress = FleetProgress::new(["a", "b"], 10);
            progress.watch(0, vec!["row locks 56%".to_owned()]);
            progress.gone(1, why);
            assert_eq!(progress.watched(), ["row locks 56%"]);
            progress.gone(0, why);
            assert_eq!(progress.watched(), [""; 0]);
        }
    }

    #[test]
    fn lines_fit_the_terminal_whatever_its_size() {
        let names: Vec<String> = (0..50).map(|host| format!("loader-{host}.a-region-far-away.example.com")).collect();
        let mut progress = FleetProgress::new(names.iter().map(String::as_str), 10);
        (0..50).for_each(|host| progress.add(host, 0, &interval(100)));
        progress.complete();
        for columns in 0..220 {
            for rows in [0, 1, 2, 3, 4, 24, 60] {
                let lines = progress.terminal_lines(columns, rows);
                assert!(lines.len() < rows.max(2), "{rows}: {lines:?}");
                assert!(lines.iter().all(|line| line.chars().count() <= columns), "{columns}: {lines:?}");
            }
        }
        let lines = progress.terminal_lines(39, 24);
        assert_eq!((lines.len(), &*lines[21]), (23, "  ... and 29 more"));
        assert_eq!(lines[0], "  loader…le.com  100.0 RPS, 0 errors");
    }

    #[test]
    fn who_is_waited_for_is_named() {
        let mut progress = FleetProgress::new(["a", "b", "c", "d", "e"], 10);
        progress.gone(1, "done");
        let said = waiting(&progress.awaited(), 12, true);
        let expected = "Waiting for the results of a, c, d and 1 more for 12 s: they look for their rows in the database, for up to 60 s";
        assert_eq!(said, expected);
    }

    #[test]
    fn a_vm_that_tells_no_seconds_does_not_fill_the_memory() {
        let mut progress = FleetProgress::new(["a", "b"], 1_000);
        let mut seen = Vec::new();
        for second in 0..500 {
            progress.add(0, second, &interval(1));
            seen.extend(progress.complete().into_iter().map(|(index, interval)| (index, interval.ok)));
            assert!(progress.pending.len() <= MOST_PENDING);
        }
        // Each second once, also where it comes after all.
        progress.add(1, 0, &interval(1));
        progress.add(1, 499, &interval(1));
        seen.extend(progress.complete().into_iter().map(|(index, interval)| (index, interval.ok)));
        assert_eq!(seen, (0..500).map(|index| (index, if index == 499 { 2 } else { 1 })).collect::<Vec<_>>());
    }
}
