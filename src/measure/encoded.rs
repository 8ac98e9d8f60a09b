//! A histogram as text: base64 of HdrHistogram's V2 format with DEFLATE, which its libraries for other languages read.
//! What another process wrote may be broken or hostile, and is refused without using much memory. Pure.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use super::counters::MAX_COUNT;
use super::durations::{Durations, MAX_VALUE_US, SIGNIFICANT_DIGITS};

/// Cookie of the V2 format with DEFLATE, and of what is inside it.
const V2_DEFLATE: u32 = 0x1c84_9314;
const V2: u32 = 0x1c84_9313;
/// Header of the inner format, bytes.
const HEADER: usize = 40;
/// The greatest histogram of ours has some 28,000 counts of at most nine bytes each.
const MAX_INFLATED: u64 = 300_000;
/// Base64 of something of that size that does not compress at all.
const MAX_BASE64: usize = 450_000;

/// An HDR histogram of microseconds, 1 … 86,400,000,000.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EncodedHistogram {
    /// HdrHistogram V2 with DEFLATE, as base64. Begins with `HISTFAAA`; empty text is an empty histogram.
    pub base64: String,
    /// Number of values longer than the histogram can hold (a day). They are not in `base64`.
    pub past_range: u64,
}

/// Why a histogram of a document cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistogramError {
    /// Not base64, or longer than any histogram of this program.
    #[error("it is not base64 of a histogram")]
    NotBase64,
    #[error("its bytes are no HdrHistogram (V2 with deflate)")]
    NotAHistogram,
    #[error("it has another range or precision than this program's")]
    UnlikeOurs,
    #[error("it holds more values than there can be")]
    TooMany,
}

impl EncodedHistogram {
    pub fn new(durations: &Durations) -> Self {
        Self { base64: encode(&durations.histogram), past_range: durations.past_range }
    }

    /// What was recorded, of a histogram with [`SIGNIFICANT_DIGITS`].
    pub fn decode(&self) -> Result<Durations, HistogramError> {
        self.decode_digits(SIGNIFICANT_DIGITS)
    }

    /// What was recorded, of one with `digits` significant digits.
    ///
    /// # Errors
    /// It is no such histogram of this program, or holds more than [`MAX_COUNT`] values.
    pub fn decode_digits(&self, digits: u8) -> Result<Durations, HistogramError> {
        let mut durations = Durations { past_range: self.past_range, ..Durations::with_digits(digits) };
        if !self.base64.is_empty() {
            durations.histogram = decode(&self.base64, digits)?;
        }
        if durations.count() > MAX_COUNT { Err(HistogramError::TooMany) } else { Ok(durations) }
    }
}

/// Base64 of a histogram.
pub fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    // Writing to memory cannot fail, and the range is one that the format can carry.
    if let Err(error) = V2DeflateSerializer::new().serialize(histogram, &mut bytes) {
        unreachable!("a histogram in memory: {error}");
    }
    STANDARD.encode(bytes)
}

/// The library takes the lengths in the header at their word, and would allocate gigabytes for a forged one, so they are
/// checked before it sees them.
fn decode(base64: &str, digits: u8) -> Result<Histogram<u64>, HistogramError> {
    if base64.len() > MAX_BASE64 {
        return Err(HistogramError::NotBase64);
    }
    let bytes = STANDARD.decode(base64.trim()).map_err(|_| HistogramError::NotBase64)?;
    if word(&bytes, 0) != Some(V2_DEFLATE) {
        return Err(HistogramError::NotAHistogram);
    }
    let mut inner = Vec::new();
    let compressed = bytes.get(8..).unwrap_or_default();
    ZlibDecoder::new(compressed)
        .take(MAX_INFLATED)
        .read_to_end(&mut inner)
        .map_err(|_| HistogramError::NotAHistogram)?;
    let payload = word(&inner, 4).ok_or(HistogramError::NotAHistogram)? as usize;
    if word(&inner, 0) != Some(V2) || inner.len() != HEADER + payload {
        return Err(HistogramError::NotAHistogram);
    }
    let bounds = [12, 16, 20, 24, 28].map(|at| word(&inner, at).unwrap_or_default());
    let [found_digits, low_high, low, high_high, high] = bounds.map(u64::from);
    if (found_digits, low_high << 32 | low, high_high << 32 | high) != (u64::from(digits), 1, MAX_VALUE_US) {
        return Err(HistogramError::UnlikeOurs);
    }
    Deserializer::new().deserialize(&mut inner.as_slice()).map_err(|_| HistogramError::NotAHistogram)
}

/// The big-endian number of four bytes at `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::durations::COARSE_DIGITS;
    use proptest::prelude::*;

    fn recorded(ns: impl IntoIterator<Item = u64>) -> Durations {
        let mut durations = Durations::default();
        ns.into_iter().for_each(|ns| durations.record_ns(ns));
        durations
    }

    #[test]
    fn histograms_are_written_in_the_format_that_others_read() {
        assert!(encode(&recorded([1_000_000, 5_000_000]).histogram).starts_with("HISTFAAA"));
    }

    #[test]
    fn foreign_ranges_and_rubbish_are_refused() {
        let mut other = Histogram::<u64>::new_with_bounds(1, 1_000, 3).unwrap();
        other.record(5).unwrap();
        assert_eq!(decode(&encode(&other), 3), Err(HistogramError::UnlikeOurs));
        let ours = EncodedHistogram::new(&Durations::default());
        assert!(ours.decode().is_ok());
        assert_eq!(ours.decode_digits(COARSE_DIGITS), Err(HistogramError::UnlikeOurs));
        assert_eq!(decode("HIST", 3), Err(HistogramError::NotAHistogram));
        assert_eq!(decode("§", 3), Err(HistogramError::NotBase64));
        assert_eq!(decode(&"A".repeat(MAX_BASE64 + 1), 3), Err(HistogramError::NotBase64));
    }

    #[test]
    fn more_values_than_there_can_be_are_refused() {
        let mut durations = Durations { past_range: MAX_COUNT - 1, ..Durations::default() };
        durations.record_ns(1);
        assert_eq!(EncodedHistogram::new(&durations).decode().as_ref(), Ok(&durations));
        durations.record_ns(1);
        assert_eq!(EncodedHistogram::new(&durations).decode(), Err(HistogramError::TooMany));
        assert!(EncodedHistogram { base64: String::new(), past_range: u64::MAX }.decode().is_err());
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(values in prop::collection::vec(0u64..90_000_000_000_000, 0..100), past_range in 0..MAX_COUNT / 2) {
            let durations = Durations { past_range, ..Durations::default() };
            let mut fine = recorded(values);
            fine.add(&durations);
            prop_assert_eq!(&EncodedHistogram::new(&fine).decode().unwrap(), &fine);
            prop_assert_eq!(EncodedHistogram::new(&fine.coarse()).decode_digits(COARSE_DIGITS).unwrap(), fine.coarse());
        }

        #[test]
        fn changed_bytes_never_do_harm(at in 0usize..60, byte: u8) {
            let durations = recorded((0..50).map(|i| i * 1_000_000));
            let mut bytes = STANDARD.decode(EncodedHistogram::new(&durations).base64).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = decode(&STANDARD.encode(bytes), 3);
        }
    }
}
