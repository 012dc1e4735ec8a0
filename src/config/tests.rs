//! Tests of rules and resolved values, through the whole of loading.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::hba::{HbaAddress, HbaMethod, HbaName};
use super::load::load_with;
use super::*;

const GENERAL: &str = "[general]\nadmin_username = 'a'\nadmin_password = 'b'\n";
const USER: &str = "[[pools.db.users]]\nusername = 'u'\npassword = 'hunter2'\npool_size = 5\n";

/// Files the rules may look at.
fn read(text: &str) -> impl Fn(&Path) -> io::Result<Vec<u8>> {
    let main = text.as_bytes().to_vec();
    move |path| match path.to_str() {
        Some("x.toml" | "x.yaml") => Ok(main.clone()),
        Some("cert.pem") => Ok(b"text\n-----BEGIN CERTIFICATE-----\n".to_vec()),
        Some("key.pem") => Ok(b"-----BEGIN PRIVATE KEY-----\n".to_vec()),
        Some("public.pem") => Ok(b"-----BEGIN PUBLIC KEY-----\r\n".to_vec()),
        Some("junk") => Ok(b"hunter2 \xff".to_vec()),
        Some("rules") => Ok(b"\nhost all all 10.0.0.0/8 md5\n".to_vec()),
        Some("bad-rules") => Ok(b"\nhost all all nowhere md5\n".to_vec()),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such file")),
    }
}

fn load(text: &str) -> Loaded {
    load_with(Path::new("x.toml"), &read(text)).unwrap_or_else(|error| panic!("{error}"))
}

fn config(text: &str) -> Config {
    let loaded = load(text);
    assert_eq!(loaded.warnings, [""; 0]);
    loaded.config
}

fn error(text: &str) -> String {
    let error = load_with(Path::new("x.toml"), &read(text))
        .unwrap_err()
        .to_string();
    assert!(!error.contains("hunter2"), "{error}");
    error
}

#[test]
fn the_minimal_toml_file_loads() {
    let config = config(
        r#"
        [general]
        host = "127.0.0.1"
        port = 6432
        admin_username = "admin"
        admin_password = "admin"
        pg_hba.content = "host all all 127.0.0.1/32 trust"

        [pools.example_db]
        server_host = "127.0.0.1"
        server_port = 5432

        [[pools.example_db.users]]
        username = "example_user_1"
        password = ""
        pool_size = 10
        "#,
    );
    assert_eq!(
        (config.general.host.as_str(), config.general.port),
        ("127.0.0.1", 6432)
    );
    let rules = config.general.pg_hba.unwrap();
    assert_eq!((rules[0].line, &rules[0].method), (1, &HbaMethod::Trust));
    assert_eq!(rules[0].users, [HbaName::All]);
    let pool = &config.pools[0];
    assert_eq!(
        (pool.name.as_str(), pool.server_database.as_str()),
        ("example_db", "example_db")
    );
    assert_eq!(
        pool.server,
        Endpoint::Tcp {
            host: "127.0.0.1".into(),
            port: 5432
        }
    );
    assert_eq!(
        (pool.users[0].pool_size, pool.users[0].min_pool_size),
        (10, 0)
    );
    assert_eq!(pool.users[0].server_username, "example_user_1");
    assert_eq!(config.path, PathBuf::from("x.toml"));
}

#[test]
fn several_listen_addresses_are_a_list_or_a_text() {
    let host = |line: &str| config(&format!("{GENERAL}{line}\n[pools]\n")).general.host;
    assert_eq!(host("host = ['10.0.0.1', '::1']"), "10.0.0.1, ::1");
    assert_eq!(host("host = '10.0.0.1,::1'"), "10.0.0.1,::1");
    let only_unix = config(&format!(
        "{GENERAL}host = ''\nunix_socket_dir = '/run/p'\nunix_socket_mode = '0770'\n[pools]\n"
    ));
    assert_eq!(only_unix.general.unix_socket_mode, 0o770);
    for (line, reason) in [
        ("host = []", "host is empty and unix_socket_dir is not set"),
        ("unix_socket_mode = '0888'", "invalid mode: '0888'"),
        ("log_level = 'loud'", "log_level should be error, warn"),
    ] {
        let error = error(&format!("{GENERAL}{line}\n[pools]\n"));
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn the_minimal_yaml_file_loads() {
    let text = r#"
general:
  host: "0.0.0.0"
  port: 6432
  admin_username: "admin"
  admin_password: "admin"
pools:
  exampledb:
    server_host: "/var/run/postgresql"
    pool_mode: "session"
    users:
      - username: "doorman"
        password: "md5dd9a0f26a4302744db881776a09bbfad"
        pool_size: 40
        server_username: "doorman"
        server_password: "plain"
"#;
    let config = load_with(Path::new("x.yaml"), &read(text)).unwrap().config;
    let pool = &config.pools[0];
    let socket = PathBuf::from("/var/run/postgresql/.s.PGSQL.5432");
    assert_eq!(pool.server, Endpoint::Unix { path: socket });
    assert_eq!(
        (pool.pool_mode, pool.users[0].pool_mode),
        (PoolMode::Session, PoolMode::Session)
    );
    assert_eq!(pool.users[0].server_password, Some(Secret::new("plain")));
}

#[test]
fn keys_that_are_left_out_have_their_defaults() {
    let config = config(&format!("{GENERAL}[pools.db]\n{USER}"));
    let general = &config.general;
    for (duration, seconds) in [
        (general.client_login_timeout, 60),
        (general.connect_timeout, 3),
        (general.query_wait_timeout, 5),
        (general.idle_timeout, 300_000),
        (general.server_lifetime, 300),
        (general.retain_connections_time, 30),
        (general.server_idle_check_timeout, 60),
        (general.shutdown_timeout, 10),
        (general.limits.proxy_copy_data_timeout, 15),
        (general.tcp_keepalives_idle, 5),
        (general.tcp_user_timeout, 60),
    ] {
        assert_eq!(duration, Duration::from_secs(seconds));
    }
    assert_eq!(
        (
            general.port,
            general.max_connections,
            general.worker_threads
        ),
        (5432, 8192, 4)
    );
    assert_eq!(
        (general.max_memory_usage, general.message_size_to_be_stream),
        (256 << 20, 1 << 20)
    );
    assert_eq!(
        (general.tls_mode, general.pg_hba.is_none()),
        (TlsMode::Allow, true)
    );
    assert_eq!(
        config.prometheus,
        Prometheus {
            enabled: false,
            host: "0.0.0.0".into(),
            port: 9127
        }
    );
    assert_eq!(config.talos, None);
    let pool = &config.pools[0];
    assert_eq!(
        (pool.pool_mode, pool.prepared_statements_cache_size),
        (PoolMode::Transaction, 8192)
    );
    assert_eq!(
        (pool.application_name.as_str(), pool.idle_timeout),
        ("pg_doorman", None)
    );
    assert!(pool.cleanup_server_connections && !pool.log_client_parameter_status_changes);
}

#[test]
fn pool_and_user_settings_are_resolved() {
    let config = config(&format!(
        "{GENERAL}prepared_statements_cache_size = 10\n\
         [pools.db]\npool_mode = 'Session'\nserver_database = 'real'\nconnect_timeout = 5\n\
         idle_timeout = 0\nserver_lifetime = '7s'\nprepared_statements_cache_size = 0\n\
         {USER}pool_mode = 'transaction'\nserver_lifetime = 9\nauth_pam_service = 'pam'\n\
         [pools.z]"
    ));
    let pool = &config.pools[0];
    assert_eq!(pool.server_database, "real");
    assert_eq!(pool.connect_timeout, Some(Duration::from_millis(5)));
    assert_eq!(pool.idle_timeout, Some(Duration::ZERO));
    assert_eq!(pool.server_lifetime, Some(Duration::from_secs(7)));
    assert_eq!(pool.prepared_statements_cache_size, 0);
    assert_eq!(config.pools[1].prepared_statements_cache_size, 10);
    let user = &pool.users[0];
    assert_eq!(
        (user.pool_mode, pool.pool_mode),
        (PoolMode::Transaction, PoolMode::Session)
    );
    assert_eq!(user.server_lifetime, Some(Duration::from_millis(9)));
    assert_eq!(user.auth_pam_service.as_deref(), Some("pam"));
}

#[test]
fn users_as_a_numbered_table_come_in_the_order_of_their_keys() {
    let user = |key: &str| {
        format!("[pools.db.users.{key}]\nusername = 'u{key}'\npassword = ''\npool_size = 1\n")
    };
    let text = format!("{GENERAL}{}{}{}", user("2"), user("10"), user("0"));
    let config = config(&text);
    let names: Vec<_> = config.pools[0]
        .users
        .iter()
        .map(|user| user.username.as_str())
        .collect();
    assert_eq!(names, ["u0", "u10", "u2"]);
    let error = error(&format!("{GENERAL}{}", user("first")));
    let expected = "invalid user key 'first': expected numeric index or use array format";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn missing_required_keys_are_named() {
    for (text, field) in [
        ("[pools]", "general"),
        (GENERAL, "pools"),
        ("general.admin_password = ''\n[pools]", "admin_username"),
        ("general.admin_username = ''\n[pools]", "admin_password"),
    ] {
        let expected =
            format!("Configuration error: Could not merge config: missing field `{field}`");
        assert!(error(text).starts_with(&expected), "{}", error(text));
    }
    for key in ["username", "password", "pool_size"] {
        let line = USER.lines().find(|line| line.starts_with(key)).unwrap();
        let error = error(&format!("{GENERAL}{}", USER.replace(line, "")));
        let place = "(pools.db.users[0] in x.toml)";
        assert!(
            error.ends_with(&format!("missing field `{key}` {place}")),
            "{error}"
        );
    }
    for (talos, field) in [("keys = []", "databases"), ("databases = []", "keys")] {
        let error = error(&format!("{GENERAL}[pools]\n[talos]\n{talos}"));
        assert!(
            error.ends_with(&format!("missing field `{field}` (talos in x.toml)")),
            "{error}"
        );
    }
}

/// Lines of `[general]` with the reason of their refusal and its key.
const REFUSALS: &[(&str, &str, &str)] = &[
    (
        "tls_rate_limit_per_second = 1",
        "tls rate limit should be > 100",
        "tls_rate_limit_per_second",
    ),
    (
        "tls_rate_limit_per_second = 99",
        "tls rate limit should be > 100",
        "tls_rate_limit_per_second",
    ),
    (
        "tls_rate_limit_per_second = 150",
        "tls rate limit should be multiple 100",
        "tls_rate_limit_per_second",
    ),
    (
        "hba = ['10.0.0.0/8']\npg_hba = ''",
        "general.hba and general.pg_hba cannot be specified at the same time",
        "pg_hba",
    ),
    (
        "hba = ['::1/128', 'x']",
        "'x' is not a network: expected a CIDR such as 10.0.0.0/8",
        "hba[1]",
    ),
    (
        "proxy_protocol_networks = ['::1/128', 'x']",
        "'x' is not a network: expected a CIDR such as 10.0.0.0/8",
        "proxy_protocol_networks[1]",
    ),
    (
        "pg_hba = \"#\\nhost all all x md5\"",
        "general.pg_hba: line 2: 'x' is not an address",
        "pg_hba",
    ),
    (
        "pg_hba.path = 'bad-rules'",
        "bad-rules: line 2: 'nowhere' is not an address",
        "pg_hba",
    ),
    (
        "pg_hba.path = 'none'",
        "failed to read hba file none: no such file",
        "pg_hba",
    ),
    (
        "pg_hba.path = 'junk'",
        "failed to read hba file junk: not valid UTF-8",
        "pg_hba",
    ),
    (
        "prepared_statements_cache_size = 0",
        "The value of prepared_statements_cache should be greater than 0 if prepared_statements are \
 enabled",
        "prepared_statements_cache_size",
    ),
    (
        "tls_private_key = 'key.pem'",
        "tls_private_key is set but tls_certificate is not",
        "tls_private_key",
    ),
    (
        "tls_certificate = 'cert.pem'",
        "tls_certificate is set but tls_private_key is not",
        "tls_certificate",
    ),
    (
        "tls_mode = 'prefer'",
        "Invalid tls_mode: prefer",
        "tls_mode",
    ),
    (
        "tls_mode = 'Require'",
        "Invalid tls_mode: Require",
        "tls_mode",
    ),
    (
        "tls_mode = 'require'",
        "tls_mode is require but tls_certificate or tls_private_key is not",
        "tls_mode",
    ),
    (
        "tls_mode = 'verify-full'",
        "tls_mode is verify-full but tls_certificate or tls_private_key is not",
        "tls_mode",
    ),
    (
        "tls_mode = 'verify-full'\ntls_certificate = 'cert.pem'\ntls_private_key = 'key.pem'",
        "tls_mode is verify-full but tls_ca_cert is not set",
        "tls_ca_cert",
    ),
    (
        "tls_certificate = 'none'\ntls_private_key = 'key.pem'",
        "tls is incorrectly configured: cannot read none: no such file",
        "tls_certificate",
    ),
    (
        "tls_certificate = 'cert.pem'\ntls_private_key = 'junk'",
        "tls is incorrectly configured: junk has no PEM section \"PRIVATE KEY\"",
        "tls_private_key",
    ),
    (
        "worker_threads = 0",
        "worker_threads should be greater than 0",
        "worker_threads",
    ),
];

#[test]
fn rules_about_general_have_their_messages() {
    for (lines, reason, key) in REFUSALS {
        let error = error(&format!("{GENERAL}{lines}\n[pools]"));
        assert!(
            error.starts_with(&format!("Configuration error: {reason}")),
            "{error}"
        );
        assert!(
            error.ends_with(&format!(" (general.{key} in x.toml)")),
            "{error}"
        );
    }
}

#[test]
fn rules_about_other_tables_have_their_messages() {
    let both = "both the server_password and server_username must be specified at the same time";
    let jwt = "JWT public key error: ";
    for (text, reason, key) in [
        (
            format!("{USER}{USER}"),
            "duplicate username 'u' in pool users",
            "pools.db.users[1].username",
        ),
        (
            format!("{USER}server_username = 's'"),
            both,
            "pools.db.users[0].server_password",
        ),
        (
            format!("{USER}server_password = 'hunter2'"),
            both,
            "pools.db.users[0].server_username",
        ),
        (
            format!("{USER}min_pool_size = 6"),
            "min_pool_size of 6 cannot be larger than pool_size of 5",
            "pools.db.users[0].min_pool_size",
        ),
        (
            USER.replace("hunter2", "jwt-pkey-fpath:none"),
            &format!("{jwt}cannot read none"),
            "pools.db.users[0].password",
        ),
        (
            USER.replace("hunter2", "jwt-pkey-fpath:key.pem"),
            &format!("{jwt}key.pem has no PEM"),
            "pools.db.users[0].password",
        ),
        (
            "[talos]\nkeys = ['public.pem', 'none']\ndatabases = []\n[pools]".into(),
            &format!("{jwt}cannot read none"),
            "talos.keys[1]",
        ),
        (
            "[prometheus]\nenabled = true\nhost = 'localhost'\n[pools]".into(),
            "prometheus.host should be an IP address: 'localhost'",
            "prometheus.host",
        ),
    ] {
        let error = error(&format!("{GENERAL}{text}"));
        assert!(
            error.starts_with(&format!("Configuration error: {reason}")),
            "{error}"
        );
        assert!(error.ends_with(&format!(" ({key} in x.toml)")), "{error}");
    }
    let error = error(&format!("{GENERAL}[pools.db]\npool_mode = 'statement'"));
    assert!(error.contains("unknown variant `statement`"), "{error}");
}

#[test]
fn rules_about_proofs_have_their_messages() {
    for (text, reason, key) in [
        (
            format!("{USER}server_username = 's'\nserver_password = 'jwt-priv-key-fpath:none'"),
            "JWT private key error: cannot read none",
            "pools.db.users[0].server_password",
        ),
        (
            format!(
                "{USER}server_username = 's'\nserver_password = 'x'\nserver_password_command = 'y'"
            ),
            "server_password and server_password_command exclude each other",
            "pools.db.users[0].server_password_command",
        ),
        (
            format!("pg_ident = \"m /( x\"\n{USER}"),
            "line 1: '/(': ",
            "general.pg_ident",
        ),
        (
            format!("pg_ident = {{ path = 'none' }}\n{USER}"),
            "cannot read none: ",
            "general.pg_ident",
        ),
    ] {
        let error = error(&format!("{GENERAL}{text}"));
        assert!(
            error.starts_with(&format!("Configuration error: {reason}")),
            "{error}"
        );
        assert!(error.ends_with(&format!(" ({key} in x.toml)")), "{error}");
    }
}

#[test]
fn allowed_combinations_load() {
    let tls = "tls_certificate = 'cert.pem'\ntls_private_key = 'key.pem'\n";
    for lines in [
        "tls_rate_limit_per_second = 100".to_owned(),
        "tls_mode = 'disable'".to_owned(),
        format!("{tls}tls_mode = 'disable'"),
        format!("{tls}tls_mode = 'verify-full'\ntls_ca_cert = 'not-read-here'"),
        "prepared_statements = false\nprepared_statements_cache_size = 0".to_owned(),
        "hba = []\npg_hba = ''".to_owned(),
        "[prometheus]\nhost = 'localhost'".to_owned(),
        "[talos]\nkeys = ['public.pem']\ndatabases = ['db']".to_owned(),
    ] {
        let jwt = USER.replace("hunter2", "jwt-pkey-fpath:public.pem");
        config(&format!("path = 'old.toml'\n{GENERAL}{lines}\n{jwt}"));
    }
    let config = config(&format!(
        "{GENERAL}pg_hba = {{ path = 'none', content = 'local all all trust' }}\n[pools]"
    ));
    assert_eq!(config.general.pg_hba.unwrap()[0].address, HbaAddress::None);
}

#[test]
fn doubtful_settings_load_with_a_warning() {
    let loaded = load(&format!(
        "{GENERAL}max_concurrent_creates = 0\npool_mode = 'session'\n\
         pg_hba = 'hostgssenc all all all trust'\n[pools]"
    ));
    assert_eq!(loaded.config.general.max_concurrent_creates, 1);
    let expected = [
        "unknown key `pool_mode` in general is ignored: it belongs into pools.<name>",
        "general.pg_hba: line 1: connections with GSSAPI encryption do not exist here; line ignored",
        "general.max_concurrent_creates is 0, 1 is used instead",
    ];
    assert_eq!(loaded.warnings, expected);
}

#[test]
fn debug_output_has_no_passwords() {
    let text = format!(
        "{}{USER}server_username = 's'\nserver_password = 'hunter2'",
        GENERAL.replace("'b'", "'hunter2'")
    );
    let debug = format!("{:?}", load(&text));
    assert!(!debug.contains("hunter2"), "{debug}");
    assert_eq!(debug.matches("***").count(), 3);
}
