//! Every key of the file in words: the source of the reference documents and of the remarks about
//! unknown keys.
//!
//! **Owns:** description, documented default and time of effect of each key.
//! **Does not own:** what is parsed (`schema`); tests prove that both name the same keys and defaults.
//! Keys that are not there (`unknown`).
//! **Invariant:** one row for each key, in the order of the documents.

/// One key of the configuration file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The table it stands in.
    pub section: Section,
    /// Heading in the documents.
    pub group: &'static str,
    /// The key as written in the file.
    pub name: &'static str,
    /// The type in words.
    pub kind: &'static str,
    /// A TOML value, or words such as `required`.
    pub default: &'static str,
    /// A TOML value to show when `default` is words.
    pub example: &'static str,
    /// When a changed value is used.
    pub effect: Effect,
    /// What it does.
    pub meaning: &'static str,
}

/// A table of the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `[pools.<name>.auth_query]`.
    AuthQuery,
    /// `[general]`.
    General,
    /// `[include]`.
    Include,
    /// `[pools.<name>]`.
    Pool,
    /// `[prometheus]`.
    Prometheus,
    /// `[talos]`.
    Talos,
    /// `[[pools.<name>.users]]`.
    User,
}

impl Section {
    /// The table as the documents call it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::AuthQuery => "pools.<name>.auth_query",
            Self::General => "general",
            Self::Include => "include",
            Self::Pool => "pools.<name>",
            Self::Prometheus => "prometheus",
            Self::Talos => "talos",
            Self::User => "pools.<name>.users",
        }
    }
}

/// When a changed value is used after a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// From the next use on.
    AtOnce,
    /// Never: accepted for the sake of existing files.
    Ignored,
    /// By clients that connect later.
    NewClients,
    /// By client and server connections opened later.
    NewConnections,
    /// By server connections opened later.
    NewServers,
    /// By pools that are built later.
    PoolRebuild,
    /// After a restart or binary upgrade.
    Restart,
}

impl Effect {
    /// As the documents say it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::AtOnce => "at once",
            Self::Ignored => "no effect",
            Self::NewClients => "new clients",
            Self::NewConnections => "new connections",
            Self::NewServers => "new servers",
            Self::PoolRebuild => "rebuilt pools",
            Self::Restart => "restart",
        }
    }
}

/// Rows of the form `name: "type" = "default" or "example", effect, "meaning";`.
macro_rules! keys {
    ($([$section:ident, $group:literal]
        $($name:ident: $kind:literal = $default:literal $(or $example:literal)?, $effect:ident,
          $meaning:literal;)*)*) => {
        &[$($(Key {
            section: Section::$section,
            group: $group,
            name: stringify!($name),
            kind: $kind,
            default: $default,
            example: concat!($($example)?),
            effect: Effect::$effect,
            meaning: $meaning,
        },)*)*]
    };
}

/// All keys.
pub static KEYS: &[Key] = keys! {
[Include, "Include"]
    files: "array of paths" = "[]", AtOnce,
        "Further files, TOML or YAML, merged into this one in their order: tables merge, arrays are concatenated, the later of two scalars wins. Paths are relative to the working directory. Not recursive.";

[General, "Network"]
    host: "string or array" = "\"0.0.0.0\"", Restart,
        "Listen addresses: a list, or one text with commas. Each is an IP, a name, of which the first address is used, or `*`: everywhere. An IPv6 `::` takes IPv4, too, unless an IPv4 address is listed. Empty = only the Unix socket.";
    port: "integer" = "5432", Restart,
        "Listen port.";
    unix_socket_dir: "path" = "not set" or "\"/var/run/pg_doorman\"", Restart,
        "Directory for a Unix-domain listening socket `.s.PGSQL.<port>`. Lines `local` of `pg_hba` are for its clients.";
    unix_socket_mode: "octal string" = "\"0600\"", Restart,
        "Who may connect to it, as in chmod. `0777` = everybody on this machine, `0770` = its group.";
    backlog: "integer" = "0", Restart,
        "Length of the accept queue. 0 = `max_connections`.";
    max_connections: "integer" = "8192", AtOnce,
        "Most clients at the same time; further ones are refused with an error.";
    tcp_keepalives_idle: "seconds" = "5", NewConnections,
        "Idle time before the first TCP keepalive probe, for clients and servers. 0 = the system's value.";
    tcp_keepalives_interval: "seconds" = "5", NewConnections,
        "Time between TCP keepalive probes. 0 = the system's value.";
    tcp_keepalives_count: "integer" = "5", NewConnections,
        "Unanswered keepalive probes after which a connection is dead. 0 = the system's value.";
    tcp_so_linger: "seconds" = "0", NewConnections,
        "Time a closed socket may take to send what is left. 0 = close sends a reset.";
    tcp_no_delay: "bool" = "true", NewConnections,
        "Send small packets at once (TCP_NODELAY).";
    tcp_user_timeout: "seconds" = "60", NewConnections,
        "Time sent bytes may stay unacknowledged (TCP_USER_TIMEOUT). 0 = the system's default.";
    unix_socket_buffer_size: "size" = "\"1MB\"", NewServers,
        "Kernel buffers, each direction, of connections to servers on Unix-domain sockets.";

[General, "Timeouts"]
    client_login_timeout: "duration" = "\"60s\"", NewClients,
        "Time from accept to the end of authentication. 0 = off.";
    connect_timeout: "duration" = "\"3s\"", NewServers,
        "Time to open a server connection, authentication included.";
    query_wait_timeout: "duration" = "\"5s\"", AtOnce,
        "Time a client waits for a free server connection before it gets an error.";
    idle_timeout: "duration" = "\"300000s\"", AtOnce,
        "Server connections unused for this long are closed. 0 = off.";
    server_lifetime: "duration" = "\"5m\"", NewServers,
        "Age at which server connections are closed, varied by up to 20 % for each. 0 = off.";
    retain_connections_time: "duration" = "\"30s\"", Restart,
        "Period of the task that closes idle and old server connections. 0 = off.";
    retain_connections_max: "integer" = "3", Restart,
        "Most idle server connections this task closes in one run. 0 = no limit.";
    server_idle_check_timeout: "duration" = "\"60s\"", AtOnce,
        "Server connections idle for longer are tested with an empty query before use. 0 = off.";
    shutdown_timeout: "duration" = "\"10s\"", Restart,
        "Time a graceful shutdown may take.";
    tls_relay_max_lifetime: "duration" = "0", AtOnce,
        "After a binary upgrade, encrypted clients that the old process still has for this long are disconnected between two transactions (57P01), each up to a fifth earlier. 0 = off.";
    proxy_copy_data_timeout: "duration" = "\"15s\"", AtOnce,
        "Time that one row above `message_size_to_be_stream` may take on its way to a client; then client and server are closed. 0 = no limit.";
    client_idle_timeout: "duration" = "0", AtOnce,
        "A client that is silent for this long outside of a transaction is disconnected (57P05). 0 = off.";
    idle_transaction_timeout: "duration" = "0", AtOnce,
        "A client that is silent for this long in a transaction is disconnected (25P03), and the transaction rolled back. 0 = off.";
    transaction_timeout: "duration" = "0", AtOnce,
        "A client whose transaction takes longer is disconnected (25P04). Time in which it waits for a server does not count. 0 = off.";
    query_timeout: "duration" = "0", AtOnce,
        "A client whose query takes longer on a server is disconnected (57014); the query is cancelled and its server connection closed. A COPY is one query. 0 = off.";

[General, "Memory and message sizes"]
    message_size_to_be_stream: "size" = "\"1MB\"", AtOnce,
        "Rows above this have `proxy_copy_data_timeout` to get to their client. 0 = none has.";
    max_memory_usage: "size" = "\"256MB\"", NewClients,
        "Most bytes of client messages being read at the same time; a message above that is refused.";

[General, "Logging"]
    log_client_connections: "bool" = "false", AtOnce,
        "Log when clients connect and when they leave, with the reason.";
    log_client_disconnections: "bool" = "false", AtOnce,
        "Log when clients leave, even if `log_client_connections` is off.";
    log_level: "string" = "as --log-level" or "\"info\"", AtOnce,
        "How much is logged: `error`, `warn`, `info`, `debug` or `trace`. Goes before the command line and `LOG_LEVEL`.";
    log_min_duration: "duration" = "0", AtOnce,
        "Log queries that take at least this long, with the first 1000 bytes of their text. 0 = off. What stands in the text, stands in the log.";
    syslog_prog_name: "string" = "not set" or "\"pg_doorman\"", Restart,
        "Log to the local syslog under this name instead of standard output, facility `user`.";

[General, "Workers"]
    worker_threads: "integer" = "4", Restart,
        "Number of shards, each a thread with its own clients and servers. 1 to 1024.";
    worker_cpu_affinity_pinning: "bool" = "false", Restart,
        "Pin each shard to one of the allowed CPUs.";
    worker_stack_size: "size" = "not set" or "\"8MB\"", Restart,
        "Stack of a shard's thread.";
    max_blocking_threads: "integer" = "not set" or "512", Ignored,
        "Accepted for existing files.";
    tokio_global_queue_interval: "integer" = "not set" or "5", Ignored,
        "Accepted for existing files.";
    tokio_event_interval: "integer" = "not set" or "1", Ignored,
        "Accepted for existing files.";

[General, "Pool behaviour"]
    server_round_robin: "bool" = "false", AtOnce,
        "Use the server connection that has been idle longest instead of the last used one.";
    sync_server_parameters: "bool" = "false", PoolRebuild,
        "Bring the server's parameters in line with the client's when it gets a server connection.";
    max_concurrent_creates: "integer" = "4", AtOnce,
        "Server connections of one pool being opened at the same time. 0 counts as 1.";
    max_db_connections: "integer" = "0", AtOnce,
        "Most server connections of one database, all its users and all shards together. When they are all there, an idle one of another user is closed for a client that waits. 0 = no limit.";
    reserve_pool_size: "integer" = "0", AtOnce,
        "Server connections that a pool may have beyond `pool_size` for clients that have waited for `reserve_pool_timeout`; they are closed when nobody waits any more.";
    reserve_pool_timeout: "duration" = "\"5s\"", AtOnce,
        "Wait after which a client may have a server connection of the reserve. 0 = there is no reserve.";
    max_db_client_connections: "integer" = "0", AtOnce,
        "Most clients of one database; further ones are refused (53300). 0 = no limit.";
    max_user_client_connections: "integer" = "0", AtOnce,
        "Most clients of one user, in all databases together; further ones are refused (53300). 0 = no limit.";
    pooler_check_query: "string" = "\";\"", AtOnce,
        "A simple query of exactly this text is answered as an empty one, if the client has no server at the moment.";
    pooler_check_query_request_bytes: "array of bytes" = "not set" or "[81, 0, 0, 0, 6, 59, 0]", AtOnce,
        "The complete message to look for instead of the one made from `pooler_check_query`.";
    prepared_statements: "bool" = "true", PoolRebuild,
        "Rename prepared statements so that they work in transaction mode.";
    prepared_statements_cache_size: "integer" = "8192", AtOnce,
        "Statements remembered for each pool and for each server connection. More than 0 if `prepared_statements` is on.";
    client_prepared_statements_cache_size: "integer" = "0", AtOnce,
        "Named statements remembered for each client; beyond it the least used is forgotten. 0 = no limit.";
    prepared_statements_memory: "size" = "\"1GB\"", AtOnce,
        "Memory for the prepared statements that clients keep. A client that prepares another one beyond it is disconnected.";

[General, "TLS"]
    tls_certificate: "path" = "not set" or "\"/etc/pg_doorman/server.crt\"", NewClients,
        "Certificate chain for clients, PEM. TLS is offered if this is set. The file is read again at each reload.";
    tls_private_key: "path" = "not set" or "\"/etc/pg_doorman/server.key\"", NewClients,
        "Private key of `tls_certificate`, PEM, without a passphrase.";
    tls_ca_cert: "path" = "not set" or "\"/etc/pg_doorman/ca.crt\"", NewClients,
        "Authorities that sign client certificates, PEM. Needed for `verify-full`.";
    tls_mode: "string" = "not set" or "\"allow\"", NewClients,
        "`allow` (as when not set): plain and TLS clients; `disable`: no TLS; `require`: TLS only; `verify-full`: TLS with a client certificate only.";
    tls_rate_limit_per_second: "integer" = "0", NewClients,
        "Most TLS handshakes with clients a second, a multiple of 100; others wait. 0 = no limit.";
    tls_min_version: "string" = "not set" or "\"TLSv1.2\"", NewClients,
        "Lowest version spoken with clients: `TLSv1.2` (as when not set) or `TLSv1.3`.";
    tls_max_version: "string" = "not set" or "\"TLSv1.3\"", NewClients,
        "Highest version spoken with clients: `TLSv1.2` or `TLSv1.3` (as when not set).";
    tls_ciphers: "string" = "not set" or "\"TLS_AES_128_GCM_SHA256:ECDHE-ECDSA-AES128-GCM-SHA256\"", NewClients,
        "Cipher suites spoken with clients, the preferred first, separated by colons. Names of OpenSSL or of the RFCs.";
    server_tls: "bool" = "false", PoolRebuild,
        "An older way to say `server_tls_mode = \"prefer\"`.";
    verify_server_certificate: "bool" = "false", PoolRebuild,
        "With `server_tls`, an older way to say `server_tls_mode = \"verify-full\"`.";
    server_tls_mode: "string" = "not set" or "\"verify-full\"", PoolRebuild,
        "TLS towards servers, over TCP, as `sslmode` of libpq: `disable`, `allow` (as when not set: only if the server refuses a plain connection), `prefer`, `require`, `verify-ca`, `verify-full`. `require` verifies the certificate if `server_tls_ca_cert` is set.";
    server_tls_negotiation: "string" = "not set" or "\"postgres\"", PoolRebuild,
        "`postgres` (as when not set): ask the server for TLS; `direct`: begin with TLS at once, which servers understand from version 17 on.";
    server_tls_ca_cert: "path" = "not set" or "\"/etc/pg_doorman/server-ca.crt\"", PoolRebuild,
        "Authorities that sign certificates of servers, PEM. `system`, or not set with a mode that verifies: those of the operating system.";
    server_tls_certificate: "path" = "not set" or "\"/etc/pg_doorman/client.crt\"", PoolRebuild,
        "Certificate chain that the pooler shows to servers, PEM.";
    server_tls_private_key: "path" = "not set" or "\"/etc/pg_doorman/client.key\"", PoolRebuild,
        "Private key of `server_tls_certificate`, PEM, without a passphrase.";

[General, "Admin console and daemon"]
    admin_username: "string" = "required" or "\"admin\"", AtOnce,
        "User of the admin console (databases `pgdoorman` and `pgbouncer`).";
    admin_password: "string" = "required" or "\"change-me\"", AtOnce,
        "Password of the admin console.";
    daemon_pid_file: "path" = "\"/tmp/pg_doorman.pid\"", Restart,
        "Where `--daemon` writes its process id.";

[General, "Access control"]
    hba: "array of networks" = "[]", AtOnce,
        "Networks clients may come from. Empty = everywhere. Not together with `pg_hba`.";
    pg_hba: "string or table" = "not set" or "{ path = \"/etc/pg_doorman/pg_hba.conf\" }", AtOnce,
        "Rules in the syntax of PostgreSQL's `pg_hba.conf`: the text itself, `{ content = \"…\" }` or `{ path = \"…\" }`.";
    pg_ident: "string or table" = "not set" or "{ path = \"/etc/pg_doorman/pg_ident.conf\" }", AtOnce,
        "Maps for the rules with `map=`, in the syntax of PostgreSQL's `pg_ident.conf`: the text itself, `{ content = \"…\" }` or `{ path = \"…\" }`.";
    proxy_protocol_networks: "array of networks" = "[]", NewClients,
        "Proxies that pass connections on with a header of the PROXY protocol, version 1 or 2. Connections from these networks must begin with it, and the address in it is the client's. From elsewhere it is refused.";
    jwt_audience: "string" = "not set" or "\"pg_doorman\"", AtOnce,
        "Tokens of clients must name this audience (`aud`).";
    jwt_issuer: "string" = "not set" or "\"https://sso.example.com\"", AtOnce,
        "Tokens of clients must come from this issuer (`iss`).";
    server_cleartext_password: "bool" = "false", NewServers,
        "Send passwords in clear to servers that ask for it, over a network without TLS. Over TLS, loopback addresses and Unix sockets that is done anyway.";

[Prometheus, "Prometheus"]
    enabled: "bool" = "false", Restart,
        "Serve metrics over HTTP at `/metrics`.";
    host: "IP address" = "\"0.0.0.0\"", Restart,
        "Address of the metrics listener.";
    port: "integer" = "9127", Restart,
        "Port of the metrics listener.";

[Talos, "Talos"]
    keys: "array of paths" = "required" or "[\"/etc/pg_doorman/talos/key1.pem\"]", AtOnce,
        "RSA public keys, PEM. The file name without its extension is the key id in tokens.";
    databases: "array of strings" = "required" or "[\"exampledb\"]", AtOnce,
        "Resource names accepted in tokens.";

[Pool, "Pools"]
    pool_mode: "string" = "\"transaction\"", PoolRebuild,
        "`transaction`: a server connection is lent for one transaction; `session`: until the client leaves.";
    server_host: "string" = "\"127.0.0.1\"", PoolRebuild,
        "IP or name of the server, resolved at each connect, or the directory of its Unix-domain socket if it begins with `/`.";
    server_port: "integer" = "5432", PoolRebuild,
        "Port of the server.";
    server_database: "string" = "the pool's name" or "\"exampledb\"", PoolRebuild,
        "Name of the database on the server.";
    application_name: "string" = "\"pg_doorman\"", PoolRebuild,
        "`application_name` of the server connections.";
    connect_timeout: "duration" = "as general" or "\"3s\"", PoolRebuild,
        "Overrides the general key for this pool.";
    idle_timeout: "duration" = "as general" or "\"10m\"", PoolRebuild,
        "Overrides the general key for this pool. 0 = off.";
    server_lifetime: "duration" = "as general" or "\"5m\"", PoolRebuild,
        "Overrides the general key for this pool. 0 = off.";
    cleanup_server_connections: "bool" = "true", PoolRebuild,
        "Reset a server connection whose state a client changed before the next client gets it.";
    log_client_parameter_status_changes: "bool" = "false", PoolRebuild,
        "Log parameter changes that servers report while they serve a client.";
    prepared_statements_cache_size: "integer" = "as general" or "8192", AtOnce,
        "Overrides the general key for this pool. 0 = prepared statements are not renamed.";
    prepare_unnamed: "bool" = "true", PoolRebuild,
        "Keep unnamed statements on servers too, so that a query sent again and again is parsed once (up to 16 KiB; longer ones pass as they are). `false` if clients often change tables that they read with `select *`.";
    client_idle_timeout: "duration" = "as general" or "\"1h\"", AtOnce,
        "Overrides the general key for this pool. 0 = off.";
    idle_transaction_timeout: "duration" = "as general" or "\"1m\"", AtOnce,
        "Overrides the general key for this pool. 0 = off.";
    transaction_timeout: "duration" = "as general" or "\"10m\"", AtOnce,
        "Overrides the general key for this pool. 0 = off.";
    query_timeout: "duration" = "as general" or "\"5m\"", AtOnce,
        "Overrides the general key for this pool. 0 = off.";
    max_db_connections: "integer" = "as general" or "100", AtOnce,
        "Overrides the general key for this database. 0 = no limit.";
    reserve_pool_size: "integer" = "as general" or "5", AtOnce,
        "Overrides the general key for each user of this database.";
    reserve_pool_timeout: "duration" = "as general" or "\"5s\"", AtOnce,
        "Overrides the general key for this database. 0 = there is no reserve.";
    max_db_client_connections: "integer" = "as general" or "1000", AtOnce,
        "Overrides the general key for this database. 0 = no limit.";
    server_tls_mode: "string" = "as general" or "\"verify-full\"", PoolRebuild,
        "Overrides the general key for this pool.";
    server_tls_negotiation: "string" = "as general" or "\"postgres\"", PoolRebuild,
        "Overrides the general key for this pool.";
    server_tls_ca_cert: "path" = "as general" or "\"/etc/pg_doorman/server-ca.crt\"", PoolRebuild,
        "Overrides the general key for this pool.";
    server_tls_certificate: "path" = "as general" or "\"/etc/pg_doorman/client.crt\"", PoolRebuild,
        "Overrides the general key for this pool. Only together with `server_tls_private_key`.";
    server_tls_private_key: "path" = "as general" or "\"/etc/pg_doorman/client.key\"", PoolRebuild,
        "Overrides the general key for this pool. Only together with `server_tls_certificate`.";
    auth_query: "table" = "not set" or "{ user = \"pooler\", password = \"change-me\" }", PoolRebuild,
        "How users are found who are not in the file: the table [below](#users-who-are-not-in-the-file).";
    users: "array of tables" = "[]", PoolRebuild,
        "The users of this pool. A table with numbers as keys is accepted as well.";

[User, "Users"]
    username: "string" = "required" or "\"app_user\"", PoolRebuild,
        "Name clients log in with; unique in its pool.";
    password: "string" = "required" or "\"md5dd9a0f26a4302744db881776a09bbfad\"", AtOnce,
        "What clients must prove: a SCRAM-SHA-256 verifier or md5 hash as in `pg_authid`, `jwt-pkey-fpath:<path>` for tokens signed with that key (or one of a key set, JSON), a password in clear, or empty if only `trust` rules apply.";
    pool_size: "integer" = "required" or "40", AtOnce,
        "Most server connections of this user to this database, over all shards.";
    min_pool_size: "integer" = "0", AtOnce,
        "Server connections kept open, over all shards; at most `pool_size`.";
    pool_mode: "string" = "as pool" or "\"transaction\"", PoolRebuild,
        "Overrides the pool's mode for this user.";
    server_lifetime: "duration" = "as pool" or "\"5m\"", PoolRebuild,
        "Overrides the pool's value for this user. 0 = off.";
    server_username: "string" = "as username" or "\"app_user\"", PoolRebuild,
        "Name on the server. Only together with `server_password`.";
    server_password: "string" = "not set" or "\"change-me\"", PoolRebuild,
        "Password on the server, or `jwt-priv-key-fpath:<path>` to sign a token with that key. Only together with `server_username`.";
    server_password_command: "string" = "not set" or "\"/usr/local/bin/get-token\"", PoolRebuild,
        "A command of the shell that prints the password for the server. It finds `PGHOST`, `PGPORT`, `PGUSER` and `PGDATABASE` in its environment. Instead of `server_password`.";
    server_password_command_timeout: "duration" = "5 s" or "\"5s\"", PoolRebuild,
        "How long `server_password_command` may run.";
    server_password_command_ttl: "duration" = "10 min" or "\"10m\"", PoolRebuild,
        "How long its answer is used. After a refused login it is asked again earlier.";
    auth_pam_service: "string" = "not set" or "\"pg_doorman\"", AtOnce,
        "Authenticate this user with this PAM service; `password` is then not compared.";
    client_idle_timeout: "duration" = "as pool" or "\"1h\"", AtOnce,
        "Overrides the pool's value for this user. 0 = off.";
    idle_transaction_timeout: "duration" = "as pool" or "\"1m\"", AtOnce,
        "Overrides the pool's value for this user. 0 = off.";
    transaction_timeout: "duration" = "as pool" or "\"10m\"", AtOnce,
        "Overrides the pool's value for this user. 0 = off.";
    query_timeout: "duration" = "as pool" or "\"5m\"", AtOnce,
        "Overrides the pool's value for this user. 0 = off.";
    reserve_pool_size: "integer" = "as pool" or "5", AtOnce,
        "Overrides the pool's value for this user.";
    max_user_client_connections: "integer" = "as general" or "500", AtOnce,
        "Overrides the general key when this user logs in to this database. 0 = no limit.";

[AuthQuery, "Users who are not in the file"]
    query: "string" = "over pg_authid" or "\"SELECT usename, passwd FROM public.get_auth($1)\"", AtOnce,
        "Asked with the user's name as `$1`. The secret is in column `passwd` or `password`, or the only one; `valuntil` says until when it is valid. Names need a schema: only `pg_catalog` is searched.";
    user: "string" = "required" or "\"pooler\"", PoolRebuild,
        "Who asks; must be allowed to see the secrets.";
    password: "string" = "\"\"", PoolRebuild,
        "Its password.";
    database: "string" = "as server_database" or "\"postgres\"", PoolRebuild,
        "Where it asks. Required for the pool `*`.";
    workers: "integer" = "2", AtOnce,
        "Most connections that ask, over all shards.";
    server_user: "string" = "not set" or "\"app\"", PoolRebuild,
        "All users that are found share servers of this user. Not set: each has its own, and the pooler logs in with what the client has proved.";
    server_password: "string" = "not set" or "\"change-me\"", PoolRebuild,
        "Password of `server_user`.";
    pool_size: "integer" = "40", AtOnce,
        "Most server connections of each user that is found, or of `server_user`.";
    min_pool_size: "integer" = "0", AtOnce,
        "Server connections kept open; at most `pool_size`.";
    cache_ttl: "duration" = "\"1h\"", AtOnce,
        "How long an answer is used, and a user kept whom nobody uses.";
    cache_failure_ttl: "duration" = "\"30s\"", AtOnce,
        "How long it is believed that there is no such user.";
    min_interval: "duration" = "\"1s\"", AtOnce,
        "After a wrong password the same user is asked for again, but not more often than this.";
    max_users: "integer" = "1000", AtOnce,
        "Most users that are found, at the same time.";
};

/// The keys of one table.
pub fn keys_of(section: Section) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.section == section)
}
