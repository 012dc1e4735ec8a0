//! Transaction mode: a server belongs to a client for one transaction.
//!
//! Source: protocol-flow.html (simple query, pipelining), tutorial-transactions.html.

use std::collections::BTreeSet;

use crate::common::{
    Config, Postgres, Target, at_once, eventually, everywhere, message, unique,
    with_one_and_two_shards,
};

everywhere!(
    transaction_stays_on_one_server,
    error_in_a_transaction_lasts_until_rollback,
    several_statements_in_one_query_are_all_answered,
    error_stops_the_rest_of_a_query_only,
    empty_queries_are_answered,
    queries_sent_in_one_write_are_answered_in_order,
    transaction_sent_in_one_write_is_answered_in_order,
    query_cut_into_single_bytes_is_answered,
    server_errors_arrive_unchanged,
    notice_arrives_before_the_end_of_its_statement,
    savepoints_work_in_a_transaction,
    cursor_lives_as_long_as_its_transaction,
    function_call_is_answered,
    large_object_survives_its_transaction,
);

with_one_and_two_shards!(
    many_clients_on_few_servers_get_their_own_rows,
    many_transactions_on_few_servers_do_not_mix,
    pool_never_opens_more_servers_than_its_size,
    client_vanishing_in_a_transaction_leaves_no_trace,
    client_vanishing_in_a_message_leaves_no_trace,
    client_vanishing_in_a_batch_leaves_no_trace,
    client_vanishing_in_a_large_result_leaves_no_trace,
    client_vanishing_in_a_failed_transaction_leaves_no_trace,
);

fn transaction_stays_on_one_server(target: &Target) {
    let mut clients: Vec<_> = (0..2).map(|_| target.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.query("begin").status, 'T');
    }
    let first: Vec<_> = clients
        .iter_mut()
        .map(crate::common::Client::backend_pid)
        .collect();
    for _ in 0..20 {
        for (client, pid) in clients.iter_mut().zip(&first) {
            assert_eq!(&client.backend_pid(), pid);
        }
    }
    for client in &mut clients {
        assert_eq!(client.query("commit").status, 'I');
    }
    assert_ne!(first[0], first[1]);
}

fn error_in_a_transaction_lasts_until_rollback(target: &Target) {
    let mut client = target.connect();
    assert_eq!(client.query("begin").status, 'T');
    let pid = client.backend_pid();
    let reply = client.query("select 1/0");
    assert_eq!((reply.sqlstate(), reply.status), ("22012", 'E'));
    let reply = client.query("select 1");
    assert_eq!((reply.sqlstate(), reply.status), ("25P02", 'E'));
    let reply = client.query("rollback");
    assert_eq!(
        (reply.commands[0].as_str(), reply.status),
        ("ROLLBACK", 'I')
    );
    assert_eq!(client.value("select 2"), "2");
    assert!(!pid.is_empty());
}

fn several_statements_in_one_query_are_all_answered(target: &Target) {
    let mut client = target.connect();
    let reply = client.query("select 1; select 2, 3; select 4 where false");
    assert_eq!(reply.tags, "TDCTDCTCZ");
    assert_eq!(reply.commands, ["SELECT 1", "SELECT 1", "SELECT 0"]);
    let reply = client.query("begin; select 1; commit; begin");
    assert_eq!(reply.status, 'T');
    assert_eq!(client.query("commit").status, 'I');
}

fn error_stops_the_rest_of_a_query_only(target: &Target) {
    let mut client = target.connect();
    let reply = client.query("select 1; select 1/0; select 3");
    assert_eq!((reply.tags.as_str(), reply.status), ("TDCEZ", 'I'));
    assert_eq!(client.value("select 4"), "4");
}

fn empty_queries_are_answered(target: &Target) {
    let mut client = target.connect();
    for sql in ["", " ", ";", "-- nothing"] {
        assert_eq!(client.query(sql).tags, "IZ", "{sql:?}");
    }
    client.execute("begin");
    assert_eq!(client.query(";").status, 'T');
    client.execute("commit");
}

fn queries_sent_in_one_write_are_answered_in_order(target: &Target) {
    let mut client = target.connect();
    let queries: Vec<_> = (0..500)
        .map(|n| message::query(&format!("select {n}")))
        .collect();
    client.send_all(&queries);
    for n in 0..500 {
        assert_eq!(client.reply().value(), n.to_string());
    }
}

fn transaction_sent_in_one_write_is_answered_in_order(target: &Target) {
    let mut client = target.connect();
    let texts = [
        "select 1",
        "begin",
        "select 2",
        "select 1/0",
        "rollback",
        "select 3",
    ];
    client.send_all(&texts.map(message::query));
    let status: String = texts.iter().map(|_| client.reply().status).collect();
    assert_eq!(status, "ITTEII");
}

fn query_cut_into_single_bytes_is_answered(target: &Target) {
    let mut client = target.connect();
    let bytes = [
        message::query("select 'one'"),
        message::unnamed("select 'two'", &[]),
    ];
    for byte in [bytes.concat(), message::sync()].concat() {
        client.send(&[byte]);
    }
    assert_eq!(client.reply().value(), "one");
    assert_eq!(client.reply().value(), "two");
}

fn server_errors_arrive_unchanged(target: &Target) {
    let mut client = target.connect();
    let error = client.error("select * from no_such_table_anywhere");
    assert_eq!(error.sqlstate, "42P01");
    assert_eq!(
        error.message,
        "relation \"no_such_table_anywhere\" does not exist"
    );
    let error = client.error("selec");
    assert_eq!(
        (error.severity.as_str(), error.sqlstate.as_str()),
        ("ERROR", "42601")
    );
}

fn notice_arrives_before_the_end_of_its_statement(target: &Target) {
    let mut client = target.connect();
    let reply = client.query("do $$ begin raise notice 'hello %', 1; end $$");
    assert_eq!(reply.tags, "NCZ");
    assert_eq!(reply.notices[0].message, "hello 1");
}

fn savepoints_work_in_a_transaction(target: &Target) {
    let mut client = target.connect();
    client.execute("begin");
    client.execute("savepoint one");
    assert_eq!(client.query("select 1/0").status, 'E');
    assert_eq!(client.query("rollback to one").status, 'T');
    assert_eq!(client.value("select 5"), "5");
    assert_eq!(client.query("commit").status, 'I');
}

fn cursor_lives_as_long_as_its_transaction(target: &Target) {
    let mut client = target.connect();
    client.execute("begin");
    client.execute("declare c cursor for select generate_series(1, 10)");
    assert_eq!(client.rows("fetch 4 from c").len(), 4);
    assert_eq!(client.rows("fetch 4 from c")[0][0].as_deref(), Some("5"));
    assert_eq!(client.rows("fetch 4 from c").len(), 2);
    client.execute("commit");
    assert_eq!(client.error("fetch 1 from c").sqlstate, "34000");
}

fn function_call_is_answered(target: &Target) {
    // 177 is the fixed object identifier of int4pl(int4, int4).
    let mut client = target.connect();
    client.send(&message::function_call(
        177,
        &[&[0, 0, 0, 40], &[0, 0, 0, 2]],
    ));
    let messages = client.expect_tags("VZ");
    assert_eq!(messages[0].body, [0, 0, 0, 4, 0, 0, 0, 42]);
    client.send(&message::function_call(1, &[]));
    client.expect_tags("EZ");
    assert_eq!(client.value("select 7"), "7");
}

fn large_object_survives_its_transaction(target: &Target) {
    let mut client = target.connect();
    let id = client.value("select lo_from_bytea(0, 'bytes of a large object')");
    let opened = client.query(&format!("begin; select lo_open({id}, 262144)"));
    assert_eq!((opened.value(), opened.status), ("0", 'T'));
    // 954 is loread(int4, int4): the way libpq reads large objects.
    client.send(&message::function_call(
        954,
        &[&[0, 0, 0, 0], &[0, 0, 0, 5]],
    ));
    let messages = client.expect_tags("VZ");
    assert_eq!(&messages[0].body[4..], b"bytes");
    client.execute("commit");
    assert_eq!(client.value(&format!("select lo_unlink({id})")), "1");
}

fn many_clients_on_few_servers_get_their_own_rows(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(3)
        .start();
    at_once(40, |number| {
        let mut client = doorman.connect();
        for round in 0..50 {
            let value = format!("client {number} round {round}");
            assert_eq!(client.value(&format!("select '{value}'")), value);
            let batch = [message::unnamed("select $1", &[Some(value.as_bytes())])];
            assert_eq!(client.batch(&batch).value(), value);
        }
    });
    assert!(doorman.server_pids(Postgres::shared()).len() <= 3);
}

fn many_transactions_on_few_servers_do_not_mix(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(3)
        .start();
    let table = unique("numbers");
    Postgres::shared().sql(&format!("create table {table} (client int, n int)"));
    Postgres::shared().sql(&format!("grant all on {table} to public"));
    at_once(20, |number| {
        let mut client = doorman.connect();
        for round in 0..20 {
            client.execute("begin");
            let pid = client.backend_pid();
            client.execute(&format!("insert into {table} values ({number}, {round})"));
            assert_eq!(client.backend_pid(), pid);
            let end = if round % 2 == 0 { "commit" } else { "rollback" };
            assert_eq!(client.query(end).status, 'I');
        }
    });
    let sql = format!("select count(*), count(*) filter (where n % 2 = 1) from {table}");
    let row = Postgres::shared().sql(&sql).remove(0);
    assert_eq!(row, [Some("200".to_owned()), Some("0".to_owned())]);
}

fn pool_never_opens_more_servers_than_its_size(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(4)
        .start();
    let pids = std::thread::scope(|scope| {
        let work = |_| {
            let doorman = &doorman;
            scope.spawn(move || {
                let mut client = doorman.connect();
                let sql = "select pg_backend_pid() from pg_sleep(0.002)";
                (0..20).map(|_| client.value(sql)).collect::<BTreeSet<_>>()
            })
        };
        let threads: Vec<_> = (0..24).map(work).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<BTreeSet<_>>()
    });
    assert!(pids.len() <= 4, "{} servers for a pool of 4", pids.len());
    assert!(doorman.server_pids(Postgres::shared()).len() <= 4);
}

/// Has one client misbehave per server of the pool and then checks that all servers are clean.
fn after_vanishing(shards: usize, vanish: impl Fn(crate::common::Client, &str, usize)) {
    let postgres = Postgres::shared();
    let size = shards;
    let doorman = Config::new(postgres).shards(shards).pool_size(size).start();
    let table = unique("vanished");
    postgres.sql(&format!("create table {table} (n int)"));
    postgres.sql(&format!("grant all on {table} to public"));
    for round in 0..2 * size {
        vanish(doorman.connect(), &table, round);
    }
    eventually("all servers are idle", || {
        let sql = format!(
            "select count(*) from pg_stat_activity where application_name like '{}%' \
             and state <> 'idle'",
            doorman.application_name()
        );
        postgres.value(&sql) == "0"
    });
    for round in 0..4 * size {
        let mut client = doorman.connect();
        let reply = client.query(&format!("select 'round {round}'"));
        assert_eq!(
            (reply.value(), reply.status),
            (format!("round {round}").as_str(), 'I')
        );
        assert_eq!(client.value(&format!("select count(*) from {table}")), "0");
        let sql = "select coalesce(txid_current_if_assigned()::text, 'none')";
        assert_eq!(client.value(sql), "none");
    }
}

fn client_vanishing_in_a_transaction_leaves_no_trace(shards: usize) {
    after_vanishing(shards, |mut client, table, round| {
        client.execute("begin");
        client.execute(&format!("insert into {table} values (1)"));
        match round % 3 {
            0 => client.abort(),
            1 => client.terminate(),
            _ => drop(client),
        }
    });
}

fn client_vanishing_in_a_message_leaves_no_trace(shards: usize) {
    after_vanishing(shards, |mut client, table, round| {
        if round % 2 == 0 {
            client.execute("begin");
        }
        let bytes = message::query(&format!("insert into {table} values (1)"));
        client.send(&bytes[..bytes.len() - 3]);
        if round % 4 < 2 {
            client.abort();
        }
    });
}

fn client_vanishing_in_a_batch_leaves_no_trace(shards: usize) {
    after_vanishing(shards, |mut client, table, round| {
        let sql = format!("insert into {table} values (1)");
        client.send(&message::unnamed(&sql, &[]));
        if round % 2 == 0 {
            client.send(&message::flush());
            client.expect_tags("12nC");
        }
    });
}

fn client_vanishing_in_a_large_result_leaves_no_trace(shards: usize) {
    after_vanishing(shards, |mut client, _, round| {
        let sql = "select repeat('x', 1000) from generate_series(1, 100000)";
        client.send(&message::query(sql));
        client.expect_tags("TDDD");
        if round % 2 == 0 {
            client.abort();
        }
    });
}

fn client_vanishing_in_a_failed_transaction_leaves_no_trace(shards: usize) {
    after_vanishing(shards, |mut client, table, _| {
        client.execute("begin");
        client.execute(&format!("insert into {table} values (1)"));
        assert_eq!(client.query("select 1/0").status, 'E');
    });
}
