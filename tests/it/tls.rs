//! TLS with clients.
//!
//! Owns: modes, certificates on both sides, what a handshake may look like, reload, cancel, resumption.
//! Does not own: TLS with servers (`tls_servers`). With `IT_TLS=1` all other tests run over TLS as well.
//!
//! Source: libpq-ssl.html, protocol-flow.html "SSL Session Encryption".

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, HandshakeKind};

use crate::cancel::{cancel, wait_until_running};
use crate::common::message::{
    self, copy_data, copy_done, query, ssl_request, sync, terminate, unnamed,
};
use crate::common::postgres::{DATABASE, PASSWORD, programs_directory};
use crate::common::tls::{self, Certificates, Wanted};
use crate::common::{
    Client, Config, DEADLINE, Login, Postgres, User, eventually, unique, with_one_and_two_shards,
};

with_one_and_two_shards!(
    psql_connects_in_every_mode,
    large_rows_copies_and_pipelines_pass,
    records_may_arrive_byte_by_byte,
    cancel_requests_come_over_tls,
    a_client_comes_back_with_its_ticket_to_any_shard,
    a_reload_changes_the_certificate_and_keeps_clients,
    idle_clients_cost_little_memory,
);

pub(crate) fn encrypted(certificates: &Certificates) -> Config {
    Config::new(Postgres::shared())
        .general("tls_certificate", certificates.file("server.crt"))
        .general("tls_private_key", certificates.file("server.key"))
}

/// A client of TLS that has not logged in.
fn dial(port: u16, config: &Arc<ClientConfig>) -> Client {
    Client::raw(tls::unwrap(tls::ask(port, config).unwrap(), usize::MAX))
}

pub(crate) fn connect(port: u16, config: &Arc<ClientConfig>) -> Client {
    let client = Login::new(port).attempt_on(dial(port, config));
    client.unwrap().0
}

/// Runs `select 1` by psql; what it says of the connection, or its error.
pub(crate) fn psql(port: u16, options: &str) -> Result<String, String> {
    psql_with(port, options, &[])
}

/// The same with these variables of the environment.
pub(crate) fn psql_with(
    port: u16,
    options: &str,
    environment: &[(&str, &str)],
) -> Result<String, String> {
    let output = Command::new(programs_directory().join("psql"))
        .args(["-X", "-At", "-c", "\\conninfo", "-c", "select 1"])
        .envs(environment.iter().copied())
        .arg(format!(
            "host=localhost hostaddr=127.0.0.1 port={port} user=app dbname={DATABASE} \
             password={PASSWORD} connect_timeout=10 {options}"
        ))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn psql_connects_in_every_mode(shards: usize) {
    let certificates = Certificates::new();
    let verifier = Postgres::shared().verifier("app");
    let config = || {
        encrypted(&certificates)
            .shards(shards)
            .hba("host all all 127.0.0.1/32 scram-sha-256")
            .users(vec![User::new("app", 4).secret(&verifier)])
    };
    let authority = format!("sslrootcert={}", certificates.file("ca.crt"));
    let modes = [
        ("disable", false, true),
        ("allow", true, true),
        ("prefer", true, true),
        ("require", true, false),
        ("verify-ca", true, false),
        ("verify-full", true, false),
    ];
    for ours in ["allow", "require", "disable"] {
        let doorman = config().general("tls_mode", ours).start();
        for (mode, can_tls, can_plain) in modes {
            let outcome = psql(doorman.port(), &format!("sslmode={mode} {authority}"));
            let works = (can_tls && ours != "disable") || (can_plain && ours != "require");
            assert_eq!(outcome.is_ok(), works, "{ours} {mode}: {outcome:?}");
            let wants_tls = can_tls && ours != "disable" && (mode != "allow" || ours == "require");
            let has_tls = outcome.is_ok_and(|text| text.contains("SSL connection"));
            assert_eq!(has_tls, wants_tls, "{ours} {mode}");
        }
        if ours != "disable" {
            let bound = format!("sslmode=verify-full {authority} channel_binding=require");
            assert!(psql(doorman.port(), &bound).is_ok());
        }
    }
}

#[test]
fn a_client_without_tls_is_told_what_is_wrong_if_it_is_required() {
    let certificates = Certificates::new();
    let doorman = encrypted(&certificates)
        .general("tls_mode", "require")
        .start();
    let refusal = Login::new(doorman.port()).refusal();
    if tls::is_everywhere() {
        return;
    }
    assert_eq!(refusal.sqlstate(), "28000");
    assert_eq!(
        refusal.message(),
        "Connection without SSL is not allowed by tls_mode."
    );
}

fn large_rows_copies_and_pipelines_pass(shards: usize) {
    let certificates = Certificates::shared();
    let doorman = encrypted(certificates).shards(shards).start();
    let config = Arc::new(certificates.client_config(None));
    let mut client = connect(doorman.port(), &config);
    let row = client.value("select repeat('abcdefgh', 4000000)");
    assert!(row.len() == 32_000_000 && row.ends_with("abcdefgh"));
    let long = "x".repeat(5_000_000);
    assert_eq!(client.value(&format!("select length('{long}')")), "5000000");
    let table = unique("tls_copy");
    client.execute(&format!("create table {table} (number int, text text)"));
    client.send(&query(&format!("copy {table} from stdin")));
    client.expect('G');
    for number in 0..20_000 {
        client.send(&copy_data(
            format!("{number}\t{}\n", "y".repeat(500)).as_bytes(),
        ));
    }
    client.send(&copy_done());
    assert_eq!(client.reply().commands, ["COPY 20000"]);
    client.send(&query(&format!("copy {table} to stdout")));
    client.expect('H');
    let (mut rows, mut bytes) = (0, 0);
    loop {
        let message = client.receive();
        match message.tag {
            b'd' => (rows, bytes) = (rows + 1, bytes + message.body.len()),
            b'Z' => break,
            _ => {}
        }
    }
    assert!(rows == 20_000 && bytes > 20_000 * 500);
    let mut writer = client.writer();
    let writing = std::thread::spawn(move || {
        for number in 0..2000 {
            let number = number.to_string();
            let mut messages = unnamed("select $1::text", &[Some(number.as_bytes())]);
            messages.extend(sync());
            writer.write_all(&messages).unwrap();
        }
    });
    for number in 0..2000 {
        assert_eq!(client.reply().rows, [[Some(number.to_string())]]);
    }
    writing.join().unwrap();
    client.execute(&format!("drop table {table}"));
}

fn records_may_arrive_byte_by_byte(shards: usize) {
    let certificates = Certificates::shared();
    let doorman = encrypted(certificates).shards(shards).start();
    let config = Arc::new(certificates.client_config(None));
    for part_bytes in [1, 7, 1000] {
        let connection = tls::ask(doorman.port(), &config).unwrap();
        let client = Client::raw(tls::unwrap(connection, part_bytes));
        let (mut client, _) = Login::new(doorman.port()).attempt_on(client).unwrap();
        for _ in 0..20 {
            assert_eq!(client.value("select 'a' || 'b'"), "ab");
        }
        let text = "z".repeat(part_bytes * 20_000);
        let length = text.len().to_string();
        assert_eq!(client.value(&format!("select length('{text}')")), length);
    }
    // The hello itself, too.
    let mut tcp = TcpStream::connect(("127.0.0.1", doorman.port())).unwrap();
    tcp.set_nodelay(true).unwrap();
    for byte in ssl_request() {
        tcp.write_all(&[byte]).unwrap();
    }
    tcp.read_exact(&mut [0]).unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    while client.is_handshaking() {
        let mut out = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut out).unwrap();
        }
        for byte in out {
            tcp.write_all(&[byte]).unwrap();
        }
        client.read_tls(&mut tcp).unwrap();
        client.process_new_packets().unwrap();
    }
}

fn cancel_requests_come_over_tls(shards: usize) {
    let certificates = Certificates::shared();
    let doorman = encrypted(certificates).shards(shards).start();
    let port = tls::tunnel(doorman.port(), certificates.client_config(None));
    let mut client = Login::new(port).connect();
    for _ in 0..3 {
        let mark = unique("tls_cancel");
        client.send(&query(&format!("select pg_sleep(60) /* {mark} */")));
        wait_until_running(&mark);
        cancel(port, &client.key);
        assert_eq!(client.reply().errors[0].sqlstate, "57014");
    }
    assert_eq!(client.value("select 1"), "1");
    // And without it, for a client that has it.
    let mark = unique("tls_cancel");
    client.send(&query(&format!("select pg_sleep(60) /* {mark} */")));
    wait_until_running(&mark);
    cancel(doorman.port(), &client.key);
    assert_eq!(client.reply().errors[0].sqlstate, "57014");
}

fn a_client_comes_back_with_its_ticket_to_any_shard(shards: usize) {
    let certificates = Certificates::shared();
    let doorman = encrypted(certificates).shards(shards).start();
    let config = Arc::new(certificates.client_config(None));
    let mut resumed = 0;
    for _ in 0..8 {
        let (tcp, connection) = tls::ask(doorman.port(), &config).unwrap();
        resumed += usize::from(connection.handshake_kind() == Some(HandshakeKind::Resumed));
        let client = Client::raw(tls::unwrap((tcp, connection), usize::MAX));
        let (mut client, _) = Login::new(doorman.port()).attempt_on(client).unwrap();
        // With the first answer the ticket has arrived.
        assert_eq!(client.value("select 1"), "1");
        client.terminate();
    }
    assert_eq!(resumed, 7);
}

fn served_certificate(port: u16, config: &Arc<ClientConfig>) -> Vec<u8> {
    let (_, connection) = tls::ask(port, config).unwrap();
    connection.peer_certificates().unwrap()[0].to_vec()
}

fn a_reload_changes_the_certificate_and_keeps_clients(shards: usize) {
    let certificates = Certificates::new();
    let doorman = encrypted(&certificates).shards(shards).start();
    let mut config = certificates.client_config(None);
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    let mut client = connect(doorman.port(), &config);
    client.execute("set application_name = 'stays'");
    let first = served_certificate(doorman.port(), &config);

    certificates.make("server", &Wanted::server());
    doorman.sighup();
    eventually("the new certificate is shown", || {
        served_certificate(doorman.port(), &config) != first
    });
    assert_eq!(client.value("show application_name"), "stays");

    let second = served_certificate(doorman.port(), &config);
    std::fs::write(certificates.file("server.key"), "nothing").unwrap();
    doorman.sighup();
    eventually("the file is named in the log", || {
        let log = doorman.log();
        let named = |line: &str| line.contains("reload error") && line.contains("server.key");
        log.lines().any(named)
    });
    assert_eq!(served_certificate(doorman.port(), &config), second);
    assert_eq!(client.value("show application_name"), "stays");
}

fn idle_clients_cost_little_memory(shards: usize) {
    let certificates = Certificates::shared();
    let doorman = encrypted(certificates).shards(shards).start();
    let config = Arc::new(certificates.client_config(None));
    let open = |count: usize| -> Vec<_> {
        let one = |_| {
            let mut client = connect(doorman.port(), &config);
            assert_eq!(client.value("select 1"), "1");
            client
        };
        (0..count).map(one).collect()
    };
    let warm = open(20);
    let before = doorman.resident_bytes();
    let clients = open(200);
    let each = (doorman.resident_bytes() - before) / clients.len();
    println!("{each} bytes for each client of TLS");
    assert!(each < 16 * 1024, "{each} bytes for each client");
    drop(warm);
}

#[test]
fn plain_text_behind_the_request_is_refused() {
    let certificates = Certificates::shared();
    let doorman = encrypted(certificates).start();
    if tls::is_everywhere() {
        return;
    }
    let mut client = Client::dial(doorman.port());
    let mut bytes = ssl_request();
    bytes.extend(Login::new(doorman.port()).startup_packet());
    client.send(&bytes);
    let error = client.expect('E').error_fields();
    assert_eq!(error.sqlstate, "08P01");
    assert!(error.message.contains("unencrypted data"), "{error:?}");
    assert!(client.is_closed());
    doorman.assert_serves();
}

#[test]
fn a_handshake_that_is_none_ends_the_connection() {
    let certificates = Certificates::shared();
    let doorman = encrypted(certificates)
        .general("client_login_timeout", "2s")
        .start();
    if tls::is_everywhere() {
        return;
    }
    let asked = || {
        let mut client = Client::dial(doorman.port());
        client.send(&ssl_request());
        assert_eq!(client.receive_byte(), b'S');
        client
    };
    for garbage in [
        &b"\x16\x03\x01\x02\0\x01\0\x01\xfc"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &Login::new(doorman.port()).startup_packet(),
        &[0; 5000],
        &vec![0x16; 100_000],
    ] {
        let mut client = asked();
        // The other side may close before all has been sent.
        let _ = client.try_send(garbage);
        while client.try_receive_anything().is_ok_and(|count| count > 0) {}
    }
    // Silence, at once and in the middle, ends with the time for logins.
    let mut silent = asked();
    let mut half = asked();
    half.send(b"\x16\x03\x01\x02\0\x01");
    assert!(silent.is_closed());
    assert!(half.is_closed());
    // Cut off without a word.
    drop(asked());
    doorman.assert_serves();
    assert!(doorman.log().contains("TLS handshake failed"));
}

#[test]
fn tls_may_begin_at_once_with_the_right_alpn() {
    let certificates = Certificates::shared();
    let doorman = encrypted(certificates)
        .general("tls_mode", "require")
        .start();
    if tls::is_everywhere() {
        return;
    }
    let begin = |alpn: &[&[u8]]| {
        let mut config = certificates.client_config(None);
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let tcp = TcpStream::connect(("127.0.0.1", doorman.port())).unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        let tls = tls::hand_shake(tcp, &Arc::new(config)).ok()?;
        let client = Client::raw(tls::unwrap(tls, usize::MAX));
        Login::new(doorman.port()).attempt_on(client).ok()
    };
    let (mut client, _) = begin(&[b"postgresql"]).unwrap();
    assert_eq!(client.value("select 1"), "1");
    assert!(
        begin(&[]).is_none(),
        "nobody has said that it is PostgreSQL"
    );
    assert!(begin(&[b"http/1.1"]).is_none());
}

#[test]
fn rules_tell_tls_from_plain() {
    let certificates = Certificates::shared();
    let doorman = encrypted(certificates)
        .hba("hostssl all app 127.0.0.1/32 trust\nhostnossl all other 127.0.0.1/32 trust")
        .users(vec![User::new("app", 2), User::new("other", 2)])
        .start();
    if tls::is_everywhere() {
        return;
    }
    let over_tls = tls::tunnel(doorman.port(), certificates.client_config(None));
    let login = |port, user: &str| Login::new(port).user(user).attempt();
    assert!(login(over_tls, "app").is_ok());
    assert!(login(doorman.port(), "other").is_ok());
    let refusal = login(doorman.port(), "app").unwrap_err();
    assert!(refusal.message().contains("TLS: false"), "{refusal:?}");
    let refusal = login(over_tls, "other").unwrap_err();
    assert!(refusal.message().contains("TLS: true"), "{refusal:?}");
}

#[test]
fn clients_show_certificates_if_they_must() {
    let certificates = Certificates::new();
    let strangers = Certificates::new();
    certificates.make("app", &Wanted::client());
    strangers.make("app", &Wanted::client());
    let expired = Wanted {
        is_expired: true,
        ..Wanted::client()
    };
    certificates.make("old", &expired);
    let doorman = encrypted(&certificates)
        .general("tls_mode", "verify-full")
        .general("tls_ca_cert", certificates.file("ca.crt"))
        .start();
    let with = |of: &Certificates, name: &str| {
        let (certificate, key) = (
            of.file(&format!("{name}.crt")),
            of.file(&format!("{name}.key")),
        );
        let options = format!("sslmode=require sslcert={certificate} sslkey={key}");
        psql(doorman.port(), &options)
    };
    if tls::is_everywhere() {
        return;
    }
    assert!(with(&certificates, "app").is_ok());
    for (of, name) in [(&strangers, "app"), (&certificates, "old")] {
        let error = with(of, name).unwrap_err();
        assert!(error.contains("SSL") || error.contains("alert"), "{error}");
    }
    assert!(psql(doorman.port(), "sslmode=require sslcert=/nowhere").is_err());
    assert!(psql(doorman.port(), "sslmode=disable").is_err());
}

#[test]
fn idle_clients_move_between_shards_with_their_encryption() {
    let certificates = Certificates::shared();
    let doorman = encrypted(certificates).shards(2).log_level("debug").start();
    let config = Arc::new(certificates.client_config(None));
    let mut clients: Vec<_> = (0..60)
        .map(|number| {
            let mut client = connect(doorman.port(), &config);
            client.execute(&format!("set application_name = 'c{number}'"));
            (number, client)
        })
        .collect();
    // All of one shard go: half of the others move.
    clients.retain(|(_, client)| client.origin() == 0);
    eventually("clients are handed over", || {
        doorman.log().contains("clients handed over")
    });
    for round in 0..3 {
        for (number, client) in &mut clients {
            assert_eq!(client.value("show application_name"), format!("c{number}"));
            let text = "x".repeat(100_000);
            assert_eq!(client.value(&format!("select length('{text}')")), "100000");
        }
        assert!(round < 3);
    }
    for (_, client) in clients.iter_mut().take(5) {
        let mark = unique("tls_moved");
        client.send(&query(&format!("select pg_sleep(60) /* {mark} */")));
        wait_until_running(&mark);
        cancel(doorman.port(), &client.key);
        assert_eq!(client.reply().errors[0].sqlstate, "57014");
    }
}

#[test]
fn the_console_tells_who_is_encrypted() {
    let certificates = Certificates::shared();
    let doorman = encrypted(certificates).start();
    if tls::is_everywhere() {
        return;
    }
    let config = Arc::new(certificates.client_config(None));
    let _encrypted = connect(doorman.port(), &config);
    let _plain = doorman.connect();
    let mut console = doorman
        .login()
        .user("admin")
        .database("pgdoorman")
        .connect();
    let mut found: Vec<_> = console
        .rows("show clients")
        .into_iter()
        .map(|row| row[5].clone().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, ["false", "false", "true"]);
    let text = message::text("x");
    assert!(!text.is_empty());
}

#[test]
fn the_end_of_a_client_is_noticed_with_and_without_a_word() {
    let certificates = Certificates::shared();
    let doorman = encrypted(certificates).pool_size(1).start();
    let config = Arc::new(certificates.client_config(None));
    for says_good_bye in [true, false] {
        let mut client = connect(doorman.port(), &config);
        client.execute("begin");
        if says_good_bye {
            client.send(&terminate());
        }
        drop(client);
        // Its server is free again.
        let mut next = connect(doorman.port(), &config);
        next.set_deadline(Duration::from_secs(5));
        assert_eq!(next.value("select 1"), "1");
    }
}
