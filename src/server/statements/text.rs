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
//! 1. Of equal statements there is one allocation on a shard, which ends with its last user.
//! 2. Different statements have different keys (128 bits of SHA-256).
//!
//! Source: PostgreSQL documentation, `sql-deallocate.html`, `sql-discard.html`,
//! `sql-syntax-lexical.html` (identifiers).

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::rc::{Rc, Weak};

use sha2::{Digest as _, Sha256};

use crate::server::parameters::ParameterSet;
use crate::server::reset::Leftovers;

use super::power::Power;

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
    /// the name.
    pub definition: Box<[u8]>,
    /// Digest of the definition.
    pub key: Key,
    /// What running it may leave behind.
    pub leftovers: Leftovers,
    /// What running it does to other statements.
    pub effect: Effect,
    /// What running it may do to the meaning of others.
    pub power: Power,
    /// The salt that was asked for last, and the key with it.
    salted: Cell<(Key, Key)>,
}

impl Statement {
    fn new(definition: &[u8]) -> Self {
        let text = memchr::memchr(0, definition).and_then(|end| definition.get(..end));
        let text = text.unwrap_or_default();
        let leftovers = Leftovers::of_text(text);
        let key = digest(&[definition]);
        Self {
            definition: definition.into(),
            key,
            leftovers,
            effect: Effect::of(text),
            power: Power::of_command(text, leftovers),
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
        let text = text.trim_ascii_start();
        if !matches!(text.first(), Some(b'd' | b'D')) {
            return Self::None;
        }
        Self::of_command(text).unwrap_or(Self::None)
    }

    fn of_command(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii_end();
        let text = text.strip_suffix(b";").unwrap_or(text).trim_ascii_end();
        let (first, rest) = word(text);
        if first.eq_ignore_ascii_case(b"discard") {
            return rest
                .eq_ignore_ascii_case(b"all")
                .then_some(Self::ForgetsAll);
        }
        if !first.eq_ignore_ascii_case(b"deallocate") {
            return None;
        }
        let (second, behind) = word(rest);
        let is_noise = second.eq_ignore_ascii_case(b"prepare") && !behind.is_empty();
        let name = if is_noise { behind } else { rest };
        if name.eq_ignore_ascii_case(b"all") {
            return Some(Self::ForgetsAll);
        }
        identifier(name).map(Self::Forgets)
    }
}

/// The letters at the start, and what follows the space behind them.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_alphabetic());
    let (word, rest) = text.split_at(end.unwrap_or(text.len()));
    (word, rest.trim_ascii_start())
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
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$');
    let starts_well = text.first().is_some_and(|byte| !byte.is_ascii_digit());
    (starts_well && text.iter().all(is_plain)).then(|| text.to_ascii_lowercase().into())
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

/// The statements in use on one shard.
#[derive(Debug, Default)]
pub struct Interner {
    hasher: RandomState,
    statements: ByHash<u64, Vec<Weak<Statement>>>,
    sweep_at: usize,
}

impl Interner {
    /// The shared form of a statement.
    pub fn intern(&mut self, definition: &[u8]) -> Rc<Statement> {
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
        let statement = Rc::new(Statement::new(definition));
        bucket.push(Rc::downgrade(&statement));
        statement
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
        assert!(interner.statements.len() <= 128, "the dead are swept");
        assert!(Rc::ptr_eq(
            &typed,
            &interner.intern(b"select 1\0\0\x01\0\0\0\x17")
        ));
    }

    #[test]
    fn the_key_of_a_statement_is_the_same_in_every_process() {
        let statement = Statement::new(b"select 1\0\0\0");
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
        let statement = Statement::new(b"select 1\0\0\0");
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
