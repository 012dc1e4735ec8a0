//! One port on one shard: its listening socket, and the connections that came through it.
//!
//! **Owns:** accepting, connecting to a backend, which connections end when the plan changes.
//! **Does not own:** the choice (`balance`), the bytes (`relay`), the plan (`plans`).
//!
//! **Invariants**
//! 1. A connection is registered for its backend before it begins to connect: no removal misses it.
//! 2. A connection whose backend goes before it is reached gets another one.
//! 3. Connections whose backend stays in the plan notice nothing of a new plan.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shards::{Listener, Socket, Stream, connect_tcp, now, sleep_until, spawn, until};
use socket2::SockRef;

use crate::balance::{Backend, choose};
use crate::listen::set_options;
use crate::message::Plan;
use crate::numbers::Load;
use crate::relay;
use crate::signal::Signal;

/// One port.
pub(crate) struct Port {
    shard: usize,
    plan: RefCell<Arc<Plan>>,
    closing: Signal,
    next: Cell<u64>,
    guests: RefCell<HashMap<u64, Rc<Guest>>>,
    /// Connections of all ports of this shard.
    census: Rc<Cell<usize>>,
}

/// A connection to a backend, or a try.
struct Guest {
    key: Arc<str>,
    cut: Signal,
    leave_by: Cell<Option<Instant>>,
    load: Arc<Load>,
}

/// Keeps a guest registered.
struct Registered {
    port: Rc<Port>,
    number: u64,
    guest: Rc<Guest>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.guest.load.close_one();
        self.port.guests.borrow_mut().remove(&self.number);
    }
}

/// Keeps a connection counted.
struct Counted {
    plan: Arc<Plan>,
    census: Rc<Cell<usize>>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.plan.numbers.open.close_one();
        self.census.set(self.census.get().saturating_sub(1));
    }
}

impl Port {
    /// A port of the shard with this number.
    pub(crate) fn new(shard: usize, plan: Arc<Plan>, census: Rc<Cell<usize>>) -> Rc<Self> {
        Rc::new(Self {
            shard,
            plan: RefCell::new(plan),
            closing: Signal::default(),
            next: Cell::new(0),
            guests: RefCell::default(),
            census,
        })
    }

    /// The plan it goes by.
    pub(crate) fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.borrow())
    }

    /// Accepts on `socket` until the port is closed.
    pub(crate) async fn accept(self: Rc<Self>, socket: Socket) {
        let mut listener = Listener::new(socket);
        while let Some(accepted) = self.closing.unless(listener.accept()).await {
            match accepted {
                Ok(socket) => spawn(Rc::clone(&self).serve(socket)),
                Err(error) => {
                    let label = self.plan().label.clone();
                    tracing::error!("Port '{label}' error: Failed to accept: {error}");
                    return;
                }
            }
        }
    }

    /// One connection from its arrival to its end.
    async fn serve(self: Rc<Self>, socket: OwnedFd) {
        let plan = self.plan();
        let numbers = plan.numbers.of(self.shard);
        numbers.accepted.add(1);
        let peer = peer(&socket);
        let Some(_counted) = self.admit(&plan) else {
            numbers.refused.add(1);
            let (label, max) = (&plan.label, plan.connections_max);
            tracing::warn!("Port '{label}': {max} connections are open, closing one from {peer}");
            return;
        };
        let mut near = Stream::new(socket);
        let mut tried = Vec::new();
        while let Some((backend, registered)) = self.register(&tried) {
            let cut = &registered.guest.cut;
            let mut far = match cut.unless(connect(&backend, &self.plan())).await {
                Some(Ok(far)) => far,
                Some(Err(error)) => {
                    numbers.connect_failures.add(1);
                    let (label, host) = (&plan.label, &backend.host);
                    tracing::debug!("Port '{label}': cannot connect to '{host}': {error}");
                    tried.push(backend.key);
                    continue;
                }
                None if self.closing.is_set() => return,
                None => continue,
            };
            let counters = (&numbers.from_clients, &numbers.from_backends);
            let relayed = relay::join(&mut near, &mut far, counters);
            if cut.unless(relayed).await.is_none() {
                numbers.cut.add(1);
                near.abort();
                far.abort();
            }
            return;
        }
        let label = self.plan().label.clone();
        if tried.is_empty() {
            numbers.without_backend.add(1);
            tracing::warn!("Port '{label}': no backends available, closing connection from {peer}");
        } else {
            numbers.unreachable.add(1);
            let count = tried.len();
            tracing::warn!(
                "Port '{label}': none of {count} backends could be reached, closing connection from {peer}"
            );
        }
    }

    /// Counts a connection, unless there are as many as there may be.
    fn admit(&self, plan: &Arc<Plan>) -> Option<Counted> {
        self.census.set(self.census.get() + 1);
        let before = plan.numbers.open.open_one();
        let counted = Counted {
            plan: Arc::clone(plan),
            census: Rc::clone(&self.census),
        };
        (plan.connections_max == 0 || before < plan.connections_max).then_some(counted)
    }

    /// Chooses a backend and registers a guest of it.
    fn register(self: &Rc<Self>, tried: &[Arc<str>]) -> Option<(Backend, Registered)> {
        if self.closing.is_set() {
            return None;
        }
        let backend = choose(&self.plan.borrow().backends, tried)?.clone();
        backend.load.open_one();
        let number = self.next.get();
        self.next.set(number + 1);
        let guest = Rc::new(Guest {
            key: Arc::clone(&backend.key),
            cut: Signal::default(),
            leave_by: Cell::new(None),
            load: Arc::clone(&backend.load),
        });
        self.guests.borrow_mut().insert(number, Rc::clone(&guest));
        let registered = Registered {
            port: Rc::clone(self),
            number,
            guest,
        };
        Some((backend, registered))
    }

    /// Goes on with another plan.
    pub(crate) fn replan(self: &Rc<Self>, plan: Arc<Plan>) {
        let drain = plan.drain;
        let mut are_leaving = false;
        for guest in self.guests.borrow().values() {
            if plan.backends.iter().any(|one| one.key == guest.key) {
                guest.leave_by.set(None);
            } else if plan.resting.contains(&guest.key) && !drain.is_zero() {
                are_leaving = true;
                let first = guest.leave_by.get();
                guest
                    .leave_by
                    .set(first.or_else(|| now().checked_add(drain)));
            } else {
                guest.cut.set();
            }
        }
        *self.plan.borrow_mut() = plan;
        if are_leaving {
            self.cut_after(drain);
        }
    }

    /// Accepts no more, and cuts what is still open after `drain`.
    pub(crate) fn close(self: &Rc<Self>, drain: Duration) {
        self.closing.set();
        let leave_by = now().checked_add(drain);
        for guest in self.guests.borrow().values() {
            if drain.is_zero() {
                guest.cut.set();
            } else {
                guest.leave_by.set(leave_by);
            }
        }
        if !drain.is_zero() {
            self.cut_after(drain);
        }
    }

    /// Cuts those whose time is over then.
    fn cut_after(self: &Rc<Self>, drain: Duration) {
        let Some(deadline) = now().checked_add(drain) else {
            return;
        };
        let port = Rc::downgrade(self);
        spawn(async move {
            sleep_until(deadline).await;
            let Some(port) = port.upgrade() else { return };
            let is_late = |guest: &&Rc<Guest>| guest.leave_by.get().is_some_and(|by| by <= now());
            for guest in port.guests.borrow().values().filter(is_late) {
                guest.cut.set();
            }
        });
    }
}

/// Who is at the other end, for the log.
fn peer(socket: &OwnedFd) -> String {
    let address = SockRef::from(socket).peer_addr().ok();
    let address = address.and_then(|address| address.as_socket());
    address.map_or_else(|| "unknown".to_owned(), |address| address.to_string())
}

/// Tries the addresses of a backend in their order.
async fn connect(backend: &Backend, plan: &Plan) -> io::Result<Stream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    for address in backend.addresses.iter() {
        let attempt = connect_tcp(*address, |socket| {
            set_options(socket, &plan.sockets);
            Ok(())
        });
        let Some(deadline) = now().checked_add(plan.connect_timeout) else {
            return attempt.await;
        };
        match until(deadline, attempt).await {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => last = error,
            None => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}
