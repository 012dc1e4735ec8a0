//! Statements whose result has changed since the client was told of it.
//!
//! **Owns:** when a server is asked what the result of a statement looks like, when a client's message
//! waits for the answer, and the error of a statement whose result has changed.
//! **Does not own:** what results look like (`server::statements::shape`), who was told what
//! (`prepared`), rewriting messages (`rewrite`).
//!
//! PostgreSQL gives a prepared statement the result that it had at its Parse, and refuses it later if
//! that has changed. A server to which the pooler gives the statement after the change would run it, and
//! a driver that keeps descriptions would read rows that do not fit. So before each Bind and Describe:
//!
//! ```text
//!   the client knows    the server's is     the server gets
//!   nothing             unknown             own Describe, then the message: its answer is what the client knows
//!   nothing             known               the message: if it is done, that is what the client knows
//!   a result            the same            the message
//!   a result            another             a message that fails; its error becomes PostgreSQL's for this case
//!   a result            unknown             own Describe and a Flush; the message waits
//! ```
//!
//! An unnamed statement that is defined and run in one go is not asked about: nobody keeps what is told of
//! it. Statements without a result, and commands that are not planned, have none that could change.
//!
//! **Invariants**
//! 1. A client is never given rows of another result than the one it has been told of since it defined
//!    the statement.
//! 2. A statement that the server has, and whose result is known, costs one comparison.
//! 3. The error is raised by the server, so that its transaction has failed; only its words are changed.
//!
//! Source: PostgreSQL documentation, `sql-prepare.html`, `protocol-flow.html`, "Extended Query".

use std::task::Context;

use crate::protocol::backend::{ErrorFields, TransactionStatus};
use crate::protocol::frontend::Target;
use crate::protocol::writer;
use crate::server::ServerConnection;
use crate::server::statements::shape::Shape;
use crate::server::statements::text;
use crate::server::statements::text::Key;
use crate::server::statements::{ResultOf, Statements};
use crate::server::sync::{Bearing, Tally};

use super::client::Session;
use super::prepared::Prepared;

/// A name that no server has, for a message that is to fail.
pub(super) const CHANGED_NAME: &[u8] = b"PGD_changed_result";
/// The code and the words of the error, and the routine by which drivers know it.
const SQLSTATE: &[u8] = b"0A000";
const MESSAGE: &[u8] = b"cached plan must not change result type";
const FILE: &[u8] = b"plancache.c";
const ROUTINE: &[u8] = b"RevalidateCachedQuery";

/// What becomes of a message that uses a statement.
pub(super) enum Verdict {
    /// It goes to the server.
    Passes(Bearing),
    /// It is not looked at before the server has answered.
    Waits,
}

/// Judges a message with this tag, Bind or Describe, about the statement that the client calls `name` and
/// has been `told` the result of. It is the statement that was wanted last of the server.
pub(super) fn judge(
    prepared: &mut Prepared,
    server: &mut ServerConnection,
    out: &mut Vec<u8>,
    (tag, name, key): (u8, &[u8], Key),
    told: Shape,
) -> Verdict {
    let result = server.statements.result();
    if told == result.shape && told.is_known() || told == Shape::NOTHING {
        return Verdict::Passes(Bearing::None);
    }
    if !told.is_known() {
        let bearing = judge_first(prepared, server, out, (tag, name, key));
        return Verdict::Passes(bearing);
    }
    if !result.shape.is_known() {
        if !result.is_asked {
            ask(prepared, server, out, (name, key, result));
        }
        writer::flush(out);
        prepared.awaits(result);
        return Verdict::Waits;
    }
    // In a failed transaction PostgreSQL has another word for it.
    if server.status == TransactionStatus::Failed && !server.sync.owes_execution() {
        return Verdict::Passes(Bearing::None);
    }
    Verdict::Passes(Bearing::Refuses)
}

/// As [`judge`], if the client has not been told anything.
fn judge_first(
    prepared: &mut Prepared,
    server: &mut ServerConnection,
    out: &mut Vec<u8>,
    (tag, name, key): (u8, &[u8], Key),
) -> Bearing {
    let result = server.statements.result();
    if result.shape.is_known() || tag == b'D' {
        // Of a statement that is run at once, without a name, nothing is kept.
        if tag == b'B' && name.is_empty() && prepared.is_pending(name) {
            return Bearing::None;
        }
        if !result.shape.is_known() {
            server.statements.asked(result);
        }
        prepared.tells(name, result);
        return Bearing::Tells;
    }
    let is_at_once = name.is_empty() && prepared.is_pending(name);
    if !is_at_once && !result.is_asked {
        ask(prepared, server, out, (name, key, result));
    }
    Bearing::None
}

/// Asks the server for the result of a statement.
fn ask(
    prepared: &mut Prepared,
    server: &mut ServerConnection,
    out: &mut Vec<u8>,
    (name, key, result): (&[u8], Key, ResultOf),
) {
    writer::describe(out, Target::Statement, &text::name(key));
    server.sync.sent_own_describe(result.wanted);
    server.statements.asked(result);
    prepared.tells(name, result);
}

/// Learns from the answers to requests that tell a result. `reply` is the tag and the body of the one that
/// has come last.
pub(super) fn learn(
    prepared: &mut Prepared,
    statements: &mut Statements,
    tally: Tally,
    (tag, body): (u8, Option<&[u8]>),
) {
    for turn in 0..tally.done + tally.failed {
        let description = (turn < tally.done).then(|| match tag {
            b'T' | b'n' => Shape::of(tag, body),
            _ => Shape::UNKNOWN,
        });
        if let Some((result, shape)) = prepared.answered(description) {
            statements.described(result, shape);
        }
    }
}

/// Writes PostgreSQL's error for a changed result, in place of an error with this body. One that was not
/// asked for stays.
pub(super) fn write_refusal(out: &mut Vec<u8>, body: Option<&[u8]>) {
    let fields = body.and_then(|body| ErrorFields::decode(body).ok());
    let sqlstate = fields.as_ref().and_then(ErrorFields::sqlstate);
    let mut text = Vec::new();
    match body {
        Some(body) if sqlstate != Some(b"26000") => text.extend_from_slice(body),
        _ => {
            let severity = fields.as_ref().and_then(|fields| fields.field(b'S'));
            for (field, value) in [
                (b'S', severity.unwrap_or(b"ERROR")),
                (b'V', b"ERROR"),
                (b'C', SQLSTATE),
                (b'M', MESSAGE),
                (b'F', FILE),
                (b'R', ROUTINE),
            ] {
                text.push(field);
                text.extend_from_slice(value);
                text.push(0);
            }
            text.push(0);
        }
    }
    out.push(b'E');
    out.extend_from_slice(&(text.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(&text);
}

impl Session {
    /// True if the client's next message waits for what the server says of a statement.
    pub(super) fn awaits_description(&self) -> bool {
        let prepared = self.prepared.as_ref();
        prepared.is_some_and(|prepared| prepared.is_waiting())
    }

    /// True if a client whose message waits has gone.
    pub(super) fn has_gone_waiting(&mut self, context: &mut Context<'_>) -> bool {
        self.client.poll_ended(context).is_ready() && !self.has_said_good_bye()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_error_that_was_asked_for_gets_other_words() {
        let body = |sqlstate: &str| format!("SFEHLER\0VERROR\0C{sqlstate}\0Mx\0\0").into_bytes();
        let written = |body: Option<&[u8]>| {
            let mut out = Vec::new();
            write_refusal(&mut out, body);
            assert_eq!(out[..5], [b'E', 0, 0, 0, out.len() as u8 - 1]);
            out.split_off(5)
        };
        let refusal = written(Some(&body("26000")));
        let fields = ErrorFields::decode(&refusal).unwrap();
        assert_eq!(fields.field(b'S'), Some(&b"FEHLER"[..]));
        assert_eq!(fields.sqlstate(), Some(SQLSTATE));
        assert_eq!(fields.field(b'R'), Some(ROUTINE));
        let farewell = body("57P01");
        assert_eq!(written(Some(&farewell)), farewell);
        let refusal = written(None);
        assert_eq!(
            ErrorFields::decode(&refusal).unwrap().message(),
            Some(MESSAGE)
        );
    }
}
