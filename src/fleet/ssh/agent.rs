//! ssh's agent on this machine: does it answer, and which keys does it hold? ssh itself waits for it without a limit.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// For a list of keys, which needs no confirmation by the user.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// Longer than any list.
const LONGEST_ANSWER_BYTES: u32 = 1 << 20;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// The public keys that it holds, in ssh's encoding.
    Held(Vec<Vec<u8>>),
    /// It takes connections and does not answer.
    Stuck,
    /// There is none, or none that can be understood.
    None,
}

pub(super) async fn keys(socket: &Path) -> Keys {
    let asking = async {
        let mut stream = UnixStream::connect(socket).await.ok()?;
        stream.write_all(&[0, 0, 0, 1, REQUEST_IDENTITIES]).await.ok()?;
        let length = stream.read_u32().await.ok().filter(|length| *length <= LONGEST_ANSWER_BYTES)?;
        let mut answer = vec![0; usize::try_from(length).ok()?];
        stream.read_exact(&mut answer).await.ok()?;
        blobs(&answer)
    };
    match timeout(ANSWERS_WITHIN, asking).await {
        Ok(Some(held)) => Keys::Held(held),
        Ok(None) => Keys::None,
        Err(_) => Keys::Stuck,
    }
}

/// The public keys in an answer: after the type and their number, each with a comment.
fn blobs(answer: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut rest = answer.strip_prefix(&[IDENTITIES_ANSWER])?.get(4..)?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        found.push(take(&mut rest)?.to_vec());
        take(&mut rest)?;
    }
    Some(found)
}

/// A string of the SSH protocol: its length in four bytes, then itself.
pub(super) fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (text, rest) = rest.split_at_checked(length)?;
    *from = rest;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_or_refused() {
        let answer = b"\x0c\0\0\0\x02\0\0\0\x03key\0\0\0\x01c\0\0\0\x02k2\0\0\0\0";
        assert_eq!(blobs(answer), Some(vec![b"key".to_vec(), b"k2".to_vec()]));
        assert_eq!(blobs(b"\x0c\0\0\0\0"), Some(vec![]));
        for wrong in [&b""[..], b"\x05", b"\x0c\0", b"\x0c\0\0\0\x01\0\0\0\x09key", b"\x0c\0\0\0\x01\xff\xff\xff\xffx"]
        {
            assert_eq!(blobs(wrong), None, "{wrong:?}");
        }
    }
}
