//! How long clients may take and how many of them and of their servers there may be.
//!
//! **Owns:** the limits that a database or a user may have for itself, and which value counts.
//! **Does not own:** the names of the keys (`schema`), what happens at a limit (`session`, `pool`).
//! **Invariant:** what is said of a user goes before what is said of its database, and that before
//! `[general]`. Zero is a value: no limit.

use std::time::Duration;

use super::checked::{Config, PoolConfig, UserConfig};
use super::units::ConfigDuration;

/// The limits of one pool, or those of `[general]`. Zero = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Time that a client may be silent outside of a transaction.
    pub client_idle_timeout: Duration,
    /// Time that a client may be silent in a transaction.
    pub idle_transaction_timeout: Duration,
    /// Time that a transaction may take.
    pub transaction_timeout: Duration,
    /// Time that a query may take.
    pub query_timeout: Duration,
    /// Time that one long row may take on its way to a client; the same for all.
    pub proxy_copy_data_timeout: Duration,
    /// Server connections of one database, all its users together.
    pub max_db_connections: usize,
    /// Server connections beyond `pool_size` for clients that wait long.
    pub reserve_pool_size: usize,
    /// How long is long. Zero = there is no reserve.
    pub reserve_pool_timeout: Duration,
    /// Clients of one database.
    pub max_db_client_connections: usize,
    /// Clients of one user, in all databases.
    pub max_user_client_connections: usize,
}

/// What a database or a user has for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in `Limits`")]
pub struct OwnLimits {
    pub client_idle_timeout: Option<Duration>,
    pub idle_transaction_timeout: Option<Duration>,
    pub transaction_timeout: Option<Duration>,
    pub query_timeout: Option<Duration>,
    pub max_db_connections: Option<usize>,
    pub reserve_pool_size: Option<usize>,
    pub reserve_pool_timeout: Option<Duration>,
    pub max_db_client_connections: Option<usize>,
    pub max_user_client_connections: Option<usize>,
}

impl Limits {
    /// These, but for what `own` says.
    const fn with(mut self, own: &OwnLimits) -> Self {
        macro_rules! take {
            ($($key:ident)*) => {
                $(if let Some(value) = own.$key {
                    self.$key = value;
                })*
            };
        }
        take! {
            client_idle_timeout idle_transaction_timeout transaction_timeout query_timeout
            max_db_connections reserve_pool_size reserve_pool_timeout
            max_db_client_connections max_user_client_connections
        }
        self
    }

    /// Server connections beyond `pool_size`.
    pub const fn reserve(&self) -> usize {
        if self.reserve_pool_timeout.is_zero() {
            0
        } else {
            self.reserve_pool_size
        }
    }
}

impl Config {
    /// The limits of a user of a database.
    pub const fn limits_of(&self, pool: &PoolConfig, user: &UserConfig) -> Limits {
        self.general.limits.with(&pool.limits).with(&user.limits)
    }
}

/// A time that may be missing.
pub(super) fn time(written: Option<ConfigDuration>) -> Option<Duration> {
    written.map(ConfigDuration::duration)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::load::load_with;

    #[test]
    fn the_nearest_value_counts_and_zero_is_one() {
        let text = "[general]\nadmin_username = 'a'\nadmin_password = 'b'\n\
            query_timeout = '3s'\ntransaction_timeout = '4s'\nmax_db_connections = 7\n\
            [pools.db]\nquery_timeout = 0\ntransaction_timeout = '5s'\nreserve_pool_size = 2\n\
            [[pools.db.users]]\nusername = 'u'\npassword = ''\npool_size = 1\n\
            transaction_timeout = '6s'\nreserve_pool_size = 0\nmax_user_client_connections = 9\n";
        let loaded = load_with(Path::new("x.toml"), &|_| Ok(text.as_bytes().to_vec()));
        let config = loaded.unwrap().config;
        let pool = &config.pools[0];
        let expected = Limits {
            query_timeout: Duration::ZERO,
            transaction_timeout: Duration::from_secs(6),
            proxy_copy_data_timeout: Duration::from_secs(15),
            max_db_connections: 7,
            max_user_client_connections: 9,
            reserve_pool_timeout: Duration::from_secs(5),
            ..Limits::default()
        };
        assert_eq!(config.limits_of(pool, &pool.users[0]), expected);
        assert_eq!(expected.reserve(), 0);
    }
}
