//! Time on a shard: the time of the turn, and deadlines.
//!
//! **Owns:** [`Sleep`], [`thread_cpu_time`].
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

/// CPU time that the calling thread has used so far. Called on a shard, that is the time the shard
/// was busy: its thread does nothing else. Costs one system call.
pub fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    // Both parts are positive: the clock starts at 0.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_counts_work_of_this_thread_and_not_waiting() {
        let start = thread_cpu_time();
        let other = std::thread::spawn(thread_cpu_time);
        assert!(other.join().expect("does not panic") < Duration::from_secs(1));
        let mut rounds = 0_u64;
        while thread_cpu_time() < start + Duration::from_millis(5) {
            rounds = std::hint::black_box(rounds + 1);
        }
        assert!(rounds > 0);
        let before_wait = (thread_cpu_time(), Instant::now());
        std::thread::park_timeout(Duration::from_millis(30));
        let waited = before_wait.1.elapsed();
        assert!(thread_cpu_time().saturating_sub(before_wait.0) < waited);
    }
}
