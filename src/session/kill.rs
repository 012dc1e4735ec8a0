//! Clients who are sent away: closed by an operator or for lateness, or from one pool to the one that
//! replaces it.
//!
//! **Owns:** what becomes of such a client, and what it is told.
//! **Does not own:** who is sent away (`orders`, `overtime`, a reload).

use std::rc::Rc;
use std::task::Context;

use crate::protocol::sqlstate;

use super::cancel::close_in_order;
use super::client::{Phase, Session, Step};
use super::ending::Ending;
use super::report::Failure;

/// What somebody is told whom an operator has closed.
pub(super) fn closed_by_operator() -> Failure {
    let text = "terminating connection due to administrator command";
    Failure::new(sqlstate::ADMIN_SHUTDOWN, text)
}

impl Session {
    /// An operator has this client closed. It is told, unless it is in the middle of an answer.
    ///
    /// At the end of the process it is closed when it has got that, and what was queued before.
    pub(super) fn killed(&mut self) -> Step {
        let step = self.dismiss(&closed_by_operator());
        if !self.shard.doors.is_over() {
            return step;
        }
        close_in_order(&self.client);
        self.card.part();
        Step::Again
    }

    /// Waits until the client has got its last words.
    pub(super) fn parting(&mut self, context: &mut Context<'_>) -> Step {
        if self.client.poll_sent(0, context).is_ready() {
            Step::End
        } else {
            Step::Wait
        }
    }

    /// Closes this client. It is told why, unless it is in the middle of an answer. What runs for it is
    /// cancelled, even if it has said good-bye.
    pub(super) fn dismiss(&mut self, failure: &Failure) -> Step {
        self.ending = Ending::told(failure);
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Serving(server) => {
                if server.framer.is_at_boundary() && !self.has_farewell {
                    self.fail(failure);
                }
                if let Some(slot) = &self.slot {
                    slot.rest();
                }
                self.cut_short(server);
            }
            phase => {
                self.fail(failure);
                // What it had is given up as the session is dropped.
                self.phase = phase;
            }
        }
        Step::End
    }

    /// True if the pool whose queue this client stands in was replaced by another one of its names.
    pub(super) fn is_replaced(&self) -> bool {
        let key = &self.pool.key;
        self.pool.is_retired()
            && self
                .shard
                .directory()
                .tenant(&key.database, &key.user)
                .is_some_and(|tenant| !Rc::ptr_eq(&tenant.pool, &self.pool))
    }
}
