//! A sample for all tests, and the size of the document.

use super::*;
use crate::measure::durations::Durations;
use crate::measure::figures::Figures;
use crate::measure::timeline::Timeline;
use crate::schedule::{Arrival, Share};
use crate::text::words::rfc3339;
use crate::workload::Workload;

/// A run in which all went well: the seed's example.
pub(crate) fn sample() -> RunResult {
    let recorded = durations((1..=6_000).map(|i| 1 + i % 15));
    let (latency, on_time) = (Summary::new(&recorded, 0), durations(std::iter::repeat_n(0, 6_000)));
    RunResult {
        format: FORMAT.to_owned(),
        version: VERSION,
        tool_version: "0.0.0".to_owned(),
        tool_build: "0123456789ab".to_owned(),
        hostname: "host".to_owned(),
        run: RunInfo {
            started_at: rfc3339(0),
            started_unix_ns: 0,
            share: Share::WHOLE,
            clock_vs_database: None,
            start_delay_ms: Some(0.1),
            interrupted: false,
            aborted: None,
            window_start_s: 0.0,
            window_seconds: 60.0,
            warmup: WarmupCounts::default(),
        },
        config: Config {
            target_rps: Some(100.0),
            duration_seconds: 60.0,
            workers: 10,
            workload: Workload::of_kb(1.5),
            arrival: Some(Arrival::Constant),
            warmup_seconds: 0.0,
            drain_seconds: 30.0,
            max_lag_seconds: None,
            threads: 2,
            pipeline: false,
            prepared_statements: true,
            statement_timeout_seconds: None,
            isolation: None,
            max_tries: 1,
            seed: 1,
            target: "postgres@localhost:5432/tensorzero_loadtest".to_owned(),
            target_rps_per_vm: None,
            target_rps_total: None,
            workers_per_vm: None,
        },
        server: ServerInfo::default(),
        accounting: Accounting { scheduled: 6_000, ok: 6_000, ..Accounting::default() },
        throughput: Throughput {
            total_requests: 6_000,
            successful_writes: 6_000,
            failed_writes: 0,
            actual_rps: 100.0,
            offered_rps: Some(100.0),
            target_achieved_pct: Some(100.0),
            success_rate: Some(100.0),
            completed_in_window: 6_000,
            timeline: Timeline { bin_seconds: 1, completed: vec![100; 60] },
        },
        service_time_ms: latency.clone(),
        latency_ms: latency,
        lateness_ms: Summary::new(&on_time, 0),
        wait_for_connection_ms: Summary::default(),
        phases_ms: Vec::new(),
        data_written_mb: 35.2,
        errors: Vec::new(),
        recoveries: Recoveries::default(),
        outages: Vec::new(),
        verification: None,
        generator: Generator::default(),
        findings: Findings::default(),
        timeline: super::Timeline::default(),
        events: Vec::new(),
        limit: super::Limit::default(),
        histograms: Histograms::default(),
        warnings: Vec::new(),
        advice: Vec::new(),
        status: Status::Passed,
        reason: "All writes successful, target RPS achieved".to_owned(),
        fleet: None,
    }
}

pub(crate) fn durations(ms: impl IntoIterator<Item = u64>) -> Durations {
    let mut durations = Durations::default();
    ms.into_iter().for_each(|ms| durations.record_ns(ms * 1_000_000));
    durations
}

#[test]
fn instants_are_written_in_utc() {
    assert_eq!(rfc3339(1_700_000_000_123_456_000), "2023-11-14T22:13:20.123456Z");
    assert_eq!(rfc3339(1_700_000_000_123_456_789), "2023-11-14T22:13:20.123456789Z");
}

/// A million requests whose times spread over three decades, in every histogram of the document.
#[test]
fn the_document_stays_small_however_many_requests_there_were() {
    let mut random = crate::random::SplitMix64::new(1);
    let mut spread = || {
        let mut wide = Durations::default();
        for _ in 0..1_000_000 {
            // The sum of twelve uniform numbers less six is nearly normal.
            let normal = (0..12).map(|_| random.below(1 << 32) as f64 / 4_294_967_296.0).sum::<f64>() - 6.0;
            wide.record_ns((2.0e6 * libm::exp(0.8 * normal)) as u64);
        }
        wide
    };
    let mut result = sample();
    let figures = Figures {
        latency: spread(),
        service_time: spread(),
        lateness: spread(),
        wait_for_connection: spread(),
        phases: (0..5).map(|_| spread()).collect(),
    };
    result.histograms = figures.encode();
    let bytes = serde_json::to_string(&result).unwrap().len();
    assert!(bytes <= 64 * 1024, "{bytes} bytes");
}
