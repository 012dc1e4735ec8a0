//! The next time at which something is to be done, such as for one of the shard's pools.
//!
//! **Owns:** one deadline for all who share the alarm, and waiting for it.
//! **Does not own:** what is done then (`app::shard_main`).
//!
//! Deadlines of waiters come in order, so a pool sets the alarm only when its queue was empty or it
//! has to be earlier; a busy pool costs no timer per wait.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Instant;

use shards::sleep_until;

/// One deadline, shared by all that have something to be done.
#[derive(Debug, Default)]
pub struct Alarm {
    at: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
}

impl Alarm {
    /// Rings at `deadline` at the latest.
    pub fn at_most(&self, deadline: Instant) {
        if self.at.get().is_some_and(|at| at <= deadline) {
            return;
        }
        self.at.set(Some(deadline));
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// The deadline, if one is set.
    pub fn deadline(&self) -> Option<Instant> {
        self.at.get()
    }

    /// Takes the deadline out once it has passed.
    pub fn take_due(&self, now: Instant) -> bool {
        let due = self.at.get().is_some_and(|at| at <= now);
        if due {
            self.at.set(None);
        }
        due
    }

    /// Notes who is woken when the deadline becomes earlier.
    pub fn set_waker(&self, waker: &Waker) {
        let replaced = self.waker.borrow_mut().replace(waker.clone());
        drop(replaced);
    }

    /// Waits for the deadline, also if it is set or becomes earlier meanwhile, and takes it out.
    pub async fn ring(&self) {
        loop {
            let known = self.at.get();
            if self.take_due(shards::now()) {
                return;
            }
            let mut sleep = pin!(known.map(sleep_until));
            poll_fn(|context| {
                self.set_waker(context.waker());
                if self.at.get() != known {
                    return Poll::Ready(());
                }
                match sleep.as_mut().as_pin_mut() {
                    Some(sleep) => sleep.poll(context),
                    None => Poll::Pending,
                }
            })
            .await;
        }
    }
}
