//! Messages on their way through: what the pooler has to know of them.
//!
//! **Owns:** looking at each message while its bytes are forwarded as they came.
//! **Does not own:** when bytes move (`client`), what is owed (`server::sync`).
//!
//! **Invariants**
//! 1. A chunk is forwarded without a copy; only the part behind a good-bye or a fault is cut off.
//! 2. Nothing is forwarded from a server that is out of step.
//! 3. What the pooler asks on its own never reaches the client.

use std::rc::Rc;

use shards::Chunk;

use crate::pool::cleaner::note_parameter;
use crate::protocol::backend::{ErrorFields, ParameterStatus, ReadyForQuery};
use crate::protocol::{sqlstate, writer};
use crate::server::ServerConnection;
use crate::server::parameters::{ParameterSet, is_report};
use crate::server::reset::Leftovers;
use crate::server::sync::{Owner, Reply};

use super::client::Session;
use super::report::Failure;

impl Session {
    /// Passes client messages to the server. False when the client is not to be served any more.
    pub(super) fn forward(&mut self, server: &mut ServerConnection, chunk: Chunk) -> bool {
        let mut position = 0;
        let mut is_cut = false;
        loop {
            let part = match self.framer.next(&chunk[position..]) {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(error) => {
                    let failure = Failure::new(sqlstate::PROTOCOL_VIOLATION, error.to_string());
                    self.fail(&failure);
                    return false;
                }
            };
            if part.is_first {
                if part.tag == b'X' {
                    self.is_leaving = true;
                    break;
                }
                if !is_request(part.tag) {
                    let failure = unknown_request(part.tag);
                    self.fail(&failure);
                    return false;
                }
            }
            if part.is_last {
                note_request(server, part.tag, part.body);
                // The next one that is cut claims for itself.
                self.claim = None;
            }
            is_cut = !part.is_last;
            position += part.len;
        }
        if is_cut {
            let left = self.framer.missing_bytes() as usize;
            if left > 0 && !self.claim_memory(left) {
                return false;
            }
        } else {
            self.framer.free_collected();
        }
        let mut chunk = chunk;
        chunk.truncate(position);
        self.card.sent(&server.card, position);
        server.stream.send(chunk);
        true
    }

    /// Passes server messages to the client. False when the server is out of step.
    pub(super) fn relay(&mut self, server: &mut ServerConnection, mut chunk: Chunk) -> bool {
        let mut position = 0;
        let in_step = loop {
            let part = match server.framer.next(&chunk[position..]) {
                Ok(Some(part)) => part,
                Ok(None) => break true,
                Err(_) => break false,
            };
            if part.is_last {
                match server.sync.received(part.tag) {
                    Reply::Of(Owner::Client) | Reply::Unasked => {}
                    Reply::Of(Owner::Pooler) | Reply::OutOfStep => break false,
                }
            }
            // Only the last part of a message has a body.
            match (part.tag, part.body) {
                (b'Z', Some(body)) => {
                    if let Ok(ready) = ReadyForQuery::decode(body) {
                        server.status = ready.status;
                    }
                    let owed = server.sync.owed_count();
                    self.card.answered(&server.card, server.status, owed);
                    self.has_reset = false;
                }
                (b'C', Some(body)) => {
                    self.has_reset |= note_completion(&mut server.leftovers, body);
                }
                (b'S', Some(body)) => {
                    note_parameter(&server.base, &self.pool, &mut server.applied, body);
                    note_wanted(self, &server.base, body);
                }
                (b'E', Some(body)) => {
                    self.card.note_error();
                    self.has_farewell |= is_fatal(body);
                }
                _ => {}
            }
            position += part.len;
        };
        chunk.truncate(position);
        self.card.received(&server.card, position);
        self.client.send(chunk);
        if !in_step {
            tracing::error!(
                pid = server.pid(),
                "server out of step with the protocol, closed"
            );
            if server.framer.is_at_boundary() {
                let text = "the server sent a message that does not belong here";
                self.fail(&Failure::new(sqlstate::PROTOCOL_VIOLATION, text));
            }
        }
        in_step
    }

    /// Reads the reply to the statement that applies the client's settings. False when the server is
    /// of no further use. `failed` is set, and the client told, when PostgreSQL refuses them.
    pub(super) fn read_preparation(
        &mut self,
        server: &mut ServerConnection,
        chunk: &[u8],
        failed: &mut bool,
    ) -> bool {
        let mut position = 0;
        loop {
            let part = match server.framer.next(&chunk[position..]) {
                Ok(Some(part)) => part,
                Ok(None) => return true,
                Err(_) => return false,
            };
            position += part.len;
            if !part.is_last {
                continue;
            }
            match server.sync.received(part.tag) {
                Reply::Of(Owner::Pooler) | Reply::Unasked => {}
                Reply::Of(Owner::Client) | Reply::OutOfStep => return false,
            }
            let Some(body) = part.body else { continue };
            match part.tag {
                b'Z' => {
                    if let Ok(ready) = ReadyForQuery::decode(body) {
                        server.status = ready.status;
                    }
                }
                b'S' => {
                    note_parameter(&server.base, &self.pool, &mut server.applied, body);
                    // What an earlier statement of the preparation sets is not what comes of it.
                    if server.sync.owed_count() == 1 {
                        self.correct_wanted(body);
                    }
                }
                // The server's farewell, not a word about the settings.
                b'E' if is_fatal(body) => return false,
                b'E' if !*failed => {
                    *failed = true;
                    self.has_farewell = true;
                    self.fail(&refused_settings(body));
                }
                _ => {}
            }
        }
    }

    /// The server has a canonical form of a value that the client wants, or announces a new one.
    fn correct_wanted(&mut self, body: &[u8]) {
        let Some((name, value)) = ParameterStatus::text(body) else {
            return;
        };
        if self.wanted.get(name).is_some_and(|wanted| wanted != value) {
            let mut wanted = (*self.wanted).clone();
            wanted.set(name, value);
            self.wanted = self.pool.intern(wanted);
            let mut out = Vec::new();
            writer::parameter_status(&mut out, name.as_bytes(), value.as_bytes());
            self.client.send(out);
        }
    }
}

/// A message that a client may send after its login.
pub(super) const fn is_request(tag: u8) -> bool {
    matches!(
        tag,
        b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H' | b'd' | b'c' | b'f' | b'F' | b'X'
    )
}

/// In PostgreSQL's words. The server would end its connection over such a message.
pub(super) fn unknown_request(tag: u8) -> Failure {
    let text = format!("invalid frontend message type {tag}");
    Failure::new(sqlstate::PROTOCOL_VIOLATION, text)
}

/// Accounts for a whole client message that is sent to a server.
fn note_request(server: &mut ServerConnection, tag: u8, body: Option<&[u8]>) {
    let first = body.and_then(|body| body.first());
    // A query may be skipped if what was sent before it fails.
    let is_sure = !server.has_unnamed || server.sync.is_settled();
    server
        .sync
        .sent(tag, tag == b'D' && first == Some(&b'S'), Owner::Client);
    match (tag, body) {
        (b'Q', Some(text)) => {
            server.has_unnamed &= !is_sure;
            server.leftovers.note_text(text);
        }
        (b'P', Some(text)) => {
            server.leftovers.note_text(text);
            if first == Some(&0) {
                server.has_unnamed = true;
            } else {
                server.leftovers.add(Leftovers::STATEMENTS);
            }
        }
        // Too long to look into: it may have left anything that no tag tells of.
        (b'Q' | b'P', None) => {
            server.has_unnamed = true;
            server.leftovers.add(Leftovers::TEMPORARY);
            server.leftovers.add(Leftovers::LOCKS);
            server.leftovers.add(Leftovers::SETTINGS);
            server.leftovers.add(Leftovers::STATEMENTS);
        }
        _ => {}
    }
}

/// Notes a command tag; true if it may have reset parameters to their defaults.
fn note_completion(leftovers: &mut Leftovers, body: &[u8]) -> bool {
    let tag = body.strip_suffix(b"\0").unwrap_or(body);
    leftovers.note_tag(tag);
    matches!(tag, b"RESET" | b"DISCARD ALL")
}

/// Follows a parameter that the client has changed.
fn note_wanted(session: &mut Session, base: &ParameterSet, body: &[u8]) {
    let Some((name, value)) = ParameterStatus::text(body) else {
        return;
    };
    if is_report(name) {
        return;
    }
    let is_default = base.get(name) == Some(value);
    let asked = session
        .asked
        .get(name)
        .filter(|_| is_default && session.has_reset);
    let mut wanted = (*session.wanted).clone();
    match asked {
        // The client's own default is what it asked for at login.
        Some(asked) => wanted.set(name, asked),
        None if is_default => wanted.remove(name),
        None => wanted.set(name, value),
    }
    session.wanted = Rc::clone(&session.pool.intern(wanted));
}

fn is_fatal(body: &[u8]) -> bool {
    ErrorFields::decode(body)
        .is_ok_and(|fields| matches!(fields.severity(), Some(b"FATAL" | b"PANIC")))
}

fn refused_settings(body: &[u8]) -> Failure {
    let fields = ErrorFields::decode(body).ok();
    let text = |field: Option<&[u8]>| field.map(|text| String::from_utf8_lossy(text).into_owned());
    let message = text(fields.as_ref().and_then(ErrorFields::message)).unwrap_or_default();
    let sqlstate = text(fields.as_ref().and_then(ErrorFields::sqlstate));
    let mut failure = Failure::new(sqlstate::CONNECTION_FAILURE, message);
    if let Some(sqlstate) = sqlstate {
        failure.sqlstate = sqlstate.into();
    }
    failure
}
