//! What servers of a pool report at login, as far as known on this shard.
//!
//! **Owns:** the set, and waking those who wait for it.
//! **Does not own:** how it gets from shard to shard (`travel`).
//!
//! A client is told at its login what servers report. The first server of the pool, on whatever
//! shard, tells it for all.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::server::parameters::ParameterSet;

/// What servers of a pool report.
#[derive(Debug, Default)]
pub struct Base {
    known: RefCell<Option<Rc<ParameterSet>>>,
    wakers: RefCell<Vec<Waker>>,
}

impl Base {
    /// The set, if known.
    pub fn get(&self) -> Option<Rc<ParameterSet>> {
        self.known.borrow().clone()
    }

    /// A server has reported this set. True if that is news.
    pub fn learn(&self, base: &Rc<ParameterSet>) -> bool {
        let before = self.known.borrow_mut().replace(Rc::clone(base));
        for waker in self.wakers.take() {
            waker.wake();
        }
        before.is_none_or(|before| !Rc::ptr_eq(&before, base))
    }

    /// Waits until the set is known.
    pub fn poll(&self, context: &Context<'_>) -> Poll<Rc<ParameterSet>> {
        if let Some(base) = self.get() {
            return Poll::Ready(base);
        }
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|known| known.will_wake(context.waker())) {
            wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_woken_and_the_same_again_is_no_news() {
        let base = Base::default();
        let context = Context::from_waker(Waker::noop());
        assert!(base.poll(&context).is_pending());
        let set = Rc::new(ParameterSet::default());
        assert!(base.learn(&set));
        assert!(base.wakers.borrow().is_empty());
        assert!(base.poll(&context).is_ready());
        assert!(!base.learn(&set));
        assert!(base.learn(&Rc::new(ParameterSet::default())));
    }
}
