//! What one stream still has to send.
//!
//! **Owns:** the queued pieces and the vectored-send descriptors that the kernel reads.
//! **Does not own:** when a send is submitted (`ring`), how much may be queued (the caller).
//!
//! **Invariant:** at most one send is in flight per queue. Two outstanding sends on one socket may
//! be reordered by the kernel after a short write. Pieces in flight are neither moved nor freed.
//!
//! Source: `io_uring_prep_send(3)`, `sendmsg(2)`.

use std::collections::VecDeque;
use std::rc::Rc;

use io_uring::{opcode, squeue, types};

use super::buffers::Chunk;

/// Pieces in one vectored send.
const PIECES_MAX: usize = 64;

/// Bytes to send: received ones that are passed on, or composed ones.
#[derive(Debug)]
pub enum Piece {
    /// A part of a receive buffer, forwarded without a copy.
    Chunk(Chunk),
    /// Composed bytes, from the given offset on.
    Owned(Vec<u8>, usize),
    /// Bytes composed once and sent many times, from the given offset on.
    Shared(Rc<[u8]>, usize),
}

impl Piece {
    /// What is left of it.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Chunk(chunk) => chunk,
            Self::Owned(bytes, start) => bytes.get(*start..).unwrap_or_default(),
            Self::Shared(bytes, start) => bytes.get(*start..).unwrap_or_default(),
        }
    }

    /// Bytes left in this piece.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// True if nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Chunk(chunk) => chunk.advance(count),
            Self::Owned(_, start) | Self::Shared(_, start) => *start += count,
        }
    }
}

impl From<Chunk> for Piece {
    fn from(chunk: Chunk) -> Self {
        Self::Chunk(chunk)
    }
}

impl From<Vec<u8>> for Piece {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes, 0)
    }
}

impl From<Rc<[u8]>> for Piece {
    fn from(bytes: Rc<[u8]>) -> Self {
        Self::Shared(bytes, 0)
    }
}

/// The pieces of one stream, oldest first. Boxed, so that the kernel's pointers stay valid.
pub(crate) struct SendQueue {
    pieces: VecDeque<Piece>,
    in_flight: usize,
    vector: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl Default for SendQueue {
    fn default() -> Self {
        // SAFETY: `msghdr` is a plain C structure for which all zeroes is the empty message.
        let header = unsafe { std::mem::zeroed() };
        Self {
            pieces: VecDeque::new(),
            in_flight: 0,
            vector: Vec::new(),
            header,
        }
    }
}

impl SendQueue {
    pub(crate) fn push(&mut self, piece: Piece) {
        self.pieces.push_back(piece);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Forgets what has not been given to the kernel; returns the number of bytes forgotten.
    pub(crate) fn discard_unsent(&mut self) -> usize {
        self.pieces
            .drain(self.in_flight..)
            .map(|piece| piece.len())
            .sum()
    }

    /// Bytes that the kernel has been given.
    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.pieces
            .iter()
            .take(self.in_flight)
            .map(Piece::len)
            .sum()
    }

    /// The one send that covers as many queued pieces as fit. `None` when empty or in flight. An
    /// `instant` one ends at once if there is no room.
    pub(crate) fn submission(&mut self, fd: types::Fd, instant: bool) -> Option<squeue::Entry> {
        if self.is_in_flight() || self.pieces.is_empty() {
            return None;
        }
        let patience = if instant { libc::MSG_DONTWAIT } else { 0 };
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL | patience;
        self.in_flight = self.pieces.len().min(PIECES_MAX);
        if self.in_flight == 1 {
            let bytes = self.pieces[0].bytes();
            let send = opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32);
            return Some(send.flags(flags).build());
        }
        self.vector.clear();
        for piece in self.pieces.iter().take(self.in_flight) {
            let bytes = piece.bytes();
            let iov_base = bytes.as_ptr().cast_mut().cast();
            self.vector.push(libc::iovec {
                iov_base,
                iov_len: bytes.len(),
            });
        }
        self.header.msg_iov = self.vector.as_mut_ptr();
        self.header.msg_iovlen = self.vector.len();
        let header: *const libc::msghdr = &raw const self.header;
        Some(opcode::SendMsg::new(fd, header).flags(flags as u32).build())
    }

    /// The send in flight has ended after `count` bytes; what is left is sent again.
    pub(crate) fn sent(&mut self, mut count: usize) {
        self.in_flight = 0;
        while let Some(first) = self.pieces.front_mut() {
            let len = first.len();
            if count < len {
                first.advance(count);
                return;
            }
            count -= len;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(queue: &SendQueue) -> Vec<u8> {
        queue
            .pieces
            .iter()
            .flat_map(|piece| piece.bytes().to_vec())
            .collect()
    }

    #[test]
    fn a_short_send_keeps_exactly_the_rest() {
        let text = b"abcdefghij";
        for sent in 0..=text.len() {
            let mut queue = SendQueue::default();
            queue.push(text[..3].to_vec().into());
            queue.push(Rc::<[u8]>::from(&text[3..4]).into());
            queue.push(text[4..].to_vec().into());
            assert!(queue.submission(types::Fd(0), true).is_some());
            assert!(
                queue.submission(types::Fd(0), true).is_none(),
                "one send in flight per socket"
            );
            queue.sent(sent);
            assert_eq!(left(&queue), &text[sent..]);
        }
    }

    #[test]
    fn discarding_spares_what_the_kernel_reads() {
        let mut queue = SendQueue::default();
        queue.push(b"first".to_vec().into());
        assert!(queue.submission(types::Fd(0), true).is_some());
        queue.push(b"second".to_vec().into());
        assert_eq!(queue.discard_unsent(), 6);
        assert_eq!(left(&queue), b"first");
    }
}
