//! The files that `--vms @FILE` names, read from disk.

use std::io::{self, Read};
use std::path::Path;

/// The longest list of hosts that is read, bytes: what is longer is none, such as a disk.
const MOST_LIST_BYTES: u64 = 16 << 20;

/// The text of a list of hosts.
///
/// # Errors
/// It cannot be read, or is no list.
pub fn read_list(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MOST_LIST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_LIST_BYTES { Err(io::Error::other("it is longer than 16 MB")) } else { Ok(text) }
}
