//! Clients that mean harm: what they try, and how each try is refused.
//!
//! Owns: a list of tries at every stage of a connection, in every kind of pieces; bursts of connections; logins
//! that do not end; the clients that are served meanwhile.
//! Does not own: random bytes (`malformed`), which answers are right for which message.
//! Environment: `HOSTILE_CONNECTIONS`, how many connections a burst has (1000); `HOSTILE_BURSTS`, how many bursts
//! there are (3).
//!
//! The tables that this prints are in `docs/operations/security.md`.
//!
//! Source: protocol-flow.html, protocol-message-formats.html.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

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
    config().start()
}

fn config() -> Config {
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

/// What became of the clients that were served meanwhile.
struct Served {
    answers: usize,
    p99: Duration,
    longest: Duration,
}

impl std::fmt::Display for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            answers,
            p99,
            longest,
        } = self;
        write!(f, "{answers}, p99 {p99:.1?}, longest {longest:.1?}")
    }
}

/// Runs `body` while clients are served, each of which checks that its answers are its own.
fn while_others_are_served(doorman: &Doorman, body: impl FnOnce()) -> Served {
    let is_over = AtomicBool::new(false);
    let answers = AtomicU64::new(0);
    let all = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (is_over, answers, all) = (&is_over, &answers, &all);
            scope.spawn(move || {
                let mut client = doorman.connect();
                let mut times = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let own = format!("{number}-{}", times.len());
                    let begin = Instant::now();
                    assert_eq!(client.value(&format!("select '{own}'")), own);
                    times.push(begin.elapsed());
                    answers.fetch_add(1, Ordering::Relaxed);
                }
                all.lock().unwrap().extend(times);
            });
        }
        // Ends the others also if the body fails.
        let end = End(&is_over);
        eventually("all are served", || answers.load(Ordering::Relaxed) > 8);
        body();
        drop(end);
    });
    let mut times = all.into_inner().unwrap();
    times.sort_unstable();
    Served {
        answers: times.len(),
        p99: times[times.len() * 99 / 100],
        longest: times[times.len() - 1],
    }
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
    let served = while_others_are_served(&doorman, || {
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
        "{} tries; answers to others meanwhile: {served}",
        tries.len()
    );
    doorman.assert_serves();
    let log = doorman.log();
    assert!(!log.contains("panicked"), "{log}");
}

/// What a connection is told after its beginning, and how often that was said.
type Tally = BTreeMap<String, usize>;

/// Reads a connection to its end.
fn fate(client: &mut Client) -> String {
    let mut fate = "closed".to_owned();
    loop {
        match client.try_receive() {
            Ok(message) if message.tag == b'E' => fate = message.error_fields().sqlstate,
            Ok(message) if message.tag == b'Z' => "let in".clone_into(&mut fate),
            Ok(message) if message.tag == b'R' && message.body != [0; 4] => {
                "asked for a password".clone_into(&mut fate);
            }
            Ok(_) => {}
            Err(error) => {
                assert!(is_close(&error), "{error}");
                return fate;
            }
        }
    }
}

/// Opens connections that begin in every way, ends half of them by a reset and reads the rest.
fn burst(doorman: &Doorman, count: usize) -> Tally {
    let login = doorman.login().startup_packet();
    let victim = doorman.login().user("victim").startup_packet();
    let hello = [&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3][..], &[7; 50]].concat();
    let beginnings: [&[u8]; 7] = [
        b"",
        &login[..9],
        &login,
        &victim,
        &hello,
        b"GET / HTTP",
        &message::ssl_request(),
    ];
    let crowd: Vec<Client> = (0..count)
        .map(|number| {
            let mut client = Client::dial(doorman.port());
            let _ = client.try_send(beginnings[number % beginnings.len()]);
            client
        })
        .collect();
    let mut tally = Tally::new();
    for (number, mut client) in crowd.into_iter().enumerate() {
        let fate = if number % 2 == 0 {
            client.abort();
            "reset by the client".to_owned()
        } else {
            client.finish_sending();
            fate(&mut client)
        };
        *tally.entry(fate).or_default() += 1;
    }
    tally
}

fn number_from(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn bursts_of_connections_leave_nothing_behind() {
    let count = number_from("HOSTILE_CONNECTIONS", 1_000);
    let doorman = doorman();
    doorman.assert_serves();
    println!(
        "| burst | connections | what became of them | answers to others | resident after |\n\
         |---|---|---|---|---|\n\
         | before | | | | {} KiB |",
        doorman.resident_bytes() / 1024
    );
    // What a pooler keeps after its first burst is not what it keeps for each.
    let mut files = 0;
    let mut memory = 0;
    for round in 0..number_from("HOSTILE_BURSTS", 3) {
        let mut tally = Tally::new();
        let served = while_others_are_served(&doorman, || tally = burst(&doorman, count));
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
        let now = doorman.resident_bytes();
        let told: Vec<_> = tally
            .iter()
            .map(|(fate, n)| format!("{n} {fate}"))
            .collect();
        println!(
            "| {} | {count} | {} | {served} | {} KiB |",
            round + 1,
            told.join(", "),
            now / 1024
        );
        let grown = now.saturating_sub(memory);
        assert!(grown < 16 << 20, "{grown} bytes more");
    }
    doorman.assert_serves();
    let log = doorman.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn logins_that_do_not_end_are_ended_and_hold_up_nobody() {
    const EACH: usize = 50;
    let doorman = config().general("client_login_timeout", "2s").start();
    let login = doorman.login().startup_packet();
    let victim = doorman.login().user("victim").startup_packet();
    let hello = [message::ssl_request(), vec![0x16, 3, 1, 2, 0, 1]];
    let name = "x".repeat(9_000);
    let long = doorman.login().parameter("application_name", &name);
    let long = long.startup_packet();
    let mut tally = Tally::new();
    let served = while_others_are_served(&doorman, || {
        let mut crowd = Vec::new();
        for bytes in [&b""[..], &login[..20], &victim, &hello[0]] {
            for _ in 0..EACH {
                let mut client = Client::dial(doorman.port());
                client.send(bytes);
                crowd.push(client);
            }
        }
        // In the midst of a handshake.
        for client in &mut crowd[3 * EACH..] {
            assert_eq!(client.receive_byte(), b'S');
            client.send(&hello[1]);
        }
        let mut drips: Vec<Client> = (0..EACH).map(|_| Client::dial(doorman.port())).collect();
        for byte in &long[..long.len() - 1] {
            let is_heard = |client: &mut Client| client.try_send(&[*byte]).is_ok();
            if drips.iter_mut().map(is_heard).filter(|is| *is).count() == 0 {
                break;
            }
        }
        for client in crowd.iter_mut().chain(&mut drips) {
            *tally.entry(fate(client)).or_default() += 1;
        }
    });
    let told: Vec<_> = tally
        .iter()
        .map(|(fate, n)| format!("{n} {fate}"))
        .collect();
    println!("{} slow logins: {}", 5 * EACH, told.join(", "));
    println!("answers to others meanwhile: {served}");
    // Those that have a plain connection are told why, unless a reset has taken it away.
    assert!(tally["57014"] >= 3 * EACH, "{told:?}");
    assert_eq!(tally.values().sum::<usize>(), 5 * EACH);
    assert!(!tally.contains_key("let in"), "{told:?}");
    eventually("connections are closed", || open_files(&doorman) < 200);
    doorman.assert_serves();
}
