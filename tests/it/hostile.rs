//! Clients that mean harm: what they try, and how each try is refused.
//!
//! Owns: a list of tries at every stage of a connection, in every kind of pieces; bursts of connections; the
//! clients that are served meanwhile.
//! Does not own: random bytes (`malformed`), which answers are right for which message.
//! Environment: `HOSTILE_CONNECTIONS`, how many connections a burst has (1000).
//!
//! The table that this prints is in `docs/operations/authentication.md`.
//!
//! Source: protocol-flow.html, protocol-message-formats.html.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::common::client::is_close;
use crate::common::message::{self, message, packet, query, text};
use crate::common::tls::Certificates;
use crate::common::{Client, Config, Doorman, Postgres, User, eventually};

/// What a connection has done before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Fresh,
    /// Asked for its first SASL message.
    Asked,
    /// Asked for its proof.
    Proving,
    In,
    /// In a transaction, with a server.
    Busy,
}

/// How bytes are sent.
#[derive(Clone, Copy, Debug)]
enum Delivery {
    Whole,
    ByteByByte,
    /// The second half never.
    Half,
}

struct Try {
    stage: Stage,
    what: &'static str,
    bytes: Vec<u8>,
}

fn doorman() -> Doorman {
    let certificates = Certificates::shared();
    let postgres = Postgres::shared();
    let victim = User::new("victim", 2).secret(&postgres.verifier("app"));
    Config::new(postgres)
        .shards(2)
        .general("tls_certificate", certificates.file("server.crt"))
        .general("tls_private_key", certificates.file("server.key"))
        .general("max_message_size", "1MB")
        .hba("host all victim 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust")
        .users(vec![User::new("app", 4), victim])
        .start()
}

fn with_length(tag: &[u8], length: u32, rest: &[u8]) -> Vec<u8> {
    [tag, &length.to_be_bytes(), rest].concat()
}

fn sasl(mechanism: &str, first: &[u8]) -> Vec<u8> {
    let length = u32::try_from(first.len()).unwrap().to_be_bytes();
    message(b'p', &[&text(mechanism)[..], &length, first].concat())
}

fn at_the_start(doorman: &Doorman) -> Vec<(&'static str, Vec<u8>)> {
    let startup = doorman.login().startup_packet();
    let version = 0x0003_0000_u32.to_be_bytes();
    let long = [&version[..], b"user\0", &[b'x'; 9_900], b"\0\0"].concat();
    let many: Vec<u8> = (0..1_000).flat_map(|_| *b"_pq_.x\0\0").collect();
    let many = [&version[..], b"user\0app\0", &many, b"\0"].concat();
    let tls_record = [&[0x16, 3, 1, 0x40, 0][..], &[1; 512]].concat();
    vec![
        ("length 0", with_length(b"", 0, b"")),
        ("length 2^32 - 1", with_length(b"", u32::MAX, &version)),
        ("length 10,001", with_length(b"", 10_001, &version)),
        ("a name of 9,900 bytes", packet(&long)),
        ("1,000 unknown options", packet(&many)),
        ("no user", packet(&[&version[..], b"\0"].concat())),
        ("protocol 2", packet(&0x0002_0000_u32.to_be_bytes())),
        (
            "TLS asked for twice, both at once",
            message::ssl_request().repeat(2),
        ),
        (
            "a login behind the request for TLS",
            [message::ssl_request(), startup.clone()].concat(),
        ),
        ("a TLS record of nothing", tls_record),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        (
            "a PROXY header",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n".to_vec(),
        ),
        ("a query first", query("select 1")),
        ("a password first", message(b'p', &text("secret"))),
        (
            "a cancel key that is wrong",
            packet(&[&80_877_102_u32.to_be_bytes()[..], &[9; 36]].concat()),
        ),
        (
            "a cancel request of 5,000 bytes",
            packet(&[&80_877_102_u32.to_be_bytes()[..], &[9; 5_000]].concat()),
        ),
    ]
}

fn in_the_login() -> Vec<(Stage, &'static str, Vec<u8>)> {
    let empty = || Vec::from(*b"n,,n=,r=");
    vec![
        (Stage::Asked, "a query", query("select 1")),
        (Stage::Asked, "an unknown mechanism", sasl("PLAIN", b"x")),
        (
            Stage::Asked,
            "SCRAM-SHA-256-PLUS without TLS",
            sasl("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=x"),
        ),
        (
            Stage::Asked,
            "an empty nonce",
            sasl("SCRAM-SHA-256", &empty()),
        ),
        (Stage::Asked, "no message", sasl("SCRAM-SHA-256", b"")),
        (Stage::Asked, "bytes", sasl("SCRAM-SHA-256", &[0xff; 100])),
        (
            Stage::Asked,
            "a length that is too long",
            message(b'p', b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,n=,r=x"),
        ),
        (
            Stage::Asked,
            "a message of 1 GB",
            with_length(b"p", 1 << 30, &[b'x'; 1_000]),
        ),
        (Stage::Asked, "length 3", with_length(b"p", 3, b"")),
        (Stage::Asked, "Terminate", message::terminate()),
        (
            Stage::Asked,
            "a startup packet again",
            packet(&[0, 3, 0, 0, 0]),
        ),
        (
            Stage::Proving,
            "another nonce",
            message(b'p', b"c=biws,r=other,p=AAAA"),
        ),
        (Stage::Proving, "no proof", message(b'p', b"c=biws,r=x")),
        (Stage::Proving, "bytes", message(b'p', &[0; 64])),
        (
            Stage::Proving,
            "the first message again",
            sasl("SCRAM-SHA-256", b"n,,n=,r=x"),
        ),
        (Stage::Proving, "a query", query("select 1")),
        (
            Stage::Proving,
            "a message of 60,000 bytes",
            message(b'p', &[b'c'; 60_000]),
        ),
    ]
}

fn in_a_session() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("an unknown message", message(b'!', b"x")),
        ("a message of servers", message(b'T', &[0, 0])),
        ("a password", message(b'p', &text("secret"))),
        ("a startup packet", packet(&[0, 3, 0, 0, 0])),
        ("TLS asked for", message::ssl_request()),
        ("a query of length 3", with_length(b"Q", 3, b"")),
        (
            "a query of 2 GB",
            with_length(b"Q", (1 << 31) - 1, b"select"),
        ),
        (
            "a query of 2^32 - 1",
            with_length(b"Q", u32::MAX, b"select"),
        ),
        ("a query without its end", message(b'Q', b"select 1")),
        ("Parse that is empty", message(b'P', b"")),
        (
            "Parse with 65,535 types",
            message(b'P', b"\0select 1\0\xff\xff"),
        ),
        (
            "Bind with -1 parameters",
            message(b'B', b"\0\0\0\0\xff\xff"),
        ),
        (
            "Bind of nothing that is there",
            message(b'B', b"\0none\0\0\0\0\0\0\0"),
        ),
        ("Describe of an unknown kind", message(b'D', b"Zx\0")),
        ("Execute before all else", message::execute("", 0)),
        ("CopyData outside of a copy", message::copy_data(b"1\n")),
        ("CopyDone outside of a copy", message::copy_done()),
        ("a function call of nothing", message(b'F', b"")),
        ("Sync with a body", message(b'S', b"more")),
        ("1,000 Flush", message::flush().repeat(1_000)),
        (
            "Terminate and a query",
            [message::terminate(), query("select 1")].concat(),
        ),
    ]
}

fn tries(doorman: &Doorman) -> Vec<Try> {
    let fresh = at_the_start(doorman).into_iter();
    let fresh = fresh.map(|(what, bytes)| (Stage::Fresh, what, bytes));
    let session = [Stage::In, Stage::Busy].into_iter().flat_map(|stage| {
        let list = in_a_session().into_iter();
        list.map(move |(what, bytes)| (stage, what, bytes))
    });
    let all = fresh.chain(in_the_login()).chain(session);
    all.map(|(stage, what, bytes)| Try { stage, what, bytes })
        .collect()
}

/// A connection that has come so far.
fn reach(doorman: &Doorman, stage: Stage) -> Client {
    match stage {
        Stage::Fresh => Client::dial(doorman.port()),
        Stage::Asked | Stage::Proving => {
            let mut client = Client::dial(doorman.port());
            client.send(&doorman.login().user("victim").startup_packet());
            client.expect('R');
            if stage == Stage::Proving {
                client.send(&sasl("SCRAM-SHA-256", b"n,,n=,r=abcdefghijkl"));
                client.expect('R');
            }
            client
        }
        Stage::In => doorman.connect(),
        Stage::Busy => {
            let mut client = doorman.connect();
            client.execute("begin");
            client
        }
    }
}

/// Sends it and tells what came of it: SQLSTATEs, an answer, or a close without a word.
fn attempt(doorman: &Doorman, one: &Try, delivery: Delivery) -> String {
    let mut client = reach(doorman, one.stage);
    let bytes = &one.bytes;
    // The other side may have had enough before the end.
    let _ = match delivery {
        Delivery::Whole => client.try_send(bytes),
        Delivery::ByteByByte => bytes.iter().try_for_each(|byte| client.try_send(&[*byte])),
        Delivery::Half => client.try_send(&bytes[..bytes.len() / 2]),
    };
    let is_in = matches!(one.stage, Stage::In | Stage::Busy);
    if is_in && !matches!(delivery, Delivery::Half) {
        // Asks for an end of the answers, so that they come before that of the client.
        let _ = client.try_send(&message::sync());
    } else {
        client.finish_sending();
    }
    outcome(&mut client, one)
}

fn outcome(client: &mut Client, one: &Try) -> String {
    if one.stage == Stage::Fresh && one.what.contains("TLS") {
        // What comes may be one byte and no message.
        return match client.first_byte_or_close() {
            None => "closed".to_owned(),
            Some(b'E') => "08P01".to_owned(),
            Some(byte) => format!("answer {}", char::from(byte)),
        };
    }
    let mut seen = BTreeSet::new();
    loop {
        match client.try_receive() {
            Ok(message) if message.tag == b'E' => {
                seen.insert(message.error_fields().sqlstate);
            }
            Ok(message) if message.tag == b'Z' => {
                seen.insert("goes on".to_owned());
                client.finish_sending();
            }
            Ok(_) => {}
            Err(error) => {
                assert!(is_close(&error), "{:?} {}: {error}", one.stage, one.what);
                let list = Vec::from_iter(seen);
                return if list.is_empty() {
                    "closed".to_owned()
                } else {
                    list.join(", ")
                };
            }
        }
    }
}

/// Runs `body` while clients are served, each of which checks that its answers are its own. Returns how many
/// there were.
fn while_others_are_served(doorman: &Doorman, body: impl FnOnce()) -> u64 {
    let is_over = AtomicBool::new(false);
    let answers = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (is_over, answers) = (&is_over, &answers);
            scope.spawn(move || {
                let mut client = doorman.connect();
                let mut count = 0_u64;
                while !is_over.load(Ordering::Relaxed) {
                    let own = format!("{number}-{count}");
                    assert_eq!(client.value(&format!("select '{own}'")), own);
                    count += 1;
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Ends the others also if the body fails.
        let end = End(&is_over);
        eventually("all are served", || answers.load(Ordering::Relaxed) > 8);
        body();
        drop(end);
    });
    answers.into_inner()
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn open_files(doorman: &Doorman) -> usize {
    let directory = format!("/proc/{}/fd", doorman.pid());
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

#[test]
fn every_try_ends_with_its_own_connection() {
    let doorman = doorman();
    let tries = tries(&doorman);
    let answers = while_others_are_served(&doorman, || {
        println!("| stage | tried | whole | byte by byte | half of it |\n|---|---|---|---|---|");
        for one in &tries {
            // More than that at one byte each would test the patience only.
            let bytes = if one.bytes.len() <= 1_024 {
                attempt(&doorman, one, Delivery::ByteByByte)
            } else {
                "–".to_owned()
            };
            let (stage, what) = (one.stage, one.what);
            let whole = attempt(&doorman, one, Delivery::Whole);
            let half = attempt(&doorman, one, Delivery::Half);
            println!("| {stage:?} | {what} | {whole} | {bytes} | {half} |");
        }
    });
    println!(
        "{} tries; {answers} answers to others meanwhile",
        tries.len()
    );
    doorman.assert_serves();
    let log = doorman.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn bursts_of_connections_leave_nothing_behind() {
    let count = std::env::var("HOSTILE_CONNECTIONS").map_or(1_000, |text| {
        text.parse().expect("HOSTILE_CONNECTIONS is a number")
    });
    let doorman = doorman();
    doorman.assert_serves();
    let login = doorman.login().startup_packet();
    let victim = doorman.login().user("victim").startup_packet();
    let hello = [&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3][..], &[7; 50]].concat();
    let beginnings: [&[u8]; 6] = [b"", &login[..9], &login, &victim, &hello, b"GET / HTTP"];
    // What a pooler keeps after its first burst is not what it keeps for each.
    let mut files = 0;
    let mut memory = 0;
    for round in 0..3 {
        let answers = while_others_are_served(&doorman, || {
            let crowd: Vec<Client> = (0..count)
                .map(|number| {
                    let mut client = Client::dial(doorman.port());
                    let _ = client.try_send(beginnings[number % beginnings.len()]);
                    client
                })
                .collect();
            for (number, client) in crowd.into_iter().enumerate() {
                if number % 2 == 0 {
                    client.abort();
                }
            }
        });
        eventually("connections are closed", || {
            round == 0 || open_files(&doorman) <= files + 8
        });
        if round == 0 {
            let mut superfluous = doorman.connect();
            eventually("connections are closed", || {
                let sql = "select 1";
                superfluous.value(sql) == "1" && open_files(&doorman) < 200
            });
            (files, memory) = (open_files(&doorman), doorman.resident_bytes());
        }
        let grown = doorman.resident_bytes().saturating_sub(memory);
        println!(
            "burst {round}: {count} connections, {answers} answers to others, {grown} bytes more"
        );
        assert!(grown < 16 << 20, "{grown} bytes more");
    }
    doorman.assert_serves();
    let log = doorman.log();
    assert!(!log.contains("panicked"), "{log}");
}
