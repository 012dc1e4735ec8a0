//! Servers that die, restart, or are not there.
//!
//! A client that had a server may get an `ErrorResponse` or a close; the next client is served.
//!
//! Source: protocol-flow.html (termination), functions-admin.html.

use std::io;

use crate::common::client::{Reply, is_close};
use crate::common::{
    Client, Config, Doorman, Postgres, Refusal, at_once, eventually, message, port,
    with_one_and_two_shards,
};

with_one_and_two_shards!(
    server_terminated_while_idle_is_replaced,
    server_terminated_in_a_query_ends_the_query_only,
    server_terminated_in_a_transaction_ends_the_transaction_only,
    server_terminated_in_a_session_ends_the_session_only,
    restart_of_postgresql_is_survived,
    crash_of_postgresql_is_survived,
);

/// Terminates all servers of `doorman` and waits until they are gone.
fn terminate_servers(doorman: &Doorman, postgres: &Postgres) {
    let pids = doorman.server_pids(postgres);
    assert!(!pids.is_empty());
    for pid in &pids {
        postgres.sql(&format!("select pg_terminate_backend({pid})"));
    }
    eventually("terminated servers are gone", || {
        let left = doorman.server_pids(postgres);
        pids.iter().all(|pid| !left.contains(pid))
    });
}

/// Fails the test unless `outcome` is an error from the server's end or a close.
fn assert_failed(outcome: io::Result<Reply>) {
    match outcome {
        Ok(reply) => assert!(
            ["57P01", "08006", "08003", "08000", "57P02"].contains(&reply.sqlstate()),
            "{reply:?}"
        ),
        Err(error) => assert!(is_close(&error), "{error}"),
    }
}

/// New clients are served, at the latest after one that was told of the failure.
fn assert_recovers(doorman: &Doorman) {
    eventually("a client is served", || serves(doorman));
    for _ in 0..8 {
        doorman.assert_serves();
    }
}

fn serves(doorman: &Doorman) -> bool {
    let Ok(mut client) = doorman.login().attempt() else {
        return false;
    };
    client
        .try_query("select 42")
        .is_ok_and(|reply| !reply.rows.is_empty())
}

fn server_terminated_while_idle_is_replaced(shards: usize) {
    let postgres = Postgres::shared();
    let doorman = Config::new(postgres).shards(shards).pool_size(2).start();
    let mut clients: Vec<_> = (0..4).map(|_| doorman.connect()).collect();
    for client in &mut clients {
        client.execute("select 1");
    }
    for _ in 0..3 {
        terminate_servers(&doorman, postgres);
        // The client lost nothing, so it may notice nothing.
        let unharmed = clients
            .iter_mut()
            .filter_map(|client| client.try_query("select 'alive'").ok())
            .filter(|reply| !reply.rows.is_empty())
            .inspect(|reply| assert_eq!(reply.value(), "alive"))
            .count();
        assert_eq!(
            unharmed,
            clients.len(),
            "idle clients hurt by the end of an idle server"
        );
        assert_recovers(&doorman);
    }
}

fn server_terminated_in_a_query_ends_the_query_only(shards: usize) {
    let postgres = Postgres::shared();
    let doorman = Config::new(postgres).shards(shards).pool_size(2).start();
    let mut other = doorman.connect();
    let mut client = doorman.connect();
    client.send(&message::query("select pg_sleep(60)"));
    eventually("the query runs", || active(&doorman, postgres) == 1);
    terminate_servers(&doorman, postgres);
    assert_failed(client.try_reply());
    assert_eq!(other.value("select 'unharmed'"), "unharmed");
    assert_recovers(&doorman);
}

fn active(doorman: &Doorman, postgres: &Postgres) -> usize {
    let name = doorman.application_name();
    let sql = format!(
        "select count(*) from pg_stat_activity where application_name like '{name}%' \
         and state = 'active'"
    );
    postgres.value(&sql).parse().unwrap()
}

fn server_terminated_in_a_transaction_ends_the_transaction_only(shards: usize) {
    let postgres = Postgres::shared();
    let doorman = Config::new(postgres).shards(shards).pool_size(2).start();
    for _ in 0..4 {
        let mut client = doorman.connect();
        client.execute("begin");
        terminate_servers(&doorman, postgres);
        assert_failed(client.try_query("select 1"));
        assert_recovers(&doorman);
    }
}

fn server_terminated_in_a_session_ends_the_session_only(shards: usize) {
    let postgres = Postgres::shared();
    let doorman = Config::new(postgres)
        .shards(shards)
        .session_mode()
        .pool_size(2)
        .start();
    for _ in 0..4 {
        let mut client = doorman.connect();
        client.execute("select 1");
        terminate_servers(&doorman, postgres);
        assert_failed(client.try_query("select 1"));
        assert_recovers(&doorman);
    }
}

fn restart_of_postgresql_is_survived(shards: usize) {
    after_an_outage(shards, Postgres::stop);
}

fn crash_of_postgresql_is_survived(shards: usize) {
    after_an_outage(shards, Postgres::crash);
}

fn after_an_outage(shards: usize, stop: impl Fn(&Postgres)) {
    let postgres = Postgres::private();
    let config = Config::new(&postgres).shards(shards).pool_size(4);
    let doorman = config.general("connect_timeout", "1s").start();
    let mut idle = doorman.connect();
    idle.execute("select 1");
    let mut busy = doorman.connect();
    busy.execute("begin");
    stop(&postgres);
    assert_failed(busy.try_query("select 1"));
    assert_told_that_the_server_is_down(&mut idle);
    match doorman.login().attempt() {
        Ok(mut client) => assert_told_that_the_server_is_down(&mut client),
        Err(refusal) => assert_eq!(refusal.sqlstate(), "3D000", "{refusal:?}"),
    }
    postgres.start();
    assert_recovers(&doorman);
}

/// A query of this client fails with 53300, or with the end of its server.
fn assert_told_that_the_server_is_down(client: &mut Client) {
    client.send(&message::query("select 1"));
    match client.try_receive() {
        Ok(message) => {
            let error = message.error_fields();
            assert!(
                ["53300", "57P01", "08006"].contains(&error.sqlstate.as_str()),
                "{message:?}"
            );
        }
        Err(error) => assert!(is_close(&error), "{error}"),
    }
}

#[test]
fn server_that_was_never_there_is_an_error_of_the_login_or_the_query() {
    let config = Config::to_port(port::free()).general("connect_timeout", "1s");
    let doorman = config.start();
    match doorman.login().attempt() {
        Ok(mut client) => {
            client.send(&message::query("select 1"));
            let error = client.expect('E').error_fields();
            assert_eq!(error.sqlstate, "53300");
            let wanted = "Could not get a database connection from the pool.";
            assert!(error.message.starts_with(wanted), "{error:?}");
        }
        Err(Refusal::Error(error)) => {
            assert_eq!(error.sqlstate, "3D000");
            let wanted = "Unable to retrieve server parameters for database: it, user: app";
            assert!(error.message.starts_with(wanted), "{error:?}");
        }
        Err(Refusal::Closed) => panic!("closed without a word"),
    }
}

#[test]
fn database_missing_on_the_server_is_an_error_of_the_login_or_the_query() {
    let config = Config::new(Postgres::shared()).pool_key("server_database", "no_such_database");
    let doorman = config.start();
    match doorman.login().attempt() {
        Ok(mut client) => assert_eq!(client.query("select 1").sqlstate(), "53300"),
        Err(refusal) => assert_eq!(refusal.sqlstate(), "3D000", "{refusal:?}"),
    }
}

#[test]
fn servers_beyond_the_limit_of_postgresql_do_not_lose_waiters() {
    let postgres = Postgres::private();
    postgres.sql("alter role app connection limit 2");
    let config = Config::new(&postgres).pool_size(6);
    let doorman = config.general("query_wait_timeout", "5s").start();
    doorman.assert_serves();
    at_once(6, |_| {
        for _ in 0..10 {
            let Ok(mut client) = doorman.login().attempt() else {
                continue;
            };
            // Right answers or the error of the pool; never silence.
            match client.try_query("select 42 from pg_sleep(0.01)") {
                Ok(reply) if reply.errors.is_empty() => assert_eq!(reply.value(), "42"),
                Ok(reply) => assert_eq!(reply.sqlstate(), "53300", "{reply:?}"),
                Err(error) => assert!(is_close(&error), "{error}"),
            }
        }
    });
    assert_recovers(&doorman);
}
