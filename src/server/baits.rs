//! Empty statements that a server has under names of clients'.
//!
//! **Owns:** their names, whether each of them has gone, and that each deallocation is explained by one.
//! **Does not own:** when one is laid (`session::rewrite`), removing those that are left (`pool::cleaner`).
//!
//! A name that a client defines a second time, or deallocates, is made known to the server first, so
//! that PostgreSQL itself answers. A deallocation that succeeds takes the bait along. What is left is
//! closed by its name: the statements of all others stay.
//!
//! ```text
//!   laid ──▶ DEALLOCATE done: the request that was to take it ──▶ gone
//!     └────▶ not run, skipped, failed ──▶ left: closed before the next client
//!   DEALLOCATE done: another request ──▶ unexplained: it may have taken a statement of the pooler's
//! ```
//!
//! **Invariants**
//! 1. When everything has been answered, what is left or unexplained is known.
//! 2. A server with a bait left is not clean.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Extended Query" (closing what does not exist is
//! no error).

/// Names that are kept; beyond that the server forgets all its statements.
const NAMES_MAX: usize = 64;

/// The baits on one server.
#[derive(Debug, Default)]
pub struct Baits {
    /// The names of all that were laid since the server was lent, or last clean of them.
    names: Vec<Box<[u8]>>,
    laid: u32,
    completed: u32,
    taken: u32,
    is_left: bool,
    has_lost_names: bool,
}

impl Baits {
    /// One is sent.
    pub fn lay(&mut self, name: &[u8]) {
        self.laid = self.laid.wrapping_add(1);
        if self.names.iter().any(|one| **one == *name) {
            return;
        }
        if self.names.len() < NAMES_MAX {
            self.names.push(name.into());
        } else {
            self.has_lost_names = true;
        }
    }

    /// Some DEALLOCATE of one name has been completed.
    pub const fn completed(&mut self) {
        self.completed = self.completed.wrapping_add(1);
    }

    /// Requests that were to take one away each are done.
    pub const fn taken(&mut self, count: u32) {
        self.taken = self.taken.wrapping_add(count);
    }

    /// True if one may be there.
    pub const fn may_be_there(&self) -> bool {
        self.is_left || self.laid != self.taken
    }

    /// True if some may be there whose names have been forgotten.
    pub const fn are_too_many(&self) -> bool {
        self.may_be_there() && self.has_lost_names
    }

    /// Everything has been answered: true if something else than a bait was deallocated.
    pub const fn settle(&mut self) -> bool {
        let is_unexplained = self.completed != self.taken;
        self.is_left |= self.laid != self.taken;
        self.laid = 0;
        self.completed = 0;
        self.taken = 0;
        is_unexplained
    }

    /// The server is given back. What was taken away needs no closing.
    pub fn released(&mut self) {
        if !self.may_be_there() {
            *self = Self::default();
        }
    }

    /// The names that are to be closed; then nothing is left.
    pub fn take(&mut self) -> Vec<Box<[u8]>> {
        let may_be_there = self.may_be_there();
        let all = std::mem::take(self);
        if may_be_there { all.names } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bait_that_is_left_and_a_deallocation_without_one_are_told_apart() {
        let mut baits = Baits::default();
        assert!(!baits.settle());
        baits.lay(b"a");
        assert!(baits.may_be_there());
        baits.completed();
        baits.taken(1);
        assert!(!baits.settle() && !baits.may_be_there());
        baits.lay(b"a");
        assert!(!baits.settle() && baits.may_be_there());
        baits.completed();
        assert!(baits.settle());
        assert!(!baits.settle() && baits.may_be_there());
    }

    #[test]
    fn only_what_is_left_is_closed() {
        let mut baits = Baits::default();
        baits.lay(b"a");
        baits.taken(1);
        baits.released();
        baits.lay(b"b");
        baits.lay(b"b");
        baits.released();
        assert!(baits.may_be_there() && !baits.are_too_many());
        assert_eq!(baits.take(), [Box::from(&b"b"[..])]);
        assert!(!baits.may_be_there() && baits.take().is_empty());
    }

    #[test]
    fn beyond_the_bound_all_have_to_go() {
        let mut baits = Baits::default();
        for number in 0..=NAMES_MAX {
            assert!(!baits.are_too_many());
            baits.lay(number.to_string().as_bytes());
        }
        assert!(baits.are_too_many());
        assert_eq!(baits.take().len(), NAMES_MAX);
    }
}
