//! Reading histograms that another process wrote, which may be broken or hostile. Pure.

use std::io::Read;

use base64::Engine;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;

use super::HistogramError;
use crate::measure::recorder::{Durations, MAX_VALUE_US, SIGNIFICANT_DIGITS, coarse_histogram};

/// Cookie of the V2 format with deflate, and of what is inside it.
const V2_DEFLATE: u32 = 0x1c84_9314;
const V2: u32 = 0x1c84_9313;
/// Header of the inner format, bytes.
const HEADER: usize = 40;
/// The greatest histogram of ours has some 28,000 counts of at most nine bytes each.
const MAX_INFLATED: u64 = 300_000;
/// Base64 of something of that size that does not compress at all.
const MAX_BASE64: usize = 450_000;

/// Three significant digits.
pub(super) fn durations(base64: &str, past_range: u64) -> Result<Durations, HistogramError> {
    let mut durations = Durations { past_range, ..Durations::default() };
    if !base64.is_empty() {
        durations.histogram = histogram(base64, SIGNIFICANT_DIGITS)?;
    }
    Ok(durations)
}

/// With as many significant digits as said.
///
/// The library takes the lengths in the header at their word, and would allocate gigabytes for a forged one, so they are
/// checked before it sees them.
pub(super) fn histogram(base64: &str, digits: u8) -> Result<Histogram<u64>, HistogramError> {
    if base64.is_empty() && digits != SIGNIFICANT_DIGITS {
        return Ok(coarse_histogram());
    }
    if base64.len() > MAX_BASE64 {
        return Err(HistogramError::NotBase64);
    }
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(base64.trim()).map_err(|_| HistogramError::NotBase64)?;
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
    use crate::result::EncodedHistogram;
    use proptest::prelude::*;

    #[test]
    fn foreign_ranges_and_rubbish_are_refused() {
        let mut other = Histogram::<u64>::new_with_bounds(1, 1_000, 3).unwrap();
        other.record(5).unwrap();
        assert_eq!(histogram(&crate::result::encode(&other), 3), Err(HistogramError::UnlikeOurs));
        let ours = EncodedHistogram::new(&Durations::default()).base64;
        assert!(histogram(&ours, 3).is_ok());
        assert_eq!(histogram(&ours, 2), Err(HistogramError::UnlikeOurs));
        assert_eq!(histogram("HIST", 3), Err(HistogramError::NotAHistogram));
        assert_eq!(histogram("§", 3), Err(HistogramError::NotBase64));
        assert_eq!(histogram(&"A".repeat(MAX_BASE64 + 1), 3), Err(HistogramError::NotBase64));
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(values in prop::collection::vec(0u64..90_000_000_000_000, 0..100), past_range: u64) {
            let mut durations = Durations { past_range: past_range / 2, ..Durations::default() };
            values.iter().for_each(|ns| durations.record_ns(*ns));
            for encoded in [EncodedHistogram::new(&durations), EncodedHistogram::or_empty(&durations)] {
                prop_assert_eq!(&encoded.decode().unwrap(), &durations);
            }
            prop_assert_eq!(EncodedHistogram::coarse(&durations).decode_coarse().unwrap(), durations.coarse());
        }

        #[test]
        fn changed_bytes_never_do_harm(at in 0usize..60, byte: u8) {
            let mut durations = Durations::default();
            (0..50).for_each(|i| durations.record_ns(i * 1_000_000));
            let engine = base64::engine::general_purpose::STANDARD;
            let mut bytes = engine.decode(EncodedHistogram::new(&durations).base64).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = histogram(&engine.encode(bytes), 3);
        }
    }
}
