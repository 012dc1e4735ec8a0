//! Tests of the migration.

use std::collections::HashMap;
use std::io;

use super::*;
use crate::auth::StoredPassword;
use crate::config::hba::{self, HbaMethod};
use crate::config::{self, Config, Endpoint, PoolMode, ServerTlsMode};

type Files<'a> = &'a [(&'a str, &'a str)];

/// The migrated configuration, its text and the remarks. The first file is the configuration.
fn migrate_with(files: Files<'_>, asked: &[&str]) -> (Config, String, Vec<String>) {
    let files: HashMap<PathBuf, Vec<u8>> = files
        .iter()
        .map(|(name, text)| (name.into(), text.as_bytes().to_vec()))
        .collect();
    let read = |path: &Path| {
        files
            .get(path)
            .cloned()
            .ok_or(io::ErrorKind::NotFound.into())
    };
    let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
    let outcome = translate(Path::new("pgbouncer.ini"), &asked, &read).unwrap();
    let text = outcome.text(Path::new("pgbouncer.ini"));
    let name = format!(
        "doorman-migrate-{}-{}.toml",
        std::process::id(),
        rand::random::<u64>()
    );
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, &text).unwrap();
    let loaded = config::load(&path);
    std::fs::remove_file(&path).unwrap();
    let loaded = loaded.unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(loaded.warnings, [""; 0], "{text}");
    (loaded.config, text, outcome.remarks)
}

fn migrate(ini: &str, users: &str) -> (Config, String, Vec<String>) {
    migrate_with(&[("pgbouncer.ini", ini), ("u.txt", users)], &[])
}

const USUAL: &str = "
;; a comment = with an equals sign
[databases]
shop = host=10.0.0.5 port=5433 dbname=shop_prod pool_size=30 min_pool_size=2
forced = host=/run/pg user=app password='it''s secret' pool_mode=session application_name=x
\"odd name\" = host = db.example
[users]
bob = pool_mode=session pool_size=7
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 6543
unix_socket_dir = /var/run/pgbouncer
auth_type = scram-sha-256
auth_file = u.txt
admin_users = alice
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 25
server_idle_timeout = 90.5
server_round_robin = 1
tcp_keepidle = 60
tcp_user_timeout = 1500
max_prepared_statements = 100
pidfile = /run/p.pid
# the last one counts
server_lifetime = 1
server_lifetime = 1200
";

const USUAL_USERS: &str =
    "; comment\n\"alice\" \"pl\"\"ain\"\n\"bob\" \"md50123456789abcdef0123456789abcdef\" x\n";

#[test]
fn settings_are_carried_over() {
    let (config, ..) = migrate(USUAL, USUAL_USERS);
    let general = &config.general;
    assert_eq!((general.host.as_str(), general.port), ("127.0.0.1", 6543));
    assert_eq!(general.max_connections, 1000);
    assert_eq!(general.idle_timeout.as_millis(), 90_500);
    assert_eq!(general.server_lifetime.as_secs(), 1200);
    assert_eq!(general.connect_timeout.as_secs(), 15, "PgBouncer's default");
    assert_eq!(
        general.query_wait_timeout.as_secs(),
        120,
        "PgBouncer's default"
    );
    assert_eq!(general.tcp_user_timeout.as_secs(), 2);
    assert_eq!(general.prepared_statements_cache_size, 100);
    assert!(general.server_round_robin && general.log_client_connections);
    assert_eq!(general.admin_username, "alice");
    assert_eq!(general.admin_password.expose(), "pl\"ain");
    let rules = general.pg_hba.as_ref().unwrap();
    assert!(
        rules
            .iter()
            .all(|rule| rule.method == HbaMethod::ScramSha256)
    );
}

#[test]
fn databases_and_users_become_pools() {
    let (config, text, _) = migrate(USUAL, USUAL_USERS);
    let names: Vec<_> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["forced", "odd name", "shop"]);
    let shop = &config.pools[2];
    let server = Endpoint::Tcp {
        host: "10.0.0.5".to_owned(),
        port: 5433,
    };
    assert_eq!(
        (&shop.server, shop.server_database.as_str()),
        (&server, "shop_prod")
    );
    assert_eq!(shop.pool_mode, PoolMode::Transaction);
    let [alice, bob] = shop.users.as_slice() else {
        panic!("{text}");
    };
    assert!(matches!(
        StoredPassword::parse(alice.password.expose()),
        StoredPassword::Scram(_)
    ));
    assert_eq!(alice.server_password.as_ref().unwrap().expose(), "pl\"ain");
    assert_eq!((alice.pool_size, alice.min_pool_size), (30, 2));
    assert_eq!((bob.pool_size, bob.pool_mode), (7, PoolMode::Session));
    assert_eq!(bob.server_password, None);
    let forced = &config.pools[0].users[1];
    assert_eq!(forced.server_username, "app");
    assert_eq!(
        forced.server_password.as_ref().unwrap().expose(),
        "it's secret"
    );
}

#[test]
fn limits_are_carried_over_with_their_owners() {
    let ini = "[databases]\nd = host=h user=u password=p max_db_connections=7 reserve_pool=2\n\
        [users]\nu = query_timeout=1.5 max_user_client_connections=9\n\
        [pgbouncer]\nreserve_pool_size = 3\nreserve_pool_timeout = 2\nclient_idle_timeout = 60\n\
        idle_transaction_timeout = 61\ntransaction_timeout = 62\nquery_timeout = 63\n\
        max_db_connections = 11\nmax_db_client_connections = 12\nmax_user_client_connections = 13\n";
    let (config, _, remarks) = migrate(ini, "");
    let general = config.general.limits;
    let seconds = [
        general.reserve_pool_timeout,
        general.client_idle_timeout,
        general.idle_transaction_timeout,
        general.transaction_timeout,
        general.query_timeout,
    ];
    assert_eq!(seconds.map(|time| time.as_secs()), [2, 60, 61, 62, 63]);
    let counts = (general.max_db_connections, general.reserve_pool_size);
    assert_eq!(counts, (11, 3));
    let clients = (
        general.max_db_client_connections,
        general.max_user_client_connections,
    );
    assert_eq!(clients, (12, 13));
    let pool = &config.pools[0];
    let own = config.limits_of(pool, &pool.users[0]);
    assert_eq!((own.max_db_connections, own.reserve_pool_size), (7, 2));
    assert_eq!(own.query_timeout.as_millis(), 1500);
    assert_eq!(own.max_user_client_connections, 9);
    assert!(!remarks.concat().contains("counterpart"), "{remarks:#?}");
}

#[test]
fn remarks_stand_at_the_head_and_hold_no_secrets() {
    let (_, text, remarks) = migrate(USUAL, USUAL_USERS);
    for expected in [
        "user bob: only a hash",
        "database forced: user = app: one pool for all",
    ] {
        assert!(
            remarks.iter().any(|remark| remark.starts_with(expected)),
            "{remarks:#?}"
        );
    }
    for secret in ["pl\"ain", "it's", "it''s", "0123456789abcdef"] {
        assert!(!remarks.concat().contains(secret), "{remarks:#?}");
    }
    let head: String = text
        .lines()
        .take_while(|line| line.starts_with('#'))
        .collect();
    assert!(head.contains("only a hash"), "{text}");
}

#[test]
fn an_empty_configuration_gets_the_defaults_of_pgbouncer_and_loads() {
    let (config, _, remarks) = migrate("[pgbouncer]\n[databases]\n", "");
    let general = &config.general;
    assert_eq!((general.host.as_str(), general.port), ("127.0.0.1", 6432));
    assert_eq!((general.max_connections, general.backlog), (100, 128));
    assert_eq!(general.server_lifetime.as_secs(), 3600);
    assert_eq!(general.idle_timeout.as_secs(), 600);
    assert!(general.log_client_connections && general.log_client_disconnections);
    assert_eq!(config.pools, []);
    assert_eq!(general.admin_password.expose().len(), 24);
    assert!(
        remarks
            .iter()
            .any(|remark| remark.starts_with("listen_addr (not set)"))
    );
}

#[test]
fn all_listen_addresses_and_the_unix_socket_are_taken_over() {
    for (written, expected) in [
        ("listen_addr = *", "*"),
        ("listen_addr = ::1, 10.0.0.1", "::1, 10.0.0.1"),
        ("unix_socket_dir = /run/p\nunix_socket_mode = 0750", ""),
        (
            "listen_addr = db.example\nunix_socket_dir = /run/p",
            "db.example",
        ),
    ] {
        let (config, ..) = migrate(&format!("[databases]\n[pgbouncer]\n{written}"), "");
        let general = &config.general;
        assert_eq!(general.host, expected);
        let has_unix = written.contains("/run/p");
        assert_eq!(general.unix_socket_dir.is_some(), has_unix, "{written}");
        let mode = if written.contains("0750") {
            0o750
        } else {
            0o777
        };
        assert_eq!(general.unix_socket_mode, mode, "{written}");
    }
}

#[test]
fn a_fallback_database_is_expanded_on_demand() {
    let ini = "[databases]\n* = host=h user=u password=p\na = host=a\n[pgbouncer]\nauth_type=any";
    let files = [("pgbouncer.ini", ini)];
    let (config, _, _) = migrate_with(&files, &["a", "b"]);
    let names: Vec<_> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(config.pools[1].users[0].username, "u");
    let (config, _, remarks) = migrate_with(&files, &[]);
    assert_eq!(config.pools.len(), 1);
    assert!(
        remarks
            .iter()
            .any(|remark| remark.starts_with("database *: has no counterpart"))
    );
}

#[test]
fn what_has_no_counterpart_or_another_meaning_is_told() {
    for (setting, expected) in [
        ("query_timeout = 5", ""),
        (
            "max_user_connections = 5",
            "max_user_connections = 5: has no counterpart: sizes",
        ),
        (
            "auth_query = select 1",
            "auth_query = select 1: has no counterpart in this version",
        ),
        (
            "query_timeout = soon",
            "query_timeout = soon: cannot be read",
        ),
        (
            "query_wait_timeout = 0",
            "query_wait_timeout = 0: means for ever there",
        ),
        (
            "pool_mode = statement",
            "database d: pool_mode = statement: does not exist",
        ),
        ("no_such_thing = 1", "no_such_thing (line 4): is not known"),
        (
            "max_client_conn = many",
            "max_client_conn = many: cannot be read",
        ),
        (
            "auth_type = ldap",
            "auth_type = ldap: has no counterpart: the rules let in nobody",
        ),
        ("auth_type = trust", "auth_type = trust: lets in everybody"),
        (
            "server_tls_sslmode = no_such_mode",
            "server_tls_sslmode = no_such_mode: is not known",
        ),
        (
            "client_tls_sslmode = require",
            "client_tls_sslmode = require: needs a key",
        ),
        (
            "auth_file = nowhere",
            "auth_file = nowhere: its users are missing",
        ),
    ] {
        let ini = format!("[databases]\nd = host=h\n[pgbouncer]\n{setting}");
        let (_, text, remarks) = migrate(&ini, "");
        let is_told = remarks.iter().any(|remark| remark.starts_with(expected));
        if expected.is_empty() {
            assert!(
                !remarks.concat().contains("query_timeout"),
                "{setting}: {remarks:#?}"
            );
        } else {
            assert!(is_told, "{setting}: {remarks:#?}");
            assert!(text.contains("# * "), "{text}");
        }
    }
}

#[test]
fn rule_files_are_used_if_they_can_be_read() {
    let ini = "[pgbouncer]\nauth_type = hba\nauth_hba_file = rules";
    let bad = "host all all localhost trust";
    let (config, _, remarks) = migrate_with(&[("pgbouncer.ini", ini), ("rules", bad)], &[]);
    let rules = config.general.pg_hba.unwrap();
    assert!(rules.iter().all(|rule| rule.method == HbaMethod::Reject));
    assert!(
        remarks
            .iter()
            .any(|remark| remark.contains("rules, line 1: 'localhost'")),
        "{remarks:#?}"
    );
    let files = HashMap::from([("pgbouncer.ini", ini), ("rules", "local all all md5")]);
    let read = |path: &Path| Ok(files[path.to_str().unwrap()].as_bytes().to_vec());
    let outcome = translate(Path::new("pgbouncer.ini"), &[], &read).unwrap();
    assert!(
        outcome
            .text(Path::new("x"))
            .contains("pg_hba = { path = \"rules\" }")
    );
}

#[test]
fn files_are_put_together_and_faults_are_named_without_their_text() {
    let main = "[databases]\n%include dbs.ini\n[pgbouncer]\nlisten_port = 1";
    let (config, _, _) = migrate_with(&[("pgbouncer.ini", main), ("dbs.ini", "x = host=h")], &[]);
    assert_eq!((config.pools.len(), config.general.port), (1, 1));
    for (text, expected) in [
        ("[pgbouncer\n", "x, line 1: no ] at the end"),
        ("\n[a]\nhunter2", "x, line 3: not `key = value`"),
        ("%include x", "x, line 1: files include each other too deep"),
    ] {
        let error = ini::read_ini(Path::new("x"), &|_| Ok(text.as_bytes().to_vec()));
        assert_eq!(error.unwrap_err().to_string(), expected);
    }
}

#[test]
fn connection_strings_are_read_as_pgbouncer_reads_them() {
    let pairs = |text| ini::connection_string(text);
    let owned = |list: &[(&str, &str)]| {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Some(list.iter().map(pair).collect::<Vec<_>>())
    };
    assert_eq!(pairs(""), owned(&[]));
    assert_eq!(
        pairs(" a = 1 b='x y' c='it''s' d='' e=f=g"),
        owned(&[
            ("a", "1"),
            ("b", "x y"),
            ("c", "it's"),
            ("d", ""),
            ("e", "f=g")
        ])
    );
    for bad in ["a", "a b=1", "=1", "a='x"] {
        assert_eq!(pairs(bad), None, "{bad}");
    }
}

#[test]
fn md5_clients_keep_their_method() {
    let ini = "[databases]\nd = host=h\n[pgbouncer]\nauth_file = u.txt";
    let (config, _, _) = migrate(ini, "\"bob\" \"secret\"");
    let stored = StoredPassword::parse(config.pools[0].users[0].password.expose());
    assert!(matches!(stored, StoredPassword::Md5(_)));
}

#[test]
fn arbitrary_text_never_panics() {
    let seed: u64 = rand::random();
    let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed);
    let words = [
        "[databases]",
        "[pgbouncer]",
        "\n",
        "=",
        "'",
        "\"",
        "*",
        "a",
        " ",
        "host",
        ";",
        "é",
    ];
    for _ in 0..5000 {
        let pick = |_| words[rand::Rng::random_range(&mut rng, 0..words.len())];
        let text: String = (0..20).map(pick).collect();
        let _ = ini::user_list(&text);
        let _ = translate(Path::new("x"), &[], &|_| Ok(text.as_bytes().to_vec()));
    }
}

#[test]
fn words_are_understood_in_capitals() {
    let ini = "[databases]\nd = host=h pool_mode=TRANSACTION\ne = host=h\nf = host=h pool_mode=Statement\n[users]\nbob = pool_mode=Session\n\
               [pgbouncer]\nauth_type = SCRAM-SHA-256\npool_mode = Transaction\nauth_file = u.txt\n\
               client_tls_sslmode = DISABLE\nclient_tls_ciphers = Default\nserver_tls_sslmode = Verify-Full\n";
    let (config, _, remarks) = migrate(ini, "\"bob\" \"x\"\n\"eve\" \"y\"");
    let rules = config.general.pg_hba.unwrap();
    assert!(
        rules
            .iter()
            .all(|rule| rule.method == HbaMethod::ScramSha256)
    );
    for pool in &config.pools {
        let modes = [pool.users[0].pool_mode, pool.users[1].pool_mode];
        assert_eq!(modes, [PoolMode::Session, PoolMode::Transaction]);
    }
    let told = remarks.concat();
    assert!(!told.contains("not known"), "{told}");
    let mode = config.pools[0].server_tls.mode;
    assert_eq!(mode, ServerTlsMode::VerifyFull);
    assert!(
        told.contains("database f: pool_mode = Statement: does not exist"),
        "{told}"
    );
    assert!(
        !remarks.concat().contains("client_tls_ciphers"),
        "{remarks:#?}"
    );
}

#[test]
fn zeros_that_mean_for_ever_do_not_become_never() {
    let ini =
        "[databases]\nd = host=h server_lifetime=0\n[pgbouncer]\nserver_connect_timeout = 0\n";
    let (config, _, remarks) = migrate(ini, "");
    assert_eq!(config.general.connect_timeout.as_secs(), 86_400);
    let lifetime = config.pools[0].server_lifetime.unwrap();
    assert_eq!(lifetime.as_millis(), 1);
    let expected = "server_connect_timeout = 0: means for ever there";
    assert!(remarks.concat().contains(expected), "{remarks:#?}");
}

#[test]
fn what_pam_decides_is_not_decided_by_a_password() {
    let ini = "[databases]\nd = host=h\n[pgbouncer]\nauth_type = PAM\nauth_file = u.txt\n";
    let (config, text, _) = migrate(ini, "\"bob\" \"hunter2\"");
    let bob = &config.pools[0].users[0];
    assert_eq!(bob.auth_pam_service.as_deref(), Some("pgbouncer"));
    assert_eq!(bob.password.expose(), "", "{text}");
    let of_server = bob.server_password.as_ref().unwrap();
    assert_eq!(of_server.expose(), "hunter2");
}

#[test]
fn values_of_unknown_settings_are_not_repeated() {
    let main = "[pgbouncer]\n\nadmin_pasword = hunter2\nauth_ldap_options = pw=hunter2\n%include x";
    let included = "secret_key = hunter2";
    let (_, text, remarks) = migrate_with(&[("pgbouncer.ini", main), ("x", included)], &[]);
    assert!(!text.contains("hunter2") && !remarks.concat().contains("hunter2"));
    for expected in [
        "admin_pasword (line 3)",
        "auth_ldap_options (line 4)",
        "secret_key (x, line 1)",
    ] {
        let is_told = remarks.iter().any(|remark| remark.starts_with(expected));
        assert!(is_told, "{expected}: {remarks:#?}");
    }
}

#[test]
fn rules_about_the_console_get_both_of_its_names() {
    let ini = "[pgbouncer]\nauth_type = hba\nauth_hba_file = /no/rules";
    let text = "# first\nhost \"pgbouncer\",a pgbouncer 10.0.0.0/8 md5\n\
                hostssl a,pgbouncer all all reject # pgbouncer\nhost all all all md5\n\
                host all all 127.0.0.1/32 trust\n";
    let (config, _, remarks) = migrate_with(&[("pgbouncer.ini", ini), ("/no/rules", text)], &[]);
    let rules = config.general.pg_hba.unwrap();
    let names = |names: &[&str]| {
        let name = |name: &&str| hba::HbaName::Name((*name).to_owned());
        names.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(rules[0].databases, names(&["pgbouncer", "pgdoorman", "a"]));
    assert_eq!(rules[0].users, names(&["pgbouncer"]));
    assert_eq!(rules[1].databases, names(&["a", "pgbouncer", "pgdoorman"]));
    assert_eq!(rules.len(), 4);
    for expected in [
        "the rules are written out",
        "line 5: nobody comes to this rule",
    ] {
        assert!(remarks.concat().contains(expected), "{remarks:#?}");
    }
}

#[test]
fn files_of_tls_come_whole_or_not_at_all() {
    for (settings, has_files) in [
        (
            "client_tls_sslmode = disable\nclient_tls_cert_file = /no/c\nclient_tls_key_file = /no/k",
            false,
        ),
        (
            "client_tls_cert_file = /no/c\nclient_tls_key_file = /no/k",
            false,
        ),
        (
            "client_tls_sslmode = require\nclient_tls_key_file = /no/k",
            false,
        ),
        (
            "client_tls_sslmode = Require\nclient_tls_cert_file = /no/c\nclient_tls_key_file = /no/k",
            true,
        ),
    ] {
        let ini = format!("[pgbouncer]\n{settings}\n");
        let read = |path: &Path| match path.to_str() {
            Some("pgbouncer.ini") => Ok(ini.as_bytes().to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let mut outcome = translate(Path::new("pgbouncer.ini"), &[], &read).unwrap();
        let text = outcome.text(Path::new("x"));
        assert_eq!(text.contains("tls_certificate = "), has_files, "{text}");
        assert_eq!(text.contains("tls_private_key = "), has_files, "{text}");
        outcome.check(Path::new("x"), Path::new("r.toml"), &read);
        let told = outcome.remarks.concat().contains("CANNOT BE USED");
        assert_eq!(told, has_files, "{:#?}", outcome.remarks);
    }
}

#[test]
fn a_database_that_nothing_stands_for_is_told() {
    for (databases, is_told) in [
        ("a = host=h", true),
        ("* = host=h", false),
        ("* = host=h\nb = host=h", true),
    ] {
        let ini = format!("[databases]\n{databases}\n");
        let (_, _, remarks) = migrate_with(&[("pgbouncer.ini", &ini)], &["b"]);
        let found = remarks
            .iter()
            .any(|remark| remark.starts_with("--database b: has no effect"));
        assert_eq!(found, is_told, "{databases}: {remarks:#?}");
    }
}
