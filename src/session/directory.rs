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
use crate::auth::jwt::TokenKeys;
use crate::auth::talos::Talos;
use crate::config::limits::OwnLimits;
use crate::config::{self, Config, Limits, Origin, PoolConfig, Secret, UserConfig};
use crate::pool::{Habits, Host, Pool, PoolKey, Settings, Sizes};
use crate::server::credentials::Source;
use crate::server::version::Version;
use crate::server::{Login, Security, Socket, TcpOptions};

use super::local;
use super::slow;

/// A user of a pool.
pub struct Tenant {
    /// What the user must prove.
    pub stored: StoredPassword,
    /// What tokens of the user are checked with.
    pub token_keys: Option<Rc<TokenKeys>>,
    /// The PAM service that the user's password is for.
    pub pam_service: Option<String>,
    /// The user's servers on this shard.
    pub pool: Rc<Pool>,
    /// What its clients and servers are limited to.
    pub limits: Limits,
    made_of: (PoolConfig, UserConfig),
}

impl Tenant {
    /// What the configuration says of the user.
    pub const fn user(&self) -> &UserConfig {
        &self.made_of.1
    }

    /// True if somebody can log in as this user.
    pub fn is_person(&self) -> bool {
        self.user().origin != Origin::Internal
    }

    /// The database whose settings it has.
    pub fn database(&self) -> &str {
        &self.made_of.0.name
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
    /// What tokens that name a role are checked with.
    pub talos: Option<Talos>,
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
                let shared = user.shares.as_ref().and_then(|name| users.get(name));
                let tenant = match shared {
                    // Its servers, and what they are limited to, are those of another user.
                    Some(shared) => tenant_of(&config, pool, user, Rc::clone(&shared.pool)),
                    None => before
                        .and_then(|before| before.take_over(pool, user, &config, host))
                        .unwrap_or_else(|| {
                            let tenant = new_tenant(&config, pool, user, host);
                            before.inspect(|before| before.leave_base_to(&tenant));
                            tenant
                        }),
                };
                users.insert(user.username.clone(), tenant);
            }
        }
        let directory = Self {
            check_query: local::check_query(&config.general),
            slow_us: slow_us(&config),
            talos: config.talos.as_ref().and_then(talos),
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

    /// The users of a database; none if there is no such database.
    pub fn users(&self, database: &str) -> impl Iterator<Item = &Rc<Tenant>> {
        let users = self.tenants.get(database);
        users.into_iter().flat_map(HashMap::values)
    }

    /// The user `user` of database `database`, if somebody can log in as such.
    pub fn guest(&self, database: &str, user: &str) -> Option<Rc<Tenant>> {
        let tenant = self.tenant(database, user)?;
        tenant.is_person().then(|| Rc::clone(tenant))
    }

    /// All users of all databases.
    pub fn tenants(&self) -> impl Iterator<Item = &Rc<Tenant>> {
        self.tenants.values().flat_map(HashMap::values)
    }

    /// All pools.
    pub fn pools(&self) -> impl Iterator<Item = &Rc<Pool>> {
        let own = self
            .tenants()
            .filter(|tenant| tenant.user().shares.is_none());
        own.map(|tenant| &tenant.pool)
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
            (login.database.clone(), login.user.clone())
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
        let limits = config.limits_of(pool, user);
        if sizes != self::sizes(&self.config, old_user) {
            tenant.pool.resize(sizes);
        }
        if limits != tenant.limits {
            tenant.pool.limit(&limits);
        }
        if old_user == user && limits == tenant.limits {
            return Some(Rc::clone(tenant));
        }
        Some(tenant_of(config, pool, user, Rc::clone(&tenant.pool)))
    }
}

/// The pool's own settings, without its users and what can change while it stays. How many prepared
/// statements servers have can change, but not whether they have any.
fn alone(pool: &PoolConfig) -> PoolConfig {
    PoolConfig {
        users: Vec::new(),
        auth_query: None,
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
        auth_pam_service: None,
        token_keys: None,
        verifier: None,
        // What clients prove is also what the pooler proves, if it has nothing else.
        password: if passes_on(user) {
            user.password.clone()
        } else {
            Secret::new("")
        },
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
    let made = Pool::new(key, settings, sizes(config, user), Rc::clone(host));
    made.limit(&config.limits_of(pool, user));
    tenant_of(config, pool, user, made)
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
            user: user.server_username.clone(),
            source: source(user),
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
        tells_parameters: pool.log_client_parameter_status_changes,
    }
}

fn tenant_of(config: &Config, pool: &PoolConfig, user: &UserConfig, made: Rc<Pool>) -> Rc<Tenant> {
    // Whoever made the configuration has tried whether the keys can be used.
    let keys = user.token_keys.as_ref();
    let keys = keys.and_then(|keys| TokenKeys::parse(keys.expose()).ok());
    Rc::new(Tenant {
        stored: stored(user),
        token_keys: keys.map(Rc::new),
        pam_service: user.auth_pam_service.clone(),
        pool: made,
        limits: config.limits_of(pool, user),
        made_of: (alone(pool), user.clone()),
    })
}

fn stored(user: &UserConfig) -> StoredPassword {
    StoredPassword::parse(user.verifier.as_ref().unwrap_or(&user.password).expose())
}

fn talos(config: &config::Talos) -> Option<Talos> {
    Talos::configured(config).ok()
}

/// True if the pooler has nothing to log in with but what the user proves.
const fn passes_on(user: &UserConfig) -> bool {
    user.server_password.is_none() && user.server_password_command.is_none()
}

/// How the pooler proves itself to the server.
fn source(user: &UserConfig) -> Source {
    if let Some(command) = &user.server_password_command {
        return Source::command(command.clone());
    }
    if let Some(key) = &user.signing_key {
        return Source::Signed(Arc::clone(key));
    }
    if let Some(password) = &user.server_password {
        return Source::Password(password.clone());
    }
    if user.verifier.is_some() {
        return Source::Password(user.password.clone());
    }
    match stored(user) {
        StoredPassword::Scram(_) => Source::Learned(Rc::default()),
        StoredPassword::Md5(secret) => Source::Md5(secret),
        _ => Source::None,
    }
}

fn socket(config: &Config, pool: &PoolConfig, host: &Host) -> Socket {
    let general = &config.general;
    Socket {
        endpoint: pool.server.clone(),
        tcp: TcpOptions::of(general),
        unix_buffer_bytes: usize::try_from(general.unix_socket_buffer_size).unwrap_or(usize::MAX),
        security: Security::new(&pool.server_tls, host.keyring.clone(), &pool.name),
        clear_anywhere: general.server_cleartext_password,
        version: Version::default(),
    }
}
