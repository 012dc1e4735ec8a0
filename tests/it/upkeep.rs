//! What the pooler does besides serving: ending waits, giving memory back, opening and closing
//! connections.
//!
//! Source: protocol-flow.html.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::common::message::{copy_data, query};
use crate::common::scripted::ScriptedServer;
use crate::common::{Config, Postgres, User, eventually};

#[test]
fn waits_that_end_one_after_another_do_not_stop_the_shard() {
    let config = Config::new(Postgres::shared()).pool_size(1);
    let doorman = config.general("query_wait_timeout", "200ms").start();
    let _holders = doorman.hold_servers(1);
    let mut waiters: Vec<_> = (0..60).map(|_| doorman.connect()).collect();
    for waiter in &mut waiters {
        waiter.send(&query("select 1"));
        let next = Instant::now() + Duration::from_micros(300);
        while Instant::now() < next {}
    }
    for waiter in &mut waiters {
        assert_eq!(waiter.expect('E').error_fields().sqlstate, "53300");
    }
    drop(doorman.connect());
}

#[test]
fn waiting_client_that_keeps_sending_is_not_read_without_end() {
    const WAITERS: usize = 6;
    let config = Config::new(Postgres::shared()).pool_size(1);
    let doorman = config.general("query_wait_timeout", "30s").start();
    let mut holders = doorman.hold_servers(1);
    let before = doorman.resident_bytes();
    let chunk = query(&"x".repeat(10_000)).repeat(100);
    for _ in 0..WAITERS {
        let client = doorman.connect();
        let mut writer = client.writer();
        writer
            .set_write_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        // 64 MB, or as much as is taken.
        for _ in 0..64 {
            if writer.write_all(&chunk).is_err() {
                break;
            }
        }
        holders.push(client);
    }
    let grown = doorman.resident_bytes().saturating_sub(before);
    assert!(grown < WAITERS << 20, "{grown} bytes for {WAITERS} waiters");
}

#[test]
fn memory_claimed_for_ignored_messages_is_given_back() {
    let config = Config::new(Postgres::shared()).general("max_memory_usage", 1 << 20);
    let doorman = config.start();
    let mut fence = doorman.connect();
    let bytes = copy_data(&vec![b'x'; 60_000]);
    let (first, second) = bytes.split_at(30_000);
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = doorman.connect();
        client.send(first);
        fence.execute("select 1");
        client.send(second);
        fence.execute("select 1");
        assert_eq!(client.value("select 2"), "2");
        client.send(first);
        fence.execute("select 1");
        client.send(second);
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.value("select 3"), "3");
    }
}

#[test]
fn waits_end_in_a_pool_that_a_reload_has_removed() {
    let config = |users| {
        let config = Config::new(Postgres::shared()).users(users);
        config.general("query_wait_timeout", "300ms")
    };
    let fence = User::new("fence", 1);
    let doorman = config(vec![User::new("app", 1), fence.clone()]).start();
    let mut waiter = doorman.connect();
    let _holders = doorman.hold_servers(1);
    doorman.rewrite(config(vec![fence]));
    doorman.sighup();
    eventually("the reload is done", || doorman.login().attempt().is_err());
    waiter.send(&query("select 1"));
    assert_eq!(waiter.expect('E').error_fields().sqlstate, "53300");
}

#[test]
fn clients_of_a_replaced_pool_go_on_with_the_new_one() {
    let postgres = Postgres::shared();
    let config = |mode| {
        let user = User::new("app", 2).key("min_pool_size", 1);
        let config = Config::new(postgres).users(vec![user]);
        config.pool_key("server_lifetime", mode)
    };
    let doorman = config("1h").start();
    let mut old = doorman.connect();
    old.execute("begin");
    doorman.rewrite(config("2h"));
    doorman.sighup();
    eventually("the new pool has its minimum", || {
        doorman.server_pids(postgres).len() == 2
    });
    old.execute("commit");
    for _ in 0..3 {
        old.execute("select 1");
    }
    eventually("only the minimum of the new pool is left", || {
        doorman.server_pids(postgres).len() == 1
    });
    assert_eq!(old.value("select 42"), "42");
}

#[test]
fn resized_pool_keeps_its_servers() {
    let postgres = Postgres::shared();
    let config = |size: usize, kept: i64| {
        let user = User::new("app", size).key("min_pool_size", kept);
        Config::new(postgres).users(vec![user]).shards(2)
    };
    let doorman = config(4, 4).start();
    eventually("the minimum is open", || {
        doorman.server_pids(postgres).len() == 4
    });
    let before = doorman.server_pids(postgres);
    let mut client = doorman.connect();
    let resize = |size, kept, count| {
        doorman.rewrite(config(size, kept));
        doorman.sighup();
        eventually("the pool has its new size", || {
            doorman.server_pids(postgres).len() == count
        });
    };
    resize(7, 7, 7);
    let larger = doorman.server_pids(postgres);
    assert!(before.iter().all(|pid| larger.contains(pid)));
    resize(2, 1, 2);
    let smaller = doorman.server_pids(postgres);
    assert!(
        smaller.iter().all(|pid| larger.contains(pid)),
        "{before:?} {larger:?} {smaller:?}"
    );
    assert_eq!(client.value("select 42"), "42");
    resize(3, 3, 3);
}

#[test]
fn server_that_is_down_is_not_stormed_for_the_minimum() {
    let server = ScriptedServer::start(|_| Ok(()));
    let user = User::new("app", 2).key("min_pool_size", 1);
    let doorman = Config::to_port(server.port()).users(vec![user]).start();
    eventually("the first attempt", || server.connections() > 0);
    // The time over which attempts are counted.
    std::thread::sleep(Duration::from_millis(500));
    let attempts = server.connections();
    assert!(attempts <= 10, "{attempts} attempts in half a second");
    drop(doorman);
}
