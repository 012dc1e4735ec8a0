//! A task that another task has woken runs although no completion and no timer can arrive.
//!
//! **Owns:** the rule that only a quiescent shard enters the kernel.

mod common;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use common::on_a_shard;
use shards::ring_enters;

const TASKS: usize = 200;
const ROUNDS: usize = 50;

#[test]
fn a_long_chain_of_wakes_ends_without_a_system_call() {
    let enters = on_a_shard(|| async {
        let turn = Rc::new(Cell::new(0_usize));
        let wakers: Rc<RefCell<Vec<Option<Waker>>>> = Rc::new(RefCell::new(vec![None; TASKS + 1]));
        // The ring runs, spawned tasks run; every task waits only for its predecessor.
        for number in 0..TASKS {
            let (turn, wakers) = (turn.clone(), wakers.clone());
            shards::spawn(async move {
                for round in 0..ROUNDS {
                    poll_fn(|context| {
                        if turn.get() == round * TASKS + number {
                            return Poll::Ready(());
                        }
                        wakers.borrow_mut()[number] = Some(context.waker().clone());
                        Poll::Pending
                    })
                    .await;
                    turn.set(turn.get() + 1);
                    let next = if turn.get() == TASKS * ROUNDS {
                        TASKS
                    } else {
                        turn.get() % TASKS
                    };
                    let waker = wakers.borrow_mut()[next].take();
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
            });
        }
        let before = ring_enters();
        poll_fn(|context| {
            if turn.get() == TASKS * ROUNDS {
                return Poll::Ready(());
            }
            wakers.borrow_mut()[TASKS] = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        ring_enters() - before
    });
    assert_eq!(enters, 0, "something was always runnable");
}
