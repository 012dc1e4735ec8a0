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
    /// It was a pool before this one that has learned it.
    is_inherited: Cell<bool>,
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

    /// True if no server of this pool has reported anything, as far as known here.
    pub fn is_open(&self) -> bool {
        self.is_inherited.get() || self.known.borrow().is_none()
    }

    /// Takes over what servers of the pool have reported that this one replaces, until one of its own
    /// does.
    pub fn inherit(&self, before: &Self) {
        if let (Some(base), true) = (before.get(), self.is_open()) {
            self.learn(&base);
            self.is_inherited.set(true);
        }
    }

    /// A server has reported this set. True if that is news.
    pub fn learn(&self, base: &Rc<ParameterSet>) -> bool {
        let was_inherited = self.is_inherited.replace(false);
        let before = self.known.borrow_mut().replace(Rc::clone(base));
        for waker in self.wakers.take().into_values() {
            waker.wake();
        }
        was_inherited || before.is_none_or(|before| !Rc::ptr_eq(&before, base))
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
    fn what_the_pool_before_knew_counts_until_a_server_has_reported() {
        let (before, base) = (Base::default(), Base::default());
        base.inherit(&before);
        assert!(base.get().is_none());
        let set = Rc::new(ParameterSet::default());
        before.learn(&set);
        base.inherit(&before);
        assert!(base.get().is_some() && base.is_open());
        assert!(base.learn(&set), "the other shards are to know");
        assert!(!base.is_open() && !base.learn(&set));
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
