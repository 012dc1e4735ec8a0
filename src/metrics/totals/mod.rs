//! What has been counted in all, as a value: it goes on in the process after this one.
//!
//! **Owns:** the totals of pools and shards, what is new in them, their form as bytes.
//! **Does not own:** when they are sent (`app::succession`), the blocks (`pool`), what is shown.
//!
//! ```text
//!   record: version u16 │ is it history? │ pools: names, counts, times │ shards: number, name, count
//!   times:  sum u64 │ so many pairs of bucket u16 and count u64
//! ```
//!
//! **Invariants**
//! 1. Totals only grow; the difference of two is what has been counted between them, so who adds all
//!    differences has counted everything once.
//! 2. What is read never panics, and a record of another version is refused as a whole.
//! 3. A shard that the next process does not have counts as one that it has.

use std::collections::BTreeMap;

use crate::upgrade::bytes::{Malformed, Reader, Writer};

use super::Fleet;
use super::descriptors::Kind;
use super::histogram::{BUCKETS, Histogram};
use super::pool::{PoolName, PoolReading, read_all};
use super::snapshot::{Reading, ShardSnapshot};

/// Version of the record. Goes up with every change of its form, or of the buckets.
const VERSION: u16 = 1;
/// Pools in one record: it stays below a megabyte.
const POOLS_MAX: usize = 64;

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

    fn write(&self, out: &mut Writer) {
        out.u64(self.bytes_received);
        out.u64(self.bytes_sent);
        out.u64(self.errors);
        for times in [&self.queries, &self.transactions, &self.waits] {
            out.u64(times.sum_us);
            out.u32(times.counted().count() as u32);
            for (bucket, count) in times.counted() {
                out.u16(bucket as u16);
                out.u64(count);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            bytes_received: from.u64()?,
            bytes_sent: from.u64()?,
            errors: from.u64()?,
            queries: read_times(from)?,
            transactions: read_times(from)?,
            waits: read_times(from)?,
        })
    }
}

fn read_times(from: &mut Reader<'_>) -> Result<Histogram, Malformed> {
    let sum_us = from.u64()?;
    let mut counts = vec![0; BUCKETS];
    for _ in 0..from.u32()? {
        let bucket = usize::from(from.u16()?);
        let count = counts.get_mut(bucket).ok_or(Malformed("no such bucket"))?;
        *count = from.u64()?;
    }
    Ok(Histogram::of(counts, sum_us))
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

    /// As records, of which each is a part. `is_history`: it was counted before the receiver served.
    pub fn encode(&self, is_history: bool) -> Vec<Vec<u8>> {
        let pools: Vec<_> = self.pools.iter().collect();
        let mut parts: Vec<&[_]> = pools.chunks(POOLS_MAX).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let last = parts.len() - 1;
        let parts = parts.into_iter().enumerate();
        let encoded = parts.map(|(number, part)| {
            let mut out = Writer::default();
            out.u16(VERSION);
            out.flag(is_history);
            out.u32(part.len() as u32);
            for ((database, user), totals) in part {
                out.text(database);
                out.text(user);
                totals.write(&mut out);
            }
            let shards = if number == last { self.shards.len() } else { 0 };
            out.u32(shards as u32);
            for ((shard, name), count) in self.shards.iter().take(shards) {
                out.u16(*shard);
                out.text(name);
                out.u64(*count);
            }
            out.into_bytes()
        });
        encoded.collect()
    }

    /// From one record: the part, and whether it is history.
    ///
    /// # Errors
    ///
    /// It is none, or one of another version.
    pub fn decode(bytes: &[u8]) -> Result<(Self, bool), Malformed> {
        let mut from = Reader::new(bytes);
        if from.u16()? != VERSION {
            return Err(Malformed("totals of another version"));
        }
        let is_history = from.flag()?;
        let mut totals = Self::default();
        for _ in 0..from.u32()? {
            let name = (from.text()?.into(), from.text()?.into());
            totals.pools.insert(name, PoolTotals::read(&mut from)?);
        }
        for _ in 0..from.u32()? {
            let key = (from.u16()?, from.text()?.into());
            totals.shards.insert(key, from.u64()?);
        }
        from.end()?;
        Ok((totals, is_history))
    }
}

#[cfg(test)]
mod tests;
