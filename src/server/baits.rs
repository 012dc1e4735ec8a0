//! Empty statements of clients' names, which let PostgreSQL find what a client deallocates.
//!
//! **Owns:** whether each of them has gone, and each deallocation is explained by one.
//! **Does not own:** making them (`session::rewrite`).
//!
//! ```text
//!   made ──▶ DEALLOCATE done: the request that was to take it ──▶ gone
//!     └────▶ not run, skipped, failed ──▶ odd: the server is cleaned
//!   DEALLOCATE done: another request ──▶ odd: it may have taken a statement of the pooler's
//! ```
//!
//! **Invariant:** when everything has been answered, what is odd is known.

/// The account of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Baits {
    laid: u32,
    completed: u32,
    taken: u32,
}

impl Baits {
    /// One is sent.
    pub const fn laid(&mut self) {
        self.laid = self.laid.wrapping_add(1);
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
    pub const fn may_be_there(self) -> bool {
        self.laid != self.taken
    }

    /// Everything has been answered: true if one may have been left, or something else was
    /// deallocated. The account begins anew.
    pub fn take_odd(&mut self) -> bool {
        let Self {
            laid,
            completed,
            taken,
        } = std::mem::take(self);
        laid != taken || completed != taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bait_that_is_left_and_a_deallocation_without_one_are_odd() {
        let mut baits = Baits::default();
        assert!(!baits.take_odd());
        baits.laid();
        baits.completed();
        baits.taken(1);
        assert!(!baits.may_be_there() && !baits.take_odd());
        baits.laid();
        assert!(baits.may_be_there() && baits.take_odd());
        baits.completed();
        assert!(baits.take_odd());
        assert!(!baits.take_odd());
    }
}
