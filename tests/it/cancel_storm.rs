//! Many cancel requests at once: each hits its own statement and no other.
//!
//! Source: protocol-flow.html (cancelling requests in progress).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cancel::cancel;
use crate::common::message::query;
use crate::common::{Config, Postgres, at_once, eventually, unique};

/// Clients that run short queries meanwhile.
const OTHERS: usize = 20;

#[test]
fn two_hundred_cancels_at_once_all_hit() {
    storm(200);
}

/// `ulimit -n 8192; cargo test --release --test it -- --ignored a_thousand_cancels_at_once_all_hit`
#[test]
#[ignore = "needs 3000 descriptors and 1000 processes of PostgreSQL"]
fn a_thousand_cancels_at_once_all_hit() {
    storm(1000);
}

/// Cancels `count` statements at once on two shards while others run.
fn storm(count: usize) {
    // Clients are not spread evenly, and permits are.
    let servers = 2 * (count / 2 + count / 5 + OTHERS + 20);
    let postgres = Postgres::private();
    postgres.sql(&format!(
        "alter system set max_connections = {}",
        servers + 50
    ));
    postgres.stop();
    postgres.start();
    let doorman = Config::new(&postgres)
        .shards(2)
        .pool_size(servers)
        .general("max_connections", 10_000)
        .general("query_wait_timeout", "60s")
        .start();
    let mark = unique("storm");
    let mut sleepers: Vec<_> = (0..count).map(|_| doorman.connect()).collect();
    for sleeper in &mut sleepers {
        sleeper.set_deadline(Duration::from_secs(60));
        sleeper.send(&query(&format!("select pg_sleep(300) as {mark}")));
    }
    let mut superuser = postgres.superuser();
    let sql = format!(
        "select count(*) from pg_stat_activity where state = 'active' \
         and query like '%{mark}%' and pid <> pg_backend_pid()"
    );
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let running = superuser.value(&sql);
        if running == count.to_string() {
            break;
        }
        assert!(Instant::now() < end, "{running} of {count} statements run");
        std::thread::sleep(Duration::from_millis(20));
    }
    let keys: Vec<_> = sleepers.iter().map(|sleeper| sleeper.key.clone()).collect();
    let (is_over, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for number in 0..OTHERS {
            let (doorman, is_over, answers) = (&doorman, &is_over, &answers);
            scope.spawn(move || {
                let mut client = doorman.connect();
                let text = format!("other {number}");
                while !is_over.load(Ordering::Relaxed) {
                    let sql = format!("select '{text}' from pg_sleep(0.001)");
                    assert_eq!(client.value(&sql), text);
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        eventually("the others run", || {
            answers.load(Ordering::Relaxed) > OTHERS
        });
        at_once(count, |number| cancel(doorman.port(), &keys[number]));
        for sleeper in &mut sleepers {
            assert_eq!(sleeper.reply().sqlstate(), "57014");
        }
        // The servers of those who were cancelled are used by the others for a while.
        let before = answers.load(Ordering::Relaxed);
        eventually("the others go on", || {
            answers.load(Ordering::Relaxed) > before + 20 * OTHERS
        });
        is_over.store(true, Ordering::Relaxed);
    });
    for sleeper in &mut sleepers {
        assert_eq!(sleeper.value("select 'after'"), "after");
    }
}
