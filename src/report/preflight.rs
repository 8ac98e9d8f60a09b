//! The table of machines before a test: what was found on each, and what is wrong.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::text::{printable, shortened, wrapped};
use crate::fleet::Member;
use crate::fleet::clock::comparisons;
use crate::verdict::{clocks, grouped};

/// Characters of a machine's name in the table.
const NAME: usize = 18;

/// Writes a row for each machine, and below it what should be known before load is started; why machines failed only
/// where it is not told elsewhere.
///
/// # Errors
/// The writer's.
pub fn table(out: &mut impl Write, members: &[Member], with_failures: bool) -> io::Result<()> {
    let heads = ["SSH", "load_test", "Cores", "Files", "Clock ms", "DB ms", "max_connections"];
    row(out, "Machine", &heads.map(str::to_owned))?;
    for member in members {
        row(out, &member.host.name, &cells(member))?;
    }
    if with_failures {
        let said = members.iter().filter_map(|member| Some((member.host.name.as_str(), member.lost.as_deref()?)));
        for failure in grouped::sentences(said) {
            writeln!(out, "{}", wrapped(&failure, "  * ", "    "))?;
        }
    }
    for note in notes(members) {
        writeln!(out, "{}", wrapped(&note, "  * ", "    "))?;
    }
    writeln!(out)
}

fn row(out: &mut impl Write, name: &str, cells: &[String; 7]) -> io::Result<()> {
    let [ssh, build, cores, files, clock, round_trip, connections] = cells;
    let name = shortened(&printable(name), NAME);
    let line =
        format!("  {name:<NAME$} {ssh:<7} {build:<9} {cores:<5} {files:<8} {clock:<13} {round_trip:<6} {connections}");
    writeln!(out, "{}", line.trim_end())
}

fn cells(member: &Member) -> [String; 7] {
    let none = || "-".to_owned();
    let Some(hello) = &member.hello else {
        return ["FAILED".to_owned(), none(), none(), none(), none(), none(), none()];
    };
    let server = member.preflight.as_ref().and_then(|preflight| preflight.server.as_ref());
    [
        format!("{:.1} s", member.connected_in.as_secs_f64()),
        if member.deployed { "sent" } else { "there" }.to_owned(),
        hello.processors.to_string(),
        hello.open_files.map_or_else(|| "unlimited".to_owned(), |files| files.to_string()),
        member.clock.map_or_else(none, |clock| format!("{:+.1} ± {:.1}", clock.offset_ms(), clock.bound_ms())),
        server.and_then(|server| server.round_trip_ms).map_or_else(none, |ms| format!("{ms:.2}")),
        server.and_then(|server| server.max_connections).map_or_else(none, |most| most.to_string()),
    ]
}

/// What is wrong, or will be.
fn notes(members: &[Member]) -> Vec<String> {
    let mut notes = Vec::new();
    let present: Vec<&Member> = members.iter().filter(|member| member.is_present()).collect();
    let known = present.iter().map(|member| {
        let preflight = member.preflight.as_ref();
        (member.clock, preflight.and_then(|preflight| preflight.clock_vs_database))
    });
    let compared = comparisons(&known.collect::<Vec<_>>());
    for (member, error) in present.iter().zip(clocks::errors(&compared)) {
        if let Some(error) = error {
            notes.push(format!(
                "{}: its clock against those of the other VMs: {error}, so the verdict will be INVALID; synchronise it \
                 (chrony, NTP).",
                member.host.name
            ));
        }
    }
    notes.extend(clocks::uncertainty(&compared));
    notes.extend(too_many_connections(members));
    notes
}

/// Where the machines together open more connections than a server allows. A pooler between may make do with fewer, so
/// that only opening them shows it.
fn too_many_connections(members: &[Member]) -> Vec<String> {
    let mut servers: BTreeMap<&str, (usize, usize, u64)> = BTreeMap::new();
    for preflight in members.iter().filter_map(|member| member.preflight.as_ref()) {
        let limit = preflight.server.as_ref().and_then(|server| server.max_connections);
        let (Some(database), Some(limit)) = (preflight.database.as_deref(), limit) else { continue };
        let entry = servers.entry(database).or_insert((0, 0, limit));
        entry.0 += 1;
        entry.1 += preflight.workers;
    }
    let over = servers.into_values().filter(|(_, workers, limit)| *workers as u64 > *limit);
    over.map(|(machines, workers, limit)| {
        format!(
            "{machines} machines open {workers} connections together, and the server allows {limit}: unless a pooler \
             stands between, lower --workers or raise max_connections."
        )
    })
    .collect()
}
