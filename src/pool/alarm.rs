//! The next time at which the shard's pools have something to do.
//!
//! **Owns:** one deadline for all pools, and the task that waits for it.
//! **Does not own:** what is done then (`app::shard_main`).
//!
//! Deadlines of waiters come in order, so a pool sets the alarm only when its queue was empty or it
//! has to be earlier; a busy pool costs no timer per wait.

use std::cell::{Cell, RefCell};
use std::task::Waker;
use std::time::Instant;

/// One deadline, shared by all pools of a shard.
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
}
