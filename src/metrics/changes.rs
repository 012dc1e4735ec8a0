//! How often objects of a database have changed, as far as the pooler has seen it.
//!
//! **Owns:** the counts.
//! **Does not own:** what a change is, and what follows from it (`server::statements::trust`).
//!
//! All shards write them, a change in a database being rare, so nobody who reads has to wait for the
//! memory of others. Databases whose names fall on the same count see each other's changes, which costs
//! them a little time.
//!
//! **Invariant:** who has learnt of a change by any message that was sent after it was counted, reads
//! a count that includes it.

use std::sync::atomic::{AtomicU32, Ordering};

/// Counts of databases.
const COUNTS: usize = 64;

/// The counts of all databases.
#[derive(Debug)]
pub struct Changes([AtomicU32; COUNTS]);

impl Default for Changes {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; COUNTS])
    }
}

impl Changes {
    fn of(&self, database: u64) -> &AtomicU32 {
        &self.0[(database % COUNTS as u64) as usize]
    }

    /// The generation of a database, by the hash of its name. It wraps around.
    pub fn generation(&self, database: u64) -> u32 {
        self.of(database).load(Ordering::Acquire)
    }

    /// Changes of all databases.
    pub fn total(&self) -> u64 {
        let counts = self.0.iter();
        counts
            .map(|count| u64::from(count.load(Ordering::Acquire)))
            .sum()
    }

    /// Objects of any database may have changed.
    pub fn raise_all(&self) {
        for count in &self.0 {
            count.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Objects of this database may have changed.
    pub fn raise(&self, database: u64) {
        self.of(database).fetch_add(1, Ordering::AcqRel);
    }
}
