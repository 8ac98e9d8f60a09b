//! A generator that sent requests late although a worker was waiting: whether it matters. Pure.

use crate::result::RunResult;
use crate::text::words::thousands;

/// Lateness (p99) from which the generator is suspected, milliseconds …
const LATENESS_LIMIT_MS: f64 = 5.0;
/// … if it is also more than this part of the median latency.
const LATENESS_LIMIT_OF_P50: f64 = 0.1;
/// Of fewer requests it is not suspected, but warned of …
const LEAST_REQUESTS: u64 = 100;
/// … and where fewer than these were late.
const LEAST_LATE: u64 = 5;

/// Why the figures are partly the generator's own, where one request in a hundred was late.
pub(super) fn invalid(result: &RunResult) -> Option<String> {
    let p99_ms = late_p99_ms(result)?;
    let is_sample = result.lateness_ms.count >= LEAST_REQUESTS;
    (is_sample && late_requests(result) >= LEAST_LATE).then(|| {
        format!(
            "The generator was late: one request in a hundred was sent {p99_ms:.1} ms or more after it was due, \
             although a worker was waiting, so the latency is partly its own; free this machine of other work, or \
             use another."
        )
    })
}

/// From which lateness on a request is late by the generator's fault, milliseconds.
fn late_from_ms(result: &RunResult) -> f64 {
    LATENESS_LIMIT_MS.max(LATENESS_LIMIT_OF_P50 * result.latency_ms.p50.unwrap_or(0.0))
}

/// The p99 of the lateness, where it is beyond the limit. A closed loop has no due times to be late for.
fn late_p99_ms(result: &RunResult) -> Option<f64> {
    result.config.target_rps?;
    result.lateness_ms.p99.filter(|p99_ms| *p99_ms > late_from_ms(result))
}

/// How many requests were late by the generator's fault, where the p99 of the lateness is beyond the limit.
fn late_requests(result: &RunResult) -> u64 {
    let count = result.lateness_ms.count;
    // As many values are at the p99 or above it, and of so many they are enough.
    let at_least = count - (count * 99).div_ceil(100) + 1;
    if at_least >= LEAST_LATE {
        return at_least;
    }
    let from_us = (late_from_ms(result) * 1_000.0) as u64;
    // A histogram that cannot be read is refused elsewhere.
    result.histograms.lateness.decode().map_or(0, |lateness| {
        let late = lateness.histogram.iter_recorded().filter(|bucket| bucket.value_iterated_to() > from_us);
        late.map(|bucket| bucket.count_at_value()).sum::<u64>() + lateness.past_range
    })
}

/// What to say where the generator was late for too few requests to judge by.
pub(super) fn warning(result: &RunResult) -> Option<String> {
    late_p99_ms(result)?;
    let (count, late) = (result.lateness_ms.count, late_requests(result));
    (count < LEAST_REQUESTS || late < LEAST_LATE).then(|| {
        format!(
            "{} of {} requests were sent up to {:.1} ms after they were due, by the generator's fault: too few to say \
             what that does to the figures. A longer run tells.",
            thousands(late.max(1)),
            thousands(count),
            result.lateness_ms.max.unwrap_or_default()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::encoded::EncodedHistogram;
    use crate::result::tests::{durations, sample};
    use crate::result::{Status, Summary};
    use crate::verdict::{Criteria, judge};

    /// `count` requests. `late` of them were sent 7 ms after they were due.
    fn sent_late(count: u64, late: u64) -> impl FnOnce(&mut RunResult) {
        move |r| {
            let lateness = durations((0..count).map(|at| if at < late { 7 } else { 0 }));
            r.lateness_ms = Summary::new(&lateness, 0);
            r.histograms.lateness = EncodedHistogram::new(&lateness);
            r.latency_ms.p50 = Some(10.0);
        }
    }

    #[test]
    fn a_generator_is_not_judged_by_few_requests_or_few_late_ones() {
        for (count, late, status, warned) in [
            (6, 1, Status::Passed, true),
            (99, 50, Status::Passed, true),
            (100, 4, Status::Passed, true),
            (100, 5, Status::Invalid, false),
            (399, 4, Status::Passed, true),
            (399, 5, Status::Invalid, false),
            (500, 6, Status::Invalid, false),
            (1_000, 10, Status::Passed, false), // one in a hundred, and the p99 is below it
            (1_000, 11, Status::Invalid, false),
        ] {
            let mut result = sample();
            sent_late(count, late)(&mut result);
            judge(&mut result, &Criteria { min_achieved_pct: 90.0, max_error_rate_pct: 0.0, slos: Vec::new() });
            assert_eq!(result.status, status, "{late} of {count}: {}", result.reason);
            let told = format!("{late} of {} requests were sent up to 7.0 ms", thousands(count));
            let found = result.warnings.iter().any(|warning| warning.starts_with(&told));
            assert_eq!(found, warned, "{late} of {count}: {:?}", result.warnings);
        }
    }
}
