//! Who may log in, and how the pooler logs in to the server.
//!
//! Source: auth-pg-hba-conf.html, sasl-authentication.html, RFC 5802, RFC 7677.

use crate::common::client::Client;
use crate::common::postgres::PASSWORD;
use crate::common::{
    Config, Doorman, Login, Postgres, Refusal, User, message, with_one_and_two_shards,
};

with_one_and_two_shards!(
    right_scram_password_is_let_in,
    right_md5_password_is_let_in,
    wrong_scram_password_is_refused_with_28p01,
    wrong_md5_password_is_refused_with_28p01,
);

/// Pool `it` with a SCRAM user, an md5 user and a user who needs none; clients have to prove.
fn doorman_with_passwords(shards: usize) -> Doorman {
    let postgres = Postgres::shared();
    let users = vec![
        User::new("app", 2).secret(&postgres.verifier("app")),
        User::new("app_md5", 2)
            .secret(&postgres.verifier("app_md5"))
            .server("app_md5", PASSWORD),
        User::new("app_trust", 2).server("app_trust", PASSWORD),
    ];
    Config::new(postgres)
        .shards(shards)
        .hba(
            "host all app 127.0.0.1/32 scram-sha-256\n\
             host all app_md5 127.0.0.1/32 md5\n\
             host all app_trust 127.0.0.1/32 trust\n\
             host all stranger 127.0.0.1/32 reject",
        )
        .users(users)
        .start()
}

fn right_scram_password_is_let_in(shards: usize) {
    let doorman = doorman_with_passwords(shards);
    for _ in 0..4 {
        assert_eq!(doorman.connect().value("select current_user"), "app");
    }
}

fn right_md5_password_is_let_in(shards: usize) {
    let doorman = doorman_with_passwords(shards);
    let mut client = doorman.login().user("app_md5").connect();
    assert_eq!(client.value("select current_user"), "app_md5");
}

fn wrong_scram_password_is_refused_with_28p01(shards: usize) {
    let doorman = doorman_with_passwords(shards);
    for password in ["wrong", "", &"x".repeat(5000)] {
        let refusal = doorman.login().password(password).refusal();
        assert_eq!(refusal.sqlstate(), "28P01", "{refusal:?}");
        assert!(
            refusal.message().starts_with("Authentication failed."),
            "{refusal:?}"
        );
    }
    doorman.assert_serves();
}

fn wrong_md5_password_is_refused_with_28p01(shards: usize) {
    let doorman = doorman_with_passwords(shards);
    let refusal = doorman.login().user("app_md5").password("wrong").refusal();
    assert_eq!(refusal.sqlstate(), "28P01");
    let wanted = "Authentication failed. Please check your username and password.";
    assert_eq!(refusal.message(), wanted);
    doorman.assert_serves();
}

#[test]
fn trusted_user_needs_no_password() {
    let doorman = doorman_with_passwords(1);
    let mut client = Client::dial(doorman.port());
    client.send(&doorman.login().user("app_trust").startup_packet());
    // AuthenticationOk is the first word: no password was asked.
    assert_eq!(client.expect('R').body, [0, 0, 0, 0]);
    assert_eq!(client.reply().status, 'I');
}

#[test]
fn user_for_pam_is_let_in_by_nothing_else() {
    let postgres = Postgres::shared();
    let user = |secret: &str| {
        let user = User::new("app", 2).secret(secret);
        vec![user.key("auth_pam_service", "doorman")]
    };
    for (rule, secret) in [
        ("scram-sha-256", postgres.verifier("app").as_str()),
        ("trust", postgres.verifier("app").as_str()),
        ("trust", ""),
    ] {
        // With PAM, a rule that trusts does.
        if cfg!(feature = "pam") && rule == "trust" {
            continue;
        }
        let rules = format!("host all all 127.0.0.1/32 {rule}");
        let doorman = Config::new(postgres)
            .hba(&rules)
            .users(user(secret))
            .start();
        assert_eq!(doorman.login().refusal().sqlstate(), "28P01", "{rule}");
    }
    let rules = "host all all 127.0.0.1/32 reject";
    let doorman = Config::new(postgres).hba(rules).users(user("")).start();
    assert_eq!(doorman.login().refusal().sqlstate(), "28000");
}

#[test]
fn names_of_clients_cannot_forge_lines_of_the_log() {
    let doorman = Config::new(Postgres::shared()).start();
    let forged = "x\n2026-11-23T00:00:00Z  INFO pg_doorman: FAKE \u{1b}[31m\r";
    doorman.login().user(forged).refusal();
    doorman.login().database(forged).refusal();
    let log = doorman.log();
    assert_eq!(log.matches("FAKE").count(), 2, "{log}");
    assert!(
        !log.lines()
            .any(|line| line.starts_with("2026-11-23T00:00:00Z")),
        "{log}"
    );
    assert!(!log.contains(['\u{1b}', '\r']), "{log:?}");
}

#[test]
fn rejected_user_is_refused_with_28000() {
    let doorman = doorman_with_passwords(1);
    let refusal = doorman.login().user("stranger").refusal();
    assert_eq!(refusal.sqlstate(), "28000");
    let text = refusal.message();
    assert!(
        text.starts_with("Connection from IP address 127.0.0.1 to stranger@it"),
        "{text}"
    );
    assert!(
        text.contains("is not permitted by HBA configuration."),
        "{text}"
    );
}

#[test]
fn user_without_a_matching_rule_is_refused_with_28000() {
    let doorman = doorman_with_passwords(1);
    assert_eq!(doorman.login().user("nobody").refusal().sqlstate(), "28000");
    doorman.assert_serves();
}

#[test]
fn unknown_user_is_refused_without_harm() {
    let doorman = Config::new(Postgres::shared()).start();
    let refusal = doorman.login().user("nobody").refusal();
    // Nothing is asked here, so there is nothing to imitate.
    assert_eq!(refusal.sqlstate(), "3D000", "{refusal:?}");
    doorman.assert_serves();
}

#[test]
fn client_from_another_network_is_refused() {
    let doorman = Config::new(Postgres::shared()).hba("host all all 10.0.0.0/8 trust");
    // `start` only connects; it does not log in.
    let doorman = doorman.start();
    assert_eq!(doorman.login().refusal().sqlstate(), "28000");
}

#[test]
fn legacy_list_of_networks_does_not_replace_the_password() {
    let postgres = Postgres::shared();
    let networks = toml::Value::Array(vec!["127.0.0.0/8".into()]);
    let user = User::new("app", 2).secret(&postgres.verifier("app"));
    let config = Config::new(postgres).users(vec![user]).without_hba();
    let doorman = config.general("hba", networks).start();
    doorman.assert_serves();
    assert_eq!(
        doorman.login().password("wrong").refusal().sqlstate(),
        "28P01"
    );
}

#[test]
fn pooler_logs_in_to_the_server_by_every_method() {
    for server_user in ["app_trust", "app_clear", "app_md5", "app"] {
        let user = User::new("app", 2).server(server_user, PASSWORD);
        let doorman = Config::new(Postgres::shared()).users(vec![user]).start();
        assert_eq!(doorman.connect().value("select current_user"), server_user);
    }
}

#[test]
fn pooler_reaches_the_server_by_its_unix_socket() {
    let postgres = Postgres::shared();
    let directory = postgres.socket_directory().to_str().unwrap();
    let doorman = Config::new(postgres)
        .pool_key("server_host", directory)
        .start();
    let mut client = doorman.connect();
    assert_eq!(
        client.value("select coalesce(inet_server_addr()::text, 'unix')"),
        "unix"
    );
}

#[test]
fn wrong_server_password_is_an_error_and_not_a_hang() {
    for server_user in ["app_clear", "app_md5", "app"] {
        let user = User::new("app", 2).server(server_user, "wrong");
        let doorman = Config::new(Postgres::shared()).users(vec![user]).start();
        let sqlstate = match doorman.login().attempt() {
            Ok(mut client) => client.query("select 1").sqlstate().to_owned(),
            Err(refusal) => refusal.sqlstate().to_owned(),
        };
        assert!(
            ["3D000", "53300"].contains(&sqlstate.as_str()),
            "{server_user}: {sqlstate}"
        );
    }
}

#[test]
fn refused_logins_do_not_hold_servers() {
    let doorman = doorman_with_passwords(1);
    for _ in 0..10 {
        assert_eq!(
            doorman.login().password("wrong").refusal().sqlstate(),
            "28P01"
        );
    }
    assert!(doorman.server_pids(Postgres::shared()).len() <= 2);
    doorman.assert_serves();
}

#[test]
fn malformed_scram_messages_end_only_that_client() {
    let doorman = doorman_with_passwords(1);
    let nonce = "n,,n=,r=rOprNGfwEbeRWgbNEkqO";
    let firsts: Vec<Vec<u8>> = vec![
        Vec::new(),
        sasl_initial("SCRAM-SHA-256", b""),
        sasl_initial("SCRAM-SHA-256", b"n"),
        sasl_initial("SCRAM-SHA-256", b"n,,"),
        sasl_initial("SCRAM-SHA-256", b"n,,n=,r="),
        sasl_initial("SCRAM-SHA-256", b"n,,n=,r"),
        sasl_initial("SCRAM-SHA-256", b"n,,m=ext,n=,r=abc"),
        sasl_initial("SCRAM-SHA-256", b"p=tls-server-end-point,,n=,r=abcdefgh"),
        sasl_initial("SCRAM-SHA-256", b"\xff\xfe,,n=,r=abc"),
        sasl_initial("SCRAM-SHA-256-PLUS", nonce.as_bytes()),
        sasl_initial("NOT-A-MECHANISM", nonce.as_bytes()),
        b"SCRAM-SHA-256".to_vec(),
        [b"SCRAM-SHA-256\0".as_slice(), &u32::MAX.to_be_bytes()].concat(),
        [
            b"SCRAM-SHA-256\0".as_slice(),
            &0x7fff_ffff_u32.to_be_bytes(),
            b"n,,",
        ]
        .concat(),
    ];
    for first in firsts {
        let mut client = asked_for_scram(&doorman);
        client.send(&message::message(b'p', &first));
        assert_refused(client, &first);
    }
    doorman.assert_serves();
}

#[test]
fn malformed_scram_final_messages_end_only_that_client() {
    let doorman = doorman_with_passwords(1);
    for last in [
        "",
        "c=biws",
        "c=biws,r=other,p=AAAA",
        "c=biws,r=%,p=!!",
        "c=,r=%,p=",
        "%",
    ] {
        let mut client = asked_for_scram(&doorman);
        let first = sasl_initial("SCRAM-SHA-256", b"n,,n=,r=rOprNGfwEbeRWgbNEkqO");
        client.send(&message::message(b'p', &first));
        let challenge = client.expect('R').body;
        let challenge = String::from_utf8(challenge[4..].to_vec()).unwrap();
        let nonce = challenge
            .split(',')
            .next()
            .unwrap()
            .trim_start_matches("r=");
        let last = last.replace('%', nonce);
        client.send(&message::message(b'p', last.as_bytes()));
        assert_refused(client, last.as_bytes());
    }
    doorman.assert_serves();
}

#[test]
fn malformed_password_lengths_end_only_that_client() {
    let doorman = doorman_with_passwords(1);
    for length in [0_u32, 3, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let mut client = asked_for_scram(&doorman);
        client.send(&[&b"p"[..], &length.to_be_bytes()].concat());
        client.finish_sending();
        assert_refused(client, &length.to_be_bytes());
    }
    doorman.assert_serves();
}

#[test]
fn query_instead_of_a_password_is_refused() {
    let doorman = doorman_with_passwords(1);
    let mut client = asked_for_scram(&doorman);
    client.send(&message::query("select 1"));
    assert_refused(client, b"query");
    doorman.assert_serves();
}

/// A client of which a SCRAM proof has been asked.
fn asked_for_scram(doorman: &Doorman) -> Client {
    let mut client = Client::dial(doorman.port());
    client.send(&doorman.login().startup_packet());
    assert_eq!(client.expect('R').body[..4], [0, 0, 0, 10]);
    client
}

fn sasl_initial(mechanism: &str, first: &[u8]) -> Vec<u8> {
    let length = u32::try_from(first.len()).unwrap().to_be_bytes();
    [message::text(mechanism), length.to_vec(), first.to_vec()].concat()
}

/// Fails the test unless the client gets an error or a close; nothing else.
fn assert_refused(mut client: Client, sent: &[u8]) {
    match client.try_receive() {
        Ok(message) => assert_eq!(message.tag, b'E', "{message:?} after {sent:?}"),
        Err(error) => {
            assert!(
                crate::common::client::is_close(&error),
                "{error} after {sent:?}"
            );
        }
    }
}

#[test]
fn wrong_password_is_refused_directly() {
    let login = Login::new(Postgres::shared().port());
    for user in ["app", "app_md5", "app_clear"] {
        let refusal = login.clone().user(user).password("wrong").refusal();
        assert_eq!(refusal.sqlstate(), "28P01", "{user}");
        assert!(matches!(refusal, Refusal::Error(_)));
    }
}
