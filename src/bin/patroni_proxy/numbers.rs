//! What is counted.
//!
//! **Owns:** counters of a port by shard, open connections of a port and of its backends.
//! **Does not own:** showing them (`report`).
//!
//! Open connections decide where the next one goes, on whichever shard it arrives, and whether it may:
//! these numbers are shared. All others have one writer each.

use std::sync::atomic::{AtomicU64, Ordering};

use pg_doorman::metrics::Counter;

/// Open connections, on all shards.
#[derive(Debug, Default)]
pub(crate) struct Load(AtomicU64);

impl Load {
    /// How many there are.
    pub(crate) fn open(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more; tells how many there were.
    pub(crate) fn open_one(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// One less.
    pub(crate) fn close_one(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one shard counts for one port. The alignment keeps shards out of each other's cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct OfShard {
    /// Connections that were accepted.
    pub(crate) accepted: Counter,
    /// Closed at once: as many as there may be.
    pub(crate) refused: Counter,
    /// Closed because no backend was eligible.
    pub(crate) without_backend: Counter,
    /// Closed because no eligible backend could be reached.
    pub(crate) unreachable: Counter,
    /// Tries to connect to a backend that failed.
    pub(crate) connect_failures: Counter,
    /// Cut because their backend went away or the port was closed.
    pub(crate) cut: Counter,
    /// Bytes from clients.
    pub(crate) from_clients: Counter,
    /// Bytes from backends.
    pub(crate) from_backends: Counter,
}

/// The numbers of one port.
#[derive(Debug)]
pub(crate) struct PortNumbers {
    /// Open connections, those that still wait for a backend too.
    pub(crate) open: Load,
    shards: Vec<OfShard>,
}

impl PortNumbers {
    /// Numbers of a port on so many shards.
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            open: Load::default(),
            shards: (0..shards.max(1)).map(|_| OfShard::default()).collect(),
        }
    }

    /// Those of one shard.
    pub(crate) fn of(&self, shard: usize) -> &OfShard {
        &self.shards[shard % self.shards.len()]
    }

    /// The sum of one counter.
    pub(crate) fn sum(&self, counter: impl Fn(&OfShard) -> &Counter) -> u64 {
        self.shards.iter().map(|one| counter(one).get()).sum()
    }
}
