//! What a client calls its prepared statements.
//!
//! **Owns:** the map from a client's names to statements, the journal of changes that PostgreSQL has
//! not confirmed yet, the part of a message that is held until it can be rewritten.
//! **Does not own:** what servers have (`server::statements`), rewriting messages (`rewrite`).
//!
//! The map changes when a message is sent, since the next one may refer to it. Each name has beside
//! it what PostgreSQL has confirmed, which counts again when all that was sent about the name has been
//! answered:
//!
//! ```text
//!                    sent                  answers
//!                    Parse a: X   Close b  Parse failed   Close skipped
//!   map              a ─▶ X       b ─▶ ∅   a ─▶ ∅         b ─▶ B
//!   confirmed        ∅            B        ∅              B
//! ```
//!
//! **Invariants**
//! 1. Statements are shared: a thousand clients with the same one have its text once on a shard.
//! 2. Once everything is answered, the map is what PostgreSQL would know of an own session.
//! 3. The names of a client keep at most `KEPT_BYTES_MAX` of text: those used longest ago are
//!    forgotten, but never the newest.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Extended Query".

mod told;

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use crate::server::parameters::ParameterSet;
use crate::server::statements::ResultOf;
use crate::server::statements::kind::Kind;
use crate::server::statements::shape::Shape;
use crate::server::statements::text::{self, Effect, Hold, Key, Place, Statement};
use crate::server::sync::Outcomes;

use told::Telling;

/// Bytes of text that the names of one client keep. Applications have some thousands of statements of
/// some hundreds of bytes; this is far beyond them and keeps one client from taking all memory.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Portals that would deallocate a statement and have not been run, of one client.
const PORTALS_MAX: usize = 64;
/// Names that are put in line to be forgotten by one look at all of them.
const OLDEST_COUNT: usize = 64;

/// A statement of a client that moves.
#[derive(Clone, Debug)]
pub struct Definition {
    /// What the client calls it; empty for the unnamed one.
    pub name: Box<[u8]>,
    /// As in [`Statement::definition`].
    pub text: Arc<[u8]>,
    /// As in [`Statement::key`].
    pub key: Key,
    /// What the client has been told of its result.
    pub told: Shape,
}

/// What a name stands for.
#[derive(Debug, Default)]
struct Entry {
    /// For the next message.
    statement: Option<Rc<Statement>>,
    hold: Option<Hold>,
    /// As far as PostgreSQL has answered.
    confirmed: Option<Rc<Statement>>,
    used: u64,
    /// Records of the journal that are about it.
    pending: u32,
    /// The segment of the last of them: what an error skips at a time.
    segment: u32,
    /// Accounts for the name.
    place: Option<Place>,
    /// The generation of the database when it was defined.
    since: u32,
    /// Tells definitions of this name apart.
    edition: u32,
    /// What the client has been told of the result.
    told: Shape,
}

impl Entry {
    fn stand_for(&mut self, statement: Option<Rc<Statement>>) {
        self.hold = statement.as_ref().map(Statement::hold);
        self.statement = statement;
    }
}

/// A change of the map that is not confirmed.
#[derive(Debug)]
struct Record {
    /// None for the unnamed statement.
    name: Option<Rc<[u8]>>,
    after: Option<Rc<Statement>>,
    /// The server has got an empty statement of this name, which goes if the request is done.
    is_bait: bool,
}

/// A portal that deallocates statements when it is run.
#[derive(Debug)]
struct Deallocation {
    portal: Box<[u8]>,
    effect: Effect,
}

/// What the names keep.
#[derive(Debug, Default)]
struct Kept {
    /// Names that stand for a statement.
    count: usize,
    /// Bytes of their texts.
    bytes: usize,
    /// Counts uses.
    clock: u64,
}

/// The statements of one client.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    named: HashMap<Rc<[u8]>, Entry>,
    unnamed: Entry,
    /// The generation of the database now.
    pub(super) generation: u32,
    journal: VecDeque<Record>,
    /// Requests on their way.
    tellings: VecDeque<Telling>,
    /// The description that has to come before the next message is looked at, and whether it has.
    awaited: Option<(ResultOf, bool)>,
    /// Counts definitions.
    editions: u32,
    kept: Kept,
    /// The names that were used longest ago and when, as of some time: who was used since is not.
    oldest: VecDeque<(u64, Rc<[u8]>)>,
    /// Those that have not been run.
    deallocations: Vec<Deallocation>,
    /// Those that commands on their way are to forget, each of a query of several.
    forgetting: VecDeque<Box<[u8]>>,
    salted: Option<(Rc<ParameterSet>, Key)>,
    /// It has got a name more since this was looked at.
    pub(super) has_grown: bool,
    /// The start of a message that is too short to be rewritten.
    pub(super) held: Vec<u8>,
    /// The client is not read: it is owed too much.
    pub(super) is_ahead: bool,
}

impl Prepared {
    /// How many names stand for a statement, and the bytes of their texts.
    pub(super) const fn extent(&self) -> (usize, usize) {
        (self.kept.count, self.kept.bytes)
    }

    /// The statement that the client calls `name`; empty for the unnamed one.
    pub(super) fn get(&mut self, name: &[u8]) -> Option<&Rc<Statement>> {
        if name.is_empty() {
            return self.unnamed.statement.as_ref();
        }
        let entry = self.named.get_mut(name)?;
        self.kept.clock += 1;
        entry.used = self.kept.clock;
        entry.statement.as_ref()
    }

    /// The statement that the client calls `name`, and what servers call it while the client has these
    /// settings.
    pub(super) fn find(
        &mut self,
        name: &[u8],
        settings: &Rc<ParameterSet>,
    ) -> Option<(&mut Self, Rc<Statement>, Key)> {
        let statement = Rc::clone(self.get(name)?);
        let key = statement.key_with(self.salt(settings));
        Some((self, statement, key))
    }

    fn entry(&self, name: &[u8]) -> &Entry {
        self.named.get(name).unwrap_or(&self.unnamed)
    }

    /// True if the client has a statement of this name when PostgreSQL reads the next message, or
    /// that message is skipped. `segment` counts what an error skips at a time. The unnamed one is
    /// always free.
    pub(super) fn is_taken(&self, name: &[u8], segment: u32) -> bool {
        !name.is_empty()
            && self.named.get(name).is_some_and(|entry| {
                entry.statement.is_some() && (entry.pending == 0 || entry.segment == segment)
            })
    }

    /// A command that forgets this statement is on its way, among others.
    pub(super) fn will_forget(&mut self, name: Box<[u8]>) {
        self.forgetting.push_back(name);
    }

    /// The next of such commands has been run. True if the client had the statement.
    pub(super) fn has_forgotten(&mut self) -> bool {
        let name = self.forgetting.pop_front();
        name.is_some_and(|name| self.forget(&name))
    }

    /// True if some change is on its way.
    pub(super) fn has_unanswered(&self) -> bool {
        !self.journal.is_empty()
    }

    /// True if the statement of this name gives properties to its transaction.
    pub(super) fn sets_up(&self, name: &[u8]) -> bool {
        let entry = if name.is_empty() {
            Some(&self.unnamed)
        } else {
            self.named.get(name)
        };
        let statement = entry.and_then(|entry| entry.statement.as_ref());
        statement.is_some_and(|one| one.kind.has(Kind::SETS_UP))
    }

    /// True if a change of this name is on its way that may fail without what is sent in `segment`
    /// being skipped.
    pub(super) fn is_uncertain(&self, name: &[u8], segment: u32) -> bool {
        if self.journal.is_empty() {
            return false;
        }
        let entry = if name.is_empty() {
            Some(&self.unnamed)
        } else {
            self.named.get(name)
        };
        entry.is_some_and(|entry| entry.pending > 0 && entry.segment != segment)
    }

    /// True if a change of this name is on its way that nothing has been heard of.
    pub(super) fn is_pending(&self, name: &[u8]) -> bool {
        if name.is_empty() {
            return self.unnamed.pending > 0;
        }
        self.named.get(name).is_some_and(|entry| entry.pending > 0)
    }

    /// True if there is an unnamed statement, or may be.
    pub(super) const fn has_unnamed(&self) -> bool {
        self.unnamed.statement.is_some() || self.unnamed.pending > 0
    }

    /// The unnamed statement, if this is its definition.
    pub(super) fn unnamed_as(&self, definition: &[u8]) -> Option<Rc<Statement>> {
        let unnamed = self.unnamed.statement.as_ref();
        unnamed
            .filter(|one| *one.definition == *definition)
            .cloned()
    }

    /// What distinguishes this client's statements on servers, as long as it has these settings.
    pub(super) fn salt(&mut self, settings: &Rc<ParameterSet>) -> Key {
        if settings.is_empty() {
            return 0;
        }
        match &self.salted {
            Some((known, salt)) if Rc::ptr_eq(known, settings) => *salt,
            _ => {
                let salt = text::salt(settings);
                self.salted = Some((Rc::clone(settings), salt));
                salt
            }
        }
    }

    /// Notes a Parse that is sent, in `segment`. Beyond `limit` names (0: no bound) the least used is
    /// forgotten.
    pub(super) fn define(
        &mut self,
        name: &[u8],
        statement: Rc<Statement>,
        segment: u32,
        limit: usize,
    ) {
        self.has_grown |= !name.is_empty() && !self.named.contains_key(name);
        self.record(name, Some(statement), segment, false);
        self.make_room(if limit == 0 { usize::MAX } else { limit });
    }

    /// Notes a Close or DEALLOCATE that is sent, in `segment`.
    pub(super) fn undefine(&mut self, name: &[u8], segment: u32, is_bait: bool) {
        self.record(name, None, segment, is_bait);
    }

    /// Forgets a statement while nothing is on its way. False if there is none.
    pub(super) fn forget(&mut self, name: &[u8]) -> bool {
        let Some(entry) = self.named.get_mut(name) else {
            return false;
        };
        if entry.pending > 0 || entry.statement.is_none() {
            return false;
        }
        self.kept.set(entry, None);
        self.named.remove(name);
        true
    }

    /// A simple query is sent over which PostgreSQL forgets the unnamed statement; nobody will tell
    /// what has become of it.
    pub(super) fn forget_unnamed(&mut self) {
        if self.unnamed.pending > 0 {
            for record in self.journal.iter_mut().filter(|one| one.name.is_none()) {
                record.after = None;
            }
        }
        self.unnamed.confirmed = None;
        self.unnamed.stand_for(None);
    }

    /// PostgreSQL has forgotten all named statements but those that are on their way.
    pub(super) fn forget_all(&mut self) {
        let kept = &mut self.kept;
        self.named.retain(|_, entry| {
            entry.confirmed = None;
            if entry.pending == 0 {
                kept.set(entry, None);
            }
            entry.pending > 0
        });
    }

    /// What has become of the requests in the journal. Returns how many of those were done that
    /// take a bait off the server.
    pub(super) fn apply(&mut self, outcomes: Outcomes) -> u32 {
        let tally = outcomes.client;
        let mut baits = 0;
        for turn in 0..tally.done + tally.failed {
            let Some(record) = self.journal.pop_front() else {
                debug_assert!(false, "more outcomes than records");
                break;
            };
            let is_done = turn < tally.done;
            baits += u32::from(is_done && record.is_bait);
            let Some(name) = record.name else {
                // A Parse or a query forgets the unnamed statement before it fails.
                let is_to_blame = turn == tally.done && outcomes.is_first_to_blame;
                if is_done || is_to_blame {
                    self.unnamed.confirmed = record.after.filter(|_| is_done);
                }
                self.unnamed.pending -= 1;
                if self.unnamed.pending == 0 {
                    let confirmed = self.unnamed.confirmed.clone();
                    self.unnamed.stand_for(confirmed);
                }
                continue;
            };
            let Some(entry) = self.named.get_mut(&name) else {
                continue;
            };
            entry.pending -= 1;
            if is_done {
                entry.confirmed = record.after;
            }
            if entry.pending == 0 {
                let confirmed = entry.confirmed.clone();
                if confirmed.is_none() {
                    self.kept.set(entry, None);
                    self.named.remove(&name);
                } else if !is_done {
                    self.kept.set(entry, confirmed);
                }
            }
        }
        baits
    }

    /// A portal is bound, of a statement that has this effect when it is run.
    pub(super) fn portal_bound(&mut self, portal: &[u8], effect: &Effect) {
        self.deallocations.retain(|one| *one.portal != *portal);
        if *effect != Effect::None {
            if self.deallocations.len() == PORTALS_MAX {
                self.deallocations.remove(0);
            }
            self.deallocations.push(Deallocation {
                portal: portal.into(),
                effect: effect.clone(),
            });
        }
    }

    /// True if some portal deallocates statements when it is run.
    pub(super) const fn has_deallocations(&self) -> bool {
        !self.deallocations.is_empty()
    }

    /// What running this portal does.
    pub(super) fn effect_of(&self, portal: &[u8]) -> &Effect {
        let mut all = self.deallocations.iter();
        let found = all.find(|one| *one.portal == *portal);
        found.map_or(&Effect::None, |one| &one.effect)
    }

    /// This portal is run now. Returns what that does.
    pub(super) fn portal_run(&mut self, portal: &[u8]) -> Effect {
        let mut all = self.deallocations.iter();
        match all.position(|one| *one.portal == *portal) {
            Some(at) => self.deallocations.swap_remove(at).effect,
            None => Effect::None,
        }
    }

    /// The transaction has ended, and its portals with it.
    pub(super) fn portals_closed(&mut self) {
        self.deallocations.clear();
    }

    /// Everything has been answered.
    pub(super) fn settled(&mut self) {
        self.forgetting.clear();
    }

    /// All names and definitions, for a client that moves.
    pub(super) fn take_all(&mut self) -> Vec<Definition> {
        let definition = |name: &[u8], entry: &Entry| {
            let statement = entry.statement.as_ref()?;
            Some(Definition {
                name: name.into(),
                text: Arc::clone(&statement.definition),
                key: statement.key,
                told: entry.told,
            })
        };
        let unnamed = definition(b"", &self.unnamed).into_iter();
        let named = self.named.iter();
        unnamed
            .chain(named.filter_map(|(name, entry)| definition(name, entry)))
            .collect()
    }

    /// Takes up a statement of a client that has moved here, which was told this of its result.
    pub(super) fn restore(&mut self, name: &[u8], statement: Rc<Statement>, told: Shape) {
        if name.is_empty() {
            self.unnamed.confirmed = Some(Rc::clone(&statement));
            self.unnamed.stand_for(Some(statement));
            self.unnamed.since = self.generation;
            self.unnamed.told = told;
            return;
        }
        let (_, entry) = entry_of(&mut self.named, name);
        entry.told = told;
        entry.confirmed = Some(Rc::clone(&statement));
        entry.since = self.generation;
        entry.place.get_or_insert_with(|| statement.place(name));
        self.kept.set(entry, Some(statement));
    }

    /// True if there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty()
            && !self.has_unnamed()
            && self.journal.is_empty()
            && self.held.is_empty()
    }

    fn record(&mut self, name: &[u8], after: Option<Rc<Statement>>, segment: u32, is_bait: bool) {
        self.editions = self.editions.wrapping_add(u32::from(after.is_some()));
        let editions = self.editions;
        let name = if name.is_empty() {
            self.unnamed.stand_for(after.clone());
            self.unnamed.pending += 1;
            self.unnamed.segment = segment;
            self.unnamed.since = self.generation;
            if after.is_some() {
                self.unnamed.edition = editions;
                self.unnamed.told = Shape::UNKNOWN;
            }
            None
        } else {
            let (name, entry) = entry_of(&mut self.named, name);
            entry.pending += 1;
            entry.segment = segment;
            entry.since = self.generation;
            if let Some(statement) = &after {
                entry.edition = editions;
                entry.told = Shape::UNKNOWN;
                entry.place.get_or_insert_with(|| statement.place(&name));
            }
            self.kept.set(entry, after.clone());
            Some(name)
        };
        self.journal.push_back(Record {
            name,
            after,
            is_bait,
        });
    }

    /// Forgets the names that were used longest ago beyond the bounds.
    fn make_room(&mut self, limit: usize) {
        while self.kept.count > limit || (self.kept.bytes > KEPT_BYTES_MAX && self.kept.count > 1) {
            if self.oldest.is_empty() {
                self.line_up_oldest();
            }
            let Some((used, name)) = self.oldest.pop_front() else {
                break;
            };
            let Some(entry) = self.named.get_mut(&name).filter(|one| one.used == used) else {
                continue;
            };
            entry.confirmed = None;
            self.kept.set(entry, None);
            if entry.pending == 0 {
                self.named.remove(&name);
            }
        }
    }

    /// Finds the names that were used longest ago, a batch at a time: each name forgotten costs a
    /// look at few others.
    fn line_up_oldest(&mut self) {
        let living = self.named.iter().filter(|(_, one)| one.statement.is_some());
        let mut all: Vec<_> = living.map(|(name, one)| (one.used, name)).collect();
        let batch = OLDEST_COUNT.max(all.len() / 8).min(all.len());
        if batch < all.len() {
            all.select_nth_unstable(batch);
            all.truncate(batch);
        }
        all.sort_unstable();
        let all = all.into_iter();
        self.oldest = all.map(|(used, name)| (used, Rc::clone(name))).collect();
    }
}

impl Kept {
    /// Sets what a name stands for.
    fn set(&mut self, entry: &mut Entry, statement: Option<Rc<Statement>>) {
        if let Some(before) = &entry.statement {
            self.count -= 1;
            self.bytes -= before.definition.len();
        }
        if let Some(statement) = &statement {
            self.count += 1;
            self.bytes += statement.definition.len();
            self.clock += 1;
            entry.used = self.clock;
        }
        entry.stand_for(statement);
    }
}

/// The entry of a name, made if there is none, and the name as the map has it.
fn entry_of<'a>(named: &'a mut HashMap<Rc<[u8]>, Entry>, name: &[u8]) -> (Rc<[u8]>, &'a mut Entry) {
    let known = named.get_key_value(name);
    let name = known.map_or_else(|| Rc::from(name), |(name, _)| Rc::clone(name));
    let entry = named.entry(Rc::clone(&name)).or_default();
    (name, entry)
}

#[cfg(test)]
mod tests;
