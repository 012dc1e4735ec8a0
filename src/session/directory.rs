//! Who may use which pool: the configuration as one shard sees it.
//!
//! **Owns:** the map from (database, user) to a pool and a stored password, and its change by a
//! reload.
//! **Does not own:** reading files (`config`), the pools' servers (`pool`).
//!
//! **Invariants**
//! 1. A directory never changes; a reload makes a new one, which takes over the pools whose own settings
//!    are the same.
//! 2. A change in `[general]` alone rebuilds no pool.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::auth::StoredPassword;
use crate::config::limits::OwnLimits;
use crate::config::{Config, Limits, PoolConfig, UserConfig};
use crate::pool::{Habits, Host, Pool, PoolKey, Settings, Sizes};
use crate::server::handshake::Credentials;
use crate::server::{Login, Security, Socket, TcpOptions};

use super::local;
use super::slow;

/// A user of a pool.
pub struct Tenant {
    /// What the user must prove.
    pub stored: StoredPassword,
    /// The user's servers on this shard.
    pub pool: Rc<Pool>,
    /// What its clients and servers are limited to.
    pub limits: Limits,
    made_of: (PoolConfig, UserConfig),
}

impl Tenant {
    /// True if PAM is to decide about the user, whatever else is stored.
    pub const fn is_for_pam(&self) -> bool {
        self.made_of.1.auth_pam_service.is_some()
    }
}

/// All pools of a shard, and the general settings.
pub struct Directory {
    /// The configuration.
    pub config: Arc<Config>,
    /// The message that is answered without a server.
    pub check_query: Box<[u8]>,
    /// Queries that take at least so many microseconds are logged.
    pub slow_us: u64,
    tenants: HashMap<String, HashMap<String, Rc<Tenant>>>,
}

fn slow_us(config: &Config) -> u64 {
    let limit = config.general.log_min_duration;
    if limit.is_zero() {
        return slow::NEVER;
    }
    u64::try_from(limit.as_micros()).unwrap_or(slow::NEVER)
}

impl Directory {
    /// The directory of a shard. Pools of `before` whose settings have not changed, apart from their
    /// sizes, are taken over with their servers; the others of `before` are closed.
    pub fn new(config: Arc<Config>, host: &Rc<Host>, before: Option<&Self>) -> Self {
        let mut tenants: HashMap<String, HashMap<String, Rc<Tenant>>> = HashMap::new();
        for pool in &config.pools {
            let users = tenants.entry(pool.name.clone()).or_default();
            for user in &pool.users {
                let tenant = before
                    .and_then(|before| before.take_over(pool, user, &config, host))
                    .unwrap_or_else(|| {
                        let tenant = new_tenant(&config, pool, user, host);
                        before.inspect(|before| before.leave_base_to(&tenant));
                        tenant
                    });
                users.insert(user.username.clone(), tenant);
            }
        }
        let directory = Self {
            check_query: local::check_query(&config.general),
            slow_us: slow_us(&config),
            config,
            tenants,
        };
        if let Some(before) = before {
            for tenant in before.tenants() {
                let key = &tenant.pool.key;
                let now = directory.tenant(&key.database, &key.user);
                if !now.is_some_and(|now| Rc::ptr_eq(&now.pool, &tenant.pool)) {
                    tenant.pool.retire_for_good(now.is_some());
                }
            }
        }
        directory
    }

    /// The user `user` of database `database`.
    pub fn tenant(&self, database: &str, user: &str) -> Option<&Rc<Tenant>> {
        self.tenants.get(database)?.get(user)
    }

    /// All users of all databases.
    pub fn tenants(&self) -> impl Iterator<Item = &Rc<Tenant>> {
        self.tenants.values().flat_map(HashMap::values)
    }

    /// All pools.
    pub fn pools(&self) -> impl Iterator<Item = &Rc<Pool>> {
        self.tenants().map(|tenant| &tenant.pool)
    }

    /// True if there is such a database.
    pub fn has_database(&self, database: &str) -> bool {
        self.tenants.contains_key(database)
    }

    /// Lets clients log in to a new pool before it has a server: until then, and during a pause, they are
    /// told what servers of the pool have reported that it replaces, if those are of the same database.
    fn leave_base_to(&self, tenant: &Tenant) {
        let key = &tenant.pool.key;
        let Some(before) = self.tenant(&key.database, &key.user) else {
            return;
        };
        let login = |tenant: &Tenant| {
            let login = &tenant.pool.settings.login;
            (login.database.clone(), login.credentials.user.clone())
        };
        if login(before) == login(tenant) {
            tenant.pool.base.inherit(&before.pool.base);
        }
    }

    /// The tenant that can stay as it is, or with another size.
    fn take_over(
        &self,
        pool: &PoolConfig,
        user: &UserConfig,
        config: &Config,
        host: &Rc<Host>,
    ) -> Option<Rc<Tenant>> {
        let tenant = self.tenant(&pool.name, &user.username)?;
        let (old_pool, old_user) = &tenant.made_of;
        let same = *old_pool == alone(pool) && unsized_user(old_user) == unsized_user(user);
        if !same {
            return None;
        }
        tenant.pool.adopt(&settings(config, pool, user, host));
        let sizes = sizes(config, user);
        let is_resized = sizes != self::sizes(&self.config, old_user);
        let limits = config.limits_of(pool, user);
        if !is_resized && limits == tenant.limits {
            return Some(Rc::clone(tenant));
        }
        if is_resized {
            tenant.pool.resize(sizes);
        }
        tenant.pool.limit(&limits);
        Some(Rc::new(Tenant {
            stored: tenant.stored.clone(),
            pool: Rc::clone(&tenant.pool),
            limits,
            made_of: (alone(pool), user.clone()),
        }))
    }
}

/// The pool's own settings, without its users and what can change while it stays. How many prepared
/// statements servers have can change, but not whether they have any.
fn alone(pool: &PoolConfig) -> PoolConfig {
    PoolConfig {
        users: Vec::new(),
        limits: OwnLimits::default(),
        prepared_statements_cache_size: pool.prepared_statements_cache_size.min(1),
        ..pool.clone()
    }
}

/// A user without what can change while its pool stays.
fn unsized_user(user: &UserConfig) -> UserConfig {
    UserConfig {
        pool_size: 0,
        min_pool_size: 0,
        limits: OwnLimits::default(),
        ..user.clone()
    }
}

fn sizes(config: &Config, user: &UserConfig) -> Sizes {
    Sizes {
        size: user.pool_size as usize,
        kept: user.min_pool_size as usize,
        opening_max: config.general.max_concurrent_creates.max(1),
    }
}

fn new_tenant(
    config: &Config,
    pool: &PoolConfig,
    user: &UserConfig,
    host: &Rc<Host>,
) -> Rc<Tenant> {
    let key = PoolKey {
        database: pool.name.as_str().into(),
        user: user.username.as_str().into(),
    };
    let settings = settings(config, pool, user, host);
    let limits = config.limits_of(pool, user);
    let pool_of_user = Pool::new(key, settings, sizes(config, user), Rc::clone(host));
    pool_of_user.limit(&limits);
    Rc::new(Tenant {
        stored: StoredPassword::parse(user.password.expose()),
        pool: pool_of_user,
        limits,
        made_of: (alone(pool), user.clone()),
    })
}

fn settings(config: &Config, pool: &PoolConfig, user: &UserConfig, host: &Host) -> Settings {
    let general = &config.general;
    let habits = Habits {
        round_robin: general.server_round_robin,
        idle_timeout: pool.idle_timeout.unwrap_or(general.idle_timeout),
    };
    let lifetime = user.server_lifetime.or(pool.server_lifetime);
    Settings {
        mode: user.pool_mode,
        socket: Rc::new(socket(config, pool, host)).into(),
        login: Login {
            credentials: Credentials {
                user: user.server_username.clone(),
                password: user.server_password.clone(),
            },
            database: pool.server_database.clone(),
            application_name: pool.application_name.clone(),
        },
        habits,
        connect_timeout: pool
            .connect_timeout
            .unwrap_or(general.connect_timeout)
            .into(),
        query_wait_timeout: general.query_wait_timeout.into(),
        server_lifetime: lifetime.unwrap_or(general.server_lifetime).into(),
        idle_check_timeout: general.server_idle_check_timeout.into(),
        cleanup: pool.cleanup_server_connections,
        statements_max: if general.prepared_statements {
            pool.prepared_statements_cache_size
        } else {
            0
        }
        .into(),
        prepare_unnamed: pool.prepare_unnamed,
    }
}

fn socket(config: &Config, pool: &PoolConfig, host: &Host) -> Socket {
    let general = &config.general;
    Socket {
        endpoint: pool.server.clone(),
        tcp: TcpOptions::of(general),
        unix_buffer_bytes: usize::try_from(general.unix_socket_buffer_size).unwrap_or(usize::MAX),
        security: Security::new(&pool.server_tls, host.keyring.clone(), &pool.name),
    }
}
