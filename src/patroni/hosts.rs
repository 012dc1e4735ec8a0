//! Which of several hosts is asked next.
//!
//! **Owns:** the order, and how long a host that has failed comes last.
//! **Does not own:** asking, the clock.
//! **Invariant:** every host is in the order, each once.

use std::time::{Duration, Instant};

/// How long a host that has failed comes after the others.
pub const REST: Duration = Duration::from_secs(10);

/// When each host has failed last, in the configured order.
#[derive(Clone, Debug)]
pub struct Hosts {
    failed: Vec<Option<Instant>>,
}

impl Hosts {
    /// `count` hosts that have never failed.
    pub fn new(count: usize) -> Self {
        Self {
            failed: vec![None; count],
        }
    }

    /// The places of all hosts in the order in which they are to be asked at `now`.
    pub fn order(&self, now: Instant) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.failed.len()).collect();
        // Stable: within each half the configured order stays.
        order.sort_by_key(|place| self.rests(*place, now));
        order
    }

    fn rests(&self, place: usize, now: Instant) -> bool {
        let failed = self.failed.get(place).copied().flatten();
        failed.is_some_and(|at| now.saturating_duration_since(at) < REST)
    }

    /// The host at `place` has not answered.
    pub fn note_failure(&mut self, place: usize, now: Instant) {
        if let Some(failed) = self.failed.get_mut(place) {
            *failed = Some(now);
        }
    }

    /// The host at `place` has answered.
    pub fn note_success(&mut self, place: usize) {
        if let Some(failed) = self.failed.get_mut(place) {
            *failed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_failed_comes_last_for_ten_seconds() {
        let (mut hosts, start) = (Hosts::new(3), Instant::now());
        assert_eq!(hosts.order(start), [0, 1, 2]);
        hosts.note_failure(0, start);
        assert_eq!(hosts.order(start + REST / 2), [1, 2, 0]);
        assert_eq!(hosts.order(start + REST), [0, 1, 2]);
        hosts.note_failure(1, start);
        hosts.note_failure(2, start);
        assert_eq!(hosts.order(start), [0, 1, 2]);
        hosts.note_success(1);
        assert_eq!(hosts.order(start), [1, 0, 2]);
    }
}
