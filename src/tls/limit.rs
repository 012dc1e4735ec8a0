//! How many handshakes a second.
//!
//! **Owns:** the times at which handshakes may begin, over all shards.
//! **Does not own:** waiting for them (`transport`).
//!
//! **Invariant:** times are given away in the order of asking, `rate` a second, and a hundredth of that
//! at once after a pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A limit that all shards share.
#[derive(Clone, Debug)]
pub struct RateLimit {
    start: Instant,
    /// When the next handshake would begin if all were spread evenly, in nanoseconds after `start`.
    next: Arc<AtomicU64>,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            next: Arc::default(),
        }
    }
}

impl RateLimit {
    /// The time at which one more handshake may begin, of `rate` a second; 0 = no limit.
    pub fn take(&self, now: Instant, rate: usize) -> Instant {
        if rate == 0 {
            return now;
        }
        let interval = 1_000_000_000 / rate as u64;
        // Ten milliseconds' worth may come at once.
        let burst = 10_000_000 - interval.min(10_000_000);
        let now_ns = now.saturating_duration_since(self.start).as_nanos() as u64;
        let earliest = now_ns.saturating_sub(burst);
        let mut at = 0;
        // Never fails: the function always returns a value.
        let _ = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                at = next.max(earliest);
                Some(at + interval)
            });
        now + Duration::from_nanos(at.saturating_sub(now_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_spread_and_a_hundredth_may_come_at_once() {
        let limit = RateLimit::default();
        let now = limit.start + Duration::from_secs(5);
        let taken: Vec<_> = (0..20).map(|_| limit.take(now, 1000)).collect();
        assert!(taken[..10].iter().all(|at| *at <= now));
        assert!(taken.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(taken[19], now + Duration::from_millis(10));
        let later = now + Duration::from_secs(1);
        assert_eq!(limit.take(later, 1000), later);
        assert_eq!(limit.take(now, 0), now);
    }

    #[test]
    fn the_lowest_rate_lets_one_begin_every_ten_milliseconds() {
        let limit = RateLimit::default();
        let now = limit.start;
        assert_eq!(limit.take(now, 100), now);
        assert_eq!(limit.take(now, 100), now + Duration::from_millis(10));
    }
}
