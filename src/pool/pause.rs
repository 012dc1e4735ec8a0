//! What an operator does to a pool that runs: pausing it, having its servers replaced; and its gauges.
//!
//! **Owns:** which databases are paused on this shard, closing servers for it, writing the gauges of a
//! pool's servers.
//! **Does not own:** the commands (`session::orders`), waiting until everything is closed.
//!
//! ```text
//!              pause: idle servers close, lent ones when they come back;
//!              clients join the queue and wait there
//!   lending ──────────────────────────────────────────────▶ paused
//!      ▲                                                       │
//!      └── resume: servers are opened; nobody's time has run ──┘
//! ```
//!
//! **Invariants**
//! 1. A pool that is paused gives nobody a server and opens none, on any shard that has been told, and
//!    no wait ends with an error for it.
//! 2. A pool that a reload makes is paused if its database is. Those who wait for the one before go over
//!    to it.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use crate::server::ServerConnection;

use super::driver::Pool;
use super::host::Host;
use super::part::Part;

/// Which databases lend no servers at the moment.
#[derive(Debug, Default)]
pub(super) struct Paused {
    /// Each pause has a number: one that has been ended and begun anew is another one.
    count: u64,
    everything: Option<u64>,
    databases: HashMap<Box<str>, u64>,
}

impl Paused {
    fn has(&self, database: &str) -> bool {
        self.everything.is_some() || self.databases.contains_key(database)
    }

    /// Begins a pause, unless there is one of just this extent; returns its number.
    fn begin(&mut self, database: Option<&str>) -> u64 {
        if let Some(number) = self.number(database) {
            return number;
        }
        self.count += 1;
        match database {
            None => self.everything = Some(self.count),
            Some(name) => {
                self.databases.insert(name.into(), self.count);
            }
        }
        self.count
    }

    fn end(&mut self, database: Option<&str>) {
        match database {
            None => {
                self.everything = None;
                self.databases.clear();
            }
            Some(name) => {
                self.databases.remove(name);
            }
        }
    }

    fn number(&self, database: Option<&str>) -> Option<u64> {
        match database {
            None => self.everything,
            Some(name) => self.databases.get(name).copied(),
        }
    }
}

/// What a pool has added to its gauges. Two pools may share them: one that a reload has replaced, and
/// its successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Noted {
    lent: usize,
    idle: usize,
    opening: usize,
    debt: usize,
    waits_since: Option<Instant>,
}

impl Host {
    /// Has pools of `database`, or all, lend no servers. Returns the number of this pause.
    pub fn pause(&self, database: Option<&str>) -> u64 {
        let number = self.paused.borrow_mut().begin(database);
        for pool in self.pools() {
            pool.pause_if_asked();
        }
        number
    }

    /// The number of the pause of `database`, or of all, while it lasts.
    pub fn pause_number(&self, database: Option<&str>) -> Option<u64> {
        self.paused.borrow().number(database)
    }

    /// True if `database` was paused by its name, or has pools that no reload has left in the
    /// configuration and that clients still use.
    pub fn knows(&self, database: &str) -> bool {
        let is_paused = self.paused.borrow().databases.contains_key(database);
        is_paused
            || self
                .pools()
                .iter()
                .any(|pool| *pool.key.database == *database)
    }

    /// Ends the pauses of databases that are not configured any more: nobody would look for them.
    pub fn forget_pauses(&self, is_configured: impl Fn(&str) -> bool) {
        let names: Vec<_> = {
            let paused = self.paused.borrow();
            let names = paused.databases.keys();
            names.filter(|name| !is_configured(name)).cloned().collect()
        };
        for name in names {
            self.resume(Some(&name));
        }
    }

    /// Has pools of `database`, or all, lend servers again.
    pub fn resume(&self, database: Option<&str>) {
        self.paused.borrow_mut().end(database);
        let pools = self.pools();
        let current = pools.iter().filter(|pool| !pool.is_retired());
        let current: HashSet<_> = current.map(|pool| &pool.key).collect();
        for pool in &pools {
            if !self.paused.borrow().has(&pool.key.database) {
                pool.resume(current.contains(&pool.key));
            }
        }
    }

    /// Has servers of `database`, or all, that were opened before `at` replaced.
    pub fn reconnect(&self, database: Option<&str>, at: Instant) {
        for pool in self.pools() {
            if database.is_none_or(|name| *name == *pool.key.database) {
                pool.outdated.set(Some(at));
                pool.close_idle();
            }
        }
    }
}

impl Pool {
    fn is_paused(&self) -> bool {
        self.part.borrow().state().is_paused()
    }

    /// True if `server` is not to be used any more, as an operator has said.
    pub(super) fn is_outdated(&self, server: &ServerConnection) -> bool {
        self.outdated.get().is_some_and(|at| server.born <= at) || self.is_paused()
    }

    pub(super) fn pause_if_asked(self: &Rc<Self>) {
        let is_asked = self.host.paused.borrow().has(&self.key.database);
        if !is_asked || self.is_paused() {
            return;
        }
        self.metrics.is_paused.set(1);
        self.part.borrow_mut().pause(shards::now());
        self.close_idle();
    }

    /// Lends servers again. `has_current`: there is a pool of these names that is configured.
    fn resume(self: &Rc<Self>, has_current: bool) {
        if !self.is_paused() {
            return;
        }
        if self.is_retired() && has_current {
            // Who waits here goes over to the other one. Nothing is opened for them: the server may have
            // moved.
            self.wake_waiting();
            return;
        }
        self.metrics.is_paused.set(0);
        let now = shards::now();
        let deadline = now + self.settings.query_wait_timeout.get();
        self.part.borrow_mut().resume(now, deadline);
        self.open_more();
        self.host.alarm.at_most(deadline);
    }

    fn close_idle(self: &Rc<Self>) {
        let idle = self.part.borrow_mut().drain_idle();
        for server in idle {
            self.close(server);
        }
        self.open_more();
    }

    /// Wakes those who wait, to look where they stand.
    pub(super) fn wake_waiting(&self) {
        let part = self.part.borrow();
        let wakers: Vec<_> = part.state().waiting().cloned().collect();
        drop(part);
        for waker in wakers {
            waker.wake();
        }
    }

    /// Writes the gauges of the servers and of the queue.
    pub(super) fn note_numbers(&self, part: &Part<Box<ServerConnection>, Waker>) {
        let state = part.state();
        self.note(Noted {
            lent: state.lent_count(),
            idle: state.idle_count(),
            opening: state.opening_count(),
            debt: part.debt(),
            waits_since: state.head(),
        });
    }

    fn note(&self, now: Noted) {
        let before = self.noted.replace(now);
        if before == now {
            return;
        }
        let metrics = &self.metrics;
        metrics.servers_active.shift(before.lent, now.lent);
        metrics.servers_idle.shift(before.idle, now.idle);
        metrics.servers_login.shift(before.opening, now.opening);
        metrics.debt.shift(before.debt, now.debt);
        if before.waits_since != now.waits_since {
            let since = now.waits_since;
            let since = since.map_or(0, |since| metrics.fleet().micros(since));
            metrics.waits_since_us.set(since);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.note(Noted::default());
        self.void_claim();
    }
}
