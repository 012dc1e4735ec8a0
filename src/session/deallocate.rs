//! Commands that an idle client is answered without a server.
//!
//! **Owns:** which these are, and their answers.
//! **Does not own:** other messages that need no server (`local`).
//!
//! A client that has no server has no statements but those that the pooler knows, so `DEALLOCATE` of one
//! or of all changes nothing on any server. Drivers' pools send it, and `DISCARD ALL`, each time a
//! connection goes from one user to the next; run for real it would take the statements of everybody
//! from some server.
//!
//! **Invariant:** PostgreSQL would give the same answer. Whatever is not certain goes to a server.
//!
//! Source: PostgreSQL documentation, `sql-deallocate.html`, `sql-discard.html`.

use std::rc::Rc;

use crate::protocol::backend::TransactionStatus;
use crate::protocol::writer;
use crate::server::statements::text::Effect;

use super::client::Session;
use super::local::Begun;

/// Names from this length on are cut by PostgreSQL.
const NAME_BYTES_MAX: usize = 64;

impl Session {
    /// Answers a simple query of an idle client, if it can. `body` is the whole body of the message.
    pub(super) fn answers_itself(&mut self, body: &[u8]) -> bool {
        let is_managed = self.pool.settings.manages_statements() && !self.pool.is_retired();
        let Some((0, text)) = body.split_last() else {
            return false;
        };
        // A transaction has begun, or will have with the next message.
        if self.begun != Begun::None {
            return false;
        }
        if !is_managed || !text.is_ascii() || text.contains(&0) {
            return false;
        }
        let tag: &[u8] = match Effect::of(text) {
            Effect::None => return false,
            Effect::ForgetsAll if is_discard(text) => {
                // Settings that have been changed come back, and the client would be told.
                if !Rc::ptr_eq(&self.wanted, &self.asked) {
                    return false;
                }
                b"DISCARD ALL"
            }
            Effect::ForgetsAll => b"DEALLOCATE ALL",
            Effect::Forgets(name) => {
                let prepared = self.prepared.as_mut();
                let is_known = name.len() < NAME_BYTES_MAX
                    && prepared.is_some_and(|prepared| prepared.forget(&name));
                if !is_known {
                    return false;
                }
                b"DEALLOCATE"
            }
        };
        if let Some(prepared) = &mut self.prepared {
            prepared.forget_unnamed();
            if tag != b"DEALLOCATE" {
                prepared.forget_all();
            }
        }
        let mut out = Vec::new();
        writer::command_complete(&mut out, tag);
        writer::ready_for_query(&mut out, TransactionStatus::Idle);
        self.client.send(out);
        true
    }
}

fn is_discard(text: &[u8]) -> bool {
    let text = text.to_ascii_lowercase();
    memchr::memmem::find(&text, b"discard").is_some()
        && memchr::memmem::find(&text, b"deallocate").is_none()
}
