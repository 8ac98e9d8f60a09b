//! Sizes of documents as people type them. Pure.

use super::payload;
use crate::text::number::Decimal;

/// The size of a document in KB of 1,024 bytes: `10`, `1.5`, or with a unit, `10k`, `10KB`, `2M`, `2MiB`, `1G`.
pub(crate) fn size_kb(text: &str) -> Result<f64, String> {
    let (least, most) = (payload::MIN_BYTES as f64 / 1024.0, payload::MAX_BYTES as f64 / 1024.0);
    let within = parse_kb(text).and_then(|kb| match kb {
        kb if kb > most => Err("is larger than jsonb can hold".to_owned()),
        kb if kb < least => Err("is smaller than an empty document".to_owned()),
        kb => Ok(kb),
    });
    let least = (least * 1_000.0).ceil() / 1_000.0;
    within.map_err(|problem| format!("{problem}; give a size in KB from {least:.3} to {most:.0}"))
}

fn parse_kb(text: &str) -> Result<f64, String> {
    const UNITS: [(&str, f64); 3] = [("k", 1.0), ("m", 1_024.0), ("g", 1_048_576.0)];
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.strip_suffix("ib").or(lower.strip_suffix('b')).unwrap_or(&lower);
    let unit = UNITS.iter().find_map(|(unit, kb)| Some((number.strip_suffix(unit)?, *kb)));
    let (number, kb) = match unit {
        Some(unit) => unit,
        None if number.len() == lower.len() => (number, 1.0),
        // "10b": bytes are not a unit here.
        None => return Err("is not a size".to_owned()),
    };
    Ok(Decimal::parse(number)?.as_f64() * kb)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
