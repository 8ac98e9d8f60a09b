//! The table of VMs before a test: what was found on each, and what is wrong.

use std::collections::BTreeMap;

use super::layout::wrapped_within;
use crate::fleet::Vm;
use crate::fleet::clock::comparisons;
use crate::text::grouped;
use crate::text::terminal::{printable, shortened};
use crate::verdict::clocks;

/// Characters of a VM's name in the table: at most, and where the terminal is narrow.
const NAME: usize = 18;
const SHORT_NAME: usize = 12;

/// The columns behind the name, each with its rank: the greatest is left out first where the terminal is too narrow.
const COLUMNS: [(&str, usize); 7] =
    [("SSH", 0), ("load_test", 6), ("Cores", 5), ("Files", 4), ("Clock ms", 2), ("DB ms", 1), ("max_connections", 3)];

/// A row for each VM, and below it what should be known before load is started; why VMs failed only
/// where it is not told elsewhere. No row is longer than `columns`.
pub fn table(vms: &[Vm], with_failures: bool, columns: usize) -> String {
    let names = std::iter::once("VM").chain(vms.iter().map(|vm| vm.host.name.as_str()));
    let cells = std::iter::once(COLUMNS.map(|(head, _)| head.to_owned())).chain(vms.iter().map(cells));
    let rows: Vec<(String, [String; 7])> = names.map(printable).zip(cells).collect();
    let failures = vms.iter().filter_map(|vm| Some((vm.host.name.as_str(), vm.lost()?))).filter(|_| with_failures);
    let below = grouped::sentences(failures).into_iter().chain(notes(vms));
    let below = below.map(|text| wrapped_within(columns.min(78), &text, "  * ", "    ") + "\n");
    lines_of_rows(&rows, columns) + &below.collect::<String>()
}

/// Columns as wide as what is in them: with shorter names, and then with fewer columns, where there is no room.
fn lines_of_rows(rows: &[(String, [String; 7])], columns: usize) -> String {
    let width = |text: &String| text.chars().count();
    let mut name_width = rows.iter().map(|(name, _)| width(name)).max().unwrap_or_default().min(NAME);
    let widths: [usize; 7] =
        std::array::from_fn(|at| rows.iter().map(|(_, cells)| width(&cells[at])).max().unwrap_or_default());
    let mut shown: Vec<usize> = (0..COLUMNS.len()).collect();
    let total = |name_width: usize, shown: &[usize]| {
        "  ".len() + name_width + shown.iter().map(|at| 1 + widths[*at]).sum::<usize>()
    };
    let excess = total(name_width, &shown).saturating_sub(columns);
    name_width = name_width.saturating_sub(excess).max(name_width.min(SHORT_NAME));
    while total(name_width, &shown) > columns && shown.len() > 1 {
        let least = shown.iter().map(|at| COLUMNS[*at].1).max();
        shown.retain(|at| Some(COLUMNS[*at].1) != least);
    }
    let line = |(name, cells): &(String, [String; 7])| {
        let cells = shown.iter().map(|at| format!(" {:<width$}", cells[*at], width = widths[*at]));
        let line = format!("  {:<name_width$}{}", shortened(name, name_width), cells.collect::<String>());
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}

fn cells(vm: &Vm) -> [String; 7] {
    let none = || "-".to_owned();
    let Some(hello) = &vm.hello else {
        return ["FAILED".to_owned(), none(), none(), none(), none(), none(), none()];
    };
    let (took, deployed) = vm.connected().unzip();
    let deployed = deployed.unwrap_or_default();
    let server = vm.preflight().and_then(|preflight| preflight.server.as_ref());
    [
        took.map_or_else(none, |took| format!("{:.1} s", took.as_secs_f64())),
        if deployed { "sent" } else { "there" }.to_owned(),
        hello.processors.to_string(),
        hello.open_files.map_or_else(|| "unlimited".to_owned(), |files| files.to_string()),
        vm.clock().map_or_else(none, |clock| format!("{:+.1} ± {:.1}", clock.offset_ms(), clock.bound_ms())),
        server.and_then(|server| server.round_trip_ms).map_or_else(none, |ms| format!("{ms:.2}")),
        server.and_then(|server| server.max_connections).map_or_else(none, |most| most.to_string()),
    ]
}

fn notes(vms: &[Vm]) -> Vec<String> {
    let mut notes = Vec::new();
    let present: Vec<&Vm> = vms.iter().filter(|vm| vm.is_present()).collect();
    let known = present.iter().map(|vm| {
        let preflight = vm.preflight();
        (vm.clock(), preflight.and_then(|preflight| preflight.clock_vs_database))
    });
    let compared = comparisons(&known.collect::<Vec<_>>());
    // Where a VM has failed before, clocks have not been compared.
    let are_compared = present.iter().all(|vm| vm.preflight().is_some());
    for (vm, error) in present.iter().zip(clocks::errors(&compared)).filter(|_| are_compared) {
        if let Some(error) = error {
            notes.push(format!(
                "{}: its clock against those of the other VMs: {error}, so the verdict will be INVALID; synchronise it \
                 (chrony, NTP).",
                vm.host.name
            ));
        }
    }
    notes.extend(clocks::uncertainty(&compared));
    notes.extend(too_many_connections(vms));
    notes
}

/// Where the VMs together open more connections than a server allows. A pooler between may make do with fewer, so
/// that only opening them shows it.
fn too_many_connections(vms: &[Vm]) -> Vec<String> {
    let mut servers: BTreeMap<&str, (usize, usize, u64)> = BTreeMap::new();
    for preflight in vms.iter().filter_map(|vm| vm.preflight()) {
        let limit = preflight.server.as_ref().and_then(|server| server.max_connections);
        let (Some(database), Some(limit)) = (preflight.database.as_deref(), limit) else { continue };
        let entry = servers.entry(database).or_insert((0, 0, limit));
        entry.0 += 1;
        entry.1 += preflight.workers;
    }
    let over = servers.into_values().filter(|(_, workers, limit)| *workers as u64 > *limit);
    over.map(|(vms, workers, limit)| {
        format!(
            "{vms} VMs open {workers} connections together, and the server allows {limit}: unless a pooler \
             stands between, lower --workers or raise max_connections."
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_fit_the_terminal_and_keep_what_matters_most() {
        let row = |name: &str, cells: [&str; 7]| (name.to_owned(), cells.map(str::to_owned));
        let rows = [
            row("VM", COLUMNS.map(|(head, _)| head)),
            row("127.0.1.1", ["1.1 s", "there", "2", "20000", "+0.0 ± 0.1", "0.05", "200"]),
            row(
                "loader-2.region.example.com",
                ["21.2 s", "sent", "128", "unlimited", "-1234.5 ± 100.1", "140.25", "10000"],
            ),
            row("h3", ["FAILED", "-", "-", "-", "-", "-", "-"]),
        ];
        let written = |columns| lines_of_rows(&rows, columns);
        for columns in 22..200 {
            let text = written(columns);
            assert!(text.lines().all(|line| line.chars().count() <= columns), "{columns}:\n{text}");
            assert!(text.contains("FAILED"), "{text}");
        }
        let heads = |columns| written(columns).lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(heads(199), "VM SSH load_test Cores Files Clock ms DB ms max_connections");
        assert_eq!(heads(79), "VM SSH Cores Files Clock ms DB ms max_connections");
        assert_eq!(heads(59), "VM SSH Clock ms DB ms");
        assert_eq!(heads(39), "VM SSH DB ms");
        assert!(written(199).contains("\n  127.0.1.1          1.1 s  there "), "{}", written(199));
    }
}
