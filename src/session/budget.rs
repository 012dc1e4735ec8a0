//! The memory that incomplete client messages may claim, over all shards.
//!
//! **Owns:** one counter for the process.
//! **Does not own:** the messages; most are forwarded as they come and never held.
//!
//! Only a message that does not arrive in one piece is counted, by its declared length, so the
//! counter is not touched on the path of ordinary queries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The claims of all clients of the process.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<AtomicU64>);

/// One client's claim. Ends when dropped.
#[derive(Debug)]
pub struct Claim {
    budget: Budget,
    bytes: u64,
}

impl Budget {
    /// Claims `bytes` unless that would exceed `limit` in all.
    pub fn claim(&self, bytes: u64, limit: u64) -> Option<Claim> {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let claim = Claim {
            budget: self.clone(),
            bytes,
        };
        (before.saturating_add(bytes) <= limit).then_some(claim)
    }

    /// Bytes claimed at the moment.
    pub fn claimed(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_end_when_dropped_also_refused_ones() {
        let budget = Budget::default();
        let first = budget.claim(60, 100).unwrap();
        assert!(budget.claim(41, 100).is_none());
        let second = budget.claim(40, 100).unwrap();
        assert_eq!(budget.claimed(), 100);
        drop((first, second));
        assert_eq!(budget.claimed(), 0);
    }
}
