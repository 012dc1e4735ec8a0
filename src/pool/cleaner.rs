//! Work on a server between two clients: removing what one left behind, trying whether it is alive.
//!
//! **Owns:** the tasks that do it, and reading what a server says unasked.
//! **Does not own:** what is to be removed (`server::reset`).
//!
//! **Invariant:** a server leaves here clean and checked in, or closed.

use std::rc::Rc;
use std::time::Instant;

use shards::Chunk;

use crate::protocol::backend::{ParameterStatus, ReadyForQuery, TransactionStatus};
use crate::server::ServerConnection;
use crate::server::parameters::{ParameterSet, is_report};
use crate::server::reset::Leftovers;
use crate::server::sync::{Owner, Reply};

use super::driver::Pool;

/// Runs the resets that `server` needs, then checks it in; closes it if that fails.
pub(super) async fn clean(pool: Rc<Pool>, mut server: Box<ServerConnection>) {
    let in_transaction = server.status != TransactionStatus::Idle;
    let resets_settings = server.leftovers.contains(Leftovers::SETTINGS)
        || server.leftovers.contains(Leftovers::EVERYTHING);
    let has_forgotten_all = server.baits.are_too_many();
    server
        .leftovers
        .add_if(has_forgotten_all, Leftovers::STATEMENTS);
    let statements = server.leftovers.statements(in_transaction);
    let text = statements.join("; ");
    tracing::debug!(pid = server.pid(), statements = %text, "server cleaned");
    for statement in &statements {
        server.send_own_query(statement);
    }
    server.send_closes_of_baits();
    if !settle(&pool, &mut server).await {
        tracing::warn!(pid = server.pid(), statements = %text, "cleaning failed, server closed");
        pool.discard(server);
        return;
    }
    let forgets_statements = server.leftovers.contains(Leftovers::STATEMENTS)
        || server.leftovers.contains(Leftovers::EVERYTHING);
    if forgets_statements {
        server.statements.forgotten();
    }
    server.leftovers = Leftovers::default();
    if resets_settings {
        server.applied = pool.intern(ParameterSet::default());
    }
    if server.is_clean() {
        pool.check_in(server);
    } else {
        pool.discard(server);
    }
}

/// Tries whether an idle server still answers, then checks it in; closes it if not.
pub(super) async fn verify(pool: Rc<Pool>, mut server: Box<ServerConnection>) {
    server.send_own_query(";");
    if settle(&pool, &mut server).await && server.is_clean() {
        pool.check_in(server);
    } else {
        tracing::info!(pid = server.pid(), "idle server did not answer, closed");
        pool.discard(server);
    }
}

/// Reads until nothing is owed. False if the server failed, refused, or took too long.
async fn settle(pool: &Pool, server: &mut ServerConnection) -> bool {
    let deadline = Instant::now() + pool.settings.connect_timeout.get();
    let read = async {
        while !server.is_settled() {
            let Ok(Some(chunk)) = server.stream.receive().await else {
                return false;
            };
            if !read_own_replies(pool, server, chunk) {
                return false;
            }
        }
        true
    };
    shards::until(deadline, read).await == Some(true)
}

/// Reads replies to the pooler's own queries. False if the server is of no further use.
pub(super) fn read_own_replies(
    pool: &Pool,
    server: &mut ServerConnection,
    mut chunk: Chunk,
) -> bool {
    loop {
        let (tag, used, is_last, status) = match server.framer.next(&chunk) {
            Ok(None) => return true,
            Err(_) => return false,
            Ok(Some(part)) => {
                let body = part.body.filter(|_| part.is_last);
                let status = body.filter(|_| part.tag == b'Z').map(ReadyForQuery::decode);
                if let (b'S', Some(body)) = (part.tag, body) {
                    note_parameter(&server.base, pool, &mut server.applied, body);
                }
                (part.tag, part.len, part.is_last, status)
            }
        };
        chunk.advance(used);
        if !is_last {
            continue;
        }
        match server.sync.received(tag) {
            Reply::Of(Owner::Pooler) | Reply::Unasked if tag != b'E' => {}
            Reply::Of(_) | Reply::Unasked | Reply::OutOfStep => return false,
        }
        if let Some(Ok(ready)) = status {
            server.status = ready.status;
        }
    }
}

/// Reads what an idle server says. False if it has ended or said something that it must not.
pub(super) fn read_unasked(pool: &Pool, server: &mut ServerConnection) -> bool {
    while let Some(chunk) = server.stream.take_received() {
        if !read_own_replies(pool, server, chunk) {
            return false;
        }
    }
    !server.stream.has_ended() && server.is_settled()
}

/// Notes a parameter that the server reports: applied if it differs from the server's default.
pub fn note_parameter(
    base: &ParameterSet,
    pool: &Pool,
    applied: &mut Rc<ParameterSet>,
    body: &[u8],
) {
    let Some((name, value)) = ParameterStatus::text(body) else {
        return;
    };
    if is_report(name) {
        pool.note_report(name, value);
        return;
    }
    let mut set = (**applied).clone();
    if base.get(name) == Some(value) {
        set.remove(name);
    } else {
        set.set(name, value);
    }
    *applied = pool.intern(set);
}
