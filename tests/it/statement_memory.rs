//! Memory of prepared statements: a hundred clients send as many different ones as they like.
//!
//! Owns: what the pooler's resident memory may grow by. `STATEMENTS` (default 20000) says how many
//! statements are sent; with `--nocapture` each test prints what it has measured.
//!
//! Source: docs/configuration.md, "Memory of prepared statements".

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::common::client::Message;
use crate::common::message::{bind, close, execute, parse, sync};
use crate::common::{
    Client, Config, Doorman, Postgres, at_once, eventually, with_one_and_two_shards,
};

with_one_and_two_shards!(
    closed_statements_leave_nothing,
    unnamed_statements_leave_nothing,
    kept_statements_end_at_the_bound_of_their_client,
    kept_statements_take_what_is_documented_and_others_may_have_it_then,
    statements_beyond_the_memory_for_them_end_their_client,
);

const CLIENTS: usize = 100;
/// Statements in one write.
const BATCH: usize = 50;
const SERVERS: usize = 4;
/// What buffers of the ring and the allocator may keep, whatever is sent.
const SLACK: usize = 24 << 20;
/// What a server's list takes for each statement.
const LISTED: usize = 128;
/// What a statement takes that a client keeps, beside its name and its text.
const KEPT: usize = 450;

fn statements() -> usize {
    let given = std::env::var("STATEMENTS").ok();
    given.map_or(20_000, |text| text.parse().expect("STATEMENTS is a number"))
}

fn config(shards: usize) -> Config {
    Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(SERVERS)
}

/// What the lists of all servers may take.
fn lists() -> usize {
    SERVERS * LISTED * statements().min(8192)
}

/// A text that nobody else sends.
fn sql(client: usize, number: usize) -> String {
    format!("select {number} as statement, '{client:03}' as client, $1::text as parameter")
}

/// A pooler with clients, all of which have been served.
fn with_clients(config: Config) -> (Doorman, Vec<Client>) {
    let doorman = config.start();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| doorman.connect()).collect();
    for client in &mut clients {
        let run = [parse("", "select 1"), bind("", "", &[]), execute("", 0)];
        assert_eq!(client.batch(&run).value(), "1");
    }
    (doorman, clients)
}

/// Has all clients send their share, `messages` for each statement; returns the greatest growth of
/// the pooler, in bytes.
fn send_all(
    doorman: &Doorman,
    clients: &mut [Client],
    messages: impl Fn(usize, usize) -> Vec<Vec<u8>> + Sync,
) -> usize {
    let (start, before) = (Instant::now(), doorman.resident_bytes());
    let greatest = AtomicUsize::new(before);
    let (each, count) = (statements() / CLIENTS, clients.len());
    let clients: Vec<_> = clients.iter_mut().map(std::sync::Mutex::new).collect();
    at_once(count, |at| {
        let mut client = clients[at].lock().unwrap();
        for first in (0..each).step_by(BATCH) {
            let numbers = first..each.min(first + BATCH);
            let batch: Vec<_> = numbers.flat_map(|number| messages(at, number)).collect();
            let reply = client.batch(&batch);
            assert!(reply.errors.is_empty(), "{:?}", reply.errors);
            if at == 0 {
                greatest.fetch_max(doorman.resident_bytes(), Ordering::Relaxed);
            }
        }
    });
    let end = doorman.resident_bytes();
    let grown = greatest.into_inner().max(end) - before;
    println!(
        "{} statements in {:.1} s: {:.1} MiB before, {:.1} MiB more at most, {:.1} MiB at the end",
        each * count,
        start.elapsed().as_secs_f64(),
        mib(before),
        mib(grown),
        mib(end),
    );
    grown
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[track_caller]
fn assert_within(grown: usize, bound: usize) {
    println!("bound: {:.1} MiB", mib(bound));
    assert!(grown <= bound, "{grown} bytes, bound {bound}");
}

fn closed_statements_leave_nothing(shards: usize) {
    let (doorman, mut clients) = with_clients(config(shards));
    let grown = send_all(&doorman, &mut clients, |client, number| {
        let name = format!("s{number}");
        let run = bind("", &name, &[Some(b"x")]);
        vec![
            parse(&name, &sql(client, number)),
            run,
            execute("", 0),
            close(b'S', &name),
        ]
    });
    assert_within(grown, SLACK + lists());
}

fn unnamed_statements_leave_nothing(shards: usize) {
    let (doorman, mut clients) = with_clients(config(shards));
    let grown = send_all(&doorman, &mut clients, |client, number| {
        let run = bind("", "", &[Some(b"x")]);
        vec![parse("", &sql(client, number)), run, execute("", 0)]
    });
    assert_within(grown, SLACK + lists());
}

fn kept_statements_end_at_the_bound_of_their_client(shards: usize) {
    let bound = 100;
    let key = "client_prepared_statements_cache_size";
    let config = config(shards).general(key, i64::try_from(bound).unwrap());
    let (doorman, mut clients) = with_clients(config);
    let grown = send_all(&doorman, &mut clients, |client, number| {
        vec![parse(&format!("s{number}"), &sql(client, number))]
    });
    let kept = CLIENTS * bound * (KEPT + sql(0, 10_000).len() + 5);
    assert_within(grown, SLACK + lists() + kept);
}

fn kept_statements_take_what_is_documented_and_others_may_have_it_then(shards: usize) {
    let (doorman, mut clients) = with_clients(config(shards));
    let grown = send_all(&doorman, &mut clients, |client, number| {
        vec![parse(&format!("s{number}"), &sql(client, number))]
    });
    let kept = statements() * (KEPT + sql(0, 10_000).len() + 5);
    assert_within(grown, SLACK + lists() + kept);
    for client in clients {
        client.terminate();
    }
    let mut console = doorman.login().database("pgdoorman").connect();
    eventually("nothing is kept", || {
        console.rows("show prepared_statements").is_empty()
    });
    println!("without clients: {:.1} MiB", mib(doorman.resident_bytes()));
    // The allocator keeps what it has got: others use it.
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| doorman.connect()).collect();
    let grown = send_all(&doorman, &mut clients, |client, number| {
        vec![parse(&format!("s{number}"), &sql(client + CLIENTS, number))]
    });
    assert_within(grown, SLACK + kept / 4);
}

/// Who prepares without end is disconnected; others go on, and prepare what is known already.
fn statements_beyond_the_memory_for_them_end_their_client(shards: usize) {
    let config = config(shards).general("prepared_statements_memory", "2MB");
    let doorman = config.start();
    let mut modest: Vec<_> = (0..8).map(|_| doorman.connect()).collect();
    for client in &mut modest {
        assert_eq!(client.batch(&[parse("own", "select 'own'")]).tags, "1Z");
    }
    let before = doorman.resident_bytes();
    for round in 0..5 {
        let mut greedy = doorman.connect();
        let refused = (0..10_000).step_by(BATCH).find(|first| {
            for number in *first..first + BATCH {
                greedy.send(&parse(&format!("s{number}"), &sql(round, number)));
            }
            greedy.send(&sync());
            loop {
                match greedy.expect_any(&['1', 'E', 'Z']) {
                    Message { tag: b'Z', .. } => return false,
                    error if error.tag == b'E' => {
                        assert_eq!(error.error_fields().sqlstate, "53200");
                        return true;
                    }
                    _ => {}
                }
            }
        });
        let number = refused.expect("an end");
        // A statement takes about half a KiB, and a shard has its part of the whole.
        assert!((500..6_000).contains(&number), "{number}");
        assert!(greedy.is_closed());
        for client in &mut modest {
            let run = [bind("", "own", &[]), execute("", 0)];
            assert_eq!(client.batch(&run).value(), "own");
            let run = [parse("", "select 2"), bind("", "", &[]), execute("", 0)];
            assert_eq!(client.batch(&run).value(), "2");
        }
    }
    let log = doorman.log();
    assert!(log.contains("prepared_statements_memory is used up"));
    assert_within(doorman.resident_bytes().saturating_sub(before), SLACK);
}
