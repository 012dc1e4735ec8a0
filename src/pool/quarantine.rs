//! Servers that come back while a cancel request for them is on its way.
//!
//! **Owns:** keeping them back.
//! **Does not own:** when the request is over (`server::lease`), sending it (`server::cancel`).
//!
//! **Invariant:** a server in quarantine counts as lent, and nobody sends anything on it, the pooler's
//! own cleaning included: the request may hit whatever runs. It ends within the deadlines of the
//! request, so no server stays here.

use std::rc::Rc;

use crate::server::ServerConnection;

use super::cleaner;
use super::driver::Pool;

/// Keeps `server` until no request for it is on its way, then gives it back once more.
pub(super) async fn wait(pool: Rc<Pool>, mut server: Box<ServerConnection>) {
    tracing::debug!(
        pid = server.pid(),
        "server kept back, a cancel request is on its way"
    );
    let lease = Rc::clone(&server.lease);
    lease.released().await;
    // What it said meanwhile is not for the next client.
    if server.stream.has_received() && !cleaner::read_unasked(&pool, &mut server) {
        pool.discard(server);
        return;
    }
    pool.give_back(server);
}
