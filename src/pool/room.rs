//! Room for server connections of a database that has as many as it may have.
//!
//! **Owns:** asking for rights before connections are opened, having idle connections of other pools
//! closed, telling those who wait for a right.
//! **Does not own:** the count and the order of claims (`server::quota`), what a shard does without a
//! right (`part`).
//!
//! ```text
//!   pool with waiters                 other pools of the database, on all shards
//!     │  no right: claims one
//!     │ ── MakeRoom ─────────────────────▶ │  close the longest idle one, or the next
//!     │                                    │  that comes back and nobody there has waited for
//!     │ ◀── Room ───────────────────────── │  whoever closes tells the first in the order
//!     │  takes the right, opens
//! ```
//!
//! Meanwhile the pool also wants a server of its own from other shards (`part::exchange`). Letters only
//! make it quicker: who has a claim tries again every [`RETRY`].
//!
//! **Invariants**
//! 1. A pool has a claim only while its clients wait here, and only for a right: a claim that cannot be
//!    used would keep all others waiting.
//! 2. A server is not closed for a claim of its own pool.

use std::rc::Rc;
use std::time::Duration;

use shards::spawn;

use crate::config::Limits;
use crate::server::ServerConnection;
use crate::server::quota::{Claimant, Right};

use super::driver::{Pool, PoolId};
use super::host::Host;
use super::letter;

/// How often a pool without a right tries again.
const RETRY: Duration = Duration::from_millis(100);

impl Host {
    /// Closes idle servers of `database` that others need, those first that were not used for longest.
    fn make_room(&self, database: &str) {
        let mut pools = self.pools();
        pools.retain(|pool| *pool.key.database == *database);
        pools.sort_by_cached_key(|pool| pool.part.borrow().state().coldest_since());
        for pool in pools {
            pool.close_for_others();
        }
    }
}

impl Pool {
    fn claimant(&self) -> Claimant {
        Claimant {
            shard: self.host.here,
            pool: self.id.hash,
            reloads: self.id.reloads,
        }
    }

    /// Changes the limits; connections stay unless there are too many.
    pub fn limit(self: &Rc<Self>, limits: &Limits) {
        self.quota.set_limit(limits.max_db_connections);
        let reserve = (limits.reserve(), limits.reserve_pool_timeout);
        self.part.borrow_mut().set_reserve(reserve, shards::now());
        self.close_for_others();
        self.act();
    }

    /// Rights for `count` connections, or for fewer.
    pub(super) fn take_rights(&self, count: usize) -> Vec<Right> {
        if count == 0 {
            return Vec::new();
        }
        let head = self.part.borrow().state().head();
        let rights = self.quota.take(self.claimant(), count, head);
        self.claim.set(head.filter(|_| rights.len() < count));
        rights
    }

    /// There are no rights for `count` connections that were to be opened.
    pub(super) fn deny(self: &Rc<Self>, count: usize) {
        let now = shards::now();
        let is_waited_for = {
            let mut part = self.part.borrow_mut();
            part.open_denied(count, now, RETRY);
            part.state().waiting_count() > 0
        };
        if !is_waited_for {
            return;
        }
        self.host.alarm.at_most(now + RETRY);
        self.host.make_room(&self.key.database);
        if self.is_retired() {
            return;
        }
        for shard in (0..self.host.count).filter(|shard| *shard != self.host.here) {
            self.host
                .mail
                .send(shard, self.id, letter::Letter::MakeRoom);
        }
    }

    /// Keeps the claim in step with the queue. Who joins a queue that was empty meanwhile, while the pool
    /// still rests after a denial, claims as well: the rest may be over sooner for it.
    pub(super) fn renew_claim(&self) {
        let before = self.claim.get();
        let head = {
            let part = self.part.borrow();
            part.is_denied().then(|| part.state().head()).flatten()
        };
        if head == before {
            return;
        }
        self.claim.set(head);
        self.quota.renew(self.claimant(), head);
        if head.is_none() || before.is_none() {
            self.tell_claimants();
        }
    }

    /// The pool goes.
    pub(super) fn void_claim(&self) {
        if self.claim.take().is_some() {
            self.quota.renew(self.claimant(), None);
        }
    }

    /// Closes `server` if it is needed elsewhere more than by those who wait here; gives it back otherwise.
    pub(super) fn gives_way(
        self: &Rc<Self>,
        server: Box<ServerConnection>,
    ) -> Option<Box<ServerConnection>> {
        if !self.quota.is_short() {
            return Some(server);
        }
        let head = self.part.borrow().state().head();
        let Some(closing) = self.quota.close_one(self.id.hash, head) else {
            return Some(server);
        };
        self.host.metrics().servers_gave_way.add(1);
        self.discard(server);
        drop(closing);
        None
    }

    fn close_for_others(self: &Rc<Self>) {
        while self.quota.is_short() && self.part.borrow().state().idle_count() > 0 {
            let Some(closing) = self.quota.close_one(self.id.hash, None) else {
                return;
            };
            let coldest = self.part.borrow_mut().take_coldest();
            if let Some(server) = coldest {
                self.host.metrics().servers_gave_way.add(1);
                self.close(server);
            }
            drop(closing);
        }
    }

    /// Tells those whose turn it is that there is a right.
    pub(super) fn tell_claimants(&self) {
        if !self.quota.is_short() {
            return;
        }
        for next in self.quota.next() {
            let id = PoolId {
                hash: next.pool,
                reloads: next.reloads,
            };
            if next.shard != self.host.here {
                self.host.mail.send(next.shard, id, letter::Letter::Room);
            } else if let Some(pool) = self.host.pool(id) {
                spawn(async move { pool.has_room() });
            }
        }
    }

    /// Another pool on another shard needs room.
    pub(super) fn asked_for_room(&self) {
        self.host.make_room(&self.key.database);
    }

    /// There may be a right for this pool.
    pub(super) fn has_room(self: &Rc<Self>) {
        self.part.borrow_mut().end_rest();
        self.open_more();
    }
}
