//! How far a client may be ahead of the answers.
//!
//! **Owns:** when a client is not read because of what it is owed.
//! **Does not own:** the queue of owed replies (`server::sync`), the window to the server (`client`).
//!
//! A server is not sent what the pooler answers itself, so nothing on the wire bounds how much of
//! that a client may ask without a Sync. Beyond `OWED_MAX` the pooler gives what is due, asks the
//! server for what it has written so far with a Flush, and reads the client again when enough has
//! been answered. PostgreSQL may answer before a Sync as well, when its buffer is full.
//!
//! **Invariant:** a client that is not read has something to read itself, or a server that works.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Extended Query", "Pipelining".

use std::task::Context;

use crate::server::ServerConnection;

use super::awaiting::owes_answers;
use super::client::{Session, WINDOW_BYTES};
use super::relay::{bare, deliver_promised};

/// Requests that may be owed before no more are read. A chunk of them may come on top: some
/// megabytes in all.
const OWED_MAX: usize = 8192;

impl Session {
    /// True if nothing more of the client is to be read for now.
    pub(super) fn is_ahead(
        &mut self,
        server: &mut ServerConnection,
        context: &mut Context<'_>,
    ) -> bool {
        if self.is_waiting {
            if owes_answers(server) {
                self.client.pause();
                return true;
            }
            self.is_waiting = false;
        }
        if self.client.queued_bytes() > WINDOW_BYTES {
            self.client.pause();
            let sent = self.client.poll_sent(WINDOW_BYTES / 2, context);
            if sent.is_pending() {
                return true;
            }
        }
        self.has_caught_up(server);
        let owed_max = self.owed_max();
        // In the middle of a message nothing can be asked: the rest of it comes first.
        if server.sync.owed_count() <= owed_max || self.is_message_cut() {
            return false;
        }
        if server.framer.is_at_boundary() {
            deliver_promised(server, &mut self.client, self.prepared.as_deref_mut());
        }
        if server.sync.owed_count() <= owed_max {
            return false;
        }
        if let Some(prepared) = &mut self.prepared
            && !prepared.is_ahead
        {
            prepared.is_ahead = true;
            server.stream.send(bare(b'H').to_vec());
        }
        self.client.pause();
        true
    }

    /// True once when a client that was too far ahead is to be read again.
    pub(super) fn has_caught_up(&mut self, server: &ServerConnection) -> bool {
        if self.is_waiting && !owes_answers(server) {
            return true;
        }
        let is_due = server.sync.owed_count() <= OWED_MAX / 2;
        let prepared = self.prepared.as_mut().filter(|one| one.is_ahead && is_due);
        prepared.is_some_and(|prepared| std::mem::take(&mut prepared.is_ahead))
    }

    /// Where nothing is promised the wire bounds what is owed.
    fn owed_max(&self) -> usize {
        match &self.prepared {
            None => usize::MAX,
            Some(prepared) if prepared.is_ahead => OWED_MAX / 2,
            Some(_) => OWED_MAX,
        }
    }
}
