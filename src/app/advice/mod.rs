//! Settings that are allowed and do not do what their author probably thinks.
//!
//! **Owns:** these sentences, each with key, value and consequence; looking at the machine for them.
//! **Does not own:** rules that refuse a file (`config`), what this version lacks (`not_yet`).
//! **Invariants:** no sentence holds a secret; the commented reference gets none that is about its
//! keys left at their defaults.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use crate::auth::StoredPassword;
use crate::config::hba::{HbaAddress, HbaMethod, HbaRule};
use crate::config::units::ConfigDuration;
use crate::config::{Config, General, Origin, PoolConfig, UserConfig, schema};

use super::not_yet;

pub(super) mod rules;

/// Names of the console, which hide pools.
const CONSOLE: [&str; 2] = ["pgdoorman", "pgbouncer"];
/// Passwords that everybody tries first.
const WELL_KNOWN: [&str; 5] = ["", "admin", "change-me", "password", "postgres"];
/// Servers that live shorter are mostly busy with logging in.
const LIFETIME_MIN: Duration = Duration::from_secs(10);
/// Open files of a shard besides clients and servers, roughly.
const FILES_OF_SHARD: u64 = 16;
/// What Linux takes for the options of a TCP socket, at most: seconds of keepalive, its probes, and
/// seconds without an acknowledgement.
const KEEPALIVE_SECONDS_MAX: u64 = 32_767;
const KEEPALIVE_COUNT_MAX: u64 = 127;
const USER_TIMEOUT_SECONDS_MAX: u64 = 2_147_483;
/// Less memory than this refuses ordinary messages.
const MEMORY_MIN: u64 = 1 << 20;

/// What the machine says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// CPUs that this process may use.
    pub cpus: Option<usize>,
    /// Rights of the configuration file.
    pub file_mode: Option<u32>,
    /// How many files this process may have open, at most.
    pub files_max: Option<u64>,
}

impl Facts {
    /// Looks at the machine and at the configuration file.
    pub fn gather(path: &Path) -> Self {
        let metadata = std::fs::metadata(path);
        Self {
            cpus: std::thread::available_parallelism().ok().map(Into::into),
            file_mode: metadata
                .ok()
                .filter(std::fs::Metadata::is_file)
                .map(|metadata| metadata.permissions().mode()),
            files_max: files_max(),
        }
    }
}

/// The hard limit of open files; the program raises its soft one to that.
fn files_max() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// A sentence for each doubtful setting.
pub fn warnings(config: &Config, facts: Facts) -> Vec<String> {
    let mut found: Vec<String> = not_yet::warnings(config)
        .into_iter()
        .map(str::to_owned)
        .collect();
    inert(&config.general, &mut found);
    limits(config, facts, &mut found);
    times(&config.general, &mut found);
    sockets(&config.general, &mut found);
    tls(&config.general, &mut found);
    access(config, facts, &mut found);
    foreign_rules(&config.general, &mut found);
    if config.pools.is_empty() {
        found.push("[pools] is empty: only the admin console can be reached".to_owned());
    }
    for pool in &config.pools {
        about_pool(config, pool, &mut found);
    }
    found
}

fn inert(general: &General, found: &mut Vec<String>) {
    let default = schema::General::default();
    let facts = [
        (
            "max_blocking_threads",
            general.max_blocking_threads.is_some(),
            "has no effect: there is no such pool of threads",
        ),
        (
            "tokio_global_queue_interval",
            general.tokio_global_queue_interval.is_some(),
            "has no effect: shards have another scheduler",
        ),
        (
            "tokio_event_interval",
            general.tokio_event_interval.is_some(),
            "has no effect: shards have another scheduler",
        ),
        (
            "worker_stack_size",
            general.worker_stack_size.is_some(),
            "has no effect yet",
        ),
        (
            "message_size_to_be_stream",
            general.message_size_to_be_stream != default.message_size_to_be_stream.bytes(),
            "decides only which rows `proxy_copy_data_timeout` is about: messages of every size pass in chunks",
        ),
    ];
    let sentences = facts
        .iter()
        .filter(|(_, is_set, _)| *is_set)
        .map(|(key, _, why)| format!("general.{key} {why}"));
    found.extend(sentences);
}

fn limits(config: &Config, facts: Facts, found: &mut Vec<String>) {
    let general = &config.general;
    let shards = general.worker_threads;
    if let Some(cpus) = facts.cpus.filter(|cpus| *cpus < shards) {
        found.push(format!(
            "general.worker_threads = {shards}, but only {cpus} CPUs may be used: shards compete for them"
        ));
    }
    let clients = general.max_connections;
    if clients == 0 {
        found.push("general.max_connections = 0: every client is refused".to_owned());
    }
    let servers: u64 = users(config)
        .map(|(_, user)| u64::from(user.pool_size))
        .sum();
    let files = clients.saturating_add(servers) + FILES_OF_SHARD * shards as u64;
    if let Some(max) = facts.files_max.filter(|max| *max < files) {
        found.push(format!(
            "general.max_connections = {clients} and all pool_size ({servers}) may need {files} open files, \
             but the limit is {max}: clients or servers beyond that are refused"
        ));
    }
    if general.max_memory_usage < MEMORY_MIN {
        found.push(format!(
            "general.max_memory_usage = {} bytes: clients whose messages do not fit are refused",
            general.max_memory_usage
        ));
    }
    let prometheus = &config.prometheus;
    if prometheus.enabled && prometheus.port == general.port {
        found.push(format!(
            "prometheus.port = {} is general.port too: unless the addresses differ, the start fails",
            prometheus.port
        ));
    }
    let names: BTreeSet<&str> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
    for name in CONSOLE.iter().filter(|name| names.contains(*name)) {
        found.push(format!(
            "pools.{name} cannot be reached: clients that ask for it get the admin console"
        ));
    }
}

fn times(general: &General, found: &mut Vec<String>) {
    let zeros = [
        (
            "query_wait_timeout",
            general.query_wait_timeout,
            "a client gets an error whenever no server connection is free at that moment",
        ),
        (
            "connect_timeout",
            general.connect_timeout,
            "no server connection can be opened in no time",
        ),
        (
            "client_login_timeout",
            general.client_login_timeout,
            "a client that never finishes its login is kept for ever",
        ),
        (
            "retain_connections_time",
            general.retain_connections_time,
            "server connections that are idle too long or too old are not closed until a client gets them",
        ),
    ];
    let sentences = zeros
        .iter()
        .filter(|(_, time, _)| time.is_zero())
        .map(|(key, _, consequence)| format!("general.{key} = 0: {consequence}"));
    found.extend(sentences);
    let (wait, connect) = (general.query_wait_timeout, general.connect_timeout);
    if !wait.is_zero() && wait < connect {
        found.push(format!(
            "general.query_wait_timeout = {} is shorter than general.connect_timeout = {}: \
             clients give up on a server connection that is still being opened",
            shown(wait),
            shown(connect)
        ));
    }
}

fn sockets(general: &General, found: &mut Vec<String>) {
    let options = [
        (
            "tcp_keepalives_idle",
            general.tcp_keepalives_idle.as_secs(),
            KEEPALIVE_SECONDS_MAX,
        ),
        (
            "tcp_keepalives_interval",
            general.tcp_keepalives_interval.as_secs(),
            KEEPALIVE_SECONDS_MAX,
        ),
        (
            "tcp_keepalives_count",
            general.tcp_keepalives_count.into(),
            KEEPALIVE_COUNT_MAX,
        ),
    ];
    for (key, value, max) in options {
        if value == 0 {
            found.push(format!("general.{key} = 0: the system's own value is used"));
        } else if value > max {
            found.push(format!(
                "general.{key} = {value}: the system takes at most {max}; its own value is used"
            ));
        }
    }
    let value = general.tcp_user_timeout.as_secs();
    if value > USER_TIMEOUT_SECONDS_MAX {
        found.push(format!(
            "general.tcp_user_timeout = {value}: the system takes at most \
             {USER_TIMEOUT_SECONDS_MAX}; its own value is used"
        ));
    }
}

fn tls(general: &General, found: &mut Vec<String>) {
    let facts = [
        (
            general.tls_ca_cert.is_some() && general.tls_mode != crate::config::TlsMode::VerifyFull,
            format!(
                "general.tls_ca_cert is set with tls_mode = {}: no client is asked for a certificate",
                general.tls_mode
            ),
        ),
        (
            general.verify_server_certificate && !general.server_tls,
            "general.verify_server_certificate = true without server_tls has no effect: no \
             certificate is verified"
                .to_owned(),
        ),
        (
            general.tls_rate_limit_per_second > 0 && general.tls_certificate.is_none(),
            format!(
                "general.tls_rate_limit_per_second = {} has no effect without tls_certificate",
                general.tls_rate_limit_per_second
            ),
        ),
    ];
    let applying = facts.into_iter().filter(|(applies, _)| *applies);
    found.extend(applying.map(|(_, sentence)| sentence));
}

fn access(config: &Config, facts: Facts, found: &mut Vec<String>) {
    let general = &config.general;
    if WELL_KNOWN.contains(&general.admin_password.expose()) {
        found
            .push("general.admin_password is one that everybody tries first: change it".to_owned());
    }
    if let Some(mode) = facts.file_mode.filter(|mode| mode & 0o004 != 0) {
        found.push(format!(
            "{} has mode {:04o}: every user of this machine can read the passwords in it; chmod 640",
            config.path.display(),
            mode & 0o7777
        ));
    }
    let Some(rules) = &general.pg_hba else {
        return;
    };
    if rules.is_empty() {
        found.push("general.pg_hba has no rule: nobody can log in".to_owned());
    }
    if let Some(rule) = rules.iter().find(|rule| is_open(rule)) {
        found.push(format!(
            "general.pg_hba, line {}: trust from every address lets anybody in without a password \
             who can reach {}:{}{}",
            rule.line,
            general.host,
            general.port,
            if opens_console(rule) {
                ", and into the admin console"
            } else {
                ""
            }
        ));
    }
}

/// Rules that mean something else here than where they were written for.
fn foreign_rules(general: &General, found: &mut Vec<String>) {
    let rules = general.pg_hba.as_deref().unwrap_or_default();
    let doubts = rules::doubts(rules);
    found.extend(
        doubts
            .iter()
            .map(|doubt| format!("general.pg_hba, {doubt}")),
    );
}

/// Whether a rule lets in the whole world.
fn is_open(rule: &HbaRule) -> bool {
    let is_everywhere = match rule.address {
        HbaAddress::Any => true,
        HbaAddress::Net(network) => network.prefix() == 0,
        HbaAddress::None | HbaAddress::SameHost | HbaAddress::SameNet => false,
    };
    is_everywhere && rule.method == HbaMethod::Trust
}

fn opens_console(rule: &HbaRule) -> bool {
    rule.databases.contains(&crate::config::hba::HbaName::All)
}

fn users(config: &Config) -> impl Iterator<Item = (&PoolConfig, &UserConfig)> {
    config
        .pools
        .iter()
        .flat_map(|pool| pool.users.iter().map(move |user| (pool, user)))
}

fn about_pool(config: &Config, pool: &PoolConfig, found: &mut Vec<String>) {
    let general = &config.general;
    let at = format!("pools.{}", pool.name);
    if pool.users.is_empty() && pool.auth_query.is_none() {
        found.push(format!("{at} has no users: nobody can use it"));
    }
    let lifetime = pool.server_lifetime.unwrap_or(general.server_lifetime);
    if !lifetime.is_zero() && lifetime < LIFETIME_MIN {
        found.push(format!(
            "{at}: server_lifetime = {}: server connections are replaced after hardly any use, and \
             each new one costs a login",
            shown(lifetime)
        ));
    }
    // The default of idle_timeout is so long that nobody counts on it.
    let idle = pool.idle_timeout.unwrap_or(general.idle_timeout);
    let is_chosen = idle != schema::General::default().idle_timeout.duration();
    if is_chosen && !lifetime.is_zero() && idle > lifetime {
        found.push(format!(
            "{at}: idle_timeout = {} has no effect: server_lifetime = {} closes server connections before",
            shown(idle),
            shown(lifetime)
        ));
    }
    if !pool.cleanup_server_connections {
        found.push(format!(
            "{at}: cleanup_server_connections = false: a client finds what the one before left on \
             the server, settings and temporary tables included"
        ));
    }
    for user in &pool.users {
        about_user(config, &at, user, found);
    }
}

fn about_user(config: &Config, at: &str, user: &UserConfig, found: &mut Vec<String>) {
    if user.origin == Origin::Internal {
        return;
    }
    let at = format!("{at}, user {}", user.username);
    let size = user.pool_size;
    if size == 0 {
        found.push(format!(
            "{at}: pool_size = 0: its clients never get a server connection"
        ));
    }
    if u64::from(size) > config.general.max_connections {
        found.push(format!(
            "{at}: pool_size = {size} is more than general.max_connections = {}: so many are never used",
            config.general.max_connections
        ));
    }
    if user.auth_pam_service.is_some() {
        return;
    }
    let is_trusting = config
        .general
        .pg_hba
        .as_ref()
        .is_some_and(|rules| rules.iter().any(|rule| rule.method == HbaMethod::Trust));
    match StoredPassword::parse(user.password.expose()) {
        StoredPassword::Empty if !is_trusting => found.push(format!(
            "{at}: password is empty and no rule in general.pg_hba says trust: this user cannot log in"
        )),
        StoredPassword::InvalidScram(error) => found.push(format!(
            "{at}: password is not a valid SCRAM-SHA-256 verifier ({error}): this user cannot log in"
        )),
        StoredPassword::Other(_) => found.push(format!(
            "{at}: password is in clear: whoever reads the file knows it. Better take rolpassword \
             from pg_authid"
        )),
        StoredPassword::Empty
        | StoredPassword::JwtPublicKey(_)
        | StoredPassword::Md5(_)
        | StoredPassword::Scram(_) => {}
    }
}

fn shown(time: Duration) -> ConfigDuration {
    ConfigDuration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
