//! Percentiles of durations where some requests never got an answer. Pure.

use serde::{Deserialize, Serialize};

use crate::measure::durations::Durations;

/// A distribution in milliseconds.
///
/// Slots that never got an answer count as slower than any that did. Where they reach a figure, its flag is true, and
/// the value is the slowest answer: the true figure lies above it.
///
/// A percentile of n requests is the maximum where n × (1 − p) < 1, and another flag says so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Summary {
    /// Number of values.
    pub count: u64,
    /// Milliseconds, `null` if there is no value; percentiles are nearest ranks. Requests without an answer count as slower
    /// than any answer: if they reach a figure, its `_is_lower_bound` is true, and the true figure is above the value.
    pub min: Option<f64>,
    pub avg: Option<f64>,
    pub avg_is_lower_bound: bool,
    pub p50: Option<f64>,
    pub p50_is_lower_bound: bool,
    pub p90: Option<f64>,
    pub p90_is_lower_bound: bool,
    pub p95: Option<f64>,
    pub p95_is_lower_bound: bool,
    pub p99: Option<f64>,
    pub p99_is_lower_bound: bool,
    pub p99_9: Option<f64>,
    pub p99_9_is_lower_bound: bool,
    pub max: Option<f64>,
    pub max_is_lower_bound: bool,
    /// Whether the percentile is the maximum because there are too few requests for it: n × (1 − p) < 1.
    #[serde(default)]
    pub p50_is_max: bool,
    #[serde(default)]
    pub p90_is_max: bool,
    #[serde(default)]
    pub p95_is_max: bool,
    #[serde(default)]
    pub p99_is_max: bool,
    #[serde(default)]
    pub p99_9_is_max: bool,
    /// Number of requests behind the percentiles: `count`, and those without an answer.
    #[serde(default)]
    pub requests: u64,
}

/// A value that may be a lower bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounded {
    /// Milliseconds; `None` where nothing was answered.
    pub value: Option<f64>,
    /// Whether the true figure lies above.
    pub is_lower_bound: bool,
}

impl Summary {
    /// Of what was recorded, and of `unanswered` more that are slower than all of it.
    pub fn new(durations: &Durations, unanswered: u64) -> Self {
        Self::at_most(durations, unanswered, f64::INFINITY)
    }

    /// The same where no value is above `most_ms`: a coarse histogram alone would say more.
    pub(crate) fn at_most(durations: &Durations, unanswered: u64, most_ms: f64) -> Self {
        let histogram = &durations.histogram;
        let beyond = unanswered + durations.past_range;
        let known = histogram.len();
        let ms = |us: u64| us as f64 / 1_000.0;
        // Values of a bucket are alike, so that a figure could be a bucket's far end and the maximum its near one.
        let max = ms(histogram.max()).min(most_ms);
        let min = ms(histogram.min()).min(max);
        let some = |value: f64| (known > 0).then_some(value);
        let requests = known + beyond;
        let mut summary = Self {
            count: durations.count(),
            min: some(min),
            avg: some((histogram.mean() / 1_000.0).clamp(min, max)),
            avg_is_lower_bound: beyond > 0,
            max: some(max),
            max_is_lower_bound: beyond > 0,
            requests,
            ..Self::default()
        };
        for (per_mille, value, is_lower_bound, is_max) in [
            (500, &mut summary.p50, &mut summary.p50_is_lower_bound, &mut summary.p50_is_max),
            (900, &mut summary.p90, &mut summary.p90_is_lower_bound, &mut summary.p90_is_max),
            (950, &mut summary.p95, &mut summary.p95_is_lower_bound, &mut summary.p95_is_max),
            (990, &mut summary.p99, &mut summary.p99_is_lower_bound, &mut summary.p99_is_max),
            (999, &mut summary.p99_9, &mut summary.p99_9_is_lower_bound, &mut summary.p99_9_is_max),
        ] {
            // The nearest rank among all, in whole numbers: 99.9 / 100 is a little more than 0.999.
            let rank = (per_mille * requests).div_ceil(1_000).max(1);
            // The histogram rounds quantiles up to ranks; half a rank less is safe from rounding on either side.
            let quantile = (rank.min(known) as f64 - 0.5) / known.max(1) as f64;
            *value = some(ms(histogram.value_at_quantile(quantile.max(0.0))).clamp(min, max));
            *is_lower_bound = rank > known && beyond > 0;
            *is_max = requests > 0 && requests.saturating_mul(1_000 - per_mille) < 1_000;
        }
        summary
    }

    /// Whether a percentile is the maximum, because there are too few requests for it.
    pub fn is_max(&self, name: &str) -> bool {
        match name {
            "p50" => self.p50_is_max,
            "p90" => self.p90_is_max,
            "p95" => self.p95_is_max,
            "p99" => self.p99_is_max,
            "p99.9" => self.p99_9_is_max,
            _ => false,
        }
    }

    /// The figures in the order of a report, with their names.
    pub fn figures(&self) -> [(&'static str, Bounded); 8] {
        let of = |value, is_lower_bound| Bounded { value, is_lower_bound };
        [
            ("min", of(self.min, false)),
            ("avg", of(self.avg, self.avg_is_lower_bound)),
            ("p50", of(self.p50, self.p50_is_lower_bound)),
            ("p90", of(self.p90, self.p90_is_lower_bound)),
            ("p95", of(self.p95, self.p95_is_lower_bound)),
            ("p99", of(self.p99, self.p99_is_lower_bound)),
            ("p99.9", of(self.p99_9, self.p99_9_is_lower_bound)),
            ("max", of(self.max, self.max_is_lower_bound)),
        ]
    }

    /// One of them by its name.
    pub fn figure(&self, name: &str) -> Option<Bounded> {
        self.figures().into_iter().find_map(|(known, bounded)| (known == name).then_some(bounded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::tests::durations;
    use proptest::prelude::*;

    fn close(bounded: Option<Bounded>, ms: f64) -> bool {
        bounded.is_some_and(|bounded| (bounded.value.unwrap_or(f64::NAN) / ms - 1.0).abs() < 0.002)
    }

    #[test]
    fn unanswered_slots_push_percentiles_up_and_past_the_known_ones() {
        // 90 answers of 1 … 90 ms and 10 slots without: together 100, so rank 50 is 50 ms and rank 95 is unknown.
        let summary = Summary::new(&durations(1..=90), 10);
        assert!(close(summary.figure("p50"), 50.0));
        assert!(!summary.p50_is_lower_bound && !summary.p90_is_lower_bound);
        assert!(close(summary.figure("p90"), 90.0));
        assert!(summary.p95_is_lower_bound && summary.p99_is_lower_bound && summary.max_is_lower_bound);
        assert!(close(summary.figure("p95"), 90.0));
    }

    #[test]
    fn without_any_answer_there_is_no_value() {
        let summary = Summary::new(&Durations::default(), 5);
        assert_eq!(summary.figure("p50"), Some(Bounded { value: None, is_lower_bound: true }));
        assert_eq!(serde_json::to_value(&summary).unwrap()["p99"], serde_json::Value::Null);
    }

    #[test]
    fn values_past_the_range_count_as_slower_than_any_known() {
        let mut recorded = durations([1, 2, 3]);
        recorded.past_range = 1;
        let summary = Summary::new(&recorded, 0);
        assert!(summary.p90_is_lower_bound && !summary.p50_is_lower_bound);
        assert_eq!(summary.count, 4);
    }

    proptest! {
        /// In either precision, in the sum of several, and where the greatest is known from elsewhere.
        #[test]
        fn no_figure_is_above_the_maximum_or_below_the_minimum(
            parts in prop::collection::vec(prop::collection::vec(0u64..100_000_000, 0..200), 1..4),
            unanswered in 0u64..50,
            most_us in 0u64..100_000_000,
        ) {
            let mut fine = Durations::default();
            for part in parts {
                let mut one = Durations::default();
                part.into_iter().for_each(|us| one.record_ns(us * 1_000));
                fine.add(&one);
            }
            let coarse = fine.coarse();
            for (durations, most_us) in [(&fine, None), (&coarse, None), (&coarse, Some(most_us))] {
                let summary = Summary::at_most(durations, unanswered, most_us.map_or(f64::INFINITY, |us| us as f64 / 1_000.0));
                let values: Vec<f64> = summary.figures().iter().filter_map(|(_, figure)| figure.value).collect();
                let [min, avg, percentiles @ .., max] = &values[..] else { continue };
                prop_assert!((min..=max).contains(&avg), "{:?}", summary);
                prop_assert!([&[*min], percentiles, &[*max]].concat().is_sorted(), "{:?}", summary);
                let printed: Vec<f64> = values.iter().map(|value| format!("{value:.2}").parse().unwrap()).collect();
                prop_assert!(printed.iter().all(|value| (printed[0]..=printed[7]).contains(value)), "{:?}", printed);
            }
        }

        #[test]
        fn percentiles_are_the_nearest_ranks_of_the_sorted_values(
            mut values in prop::collection::vec(1u64..100_000, 1..1_200),
            unanswered in 0u64..200,
        ) {
            let summary = Summary::new(&durations(values.iter().copied()), unanswered);
            values.sort_unstable();
            let total = values.len() as u64 + unanswered;
            for (name, per_mille) in [("p50", 500), ("p90", 900), ("p95", 950), ("p99", 990), ("p99.9", 999)] {
                let rank = (total * per_mille).div_ceil(1_000) as usize;
                let found = summary.figure(name).unwrap();
                prop_assert_eq!(found.is_lower_bound, rank > values.len());
                // By its definition, and by what it means.
                prop_assert_eq!(summary.is_max(name), total * (1_000 - per_mille) < 1_000);
                prop_assert_eq!(summary.is_max(name), rank as u64 == total);
                let expected_ms = values[rank.min(values.len()) - 1] as f64;
                let found_ms = found.value.unwrap();
                prop_assert!((found_ms / expected_ms - 1.0).abs() < 0.002, "{} is {}, not {}", name, found_ms, expected_ms);
            }
        }
    }
}
