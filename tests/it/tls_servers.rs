//! TLS with servers.
//!
//! Owns: modes, certificates on both sides, cancel requests, what a false server may say.
//! Does not own: TLS with clients (`tls`).
//!
//! Source: libpq-ssl.html "Protection Provided in Different Modes", auth-pg-hba-conf.html.

use std::sync::{Mutex, MutexGuard, OnceLock};

use crate::cancel::cancel;
use crate::common::message::query;
use crate::common::postgres::HBA;
use crate::common::scripted::ScriptedServer;
use crate::common::tls::{self, Certificates, Wanted};
use crate::common::{Config, Doorman, Postgres, User, eventually};

/// One PostgreSQL for all tests here: with TLS, and users who must have it, must not, or need a certificate.
struct Servers {
    certificates: Certificates,
    encrypted: Postgres,
}

fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| {
        let certificates = Certificates::new();
        certificates.make("app", &Wanted::client());
        let rules = format!(
            "hostssl all needs_tls 127.0.0.1/32 scram-sha-256\n\
             hostnossl all hates_tls 127.0.0.1/32 scram-sha-256\n\
             host all needs_tls,hates_tls 127.0.0.1/32 reject\n{HBA}"
        );
        let encrypted = Postgres::with(&rules, Some((&certificates, "server")));
        for user in ["needs_tls", "hates_tls"] {
            encrypted.sql(&format!("create role {user} login password 'secret'"));
        }
        Servers {
            certificates,
            encrypted,
        }
    })
}

/// The tests here share users and look at what all sessions of them do.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn config(postgres: &Postgres, user: &str, mode: &str) -> Config {
    Config::new(postgres)
        .users(vec![User::new("app", 2).server(user, "secret")])
        .general("server_tls_mode", mode)
        .general("connect_timeout", "3s")
}

/// Whether the server's session is encrypted; none if there is no session.
fn has_tls(doorman: &Doorman) -> Option<bool> {
    let Ok(mut client) = doorman.login().attempt() else {
        let log = doorman.log();
        let why = |line: &&str| line.contains("server connection failed");
        println!("no session: {:?}", log.lines().rfind(why));
        return None;
    };
    let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    Some(client.value(sql) == "t")
}

#[test]
fn modes_are_those_of_libpq() {
    let _alone = alone();
    let Servers {
        certificates,
        encrypted,
    } = servers();
    let authority = certificates.file("ca.crt");
    let plain = Postgres::with(HBA, None);
    let on = |postgres: &Postgres, user: &str, mode: &str| {
        let config = config(postgres, user, mode).general("server_tls_ca_cert", authority.as_str());
        has_tls(&config.start())
    };
    let expected = [
        // mode, with TLS offered, not offered, demanded by the rules, forbidden by them
        ("disable", Some(false), Some(false), None, Some(false)),
        ("allow", Some(false), Some(false), Some(true), Some(false)),
        ("prefer", Some(true), Some(false), Some(true), Some(false)),
        ("require", Some(true), None, Some(true), None),
        ("verify-ca", Some(true), None, Some(true), None),
        ("verify-full", Some(true), None, Some(true), None),
    ];
    for (mode, offered, missing, demanded, forbidden) in expected {
        assert_eq!(on(encrypted, "app", mode), offered, "{mode}, offered");
        assert_eq!(on(&plain, "app", mode), missing, "{mode}, missing");
        assert_eq!(
            on(encrypted, "needs_tls", mode),
            demanded,
            "{mode}, demanded"
        );
        assert_eq!(
            on(encrypted, "hates_tls", mode),
            forbidden,
            "{mode}, forbidden"
        );
    }
}

#[test]
fn the_older_keys_still_count() {
    let _alone = alone();
    let Servers {
        certificates,
        encrypted,
    } = servers();
    let config = || Config::new(encrypted).general("server_tls", true);
    assert_eq!(has_tls(&config().start()), Some(true));
    let strangers = Certificates::new();
    let with = |of: &Certificates| {
        let config = config().general("verify_server_certificate", true);
        has_tls(
            &config
                .general("server_tls_ca_cert", of.file("ca.crt"))
                .start(),
        )
    };
    assert_eq!(with(certificates), Some(true));
    assert_eq!(with(&strangers), None);
}

#[test]
fn a_server_that_is_somebody_else_is_refused_and_the_log_says_why() {
    let _alone = alone();
    let Servers {
        certificates,
        encrypted,
    } = servers();
    let strangers = Certificates::new();
    for mode in ["require", "verify-ca", "verify-full"] {
        let authority = strangers.file("ca.crt");
        let config = config(encrypted, "app", mode).general("server_tls_ca_cert", authority);
        let doorman = config.start();
        assert_eq!(has_tls(&doorman), None, "{mode}");
        assert!(doorman.log().contains("UnknownIssuer"), "{mode}");
    }
    let doorman = config(encrypted, "app", "require").start();
    assert_eq!(has_tls(&doorman), Some(true), "nobody is to be asked");

    let elsewhere = Wanted {
        hosts: &["db.example"],
        ..Wanted::server()
    };
    certificates.make("elsewhere", &elsewhere);
    let named = Wanted {
        common_name: "127.0.0.1",
        hosts: &[],
        is_expired: false,
    };
    certificates.make("named", &named);
    let old = Wanted {
        is_expired: true,
        ..Wanted::server()
    };
    certificates.make("old", &old);
    certificates.make_self_signed("alone", "127.0.0.1");
    for (name, authority, with_authority, with_name) in [
        ("elsewhere", "ca", true, false),
        ("named", "ca", true, true),
        ("old", "ca", false, false),
        ("alone", "alone", true, true),
        ("alone", "ca", false, false),
    ] {
        let postgres = Postgres::with(HBA, Some((certificates, name)));
        let authority = certificates.file(&format!("{authority}.crt"));
        for (mode, works) in [("verify-ca", with_authority), ("verify-full", with_name)] {
            let config = config(&postgres, "app", mode);
            let doorman = config
                .general("server_tls_ca_cert", authority.as_str())
                .start();
            let found = has_tls(&doorman);
            assert_eq!(found, works.then_some(true), "{name} {mode} {authority}");
        }
    }
}

#[test]
fn a_pool_has_settings_of_its_own_and_shows_a_certificate() {
    let _alone = alone();
    let Servers {
        certificates,
        encrypted,
    } = servers();
    let doorman = config(encrypted, "app", "disable")
        .pool_key("server_tls_mode", "require")
        .pool_key("server_tls_certificate", certificates.file("app.crt"))
        .pool_key("server_tls_private_key", certificates.file("app.key"))
        .start();
    let mut client = doorman.connect();
    let sql = "select ssl || ' ' || client_dn from pg_stat_ssl where pid = pg_backend_pid()";
    assert_eq!(client.value(sql), "true /CN=app");
}

#[test]
fn cancel_requests_are_encrypted_as_the_server_connection_is() {
    let _alone = alone();
    let Servers {
        certificates,
        encrypted,
    } = servers();
    let doorman = config(encrypted, "needs_tls", "verify-full")
        .general("server_tls_ca_cert", certificates.file("ca.crt"))
        .start();
    let mut client = doorman.connect();
    let mut superuser = encrypted.superuser();
    let before = client.backend_pid();
    for _ in 0..3 {
        client.send(&query("select pg_sleep(60) /* over tls */"));
        eventually("the statement runs", || {
            superuser.value(
                "select count(*) from pg_stat_activity where state = 'active' \
                 and query like '%over tls%' and pid <> pg_backend_pid()",
            ) != "0"
        });
        cancel(doorman.port(), &client.key);
        assert_eq!(client.reply().errors[0].sqlstate, "57014");
    }
    assert_eq!(client.backend_pid(), before, "the connection was kept");
    assert!(!doorman.log().contains("no answer to a cancel request"));
}

#[test]
fn large_data_passes_in_both_directions() {
    let _alone = alone();
    let doorman = config(&servers().encrypted, "app", "require")
        .shards(2)
        .start();
    let mut client = doorman.connect();
    let row = client.value("select repeat('abcdefgh', 4000000)");
    assert!(row.len() == 32_000_000 && row.ends_with("abcdefgh"));
    let long = "x".repeat(9_000_000);
    assert_eq!(client.value(&format!("select length('{long}')")), "9000000");
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn false_answers_to_the_request_are_refused() {
    let answers: [&[u8]; 4] = [b"S\x16", b"NR\0\0\0\x08\0\0\0\0", b"E", b"x"];
    for answer in answers {
        let server = ScriptedServer::start(move |peer| {
            peer.receive_packet()?;
            peer.send(answer)?;
            peer.receive().map(drop)
        });
        let doorman = Config::to_port(server.port())
            .general("server_tls_mode", "require")
            .general("connect_timeout", "2s")
            .start();
        assert!(doorman.login().attempt().is_err());
        assert!(!doorman.log().contains("panicked"));
    }
}

#[test]
fn tls_may_begin_at_once() {
    if tls::is_everywhere() {
        return;
    }
    let _alone = alone();
    let Servers {
        certificates,
        encrypted,
    } = servers();
    // A pooler stands for a server that is new enough.
    let modern = config(encrypted, "app", "disable")
        .general("tls_certificate", certificates.file("server.crt"))
        .general("tls_private_key", certificates.file("server.key"))
        .general("tls_mode", "require")
        .start();
    let front = |port: u16| {
        Config::to_port(port)
            .general("server_tls_mode", "verify-full")
            .general("server_tls_negotiation", "direct")
            .general("server_tls_ca_cert", certificates.file("ca.crt"))
            .general("connect_timeout", "3s")
            .start()
    };
    let doorman = front(modern.port());
    assert_eq!(doorman.connect().value("select 1"), "1");
    // PostgreSQL 15 does not understand it.
    let version: u32 = encrypted.value("show server_version_num").parse().unwrap();
    if version < 170_000 {
        assert!(front(encrypted.port()).login().attempt().is_err());
    }
}

#[test]
fn servers_move_between_shards_with_their_encryption() {
    let _alone = alone();
    let doorman = config(&servers().encrypted, "app", "require")
        .users(vec![User::new("app", 1)])
        .shards(4)
        .start();
    let mut clients: Vec<_> = (0..16).map(|_| doorman.connect()).collect();
    let mut pids = Vec::new();
    for _ in 0..5 {
        for client in &mut clients {
            pids.push(client.backend_pid());
        }
    }
    pids.dedup();
    assert_eq!(pids.len(), 1, "one server for all shards");
}
