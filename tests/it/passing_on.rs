//! How the pooler proves itself to servers with what it has from others: keys of clients, tokens, commands.
//!
//! Owns: proofs for servers beyond a password in the file. Does not own: those with one (`auth`).
//!
//! Source: RFC 5802, section 3; protocol-flow.html (start-up).

use std::sync::mpsc::channel;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde_json::Value;

use crate::common::message::message;
use crate::common::postgres::PASSWORD;
use crate::common::scripted::{ScriptedServer, login_reply};
use crate::common::{Config, Doorman, Postgres, User, eventually, with_one_and_two_shards};
use crate::proofs::{Files, Signer};

with_one_and_two_shards!(
    keys_of_a_scram_login_open_the_server,
    a_stored_md5_password_opens_the_server,
    a_command_prints_the_password,
);

fn doorman(shards: usize, user: User) -> Doorman {
    Config::new(Postgres::shared())
        .shards(shards)
        .hba("host all all 127.0.0.1/32 md5")
        .users(vec![user])
        .start()
}

fn keys_of_a_scram_login_open_the_server(shards: usize) {
    let verifier = Postgres::shared().verifier("app");
    let doorman = doorman(shards, User::without_server("app", 4).secret(&verifier));
    assert_eq!(
        doorman.login().password("wrong").refusal().sqlstate(),
        "28P01"
    );
    // More at a time than one shard has clients, so that every shard opens servers.
    let mut clients: Vec<_> = (0..8).map(|_| doorman.connect()).collect();
    for client in clients.iter_mut().take(4) {
        client.execute("begin");
        assert_eq!(client.value("select session_user"), "app");
    }
    for client in clients.iter_mut().take(4) {
        client.execute("commit");
    }
    assert_eq!(
        doorman.login().password("wrong").refusal().sqlstate(),
        "28P01"
    );
}

fn a_stored_md5_password_opens_the_server(shards: usize) {
    let stored = Postgres::shared().verifier("app_md5");
    let doorman = doorman(shards, User::without_server("app_md5", 2).secret(&stored));
    let mut client = doorman.login().user("app_md5").connect();
    assert_eq!(client.value("select session_user"), "app_md5");
}

#[test]
fn another_verifier_than_the_servers_is_named_in_the_log() {
    let postgres = Postgres::shared();
    let mut superuser = postgres.superuser();
    superuser.execute(&format!("create role other login password '{PASSWORD}'"));
    let other = postgres.verifier("other");
    superuser.execute("drop role other");
    let doorman = doorman(1, User::without_server("app", 2).secret(&other));
    assert_eq!(doorman.login().refusal().sqlstate(), "3D000");
    let log = doorman.log();
    assert!(
        log.contains("their SCRAM-SHA-256 verifiers must be equal"),
        "{log}"
    );
}

fn a_command_prints_the_password(shards: usize) {
    let files = Files::new();
    let password = files.write("password", PASSWORD);
    let command = format!("test \"$PGUSER/$PGDATABASE\" = app/it && cat {password}");
    let user = User::without_server("app", 4)
        .key("server_password_command", command)
        .key("server_password_command_ttl", "1h");
    let config = Config::new(Postgres::shared())
        .shards(shards)
        .users(vec![user]);
    let doorman = config.start();
    doorman.assert_serves();
}

#[test]
fn a_refused_password_is_asked_for_again() {
    let files = Files::new();
    let password = files.write("password", "wrong");
    let user = User::without_server("app", 4)
        .key("server_password_command", format!("cat {password}"))
        .key("server_password_command_ttl", "1h");
    let config = Config::new(Postgres::shared()).users(vec![user]);
    let doorman = config.general("query_wait_timeout", "2s").start();
    assert_eq!(doorman.login().refusal().sqlstate(), "3D000");
    files.write("password", PASSWORD);
    eventually("the new password is used", || {
        doorman.login().attempt().is_ok()
    });
}

#[test]
fn a_command_may_print_a_long_token() {
    let files = Files::new();
    let token = "t".repeat(60 * 1024);
    let path = files.write("token", &format!("{token}\n"));
    let (tokens, received) = channel();
    let server = ScriptedServer::start(move |peer| {
        peer.receive_startup()?;
        peer.send(&message(b'R', &[0, 0, 0, 3]))?;
        let sent = peer.receive()?;
        // The test may have ended.
        let _ = tokens.send(String::from_utf8(sent.body).unwrap());
        peer.send(&login_reply())?;
        peer.echo()
    });
    let user = User::without_server("app", 1).key("server_password_command", format!("cat {path}"));
    let doorman = Config::to_port(server.port()).users(vec![user]).start();
    assert_eq!(doorman.connect().value("select 1"), "select 1");
    assert_eq!(received.recv().unwrap(), format!("{token}\0"));
    assert!(!doorman.log().contains("tttt"), "the token is in the log");
}

#[test]
fn a_command_that_fails_refuses_the_login_and_nothing_else() {
    for command in ["exit 1", "sleep 100", "true"] {
        let users = vec![
            User::new("app", 2),
            User::without_server("broken", 2)
                .key("server_password_command", command)
                .key("server_password_command_timeout", "300ms"),
        ];
        let config = Config::new(Postgres::shared()).users(users);
        let doorman = config.general("query_wait_timeout", "1s").start();
        assert_eq!(doorman.login().user("broken").refusal().sqlstate(), "3D000");
        doorman.assert_serves();
        let log = doorman.log();
        assert!(
            log.contains("server_password_command: has "),
            "{command}: {log}"
        );
    }
}

#[test]
fn a_token_is_signed_for_each_connection() {
    let files = Files::new();
    let signer = Signer::rsa();
    let path = files.write("private.pem", &signer.pair.serialize_pem());
    let (tokens, received) = channel();
    let server = ScriptedServer::start(move |peer| {
        peer.receive_startup()?;
        peer.send(&message(b'R', &[0, 0, 0, 3]))?;
        let sent = peer.receive()?;
        let text = String::from_utf8(sent.body).unwrap();
        // The test may have ended.
        let _ = tokens.send(text.trim_end_matches('\0').to_owned());
        peer.send(&login_reply())?;
        peer.echo()
    });
    let user = User::new("app", 1).server("svc", &format!("jwt-priv-key-fpath:{path}"));
    let doorman = Config::to_port(server.port()).users(vec![user]).start();
    assert_eq!(doorman.connect().value("select 1"), "select 1");
    let token = received.recv().unwrap();
    let public = DecodingKey::from_rsa_pem(signer.pair.public_key_pem().as_bytes()).unwrap();
    let claims = decode::<Value>(&token, &public, &Validation::new(Algorithm::RS256)).unwrap();
    assert_eq!(claims.claims["preferred_username"], "svc");
    let left = claims.claims["exp"].as_u64().unwrap() - jsonwebtoken::get_current_timestamp();
    assert!((100..=120).contains(&left), "{left}");
}
