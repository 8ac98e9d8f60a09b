//! Lies of every kind: what becomes of them, and what is said of them.

use proptest::prelude::*;

use super::*;
use crate::measure::encoded::EncodedHistogram;

const SECOND: usize = 11;

fn said(lines: &[Value]) -> Result<Part, String> {
    hear(&spoken(lines))
}

#[test]
fn an_honest_vm_is_believed_whole_and_in_part() {
    let lines = lines(&honest());
    let whole = told(vec![said(&lines).unwrap()]).unwrap();
    // The other half of the schedule was nobody's.
    assert_eq!((whole.accounting.scheduled, whole.accounting.unreported), (100, 50));
    assert_eq!((whole.accounting.ok, whole.accounting.failed), (40, 10));
    let part = said(&lines[..SECOND + 3]).unwrap();
    assert_eq!(part.result.accounting.answered(), 20);
    let part = Part { lost: Some("nothing was heard of it".to_owned()), ..part };
    let accounting = told(vec![part]).unwrap().accounting;
    assert_eq!((accounting.scheduled, accounting.unreported), (100, 80));
}

/// A place in one of the lines, what is put there, and what is said of it.
type Lie = (usize, &'static str, fn() -> Value, &'static str);

#[test]
fn what_cannot_be_is_refused_and_why_is_said() {
    let huge = || json!("x".repeat(500_000));
    let last = lines(&honest()).len() - 1;
    let verification =
        || json!({"acknowledged": 40, "unsettled": 0, "committed": 0, "not_committed": 0, "tables": [], "error": "no"});
    const ESCAPE: &str = "\u{1b}[31mbox";
    let lies: &[Lie] = &[
        (0, "/hostname", || json!(ESCAPE), "its hostname holds control characters"),
        (0, "/hostname", huge, "its hostname has 500000 bytes"),
        (0, "/build", huge, "its build has 500000 bytes"),
        (0, "/build", || json!("another"), "build another"),
        (0, "/pid", || json!(0), "process number 0"),
        (0, "/pid", || json!(-1), "not understood"),
        (0, "/event", || json!(ESCAPE), "not understood"),
        (1, "/event", || json!("set_up"), "said \"set_up\" out of turn"),
        (3, "/target", huge, "its target has 500000 bytes"),
        (3, "/workers", || json!(u64::MAX), "workers is"),
        (3, "/server/version", huge, "its server.version has"),
        (5, "/phases", || json!(vec!["x"; 100_000]), "its phases has 100000 entries"),
        (5, "/phases/0", || json!(ESCAPE), "its phases[0] holds control characters"),
        (5, "/warnings", || json!(vec!["x"; 100_000]), "its warnings has 100000 entries"),
        (5, "/config/workers", || json!(u64::MAX), "workers is"),
        (5, "/config/output_size_kb", || json!(1e300), "output_size_kb is 1e300"),
        (SECOND, "/index", || json!(u64::MAX), "cannot have been yet"),
        (SECOND + 1, "/index", || json!(0), "comes twice"),
        (SECOND, "/counters/measured/ok", || json!(-1), "not understood"),
        (SECOND, "/counters/measured/ok", || json!(u64::MAX), "its counters.measured.ok is 18446744073709551615"),
        (SECOND, "/counters/measured/ok", || json!(5), "6 requests were answered"),
        (SECOND, "/counters/completed_in_window", || json!(5), "more requests were completed"),
        (SECOND, "/histograms/latency/base64", || json!("HISTFAAA"), "its histogram of latency cannot be used"),
        (SECOND, "/histograms/latency/past_range", || json!(u64::MAX), "its histograms.latency.past_range is"),
        (SECOND, "/histograms/latency/past_range", || json!(1), "and 6 values are in the histogram of latency"),
        (
            SECOND,
            "/histograms/phases",
            || json!(vec![json!({"base64": "", "past_range": 1}); 20_000]),
            "its histograms.phases has 20000 entries",
        ),
        (SECOND, "/errors/0/count", || json!(u64::MAX), "its errors[0].count is"),
        (SECOND, "/errors/0/example", huge, "its errors[0].example has"),
        (last, "/tool_build", || json!("another"), "that of another test"),
        (last, "/run/share/index", || json!(1), "that of another test"),
        (last, "/run/started_unix_ns", || json!(T0_UNIX_NS + 60_000_000_000), "another T0"),
        (last, "/run/window_seconds", || json!(2.0), "another window"),
        (last, "/run/window_start_s", || json!(5.0), "another window"),
        (last, "/run/window_start_s", || json!(0.5), "another window"),
        (last, "/tool_version", || json!("9.9.9"), "that of another test"),
        (last, "/verification", verification, "not verified as was asked for"),
        (last, "/config/seed", || json!(7), "other options"),
        (last, "/config/workers", || json!(7), "other options"),
        (last, "/phases_ms/0/name", || json!("x"), "other options"),
        (last, "/hostname", || json!(ESCAPE), "its hostname holds control characters"),
        (last, "/accounting/ok", || json!(41), "are accounted for"),
        (last, "/latency_ms/p99", || json!(0.1), "its latency_ms.p99 is 0.1, and its histograms and counts say"),
        (last, "/latency_ms/max", || json!(null), "its latency_ms.max is null"),
        (last, "/throughput/actual_rps", || json!(4000.0), "its throughput.actual_rps is 4000.0"),
        (last, "/throughput/success_rate", || json!(100.0), "its throughput.success_rate is 100.0"),
        (last, "/warnings/0", huge, "its warnings[0] has"),
        (last, "/data_written_mb", || json!(1e300), "data_written_mb is 1e300"),
        (last, "/histograms/latency/base64", || json!("HISTFAAA"), "its histogram of latency"),
    ];
    for (line, place, lie, expected) in lies {
        let mut lines = lines(&honest());
        *lines[*line].pointer_mut(place).expect(place) = lie();
        let spoken = spoken(&lines);
        let (reason, part) = match hear(&spoken) {
            // Refused as a line, so that what it said before counts, and it is lost.
            Ok(part) => (part.lost.clone().unwrap_or_default(), Some(part)),
            Err(reason) => (reason, None),
        };
        assert!(reason.contains(expected), "{line} {place}: {reason}");
        assert!(reason.chars().count() <= 2_001 && !reason.chars().any(steers), "{line} {place}: {reason}");
        assert!(part.is_none_or(|part| told(vec![part]).is_some()));
    }
}

#[test]
fn what_is_said_again_or_too_early_is_refused() {
    let honest = lines(&honest());
    for (order, word) in [
        (&[0, 0][..], "hello"),
        (&[3], "preflight"),
        (&[0, 5], "ready"),
        (&[0, 3, 4, 4], "set_up"),
        (&[0, 3, 4, 6], "started"),
        (&[0, 3, 4, 5, SECOND], "second"),
        (&[0, 3, 4, 5, 6, 5], "ready"),
        (&[0, 20], "result"),
    ] {
        let order: Vec<Value> = order.iter().map(|at| honest[*at].clone()).collect();
        let reason = said(&order).unwrap_err();
        assert!(reason.contains(&format!("said \"{word}\" out of turn")), "{word}: {reason}");
    }
}

/// As many values as there are in the heaviest histogram that a line holds.
#[test]
fn a_histogram_of_endless_counts_is_refused() {
    let mut durations = crate::measure::durations::Durations::default();
    durations.histogram.record_n(1, u64::MAX / 2).unwrap();
    durations.histogram.record_n(1_000, u64::MAX / 2).unwrap();
    let mut lines = lines(&honest());
    lines[SECOND]["histograms"]["latency"] = serde_json::to_value(EncodedHistogram::new(&durations)).unwrap();
    assert!(said(&lines).unwrap_err().contains("more values than there can be"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_lie_does_harm(lies in prop::collection::vec((0usize..20, any::<usize>(), any::<usize>()), 1..4)) {
        let mut lines = lines(&honest());
        for (line, place, lie) in lies {
            let count = lines.len();
            spoil(&mut lines[line % count], place, lie);
        }
        match said(&lines) {
            Ok(part) => _ = told(vec![part]),
            Err(reason) => prop_assert!(!reason.chars().any(steers) && reason.len() < 10_000, "{}", reason),
        }
    }

    #[test]
    fn no_order_of_words_does_harm(order in prop::collection::vec(0usize..20, 0..60)) {
        let honest = lines(&honest());
        let order: Vec<Value> = order.iter().map(|at| honest[at % honest.len()].clone()).collect();
        if let Ok(part) = said(&order) {
            prop_assert!(told(vec![part]).is_some());
        }
    }
}
