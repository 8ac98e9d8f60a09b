//! The files that `--vms @FILE` names, read from disk.

use std::io::{self, Read};
use std::path::Path;

use crate::cli::handover;

/// The longest list of hosts that is read, bytes: what is longer is none, such as a disk.
const MOST_LIST_BYTES: u64 = 16 << 20;

/// The text of a list of hosts.
///
/// # Errors
/// It cannot be read, or is no list.
pub fn read_list(path: &Path) -> io::Result<String> {
    let is_input = ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|input| path == Path::new(input));
    if is_input && handover::has_replaced_input() {
        return Err(io::Error::other(
            "standard input cannot be read where a connection string or PGPASSWORD is given; use a file, or @<(...)",
        ));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(MOST_LIST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_LIST_BYTES { Err(io::Error::other("it is longer than 16 MB")) } else { Ok(text) }
}
