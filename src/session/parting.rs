//! When one side of a session has gone.
//!
//! **Owns:** what becomes of the server, and what the client is told.
//! **Does not own:** noticing it (`client`).
//!
//! **Invariant:** a server that still owes something to a client who has gone is never lent again. A
//! statement that runs for nobody is cancelled before its connection is closed: PostgreSQL would run
//! it to its end.

use std::rc::Rc;
use std::time::Instant;

use shards::spawn;

use crate::protocol::framer::HEADER_BYTES;
use crate::protocol::sqlstate;
use crate::server::ServerConnection;
use crate::server::reset::Leftovers;

use super::client::{Session, Step};
use super::ending::Ending;
use super::report::Failure;

impl Session {
    /// True if the last that a client has sent, who has closed, is a good-bye: what comes before it is
    /// still to be run. Whoever closes without one does not want it any more.
    pub(super) fn has_said_good_bye(&mut self) -> bool {
        let mut held = self.input.as_deref().unwrap_or_default().to_vec();
        let before = held.len();
        while let Some(chunk) = self.client.take_received() {
            held.extend_from_slice(&chunk);
        }
        let says_good_bye = ends_with_good_bye(&held);
        if held.len() > before {
            self.input = Some(self.client.chunk_of(held));
        }
        says_good_bye
    }

    /// The server will say nothing more. A client that is between two transactions has lost nothing.
    pub(super) fn server_ended(&mut self, server: Box<ServerConnection>) -> Step {
        let is_whole = server.sync.is_settled() && server.framer.is_at_boundary();
        let had_farewell = std::mem::take(&mut self.has_farewell);
        if !is_whole || !self.may_release(&server) {
            self.has_farewell = had_farewell;
            self.server_gone(server);
            return Step::End;
        }
        self.take_back_part();
        self.pool.discard(server);
        Step::Again
    }

    /// The client has gone while it had a server.
    pub(super) fn client_gone(&mut self, mut server: Box<ServerConnection>) {
        server.sync.forget_promised();
        // One who has said good-bye leaves what was asked before to PostgreSQL.
        let runs_for_nobody = server.sync.owed_count() > 0 && !self.is_leaving;
        if self.is_message_cut() {
            server.sync.cut_off();
        }
        if !server.is_settled() || self.has_farewell {
            if runs_for_nobody && !self.has_farewell {
                self.cancel_and_discard(server);
            } else {
                self.pool.discard(server);
            }
            return;
        }
        if !self.is_transaction_mode() {
            server.leftovers.add(Leftovers::EVERYTHING);
        }
        self.pool.give_back(server);
    }

    /// The client is closed while it has a server: nobody waits any more for what it has asked.
    pub(super) fn cut_short(&mut self, mut server: Box<ServerConnection>) {
        if server.sync.owed_count() == 0 || !self.is_leaving {
            self.client_gone(server);
            return;
        }
        server.sync.forget_promised();
        self.cancel_and_discard(server);
    }

    /// Closes the server once what runs on it has been cancelled. Until then it counts as lent, as
    /// PostgreSQL has the session still.
    fn cancel_and_discard(&self, mut server: Box<ServerConnection>) {
        let Some(request) = self.shard.cancels.canceller().cancel(&server.lease) else {
            self.pool.discard(server);
            return;
        };
        // Whatever it says is for nobody.
        server.stream.pause();
        let pool = Rc::clone(&self.pool);
        spawn(async move {
            let lease = Rc::clone(&server.lease);
            // Many may be before it; the server's place is worth more than its statement.
            let deadline = Instant::now() + 2 * pool.settings.connect_timeout.get();
            shards::until(deadline, lease.over(request)).await;
            pool.discard(server);
        });
    }

    /// The server has gone while a client had it.
    pub(super) fn server_gone(&mut self, server: Box<ServerConnection>) {
        tracing::warn!(
            pool = %self.pool.key.database, pid = server.pid(), "server closed the connection"
        );
        self.ending = Ending::Told(sqlstate::CONNECTION_FAILURE);
        // In the middle of a message nothing can be said.
        if server.framer.is_at_boundary() && !self.has_farewell {
            let text = "server closed the connection unexpectedly";
            self.fail(&Failure::new(sqlstate::CONNECTION_FAILURE, text));
        }
        self.pool.discard(server);
    }
}

/// True if `bytes` are whole messages, the last of which is `Terminate`.
fn ends_with_good_bye(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some((&[tag, l0, l1, l2, l3], _)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        match rest.get(1 + length..) {
            Some([]) => return tag == b'X',
            Some(next) => rest = next,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_bye_counts_only_as_the_last_whole_message() {
        let query = b"Q\0\0\0\x07hi\0";
        let good_bye = b"X\0\0\0\x04";
        assert!(ends_with_good_bye(good_bye));
        assert!(ends_with_good_bye(&[&query[..], good_bye].concat()));
        assert!(!ends_with_good_bye(b""));
        assert!(!ends_with_good_bye(query));
        assert!(!ends_with_good_bye(&[&good_bye[..], query].concat()));
        assert!(!ends_with_good_bye(&[&query[..6], good_bye].concat()));
        assert!(!ends_with_good_bye(&good_bye[..4]));
        assert!(!ends_with_good_bye(b"X\0\0\0\0"));
    }
}
