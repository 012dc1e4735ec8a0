//! A session that goes to another process together with its server, and one that comes so.
//!
//! **Owns:** whether it may go, its leaving, its first step there.
//! **Does not own:** sessions without a server (`resume`), servers on their way (`pool::succession`).
//!
//! In session mode a client keeps its server: temporary tables, channels that it listens to, locks. So both
//! go, when nothing is under way between them.
//!
//! **Invariant:** a session never goes on without the server that it had: if that is lost, the client is told
//! and closed.

use std::rc::Rc;
use std::task::{Context, Poll};

use crate::protocol::backend::TransactionStatus;
use crate::protocol::sqlstate;
use crate::server::ServerConnection;
use crate::server::connection::Companion;
use crate::transport::Stream;

use super::client::{Phase, Session, Step};
use super::report::Failure;
use super::resume::SessionRecord;

impl Session {
    /// True if the session goes to another process now, with its server.
    pub(super) fn goes_with(
        &mut self,
        server: &ServerConnection,
        context: &mut Context<'_>,
    ) -> bool {
        if !self.shard.doors.are_handed_over() || self.is_transaction_mode() {
            return false;
        }
        self.client.poll_sent(0, context).is_ready()
            && self.client.send_error().is_none()
            && self.framer.is_at_boundary()
            && server.is_settled()
            && server.status == TransactionStatus::Idle
            && server.stream.queued_bytes() == 0
            && !server.stream.is_tls()
            && !server.lease.is_quarantined()
            && !server.lease.is_broken()
            && !self.has_farewell
            && !self.is_leaving
    }

    pub(super) fn leaving_together(
        &mut self,
        server: Box<ServerConnection>,
        context: &mut Context<'_>,
    ) -> Step {
        let Poll::Ready(detached) = self.client.poll_detach(context) else {
            self.phase = Phase::LeavingTogether(server);
            return Step::Wait;
        };
        let Some(record) = self.take_record(detached) else {
            self.pool.discard(server);
            return Step::End;
        };
        let pool = Rc::clone(&self.pool);
        self.shard.neighbours.emigrate_with(record, pool, server);
        Step::End
    }

    /// Goes on with the server that it has come with.
    pub fn go_on_with(&mut self, (mut server, unread): Companion) {
        server.card.note_client(&self.asked);
        if let Some(chunk) = unread
            && !self.relay(&mut server, chunk)
        {
            self.pool.discard(server);
            self.lose_company();
            return;
        }
        if let Some(slot) = &self.slot {
            slot.serve(&server.lease);
        }
        self.phase = Phase::Serving(server);
    }

    /// Tells the client that its server is lost, and ends the session.
    pub fn lose_company(&mut self) {
        self.fail(&lost());
        self.is_leaving = true;
    }
}

/// Closes a client that has no session any more, because its server is lost.
pub fn close_without_company(record: SessionRecord) {
    let (mut client, _) = Stream::attach(record.detached);
    client.send(lost().to_bytes());
}

fn lost() -> Failure {
    let text = "terminating connection due to administrator command";
    Failure::new(sqlstate::ADMIN_SHUTDOWN, text)
}
