//! What a report says of the VMs of a test, in a table and below it.
//!
//! Names and reasons come from other VMs, so nothing of them reaches the terminal unfiltered.

use std::io::{self, Write};

use super::layout::{bounded, marked, section, wrapped};
use crate::result::{ClockComparison, ClockReference, Fleet, Summary, VmResult};
use crate::text::grouped;
use crate::text::terminal::shortened;
use crate::verdict::fleet::{at_fault, clock_errors, differing};

/// Characters of a VM's name in the table.
const NAME: usize = 15;
/// Characters of a clock in the table.
const CLOCK: usize = 10;
/// Reasons and notes below the table.
const MAX_NOTES: usize = 20;
/// Rows of the table; VMs with something to say come first where there are more.
const MAX_ROWS: usize = 100;

/// The table of VMs, and below it why some are missing, lost or unlike the others.
pub(super) fn table(out: &mut dyn Write, fleet: &Fleet) -> io::Result<()> {
    section(out, "VMS")?;
    let columns = ["Status", "RPS", "OK %", "P50 ms", "P99 ms", "Late99", "Skew", "Clock"].map(str::to_owned);
    row(out, "VM", &columns)?;
    let differing = differing(fleet);
    let clock_errors = clock_errors(fleet);
    let marks: Vec<&str> = fleet
        .per_vm_results
        .iter()
        .enumerate()
        .map(|(index, vm)| {
            let differs = differing.iter().any(|difference| difference.index == index);
            mark(vm, clock_errors[index].is_some(), differs)
        })
        .collect();
    let missing: Vec<_> = fleet.failed_vms.iter().filter(|failed| !is_present(fleet, &failed.hostname)).collect();
    let shown = rows_to_show(&marks, missing.len());
    for index in &shown {
        let vm = &fleet.per_vm_results[*index];
        row(out, &vm.hostname, &figures(vm, marks[*index]))?;
    }
    if shown.len() < marks.len() {
        writeln!(out, "  ({} more VMs, all ok)", marks.len() - shown.len())?;
    }
    let dashes = ["MISSING", "-", "-", "-", "-", "-", "-", "-"].map(str::to_owned);
    for failed in missing.iter().take(MAX_ROWS) {
        row(out, &failed.hostname, &dashes)?;
    }
    let failures = fleet.failed_vms.iter().map(|failed| (failed.hostname.as_str(), failed.error.as_str()));
    let failures = grouped::sentences(failures);
    let faults = fleet.per_vm_results.iter().filter_map(|vm| at_fault(vm).map(|why| format!("{}: {why}", vm.hostname)));
    let clocks = fleet.per_vm_results.iter().filter_map(|vm| {
        let clock = vm.clock?;
        let (before, after) = (clock.offset_ms, offset_after(clock)?);
        Some(format!(
            "{}: its clock was {before:+.1} ms off before the test, and {after:+.1} ms after it.",
            vm.hostname
        ))
    });
    let notes: Vec<String> = failures
        .into_iter()
        .chain(faults)
        .chain(clocks)
        .chain(differing.into_iter().map(|difference| difference.text))
        .collect();
    for note in notes.iter().take(MAX_NOTES) {
        writeln!(out, "{}", wrapped(note, "  * ", "    "))?;
    }
    if notes.len() > MAX_NOTES {
        writeln!(out, "  * and {} more", notes.len() - MAX_NOTES)?;
    }
    let through_database =
        fleet.per_vm_results.iter().flat_map(|vm| vm.clock).any(|clock| clock.reference == ClockReference::Database);
    let reference = if through_database { "database" } else { "coordinator" };
    writeln!(
        out,
        "  Late99: sent after it was due, p99, ms. Skew: began after T0, ms.\n  \
         Clock: ahead of the {reference}'s, ms; before→after the test where it changed."
    )?;
    if shown.iter().any(|index| fleet.per_vm_results[*index].result.latency_ms.p99_is_max) {
        writeln!(out, "  *: the maximum, because there are too few requests for this percentile.")?;
    }
    Ok(())
}

/// Whether a VM that failed has a row of its own, because something of it is left.
fn is_present(fleet: &Fleet, hostname: &str) -> bool {
    fleet.per_vm_results.iter().any(|vm| vm.lost.is_some() && vm.hostname == hostname)
}

/// All, or those that are not ok and as many more as there is room for, in their order.
fn rows_to_show(marks: &[&str], missing: usize) -> Vec<usize> {
    let (mut shown, ok): (Vec<usize>, Vec<usize>) = (0..marks.len()).partition(|index| marks[*index] != OK);
    let room = MAX_ROWS.saturating_sub(missing + shown.len());
    shown.extend(ok.into_iter().take(room));
    shown.sort_unstable();
    shown
}

const OK: &str = "ok";

fn mark(vm: &VmResult, has_wrong_clock: bool, differs: bool) -> &'static str {
    if vm.lost.is_some() {
        "LOST"
    } else if has_wrong_clock {
        "CLOCK"
    } else if at_fault(vm).is_some() {
        "LATE"
    } else if vm.result.accounting.scheduled == 0 {
        "idle"
    } else if vm.result.throughput.failed_writes > 0 {
        "errors"
    } else if differs {
        "differs"
    } else {
        OK
    }
}

fn figures(vm: &VmResult, mark: &str) -> [String; 8] {
    let result = &vm.result;
    let figure = |summary: &Summary, name: &str| marked(bounded(summary.figure(name), ">", compact), summary, name);
    [
        mark.to_owned(),
        compact(result.throughput.actual_rps),
        result.throughput.success_rate.map_or("-".to_owned(), |pct| format!("{pct:.1}")),
        figure(&result.latency_ms, "p50"),
        figure(&result.latency_ms, "p99"),
        figure(&result.lateness_ms, "p99"),
        vm.start_skew_ms.map_or("-".to_owned(), |ms| format!("{ms:+.1}")),
        vm.clock.map_or("-".to_owned(), clock),
    ]
}

/// The least change of a clock that is told, milliseconds.
const CLOCK_CHANGE_MS: f64 = 1.0;

/// The offset after the test, where the two estimates differ by more than they can be wrong.
fn offset_after(clock: ClockComparison) -> Option<f64> {
    let bounds_ms = clock.bound_ms + clock.bound_after_ms.unwrap_or_default();
    clock.offset_after_ms.filter(|after_ms| (after_ms - clock.offset_ms).abs() > bounds_ms.max(CLOCK_CHANGE_MS))
}

fn clock(clock: ClockComparison) -> String {
    let ClockComparison { offset_ms, bound_ms, .. } = clock;
    if let Some(after_ms) = offset_after(clock) {
        let short = |ms: f64| match ms.round() {
            ms if ms.abs() >= 100_000.0 => format!("{:+.0}s", ms / 1_000.0),
            // Rounding leaves a sign on zero.
            ms => format!("{:+.0}", ms + 0.0),
        };
        let both = format!("{}→{}", short(offset_ms), short(after_ms));
        return if both.chars().count() > CLOCK { format!("→{}", short(after_ms)) } else { both };
    }
    let decimals = usize::from(offset_ms.abs() < 100.0);
    format!("{offset_ms:+.decimals$}±{bound_ms:.decimals$}")
}

/// Fewer decimals for larger numbers.
fn compact(value: f64) -> String {
    match value {
        value if value < 100.0 => format!("{value:.2}"),
        value if value < 1_000.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

fn row(out: &mut dyn Write, name: &str, cells: &[String; 8]) -> io::Result<()> {
    const WIDTHS: [usize; 8] = [7, 7, 5, 7, 7, 6, 6, CLOCK];
    let mut text = format!("  {:<NAME$}", shortened(name, NAME));
    for (at, (cell, width)) in cells.iter().zip(WIDTHS).enumerate() {
        // A huge figure must not push the others out of the line.
        let cell = if cell.chars().count() > width { "…" } else { cell };
        text += &if at == 0 { format!(" {cell:<width$}") } else { format!(" {cell:>width$}") };
    }
    writeln!(out, "{text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::text::report;
    use crate::result::tests::sample;
    use crate::result::{FailedVm, RunResult};

    fn vm(hostname: &str) -> VmResult {
        VmResult {
            hostname: hostname.to_owned(),
            actual_rps: 100.0,
            success_rate: Some(100.0),
            latency_p50: Some(8.0),
            clock: Some(ClockComparison {
                offset_ms: -12.34,
                bound_ms: 0.25,
                offset_after_ms: None,
                bound_after_ms: None,
                reference: ClockReference::Coordinator,
            }),
            start_skew_ms: Some(0.12),
            lost: None,
            slots_lost: 0,
            result: Box::new(sample()),
        }
    }

    fn reported(vms: Vec<VmResult>, failed_vms: Vec<FailedVm>) -> String {
        let fleet = Fleet {
            success: failed_vms.is_empty(),
            num_vms: vms.len() + failed_vms.len(),
            failed_vms,
            per_vm_results: vms,
            start_skew_ms: None,
        };
        let mut out = Vec::new();
        report(&mut out, &RunResult { fleet: Some(fleet), ..sample() }).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        text
    }

    fn failed(hostname: &str, error: &str) -> FailedVm {
        FailedVm { hostname: hostname.to_owned(), error: error.to_owned() }
    }

    #[test]
    fn every_vm_has_a_row() {
        let mut lost = vm("h2");
        lost.lost = Some("connection reset".to_owned());
        let mut late = vm("worker-in-a-very-far-away-region-7");
        late.result.lateness_ms.p99 = Some(77.0);
        let mut slow = vm("h4");
        slow.result.latency_ms.p99 = Some(12_345.6);
        slow.result.latency_ms.p99_is_lower_bound = true;
        let text = reported(
            vec![vm("h1"), lost, late, slow],
            vec![failed("h2", "connection reset"), failed("h5", "no route to host")],
        );
        for line in [
            "\nVMS:\n  VM              Status      RPS  OK %  P50 ms  P99 ms Late99   Skew      Clock\n",
            "\n  h1              ok        100.0 100.0    8.00   15.01   0.00   +0.1  -12.3±0.2\n",
            "\n  h2              LOST      100.0",
            "\n  worker-…egion-7 LATE      100.0 100.0    8.00   15.01  77.00   +0.1  -12.3±0.2\n",
            "\n  h4              differs   100.0 100.0    8.00  >12346",
            "\n  h5              MISSING       -",
            "\n  * h2: connection reset\n",
            "\n  * h5: no route to host\n",
            "\n  * h4 differs: its p99 is more than 12345.6 ms",
        ] {
            assert!(text.contains(line), "{line:?} is missing from\n{text}");
        }
        assert!(text.find("VMS:") < text.find("THROUGHPUT:"));
    }

    #[test]
    fn a_clock_that_was_set_during_the_test_is_shown_before_and_after() {
        let row = |offset_ms, after: Option<(f64, f64)>| {
            let mut vm = vm("h1");
            let (offset_after_ms, bound_after_ms) = after.unzip();
            vm.clock = Some(ClockComparison {
                offset_ms,
                bound_ms: 0.1,
                offset_after_ms,
                bound_after_ms,
                reference: ClockReference::Coordinator,
            });
            let text = reported(vec![vm], Vec::new());
            (text.lines().find(|line| line.starts_with("  h1 ")).unwrap().to_owned(), text)
        };
        for (before, after, shown) in [
            (-0.04, None, " -0.0±0.1"),
            (0.0, Some((0.15, 0.1)), " +0.0±0.1"),
            (0.0, Some((0.9, 0.1)), " +0.0±0.1"),
            (0.0, Some((9.0, 20.0)), " +0.0±0.1"),
            (-0.04, Some((30_000.0, 0.1)), " +0→+30000"),
            (0.4, Some((-30_000.0, 0.1)), " +0→-30000"),
            (0.0, Some((3_600_000.0, 0.1)), " +0→+3600s"),
            (-12_345.0, Some((17_655.0, 0.1)), " →+17655"),
        ] {
            let (row, text) = row(before, after);
            assert!(row.ends_with(shown), "{row:?} does not end with {shown:?}");
            let is_told = text.contains("* h1: its clock was");
            assert_eq!(is_told, shown.contains('→'), "{text}");
        }
        assert!(row(0.0, Some((30_000.0, 0.1))).1.contains("+0.0 ms off before the test, and +30000.0 ms after it."));
    }

    #[test]
    fn vms_cannot_steer_the_terminal_nor_break_the_table() {
        let mut wild = vm("\u{1b}[2Jh1");
        wild.result.throughput.actual_rps = 1e200;
        wild.start_skew_ms = Some(-1e9);
        let text = reported(vec![wild], vec![failed("h\n2", "\u{1b}[31m".repeat(100).as_str())]);
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(text.contains("h\\n2"), "{text}");
    }

    #[test]
    fn of_many_vms_the_odd_ones_are_shown() {
        let mut vms: Vec<VmResult> = (0..500).map(|i| vm(&format!("h{i}"))).collect();
        vms[444].result.lateness_ms.p99 = Some(77.0);
        let text = reported(vms, Vec::new());
        assert!(text.contains("  h444 ") && text.contains("(400 more VMs, all ok)"), "{text}");
    }
}
