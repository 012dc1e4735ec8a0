//! What was counted, as bytes.
//!
//! **Owns:** the record of totals.
//! **Does not own:** totals (`metrics::totals`), when they are told (`account`).
//!
//! ```text
//!   record: version u16 │ is it history? │ pools: names, counts, times │ shards: number, name, count
//!   times:  sum u64 │ so many pairs of bucket u16 and count u64
//! ```
//!
//! **Invariant:** what is read never panics, and a record of another version is refused as a whole.

use crate::metrics::histogram::{BUCKETS, Histogram};
use crate::metrics::totals::{PoolTotals, Totals};
use crate::upgrade::bytes::{Malformed, Reader, Writer};

/// Version of the record. Goes up with every change of its form, or of the buckets.
const VERSION: u16 = 1;
/// Pools in one record: it stays below a megabyte.
const POOLS_MAX: usize = 64;

fn write_pool(out: &mut Writer, pool: &PoolTotals) {
    out.u64(pool.bytes_received);
    out.u64(pool.bytes_sent);
    out.u64(pool.errors);
    for times in [&pool.queries, &pool.transactions, &pool.waits] {
        out.u64(times.sum_us);
        out.u32(times.counted().count() as u32);
        for (bucket, count) in times.counted() {
            out.u16(bucket as u16);
            out.u64(count);
        }
    }
}

fn read_pool(from: &mut Reader<'_>) -> Result<PoolTotals, Malformed> {
    Ok(PoolTotals {
        bytes_received: from.u64()?,
        bytes_sent: from.u64()?,
        errors: from.u64()?,
        queries: read_times(from)?,
        transactions: read_times(from)?,
        waits: read_times(from)?,
    })
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

/// As records, of which each is a part. `is_history`: it was counted before the receiver served.
pub(super) fn encode(totals: &Totals, is_history: bool) -> Vec<Vec<u8>> {
    let pools: Vec<_> = totals.pools().collect();
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
        for ((database, user), pool) in part {
            out.text(database);
            out.text(user);
            write_pool(&mut out, pool);
        }
        let shards = if number == last {
            totals.shards().count()
        } else {
            0
        };
        out.u32(shards as u32);
        for (shard, name, count) in totals.shards().take(shards) {
            out.u16(shard);
            out.text(name);
            out.u64(count);
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
pub(super) fn decode(bytes: &[u8]) -> Result<(Totals, bool), Malformed> {
    let mut from = Reader::new(bytes);
    if from.u16()? != VERSION {
        return Err(Malformed("totals of another version"));
    }
    let is_history = from.flag()?;
    let mut totals = Totals::default();
    for _ in 0..from.u32()? {
        let name = (from.text()?.into(), from.text()?.into());
        totals.put_pool(name, read_pool(&mut from)?);
    }
    for _ in 0..from.u32()? {
        let (shard, name) = (from.u16()?, from.text()?);
        totals.put_shard(shard, name, from.u64()?);
    }
    from.end()?;
    Ok((totals, is_history))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record of version 1 as it was written on 24 November 2026.
    const RECORDED: &[u8] = b"\0\x01\x01\
        \0\0\0\x01\0\0\0\x02db\0\0\0\x01u\
        \0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x05\
        \0\0\0\0\0\0\0\x0e\0\0\0\x01\0\x07\0\0\0\0\0\0\0\x02\
        \0\0\0\0\0\0\0\0\0\0\0\0\
        \0\0\0\0\0\0\0\0\0\0\0\0\
        \0\0\0\x01\0\x02\0\0\0\x05wants\0\0\0\0\0\0\0\x09";

    fn sample() -> Totals {
        let mut counts = vec![0; BUCKETS];
        counts[7] = 2;
        let nothing = || Histogram::of(vec![0; BUCKETS], 0);
        let pool = PoolTotals {
            bytes_received: 3,
            bytes_sent: 4,
            errors: 5,
            queries: Histogram::of(counts, 14),
            transactions: nothing(),
            waits: nothing(),
        };
        let mut totals = Totals::default();
        totals.put_pool(("db".into(), "u".into()), pool);
        totals.put_shard(2, "wants", 9);
        totals
    }

    #[test]
    fn the_form_of_version_one_stays() {
        assert_eq!(encode(&sample(), true), [RECORDED]);
        assert_eq!(decode(RECORDED), Ok((sample(), true)));
        let mut newer = RECORDED.to_vec();
        newer[1] = 2;
        assert!(decode(&newer).is_err());
        for end in 0..RECORDED.len() {
            assert!(decode(&RECORDED[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn many_pools_go_in_parts() {
        let mut all = sample();
        let pool = all.pool(&("db".into(), "u".into())).unwrap().clone();
        for number in 0..POOLS_MAX {
            all.put_pool((number.to_string().into(), "u".into()), pool.clone());
        }
        let parts = encode(&all, false);
        assert_eq!(parts.len(), 2);
        let mut sum = Totals::default();
        for part in &parts {
            sum.add(&decode(part).unwrap().0, 3);
        }
        assert_eq!(sum, all);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            pools in prop::collection::btree_map(
                ("[a-z]{1,3}", "[a-z]{1,3}"),
                (any::<[u64; 3]>(), prop::collection::vec((0..BUCKETS, any::<u64>()), 0..9), any::<u64>()),
                0..150,
            ),
            shards in prop::collection::btree_map((any::<u16>(), "[a-z.]{1,9}"), any::<u64>(), 0..20),
            is_history: bool,
        ) {
            let mut all = Totals::default();
            for ((database, user), ([bytes_received, bytes_sent, errors], counts, sum_us)) in pools {
                let mut buckets = vec![0; BUCKETS];
                for (bucket, count) in counts {
                    buckets[bucket] = count;
                }
                let pool = PoolTotals {
                    bytes_received,
                    bytes_sent,
                    errors,
                    queries: Histogram::of(buckets, sum_us),
                    transactions: Histogram::of(Vec::new(), 0),
                    waits: Histogram::of(Vec::new(), 1),
                };
                all.put_pool((database.into(), user.into()), pool);
            }
            for ((shard, name), count) in shards {
                all.put_shard(shard, &name, count);
            }
            let mut read = Totals::default();
            for part in encode(&all, is_history) {
                let (part, was_history) = decode(&part).unwrap();
                prop_assert_eq!(was_history, is_history);
                read.add(&part, usize::from(u16::MAX) + 1);
            }
            prop_assert_eq!(read, all);
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
            let _ = decode(&[&[0, 1, 0], &bytes[..]].concat());
        }
    }
}
