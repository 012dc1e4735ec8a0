//! Rights of the database, which the pool shares with another one.
//!
//! Owns: the order of calls of `pool::room`, what the other pool does.
//! Does not own: the count and the order of claims (`server::quota`).
//! Invariants: as many rights are in use as there are connections, openings and rights of the other pool.
//! Source: none.

use std::time::Duration;

use pg_doorman::server::quota::{Claimant, Right};

use crate::events::Event;
use crate::world::World;

/// How often a pool without a right tries again.
const RETRY: Duration = Duration::from_millis(100);

const fn claimant(shard: usize) -> Claimant {
    Claimant {
        shard,
        pool: 1,
        reloads: 0,
    }
}

impl World {
    /// `room::Pool::take_rights`.
    pub(crate) fn take_rights(&mut self, shard: usize, count: usize) -> Vec<Right> {
        if count == 0 {
            return Vec::new();
        }
        let head = self.shards[shard].part.state().head();
        let rights = self.quota.take(claimant(shard), count, head);
        self.shards[shard].claim = head.filter(|_| rights.len() < count);
        rights
    }

    /// `room::Pool::deny`.
    pub(crate) fn deny(&mut self, shard: usize, count: usize) {
        let now = self.now();
        let part = &mut self.shards[shard].part;
        part.open_denied(count, now, RETRY);
        if part.state().waiting_count() > 0 {
            self.alarm_at_most(shard, self.clock.now() + RETRY);
        }
    }

    /// `room::Pool::renew_claim`.
    pub(crate) fn renew_claim(&mut self, shard: usize) {
        let at = &mut self.shards[shard];
        let head = at.part.state().head().filter(|_| at.part.is_denied());
        if at.claim == head {
            return;
        }
        let before = std::mem::replace(&mut at.claim, head);
        self.quota.renew(claimant(shard), head);
        if head.is_none() || before.is_none() {
            self.tell_claimants();
        }
    }

    /// `room::Pool::tell_claimants`.
    pub(crate) fn tell_claimants(&mut self) {
        if !self.quota.is_short() {
            return;
        }
        for next in self.quota.next() {
            let at = self.clock.now() + self.dice.up_to(self.plan.letter_max());
            self.clock.plan(at, Event::Room(next.shard));
        }
    }

    /// `room::Pool::has_room`.
    pub(crate) fn has_room(&mut self, shard: usize) {
        self.shards[shard].part.end_rest();
        self.open_more(shard);
    }

    /// The other pool: it has no clients that wait.
    pub(crate) fn rival(&mut self) {
        if self.plan.room == 0 {
            return;
        }
        let stranger = Claimant {
            shard: 0,
            pool: 2,
            reloads: 0,
        };
        if self.is_ending || self.dice.one_in(2) {
            self.rival.clear();
            self.tell_claimants();
        } else {
            let count = self.dice.between(0, self.plan.room);
            let more = self.quota.take(stranger, count, None);
            self.rival.extend(more);
        }
        if !self.is_ending {
            let at = self.clock.now() + self.dice.up_to(Duration::from_millis(300));
            self.clock.plan(at, Event::Rival);
        }
    }
}
