//! A flag that a task of the same shard waits for.
//!
//! **Owns:** that nobody misses it: it stays set.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// Set once, awaited by one task.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    is_set: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Signal {
    /// Sets it and wakes who waits.
    pub(crate) fn set(&self) {
        self.is_set.set(true);
        let waiting = self.waiting.take();
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// True once it was set.
    pub(crate) fn is_set(&self) -> bool {
        self.is_set.get()
    }

    /// Ready once it was set.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_set() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting
            .as_ref()
            .is_some_and(|one| one.will_wake(context.waker()))
        {
            *waiting = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Runs `future` unless it is set first; `None` then.
    pub(crate) async fn unless<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|context| {
            if self.poll(context).is_ready() {
                return Poll::Ready(None);
            }
            future.as_mut().poll(context).map(Some)
        })
        .await
    }
}
