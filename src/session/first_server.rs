//! The first server of a pool, which tells what all of them report.
//!
//! **Owns:** waiting for it at a login.
//! **Does not own:** what is told to the client (`login`).
//!
//! **Invariant:** a login that gives up leaves no place in the queue behind, and a server that it was given
//! goes back.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::pool::base::Wait;
use crate::pool::{Acquired, CheckoutError, Pool, Ticket};
use crate::server::parameters::ParameterSet;

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

/// What servers of `pool` report: as another shard has learned, or the first server here.
///
/// # Errors
///
/// There is no server to be had.
pub async fn learn_base(pool: &Rc<Pool>) -> Result<Rc<ParameterSet>, Rc<CheckoutError>> {
    let mut waiting = Waiting(pool, None, pool.base.wait());
    poll_fn(|context| waiting.poll(context)).await
}
