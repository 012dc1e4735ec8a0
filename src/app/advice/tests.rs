//! Tests of the warnings.

use super::*;
use crate::config;

fn load(text: &str) -> Config {
    let name = format!("doorman-advice-{}.toml", rand::random::<u64>());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, text).unwrap();
    let loaded = config::load(&path);
    std::fs::remove_file(&path).unwrap();
    loaded.unwrap_or_else(|error| panic!("{error}")).config
}

/// A file without doubtful settings, with other lines put in.
fn with(general: &str, pool: &str, user: &str) -> String {
    format!(
        "[general]\nadmin_username = 'a'\nadmin_password = 'long and secret'\n{general}\n\
         [pools.db]\n{pool}\n[[pools.db.users]]\nusername = 'u'\n{user}\n"
    )
}

const USER: &str = "password = 'md5dd9a0f26a4302744db881776a09bbfad'\npool_size = 4";

fn of(text: &str) -> Vec<String> {
    warnings(&load(text), Facts::default())
}

#[test]
fn a_sound_file_gets_no_warnings() {
    assert_eq!(of(&with("", "", USER)), [""; 0]);
}

#[test]
fn the_reference_file_is_sound_but_for_its_password() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pg_doorman.toml");
    let config = config::load(&path).unwrap().config;
    let found = warnings(&config, Facts::default());
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with("general.admin_password"), "{found:#?}");
}

/// Lines of `[general]` and how the sentence about them begins.
const DOUBTFUL: &[(&str, &str)] = &[
    (
        "query_wait_timeout = 0",
        "general.query_wait_timeout = 0: a client gets an error",
    ),
    (
        "query_wait_timeout = '1s'",
        "general.query_wait_timeout = 1s is shorter than",
    ),
    (
        "connect_timeout = 0",
        "general.connect_timeout = 0: no server connection",
    ),
    (
        "client_login_timeout = 0",
        "general.client_login_timeout = 0: a client that never",
    ),
    (
        "max_connections = 0",
        "general.max_connections = 0: every client",
    ),
    (
        "max_connections = 3",
        "pools.db, user u: pool_size = 4 is more than",
    ),
    (
        "max_memory_usage = '1K'",
        "general.max_memory_usage = 1024 bytes",
    ),
    (
        "server_lifetime = '1s'",
        "pools.db: server_lifetime = 1s: server connections",
    ),
    (
        "idle_timeout = '10m'",
        "pools.db: idle_timeout = 10m has no effect: server_lifetime = 5m",
    ),
    (
        "tokio_event_interval = 5",
        "general.tokio_event_interval has no effect",
    ),
    (
        "verify_server_certificate = true",
        "general.verify_server_certificate = true without",
    ),
    (
        "tls_rate_limit_per_second = 100",
        "general.tls_rate_limit_per_second = 100 has no",
    ),
    (
        "pg_hba = 'host all all 0.0.0.0/0 trust'",
        "general.pg_hba, line 1: trust from every",
    ),
    ("pg_hba = ''", "general.pg_hba has no rule: nobody"),
];

#[test]
fn each_doubtful_setting_is_named_with_its_consequence() {
    for (general, expected) in DOUBTFUL {
        let found = of(&with(general, "", USER));
        assert!(
            found.iter().any(|sentence| sentence.starts_with(expected)),
            "{general}: {found:#?}"
        );
    }
    let size = USER.replace("= 4", "= 0");
    for (pool, user, expected) in [
        (
            "cleanup_server_connections = false",
            USER,
            "pools.db: cleanup_server_connections",
        ),
        ("", size.as_str(), "pools.db, user u: pool_size = 0"),
        (
            "",
            "password = 'hunter2'\npool_size = 1",
            "pools.db, user u: password is in clear",
        ),
        (
            "",
            "password = ''\npool_size = 1",
            "pools.db, user u: password is empty",
        ),
        (
            "",
            "password = 'SCRAM-SHA-256$x'\npool_size = 1",
            "pools.db, user u: password is not a",
        ),
    ] {
        let found = of(&with("", pool, user));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with(expected), "{found:#?}");
        assert!(!found[0].contains("hunter2"));
    }
}

#[test]
fn a_trusting_rule_for_some_addresses_is_no_doubt() {
    let rules = "pg_hba = 'host all all 127.0.0.1/32 trust'";
    assert_eq!(
        of(&with(rules, "", "password = ''\npool_size = 1")),
        [""; 0]
    );
}

#[test]
fn the_machine_is_taken_into_account() {
    let config = load(&with("worker_threads = 2", "", USER));
    let facts = |cpus, file_mode, files_max| Facts {
        cpus: Some(cpus),
        file_mode: Some(file_mode),
        files_max: Some(files_max),
    };
    assert_eq!(warnings(&config, facts(2, 0o100_640, 100_000)), [""; 0]);
    let found = warnings(&config, facts(1, 0o100_644, 1024));
    let starts = [
        "general.worker_threads = 2",
        "general.max_connections = 8192",
        "/",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (sentence, start) in found.iter().zip(starts) {
        assert!(sentence.starts_with(start), "{found:#?}");
    }
    assert!(found[2].contains("mode 0644"));
    assert!(files_max().is_some());
}

#[test]
fn pools_that_hide_or_are_hidden_are_named() {
    let text = with("", "", USER).replace("pools.db", "pools.pgbouncer");
    assert!(of(&text)[0].starts_with("pools.pgbouncer cannot be reached"));
    let nobody = "[general]\nadmin_username = 'a'\nadmin_password = 'secret one'\n[pools.x]\n";
    assert_eq!(of(nobody), ["pools.x has no users: nobody can use it"]);
}
