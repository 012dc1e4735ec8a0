//! What each shard counts.
//!
//! **Owns:** one block of numbers a shard, written by its shard and read by everybody.
//! **Does not own:** what is counted when (the floors above), how it is shown (`exposition`, `admin`).
//!
//! A new number is a field of [`ShardMetrics`] and a row in `descriptors`; `/metrics` and the console
//! show it without further work, and a test wants it in `docs/metrics.md` and `docs/admin.md`.
//!
//! Pools have blocks of their own, one a shard (`pool`).
//!
//! This is the only memory that shards share, with the rare [`Changes`]. Each number has a single
//! writer, the shard that the block belongs to, so adding is a load and a store, no read-modify-write,
//! and a block has its cache lines to itself. What others read may be a moment old.

mod changes;
pub mod descriptors;
pub mod exposition;
pub mod histogram;
pub mod pool;
pub mod pool_descriptors;
pub mod snapshot;
pub mod statements;
pub mod totals;
pub mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};

pub use pool::{Enrolled, EnrolledServer, PoolMetrics};

pub use changes::Changes;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it. To be called by the shard that owns the block.
    pub fn add(&self, count: u64) {
        let now = self.0.load(Ordering::Relaxed).wrapping_add(count);
        self.0.store(now, Ordering::Relaxed);
    }

    /// The number at this moment, or shortly before.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds to it. To be called by the shard that owns the block.
    pub fn add(&self, count: u64) {
        self.set(self.get().wrapping_add(count));
    }

    /// Takes away from it. To be called by the shard that owns the block.
    pub fn sub(&self, count: u64) {
        self.set(self.get().wrapping_sub(count));
    }

    /// Changes it by the difference of two numbers. To be called by the shard that owns the block.
    pub fn shift(&self, before: usize, after: usize) {
        self.add((after as u64).wrapping_sub(before as u64));
    }

    /// Replaces it. To be called by the shard that owns the block.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number at this moment, or shortly before.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Kinds of messages between shards that may be lost, for counting those that were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Droppable {
    /// A cancel request on its way to the shard of its session.
    Cancel,
    /// A server connection or permit for a pool that is not configured any more.
    Grant,
    /// A client on its way to another shard, whose pool has gone meanwhile.
    Session,
}

impl Droppable {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Cancel, Self::Grant, Self::Session];

    /// As a label value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Grant => "grant",
            Self::Session => "session",
        }
    }
}

/// The numbers of one shard.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// Clients on this shard, those that are logging in included.
    pub clients: Gauge,
    /// Connections that this shard accepted.
    pub clients_accepted: Counter,
    /// Fresh connections that were passed to a shard with fewer clients.
    pub clients_passed_on: Counter,
    /// Sessions that came from another shard.
    pub clients_moved_in: Counter,
    /// Sessions that left for another shard.
    pub clients_moved_out: Counter,
    /// Connections to the console.
    pub consoles: Gauge,
    /// Encrypted clients whose sessions another process has.
    pub relays: Gauge,
    /// Logins without encryption that have succeeded, those of consoles included.
    pub logins_plain: Counter,
    /// Logins over TLS that have succeeded, those of consoles included.
    pub logins_tls: Counter,
    /// TLS handshakes with clients that have succeeded.
    pub tls_handshakes: Counter,
    /// Those of them that took up an earlier session.
    pub tls_handshakes_resumed: Counter,
    /// TLS handshakes with clients that have failed.
    pub tls_handshakes_failed: Counter,
    /// TLS handshakes with servers that have succeeded.
    pub server_tls_handshakes: Counter,
    /// Connections to servers that have failed in the negotiation of TLS.
    pub server_tls_handshakes_failed: Counter,
    /// Connections that have ended without a login and were no cancel requests.
    pub logins_failed: Counter,
    /// Logins that took longer than `client_login_timeout`.
    pub timeouts_login: Counter,
    /// Clients closed for silence outside of a transaction.
    pub timeouts_idle: Counter,
    /// Clients closed for silence in a transaction.
    pub timeouts_idle_transaction: Counter,
    /// Clients closed for a long query.
    pub timeouts_query: Counter,
    /// Clients closed for a long transaction.
    pub timeouts_transaction: Counter,
    /// Clients closed for a long row that took long.
    pub timeouts_row: Counter,
    /// Clients refused because their database or user had too many.
    pub clients_over_limit: Counter,
    /// Idle servers closed because another pool of their database needed one.
    pub servers_gave_way: Counter,
    /// Permits of reserves that were given out.
    pub reserves_used: Counter,
    /// CPU time of the shard's thread, in microseconds, as of its last look.
    pub busy_us: Counter,
    /// Busy share of the last second, in parts per thousand of one core.
    pub busy_permille: Gauge,
    /// Server connections of this shard.
    pub servers: Gauge,
    /// Server connections that came from another shard.
    pub servers_moved_in: Counter,
    /// Server connections that left for another shard.
    pub servers_moved_out: Counter,
    /// Times that this shard asked for a permit, because a client could not be served.
    pub wants: Counter,
    /// Times that a want was granted.
    pub wants_granted: Counter,
    /// Time from wants to their grants, in microseconds, added up.
    pub wants_wait_us: Counter,
    /// Waits that were ended by an idle server of another shard: the client waited beside it.
    pub waits_beside_idle: Counter,
    /// Cancel requests that arrived on this shard.
    pub cancels_received: Counter,
    /// Cancel requests whose key fitted no session.
    pub cancels_unknown: Counter,
    /// Cancel requests that were passed on to a server.
    pub cancels_sent: Counter,
    /// Prepared statements that clients of this shard have, each text once.
    pub statements: Gauge,
    /// Memory of their texts, in bytes.
    pub statement_texts: Gauge,
    /// Parse messages of clients that were answered without the server, which had the statement.
    pub parses_saved: Counter,
    /// Parse messages of clients that were sent to a server.
    pub parses_sent: Counter,
    /// Parse messages of the pooler's own: a client used a statement that its server lacked.
    pub parses_repeated: Counter,
    /// Statements that servers were told to close because they had too many.
    pub statements_evicted: Counter,
    /// Messages to other shards that had to wait because a lane was full.
    pub messages_delayed: Counter,
    /// Messages that were lost, by [`Droppable`].
    pub messages_dropped: [Counter; Droppable::ALL.len()],
}

impl ShardMetrics {
    /// Counts a lost message.
    pub fn dropped(&self, kind: Droppable) {
        self.messages_dropped[kind as usize].add(1);
    }
}

/// The pools of one shard, as a list that is replaced as a whole.
type PoolList = ArcSwap<Vec<Arc<PoolMetrics>>>;

/// The numbers of all shards.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<Blocks>);

#[derive(Debug)]
struct Blocks {
    shards: Box<[ShardMetrics]>,
    changes: Changes,
    pools: Box<[PoolList]>,
    ticks: ArcSwap<window::Ticks>,
    inherited: ArcSwap<totals::Totals>,
    start: Instant,
    is_closing: AtomicBool,
}

impl Fleet {
    /// Zeroes for `count` shards.
    pub fn new(count: usize) -> Self {
        let start = Instant::now();
        Self(Arc::new(Blocks {
            shards: (0..count).map(|_| ShardMetrics::default()).collect(),
            changes: Changes::default(),
            pools: (0..count).map(|_| PoolList::default()).collect(),
            ticks: ArcSwap::from_pointee(window::Ticks::new(start)),
            inherited: ArcSwap::default(),
            start,
            is_closing: AtomicBool::new(false),
        }))
    }

    /// The numbers of shard `index`.
    pub fn shard(&self, index: usize) -> &ShardMetrics {
        &self.0.shards[index]
    }

    /// The numbers of all shards in their order.
    pub fn shards(&self) -> &[ShardMetrics] {
        &self.0.shards
    }

    /// How often objects of databases have changed.
    pub fn changes(&self) -> &Changes {
        &self.0.changes
    }

    /// The pools of shard `index` at this moment.
    pub fn pools(&self, index: usize) -> Guard<Arc<Vec<Arc<PoolMetrics>>>> {
        self.0.pools[index].load()
    }

    fn set_pools(&self, index: usize, pools: Vec<Arc<PoolMetrics>>) {
        self.0.pools[index].store(Arc::new(pools));
    }

    /// The readings at the last two ticks.
    pub fn ticks(&self) -> Guard<Arc<window::Ticks>> {
        self.0.ticks.load()
    }

    /// Ends a window. To be called by the control thread, every [`window::WINDOW`].
    pub fn tick(&self) {
        let next = self.ticks().tick(window::Reading::take(self));
        self.0.ticks.store(Arc::new(next));
    }

    /// What processes before this one have counted.
    pub fn inherited(&self) -> Guard<Arc<totals::Totals>> {
        self.0.inherited.load()
    }

    /// Adds what the process before this one has counted; `is_history`: before this one served, so it is no
    /// part of what has happened lately. To be called by the control thread.
    pub fn inherit(&self, more: &totals::Totals, is_history: bool) {
        let mut all = (**self.inherited()).clone();
        all.add(more, self.shards().len());
        if is_history {
            self.0
                .ticks
                .store(Arc::new(self.ticks().with_history(more)));
        }
        self.0.inherited.store(Arc::new(all));
    }

    /// The process takes no clients any more, and ends sooner or later.
    pub fn close(&self) {
        self.0.is_closing.store(true, Ordering::Relaxed);
    }

    /// True once the process takes no clients any more.
    pub fn is_closing(&self) -> bool {
        self.0.is_closing.load(Ordering::Relaxed)
    }

    /// A moment as a number that fits into a cell: microseconds since the start plus one, so never 0.
    pub fn micros(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.0.start);
        u64::try_from(since.as_micros()).map_or(u64::MAX, |micros| micros.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_share_cache_lines() {
        let fleet = Fleet::new(3);
        for shard in fleet.shards() {
            assert_eq!(std::ptr::from_ref(shard) as usize % 128, 0);
        }
        fleet.shard(1).dropped(Droppable::Grant);
        fleet.shard(1).clients.add(3);
        fleet.shard(1).clients.sub(1);
        assert_eq!(fleet.shard(1).clients.get(), 2);
        let lost =
            |shard: usize| fleet.shard(shard).messages_dropped[Droppable::Grant as usize].get();
        assert_eq!((lost(0), lost(1)), (0, 1));
    }
}
