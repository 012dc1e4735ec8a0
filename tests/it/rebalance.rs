//! Clients spread over the shards, and what a client notices of a move: nothing.
//!
//! Owns: counts per shard, sessions that live on after a move, churn. `CHURN_SECONDS` (default 8)
//! says how long the churn lasts, `SEED` repeats the choices of a run (not their interleaving).
//!
//! The cancel key of a client says on which shard it has logged in, so tests can close all clients
//! of one shard; where clients are now is in the pooler's log.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::cancel::{cancel, wait_until_running};
use crate::common::message::{self, query};
use crate::common::{
    Client, Config, Doorman, Postgres, eventually, unique, with_two_and_four_shards,
};

with_two_and_four_shards!(
    clients_that_connect_are_spread_evenly,
    settings_survive_a_move,
    statements_survive_a_move,
    begun_transactions_survive_a_move,
    idle_clients_of_a_changed_pool_are_spread_too,
    keys_stay_unique_over_moves,
    busy_clients_lose_nothing_in_a_move,
    clients_that_are_hardly_ever_idle_are_spread_too,
    moved_clients_can_be_cancelled,
    clients_that_have_moved_twice_can_be_cancelled,
    sessions_without_a_server_move_in_session_mode,
    moved_clients_count_as_connections,
    clients_stay_spread_while_they_come_and_go,
);

fn config(shards: usize) -> Config {
    Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(4 * shards)
        .log_level("debug")
}

/// The last counts in the log.
fn counts(doorman: &Doorman) -> Vec<u64> {
    all_counts(doorman).pop().unwrap_or_default()
}

/// The counts of every second in which they have changed.
fn all_counts(doorman: &Doorman) -> Vec<Vec<u64>> {
    let log = doorman.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("clients per shard"));
    lines
        .filter_map(|line| line.split(['[', ']']).find(|part| part.contains(", ")))
        .map(|part| part.split(", ").filter_map(|n| n.parse().ok()).collect())
        .collect()
}

fn moves(doorman: &Doorman) -> usize {
    doorman.log().matches("clients handed over").count()
}

/// The slot that a client has there.
fn slot(client: &Client) -> usize {
    let pid = u32::from_be_bytes(client.key[..4].try_into().unwrap());
    (pid as usize - 1) & ((1 << 17) - 1)
}

/// Whether `counts` of `total` clients are as even as the pooler promises.
fn is_even(counts: &[u64], total: u64) -> bool {
    let mean = total as f64 / counts.len() as f64;
    counts.iter().sum::<u64>() == total
        && counts
            .iter()
            .all(|count| *count as f64 <= mean * 1.03 + 1.0)
}

/// Waits until the clients of every shard are `total` in all, and even.
fn wait_until_even(doorman: &Doorman, total: usize) {
    let mut last = Vec::new();
    eventually("clients are spread evenly", || {
        let now = counts(doorman);
        if now != last {
            eprintln!("clients per shard: {now:?}");
            last.clone_from(&now);
        }
        is_even(&now, total as u64)
    });
}

/// Closes all clients but those that have logged in on shard 0.
fn keep_those_of_shard_0(clients: &mut Vec<Client>) {
    clients.retain(|client| client.origin() == 0);
    assert!(clients.len() >= 10, "only {} on shard 0", clients.len());
}

/// Clients most of which have moved from shard 0 to the others.
fn moved_clients(doorman: &Doorman, shards: usize) -> Vec<Client> {
    let mut clients: Vec<_> = (0..20 * shards).map(|_| doorman.connect()).collect();
    keep_those_of_shard_0(&mut clients);
    wait_until_even(doorman, clients.len());
    assert!(moves(doorman) > 0);
    clients
}

fn clients_that_connect_are_spread_evenly(shards: usize) {
    let doorman = config(shards).start();
    let mut clients: Vec<_> = (0..50).map(|_| doorman.connect()).collect();
    // A shard passes on from two clients above the least; nothing has to be moved later.
    eventually("clients are spread evenly", || {
        let counts = counts(&doorman);
        let (most, least) = (counts.iter().max(), counts.iter().min());
        counts.iter().sum::<u64>() == 50 && most.unwrap() - least.unwrap() <= 2
    });
    assert_eq!(moves(&doorman), 0);
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.value(&format!("select {n}")), n.to_string());
    }
}

fn settings_survive_a_move(shards: usize) {
    let doorman = config(shards).start();
    let login = doorman.login().parameter("DateStyle", "German, DMY");
    let mut clients: Vec<_> = (0..20 * shards).map(|_| login.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.execute(&format!("set application_name = 'client {n}'"));
        client.execute("set timezone = 'Asia/Tokyo'");
    }
    let names: Vec<_> = (0..clients.len()).map(|n| format!("client {n}")).collect();
    let mut named: Vec<_> = names.into_iter().zip(clients).collect();
    named.retain(|(_, client)| client.origin() == 0);
    wait_until_even(&doorman, named.len());
    for (name, client) in &mut named {
        assert_eq!(client.value("show application_name"), *name);
        assert_eq!(client.value("show timezone"), "Asia/Tokyo");
        assert_eq!(client.value("show datestyle"), "German, DMY");
        // What a session falls back to is what it asked for at login.
        client.execute("set datestyle = 'ISO'");
        client.execute("reset datestyle");
        assert_eq!(client.value("show datestyle"), "German, DMY");
    }
}

fn statements_survive_a_move(shards: usize) {
    let doorman = config(shards).start();
    let mut clients: Vec<_> = (0..20 * shards).map(|_| doorman.connect()).collect();
    let texts: Vec<_> = (0..clients.len()).map(|n| format!("client {n}")).collect();
    for (text, client) in texts.iter().zip(&mut clients) {
        let sql = format!("select '{text}'");
        let parses = [message::parse("own", &sql), message::parse("", &sql)];
        assert_eq!(client.batch(&parses).tags, "11Z");
    }
    let mut named: Vec<_> = texts.into_iter().zip(clients).collect();
    named.retain(|(_, client)| client.origin() == 0);
    wait_until_even(&doorman, named.len());
    assert!(moves(&doorman) > 0);
    for (text, client) in &mut named {
        for name in ["own", ""] {
            let run = [message::bind("", name, &[]), message::execute("", 0)];
            assert_eq!(client.batch(&run).value(), *text);
        }
    }
}

fn begun_transactions_survive_a_move(shards: usize) {
    let doorman = config(shards).start();
    let mut clients: Vec<_> = (0..20 * shards).map(|_| doorman.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.query("begin;").status, 'T');
    }
    keep_those_of_shard_0(&mut clients);
    wait_until_even(&doorman, clients.len());
    assert!(moves(&doorman) > 0);
    for client in &mut clients {
        assert_eq!(client.query("select txid_current()").status, 'T');
        assert_eq!(client.query("commit").status, 'I');
    }
}

fn idle_clients_of_a_changed_pool_are_spread_too(shards: usize) {
    let config = config(shards);
    let doorman = config.clone().start();
    let mut clients: Vec<_> = (0..20 * shards).map(|_| doorman.connect()).collect();
    doorman.rewrite(config.pool_key("idle_timeout", "1h"));
    doorman.sighup();
    eventually("the configuration is read", || {
        doorman.log().contains("configuration reloaded")
    });
    keep_those_of_shard_0(&mut clients);
    wait_until_even(&doorman, clients.len());
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.value(&format!("select {n}")), n.to_string());
    }
}

/// A slot belongs to its key as long as the client lives, wherever it is.
fn keys_stay_unique_over_moves(shards: usize) {
    let doorman = config(shards).start();
    let mut clients = moved_clients(&doorman, shards);
    for _ in 0..3 {
        clients.extend((0..10 * shards).map(|_| doorman.connect()));
        let pids: HashSet<_> = clients.iter().map(|client| &client.key[..4]).collect();
        assert_eq!(pids.len(), clients.len());
        // Those that have moved go first, so that their slots are used again.
        clients.drain(..clients.len() / 2);
        wait_until_even(&doorman, clients.len());
    }
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.value(&format!("select {n}")), n.to_string());
    }
}

/// Ends the threads of a test, also if it fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn busy_clients_lose_nothing_in_a_move(shards: usize) {
    let doorman = config(shards).start();
    let mut clients: Vec<_> = (0..10 * shards + 10).map(|_| doorman.connect()).collect();
    keep_those_of_shard_0(&mut clients);
    let total = clients.len();
    let is_over = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for (number, mut client) in clients.into_iter().enumerate() {
            let (is_over, answered) = (&is_over, &answered);
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(number as u64);
                let mut round = 0;
                while !is_over.load(Ordering::Relaxed) {
                    ask_in_pieces(&mut client, &mut random, number, round);
                    round += 1;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                // All stay until the end: the counts are of all of them.
                client
            });
        }
        let _over = Over(&is_over);
        wait_until_even(&doorman, total);
        // Once more, so that every one has been asked something where it is now.
        let before = answered.load(Ordering::Relaxed);
        eventually("everybody is answered", || {
            answered.load(Ordering::Relaxed) > before + 5 * total as u64
        });
    });
    assert!(moves(&doorman) > 0);
}

/// The next statement is sent as soon as the last one is answered, so a client is idle for some
/// microseconds out of many milliseconds: it goes when a transaction ends, if at all.
fn clients_that_are_hardly_ever_idle_are_spread_too(shards: usize) {
    let doorman = config(shards).pool_size(30 * shards).start();
    let mut clients: Vec<_> = (0..20 * shards).map(|_| doorman.connect()).collect();
    keep_those_of_shard_0(&mut clients);
    let total = clients.len();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for mut client in clients {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    client.execute("select pg_sleep(0.1)");
                }
                client
            });
        }
        let _over = Over(&is_over);
        wait_until_even(&doorman, total);
    });
}

/// Cancels a long statement of each client. The requests come in on any shard.
fn cancel_all(doorman: &Doorman, clients: &mut [Client]) {
    for client in clients {
        let mark = unique("cancel_mark");
        client.send(&query(&format!("select pg_sleep(60) as {mark}")));
        wait_until_running(&mark);
        cancel(doorman.port(), &client.key);
        let reply = client.reply();
        assert_eq!((reply.sqlstate(), reply.status), ("57014", 'I'));
        // Nothing of the request is left for what comes next.
        assert_eq!(client.value("select 'after'"), "after");
    }
}

fn moved_clients_can_be_cancelled(shards: usize) {
    let doorman = config(shards).start();
    let mut clients = moved_clients(&doorman, shards);
    for _ in 0..2 {
        cancel_all(&doorman, &mut clients);
    }
    // A wrong secret finds nobody, wherever the right one is.
    for client in &mut clients {
        client.send(&query("select 'slept' from pg_sleep(0.1)"));
        let mut wrong = client.key.clone();
        wrong[7] ^= 1;
        cancel(doorman.port(), &wrong);
        assert_eq!(client.reply().value(), "slept");
    }
}

/// Once shard 0 has less than the others, those that go there come home, and with four shards some
/// may go on to a third one.
fn clients_that_have_moved_twice_can_be_cancelled(shards: usize) {
    let doorman = config(shards).start();
    let mut clients = moved_clients(&doorman, shards);
    let before = moves(&doorman);
    // Sessions are asked in the order of their slots, so the last ones have stayed.
    clients.sort_by_key(slot);
    let stayed = counts(&doorman)[0] as usize;
    clients.truncate(clients.len() - stayed);
    // All that are left are guests, so whoever moves now does so for the second time; but not in the
    // first ten seconds, which are as long as a single wait may take.
    let start = Instant::now();
    eventually("guests have rested a while", || {
        start.elapsed() > Duration::from_secs(5) || moves(&doorman) > before
    });
    eventually("guests go on", || moves(&doorman) > before);
    wait_until_even(&doorman, clients.len());
    cancel_all(&doorman, &mut clients);
}

/// Asks some things at once, in one to three writes, with a pause before.
fn ask_in_pieces(client: &mut Client, random: &mut StdRng, number: usize, round: u32) {
    let count = random.random_range(1..4);
    let value = |n: usize| format!("client {number} round {round} question {n}");
    let questions = (0..count).map(|n| query(&format!("select '{}'", value(n))));
    let bytes: Vec<u8> = questions.flatten().collect();
    std::thread::sleep(Duration::from_micros(random.random_range(0..3000)));
    let cut = random.random_range(0..=bytes.len());
    for piece in [&bytes[..cut], &bytes[cut..]] {
        client.send(piece);
    }
    for n in 0..count {
        assert_eq!(client.reply().value(), value(n));
    }
}

fn sessions_without_a_server_move_in_session_mode(shards: usize) {
    let doorman = config(shards).session_mode().start();
    let clients = moved_clients(&doorman, shards);
    for (n, mut client) in clients.into_iter().enumerate() {
        client.execute("create temp table mine (n int)");
        client.execute(&format!("insert into mine values ({n})"));
        assert_eq!(client.value("select n from mine"), n.to_string());
        client.terminate();
    }
}

fn moved_clients_count_as_connections(shards: usize) {
    let most = 20 * shards;
    let doorman = config(shards)
        .general("max_connections", i64::try_from(most).unwrap())
        .start();
    let mut clients = Vec::new();
    eventually("connections of the start are closed", || {
        clients.extend(doorman.login().attempt());
        clients.len() == most
    });
    keep_those_of_shard_0(&mut clients);
    wait_until_even(&doorman, clients.len());
    for _ in 0..2 {
        eventually("all connections can be used", || {
            clients.extend(doorman.login().attempt());
            clients.len() == most
        });
        assert_eq!(doorman.login().refusal().sqlstate(), "53300");
        clients.drain(..5);
    }
}

/// How a run of churn goes.
struct Churn {
    doorman: Doorman,
    shards: usize,
    seed: u64,
    start: Instant,
    length: Duration,
    answered: AtomicU64,
    connects: AtomicU64,
}

const THREADS: u64 = 8;
const CLIENTS_A_THREAD: usize = 50;
/// The number of clients goes down for so long, then up again at once; in the end it stays the same
/// for so long.
const TOOTH: Duration = Duration::from_secs(4);

impl Churn {
    /// How many clients a thread keeps open now; and, but for the last while, whose clients are
    /// closed: those that have logged in on one shard, so that sessions have to be moved.
    fn now(&self) -> Option<(usize, Option<usize>)> {
        let now = self.start.elapsed();
        let tooth = now.as_secs_f64() / TOOTH.as_secs_f64();
        let is_last = now + TOOTH >= self.length;
        let part = if is_last { 0.5 } else { tooth.fract() };
        let wanted = CLIENTS_A_THREAD as f64 * (1.0 - 0.4 * part);
        let shard = (!is_last).then_some(tooth as usize % self.shards);
        (now < self.length).then_some((wanted as usize, shard))
    }

    /// Some clients live from the beginning to the end, others shortly.
    fn run(&self, number: u64) -> Vec<Client> {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_add(number));
        let mut clients: Vec<Client> = Vec::new();
        let mut round = 0;
        // Every tenth is never closed.
        let first = CLIENTS_A_THREAD / 10;
        while let Some((wanted, shard)) = self.now() {
            round += 1;
            if clients.len() > first && (clients.len() > wanted || random.random_bool(0.05)) {
                let mut at = random.random_range(first..clients.len());
                let fits = |client: &Client| shard.is_none_or(|shard| client.origin() == shard);
                let found = clients[first..].iter().position(fits);
                if !fits(&clients[at]) {
                    at = found.map_or(at, |found| first + found);
                }
                let client = clients.swap_remove(at);
                match random.random_range(0..3) {
                    0 => client.terminate(),
                    1 => client.abort(),
                    _ => drop(client),
                }
            }
            if clients.len() < wanted {
                let name = format!("churn {number} {round}");
                let login = self.doorman.login().parameter("application_name", &name);
                clients.push(login.connect());
                self.connects.fetch_add(1, Ordering::Relaxed);
            }
            let at = random.random_range(0..clients.len());
            ask_in_pieces(&mut clients[at], &mut random, at, round);
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        clients
    }
}

/// The largest count as a multiple of the mean.
fn ratio(counts: &[u64]) -> f64 {
    let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    *counts.iter().max().unwrap() as f64 / mean
}

fn clients_stay_spread_while_they_come_and_go(shards: usize) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seconds = number("CHURN_SECONDS").unwrap_or(8);
    let seed = number("SEED").unwrap_or_else(|| rand::rng().random());
    eprintln!("SEED={seed}");
    let churn = Churn {
        doorman: config(shards).start(),
        shards,
        seed,
        start: Instant::now(),
        length: Duration::from_secs(seconds),
        answered: AtomicU64::new(0),
        connects: AtomicU64::new(0),
    };
    let open: Vec<_> = std::thread::scope(|scope| {
        let churn = &churn;
        let threads: Vec<_> = (0..THREADS)
            .map(|number| scope.spawn(move || churn.run(number)))
            .collect();
        let ends = threads.into_iter().map(|thread| thread.join().unwrap());
        ends.flatten().collect()
    });
    // Nothing has been given time to settle.
    let at_end = counts(&churn.doorman);
    let all = all_counts(&churn.doorman).into_iter().skip(1);
    let mut ratios: Vec<f64> = all.map(|counts| ratio(&counts)).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    eprintln!(
        "{shards} shards: {} connects, {} answers, {} hand-overs, {} clients at the end: {at_end:?}; \
         max/mean median {:.3}, most {:.3}, at the end {:.3}",
        churn.connects.into_inner(),
        churn.answered.into_inner(),
        moves(&churn.doorman),
        open.len(),
        ratios[ratios.len() / 2],
        ratios[ratios.len() - 1],
        ratio(&at_end)
    );
    assert!(ratio(&at_end) <= 1.1, "{at_end:?}");
    wait_until_even(&churn.doorman, open.len());
    for (n, mut client) in open.into_iter().enumerate() {
        let name = client.value("show application_name");
        assert!(name.starts_with("churn "), "{n}: {name}");
    }
}
