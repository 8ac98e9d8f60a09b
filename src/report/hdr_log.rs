//! The interval log of `--hdr-log`: one line a second, in version 1.3 of HdrHistogram's log format.
//!
//! Read by the HdrHistogram project's log processors and plotters. Timestamps are seconds since T0, which the header
//! names; histograms hold the latency in microseconds; the column of maxima is in milliseconds.
//!
//! hdrhistogram's own `IntervalLogWriter` borrows its file for as long as it lives, so that no struct can hold both, and
//! writes neither the version nor the line with the names of the columns.

use std::io::{self, Write};

use super::exporter::Exporter;
use crate::measure::encoded::encode;
use crate::measure::recorder::Interval;
use crate::text::words::rfc3339;

pub struct HdrLog;

impl Exporter for HdrLog {
    fn begin(&mut self, out: &mut dyn Write, t0_unix_ns: u64) -> io::Result<()> {
        let (seconds, millis) = (t0_unix_ns / 1_000_000_000, t0_unix_ns / 1_000_000 % 1_000);
        let header = format!(
            "#[Latency in microseconds, from the time a request was due; written by postgres_load_test]\n\
             #[Histogram log format version 1.3]\n\
             #[StartTime: {seconds}.{millis:03} (seconds since epoch), {}]\n\
             \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
            rfc3339(t0_unix_ns)
        );
        out.write_all(header.as_bytes())
    }

    fn second(&mut self, out: &mut dyn Write, index: u64, interval: &Interval) -> io::Result<()> {
        let histogram = &interval.latency.histogram;
        let max_ms = histogram.max() as f64 / 1_000.0;
        out.write_all(format!("{index}.000,1.000,{max_ms:.3},{}\n", encode(histogram)).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_documented_form() {
        let mut log = Vec::new();
        HdrLog.begin(&mut log, 1_700_000_000_250_000_000).unwrap();
        let mut interval = Interval::default();
        interval.latency.record_ns(2_500_000);
        HdrLog.second(&mut log, 0, &interval).unwrap();
        let text = String::from_utf8(log).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "#[Histogram log format version 1.3]");
        assert!(lines[2].starts_with("#[StartTime: 1700000000.250 (seconds since epoch), 2023-11-14T22:13:20"));
        assert!(lines[4].starts_with("0.000,1.000,2.50"), "{}", lines[4]);
        assert!(lines[4].contains(",HISTFAAA"));
    }
}
