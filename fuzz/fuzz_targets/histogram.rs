//! Histograms from other VMs: the bytes before they are compressed, which a fuzzer could not guess.
#![no_main]

use std::io::Write;

use base64::Engine;
use libfuzzer_sys::fuzz_target;
use postgres_load_test::testing::Durations;
use postgres_load_test::testing::EncodedHistogram;

fuzz_target!(|input: (u64, &[u8])| {
    let (past_range, inner) = input;
    let mut deflated = vec![0x1c, 0x84, 0x93, 0x14, 0, 0, 0, 0];
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    if encoder.write_all(inner).is_err() {
        return;
    }
    deflated.extend(encoder.finish().unwrap_or_default());
    let base64 = base64::engine::general_purpose::STANDARD.encode(deflated);
    let encoded = EncodedHistogram { base64, past_range };
    _ = encoded.decode_digits(2);
    if let Ok(durations) = encoded.decode() {
        let mut sum = Durations::default();
        sum.add(&durations);
        sum.add(&durations);
        _ = sum.coarse();
        _ = durations.histogram.value_at_quantile(0.99);
        _ = EncodedHistogram::new(&durations).decode();
    }
});
