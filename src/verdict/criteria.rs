//! What a run must reach: the limits that the user sets. Pure.

use crate::result::{Bounded, RunResult};
use crate::text::number::Decimal;

#[derive(Clone, Debug, PartialEq)]
pub struct Criteria {
    /// Minimum achieved rate, as % of the target, to pass.
    pub min_achieved_pct: f64,
    /// How many of the requests may fail at most, percent.
    pub max_error_rate_pct: f64,
    pub slos: Vec<Slo>,
}

/// A limit on one figure of the latency, such as `p99<20ms`.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    /// `min`, `avg`, `p50`, `p90`, `p95`, `p99`, `p99.9` or `max`
    pub figure: &'static str,
    /// Whether the limit itself is allowed.
    pub inclusive: bool,
    /// Milliseconds.
    pub limit_ms: f64,
}

impl Slo {
    /// A year. No request takes longer, so a greater limit is a slip.
    const MOST_MS: f64 = 366.0 * 86_400_000.0;
    pub const FIGURES: [&'static str; 7] = ["avg", "p50", "p90", "p95", "p99", "p99.9", "max"];

    /// Reads `FIGURE<LIMIT` or `FIGURE<=LIMIT`, where the limit has the unit `us`, `ms` or `s`.
    ///
    /// # Errors
    /// Says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (figure, limit) = text.split_once('<').ok_or("has no '<'")?;
        let (inclusive, limit) = limit.strip_prefix('=').map_or((false, limit), |rest| (true, rest));
        let wanted = figure.trim().to_ascii_lowercase();
        let wanted = if wanted == "mean" { "avg".to_owned() } else { wanted };
        let figure = *Self::FIGURES
            .iter()
            .find(|known| **known == wanted)
            .ok_or_else(|| format!("names no figure (one of {})", Self::FIGURES.join(", ")))?;
        let limit = limit.trim();
        let digits = limit.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit_ms = match limit[digits.len()..].to_ascii_lowercase().as_str() {
            "us" => 0.001,
            "ms" => 1.0,
            "s" => 1_000.0,
            _ => return Err("needs a limit with the unit us, ms or s".to_owned()),
        };
        let value = Decimal::parse(digits).map_err(|problem| format!("has a limit that {problem}"))?.as_f64();
        if value == 0.0 {
            return Err("has a limit of zero, which no request keeps".to_owned());
        }
        let limit_ms = value * unit_ms;
        if limit_ms > Self::MOST_MS {
            return Err("has a limit of more than a year".to_owned());
        }
        Ok(Self { figure, inclusive, limit_ms })
    }

    /// Why the limit is not kept; `None` where it is. A lower bound below the limit proves nothing, so it fails.
    pub(super) fn violation(&self, result: &RunResult) -> Option<String> {
        let Bounded { value, is_lower_bound } = result.latency_ms.figure(self.figure)?;
        let kept = value.is_some_and(|ms| ms < self.limit_ms || (self.inclusive && ms == self.limit_ms));
        if kept && !is_lower_bound {
            return None;
        }
        let found = match value {
            Some(ms) => format!("{}{ms:.2} ms", if is_lower_bound { "more than " } else { "" }),
            None => "unknown, for no request was answered".to_owned(),
        };
        let of_few = result.latency_ms.is_max(self.figure);
        let of_few =
            if of_few { format!(", the maximum of {} requests", result.latency_ms.requests) } else { String::new() };
        Some(format!("latency {} is {found}{of_few}, asked for {self}", self.figure))
    }

    /// What to say where there are too few requests for the figure.
    pub(super) fn of_few(&self, result: &RunResult) -> Option<String> {
        let latency = &result.latency_ms;
        latency.is_max(self.figure).then(|| {
            format!(
                "The latency {} of {} requests is their maximum, so the limit {self} is on that; a longer run has a {} of \
                 its own.",
                self.figure, latency.requests, self.figure
            )
        })
    }
}

impl std::fmt::Display for Slo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{} {} ms", self.figure, if self.inclusive { " ≤" } else { " <" }, self.limit_ms)
    }
}

/// As the text that [`Slo::parse`] reads.
impl serde::Serialize for Slo {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sign = if self.inclusive { "<=" } else { "<" };
        serializer.collect_str(&format_args!("{}{sign}{}ms", self.figure, self.limit_ms))
    }
}

impl<'de> serde::Deserialize<'de> for Slo {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
