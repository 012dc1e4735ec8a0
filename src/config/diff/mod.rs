//! What a reload changes.
//!
//! **Owns:** the comparison of two configurations.
//! **Does not own:** acting on it (`app`, `pool`).
//! **Invariants:** every pool of either configuration is in exactly one of the four lists; a change
//! of one user leaves the pools of the other users of that database alone.

use std::collections::BTreeMap;

use crate::config::checked::{Config, General, PoolConfig, UserConfig};

/// One real pool: a database as clients name it, and a user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolUser {
    /// [`PoolConfig::name`].
    pub pool: String,
    /// [`UserConfig::username`].
    pub user: String,
}

/// The difference between two configurations. Lists are sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigDiff {
    /// In both, with equal settings.
    pub unchanged: Vec<PoolUser>,
    /// In both, with different settings: to be rebuilt.
    pub changed: Vec<PoolUser>,
    /// Only in the old configuration.
    pub removed: Vec<PoolUser>,
    /// Only in the new configuration.
    pub added: Vec<PoolUser>,
    /// Changed keys that have no effect before a restart, such as `general.port`.
    pub restart_keys: Vec<&'static str>,
    /// True if any key outside the pools changed, whenever it takes effect.
    pub settings_changed: bool,
}

impl ConfigDiff {
    /// Compares `old` with `new`.
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut diff = Self {
            restart_keys: restart_keys(old, new),
            settings_changed: old.general != new.general
                || old.prometheus != new.prometheus
                || old.talos != new.talos,
            ..Self::default()
        };
        let old_pools = pools_of(old);
        let new_pools = pools_of(new);
        for (key, new) in &new_pools {
            let list = match old_pools.get(key) {
                None => &mut diff.added,
                Some(old) if is_same(old, new) => &mut diff.unchanged,
                Some(_) => &mut diff.changed,
            };
            list.push(key.clone());
        }
        let removed = old_pools
            .into_keys()
            .filter(|key| !new_pools.contains_key(key));
        diff.removed = removed.collect();
        diff
    }

    /// True if a reload has nothing to do.
    pub fn is_empty(&self) -> bool {
        let pools = [&self.changed, &self.removed, &self.added];
        !self.settings_changed && pools.iter().all(|list| list.is_empty())
    }
}

type Settings<'a> = (&'a PoolConfig, &'a UserConfig);

fn pools_of(config: &Config) -> BTreeMap<PoolUser, Settings<'_>> {
    let key = |pool: &PoolConfig, user: &UserConfig| PoolUser {
        pool: pool.name.clone(),
        user: user.username.clone(),
    };
    let users = |pool| move |user| (key(pool, user), (pool, user));
    config
        .pools
        .iter()
        .flat_map(|pool| pool.users.iter().map(users(pool)))
        .collect()
}

/// Equal apart from the other users of the pool.
fn is_same((old_pool, old_user): &Settings<'_>, (new_pool, new_user): &Settings<'_>) -> bool {
    // Destructured without `..`, so that a new field cannot be forgotten.
    let PoolConfig {
        name,
        pool_mode: _, // Resolved for each user.
        server,
        server_database,
        application_name,
        cleanup_server_connections,
        log_client_parameter_status_changes,
        connect_timeout,
        idle_timeout,
        server_lifetime,
        prepared_statements_cache_size,
        prepare_unnamed,
        limits,
        server_tls,
        auth_query: _, // Makes users of its own.
        is_guest: _,
        users: _,
    } = old_pool;
    old_user == new_user
        && *name == new_pool.name
        && *server == new_pool.server
        && *server_database == new_pool.server_database
        && *application_name == new_pool.application_name
        && *cleanup_server_connections == new_pool.cleanup_server_connections
        && *log_client_parameter_status_changes == new_pool.log_client_parameter_status_changes
        && *connect_timeout == new_pool.connect_timeout
        && *idle_timeout == new_pool.idle_timeout
        && *server_lifetime == new_pool.server_lifetime
        && *prepared_statements_cache_size == new_pool.prepared_statements_cache_size
        && *prepare_unnamed == new_pool.prepare_unnamed
        && *limits == new_pool.limits
        && *server_tls == new_pool.server_tls
}

/// Lists the keys of `general` with a test for a change. A macro, because fields have no names at
/// run time.
macro_rules! general_keys {
    ($($key:ident)*) => {
        &[$((concat!("general.", stringify!($key)), |old, new| old.$key != new.$key)),*]
    };
}

type HasChanged = fn(&General, &General) -> bool;

/// The keys marked with `Effect::Restart` in `keys`; a test keeps the two equal.
const RESTART_KEYS: &[(&str, HasChanged)] = general_keys! {
    host port backlog unix_socket_dir unix_socket_mode
    retain_connections_time retain_connections_max shutdown_timeout
    syslog_prog_name
    worker_threads worker_cpu_affinity_pinning worker_stack_size
    daemon_pid_file
};

fn restart_keys(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = |(key, has_changed): &(&'static str, HasChanged)| {
        has_changed(&old.general, &new.general).then_some(*key)
    };
    let (before, after) = (&old.prometheus, &new.prometheus);
    let prometheus = [
        ("prometheus.enabled", before.enabled != after.enabled),
        ("prometheus.host", before.host != after.host),
        ("prometheus.port", before.port != after.port),
    ];
    let prometheus = prometheus
        .into_iter()
        .filter_map(|(key, changed)| changed.then_some(key));
    RESTART_KEYS
        .iter()
        .filter_map(changed)
        .chain(prometheus)
        .collect()
}

#[cfg(test)]
mod tests;
