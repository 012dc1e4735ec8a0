//! Session mode: a server belongs to a client until the client leaves, and comes back clean.
//!
//! Source: sql-discard.html, sql-listen.html.

use crate::common::message::{bind, describe, execute, parse};
use crate::common::{
    Client, Config, Doorman, Postgres, eventually, message, unique, with_one_and_two_shards,
};

with_one_and_two_shards!(
    session_keeps_its_server,
    named_statement_lives_over_transactions,
    notification_reaches_the_listening_session,
    waiting_client_gets_the_server_when_a_session_ends,
    next_client_finds_nothing_of_the_session_before,
    vanished_session_leaves_nothing,
);

/// A pooler in session mode with one server a shard.
fn doorman(shards: usize) -> Doorman {
    Config::new(Postgres::shared())
        .shards(shards)
        .session_mode()
        .pool_size(shards)
        .start()
}

fn session_keeps_its_server(shards: usize) {
    let size = 2 * shards;
    let config = Config::new(Postgres::shared())
        .shards(shards)
        .session_mode();
    let doorman = config.pool_size(size).start();
    let mut client = doorman.connect();
    let pid = client.backend_pid();
    client.execute("set work_mem = '7MB'");
    client.execute("create temp table mine (n int)");
    for _ in 0..10 {
        assert_eq!(client.backend_pid(), pid);
        assert_eq!(client.value("show work_mem"), "7MB");
        client.execute("insert into mine values (1)");
    }
    assert_eq!(client.value("select count(*) from mine"), "10");
}

fn named_statement_lives_over_transactions(shards: usize) {
    let doorman = doorman(shards);
    let mut client = doorman.connect();
    assert_eq!(
        client.batch(&[parse("kept", "select $1::int + 1")]).tags,
        "1Z"
    );
    for n in 0..5 {
        let text = n.to_string();
        let messages = [
            bind("", "kept", &[Some(text.as_bytes())]),
            describe(b'P', ""),
            execute("", 0),
        ];
        assert_eq!(client.batch(&messages).value(), (n + 1).to_string());
        assert_eq!(client.value("select 'between'"), "between");
    }
    client.execute("prepare by_sql as select 'prepared'");
    assert_eq!(client.value("execute by_sql"), "prepared");
}

fn notification_reaches_the_listening_session(shards: usize) {
    let config = Config::new(Postgres::shared())
        .shards(shards)
        .session_mode();
    let doorman = config.pool_size(2 * shards).start();
    let channel = unique("channel");
    let mut listener = doorman.connect();
    listener.execute(&format!("listen {channel}"));
    // While the session is silent …
    Postgres::shared().sql(&format!("notify {channel}, 'from outside'"));
    let message = listener.expect('A');
    assert!(String::from_utf8_lossy(&message.body).contains("from outside"));
    // … and from another session of the pool.
    doorman
        .connect()
        .execute(&format!("notify {channel}, 'from inside'"));
    let message = listener.expect('A');
    assert!(String::from_utf8_lossy(&message.body).contains("from inside"));
    assert_eq!(listener.value("select 1"), "1");
}

fn waiting_client_gets_the_server_when_a_session_ends(shards: usize) {
    let config = Config::new(Postgres::shared())
        .shards(shards)
        .session_mode();
    let config = config
        .pool_size(shards)
        .general("query_wait_timeout", "500ms");
    let doorman = config.start();
    let holders = doorman.hold_servers(shards);
    let mut waiter = doorman.connect();
    waiter.send(&message::query("select 'at last'"));
    for holder in holders {
        holder.terminate();
    }
    assert_eq!(waiter.reply().value(), "at last");
}

/// Leaves traces of every kind on the server of `client`.
fn leave_traces(client: &mut Client, name: &str) {
    client.execute("set work_mem = '9MB'");
    client.execute(&format!("create temp table {name} (n int)"));
    client.execute("select pg_advisory_lock_shared(4711)");
    client.execute(&format!("listen {name}"));
    client.execute(&format!("prepare {name} as select 1"));
    client.execute(&format!("declare {name} cursor with hold for select 1"));
    client.execute("set role app_md5");
    assert_eq!(
        client
            .batch(&[parse(&format!("{name}_p"), "select 1")])
            .tags,
        "1Z"
    );
    client.execute("begin");
}

fn find_no_traces(client: &mut Client, name: &str) {
    assert_eq!(client.query("select 1").status, 'I');
    assert_eq!(client.value("show work_mem"), "4MB");
    assert_eq!(client.value("select current_user"), "app");
    let sql = "select count(*) from pg_locks where locktype = 'advisory' \
               and pid = pg_backend_pid()";
    assert_eq!(client.value(sql), "0");
    assert_eq!(
        client.value("select count(*) from pg_listening_channels()"),
        "0"
    );
    let sql = format!("select count(*) from pg_prepared_statements where name like '{name}%'");
    assert_eq!(client.value(&sql), "0");
    assert_eq!(
        client.value("select count(*) from pg_cursors where is_holdable"),
        "0"
    );
    assert_eq!(
        client.value(&format!("select to_regclass('{name}') is null")),
        "t"
    );
}

fn next_client_finds_nothing_of_the_session_before(shards: usize) {
    let doorman = doorman(shards);
    let name = unique("trace");
    for _ in 0..3 {
        let mut client = doorman.connect();
        find_no_traces(&mut client, &name);
        leave_traces(&mut client, &name);
        client.terminate();
    }
}

fn vanished_session_leaves_nothing(shards: usize) {
    let doorman = doorman(shards);
    let name = unique("trace");
    for round in 0..4 {
        let mut client = doorman.connect();
        find_no_traces(&mut client, &name);
        leave_traces(&mut client, &name);
        if round % 2 == 0 {
            client.send(&message::query(
                "select repeat('x', 100) from generate_series(1, 10000)",
            ));
        }
        client.abort();
    }
}

#[test]
fn session_without_a_statement_holds_no_server() {
    let doorman = doorman(1);
    // The first login may open a server, but a silent session must not keep it.
    let silent = doorman.connect();
    let mut client = doorman.connect();
    assert_eq!(client.value("select 1"), "1");
    drop(silent);
}

#[test]
fn session_that_ends_in_a_query_frees_its_server() {
    let doorman = doorman(1);
    let mut client = doorman.connect();
    client.send(&message::query("select pg_sleep(0.2)"));
    client.abort();
    let mut next = doorman.connect();
    assert_eq!(next.value("select 'free'"), "free");
    eventually("one server", || {
        doorman.server_pids(Postgres::shared()).len() == 1
    });
}
