//! A chunk on its way through with some of its bytes replaced.
//!
//! **Owns:** which bytes leave as they are and which were written instead, in order.
//! **Does not own:** what is replaced (`rewrite`, `relay`).
//!
//! **Invariant:** a chunk in which nothing is replaced is sent without a copy. Otherwise short runs
//! are copied next to what replaces their neighbours, since each piece costs the kernel more than its
//! copy; long runs leave as slices of the chunk.

use shards::Chunk;

use crate::transport::Stream;

/// Runs up to this size are copied.
const COPIED_BYTES_MAX: usize = 2048;
/// Bytes that a rewritten chunk may have more than the chunk without another allocation: a name or
/// two.
const ROOM_BYTES: usize = 128;
/// Of a longer chunk the long runs are not copied.
const ROOM_BYTES_MAX: usize = 16 * 1024;

/// What becomes of one chunk.
#[derive(Debug, Default)]
pub(super) struct Splice {
    out: Vec<u8>,
    /// The bytes of the chunk before this have been dealt with.
    done: usize,
    /// Bytes that `out` has room for from the start.
    room: usize,
}

impl Splice {
    /// For this chunk.
    pub(super) fn of(chunk: &Chunk) -> Self {
        Self {
            room: (chunk.len() + ROOM_BYTES).min(ROOM_BYTES_MAX),
            ..Self::default()
        }
    }

    /// Keeps the bytes up to `to` that have not been dealt with.
    pub(super) fn keep(&mut self, chunk: &Chunk, to: usize, stream: &mut Stream) {
        let run = self.done..to;
        self.done = to;
        if run.len() <= COPIED_BYTES_MAX {
            self.out()
                .extend_from_slice(chunk.get(run).unwrap_or_default());
            return;
        }
        if !self.out.is_empty() {
            stream.send(std::mem::take(&mut self.out));
        }
        stream.send(chunk.slice(run));
    }

    /// Leaves out the bytes up to `to`.
    pub(super) const fn skip(&mut self, to: usize) {
        self.done = to;
    }

    /// Where bytes are written that replace others.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        if self.out.capacity() == 0 {
            self.out.reserve(self.room);
        }
        &mut self.out
    }

    /// Sends what is left, up to `end` of the chunk.
    pub(super) fn finish(mut self, mut chunk: Chunk, end: usize, stream: &mut Stream) {
        if self.done == 0 && self.out.is_empty() {
            chunk.truncate(end);
            stream.send(chunk);
            return;
        }
        if end > self.done {
            self.keep(&chunk, end, stream);
        }
        if !self.out.is_empty() {
            stream.send(self.out);
        }
    }
}
