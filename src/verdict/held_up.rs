//! One VM that holds the others up: cut off in the middle of transactions, it leaves locks on rows behind that all VMs
//! write, and whoever needs these rows waits. The VMs that wait are healthy, and so is the database.
//! Pure.

use crate::measure::outages::Outage;
use crate::result::{Fleet, VmResult};
use crate::text::words::name_list;

/// The others run out of free rows within so many seconds after the VM was cut off …
const FOLLOW_WITHIN_S: f64 = 5.0;
/// … and clocks, and the last answers before it, are this far apart at most.
const BEFORE_S: f64 = 1.0;
/// VMs that are named before "and N more".
const NAMED: usize = 3;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct HeldUp {
    /// Which one of [`Fleet::per_vm_results`] was cut off.
    pub(super) by: usize,
    /// Which ones waited.
    pub(super) held: Vec<usize>,
    /// When it was cut off, seconds after T0.
    at_s: f64,
    /// How long others waited at most, seconds.
    seconds: f64,
    /// The table whose rows they share.
    table: &'static str,
}

/// The VM that held others up, where there is one: it was lost, or has an outage with errors or without an end, and at
/// least half of the others stood still from then on, without an error of their own, and went on before it did.
pub(super) fn find(fleet: &Fleet) -> Option<HeldUp> {
    let vms = &fleet.per_vm_results;
    // Otherwise there are no rows that all need.
    let table = vms.first()?.result.config.workload.shared_table()?;
    let mut cut: Vec<(usize, f64, f64)> = vms
        .iter()
        .enumerate()
        .filter_map(|(index, vm)| cut_off(vm).map(|(from_s, until_s)| (index, from_s, until_s)))
        .collect();
    cut.sort_by(|one, other| one.1.total_cmp(&other.1));
    let &(by, at_s, until_s) = cut.first()?;
    let waits: Vec<(usize, f64)> = vms
        .iter()
        .enumerate()
        .filter(|(index, _)| cut.iter().all(|(culprit, ..)| culprit != index))
        .filter_map(|(index, vm)| stood_still(vm, at_s, until_s).map(|seconds| (index, seconds)))
        .collect();
    let others = vms.len() - 1;
    (cut.len() * 2 <= vms.len() && !waits.is_empty() && waits.len() * 2 >= others).then(|| HeldUp {
        by,
        held: waits.iter().map(|(index, _)| *index).collect(),
        at_s,
        table,
        seconds: waits.iter().map(|(_, seconds)| *seconds).fold(0.0, f64::max),
    })
}

impl HeldUp {
    /// A sentence with its name.
    pub(super) fn text(&self, fleet: &Fleet) -> String {
        let name = |index: &usize| fleet.per_vm_results[*index].hostname.as_str();
        let held: Vec<&str> = self.held.iter().map(name).collect();
        format!(
            "{} held other VMs up: it was cut off {:.1} s after T0 and left transactions open, whose locks on \
             {} the others waited for. Without an error of their own stood still, for up to {:.1} s: {}.",
            name(&self.by),
            self.at_s,
            self.table,
            self.seconds,
            name_list(&held, NAMED)
        )
    }
}

/// From when to when a VM was cut off, seconds after T0.
fn cut_off(vm: &VmResult) -> Option<(f64, f64)> {
    let is_cut = |outage: &&Outage| outage.first_error_s.is_some() || outage.recovered_s.is_none();
    if let Some(outage) = vm.result.outages.iter().rfind(is_cut) {
        return Some((outage.started_s, outage.recovered_s.unwrap_or(f64::INFINITY)));
    }
    vm.lost.as_ref()?;
    let timeline = &vm.result.throughput.timeline;
    let last_bin = timeline.completed.iter().rposition(|completed| *completed > 0)?;
    let last_s = (last_bin as f64 + 1.0) * timeline.bin_seconds as f64;
    Some((last_s, f64::INFINITY))
}

/// How long a VM stood still without an error from about `from_s` on, and went on before `until_s`.
fn stood_still(vm: &VmResult, from_s: f64, until_s: f64) -> Option<f64> {
    let follows = |outage: &&Outage| {
        outage.first_error_s.is_none()
            // In a pause of the database all go on at once.
            && outage.recovered_s.is_some_and(|recovered_s| recovered_s + BEFORE_S < until_s)
            && (from_s - BEFORE_S..=from_s + FOLLOW_WITHIN_S).contains(&outage.started_s)
    };
    vm.result.outages.iter().find(follows).map(|outage| outage.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::tests::sample;

    fn fleet(outages: [&[Outage]; 3]) -> Fleet {
        let vm = |(index, outages): (usize, &[Outage])| VmResult {
            hostname: format!("h{}", index + 1),
            actual_rps: 100.0,
            success_rate: Some(100.0),
            latency_p50: Some(8.0),
            clock: None,
            start_skew_ms: None,
            lost: None,
            slots_lost: 0,
            result: Box::new(crate::result::RunResult { outages: outages.to_vec(), ..sample() }),
        };
        let per_vm_results = outages.into_iter().enumerate().map(vm).collect();
        Fleet { success: true, num_vms: 3, failed_vms: Vec::new(), per_vm_results, start_skew_ms: None }
    }

    fn outage(started_s: f64, first_error_s: Option<f64>, recovered_s: Option<f64>) -> Outage {
        let seconds = recovered_s.unwrap_or(60.0) - started_s;
        Outage { hostname: None, vms: None, started_s, first_error_s, recovered_s, seconds }
    }

    #[test]
    fn a_vm_that_never_came_back_held_up_those_that_did() {
        let held = [outage(5.2, None, Some(16.0))];
        let fleet = fleet([&held, &[outage(5.0, None, None)], &held]);
        let found = find(&fleet).unwrap();
        assert_eq!((found.by, &found.held[..]), (1, &[0, 2][..]));
        let text = found.text(&fleet);
        let words = ["h2 held other VMs up", "5.0 s after T0", "up to 10.8 s: h1, h3"];
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }

    #[test]
    fn a_lost_vm_counts_from_its_last_answer() {
        let held = [outage(59.5, None, Some(70.0))];
        let mut fleet = fleet([&held, &held, &[]]);
        assert_eq!(find(&fleet), None);
        fleet.per_vm_results[2].lost = Some("frozen".to_owned());
        assert_eq!(find(&fleet).map(|found| found.by), Some(2));
    }

    #[test]
    fn nobody_is_accused_where_all_stood_still_alike_or_had_errors_of_their_own() {
        let (paused, restarted) = ([outage(5.0, None, Some(9.0))], [outage(5.0, Some(5.1), Some(9.0))]);
        let (dead, earlier) = ([outage(5.0, None, None)], [outage(1.0, None, Some(3.0))]);
        // One that was cut off while the others went on, too.
        let cases =
            [[&paused; 3], [&restarted; 3], [&dead; 3], [&dead, &dead, &paused], [&dead, &restarted, &restarted]];
        for outages in cases {
            let fleet = fleet(outages.map(|outages| &outages[..]));
            assert_eq!(find(&fleet), None, "{outages:?}");
        }
        assert_eq!(find(&fleet([&dead, &[], &[]])), None);
        assert_eq!(find(&fleet([&dead, &earlier, &earlier])), None);
        let mut without = fleet([&dead, &paused, &paused]);
        assert!(find(&without).is_some());
        without
            .per_vm_results
            .iter_mut()
            .for_each(|vm| vm.result.config.workload = crate::workload::Workload::of_kb(1.0).without_upserts());
        assert_eq!(find(&without), None, "no rows are shared");
    }
}
