//! What running a text may do to the meaning of other texts.
//!
//! **Owns:** the kinds of such effects, and how they are told from a text or from a command tag.
//! **Does not own:** what follows from them (`trust`), what is to be removed (`server::reset`).
//!
//! A text means what PostgreSQL makes of it when it is parsed: which tables its names stand for, which
//! types its parameters have, how its literals are read. Three things change that: commands that
//! change objects, temporary objects, and settings such as `search_path` and `TimeZone`.
//!
//! Texts are read by their first words, and those behind each semicolon, wherever that stands: a word
//! that is none costs a doubt until the answer, a word that is overlooked would cost the truth. That
//! an object has changed is told by the command tag.
//!
//! **Invariant:** what is not known to be harmless has a power.
//!
//! Source: PostgreSQL documentation, `sql-commands.html`, `runtime-config-client.html`,
//! `protocol-flow.html`, "Asynchronous Operations" (parameters that are reported),
//! `sql-syntax-lexical.html` (comments).

use memchr::memmem::Finder;

use crate::server::reset::Leftovers;

/// What running a text may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Power(u8);

impl Power {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Nobody knows before it is answered.
    pub const DOUBT: Self = Self(1);
    /// It may make an object without a tag that tells (`CREATE TABLE AS`).
    pub const CREATES: Self = Self(1 << 1);
    /// It is one command, and makes a temporary object, whose tag does not tell that.
    pub const CREATES_TEMPORARY: Self = Self(1 << 2);
    /// It changes a setting that PostgreSQL reports.
    pub const BENDS: Self = Self(1 << 3);
    /// It makes a temporary object, or changes a setting that PostgreSQL does not report.
    pub const HIDES: Self = Self(1 << 4);
    /// It ends a transaction or a part of one: settings and temporary objects may go with it.
    pub const ENDS: Self = Self(1 << 5);
    /// A text that is too long to look into.
    pub const UNSEEN: Self = Self(Self::DOUBT.0 | Self::CREATES.0 | Self::HIDES.0);

    /// True if it has none.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// True if it has all of `other`.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The power of a text that is one command, as those of the extended protocol are. `leftovers` are
    /// those of the text ([`Leftovers::of_text`]).
    pub fn of_command(text: &[u8], leftovers: Leftovers) -> Self {
        let mut power = of_piece(text);
        if leftovers.contains(Leftovers::TEMPORARY) {
            power = power.and(Self::HIDES);
        }
        if leftovers.contains(Leftovers::SETTINGS) {
            power = power.and(of_set_config(text));
        }
        power
    }

    /// As [`Power::of_command`], for the text of a simple query. It may end with a zero byte.
    pub fn of_query(text: &[u8], leftovers: Leftovers) -> Self {
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        let mut power = Self::of_command(text, leftovers);
        let mut start = 0;
        let mut is_certain = true;
        for at in memchr::memchr_iter(b';', text) {
            let (piece, rest) = text.split_at(at);
            is_certain &= !may_hide_a_semicolon(piece.get(start..).unwrap_or_default());
            start = at;
            let mut next = of_piece(rest.get(1..).unwrap_or_default());
            if next.has(Self::CREATES_TEMPORARY) && (!is_certain || power.has(next)) {
                // Perhaps a part of a literal: its tag is taken for that of a lasting object.
                next = Self::CREATES.and(Self::HIDES);
            }
            power = power.and(next);
        }
        power
    }
}

/// True if a semicolon behind `text` may be a part of a literal, a name or a comment.
pub(super) fn may_hide_a_semicolon(text: &[u8]) -> bool {
    let is_quote = |byte: &u8| matches!(byte, b'\'' | b'"' | b'$' | b'-' | b'*');
    text.iter().any(is_quote)
}

/// True if a command with this tag has changed objects.
pub fn changes_objects(tag: &[u8]) -> bool {
    let (first, rest) = word(tag);
    match first {
        b"CREATE" | b"ALTER" | b"DROP" => !is_harmless_object(rest),
        b"DO" | b"IMPORT" | b"GRANT" | b"REVOKE" => true,
        b"COMMIT" => rest == b"PREPARED",
        _ => false,
    }
}

/// True for the tag of a command that may have made a temporary object.
pub fn may_be_temporary(tag: &[u8]) -> bool {
    matches!(
        tag,
        b"CREATE TABLE" | b"CREATE TABLE AS" | b"CREATE VIEW" | b"CREATE SEQUENCE"
    ) || tag.starts_with(b"SELECT ")
}

/// Objects that no text means, as tags name them behind CREATE, ALTER or DROP.
fn is_harmless_object(rest: &[u8]) -> bool {
    const WORDS: [&str; 14] = [
        "access", // METHOD
        "database",
        "default", // PRIVILEGES
        "event",   // TRIGGER
        "index",
        "policy",
        "publication",
        "role",
        "statistics",
        "subscription",
        "system",
        "tablespace",
        "trigger",
        "user", // MAPPING
    ];
    is_one_of(word(rest).0, &WORDS)
}

/// The power of the command at the start of `text`.
fn of_piece(text: &[u8]) -> Power {
    // The most frequent first.
    const HARMLESS: [&str; 35] = [
        "select",
        "insert",
        "update",
        "delete",
        "begin",
        "with",
        "savepoint",
        "release",
        "analyse",
        "analyze",
        "call",
        "checkpoint",
        "close",
        "cluster",
        "comment",
        "copy",
        "deallocate",
        "declare",
        "execute",
        "explain",
        "fetch",
        "listen",
        "lock",
        "merge",
        "move",
        "notify",
        "refresh",
        "reindex",
        "show",
        "start",
        "table",
        "truncate",
        "unlisten",
        "vacuum",
        "values",
    ];
    let Some(text) = skip_comments(text) else {
        return Power::DOUBT;
    };
    if matches!(text.first(), None | Some(b';' | b'(')) {
        return Power::NONE;
    }
    let (first, rest) = word(text);
    if is_one_of(first, &HARMLESS) {
        return Power::NONE;
    }
    let first = first.to_ascii_lowercase();
    match &first[..] {
        b"commit" | b"rollback" if is(word(rest).0, "prepared") => Power::DOUBT,
        b"commit" | b"end" | b"rollback" | b"abort" => Power::ENDS,
        b"prepare" if is(word(rest).0, "transaction") => Power::ENDS,
        b"prepare" => Power::NONE,
        b"set" => of_setting(rest),
        b"reset" => of_name(rest),
        b"discard" if is_one_of(word(rest).0, &["plans", "sequences"]) => Power::NONE,
        b"discard" => Power::BENDS.and(Power::HIDES),
        b"create" => of_create(rest),
        _ => Power::DOUBT,
    }
}

fn of_create(rest: &[u8]) -> Power {
    let (second, behind) = word(rest);
    let (second, behind) = if is(second, "or") {
        word(word(behind).1)
    } else {
        (second, behind)
    };
    let (second, _) = if is_one_of(second, &["local", "global"]) {
        word(behind)
    } else {
        (second, behind)
    };
    if is_one_of(second, &["temp", "temporary"]) {
        return Power::CREATES_TEMPORARY.and(Power::HIDES);
    }
    Power::DOUBT.and(Power::CREATES)
}

/// What is behind SET.
fn of_setting(rest: &[u8]) -> Power {
    let (first, behind) = word(rest);
    if is_one_of(first, &["local", "session"]) && !is_value(behind) {
        return of_name(behind);
    }
    of_name(rest)
}

/// True if what was taken for a keyword is the name of a setting.
fn is_value(text: &[u8]) -> bool {
    text.first() == Some(&b'=') || is(word(text).0, "to")
}

/// A setting by its name, or by the words that stand for it.
fn of_name(text: &[u8]) -> Power {
    let Some(text) = skip_comments(text) else {
        return Power::BENDS.and(Power::HIDES);
    };
    let is_name =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$' | 0x80..);
    let end = text.iter().position(|byte| !is_name(byte));
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    let second = word(rest.trim_ascii_start()).0;
    if is(name, "time") && is(second, "zone") {
        return Power::BENDS;
    }
    if is(name, "transaction") || is(name, "constraints") || is(name, "characteristics") {
        return Power::NONE;
    }
    of_parameter(name)
}

/// A setting by its name.
fn of_parameter(name: &[u8]) -> Power {
    const REPORTED: [&str; 6] = [
        "client_encoding",
        "datestyle",
        "intervalstyle",
        "names",
        "standard_conforming_strings",
        "timezone",
    ];
    const HARMLESS: [&str; 34] = [
        "application_name",
        "bytea_output",
        "client_min_messages",
        "commit_delay",
        "constraint_exclusion",
        "cursor_tuple_fraction",
        "deadlock_timeout",
        "default_transaction_deferrable",
        "default_transaction_isolation",
        "default_transaction_read_only",
        "effective_cache_size",
        "effective_io_concurrency",
        "extra_float_digits",
        "from_collapse_limit",
        "hash_mem_multiplier",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "jit",
        "join_collapse_limit",
        "lc_messages",
        "lock_timeout",
        "maintenance_work_mem",
        "max_parallel_workers",
        "max_parallel_workers_per_gather",
        "plan_cache_mode",
        "random_page_cost",
        "seq_page_cost",
        "statement_timeout",
        "synchronous_commit",
        "temp_buffers",
        "transaction_isolation",
        "transaction_read_only",
        "transaction_timeout",
        "work_mem",
    ];
    // A name with a dot is an extension's or the application's own.
    let is_own = name.contains(&b'.');
    let is_family = ["enable_", "log_", "track_", "tcp_", "vacuum_", "geqo"]
        .iter()
        .any(|prefix| {
            name.get(..prefix.len())
                .is_some_and(|start| is(start, prefix))
        });
    if is_own || is_family || is_one_of(name, &HARMLESS) {
        Power::NONE
    } else if is_one_of(name, &REPORTED) {
        Power::BENDS
    } else if is(name, "all") {
        Power::BENDS.and(Power::HIDES)
    } else {
        Power::HIDES
    }
}

/// A text that calls `set_config`, perhaps more than once.
fn of_set_config(text: &[u8]) -> Power {
    const CALL: &[u8] = b"set_config";
    let text = text.to_ascii_lowercase();
    let mut power = Power::NONE;
    for at in Finder::new(CALL).find_iter(&text) {
        let rest = text.get(at + CALL.len()..).unwrap_or_default();
        let name = rest
            .trim_ascii_start()
            .strip_prefix(b"(")
            .and_then(|rest| rest.trim_ascii_start().strip_prefix(b"'"))
            .and_then(|rest| rest.get(..memchr::memchr(b'\'', rest)?));
        power = power.and(match name {
            Some(name) => of_parameter(name),
            // A parameter of the statement, or an expression.
            None => Power::BENDS.and(Power::HIDES),
        });
    }
    power
}

/// What is behind the blanks and comments at the start; `None` if a comment does not end.
pub(super) fn skip_comments(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text.trim_ascii_start();
    loop {
        if rest.starts_with(b"--") {
            let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            rest = rest.get(end..)?.trim_ascii_start();
        } else if rest.starts_with(b"/*") {
            let mut depth = 0_usize;
            let mut at = 0;
            loop {
                match rest.get(at..at + 2)? {
                    b"/*" => (depth, at) = (depth + 1, at + 2),
                    b"*/" => (depth, at) = (depth - 1, at + 2),
                    _ => at += 1,
                }
                if depth == 0 {
                    break;
                }
            }
            rest = rest.get(at..)?.trim_ascii_start();
        } else {
            return Some(rest);
        }
    }
}

/// The letters at the start, and what follows the blanks and comments behind them.
pub(super) fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_alphabetic());
    let (word, rest) = text.split_at(end.unwrap_or(text.len()));
    (word, skip_comments(rest).unwrap_or_default())
}

/// True if `text` is this word, in any case.
pub(super) const fn is(text: &[u8], word: &str) -> bool {
    text.eq_ignore_ascii_case(word.as_bytes())
}

/// True if `text` is one of these words, in any case.
pub(super) fn is_one_of(text: &[u8], words: &[&str]) -> bool {
    words.iter().any(|word| is(text, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Power {
        let text = text.as_bytes();
        Power::of_query(text, Leftovers::of_text(text))
    }

    #[test]
    fn what_changes_no_meaning_has_no_power() {
        for text in [
            "select 1",
            "",
            " ; ; ",
            "/* a:b /* c */ */ SELECT 1 -- x",
            "-- x\n insert into t values (1);",
            "(select 1)",
            "begin; update t set a = 1; release x\0",
            "set local statement_timeout = 5",
            "SET SESSION work_mem TO '1MB'",
            "set local app.user = '1'",
            "set enable_seqscan = off",
            "set transaction isolation level serializable",
            "set session characteristics as transaction read only",
            "select set_config('app.user', $1, true), Set_Config ( 'jit', 'off', true)",
            "create_me()",
            "prepare x as select 1",
            "discard plans",
        ] {
            let wanted = if text == "create_me()" {
                Power::DOUBT.and(Power::CREATES)
            } else {
                Power::NONE
            };
            assert_eq!(query(text), wanted, "{text}");
        }
    }

    #[test]
    fn settings_are_told_apart_by_whether_they_are_reported() {
        for text in [
            "set timezone = 'UTC'",
            "SET TIME ZONE 'UTC'",
            "set local DateStyle to german",
            "begin; set local timezone='Asia/Tokyo'",
            "set /* */ names 'latin1'",
            "reset timezone",
            "select set_config('TimeZone', 'UTC', true)",
        ] {
            assert_eq!(query(text), Power::BENDS, "{text}");
        }
        for text in [
            "set search_path = a",
            "set local search_path = 'statement_timeout'",
            "set local role x",
            "set session authorization x",
            "set local = 1",
            "set \"search_path\" = a",
            "set array_nulls = off",
            "reset role",
            "select pg_catalog.set_config('search_path', $1, true)",
            "create temp table t (a int)",
            "create or replace local temporary view v as select 1",
            "with x as (select 1) select * into temp t from x",
        ] {
            assert!(query(text).has(Power::HIDES), "{text}");
        }
        for text in [
            "reset all",
            "discard all",
            "select set_config($1, $2, true)",
        ] {
            assert!(query(text).has(Power::BENDS.and(Power::HIDES)), "{text}");
        }
    }

    #[test]
    fn ends_and_changes_of_objects_are_found_behind_semicolons_and_comments() {
        for text in ["commit", "rollback to x", "END;", "select 1; abort"] {
            assert_eq!(query(text), Power::ENDS, "{text}");
        }
        for text in [
            "alter table t add a int",
            "begin;/* x */drop table t",
            "do $$ begin end $$",
            "commit prepared 'x'",
            "/* no end",
            "whatever",
        ] {
            assert!(query(text).has(Power::DOUBT), "{text}");
        }
        assert!(query("create table t as select 1").has(Power::CREATES));
        assert!(query("create temp table t as select 1").has(Power::CREATES_TEMPORARY));
        assert!(query("begin; create temp table t ()").has(Power::CREATES_TEMPORARY));
        let second = query("select '1; create temp table t as select 1'");
        assert!(second.has(Power::CREATES) && !second.has(Power::CREATES_TEMPORARY));
        let literal = b"select ';drop table t'";
        let none = Leftovers::default();
        assert_eq!(Power::of_command(literal, none), Power::NONE);
    }

    #[test]
    fn tags_tell_what_has_changed() {
        for tag in [
            "ALTER TABLE",
            "CREATE FUNCTION",
            "CREATE TABLE AS",
            "DROP TYPE",
            "DO",
            "COMMIT PREPARED",
            "DROP SCHEMA",
        ] {
            assert!(changes_objects(tag.as_bytes()), "{tag}");
        }
        for tag in [
            "SELECT 5",
            "COMMIT",
            "CREATE INDEX",
            "CREATE ROLE",
            "INSERT 0 1",
            "TRUNCATE TABLE",
        ] {
            assert!(!changes_objects(tag.as_bytes()), "{tag}");
        }
    }
}
