//! The settings the rest of the program sees.
//!
//! **Owns:** resolved values: defaults filled in, units converted, inheritance decided.
//! **Does not own:** rules (`validate`), what a change means (`diff`).
//! **Invariants:** plain data; every rule of `validate` holds; passwords are [`Secret`]s.
//!
//! Fields have the names of their keys. A duration of zero means "off" where the comment says so.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::auth_query::{self, AuthQuery, Origin};
use super::hba::{HbaRule, IpNet};
use super::ident::IdentMaps;
use super::limits::{Limits, OwnLimits, time};
use super::schema::{self, Document, PoolMode};
use super::secret::Secret;
use super::tls::{ServerTls, TlsProtocol};
use super::units::{ByteSize, ConfigDuration};
use super::validate::{JWT_PRIVATE_KEY, JWT_PUBLIC_KEY, KeyFiles, Resolved};

/// Everything a configuration says.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The main file, for messages and for reading it again.
    pub path: PathBuf,
    /// `[general]`.
    pub general: General,
    /// `[pools.*]` in the order of their names.
    pub pools: Vec<PoolConfig>,
    /// `[prometheus]`.
    pub prometheus: Prometheus,
    /// `[talos]`, if present.
    pub talos: Option<Talos>,
}

/// `[general]`.
#[derive(Clone, Debug, PartialEq)]
pub struct General {
    /// Listen addresses with `,` between them: IPs, perhaps in brackets, names to resolve, `*`.
    pub host: String,
    /// Listen port.
    pub port: u16,
    /// Length of the accept queue; 0 = `max_connections`.
    pub backlog: u32,
    /// Most clients at the same time.
    pub max_connections: u64,
    /// Idle time before the first keepalive probe; whole seconds.
    pub tcp_keepalives_idle: Duration,
    /// Time between keepalive probes; whole seconds.
    pub tcp_keepalives_interval: Duration,
    /// Unanswered probes before a connection is dead.
    pub tcp_keepalives_count: u32,
    /// Linger time of TCP and Unix server sockets; 0 = a close sends a reset.
    pub tcp_so_linger: Duration,
    /// Disables Nagle's algorithm.
    pub tcp_no_delay: bool,
    /// Time unacknowledged bytes may stay so; 0 = the system's default.
    pub tcp_user_timeout: Duration,
    /// Kernel buffer sizes of Unix-domain server connections, in bytes.
    pub unix_socket_buffer_size: u64,
    /// Directory of the Unix-domain listener; none = no such listener.
    pub unix_socket_dir: Option<PathBuf>,
    /// Rights of its file, as of chmod(2).
    pub unix_socket_mode: u32,
    /// Time from accept to the end of authentication; 0 = off.
    pub client_login_timeout: Duration,
    /// Time to open a server connection, authentication included.
    pub connect_timeout: Duration,
    /// Time a client waits for a server connection.
    pub query_wait_timeout: Duration,
    /// Unused server connections are closed after this time; 0 = off.
    pub idle_timeout: Duration,
    /// Age at which server connections are closed; 0 = off.
    pub server_lifetime: Duration,
    /// Period of the task that closes old and idle server connections; 0 = off.
    pub retain_connections_time: Duration,
    /// Most idle connections that task closes in one run; 0 = no limit.
    pub retain_connections_max: usize,
    /// Idle time after which a server connection is tested before use; 0 = off.
    pub server_idle_check_timeout: Duration,
    /// Time a graceful shutdown may take.
    pub shutdown_timeout: Duration,
    /// Time that an old process keeps encrypted clients after an upgrade; 0 = as long as they like.
    pub tls_relay_max_lifetime: Duration,
    /// Times and numbers that databases and users may have for themselves.
    pub limits: Limits,
    /// Server messages with a longer body are relayed in chunks, in bytes; 0 = never.
    pub message_size_to_be_stream: u64,
    /// Bytes of all client messages being read at a time.
    pub max_memory_usage: u64,
    /// Log connects and disconnects.
    pub log_client_connections: bool,
    /// Log disconnects, also without `log_client_connections`.
    pub log_client_disconnections: bool,
    /// Queries that take at least this long are logged; 0 = off.
    pub log_min_duration: Duration,
    /// What is logged; none = as the command line says.
    pub log_level: Option<tracing::Level>,
    /// Log to syslog under this name.
    pub syslog_prog_name: Option<String>,
    /// Number of shards; at least 1.
    pub worker_threads: usize,
    /// Pin each shard to a CPU.
    pub worker_cpu_affinity_pinning: bool,
    /// Stack of a shard thread in bytes.
    pub worker_stack_size: Option<u64>,
    /// Accepted, without effect.
    pub max_blocking_threads: Option<usize>,
    /// Accepted, without effect.
    pub tokio_global_queue_interval: Option<u32>,
    /// Accepted, without effect.
    pub tokio_event_interval: Option<u32>,
    /// Lend the longest idle server connection first instead of the last used.
    pub server_round_robin: bool,
    /// Bring server parameters in line with the client's before a transaction.
    pub sync_server_parameters: bool,
    /// Server connections of one pool being opened at a time; at least 1.
    pub max_concurrent_creates: usize,
    /// A simple query answered without a server.
    pub pooler_check_query: String,
    /// The whole message to match instead of `pooler_check_query`.
    pub pooler_check_query_request_bytes: Option<Vec<u8>>,
    /// Rename prepared statements so that they survive transaction pooling.
    pub prepared_statements: bool,
    /// Statements remembered for each pool and server connection.
    pub prepared_statements_cache_size: usize,
    /// Statements remembered for each client; 0 = no limit.
    pub client_prepared_statements_cache_size: usize,
    /// Memory for the prepared statements that clients keep, in bytes.
    pub prepared_statements_memory: u64,
    /// Certificate chain offered to clients, PEM.
    pub tls_certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_private_key: Option<PathBuf>,
    /// Authority that signs client certificates, PEM.
    pub tls_ca_cert: Option<PathBuf>,
    /// What is asked of clients; [`TlsMode::Allow`] when not set.
    pub tls_mode: TlsMode,
    /// TLS handshakes a second; 0 = no limit.
    pub tls_rate_limit_per_second: usize,
    /// Versions and cipher suites spoken with clients.
    pub tls_protocol: TlsProtocol,
    /// Ask TCP servers for TLS.
    pub server_tls: bool,
    /// Accepted with `server_tls`.
    pub verify_server_certificate: bool,
    /// User of the admin console.
    pub admin_username: String,
    /// Password of the admin console.
    pub admin_password: Secret,
    /// What recognises it in a proof by SCRAM, once that is derived.
    pub admin_verifier: Option<Secret>,
    /// Written in daemon mode only.
    pub daemon_pid_file: PathBuf,
    /// Networks clients may come from; empty = everywhere.
    pub hba: Vec<IpNet>,
    /// Access rules; `Some` of an empty list lets nobody in.
    pub pg_hba: Option<Vec<HbaRule>>,
    /// Maps from names of the system or of certificates to users.
    pub pg_ident: IdentMaps,
    /// Networks of proxies that tell whose connections they pass on.
    pub proxy_protocol_networks: Vec<IpNet>,
    /// Tokens must be meant for this audience.
    pub jwt_audience: Option<String>,
    /// Tokens must come from this issuer.
    pub jwt_issuer: Option<String>,
    /// Passwords may be sent to servers in clear, over networks without TLS.
    pub server_cleartext_password: bool,
}

/// What is asked of clients regarding TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Offered if there is a certificate.
    #[default]
    Allow,
    /// Not offered.
    Disable,
    /// Plain connections are refused.
    Require,
    /// `Require`, and clients must show a certificate.
    VerifyFull,
}

impl TlsMode {
    /// True if plain connections are refused.
    pub const fn is_mandatory(self) -> bool {
        matches!(self, Self::Require | Self::VerifyFull)
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Disable => "disable",
            Self::Require => "require",
            Self::VerifyFull => "verify-full",
        })
    }
}

/// `[pools.<name>]`.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// The database name clients ask for.
    pub name: String,
    /// Mode of the users that do not choose one.
    pub pool_mode: PoolMode,
    /// Where the server is: `server_host` and `server_port`.
    pub server: Endpoint,
    /// Database on the server; the pool's name when not set.
    pub server_database: String,
    /// `application_name` of the server connections.
    pub application_name: String,
    /// Reset server connections that a client left dirty.
    pub cleanup_server_connections: bool,
    /// Log parameter changes that servers report.
    pub log_client_parameter_status_changes: bool,
    /// Overrides the general key.
    pub connect_timeout: Option<Duration>,
    /// Overrides the general key; 0 = off.
    pub idle_timeout: Option<Duration>,
    /// Overrides the general key; 0 = off.
    pub server_lifetime: Option<Duration>,
    /// Own or general value; 0 = no prepared-statement renaming in this pool.
    pub prepared_statements_cache_size: usize,
    /// Unnamed statements are kept on servers, too.
    pub prepare_unnamed: bool,
    /// Override those of `[general]`.
    pub limits: OwnLimits,
    /// TLS towards its server, over TCP.
    pub server_tls: ServerTls,
    /// How users are found that are not in the file.
    pub auth_query: Option<AuthQuery>,
    /// Not in the file: it was asked for, and is like any other.
    pub is_guest: bool,
    /// In the order of the file.
    pub users: Vec<UserConfig>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `host` is an IP or a name to resolve at each connect.
    Tcp {
        /// As written.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix-domain socket.
    Unix {
        /// The socket itself, not its directory.
        path: PathBuf,
    },
}

impl Endpoint {
    /// PostgreSQL's convention: a host that begins with `/` is the directory of the socket.
    fn new(host: &str, port: u16) -> Self {
        if host.starts_with('/') {
            return Self::Unix {
                path: Path::new(host).join(format!(".s.PGSQL.{port}")),
            };
        }
        Self::Tcp {
            host: host.to_owned(),
            port,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "{}", path.display()),
        }
    }
}

/// One user of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct UserConfig {
    /// Name clients log in with.
    pub username: String,
    /// What the client must prove; its form decides the method.
    pub password: Secret,
    /// Most server connections.
    pub pool_size: u32,
    /// Server connections kept open; never more than `pool_size`.
    pub min_pool_size: u32,
    /// The user's mode, else the pool's.
    pub pool_mode: PoolMode,
    /// Overrides the pool's; 0 = off.
    pub server_lifetime: Option<Duration>,
    /// Name on the server; `username` when not set.
    pub server_username: String,
    /// Secret for the server; present exactly if `server_username` was given.
    pub server_password: Option<Secret>,
    /// Prints the secret for the server.
    pub server_password_command: Option<PasswordCommand>,
    /// The content of the file with public keys that `password` names.
    pub token_keys: Option<Arc<Secret>>,
    /// The content of the file with a private key that `server_password` names.
    pub signing_key: Option<Arc<Secret>>,
    /// What recognises a `password` in clear; made when the file is loaded.
    pub verifier: Option<Secret>,
    /// Where it comes from.
    pub origin: Origin,
    /// Has the servers of this user of its pool.
    pub shares: Option<String>,
    /// Authenticate with this PAM service instead of `password`.
    pub auth_pam_service: Option<String>,
    /// Override those of the pool.
    pub limits: OwnLimits,
}

/// A command that prints a password.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PasswordCommand {
    /// For `/bin/sh -c`.
    pub text: String,
    /// How long it may run.
    pub timeout: Duration,
    /// How long its answer is used.
    pub ttl: Duration,
}

impl PasswordCommand {
    fn new(raw: &schema::User) -> Option<Self> {
        let time = |time: Option<ConfigDuration>, default| {
            time.map_or(Duration::from_secs(default), ConfigDuration::duration)
        };
        Some(Self {
            text: raw.server_password_command.clone()?,
            timeout: time(raw.server_password_command_timeout, 5),
            ttl: time(raw.server_password_command_ttl, 600),
        })
    }
}

/// `[prometheus]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prometheus {
    /// Serve metrics.
    pub enabled: bool,
    /// An IP address if `enabled`.
    pub host: String,
    /// Port of the metrics listener.
    pub port: u16,
}

/// `[talos]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Talos {
    /// Public keys, PEM. The file name without its extension is the key's id.
    pub keys: Vec<PathBuf>,
    /// What is in these files.
    pub key_texts: Vec<Arc<Secret>>,
    /// Resource names accepted in tokens.
    pub databases: Vec<String>,
}

/// Resolves a document that passed `validate`.
pub(super) fn build(path: &Path, document: Document, resolved: Resolved) -> Config {
    let Document {
        general,
        pools,
        prometheus,
        talos,
        _path,
    } = document;
    let schema::Prometheus {
        enabled,
        host,
        port,
    } = prometheus;
    let mut server_tls = resolved.server_tls.clone();
    let key_files = resolved.key_files.clone();
    let general = build_general(general, resolved);
    Config {
        path: path.to_owned(),
        pools: build_pools(pools, &general, &mut server_tls, &key_files),
        general,
        prometheus: Prometheus {
            enabled,
            host,
            port,
        },
        talos: talos.map(|schema::Talos { keys, databases }| Talos {
            key_texts: keys
                .iter()
                .filter_map(|key| key_files.get(key).cloned())
                .collect(),
            keys,
            databases,
        }),
    }
}

/// What clients and databases may have and take, by `[general]`.
fn general_limits(raw: &schema::General) -> Limits {
    Limits {
        client_idle_timeout: raw.client_idle_timeout.duration(),
        idle_transaction_timeout: raw.idle_transaction_timeout.duration(),
        transaction_timeout: raw.transaction_timeout.duration(),
        query_timeout: raw.query_timeout.duration(),
        proxy_copy_data_timeout: raw.proxy_copy_data_timeout.duration(),
        max_db_connections: raw.max_db_connections,
        reserve_pool_size: raw.reserve_pool_size,
        reserve_pool_timeout: raw.reserve_pool_timeout.duration(),
        max_db_client_connections: raw.max_db_client_connections,
        max_user_client_connections: raw.max_user_client_connections,
    }
}

fn build_general(raw: schema::General, resolved: Resolved) -> General {
    General {
        limits: general_limits(&raw),
        host: raw.host.0,
        port: raw.port,
        backlog: raw.backlog,
        max_connections: raw.max_connections,
        tcp_keepalives_idle: Duration::from_secs(raw.tcp_keepalives_idle),
        tcp_keepalives_interval: Duration::from_secs(raw.tcp_keepalives_interval),
        tcp_keepalives_count: raw.tcp_keepalives_count,
        tcp_so_linger: Duration::from_secs(raw.tcp_so_linger),
        tcp_no_delay: raw.tcp_no_delay,
        tcp_user_timeout: Duration::from_secs(raw.tcp_user_timeout),
        unix_socket_buffer_size: raw.unix_socket_buffer_size.bytes(),
        unix_socket_dir: raw.unix_socket_dir,
        unix_socket_mode: raw.unix_socket_mode.0,
        client_login_timeout: raw.client_login_timeout.duration(),
        connect_timeout: raw.connect_timeout.duration(),
        query_wait_timeout: raw.query_wait_timeout.duration(),
        idle_timeout: raw.idle_timeout.duration(),
        server_lifetime: raw.server_lifetime.duration(),
        retain_connections_time: raw.retain_connections_time.duration(),
        retain_connections_max: raw.retain_connections_max,
        server_idle_check_timeout: raw.server_idle_check_timeout.duration(),
        shutdown_timeout: raw.shutdown_timeout.duration(),
        tls_relay_max_lifetime: raw.tls_relay_max_lifetime.duration(),
        message_size_to_be_stream: raw.message_size_to_be_stream.bytes(),
        max_memory_usage: raw.max_memory_usage.bytes(),
        log_client_connections: raw.log_client_connections,
        log_client_disconnections: raw.log_client_disconnections,
        log_min_duration: raw.log_min_duration.duration(),
        log_level: resolved.log_level,
        syslog_prog_name: raw.syslog_prog_name,
        worker_threads: raw.worker_threads,
        worker_cpu_affinity_pinning: raw.worker_cpu_affinity_pinning,
        worker_stack_size: raw.worker_stack_size.map(ByteSize::bytes),
        max_blocking_threads: raw.max_blocking_threads,
        tokio_global_queue_interval: raw.tokio_global_queue_interval,
        tokio_event_interval: raw.tokio_event_interval,
        server_round_robin: raw.server_round_robin,
        sync_server_parameters: raw.sync_server_parameters,
        max_concurrent_creates: raw.max_concurrent_creates.max(1),
        pooler_check_query: raw.pooler_check_query,
        pooler_check_query_request_bytes: raw.pooler_check_query_request_bytes,
        prepared_statements: raw.prepared_statements,
        prepared_statements_cache_size: raw.prepared_statements_cache_size,
        client_prepared_statements_cache_size: raw.client_prepared_statements_cache_size,
        prepared_statements_memory: raw.prepared_statements_memory.bytes(),
        tls_certificate: raw.tls_certificate,
        tls_private_key: raw.tls_private_key,
        tls_ca_cert: raw.tls_ca_cert,
        tls_mode: resolved.tls_mode,
        tls_rate_limit_per_second: raw.tls_rate_limit_per_second,
        tls_protocol: resolved.tls_protocol,
        server_tls: raw.server_tls,
        verify_server_certificate: raw.verify_server_certificate,
        admin_username: resolved.admin_username,
        admin_password: resolved.admin_password,
        admin_verifier: None,
        daemon_pid_file: raw.daemon_pid_file,
        hba: resolved.hba,
        pg_hba: resolved.pg_hba,
        pg_ident: resolved.pg_ident,
        proxy_protocol_networks: resolved.proxy_protocol_networks,
        jwt_audience: raw.jwt_audience,
        jwt_issuer: raw.jwt_issuer,
        server_cleartext_password: raw.server_cleartext_password,
    }
}

fn build_pools(
    pools: BTreeMap<String, schema::Pool>,
    general: &General,
    server_tls: &mut BTreeMap<String, ServerTls>,
    key_files: &KeyFiles,
) -> Vec<PoolConfig> {
    let build = |(name, raw): (String, schema::Pool)| PoolConfig {
        pool_mode: raw.pool_mode,
        server: Endpoint::new(&raw.server_host, raw.server_port),
        application_name: raw.application_name,
        cleanup_server_connections: raw.cleanup_server_connections,
        log_client_parameter_status_changes: raw.log_client_parameter_status_changes,
        connect_timeout: raw.connect_timeout.map(ConfigDuration::duration),
        idle_timeout: raw.idle_timeout.map(ConfigDuration::duration),
        server_lifetime: raw.server_lifetime.map(ConfigDuration::duration),
        prepared_statements_cache_size: raw
            .prepared_statements_cache_size
            .unwrap_or(general.prepared_statements_cache_size),
        prepare_unnamed: raw.prepare_unnamed,
        limits: OwnLimits {
            client_idle_timeout: time(raw.client_idle_timeout),
            idle_transaction_timeout: time(raw.idle_transaction_timeout),
            transaction_timeout: time(raw.transaction_timeout),
            query_timeout: time(raw.query_timeout),
            max_db_connections: raw.max_db_connections,
            reserve_pool_size: raw.reserve_pool_size,
            reserve_pool_timeout: time(raw.reserve_pool_timeout),
            max_db_client_connections: raw.max_db_client_connections,
            max_user_client_connections: None,
        },
        server_tls: server_tls.remove(&name).unwrap_or_default(),
        auth_query: raw.auth_query.map(|query| {
            let own = raw.server_database.as_deref().unwrap_or(&name);
            AuthQuery::build(query, own)
        }),
        is_guest: false,
        server_database: raw.server_database.unwrap_or_else(|| name.clone()),
        users: raw
            .users
            .0
            .into_iter()
            .map(|user| build_user(user, raw.pool_mode, key_files))
            .collect(),
        name,
    };
    let mut pools = pools.into_iter().map(build).collect();
    auth_query::expand(&mut pools);
    pools
}

fn build_user(raw: schema::User, pool_mode: PoolMode, key_files: &KeyFiles) -> UserConfig {
    let file = |secret: &Secret, prefix: &str| {
        let path = secret.expose().strip_prefix(prefix)?;
        key_files.get(Path::new(path)).cloned()
    };
    let signing_key = raw.server_password.as_ref();
    let signing_key = signing_key.and_then(|secret| file(secret, JWT_PRIVATE_KEY));
    UserConfig {
        limits: OwnLimits {
            client_idle_timeout: time(raw.client_idle_timeout),
            idle_transaction_timeout: time(raw.idle_transaction_timeout),
            transaction_timeout: time(raw.transaction_timeout),
            query_timeout: time(raw.query_timeout),
            reserve_pool_size: raw.reserve_pool_size,
            max_user_client_connections: raw.max_user_client_connections,
            ..OwnLimits::default()
        },
        server_password_command: PasswordCommand::new(&raw),
        token_keys: file(&raw.password, JWT_PUBLIC_KEY),
        signing_key,
        verifier: None,
        origin: Origin::File,
        shares: None,
        server_username: raw.server_username.unwrap_or_else(|| raw.username.clone()),
        username: raw.username,
        password: raw.password,
        pool_size: raw.pool_size,
        min_pool_size: raw.min_pool_size.unwrap_or(0),
        pool_mode: raw.pool_mode.unwrap_or(pool_mode),
        server_lifetime: raw.server_lifetime.map(ConfigDuration::duration),
        server_password: raw.server_password,
        auth_pam_service: raw.auth_pam_service,
    }
}
