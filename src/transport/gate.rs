//! How many handshakes a shard works on in a turn.
//!
//! **Owns:** the queue of those who want to.
//! **Does not own:** handshakes (`handshake`).
//!
//! A step of a handshake takes up to a millisecond of cryptography. A thousand clients that come at once
//! would keep everybody else waiting for a second, so each turn of the shard takes one step, and serves
//! all others between two of them.
//!
//! **Invariant:** those who wait pass in the order of asking; who gives up makes room.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// The gate of one shard.
#[derive(Debug, Default)]
pub struct Gate {
    /// The turn in which somebody has passed last.
    turn: Cell<Option<Instant>>,
    waiting: RefCell<VecDeque<(u64, Option<Waker>)>>,
    next: Cell<u64>,
}

impl Gate {
    /// Waits for one's turn.
    pub async fn pass(&self) {
        if self.waiting.borrow().is_empty() && self.enter() {
            return;
        }
        let place = Place::new(self);
        poll_fn(|context| {
            let mut waiting = self.waiting.borrow_mut();
            if waiting
                .front()
                .is_some_and(|(number, _)| *number == place.number)
            {
                return Poll::Ready(());
            }
            for (_, waker) in waiting.iter_mut().filter(|one| one.0 == place.number) {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
        while !self.enter() {
            // Ends with the next turn, however short it is.
            shards::sleep(Duration::from_nanos(1)).await;
        }
    }

    fn enter(&self) -> bool {
        let now = Some(shards::now());
        self.turn.replace(now) != now
    }
}

/// A place in the queue; given up when dropped.
struct Place<'a> {
    gate: &'a Gate,
    number: u64,
}

impl<'a> Place<'a> {
    fn new(gate: &'a Gate) -> Self {
        let number = gate.next.get();
        gate.next.set(number + 1);
        gate.waiting.borrow_mut().push_back((number, None));
        Self { gate, number }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.gate.waiting.borrow_mut();
        let left = waiting.iter().position(|one| one.0 == self.number);
        let left = left.and_then(|at| waiting.remove(at));
        let next = waiting.front_mut().and_then(|(_, waker)| waker.take());
        drop(waiting);
        drop(left);
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    type Passed = Rc<RefCell<Vec<(u32, Instant)>>>;

    /// Passes, unless it is one of those that give up.
    async fn one(number: u32, gate: Rc<Gate>, passed: Passed) {
        if number % 5 == 4 {
            let _ = shards::until(shards::now(), gate.pass()).await;
            return;
        }
        gate.pass().await;
        passed.borrow_mut().push((number, shards::now()));
    }

    #[test]
    fn one_passes_a_turn_and_all_pass_in_order() {
        shards::run_one(|| async {
            let gate = Rc::new(Gate::default());
            let passed = Rc::new(RefCell::new(Vec::new()));
            for number in 0..20 {
                shards::spawn(one(number, Rc::clone(&gate), Rc::clone(&passed)));
            }
            while passed.borrow().len() < 16 {
                shards::sleep(Duration::from_micros(50)).await;
            }
            let passed = passed.borrow();
            assert!(passed.windows(2).all(|two| two[0].0 < two[1].0));
            assert!(passed.windows(2).all(|two| two[0].1 < two[1].1));
            assert!(gate.waiting.borrow().is_empty());
        })
        .unwrap();
    }
}
