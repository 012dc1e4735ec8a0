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

/// Whose turn it is, counted up, and who waits for it.
struct Chain {
    turn: Cell<usize>,
    wakers: RefCell<Vec<Option<Waker>>>,
}

impl Chain {
    /// Waits, as the one with `number`, until it is `turn`.
    async fn wait(&self, number: usize, turn: usize) {
        poll_fn(|context| {
            if self.turn.get() == turn {
                return Poll::Ready(());
            }
            self.wakers.borrow_mut()[number] = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Passes the turn on to the next task, the last time to the one who waits for the end.
    fn pass(&self) {
        let turn = self.turn.get() + 1;
        self.turn.set(turn);
        let next = if turn == TASKS * ROUNDS {
            TASKS
        } else {
            turn % TASKS
        };
        let waker = self.wakers.borrow_mut()[next].take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

async fn link(chain: Rc<Chain>, number: usize) {
    for round in 0..ROUNDS {
        chain.wait(number, round * TASKS + number).await;
        chain.pass();
    }
}

#[test]
fn a_long_chain_of_wakes_ends_without_a_system_call() {
    let enters = on_a_shard(|| async {
        let chain = Rc::new(Chain {
            turn: Cell::new(0),
            wakers: RefCell::new(vec![None; TASKS + 1]),
        });
        for number in 0..TASKS {
            shards::spawn(link(chain.clone(), number));
        }
        let before = ring_enters();
        chain.wait(TASKS, TASKS * ROUNDS).await;
        ring_enters() - before
    });
    assert_eq!(enters, 0, "something was always runnable");
}
