//! What a client may have left behind on a server, and the statement that removes it.
//!
//! **Owns:** the marks and how they arise from command tags and from query text.
//! **Does not own:** when the statement runs (`pool::cleaner`).
//!
//! Command tags name most of what outlives a transaction. Three things have no tag of their own:
//! temporary tables (`CREATE TABLE`, `SELECT`), advisory locks and `set_config` (`SELECT`). For them
//! the text of queries is searched for the telling words. That may mark too much, which costs one
//! round trip; what a function does inside the server without such a word is not seen.
//!
//! **Invariant:** a mark is removed only by the statement that undoes it.
//!
//! Source: PostgreSQL documentation, `sql-discard.html`, `protocol-message-formats.html`
//! (`CommandComplete`).

use memchr::{memchr_iter, memchr2_iter};

/// What may be left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers(u8);

impl Leftovers {
    /// Settings and roles.
    pub const SETTINGS: Self = Self(1);
    /// Cursors that outlive their transaction.
    pub const CURSORS: Self = Self(1 << 1);
    /// Prepared statements.
    pub const STATEMENTS: Self = Self(1 << 2);
    /// Channels listened to.
    pub const CHANNELS: Self = Self(1 << 3);
    /// Temporary tables.
    pub const TEMPORARY: Self = Self(1 << 4);
    /// Advisory locks of the session.
    pub const LOCKS: Self = Self(1 << 5);
    /// A whole session: anything.
    pub const EVERYTHING: Self = Self(1 << 7);

    /// Marks more.
    pub const fn add(&mut self, more: Self) {
        self.0 |= more.0;
    }

    /// Marks more if `is_so`.
    pub const fn add_if(&mut self, is_so: bool, more: Self) {
        if is_so {
            self.add(more);
        }
    }

    /// True if nothing is marked.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True if all of `marks` are marked.
    pub const fn contains(self, marks: Self) -> bool {
        self.0 & marks.0 == marks.0
    }

    /// Marks what a completed command leaves behind. Called with every command tag.
    pub fn note_tag(&mut self, tag: &[u8]) {
        match tag {
            // Counts of rows follow these two, which are nearly all tags.
            [b'S', b'E', b'L', ..] | [b'I' | b'U', ..] => {}
            b"SET" | b"RESET" | b"DISCARD ALL" => self.add(Self::SETTINGS),
            b"DECLARE CURSOR" => self.add(Self::CURSORS),
            b"PREPARE" => self.add(Self::STATEMENTS),
            b"LISTEN" => self.add(Self::CHANNELS),
            _ => {}
        }
    }

    /// What a query may leave behind without a tag that tells.
    #[must_use]
    pub fn of_text(text: &[u8]) -> Self {
        let mut leftovers = Self::default();
        leftovers.note_text(text);
        leftovers
    }

    /// Marks what a query may leave behind without a tag that tells.
    pub fn note_text(&mut self, text: &[u8]) {
        for at in memchr2_iter(b'm', b'M', text) {
            if at >= 2 && is_temporary(text.get(at - 2..).unwrap_or_default()) {
                self.add(Self::TEMPORARY);
                break;
            }
        }
        for at in memchr_iter(b'_', text) {
            let (before, after) = text.split_at(at);
            if ends_with(before, b"advisory") || starts_with(after, b"_advisory") {
                self.add(Self::LOCKS);
            }
            if ends_with(before, b"set") && starts_with(after, b"_config") {
                self.add(Self::SETTINGS);
            }
        }
    }

    /// The statements that remove what is marked; each is to be sent as a query of its own, in this
    /// order.
    pub fn statements(self, in_transaction: bool) -> Vec<String> {
        let mut statements = Vec::new();
        if in_transaction {
            statements.push("ROLLBACK".to_owned());
        }
        if self.contains(Self::EVERYTHING) {
            statements.push("DISCARD ALL".to_owned());
            return statements;
        }
        let parts = [
            (
                Self::SETTINGS,
                "RESET SESSION AUTHORIZATION;RESET ALL;RESET ROLE;",
            ),
            (Self::CURSORS, "CLOSE ALL;"),
            (Self::STATEMENTS, "DEALLOCATE ALL;"),
            (Self::CHANNELS, "UNLISTEN *;"),
            (Self::TEMPORARY, "DISCARD TEMP;"),
            (Self::LOCKS, "SELECT pg_catalog.pg_advisory_unlock_all();"),
        ];
        let wanted = parts.iter().filter(|(mark, _)| self.contains(*mark));
        let text: String = wanted.map(|(_, statement)| *statement).collect();
        if !text.is_empty() {
            statements.push(text);
        }
        statements
    }
}

fn starts_with(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(word))
}

fn ends_with(text: &[u8], word: &[u8]) -> bool {
    let start = text.len().checked_sub(word.len());
    start.is_some_and(|start| text[start..].eq_ignore_ascii_case(word))
}

/// `text` starts with the word TEMP or TEMPORARY, or with the name of a temporary schema.
fn is_temporary(text: &[u8]) -> bool {
    if !starts_with(text, b"temp") {
        return false;
    }
    let rest = text.get(4..).unwrap_or_default();
    let rest = if starts_with(rest, b"orary") {
        &rest[5..]
    } else {
        rest
    };
    match rest.first() {
        None => false,
        Some(next) => next.is_ascii_whitespace() || matches!(next, b'.' | b'/' | b'-'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_text(text: &str) -> Leftovers {
        let mut leftovers = Leftovers::default();
        leftovers.note_text(text.as_bytes());
        leftovers
    }

    #[test]
    fn telling_words_are_found_in_any_case() {
        for text in [
            "create temp table t (a int)",
            "CREATE TEMPORARY TABLE t AS SELECT 1",
            "select 1 into pg_temp.t",
            "create Temp\ntable x()",
            "create temp/**/table x()",
        ] {
            assert!(of_text(text).contains(Leftovers::TEMPORARY), "{text}");
        }
        for text in [
            "select pg_advisory_lock(1)",
            "SELECT PG_TRY_ADVISORY_LOCK_SHARED(1)",
        ] {
            assert!(of_text(text).contains(Leftovers::LOCKS), "{text}");
        }
        assert!(of_text("select set_config('a','b',false)").contains(Leftovers::SETTINGS));
    }

    #[test]
    fn ordinary_text_is_not_marked() {
        for text in [
            "select temperature, template from my_temps where m = 'temp'",
            "SELECT abalance FROM pgbench_accounts WHERE aid = 1;",
            "_",
            "m",
            "",
            "set_",
        ] {
            assert!(of_text(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn tags_mark_what_outlives_a_transaction() {
        for (tag, mark) in [
            ("SET", Leftovers::SETTINGS),
            ("RESET", Leftovers::SETTINGS),
            ("DECLARE CURSOR", Leftovers::CURSORS),
            ("PREPARE", Leftovers::STATEMENTS),
            ("LISTEN", Leftovers::CHANNELS),
        ] {
            let mut leftovers = Leftovers::default();
            leftovers.note_tag(tag.as_bytes());
            assert_eq!(leftovers, mark, "{tag}");
        }
        let mut leftovers = Leftovers::default();
        for tag in [
            "SELECT 1",
            "INSERT 0 1",
            "UPDATE 3",
            "BEGIN",
            "COMMIT",
            "CREATE TABLE",
        ] {
            leftovers.note_tag(tag.as_bytes());
        }
        assert!(leftovers.is_empty());
        assert!(leftovers.statements(false).is_empty());
        assert_eq!(
            Leftovers::EVERYTHING.statements(true),
            ["ROLLBACK", "DISCARD ALL"]
        );
    }
}
