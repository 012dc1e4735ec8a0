//! What a pool counts on one shard, and what comes of it over all shards.
//!
//! **Owns:** one block of numbers for each pool and shard, and their sums.
//! **Does not own:** when something is counted (the floors above), windows of time (`window`), how it
//! is shown.
//!
//! Pools come and go by reloads, so blocks are on a list. The shard that owns it replaces the whole
//! list when a pool comes or goes; whoever reads takes the list as it is, without a lock, and reads
//! the cells while the shard goes on. A pool that a reload replaces by one of the same names goes on
//! with its block.
//!
//! **Invariants**
//! 1. A block is written by its shard only, as those of `metrics` are.
//! 2. A block is on the list as long as a pool of its names exists on that shard.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::histogram::{Histogram, HistogramCells};
use super::totals::PoolTotals;
use super::{Counter, Fleet, Gauge};

/// The numbers of one pool on one shard.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct PoolMetrics {
    /// The database that clients ask for.
    pub database: Box<str>,
    /// The user that they log in as.
    pub user: Box<str>,
    /// Sessions.
    pub clients: Gauge,
    /// Sessions that have a server.
    pub clients_active: Gauge,
    /// Sessions that wait for one.
    pub clients_waiting: Gauge,
    /// Servers that are lent, or are being cleaned.
    pub servers_active: Gauge,
    /// Servers that nobody uses.
    pub servers_idle: Gauge,
    /// Servers that are being opened.
    pub servers_login: Gauge,
    /// Servers that the pool may have, over all shards.
    pub size: Gauge,
    /// Servers that exist or may be opened beyond `size`, because it was larger.
    pub debt: Gauge,
    /// Servers on their way to another process; see [`Leave`].
    leaving: AtomicU64,
    /// 1 if the pool lends no servers at the moment.
    pub is_paused: Gauge,
    /// Since when the first in the queue waits, as [`Fleet::micros`] has it; 0 = nobody waits.
    pub waits_since_us: Gauge,
    /// Bytes from servers to clients.
    pub bytes_received: Counter,
    /// Bytes from clients to servers.
    pub bytes_sent: Counter,
    /// Waits that have ended with an error.
    pub errors: Counter,
    /// From the first message of a query to the end of its answer.
    pub queries: HistogramCells,
    /// From the first message of a transaction to its end.
    pub transactions: HistogramCells,
    /// From asking for a server to getting it.
    pub waits: HistogramCells,
    /// Statements that the pool remembers.
    pub prepared_entries: Gauge,
    /// Their size in bytes, an estimate.
    pub prepared_bytes: Gauge,
    /// Statements that clients have prepared, all clients together.
    pub client_prepared_entries: Gauge,
    /// Their size in bytes, an estimate.
    pub client_prepared_bytes: Gauge,
    /// Clients that have ever used `Flush`.
    pub async_clients: Gauge,
    /// The server connections, as a list that is replaced as a whole.
    servers: ArcSwap<Vec<Arc<ServerNumbers>>>,
}

/// A server on its way to another process: it counts until this is dropped, on whatever thread.
#[derive(Debug)]
pub struct Leave(Arc<PoolMetrics>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.leaving.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A block on the list of its shard; it leaves the list when dropped.
#[derive(Debug)]
pub struct Enrolled {
    fleet: Fleet,
    shard: usize,
    cells: Arc<PoolMetrics>,
}

impl Enrolled {
    /// A new block of shard `shard`. To be called on that shard.
    pub fn new(fleet: &Fleet, shard: usize, database: &str, user: &str) -> Rc<Self> {
        let cells = Arc::new(PoolMetrics {
            database: database.into(),
            user: user.into(),
            ..PoolMetrics::default()
        });
        let mut pools = (**fleet.pools(shard)).clone();
        pools.push(Arc::clone(&cells));
        fleet.set_pools(shard, pools);
        Rc::new(Self {
            fleet: fleet.clone(),
            shard,
            cells,
        })
    }

    /// A server is about to leave for another process.
    pub fn leave(&self) -> Leave {
        self.cells.leaving.fetch_add(1, Ordering::AcqRel);
        Leave(Arc::clone(&self.cells))
    }

    /// The numbers of a new server connection. To be called on the shard of the block.
    pub fn enrol_server(&self, pid: i32) -> EnrolledServer {
        let numbers = Arc::new(ServerNumbers {
            pid,
            ..ServerNumbers::default()
        });
        let mut servers = (**self.cells.servers.load()).clone();
        servers.push(Arc::clone(&numbers));
        self.cells.servers.store(Arc::new(servers));
        EnrolledServer {
            pool: Arc::clone(&self.cells),
            numbers,
        }
    }

    /// The block's place among all.
    pub const fn fleet(&self) -> &Fleet {
        &self.fleet
    }
}

impl Deref for Enrolled {
    type Target = PoolMetrics;

    fn deref(&self) -> &PoolMetrics {
        &self.cells
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        let mut pools = (**self.fleet.pools(self.shard)).clone();
        pools.retain(|pool| !Arc::ptr_eq(pool, &self.cells));
        self.fleet.set_pools(self.shard, pools);
    }
}

/// What one server connection counts.
#[derive(Debug, Default)]
pub struct ServerNumbers {
    pid: i32,
    prepared_hits: Gauge,
    prepared_misses: Gauge,
}

/// A server connection on the list of its pool's block; it leaves the list when dropped.
#[derive(Debug)]
pub struct EnrolledServer {
    pool: Arc<PoolMetrics>,
    numbers: Arc<ServerNumbers>,
}

impl EnrolledServer {
    /// Prepared statements that were wanted: those that were there, and those that had to be made.
    pub fn note(&self, hits: u64, misses: u64) {
        self.numbers.prepared_hits.set(hits);
        self.numbers.prepared_misses.set(misses);
    }
}

impl Drop for EnrolledServer {
    fn drop(&mut self) {
        let mut servers = (**self.pool.servers.load()).clone();
        servers.retain(|numbers| !Arc::ptr_eq(numbers, &self.numbers));
        self.pool.servers.store(Arc::new(servers));
    }
}

/// The numbers of one server connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerReading {
    /// Process id of its session.
    pub pid: i32,
    /// Prepared statements that were wanted and were there.
    pub prepared_hits: u64,
    /// Prepared statements that had to be made.
    pub prepared_misses: u64,
}

/// Names a pool: database, user.
pub type PoolName = (Box<str>, Box<str>);

/// The numbers of one pool, all shards together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in `PoolMetrics`")]
pub struct PoolReading {
    pub clients: u64,
    pub clients_active: u64,
    pub clients_waiting: u64,
    pub servers_active: u64,
    pub servers_idle: u64,
    pub servers_login: u64,
    pub size: u64,
    pub debt: u64,
    pub is_paused: bool,
    /// How long the one has waited who has waited longest, in microseconds.
    pub wait_us_max: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub errors: u64,
    pub queries: Histogram,
    pub transactions: Histogram,
    pub waits: Histogram,
    pub prepared_entries: u64,
    pub prepared_bytes: u64,
    pub client_prepared_entries: u64,
    pub client_prepared_bytes: u64,
    pub async_clients: u64,
    pub by_server: Vec<ServerReading>,
}

impl PoolReading {
    /// Adds what a shard has counted.
    pub(super) fn add(&mut self, cells: &PoolMetrics, now_us: u64) {
        self.add_counts(cells, now_us);
        self.add_times(cells);
    }

    /// Adds all but the times of what a shard has counted.
    fn add_counts(&mut self, cells: &PoolMetrics, now_us: u64) {
        self.clients += cells.clients.get();
        self.clients_active += cells.clients_active.get();
        self.clients_waiting += cells.clients_waiting.get();
        self.servers_active += cells.servers_active.get();
        self.servers_idle += cells.servers_idle.get();
        self.servers_login += cells.servers_login.get();
        self.size = self.size.max(cells.size.get());
        self.debt += cells.debt.get();
        self.is_paused |= cells.is_paused.get() > 0;
        let since = cells.waits_since_us.get();
        if since > 0 {
            self.wait_us_max = self.wait_us_max.max(now_us.saturating_sub(since));
        }
        self.bytes_received += cells.bytes_received.get();
        self.bytes_sent += cells.bytes_sent.get();
        self.errors += cells.errors.get();
        self.prepared_entries += cells.prepared_entries.get();
        self.prepared_bytes += cells.prepared_bytes.get();
        self.client_prepared_entries += cells.client_prepared_entries.get();
        self.client_prepared_bytes += cells.client_prepared_bytes.get();
        self.async_clients += cells.async_clients.get();
        let servers = cells.servers.load();
        self.by_server
            .extend(servers.iter().map(|numbers| ServerReading {
                pid: numbers.pid,
                prepared_hits: numbers.prepared_hits.get(),
                prepared_misses: numbers.prepared_misses.get(),
            }));
    }

    /// Adds the times of what a shard has counted: more than a thousand cells.
    fn add_times(&mut self, cells: &PoolMetrics) {
        self.queries.add(&cells.queries);
        self.transactions.add(&cells.transactions);
        self.waits.add(&cells.waits);
    }

    /// Adds what processes before this one have counted, but for times.
    fn add_counts_of(&mut self, totals: &PoolTotals) {
        self.bytes_received = self.bytes_received.saturating_add(totals.bytes_received);
        self.bytes_sent = self.bytes_sent.saturating_add(totals.bytes_sent);
        self.errors = self.errors.saturating_add(totals.errors);
    }

    /// Adds what processes before this one have counted.
    pub(super) fn add_totals(&mut self, totals: &PoolTotals) {
        self.add_counts_of(totals);
        self.queries.add_all(&totals.queries);
        self.transactions.add_all(&totals.transactions);
        self.waits.add_all(&totals.waits);
    }

    /// Clients that neither have a server nor wait for one. Numbers of a moment may not fit each
    /// other.
    pub const fn clients_idle(&self) -> u64 {
        let busy = self.clients_active + self.clients_waiting;
        self.clients.saturating_sub(busy)
    }

    /// Servers of any kind.
    pub const fn servers(&self) -> u64 {
        self.servers_active + self.servers_idle + self.servers_login
    }
}

/// All pools, each over all shards.
pub fn read_all(fleet: &Fleet) -> BTreeMap<PoolName, PoolReading> {
    read(fleet, PoolReading::add_times, PoolReading::add_totals)
}

/// As [`read_all`], without times: for those who stop a shard while they read.
pub fn read_counts(fleet: &Fleet) -> BTreeMap<PoolName, PoolReading> {
    read(fleet, |_, _| {}, PoolReading::add_counts_of)
}

/// How many servers of each pool exist or may be opened, those included that are on their way to another
/// process: never too few, if a server counts as leaving before it ceases to count as the pool's.
pub fn read_rights(fleet: &Fleet) -> BTreeMap<PoolName, u64> {
    let readings = read_counts(fleet).into_iter();
    let mut rights: BTreeMap<PoolName, u64> = readings
        .map(|(name, reading)| (name, reading.size + reading.debt))
        .collect();
    for shard in 0..fleet.shards().len() {
        for cells in fleet.pools(shard).iter() {
            let name = (cells.database.clone(), cells.user.clone());
            *rights.entry(name).or_default() += cells.leaving.load(Ordering::Acquire);
        }
    }
    rights
}

/// The databases that lend no servers at the moment.
pub fn read_paused(fleet: &Fleet) -> Vec<String> {
    let readings = read_counts(fleet).into_iter();
    let mut paused: Vec<String> = readings
        .filter(|(_, reading)| reading.is_paused)
        .map(|((database, _), _)| database.into())
        .collect();
    paused.dedup();
    paused
}

fn read(
    fleet: &Fleet,
    add_times: fn(&mut PoolReading, &PoolMetrics),
    add_totals: fn(&mut PoolReading, &PoolTotals),
) -> BTreeMap<PoolName, PoolReading> {
    let mut readings = BTreeMap::<PoolName, PoolReading>::new();
    let now_us = fleet.micros(std::time::Instant::now());
    for shard in 0..fleet.shards().len() {
        for cells in fleet.pools(shard).iter() {
            let name = (cells.database.clone(), cells.user.clone());
            let reading = readings.entry(name).or_default();
            reading.add_counts(cells, now_us);
            add_times(reading, cells);
        }
    }
    let inherited = fleet.inherited();
    for (name, reading) in &mut readings {
        if let Some(totals) = inherited.pool(name) {
            add_totals(reading, totals);
        }
    }
    readings
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pool_is_the_sum_of_its_shards_as_long_as_it_exists() {
        let fleet = Fleet::new(2);
        let enrol = |shard, user| Enrolled::new(&fleet, shard, "db", user);
        let (first, second, other) = (enrol(0, "a"), enrol(1, "a"), enrol(1, "b"));
        first.clients.add(2);
        second.clients.add(3);
        second.clients_active.add(1);
        second.queries.record(10);
        first.size.set(7);
        second.size.set(7);
        let now = std::time::Instant::now();
        let long_ago = fleet.micros(now).saturating_sub(1);
        first.waits_since_us.set(long_ago.max(1));
        std::thread::sleep(Duration::from_millis(1));
        let all = read_all(&fleet);
        assert_eq!(all.len(), 2);
        let reading = &all[&("db".into(), "a".into())];
        assert_eq!((reading.clients, reading.clients_idle()), (5, 4));
        assert_eq!((reading.size, reading.queries.count()), (7, 1));
        assert!(reading.wait_us_max >= 1000);
        let counts = &read_counts(&fleet)[&("db".into(), "a".into())];
        assert_eq!((counts.clients, counts.size), (5, 7));
        assert_eq!(counts.queries, Histogram::default(), "no times are read");
        let server = second.enrol_server(42);
        server.note(7, 8);
        let expected = ServerReading {
            pid: 42,
            prepared_hits: 7,
            prepared_misses: 8,
        };
        let reading = |user: &str| read_all(&fleet)[&("db".into(), user.into())].clone();
        assert_eq!(reading("a").by_server, [expected]);
        drop(server);
        assert_eq!(reading("a").by_server, []);
        drop((first, other));
        let all = read_all(&fleet);
        assert_eq!(all.len(), 1);
        assert_eq!(all[&("db".into(), "a".into())].clients, 3);
        drop(second);
        assert!(read_all(&fleet).is_empty());
    }
}
