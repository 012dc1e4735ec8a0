//! What happened lately: averages and percentiles of the last seconds.
//!
//! **Owns:** the readings of pools at the last two ticks, and what is computed from them.
//! **Does not own:** the ticks (`app::control`), the readings (`pool`).
//!
//! ```text
//!        older            newer             now
//!   ───────┼────────────────┼────────────────┼──▶
//!          │◀── averages ──▶│                │
//!          │◀───────── percentiles ─────────▶│
//! ```
//!
//! Averages are of one whole window; percentiles of that window and what has followed, so they are
//! there at once and never of a moment only.
//!
//! **Invariant:** readers take the two readings as they are, without a lock; the control thread
//! replaces them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Fleet;
use super::pool::{PoolMetrics, PoolName, PoolReading, read_all, read_counts};
use super::totals::Totals;

/// The length of a window.
pub const WINDOW: Duration = Duration::from_secs(15);

/// All pools at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    at: Instant,
    pools: Arc<BTreeMap<PoolName, PoolReading>>,
}

impl Reading {
    /// All pools now.
    pub fn take(fleet: &Fleet) -> Self {
        Self {
            at: Instant::now(),
            pools: Arc::new(read_all(fleet)),
        }
    }
}

/// The readings at the last two ticks.
#[derive(Clone, Debug)]
pub struct Ticks {
    older: Reading,
    newer: Reading,
}

impl Ticks {
    /// Nothing has been counted before `start`.
    pub fn new(start: Instant) -> Self {
        let reading = Reading {
            at: start,
            pools: Arc::default(),
        };
        Self {
            older: reading.clone(),
            newer: reading,
        }
    }

    /// As if this had been counted before either of them.
    #[must_use]
    pub fn with_history(&self, totals: &Totals) -> Self {
        let mut both = self.clone();
        for reading in [&mut both.older, &mut both.newer] {
            let pools = Arc::make_mut(&mut reading.pools);
            for (name, totals) in totals.pools() {
                pools.entry(name.clone()).or_default().add_totals(totals);
            }
        }
        both
    }

    /// The window ends with `reading`, and the next begins.
    #[must_use]
    pub fn tick(&self, reading: Reading) -> Self {
        Self {
            older: self.newer.clone(),
            newer: reading,
        }
    }
}

/// Means of the last whole window, per second unless they are times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Averages {
    /// Transactions a second.
    pub transactions: u64,
    /// Queries a second.
    pub queries: u64,
    /// Bytes a second from servers.
    pub received: u64,
    /// Bytes a second to servers.
    pub sent: u64,
    /// Errors a second.
    pub errors: u64,
    /// Mean length of a transaction, in microseconds.
    pub transaction_us: u64,
    /// Mean length of a query, in microseconds.
    pub query_us: u64,
    /// Time that was waited for servers, in microseconds a transaction.
    pub wait_us: u64,
}

impl Averages {
    fn between(before: &PoolReading, after: &PoolReading, length: Duration) -> Self {
        let per_second = |count: u64| {
            let millis = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
            count.saturating_mul(1000).checked_div(millis).unwrap_or(0)
        };
        let queries = after.queries.since(&before.queries);
        let transactions = after.transactions.since(&before.transactions);
        let waited_us = after.waits.sum_us.saturating_sub(before.waits.sum_us);
        let mean = |sum: u64, count: u64| sum.checked_div(count).unwrap_or(0);
        Self {
            transactions: per_second(transactions.count()),
            queries: per_second(queries.count()),
            received: per_second(after.bytes_received.saturating_sub(before.bytes_received)),
            sent: per_second(after.bytes_sent.saturating_sub(before.bytes_sent)),
            errors: per_second(after.errors.saturating_sub(before.errors)),
            transaction_us: mean(transactions.sum_us, transactions.count()),
            query_us: mean(queries.sum_us, queries.count()),
            wait_us: mean(waited_us, transactions.count()),
        }
    }
}

/// One pool: now, and lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    /// The database that clients ask for.
    pub database: Box<str>,
    /// The user that they log in as.
    pub user: Box<str>,
    /// The numbers now.
    pub now: PoolReading,
    /// Since the tick before the last: what percentiles are of.
    pub recent: PoolReading,
    /// The last whole window.
    pub averages: Averages,
}

/// All pools in the order of their names, as they are now, without times and averages.
pub fn counts(fleet: &Fleet) -> Vec<PoolView> {
    let view = |((database, user), now)| PoolView {
        database,
        user,
        now,
        recent: PoolReading::default(),
        averages: Averages::default(),
    };
    read_counts(fleet).into_iter().map(view).collect()
}

/// All pools in the order of their names.
pub fn views(fleet: &Fleet) -> Vec<PoolView> {
    views_at(Reading::take(fleet), &fleet.ticks())
}

/// All pools, read in pieces: each is thousands of numbers, and a shard has other things to do.
#[derive(Debug)]
pub struct Gathering {
    blocks: std::vec::IntoIter<Arc<PoolMetrics>>,
    now_us: u64,
    readings: BTreeMap<PoolName, PoolReading>,
    ticks: Arc<Ticks>,
    inherited: Arc<Totals>,
    views: Vec<PoolView>,
}

impl Gathering {
    /// Begins to read.
    pub fn new(fleet: &Fleet) -> Self {
        let shards = 0..fleet.shards().len();
        let blocks: Vec<_> = shards
            .flat_map(|shard| (**fleet.pools(shard)).clone())
            .collect();
        Self {
            blocks: blocks.into_iter(),
            now_us: fleet.micros(Instant::now()),
            readings: BTreeMap::new(),
            ticks: Arc::clone(&fleet.ticks()),
            inherited: Arc::clone(&fleet.inherited()),
            views: Vec::new(),
        }
    }

    /// Reads one more piece. True if there are more.
    pub fn go_on(&mut self) -> bool {
        if self.blocks.as_slice().is_empty() {
            let Some(mut reading) = self.readings.pop_first() else {
                return false;
            };
            if let Some(totals) = self.inherited.pool(&reading.0) {
                reading.1.add_totals(totals);
            }
            self.views.push(view_at(reading, &self.ticks));
        }
        for cells in self.blocks.by_ref().take(1) {
            let name = (cells.database.clone(), cells.user.clone());
            let reading = self.readings.entry(name).or_default();
            reading.add(&cells, self.now_us);
        }
        true
    }

    /// What was read, in the order of the names.
    pub fn into_views(self) -> Vec<PoolView> {
        self.views
    }
}

fn views_at(now: Reading, ticks: &Ticks) -> Vec<PoolView> {
    let readings = Arc::unwrap_or_clone(now.pools).into_iter();
    readings.map(|reading| view_at(reading, ticks)).collect()
}

fn view_at((name, now): (PoolName, PoolReading), ticks: &Ticks) -> PoolView {
    let none = PoolReading::default();
    let length = ticks.newer.at.saturating_duration_since(ticks.older.at);
    let older = ticks.older.pools.get(&name).unwrap_or(&none);
    let newer = ticks.newer.pools.get(&name).unwrap_or(&none);
    let recent = PoolReading {
        queries: now.queries.since(&older.queries),
        transactions: now.transactions.since(&older.transactions),
        waits: now.waits.since(&older.waits),
        ..PoolReading::default()
    };
    PoolView {
        recent,
        averages: Averages::between(older, newer, length),
        database: name.0,
        user: name.1,
        now,
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::Enrolled;
    use super::*;

    #[test]
    fn averages_are_of_the_last_window_and_percentiles_reach_up_to_now() {
        let fleet = Fleet::new(1);
        let pool = Enrolled::new(&fleet, 0, "db", "u");
        let start = Instant::now();
        let reading = |seconds| Reading {
            at: start + Duration::from_secs(seconds),
            ..Reading::take(&fleet)
        };
        let mut ticks = Ticks::new(start);
        for _ in 0..30 {
            pool.queries.record(100);
            pool.transactions.record(200);
        }
        pool.waits.record(600);
        pool.bytes_sent.add(1500);
        let view = |ticks: &Ticks| views_at(reading(0), ticks).pop().unwrap();
        assert_eq!(view(&ticks).averages, Averages::default());
        assert_eq!(view(&ticks).recent.queries.count(), 30);
        ticks = ticks.tick(reading(15));
        let averages = view(&ticks).averages;
        assert_eq!((averages.queries, averages.sent), (2, 100));
        assert_eq!((averages.transaction_us, averages.query_us), (200, 100));
        assert_eq!(averages.wait_us, 20);
        pool.queries.record(5000);
        assert_eq!(view(&ticks).recent.queries.count(), 31);
        ticks = ticks.tick(reading(30));
        assert_eq!(view(&ticks).averages.query_us, 5000);
        assert_eq!(view(&ticks).recent.queries.count(), 1);
        ticks = ticks.tick(reading(45));
        assert_eq!(view(&ticks).averages, Averages::default());
        assert_eq!(view(&ticks).recent.queries.percentile_us(99), 0);
        assert_eq!(view(&ticks).now.queries.count(), 31);
    }
}
