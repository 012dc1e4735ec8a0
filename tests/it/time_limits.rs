//! Clients that are silent for too long, or whose queries or transactions take too long.
//!
//! Owns: what such clients are told, that nobody is closed early, that the server side is clean behind them.
//! Source: runtime-config-client.html; protocol-flow.html (termination).

use std::time::{Duration, Instant};

use crate::common::message::query;
use crate::common::{Client, Config, Doorman, ErrorFields, Postgres, eventually};
use crate::common::{User, unique, with_one_and_two_shards};
use crate::statement_numbers::number;

with_one_and_two_shards!(
    silence_in_a_transaction_ends_with_25p03_and_a_rollback,
    silence_behind_a_begin_that_no_server_knows_ends_with_25p03,
    silence_outside_of_a_transaction_ends_with_57p05,
    silence_of_a_session_with_a_server_ends_with_57p05,
    long_query_is_cancelled_and_ends_with_57014,
    long_transaction_ends_with_25p04,
    each_query_has_its_own_time,
    who_waits_for_a_server_is_left_alone,
    user_may_have_its_own_times,
    reload_changes_times_for_clients_that_are_there,
    unfinished_login_ends_with_57014,
    long_row_that_is_not_taken_ends_its_client,
    long_row_may_take_its_time,
);

/// Long enough to be told from a fault, short enough to be waited for.
const LIMIT: Duration = Duration::from_secs(1);

fn config(shards: usize) -> Config {
    Config::new(Postgres::shared()).shards(shards)
}

fn limited(shards: usize, key: &str) -> Doorman {
    config(shards).general(key, "1000ms").start()
}

/// The error that ends a client, which comes after the limit and not before.
fn end_of(client: &mut Client, since: Instant) -> ErrorFields {
    let error = client.expect('E').error_fields();
    let took = since.elapsed();
    assert!(took >= LIMIT, "{error:?} after {took:?}");
    assert_eq!(error.severity, "FATAL");
    assert!(client.is_closed());
    error
}

/// A number of all shards together.
fn metric(doorman: &Doorman, name: &str) -> u64 {
    number(&mut console(doorman), name)
}

fn console(doorman: &Doorman) -> Client {
    let login = doorman.login().database("pgdoorman").user("admin");
    login.connect()
}

/// No session of this pooler is in a transaction or runs anything.
fn assert_servers_rest(doorman: &Doorman) {
    let sql = format!(
        "select count(*) from pg_stat_activity where application_name = '{}' and state <> 'idle'",
        doorman.application_name()
    );
    eventually("servers are at rest", || {
        Postgres::shared().sql(&sql)[0][0].as_deref() == Some("0")
    });
}

fn silence_in_a_transaction_ends_with_25p03_and_a_rollback(shards: usize) {
    let doorman = config(shards)
        .pool_size(1)
        .general("idle_transaction_timeout", "1000ms")
        .start();
    let table = unique("silent");
    let mut client = doorman.connect();
    client.execute("begin");
    let since = Instant::now();
    client.execute(&format!("create table {table} (n int)"));
    let error = end_of(&mut client, since);
    assert_eq!(error.sqlstate, "25P03");
    let mut next = doorman.connect();
    let there = format!("select count(*) from pg_class where relname = '{table}'");
    assert_eq!(next.value(&there), "0");
    assert_servers_rest(&doorman);
    assert_eq!(metric(&doorman, "timeouts_idle_transaction"), 1);
}

fn silence_behind_a_begin_that_no_server_knows_ends_with_25p03(shards: usize) {
    let doorman = limited(shards, "idle_transaction_timeout");
    let mut client = doorman.connect();
    let since = Instant::now();
    assert_eq!(client.query("begin;").status, 'T');
    assert_eq!(end_of(&mut client, since).sqlstate, "25P03");
}

fn silence_outside_of_a_transaction_ends_with_57p05(shards: usize) {
    let doorman = limited(shards, "client_idle_timeout");
    let mut in_transaction = doorman.connect();
    in_transaction.execute("begin");
    let mut never_asked = doorman.connect();
    let mut client = doorman.connect();
    let mut since = Instant::now();
    for _ in 0..5 {
        std::thread::sleep(LIMIT / 4);
        since = Instant::now();
        assert_eq!(client.value("select 1"), "1");
        client.execute(";");
    }
    assert_eq!(end_of(&mut client, since).sqlstate, "57P05");
    assert_eq!(never_asked.expect('E').error_fields().sqlstate, "57P05");
    assert_eq!(in_transaction.query("commit").status, 'I');
    assert_eq!(metric(&doorman, "timeouts_idle"), 2);
}

fn silence_of_a_session_with_a_server_ends_with_57p05(shards: usize) {
    let doorman = config(shards)
        .pool_size(1)
        .session_mode()
        .general("client_idle_timeout", "1000ms")
        .start();
    let mut client = doorman.connect();
    let since = Instant::now();
    client.execute("set application_name = 'left behind'");
    assert_eq!(end_of(&mut client, since).sqlstate, "57P05");
    let mut next = doorman.connect();
    let name = next.value("show application_name");
    assert_ne!(name, "left behind");
}

fn long_query_is_cancelled_and_ends_with_57014(shards: usize) {
    let doorman = config(shards)
        .pool_size(1)
        .general("query_timeout", "1000ms")
        .start();
    let mut quick = doorman.connect();
    for _ in 0..4 {
        assert_eq!(quick.query("select pg_sleep(0.3)").status, 'I');
    }
    let mut client = doorman.connect();
    let since = Instant::now();
    client.send(&query("select pg_sleep(60)"));
    assert_eq!(end_of(&mut client, since).sqlstate, "57014");
    // The only server is free again, and PostgreSQL does not go on.
    doorman.assert_serves();
    assert_servers_rest(&doorman);
    assert_eq!(metric(&doorman, "timeouts_query"), 1);
}

fn long_transaction_ends_with_25p04(shards: usize) {
    let doorman = limited(shards, "transaction_timeout");
    let mut client = doorman.connect();
    let since = Instant::now();
    client.execute("begin");
    let error = loop {
        client.send(&query("select pg_sleep(0.05)"));
        let message = client.expect_any(&['T', 'E']);
        if message.tag == b'E' {
            break message.error_fields();
        }
        client.expect('D');
        client.expect('C');
        let next = client.expect_any(&['Z', 'E']);
        if next.tag == b'E' {
            break next.error_fields();
        }
        assert!(since.elapsed() < crate::common::DEADLINE, "nothing happens");
    };
    assert!(since.elapsed() >= LIMIT);
    assert_eq!(error.sqlstate, "25P04");
    assert_servers_rest(&doorman);
    assert_eq!(metric(&doorman, "timeouts_transaction"), 1);
}

fn each_query_has_its_own_time(shards: usize) {
    let doorman = limited(shards, "query_timeout");
    let mut client = doorman.connect();
    client.execute("begin");
    let all = [(); 4].map(|()| query("select pg_sleep(0.4)"));
    client.send_all(&all);
    for _ in all {
        assert_eq!(client.reply().status, 'T');
    }
    assert_eq!(client.query("commit").status, 'I');
}

fn who_waits_for_a_server_is_left_alone(shards: usize) {
    let mut config = config(shards).pool_size(2);
    for key in [
        "client_idle_timeout",
        "idle_transaction_timeout",
        "transaction_timeout",
        "query_timeout",
    ] {
        config = config.general(key, "1000ms");
    }
    let doorman = config.general("query_wait_timeout", "2s").start();
    doorman.assert_serves();
    let mut console = console(&doorman);
    console.execute("PAUSE");
    let mut waiters: Vec<_> = (0..2).map(|_| doorman.connect()).collect();
    waiters[0].send(&query("select 'waited'"));
    assert_eq!(waiters[1].query("begin;").status, 'T');
    waiters[1].send(&query("select 'waited'"));
    // Longer than any of the limits.
    std::thread::sleep(LIMIT * 3);
    console.execute("RESUME");
    for waiter in &mut waiters {
        assert_eq!(waiter.reply().value(), "waited");
    }
    assert_eq!(waiters[1].query("commit").status, 'I');
}

fn user_may_have_its_own_times(shards: usize) {
    let users = vec![
        User::new("app", 1),
        User::new("patient", 1).key("client_idle_timeout", 0),
    ];
    let doorman = config(shards)
        .users(users)
        .pool_key("client_idle_timeout", "1000ms")
        .general("client_idle_timeout", "1d")
        .start();
    let mut patient = doorman.login().user("patient").connect();
    let since = Instant::now();
    let mut client = doorman.connect();
    assert_eq!(end_of(&mut client, since).sqlstate, "57P05");
    assert_eq!(patient.value("select 1"), "1");
}

fn reload_changes_times_for_clients_that_are_there(shards: usize) {
    let doorman = config(shards).start();
    let mut idle = doorman.connect();
    let mut busy = doorman.connect();
    busy.execute("begin");
    let pid = busy.backend_pid();
    doorman.rewrite(config(shards).general("client_idle_timeout", "1000ms"));
    doorman.sighup();
    assert_eq!(idle.expect('E').error_fields().sqlstate, "57P05");
    assert_eq!(busy.backend_pid(), pid, "the pool has stayed");
    assert_eq!(busy.query("commit").status, 'I');
    doorman.rewrite(config(shards).general("idle_transaction_timeout", "1000ms"));
    doorman.sighup();
    let mut client = doorman.connect();
    client.execute("begin");
    assert_eq!(client.expect('E').error_fields().sqlstate, "25P03");
}

fn unfinished_login_ends_with_57014(shards: usize) {
    let doorman = limited(shards, "client_login_timeout");
    let since = Instant::now();
    let mut client = Client::dial(doorman.port());
    assert_eq!(end_of(&mut client, since).sqlstate, "57014");
    assert_eq!(metric(&doorman, "timeouts_login"), 1);
    doorman.assert_serves();
}

/// More than sockets and buffers on the way take.
const LONG_ROW: &str = "select repeat('x', 64 * 1048576)";

fn long_row_that_is_not_taken_ends_its_client(shards: usize) {
    let doorman = config(shards)
        .pool_size(1)
        .general("proxy_copy_data_timeout", "1000ms")
        .start();
    let mut client = doorman.connect();
    let since = Instant::now();
    client.send(&query(LONG_ROW));
    // The only server is free again.
    eventually("the client is closed", || {
        metric(&doorman, "timeouts_row") == 1
    });
    assert!(since.elapsed() >= LIMIT);
    doorman.assert_serves();
    assert_servers_rest(&doorman);
    assert!(doorman.log().contains("a row took longer than"));
}

fn long_row_may_take_its_time(shards: usize) {
    let doorman = config(shards)
        .general("proxy_copy_data_timeout", "1000ms")
        .general("message_size_to_be_stream", "128MB")
        .start();
    let mut client = doorman.connect();
    client.set_deadline(crate::common::DEADLINE * 6);
    client.send(&query(LONG_ROW));
    // Longer than the limit, which is not about rows of this size.
    std::thread::sleep(LIMIT * 2);
    assert_eq!(client.reply().value().len(), 64 << 20);
    assert_eq!(client.value("select 1"), "1");
    assert_eq!(metric(&doorman, "timeouts_row"), 0);
}
