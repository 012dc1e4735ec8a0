//! One logical pool over all shards: limits, fairness and load are right although shards share
//! nothing.
//!
//! Owns: servers that move between shards. Clients that move are in `rebalance`.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::message::{message, query};
use crate::common::scripted::{ScriptedServer, answer};
use crate::common::{
    Client, Config, Doorman, Postgres, User, eventually, with_two_and_four_shards,
};

with_two_and_four_shards!(
    one_server_serves_the_clients_of_all_shards,
    settings_follow_their_clients_when_servers_move,
    news_of_a_server_under_way_is_not_lost,
    killed_servers_leave_their_permits,
    minimum_is_that_of_the_pool_and_not_of_each_shard,
    client_alone_on_its_shard_may_use_the_whole_pool,
    server_at_its_limit_is_shared_by_all_shards,
);

fn pool_of(size: usize, shards: usize) -> Config {
    Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(size)
}

/// A client on each shard.
fn one_client_a_shard(doorman: &Doorman, shards: usize) -> Vec<Client> {
    let mut clients: Vec<Option<Client>> = (0..shards).map(|_| None).collect();
    eventually("every shard has a client", || {
        let client = doorman.connect();
        let shard = client.origin();
        clients[shard] = Some(client);
        clients.iter().all(Option::is_some)
    });
    clients.into_iter().flatten().collect()
}

fn one_server_serves_the_clients_of_all_shards(shards: usize) {
    let doorman = pool_of(1, shards).start();
    let mut clients = one_client_a_shard(&doorman, shards);
    clients.extend((0..8).map(|_| doorman.connect()));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let counter = scope.spawn(|| {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                most = most.max(doorman.server_pids(Postgres::shared()).len());
            }
            most
        });
        let workers: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(number, mut client)| {
                scope.spawn(move || {
                    for round in 0..100 {
                        let value = format!("{number} {round}");
                        assert_eq!(client.value(&format!("select '{value}'")), value);
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(counter.join().unwrap(), 1);
    });
}

fn settings_follow_their_clients_when_servers_move(shards: usize) {
    let doorman = pool_of(1, shards).start();
    let mut clients = one_client_a_shard(&doorman, shards);
    let zones = ["Europe/Paris", "Asia/Tokyo", "America/Lima", "UTC"];
    for (client, zone) in clients.iter_mut().zip(zones) {
        client.execute(&format!("set timezone to '{zone}'"));
    }
    for _ in 0..20 {
        for (client, zone) in clients.iter_mut().zip(zones) {
            assert_eq!(client.value("show timezone"), zone);
        }
    }
    assert_eq!(doorman.server_pids(Postgres::shared()).len(), 1);
}

/// The server says something unasked after each answer: it arrives while the connection is idle, on its
/// way to another shard, or just there.
fn news_of_a_server_under_way_is_not_lost(shards: usize) {
    let server = ScriptedServer::start(|peer| {
        peer.accept_login()?;
        loop {
            let question = peer.receive()?;
            if question.tag != b'Q' {
                return Ok(());
            }
            peer.send(&answer(&question))?;
            peer.send(&message(b'N', b"SNOTICE\0C00000\0Mnews\0\0"))?;
            peer.send(&message(b'S', b"application_name\0it\0"))?;
        }
    });
    let doorman = Config::to_port(server.port())
        .shards(shards)
        .pool_size(1)
        .start();
    let mut clients = one_client_a_shard(&doorman, shards);
    for round in 0..200 {
        for (number, client) in clients.iter_mut().enumerate() {
            let question = format!("select '{number} {round}'");
            assert_eq!(client.value(&question), question);
        }
    }
    assert_eq!(server.connections(), 1, "nothing made it unfit");
}

fn killed_servers_leave_their_permits(shards: usize) {
    let doorman = pool_of(2, shards).start();
    let mut clients = one_client_a_shard(&doorman, shards);
    for _ in 0..10 {
        for client in &mut clients {
            client.execute("select 1");
        }
        for pid in doorman.server_pids(Postgres::shared()) {
            Postgres::shared().sql(&format!("select pg_terminate_backend({pid})"));
        }
        eventually("all of them are gone", || {
            doorman.server_pids(Postgres::shared()).is_empty()
        });
        for client in &mut clients {
            assert_eq!(client.value("select 'served'"), "served");
        }
    }
}

fn minimum_is_that_of_the_pool_and_not_of_each_shard(shards: usize) {
    let user = User::new("app", 4).key("min_pool_size", 2);
    let config = Config::new(Postgres::shared()).users(vec![user]);
    let config = config.general("idle_timeout", "100ms");
    let config = config.general("retain_connections_time", "50ms");
    let doorman = config.shards(shards).start();
    let count = || doorman.server_pids(Postgres::shared()).len();
    eventually("the minimum is open", || count() == 2);
    let holders = doorman.hold_servers(4);
    assert_eq!(count(), 4);
    drop(holders);
    eventually("only the minimum is left", || count() == 2);
}

fn client_alone_on_its_shard_may_use_the_whole_pool(shards: usize) {
    let size = 2 * shards;
    let doorman = pool_of(size, shards).start();
    let mut clients = Vec::new();
    eventually("one shard has enough clients", || {
        clients.push(doorman.connect());
        clients.iter().filter(|client| client.origin() == 1).count() == size
    });
    let alone = clients.iter_mut().filter(|client| client.origin() == 1);
    for client in alone {
        client.execute("begin");
    }
    assert_eq!(doorman.server_pids(Postgres::shared()).len(), size);
}

/// PostgreSQL takes one connection only: whoever is on another shard waits for it, as it would on the
/// same one.
fn server_at_its_limit_is_shared_by_all_shards(shards: usize) {
    let postgres = Postgres::shared();
    let role = crate::common::unique("narrow");
    postgres.sql(&format!(
        "create role {role} login password 'x' connection limit 1"
    ));
    let users = vec![User::new("app", 4).server(&role, "x")];
    let doorman = Config::new(postgres).users(users).shards(shards).start();
    let mut clients = one_client_a_shard(&doorman, shards);
    for round in 0..3 {
        for client in &mut clients {
            let value = round.to_string();
            assert_eq!(client.value(&format!("select {value}")), value);
        }
    }
    let mut others = clients.split_off(1);
    clients[0].execute("begin");
    for other in &mut others {
        other.send(&query("select 'served'"));
    }
    // Each of these round trips is longer than it takes an opening to fail.
    for _ in 0..3 {
        clients[0].execute("select pg_sleep(0.02)");
    }
    clients[0].execute("commit");
    for other in &mut others {
        assert_eq!(other.reply().value(), "served");
    }
}
