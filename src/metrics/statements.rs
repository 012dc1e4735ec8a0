//! What shards tell of the prepared statements that their clients have.
//!
//! **Owns:** the account of one statement, and adding up the accounts of several shards.
//! **Does not own:** the statements (`server::statements`), asking the shards (`session::survey`),
//! showing it (the console).
//!
//! **Invariant:** an account is small whatever the statement is: of a long text it has the start.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Bytes of a text that are told.
pub const TEXT_BYTES_MAX: usize = 1000;

/// One statement of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementAccount {
    /// User and database of the pool, as `user@database`.
    pub pool: Box<str>,
    /// The key in its name on servers.
    pub key: u128,
    /// Its name on servers.
    pub name: Box<str>,
    /// Its text, or the start of it.
    pub text: Box<str>,
    /// How often clients of the pool have run it.
    pub uses: u64,
    /// How many names clients have for it, of whatever pool.
    pub names: u64,
    /// How many idle servers of the pool have it.
    pub idle_servers: u64,
    /// How many shards know it.
    pub shards: u64,
}

/// What is told of a text. Bytes that are no UTF-8 are replaced.
pub fn shorten(text: &[u8]) -> Box<str> {
    let start = text.get(..TEXT_BYTES_MAX).unwrap_or(text);
    let mut told = String::from_utf8_lossy(start).into_owned();
    if start.len() < text.len() {
        // The cut may have gone through a letter.
        while told.ends_with(char::REPLACEMENT_CHARACTER) {
            told.pop();
        }
        told.push('…');
    }
    told.into()
}

/// One account a pool and statement, the most used first.
pub fn add_up(accounts: impl IntoIterator<Item = StatementAccount>) -> Vec<StatementAccount> {
    let mut sums: HashMap<(Box<str>, u128), StatementAccount> = HashMap::new();
    for account in accounts {
        match sums.entry((account.pool.clone(), account.key)) {
            Entry::Vacant(place) => drop(place.insert(account)),
            Entry::Occupied(mut place) => {
                let sum = place.get_mut();
                sum.uses += account.uses;
                sum.names += account.names;
                sum.idle_servers += account.idle_servers;
                sum.shards += account.shards;
            }
        }
    }
    let mut sums: Vec<_> = sums.into_values().collect();
    sums.sort_unstable_by(|one, other| {
        let names = |account: &StatementAccount| (account.pool.clone(), account.key);
        let by_uses = other.uses.cmp(&one.uses);
        by_uses.then_with(|| names(one).cmp(&names(other)))
    });
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(pool: &str, key: u128, uses: u64) -> StatementAccount {
        StatementAccount {
            pool: pool.into(),
            key,
            name: "PGD_".into(),
            text: "select 1".into(),
            uses,
            names: 1,
            idle_servers: 2,
            shards: 1,
        }
    }

    #[test]
    fn accounts_of_one_pool_and_statement_are_added_up() {
        let all = [
            account("a@x", 1, 3),
            account("b@x", 1, 9),
            account("a@x", 1, 4),
            account("a@x", 2, 7),
        ];
        let sums = add_up(all);
        let found: Vec<_> = sums
            .iter()
            .map(|one| {
                (
                    &*one.pool,
                    one.key,
                    one.uses,
                    one.names,
                    one.idle_servers,
                    one.shards,
                )
            })
            .collect();
        let expected = [
            ("b@x", 1, 9, 1, 2, 1),
            ("a@x", 1, 7, 2, 4, 2),
            ("a@x", 2, 7, 1, 2, 1),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn long_texts_are_cut_between_letters() {
        assert_eq!(&*shorten(b"select 1"), "select 1");
        assert_eq!(&*shorten(b"select '\xff'"), "select '\u{fffd}'");
        let long = "ž".repeat(TEXT_BYTES_MAX);
        let told = shorten(format!("x{long}").as_bytes());
        assert!(told.ends_with("ž…") && told.len() <= TEXT_BYTES_MAX + 3);
        let told = shorten(long.as_bytes());
        assert!(told.ends_with("ž…"));
    }
}
