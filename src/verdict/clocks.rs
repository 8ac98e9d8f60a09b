//! Whether the clocks of several VMs agree. Not to know it exactly is no fault: only what is certain is held against a
//! clock. Pure.

use std::cmp::Ordering;

use crate::result::{ClockComparison, ClockReference};

/// Clocks that are further apart make a test INVALID, milliseconds.
pub const LIMIT_MS: f64 = 100.0;
/// Of two VMs whose clocks are known to within this, the start may be so far apart together.
const BOUND_LIMIT_MS: f64 = LIMIT_MS / 2.0;

/// A clock against the reference, milliseconds.
#[derive(Clone, Copy)]
struct Reading {
    offset_ms: f64,
    bound_ms: f64,
}

/// What is wrong with each VM's clock: by how much it is certainly ahead of the others', where that is beyond the limit, or
/// that it is not known at all where the others' are. A VM alone has nothing to agree with.
pub fn errors(clocks: &[Option<ClockComparison>]) -> Vec<Option<String>> {
    let known = clocks.iter().flatten().count();
    if clocks.len() < 2 || known == 0 {
        return vec![None; clocks.len()];
    }
    let of = |reading: fn(&ClockComparison) -> Option<Reading>| {
        apart(&clocks.iter().map(|clock| clock.as_ref().and_then(reading)).collect::<Vec<_>>())
    };
    let before = of(|clock| Some(Reading { offset_ms: clock.offset_ms, bound_ms: clock.bound_ms }));
    let after = of(|clock| {
        Some(Reading { offset_ms: clock.offset_after_ms?, bound_ms: clock.bound_after_ms.unwrap_or(clock.bound_ms) })
    });
    let worse = |pair: (Option<f64>, Option<f64>)| {
        [pair.0, pair.1].into_iter().flatten().max_by(|one, other| one.abs().total_cmp(&other.abs()))
    };
    let texts = before.into_iter().zip(after).map(|pair| worse(pair).map(|ms| format!("{ms:+.0} ms")));
    texts.zip(clocks).map(|(text, clock)| if clock.is_none() { Some("not known".to_owned()) } else { text }).collect()
}

/// By how much each is certainly apart from most others, where that is beyond the limit.
fn apart(readings: &[Option<Reading>]) -> Vec<Option<f64>> {
    let mut known: Vec<Reading> = readings.iter().flatten().copied().collect();
    known.sort_by(|one, other| one.offset_ms.total_cmp(&other.offset_ms));
    let middles = known.get(known.len().saturating_sub(1) / 2..=known.len() / 2).unwrap_or_default();
    // Where two are in the middle, the reference itself tells which of them is right.
    let Some(common) = middles.iter().min_by(|one, other| one.offset_ms.abs().total_cmp(&other.offset_ms.abs())) else {
        return vec![None; readings.len()];
    };
    let of = |reading: &Option<Reading>| {
        let reading = (*reading)?;
        let ms = reading.offset_ms - common.offset_ms;
        let certain = ms.abs() - reading.bound_ms - common.bound_ms;
        (certain.partial_cmp(&LIMIT_MS) == Some(Ordering::Greater)).then_some(ms)
    };
    readings.iter().map(of).collect()
}

/// What to know where clocks are compared so coarsely that VMs may start far apart.
pub fn uncertainty(clocks: &[Option<ClockComparison>]) -> Option<String> {
    let coarse = |clock: &&ClockComparison| {
        !matches!(clock.bound_ms.partial_cmp(&BOUND_LIMIT_MS), Some(Ordering::Less | Ordering::Equal))
    };
    let coarse: Vec<&ClockComparison> = clocks.iter().flatten().filter(coarse).collect();
    if clocks.len() < 2 || coarse.is_empty() {
        return None;
    }
    let bound_ms = coarse.iter().map(|clock| clock.bound_ms).fold(0.0, f64::max);
    let (to, remedy) = match coarse[0].reference {
        ClockReference::Coordinator => ("the coordinator", "Run the coordinator nearer to the VMs"),
        ClockReference::Database => ("the database", "A coordinator near the VMs compares them more exactly"),
    };
    Some(format!(
        "The clocks of {} of {} VMs are known only to within {bound_ms:.0} ms, half of their round trip to {to}, so VMs may \
         start up to {:.0} ms apart. {remedy}; setting the clocks does not help.",
        coarse.len(),
        clocks.len(),
        2.0 * bound_ms
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(offset_ms: f64, bound_ms: f64) -> Option<ClockComparison> {
        Some(ClockComparison {
            offset_ms,
            bound_ms,
            offset_after_ms: Some(offset_ms),
            bound_after_ms: Some(bound_ms),
            reference: ClockReference::Coordinator,
        })
    }

    fn said(clocks: &[Option<ClockComparison>]) -> Vec<String> {
        errors(clocks).into_iter().map(Option::unwrap_or_default).collect()
    }

    #[test]
    fn only_what_is_certain_is_held_against_a_clock() {
        // 150 ms away.
        assert_eq!(said(&[clock(0.3, 151.0), clock(-0.2, 151.0), clock(90.0, 151.0)]), ["", "", ""]);
        assert_eq!(said(&[clock(0.3, 151.0), clock(-0.2, 151.0), clock(3_000.0, 151.0)]), ["", "", "+3000 ms"]);
        assert_eq!(said(&[clock(0.0, 0.5), clock(-102.0, 0.5), clock(0.0, 0.5)]), ["", "-102 ms", ""]);
        assert_eq!(said(&[clock(0.0, 0.5), clock(-100.9, 0.5), clock(0.0, 0.5)]), ["", "", ""]);
        assert_eq!(said(&[clock(f64::NAN, 0.1), clock(0.0, f64::NAN)]), ["", ""]);
    }

    #[test]
    fn clocks_are_compared_with_each_other() {
        // The reference is wrong, and the VMs agree.
        assert_eq!(said(&[clock(5_000.0, 0.1), clock(5_001.0, 0.1)]), ["", ""]);
        // Of two that differ, the reference tells which one is right.
        assert_eq!(said(&[clock(2_000.0, 0.1), clock(1.0, 0.1)]), ["+1999 ms", ""]);
        assert_eq!(said(&[clock(1.0, 0.1), clock(-2_000.0, 0.1)]), ["", "-2001 ms"]);
        assert_eq!(said(&[clock(5_000.0, 0.1), clock(5_001.0, 0.1), clock(0.0, 0.1)]), ["", "", "-5000 ms"]);
        let mut set = [clock(0.0, 0.1), clock(0.0, 0.1)];
        set[1].as_mut().unwrap().offset_after_ms = Some(-3_600_000.0);
        assert_eq!(said(&set), ["", "-3600000 ms"]);
    }

    #[test]
    fn a_vm_alone_has_nothing_to_agree_with() {
        assert_eq!(said(&[clock(30_000.0, 0.1)]), [""]);
        assert_eq!(said(&[None, clock(0.0, 0.1)]), ["not known", ""]);
        assert_eq!(said(&[None, None]), ["", ""]);
        assert!(errors(&[]).is_empty());
    }

    #[test]
    fn uncertainty_is_said_with_its_remedy() {
        let said = uncertainty(&[clock(0.3, 151.0), clock(0.1, 149.0), clock(0.0, 2.0)]).unwrap();
        assert!(said.starts_with("The clocks of 2 of 3 VMs are known only to within 151 ms"), "{said}");
        assert!(said.contains("up to 302 ms apart. Run the coordinator nearer") && !said.contains("chrony"), "{said}");
        assert_eq!(uncertainty(&[clock(0.3, 151.0)]), None);
        assert_eq!(uncertainty(&[clock(99.0, 50.0), clock(0.0, 50.0), None]), None);
    }
}
