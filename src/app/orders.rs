//! Orders of consoles on their way to other shards and to the control thread.
//!
//! **Owns:** the orders that are not answered yet.
//! **Does not own:** what they are (`session::orders`), the errands (`errands`).
//!
//! **Invariant:** nothing waits for an order but the console that gave it; an answer that nobody waits
//! for any more is dropped.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::admin::Sockets;
use crate::session::orders::{Answer, Order, Outcome, Staff};

use super::errands::ErrandDesk;
use super::mailbox::{ShardMessage, Work, WorkResult};
use super::post::PostOffice;

/// How long a full lane to control is left alone.
const RETRY: Duration = Duration::from_millis(5);

enum State {
    Open(Option<Waker>),
    Done(Outcome),
}

/// The orders of a shard's consoles.
pub struct OrderBook {
    office: Rc<PostOffice>,
    errands: Rc<ErrandDesk>,
    next: Cell<u32>,
    open: RefCell<HashMap<u32, State>>,
}

/// Forgets an order that nobody waits for any more.
struct Ticket(Rc<OrderBook>, u32);

impl Drop for Ticket {
    fn drop(&mut self) {
        let state = self.0.open.borrow_mut().remove(&self.1);
        drop(state);
    }
}

impl OrderBook {
    /// A book without orders.
    pub fn new(office: Rc<PostOffice>, errands: Rc<ErrandDesk>) -> Rc<Self> {
        Rc::new(Self {
            office,
            errands,
            next: Cell::new(0),
            open: RefCell::default(),
        })
    }

    /// Takes the answer to an order.
    pub fn answer(&self, ticket: u32, outcome: Outcome) {
        let mut open = self.open.borrow_mut();
        let Some(state) = open.get_mut(&ticket) else {
            return;
        };
        let before = std::mem::replace(state, State::Done(outcome));
        drop(open);
        if let State::Open(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl Ticket {
    fn poll(&self, waker: &Waker) -> Poll<Outcome> {
        let mut open = self.0.open.borrow_mut();
        if let Some(State::Done(outcome)) = open.remove(&self.1) {
            return Poll::Ready(outcome);
        }
        open.insert(self.1, State::Open(Some(waker.clone())));
        Poll::Pending
    }
}

/// The book as consoles know it.
pub struct BookStaff(pub Rc<OrderBook>);

/// Tells the control thread something; the lane to it may be full for a while.
fn tell(desk: &Rc<ErrandDesk>, work: fn() -> Work) {
    let desk = Rc::clone(desk);
    shards::spawn(async move {
        // The answer to some of it is the end of the process.
        while Rc::clone(&desk).run(work()).await.is_err() {
            shards::sleep(RETRY).await;
        }
    });
}

impl Staff for BookStaff {
    fn order(&self, shard: usize, order: Order) -> Answer<Outcome> {
        let book = Rc::clone(&self.0);
        let ticket = book.next.get();
        book.next.set(ticket.wrapping_add(1));
        book.open.borrow_mut().insert(ticket, State::Open(None));
        let order = Box::new(order);
        book.office
            .send(shard, ShardMessage::Order { ticket, order });
        let ticket = Ticket(book, ticket);
        Box::pin(async move { Ok(poll_fn(|context| ticket.poll(context.waker())).await) })
    }

    fn set(&self, key: String, value: String) -> Answer<Result<(), String>> {
        let errand = Rc::clone(&self.0.errands).run(Work::Set { key, value });
        Box::pin(async move {
            match errand.await? {
                WorkResult::Set(outcome) => Ok(outcome),
                _ => Err(wrong_answer()),
            }
        })
    }

    fn upgrade(&self) -> Answer<Result<(), String>> {
        let errand = Rc::clone(&self.0.errands).run(Work::Upgrade);
        Box::pin(async move {
            match errand.await? {
                WorkResult::Upgraded(outcome) => Ok(outcome),
                _ => Err(wrong_answer()),
            }
        })
    }

    fn refuse(&self) {
        tell(&self.0.errands, || Work::Refuse);
    }

    fn shut_down(&self) {
        tell(&self.0.errands, || Work::ShutDown);
    }

    fn sockets(&self) -> Answer<Sockets> {
        let errand = Rc::clone(&self.0.errands).run(Work::Sockets);
        Box::pin(async move {
            match errand.await? {
                WorkResult::Sockets(sockets) => sockets.map(|sockets| *sockets),
                _ => Err(wrong_answer()),
            }
        })
    }
}

fn wrong_answer() -> io::Error {
    io::Error::other("an answer to another errand")
}
