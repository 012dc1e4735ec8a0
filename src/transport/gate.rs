//! How many steps of one kind a shard makes in a turn: of handshakes, of logins.
//!
//! **Owns:** the queue of those who want to.
//! **Does not own:** handshakes (`handshake`), logins (`session::login`).
//!
//! A step of a handshake takes up to a millisecond of cryptography. A thousand clients that come at once
//! would keep everybody else waiting for a second, so each turn of the shard takes one step, and serves
//! all others between two of them. Steps of a login are shorter, but two thousand of them are not short.
//!
//! **Invariant:** those who wait pass in the order of asking; who gives up makes room.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// The gate of one shard.
#[derive(Debug)]
pub struct Gate {
    /// How many pass in a turn.
    breadth: u32,
    /// The turn in which somebody has passed last, and how many have since it began.
    turn: Cell<(Option<Instant>, u32)>,
    waiting: RefCell<VecDeque<(u64, Option<Waker>)>>,
    next: Cell<u64>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::of_breadth(1)
    }
}

impl Gate {
    /// A gate that so many pass in a turn.
    pub const fn of_breadth(breadth: u32) -> Self {
        Self {
            breadth,
            turn: Cell::new((None, 0)),
            waiting: RefCell::new(VecDeque::new()),
            next: Cell::new(0),
        }
    }

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
            if let Ok(at) = waiting.binary_search_by_key(&place.number, |one| one.0) {
                waiting[at].1 = Some(context.waker().clone());
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
        let passed = match self.turn.get() {
            (turn, passed) if turn == now => passed,
            _ => 0,
        };
        if passed < self.breadth {
            self.turn.set((now, passed + 1));
        }
        passed < self.breadth
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
        let left = waiting.binary_search_by_key(&self.number, |one| one.0).ok();
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

    #[test]
    fn as_many_pass_a_turn_as_the_gate_is_broad() {
        shards::run_one(|| async {
            let gate = Rc::new(Gate::of_breadth(3));
            let passed = Rc::new(RefCell::new(Vec::new()));
            for number in 0..20 {
                shards::spawn(one(number, Rc::clone(&gate), Rc::clone(&passed)));
            }
            while passed.borrow().len() < 16 {
                shards::sleep(Duration::from_micros(50)).await;
            }
            let passed = passed.borrow();
            assert!(passed.windows(2).all(|two| two[0].0 < two[1].0));
            assert!(passed.windows(4).all(|four| four[0].1 < four[3].1));
            assert_eq!(passed[0].1, passed[2].1);
        })
        .unwrap();
    }
}
