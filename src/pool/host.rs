//! What all pools of a shard share.
//!
//! **Owns:** numbers of server connections, the pools by name, and when they have something to do.
//! **Does not own:** which pools there are (`session::directory`).
//!
//! **Invariants**
//! 1. A number belongs to one server connection at a time.
//! 2. A letter to a pool of a configuration that is not here yet waits for it; one to a pool that has gone is
//!    dropped, with what it owns.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use crate::metrics::{Changes, Droppable, Enrolled, Fleet, ShardMetrics};
use crate::server::parameters::Interner;
use crate::server::quota::Quotas;
use crate::server::statements;
use crate::server::{Errands, ServerCard};
use crate::tls::Keyring;

use super::alarm::Alarm;
use super::driver::{Pool, PoolId, PoolKey};
use super::pause::Paused;
use super::travel::{Letter, Mail};

/// What all pools of a shard share.
pub struct Host {
    /// Number of this shard.
    pub here: usize,
    /// Number of shards.
    pub count: usize,
    /// Runs what would block the shard.
    pub errands: Rc<dyn Errands>,
    /// Takes letters to other shards.
    pub mail: Rc<dyn Mail>,
    /// How many connections databases may have.
    pub(super) quotas: Quotas,
    /// Keys and certificates.
    pub keyring: Keyring,
    /// Parameter sets in use on this shard.
    pub interner: RefCell<Interner>,
    /// Prepared statements in use on this shard.
    pub statements: RefCell<statements::text::Interner>,
    /// When the pools have something to do next.
    pub alarm: Alarm,
    /// When a pool is to be reviewed next.
    pub reviews: Alarm,
    /// Databases whose pools lend no servers at the moment.
    pub(super) paused: RefCell<Paused>,
    /// The blocks of numbers of pools that exist.
    blocks: RefCell<HashMap<PoolKey, Weak<Enrolled>>>,
    fleet: Fleet,
    reloads: Cell<u32>,
    numbers: RefCell<Numbers>,
    pools: RefCell<HashMap<PoolId, Weak<Pool>>>,
    /// Pools that are not configured any more, as long as a client uses them.
    retired: RefCell<Vec<Weak<Pool>>>,
    planned: RefCell<Vec<Rc<Pool>>>,
    /// Another process takes the servers that this one has no permits for any more.
    departs: Cell<bool>,
    /// Letters to pools of a configuration that has not arrived here yet.
    early: RefCell<Vec<(usize, PoolId, Letter)>>,
}

/// Which pool a server connection's number belongs to.
#[derive(Default)]
struct Numbers {
    pools: Vec<Weak<Pool>>,
    cards: Vec<Option<Rc<ServerCard>>>,
    free: Vec<u32>,
}

impl Host {
    /// The host of shard `here` of `count`.
    pub fn new(
        (here, count): (usize, usize),
        errands: Rc<dyn Errands>,
        mail: Rc<dyn Mail>,
        (fleet, quotas, keyring): (Fleet, Quotas, Keyring),
    ) -> Rc<Self> {
        Rc::new(Self {
            here,
            count,
            errands,
            mail,
            quotas,
            keyring,
            interner: RefCell::default(),
            statements: RefCell::default(),
            alarm: Alarm::default(),
            reviews: Alarm::default(),
            paused: RefCell::default(),
            blocks: RefCell::default(),
            fleet,
            reloads: Cell::new(0),
            numbers: RefCell::default(),
            pools: RefCell::default(),
            retired: RefCell::default(),
            planned: RefCell::default(),
            departs: Cell::new(false),
            early: RefCell::default(),
        })
    }

    /// Whether servers that are given up go to another process.
    pub fn set_departing(&self, departs: bool) {
        self.departs.set(departs);
    }

    pub(super) const fn departs(&self) -> bool {
        self.departs.get()
    }

    /// The numbers that this shard counts.
    pub fn metrics(&self) -> &ShardMetrics {
        self.fleet.shard(self.here)
    }

    /// How often objects of databases have changed.
    pub fn changes(&self) -> &Changes {
        self.fleet.changes()
    }

    /// The block of numbers of the pools of these names.
    pub(super) fn enrol(&self, key: &PoolKey) -> Rc<Enrolled> {
        let mut blocks = self.blocks.borrow_mut();
        blocks.retain(|_, block| block.strong_count() > 0);
        if let Some(block) = blocks.get(key).and_then(Weak::upgrade) {
            return block;
        }
        let block = Enrolled::new(&self.fleet, self.here, &key.database, &key.user);
        blocks.insert(key.clone(), Rc::downgrade(&block));
        block
    }

    /// The pools that exist, also those that are not configured any more.
    pub(super) fn pools(&self) -> Vec<Rc<Pool>> {
        let pools = self.pools.borrow();
        pools.values().filter_map(Weak::upgrade).collect()
    }

    /// The pool of this name.
    pub(super) fn pool(&self, id: PoolId) -> Option<Rc<Pool>> {
        self.pools.borrow().get(&id).and_then(Weak::upgrade)
    }

    /// The servers with up to `count` numbers from `from` on, and where to go on.
    pub fn server_cards(&self, from: u32, count: usize) -> (Vec<Rc<ServerCard>>, Option<u32>) {
        let numbers = self.numbers.borrow();
        let start = (from as usize).min(numbers.cards.len());
        let end = numbers.cards.len().min(start + count);
        let cards = numbers.cards[start..end].iter().flatten();
        let next = (end < numbers.cards.len()).then_some(end as u32);
        (cards.cloned().collect(), next)
    }

    /// How many configurations this shard has had before the present one.
    pub fn reloads(&self) -> u32 {
        self.reloads.get()
    }

    /// A new configuration is about to be taken over.
    pub fn begin_reload(&self) {
        self.reloads.set(self.reloads.get() + 1);
    }

    /// The new configuration has been taken over: letters that came too early are read now.
    pub fn end_reload(&self) {
        for (from, id, letter) in self.early.take() {
            self.receive(from, id, letter);
        }
    }

    pub(super) fn introduce(&self, pool: &Rc<Pool>) {
        let mut pools = self.pools.borrow_mut();
        pools.retain(|_, pool| pool.strong_count() > 0);
        pools.insert(pool.id, Rc::downgrade(pool));
    }

    pub(super) fn retire(&self, pool: &Rc<Pool>) {
        self.retired.borrow_mut().push(Rc::downgrade(pool));
    }

    /// Takes a letter of the same pool on shard `from`.
    pub fn receive(&self, from: usize, id: PoolId, letter: Letter) {
        if id.reloads > self.reloads() {
            self.early.borrow_mut().push((from, id, letter));
            return;
        }
        let pool = self.pools.borrow().get(&id).and_then(Weak::upgrade);
        match pool {
            Some(pool) => pool.receive(from, letter),
            None => self.lose(&letter),
        }
    }

    /// The pool of a letter is not configured any more.
    pub(super) fn lose(&self, letter: &Letter) {
        if matches!(letter, Letter::Grant(_)) {
            self.metrics().dropped(Droppable::Grant);
        }
    }

    pub(super) fn number(&self, pool: &Rc<Pool>, card: &Rc<ServerCard>) -> u32 {
        let card = Some(Rc::clone(card));
        self.metrics().servers.add(1);
        let mut numbers = self.numbers.borrow_mut();
        let pool = Rc::downgrade(pool);
        if let Some(number) = numbers.free.pop() {
            numbers.pools[number as usize] = pool;
            numbers.cards[number as usize] = card;
            return number;
        }
        numbers.pools.push(pool);
        numbers.cards.push(card);
        (numbers.pools.len() - 1) as u32
    }

    pub(super) fn free_number(&self, number: u32) {
        self.metrics().servers.sub(1);
        let mut numbers = self.numbers.borrow_mut();
        let card = numbers.cards[number as usize].take();
        numbers.free.push(number);
        drop(numbers);
        drop(card);
    }

    /// The pools that are not configured any more but still have clients: their waits end, too.
    pub fn retired_pools(&self) -> Vec<Rc<Pool>> {
        let mut retired = self.retired.borrow_mut();
        retired.retain(|pool| pool.strong_count() > 0);
        retired.iter().filter_map(Weak::upgrade).collect()
    }

    /// There is news of the idle server connection `number`.
    pub fn idle_event(&self, number: u32) {
        let pool = self
            .numbers
            .borrow()
            .pools
            .get(number as usize)
            .and_then(Weak::upgrade);
        if let Some(pool) = pool {
            pool.idle_event(number);
        }
    }

    pub(super) fn plan_review(&self, pool: &Rc<Pool>) {
        if !pool.is_planned.replace(true) {
            self.planned.borrow_mut().push(Rc::clone(pool));
        }
    }

    /// Reviews the pools whose time has come. To be called when [`Host::reviews`] rings.
    pub fn review(&self) {
        let planned = self.planned.take();
        for pool in planned {
            pool.is_planned.set(false);
            pool.review();
        }
    }
}
