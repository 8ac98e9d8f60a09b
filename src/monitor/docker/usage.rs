//! The arithmetic of container statistics: from the engine's readings to the figures of a run.
//!
//! Pure: no clock, no socket, no lock. CPU is in percent of one core (two busy cores are 200), memory in MiB; both as
//! `docker stats` shows them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

const BYTES_PER_MIB: f64 = (1024 * 1024) as f64;

/// What a container used in the second or so between two readings of its engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContainerSample {
    /// CPU time over elapsed time, in percent of one core.
    pub cpu_percent: f64,
    /// Memory in use at the end of the interval, in MiB, without the page cache that the kernel can drop at once.
    pub memory_mib: f64,
}

/// What a container used over the measured window.
///
/// The figures are `None` where no sample fell into the window; `warning` then says why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ContainerUsage {
    /// The container's name as the engine knows it, whatever it was asked for by.
    pub name: String,
    /// How many samples, one a second, lie wholly within the window.
    pub samples: u64,
    /// Average in percent of one core, weighted by the length of each sample.
    pub cpu_percent_avg: Option<f64>,
    /// The busiest sample, in percent of one core.
    pub cpu_percent_max: Option<f64>,
    /// Average in MiB over the samples.
    pub memory_mib_avg: Option<f64>,
    /// The largest sample in MiB. A peak between two samples is not seen.
    pub memory_mib_max: Option<f64>,
    /// Why the figures may not stand for the whole window; `null` if they do.
    pub warning: Option<String>,
}

/// One answer of `/containers/{id}/stats`, as far as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct Statistics {
    cpu_stats: Option<CpuStatistics>,
    memory_stats: Option<MemoryStatistics>,
}

#[derive(Debug, Deserialize)]
struct CpuStatistics {
    cpu_usage: Option<CpuUsage>,
    system_cpu_usage: Option<u64>,
    online_cpus: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct CpuUsage {
    total_usage: Option<u64>,
    percpu_usage: Option<Vec<u64>>,
}

#[derive(Debug, Deserialize)]
struct MemoryStatistics {
    usage: Option<u64>,
    stats: Option<HashMap<String, u64>>,
}

/// The counters of one reading, all since the container or the machine started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Reading {
    cpu_ns: u64,
    /// CPU time of the whole machine, idle time included: the engine's clock, times the number of cores.
    system_ns: u64,
    online_cpus: u64,
    memory_bytes: u64,
}

impl Reading {
    /// `None` for the empty readings that an engine sends of a container that is not running.
    pub(super) fn from_stats(stats: &Statistics) -> Option<Self> {
        let cpu = stats.cpu_stats.as_ref()?;
        let usage = cpu.cpu_usage.as_ref()?;
        let online_cpus = match cpu.online_cpus {
            Some(count) if count > 0 => count,
            // Engines before API 1.27 tell the number of cores only through the length of this list.
            _ => usage.percpu_usage.as_ref().map_or(1, |cores| cores.len().max(1) as u64),
        };
        Some(Self {
            cpu_ns: usage.total_usage?,
            system_ns: cpu.system_cpu_usage?,
            online_cpus,
            memory_bytes: memory_in_use_bytes(stats.memory_stats.as_ref()?)?,
        })
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// A sample and its length in nanoseconds of machine time.
    Sample(ContainerSample, u64),
    /// The machine's counter has not moved: the same reading twice.
    Nothing,
    /// The container's counter went backwards: it was started anew in between.
    Restarted,
}

impl Step {
    /// The formula of docker's own CLI, `calculateCPUPercentUnix`: the container's share of the machine's CPU time,
    /// times the number of cores.
    pub(super) fn between(earlier: &Reading, later: &Reading) -> Self {
        let Some(cpu_ns) = later.cpu_ns.checked_sub(earlier.cpu_ns) else {
            return Self::Restarted;
        };
        match later.system_ns.saturating_sub(earlier.system_ns) {
            0 => Self::Nothing,
            system_ns => Self::Sample(
                ContainerSample {
                    cpu_percent: cpu_ns as f64 / system_ns as f64 * later.online_cpus as f64 * 100.0,
                    memory_mib: later.memory_bytes as f64 / BYTES_PER_MIB,
                },
                system_ns,
            ),
        }
    }
}

/// Usage without the inactive file cache, as `calculateMemUsageUnixNoCache` of docker's CLI has it: cgroup v1 calls
/// that `total_inactive_file`, v2 `inactive_file`. Postgres's shared buffers stay counted.
fn memory_in_use_bytes(memory: &MemoryStatistics) -> Option<u64> {
    let usage = memory.usage?;
    let stat = |name: &str| memory.stats.as_ref().and_then(|stats| stats.get(name)).copied();
    let cache = stat("total_inactive_file").or_else(|| stat("inactive_file")).unwrap_or(0);
    Some(if cache < usage { usage - cache } else { usage })
}

/// Sums and maxima over the samples of a window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    samples: u64,
    length_ns: f64,
    cpu_percent_ns: f64,
    cpu_percent_max: f64,
    memory_mib_sum: f64,
    memory_mib_max: f64,
}

impl Tally {
    pub(super) fn add(&mut self, sample: ContainerSample, length_ns: u64) {
        let length_ns = length_ns as f64;
        self.samples += 1;
        self.length_ns += length_ns;
        self.cpu_percent_ns += sample.cpu_percent * length_ns;
        self.cpu_percent_max = self.cpu_percent_max.max(sample.cpu_percent);
        self.memory_mib_sum += sample.memory_mib;
        self.memory_mib_max = self.memory_mib_max.max(sample.memory_mib);
    }

    pub(super) fn samples(&self) -> u64 {
        self.samples
    }

    pub(super) fn usage(&self, name: String, warning: Option<String>) -> ContainerUsage {
        let seen = |value: f64| (self.samples > 0).then_some(value);
        ContainerUsage {
            name,
            samples: self.samples,
            cpu_percent_avg: seen(self.cpu_percent_ns / self.length_ns),
            cpu_percent_max: seen(self.cpu_percent_max),
            memory_mib_avg: seen(self.memory_mib_sum / self.samples as f64),
            memory_mib_max: seen(self.memory_mib_max),
            warning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const MIB: u64 = 1024 * 1024;

    fn reading(cpu_ns: u64, system_ns: u64, online_cpus: u64) -> Reading {
        Reading { cpu_ns, system_ns, online_cpus, memory_bytes: 3 * MIB }
    }

    #[test]
    fn cpu_is_the_share_of_the_machine_times_its_cores() {
        let table = [
            // (cpu, system, cores) earlier, later, percent
            ((0, 0, 1), (S, S, 1), 100.0),                   // 1/1 × 1
            ((5 * S, 10 * S, 2), (6 * S, 12 * S, 2), 100.0), // 1/2 × 2: one of two cores
            ((5 * S, 10 * S, 2), (7 * S, 12 * S, 2), 200.0), // 2/2 × 2: both
            ((0, 0, 64), (S / 4, 64 * S, 64), 25.0),         // 0.25/64 × 64
            ((S, S, 4), (S, 5 * S, 4), 0.0),                 // idle is a sample, too
            ((0, 0, 2), (3 * S / 2, 3 * S, 4), 200.0),       // a core came online: the later count holds
        ];
        for (earlier, later, percent) in table {
            let (a, b) = (reading(earlier.0, earlier.1, earlier.2), reading(later.0, later.1, later.2));
            let expected = Step::Sample(ContainerSample { cpu_percent: percent, memory_mib: 3.0 }, later.1 - earlier.1);
            assert_eq!(Step::between(&a, &b), expected, "{earlier:?} → {later:?}");
        }
    }

    #[test]
    fn a_counter_that_stands_or_goes_back_gives_no_sample() {
        assert_eq!(Step::between(&reading(S, S, 1), &reading(S, S, 1)), Step::Nothing);
        assert_eq!(Step::between(&reading(S, 2 * S, 1), &reading(S, S, 1)), Step::Nothing);
        assert_eq!(Step::between(&reading(2 * S, S, 1), &reading(S, 2 * S, 1)), Step::Restarted);
    }

    #[test]
    fn memory_leaves_out_the_inactive_file_cache() {
        let table = [
            (r#"{"usage":100,"stats":{"total_inactive_file":30,"inactive_file":5}}"#, Some(70)), // cgroup v1: 100 − 30
            (r#"{"usage":100,"stats":{"inactive_file":40}}"#, Some(60)),                         // cgroup v2: 100 − 40
            (r#"{"usage":100,"stats":{"inactive_file":100}}"#, Some(100)), // read at another moment: not to be believed
            (r#"{"usage":100}"#, Some(100)),
            ("{}", None),
        ];
        for (json, bytes) in table {
            let memory: MemoryStatistics = serde_json::from_str(json).unwrap();
            assert_eq!(memory_in_use_bytes(&memory), bytes, "{json}");
        }
    }

    #[test]
    fn readings_of_old_new_and_stopped_containers() {
        let table = [
            (r#""cpu_usage":{"total_usage":7},"system_cpu_usage":9,"online_cpus":3"#, Some(3)),
            (r#""cpu_usage":{"total_usage":7,"percpu_usage":[1,6]},"system_cpu_usage":9"#, Some(2)),
            (r#""cpu_usage":{"total_usage":7},"system_cpu_usage":9"#, Some(1)),
            (r#""cpu_usage":{"total_usage":0}"#, None), // what an engine sends of a stopped container
        ];
        for (cpu, cores) in table {
            let json = format!(r#"{{"cpu_stats":{{{cpu}}},"memory_stats":{{"usage":11}}}}"#);
            let stats: Statistics = serde_json::from_str(&json).unwrap();
            let expected = cores.map(|online_cpus| Reading { cpu_ns: 7, system_ns: 9, online_cpus, memory_bytes: 11 });
            assert_eq!(Reading::from_stats(&stats), expected, "{json}");
        }
    }

    #[test]
    fn averages_weigh_each_sample_by_its_length() {
        let mut tally = Tally::default();
        tally.add(ContainerSample { cpu_percent: 100.0, memory_mib: 10.0 }, S);
        tally.add(ContainerSample { cpu_percent: 20.0, memory_mib: 30.0 }, 3 * S);
        let usage = tally.usage("db".into(), None);
        assert_eq!(usage.samples, 2);
        assert_eq!(usage.cpu_percent_avg, Some(40.0)); // (100·1 + 20·3) / 4
        assert_eq!(usage.cpu_percent_max, Some(100.0));
        assert_eq!(usage.memory_mib_avg, Some(20.0)); // (10 + 30) / 2
        assert_eq!(usage.memory_mib_max, Some(30.0));
    }

    #[test]
    fn without_samples_the_figures_are_null_and_survive_json() {
        let usage = Tally::default().usage("db".into(), Some("too short".into()));
        let json = serde_json::to_value(&usage).unwrap();
        assert!(json["cpu_percent_avg"].is_null() && json["memory_mib_max"].is_null());
        assert_eq!(serde_json::from_value::<ContainerUsage>(json).unwrap(), usage);
    }
}
