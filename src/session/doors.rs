//! Whether a shard accepts clients, and whether it keeps those that it has.
//!
//! **Owns:** these bits, and telling those who wait for one of them to change.
//! **Does not own:** the listening sockets (`app::hand_over`), when it is time (`commands`).
//!
//! ```text
//!   open ── SHUTDOWN WAIT_FOR_… ──▶ closed ── nobody is waited for any more ──▶ over
//!   open ── binary upgrade ──▶ handed over ── the new process has gone ──▶ open
//! ```
//!
//! **Invariant:** a wait that is given up leaves nothing behind: logins come and go without end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Open at first; once closed, closed for good. Another process may be let in at the front instead.
#[derive(Debug, Default)]
pub struct Doors {
    are_handed_over: Change,
    are_closed: Change,
    is_over: Change,
}

/// A bit that is set once, and who waits for that.
#[derive(Debug, Default)]
struct Change {
    is_made: Cell<bool>,
    wakers: RefCell<HashMap<u32, Waker>>,
    waits: Cell<u32>,
}

/// A wait for such a bit.
#[derive(Debug)]
pub struct Wait<'a> {
    change: &'a Change,
    number: u32,
}

impl Change {
    fn make(&self) {
        self.is_made.set(true);
        for waker in self.wakers.take().into_values() {
            waker.wake();
        }
    }

    fn wait(&self) -> Wait<'_> {
        let number = self.waits.get();
        self.waits.set(number.wrapping_add(1));
        Wait {
            change: self,
            number,
        }
    }
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.change.is_made.get() {
            return Poll::Ready(());
        }
        let mut wakers = self.change.wakers.borrow_mut();
        let known = wakers.get(&self.number);
        if !known.is_some_and(|known| known.will_wake(context.waker())) {
            let replaced = wakers.insert(self.number, context.waker().clone());
            drop(wakers);
            drop(replaced);
        }
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let waker = self.change.wakers.borrow_mut().remove(&self.number);
        drop(waker);
    }
}

impl Doors {
    /// Lets nobody in any more.
    pub fn close(&self) {
        self.are_closed.make();
    }

    /// Has everybody leave.
    pub fn end(&self) {
        self.close();
        self.is_over.make();
    }

    /// Has another process let clients in, and those that are here go there.
    pub fn hand_over(&self) {
        self.are_handed_over.make();
    }

    /// Takes back [`Doors::hand_over`]: the other process has gone.
    pub fn take_back(&self) {
        self.are_handed_over.is_made.set(false);
    }

    /// True if another process takes the clients.
    pub const fn are_handed_over(&self) -> bool {
        self.are_handed_over.is_made.get()
    }

    /// Waits until another process takes the clients.
    pub fn handed_over(&self) -> Wait<'_> {
        self.are_handed_over.wait()
    }

    /// True if nobody is let in any more.
    pub const fn are_closed(&self) -> bool {
        self.are_closed.is_made.get()
    }

    /// True if everybody is to leave.
    pub const fn is_over(&self) -> bool {
        self.is_over.is_made.get()
    }

    /// Waits until they are closed.
    pub fn closed(&self) -> Wait<'_> {
        self.are_closed.wait()
    }

    /// Waits until everybody is to leave.
    pub fn over(&self) -> Wait<'_> {
        self.is_over.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    #[test]
    fn who_waits_learns_of_the_end_and_who_gives_up_leaves_nothing() {
        let doors = Doors::default();
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut given_up = pin!(doors.over());
            assert!(given_up.as_mut().poll(&mut context).is_pending());
            assert!(given_up.as_mut().poll(&mut context).is_pending());
            assert_eq!(doors.is_over.wakers.borrow().len(), 1);
        }
        assert!(doors.is_over.wakers.borrow().is_empty());
        let (mut closed, mut over) = (pin!(doors.closed()), pin!(doors.over()));
        assert!(closed.as_mut().poll(&mut context).is_pending());
        doors.close();
        assert!(closed.as_mut().poll(&mut context).is_ready());
        assert!(over.as_mut().poll(&mut context).is_pending());
        assert!(doors.are_closed() && !doors.is_over());
        doors.end();
        assert!(over.as_mut().poll(&mut context).is_ready());
    }
}
