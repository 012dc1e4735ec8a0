//! How long something took, counted in buckets.
//!
//! **Owns:** the buckets, percentiles, and the coarser buckets that Prometheus is shown.
//! **Does not own:** what is measured.
//! **Invariants:** buckets never change, so histograms of several shards and moments can be added and
//! subtracted; recording is two additions and allocates nothing.
//!
//! A bucket is a sixteenth of the power of two that it lies in, so a value is known to about 3 %:
//!
//! ```text
//!   0 1 2 … 15 │ 16 17 18 … 31 │ 32 34 36 … 62 │ 64 68 … │ …   microseconds
//!   one wide   │ one wide      │ two wide      │ four wide
//! ```
//!
//! Source: Prometheus documentation, "Histograms and summaries".

use super::Counter;

/// Bits of a value below its highest that choose the bucket.
const FINE_BITS: u32 = 4;
/// Buckets in one power of two.
const FINE: usize = 1 << FINE_BITS;
/// The longest time that is told apart: a little more than 17 minutes, in bits of microseconds.
const BITS_MAX: u32 = 30;
/// Number of buckets.
pub const BUCKETS: usize = (BITS_MAX - FINE_BITS + 1) as usize * FINE;
/// The powers of two of microseconds that are upper bounds for Prometheus: from 128 µs to 67 s.
pub const BOUNDS: std::ops::RangeInclusive<u32> = 7..=26;

/// The bucket of a time in microseconds.
const fn bucket(micros: u64) -> usize {
    let longest = (1 << BITS_MAX) - 1;
    let micros = if micros < longest { micros } else { longest };
    if micros < FINE as u64 {
        return micros as usize;
    }
    let highest = micros.ilog2();
    let fine = (micros >> (highest - FINE_BITS)) as usize & (FINE - 1);
    (highest - FINE_BITS + 1) as usize * FINE + fine
}

/// The middle of a bucket, in microseconds.
const fn middle(bucket: usize) -> u64 {
    if bucket < FINE {
        return bucket as u64;
    }
    let shift = (bucket / FINE - 1) as u32;
    let low = ((FINE + bucket % FINE) as u64) << shift;
    low + (1 << shift) / 2
}

/// A histogram that one shard writes.
#[derive(Debug)]
pub struct HistogramCells {
    buckets: Box<[Counter]>,
    sum_us: Counter,
}

impl Default for HistogramCells {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| Counter::default()).collect(),
            sum_us: Counter::default(),
        }
    }
}

impl HistogramCells {
    /// Counts one that took `micros` microseconds. To be called by the shard that owns the block.
    pub fn record(&self, micros: u64) {
        self.buckets[bucket(micros)].add(1);
        self.sum_us.add(micros);
    }
}

/// A histogram as a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Empty as long as nothing was added.
    buckets: Vec<u64>,
    /// The times added up, in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// Adds what a shard has counted.
    pub fn add(&mut self, cells: &HistogramCells) {
        self.buckets.resize(BUCKETS, 0);
        for (sum, cell) in self.buckets.iter_mut().zip(&cells.buckets) {
            *sum += cell.get();
        }
        self.sum_us += cells.sum_us.get();
    }

    /// What others have counted: so many in each bucket, in all so many microseconds.
    pub fn of(mut counts: Vec<u64>, sum_us: u64) -> Self {
        counts.resize(BUCKETS, 0);
        Self {
            buckets: counts,
            sum_us,
        }
    }

    /// Adds another one.
    pub fn add_all(&mut self, more: &Self) {
        self.buckets.resize(BUCKETS, 0);
        for (sum, more) in self.buckets.iter_mut().zip(&more.buckets) {
            *sum = sum.saturating_add(*more);
        }
        self.sum_us = self.sum_us.saturating_add(more.sum_us);
    }

    /// The buckets that have counted something, and how many.
    pub fn counted(&self) -> impl Iterator<Item = (usize, u64)> {
        let all = self.buckets.iter().copied().enumerate();
        all.filter(|(_, count)| *count > 0)
    }

    /// What has been counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let was = |at: usize| before.buckets.get(at).copied().unwrap_or_default();
        let buckets = self.buckets.iter().enumerate();
        Self {
            buckets: buckets
                .map(|(at, now)| now.saturating_sub(was(at)))
                .collect(),
            sum_us: self.sum_us.saturating_sub(before.sum_us),
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The time that `percent` of all did not exceed, in microseconds; 0 if there are none.
    pub fn percentile_us(&self, percent: u64) -> u64 {
        let rank = (self.count() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(bucket);
            }
        }
        0
    }

    /// How many took less than two to the power of `bits` microseconds.
    pub fn below(&self, bits: u32) -> u64 {
        let end = bits.saturating_sub(FINE_BITS - 1) as usize * FINE;
        self.buckets.iter().take(end).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        let mut last = 0;
        for micros in 0..1 << 20 {
            let at = bucket(micros);
            assert!(at == last || at == last + 1, "{micros}");
            last = at;
            let error = middle(at).abs_diff(micros);
            assert!(
                error * 32 <= micros.max(32),
                "{micros} is shown as {}",
                middle(at)
            );
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_and_bounds_are_of_what_was_recorded() {
        let cells = HistogramCells::default();
        let mut before = Histogram::default();
        assert_eq!((before.percentile_us(99), before.count()), (0, 0));
        cells.record(5);
        before.add(&cells);
        for micros in 1..=100 {
            cells.record(micros * 10);
        }
        let mut now = Histogram::default();
        now.add(&cells);
        let since = now.since(&before);
        assert_eq!((since.count(), since.sum_us), (100, 50_500));
        for (percent, expected) in [(50, 500), (95, 950), (99, 990)] {
            let found = since.percentile_us(percent);
            assert!(found.abs_diff(expected) * 25 < expected, "{found}");
        }
        assert_eq!((since.below(7), since.below(26)), (12, 100));
        assert_eq!(now.below(7), 13);
    }
}
