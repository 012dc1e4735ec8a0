//! Cancel requests on their way to servers.
//!
//! **Owns:** the connections that bring them, how many there are at once, the queue before them.
//! **Does not own:** whose statement it is (`session::cancel`), whether the request is still wanted
//! and what it means for the server connection (`lease`).
//!
//! **Invariants**
//! 1. A request is sent only if its lease says so after the connection has been made.
//! 2. Every request that was accepted ends: sent and closed, given up before it was sent, or failed
//!    at its deadline.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` "Canceling Requests in Progress".

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use shards::spawn;

use crate::metrics::{Droppable, Fleet};
use crate::protocol::writer;
use crate::transport::Stream;

use super::error::ServerError;
use super::lease::{Asked, CancelTarget, Lease, Request};

/// Connections with cancel requests that a shard has open at once. PostgreSQL forks a process for
/// each, before it knows what is wanted; its listen queue has to take the fleet's sum at once.
const AT_ONCE_MAX: usize = 64;
/// Requests that wait for one of them. A request takes about a millisecond, so these are gone in
/// less than a tenth of a second; more of them only mean that the server does not accept.
const QUEUED_MAX: usize = 4096;

/// Sends the cancel requests of a shard.
pub struct Canceller {
    fleet: Fleet,
    shard: usize,
    queue: RefCell<VecDeque<(Rc<Lease>, Request)>>,
    running: Cell<usize>,
}

impl Canceller {
    /// The canceller of shard `shard`, which counts in `fleet`.
    pub fn new(fleet: Fleet, shard: usize) -> Rc<Self> {
        Rc::new(Self {
            fleet,
            shard,
            queue: RefCell::default(),
            running: Cell::new(0),
        })
    }

    /// Asks for a cancel of what runs on the server of `lease`. It goes its way whether or not
    /// somebody waits for it with [`Lease::over`]; `None` if there is nothing to cancel, or too much.
    pub fn cancel(self: &Rc<Self>, lease: &Rc<Lease>) -> Option<Request> {
        let request = match lease.ask() {
            Asked::Refused => return None,
            Asked::Joined(request) => return Some(request),
            Asked::First(request) => request,
        };
        if self.queue.borrow().len() >= QUEUED_MAX {
            self.fleet.shard(self.shard).dropped(Droppable::Cancel);
            lease.withdraw(request);
            return None;
        }
        self.queue
            .borrow_mut()
            .push_back((Rc::clone(lease), request));
        if self.running.get() < AT_ONCE_MAX {
            let place = Place::new(Rc::clone(self));
            spawn(async move { place.work().await });
        }
        Some(request)
    }
}

/// One of the [`AT_ONCE_MAX`] places. Free again when dropped.
struct Place(Rc<Canceller>);

impl Place {
    fn new(canceller: Rc<Canceller>) -> Self {
        canceller.running.set(canceller.running.get() + 1);
        Self(canceller)
    }

    /// Sends requests until none is left.
    async fn work(&self) {
        loop {
            let next = self.0.queue.borrow_mut().pop_front();
            let Some((lease, request)) = next else { return };
            let attempt = Attempt { lease, request };
            if let (true, Some(target)) = (attempt.is_wanted(), attempt.lease.target()) {
                self.run(&attempt, target).await;
            }
        }
    }

    async fn run(&self, attempt: &Attempt, target: &CancelTarget) {
        let deadline = Instant::now() + target.timeout;
        let mut stream = match shards::until(deadline, connect(target)).await {
            Some(Ok(stream)) => stream,
            failed @ (None | Some(Err(_))) => {
                let error = failed.and_then(Result::err);
                tracing::warn!(
                    pid = target.pid,
                    ?error,
                    "cancel request not sent: no connection"
                );
                return attempt.lease.withdraw(attempt.request);
            }
        };
        if !attempt.lease.send(attempt.request) {
            return;
        }
        let mut out = Vec::new();
        writer::cancel_request(&mut out, target.pid, &target.secret);
        stream.send(out);
        self.0.fleet.shard(self.0.shard).cancels_sent.add(1);
        let deadline = Instant::now() + target.timeout;
        if shards::until(deadline, ended(&mut stream)).await == Some(true) {
            tracing::debug!(pid = target.pid, "cancel request sent");
            attempt.lease.close(attempt.request);
        } else {
            tracing::warn!(
                pid = target.pid,
                "no answer to a cancel request, the server connection will be closed"
            );
            stream.abort();
            attempt.lease.fail(attempt.request);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

/// A request being sent. If its task ends early, nobody knows whether it was.
struct Attempt {
    lease: Rc<Lease>,
    request: Request,
}

impl Attempt {
    fn is_wanted(&self) -> bool {
        self.lease.is_waiting(self.request)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.lease.withdraw(self.request);
        if !self.lease.is_over(self.request) {
            self.lease.fail(self.request);
        }
    }
}

/// Connects to where the server connection is, not to where its name leads by now.
async fn connect(target: &CancelTarget) -> Result<Stream, ServerError> {
    let socket = &target.socket;
    socket.connect_again(target.peer, target.is_tls).await
}

/// True when the peer has closed in an orderly way. PostgreSQL says nothing before.
async fn ended(stream: &mut Stream) -> bool {
    loop {
        match stream.receive().await {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}
