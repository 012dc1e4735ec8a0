//! What went wrong for clients, counted by kind.
//!
//! Owns: the counts and their one-line form.
//! Does not own: which errors are expected (the checks).
//! Invariants: nothing that is added is dropped from the total; the kinds are few, a flood of
//! different texts is counted under one name.

use std::collections::BTreeMap;

/// The most kinds told apart.
const KINDS_MAX: usize = 20;

/// Counted errors.
#[derive(Debug, Default)]
pub(crate) struct Errors {
    kinds: BTreeMap<String, u64>,
}

impl Errors {
    /// Counts one.
    pub(crate) fn add(&mut self, kind: &str) {
        let is_known = self.kinds.contains_key(kind) || self.kinds.len() < KINDS_MAX;
        let kind = if is_known { kind } else { "others" };
        *self.kinds.entry(kind.to_owned()).or_default() += 1;
    }

    /// Adds those of another count.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (kind, count) in &other.kinds {
            *self.kinds.entry(kind.clone()).or_default() += count;
        }
    }

    /// How many there were.
    pub(crate) fn total(&self) -> u64 {
        self.kinds.values().sum()
    }

    /// How many there were of one kind.
    pub(crate) fn of(&self, kind: &str) -> u64 {
        self.kinds.get(kind).copied().unwrap_or(0)
    }

    /// `3 × closed by the server, …`; `None` without any.
    pub(crate) fn describe(&self) -> Option<String> {
        let kinds = self.kinds.iter();
        let words: Vec<_> = kinds.map(|(kind, n)| format!("{n} × {kind}")).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_kind_and_a_flood_is_bounded() {
        let mut errors = Errors::default();
        assert_eq!(errors.describe(), None);
        for number in 0..100 {
            errors.add(&format!("kind {number}"));
        }
        errors.add("kind 0");
        assert_eq!((errors.total(), errors.of("kind 0")), (101, 2));
        assert_eq!(errors.of("others"), 80);
        let mut sum = Errors::default();
        sum.merge(&errors);
        assert_eq!(sum.total(), 101);
    }
}
