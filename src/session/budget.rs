//! The memory that incomplete client messages may claim, over all shards, and the bound on what
//! prepared statements take on one.
//!
//! **Owns:** one counter of claims for the process.
//! **Does not own:** the messages, most of which are forwarded as they come and never held; counting
//! statements (`server::statements::text`).
//!
//! Only a message that does not arrive in one piece is counted, by its declared length, so the
//! counter is not touched on the path of ordinary queries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::sqlstate;
use crate::server::ServerConnection;

use super::client::Session;
use super::report::Failure;

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

impl Session {
    /// True, with an error for the client, if it has just given a name to a statement for which the
    /// shard has no memory. Others are served: this one will not do with fewer.
    pub(super) fn keeps_too_much(&mut self, server: &ServerConnection) -> bool {
        let prepared = self.prepared.as_mut();
        if !prepared.is_some_and(|prepared| std::mem::take(&mut prepared.has_grown)) {
            return false;
        }
        let limit = self
            .shard
            .directory()
            .config
            .general
            .prepared_statements_memory;
        let kept = self.shard.host.statements.borrow().kept().memory();
        if kept as u64 <= limit / self.shard.count as u64 {
            return false;
        }
        tracing::warn!(
            pool = %self.pool.label, kept,
            "client closed: prepared_statements_memory is used up"
        );
        // In the middle of a message nothing can be said.
        if server.framer.is_at_boundary() {
            let text = "out of memory for prepared statements";
            self.fail(&Failure::new(sqlstate::OUT_OF_MEMORY, text));
        }
        true
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
