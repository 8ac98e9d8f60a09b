//! What is about to be run, said before the load begins.

use super::layout::title;
use crate::result::{Config, ServerInfo};
use crate::run::Ready;
use crate::schedule::Share;
use crate::text::words::{name_list, number};

/// VMs that the header names.
const NAMED: usize = 8;

/// What is about to be run.
pub fn header(ready: &Ready) -> String {
    let plan = ready.plan();
    let header = Header {
        config: ready.config(),
        server: ready.server(),
        share: plan.engine.schedule.share,
        container: plan.docker_container.as_deref(),
        target_from: plan.database.target_from.as_deref(),
    };
    title("POSTGRES LOAD TEST FOR TENSORZERO", &header.lines())
}

struct Header<'a> {
    config: &'a Config,
    server: &'a ServerInfo,
    share: Share,
    container: Option<&'a str>,
    target_from: Option<&'a str>,
}

impl Header<'_> {
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
pub struct FleetHeader<'a> {
    /// What was asked for; `target_rps` is the rate, and `workers` the connections, of all VMs together.
    pub config: &'a Config,
    pub server: &'a ServerInfo,
    pub vms: &'a [&'a str],
    /// Requests per second of each VM; absent with `--rps max`.
    pub per_vm_rps: Option<f64>,
    /// Where the connection string came from, to be said behind the database.
    pub target_from: &'a str,
}

pub fn fleet_header(header: &FleetHeader<'_>) -> String {
    let FleetHeader { config, server, vms, per_vm_rps, target_from } = *header;
    let mut lines = vec![("VMs", format!("{} ({})", vms.len(), name_list(vms, NAMED)))];
    let one = Header { config, server, share: Share::WHOLE, container: None, target_from: Some(target_from) };
    lines.extend(one.lines().into_iter().map(|(name, value)| match (name, per_vm_rps, config.workers_per_vm) {
        ("Target RPS", Some(rps), _) => (name, format!("{value} ({} per VM)", number((rps * 1e3).round() / 1e3))),
        ("Connections", _, Some(workers)) => ("Workers", format!("{workers} per VM, {value} in all")),
        ("Connections", _, None) => ("Workers", format!("{value} in all")),
        _ => (name, value),
    }));
    title("DISTRIBUTED POSTGRES LOAD TEST FOR TENSORZERO", &lines)
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
        let vms: Vec<&str> = vms.iter().map(String::as_str).collect();
        let header = FleetHeader {
            config: &result.config,
            server: &result.server,
            vms: &vms,
            per_vm_rps: Some(100.0 / 3.0),
            target_from: "from POSTGRES_URL",
        };
        let text = fleet_header(&header);
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
