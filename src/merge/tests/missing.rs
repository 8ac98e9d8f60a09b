//! VMs and shares that are missing, lost or stopped, and the slots that nobody reported.

use super::*;
use crate::schedule::{Pace, Rate, Schedule};

#[test]
fn what_is_missing_or_lost_is_told() {
    let shares = |indexes: &[u64]| indexes.iter().map(|index| part(*index, 4, &Went::well([1_000; 200]))).collect();
    let result = judged(merged(shares(&[0, 1, 3])));
    let fleet = result.fleet.as_ref().unwrap();
    assert_eq!((fleet.success, fleet.num_vms, fleet.failed_vms[0].hostname.as_str()), (false, 4, "share 3 of 4"));
    assert_eq!(result.status, Status::Invalid);
    assert!(result.reason.contains("share 3 of 4"), "{}", result.reason);
    // Known by its name, it is not named twice.
    let missing = vec![FailedVm { hostname: "h3".to_owned(), error: "no route to host".to_owned() }];
    let fleet = merge(shares(&[0, 1, 3]), missing.clone()).unwrap().fleet.unwrap();
    assert_eq!((fleet.num_vms, fleet.failed_vms), (4, missing.clone()));
    // One of two is known.
    let fleet = merge(shares(&[0, 3]), missing).unwrap().fleet.unwrap();
    let names: Vec<&str> = fleet.failed_vms.iter().map(|vm| vm.hostname.as_str()).collect();
    assert_eq!((fleet.num_vms, names), (4, vec!["h3", "share 3 of 4"]));

    let mut parts = two();
    parts[1].lost = Some("connection closed".to_owned());
    let result = judged(merged(parts));
    let fleet = result.fleet.as_ref().unwrap();
    assert_eq!((fleet.success, fleet.num_vms), (false, 2));
    assert!(fleet.per_vm_results[1].slots_lost > 0);
    assert_eq!(fleet.per_vm_results[1].slots_lost, result.accounting.unreported);
    assert_eq!(fleet.failed_vms, [FailedVm { hostname: "h2".to_owned(), error: "connection closed".to_owned() }]);
    assert_eq!(result.status, Status::Invalid);
    assert!(result.reason.starts_with("1 of 2 VMs is missing or ended early: h2 (connection closed)"));

    let many = merged(vec![part(5, 90_000, &Went::well([1_000]))]).fleet.unwrap();
    assert_eq!((many.num_vms, many.failed_vms.len()), (90_000, 20));
    assert_eq!(many.failed_vms[19].hostname, "89980 further shares");
}

/// 100/s for 10 s by four shares. The third was lost after `known_s` seconds.
fn four_of_which_one_is_lost(known_s: u64) -> Vec<Part> {
    // Nearly all of them found a worker that was free.
    let well = |requests| Went { waited_every: 1_000, ..Went::well(std::iter::repeat_n(1_000, requests)) };
    let mut parts: Vec<Part> = (0..4).map(|index| part(index, 4, &well(250))).collect();
    parts[2] = part(2, 4, &well(25 * known_s as usize));
    parts[2].lost = Some("connection closed".to_owned());
    parts.iter_mut().for_each(|part| part.result.config.arrival = Some(Arrival::Constant));
    let throughput = &mut parts[2].result.throughput;
    // As `assemble_lost` does it.
    throughput.timeline.completed = vec![25; known_s as usize];
    (throughput.actual_rps, throughput.offered_rps) = (25.0, Some(25.0));
    throughput.target_achieved_pct = Some(100.0);
    parts[2].result.run.window_seconds = known_s as f64;
    parts
}

#[test]
fn slots_of_a_lost_vm_are_part_of_the_plan() {
    let result = judged(merged(four_of_which_one_is_lost(4)));
    let accounting = result.accounting;
    assert_eq!((accounting.scheduled, accounting.ok, accounting.unreported), (1_000, 850, 150));
    assert!(accounting.holds());
    let throughput = &result.throughput;
    assert_eq!((throughput.offered_rps, throughput.actual_rps), (Some(100.0), 85.0));
    assert_eq!(throughput.target_achieved_pct, Some(85.0));
    // 15 % never reported: they reach p90, and not p50.
    assert!(result.latency_ms.p90_is_lower_bound && !result.latency_ms.p50_is_lower_bound);
    assert!(!result.service_time_ms.p90_is_lower_bound);
    let fleet = result.fleet.as_ref().unwrap();
    assert_eq!(fleet.per_vm_results.iter().map(|vm| vm.slots_lost).collect::<Vec<_>>(), [0, 0, 150, 0]);
    assert_eq!(fleet.per_vm_results[2].result.accounting.unreported, 0);
    assert!(result.warnings.iter().any(|warning| warning.contains(", 150 unreported)")), "{:?}", result.warnings);
    // The workers that were left did their part.
    assert!(!result.advice.iter().any(|advice| advice.contains("workers")), "{:?}", result.advice);

    // One of the others is missing altogether.
    let mut parts = four_of_which_one_is_lost(4);
    parts.remove(0);
    let accounting = merged(parts.clone()).accounting;
    assert_eq!((accounting.scheduled, accounting.unreported), (1_000, 400));
    // Only the lost one has delivered anything. It ended as planned, or was stopped before.
    parts.retain(|part| part.lost.is_some());
    let result = merged(parts.clone());
    assert_eq!((result.accounting.scheduled, result.accounting.unreported), (1_000, 900));
    assert_eq!((result.throughput.offered_rps, result.throughput.actual_rps), (Some(100.0), 10.0));
    let result = merge_closed(parts, Vec::new(), Some(5 * SECOND)).unwrap();
    assert_eq!((result.accounting.scheduled, result.accounting.unreported), (500, 400));
    assert_eq!((result.throughput.offered_rps, result.throughput.actual_rps), (Some(100.0), 20.0));
}

#[test]
fn slots_after_a_test_was_stopped_are_not_unreported() {
    let mut parts = four_of_which_one_is_lost(4);
    // The others were stopped after 6 s; 10 s were planned.
    for (index, part) in parts.iter_mut().enumerate().filter(|(index, _)| *index != 2) {
        *part = self::part(index as u64, 4, &Went::well([1_000; 150]));
        part.result.config.arrival = Some(Arrival::Constant);
        part.result.run.interrupted = true;
        part.result.run.window_seconds = 6.0;
        part.result.throughput.timeline.completed = vec![25; 6];
        (part.result.throughput.actual_rps, part.result.throughput.offered_rps) = (25.0, Some(25.0));
    }
    let result = merged(parts);
    assert_eq!((result.accounting.scheduled, result.accounting.unreported), (600, 50));
    assert_eq!(result.run.window_seconds, 6.0);
    assert_eq!(result.throughput.offered_rps, Some(100.0));
}

#[test]
fn the_slots_of_absent_shares_are_counted_by_the_smaller_side() {
    for (arrival, present) in [(Arrival::Constant, 1), (Arrival::Poisson, 1), (Arrival::Poisson, 6)] {
        // As many as a constant rate has in the first share.
        let mut parts: Vec<Part> = (0..present).map(|index| part(index, 7, &Went::well([1_000; 143]))).collect();
        for part in &mut parts {
            part.result.config.arrival = Some(arrival);
            part.result.config.duration_seconds = WINDOW_S as f64;
        }
        let rate = Rate::parse("100").unwrap();
        let of = |share| Schedule {
            pace: Pace::Open { rate, arrival },
            share,
            seed: parts[0].result.config.seed,
            warmup_ns: 0,
            duration_ns: 10 * SECOND,
        };
        let planned = |index| of(Share { index, of: 7 }).scheduled_before(10 * SECOND).unwrap();
        let expected: u64 = (present..7).map(planned).sum();
        let result = merged(parts.clone());
        assert_eq!(result.accounting.unreported, expected, "{arrival:?}");
    }
}

#[test]
fn a_vm_that_measured_nothing_does_not_shorten_the_rest() {
    let mut parts = two();
    let nothing = part(1, 2, &Went::well([]));
    parts[1] = Part { lost: Some("gone".to_owned()), ..nothing };
    parts[1].result.run.window_seconds = 0.0;
    let result = merged(parts.clone());
    assert_eq!((result.run.window_seconds, result.throughput.actual_rps), (10.0, 20.0));
    parts[0] = part(0, 2, &Went::well([]));
    parts.iter_mut().for_each(|part| part.result.run.window_seconds = 0.0);
    parts.iter_mut().for_each(|part| part.result.run.interrupted = true);
    assert_eq!(judged(merged(parts)).reason, "Interrupted before anything was measured.");
}
