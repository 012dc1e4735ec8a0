//! Time on a shard: the time of the turn, and deadlines.
//!
//! **Owns:** [`Sleep`].
//! **Does not own:** the timers themselves (`ring::wait`): the next one bounds the wait of the ring,
//! so no system call is spent on any of them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::ring::{RingRef, current};

/// The time at which this turn of the shard began. Costs no system call.
///
/// # Panics
///
/// On a thread that runs no shard.
pub fn now() -> Instant {
    current().borrow().now()
}

/// A future that is ready at its deadline.
#[must_use = "does nothing unless awaited"]
pub struct Sleep {
    deadline: Instant,
    key: Option<(Instant, u64)>,
    ring: RingRef,
}

/// Sleeps until `deadline`.
///
/// # Panics
///
/// On a thread that runs no shard.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep {
        deadline,
        key: None,
        ring: current(),
    }
}

/// Sleeps for `duration`.
///
/// # Panics
///
/// On a thread that runs no shard.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

impl Sleep {
    /// Moves the deadline.
    pub fn reset(&mut self, deadline: Instant) {
        self.clear();
        self.deadline = deadline;
    }

    fn clear(&mut self) {
        if let Some(key) = self.key.take() {
            let waker = self.ring.borrow_mut().clear_timer(key);
            drop(waker);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.clear();
        let mut ring = self.ring.borrow_mut();
        if ring.now() >= self.deadline {
            return Poll::Ready(());
        }
        let key = ring.set_timer(self.deadline, context.waker());
        drop(ring);
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Runs `future` until `deadline`; `None` when the time is over first. Dropping is clean: no
/// operation of the shard loses bytes when its future is dropped.
pub async fn until<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut sleep = std::pin::pin!(sleep_until(deadline));
    std::future::poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        sleep.as_mut().poll(context).map(|()| None)
    })
    .await
}
