//! What is about to be run, said before the load begins.

use std::io::{self, Write};

use super::layout::title;
use crate::result::{Config, ServerInfo};
use crate::run::Ready;
use crate::schedule::Share;
use crate::text::words::{name_list, number};

/// VMs that the header names.
const NAMED: usize = 8;

/// What is about to be run.
pub fn header(out: &mut dyn Write, header: &Header<'_>) -> io::Result<()> {
    title(out, "POSTGRES LOAD TEST FOR TENSORZERO", &header.lines())
}

/// What the header says.
#[derive(Clone, Debug)]
pub struct Header<'a> {
    pub config: &'a Config,
    /// What the database reports of itself.
    pub server: &'a ServerInfo,
    /// The part of the schedule that this process runs.
    pub share: Share,
    pub container: Option<&'a str>,
    pub target_from: Option<&'a str>,
}

impl<'a> Header<'a> {
    /// Of a run that is ready to begin.
    pub fn new(ready: &'a Ready) -> Self {
        let plan = ready.plan();
        Self {
            config: ready.config(),
            server: ready.server(),
            share: plan.engine.schedule.share,
            container: plan.docker_container.as_deref(),
            target_from: plan.database.target_from.as_deref(),
        }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let config = self.config;
        let target = config.target_rps.map_or("max (closed loop)".to_owned(), number);
        let mut lines = vec![
            ("Target RPS", target),
            ("Duration", format!("{}s", number(config.duration_seconds))),
            ("Connections", config.workers.to_string()),
        ];
        lines.extend(config.workload.described());
        let database = match self.target_from {
            Some(from) => format!("{} ({from})", config.target),
            None => config.target.clone(),
        };
        lines.push(("Database", database));
        if let Some(version) = &self.server.version {
            let tables = self.server.tables.as_deref().map(|kind| format!(", {kind} tables")).unwrap_or_default();
            lines.push(("Server", format!("PostgreSQL {version}{tables}")));
        }
        if self.share != Share::WHOLE {
            lines.push(("Share", format!("{} of {}", self.share.index + 1, self.share.of)));
        }
        if config.warmup_seconds > 0.0 {
            lines.push(("Warm-up", format!("{}s", number(config.warmup_seconds))));
        }
        if config.pipeline {
            lines.push(("Pipelining", "one round trip a transaction".to_owned()));
        }
        if let Some(container) = self.container {
            lines.push(("Docker container", container.to_owned()));
        }
        lines
    }
}

/// What the coordinator is about to run.
#[derive(Clone, Debug)]
pub struct FleetHeader<'a> {
    /// What was asked for; `target_rps` is the rate, and `workers` the connections, of all VMs together.
    pub config: &'a Config,
    /// What the database reports of itself.
    pub server: &'a ServerInfo,
    /// Their names, as given.
    pub vms: &'a [String],
    /// Requests per second of each VM; absent with `--rps max`.
    pub per_vm_rps: Option<f64>,
    /// Where the connection string came from, to be said behind the database; may be empty.
    pub target_note: &'a str,
}

/// Prints the header of a test on several VMs.
pub fn fleet_header(out: &mut dyn Write, header: &FleetHeader<'_>) -> io::Result<()> {
    let FleetHeader { config, server, vms, per_vm_rps, target_note } = *header;
    let names: Vec<&str> = vms.iter().map(String::as_str).collect();
    let mut lines = vec![("VMs", format!("{} ({})", vms.len(), name_list(&names, NAMED)))];
    for (name, mut value) in
        (Header { config, server, share: Share::WHOLE, container: None, target_from: None }).lines()
    {
        match (name, per_vm_rps, config.workers_per_vm) {
            ("Target RPS", Some(rps), _) => value = format!("{value} ({} per VM)", number((rps * 1e3).round() / 1e3)),
            ("Connections", _, Some(workers)) => {
                lines.push(("Workers", format!("{workers} per VM, {value} in all")));
                continue;
            }
            ("Connections", _, None) => {
                lines.push(("Workers", format!("{value} in all")));
                continue;
            }
            ("Database", ..) if !target_note.is_empty() => value = format!("{value} ({target_note})"),
            _ => {}
        }
        lines.push((name, value));
    }
    title(out, "DISTRIBUTED POSTGRES LOAD TEST FOR TENSORZERO", &lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::tests::sample;

    #[test]
    fn the_header_tells_the_whole_and_the_part() {
        let mut result = sample();
        result.config.workers_per_vm = Some(4);
        result.config.workers = 12;
        let vms: Vec<String> = (1..=10).map(|i| format!("user@host-{i}.example.com")).collect();
        let header = FleetHeader {
            config: &result.config,
            server: &result.server,
            vms: &vms,
            per_vm_rps: Some(100.0 / 3.0),
            target_note: "from POSTGRES_URL",
        };
        let mut out = Vec::new();
        fleet_header(&mut out, &header).unwrap();
        let text = String::from_utf8(out).unwrap();
        for part in [
            "\nVMs:                 10 (user@host-1.example.com,",
            "and 2\n                     more)",
            "\nTarget RPS:          100 (33.333 per VM)\n",
            "\nWorkers:             4 per VM, 12 in all\n",
            "tensorzero_loadtest (from\n                     POSTGRES_URL)",
        ] {
            assert!(text.contains(part), "{part:?} is missing from\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
