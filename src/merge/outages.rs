//! Outages of several VMs at one time are one outage of the test. Pure.

use super::stalls::end_s;
use super::{Part, stalls};
use crate::measure::outages::Outage;

/// Outages that are kept.
const MAX_OUTAGES: usize = 100;

/// The outages of all VMs, in the order of their beginning: those that overlap are one, from the first one's beginning to
/// the last one's end. An outage that only one VM saw has its name; what another VM's standing still explains is left to
/// that VM's own result. `t0_s` tells how long after the test's T0 each part's
/// own T0 was, seconds.
pub(super) fn outages(parts: &[Part], t0_s: impl Fn(&Part) -> f64) -> Vec<Outage> {
    let of = |(index, part): (usize, &Part)| {
        let shift = t0_s(part);
        let shifted = move |seconds: f64| (seconds + shift).max(0.0);
        let unexplained = part.result.outages.iter().filter(|outage| !stalls::explain(parts, part, outage, &t0_s));
        let outages = unexplained.map(move |outage| Outage {
            started_s: shifted(outage.started_s),
            first_error_s: outage.first_error_s.map(shifted),
            recovered_s: outage.recovered_s.map(shifted),
            ..outage.clone()
        });
        outages.map(move |outage| (index, outage)).collect::<Vec<_>>()
    };
    let mut all: Vec<(usize, Outage)> = parts.iter().enumerate().flat_map(of).collect();
    all.sort_by(|(_, one), (_, other)| one.started_s.total_cmp(&other.started_s));
    let mut groups: Vec<(Vec<usize>, Outage)> = Vec::new();
    for (index, outage) in all {
        match groups.last_mut().filter(|(_, group)| outage.started_s < end_s(group)) {
            Some((vms, group)) => {
                let end_s = end_s(group).max(end_s(&outage));
                group.first_error_s = group.first_error_s.into_iter().chain(outage.first_error_s).reduce(f64::min);
                // Over where all have recovered.
                group.recovered_s = group.recovered_s.zip(outage.recovered_s).map(|(one, other)| one.max(other));
                group.seconds = end_s - group.started_s;
                vms.push(index);
            }
            None => groups.push((vec![index], outage)),
        }
    }
    let named = groups.into_iter().take(MAX_OUTAGES).map(|(mut vms, outage)| {
        vms.sort_unstable();
        vms.dedup();
        let hostname = <[usize; 1]>::try_from(vms.as_slice()).ok().map(|[only]| parts[only].hostname.clone());
        Outage { hostname, vms: Some(vms.len() as u64), ..outage }
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::tests::sample;

    fn part(number: usize, outages: &[(f64, f64, bool)]) -> Part {
        let mut result = sample();
        result.outages = outages
            .iter()
            .map(|(started_s, seconds, is_over)| Outage {
                hostname: None,
                vms: None,
                started_s: *started_s,
                first_error_s: Some(started_s + 0.1),
                recovered_s: is_over.then_some(started_s + seconds),
                seconds: *seconds,
            })
            .collect();
        Part { file: None, hostname: format!("h{number}"), result, clock: None, start_skew_ms: None, lost: None }
    }

    #[test]
    fn outages_that_overlap_are_one_of_the_test() {
        let mut parts: Vec<Part> = (1..=40).map(|number| part(number, &[])).collect();
        for (index, part) in parts.iter_mut().enumerate().take(38) {
            *part = self::part(index + 1, &[(12.0 + index as f64 / 100.0, 1.5, true)]);
        }
        parts[5] = part(6, &[(2.0, 1.25, true), (13.0, 1.25, true), (13.1, 1.25, false)]);
        let found = outages(&parts, |_| 0.0);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].hostname.as_deref(), found[0].vms, found[0].seconds), (Some("h6"), Some(1), 1.25));
        let all = &found[1];
        assert_eq!((all.hostname.as_deref(), all.vms, all.started_s), (None, Some(38), 12.0));
        assert_eq!((all.first_error_s, all.recovered_s), (Some(12.1), None));
        assert!((all.seconds - 2.35).abs() < 1e-9, "{all:?}");
    }

    #[test]
    fn outages_one_after_the_other_are_several_and_each_t0_counts() {
        let parts = [part(1, &[(1.0, 1.0, true)]), part(2, &[(2.0, 1.0, true)])];
        let names = |found: Vec<Outage>| found.into_iter().map(|outage| outage.hostname).collect::<Vec<_>>();
        assert_eq!(names(outages(&parts, |_| 0.0)), [Some("h1".to_owned()), Some("h2".to_owned())]);
        // The second VM's T0 was half a second before the first one's.
        let t0_s = |part: &Part| if part.hostname == "h1" { 0.5 } else { 0.0 };
        let found = outages(&parts, t0_s);
        assert_eq!((found.len(), found[0].started_s, found[0].recovered_s), (1, 1.5, Some(3.0)));
    }
}
