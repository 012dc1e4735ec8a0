//! What running a text does to the messages that are sent behind it.
//!
//! **Owns:** the kinds of such effects, and which of them a server may still show.
//! **Does not own:** what a text does to the meaning of others (`power`), what follows from a kind
//! (`session::rewrite`).
//!
//! ```text
//!   begins    a Parse behind it may be refused, if what comes between fails
//!   copies    while the server reads COPY data, any other message ends its connection
//!   sets up   the first statement of a transaction only: refused behind one that has read
//!   reads     PostgreSQL takes a snapshot for it, as soon as it is parsed
//!   forgets   whether a name is known behind it hangs on how it ends
//! ```
//!
//! **Invariant:** a text that may be of a kind is taken to be of it, but for *reads*: only texts that
//! certainly read are.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "COPY Operations"; `sql-begin.html`,
//! `sql-set-transaction.html`.

use super::power::{is, is_one_of, may_hide_a_semicolon, skip_comments, word};

/// What running a text does to the messages behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind(u8);

impl Kind {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// It may begin a transaction.
    pub const BEGINS: Self = Self(1);
    /// It may read COPY data of the client.
    pub const COPIES: Self = Self(1 << 1);
    /// It gives the transaction a property that it can have only before it has read anything.
    pub const SETS_UP: Self = Self(1 << 2);
    /// It reads: PostgreSQL takes a snapshot when it is parsed.
    pub const READS: Self = Self(1 << 3);
    /// It may forget prepared statements.
    pub const FORGETS: Self = Self(1 << 4);
    /// A text that is too long to look into.
    pub const UNSEEN: Self = Self(Self::BEGINS.0 | Self::COPIES.0);

    /// True if it has all of `other`.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    const fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// The kind of a text that is one command.
    pub fn of(text: &[u8]) -> Self {
        let Some(text) = skip_comments(text) else {
            return Self::NONE;
        };
        // Most texts are told by one letter.
        match text.first().map(u8::to_ascii_lowercase) {
            Some(b'b' | b'c' | b's') => {}
            Some(b'i' | b'u' | b'd' | b'w' | b'v' | b'm' | b't' | b'e') => {
                const READING: [&str; 9] = [
                    "insert", "update", "delete", "with", "values", "merge", "table", "explain",
                    "declare",
                ];
                let (first, rest) = word(text);
                let forgets =
                    is(first, "deallocate") || (is(first, "discard") && is(word(rest).0, "all"));
                return match () {
                    () if forgets => Self::FORGETS,
                    () if is_one_of(first, &READING) => Self::READS,
                    () => Self::NONE,
                };
            }
            _ => return Self::NONE,
        }
        let (first, rest) = word(text);
        if is(first, "select") {
            Self::READS
        } else if is_one_of(first, &["begin", "start"]) {
            let options = if is_one_of(word(rest).0, &["transaction", "work"]) {
                word(rest).1
            } else {
                rest
            };
            let sets_up = options.first().is_some_and(u8::is_ascii_alphabetic);
            Self(Self::BEGINS.0 | if sets_up { Self::SETS_UP.0 } else { 0 })
        } else if is(first, "copy") && rest.windows(5).any(|word| is(word, "stdin")) {
            Self::COPIES
        } else if is(first, "set") && names_transaction(rest) {
            Self::SETS_UP
        } else {
            Self::NONE
        }
    }

    /// The kind of a simple query, which may be several commands and end with a zero byte.
    pub fn of_query(text: &[u8]) -> Self {
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        let mut kind = Self::of(text);
        for at in memchr::memchr_iter(b';', text) {
            kind.add(Self::of(text.get(at + 1..).unwrap_or_default()));
        }
        kind
    }
}

/// The commands of a simple query; nothing if a semicolon may be a part of a literal, a name or a
/// comment.
pub fn commands(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_certain = !may_hide_a_semicolon(text);
    let text = if is_certain { text } else { &[] };
    text.split(|byte| *byte == b';')
}

/// True if what is behind SET is a property of the transaction.
fn names_transaction(rest: &[u8]) -> bool {
    let (mut first, mut behind) = word(rest);
    if is_one_of(first, &["local", "session"]) {
        (first, behind) = word(behind);
    }
    // Also `transaction_isolation` and its like, of which this is the first word.
    let is_default = behind.starts_with(b"=") || first.is_empty();
    is(first, "transaction") && !is_default
}

/// What a server may still show of the kinds that it was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outlook {
    kinds: Kind,
    /// Something that may have failed has been sent behind what begins a transaction.
    is_behind_begin: bool,
    /// The segment in which a Parse was spared that would have taken a snapshot.
    unread: Option<u32>,
}

impl Outlook {
    /// Something of this kind is sent.
    pub const fn add(&mut self, kind: Kind) {
        self.kinds.add(kind);
    }

    /// A Sync or a Query is sent: what is sent behind it is not skipped if something before it fails.
    /// `is_several`: the Query may be more than one command.
    pub const fn segment_ends(&mut self, is_several: bool) {
        self.is_behind_begin |= self.kinds.has(Kind::BEGINS) || is_several;
    }

    /// True if a transaction may have begun, and failed, that is not known of.
    pub const fn may_have_failed(&self) -> bool {
        self.kinds.has(Kind::BEGINS) && self.is_behind_begin
    }

    /// True if something of this kind is on its way, or its transaction is not over.
    pub const fn has(&self, kind: Kind) -> bool {
        self.kinds.has(kind)
    }

    /// True if a Parse or Close may be answered without the server.
    pub const fn may_promise(&self) -> bool {
        self.kinds.0 & (Kind::COPIES.0 | Kind::SETS_UP.0) == 0
    }

    /// A Parse of this kind is spared.
    pub const fn spared(&mut self, kind: Kind, segment: u32) {
        if kind.has(Kind::READS) {
            self.unread = Some(segment);
        }
    }

    /// Something of this kind is parsed or bound.
    pub const fn parsed(&mut self, kind: Kind) {
        if kind.has(Kind::READS) {
            self.unread = None;
        }
    }

    /// True if such a Parse was spared, and nothing has made up for it.
    pub const fn is_spared(&self) -> bool {
        self.unread.is_some()
    }

    /// True if PostgreSQL would have taken a snapshot that the server has not, in a transaction that is
    /// going on. To be asked when everything has been answered.
    pub fn lacks_snapshot(&self, in_transaction: bool, segment: u32) -> bool {
        self.unread
            .is_some_and(|at| in_transaction || at == segment)
    }

    /// Everything has been answered, and there is no transaction.
    pub fn settled(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_the_first_words() {
        let both = |one: Kind, other: Kind| Kind(one.0 | other.0);
        for (text, kind) in [
            ("begin", Kind::BEGINS),
            ("/* x */ Begin Work", Kind::BEGINS),
            ("start transaction", Kind::BEGINS),
            (
                "begin isolation level serializable",
                both(Kind::BEGINS, Kind::SETS_UP),
            ),
            (
                "start transaction read only",
                both(Kind::BEGINS, Kind::SETS_UP),
            ),
            ("set transaction read only", Kind::SETS_UP),
            (
                "set local transaction_isolation = 'serializable'",
                Kind::SETS_UP,
            ),
            (
                "set session characteristics as transaction read only",
                Kind::NONE,
            ),
            ("set timezone = 'UTC'", Kind::NONE),
            ("copy t from stdin", Kind::COPIES),
            ("copy t to stdout", Kind::NONE),
            ("select 1", Kind::READS),
            ("insert into t values (1)", Kind::READS),
            ("-- nothing", Kind::NONE),
            ("", Kind::NONE),
            ("deallocate a", Kind::FORGETS),
            ("discard all", Kind::FORGETS),
            ("discard plans", Kind::NONE),
            ("commit", Kind::NONE),
        ] {
            assert_eq!(Kind::of(text.as_bytes()), kind, "{text}");
        }
        let several = Kind::of_query(b"select 1; begin; copy t from stdin\0");
        assert!(several.has(Kind::READS) && several.has(Kind::BEGINS) && several.has(Kind::COPIES));
    }

    #[test]
    fn a_spared_parse_is_missed_only_in_its_transaction() {
        let mut outlook = Outlook::default();
        outlook.spared(Kind::BEGINS, 1);
        assert!(!outlook.lacks_snapshot(true, 1));
        outlook.spared(Kind::READS, 1);
        assert!(outlook.lacks_snapshot(false, 1) && !outlook.lacks_snapshot(false, 2));
        assert!(outlook.lacks_snapshot(true, 2));
        outlook.parsed(Kind::READS);
        assert!(!outlook.lacks_snapshot(true, 1));
    }
}
