//! What servers of a pool report at login, as far as known on this shard.
//!
//! **Owns:** the set, and waking those who wait for it.
//! **Does not own:** how it gets from shard to shard (`travel`).
//!
//! **Invariant:** who waits is woken once the set is known, and a wait that is given up leaves nothing
//! behind.
//!
//! A client is told at its login what servers report. The first server of the pool, on whatever
//! shard, tells it for all.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::server::parameters::ParameterSet;

/// What servers of a pool report.
#[derive(Debug, Default)]
pub struct Base {
    known: RefCell<Option<Rc<ParameterSet>>>,
    wakers: RefCell<HashMap<u32, Waker>>,
    waits: Cell<u32>,
}

/// A wait for the set. Forgotten when dropped: while no server can be opened, logins come and fail
/// without end.
#[derive(Debug)]
pub struct Wait<'a> {
    base: &'a Base,
    number: u32,
}

impl Base {
    /// The set, if known.
    pub fn get(&self) -> Option<Rc<ParameterSet>> {
        self.known.borrow().clone()
    }

    /// A server has reported this set. True if that is news.
    pub fn learn(&self, base: &Rc<ParameterSet>) -> bool {
        let before = self.known.borrow_mut().replace(Rc::clone(base));
        for waker in self.wakers.take().into_values() {
            waker.wake();
        }
        before.is_none_or(|before| !Rc::ptr_eq(&before, base))
    }

    /// A wait until the set is known.
    pub fn wait(&self) -> Wait<'_> {
        let number = self.waits.get();
        self.waits.set(number.wrapping_add(1));
        Wait { base: self, number }
    }
}

impl Wait<'_> {
    /// Ready when the set is known.
    pub fn poll(&self, context: &Context<'_>) -> Poll<Rc<ParameterSet>> {
        if let Some(base) = self.base.get() {
            return Poll::Ready(base);
        }
        let waker = context.waker().clone();
        let replaced = self.base.wakers.borrow_mut().insert(self.number, waker);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let waker = self.base.wakers.borrow_mut().remove(&self.number);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_woken_and_the_same_again_is_no_news() {
        let base = Base::default();
        let context = Context::from_waker(Waker::noop());
        let wait = base.wait();
        assert!(wait.poll(&context).is_pending());
        let set = Rc::new(ParameterSet::default());
        assert!(base.learn(&set));
        assert!(base.wakers.borrow().is_empty());
        assert!(wait.poll(&context).is_ready());
        assert!(!base.learn(&set));
        assert!(base.learn(&Rc::new(ParameterSet::default())));
    }

    #[test]
    fn who_gives_up_leaves_nothing_behind() {
        let base = Base::default();
        let context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            let wait = base.wait();
            assert!(wait.poll(&context).is_pending());
            assert!(wait.poll(&context).is_pending());
            assert_eq!(base.wakers.borrow().len(), 1);
        }
        assert!(base.wakers.borrow().is_empty());
    }
}
