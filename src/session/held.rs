//! Holding the start of a message until enough of it is there to be rewritten.
//!
//! **Owns:** how much of a message is needed, and the part that is held meanwhile.
//! **Does not own:** rewriting (`rewrite`); messages before a server is taken (`client`).
//!
//! **Invariant:** what is held of a message has not reached the server, and is bounded by a claim of
//! memory or by `NAMES_BYTES_MAX`.
//!
//! Source: PostgreSQL documentation, `protocol-message-formats.html`.

use shards::Chunk;

use crate::protocol::framer::{BODY_BYTES_MAX, HEADER_BYTES};
use crate::protocol::frontend::Bind;
use crate::protocol::sqlstate;
use crate::server::ServerConnection;

use super::client::Session;
use super::report::Failure;

/// Bytes of a Bind that are held at most in search of its two names.
const NAMES_BYTES_MAX: usize = 64 * 1024;

/// True for messages that name a statement, or may.
pub(super) const fn names_statement(tag: u8) -> bool {
    matches!(tag, b'P' | b'B' | b'D' | b'C')
}

/// How many bytes of the message at the start of `bytes` are missing before it can be rewritten.
pub(super) fn missing_bytes(bytes: &[u8]) -> usize {
    let Some(&tag) = bytes.first() else { return 0 };
    if !names_statement(tag) {
        return 0;
    }
    let Some((&[_, l0, l1, l2, l3], body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return HEADER_BYTES - bytes.len();
    };
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    if !(4..=BODY_BYTES_MAX + 4).contains(&length) {
        return 0;
    }
    let missing = (length as usize - 4).saturating_sub(body.len());
    if tag == b'B' && missing > 0 && Bind::decode(body).is_ok() {
        return 0;
    }
    missing
}

impl Session {
    /// True if a part of a message is held that the server has got nothing of.
    pub(super) fn holds_part(&self) -> bool {
        self.prepared
            .as_ref()
            .is_some_and(|prepared| !prepared.held.is_empty())
    }

    /// Holds the start of a message. Fails the session if it may not.
    pub(super) fn hold_part(&mut self, part: &[u8]) -> bool {
        let prepared = self.prepared.get_or_insert_default();
        prepared.held.extend_from_slice(part);
        let held = &prepared.held;
        let (held_bytes, is_bind) = (held.len(), held.first() == Some(&b'B'));
        let missing = missing_bytes(held);
        if !is_bind {
            // Before the header is there nobody knows how much it will be.
            return held_bytes < HEADER_BYTES || self.claim_memory(held_bytes + missing);
        }
        if held_bytes > NAMES_BYTES_MAX {
            let text = "the names in a Bind message are too long";
            self.fail(&Failure::new(sqlstate::PROTOCOL_VIOLATION, text));
            return false;
        }
        true
    }

    /// Passes client messages to the server, behind the part that is held of one. False when the
    /// client is not to be served any more.
    pub(super) fn forward_joined(
        &mut self,
        server: &mut ServerConnection,
        mut chunk: Chunk,
    ) -> bool {
        while !chunk.is_empty()
            && let Some(prepared) = self.prepared.as_mut()
            && !prepared.held.is_empty()
        {
            let missing = missing_bytes(&prepared.held).min(chunk.len());
            let part = chunk.split_to(missing);
            if !self.hold_part(&part) {
                return false;
            }
            let Some(prepared) = self.prepared.as_mut() else {
                break;
            };
            if missing_bytes(&prepared.held) == 0 {
                let whole = std::mem::take(&mut prepared.held);
                let whole = self.client.chunk_of(whole);
                if !self.forward(server, whole) {
                    return false;
                }
            }
        }
        chunk.is_empty() || self.forward(server, chunk)
    }
}
