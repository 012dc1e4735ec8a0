//! Waiting for a server: order, time limits, errors.

use std::time::{Duration, Instant};

use crate::common::{
    Config, Doorman, Postgres, User, at_once, eventually, message, unique, with_one_and_two_shards,
};

with_one_and_two_shards!(
    waiting_longer_than_query_wait_timeout_is_an_error,
    pool_serves_again_after_waiters_gave_up,
    vanished_waiter_does_not_take_a_server,
    pools_of_two_users_do_not_share_their_limits,
);

const REFUSAL: &str = "Could not get a database connection from the pool. \
                       All servers may be busy or down.";

/// A pooler with one server a shard and a short wait.
fn doorman(shards: usize) -> Doorman {
    let config = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(shards);
    config.general("query_wait_timeout", "500ms").start()
}

fn waiting_longer_than_query_wait_timeout_is_an_error(shards: usize) {
    let doorman = doorman(shards);
    let mut holders = doorman.hold_servers(shards);
    let mut waiter = doorman.connect();
    let start = Instant::now();
    waiter.send(&message::query("select 1"));
    let error = waiter.expect('E').error_fields();
    assert_eq!(error.sqlstate, "53300");
    assert!(error.message.starts_with(REFUSAL), "{error:?}");
    assert!(error.message.contains("query_wait_timeout"), "{error:?}");
    assert!(
        start.elapsed() >= Duration::from_millis(450),
        "after {:?}",
        start.elapsed()
    );
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "after {:?}",
        start.elapsed()
    );
    for holder in &mut holders {
        assert_eq!(holder.query("select 1").status, 'T');
        assert_eq!(holder.query("commit").status, 'I');
    }
}

fn pool_serves_again_after_waiters_gave_up(shards: usize) {
    let doorman = doorman(shards);
    let mut holders = doorman.hold_servers(shards);
    let mut waiters: Vec<_> = (0..6).map(|_| doorman.connect()).collect();
    for waiter in &mut waiters {
        waiter.send(&message::query("select 'too late'"));
    }
    for waiter in &mut waiters {
        assert_eq!(waiter.expect('E').error_fields().sqlstate, "53300");
    }
    for holder in &mut holders {
        assert_eq!(holder.query("commit").status, 'I');
    }
    for n in 0..6 {
        assert_eq!(
            doorman.connect().value(&format!("select {n}")),
            n.to_string()
        );
    }
    assert!(doorman.server_pids(Postgres::shared()).len() <= shards);
}

fn vanished_waiter_does_not_take_a_server(shards: usize) {
    let doorman = doorman(shards);
    let mut holders = doorman.hold_servers(shards);
    for round in 0..6 {
        let mut waiter = doorman.connect();
        waiter.send(&message::query("begin"));
        if round % 2 == 0 {
            waiter.abort();
        }
    }
    for holder in &mut holders {
        assert_eq!(holder.query("commit").status, 'I');
    }
    let mut clients = doorman.hold_servers(shards);
    for client in &mut clients {
        assert_eq!(client.query("select 1").status, 'T');
    }
}

fn pools_of_two_users_do_not_share_their_limits(shards: usize) {
    let users = vec![User::new("app", shards), User::new("other", shards)];
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .users(users)
        .general("query_wait_timeout", "500ms")
        .start();
    let _holders = doorman.hold_servers(shards);
    let mut other = doorman.login().user("other").connect();
    assert_eq!(other.value("select 'not waiting'"), "not waiting");
}

/// One shard, one server, and a second pool whose answers show that the shard has read what was
/// sent before.
fn doorman_with_a_fence() -> Doorman {
    let users = vec![User::new("app", 1), User::new("fence", 1)];
    Config::new(Postgres::shared())
        .users(users)
        .general("query_wait_timeout", "30s")
        .start()
}

#[test]
fn waiters_are_served_in_the_order_of_their_arrival() {
    let doorman = doorman_with_a_fence();
    let sequence = unique("order");
    Postgres::shared().sql(&format!("create sequence {sequence}"));
    Postgres::shared().sql(&format!("grant all on {sequence} to public"));
    let mut fence = doorman.login().user("fence").connect();
    let mut holders = doorman.hold_servers(1);
    let mut waiters: Vec<_> = (0..10).map(|_| doorman.connect()).collect();
    for waiter in &mut waiters {
        waiter.send(&message::query(&format!("select nextval('{sequence}')")));
        fence.execute("select 1");
    }
    assert_eq!(holders[0].query("commit").status, 'I');
    for (index, waiter) in waiters.iter_mut().enumerate() {
        assert_eq!(waiter.reply().value(), (index + 1).to_string());
    }
}

#[test]
fn busy_client_does_not_overtake_a_waiter() {
    let doorman = doorman_with_a_fence();
    let mut fence = doorman.login().user("fence").connect();
    let mut busy = doorman.hold_servers(1).remove(0);
    let mut waiter = doorman.connect();
    waiter.send(&message::query("select 'waited'"));
    fence.execute("select 1");
    // The whole write is there when the transaction ends, yet the waiter was first.
    let table = unique("overtaken");
    busy.send_all(&[
        message::query(&format!("commit; create table {table} (n int)")),
        message::query(&format!(
            "select count(*) from pg_class where relname = '{table}'"
        )),
    ]);
    assert_eq!(waiter.reply().value(), "waited");
    assert_eq!(busy.reply().status, 'I');
    assert_eq!(busy.reply().value(), "1");
}

#[test]
fn pool_of_one_server_serves_a_crowd() {
    let config = Config::new(Postgres::shared()).pool_size(1);
    let doorman = config.general("query_wait_timeout", "30s").start();
    at_once(100, |number| {
        let mut client = doorman.connect();
        for round in 0..10 {
            let value = format!("{number}.{round}");
            assert_eq!(client.value(&format!("select '{value}'")), value);
        }
    });
    eventually("one server", || {
        doorman.server_pids(Postgres::shared()).len() == 1
    });
}

#[test]
fn five_hundred_clients_are_served_by_four_servers() {
    let config = Config::new(Postgres::shared()).shards(2).pool_size(4);
    let doorman = config.general("query_wait_timeout", "30s").start();
    let mut clients: Vec<_> = (0..500).map(|_| doorman.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&message::query(&format!("select {number}")));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.reply().value(), number.to_string());
    }
    assert!(doorman.server_pids(Postgres::shared()).len() <= 4);
}
