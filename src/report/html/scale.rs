//! Axes: from values to positions, where the ticks stand, and how numbers are written. Pure.

use crate::text::words::thousands;

/// A vertical axis from `low` at the bottom to `high` at the top.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    Linear { high: f64 },
    Log { low: f64, high: f64 },
}

impl Scale {
    /// A linear one from zero that holds all values, and ends at a round number.
    pub(super) fn linear(values: impl Iterator<Item = f64>) -> Self {
        let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        if most <= 0.0 {
            return Self::Linear { high: 1.0 };
        }
        // With some room above, so that the highest line is not taken for the edge.
        let step = step(most * 1.02, 4);
        Self::Linear { high: ((most * 1.02 / step).ceil() * step).max(step) }
    }

    /// A logarithmic one that holds all values above zero. It spans at least one decade.
    pub(super) fn log(values: impl Iterator<Item = f64> + Clone) -> Self {
        let positive = values.filter(|value| value.is_finite() && *value > 0.0);
        let least = positive.clone().fold(f64::INFINITY, f64::min);
        let most = positive.fold(0.0, f64::max);
        if most <= 0.0 {
            return Self::Log { low: 0.1, high: 10.0 };
        }
        let low = round_log(least * 0.999, false);
        Self::Log { low, high: round_log(most * 1.001, true).max(low * 10.0) }
    }

    /// Where a value stands: 0 at the bottom, 1 at the top. Values beyond the ends are put there.
    pub(super) fn at(self, value: f64) -> f64 {
        let share = match self {
            Self::Linear { high } => value / high,
            Self::Log { low, high } => (value.max(low) / low).log10() / (high / low).log10(),
        };
        if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) }
    }

    /// Values at which a line is drawn and a number stands.
    pub(super) fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { high } => {
                let step = step(high, 4);
                (0..=(high / step).round() as u64).map(|at| at as f64 * step).collect()
            }
            Self::Log { low, high } => {
                let (from, to) = (low.log10().floor() as i32, high.log10().ceil() as i32);
                let decades = (high / low).log10();
                let every = (decades / 5.0).ceil().max(1.0) as usize;
                let factors: &[f64] = if decades <= 1.6 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let all = (from..=to).step_by(every).flat_map(|power| {
                    let decade = 10f64.powi(power);
                    factors.iter().map(move |factor| factor * decade)
                });
                all.filter(|tick| (low * 0.999..=high * 1.001).contains(tick)).collect()
            }
        }
    }
}

/// The next of 1, 2 and 5 times a power of ten, downwards or upwards.
fn round_log(value: f64, up: bool) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * decade);
    let found =
        if up { factors.into_iter().find(|f| *f >= value) } else { factors.into_iter().rev().find(|f| *f <= value) };
    found.unwrap_or(value)
}

/// A round distance between ticks, so that there are about `ticks` of them.
pub(super) fn step(span: f64, ticks: u32) -> f64 {
    let raw = span / f64::from(ticks);
    let decade = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0]
        .map(|factor| factor * decade)
        .into_iter()
        .find(|step| raw <= *step * 1.0001)
        .unwrap_or(10.0 * decade)
}

/// Seconds at which a time axis of that length has its ticks, and how many seconds apart they are.
pub(super) fn time_ticks(seconds: f64) -> (Vec<f64>, f64) {
    const STEPS: [f64; 18] = [
        0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0, 7_200.0,
        14_400.0, 28_800.0,
    ];
    let step = STEPS.into_iter().find(|step| seconds / step <= 5.01).unwrap_or_else(|| step(seconds, 5));
    ((0..=(seconds / step * 1.0001).floor() as u64).map(|at| at as f64 * step).collect(), step)
}

/// A time after T0 as people read it: `45 s`, `2:30`, `1h02` or, where that is not exact, `1:02:30`. `span_s` is the length of the axis, which decides the
/// form.
pub(super) fn time(seconds: f64, span_s: f64) -> String {
    if span_s <= 120.0 {
        return format!("{} s", short(seconds));
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, rest) = (whole / 3_600, whole / 60 % 60, whole % 60);
    match rest {
        _ if span_s < 3_600.0 => format!("{}:{rest:02}", whole / 60),
        0 => format!("{hours}h{minutes:02}"),
        _ => format!("{hours}:{minutes:02}:{rest:02}"),
    }
}

/// A number in three significant digits, with k, M or G for thousands, millions and thousands of millions.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    let (scaled, unit) = match size {
        _ if size >= 1e9 => (value / 1e9, "G"),
        _ if size >= 1e6 => (value / 1e6, "M"),
        _ if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        s if s >= 100.0 || s == 0.0 => 0,
        s if s >= 10.0 => 1,
        s if s >= 1.0 => 2,
        s if s >= 0.1 => 3,
        _ => 4,
    };
    let text = format!("{scaled:.digits$}");
    if digits > 0 {
        return format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'));
    }
    if scaled >= 999.5 { format!("{}{unit}", thousands(scaled.round() as u64)) } else { text + unit }
}

/// Milliseconds with the unit that suits them, in as many digits as compare well in a column.
pub(super) fn ms(value: f64) -> String {
    match value {
        value if value >= 10_000.0 => format!("{} s", short(value / 1_000.0)),
        value if value >= 99.95 => format!("{} ms", thousands(value.round() as u64)),
        value if value >= 9.995 => format!("{value:.1} ms"),
        value if value >= 0.095 || value == 0.0 => format!("{value:.2} ms"),
        value => format!("{value:.3} ms"),
    }
}

/// Bytes with the unit that suits them, in powers of 1,024.
pub(super) fn bytes(value: f64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(size, _)| value.abs() >= *size as f64) {
        Some((size, unit)) => format!("{} {unit}", short(value / size as f64)),
        None => format!("{value:.0} B"),
    }
}

/// A coordinate, or a value for a script: as few digits as are seen.
pub(super) fn coordinate(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A share as an SVG length, percent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.3}%", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(Scale::linear([0.0, 97.0].into_iter()).ticks(), [0.0, 50.0, 100.0]);
        assert_eq!(Scale::linear([].into_iter()), Scale::Linear { high: 1.0 });
        let log = Scale::log([0.8, 340.0].into_iter());
        assert_eq!((log, log.ticks()), (Scale::Log { low: 0.5, high: 500.0 }, vec![1.0, 10.0, 100.0]));
        assert_eq!(Scale::log([3.0].into_iter()).ticks(), [2.0, 5.0, 10.0, 20.0]);
        assert_eq!(time_ticks(60.0), (vec![0.0, 15.0, 30.0, 45.0, 60.0], 15.0));
        assert_eq!(time_ticks(600.0).1, 120.0);
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 0.034, 1.0, 12.345, 999.6, 9_999.0, 12_345.0, 1.5e6, 2e9].map(short);
        assert_eq!(numbers, ["0", "0.034", "1", "12.3", "1,000", "9,999", "12.3k", "1.5M", "2G"]);
        assert_eq!([time(45.0, 60.0), time(150.0, 600.0), time(3_750.0, 7_200.0)], ["45 s", "2:30", "1:02:30"]);
        assert_eq!([ms(0.5), ms(0.02), ms(4_004.0), ms(12_340.0)], ["0.50 ms", "0.020 ms", "4,004 ms", "12.3 s"]);
        assert_eq!(bytes(1536.0), "1.5 KiB");
    }

    proptest! {
        #[test]
        fn any_axis_has_two_to_nine_ticks_within_it(values in prop::collection::vec(0.0f64..1e12, 0..20)) {
            for scale in [Scale::linear(values.iter().copied()), Scale::log(values.iter().copied())] {
                let ticks = scale.ticks();
                prop_assert!((2..=9).contains(&ticks.len()), "{:?} {:?}", scale, ticks);
                prop_assert!(ticks.is_sorted() && ticks.iter().all(|tick| (0.0..=1.0).contains(&scale.at(*tick))));
            }
        }
    }
}
