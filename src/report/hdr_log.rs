//! The interval log of `--hdr-log`: one line a second, in version 1.3 of HdrHistogram's log format.
//!
//! Read by the HdrHistogram project's log processors and plotters. Timestamps are seconds since T0, which the header
//! names; histograms hold the latency in microseconds; the column of maxima is in milliseconds.

use std::io::{self, Write};

use crate::measure::encoded::encode;
use crate::measure::recorder::Interval;
use crate::text::words::rfc3339;

/// Writes an interval log, line by line.
#[derive(Debug)]
pub struct HdrLog<W> {
    out: W,
}

impl<W: Write> HdrLog<W> {
    /// Writes the header. `started_unix_ns` is T0.
    ///
    /// # Errors
    /// The writer's.
    pub fn begin(mut out: W, started_unix_ns: u64) -> io::Result<Self> {
        let (seconds, millis) = (started_unix_ns / 1_000_000_000, started_unix_ns / 1_000_000 % 1_000);
        writeln!(out, "#[Latency in microseconds, from the time a request was due; written by postgres_load_test]")?;
        writeln!(out, "#[Histogram log format version 1.3]")?;
        writeln!(out, "#[StartTime: {seconds}.{millis:03} (seconds since epoch), {}]", rfc3339(started_unix_ns))?;
        writeln!(out, r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#)?;
        out.flush()?;
        Ok(Self { out })
    }

    /// Writes second `index` since T0.
    ///
    /// # Errors
    /// The writer's.
    pub fn second(&mut self, index: u64, interval: &Interval) -> io::Result<()> {
        let max_ms = interval.latency.histogram.max() as f64 / 1_000.0;
        writeln!(self.out, "{index}.000,1.000,{max_ms:.3},{}", encode(&interval.latency.histogram))?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_documented_form() {
        let mut log = Vec::new();
        let mut writer = HdrLog::begin(&mut log, 1_700_000_000_250_000_000).unwrap();
        let mut interval = Interval::default();
        interval.latency.record_ns(2_500_000);
        writer.second(0, &interval).unwrap();
        let text = String::from_utf8(log).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "#[Histogram log format version 1.3]");
        assert!(lines[2].starts_with("#[StartTime: 1700000000.250 (seconds since epoch), 2023-11-14T22:13:20"));
        assert!(lines[4].starts_with("0.000,1.000,2.50"), "{}", lines[4]);
        assert!(lines[4].contains(",HISTFAAA"));
    }
}
