//! What came from the server, taken apart into messages.

use std::ops::Range;

use crate::measure::outcome::Failure;

/// Answers without rows are some hundred bytes.
const INPUT_BYTES: usize = 4096;

/// No message without rows is longer, whatever an error has to say.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Types of messages from the server ("Message Formats" in PostgreSQL's documentation).
pub(super) mod tag {
    pub const BIND_COMPLETE: u8 = b'2';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const READY_FOR_QUERY: u8 = b'Z';
}

/// Bytes that were read, and are being taken apart.
pub(super) struct Input {
    buffer: Vec<u8>,
    /// Where the next message begins.
    start: usize,
    /// How many bytes of the buffer have been read into.
    filled: usize,
}

impl Default for Input {
    fn default() -> Self {
        Self { buffer: vec![0; INPUT_BYTES], start: 0, filled: 0 }
    }
}

impl Input {
    /// The next whole message that is an answer: its type, and where its body lies.
    pub(super) fn next(&mut self) -> Result<Option<(u8, Range<usize>)>, Failure> {
        loop {
            let Some([tag, length @ ..]) = self.buffer[self.start..self.filled].first_chunk::<5>().copied() else {
                return Ok(None);
            };
            let length = u32::from_be_bytes(length) as usize;
            if !(4..=MAX_MESSAGE_BYTES).contains(&length) {
                return Err(Failure::protocol(format!("the server sent a message of {length} bytes")));
            }
            let (body, end) = (self.start + 5, self.start + 1 + length);
            if end > self.filled {
                return Ok(None);
            }
            self.start = end;
            // May come at any time.
            if !matches!(tag, tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE | tag::PARAMETER_STATUS) {
                return Ok(Some((tag, body..end)));
            }
        }
    }

    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// So many bytes of the space were read into.
    pub(super) fn add(&mut self, count: usize) {
        self.filled += count;
    }

    /// Room to read into. There is always some.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.start == self.filled {
            (self.start, self.filled) = (0, 0);
            self.buffer.truncate(INPUT_BYTES);
        } else if self.filled == self.buffer.len() {
            self.buffer.copy_within(self.start..self.filled, 0);
            (self.start, self.filled) = (0, self.filled - self.start);
            if self.filled == self.buffer.len() {
                // One message longer than all of it; `next` sees to it that it is not too long.
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        &mut self.buffer[self.filled..]
    }
}
