//! Servers that go to another process, and those that come from one.
//!
//! **Owns:** taking servers off this process that it has no permits for any more, and putting those of another
//! one in their pools.
//! **Does not own:** how many there may be (`app::succession` changes the sizes), what a server is as bytes
//! (`server::passport`), the way between the processes.
//!
//! ```text
//!   a permit is destroyed ──▶ closing ──▶ packed ──▶ record ──▶ control ──▶ the other process
//!   record ──▶ arrival at home ── a permit is made ──▶ idle, or to a waiter
//! ```
//!
//! **Invariants**
//! 1. A server counts as leaving before its permit ceases to count, until it has been sent.
//! 2. A server of another process gets a permit that was made for it, or is closed.
//! 3. It is used only if it leads where this pool's own would.
//! 4. A server that comes with its client is lent to that one, and to nobody else.

use std::future::poll_fn;
use std::rc::Rc;

use shards::spawn;
use tokio::sync::oneshot::{self, Receiver};

use crate::metrics::pool::Leave;
use crate::server::ServerConnection;
use crate::server::connection::{Awaited, Companion};
use crate::server::passport::{Mark, ServerRecord, mark};

use super::driver::Pool;
use super::permits;
use super::travel::DETACH_MAX;

/// The shard that servers of a pool are to be given to.
pub fn home_of(database: &str, user: &str, count: usize) -> usize {
    permits::home(permits::hash(database, user), count)
}

impl Pool {
    /// Notes that so many servers leave, if they do instead of being closed.
    pub(super) fn leaves(&self, count: usize) -> Vec<Leave> {
        if !self.host.departs() {
            return Vec::new();
        }
        (0..count).map(|_| self.metrics.leave()).collect()
    }

    pub(super) fn emigrate(self: &Rc<Self>, server: Box<ServerConnection>, leave: Leave) {
        if server.stream.is_tls() {
            self.close(server);
        } else {
            spawn(emigrate(Rc::clone(self), server, leave));
        }
    }

    fn mark(&self) -> Mark {
        mark(&self.settings.socket.borrow(), &self.settings.login)
    }

    /// Takes a lent and settled server off this process, for a client that goes there with it. `None` if it
    /// cannot go.
    pub async fn emigrate_lent(
        self: &Rc<Self>,
        mut server: Box<ServerConnection>,
    ) -> Option<(Box<ServerRecord>, Leave)> {
        let deadline = shards::now() + DETACH_MAX;
        let quiescent = poll_fn(|context| server.stream.poll_quiescent(context));
        let has_let_go = shards::until(deadline, quiescent).await.is_some();
        if !has_let_go || !server.is_settled() || server.stream.is_tls() {
            self.discard(server);
            return None;
        }
        // Before it ceases to count.
        let leave = self.metrics.leave();
        server.lease.give_back();
        let travelling = self.take_off(server).await;
        self.part.borrow_mut().discard(shards::now());
        self.open_more();
        let whose = (&*self.key.database, &*self.key.user, self.mark());
        let record = ServerRecord::new(whose, *travelling, self.generation())?;
        Some((Box::new(record), leave))
    }

    /// Takes a server that a client of another process has come with. It arrives when the next change of sizes
    /// has made room for it; if it does not, it ends.
    pub fn take_in_lent(self: &Rc<Self>, record: ServerRecord) -> Option<Receiver<Companion>> {
        if self.is_retired() || record.mark != self.mark() {
            return None;
        }
        let right = self.take_rights(1).pop()?;
        let (mut server, unread) = self.put_on(record.into_travelling(right));
        self.learn_base(&server.base);
        let (client, arrives) = oneshot::channel();
        server.awaited = Some(Box::new(Awaited { client, unread }));
        self.part.borrow_mut().arrive_lent(server);
        Some(arrives)
    }

    pub(super) fn give_to_companion(self: &Rc<Self>, mut server: Box<ServerConnection>) {
        let Some(awaited) = server.awaited.take() else {
            self.discard(server);
            return;
        };
        if let Err((server, _)) = awaited.client.send((server, awaited.unread)) {
            // The client has gone, and with it who knows the session.
            self.discard(server);
        }
    }

    /// Takes a server of another process, for which the next change of sizes makes room.
    pub fn take_in(self: &Rc<Self>, record: ServerRecord) {
        if self.is_retired() || record.mark != self.mark() {
            tracing::info!(pool = %self.key.database, "a server of the old process leads elsewhere, it is closed");
            return;
        }
        let Some(right) = self.take_rights(1).pop() else {
            return;
        };
        let Some(server) = self.unpack(record.into_travelling(right)) else {
            return;
        };
        self.learn_base(&server.base);
        let expires = server.expires;
        self.part.borrow_mut().arrive(server, expires);
    }
}

async fn emigrate(pool: Rc<Pool>, server: Box<ServerConnection>, leave: Leave) {
    let Some(travelling) = pool.pack(server).await else {
        return;
    };
    let whose = (&*pool.key.database, &*pool.key.user, pool.mark());
    if let Some(record) = ServerRecord::new(whose, *travelling, pool.generation()) {
        pool.host.mail.emigrate(Box::new(record), leave);
    }
}
