//! What has been counted in all, as a value: it goes on in the process after this one.
//!
//! **Owns:** the totals of pools and shards, what is new in them.
//! **Does not own:** their form as bytes, and when they are sent (`app::succession`), the blocks (`pool`), what is shown.
//!
//! **Invariants**
//! 1. Totals only grow; the difference of two is what has been counted between them, so who adds all
//!    differences has counted everything once.
//! 2. A shard that the next process does not have counts as one that it has.

use std::collections::BTreeMap;

use super::Fleet;
use super::descriptors::Kind;
use super::histogram::Histogram;
use super::pool::{PoolName, PoolReading, read_all};
use super::snapshot::{Reading, ShardSnapshot};

/// What one pool has counted, all shards together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in `PoolMetrics`")]
pub struct PoolTotals {
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub errors: u64,
    pub queries: Histogram,
    pub transactions: Histogram,
    pub waits: Histogram,
}

/// What has been counted in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pools: BTreeMap<PoolName, PoolTotals>,
    /// By the number of the shard and the name of the number.
    shards: BTreeMap<(u16, Box<str>), u64>,
}

impl PoolTotals {
    fn of(reading: PoolReading) -> Self {
        Self {
            bytes_received: reading.bytes_received,
            bytes_sent: reading.bytes_sent,
            errors: reading.errors,
            queries: reading.queries,
            transactions: reading.transactions,
            waits: reading.waits,
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            bytes_received: self.bytes_received.saturating_sub(before.bytes_received),
            bytes_sent: self.bytes_sent.saturating_sub(before.bytes_sent),
            errors: self.errors.saturating_sub(before.errors),
            queries: self.queries.since(&before.queries),
            transactions: self.transactions.since(&before.transactions),
            waits: self.waits.since(&before.waits),
        }
    }

    fn add(&mut self, more: &Self) {
        let sum = |one: &mut u64, more| *one = one.saturating_add(more);
        sum(&mut self.bytes_received, more.bytes_received);
        sum(&mut self.bytes_sent, more.bytes_sent);
        sum(&mut self.errors, more.errors);
        self.queries.add_all(&more.queries);
        self.transactions.add_all(&more.transactions);
        self.waits.add_all(&more.waits);
    }

    fn is_zero(&self) -> bool {
        let times = [&self.queries, &self.transactions, &self.waits];
        self.bytes_received + self.bytes_sent + self.errors == 0
            && times.into_iter().all(|times| times.count() == 0)
    }
}

/// The name of a number of a shard.
fn name(reading: &Reading) -> Option<Box<str>> {
    let field = reading.descriptor.source.field()?;
    Some(match reading.kind {
        None => field.into(),
        Some(kind) => format!("{field}.{}", kind.name()).into(),
    })
}

impl Totals {
    /// What has been counted up to now, by this process and those before it.
    pub fn take(fleet: &Fleet) -> Self {
        let pools = read_all(fleet).into_iter();
        let mut totals = Self {
            pools: pools
                .map(|(name, reading)| (name, PoolTotals::of(reading)))
                .collect(),
            shards: BTreeMap::new(),
        };
        for shard in ShardSnapshot::take_all(fleet) {
            for reading in &shard.readings {
                if reading.descriptor.kind == Kind::Counter
                    && let Some(name) = name(reading)
                {
                    let key = (shard.shard as u16, name);
                    totals.shards.insert(key, reading.value);
                }
            }
        }
        totals
    }

    /// What has been counted since `before`, without what has counted nothing.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let none = PoolTotals::default();
        let pools = self.pools.iter().map(|(name, now)| {
            let was = before.pools.get(name).unwrap_or(&none);
            (name.clone(), now.since(was))
        });
        let shards = self.shards.iter().map(|(key, now)| {
            let was = before.shards.get(key).copied().unwrap_or_default();
            (key.clone(), now.saturating_sub(was))
        });
        Self {
            pools: pools.filter(|(_, news)| !news.is_zero()).collect(),
            shards: shards.filter(|(_, news)| *news > 0).collect(),
        }
    }

    /// Adds what another process has counted on its shards; this one has `shards`.
    pub fn add(&mut self, more: &Self, shards: usize) {
        for (name, totals) in &more.pools {
            self.pools.entry(name.clone()).or_default().add(totals);
        }
        for ((shard, name), count) in &more.shards {
            let shard = usize::from(*shard) % shards.max(1);
            let sum = self.shards.entry((shard as u16, name.clone())).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    /// What a pool has counted.
    pub fn pool(&self, name: &PoolName) -> Option<&PoolTotals> {
        self.pools.get(name)
    }

    /// All pools that have counted something.
    pub fn pools(&self) -> impl Iterator<Item = (&PoolName, &PoolTotals)> {
        self.pools.iter()
    }

    /// Adds to a number of a shard.
    pub fn add_to(&self, shard: usize, reading: &mut Reading) {
        if !self.shards.is_empty()
            && reading.descriptor.kind == Kind::Counter
            && let Some(name) = name(reading)
            && let Some(count) = self.shards.get(&(shard as u16, name))
        {
            reading.value = reading.value.saturating_add(*count);
        }
    }

    /// The number `field` of all shards.
    pub fn of_shards(&self, field: &str) -> u64 {
        let all = self.shards.iter();
        all.filter(|((_, name), _)| **name == *field)
            .map(|(_, count)| count)
            .sum()
    }

    /// The numbers of shards: number of the shard, name, count.
    pub fn shards(&self) -> impl Iterator<Item = (u16, &str, u64)> {
        let all = self.shards.iter();
        all.map(|((shard, name), count)| (*shard, &**name, *count))
    }

    /// Adds a number of a shard.
    pub fn put_shard(&mut self, shard: u16, name: &str, count: u64) {
        self.shards.insert((shard, name.into()), count);
    }

    /// Adds a pool.
    pub fn put_pool(&mut self, name: PoolName, totals: PoolTotals) {
        self.pools.insert(name, totals);
    }
}

#[cfg(test)]
mod tests;
