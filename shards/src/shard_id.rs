//! Names of shards: the number of one shard and how many there are.
//!
//! Owns: [`ShardId`] and [`ShardCount`], and the limit on how many shards a process may have.
//! Does not own: where a shard runs (`placement`).
//! Invariants: a count is between 1 and [`ShardCount::MAX`]; ids are dense and start at 0.
//! Source: none; these are plain numbers.

use std::fmt;
use std::num::NonZeroU16;

use crate::error::PlacementError;

/// The number of a shard: dense, from 0, stable for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u16);

impl ShardId {
    /// The shard with this number. Whether such a shard exists depends on the [`ShardCount`].
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// The number as an index into a per-shard array.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The number itself, as it travels in messages and labels.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many shards a process has: 1 to [`ShardCount::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardCount(NonZeroU16);

impl ShardCount {
    /// The largest count: the number of CPUs an affinity mask of the C library can name.
    pub const MAX: usize = 1024;

    /// One shard.
    pub const ONE: Self = Self(NonZeroU16::MIN);

    /// A count of `count` shards.
    ///
    /// # Errors
    /// [`PlacementError::BadShardCount`] when `count` is 0 or above [`ShardCount::MAX`].
    pub fn new(count: usize) -> Result<Self, PlacementError> {
        u16::try_from(count)
            .ok()
            .filter(|_| count <= Self::MAX)
            .and_then(NonZeroU16::new)
            .map(Self)
            .ok_or(PlacementError::BadShardCount { asked: count })
    }

    /// The count, at least 1.
    pub const fn get(self) -> usize {
        self.0.get() as usize
    }

    /// Whether a shard with this id exists.
    pub const fn contains(self, id: ShardId) -> bool {
        id.0 < self.0.get()
    }

    /// All ids, in ascending order.
    pub fn ids(self) -> impl ExactSizeIterator<Item = ShardId> + DoubleEndedIterator {
        (0..self.0.get()).map(ShardId)
    }
}

impl fmt::Display for ShardCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_between_one_and_the_maximum() {
        assert_eq!(ShardCount::new(1).unwrap(), ShardCount::ONE);
        assert_eq!(ShardCount::new(1024).unwrap().get(), 1024);
        for asked in [0, 1025, 65_536, 65_537, usize::MAX] {
            let error = ShardCount::new(asked).unwrap_err();
            assert!(matches!(error, PlacementError::BadShardCount { asked: a } if a == asked));
        }
    }

    #[test]
    fn ids_are_dense_and_start_at_zero() {
        let count = ShardCount::new(3).unwrap();
        let ids: Vec<usize> = count.ids().map(ShardId::index).collect();
        assert_eq!(ids, [0, 1, 2]);
        assert!(count.contains(ShardId::new(2)));
        assert!(!count.contains(ShardId::new(3)));
    }
}
