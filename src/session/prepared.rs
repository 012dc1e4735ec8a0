//! What a client calls its prepared statements.
//!
//! **Owns:** the map from a client's names to statements, the journal of changes that PostgreSQL has
//! not confirmed yet, the part of a message that is held until it can be rewritten.
//! **Does not own:** what servers have (`server::statements`), rewriting messages (`rewrite`).
//!
//! The map changes when a message is sent, since the next one may refer to it. If the message turns
//! out to have failed, or to have been skipped, the journal puts things right:
//!
//! ```text
//!   journal   Parse a: was ∅      Close b: was B      Parse a: was X        map  a ─▶ Y
//!             failed ───────────────────────────────▶ was ∅
//!                                 skipped ─────────────────────────────────▶ b ─▶ B
//! ```
//!
//! **Invariants**
//! 1. Statements are shared: a thousand clients with the same one have its text once on a shard.
//! 2. Once everything is answered, the map is what PostgreSQL would know of an own session.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Extended Query".

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use crate::server::parameters::ParameterSet;
use crate::server::statements::text::{self, Key, Statement};
use crate::server::sync::Outcomes;

/// A name and what it stands for (as in [`Statement::definition`]), for a client that moves.
pub type Definition = (Box<[u8]>, Box<[u8]>);

/// A statement under a client's name.
#[derive(Debug)]
struct Entry {
    statement: Rc<Statement>,
    used: u64,
    /// The generation of the database when it was defined.
    since: u32,
}

/// A change of the map that is not confirmed.
#[derive(Debug)]
struct Record {
    name: Box<[u8]>,
    before: Option<Rc<Statement>>,
    /// The server has got an empty statement of this name, which goes if the request is done.
    is_bait: bool,
}

/// The statements of one client.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    named: HashMap<Box<[u8]>, Entry>,
    unnamed: Option<Rc<Statement>>,
    unnamed_since: u32,
    /// The generation of the database now.
    pub(super) generation: u32,
    journal: VecDeque<Record>,
    clock: u64,
    salted: Option<(Rc<ParameterSet>, Key)>,
    /// The start of a message that is too short to be rewritten.
    pub(super) held: Vec<u8>,
}

impl Prepared {
    /// The statement that the client calls `name`; empty for the unnamed one.
    pub(super) fn get(&mut self, name: &[u8]) -> Option<&Rc<Statement>> {
        if name.is_empty() {
            return self.unnamed.as_ref();
        }
        self.clock += 1;
        let entry = self.named.get_mut(name)?;
        entry.used = self.clock;
        Some(&entry.statement)
    }

    /// The generation of the database when `name` was defined.
    pub(super) fn since(&self, name: &[u8]) -> u32 {
        match self.named.get(name) {
            Some(entry) => entry.since,
            None => self.unnamed_since,
        }
    }

    /// True if the client has a statement of this name, and PostgreSQL has said so. The unnamed one
    /// is always free.
    pub(super) fn is_taken(&self, name: &[u8]) -> bool {
        !name.is_empty() && self.named.contains_key(name) && !self.is_pending(name)
    }

    /// True if a definition of this name is on its way that nothing has been heard of.
    pub(super) fn is_pending(&self, name: &[u8]) -> bool {
        self.journal.iter().any(|record| *record.name == *name)
    }

    /// The unnamed statement, if this is its definition.
    pub(super) fn unnamed_as(&self, definition: &[u8]) -> Option<Rc<Statement>> {
        let unnamed = self.unnamed.as_ref();
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

    /// Notes a Parse that is sent. Beyond `limit` names (0: no bound) the least used is forgotten.
    pub(super) fn define(&mut self, name: &[u8], statement: Rc<Statement>, limit: usize) {
        let before = self.put(name, Some(statement));
        self.journal.push_back(Record {
            name: name.into(),
            before,
            is_bait: false,
        });
        if limit > 0 && self.named.len() > limit {
            let oldest = self.named.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.named.remove(&name);
            }
        }
    }

    /// Notes a Close or DEALLOCATE that is sent.
    pub(super) fn undefine(&mut self, name: &[u8], is_bait: bool) {
        let before = self.put(name, None);
        self.journal.push_back(Record {
            name: name.into(),
            before,
            is_bait,
        });
    }

    /// Forgets a statement while nothing is on its way. False if there is none.
    pub(super) fn forget(&mut self, name: &[u8]) -> bool {
        self.put(name, None).is_some()
    }

    /// A simple query is sent: PostgreSQL forgets the unnamed statement over it.
    pub(super) fn forget_unnamed(&mut self) {
        self.unnamed = None;
    }

    /// PostgreSQL has forgotten all named statements but those that are on their way.
    pub(super) fn forget_all(&mut self) {
        let journal = &mut self.journal;
        for record in journal.iter_mut().filter(|one| !one.name.is_empty()) {
            record.before = None;
        }
        self.named
            .retain(|name, _| journal.iter().any(|record| record.name == *name));
    }

    /// What has become of the requests in the journal. True if one has failed whose bait is left on
    /// the server.
    #[must_use]
    pub(super) fn apply(&mut self, outcomes: Outcomes) -> bool {
        let tally = outcomes.client;
        for _ in 0..tally.done {
            self.journal.pop_front();
        }
        let mut leaves_bait = false;
        for turn in 0..tally.failed {
            let Some(mut record) = self.journal.pop_front() else {
                debug_assert!(false, "more outcomes than records");
                break;
            };
            leaves_bait |= record.is_bait;
            if turn == 0 && outcomes.is_first_to_blame && record.name.is_empty() {
                // A Parse forgets the unnamed statement before it fails.
                record.before = None;
            }
            let mut later = self.journal.iter_mut();
            match later.find(|later| later.name == record.name) {
                Some(later) => later.before = record.before,
                None => drop(self.put(&record.name, record.before)),
            }
        }
        leaves_bait
    }

    /// All names and definitions, for a client that moves.
    pub(super) fn take_all(&mut self) -> Vec<Definition> {
        let unnamed = self.unnamed.take().map(|one| (Box::default(), one));
        let named = self.named.drain();
        let named = named.map(|(name, entry)| (name, entry.statement));
        let all = unnamed.into_iter().chain(named);
        all.map(|(name, statement)| (name, statement.definition.clone()))
            .collect()
    }

    /// Takes up a statement of a client that has moved here.
    pub(super) fn restore(&mut self, name: &[u8], statement: Rc<Statement>) {
        self.put(name, Some(statement));
    }

    /// True if there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty()
            && self.unnamed.is_none()
            && self.journal.is_empty()
            && self.held.is_empty()
    }

    fn put(&mut self, name: &[u8], statement: Option<Rc<Statement>>) -> Option<Rc<Statement>> {
        let since = self.generation;
        if name.is_empty() {
            self.unnamed_since = since;
            return std::mem::replace(&mut self.unnamed, statement);
        }
        let Some(statement) = statement else {
            return self.named.remove(name).map(|entry| entry.statement);
        };
        self.clock += 1;
        let used = self.clock;
        let entry = Entry {
            statement,
            used,
            since,
        };
        self.named
            .insert(name.into(), entry)
            .map(|entry| entry.statement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::statements::text::Interner;
    use crate::server::sync::Tally;

    fn outcome(done: u32, failed: u32, is_first_to_blame: bool) -> Outcomes {
        Outcomes {
            client: Tally { done, failed },
            server: Tally::default(),
            is_first_to_blame,
        }
    }

    fn statement(text: &str) -> Rc<Statement> {
        Interner::default().intern(format!("{text}\0\0\0").as_bytes())
    }

    fn text(prepared: &mut Prepared, name: &str) -> Option<String> {
        let definition = &prepared.get(name.as_bytes())?.definition;
        let text = definition.split(|byte| *byte == 0).next().unwrap();
        Some(String::from_utf8_lossy(text).into_owned())
    }

    #[test]
    fn a_failed_parse_defines_nothing_and_what_was_skipped_has_no_effect() {
        let mut prepared = Prepared::default();
        prepared.define(b"b", statement("B"), 0);
        prepared.define(b"", statement("U"), 0);
        assert!(!prepared.apply(outcome(2, 0, false)));
        prepared.define(b"a", statement("X"), 0);
        prepared.undefine(b"b", false);
        prepared.define(b"", statement("V"), 0);
        assert_eq!(text(&mut prepared, "").as_deref(), Some("V"));
        assert!(!prepared.apply(outcome(0, 3, true)));
        assert_eq!(text(&mut prepared, "a"), None);
        assert_eq!(text(&mut prepared, "b").as_deref(), Some("B"));
        assert_eq!(text(&mut prepared, "").as_deref(), Some("U"));
    }

    #[test]
    fn what_was_sent_behind_a_failure_keeps_its_effect() {
        let mut prepared = Prepared::default();
        prepared.define(b"a", statement("X"), 0);
        prepared.define(b"a", statement("Y"), 0);
        assert!(!prepared.apply(outcome(0, 1, true)));
        assert_eq!(text(&mut prepared, "a").as_deref(), Some("Y"));
        assert!(!prepared.apply(outcome(0, 1, true)));
        assert_eq!(text(&mut prepared, "a"), None);
    }

    #[test]
    fn a_failing_parse_forgets_the_unnamed_statement_before() {
        let mut prepared = Prepared::default();
        prepared.define(b"", statement("U"), 0);
        assert!(!prepared.apply(outcome(1, 0, false)));
        prepared.define(b"", statement("V"), 0);
        assert!(!prepared.apply(outcome(0, 1, true)));
        assert_eq!(text(&mut prepared, ""), None);
    }

    #[test]
    fn forgetting_all_spares_what_is_on_its_way() {
        let mut prepared = Prepared::default();
        prepared.define(b"a", statement("X"), 0);
        prepared.define(b"b", statement("B"), 0);
        assert!(!prepared.apply(outcome(2, 0, false)));
        prepared.define(b"a", statement("Y"), 0);
        prepared.forget_all();
        assert_eq!(text(&mut prepared, "a").as_deref(), Some("Y"));
        assert_eq!(text(&mut prepared, "b"), None);
        assert!(!prepared.apply(outcome(0, 1, true)));
        assert_eq!(text(&mut prepared, "a"), None);
    }

    #[test]
    fn the_least_used_name_makes_room() {
        let mut prepared = Prepared::default();
        prepared.define(b"a", statement("A"), 2);
        prepared.define(b"b", statement("B"), 2);
        assert!(prepared.get(b"a").is_some());
        prepared.define(b"c", statement("C"), 2);
        assert!(!prepared.apply(outcome(3, 0, false)));
        assert!(prepared.is_taken(b"a") && !prepared.is_taken(b"b"));
        let mut names: Vec<_> = prepared.take_all();
        names.sort();
        let names: Vec<_> = names.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, [b"a", b"c"]);
    }

    #[test]
    fn a_deallocation_that_fails_leaves_its_bait() {
        let mut prepared = Prepared::default();
        prepared.define(b"a", statement("A"), 0);
        assert!(!prepared.apply(outcome(1, 0, false)));
        prepared.undefine(b"a", true);
        assert!(prepared.apply(outcome(0, 1, false)));
        assert!(prepared.is_taken(b"a"));
    }
}
