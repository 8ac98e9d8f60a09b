//! Row IDs: UUIDs of version 7 in which all rows of a process share some bits, so that they can be counted. Pure.

use std::ops::Range;

use uuid::Uuid;

use crate::random::SplitMix64;

/// Where the tag of a process lies in the ids of its rows.
pub(super) const TAG_BYTES: Range<usize> = 9..13;

/// A UUID of version 7 (RFC 9562, section 5.7): 48 bits of time, 74 of chance.
pub(super) fn uuid_v7(unix_ms: u64, random: &mut SplitMix64) -> Uuid {
    uuid_of(unix_ms, chance(random))
}

/// The same with 32 of the bits of chance in common with all rows of the process.
pub(super) fn row_id(unix_ms: u64, tag: [u8; 4], random: &mut SplitMix64) -> Uuid {
    let mut bits = chance(random);
    // The time and the version come before.
    bits[TAG_BYTES.start - 6..TAG_BYTES.end - 6].copy_from_slice(&tag);
    uuid_of(unix_ms, bits)
}

fn chance(random: &mut SplitMix64) -> [u8; 10] {
    let mut bits = [0u8; 10];
    bits[..8].copy_from_slice(&random.next_u64().to_be_bytes());
    bits[8..].copy_from_slice(&random.next_u64().to_be_bytes()[..2]);
    bits
}

fn uuid_of(unix_ms: u64, bits: [u8; 10]) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(unix_ms, &bits).into_uuid()
}

/// SQL for [`super::table::Count`]: the rows of one run, told by the column `id`.
pub(super) fn count_sql(table: &str, id: &str) -> String {
    format!(
        "SELECT count(*) FROM {table} WHERE {id} BETWEEN $1::uuid AND $2::uuid \
         AND substring(uuid_send({id}) from {} for {}) = $3",
        TAG_BYTES.start + 1,
        TAG_BYTES.len()
    )
}
