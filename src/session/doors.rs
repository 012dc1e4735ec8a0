//! Whether a shard accepts clients.
//!
//! **Owns:** the one bit, and telling those who wait for it to change.
//! **Does not own:** the listening sockets (`app::hand_over`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Open at first; once closed, closed for good.
#[derive(Debug, Default)]
pub struct Doors {
    are_closed: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

impl Doors {
    /// Closes them.
    pub fn close(&self) {
        self.are_closed.set(true);
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// True if nobody is let in any more.
    pub const fn are_closed(&self) -> bool {
        self.are_closed.get()
    }

    /// Waits until they are closed.
    pub async fn closed(&self) {
        poll_fn(|context| {
            if self.are_closed() {
                return Poll::Ready(());
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|known| known.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
