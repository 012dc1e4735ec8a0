//! Random numbers from a seed.
//!
//! Owns: the generator and the distributions the checks need.
//! Does not own: where the seed comes from.
//! Invariants: the same seed gives the same numbers on every machine.
//! Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (`SplitMix64`).

use std::time::Duration;

/// A generator.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// A generator with this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `count` - 1; `count` must not be 0.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        // The bias is negligible for the small counts used here.
        self.next() % count.max(1)
    }

    /// A number from 0 up to, but not including, 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A time from an exponential distribution, at most 20 times its mean.
    pub(crate) fn time(&mut self, mean: Duration) -> Duration {
        let factor = -(1.0 - self.fraction()).ln();
        mean.mul_f64(factor.clamp(0.0, 20.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_mean_asked_for() {
        let mut random = Random::new(1);
        let sum: Duration = (0..10_000)
            .map(|_| random.time(Duration::from_secs(1)))
            .sum();
        let mean = sum.as_secs_f64() / 10_000.0;
        assert!((0.95..1.05).contains(&mean), "{mean}");
    }

    #[test]
    fn the_seed_decides_the_numbers() {
        let first = Random::new(7).next();
        assert_eq!(first, Random::new(7).next());
        assert_ne!(first, Random::new(8).next());
        assert!((0..100).all(|seed| Random::new(seed).below(3) < 3));
    }
}
