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
use crate::server::statements::text;

use super::client::{HELD_BYTES_MAX, Session};
use super::report::Failure;

/// Bytes of a Bind that are held at most in search of its two names.
const NAMES_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a Bind that are taken at a time in search of them.
const NAMES_STEP_BYTES: usize = 256;
/// The longest Parse of an unnamed statement that is renamed and kept. A longer one is mostly sent
/// once, with its data in it; what keeping it saves is small beside its size.
const UNNAMED_BYTES_MAX: u32 = 16 * 1024;
/// The longest Query and Execute that are held: names have 63 bytes.
const SHORT_BYTES_MAX: u32 = 1024;

/// True for messages that name a statement, or may.
pub(super) const fn names_statement(tag: u8) -> bool {
    matches!(tag, b'P' | b'B' | b'D' | b'C')
}

/// True if this is the Parse of an unnamed statement that is too long to be kept.
pub(super) fn is_long_unnamed(length: u32, body: &[u8]) -> bool {
    length > UNNAMED_BYTES_MAX && body.first() == Some(&0)
}

/// How many bytes of the message at the start of `bytes` are missing before it can be rewritten, or
/// before more can be said. `sees_executes`: also an Execute is to be seen whole.
pub(super) fn missing_bytes(bytes: &[u8], sees_executes: bool) -> usize {
    let Some(&tag) = bytes.first() else { return 0 };
    let is_seen = names_statement(tag) || tag == b'Q' || tag == b'E' && sees_executes;
    if !is_seen {
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
    match tag {
        _ if missing == 0 => 0,
        b'B' if Bind::decode(body).is_ok() => 0,
        // The names are all that is needed, and mostly short.
        b'B' => missing.min(NAMES_STEP_BYTES),
        b'P' if is_long_unnamed(length, body) => 0,
        b'P' if body.is_empty() => 1,
        b'Q' | b'E' if length > SHORT_BYTES_MAX => 0,
        b'Q' if !text::may_have_effect(body) => 0,
        _ => missing,
    }
}

impl Session {
    /// True if a part of a message is held that is too long to wait for without a server.
    pub(super) fn holds_long_part(&self) -> bool {
        let held = self.prepared.as_ref().map(|prepared| &*prepared.held);
        match held.and_then(<[u8]>::first_chunk::<HEADER_BYTES>) {
            Some(&[_, l0, l1, l2, l3]) => {
                u32::from_be_bytes([l0, l1, l2, l3]) as usize >= HELD_BYTES_MAX
            }
            None => false,
        }
    }

    /// The server goes: what is held waits for the next one with the rest.
    pub(super) fn take_back_part(&mut self) {
        let Some(prepared) = self.prepared.as_mut() else {
            return;
        };
        if prepared.held.is_empty() {
            return;
        }
        let mut held = std::mem::take(&mut prepared.held);
        if let Some(rest) = self.input.take() {
            held.extend_from_slice(&rest);
        }
        self.input = Some(self.client.chunk_of(held));
    }

    /// True if an Execute may be one that deallocates a statement.
    pub(super) fn sees_executes(&self) -> bool {
        let prepared = self.prepared.as_ref();
        prepared.is_some_and(|prepared| prepared.has_deallocations())
    }

    /// Holds the start of a message. Fails the session if it may not.
    pub(super) fn hold_part(&mut self, part: &[u8]) -> bool {
        let sees_executes = self.sees_executes();
        let prepared = self.prepared.get_or_insert_default();
        prepared.held.extend_from_slice(part);
        let held = &mut prepared.held;
        let missing = missing_bytes(held, sees_executes);
        let held_bytes = held.len();
        // Before the first byte behind the header nobody knows how much it will be.
        if missing == 0 || held_bytes <= HEADER_BYTES {
            return true;
        }
        if held.first() != Some(&b'B') {
            held.reserve_exact(missing);
            return self.claim_memory(held_bytes + missing);
        }
        if held_bytes > NAMES_BYTES_MAX {
            let text = "the names in a Bind message are too long";
            self.fail(&Failure::new(sqlstate::PROTOCOL_VIOLATION, text));
            return false;
        }
        true
    }

    /// What waits is followed by these bytes.
    fn put_back(&mut self, rest: &[u8]) {
        let waiting = self.input.take();
        let waiting = waiting.as_deref().unwrap_or_default();
        self.input = Some(self.client.chunk_of([waiting, rest].concat()));
    }

    /// Passes client messages to the server, behind the part that is held of one. False when the
    /// client is not to be served any more.
    pub(super) fn forward_joined(
        &mut self,
        server: &mut ServerConnection,
        mut chunk: Chunk,
    ) -> bool {
        let sees_executes = self.sees_executes();
        while !chunk.is_empty()
            && let Some(prepared) = self.prepared.as_mut()
            && !prepared.held.is_empty()
        {
            let missing = missing_bytes(&prepared.held, sees_executes);
            let part = chunk.split_to(missing.min(chunk.len()));
            if !self.hold_part(&part) {
                return false;
            }
            let Some(prepared) = self.prepared.as_mut() else {
                break;
            };
            if missing_bytes(&prepared.held, sees_executes) == 0 {
                let whole = std::mem::take(&mut prepared.held);
                let whole = self.client.chunk_of(whole);
                if !self.forward(server, whole) {
                    return false;
                }
                if self.awaits_description() {
                    self.put_back(&chunk);
                    return true;
                }
            }
        }
        chunk.is_empty() || self.forward(server, chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body_bytes: usize, start: &[u8]) -> Vec<u8> {
        let length = (body_bytes as u32 + 4).to_be_bytes();
        [&[tag][..], &length, start].concat()
    }

    #[test]
    fn of_a_bind_no_more_is_held_than_its_names_need() {
        let bind = |start: &[u8]| missing_bytes(&message(b'B', 1_000_000, start), false);
        assert_eq!(bind(b""), NAMES_STEP_BYTES);
        assert_eq!(bind(b"portal\0stat"), NAMES_STEP_BYTES);
        assert_eq!(bind(b"portal\0statement\0"), 0);
        assert_eq!(missing_bytes(&message(b'B', 10, b"po"), false), 8);
        assert_eq!(missing_bytes(b"B\0\0", false), 2);
    }

    #[test]
    fn a_long_unnamed_text_is_not_held() {
        let parse = |start: &[u8]| missing_bytes(&message(b'P', 100_000, start), false);
        assert_eq!(parse(b""), 1, "its name decides");
        assert_eq!(parse(b"\0select"), 0);
        assert_eq!(parse(b"name\0select"), 100_000 - 11);
        assert_eq!(missing_bytes(&message(b'P', 100, b"\0select"), false), 93);
    }

    #[test]
    fn a_short_query_is_held_if_it_may_deallocate() {
        let query = |start: &[u8]| missing_bytes(&message(b'Q', 20, start), false);
        for start in [&b""[..], b" ", b"dea", b" D", b"/* c", b"-"] {
            assert_eq!(query(start), 20 - start.len(), "{}", start.escape_ascii());
        }
        assert_eq!(query(b"select"), 0);
        assert_eq!(missing_bytes(b"Q\0", false), 3);
        assert_eq!(missing_bytes(&message(b'Q', 100_000, b"dea"), false), 0);
    }

    #[test]
    fn an_execute_is_held_only_if_it_matters() {
        let execute = message(b'E', 5, b"");
        assert_eq!(missing_bytes(&execute, false), 0);
        assert_eq!(missing_bytes(&execute, true), 5);
        assert_eq!(missing_bytes(b"S\0", true), 0);
    }
}
