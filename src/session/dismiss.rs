//! A client that waits for a server, and what ends the wait.
//!
//! **Owns:** the end of a wait, and what a client is told whose request is cancelled during it.
//! **Does not own:** the queue (`pool`), where a cancel request leads (`cancel`, `registry`).
//!
//! PostgreSQL has not seen the request, so the pooler says what PostgreSQL would have said: the error,
//! and `ReadyForQuery` behind a query. After a request of the extended protocol it skips what follows up to
//! the next Sync, and answers that.
//!
//! ```text
//!   cancel request ──▶ registry: dismissed ──▶ woken: gives up its place, or the server it was just given
//!                                              error ─▶ (skips to Sync) ─▶ ReadyForQuery ─▶ Idle
//! ```
//!
//! A client that has been told of a transaction which no server knows yet (`local`) goes on waiting: nobody
//! could fail that transaction for it.
//!
//! **Invariant:** a cancel request ends the wait that it has met, or nothing.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Canceling Requests in Progress", "Extended
//! Query".

use std::ops::RangeInclusive;
use std::task::Context;

use shards::Chunk;

use crate::pool::Ticket;
use crate::protocol::backend::TransactionStatus;
use crate::protocol::framer::{BODY_BYTES_MAX, HEADER_BYTES};
use crate::protocol::sqlstate;
use crate::protocol::writer::{self, Report, Severity};

use super::client::{Phase, Session, Step};
use super::local::Begun;
use super::registry::Slot;
use super::report::Failure;

/// In PostgreSQL's words.
const CANCELED: &str = "canceling statement due to user request";

/// Bytes that a message may have.
const LENGTHS: RangeInclusive<usize> = HEADER_BYTES..=HEADER_BYTES + BODY_BYTES_MAX as usize;

/// What of a client's bytes is not wanted any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Skip {
    /// Bytes of the current message that are to come.
    bytes: usize,
    /// Messages up to the next Sync, too.
    is_to_sync: bool,
}

/// What `Skip` has come to in a chunk.
#[derive(Debug, PartialEq, Eq)]
enum Skipped {
    /// The chunk may be handled from here on. `true`: a Sync is to be answered.
    Up(usize, bool),
    /// From here on the chunk has not enough of a header to say more.
    ToHeader(usize),
}

impl Skip {
    /// What is left of a request that begins with `bytes`.
    fn of(bytes: &[u8]) -> Option<(u8, Self)> {
        let &[tag, l0, l1, l2, l3] = bytes.first_chunk::<HEADER_BYTES>()?;
        let skip = Self {
            bytes: 1 + u32::from_be_bytes([l0, l1, l2, l3]) as usize,
            is_to_sync: !matches!(tag, b'Q' | b'F'),
        };
        Some((tag, skip))
    }

    fn skip(&mut self, chunk: &[u8]) -> Skipped {
        let mut at = 0;
        loop {
            let step = self.bytes.min(chunk.len() - at);
            at += step;
            self.bytes -= step;
            if self.bytes > 0 {
                return Skipped::ToHeader(at);
            }
            if !self.is_to_sync {
                return Skipped::Up(at, false);
            }
            let rest = chunk.get(at..).unwrap_or_default();
            let Some((tag, next)) = Self::of(rest) else {
                return Skipped::ToHeader(at);
            };
            match tag {
                b'S' if next.bytes == HEADER_BYTES => return Skipped::Up(at + HEADER_BYTES, true),
                b'X' => return Skipped::Up(at, false),
                // Not a length: whoever handles messages says so.
                _ if !LENGTHS.contains(&next.bytes) => return Skipped::Up(at, false),
                _ => self.bytes = next.bytes,
            }
        }
    }
}

impl Session {
    /// The session waits for a server: a cancel request may end that.
    pub(super) fn may_be_dismissed(&self) {
        if let Some(slot) = self.slot.as_ref().filter(|_| self.begun == Begun::None) {
            slot.wait();
        }
    }

    /// True once if a cancel request has ended the wait.
    pub(super) fn is_dismissed(&self) -> bool {
        self.slot.as_ref().is_some_and(Slot::take_dismissal)
    }

    /// Tells the client that its request has been cancelled.
    pub(super) fn dismissed(&mut self) -> Step {
        self.claim = None;
        self.card.note_error();
        let report = Report::new(Severity::Error, sqlstate::QUERY_CANCELED, CANCELED);
        let mut out = Vec::new();
        writer::error_response(&mut out, &report);
        let request = self.input.as_deref().unwrap_or_default();
        if let Some((_, skip)) = Skip::of(request) {
            if !skip.is_to_sync {
                writer::ready_for_query(&mut out, TransactionStatus::Idle);
                if let Some(prepared) = &mut self.prepared {
                    prepared.forget_unnamed();
                }
            }
            self.skip = Some(Box::new(skip));
        }
        self.client.send(out);
        Step::Again
    }

    /// Leaves out what is not wanted any more. True if nothing of the chunk is left to be handled.
    pub(super) fn skip_over(&mut self, chunk: &mut Chunk) -> bool {
        let Some(skip) = &mut self.skip else {
            return false;
        };
        match skip.skip(chunk) {
            Skipped::ToHeader(at) => {
                chunk.advance(at);
                chunk.is_empty()
            }
            Skipped::Up(at, is_sync) => {
                chunk.advance(at);
                self.skip = None;
                if is_sync {
                    let mut out = Vec::new();
                    writer::ready_for_query(&mut out, TransactionStatus::Idle);
                    self.client.send(out);
                }
                chunk.is_empty()
            }
        }
    }

    pub(super) fn waiting(&mut self, ticket: Ticket, context: &mut Context<'_>) -> Step {
        if self.is_dismissed() {
            self.pool.give_up(ticket);
            return self.dismissed();
        }
        if self.is_replaced() {
            self.pool.give_up(ticket);
            return self.acquire(context);
        }
        if self.emigrates(context) {
            self.pool.give_up(ticket);
            return Step::Again;
        }
        match self.pool.collect(ticket, context.waker()) {
            Some(Ok(server)) => self.attach(server),
            Some(Err(error)) => {
                self.card.note_no_server();
                let text = format!(
                    "Could not get a database connection from the pool. All servers may be busy or \
                     down. Error details: {error}. Please try again later."
                );
                self.fail(&Failure::with_ready(sqlstate::TOO_MANY_CONNECTIONS, text));
                Step::End
            }
            None if self.client.poll_ended(context).is_ready() && !self.has_said_good_bye() => {
                self.pool.give_up(ticket);
                Step::End
            }
            None => {
                self.phase = Phase::Waiting(ticket);
                Step::Wait
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"Q\0\0\0\x06a\0";
    const SYNC: &[u8] = b"S\0\0\0\x04";
    const FLUSH: &[u8] = b"H\0\0\0\x04";

    /// Where the skipping ends in `stream`, if it comes in pieces of this size, and by a Sync or not.
    fn end(stream: &[u8], piece_bytes: usize) -> Option<(usize, bool)> {
        let (_, mut skip) = Skip::of(stream).unwrap();
        let (mut at, mut held) = (0, Vec::new());
        for piece in stream.chunks(piece_bytes) {
            held.extend_from_slice(piece);
            match skip.skip(&held) {
                Skipped::Up(end, is_sync) => return Some((at + end, is_sync)),
                Skipped::ToHeader(end) => {
                    at += end;
                    held.drain(..end);
                    assert!(held.len() < HEADER_BYTES);
                }
            }
        }
        None
    }

    #[test]
    fn what_is_skipped_does_not_depend_on_how_it_comes() {
        let parse = b"P\0\0\0\x08\0\0\0\0";
        let batch = [&parse[..], FLUSH, QUERY, SYNC, QUERY].concat();
        let farewell = [&parse[..], b"X\0\0\0\x04"].concat();
        let wrong = [&parse[..], b"d\xff\xff\xff\xff"].concat();
        for piece_bytes in 1..=batch.len() {
            let end = |stream: &[u8]| end(stream, piece_bytes);
            assert_eq!(end(&[QUERY, SYNC].concat()), Some((QUERY.len(), false)));
            assert_eq!(end(&batch), Some((batch.len() - QUERY.len(), true)));
            assert_eq!(end(&farewell), Some((parse.len(), false)));
            assert_eq!(end(&wrong), Some((parse.len(), false)));
            assert_eq!(end(&[&parse[..], FLUSH].concat()), None);
        }
    }
}
