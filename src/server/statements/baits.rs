//! Empty statements that a server has under names of clients'.
//!
//! **Owns:** their names, and whether any is left over.
//! **Does not own:** when one is laid (`session::rewrite`), removing them (`pool::cleaner`).
//!
//! A name that a client defines a second time, or deallocates, is made known to the server first, so
//! that PostgreSQL itself answers. A deallocation that succeeds takes the bait along. What is left is
//! closed by its name: the statements of all others stay.
//!
//! **Invariant:** a server with a bait left is not clean.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Extended Query" (closing what does not exist is
//! no error).

/// Names that are kept; beyond that the server forgets all its statements.
const NAMES_MAX: usize = 64;

/// The baits on one server.
#[derive(Debug, Default)]
pub struct Baits {
    /// The names of all that were laid since the server was lent.
    names: Vec<Box<[u8]>>,
    is_left: bool,
    has_lost_names: bool,
}

impl Baits {
    /// A bait is laid.
    pub fn lay(&mut self, name: &[u8]) {
        if self.names.iter().any(|one| **one == *name) {
            return;
        }
        if self.names.len() < NAMES_MAX {
            self.names.push(name.into());
        } else {
            self.has_lost_names = true;
        }
    }

    /// One of them is not taken away by what it was laid for.
    pub const fn leave(&mut self) {
        self.is_left = true;
    }

    /// True if some may be on the server.
    pub const fn is_left(&self) -> bool {
        self.is_left
    }

    /// True if some may be on the server whose names have been forgotten.
    pub const fn are_too_many(&self) -> bool {
        self.is_left && self.has_lost_names
    }

    /// The server is given back. What was taken away needs no closing.
    pub fn released(&mut self) {
        if !self.is_left {
            *self = Self::default();
        }
    }

    /// The names that are to be closed; then nothing is left.
    pub fn take(&mut self) -> Vec<Box<[u8]>> {
        let is_left = self.is_left;
        let all = std::mem::take(self);
        if is_left { all.names } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_left_is_closed() {
        let mut baits = Baits::default();
        baits.lay(b"a");
        assert!(!baits.is_left());
        baits.released();
        baits.lay(b"b");
        baits.lay(b"b");
        baits.leave();
        baits.released();
        assert!(baits.is_left() && !baits.are_too_many());
        assert_eq!(baits.take(), [Box::from(&b"b"[..])]);
        assert!(!baits.is_left() && baits.take().is_empty());
    }

    #[test]
    fn beyond_the_bound_all_have_to_go() {
        let mut baits = Baits::default();
        for number in 0..=NAMES_MAX {
            assert!(!baits.are_too_many());
            baits.lay(number.to_string().as_bytes());
        }
        baits.leave();
        assert!(baits.are_too_many());
        assert_eq!(baits.take().len(), NAMES_MAX);
    }
}
