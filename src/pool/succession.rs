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

use std::rc::Rc;

use shards::spawn;

use crate::metrics::pool::Leave;
use crate::server::ServerConnection;
use crate::server::passport::{Mark, ServerRecord, mark};

use super::driver::Pool;
use super::permits;

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
