//! Messages that wait for the answers to what was sent before them.
//!
//! **Owns:** which messages these are, and holding them back.
//! **Does not own:** what they become (`rewrite`), reading a client that is too far ahead (`pipeline`).
//!
//! A client may send on without having read a reply. Mostly it does not matter: what fails takes the
//! messages up to the next `Sync` along. But a message behind that `Sync` may hang on how what comes
//! before it ends, and then nothing but the answer tells:
//!
//! ```text
//!   Parse a, Sync │ Bind a      is there a statement a?
//!   DISCARD ALL   │ Parse a     is the name free again?
//!   Execute, Sync │ (unknown)   the answers come before the last words
//! ```
//!
//! The message and all behind it are kept back until everything before it has been answered, for which
//! the server is asked by a `Flush`. Then it goes on as if it had come only now.
//!
//! **Invariants**
//! 1. Nothing is waited for that the server may not say: not while it reads COPY data, nor while it
//!    ignores messages.
//! 2. A batch that uses what it has defined itself, or what has been answered, never waits.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Extended Query", "Pipelining".

use shards::Chunk;

use crate::protocol::framer::{BODY_BYTES_MAX, HEADER_BYTES};
use crate::protocol::frontend::{Bind, Close, Execute, Target};
use crate::server::ServerConnection;
use crate::server::statements::kind::Kind;
use crate::server::statements::text::Effect;

use super::client::Session;
use super::prepared::Prepared;
use super::relay::{bare, deliver_promised, is_request};

/// True if answers will come without another message of the client's.
pub(super) fn owes_answers(server: &ServerConnection) -> bool {
    server.sync.owes_replies() && !server.sync.ignores_requests()
}

impl Session {
    /// True if what becomes of the message at the start of `bytes` hangs on replies to come.
    pub(super) fn hangs_on_answers(&self, server: &ServerConnection, bytes: &[u8]) -> bool {
        let Some(prepared) = &self.prepared else {
            return false;
        };
        let is_spared = server.statements.outlook.is_spared();
        let may_hang = server.statements.is_doubtful() || prepared.has_unanswered() || is_spared;
        let is_query = bytes.first() == Some(&b'Q');
        if !(may_hang || is_query) || !owes_answers(server) {
            return false;
        }
        let Some((&[tag, l0, l1, l2, l3], body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return false;
        };
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let body = body.get(..length.saturating_sub(4)).unwrap_or(body);
        let is_uncertain = |name: &[u8]| is_uncertain(server, prepared, name);
        match tag {
            b'P' => {
                let name = body.split(|byte| *byte == 0).next().unwrap_or_default();
                !name.is_empty() && is_uncertain(name)
            }
            b'B' => Bind::decode(body).is_ok_and(|bind| {
                is_uncertain(bind.statement) || (is_spared && prepared.sets_up(bind.statement))
            }),
            b'D' | b'C' => Close::decode(body).is_ok_and(|target| {
                matches!(target.kind, Target::Statement) && is_uncertain(target.name)
            }),
            b'Q' => {
                let text = body.strip_suffix(b"\0").unwrap_or(body);
                let kind = Kind::of_query(text);
                let forgets = kind.has(Kind::FORGETS);
                (is_spared && kind.has(Kind::SETS_UP))
                    || match Effect::of(text) {
                        Effect::Forgets(name) => is_uncertain(&name),
                        Effect::ForgetsAll => false,
                        // Among others: which of them has done it is told by the tags only.
                        Effect::None => forgets,
                    }
            }
            b'E' if prepared.has_deallocations() => Execute::decode(body).is_ok_and(|execute| {
                matches!(
                    prepared.effect_of(execute.portal),
                    Effect::Forgets(name) if is_uncertain(name)
                )
            }),
            _ => false,
        }
    }

    /// True if the message at the start of `bytes` ends the connection, and there are answers to be
    /// given first. `before` is the tag of the message before it.
    pub(super) fn waits_to_end(server: &ServerConnection, bytes: &[u8], before: u8) -> bool {
        let ends = match *bytes {
            // What nobody has asked for by now is not awaited.
            [b'X', 0, 0, 0, 4, ..] => before == b'H',
            [tag, ..] if !is_request(tag) => true,
            [_, l0, l1, l2, l3, ..] => {
                let length = u32::from_be_bytes([l0, l1, l2, l3]);
                !(4..=BODY_BYTES_MAX + 4).contains(&length)
            }
            _ => false,
        };
        ends && owes_answers(server)
    }

    /// Keeps back `rest`, the last that has been read of the client.
    pub(super) fn wait_for_answers(&mut self, server: &mut ServerConnection, rest: Chunk) {
        self.is_waiting = true;
        self.input = Some(rest.release_if_scarce());
        if server.framer.is_at_boundary() {
            deliver_promised(server, &mut self.client, self.prepared.as_deref_mut());
        }
        if server.sync.may_keep_replies() {
            server.stream.send(bare(b'H').to_vec());
        }
    }
}

/// True if nobody knows whether the client has a statement of this name.
fn is_uncertain(server: &ServerConnection, prepared: &Prepared, name: &[u8]) -> bool {
    server.statements.is_doubtful() || prepared.is_uncertain(name, server.statements.segment())
}
