//! The configuration file.
//!
//! **Owns:** its keys, their defaults, every rule and its text.
//! **Does not own:** the file formats (`pg_doorman::config`), what a reload changes (`reload`).
//!
//! **Invariants**
//! 1. A [`Config`] that exists keeps every rule; the first fault is told.
//! 2. Keys that are not known are ignored, and named.

mod keys;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pg_doorman::config;
use pg_doorman::config::units::{ByteSize, ConfigDuration};
use pg_doorman::patroni::{Roles, Rule};
use pg_doorman::tls::HttpsOptions;
use serde::Deserialize;
use tracing::Level;

/// Why a configuration cannot be used. Blame: the file. Retry: after a change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfigError(pub(crate) String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All settings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// Time between two questions to a cluster.
    pub(crate) interval: Duration,
    /// Where the API listens.
    pub(crate) api: SocketAddr,
    /// Shards; none = as many as CPUs, four at most.
    pub(crate) shards: Option<usize>,
    /// What is logged unless `RUST_LOG` says it.
    pub(crate) log_level: Level,
    /// Options of sockets.
    pub(crate) sockets: SocketOptions,
    /// By name.
    pub(crate) clusters: BTreeMap<String, Cluster>,
    /// Keys that have no effect.
    pub(crate) unknown: Vec<String>,
}

/// Options of the sockets on both sides. Zero leaves the value of the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SocketOptions {
    /// Idle time before the first keepalive probe.
    pub(crate) keepalive_idle: Duration,
    /// Time between probes.
    pub(crate) keepalive_interval: Duration,
    /// Probes without an answer before the connection is given up.
    pub(crate) keepalive_count: u32,
    /// How long sent bytes may be without acknowledgement.
    pub(crate) user_timeout: Duration,
}

/// One cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cluster {
    /// Base addresses of the REST API.
    pub(crate) hosts: Vec<String>,
    /// For those with `https`.
    pub(crate) tls: Option<HttpsOptions>,
    /// By name.
    pub(crate) ports: BTreeMap<String, Port>,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// Where clients connect.
    pub(crate) listen: SocketAddr,
    /// Who is eligible.
    pub(crate) rule: Rule,
    /// The port of the members.
    #[expect(
        clippy::struct_field_names,
        reason = "the key of the configuration: a port of the host"
    )]
    pub(crate) host_port: u16,
    /// Open connections at a time; zero = any number.
    pub(crate) connections_max: u64,
    /// How long one try to connect may take.
    pub(crate) connect_timeout: Duration,
    /// How long connections may go on whose backend gets no new ones, and when the port closes.
    pub(crate) drain: Duration,
    /// How many connections the leader gets for each 100 of a replica.
    pub(crate) leader_weight: u64,
}

#[derive(Deserialize)]
struct File {
    #[serde(default = "interval")]
    cluster_update_interval: u64,
    #[serde(default = "api")]
    listen_address: String,
    clusters: BTreeMap<String, ClusterFile>,
    worker_threads: Option<usize>,
    log_level: Option<String>,
    connect_timeout: Option<ConfigDuration>,
    drain_timeout: Option<ConfigDuration>,
    tcp_keepalives_idle: Option<ConfigDuration>,
    tcp_keepalives_interval: Option<ConfigDuration>,
    tcp_keepalives_count: Option<u32>,
    tcp_user_timeout: Option<ConfigDuration>,
}

const fn interval() -> u64 {
    3
}

fn api() -> String {
    "127.0.0.1:8009".to_owned()
}

#[derive(Deserialize)]
struct ClusterFile {
    hosts: Vec<String>,
    tls: Option<TlsFile>,
    ports: BTreeMap<String, PortFile>,
}

#[derive(Deserialize)]
struct TlsFile {
    ca_cert: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    #[serde(default)]
    skip_verify: bool,
}

#[derive(Deserialize)]
struct PortFile {
    listen: String,
    roles: Vec<String>,
    host_port: u16,
    max_lag_in_bytes: Option<ByteSize>,
    #[serde(default)]
    max_connections: u64,
    connect_timeout: Option<ConfigDuration>,
    drain_timeout: Option<ConfigDuration>,
    #[serde(default = "leader_weight")]
    leader_weight: u64,
}

const fn leader_weight() -> u64 {
    100
}

/// Reads and checks the file at `path`. Blocks on file IO.
///
/// # Errors
///
/// The first fault.
pub(crate) fn load(path: &Path) -> Result<Config, ConfigError> {
    if let Err(error) = std::fs::metadata(path) {
        return Err(ConfigError(format!("IO error: {error}")));
    }
    let document =
        config::document(path).map_err(|error| ConfigError(format!("Parse error: {error}")))?;
    check(document)
}

fn check(document: toml::Table) -> Result<Config, ConfigError> {
    let unknown = keys::unknown(&document);
    let file: File = serde_path_to_error::deserialize(toml::Value::Table(document))
        .map_err(|error| ConfigError(format!("Parse error: {error}").trim_end().to_owned()))?;
    let mut taken = HashSet::new();
    let mut clusters = BTreeMap::new();
    for (name, cluster) in &file.clusters {
        clusters.insert(
            name.clone(),
            check_cluster(name, cluster, &file, &mut taken)?,
        );
    }
    let log_level = match file.log_level.as_deref() {
        None => Level::INFO,
        Some(word) => word.parse().map_err(|_| {
            let words = "error, warn, info, debug, trace";
            ConfigError(format!("Invalid log_level '{word}'. Allowed: {words}"))
        })?,
    };
    let or = |time: Option<ConfigDuration>, seconds| {
        time.unwrap_or(ConfigDuration::from_secs(seconds))
            .duration()
    };
    if file.worker_threads == Some(0) {
        return Err(ConfigError("worker_threads must be at least 1".to_owned()));
    }
    Ok(Config {
        // Without a pause a cluster would be asked all the time.
        interval: Duration::from_secs(file.cluster_update_interval.max(1)),
        api: address(&file.listen_address)?,
        shards: file.worker_threads,
        log_level,
        sockets: SocketOptions {
            keepalive_idle: or(file.tcp_keepalives_idle, 60),
            keepalive_interval: or(file.tcp_keepalives_interval, 10),
            keepalive_count: file.tcp_keepalives_count.unwrap_or(3),
            user_timeout: or(file.tcp_user_timeout, 0),
        },
        clusters,
        unknown,
    })
}

fn address(text: &str) -> Result<SocketAddr, ConfigError> {
    let parsed = text.parse();
    parsed.map_err(|_| ConfigError(format!("Invalid listen address: {text}")))
}

fn check_cluster(
    name: &str,
    cluster: &ClusterFile,
    file: &File,
    taken: &mut HashSet<SocketAddr>,
) -> Result<Cluster, ConfigError> {
    let wrong = |text| Err(ConfigError(text));
    if cluster.hosts.is_empty() {
        return wrong(format!("Cluster '{name}' has no hosts defined"));
    }
    let mut known = HashSet::new();
    for host in &cluster.hosts {
        if !host.starts_with("http://") && !host.starts_with("https://") {
            let allowed = "Only http:// and https:// schemes are allowed";
            return wrong(format!("Invalid host '{host}'. {allowed}"));
        }
        if !known.insert(host.to_lowercase()) {
            return wrong(format!("Duplicate host: {host}"));
        }
    }
    if cluster.ports.is_empty() {
        return wrong(format!("Cluster '{name}' has no ports defined"));
    }
    let mut ports = BTreeMap::new();
    for (name, port) in &cluster.ports {
        let checked = check_port(name, port, file)?;
        if !taken.insert(checked.listen) {
            return wrong(format!("Duplicate listen address: {}", port.listen));
        }
        ports.insert(name.clone(), checked);
    }
    let tls = cluster.tls.as_ref().map(|tls| HttpsOptions {
        ca: tls.ca_cert.clone(),
        certificate: tls.client_cert.clone(),
        private_key: tls.client_key.clone(),
        is_unverified: tls.skip_verify,
    });
    Ok(Cluster {
        hosts: cluster.hosts.clone(),
        tls,
        ports,
    })
}

fn check_port(name: &str, port: &PortFile, file: &File) -> Result<Port, ConfigError> {
    if port.roles.is_empty() {
        return Err(ConfigError(format!("Port '{name}' has no roles defined")));
    }
    let mut roles = Roles::default();
    if let Some(role) = port.roles.iter().find(|role| !roles.add(role)) {
        let allowed = "Allowed roles: leader, sync, async, any";
        return Err(ConfigError(format!("Invalid role '{role}'. {allowed}")));
    }
    let connect = port.connect_timeout.or(file.connect_timeout);
    let drain = port.drain_timeout.or(file.drain_timeout);
    let or = |time: Option<ConfigDuration>, seconds| {
        time.unwrap_or(ConfigDuration::from_secs(seconds))
            .duration()
    };
    Ok(Port {
        listen: address(&port.listen)?,
        rule: Rule {
            roles,
            lag_bytes_max: port.max_lag_in_bytes.map(ByteSize::bytes),
        },
        host_port: port.host_port,
        connections_max: port.max_connections,
        connect_timeout: or(connect, 5).max(Duration::from_millis(1)),
        drain: or(drain, 0),
        leader_weight: port.leader_weight.min(10_000),
    })
}

#[cfg(test)]
mod tests;
