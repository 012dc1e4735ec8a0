//! What one transaction leaves on a server is not seen by the next client.
//!
//! One server, one shard: the next client always gets the server of the one before.
//!
//! Source: sql-discard.html, sql-set-role.html, sql-prepare.html, sql-declare.html.

use crate::common::message::{self, parse};
use crate::common::{Client, Config, Doorman, Postgres, unique};

/// A pooler with a single server.
fn doorman() -> Doorman {
    Config::new(Postgres::shared()).pool_size(1).start()
}

/// Runs `first` in one client and `second` in another, both at first connected, then with the
/// first one gone.
fn two_clients(first: impl Fn(&mut Client), second: impl Fn(&mut Client)) {
    let doorman = doorman();
    let mut one = doorman.connect();
    let mut two = doorman.connect();
    first(&mut one);
    second(&mut two);
    assert_eq!(one.value("select 'both alive'"), "both alive");
    let mut three = doorman.connect();
    first(&mut three);
    three.abort();
    second(&mut doorman.connect());
}

#[test]
fn setting_of_one_client_is_not_seen_by_the_next() {
    two_clients(
        |client| client.execute("set work_mem = '9MB'"),
        |client| assert_eq!(client.value("show work_mem"), "4MB"),
    );
}

#[test]
fn setting_made_in_a_transaction_is_not_seen_by_the_next() {
    two_clients(
        |client| {
            client.execute("begin");
            client.execute("set work_mem = '9MB'");
            client.execute("commit");
        },
        |client| assert_eq!(client.value("show work_mem"), "4MB"),
    );
}

#[test]
fn setting_made_by_the_extended_protocol_is_not_seen_by_the_next() {
    two_clients(
        |client| {
            let reply = client.batch(&[message::unnamed("set work_mem = '9MB'", &[])]);
            assert!(reply.errors.is_empty());
        },
        |client| assert_eq!(client.value("show work_mem"), "4MB"),
    );
}

#[test]
fn search_path_of_one_client_is_not_seen_by_the_next() {
    two_clients(
        |client| client.execute("set search_path = pg_catalog"),
        |client| assert_eq!(client.value("show search_path"), "\"$user\", public"),
    );
}

#[test]
fn statement_timeout_of_one_client_is_not_seen_by_the_next() {
    two_clients(
        |client| client.execute("select 1; set statement_timeout = 77; select 2"),
        |client| assert_eq!(client.value("show statement_timeout"), "0"),
    );
}

#[test]
fn role_of_one_client_is_not_seen_by_the_next() {
    two_clients(
        |client| client.execute("set role app_md5"),
        |client| assert_eq!(client.value("select current_user"), "app"),
    );
}

#[test]
fn temporary_table_of_one_client_is_not_seen_by_the_next() {
    let name = unique("temporary");
    two_clients(
        |client| client.execute(&format!("create temp table {name} (n int)")),
        |client| {
            assert_eq!(
                client.value(&format!("select to_regclass('{name}') is null")),
                "t"
            );
        },
    );
}

#[test]
fn listening_of_one_client_is_not_seen_by_the_next() {
    let channel = unique("channel");
    two_clients(
        |client| client.execute(&format!("listen {channel}")),
        |client| {
            Postgres::shared().sql(&format!("notify {channel}"));
            assert_eq!(
                client.value("select count(*) from pg_listening_channels()"),
                "0"
            );
            assert_eq!(client.query("select 1").tags, "TDCZ");
        },
    );
}

#[test]
fn advisory_lock_of_one_client_is_not_held_for_the_next() {
    two_clients(
        |client| client.execute("select pg_advisory_lock_shared(4712)"),
        |client| {
            let sql = "select count(*) from pg_locks where locktype = 'advisory' \
                       and pid = pg_backend_pid()";
            assert_eq!(client.value(sql), "0");
        },
    );
}

#[test]
fn holdable_cursor_of_one_client_is_not_seen_by_the_next() {
    two_clients(
        |client| client.execute("declare held cursor with hold for select 1"),
        |client| {
            let sql = "select count(*) from pg_cursors where name = 'held'";
            assert_eq!(client.value(sql), "0");
        },
    );
}

#[test]
fn sql_prepared_statement_of_one_client_is_not_seen_by_the_next() {
    let name = unique("prepared");
    two_clients(
        |client| client.execute(&format!("prepare {name} as select 1")),
        |client| {
            let sql = format!("select count(*) from pg_prepared_statements where name = '{name}'");
            assert_eq!(client.value(&sql), "0");
        },
    );
}

#[test]
fn protocol_prepared_name_of_one_client_does_not_collide_with_the_next() {
    let doorman = doorman();
    let mut one = doorman.connect();
    let mut two = doorman.connect();
    for round in 0..3 {
        for (client, word) in [(&mut one, "one"), (&mut two, "two")] {
            client.execute("begin");
            let name = format!("s{round}");
            let messages = [parse(&name, &format!("select '{word}'::text"))];
            assert_eq!(client.batch(&messages).tags, "1Z");
            let run = [message::bind("", &name, &[]), message::execute("", 0)];
            assert_eq!(client.batch(&run).value(), word);
            assert_eq!(client.batch(&[message::close(b'S', &name)]).tags, "3Z");
            client.execute("commit");
        }
    }
}

#[test]
fn unnamed_statement_of_one_client_is_not_run_for_the_next() {
    let doorman = doorman();
    let mut one = doorman.connect();
    let mut two = doorman.connect();
    assert_eq!(
        one.batch(&[message::unnamed("select 'secret'", &[])])
            .value(),
        "secret"
    );
    two.send_all(&[
        message::bind("", "", &[]),
        message::execute("", 0),
        message::sync(),
    ]);
    // An error or a refusal; never the rows of the other client.
    if let Ok(reply) = two.try_reply() {
        assert!(
            reply.rows.is_empty() && !reply.errors.is_empty(),
            "{reply:?}"
        );
    }
    doorman.assert_serves();
}

#[test]
fn unnamed_statement_behind_a_skipped_query_is_not_run_for_the_next() {
    let doorman = doorman();
    let mut one = doorman.connect();
    let mut two = doorman.connect();
    one.send_all(&[
        parse("", "select 'secret'"),
        message::bind("", "no such statement", &[]),
        message::query("select 'skipped'"),
        message::sync(),
    ]);
    assert_eq!(one.reply().tags, "1EZ");
    two.send_all(&[
        message::bind("", "", &[]),
        message::execute("", 0),
        message::sync(),
    ]);
    let reply = two.reply();
    assert!(
        reply.rows.is_empty() && !reply.errors.is_empty(),
        "{reply:?}"
    );
    doorman.assert_serves();
}

#[test]
fn one_client_does_not_lose_its_server_by_resetting() {
    let doorman = doorman();
    let mut client = doorman.connect();
    let pid = client.backend_pid();
    for sql in [
        "discard all",
        "reset all",
        "deallocate all",
        "set work_mem = '9MB'",
    ] {
        let reply = client.query(sql);
        assert!(reply.errors.is_empty(), "{sql}: {reply:?}");
    }
    assert_eq!(client.backend_pid(), pid);
}
