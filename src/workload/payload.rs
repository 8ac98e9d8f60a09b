//! The documents: `{"messages":[{"role":"user","content":"…"}]}` around random letters, digits and spaces.
//!
//! All contents are slices of one pool of random text, cut at an offset that depends on (seed, slot, column). That
//! makes millions of different documents, and none of them is ever copied but by the system on its way to the network.
//! Within one document nothing repeats, so that TOAST cannot compress it. Sizes are in bytes; 1 KB is 1,024 bytes, as in the options.

use bytes::Bytes;

use crate::random::SplitMix64;

/// What stands before the content of every document.
pub const HEAD: &str = r#"{"messages":[{"role":"user","content":""#;
pub const TAIL: &str = r#""}]}"#;

/// The least size of a document: one with no content.
pub const MIN_BYTES: usize = HEAD.len() + TAIL.len();

/// The greatest size of a document: jsonb keeps the length of a string in 28 bits.
pub const MAX_BYTES: usize = (1 << 28) - 1024;

/// How much longer than the largest document the pool is: as many different documents of that size can be cut.
const SPARE_BYTES: usize = 1 << 20;

const ALPHABET: &[u8; 63] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 ";

/// The size in bytes of a document whose size is given in KB of 1,024 bytes.
pub fn bytes_of_kb(kb: f64) -> usize {
    (kb * 1024.0).round() as usize
}

/// Random text from which all documents of a run are cut. Shared by all threads.
#[derive(Clone)]
pub struct Pool {
    text: Bytes,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} bytes)", self.text.len())
    }
}

impl Pool {
    /// Bytes of a pool for documents of up to `largest` bytes.
    pub fn bytes_for(largest: usize) -> usize {
        largest.saturating_sub(MIN_BYTES) + SPARE_BYTES
    }

    /// The pool of a run: a function of the seed and of the size of the largest document, in bytes.
    pub fn generate(seed: u64, largest: usize) -> Self {
        let length = Self::bytes_for(largest);
        let mut random = SplitMix64::new(seed ^ 0x9A71_0AD5);
        let mut text = Vec::with_capacity(length + 8);
        while text.len() < length {
            let bits = random.next_u64().to_le_bytes();
            text.extend(bits.map(|byte| ALPHABET[usize::from(byte) * ALPHABET.len() / 256]));
        }
        text.truncate(length);
        Self { text: text.into() }
    }

    /// The whole text, ASCII.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Its length as a SQL integer: with the seed the key under which the database keeps it.
    pub fn sql_length(&self) -> i32 {
        i32::try_from(self.text.len()).unwrap_or(i32::MAX)
    }

    /// A document of exactly `size` bytes (at least [`MIN_BYTES`]), cut where `random` says.
    pub fn cut(&self, size: usize, random: &mut SplitMix64) -> Cut {
        let length = size.saturating_sub(MIN_BYTES);
        let offset = random.below((self.text.len() - length + 1) as u64) as usize;
        Cut { offset, length }
    }

    pub fn content(&self, cut: Cut) -> &[u8] {
        &self.text[cut.offset..cut.offset + cut.length]
    }
}

/// Where a document's content lies in the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    pub offset: usize,
    pub length: usize,
}

impl Cut {
    /// The offset as SQL's `substr` counts it, from 1.
    pub fn sql_offset(self) -> i32 {
        i32::try_from(self.offset + 1).unwrap_or(i32::MAX)
    }

    /// Bytes of the whole document.
    pub fn document_length(self) -> usize {
        MIN_BYTES + self.length
    }

    /// The length as a SQL integer.
    pub fn sql_length(self) -> i32 {
        i32::try_from(self.length).unwrap_or(i32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn document(pool: &Pool, cut: Cut) -> Vec<u8> {
        [HEAD.as_bytes(), pool.content(cut), TAIL.as_bytes()].concat()
    }

    #[test]
    fn the_pool_is_a_function_of_the_seed() {
        assert_eq!(Pool::generate(1, 9_000).text(), Pool::generate(1, 9_000).text());
        assert_ne!(Pool::generate(1, 9_000).text(), Pool::generate(2, 9_000).text());
    }

    #[test]
    fn a_document_does_not_compress() {
        use std::io::Write;
        let pool = Pool::generate(1, 1 << 20);
        let document = document(&pool, pool.cut(1 << 20, &mut SplitMix64::new(5)));
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        deflate.write_all(&document).unwrap();
        // 63 symbols carry 5.98 of 8 bits; a matcher without an entropy coder (pglz, lz4) finds nothing at all.
        let ratio = deflate.finish().unwrap().len() as f64 / document.len() as f64;
        assert!(ratio > 0.74, "compressed to {ratio}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_document_is_valid_json_of_exactly_the_asked_size(size in MIN_BYTES..20_000usize, seed: u64, slot: u64) {
            let pool = Pool::generate(seed, 20_000);
            let cut = pool.cut(size, &mut SplitMix64::for_slot(seed, slot));
            let document = document(&pool, cut);
            prop_assert_eq!((document.len(), cut.document_length()), (size, size));
            let json: serde_json::Value = serde_json::from_slice(&document).unwrap();
            prop_assert_eq!(json["messages"][0]["content"].as_str().unwrap().len(), size - MIN_BYTES);
        }
    }
}
