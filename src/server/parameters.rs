//! Session parameters: what a server reported, what a client asked for, how to close the gap.
//!
//! **Owns:** sets of parameters, their interning, and the text of the statement that turns one
//! session's settings into another's.
//! **Does not own:** when it is sent (`session`), how values are reported (`protocol`).
//!
//! A client's *wanted* set holds only what it asked for (start-up packet, `options`, later `SET`s
//! that the server reported). A server's *applied* set holds what was set on it beyond its own
//! defaults. Both are interned, so clients with equal settings share one set and the usual
//! comparison at checkout is one of two pointers.
//!
//! **Invariants**
//! 1. Names compare without case; values byte by byte.
//! 2. Values never reach a statement unquoted.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Asynchronous Operations";
//! `sql-syntax-lexical.html`, string constants.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::rc::{Rc, Weak};

/// Parameters whose value is a list of quoted names: `SET name TO 'a, b'` would make one name of it.
const NAME_LISTS: [&str; 4] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "temp_tablespaces",
];

/// Parameters that report what the server is. Nobody sets them, so they belong to no client, and they
/// can change by themselves: a standby that is promoted says so.
const REPORTS: [&str; 5] = [
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "server_encoding",
    "server_version",
];

/// True if the parameter only reports what the server is.
pub fn is_report(name: &str) -> bool {
    REPORTS
        .iter()
        .any(|report| name.eq_ignore_ascii_case(report))
}

/// One parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parameter {
    /// The name as it was first seen.
    pub name: Box<str>,
    /// The value.
    pub value: Box<str>,
}

/// A set of parameters, ordered by lower-case name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ParameterSet(Vec<Parameter>);

fn order(left: &str, right: &str) -> std::cmp::Ordering {
    let lower = |name: &str| {
        name.bytes()
            .map(|byte| byte.to_ascii_lowercase())
            .collect::<Vec<_>>()
    };
    lower(left).cmp(&lower(right))
}

impl ParameterSet {
    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0
            .binary_search_by(|parameter| order(&parameter.name, name))
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.position(name)
            .ok()
            .and_then(|at| self.0.get(at))
            .map(|found| &*found.value)
    }

    /// Sets a parameter; an existing one keeps its spelling.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.position(name) {
            Ok(at) => self.0[at].value = value.into(),
            Err(at) => self.0.insert(
                at,
                Parameter {
                    name: name.into(),
                    value: value.into(),
                },
            ),
        }
    }

    /// Removes a parameter.
    pub fn remove(&mut self, name: &str) {
        if let Ok(at) = self.position(name) {
            self.0.remove(at);
        }
    }

    /// All parameters, by lower-case name.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.0.iter()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The sets in use on one shard: equal sets are one allocation.
#[derive(Debug, Default)]
pub struct Interner {
    hasher: RandomState,
    sets: HashMap<u64, Vec<Weak<ParameterSet>>>,
    sweep_at: usize,
}

impl Interner {
    /// The shared form of `set`.
    pub fn intern(&mut self, set: ParameterSet) -> Rc<ParameterSet> {
        if self.sets.len() >= self.sweep_at {
            self.sweep();
        }
        let bucket = self.sets.entry(self.hasher.hash_one(&set)).or_default();
        if let Some(found) = bucket
            .iter()
            .filter_map(Weak::upgrade)
            .find(|found| **found == set)
        {
            return found;
        }
        // A set that comes and goes must not leave a trace each time.
        bucket.retain(|set| set.strong_count() > 0);
        let shared = Rc::new(set);
        bucket.push(Rc::downgrade(&shared));
        shared
    }

    /// Forgets sets that nobody uses.
    fn sweep(&mut self) {
        self.sets.retain(|_, bucket| {
            bucket.retain(|set| set.strong_count() > 0);
            !bucket.is_empty()
        });
        self.sweep_at = (self.sets.len() * 2).max(64);
    }
}

/// True if `name` can be the name of a parameter.
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$'))
}

fn push_quoted(text: &mut String, value: &str) {
    // The escape form reads the same whatever standard_conforming_strings is at the moment.
    text.push_str(if value.contains('\\') { " E'" } else { "'" });
    for character in value.chars() {
        if matches!(character, '\'' | '\\') {
            text.push(character);
        }
        text.push(character);
    }
    text.push('\'');
}

/// The statement that sets one parameter, whose name is a name.
fn push_assignment(text: &mut String, name: &str, value: &str) {
    if NAME_LISTS
        .iter()
        .any(|list| name.eq_ignore_ascii_case(list))
    {
        text.push_str("SELECT pg_catalog.set_config('");
        text.push_str(name);
        text.push_str("',");
        push_quoted(text, value);
        text.push_str(",false);");
    } else {
        text.push_str("SET ");
        text.push_str(name);
        text.push_str(" TO ");
        push_quoted(text, value);
        text.push(';');
    }
}

/// What is to be run before `text`, and appended to it, because `text` is not plain ASCII: values
/// are UTF-8 here, while the session may still have the encoding of the client before, in which
/// even a quote may be the second half of a letter.
pub fn read_as_utf8(
    text: &mut String,
    base: &ParameterSet,
    wanted: &ParameterSet,
) -> Option<&'static str> {
    const NAME: &str = "client_encoding";
    if text.is_ascii() {
        return None;
    }
    let encoding = wanted
        .get(NAME)
        .or_else(|| base.get(NAME))
        .unwrap_or("UTF8");
    push_assignment(text, NAME, encoding);
    Some("SET client_encoding TO 'UTF8'")
}

/// The statement that turns a session with `applied` settings over its defaults `base` into one with
/// `wanted`. `None` if there is nothing to do.
pub fn difference(
    base: &ParameterSet,
    applied: &ParameterSet,
    wanted: &ParameterSet,
) -> Option<String> {
    let mut text = String::new();
    for parameter in applied.iter() {
        if wanted.get(&parameter.name).is_none() && is_name(&parameter.name) {
            text.push_str("RESET ");
            text.push_str(&parameter.name);
            text.push(';');
        }
    }
    for parameter in wanted.iter() {
        let current = applied
            .get(&parameter.name)
            .or_else(|| base.get(&parameter.name));
        if current == Some(&*parameter.value) || !is_name(&parameter.name) {
            continue;
        }
        push_assignment(&mut text, &parameter.name, &parameter.value);
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> ParameterSet {
        let mut set = ParameterSet::default();
        for (name, value) in pairs {
            set.set(name, value);
        }
        set
    }

    #[test]
    fn names_compare_without_case_and_keep_their_spelling() {
        let mut parameters = set(&[("TimeZone", "UTC"), ("DateStyle", "ISO")]);
        parameters.set("timezone", "Europe/Paris");
        assert_eq!(parameters.get("TIMEZONE"), Some("Europe/Paris"));
        let names: Vec<_> = parameters
            .iter()
            .map(|parameter| &*parameter.name)
            .collect();
        assert_eq!(names, ["DateStyle", "TimeZone"]);
    }

    #[test]
    fn equal_sets_are_one_allocation_and_unused_ones_are_forgotten() {
        let mut interner = Interner::default();
        let first = interner.intern(set(&[("a", "1")]));
        let second = interner.intern(set(&[("a", "1")]));
        assert!(Rc::ptr_eq(&first, &second));
        for number in 0..10_000 {
            interner.intern(set(&[("n", &number.to_string())]));
        }
        assert!(
            interner.sets.len() < 200,
            "{} sets kept",
            interner.sets.len()
        );
        assert!(Rc::ptr_eq(&first, &interner.intern(set(&[("a", "1")]))));
    }

    #[test]
    fn the_difference_sets_what_is_wanted_and_resets_what_is_not() {
        let base = set(&[("TimeZone", "UTC"), ("application_name", "pooler")]);
        let applied = set(&[("application_name", "one"), ("work_mem", "1MB")]);
        let wanted = set(&[("application_name", "two"), ("timezone", "UTC")]);
        assert_eq!(
            difference(&base, &applied, &wanted).as_deref(),
            Some("RESET work_mem;SET application_name TO 'two';")
        );
        assert_eq!(difference(&base, &wanted, &wanted), None);
        assert_eq!(
            difference(&base, &set(&[]), &set(&[("TimeZone", "UTC")])),
            None
        );
    }

    #[test]
    fn values_are_quoted_and_name_lists_stay_lists() {
        let nothing = ParameterSet::default();
        let wanted = set(&[
            ("application_name", "o'x\\'; DROP"),
            ("search_path", "a, \"B\""),
        ]);
        assert_eq!(
            difference(&nothing, &nothing, &wanted).as_deref(),
            Some(concat!(
                "SET application_name TO  E'o''x\\\\''; DROP';",
                "SELECT pg_catalog.set_config('search_path','a, \"B\"',false);"
            ))
        );
        let hostile = set(&[("x TO 1; DROP TABLE t; --", "y")]);
        assert_eq!(difference(&nothing, &nothing, &hostile), None);
    }

    #[test]
    fn a_set_that_comes_and_goes_leaves_no_trace() {
        let mut interner = Interner::default();
        for _ in 0..1000 {
            drop(interner.intern(set(&[("application_name", "now and then")])));
        }
        let kept: usize = interner.sets.values().map(Vec::len).sum();
        assert_eq!(kept, 1);
    }
}
