//! Median, range and percentiles.
//!
//! Owns: the arithmetic on measured values.
//! Does not own: how they are measured or shown.
//! Invariants: no function here returns NaN for finite input.

use serde::Serialize;

/// One figure over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// The value of every round, in the order measured.
    pub(crate) rounds: Vec<f64>,
}

impl Summary {
    /// Summarises the rounds; `None` when there is none.
    pub(crate) fn of(rounds: &[f64]) -> Option<Self> {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self {
            median,
            min,
            max,
            rounds: rounds.to_vec(),
        })
    }
}

/// The smallest value of `sorted` that at least `per_mille` thousandths of the values do not
/// exceed (nearest rank); `None` when it is empty.
pub(crate) fn percentile<T: Copy>(sorted: &[T], per_mille: usize) -> Option<T> {
    let rank = (sorted.len() * per_mille).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_an_even_count_is_the_middle_of_the_two() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]).expect("four rounds");
        assert_eq!((summary.median, summary.min, summary.max), (2.5, 1.0, 4.0));
        assert_eq!(Summary::of(&[7.0, 1.0, 3.0]).map(|s| s.median), Some(3.0));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn percentile_is_the_nearest_rank() {
        let values: Vec<u32> = (1..=1000).collect();
        assert_eq!(percentile(&values, 500), Some(500));
        assert_eq!(percentile(&values, 990), Some(990));
        assert_eq!(percentile(&values, 999), Some(999));
        assert_eq!(percentile(&[7], 999), Some(7));
        assert_eq!(percentile::<u32>(&[], 500), None);
    }
}
