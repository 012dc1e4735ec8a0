//! How many proofs of one shard are computed elsewhere at a time.
//!
//! **Owns:** the places, and the queue for them.
//! **Does not own:** what is computed (`ask`).
//!
//! PAM may hang and has places of its own, so that nobody else waits for it. A storm of logins must not fill the queue of the control thread, where servers wait for their
//! keys, too. Who waits here waits within the time limit of its login.
//!
//! **Invariant:** those who wait pass in the order of asking; who gives up makes room.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Proofs of one shard at a time.
const PLACES: usize = 16;

/// The places of one shard.
#[derive(Debug, Default)]
pub struct Caps {
    /// For questions to PAM.
    pub pam: Cap,
    /// For what computes.
    pub other: Cap,
}

/// Places.
#[derive(Debug)]
pub struct Cap(RefCell<State>);

#[derive(Debug)]
struct State {
    free: usize,
    next: u64,
    waiting: VecDeque<(u64, Option<Waker>)>,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub struct Place<'a> {
    cap: &'a Cap,
    /// The number in the queue, or none with a place.
    number: Option<u64>,
}

impl Default for Cap {
    fn default() -> Self {
        Self::new(PLACES)
    }
}

impl Cap {
    const fn new(places: usize) -> Self {
        Self(RefCell::new(State {
            free: places,
            next: 0,
            waiting: VecDeque::new(),
        }))
    }

    /// Waits for a place.
    pub async fn enter(&self) -> Place<'_> {
        let number = {
            let mut state = self.0.borrow_mut();
            let number = state.next;
            state.next += 1;
            state.waiting.push_back((number, None));
            number
        };
        let mut place = Place {
            cap: self,
            number: Some(number),
        };
        poll_fn(|context| {
            let mut state = self.0.borrow_mut();
            let is_first = state.waiting.front().is_some_and(|one| one.0 == number);
            if is_first && state.free > 0 {
                state.free -= 1;
                state.waiting.pop_front();
                return Poll::Ready(());
            }
            for one in state.waiting.iter_mut().filter(|one| one.0 == number) {
                one.1 = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
        place.number = None;
        // The next one may have a place, too.
        self.wake_first();
        place
    }

    fn wake_first(&self) {
        let mut state = self.0.borrow_mut();
        if state.free == 0 {
            return;
        }
        let waker = state.waiting.front_mut().and_then(|one| one.1.take());
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.cap.0.borrow_mut();
        let mut left = None;
        match self.number {
            None => state.free += 1,
            Some(number) => {
                let at = state.waiting.iter().position(|one| one.0 == number);
                left = at.and_then(|at| state.waiting.remove(at));
            }
        }
        drop(state);
        drop(left);
        self.cap.wake_first();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn places_are_given_in_order_and_come_back() {
        let cap = Cap::new(1);
        let mut context = Context::from_waker(Waker::noop());
        let mut first = pin!(cap.enter());
        let Poll::Ready(place) = first.as_mut().poll(&mut context) else {
            panic!("no place");
        };
        let mut second = pin!(cap.enter());
        assert!(second.as_mut().poll(&mut context).is_pending());
        let mut third = Box::pin(cap.enter());
        assert!(third.as_mut().poll(&mut context).is_pending());
        drop(place);
        assert!(third.as_mut().poll(&mut context).is_pending());
        let second = second.as_mut().poll(&mut context);
        assert!(second.is_ready());
        drop(third);
        drop(second);
        assert_eq!(cap.0.borrow().free, 1);
        assert!(cap.0.borrow().waiting.is_empty());
    }
}
