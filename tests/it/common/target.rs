//! What a test talks to: PostgreSQL itself or the pooler in front of it.
//!
//! Owns: the choice. Invariants: a body that passes `directly` describes PostgreSQL's own
//! behaviour, so the pooler has to show the same.

use super::client::Client;
use super::doorman::{Config, Doorman, User};
use super::login::Login;
use super::postgres::{Postgres, UTF8_USER};

/// PostgreSQL, or a pooler with two servers a shard for each of its users.
#[derive(Debug)]
pub(crate) struct Target {
    doorman: Option<Doorman>,
}

impl Target {
    /// PostgreSQL itself.
    pub(crate) fn direct() -> Self {
        Postgres::shared();
        Self { doorman: None }
    }

    /// A pooler in transaction mode.
    pub(crate) fn pooled(shards: usize) -> Self {
        let port = Postgres::shared().port();
        let users = ["app", UTF8_USER].map(|name| User::new(name, 2 * shards));
        let config = Config::new(Postgres::shared())
            .shards(shards)
            .users(users.into());
        let doorman = config
            .pool("app", port, vec![User::new("app", 2 * shards)])
            .start();
        Self {
            doorman: Some(doorman),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.doorman
            .as_ref()
            .map_or_else(|| Postgres::shared().port(), Doorman::port)
    }

    /// Whether a pooler is between.
    pub(crate) fn is_pooled(&self) -> bool {
        self.doorman.is_some()
    }

    /// A login of user `app` to database `it`.
    pub(crate) fn login(&self) -> Login {
        Login::new(self.port())
    }

    pub(crate) fn connect(&self) -> Client {
        self.login().connect()
    }

    /// Fails the test unless a new client is served.
    pub(crate) fn assert_serves(&self) {
        assert_eq!(self.connect().value("select 42"), "42");
    }
}
