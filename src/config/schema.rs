//! The document exactly as an operator writes it, after includes are merged.
//!
//! **Owns:** key names, types and defaults of every key.
//! **Does not own:** rules between values (`validate`), resolved values (`checked`), the words that
//! describe a key (`keys`).
//! **Invariants:** a key that is not listed here is ignored; every field of a struct with defaults
//! has its default in `Default` and nowhere else.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::listening::{FileMode, HostList};
use super::secret::Secret;
use super::units::{ByteSize, ConfigDuration};

/// The whole document.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Document {
    pub(crate) general: General,
    pub(crate) pools: BTreeMap<String, Pool>,
    #[serde(default)]
    pub(crate) prometheus: Prometheus,
    #[serde(default)]
    pub(crate) talos: Option<Talos>,
    /// Accepted because generated files contain it; the real path wins.
    #[serde(default, rename = "path")]
    pub(crate) _path: Option<String>,
}

/// `[general]`. The two required keys are options here so that the others can share one `Default`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct General {
    pub(crate) host: HostList,
    pub(crate) port: u16,
    pub(crate) backlog: u32,
    pub(crate) max_connections: u64,
    pub(crate) tcp_keepalives_idle: u64,
    pub(crate) tcp_keepalives_interval: u64,
    pub(crate) tcp_keepalives_count: u32,
    pub(crate) tcp_so_linger: u64,
    pub(crate) tcp_no_delay: bool,
    pub(crate) tcp_user_timeout: u64,
    pub(crate) unix_socket_buffer_size: ByteSize,
    pub(crate) unix_socket_dir: Option<PathBuf>,
    pub(crate) unix_socket_mode: FileMode,
    pub(crate) client_login_timeout: ConfigDuration,
    pub(crate) connect_timeout: ConfigDuration,
    pub(crate) query_wait_timeout: ConfigDuration,
    pub(crate) idle_timeout: ConfigDuration,
    pub(crate) server_lifetime: ConfigDuration,
    pub(crate) retain_connections_time: ConfigDuration,
    pub(crate) retain_connections_max: usize,
    pub(crate) server_idle_check_timeout: ConfigDuration,
    pub(crate) shutdown_timeout: ConfigDuration,
    pub(crate) tls_relay_max_lifetime: ConfigDuration,
    pub(crate) proxy_copy_data_timeout: ConfigDuration,
    pub(crate) client_idle_timeout: ConfigDuration,
    pub(crate) idle_transaction_timeout: ConfigDuration,
    pub(crate) transaction_timeout: ConfigDuration,
    pub(crate) query_timeout: ConfigDuration,
    pub(crate) message_size_to_be_stream: ByteSize,
    pub(crate) max_memory_usage: ByteSize,
    pub(crate) log_client_connections: bool,
    pub(crate) log_client_disconnections: bool,
    pub(crate) log_min_duration: ConfigDuration,
    pub(crate) log_level: Option<String>,
    pub(crate) syslog_prog_name: Option<String>,
    pub(crate) worker_threads: usize,
    pub(crate) worker_cpu_affinity_pinning: bool,
    pub(crate) worker_stack_size: Option<ByteSize>,
    pub(crate) max_blocking_threads: Option<usize>,
    pub(crate) tokio_global_queue_interval: Option<u32>,
    pub(crate) tokio_event_interval: Option<u32>,
    pub(crate) server_round_robin: bool,
    pub(crate) sync_server_parameters: bool,
    pub(crate) max_concurrent_creates: usize,
    pub(crate) max_db_connections: usize,
    pub(crate) reserve_pool_size: usize,
    pub(crate) reserve_pool_timeout: ConfigDuration,
    pub(crate) max_db_client_connections: usize,
    pub(crate) max_user_client_connections: usize,
    pub(crate) pooler_check_query: String,
    pub(crate) pooler_check_query_request_bytes: Option<Vec<u8>>,
    pub(crate) prepared_statements: bool,
    pub(crate) prepared_statements_cache_size: usize,
    pub(crate) client_prepared_statements_cache_size: usize,
    pub(crate) prepared_statements_memory: ByteSize,
    pub(crate) tls_certificate: Option<PathBuf>,
    pub(crate) tls_private_key: Option<PathBuf>,
    pub(crate) tls_ca_cert: Option<PathBuf>,
    pub(crate) tls_mode: Option<String>,
    pub(crate) tls_rate_limit_per_second: usize,
    pub(crate) tls_min_version: Option<String>,
    pub(crate) tls_max_version: Option<String>,
    pub(crate) tls_ciphers: Option<String>,
    pub(crate) server_tls: bool,
    pub(crate) verify_server_certificate: bool,
    pub(crate) server_tls_mode: Option<String>,
    pub(crate) server_tls_negotiation: Option<String>,
    pub(crate) server_tls_ca_cert: Option<PathBuf>,
    pub(crate) server_tls_certificate: Option<PathBuf>,
    pub(crate) server_tls_private_key: Option<PathBuf>,
    pub(crate) admin_username: Option<String>,
    pub(crate) admin_password: Option<Secret>,
    pub(crate) daemon_pid_file: PathBuf,
    pub(crate) hba: Vec<String>,
    pub(crate) pg_hba: Option<PgHba>,
    pub(crate) pg_ident: Option<PgHba>,
    pub(crate) proxy_protocol_networks: Vec<String>,
    pub(crate) jwt_audience: Option<String>,
    pub(crate) jwt_issuer: Option<String>,
    pub(crate) server_cleartext_password: bool,
}

impl Default for General {
    #[expect(clippy::too_many_lines, reason = "a list: one line a key")]
    fn default() -> Self {
        Self {
            host: HostList("0.0.0.0".to_owned()),
            port: 5432,
            backlog: 0,
            max_connections: 8192,
            tcp_keepalives_idle: 5,
            tcp_keepalives_interval: 5,
            tcp_keepalives_count: 5,
            tcp_so_linger: 0,
            tcp_no_delay: true,
            tcp_user_timeout: 60,
            unix_socket_buffer_size: ByteSize::from_bytes(1 << 20),
            unix_socket_dir: None,
            unix_socket_mode: FileMode(0o600),
            client_login_timeout: ConfigDuration::from_secs(60),
            connect_timeout: ConfigDuration::from_secs(3),
            query_wait_timeout: ConfigDuration::from_secs(5),
            idle_timeout: ConfigDuration::from_secs(300_000),
            server_lifetime: ConfigDuration::from_secs(300),
            retain_connections_time: ConfigDuration::from_secs(30),
            retain_connections_max: 3,
            server_idle_check_timeout: ConfigDuration::from_secs(60),
            shutdown_timeout: ConfigDuration::from_secs(10),
            tls_relay_max_lifetime: ConfigDuration::from_secs(0),
            proxy_copy_data_timeout: ConfigDuration::from_secs(15),
            client_idle_timeout: ConfigDuration::from_secs(0),
            idle_transaction_timeout: ConfigDuration::from_secs(0),
            transaction_timeout: ConfigDuration::from_secs(0),
            query_timeout: ConfigDuration::from_secs(0),
            message_size_to_be_stream: ByteSize::from_bytes(1 << 20),
            max_memory_usage: ByteSize::from_bytes(256 << 20),
            log_client_connections: false,
            log_client_disconnections: false,
            log_min_duration: ConfigDuration::from_millis(0),
            log_level: None,
            syslog_prog_name: None,
            worker_threads: 4,
            worker_cpu_affinity_pinning: false,
            worker_stack_size: None,
            max_blocking_threads: None,
            tokio_global_queue_interval: None,
            tokio_event_interval: None,
            server_round_robin: false,
            sync_server_parameters: false,
            max_concurrent_creates: 4,
            max_db_connections: 0,
            reserve_pool_size: 0,
            reserve_pool_timeout: ConfigDuration::from_secs(5),
            max_db_client_connections: 0,
            max_user_client_connections: 0,
            pooler_check_query: ";".to_owned(),
            pooler_check_query_request_bytes: None,
            prepared_statements: true,
            prepared_statements_cache_size: 8192,
            client_prepared_statements_cache_size: 0,
            prepared_statements_memory: ByteSize::from_bytes(1 << 30),
            tls_certificate: None,
            tls_private_key: None,
            tls_ca_cert: None,
            tls_mode: None,
            tls_rate_limit_per_second: 0,
            tls_min_version: None,
            tls_max_version: None,
            tls_ciphers: None,
            server_tls: false,
            verify_server_certificate: false,
            server_tls_mode: None,
            server_tls_negotiation: None,
            server_tls_ca_cert: None,
            server_tls_certificate: None,
            server_tls_private_key: None,
            admin_username: None,
            admin_password: None,
            daemon_pid_file: PathBuf::from("/tmp/pg_doorman.pid"),
            hba: Vec::new(),
            pg_hba: None,
            pg_ident: None,
            proxy_protocol_networks: Vec::new(),
            jwt_audience: None,
            jwt_issuer: None,
            server_cleartext_password: false,
        }
    }
}

/// When a server connection goes back to the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PoolMode {
    /// At the end of each transaction.
    #[default]
    #[serde(rename = "transaction", alias = "Transaction")]
    Transaction,
    /// When the client leaves.
    #[serde(rename = "session", alias = "Session")]
    Session,
}

/// `[pools.<name>]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
#[expect(
    clippy::struct_field_names,
    reason = "`pool_mode` is the name of the key"
)]
pub(crate) struct Pool {
    pub(crate) pool_mode: PoolMode,
    pub(crate) server_host: String,
    pub(crate) server_port: u16,
    pub(crate) server_database: Option<String>,
    pub(crate) connect_timeout: Option<ConfigDuration>,
    pub(crate) idle_timeout: Option<ConfigDuration>,
    pub(crate) server_lifetime: Option<ConfigDuration>,
    pub(crate) cleanup_server_connections: bool,
    pub(crate) log_client_parameter_status_changes: bool,
    pub(crate) application_name: String,
    pub(crate) prepared_statements_cache_size: Option<usize>,
    pub(crate) prepare_unnamed: bool,
    pub(crate) client_idle_timeout: Option<ConfigDuration>,
    pub(crate) idle_transaction_timeout: Option<ConfigDuration>,
    pub(crate) transaction_timeout: Option<ConfigDuration>,
    pub(crate) query_timeout: Option<ConfigDuration>,
    pub(crate) max_db_connections: Option<usize>,
    pub(crate) reserve_pool_size: Option<usize>,
    pub(crate) reserve_pool_timeout: Option<ConfigDuration>,
    pub(crate) max_db_client_connections: Option<usize>,
    pub(crate) server_tls_mode: Option<String>,
    pub(crate) server_tls_negotiation: Option<String>,
    pub(crate) server_tls_ca_cert: Option<PathBuf>,
    pub(crate) server_tls_certificate: Option<PathBuf>,
    pub(crate) server_tls_private_key: Option<PathBuf>,
    pub(crate) auth_query: Option<AuthQuery>,
    pub(crate) users: Users,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            pool_mode: PoolMode::Transaction,
            server_host: "127.0.0.1".to_owned(),
            server_port: 5432,
            server_database: None,
            connect_timeout: None,
            idle_timeout: None,
            server_lifetime: None,
            cleanup_server_connections: true,
            log_client_parameter_status_changes: false,
            application_name: "pg_doorman".to_owned(),
            prepared_statements_cache_size: None,
            prepare_unnamed: true,
            client_idle_timeout: None,
            idle_transaction_timeout: None,
            transaction_timeout: None,
            query_timeout: None,
            max_db_connections: None,
            reserve_pool_size: None,
            reserve_pool_timeout: None,
            max_db_client_connections: None,
            server_tls_mode: None,
            server_tls_negotiation: None,
            server_tls_ca_cert: None,
            server_tls_certificate: None,
            server_tls_private_key: None,
            auth_query: None,
            users: Users::default(),
        }
    }
}

/// `[pools.<name>.auth_query]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct AuthQuery {
    pub(crate) query: Option<String>,
    pub(crate) user: String,
    pub(crate) password: Secret,
    pub(crate) database: Option<String>,
    pub(crate) workers: u32,
    pub(crate) server_user: Option<String>,
    pub(crate) server_password: Option<Secret>,
    pub(crate) pool_size: u32,
    pub(crate) min_pool_size: u32,
    pub(crate) cache_ttl: ConfigDuration,
    pub(crate) cache_failure_ttl: ConfigDuration,
    pub(crate) min_interval: ConfigDuration,
    pub(crate) max_users: usize,
}

impl Default for AuthQuery {
    fn default() -> Self {
        Self {
            query: None,
            user: String::new(),
            password: Secret::new(""),
            database: None,
            workers: 2,
            server_user: None,
            server_password: None,
            pool_size: 40,
            min_pool_size: 0,
            cache_ttl: ConfigDuration::from_secs(3600),
            cache_failure_ttl: ConfigDuration::from_secs(30),
            min_interval: ConfigDuration::from_secs(1),
            max_users: 1000,
        }
    }
}

/// One user of a pool.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct User {
    pub(crate) username: String,
    pub(crate) password: Secret,
    pub(crate) pool_size: u32,
    pub(crate) min_pool_size: Option<u32>,
    pub(crate) pool_mode: Option<PoolMode>,
    pub(crate) server_lifetime: Option<ConfigDuration>,
    pub(crate) server_username: Option<String>,
    pub(crate) server_password: Option<Secret>,
    pub(crate) server_password_command: Option<String>,
    pub(crate) server_password_command_timeout: Option<ConfigDuration>,
    pub(crate) server_password_command_ttl: Option<ConfigDuration>,
    pub(crate) auth_pam_service: Option<String>,
    pub(crate) client_idle_timeout: Option<ConfigDuration>,
    pub(crate) idle_transaction_timeout: Option<ConfigDuration>,
    pub(crate) transaction_timeout: Option<ConfigDuration>,
    pub(crate) query_timeout: Option<ConfigDuration>,
    pub(crate) reserve_pool_size: Option<usize>,
    pub(crate) max_user_client_connections: Option<usize>,
}

/// `[prometheus]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct Prometheus {
    pub(crate) enabled: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Default for Prometheus {
    fn default() -> Self {
        Self {
            enabled: false,
            host: "0.0.0.0".to_owned(),
            port: 9127,
        }
    }
}

/// `[talos]`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Talos {
    pub(crate) keys: Vec<PathBuf>,
    pub(crate) databases: Vec<String>,
}

/// The users of a pool: an array of tables, or a table whose keys are numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users(pub(crate) Vec<User>);

impl<'de> Deserialize<'de> for Users {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UsersVisitor)
    }
}

struct UsersVisitor;

impl<'de> Visitor<'de> for UsersVisitor {
    type Value = Users;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of users")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Users, A::Error> {
        let mut users = Vec::new();
        while let Some(user) = seq.next_element()? {
            users.push(user);
        }
        Ok(Users(users))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Users, A::Error> {
        let mut users = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key.parse::<u64>().is_err() {
                return Err(A::Error::custom(format!(
                    "invalid user key '{key}': expected numeric index or use array format"
                )));
            }
            users.push(map.next_value()?);
        }
        Ok(Users(users))
    }
}

/// `general.pg_hba` before its rules are parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PgHba {
    Content(String),
    Path(PathBuf),
}

impl<'de> Deserialize<'de> for PgHba {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PgHbaVisitor)
    }
}

/// The only table of the file in which an unknown key is an error: a misspelt `path` would
/// otherwise mean "no rules".
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PgHbaTable {
    path: Option<PathBuf>,
    content: Option<String>,
}

struct PgHbaVisitor;

impl<'de> Visitor<'de> for PgHbaVisitor {
    type Value = PgHba;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rules, or a table with 'path' or 'content'")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PgHba, E> {
        Ok(PgHba::Content(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PgHba, A::Error> {
        let table = PgHbaTable::deserialize(MapAccessDeserializer::new(map))?;
        match (table.content, table.path) {
            (Some(content), _) => Ok(PgHba::Content(content)),
            (None, Some(path)) => Ok(PgHba::Path(path)),
            (None, None) => Err(A::Error::custom(
                "expected either 'path' or 'content' field for PgHba",
            )),
        }
    }
}
