//! Bytes that no honest client sends: each may cost that client its connection, nobody else.
//!
//! Source: protocol-message-formats.html; errors of PostgreSQL itself for the same bytes.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::common::client::Client;
use crate::common::{Target, everywhere, message};

everywhere!(
    malformed_first_packets_end_only_that_client,
    random_first_bytes_end_only_that_client,
    malformed_messages_end_only_that_client,
    malformed_messages_inside_a_transaction_end_only_that_client,
    random_messages_end_only_that_client,
    message_cut_short_by_the_end_of_the_client_harms_nobody,
    unknown_message_type_is_refused,
);

fn with_length(length: u32, rest: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], rest].concat()
}

fn malformed_first_packets_end_only_that_client(target: &Target) {
    let version = 0x0003_0000_u32.to_be_bytes();
    let body = |rest: &[u8]| message::packet(&[&version[..], rest].concat());
    let packets: Vec<Vec<u8>> = vec![
        with_length(0, &[]),
        with_length(3, &[]),
        with_length(4, &[]),
        with_length(7, &[1, 2, 3]),
        with_length(8, &[]),
        with_length(100_000, &version),
        with_length(0x7fff_ffff, &version),
        with_length(u32::MAX, &version),
        body(&[]),
        body(b"user"),
        body(b"user\0"),
        body(b"user\0app"),
        body(b"user\0app\0"),
        body(b"user\0app\0database"),
        body(b"user\0app\0database\0it"),
        body(b"user\0app\0database\0it\0 trailing"),
        body(b"user\0\0database\0it\0\0"),
        body(b"\0"),
        body(b"\0\0\0\0"),
        body(b"\xff\xfe\0\x80\0user\0\xc3\x28\0\0"),
        // CancelRequest without a key, with half a key and with an endless one.
        message::packet(&80_877_102_u32.to_be_bytes()),
        message::packet(&[&80_877_102_u32.to_be_bytes()[..], &[0, 0, 0, 1]].concat()),
        message::packet(&[&80_877_102_u32.to_be_bytes()[..], &[7; 600]].concat()),
        message::packet(&[&80_877_102_u32.to_be_bytes()[..], &[7; 8]].concat()),
        // Requests with something behind them.
        message::packet(&[&80_877_103_u32.to_be_bytes()[..], b"more"].concat()),
        message::packet(&[&80_877_104_u32.to_be_bytes()[..], b"more"].concat()),
        message::packet(&0xffff_ffff_u32.to_be_bytes()),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
    ];
    for packet in packets {
        let mut client = Client::dial(target.port());
        client.send(&packet);
        client.finish_sending();
        drain(&mut client, &packet);
    }
    target.assert_serves();
}

fn random_first_bytes_end_only_that_client(target: &Target) {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..100 {
        let mut packet = vec![0; random.random_range(0..200)];
        random.fill(&mut packet[..]);
        if random.random_bool(0.5) && packet.len() >= 8 {
            let length = u32::try_from(packet.len()).unwrap();
            packet[..4].copy_from_slice(&length.to_be_bytes());
            packet[4..8].copy_from_slice(&0x0003_0000_u32.to_be_bytes());
        }
        let mut client = Client::dial(target.port());
        client.send(&packet);
        client.finish_sending();
        drain(&mut client, &packet);
    }
    target.assert_serves();
}

/// Messages with a body that is too short, lacks its NUL or contradicts itself.
fn malformed_messages() -> Vec<Vec<u8>> {
    let mut list = Vec::new();
    for tag in *b"QPBDECFdf" {
        // Lengths that cannot be.
        for length in [0_u32, 3, 0x8000_0000, u32::MAX] {
            list.push([vec![tag], with_length(length, b"select 1\0")].concat());
        }
    }
    for tag in *b"QPBDECF" {
        for body in [
            &b""[..],
            b"\0",
            b"x",
            b"S",
            b"P",
            b"S\0",
            b"\0\0",
            b"\0\0\0",
            b"no end",
        ] {
            list.push(message::message(tag, body));
        }
    }
    let more: [(u8, &[u8]); 10] = [
        (b'P', b"name\0select 1\0"),
        (b'P', b"name\0select 1\0\x00"),
        (b'P', b"name\0select 1\0\x00\x05\0\0\0\x17"),
        (b'P', b"name\0select 1\0\xff\xff"),
        (b'B', b"\0name\0\x00\x01"),
        (b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff"),
        (b'B', b"\0\0\0\0\0\x01\xff\xff\xff\x00"),
        (b'D', b"Zname\0"),
        (b'C', b"Zname\0"),
        (b'E', b"\0\0\0"),
    ];
    list.extend(
        more.into_iter()
            .map(|(tag, body)| message::message(tag, body)),
    );
    // A body that goes on after its end.
    list.push(message::message(b'Q', b"select 1\0select 2\0"));
    list.push(message::message(b'S', b"more"));
    list
}

fn malformed_messages_end_only_that_client(target: &Target) {
    for bytes in malformed_messages() {
        let mut client = target.connect();
        send_malformed(&mut client, &bytes);
    }
    target.assert_serves();
}

fn malformed_messages_inside_a_transaction_end_only_that_client(target: &Target) {
    for bytes in malformed_messages() {
        let mut client = target.connect();
        client.execute("begin");
        send_malformed(&mut client, &bytes);
    }
    // Both servers of the pool must be free and clean again.
    let mut one = target.connect();
    let mut two = target.connect();
    assert_eq!(one.query("begin").status, 'T');
    assert_eq!(two.query("begin").status, 'T');
    assert_eq!(one.query("rollback").status, 'I');
    assert_eq!(two.query("rollback").status, 'I');
}

fn send_malformed(client: &mut Client, bytes: &[u8]) {
    client.send(bytes);
    // A Sync ends the wait for more where the message was accepted as a legal one.
    let _ = client.try_send(&message::sync());
    client.finish_sending();
    drain(client, bytes);
}

fn random_messages_end_only_that_client(target: &Target) {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..60 {
        let mut client = target.connect();
        for _ in 0..random.random_range(1..6) {
            let mut body = vec![0; random.random_range(0..40)];
            random.fill(&mut body[..]);
            let tag = *b"QPBDECFSHdcfXp".get(random.random_range(0..14)).unwrap();
            if client.try_send(&message::message(tag, &body)).is_err() {
                break;
            }
        }
        client.finish_sending();
        drain(&mut client, b"random");
    }
    target.assert_serves();
}

fn message_cut_short_by_the_end_of_the_client_harms_nobody(target: &Target) {
    let bytes = message::query("select 'never run'");
    for length in 1..bytes.len() {
        let mut client = target.connect();
        client.send(&bytes[..length]);
        client.finish_sending();
        drain(&mut client, &bytes[..length]);
    }
    target.assert_serves();
}

fn unknown_message_type_is_refused(target: &Target) {
    for tag in [0, b'!', b'z', b'v', b'T', 0xff] {
        let mut client = target.connect();
        client.send(&message::message(tag, b"body"));
        client.finish_sending();
        drain(&mut client, &[tag]);
    }
    target.assert_serves();
}

/// Reads what comes until the close. Silence fails the test.
fn drain(client: &mut Client, sent: &[u8]) {
    loop {
        match client.try_receive_anything() {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                let shown = String::from_utf8_lossy(&sent[..sent.len().min(60)]).into_owned();
                assert!(
                    crate::common::client::is_close(&error),
                    "{error} after {shown:?}"
                );
                return;
            }
        }
    }
}

fn seed() -> u64 {
    let chosen = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = chosen.unwrap_or_else(|| rand::rng().random());
    eprintln!("SEED={seed}");
    seed
}
