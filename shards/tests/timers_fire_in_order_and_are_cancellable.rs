//! Timers fire in the order of their deadlines, never early, and not after they were dropped.
//!
//! **Owns:** deadlines.

mod common;

use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use common::on_a_shard;
use shards::{Sleep, ring_enters, sleep, sleep_until, spawn, until};

#[test]
fn the_order_is_that_of_the_deadlines() {
    on_a_shard(|| async {
        let started = Instant::now();
        let fired = Rc::new(RefCell::new(Vec::new()));
        for number in [7_u32, 3, 9, 1, 5, 8, 2, 6, 4, 0] {
            let fired = fired.clone();
            spawn(async move {
                let deadline =
                    started + Duration::from_millis(20) + number * Duration::from_millis(5);
                sleep_until(deadline).await;
                assert!(Instant::now() >= deadline, "a timer was early");
                fired.borrow_mut().push(number);
            });
        }
        sleep_until(started + Duration::from_millis(100)).await;
        assert_eq!(*fired.borrow(), (0..10).collect::<Vec<_>>());
    });
}

/// Sets the timer without waiting for it.
async fn poll_once(mut sleep: Pin<&mut Sleep>) {
    poll_fn(|context| {
        let _ = sleep.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
}

#[test]
fn a_dropped_or_moved_timer_wakes_nobody() {
    let calls = on_a_shard(|| async {
        let mut moved = pin!(sleep(Duration::from_millis(1)));
        poll_once(moved.as_mut()).await;
        moved.reset(Instant::now() + Duration::from_secs(3600));
        for number in 0..1_000 {
            poll_once(pin!(sleep(Duration::from_millis(5 + number % 20)))).await;
        }
        let before = ring_enters();
        sleep(Duration::from_millis(50)).await;
        ring_enters() - before
    });
    assert!(calls <= 3, "{calls} calls for one timer");
}

#[test]
fn until_ends_what_does_not_end() {
    on_a_shard(|| async {
        let deadline = Instant::now() + Duration::from_millis(10);
        assert!(until(deadline, pending::<()>()).await.is_none());
        assert!(Instant::now() >= deadline);
        let far = Instant::now() + Duration::from_secs(3600);
        assert_eq!(until(far, async { 5 }).await, Some(5));
    });
}
