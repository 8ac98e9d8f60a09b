//! One request, encoded: a buffer that is used again and again. Pure.
//!
//! Documents are not copied into it: it only notes where they belong, and they go from the pool to the socket.

use std::io::IoSlice;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::Type;

use crate::workload::payload::{Cut, HEAD, Pool, TAIL};

/// A part with four documents has bytes before, between and behind them.
pub const MAX_SLICES: usize = 9;

/// One request, encoded. Used from slot to slot, so that nothing is allocated while the test runs.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: BytesMut,
    splices: Vec<Splice>,
    parts: Vec<Part>,
    /// Bytes of the pool in the part that is being encoded.
    spliced: usize,
    commit_at: Option<usize>,
}

/// A content of the pool that belongs between the bytes of a batch.
#[derive(Clone, Copy, Debug)]
struct Splice {
    /// How many of the batch's bytes come before it.
    at: usize,
    cut: Cut,
}

/// Where a part ends.
#[derive(Clone, Copy, Debug)]
struct Part {
    bytes_end: usize,
    splices_end: usize,
    /// Bytes in all.
    length: usize,
    /// How many bytes of it come before COMMIT.
    commit_at: Option<usize>,
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.splices.clear();
        self.parts.clear();
        self.spliced = 0;
        self.commit_at = None;
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn part_start(&self) -> usize {
        self.parts.last().map_or(0, |part| part.bytes_end)
    }

    fn part_length(&self) -> usize {
        self.bytes.len() - self.part_start() + self.spliced
    }

    fn splice(&mut self, cut: Cut) {
        self.splices.push(Splice { at: self.bytes.len(), cut });
        self.spliced += cut.length;
    }

    pub(super) fn note_commit(&mut self) {
        self.commit_at = Some(self.part_length());
    }

    pub(super) fn end_part(&mut self, sync: &[u8]) {
        self.bytes.extend_from_slice(sync);
        let (bytes_end, splices_end, length) = (self.bytes.len(), self.splices.len(), self.part_length());
        self.parts.push(Part { bytes_end, splices_end, length, commit_at: self.commit_at });
        self.spliced = 0;
    }

    /// What is sent in one round trip, counted from 0.
    pub fn outgoing<'a>(&'a self, part: usize, pool: &'a Pool) -> Outgoing<'a> {
        let Part { bytes_end, splices_end, length, commit_at } = self.parts[part];
        let before = part.checked_sub(1).map(|before| self.parts[before]);
        let (bytes_start, splices_start) = before.map_or((0, 0), |before| (before.bytes_end, before.splices_end));
        Outgoing {
            bytes: &self.bytes[bytes_start..bytes_end],
            bytes_start,
            splices: &self.splices[splices_start..splices_end],
            pool: Some(pool),
            length,
            commit_at,
        }
    }
}

/// Bytes to be sent, from the batch and from the pool in turns.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    bytes: &'a [u8],
    /// Where they begin in the batch, from where splices are counted.
    bytes_start: usize,
    splices: &'a [Splice],
    pool: Option<&'a Pool>,
    length: usize,
    commit_at: Option<usize>,
}

impl<'a> Outgoing<'a> {
    /// Bytes without any from the pool.
    pub fn plain(bytes: &'a [u8]) -> Self {
        Self { bytes, bytes_start: 0, splices: &[], pool: None, length: bytes.len(), commit_at: None }
    }

    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether the server may have got COMMIT once so many bytes were sent.
    pub fn may_commit_after(&self, sent: usize) -> bool {
        self.commit_at.is_some_and(|commit_at| sent > commit_at)
    }

    /// Fills `slices` with all bytes but the first `sent`; returns how many slices they are.
    pub fn slices(&self, sent: usize, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let (mut filled, mut skip, mut from) = (0, sent, 0);
        let mut push = |piece: &'a [u8]| {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            if skipped < piece.len() {
                slices[filled] = IoSlice::new(&piece[skipped..]);
                filled += 1;
            }
        };
        for Splice { at, cut } in self.splices {
            let to = at - self.bytes_start;
            push(&self.bytes[from..to]);
            if let Some(pool) = self.pool {
                push(pool.content(*cut));
            }
            from = to;
        }
        push(&self.bytes[from..]);
        filled
    }
}

/// A statement and the types of its parameters.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) types: Vec<Type>,
}

/// A Bind message that is being encoded: the parameters in order.
pub(super) struct Bind<'a> {
    batch: &'a mut Batch,
    starts_at: usize,
    spliced_before: usize,
}

impl<'a> Bind<'a> {
    /// `head` has all up to the first parameter; Bind itself starts at `bind_at` in it.
    pub(super) fn begin(batch: &'a mut Batch, head: &[u8], bind_at: usize) -> Self {
        let (starts_at, spliced_before) = (batch.bytes.len() + bind_at, batch.spliced);
        batch.bytes.extend_from_slice(head);
        Self { batch, starts_at, spliced_before }
    }

    fn parameter(&mut self, value: &[u8]) {
        self.batch.bytes.put_i32(value.len() as i32);
        self.batch.bytes.put_slice(value);
    }

    pub(super) fn uuid(&mut self, id: &uuid::Uuid) {
        self.parameter(id.as_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.parameter(text.as_bytes());
    }

    pub(super) fn int4(&mut self, number: i32) {
        self.parameter(&number.to_be_bytes());
    }

    pub(super) fn int8(&mut self, number: i64) {
        self.parameter(&number.to_be_bytes());
    }

    /// In binary, jsonb is one byte for the version, 1, and then the text (`jsonb_recv` in PostgreSQL's source).
    pub(super) fn jsonb(&mut self, text: &str) {
        self.batch.bytes.put_i32(text.len() as i32 + 1);
        self.batch.bytes.put_u8(1);
        self.batch.bytes.put_slice(text.as_bytes());
    }

    pub(super) fn jsonb_document(&mut self, cut: Cut) {
        self.batch.bytes.put_i32(cut.document_length() as i32 + 1);
        self.batch.bytes.put_u8(1);
        self.document(cut);
    }

    pub(super) fn text_document(&mut self, cut: Cut) {
        self.batch.bytes.put_i32(cut.document_length() as i32);
        self.document(cut);
    }

    fn document(&mut self, cut: Cut) {
        self.batch.bytes.put_slice(HEAD.as_bytes());
        self.batch.splice(cut);
        self.batch.bytes.put_slice(TAIL.as_bytes());
    }

    pub(super) fn end(self) {
        let Self { batch, starts_at, spliced_before } = self;
        batch.bytes.put_u16(0); // results in text; there are none
        let length = batch.bytes.len() - starts_at - 1 + batch.spliced - spliced_before;
        batch.bytes[starts_at + 1..starts_at + 5].copy_from_slice(&(length as i32).to_be_bytes());
    }
}
