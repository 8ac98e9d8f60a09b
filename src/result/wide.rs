//! Integers above 2^53 as text: readers that keep numbers as f64 (JavaScript, jq) would change their last digits. Pure.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

/// Writes the number as a string.
pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// Reads it from a string, or from a number, as older documents have it.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Wide)
}

struct Wide;

impl Visitor<'_> for Wide {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, as a string or as a number that no program has rounded")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        text.parse().map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, to_string};

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Holder {
        #[serde(with = "super")]
        number: u64,
    }

    #[test]
    fn a_wide_number_is_written_as_text_and_read_as_either() {
        let text = to_string(&Holder { number: u64::MAX }).unwrap();
        assert_eq!(text, r#"{"number":"18446744073709551615"}"#);
        for text in [&text, r#"{"number":18446744073709551615}"#] {
            assert_eq!(from_str::<Holder>(text).unwrap().number, u64::MAX);
        }
        for text in [r#"{"number":1.8446744073709552e19}"#, r#"{"number":-1}"#, r#"{"number":"1x"}"#] {
            assert!(from_str::<Holder>(text).is_err(), "{text}");
        }
    }
}
