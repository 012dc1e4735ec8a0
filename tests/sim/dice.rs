//! Random numbers that depend on the seed only.
//!
//! Owns: the generator and the distributions that the simulation draws from.
//! Does not own: what is drawn.
//! Invariants: the same seed gives the same numbers on every machine.
//! Source: none; the generator is `SplitMix64`.

use std::time::Duration;

/// A seeded generator.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of `low..=high`.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    /// True once in `count` times.
    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.next().is_multiple_of(count as u64)
    }

    /// A number of `low..=high`, small ones as likely as large ones.
    pub(crate) fn biased(&mut self, low: usize, high: usize) -> usize {
        let unit = self.unit();
        let span = (high - low + 1) as f64;
        low + (span.powf(unit) - 1.0).floor() as usize
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A time of `low..high`, in microseconds, short ones as likely as long ones.
    pub(crate) fn micros(&mut self, low: f64, high: f64) -> Duration {
        let nanos = 1000.0 * low * (high / low).powf(self.unit());
        Duration::from_nanos(nanos as u64)
    }

    /// A time of up to `most`.
    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.unit())
    }
}
