//! Reading single values of the command line, and collecting what is wrong with them. Pure.

use std::time::Duration;

use crate::workload::payload;

/// A wrong value: which flag, what is wrong with it, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The flag with its dashes.
    pub flag: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What to give instead.
    pub remedy: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.flag, self.problem, self.remedy)
    }
}

/// Collects faults while values are read.
#[derive(Default)]
pub(super) struct Faults(pub(super) Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, flag: &'static str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Fault { flag, problem: problem.into(), remedy: remedy.into() });
    }

    pub(super) fn take<T>(
        &mut self,
        flag: &'static str,
        given: &str,
        remedy: &str,
        parsed: Result<T, String>,
    ) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(problem) => {
                // Somebody may have put a connection string here, with its password.
                let secret = given.contains("://") || given.contains("password");
                let shown = if secret { "the value".to_owned() } else { format!("'{given}'") };
                self.add(flag, format!("{shown} {problem}"), remedy);
                None
            }
        }
    }

    pub(super) fn duration(&mut self, flag: &'static str, given: &str) -> Duration {
        self.take(flag, given, "give a duration such as 60, 60s, 500ms, 5m or 1m30s", parse_duration(given))
            // Anything but zero, which would be a fault of its own.
            .unwrap_or(Duration::from_secs(1))
    }

    pub(super) fn whole(&mut self, flag: &'static str, given: &str, range: std::ops::RangeInclusive<u64>) -> u64 {
        let remedy = if *range.end() == u64::MAX {
            "give a whole number".to_owned()
        } else {
            format!("give a whole number from {} to {}", range.start(), range.end())
        };
        let parsed = match given.trim().parse::<u64>() {
            Ok(value) if range.contains(&value) => Ok(value),
            Ok(_) => Err("is out of range".to_owned()),
            Err(_) => Err("is not a whole number".to_owned()),
        };
        self.take(flag, given, &remedy, parsed).unwrap_or(*range.start())
    }

    pub(super) fn percent(&mut self, flag: &'static str, given: &str) -> f64 {
        let parsed = match given.trim().trim_end_matches('%').trim_end().parse::<f64>() {
            Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
            Ok(_) => Err("is out of range".to_owned()),
            Err(_) => Err("is not a number".to_owned()),
        };
        self.take(flag, given, "give a percentage from 0 to 100", parsed).unwrap_or_default()
    }

    /// The size in KB as given, and in bytes.
    pub(super) fn size(&mut self, flag: &'static str, given: &str) -> (f64, usize) {
        let (least, most) = (payload::MIN_BYTES as f64 / 1024.0, payload::MAX_BYTES as f64 / 1024.0);
        let remedy = format!("give a size in KB from {:.3} to {most:.0}", (least * 1_000.0).ceil() / 1_000.0);
        let parsed = match given.trim().parse::<f64>() {
            Ok(kb) if (least..=most).contains(&kb) => Ok(kb),
            Ok(kb) if kb < least => Err("is smaller than an empty document".to_owned()),
            Ok(_) => Err("is larger than jsonb can hold".to_owned()),
            Err(_) => Err("is not a number".to_owned()),
        };
        let kb = self.take(flag, given, &remedy, parsed).unwrap_or(1.0);
        (kb, payload::bytes_of_kb(kb))
    }
}

/// Reads RFC 3339, or seconds since 1970 with up to nine decimals.
pub(super) fn parse_instant(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if let (Ok(seconds), true) = (seconds.parse::<u64>(), fraction.bytes().all(|b| b.is_ascii_digit())) {
        let nanos = format!("{fraction:0<9}")[..9].parse::<u64>().unwrap_or_default();
        return seconds
            .checked_mul(1_000_000_000)
            .and_then(|ns| ns.checked_add(nanos))
            .ok_or_else(|| "is too far away".to_owned());
    }
    let timestamp: jiff::Timestamp = text.parse().map_err(|_| "is no time".to_owned())?;
    u64::try_from(timestamp.as_nanosecond()).map_err(|_| "is before 1970".to_owned())
}

/// Reads `60`, `60s`, `500ms`, `5m`, `1h`, `1m30s`, `0.5s`.
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(366 * 86_400);
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err("is no duration".to_owned());
    }
    while !rest.is_empty() {
        let number_ends = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_ends);
        let unit_ends = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_ends);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "" if tail.is_empty() && total.is_zero() => 1.0,
            _ => return Err("is no duration".to_owned()),
        };
        let value: f64 = number.parse().map_err(|_| "is no duration".to_owned())?;
        let part = Duration::try_from_secs_f64(value * seconds).map_err(|_| "is too long".to_owned())?;
        total = total.checked_add(part).filter(|total| *total <= MOST).ok_or("is too long")?;
        rest = tail;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_take_the_usual_forms() {
        for (text, ms) in [
            ("60", 60_000),
            ("60s", 60_000),
            ("5m", 300_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("0.5", 500),
            ("1h", 3_600_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "5x", "1m30", "-1", "1e5", "99999999999", "1..5", "5 m"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn instants_are_rfc_3339_or_unix() {
        assert_eq!(parse_instant("2023-11-14T22:13:20.5Z"), Ok(1_700_000_000_500_000_000));
        assert_eq!(parse_instant("2023-11-14T23:13:20+01:00"), Ok(1_700_000_000_000_000_000));
        assert_eq!(parse_instant("1700000000.25"), Ok(1_700_000_000_250_000_000));
        for text in ["", "noon", "-5", "1.x", "99999999999999"] {
            assert!(parse_instant(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn durations_and_instants_never_panic(text in "\\PC{0,20}") {
            let _ = parse_duration(&text);
            let _ = parse_instant(&text);
        }
    }
}
