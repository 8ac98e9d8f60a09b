//! What can be wrong with a test only if several VMs ran it: one is missing, clocks are off, one is unlike the others. Pure.

use super::{clocks, generator_at_fault, held_up};
use crate::result::{Bounded, ClockComparison, Fleet, VmResult};
use crate::text::grouped;
use crate::text::words::name_list;

/// A greater start skew is worth a warning, milliseconds.
const SKEW_LIMIT_MS: f64 = 20.0;
/// A figure that is so many times the others' …
const DIFFERS_TIMES: f64 = 2.0;
/// … and by more milliseconds than this differs; of error rates, by more percent; of rates, by more requests/s.
const DIFFERS_BY: f64 = 1.0;
/// VMs with fewer answers are too small a sample.
const ANSWERS_TO_COMPARE: u64 = 100;
/// VMs that are named before "and N more".
const NAMED: usize = 3;
/// A reason of a single VM is cut to so many characters.
const REASON_CHARS: usize = 100;

/// Why figures of these VMs do not describe the database; `None` if they do.
pub(super) fn invalid(fleet: &Fleet) -> Option<String> {
    incomplete(fleet).or_else(|| clocks_off(fleet)).or_else(|| unfit_host(fleet))
}

fn incomplete(fleet: &Fleet) -> Option<String> {
    let failed = &fleet.failed_vms;
    if failed.is_empty() {
        return None;
    }
    let said = grouped::by_text(failed.iter().map(|vm| (vm.hostname.as_str(), vm.error.as_str())));
    let told: Vec<String> =
        said.iter().map(|(names, why)| format!("{} ({})", name_list(names, NAMED), shortened(why))).collect();
    let (are, it) = if failed.len() == 1 { ("is", "it") } else { ("are", "them") };
    Some(format!(
        "{} of {} VMs {are} missing or ended early: {}; the database had less load than was asked for, so repair {it} and \
         run the test again.",
        failed.len(),
        fleet.num_vms,
        name_list(&told, NAMED)
    ))
}

fn clocks_off(fleet: &Fleet) -> Option<String> {
    let errors = clock_errors(fleet);
    let named = fleet.per_vm_results.iter().zip(&errors);
    let off: Vec<String> =
        named.filter_map(|(vm, error)| Some(format!("{} ({})", vm.hostname, error.as_ref()?))).collect();
    (!off.is_empty()).then(|| {
        format!(
            "Clocks are off by more than {:.0} ms against those of the other VMs: {}; synchronise them with chrony or \
             another NTP client, and run the test again.",
            clocks::LIMIT_MS,
            name_list(&off, NAMED)
        )
    })
}

pub fn clock_errors(fleet: &Fleet) -> Vec<Option<String>> {
    clocks::errors(&compared(fleet))
}

fn compared(fleet: &Fleet) -> Vec<Option<ClockComparison>> {
    fleet.per_vm_results.iter().map(|vm| vm.clock).collect()
}

/// A VM whose own figures show itself and not the database: in the sum it would hardly be seen. A VM with nothing to do is no
/// fault.
fn unfit_host(fleet: &Fleet) -> Option<String> {
    let mut unfit = fleet.per_vm_results.iter().filter_map(|vm| at_fault(vm).map(|reason| (vm, reason)));
    let (vm, reason) = unfit.next()?;
    let more = match unfit.count() {
        0 => String::new(),
        more => format!(" The same goes for {more} more of {} VMs.", fleet.num_vms),
    };
    Some(format!("On {}: {reason}{more}", vm.hostname))
}

/// Why the figures of one of the VMs describe itself and not the database; `None` if they describe the database.
pub fn at_fault(vm: &VmResult) -> Option<String> {
    (vm.result.accounting.scheduled > 0).then(|| generator_at_fault(&vm.result)).flatten()
}

/// What to know of a test that several VMs ran.
pub(super) fn warnings(fleet: &Fleet) -> Vec<String> {
    let mut warnings = Vec::new();
    if fleet.per_vm_results.len() > 1 && fleet.per_vm_results.iter().all(|vm| vm.clock.is_none()) {
        warnings.push(
            "The VMs' clocks were not compared: rates and the common time are right only where they agree (chrony or \
             another NTP client sees to it)."
                .to_owned(),
        );
    }
    warnings.extend(clocks::uncertainty(&compared(fleet)));
    if let Some(skew_ms) = fleet.start_skew_ms.filter(|ms| *ms > SKEW_LIMIT_MS) {
        warnings.push(format!(
            "The VMs began {skew_ms:.1} ms apart: the load came in steps at first. Synchronise their clocks, or see \
             what kept the last one busy."
        ));
    }
    warnings.extend(held_up::find(fleet).map(|held_up| held_up.text(fleet)));
    let differing = differing(fleet);
    warnings.extend(differing.iter().take(NAMED).map(|difference| difference.text.clone()));
    if differing.len() > NAMED {
        let more = differing.len() - NAMED;
        warnings.push(format!("{more} more VMs differ from the others: see the table of hosts."));
    }
    warnings
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which one of [`Fleet::per_vm_results`].
    pub index: usize,
    /// A sentence: in what, and by how much.
    pub text: String,
}

/// What is compared: a name, a unit, which way is worse, and the figure.
struct Compared {
    name: &'static str,
    unit: &'static str,
    greater_is_worse: bool,
    figure: fn(&VmResult) -> Option<Bounded>,
}

const COMPARED: [Compared; 4] = [
    Compared { name: "p99", unit: " ms", greater_is_worse: true, figure: |vm| vm.result.latency_ms.figure("p99") },
    Compared { name: "p50", unit: " ms", greater_is_worse: true, figure: |vm| vm.result.latency_ms.figure("p50") },
    Compared {
        name: "rate",
        unit: " requests/s",
        greater_is_worse: false,
        figure: |vm| Some(Bounded { value: Some(vm.result.throughput.actual_rps), is_lower_bound: false }),
    },
    Compared {
        name: "error rate",
        unit: "%",
        greater_is_worse: true,
        figure: |vm| {
            let value = vm.result.throughput.success_rate.map(|pct| 100.0 - pct);
            Some(Bounded { value, is_lower_bound: false })
        },
    },
];

/// The VMs whose latency, rate or errors are more than twice as bad as the median VM's, in their order. Of two,
/// each is compared with the other. Lost VMs, those with few answers, and those that one of them held up are not
/// compared.
pub fn differing(fleet: &Fleet) -> Vec<Difference> {
    let held_up = held_up::find(fleet);
    let concerns = |index: &usize| held_up.as_ref().is_some_and(|it| it.by == *index || it.held.contains(index));
    let comparable: Vec<(usize, &VmResult)> = fleet
        .per_vm_results
        .iter()
        .enumerate()
        .filter(|(index, _)| !concerns(index))
        .filter(|(_, vm)| vm.lost.is_none() && vm.result.accounting.answered() >= ANSWERS_TO_COMPARE)
        .collect();
    if comparable.len() < 2 {
        return Vec::new();
    }
    let mut found: Vec<(usize, Vec<String>)> = comparable.iter().map(|(index, _)| (*index, Vec::new())).collect();
    for compared in &COMPARED {
        let figures: Vec<Bounded> = comparable.iter().filter_map(|(_, vm)| (compared.figure)(vm)).collect();
        let values: Vec<f64> = figures.iter().filter_map(|figure| figure.value).collect();
        if values.len() < comparable.len() {
            continue;
        }
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        for (at, value) in values.iter().enumerate() {
            let (whose, reference) = match comparable[..] {
                [(_, one), (_, other)] => ([other, one][at].hostname.as_str(), values[1 - at]),
                // Of an even number the better one of the two in the middle.
                _ if compared.greater_is_worse => ("the median VM", sorted[(sorted.len() - 1) / 2]),
                _ => ("the median VM", sorted[sorted.len() / 2]),
            };
            let (worse, better) = if compared.greater_is_worse { (*value, reference) } else { (reference, *value) };
            if worse > DIFFERS_TIMES * better && worse - better > DIFFERS_BY {
                let bound = if figures[at].is_lower_bound { "more than " } else { "" };
                let Compared { name, unit, .. } = compared;
                found[at]
                    .1
                    .push(format!("its {name} is {bound}{value:.1}{unit}, that of {whose} {reference:.1}{unit}"));
            }
        }
    }
    found
        .into_iter()
        .filter(|(_, texts)| !texts.is_empty())
        .map(|(index, texts)| {
            let text = format!("{} differs: {}.", fleet.per_vm_results[index].hostname, texts.join("; "));
            Difference { index, text }
        })
        .collect()
}

fn shortened(text: &str) -> String {
    let text = text.trim().trim_end_matches('.');
    let short: String = text.chars().take(REASON_CHARS).collect();
    if short.len() < text.len() { format!("{}…", short.trim_end()) } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::stalls::Stall;
    use crate::result::tests::sample;
    use crate::result::{ClockReference, FailedVm, RunResult, Status, TableRows, Verification};
    use crate::verdict::{Criteria, judge};

    fn fleet(vms: u64) -> Fleet {
        let vm = |index: u64| VmResult {
            hostname: format!("h{}", index + 1),
            actual_rps: 100.0,
            success_rate: Some(100.0),
            latency_p50: Some(8.0),
            clock: Some(ClockComparison {
                offset_ms: 3.0,
                bound_ms: 0.5,
                offset_after_ms: Some(-4.0),
                bound_after_ms: Some(0.5),
                reference: ClockReference::Coordinator,
            }),
            start_skew_ms: Some(0.0),
            lost: None,
            slots_lost: 0,
            result: Box::new(sample()),
        };
        let per_vm_results: Vec<VmResult> = (0..vms).map(vm).collect();
        let num_vms = per_vm_results.len();
        Fleet { success: true, num_vms, failed_vms: Vec::new(), per_vm_results, start_skew_ms: Some(1.0) }
    }

    #[test]
    fn what_one_vm_lost_is_told_where_another_has_as_much_too_many() {
        let verified = |rows| {
            let tables = vec![TableRows { table: "chat_inference".to_owned(), rows }];
            Some(Verification { acknowledged: 100, tables, ..Verification::default() })
        };
        let mut fleet = fleet(3);
        for (vm, rows) in fleet.per_vm_results.iter_mut().zip([100, 99, 101]) {
            vm.result.verification = verified(rows);
        }
        let sum = Verification { acknowledged: 300, ..verified(300).unwrap() };
        let mut result = RunResult { fleet: Some(fleet), verification: Some(sum), ..sample() };
        judge(&mut result, &Criteria { min_achieved_pct: 90.0, max_error_rate_pct: 0.0, slos: Vec::new() });
        assert_eq!(result.status, Status::LostWrites);
        let expected = "h2: 1 of 100 committed requests are missing";
        assert!(result.reason.starts_with(expected) && result.reason.contains("and 1 more"), "{}", result.reason);
    }

    fn judged(fleet: Fleet) -> RunResult {
        let mut result = RunResult { fleet: Some(fleet), ..sample() };
        judge(&mut result, &Criteria { min_achieved_pct: 90.0, max_error_rate_pct: 0.0, slos: Vec::new() });
        result
    }

    #[test]
    fn a_fleet_on_which_all_went_well_passes_like_one_vm() {
        let result = judged(fleet(3));
        assert_eq!((result.status, result.warnings.len()), (Status::Passed, 0), "{result:?}");
    }

    type Change = fn(&mut Fleet);

    #[test]
    fn what_one_vm_lacks_makes_the_whole_invalid() {
        let cases: &[(Change, &[&str])] = &[
            (
                |f| {
                    for index in 0..5 {
                        let (hostname, error) = (format!("m{index}"), "no route to host".to_owned());
                        f.failed_vms.push(FailedVm { hostname, error });
                    }
                    f.num_vms = 8;
                },
                &["5 of 8 VMs are missing", "m0, m1, m2 and 2 more (no route to host)", "run the test again"],
            ),
            (
                |f| f.failed_vms.push(FailedVm { hostname: "m".to_owned(), error: "long ".repeat(90) }),
                &["1 of 3 VMs is missing or ended early: m (long ", "long…)"],
            ),
            (|f| f.per_vm_results[1].clock.as_mut().unwrap().offset_ms = -99.0, &["Clocks", "h2 (-102 ms)", "chrony"]),
            (|f| f.per_vm_results[1].clock.as_mut().unwrap().offset_after_ms = Some(150.0), &["h2 (+154 ms)"]),
            (
                |f| f.per_vm_results.iter_mut().take(2).for_each(|vm| vm.result.lateness_ms.p99 = Some(9.0)),
                &["On h1: The generator was late", "1 more of 3 VMs"],
            ),
            (|f| f.per_vm_results[2].result.generator.busiest_thread_pct = 97.0, &["On h3: Generator-limited"]),
        ];
        for (change, words) in cases {
            let mut fleet = fleet(3);
            change(&mut fleet);
            let result = judged(fleet);
            assert_eq!(result.status, Status::Invalid, "{words:?}");
            assert!(words.iter().all(|word| result.reason.contains(word)), "{}", result.reason);
        }
    }

    #[test]
    fn clocks_at_the_limit_and_vms_without_slots_are_no_fault() {
        let mut fleet = fleet(3);
        fleet.per_vm_results[0].clock.as_mut().unwrap().offset_ms = 100.0;
        fleet.per_vm_results[2].result.accounting = Default::default();
        fleet.per_vm_results[2].result.lateness_ms.p99 = Some(90.0);
        assert_eq!(judged(fleet).status, Status::Passed);
    }

    #[test]
    fn clocks_that_are_known_coarsely_are_no_fault() {
        let mut fleet = fleet(3);
        for vm in &mut fleet.per_vm_results {
            let clock = vm.clock.as_mut().unwrap();
            (clock.offset_ms, clock.bound_ms, clock.bound_after_ms) = (0.3, 151.0, Some(151.0));
        }
        let result = judged(fleet.clone());
        assert_eq!((result.status, result.warnings.len()), (Status::Passed, 1), "{result:?}");
        assert!(result.warnings[0].contains("known only to within 151 ms"), "{:?}", result.warnings);
        // Of one VM, nothing depends on its clock.
        fleet.per_vm_results.truncate(1);
        fleet.num_vms = 1;
        fleet.per_vm_results[0].clock.as_mut().unwrap().offset_ms = 5_000.0;
        let result = judged(fleet);
        assert_eq!((result.status, result.warnings.len()), (Status::Passed, 0), "{result:?}");
    }

    #[test]
    fn a_vm_with_few_requests_is_not_judged_by_its_lateness() {
        let mut few = fleet(3);
        let result = &mut few.per_vm_results[1].result;
        (result.lateness_ms.p99, result.lateness_ms.count) = (Some(7.4), 6);
        assert_eq!(judged(few).status, Status::Passed);
    }

    #[test]
    fn a_vm_whose_generator_stood_still_is_named() {
        let mut stalled = fleet(3);
        let told = &mut stalled.per_vm_results[1].result.generator.stood_still;
        let stall = Stall { hostname: None, started_s: 4.0, seconds: 3.0, asleep: false };
        (told.stalls, told.stall_count, told.stalled_requests) = (vec![stall], 1, 60);
        let result = judged(stalled);
        assert_eq!(result.status, Status::Invalid);
        let expected = "On h2: The generator stood still for 3.0 s at 4.0 s";
        assert!(result.reason.starts_with(expected), "{}", result.reason);
    }

    #[test]
    fn a_clock_that_is_not_known_is_a_fault_where_others_were_compared() {
        let mut compared = fleet(3);
        compared.per_vm_results[1].clock = None;
        assert_eq!(judged(compared).status, Status::Invalid);
        let mut by_hand = fleet(3);
        by_hand.per_vm_results.iter_mut().for_each(|vm| vm.clock = None);
        let result = judged(by_hand);
        assert_eq!(result.status, Status::Passed);
        assert!(result.warnings.iter().any(|warning| warning.contains("clocks were not compared")));
    }

    #[test]
    fn a_vm_unlike_the_others_is_named_with_both_figures() {
        let cases: &[(u64, Change, &[&str])] = &[
            (
                3,
                |f| f.per_vm_results[2].result.latency_ms.p99 = Some(48.1),
                &["h3 differs: its p99 is 48.1 ms, that of the median VM 15.0 ms."],
            ),
            (4, |f| f.per_vm_results[2].result.latency_ms.p50 = Some(48.1), &["h3 differs: its p50 is 48.1 ms"]),
            (
                2,
                |f| f.per_vm_results[0].result.latency_ms.p99 = Some(48.1),
                &["h1 differs: its p99 is 48.1 ms, that of h2 15.0 ms."],
            ),
            (
                3,
                |f| f.per_vm_results[0].result.throughput.actual_rps = 40.0,
                &["h1 differs: its rate is 40.0 requests/s, that of the median VM 100.0 requests/s."],
            ),
            (
                3,
                |f| f.per_vm_results[0].result.throughput.success_rate = Some(95.0),
                &["h1 differs: its error rate is 5.0%, that of the median VM 0.0%."],
            ),
            // Not twice as much, not a millisecond more, too few answers, lost.
            (3, |f| f.per_vm_results[0].result.latency_ms.p99 = Some(29.0), &[]),
            (
                3,
                |f| {
                    f.per_vm_results.iter_mut().for_each(|vm| vm.result.latency_ms.p99 = Some(0.2));
                    f.per_vm_results[0].result.latency_ms.p99 = Some(1.1);
                },
                &[],
            ),
            (
                3,
                |f| {
                    f.per_vm_results[0].result.latency_ms.p99 = Some(48.1);
                    f.per_vm_results[0].result.accounting.ok = 99;
                },
                &[],
            ),
            (3, |f| f.per_vm_results.iter_mut().for_each(|vm| vm.result.latency_ms.p99 = None), &[]),
            (1, |f| f.per_vm_results[0].result.latency_ms.p99 = Some(48.1), &[]),
            (3, |f| f.start_skew_ms = Some(21.0), &["The VMs began 21.0 ms apart"]),
            (3, |f| f.start_skew_ms = None, &[]),
        ];
        for (vms, change, expected) in cases {
            let mut fleet = fleet(*vms);
            change(&mut fleet);
            let warnings = judged(fleet).warnings;
            assert_eq!(warnings.len(), expected.len(), "{expected:?}: {warnings:?}");
            assert!(warnings.iter().zip(*expected).all(|(is, begins)| is.starts_with(begins)), "{warnings:?}");
        }
    }

    #[test]
    fn many_that_differ_are_counted() {
        let mut fleet = fleet(11);
        fleet.per_vm_results.iter_mut().take(5).for_each(|vm| vm.result.latency_ms.p99 = Some(500.0));
        let warnings = judged(fleet).warnings;
        assert_eq!((warnings.len(), warnings[3].starts_with("2 more VMs differ")), (4, true), "{warnings:?}");
    }

    #[test]
    fn workers_are_counted_per_vm() {
        let mut result = RunResult { fleet: Some(fleet(4)), ..sample() };
        result.config.workers = 8;
        result.throughput.offered_rps = Some(1_000.0);
        result.throughput.target_achieved_pct = Some(60.0);
        (result.service_time_ms.min, result.service_time_ms.p50) = (Some(15.0), Some(20.0));
        result.service_time_ms.avg = Some(20.0);
        result.wait_for_connection_ms.count = 5_000;
        judge(&mut result, &Criteria { min_achieved_pct: 90.0, max_error_rate_pct: 0.0, slos: Vec::new() });
        // 1,000/s × 20 ms = 20 in service, a quarter to spare, on four VMs.
        let advice = result.advice.concat();
        assert!(advice.contains("raise --workers (per VM) to about 7"), "{advice}");
        assert!(advice.contains("8 workers on 4 VMs"), "{advice}");
    }
}
