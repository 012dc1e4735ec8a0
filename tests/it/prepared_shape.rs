//! Prepared statements whose result has changed since the client was told of it: PostgreSQL refuses them,
//! and so does the pooler on a server that knows only the new result.
//!
//! Owns: the refusal, what becomes of the batch and the transaction around it, what goes on unnoticed.
//! Does not own: changes of what a statement means (`prepared_trust`).
//!
//! Source: sql-prepare.html, protocol-flow.html (extended query).

use crate::common::message::{bind, close, describe, execute, parse, query, sync, unnamed};
use crate::common::{
    Client, Doorman, Postgres, Target, everywhere, unique, with_one_and_two_shards,
};
use crate::prepared::{pooler, run, tags, terminate_servers};

everywhere!(
    a_changed_result_is_refused_until_it_is_prepared_anew,
    a_table_made_anew_with_the_same_columns_is_no_change,
    a_statement_without_a_result_has_none_to_change,
);

with_one_and_two_shards!(
    a_server_that_is_new_to_a_statement_refuses_a_changed_result,
    a_refused_statement_has_no_effect,
    a_refusal_fails_its_transaction,
    a_result_that_was_told_by_running_it_is_kept_too,
    a_changed_type_or_name_is_a_changed_result,
    a_description_is_refused_like_a_run,
    what_waits_for_a_description_comes_in_order,
    a_statement_that_cannot_be_parsed_any_more_fails_in_its_place,
    messages_that_come_in_pieces_wait_too,
    a_client_who_goes_while_its_statement_is_described_leaves_no_server,
);

/// A pooler whose servers are all in use but those that are new to a client's statement, and a table.
struct Stage {
    doorman: Doorman,
    client: Client,
    table: String,
}

impl Stage {
    fn new(shards: usize) -> Self {
        let doorman = pooler(shards, 2 * shards).start();
        let mut client = doorman.connect();
        let table = unique("shape");
        client.execute(&format!("create table {table} (a int)"));
        client.execute(&format!("insert into {table} values (1)"));
        Self {
            doorman,
            client,
            table,
        }
    }

    fn sql(&self) -> String {
        format!("select * from {}", self.table)
    }

    /// A change that no message of the pooler's tells of.
    fn change(&self, action: &str) {
        let table = &self.table;
        Postgres::shared().sql(&format!("alter table {table} {action}"));
    }

    /// Closes the servers that have statements.
    fn replace_servers(&self) {
        terminate_servers(&self.doorman);
    }

    fn end(mut self) {
        let table = &self.table;
        self.client
            .execute(&format!("drop table if exists {table}"));
    }
}

fn a_changed_result_is_refused_until_it_is_prepared_anew(target: &Target) {
    let table = unique("refused");
    let mut client = target.connect();
    client.execute(&format!("create table {table} (a int)"));
    let sql = format!("select * from {table}");
    let both = [parse("s", &sql), describe(b'S', "s")];
    assert_eq!(tags(&mut client, &both), "1tTZ");
    client.execute(&format!("alter table {table} add b int"));
    for round in 0..3 {
        let reply = client.batch(&[run("s", &[])]);
        assert_eq!(reply.tags, "EZ", "round {round}");
        assert_eq!(reply.errors[0].sqlstate, "0A000");
        let message = "cached plan must not change result type";
        assert_eq!(reply.errors[0].message, message);
    }
    assert_eq!(tags(&mut client, &[close(b'S', "s")]), "3Z");
    assert_eq!(tags(&mut client, &both), "1tTZ");
    assert_eq!(tags(&mut client, &[run("s", &[])]), "2CZ");
    client.execute(&format!("drop table {table}"));
}

fn a_table_made_anew_with_the_same_columns_is_no_change(target: &Target) {
    let table = unique("anew");
    let mut client = target.connect();
    let create = format!("create table {table} (a int, b text)");
    client.execute(&create);
    let sql = format!("select * from {table}");
    let both = [parse("s", &sql), describe(b'S', "s")];
    assert_eq!(tags(&mut client, &both), "1tTZ");
    for _ in 0..3 {
        client.execute(&format!("drop table {table}"));
        client.execute(&create);
        assert_eq!(tags(&mut client, &[run("s", &[])]), "2CZ");
    }
    client.execute(&format!("drop table {table}"));
}

fn a_statement_without_a_result_has_none_to_change(target: &Target) {
    let table = unique("nothing");
    let mut client = target.connect();
    client.execute(&format!("create table {table} (a int)"));
    let sql = format!("with one as (select 1) insert into {table} select * from one");
    let both = [parse("s", &sql), describe(b'S', "s")];
    assert_eq!(tags(&mut client, &both), "1tnZ");
    client.execute(&format!("alter table {table} add b int"));
    assert_eq!(tags(&mut client, &[run("s", &[])]), "2CZ");
    client.execute(&format!("drop table {table}"));
}

fn a_server_that_is_new_to_a_statement_refuses_a_changed_result(shards: usize) {
    let mut stage = Stage::new(shards);
    let told = [parse("s", &stage.sql()), describe(b'S', "s"), run("s", &[])];
    assert_eq!(tags(&mut stage.client, &told), "1tT2DCZ");
    stage.change("add b int");
    stage.replace_servers();
    for _ in 0..2 {
        let reply = stage.client.batch(&[run("s", &[])]);
        assert_eq!((&*reply.tags, reply.status), ("EZ", 'I'));
        let error = &reply.errors[0];
        assert_eq!(error.sqlstate, "0A000");
        assert_eq!(error.message, "cached plan must not change result type");
    }
    // Others are not concerned, nor is another name.
    let mut other = stage.doorman.connect();
    let new = [parse("t", &stage.sql()), describe(b'S', "t"), run("t", &[])];
    assert_eq!(tags(&mut other, &new), "1tT2DCZ");
    assert_eq!(tags(&mut stage.client, &new), "1tT2DCZ");
    assert_eq!(tags(&mut stage.client, &[run("s", &[])]), "EZ 0A000");
    assert_eq!(tags(&mut stage.client, &[close(b'S', "s")]), "3Z");
    assert_eq!(tags(&mut stage.client, &told), "1tT2DCZ");
    stage.end();
}

fn a_refused_statement_has_no_effect(shards: usize) {
    let mut stage = Stage::new(shards);
    let table = stage.table.clone();
    let sql = format!("insert into {table} (a) values (2) returning *");
    let told = [parse("s", &sql), describe(b'S', "s")];
    assert_eq!(tags(&mut stage.client, &told), "1tTZ");
    stage.change("add b int");
    stage.replace_servers();
    let before = unnamed(&format!("insert into {table} (a) values (3)"), &[]);
    let reply = tags(&mut stage.client, &[before, run("s", &[])]);
    assert_eq!(reply, "12nCEZ 0A000");
    let count = format!("select count(*) from {table}");
    assert_eq!(stage.client.value(&count), "1", "nothing of the batch");
    stage.end();
}

fn a_refusal_fails_its_transaction(shards: usize) {
    let mut stage = Stage::new(shards);
    let told = [parse("s", &stage.sql()), describe(b'S', "s")];
    assert_eq!(tags(&mut stage.client, &told), "1tTZ");
    stage.change("alter a type text");
    stage.replace_servers();
    let client = &mut stage.client;
    client.execute("begin");
    client.execute("savepoint one");
    let reply = client.batch(&[run("s", &[])]);
    assert_eq!((&*reply.tags, reply.status), ("EZ", 'E'));
    assert_eq!(reply.sqlstate(), "0A000");
    assert_eq!(tags(client, &[run("s", &[])]), "EZ 25P02");
    client.execute("rollback to one");
    assert_eq!(tags(client, &[run("s", &[])]), "EZ 0A000");
    client.execute("rollback to one");
    assert_eq!(tags(client, &[close(b'S', "s")]), "3Z");
    assert_eq!(tags(client, &told), "1tTZ");
    assert_eq!(tags(client, &[run("s", &[])]), "2DCZ");
    client.execute("commit");
    stage.end();
}

fn a_result_that_was_told_by_running_it_is_kept_too(shards: usize) {
    let mut stage = Stage::new(shards);
    let sql = stage.sql();
    let run_told = [bind("", "s", &[]), describe(b'P', ""), execute("", 0)].concat();
    let run_told = [run_told];
    assert_eq!(tags(&mut stage.client, &[parse("s", &sql)]), "1Z");
    assert_eq!(tags(&mut stage.client, &run_told), "2TDCZ");
    // Another client has defined it and not run it.
    let mut other = stage.doorman.connect();
    assert_eq!(tags(&mut other, &[parse("s", &sql)]), "1Z");
    stage.change("add b int");
    stage.replace_servers();
    assert_eq!(tags(&mut stage.client, &run_told), "EZ 0A000");
    assert_eq!(tags(&mut other, &run_told), "2TDCZ");
    assert_eq!(tags(&mut other, &run_told), "2TDCZ");
    let at_once = [unnamed(&sql, &[])];
    assert_eq!(tags(&mut stage.client, &at_once), "12TDCZ");
    stage.end();
}

fn a_changed_type_or_name_is_a_changed_result(shards: usize) {
    for change in [
        "alter a type bigint",
        "rename a to b",
        "alter a type numeric(4, 1)",
    ] {
        let mut stage = Stage::new(shards);
        let told = [parse("s", &stage.sql()), describe(b'S', "s")];
        assert_eq!(tags(&mut stage.client, &told), "1tTZ");
        stage.change(change);
        stage.replace_servers();
        let refused = tags(&mut stage.client, &[run("s", &[])]);
        assert_eq!(refused, "EZ 0A000", "{change}");
        stage.end();
    }
}

fn a_description_is_refused_like_a_run(shards: usize) {
    let mut stage = Stage::new(shards);
    let told = [parse("s", &stage.sql()), describe(b'S', "s")];
    assert_eq!(tags(&mut stage.client, &told), "1tTZ");
    stage.change("add b int");
    stage.replace_servers();
    for _ in 0..2 {
        let described = tags(&mut stage.client, &[describe(b'S', "s")]);
        assert_eq!(described, "EZ 0A000");
    }
    stage.end();
}

fn what_waits_for_a_description_comes_in_order(shards: usize) {
    let mut stage = Stage::new(shards);
    let names: Vec<_> = (0..20).map(|number| format!("s{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let sql = format!("select {number} + $1::int, a from {}", stage.table);
        let told = [parse(name, &sql), describe(b'S', name)];
        assert_eq!(tags(&mut stage.client, &told), "1tTZ");
    }
    stage.replace_servers();
    let mut batches = Vec::new();
    for round in 0..10 {
        for name in &names {
            batches.push(run(name, &[Some(b"100")]));
            if round % 2 == 0 {
                batches.push(sync());
            }
        }
        batches.extend([sync(), query(&format!("select 'round {round}'"))]);
    }
    stage.client.send_all(&batches);
    for round in 0..10 {
        let mut got = Vec::new();
        loop {
            let reply = stage.client.reply();
            assert!(reply.errors.is_empty(), "{:?}", reply.errors);
            let rows = reply.rows.into_iter();
            got.extend(rows.map(|mut row| row.swap_remove(0).unwrap()));
            if got.last().is_some_and(|last| last.starts_with("round")) {
                break;
            }
        }
        let mut wanted: Vec<_> = (0..20).map(|n| (100 + n).to_string()).collect();
        wanted.push(format!("round {round}"));
        assert_eq!(got, wanted);
    }
    stage.end();
}

fn a_statement_that_cannot_be_parsed_any_more_fails_in_its_place(shards: usize) {
    let mut stage = Stage::new(shards);
    let told = [parse("s", &stage.sql()), describe(b'S', "s")];
    assert_eq!(tags(&mut stage.client, &told), "1tTZ");
    // Both variants of this test run at the same time.
    let elsewhere = unique("gone_for_a_while");
    stage.change(&format!("rename to {elsewhere}"));
    stage.replace_servers();
    let before = unnamed("select 1", &[]);
    let reply = tags(&mut stage.client, &[before, run("s", &[]), run("s", &[])]);
    assert_eq!(reply, "12TDCEZ 42P01");
    let back = format!("alter table {elsewhere} rename to {}", stage.table);
    Postgres::shared().sql(&back);
    assert_eq!(tags(&mut stage.client, &[run("s", &[])]), "2DCZ");
    stage.end();
}

fn messages_that_come_in_pieces_wait_too(shards: usize) {
    let mut stage = Stage::new(shards);
    let sql = format!("select length($1::text), a from {}", stage.table);
    let told = [parse("s", &sql), describe(b'S', "s")];
    assert_eq!(tags(&mut stage.client, &told), "1tTZ");
    let long = vec![b'x'; 300_000];
    for cut in [3, 6, 8, 9, 12, 20, 100_000] {
        stage.replace_servers();
        let first = unnamed("select 1", &[]);
        let message = [run("s", &[Some(&long)]), sync()].concat();
        // The server is taken for what comes before.
        stage.client.send_all(&[first, message[..cut].to_vec()]);
        stage.client.send(b"");
        stage.client.send(&message[cut..]);
        let reply = stage.client.reply();
        assert_eq!(reply.tags, "12TDC2DCZ", "cut at {cut}: {:?}", reply.errors);
        assert_eq!(reply.rows[1][0].as_deref(), Some("300000"));
    }
    stage.end();
}

/// The description waits for a lock, and the client for that.
fn a_client_who_goes_while_its_statement_is_described_leaves_no_server(shards: usize) {
    let mut stage = Stage::new(shards);
    let told = [parse("s", &stage.sql()), describe(b'S', "s")];
    let mut clients: Vec<_> = (0..4 * shards).map(|_| stage.doorman.connect()).collect();
    for client in &mut clients {
        assert_eq!(tags(client, &told), "1tTZ");
    }
    stage.replace_servers();
    let mut locker = Postgres::shared().superuser();
    locker.execute("begin");
    locker.execute(&format!("lock table {}", stage.table));
    for client in &mut clients {
        client.send_all(&[run("s", &[]), sync()]);
    }
    drop(clients);
    assert_eq!(stage.client.value("select 'served'"), "served");
    locker.execute("rollback");
    stage.end();
}
