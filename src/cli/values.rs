//! The values of single options: what may be typed, and what is said of anything else. Pure.
//!
//! A parser's error goes on after the value: "is not a number; give a number from 1 to 9".

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::schedule::{Rate, Share};
use crate::text::number::{Decimal, Misfit};
use crate::verdict::Slo;

/// Something wrong with the command line: the option, and a sentence with a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The option with its dashes, or the name of a variable.
    pub flag: String,
    /// What is wrong, and what to do.
    pub text: String,
}

impl Fault {
    /// A problem with its remedy. A problem that begins with the flag names it once.
    pub fn new(flag: &str, problem: impl AsRef<str>, remedy: &str) -> Self {
        let problem = problem.as_ref();
        let without_flag = problem.strip_prefix(flag).filter(|rest| rest.starts_with([':', ' ']));
        let problem = without_flag.map_or(problem, |rest| rest.trim_start_matches([':', ' ']));
        Self { flag: flag.to_owned(), text: format!("{problem}; {remedy}") }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.flag, self.text)
    }
}

/// What `--rps` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetRate {
    /// `max`: every worker sends its next request at once.
    Max,
    /// Requests per second.
    PerSecond(Rate),
}

pub(super) fn target_rate(text: &str) -> Result<TargetRate, String> {
    if text.trim().eq_ignore_ascii_case("max") {
        return Ok(TargetRate::Max);
    }
    let parsed = Rate::parse(text.trim()).map(TargetRate::PerSecond);
    parsed.map_err(|problem| format!("{problem}; {RATE_REMEDY}, or max"))
}

/// What to give where a rate is wrong.
pub const RATE_REMEDY: &str = "give requests per second from 0.000001 to 10000000";

pub(super) fn rate(text: &str) -> Result<Rate, String> {
    Rate::parse(text.trim()).map_err(|problem| format!("{problem}; {RATE_REMEDY}"))
}

pub(super) fn whole<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = Decimal::parse_count(text).and_then(|number| match number.scaled(0) {
            Ok(value) if range.contains(&value) => T::try_from(value).map_err(|_| "is out of range".to_owned()),
            Ok(_) | Err(Misfit::TooLarge) => Err("is out of range".to_owned()),
            Err(Misfit::TooFine) => Err("is not a whole number".to_owned()),
        });
        number.map_err(|problem| format!("{problem}; give a whole number from {} to {}", range.start(), range.end()))
    }
}

pub(super) fn percent(text: &str) -> Result<f64, String> {
    let number = Decimal::parse(text.trim().trim_end_matches('%')).map(Decimal::as_f64);
    let within = number.and_then(|value| if value <= 100.0 { Ok(value) } else { Err("is above 100".to_owned()) });
    within.map_err(|problem| format!("{problem}; give a percentage from 0 to 100"))
}

/// `I/N`, with I counted from 1.
pub(super) fn share(text: &str) -> Result<Share, String> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let problem = match text.split_once('/').map(|(index, of)| (number(index), number(of))) {
        Some((Some(index @ 1..), Some(of @ ..=100_000))) if index <= of => return Ok(Share { index: index - 1, of }),
        Some((Some(0), Some(_))) => "is share 0, and shares are counted from 1",
        Some((Some(_), Some(_))) => "is out of range",
        _ => "is not of the form I/N",
    };
    Err(format!("{problem}; give for example 1/4, 2/4, 3/4 and 4/4"))
}

pub(super) fn slo(text: &str) -> Result<Slo, String> {
    Slo::parse(text).map_err(|problem| format!("{problem}; give for example 'p99<20ms'"))
}

/// What to give where `--start-at` is wrong.
pub(super) const INSTANT_REMEDY: &str = "give a time to come, as 2026-01-31T12:00:00Z or in seconds since 1970";

/// Nanoseconds since 1970, from RFC 3339 or from seconds since 1970 with up to nine decimals.
pub(super) fn instant(text: &str) -> Result<u64, String> {
    parse_instant(text).map_err(|problem| format!("{problem}; {INSTANT_REMEDY}"))
}

fn parse_instant(text: &str) -> Result<u64, String> {
    // Nanoseconds since 1970 in 64 bits end there.
    const TOO_LATE: &str = "is after 2554-07-21, the last day that can be given";
    if let Ok(seconds) = Decimal::parse(text) {
        return seconds.scaled(9).map_err(|misfit| match misfit {
            Misfit::TooFine => "has more than nine decimals".to_owned(),
            Misfit::TooLarge => TOO_LATE.to_owned(),
        });
    }
    let timestamp: jiff::Timestamp = text.trim().parse().map_err(|_| "is not a time".to_owned())?;
    let unix_ns = timestamp.as_nanosecond();
    u64::try_from(unix_ns).map_err(|_| if unix_ns < 0 { "is before 1970" } else { TOO_LATE }.to_owned())
}

/// A number of seconds, or what jiff calls the friendly format: `60s`, `500ms`, `5m`, `1h`, `1m30s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|problem| format!("{problem}; give a duration such as 60, 60s, 500ms, 5m or 1m30s"))
}

/// A duration within limits; `remedy` names them.
pub(super) fn duration_within(
    range: RangeInclusive<Duration>,
    remedy: &'static str,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| match duration(text)? {
        within if range.contains(&within) => Ok(within),
        _ => Err(format!("is out of range; {remedy}")),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(366 * 86_400);
    let text = text.trim();
    let parsed = match Decimal::parse(text) {
        // Below a nanosecond nothing counts.
        Ok(seconds) => Duration::try_from_secs_f64(seconds.as_f64()).unwrap_or(Duration::MAX),
        Err(problem) if problem == "is below zero" => return Err(problem),
        Err(_) => {
            let parsed: jiff::SignedDuration = text.parse().map_err(|_| "is not a duration".to_owned())?;
            Duration::try_from(parsed).map_err(|_| "is below zero".to_owned())?
        }
    };
    if parsed > MOST { Err("is longer than 366 days".to_owned()) } else { Ok(parsed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::size::size_kb;
    use proptest::prelude::*;

    #[test]
    fn durations_take_the_usual_forms() {
        for (text, ms) in [
            ("60", 60_000),
            ("60s", 60_000),
            ("5m", 300_000),
            ("5min", 300_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("0.5", 500),
            ("0.5s", 500),
            ("2147483.647", 2_147_483_647),
            ("1h", 3_600_000),
            (".5", 500),
            ("1e3", 1_000_000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "5x", "1m30", "1..5", "5 parsecs", "NaN", "inf", "e3", "10k", "1es"] {
            assert_eq!(parse_duration(text), Err("is not a duration".to_owned()), "{text}");
        }
        for text in ["99999999999", "1e400", "8785h"] {
            assert_eq!(parse_duration(text), Err("is longer than 366 days".to_owned()), "{text}");
        }
        assert_eq!(
            (parse_duration("-1s"), parse_duration("-1")),
            (Err("is below zero".to_owned()), Err("is below zero".to_owned()),)
        );
        assert_eq!(parse_duration("1e-12"), Ok(Duration::ZERO));
    }

    #[test]
    fn instants_are_rfc_3339_or_unix() {
        assert_eq!(parse_instant("2023-11-14T22:13:20.5Z"), Ok(1_700_000_000_500_000_000));
        assert_eq!(parse_instant("2023-11-14T23:13:20+01:00"), Ok(1_700_000_000_000_000_000));
        assert_eq!(parse_instant("1700000000.25"), Ok(1_700_000_000_250_000_000));
        assert_eq!(parse_instant("1.7e9"), Ok(1_700_000_000_000_000_000));
        assert_eq!(parse_instant("2554-07-21T23:34:33Z"), Ok(18_446_744_073_000_000_000));
        for (text, says) in [
            ("", "is not a time"),
            ("noon", "is not a time"),
            ("-5", "is not a time"),
            ("1.x", "is not a time"),
            ("1969-12-31T23:59:59Z", "is before 1970"),
            ("2600-01-01T00:00:00Z", "is after 2554-07-21"),
            ("99999999999999", "is after 2554-07-21"),
            ("1e300", "is after 2554-07-21"),
            ("1.0000000001", "has more than nine decimals"),
        ] {
            let problem = parse_instant(text).unwrap_err();
            assert!(problem.starts_with(says), "{text}: {problem}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_called_what_they_are() {
        for (text, of_whole, of_percent, of_size) in [
            ("NaN", "is not a number", "is not a number", "is not a number"),
            ("inf", "is not a finite number", "is not a finite number", "is not a finite number"),
            ("-1", "is below zero", "is below zero", "is below zero"),
            ("1e30", "is out of range", "is above 100", "is larger than jsonb can hold"),
            ("1.5", "is not a whole number", "", ""),
            ("0", "is out of range", "", "is smaller than an empty document"),
            ("1e1", "", "", ""),
            ("one", "is not a number", "is not a number", "is not a number"),
        ] {
            let all = [
                (of_whole, whole::<u32>(1..=1_000)(text).err()),
                (of_percent, percent(text).err()),
                (of_size, size_kb(text).err()),
            ];
            for (expected, said) in all {
                match said {
                    Some(said) => assert!(
                        !expected.is_empty() && said.starts_with(&format!("{expected}; give ")),
                        "{text}: {said}"
                    ),
                    None => assert_eq!(expected, "", "{text}"),
                }
            }
        }
        assert_eq!(whole(1..=10_000)("10k"), Ok(10_000usize));
        assert_eq!(whole(0..=u64::MAX)("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn shares_are_counted_from_one() {
        assert_eq!(share("2/3"), Ok(Share { index: 1, of: 3 }));
        for (text, says) in
            [("0/3", "is share 0"), ("4/3", "is out of range"), ("1/100001", "is out of range"), ("1", "is not of")]
        {
            assert!(share(text).unwrap_err().starts_with(says), "{text}");
        }
    }

    #[test]
    fn a_flag_stands_once() {
        let told = |problem: &str| Fault::new("--vms", problem, "do so").to_string();
        assert_eq!(told("--vms: is wrong"), "--vms: is wrong; do so");
        assert_eq!(told("--vms names a twice"), "--vms: names a twice; do so");
        assert_eq!(told("'a' is wrong"), "--vms: 'a' is wrong; do so");
        assert_eq!(told("--vmsx is wrong"), "--vms: --vmsx is wrong; do so");
    }

    proptest! {
        #[test]
        fn durations_and_instants_never_panic(text in "\\PC{0,20}") {
            let _ = parse_duration(&text);
            let _ = parse_instant(&text);
        }
    }
}
