//! Prepared statements by what they say.
//!
//! **Owns:** the shared form of a statement, its key and its name on servers, what running it does
//! to other statements.
//! **Does not own:** which server has it ([`super`]), what a client calls it (`session::prepared`).
//!
//! The key is a digest of the query text and the parameter types, so every shard and every later
//! process finds the same name for the same statement, and nothing has to be agreed on.
//!
//! **Invariants**
//! 1. Of equal statements there is one allocation on a shard, which ends with its last user, or a
//!    little later: the last few new ones are kept, for clients who send one unnamed text after
//!    another. Long ones are not.
//! 2. Different statements have different keys (128 bits of SHA-256).
//!
//! Source: PostgreSQL documentation, `sql-deallocate.html`, `sql-discard.html`,
//! `sql-syntax-lexical.html` (identifiers).

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::metrics::Enrolled;
use crate::server::parameters::ParameterSet;
use crate::server::reset::Leftovers;

use super::kind::Kind;
use super::power::Power;
use super::shape;

/// What the names that the pooler gives begin with.
pub const PREFIX: &[u8] = b"PGD_";
/// Bytes of a name that the pooler gives.
pub const NAME_BYTES: usize = PREFIX.len() + 32;
/// A definition without text: the empty query, no parameter types.
pub const EMPTY_DEFINITION: &[u8] = b"\0\0\0";

/// Names a statement on servers.
pub type Key = u128;

/// What a query text does to prepared statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing that its text tells of.
    None,
    /// Forgets all of them.
    ForgetsAll,
    /// Forgets the one of this name.
    Forgets(Box<[u8]>),
}

/// A statement, whatever it is called.
#[derive(Debug)]
pub struct Statement {
    /// Query text, a zero byte, number and OIDs of the parameter types: the Parse message behind
    /// the name. Shared with other shards, for clients who move.
    pub definition: Arc<[u8]>,
    /// Digest of the definition.
    pub key: Key,
    /// What running it may leave behind.
    pub leftovers: Leftovers,
    /// What running it does to other statements.
    pub effect: Effect,
    /// How often clients have run it, by pool.
    uses: RefCell<Vec<Use>>,
    holders: Cell<usize>,
    kept: Rc<Kept>,
    /// What running it may do to the meaning of others.
    pub power: Power,
    /// What running it does to the messages behind it.
    pub kind: Kind,
    /// Its result depends on what its names stand for.
    pub may_change: bool,
    /// The salt that was asked for last, and the key with it.
    salted: Cell<(Key, Key)>,
}

/// What a statement takes beside its definition, in bytes: rounded up from what was measured.
const STATEMENT_BYTES: usize = 320;
/// What a name takes beside its letters, in bytes; likewise.
const PLACE_BYTES: usize = 145;

/// How many statements and names for them there are, and what they take.
#[derive(Debug, Default)]
pub struct Kept {
    count: Cell<usize>,
    bytes: Cell<usize>,
    names_bytes: Cell<usize>,
}

/// The account of one name. Ends when dropped.
#[derive(Debug)]
pub struct Place {
    kept: Rc<Kept>,
    bytes: usize,
}

impl Kept {
    /// How many statements.
    pub fn count(&self) -> usize {
        self.count.get()
    }

    /// Their definitions, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// All that they and their names take, in bytes, about.
    pub fn memory(&self) -> usize {
        self.bytes.get() + self.count.get() * STATEMENT_BYTES + self.names_bytes.get()
    }
}

/// What one pool does with a statement.
#[derive(Debug)]
struct Use {
    pool: Rc<str>,
    count: u64,
    /// Where the pool counts what it remembers.
    numbers: Weak<Enrolled>,
}

/// A client has a statement, under a name or none. Ends when dropped.
#[derive(Debug)]
pub struct Hold(Rc<Statement>);

impl Drop for Hold {
    fn drop(&mut self) {
        let holders = &self.0.holders;
        holders.set(holders.get() - 1);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let names_bytes = &self.kept.names_bytes;
        names_bytes.set(names_bytes.get() - self.bytes);
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        let Kept { count, bytes, .. } = &*self.kept;
        count.set(count.get() - 1);
        bytes.set(bytes.get() - self.definition.len());
        for numbers in self.uses.get_mut().drain(..) {
            if let Some(numbers) = numbers.numbers.upgrade() {
                numbers.prepared_entries.sub(1);
                numbers.prepared_bytes.sub(self.definition.len() as u64);
            }
        }
    }
}

impl Statement {
    /// The text of the query.
    pub fn query(&self) -> &[u8] {
        let end = memchr::memchr(0, &self.definition).unwrap_or_default();
        self.definition.get(..end).unwrap_or_default()
    }

    /// Accounts for a client's name of it.
    pub fn place(&self, name: &[u8]) -> Place {
        let bytes = name.len() + PLACE_BYTES;
        let names_bytes = &self.kept.names_bytes;
        names_bytes.set(names_bytes.get() + bytes);
        let kept = Rc::clone(&self.kept);
        Place { kept, bytes }
    }

    /// A client has it.
    pub fn hold(self: &Rc<Self>) -> Hold {
        self.holders.set(self.holders.get() + 1);
        Hold(Rc::clone(self))
    }

    /// How often clients have it, under names or none.
    pub fn holders(&self) -> usize {
        self.holders.get()
    }

    /// Counts runs by clients of a pool; 0 if one of them only knows it now.
    pub fn used(&self, pool: &Rc<str>, numbers: &Rc<Enrolled>, count: u64) {
        let mut uses = self.uses.borrow_mut();
        let is_it = |one: &&mut Use| Rc::ptr_eq(&one.pool, pool) || *one.pool == **pool;
        if let Some(known) = uses.iter_mut().find(is_it) {
            known.count += count;
            if known.numbers.strong_count() > 0 {
                return;
            }
            // The pool had gone, and there is one of its name again.
            known.numbers = Rc::downgrade(numbers);
        } else {
            uses.reserve_exact(1);
            uses.push(Use {
                pool: Rc::clone(pool),
                count,
                numbers: Rc::downgrade(numbers),
            });
        }
        numbers.prepared_entries.add(1);
        numbers.prepared_bytes.add(self.definition.len() as u64);
    }

    /// The pools whose clients have had it, and how often they have run it.
    pub fn uses(&self) -> Vec<(Rc<str>, u64)> {
        let uses = self.uses.borrow();
        uses.iter()
            .map(|one| (Rc::clone(&one.pool), one.count))
            .collect()
    }

    fn new(definition: Arc<[u8]>, key: Key, kept: Rc<Kept>) -> Self {
        kept.count.set(kept.count.get() + 1);
        kept.bytes.set(kept.bytes.get() + definition.len());
        let text = memchr::memchr(0, &definition).and_then(|end| definition.get(..end));
        let text = text.unwrap_or_default();
        let leftovers = Leftovers::of_text(text);
        let kind = Kind::of(text);
        let (effect, power) = (Effect::of(text), Power::of_command(text, leftovers));
        let may_change = shape::may_change(text);
        Self {
            definition,
            key,
            leftovers,
            effect,
            power,
            kind,
            may_change,
            uses: RefCell::default(),
            holders: Cell::default(),
            kept,
            salted: Cell::new((0, key)),
        }
    }

    /// The key for sessions whose settings have this [`salt`].
    pub fn key_with(&self, salt: Key) -> Key {
        let (known, key) = self.salted.get();
        if known == salt {
            return key;
        }
        let key = match salt {
            0 => self.key,
            _ => digest(&[&self.key.to_be_bytes(), &salt.to_be_bytes()]),
        };
        self.salted.set((salt, key));
        key
    }
}

/// 128 bits of a digest.
fn digest(parts: &[&[u8]]) -> Key {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let bytes: [u8; 32] = hash.finalize().into();
    let bits = |key, byte: &u8| (key << 8) | Key::from(*byte);
    bytes.iter().take(16).fold(0, bits)
}

/// What distinguishes statements of sessions with these settings from those with the servers' own.
/// Literals are read when a statement is parsed: `'2024-01-01'::timestamptz` in the time zone of
/// that moment.
pub fn salt(settings: &ParameterSet) -> Key {
    let telling = |name: &str| !name.eq_ignore_ascii_case("application_name");
    let mut parts = Vec::new();
    for parameter in settings.iter().filter(|one| telling(&one.name)) {
        parts.extend([parameter.name.as_bytes(), b"=", parameter.value.as_bytes()]);
        parts.push(b"\0");
    }
    if parts.is_empty() { 0 } else { digest(&parts) }
}

/// The name of a statement on servers.
pub fn name(key: Key) -> [u8; NAME_BYTES] {
    let mut name = [0; NAME_BYTES];
    let (prefix, digits) = name.split_at_mut(PREFIX.len());
    prefix.copy_from_slice(PREFIX);
    for (at, digit) in digits.iter_mut().enumerate() {
        let value = (key >> (124 - 4 * at)) as u8 & 0xf;
        *digit = if value < 10 {
            b'0' + value
        } else {
            b'a' + value - 10
        };
    }
    name
}

/// The statement that `message`, an error of a server, is about.
pub fn named_in(message: &[u8]) -> Option<Key> {
    let at = memchr::memmem::find(message, PREFIX)?;
    let digits = message.get(at + PREFIX.len()..at + NAME_BYTES)?;
    u128::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

impl Effect {
    /// The effect of a query that consists of one command.
    pub fn of(text: &[u8]) -> Self {
        if !may_have_effect(text) {
            return Self::None;
        }
        Self::of_command(text).unwrap_or(Self::None)
    }

    fn of_command(text: &[u8]) -> Option<Self> {
        let (first, rest) = word(without_space(text));
        let is_discard = first.eq_ignore_ascii_case(b"discard");
        if !is_discard && !first.eq_ignore_ascii_case(b"deallocate") {
            return None;
        }
        let (mut name, mut behind) = name_at(rest)?;
        if is_discard {
            let is_all = is_end(behind) && name.eq_ignore_ascii_case(b"all");
            return is_all.then_some(Self::ForgetsAll);
        }
        if name.eq_ignore_ascii_case(b"prepare") && !is_end(behind) {
            (name, behind) = name_at(behind)?;
        }
        if !is_end(behind) {
            return None;
        }
        if name.eq_ignore_ascii_case(b"all") {
            return Some(Self::ForgetsAll);
        }
        identifier(name).map(Self::Forgets)
    }
}

/// True unless the first letters tell that [`Effect::of`] the text is none.
pub fn may_have_effect(text: &[u8]) -> bool {
    let first = text.trim_ascii_start().first();
    matches!(first, None | Some(b'd' | b'D' | b'/' | b'-'))
}

/// What follows the space and the comments at the start.
pub(super) fn without_space(mut text: &[u8]) -> &[u8] {
    loop {
        text = text.trim_ascii_start();
        if text.starts_with(b"--") {
            let end = text.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            text = end.map_or(&[], |end| &text[end..]);
        } else if text.starts_with(b"/*") {
            text = behind_comment(text);
        } else {
            return text;
        }
    }
}

/// What follows the comment at the start; comments may be nested.
fn behind_comment(text: &[u8]) -> &[u8] {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(pair) = text.get(at..at + 2) {
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return &text[at..];
        }
    }
    &[]
}

/// True if no more of the command follows.
fn is_end(text: &[u8]) -> bool {
    let text = without_space(text);
    without_space(text.strip_prefix(b";").unwrap_or(text)).is_empty()
}

/// The letters at the start, and what follows the space behind them.
pub(super) fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_alphabetic());
    let (word, rest) = text.split_at(end.unwrap_or(text.len()));
    (word, without_space(rest))
}

/// The identifier at the start, quotes included, and what follows it.
fn name_at(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut end = 0;
    if text.starts_with(b"\"") {
        end = 1;
        loop {
            end += 1 + memchr::memchr(b'"', text.get(end..)?)?;
            if text.get(end) != Some(&b'"') {
                break;
            }
            end += 1;
        }
    } else {
        while text.get(end).is_some_and(|byte| is_plain(*byte)) {
            end += 1;
        }
    }
    (end > 0)
        .then(|| text.split_at(end))
        .map(|(name, rest)| (name, without_space(rest)))
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')
}

/// The name that `text`, if it is one identifier, stands for.
fn identifier(text: &[u8]) -> Option<Box<[u8]>> {
    if let Some(quoted) = text
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""))
    {
        let mut name = Vec::new();
        let mut bytes = quoted.iter();
        while let Some(byte) = bytes.next() {
            if *byte == b'"' && bytes.next() != Some(&b'"') {
                return None;
            }
            name.push(*byte);
        }
        return (!name.is_empty()).then(|| name.into());
    }
    let starts_well = text.first().is_some_and(|byte| !byte.is_ascii_digit());
    (starts_well && text.iter().all(|byte| is_plain(*byte)))
        .then(|| text.to_ascii_lowercase().into())
}

/// Hashes keys that are digests or hashes already.
#[derive(Debug, Default)]
pub struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

/// A map whose keys need no hashing.
pub type ByHash<K, V> = HashMap<K, V, BuildHasherDefault<Hashed>>;

/// New statements that are kept without a user; with the next bound, 2 MiB a shard at most.
const RECENT_COUNT: usize = 128;
/// Bytes of a definition that is kept without a user.
const RECENT_BYTES_MAX: usize = 16 * 1024;

/// The statements in use on one shard.
#[derive(Debug, Default)]
pub struct Interner {
    hasher: RandomState,
    statements: ByHash<u64, Vec<Weak<Statement>>>,
    sweep_at: usize,
    recent: VecDeque<Rc<Statement>>,
    kept: Rc<Kept>,
}

impl Interner {
    /// How many statements there are.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// All statements that some client has.
    pub fn living(&self) -> impl Iterator<Item = Rc<Statement>> {
        let all = self.statements.values().flatten();
        all.filter_map(Weak::upgrade)
            .filter(|one| one.holders() > 0)
    }

    /// The shared form of a statement.
    pub fn intern(&mut self, definition: &[u8]) -> Rc<Statement> {
        self.find_or_add(definition, |kept| {
            Statement::new(definition.into(), digest(&[definition]), kept)
        })
    }

    /// The shared form of a statement that another shard has, with its key.
    pub fn adopt(&mut self, definition: &Arc<[u8]>, key: Key) -> Rc<Statement> {
        self.find_or_add(definition, |kept| {
            Statement::new(Arc::clone(definition), key, kept)
        })
    }

    fn find_or_add(
        &mut self,
        definition: &[u8],
        make: impl FnOnce(Rc<Kept>) -> Statement,
    ) -> Rc<Statement> {
        if self.statements.len() >= self.sweep_at {
            self.sweep();
        }
        let hash = self.hasher.hash_one(definition);
        let bucket = self.statements.entry(hash).or_default();
        let mut living = bucket.iter().filter_map(Weak::upgrade);
        if let Some(found) = living.find(|one| *one.definition == *definition) {
            return found;
        }
        drop(living);
        bucket.retain(|one| one.strong_count() > 0);
        let statement = Rc::new(make(Rc::clone(&self.kept)));
        bucket.push(Rc::downgrade(&statement));
        if definition.len() <= RECENT_BYTES_MAX {
            if self.recent.len() == RECENT_COUNT {
                self.recent.pop_front();
            }
            self.recent.push_back(Rc::clone(&statement));
        }
        statement
    }

    /// Forgets statements that nobody has any more, and frees what is left of them if that is much. To be
    /// called now and then.
    pub fn tidy(&mut self) {
        self.recent.clear();
        if self.statements.len() > 2 * self.kept.count() + 64 {
            self.sweep();
            self.statements.shrink_to(2 * self.statements.len());
        }
    }

    /// Forgets statements that nobody uses.
    fn sweep(&mut self) {
        self.statements.retain(|_, bucket| {
            bucket.retain(|one| one.strong_count() > 0);
            !bucket.is_empty()
        });
        self.sweep_at = (self.statements.len() * 2).max(64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Fleet;

    #[test]
    fn a_name_is_made_of_the_key_and_found_in_messages() {
        let key = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
        let name = name(key);
        assert_eq!(&name, b"PGD_0123456789abcdef0011223344556677");
        let message = [b"prepared statement \"", &name[..], b"\" does not exist"].concat();
        assert_eq!(named_in(&message), Some(key));
        assert_eq!(named_in(b"prepared statement \"PGD_x\""), None);
        assert_eq!(named_in(b"PGD_"), None);
    }

    #[test]
    fn equal_statements_are_shared_and_end_with_their_last_user() {
        let mut interner = Interner::default();
        let one = interner.intern(b"select 1\0\0\0");
        assert!(Rc::ptr_eq(&one, &interner.intern(b"select 1\0\0\0")));
        let typed = interner.intern(b"select 1\0\0\x01\0\0\0\x17");
        assert_ne!(one.key, typed.key);
        drop(one);
        for number in 0..1000 {
            interner.intern(format!("select {number}\0\0\0").as_bytes());
        }
        let recent = interner.recent.len();
        assert_eq!(recent, RECENT_COUNT);
        assert!(
            interner.statements.len() <= 3 * RECENT_COUNT,
            "the dead are swept"
        );
        let last = interner.recent.back().unwrap().clone();
        assert!(Rc::ptr_eq(&last, &interner.intern(b"select 999\0\0\0")));
        assert!(Rc::ptr_eq(
            &typed,
            &interner.intern(b"select 1\0\0\x01\0\0\0\x17")
        ));
    }

    #[test]
    fn a_long_statement_ends_with_its_last_user() {
        let mut interner = Interner::default();
        let long = vec![b'x'; RECENT_BYTES_MAX + 1];
        drop(interner.intern(&long));
        assert!(interner.recent.is_empty());
    }

    #[test]
    fn a_statement_of_another_shard_is_the_same_here() {
        let (mut here, mut there) = (Interner::default(), Interner::default());
        let one = there.intern(b"select 1\0\0\0");
        let adopted = here.adopt(&one.definition, one.key);
        assert!(Arc::ptr_eq(&adopted.definition, &one.definition));
        assert!(Rc::ptr_eq(&adopted, &here.intern(b"select 1\0\0\0")));
    }

    #[test]
    fn statements_are_counted_as_long_as_somebody_uses_them() {
        let mut interner = Interner::default();
        let pools: [Rc<str>; 2] = ["a@x".into(), "b@x".into()];
        let one = interner.intern(b"select 1\0\0\0");
        let two = interner.intern(b"select 22\0\0\0");
        let fleet = Fleet::new(1);
        let numbers = ["a", "b"].map(|user| Enrolled::new(&fleet, 0, "x", user));
        one.used(&pools[0], &numbers[0], 0);
        one.used(&pools[1], &numbers[1], 2);
        one.used(&Rc::from("b@x"), &numbers[1], 1);
        let remembered = || {
            let of = |one: &Rc<Enrolled>| (one.prepared_entries.get(), one.prepared_bytes.get());
            (of(&numbers[0]), of(&numbers[1]))
        };
        assert_eq!(remembered(), ((1, 11), (1, 11)));
        let [a, b] = pools;
        assert_eq!(one.uses(), [(a, 0), (b, 3)]);
        assert_eq!(two.query(), b"select 22");
        assert_eq!((interner.kept().count(), interner.kept().bytes()), (2, 23));
        assert_eq!(interner.living().count(), 0);
        let held = [one.hold(), two.hold(), two.hold()];
        assert_eq!((two.holders(), interner.living().count()), (2, 2));
        drop(held);
        let before = interner.kept().memory();
        let place = one.place(b"name");
        assert_eq!(interner.kept().memory(), before + PLACE_BYTES + 4);
        drop(place);
        assert_eq!(interner.kept().memory(), before);
        drop((one, two));
        interner.recent.clear();
        assert_eq!((interner.kept().count(), interner.kept().memory()), (0, 0));
        assert_eq!(remembered(), ((0, 0), (0, 0)));
        let text = |number| format!("select {number}\0\0\0");
        let many = (0..200).map(|number| interner.intern(text(number).as_bytes()));
        drop(many.collect::<Vec<_>>());
        interner.tidy();
        assert!(interner.statements.is_empty() && interner.statements.capacity() < 64);
        assert_eq!(interner.living().count(), 0);
    }

    #[test]
    fn the_key_of_a_statement_is_the_same_in_every_process() {
        let statement = Interner::default().intern(b"select 1\0\0\0");
        assert_eq!(&name(statement.key)[..12], b"PGD_7564e853");
    }

    #[test]
    fn settings_that_change_what_literals_mean_give_other_keys() {
        let mut settings = ParameterSet::default();
        settings.set("application_name", "a");
        assert_eq!(salt(&settings), 0);
        settings.set("TimeZone", "UTC");
        let utc = salt(&settings);
        settings.set("TimeZone", "Asia/Tokyo");
        assert!(utc != 0 && salt(&settings) != utc);
    }

    #[test]
    fn a_key_with_a_salt_is_a_digest_of_both() {
        let statement = Interner::default().intern(b"select 1\0\0\0");
        let plain = statement.key_with(0);
        let salted = [1, 2, 1].map(|salt| statement.key_with(salt));
        assert_eq!((plain, salted[0]), (statement.key, salted[2]));
        assert!(salted[0] != salted[1] && salted[0] ^ 1 != salted[1] ^ 2);
        assert_eq!(statement.key_with(0), plain);
    }

    #[test]
    fn commands_that_forget_statements_are_known() {
        let forgets = |name: &str| Effect::Forgets(name.as_bytes().into());
        for (text, effect) in [
            ("DEALLOCATE ALL", Effect::ForgetsAll),
            ("deallocate prepare all ; ", Effect::ForgetsAll),
            (" discard All;", Effect::ForgetsAll),
            ("deallocate S_1;", forgets("s_1")),
            ("DEALLOCATE PREPARE \"A \"\"b\"", forgets("A \"b")),
            ("deallocate\"x\"", forgets("x")),
            ("deallocate prepare", forgets("prepare")),
            (
                "/* c /* n */ */ deallocate --x\n a /*c*/; -- end",
                forgets("a"),
            ),
            ("-- c\ndiscard/**/all", Effect::ForgetsAll),
            ("deallocate a /*", forgets("a")),
            ("deallocate \"a;\" ;;", Effect::None),
            ("/* deallocate a", Effect::None),
            ("deallocate a; select 1", Effect::None),
            ("deallocate \"a\" b\"", Effect::None),
            ("deallocate", Effect::None),
            ("discard plans", Effect::None),
            ("delete from t", Effect::None),
            ("select 'deallocate all'", Effect::None),
            ("", Effect::None),
        ] {
            assert_eq!(Effect::of(text.as_bytes()), effect, "{text}");
        }
    }
}
