//! The driver: decides when the ring enters the kernel.
//!
//! **Owns:** the rule of quiescence.
//! **Does not own:** what a turn does (`wait`).
//!
//! The driver is a task in the same FIFO queue as all others. [`Counted`] counts every poll of every
//! task; when no task was polled between two turns of the driver, nothing is runnable, and only
//! then is the kernel entered. Without the rule a task woken by another task would sleep until the
//! next completion.
//!
//! **Invariant:** exactly one `io_uring_enter` per quiescent turn, none otherwise.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{RingRef, wait};

thread_local! {
    static POLLS: Cell<u64> = const { Cell::new(0) };
}

/// A task whose polls the driver sees.
pub(crate) struct Counted<F>(pub(crate) F);

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        POLLS.set(POLLS.get().wrapping_add(1));
        // SAFETY: structural pinning of the only field; it is never moved out of the wrapper, and
        // the wrapper has no `Drop` and no other way to reach it.
        let inner = unsafe { self.map_unchecked_mut(|counted| &mut counted.0) };
        inner.poll(context)
    }
}

/// Lets every other runnable task run once.
pub(super) async fn yield_once() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Drives the ring until `done` is set by a task of this shard.
pub(crate) async fn drive(ring: &RingRef, done: &Cell<bool>) {
    let mut seen = POLLS.get().wrapping_sub(1);
    while !done.get() {
        let polls = POLLS.get();
        if polls == seen {
            ring.borrow_mut().turn();
            wait::drop_discarded(ring);
        }
        seen = polls;
        yield_once().await;
    }
}
