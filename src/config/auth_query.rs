//! Users who are not in the file: asked for at their server.
//!
//! **Owns:** the table `auth_query` of a pool, and the entries that stand for users and databases found
//! by it.
//! **Does not own:** asking (`session::lookup`), keeping who was found (`app::guests`).
//!
//! ```text
//!   [pools.db.auth_query]      ──▶ pool "db (auth_query)", user "asker (auth_query)": asks
//!      with server_user        ──▶ in pool "db": user "service (auth_query)", whose servers all share
//!   found: bob                 ──▶ in pool "db": user "bob"
//!   [pools."*"], asked for "x" ──▶ pool "x", like "*" with server_database x
//! ```
//!
//! **Invariant:** entries made here are marked, and nobody can log in as one that only asks or is shared.

use std::time::Duration;

use super::checked::{Config, PoolConfig, UserConfig};
use super::error::{Fault, KeyPath};
use super::limits::OwnLimits;
use super::schema;
use super::secret::Secret;

/// Behind the names of entries that are not in the file.
pub const SUFFIX: &str = " (auth_query)";
/// The pool whose settings are those of every database that is not in the file.
pub const ANY: &str = "*";
/// Asks for everybody who may log in with a password that has not expired.
const QUERY: &str = "SELECT rolname AS usename, rolpassword AS passwd, \
    rolvaliduntil AS valuntil FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin";

/// `[pools.<name>.auth_query]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthQuery {
    /// With `$1` for the user.
    pub query: String,
    /// Who asks.
    pub user: String,
    /// With this password.
    pub password: Secret,
    /// In this database.
    pub database: String,
    /// So many at a time.
    pub workers: u32,
    /// All users have servers of this user, and share them; none = everybody has one's own.
    pub server_user: Option<String>,
    /// Its password.
    pub server_password: Option<Secret>,
    /// Most server connections, of each user or of all together.
    pub pool_size: u32,
    /// Kept open.
    pub min_pool_size: u32,
    /// An answer is used so long.
    pub cache_ttl: Duration,
    /// That there is nobody is believed so long.
    pub cache_failure_ttl: Duration,
    /// The same is not asked again earlier, whatever happens.
    pub min_interval: Duration,
    /// Most users at the same time.
    pub max_users: usize,
}

/// Where a user comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The file.
    #[default]
    File,
    /// An answer of the server.
    Found,
    /// Nobody: it asks, or has servers that others share.
    Internal,
}

impl AuthQuery {
    /// The rules of this table.
    pub(super) fn check(raw: &schema::AuthQuery, pool: &str) -> Result<(), Fault> {
        let fault = |key: &str, reason: &str| {
            let path = KeyPath::of(&["pools", pool, "auth_query", key]);
            Err(Fault::new(path, reason))
        };
        if raw.user.is_empty() {
            return fault("user", "auth_query needs a user who asks");
        }
        if raw
            .query
            .as_ref()
            .is_some_and(|query| !query.contains("$1"))
        {
            return fault("query", "the query does not ask for $1, the user");
        }
        if pool == ANY && raw.database.is_none() {
            return fault(
                "database",
                "a query for every database needs one to be asked in",
            );
        }
        if raw.server_user.is_none() && raw.server_password.is_some() {
            return fault(
                "server_password",
                "server_password is set but server_user is not",
            );
        }
        if raw.workers == 0 || raw.pool_size == 0 {
            let key = if raw.workers == 0 {
                "workers"
            } else {
                "pool_size"
            };
            return fault(key, "should be greater than 0");
        }
        if raw.min_pool_size > raw.pool_size {
            return fault("min_pool_size", "cannot be larger than pool_size");
        }
        Ok(())
    }

    pub(super) fn build(raw: schema::AuthQuery, server_database: &str) -> Self {
        Self {
            query: raw.query.unwrap_or_else(|| QUERY.to_owned()),
            user: raw.user,
            password: raw.password,
            database: raw.database.unwrap_or_else(|| server_database.to_owned()),
            workers: raw.workers,
            server_user: raw.server_user,
            server_password: raw.server_password,
            pool_size: raw.pool_size,
            min_pool_size: raw.min_pool_size,
            cache_ttl: raw.cache_ttl.duration(),
            cache_failure_ttl: raw.cache_failure_ttl.duration(),
            min_interval: raw.min_interval.duration(),
            max_users: raw.max_users,
        }
    }

    /// The user who asks, in the pool of [`asking_pool`].
    pub fn asker(&self) -> String {
        format!("{}{SUFFIX}", self.user)
    }

    /// The user whose servers all share, in the pool itself.
    pub fn shared(&self) -> Option<String> {
        Some(format!("{}{SUFFIX}", self.server_user.as_ref()?))
    }
}

/// The name of the pool in which is asked.
pub fn asking_pool(pool: &str) -> String {
    format!("{pool}{SUFFIX}")
}

fn user(pool: &PoolConfig, name: String, server: (&str, Option<Secret>), size: u32) -> UserConfig {
    UserConfig {
        username: name,
        password: Secret::new(""),
        pool_size: size,
        min_pool_size: 0,
        pool_mode: pool.pool_mode,
        server_lifetime: None,
        server_username: server.0.to_owned(),
        server_password: server.1,
        server_password_command: None,
        token_keys: None,
        signing_key: None,
        verifier: None,
        auth_pam_service: None,
        origin: Origin::Internal,
        shares: None,
        limits: OwnLimits::default(),
    }
}

/// Adds what the tables `auth_query` need.
pub(super) fn expand(pools: &mut Vec<PoolConfig>) {
    let mut asking = Vec::new();
    for pool in pools.iter_mut() {
        let Some(query) = pool.auth_query.clone() else {
            continue;
        };
        let password = Some(query.password.clone()).filter(|secret| !secret.expose().is_empty());
        let asker = user(pool, query.asker(), (&query.user, password), query.workers);
        asking.push(PoolConfig {
            name: asking_pool(&pool.name),
            server_database: query.database.clone(),
            auth_query: None,
            users: vec![asker],
            ..pool.clone()
        });
        if let (Some(name), Some(server)) = (query.shared(), &query.server_user) {
            let secret = query.server_password.clone();
            let mut shared = user(pool, name, (server, secret), query.pool_size);
            shared.min_pool_size = query.min_pool_size;
            pool.users.insert(0, shared);
        }
    }
    pools.extend(asking);
}

impl Config {
    /// The settings of a database: its own, or those of every database.
    pub fn pool_of(&self, database: &str) -> Option<&PoolConfig> {
        if database == ANY || database.ends_with(SUFFIX) {
            return None;
        }
        let mut pools = self.pools.iter();
        let own = pools.find(|pool| pool.name == database && !pool.is_guest);
        own.or_else(|| self.any())
    }

    /// The settings of every database that is not in the file.
    pub fn any(&self) -> Option<&PoolConfig> {
        self.pools.iter().find(|pool| pool.name == ANY)
    }

    /// Adds a user that was found, or to a database like any other one of the users of those. False
    /// if there are no such settings.
    pub fn admit(&mut self, database: &str, name: &str, stored: Option<&Secret>) -> bool {
        let Some(stored) = stored else {
            return self.admit_to_any(database, name);
        };
        let Some(pool) = self.pools.iter_mut().find(|pool| pool.name == database) else {
            return false;
        };
        let Some(query) = pool.auth_query.clone() else {
            return false;
        };
        let mut found = user(pool, name.to_owned(), (name, None), query.pool_size);
        found.min_pool_size = query.min_pool_size;
        found.password = stored.clone();
        found.origin = Origin::Found;
        found.shares = query.shared();
        pool.users
            .retain(|user| user.username != name || user.origin == Origin::File);
        if pool.users.iter().all(|user| user.username != name) {
            pool.users.push(found);
        }
        true
    }

    fn admit_to_any(&mut self, database: &str, name: &str) -> bool {
        let settings = self.pool_of(database).filter(|pool| pool.name == ANY);
        let Some(settings) = settings else {
            return false;
        };
        let found = settings.users.iter().find(|user| user.username == name);
        let Some(found) = found
            .filter(|user| user.origin != Origin::Internal)
            .cloned()
        else {
            return false;
        };
        if self.pools.iter().all(|pool| pool.name != database) {
            let mut pool = settings.clone();
            database.clone_into(&mut pool.name);
            pool.is_guest = true;
            pool.auth_query = None;
            pool.users.retain(|user| user.origin == Origin::Internal);
            if pool.server_database == ANY {
                database.clone_into(&mut pool.server_database);
            }
            self.pools.push(pool);
        }
        let pool = self.pools.iter_mut().find(|pool| pool.name == database);
        if let Some(pool) = pool {
            pool.users.retain(|user| user.username != name);
            pool.users.push(found);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::config::error::ConfigError;
    use crate::config::load;

    const HEAD: &str = "[general]\nadmin_username = 'a'\nadmin_password = 'b'\n";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        let text = format!("{HEAD}{text}").into_bytes();
        let read = |path: &Path| match path.to_str() {
            Some("x.toml") => Ok(text.clone()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        load::load_with(Path::new("x.toml"), &read).map(|loaded| loaded.config)
    }

    fn names(config: &Config) -> Vec<String> {
        let of = |pool: &PoolConfig| {
            let users: Vec<&str> = pool.users.iter().map(|user| &*user.username).collect();
            format!(
                "{}={}: {}",
                pool.name,
                pool.server_database,
                users.join(", ")
            )
        };
        config.pools.iter().map(of).collect()
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (pool, keys, key) in [
            ("db", "", "user"),
            ("db", "user = 'u'\nquery = 'select 1'", "query"),
            ("\"*\"", "user = 'u'", "database"),
            ("db", "user = 'u'\nserver_password = 'x'", "server_password"),
            ("db", "user = 'u'\nworkers = 0", "workers"),
            ("db", "user = 'u'\npool_size = 0", "pool_size"),
            ("db", "user = 'u'\nmin_pool_size = 41", "min_pool_size"),
        ] {
            let error = parse(&format!("[pools.{pool}.auth_query]\n{keys}")).unwrap_err();
            assert!(
                error.key.ends_with(&format!(".auth_query.{key}")),
                "{error}"
            );
        }
    }

    #[test]
    fn who_asks_and_who_is_shared_have_entries_of_their_own() {
        let config = parse("[pools.db.auth_query]\nuser = 'u'\nserver_user = 's'").unwrap();
        let expected = [
            "db=db: s (auth_query)",
            "db (auth_query)=db: u (auth_query)",
        ];
        assert_eq!(names(&config), expected);
        let users = config.pools.iter().flat_map(|pool| &pool.users);
        assert!(
            users
                .map(|user| user.origin)
                .all(|origin| origin == Origin::Internal)
        );
        assert!(config.pool_of("db (auth_query)").is_none());
    }

    #[test]
    fn guests_are_added_where_they_belong() {
        let mut config = parse(
            "[pools.\"*\"]\n[pools.\"*\".auth_query]\nuser = 'u'\ndatabase = 'd'\n\
             [[pools.\"*\".users]]\nusername = 'fixed'\npassword = ''\npool_size = 1\n\
             [pools.own]\n[[pools.own.users]]\nusername = 'x'\npassword = ''\npool_size = 1\n",
        )
        .unwrap();
        let secret = Secret::new("md58bbf3f45673bf67d02e4214911f3417f");
        assert!(
            !config.admit("own", "bob", Some(&secret)),
            "nobody asks for it"
        );
        assert!(!config.admit("own", "x", None), "it is in the file");
        assert!(!config.admit("new", "bob", None), "not found");
        assert!(config.admit(ANY, "bob", Some(&secret)));
        assert!(config.admit("new", "bob", None));
        assert!(config.admit("new", "fixed", None));
        assert!(
            config.admit(ANY, "fixed", Some(&secret)),
            "the file comes first"
        );
        let expected = [
            "*=*: fixed, bob",
            "own=own: x",
            "* (auth_query)=d: u (auth_query)",
            "new=new: bob, fixed",
        ];
        assert_eq!(names(&config), expected);
        assert_eq!(config.pools[0].users[0].password.expose(), "");
        // The settings of a database that is like any other are those of all.
        assert_eq!(config.pool_of("new").unwrap().name, ANY);
        assert_eq!(config.pool_of("own").unwrap().name, "own");
        assert!(config.pool_of(ANY).is_none());
    }
}
