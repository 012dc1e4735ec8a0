//! The first server of a pool, which tells what all of them report.
//!
//! **Owns:** waiting for it at a login.
//! **Does not own:** what is told to the client (`login`).
//!
//! Whose pool a reload replaces while it waits goes over to the new one: the server may have moved.
//!
//! **Invariant:** a login that gives up leaves no place in the queue behind, and a server that it was given
//! goes back.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::pool::base::Wait;
use crate::pool::{Acquired, CheckoutError, Pool, Ticket};
use crate::server::parameters::ParameterSet;

use super::directory::Tenant;
use super::shard::Shard;

/// A place in the queue, given up when dropped, and a wait for the word of another shard.
struct Waiting<'a>(&'a Rc<Pool>, Option<Ticket>, Wait<'a>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.1.take() {
            self.0.give_up(ticket);
        }
    }
}

impl Waiting<'_> {
    fn poll(&mut self, context: &Context<'_>) -> Poll<Result<Rc<ParameterSet>, Rc<CheckoutError>>> {
        if let Poll::Ready(base) = self.2.poll(context) {
            return Poll::Ready(Ok(base));
        }
        let outcome = match self.1 {
            Some(ticket) => self.0.collect(ticket, context.waker()),
            None => match self.0.acquire(context.waker()) {
                Acquired::Server(server) => Some(Ok(server)),
                Acquired::Waiting(ticket) => {
                    self.1 = Some(ticket);
                    None
                }
            },
        };
        let Some(outcome) = outcome else {
            return Poll::Pending;
        };
        self.1 = None;
        Poll::Ready(outcome.map(|server| {
            let base = Rc::clone(&server.base);
            self.0.give_back(server);
            base
        }))
    }
}

/// What servers of the tenant's pool report: as another shard has learned, or the first server here. If a
/// reload replaces the pool meanwhile, `tenant` is the new one.
///
/// # Errors
///
/// There is no server to be had.
pub async fn learn_base(
    shard: &Shard,
    tenant: &mut Rc<Tenant>,
) -> Result<Rc<ParameterSet>, Rc<CheckoutError>> {
    loop {
        let pool = &tenant.pool;
        let mut waiting = Waiting(pool, None, pool.base.wait());
        let learned = poll_fn(|context| match successor(shard, pool) {
            Some(successor) => Poll::Ready(Err(successor)),
            None => waiting.poll(context).map(Ok),
        });
        match learned.await {
            Ok(outcome) => return outcome,
            Err(successor) => {
                drop(waiting);
                *tenant = successor;
            }
        }
    }
}

/// The tenant with the pool that a reload has replaced `pool` by.
fn successor(shard: &Shard, pool: &Rc<Pool>) -> Option<Rc<Tenant>> {
    if !pool.is_retired() {
        return None;
    }
    let directory = shard.directory();
    let tenant = directory.tenant(&pool.key.database, &pool.key.user)?;
    (!Rc::ptr_eq(&tenant.pool, pool)).then(|| Rc::clone(tenant))
}
