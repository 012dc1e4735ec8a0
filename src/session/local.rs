//! What a client without a server is told by the pooler itself.
//!
//! **Owns:** the messages that need no server, the check query, a BEGIN that is put off.
//! **Does not own:** getting a server for the others (`client`).
//!
//! A client that says `begin;` and nothing else has its answer at once, and takes a server when it
//! says what the transaction is to do:
//!
//! ```text
//!   ┌──────┐ `begin;`, the last that has come ┌────────┐ anything that needs ┌──────┐
//!   │ None │ ───────────────────────────────▶ │ Unsent │ ──────────────────▶ │ Sent │
//!   └──────┘                                  └────────┘ a server, which is  └──────┘
//!      ▲                                          ▲      sent BEGIN              │
//!      │                                          └── the server was lost ───────┤
//!      └───────────────────────── PostgreSQL has begun a transaction ────────────┘
//! ```
//!
//! **Invariants**
//! 1. An answer given here is what PostgreSQL would have said, the status of the transaction included.
//! 2. No message of the client reaches a server before the BEGIN that it has been told of is done.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Simple Query", "Extended Query";
//! `sql-begin.html`.

use crate::config::General;
use crate::protocol::backend::TransactionStatus;
use crate::protocol::framer::HEADER_BYTES;
use crate::protocol::{FrontendTag, sqlstate, writer};
use crate::server::ServerConnection;

use super::client::Session;
use super::ending::Ending;
use super::relay::{is_request, unknown_request};
use super::report::Failure;

/// The text that is put off, as a whole message; letters in any case.
const BEGIN: &[u8; 12] = b"Q\0\0\0\x0bbegin;\0";
/// What the server is sent for it.
const BEGIN_TEXT: &str = "begin;";

/// A whole message that can be handled without a server, or not.
pub(super) enum Local {
    Handled,
    NeedsServer,
    Leave,
}

/// A transaction that the client has been told of and PostgreSQL may not know yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Begun {
    /// There is none.
    #[default]
    None,
    /// No server has been sent the BEGIN.
    Unsent,
    /// A server has been sent it and has not answered.
    Sent,
}

/// The message that is answered with an empty query's answer: the whole of it, or its text.
pub(super) fn check_query(general: &General) -> Box<[u8]> {
    if let Some(message) = &general.pooler_check_query_request_bytes {
        return message.as_slice().into();
    }
    let mut message = Vec::new();
    writer::query(&mut message, general.pooler_check_query.as_bytes());
    message.into()
}

fn is_begin(message: &[u8]) -> bool {
    message.len() == BEGIN.len()
        && message.starts_with(&BEGIN[..5])
        && message[5..].eq_ignore_ascii_case(&BEGIN[5..])
}

impl Session {
    /// Handles a whole message without a server, if that can be. `is_last`: nothing behind it has
    /// come yet.
    pub(super) fn handle_locally(&mut self, message: &[u8], is_last: bool) -> Local {
        let Some(&tag) = message.first() else {
            return Local::NeedsServer;
        };
        if *message == *self.shard.directory.borrow().check_query {
            self.answer(tag, writer::empty_query_response);
            return Local::Handled;
        }
        match tag {
            b'X' => {
                self.ending = Ending::GoodBye;
                Local::Leave
            }
            b'Q' if matches!(message.get(HEADER_BYTES), Some(b'd' | b'D'))
                && self.answers_itself(&message[HEADER_BYTES..]) =>
            {
                Local::Handled
            }
            // The end of a pipeline that has nothing in it.
            b'S' => {
                self.answer(tag, |_| ());
                Local::Handled
            }
            // PostgreSQL ignores these outside of a COPY; Flush has nothing to flush.
            b'd' | b'c' | b'f' | b'H' => Local::Handled,
            b'Q' if is_last && self.begun == Begun::None && is_begin(message) => {
                self.begun = Begun::Unsent;
                self.answer(tag, |out| writer::command_complete(out, b"BEGIN"));
                Local::Handled
            }
            _ if is_request(tag) => Local::NeedsServer,
            _ => {
                self.fail(&unknown_request(tag));
                Local::Leave
            }
        }
    }

    /// Answers a message with tag `tag`: what `write` writes, and `ReadyForQuery`.
    fn answer(&mut self, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
        if tag == FrontendTag::QUERY.0
            && let Some(prepared) = &mut self.prepared
        {
            prepared.forget_unnamed();
        }
        let status = match self.begun {
            Begun::None => TransactionStatus::Idle,
            Begun::Unsent | Begun::Sent => TransactionStatus::InTransaction,
        };
        let mut out = Vec::with_capacity(17);
        write(&mut out);
        writer::ready_for_query(&mut out, status);
        self.client.send(out);
    }

    /// Another server than the one that may have been sent a BEGIN is going to be used.
    pub(super) fn begin_anew(&mut self) {
        if self.begun == Begun::Sent {
            self.begun = Begun::Unsent;
        }
    }

    /// Sends the BEGIN that the client has been told of. True if there is one to wait for.
    pub(super) fn send_begin(&mut self, server: &mut ServerConnection) -> bool {
        if self.begun != Begun::Unsent {
            return false;
        }
        self.begun = Begun::Sent;
        server.send_own_query(BEGIN_TEXT);
        true
    }

    /// The server has answered what it was sent before the client's messages. False, with an error
    /// for the client, if that was a BEGIN and there is no transaction.
    pub(super) fn has_begun(&mut self, server: &ServerConnection) -> bool {
        if self.begun != Begun::Sent {
            return true;
        }
        self.begun = Begun::None;
        if server.status == TransactionStatus::InTransaction {
            self.card.note_begun();
            return true;
        }
        let text = "the server did not begin a transaction";
        self.fail(&Failure::new(sqlstate::CONNECTION_FAILURE, text));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_begin_with_its_semicolon_is_put_off() {
        let message = |text: &str| {
            let mut out = Vec::new();
            writer::query(&mut out, text.as_bytes());
            out
        };
        for text in ["begin;", "BEGIN;", "BeGiN;"] {
            assert!(is_begin(&message(text)), "{text}");
        }
        for text in [
            "begin", " begin;", "begin ;", "begin;;", "commit", "begix;", "",
        ] {
            assert!(!is_begin(&message(text)), "{text}");
        }
        let mut other = message("begin;");
        other[0] = b'F';
        assert!(!is_begin(&other));
        let mut longer = message("begin;");
        longer[4] = 12;
        assert!(!is_begin(&longer));
    }
}
