//! Which prepared statements one server has.
//!
//! **Owns:** the keys of the statements on a server, in the order of their last use; the journal of
//! statements whose making or closing PostgreSQL has not confirmed yet.
//! **Does not own:** what statements say (`text`), sending (`session`), replies (`super::sync`).
//!
//! Messages are sent before it is known whether those before them succeed. An error makes
//! PostgreSQL skip everything up to the next Sync, so what is known of a statement is:
//!
//! ```text
//!   confirmed                          it is there
//!   sent since the last Sync           it is there when the next message is read, or that message
//!                                      is skipped as well: as good as confirmed
//!   sent before the last Sync          nobody knows: closed and made again, which works either way
//!   not on the list                    to be made
//!   there, but of another world        closed and made again (`trust`)
//! ```
//!
//! Closing one that does not exist is no error, so "closed and made again" is always right.
//!
//! What the result of a statement looks like ([`shape`]) is learnt when somebody asks, once for each time
//! that it is made.
//!
//! **Invariants**
//! 1. A record of the journal is added when its message is sent and taken off, in order, when the
//!    message is answered or skipped.
//! 2. Statements beyond the bound are closed in the order of the stream, behind whatever uses them.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Extended Query".

pub mod kind;
pub mod power;
pub mod shape;
pub mod text;
pub mod trust;

use std::collections::VecDeque;

use super::sync::Tally;
use kind::Outlook;
use shape::Shape;
use text::{ByHash, Key};
use trust::{Asker, Trust, World};

/// No slot.
const NONE: u32 = u32::MAX;

/// What has to be sent before a statement can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Need {
    /// Nothing.
    Nothing,
    /// A Parse.
    Parse,
    /// A Close and a Parse.
    CloseAndParse,
}

#[derive(Clone, Copy, Debug)]
enum Record {
    Made(Key, World),
    Closed(Key),
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: Key,
    /// It is there, as far as replies have told.
    exists: bool,
    /// Where it was parsed, as far as replies have told.
    world: World,
    /// Where it will have been parsed if nothing fails.
    world_expected: World,
    /// It will be there if nothing fails; then it stands in the list.
    is_expected: bool,
    /// Records of the journal that are about it.
    pending: u32,
    /// The segment in which it was made last.
    segment: u32,
    result: ResultOf,
    newer: u32,
    older: u32,
}

/// What is known of the result of a statement on a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResultOf {
    /// Names the statement as [`Statements::last_wanted`] does.
    pub wanted: u32,
    /// Counts how often statements have been made: another one may get the same place.
    pub edition: u32,
    /// What it looks like.
    pub shape: Shape,
    /// The server has been asked for it.
    pub is_asked: bool,
}

/// The statements of one server.
#[derive(Debug)]
pub struct Statements {
    index: ByHash<Key, u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    expected_count: usize,
    journal: VecDeque<Record>,
    /// Counts what an error can skip at a time: the messages up to a Sync.
    segment: u32,
    /// A command that may forget everything is on its way.
    is_doubtful: bool,
    /// The slot of the last that was wanted.
    wanted: u32,
    /// Counts statements that were made.
    editions: u32,
    /// What the statements mean now.
    pub trust: Trust,
    /// What the messages that were sent do to those behind them.
    pub outlook: Outlook,
}

impl Default for Statements {
    fn default() -> Self {
        Self {
            index: ByHash::default(),
            slots: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            expected_count: 0,
            journal: VecDeque::new(),
            segment: 0,
            is_doubtful: false,
            wanted: NONE,
            editions: 0,
            trust: Trust::default(),
            outlook: Outlook::default(),
        }
    }
}

impl Statements {
    /// How many there are, or will be if nothing fails.
    pub const fn count(&self) -> usize {
        self.expected_count
    }

    /// For another process: all that the server has, oldest first, and whether each means the same as a Parse
    /// of now would, when the database has changed `generation` times. `None` as long as replies are missing.
    pub fn to_travel(&self, generation: u32) -> Option<Vec<(Key, bool)>> {
        if self.is_doubtful || !self.journal.is_empty() {
            return None;
        }
        let is_common = self.trust.is_common(generation);
        let mut list = Vec::with_capacity(self.expected_count);
        let mut at = self.oldest;
        while let Some(slot) = self.slots.get(at as usize) {
            let is_current = is_common && self.trust.holds(slot.world, Asker::Parse);
            list.push((slot.key, is_current));
            at = slot.newer;
        }
        Some(list)
    }

    /// Those of a server that comes from another process.
    pub fn arrived(list: &[(Key, bool)]) -> Self {
        let mut statements = Self::default();
        for (key, is_current) in list {
            if statements.index.contains_key(key) {
                continue;
            }
            let at = statements.add(*key);
            let world = if *is_current {
                statements.trust.world()
            } else {
                World::NOWHERE
            };
            let slot = &mut statements.slots[at as usize];
            slot.exists = true;
            (slot.world, slot.world_expected) = (world, world);
            statements.expect(at);
        }
        statements
    }

    /// True if it has `key`, as far as replies have told.
    pub fn has(&self, key: Key) -> bool {
        let at = self.index.get(&key);
        at.is_some_and(|at| self.slots[*at as usize].exists)
    }

    /// Says what must be sent so that the next message, for the sake of `asker`, can use `key`, and notes
    /// it as sent, with one record for each message.
    pub fn want(&mut self, key: Key, asker: Asker) -> Need {
        let Some(&at) = self.index.get(&key) else {
            let at = self.add(key);
            self.wanted = at;
            self.made(at);
            return Need::Parse;
        };
        self.wanted = at;
        let slot = &self.slots[at as usize];
        let is_known = if slot.pending == 0 {
            slot.exists && !self.is_doubtful && self.trust.holds(slot.world, asker)
        } else {
            slot.is_expected
                && slot.segment == self.segment
                && self.trust.holds(slot.world_expected, asker)
        };
        let is_expected = slot.is_expected;
        if is_known {
            if self.newest != at {
                self.unlink(at);
                self.link_newest(at);
            }
            return Need::Nothing;
        }
        if is_expected {
            self.unexpect(at);
        }
        self.slots[at as usize].pending += 1;
        self.journal.push_back(Record::Closed(key));
        self.made(at);
        Need::CloseAndParse
    }

    /// Names the statement that was wanted last to [`Statements::distrust`], until it is closed.
    pub const fn last_wanted(&self) -> u32 {
        self.wanted
    }

    /// What is known of the result of the statement that was wanted last.
    pub fn result(&self) -> ResultOf {
        let slot = self.slots.get(self.wanted as usize);
        slot.map_or_else(ResultOf::default, |slot| slot.result)
    }

    /// The statement of this result, which has been made for the same message before, is wanted again.
    pub const fn want_again(&mut self, result: ResultOf) {
        self.wanted = result.wanted;
    }

    /// The server is asked for the result of a statement.
    pub fn asked(&mut self, about: ResultOf) {
        self.result_changed(about, |result| result.is_asked = true);
    }

    /// The server has described the result of a statement, or will not.
    pub fn described(&mut self, about: ResultOf, shape: Shape) {
        self.result_changed(about, |result| {
            result.is_asked = false;
            result.shape = shape;
        });
    }

    fn result_changed(&mut self, about: ResultOf, change: impl FnOnce(&mut ResultOf)) {
        let slot = self.slots.get_mut(about.wanted as usize);
        if let Some(slot) = slot.filter(|slot| slot.result.edition == about.edition) {
            change(&mut slot.result);
        }
    }

    /// A message that uses this statement has failed: it is closed and made again before the next.
    pub fn distrust(&mut self, wanted: u32) {
        if let Some(slot) = self.slots.get_mut(wanted as usize) {
            slot.world = World::NOWHERE;
            slot.world_expected = World::NOWHERE;
        }
    }

    /// A client defines `key` anew, which the server is not told by this name: if it was parsed in another
    /// world than that of now, it is made again before its next use.
    pub fn outdate(&mut self, key: Key) {
        let Some(&at) = self.index.get(&key) else {
            return;
        };
        let slot = &self.slots[at as usize];
        let world = if slot.pending == 0 {
            slot.world
        } else {
            slot.world_expected
        };
        if !self.trust.holds(world, Asker::Parse) {
            self.distrust(at);
        }
    }

    /// True if `key` has been made by a message whose outcome is not known, but which fails only if what
    /// is sent now is skipped.
    pub fn is_pending(&mut self, key: Key) -> bool {
        let Some(&at) = self.index.get(&key) else {
            return false;
        };
        let slot = &self.slots[at as usize];
        let is_pending = slot.pending > 0 && slot.is_expected && slot.segment == self.segment;
        if is_pending {
            self.wanted = at;
        }
        is_pending
    }

    /// A statement to be closed because there are more than `limit`; it is noted as sent. Portals made
    /// of it stay: they hold its plan, and PostgreSQL closes them with their transaction.
    pub fn evict(&mut self, limit: usize) -> Option<Key> {
        if self.expected_count <= limit || self.oldest == self.newest {
            return None;
        }
        let at = self.oldest;
        self.unexpect(at);
        let slot = &mut self.slots[at as usize];
        slot.pending += 1;
        self.journal.push_back(Record::Closed(slot.key));
        Some(slot.key)
    }

    /// Counts what an error can skip at a time.
    pub const fn segment(&self) -> u32 {
        self.segment
    }

    /// A Sync is sent, or a query that changes what is known: what follows is not skipped if something
    /// before it fails.
    pub const fn sync_sent(&mut self) {
        self.segment = self.segment.wrapping_add(1);
    }

    /// A command is sent that may make the server forget its statements.
    pub const fn doubt(&mut self) {
        self.is_doubtful = true;
        self.sync_sent();
    }

    /// True while a command is on its way that may make the server forget its statements.
    pub const fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// True if [`Statements::answered`] has something to do.
    pub const fn awaits_answers(&self) -> bool {
        self.is_doubtful || self.trust.is_unanswered()
    }

    /// Everything sent has been answered: there is nothing to doubt. If the transaction of it goes on
    /// (`is_settled` is false), its settings may change back.
    pub const fn answered(&mut self, is_settled: bool) {
        self.is_doubtful = false;
        if is_settled {
            self.trust.answered();
        }
    }

    /// The outcome of the messages at the front of the journal.
    pub fn apply(&mut self, tally: Tally) {
        for turn in 0..tally.done + tally.failed {
            let Some(record) = self.journal.pop_front() else {
                debug_assert!(false, "more outcomes than records");
                return;
            };
            let (key, made_in) = match record {
                Record::Made(key, world) => (key, Some(world)),
                Record::Closed(key) => (key, None),
            };
            let Some(&at) = self.index.get(&key) else {
                continue;
            };
            let slot = &mut self.slots[at as usize];
            slot.pending -= 1;
            if turn < tally.done {
                slot.exists = made_in.is_some();
                slot.world = made_in.unwrap_or(World::NOWHERE);
            }
            if slot.pending == 0 {
                self.resolve(at);
            }
        }
    }

    /// The server has forgotten all statements that have been confirmed.
    pub fn forgotten(&mut self) {
        for at in 0..self.slots.len() as u32 {
            let slot = &mut self.slots[at as usize];
            slot.exists = false;
            if slot.pending == 0 && slot.is_expected {
                self.resolve(at);
            }
        }
    }

    /// The server says that it has `key`, which nobody knows the meaning of, or that it has not.
    pub fn correct(&mut self, key: Key, exists: bool) {
        match self.index.get(&key) {
            Some(&at) => {
                self.slots[at as usize].exists = exists;
                self.distrust(at);
                if self.slots[at as usize].pending == 0 {
                    self.resolve(at);
                }
            }
            None if exists => {
                let at = self.add(key);
                self.slots[at as usize].exists = true;
                self.resolve(at);
            }
            None => {}
        }
    }

    fn add(&mut self, key: Key) -> u32 {
        let slot = Slot {
            key,
            exists: false,
            world: World::NOWHERE,
            world_expected: World::NOWHERE,
            is_expected: false,
            pending: 0,
            segment: self.segment,
            result: ResultOf::default(),
            newer: NONE,
            older: NONE,
        };
        let at = if let Some(at) = self.free.pop() {
            self.slots[at as usize] = slot;
            at
        } else {
            self.slots.push(slot);
            (self.slots.len() - 1) as u32
        };
        self.index.insert(key, at);
        self.forget_result(at);
        at
    }

    /// Whatever was known of the result of the statement at this place is of another one.
    fn forget_result(&mut self, at: u32) {
        self.editions = self.editions.wrapping_add(1);
        self.slots[at as usize].result = ResultOf {
            wanted: at,
            edition: self.editions,
            ..ResultOf::default()
        };
    }

    fn made(&mut self, at: u32) {
        self.expect(at);
        let (segment, world) = (self.segment, self.trust.world());
        let slot = &mut self.slots[at as usize];
        slot.pending += 1;
        slot.segment = segment;
        slot.world_expected = world;
        self.journal.push_back(Record::Made(slot.key, world));
        self.forget_result(at);
    }

    /// All records about a statement have been answered.
    fn resolve(&mut self, at: u32) {
        let slot = self.slots[at as usize];
        if slot.exists {
            if !slot.is_expected {
                self.expect(at);
            }
            return;
        }
        if slot.is_expected {
            self.unexpect(at);
        }
        self.index.remove(&slot.key);
        self.free.push(at);
    }

    fn expect(&mut self, at: u32) {
        self.slots[at as usize].is_expected = true;
        self.expected_count += 1;
        self.link_newest(at);
    }

    fn unexpect(&mut self, at: u32) {
        self.slots[at as usize].is_expected = false;
        self.expected_count -= 1;
        self.unlink(at);
    }

    fn link_newest(&mut self, at: u32) {
        let before = self.newest;
        let slot = &mut self.slots[at as usize];
        (slot.newer, slot.older) = (NONE, before);
        match self.slots.get_mut(before as usize) {
            Some(before) => before.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
    }

    fn unlink(&mut self, at: u32) {
        let Slot { newer, older, .. } = self.slots[at as usize];
        match self.slots.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        match self.slots.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests;
