//! Users and databases that are not in the file, and that shards have found.
//!
//! **Owns:** the list of them; the configuration that shards get is the file's with these added.
//! **Does not own:** finding them (`session::lookup`), what an entry looks like (`config::auth_query`).
//! **Invariants:** the list is bounded; who has not been used for as long as an answer is believed is
//! struck off. All shards learn of all changes in the same order, as of reloads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::config::auth_query::ANY;
use crate::config::{Config, Secret};
use crate::metrics::Fleet;
use crate::metrics::pool::read_all;
use crate::server::chores::Guest;

use super::succession::word::Guest as Told;

/// Databases that are not in the file, and their users, if nothing else limits them.
const DATABASES_MAX: usize = 1000;

/// Database and user.
type Name = (String, String);

#[derive(Debug)]
struct Entry {
    /// What the user proves; none if it is the same as for every database.
    stored: Option<Secret>,
    /// When it was asked for last.
    used: Instant,
}

/// The list.
#[derive(Debug, Default)]
pub struct Guests(BTreeMap<Name, Entry>);

impl Guests {
    /// Takes a change.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub fn take(&mut self, guest: Guest, config: &Config) -> Result<(), String> {
        let Guest {
            database,
            user,
            stored,
            is_gone,
        } = guest;
        let name = (database, user);
        if is_gone {
            self.0.remove(&name);
            return Ok(());
        }
        let settings = config.pool_of(&name.0).or_else(|| config.any());
        let query = settings.and_then(|pool| pool.auth_query.as_ref());
        let max = query.map_or(DATABASES_MAX, |query| query.max_users);
        let count = self.0.keys().filter(|known| known.0 == name.0).count();
        let databases = self.0.len();
        if !self.0.contains_key(&name) && (count >= max || databases >= max.max(DATABASES_MAX)) {
            return Err(format!("more than {max} users that are not in the file"));
        }
        let used = Instant::now();
        self.0.insert(name, Entry { stored, used });
        Ok(())
    }

    /// All of them, for another process.
    pub fn list(&self) -> Vec<Told> {
        let all = self.0.iter();
        all.map(|((database, user), entry)| Told {
            database: database.clone(),
            user: user.clone(),
            stored: entry
                .stored
                .as_ref()
                .map(|stored| stored.expose().to_owned()),
        })
        .collect()
    }

    /// The configuration with all guests. Who has lost its settings is struck off.
    pub fn over(&mut self, base: &Arc<Config>) -> Arc<Config> {
        if self.0.is_empty() {
            return Arc::clone(base);
        }
        let mut config = (**base).clone();
        // Those of every database come first, since `*` sorts before letters; a database that sorts
        // before it waits for the second round.
        for is_any in [true, false] {
            self.0.retain(|(database, user), entry| {
                (database == ANY) != is_any || config.admit(database, user, entry.stored.as_ref())
            });
        }
        Arc::new(config)
    }

    /// Strikes off who has no clients and whose answer is too old. True if there was somebody.
    pub fn tidy(&mut self, config: &Config, fleet: &Fleet) -> bool {
        let readings = read_all(fleet);
        let in_use: std::collections::BTreeSet<(&str, &str)> = readings
            .iter()
            .filter(|(_, reading)| reading.clients > 0)
            .map(|((database, user), _)| (&**database, &**user))
            .collect();
        let before = self.0.len();
        let now = Instant::now();
        self.0.retain(|(database, user), entry| {
            if in_use.contains(&(database.as_str(), user.as_str())) {
                entry.used = now;
            }
            let settings = config.pool_of(database).or_else(|| config.any());
            let query = settings.and_then(|pool| pool.auth_query.as_ref());
            let limit = query.map_or(UNUSED, |query| query.cache_ttl);
            now.saturating_duration_since(entry.used) < limit
        });
        self.0.len() < before
    }
}

/// How long a database is kept that nobody uses, if nothing else says so.
const UNUSED: std::time::Duration = std::time::Duration::from_secs(3600);
