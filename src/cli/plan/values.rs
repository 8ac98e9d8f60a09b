//! Reading single values of the command line, and collecting what is wrong with them. Pure.

use std::time::Duration;

use crate::text::number::{Decimal, Misfit};
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
        // Some problems begin with their flag, where they are also told elsewhere.
        let problem = self.problem.strip_prefix(self.flag).filter(|rest| rest.starts_with([':', ' ']));
        let problem = problem.map_or(self.problem.as_str(), |rest| rest.trim_start_matches([':', ' ']));
        write!(f, "{}: {problem}; {}", self.flag, self.remedy)
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
        let remedy = format!("give a whole number from {} to {}", range.start(), range.end());
        let parsed = Decimal::parse_count(given).and_then(|number| match number.scaled(0) {
            Ok(value) if range.contains(&value) => Ok(value),
            Ok(_) | Err(Misfit::TooLarge) => Err("is out of range".to_owned()),
            Err(Misfit::TooFine) => Err("is not a whole number".to_owned()),
        });
        self.take(flag, given, &remedy, parsed).unwrap_or(*range.start())
    }

    pub(super) fn percent(&mut self, flag: &'static str, given: &str) -> f64 {
        let number = Decimal::parse(given.trim().trim_end_matches('%'));
        let parsed = number.map(Decimal::as_f64).and_then(|value| match value {
            value if value <= 100.0 => Ok(value),
            _ => Err("is above 100".to_owned()),
        });
        self.take(flag, given, "give a percentage from 0 to 100", parsed).unwrap_or_default()
    }

    /// The size of a document in KB.
    pub(super) fn size(&mut self, flag: &'static str, given: &str) -> f64 {
        let (least, most) = (payload::MIN_BYTES as f64 / 1024.0, payload::MAX_BYTES as f64 / 1024.0);
        let remedy = format!("give a size in KB from {:.3} to {most:.0}", (least * 1_000.0).ceil() / 1_000.0);
        let parsed = parse_kb(given).and_then(|kb| match kb {
            kb if kb > most => Err("is larger than jsonb can hold".to_owned()),
            kb if kb < least => Err("is smaller than an empty document".to_owned()),
            kb => Ok(kb),
        });
        self.take(flag, given, &remedy, parsed).unwrap_or(1.0)
    }
}

/// Reads a size in KB of 1,024 bytes: `10`, `1.5`, or with a unit, `10k`, `10KB`, `2M`, `2MiB`, `1G`.
fn parse_kb(text: &str) -> Result<f64, String> {
    const UNITS: [(&str, f64); 3] = [("k", 1.0), ("m", 1_024.0), ("g", 1_048_576.0)];
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.strip_suffix("ib").or(lower.strip_suffix('b')).unwrap_or(&lower);
    let unit = UNITS.iter().find_map(|(unit, kb)| Some((number.strip_suffix(unit)?, *kb)));
    let (number, kb) = match unit {
        Some(unit) => unit,
        None if number.len() == lower.len() => (number, 1.0),
        // "10b": bytes are no unit here.
        None => return Err("is not a size".to_owned()),
    };
    Ok(Decimal::parse(number)?.as_f64() * kb)
}

/// Reads RFC 3339, or seconds since 1970 with up to nine decimals.
pub(super) fn parse_instant(text: &str) -> Result<u64, String> {
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

/// Reads `60`, `60s`, `500ms`, `5m`, `1h`, `1m30s`, `0.5s`, `1e3`.
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const MOST_NS: u64 = 366 * 86_400 * 1_000_000_000;
    let not_one = || "is not a duration".to_owned();
    let too_long = || "is longer than 366 days".to_owned();
    let mut rest = text.trim();
    if let Some(positive) = rest.strip_prefix('-') {
        return Err(parse_duration(positive).map_or_else(|_| not_one(), |_| "is below zero".to_owned()));
    }
    let (mut total_ns, mut is_first) = (0u64, true);
    while is_first || !rest.is_empty() {
        let (number, tail) = rest.split_at(number_length(rest));
        let unit_ends = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_ends);
        let unit_s = match unit {
            "ms" => None,
            "s" => Some(1),
            "m" | "min" => Some(60),
            "h" => Some(3_600),
            "" if tail.is_empty() && is_first => Some(1),
            _ => return Err(not_one()),
        };
        let number = Decimal::parse(number).map_err(|_| not_one())?;
        // Below a nanosecond nothing counts.
        let in_unit = number.scaled(if unit_s.is_none() { 6 } else { 9 });
        let in_unit = in_unit.or_else(|misfit| match misfit {
            Misfit::TooFine => Ok((number.as_f64() * if unit_s.is_none() { 1e6 } else { 1e9 }).round() as u64),
            Misfit::TooLarge => Err(too_long()),
        })?;
        let part_ns = in_unit.checked_mul(unit_s.unwrap_or(1)).ok_or_else(too_long)?;
        total_ns = total_ns.checked_add(part_ns).filter(|total| *total <= MOST_NS).ok_or_else(too_long)?;
        (rest, is_first) = (tail, false);
    }
    Ok(Duration::from_nanos(total_ns))
}

/// How many bytes of the text are its leading number. An `e` belongs to it only before an exponent's digits.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mantissa = bytes.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
    if !matches!(bytes.get(mantissa), Some(b'e' | b'E')) {
        return mantissa;
    }
    let sign = usize::from(matches!(bytes.get(mantissa + 1), Some(b'+' | b'-')));
    let exponent = digits((mantissa + 1 + sign).min(bytes.len()));
    if exponent == 0 { mantissa } else { mantissa + 1 + sign + exponent }
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
            (".5", 500),
            ("1e3", 1_000_000),
            ("1e3ms", 1_000),
            ("1.5e-1m", 9_000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "5x", "1m30", "1..5", "5 m", "NaN", "inf", "e3", "10k", "1es"] {
            assert_eq!(parse_duration(text), Err("is not a duration".to_owned()), "{text}");
        }
        for text in ["99999999999", "1e400", "8785h"] {
            assert_eq!(parse_duration(text), Err("is longer than 366 days".to_owned()), "{text}");
        }
        assert_eq!(parse_duration("-1s"), Err("is below zero".to_owned()));
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

    /// What is said to a value of an option.
    fn said(read: impl FnOnce(&mut Faults)) -> String {
        let mut faults = Faults::default();
        read(&mut faults);
        faults.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn numbers_that_cannot_be_are_called_what_they_are() {
        for (text, whole, percent, size) in [
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
                (whole, said(|faults| _ = faults.whole("--x", text, 1..=1_000))),
                (percent, said(|faults| _ = faults.percent("--x", text))),
                (size, said(|faults| _ = faults.size("--x", text))),
            ];
            for (expected, said) in all {
                let expected = match expected {
                    "" => String::new(),
                    problem => format!("--x: '{text}' {problem}; give "),
                };
                assert!(said.starts_with(&expected) && said.is_empty() == expected.is_empty(), "{text}: {said}");
            }
        }
        assert_eq!(Faults::default().whole("--x", "10k", 1..=10_000), 10_000);
        assert_eq!(Faults::default().whole("--x", "18446744073709551615", 0..=u64::MAX), u64::MAX);
    }

    #[test]
    fn sizes_take_units() {
        for (text, kb) in [
            ("10", 10.0),
            (".5", 0.5),
            ("1e3", 1_000.0),
            ("10k", 10.0),
            ("10KB", 10.0),
            ("10 KiB", 10.0),
            ("1.5M", 1_536.0),
            ("2mb", 2_048.0),
            ("1G", 1_048_576.0),
        ] {
            assert_eq!(parse_kb(text), Ok(kb), "{text}");
        }
        for text in ["10b", "10t", "k", "MB", ""] {
            assert!(parse_kb(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_flag_stands_once() {
        let told = |problem: &str| {
            Fault { flag: "--vms", problem: problem.to_owned(), remedy: "do so".to_owned() }.to_string()
        };
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
