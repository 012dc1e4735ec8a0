//! Proxies that say whose connections they pass on.
//!
//! Source: "The PROXY protocol, Versions 1 & 2" (haproxy.org); auth-pg-hba-conf.html for the rules.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use toml::Value;

use crate::common::client::is_close;
use crate::common::message::{self, query};
use crate::common::tls::{self, Certificates};
use crate::common::{Client, Config, Doorman, Login, Postgres, with_one_and_two_shards};

with_one_and_two_shards!(
    the_address_in_a_header_is_the_clients,
    headers_may_come_in_pieces,
    headers_without_an_address_leave_that_of_the_proxy,
    cancel_requests_come_through_proxies,
    what_begins_otherwise_is_refused,
);

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn networks(list: &[&str]) -> Value {
    let list = list.iter().map(|&network| Value::from(network));
    Value::Array(list.collect())
}

fn config(shards: usize) -> Config {
    Config::new(Postgres::shared())
        .shards(shards)
        .general("proxy_protocol_networks", networks(&["127.0.0.1/32"]))
        .hba("host all all 192.0.2.0/24 trust\nhost all all 2001:db8::/32 trust")
}

/// Starts it; a first client shows that it serves.
fn doorman(shards: usize) -> Doorman {
    config(shards).start()
}

fn version_1(source: &str) -> Vec<u8> {
    format!("PROXY TCP4 {source} 198.51.100.1 40000 6432\r\n").into_bytes()
}

fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[0x20 | command, family], &length, body].concat()
}

/// Addresses 192.0.2.`last`:40000 and 198.51.100.1:6432.
fn v4(last: u8) -> Vec<u8> {
    vec![192, 0, 2, last, 198, 51, 100, 1, 0x9c, 0x40, 0x19, 0x20]
}

/// A client on a connection that begins with `header`.
fn through_proxy(port: u16, header: &[u8]) -> Client {
    let mut client = Client::dial(port);
    client.send(header);
    client
}

fn log_in(doorman: &Doorman, header: &[u8]) -> Client {
    let client = through_proxy(doorman.port(), header);
    doorman.login().attempt_on(client).unwrap().0
}

/// SQLSTATE and text of what a login with this header is told.
fn refusal(doorman: &Doorman, header: &[u8]) -> (String, String) {
    let client = through_proxy(doorman.port(), header);
    let refusal = doorman.login().attempt_on(client).unwrap_err();
    (refusal.sqlstate().to_owned(), refusal.message().to_owned())
}

/// The addresses of clients that the console knows.
fn addresses(doorman: &Doorman, header: &[u8]) -> Vec<String> {
    let console = through_proxy(doorman.port(), header);
    let login = doorman.login().user("admin").database("pgdoorman");
    let (mut console, _) = login.password("admin").attempt_on(console).unwrap();
    let rows = console.rows("show clients");
    rows.iter()
        .map(|row| {
            let shown = |value: &Option<String>| value.clone().unwrap_or_default();
            row.iter().map(shown).collect::<Vec<_>>().join("|")
        })
        .collect()
}

fn the_address_in_a_header_is_the_clients(shards: usize) {
    let doorman = doorman(shards);
    let tlvs = [&v4(3)[..], &[4, 0, 3, 1, 2, 3], &[0x20, 0, 0]].concat();
    let mut v6 = vec![0x20, 1, 0x0d, 0xb8];
    v6.resize(32, 1);
    v6.extend([0x9c, 0x40, 0x19, 0x20]);
    let headers = [
        (version_1("192.0.2.1"), "192.0.2.1"),
        (version_2(1, 0x11, &v4(2)), "192.0.2.2"),
        (version_2(1, 0x11, &tlvs), "192.0.2.3"),
        (version_2(1, 0x21, &v6), "2001:db8:101:"),
    ];
    for (header, address) in headers {
        let mut client = log_in(&doorman, &header);
        assert_eq!(client.value("select 'in'"), "in");
        let shown = addresses(&doorman, &version_1("192.0.2.99"));
        assert!(shown.iter().any(|row| row.contains(address)), "{shown:?}");
    }
    // Rules mean the client, not the proxy.
    let outside = version_1("203.0.113.7");
    assert_eq!(refusal(&doorman, &outside).0, "28000");
    assert_eq!(refusal(&doorman, &version_2(1, 0x11, &[10; 12])).0, "28000");
    let log = doorman.log();
    assert!(log.contains("203.0.113.7:40000"), "{log}");
}

fn headers_may_come_in_pieces(shards: usize) {
    let doorman = doorman(shards);
    for header in [version_1("192.0.2.1"), version_2(1, 0x11, &v4(1))] {
        let login = doorman.login();
        let all = [&header[..], &login.startup_packet(), &query("select 'cut'")].concat();
        for size in [1, 3, header.len() + 1, all.len()] {
            let mut client = Client::dial(doorman.port());
            for piece in all.chunks(size) {
                client.send(piece);
            }
            client.reply();
            assert_eq!(client.reply().value(), "cut", "pieces of {size}");
        }
    }
}

fn headers_without_an_address_leave_that_of_the_proxy(shards: usize) {
    let rules = "host all all 127.0.0.1/32 trust\nhost all all 192.0.2.0/24 reject";
    let doorman = config(shards).hba(rules).start();
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 192.0.2.1 what ever\r\n".to_vec(),
        version_2(0, 0x00, &[]),
        // The proxy's own connection, whatever else stands there.
        version_2(0, 0x11, &v4(1)),
        version_2(1, 0x00, &[]),
        // Two paths of Unix sockets.
        version_2(1, 0x31, &[b'/'; 216]),
    ] {
        assert_eq!(log_in(&doorman, &header).value("select 1"), "1");
    }
    assert_eq!(refusal(&doorman, &version_1("192.0.2.1")).0, "28000");
}

fn cancel_requests_come_through_proxies(shards: usize) {
    let doorman = doorman(shards);
    let mut client = log_in(&doorman, &version_1("192.0.2.1"));
    let mark = crate::common::unique("proxied_mark");
    client.send(&query(&format!("select pg_sleep(60) as {mark}")));
    crate::cancel::wait_until_running(&mark);
    let request = [&80_877_102_u32.to_be_bytes()[..], &client.key].concat();
    let header = version_2(1, 0x11, &v4(9));
    let mut canceller = through_proxy(doorman.port(), &header);
    canceller.send(&message::packet(&request));
    assert!(canceller.is_closed());
    assert_eq!(client.reply().sqlstate(), "57014");
}

fn what_begins_otherwise_is_refused(shards: usize) {
    let doorman = doorman(shards);
    let header = version_1("192.0.2.1");
    let short = version_2(1, 0x11, &v4(1)[..11]);
    let long = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
    for (bytes, text) in [
        (&b""[..], "expected a PROXY protocol header"),
        (&short, "invalid PROXY protocol header: length"),
        (&long, "too long"),
        (&endless, "too long"),
        (b"PROXY TCP4 192.0.2.1 x 1 2\r\n", "addresses"),
        // One header is believed, not a second one behind it.
        (
            &[&header[..], &header].concat(),
            "unexpected PROXY protocol",
        ),
    ] {
        let (sqlstate, message) = refusal(&doorman, bytes);
        assert_eq!(sqlstate, "08P01", "{}", bytes.escape_ascii());
        assert!(message.contains(text), "{message}");
    }
    assert_eq!(log_in(&doorman, &header).value("select 1"), "1");
}

#[test]
fn who_is_not_trusted_cannot_say_where_it_comes_from() {
    for networks in [networks(&["192.0.2.0/24"]), networks(&[])] {
        let config = Config::new(Postgres::shared()).general("proxy_protocol_networks", networks);
        let doorman = config.start();
        for header in [version_1("192.0.2.1"), version_2(1, 0x11, &v4(1))] {
            let (sqlstate, message) = refusal(&doorman, &header);
            assert_eq!(sqlstate, "08P01");
            assert_eq!(message, "unexpected PROXY protocol header");
        }
        assert_eq!(doorman.connect().value("select 1"), "1");
    }
}

#[test]
fn a_header_that_does_not_end_costs_the_login_timeout() {
    let doorman = config(1).general("client_login_timeout", "1s").start();
    for header in [&b""[..], b"PROXY TCP4 192.", &SIGNATURE[..5]] {
        let mut silent = through_proxy(doorman.port(), header);
        match silent.try_receive() {
            Ok(message) => assert_eq!(message.error_fields().sqlstate, "57014"),
            Err(error) => assert!(is_close(&error), "{error}"),
        }
    }
    let header = version_1("192.0.2.1");
    assert_eq!(log_in(&doorman, &header).value("select 1"), "1");
}

fn encrypted(certificates: &Certificates) -> Doorman {
    config(1)
        .general("tls_certificate", certificates.file("server.crt"))
        .general("tls_private_key", certificates.file("server.key"))
        .hba("hostssl all all 192.0.2.0/24 trust")
        .start()
}

fn dial(doorman: &Doorman) -> TcpStream {
    TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], doorman.port()))).unwrap()
}

#[test]
fn encryption_begins_behind_the_header_and_takes_nothing_with_it() {
    use std::io::{Read, Write};
    let certificates = Certificates::shared();
    let doorman = encrypted(certificates);
    let header = version_1("192.0.2.1");
    let asking = [&header[..], &message::ssl_request()].concat();
    let config = Arc::new(certificates.client_config(None));
    let mut tcp = dial(&doorman);
    tcp.write_all(&asking).unwrap();
    let mut answer = [0];
    tcp.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"S");
    let inside = tls::unwrap(tls::hand_shake(tcp, &config).unwrap(), usize::MAX);
    let login = Login::new(doorman.port());
    let (mut client, _) = login.attempt_on(Client::raw(inside)).unwrap();
    assert_eq!(client.value("select 1"), "1");

    // In clear, with the header and behind the request for TLS: somebody in between has put it there.
    for behind in [login.startup_packet(), header.clone(), vec![0]] {
        let mut client = Client::dial(doorman.port());
        client.send(&[&asking[..], &behind].concat());
        let fields = client.expect('E').error_fields();
        assert_eq!(fields.sqlstate, "08P01");
        assert!(fields.message.contains("unencrypted data"), "{fields:?}");
        assert!(client.is_closed());
    }

    // What a header says of TLS is not TLS.
    let ssl = [0x20, 0, 5, 0x07, 0, 0, 0, 0];
    let claims = version_2(1, 0x11, &[&v4(1)[..], &ssl].concat());
    assert_eq!(refusal(&doorman, &claims).0, "28000");

    // TLS at once.
    let mut direct = certificates.client_config(None);
    direct.alpn_protocols = vec![b"postgresql".to_vec()];
    let mut tcp = dial(&doorman);
    tcp.write_all(&header).unwrap();
    let inside = tls::hand_shake(tcp, &Arc::new(direct)).unwrap();
    let inside = Client::raw(tls::unwrap(inside, usize::MAX));
    let (mut client, _) = login.attempt_on(inside).unwrap();
    assert_eq!(client.value("select 2"), "2");
}
