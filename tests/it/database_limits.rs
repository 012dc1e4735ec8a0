//! How many server connections a database may have, the reserve of a pool, and how many clients a database
//! and a user may have: over all shards, and changed by a reload.
//!
//! Owns: that limits hold, and that nobody starves at one.
//! Source: none.

use std::time::{Duration, Instant};

use crate::common::message::query;
use crate::common::{
    Client, Config, Doorman, Postgres, User, at_once, eventually, with_one_and_two_shards,
};
use crate::statement_numbers::number;

with_one_and_two_shards!(
    full_database_has_idle_servers_of_others_closed_for_who_waits,
    full_database_serves_in_turn_what_comes_back,
    crowd_of_three_users_shares_a_small_database,
    reload_changes_the_size_of_a_database,
    reserve_is_for_those_who_wait_long_and_is_given_back,
    reload_changes_the_reserve,
    clients_of_a_database_are_limited,
    clients_of_a_user_are_limited_over_databases,
    clients_that_come_at_once_do_not_pass_a_limit,
    reload_changes_limits_of_clients,
);

fn users(names: &[&str], size: usize) -> Vec<User> {
    names.iter().map(|name| User::new(name, size)).collect()
}

fn config(shards: usize, names: &[&str], limit: i64) -> Config {
    Config::new(Postgres::shared())
        .shards(shards)
        .users(users(names, 4))
        .pool_key("max_db_connections", limit)
        .general("query_wait_timeout", "30s")
}

fn connect(doorman: &Doorman, user: &str) -> Client {
    doorman.login().user(user).connect()
}

fn metric(doorman: &Doorman, name: &str) -> u64 {
    let login = doorman.login().database("pgdoorman").user("admin");
    number(&mut login.connect(), name)
}

/// So many clients of `user`, each in a transaction.
fn holders(doorman: &Doorman, user: &str, count: usize) -> Vec<Client> {
    let mut holders: Vec<_> = (0..count).map(|_| connect(doorman, user)).collect();
    for holder in &mut holders {
        assert_eq!(holder.query("begin").status, 'T');
    }
    holders
}

fn commit(holders: &mut [Client]) {
    for holder in holders {
        assert_eq!(holder.query("commit").status, 'I');
    }
}

fn full_database_has_idle_servers_of_others_closed_for_who_waits(shards: usize) {
    let doorman = config(shards, &["app", "other"], 3).start();
    let mut first = holders(&doorman, "app", 3);
    commit(&mut first);
    let mut second = holders(&doorman, "other", 3);
    assert!(metric(&doorman, "servers_gave_way") >= 3);
    eventually("three servers", || {
        doorman.server_pids(Postgres::shared()).len() == 3
    });
    commit(&mut second);
    commit(&mut holders(&doorman, "app", 3));
}

fn full_database_serves_in_turn_what_comes_back(shards: usize) {
    let doorman = config(shards, &["app", "other"], 2).start();
    let mut idle = connect(&doorman, "other");
    let mut held = holders(&doorman, "app", 2);
    // Of the pool that has all servers, and of the one that has none.
    let mut waiters: Vec<_> = (0..8)
        .map(|n| connect(&doorman, if n % 2 == 0 { "other" } else { "app" }))
        .collect();
    for waiter in &mut waiters {
        waiter.send(&query("begin"));
    }
    idle.send(&query("select 'served'"));
    commit(&mut held);
    std::thread::scope(|scope| {
        for waiter in &mut waiters {
            scope.spawn(|| {
                assert_eq!(waiter.reply().status, 'T');
                assert_eq!(waiter.query("commit").status, 'I');
            });
        }
    });
    assert_eq!(idle.reply().value(), "served");
    eventually("two servers", || {
        doorman.server_pids(Postgres::shared()).len() <= 2
    });
}

fn crowd_of_three_users_shares_a_small_database(shards: usize) {
    const NAMES: [&str; 3] = ["app", "second", "third"];
    let doorman = config(shards, &NAMES, 2).start();
    at_once(18, |number| {
        let mut client = connect(&doorman, NAMES[number % 3]);
        for round in 0..10 {
            assert_eq!(client.query("begin").status, 'T');
            let value = format!("{number}.{round}");
            assert_eq!(client.value(&format!("select '{value}'")), value);
            assert_eq!(client.query("commit").status, 'I');
        }
    });
    eventually("two servers", || {
        doorman.server_pids(Postgres::shared()).len() <= 2
    });
    assert!(metric(&doorman, "servers_gave_way") > 0);
}

/// How many of eight clients of two users can be in a transaction at the same time.
fn transactions_at_once(doorman: &Doorman) -> usize {
    let mut clients: Vec<_> = (0..8)
        .map(|n| connect(doorman, if n % 2 == 0 { "app" } else { "other" }))
        .collect();
    for client in &mut clients {
        client.send(&query("begin"));
    }
    let begun = clients
        .iter_mut()
        .map(|client| client.expect_any(&['C', 'E']));
    begun.filter(|message| message.tag == b'C').count()
}

fn reload_changes_the_size_of_a_database(shards: usize) {
    let config =
        |limit| config(shards, &["app", "other"], limit).general("query_wait_timeout", "500ms");
    let doorman = config(2).start();
    assert_eq!(transactions_at_once(&doorman), 2);
    for limit in [5, 1, 3] {
        doorman.rewrite(config(limit));
        doorman.sighup();
        eventually("the new limit holds", || {
            transactions_at_once(&doorman) == usize::try_from(limit).unwrap()
        });
    }
    doorman.rewrite(config(0));
    doorman.sighup();
    eventually("no limit but those of pools", || {
        transactions_at_once(&doorman) == 8
    });
    doorman.rewrite(config(2));
    doorman.sighup();
    eventually("idle servers are closed", || {
        doorman.server_pids(Postgres::shared()).len() <= 2
    });
}

const AFTER: Duration = Duration::from_millis(400);

fn with_reserve(shards: usize, size: i64) -> Config {
    Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(1)
        .pool_key("reserve_pool_size", size)
        .general("reserve_pool_timeout", "400ms")
        .general("query_wait_timeout", "2s")
}

fn reserve_is_for_those_who_wait_long_and_is_given_back(shards: usize) {
    let doorman = with_reserve(shards, 2).start();
    let mut clients: Vec<_> = (0..4).map(|_| doorman.connect()).collect();
    assert_eq!(clients[0].query("begin").status, 'T');
    for client in &mut clients[1..3] {
        let start = Instant::now();
        assert_eq!(client.query("begin").status, 'T');
        assert!(start.elapsed() >= AFTER, "after {:?}", start.elapsed());
    }
    clients[3].send(&query("begin"));
    assert_eq!(clients[3].expect('E').error_fields().sqlstate, "53300");
    assert_eq!(doorman.server_pids(Postgres::shared()).len(), 3);
    assert_eq!(metric(&doorman, "reserves_used"), 2);
    commit(&mut clients[..3]);
    eventually("the reserve is closed", || {
        doorman.server_pids(Postgres::shared()).len() == 1
    });
    doorman.assert_serves();
}

fn reload_changes_the_reserve(shards: usize) {
    let doorman = with_reserve(shards, 0).start();
    let mut held = holders(&doorman, "app", 1);
    let mut waiter = doorman.connect();
    waiter.send(&query("begin"));
    assert_eq!(waiter.expect('E').error_fields().sqlstate, "53300");
    doorman.rewrite(with_reserve(shards, 1));
    doorman.sighup();
    eventually("the reserve serves", || {
        let mut client = doorman.connect();
        client.send(&query("select 1"));
        client.expect_any(&['T', 'E']).tag == b'T'
    });
    commit(&mut held);
    assert!(metric(&doorman, "reserves_used") >= 1);
}

fn refused(doorman: &Doorman, user: &str, database: &str) -> String {
    let refusal = doorman.login().user(user).database(database).refusal();
    assert_eq!(refusal.sqlstate(), "53300");
    refusal.message().to_owned()
}

fn clients_of_a_database_are_limited(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .users(users(&["app", "other"], 2))
        .pool("app", Postgres::shared().port(), users(&["app"], 2))
        .pool_key("max_db_client_connections", 3)
        .start();
    let mut clients: Vec<_> = ["app", "other", "app"]
        .map(|user| connect(&doorman, user))
        .into();
    let text = "too many connections for database \"it\"";
    assert_eq!(refused(&doorman, "other", "it"), text);
    let login = doorman.login().database("app");
    assert_eq!(login.connect().value("select 1"), "1");
    assert_eq!(metric(&doorman, "clients_over_limit"), 1);
    clients.pop().unwrap().terminate();
    eventually("room for one more", || {
        doorman.login().user("other").attempt().is_ok()
    });
    for client in &mut clients {
        assert_eq!(client.value("select 1"), "1");
    }
}

fn clients_of_a_user_are_limited_over_databases(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .users(vec![User::new("app", 2), User::new("other", 2)])
        .pool("app", Postgres::shared().port(), users(&["app"], 2))
        .general("max_user_client_connections", 2)
        .start();
    let first = connect(&doorman, "app");
    let _second = doorman.login().database("app").connect();
    let text = "too many connections for user \"app\"";
    assert_eq!(refused(&doorman, "app", "it"), text);
    assert_eq!(refused(&doorman, "app", "app"), text);
    assert_eq!(connect(&doorman, "other").value("select 1"), "1");
    first.abort();
    eventually("room for one more", || doorman.login().attempt().is_ok());
}

fn clients_that_come_at_once_do_not_pass_a_limit(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .pool_key("max_db_client_connections", 5)
        .start();
    let clients = std::sync::Mutex::new(Vec::new());
    at_once(20, |_| match doorman.login().attempt() {
        Ok(client) => clients.lock().unwrap().push(client),
        Err(refusal) => assert_eq!(refusal.sqlstate(), "53300"),
    });
    assert_eq!(clients.into_inner().unwrap().len(), 5);
}

fn reload_changes_limits_of_clients(shards: usize) {
    let config = |limit: i64| {
        Config::new(Postgres::shared())
            .shards(shards)
            .general("max_db_client_connections", limit)
    };
    let doorman = config(1).start();
    let mut clients = vec![doorman.connect()];
    refused(&doorman, "app", "it");
    doorman.rewrite(config(3));
    doorman.sighup();
    eventually("two more are let in", || {
        clients.extend(doorman.login().attempt().ok());
        clients.len() == 3
    });
    refused(&doorman, "app", "it");
    let pid = clients[0].backend_pid();
    doorman.rewrite(config(2));
    doorman.sighup();
    clients.pop().unwrap().terminate();
    eventually("the lower limit holds", || {
        doorman.login().attempt().is_err()
    });
    // Who is there stays, and so does its pool.
    assert_eq!(clients[0].backend_pid(), pid);
}
