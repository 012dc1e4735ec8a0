//! Prepared statements in transaction mode: a client's statements outlive its use of one server.
//!
//! Most bodies also run against PostgreSQL itself: the pooler is to answer in the same order, with
//! the same errors.
//!
//! Source: protocol-flow.html (extended query), sql-deallocate.html, sql-discard.html.

use std::fmt::Write as _;

use crate::common::message::{
    bind, close, describe, execute, flush, message, parse, query, sync, text, unnamed,
};
use crate::common::{
    Client, Config, Doorman, Postgres, Target, at_once, everywhere, unique, with_one_and_two_shards,
};

everywhere!(
    statement_outlives_its_transaction,
    statement_of_one_name_is_defined_once,
    closed_statement_may_be_defined_anew,
    unknown_statement_is_refused,
    unnamed_statement_outlives_its_transaction,
    unnamed_statement_ends_with_a_query,
    failed_definition_defines_nothing,
    skipped_messages_have_no_effect,
    answers_of_known_statements_stand_in_their_place,
    definitions_are_answered_at_a_flush,
    deallocate_forgets_one,
    deallocate_by_the_extended_protocol_forgets_one,
    deallocate_all_forgets_all,
    statements_may_be_defined_behind_a_discard_in_one_write,
    known_statements_are_refused_in_a_failed_transaction,
    long_statement_in_pieces_is_kept,
    long_parameters_in_pieces_arrive,
    messages_cut_anywhere_are_understood,
    statement_of_a_changed_table_may_be_defined_anew,
);

with_one_and_two_shards!(
    statements_of_many_clients_do_not_mix,
    same_text_is_parsed_once_a_server,
    names_of_servers_are_not_for_clients,
    small_caches_only_cost_time,
    statements_survive_new_servers,
    settings_tell_statements_apart,
    unnamed_statements_may_pass,
    names_pass_when_the_pooler_does_not_rename,
);

pub(crate) fn pooler(shards: usize, servers: usize) -> Config {
    Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(servers)
}

/// Binds and runs.
pub(crate) fn run(name: &str, parameters: &[Option<&[u8]>]) -> Vec<u8> {
    [bind("", name, parameters), execute("", 0)].concat()
}

pub(crate) fn tags(client: &mut Client, messages: &[Vec<u8>]) -> String {
    let reply = client.batch(messages);
    let mut tags = reply.tags;
    for error in reply.errors {
        let _ = write!(tags, " {}", error.sqlstate);
    }
    tags
}

fn statement_outlives_its_transaction(target: &Target) {
    let mut client = target.connect();
    assert_eq!(
        tags(&mut client, &[parse("double", "select 2 * $1::int")]),
        "1Z"
    );
    for number in 1..20_u32 {
        let reply = client.batch(&[run("double", &[Some(number.to_string().as_bytes())])]);
        assert_eq!(
            (reply.tags.as_str(), reply.value()),
            ("2DCZ", (2 * number).to_string().as_str())
        );
        assert_eq!(tags(&mut client, &[describe(b'S', "double")]), "tTZ");
        assert_eq!(client.value("select 1"), "1");
    }
}

fn statement_of_one_name_is_defined_once(target: &Target) {
    let mut client = target.connect();
    assert_eq!(tags(&mut client, &[parse("once", "select 1")]), "1Z");
    let reply = client.batch(&[parse("once", "select 2"), run("once", &[])]);
    assert_eq!(reply.tags, "EZ");
    let message = "prepared statement \"once\" already exists";
    assert_eq!(
        (reply.sqlstate(), reply.errors[0].message.as_str()),
        ("42P05", message)
    );
    assert_eq!(client.batch(&[run("once", &[])]).value(), "1");
    client.execute("begin");
    assert_eq!(tags(&mut client, &[parse("once", "select 2")]), "EZ 42P05");
    assert_eq!(client.error("select 1").sqlstate, "25P02");
    client.execute("rollback");
    assert_eq!(client.batch(&[run("once", &[])]).value(), "1");
    assert_eq!(tags(&mut client, &[close(b'S', "once")]), "3Z");
    assert_eq!(
        tags(&mut client, &[parse("once", "select 3"), run("once", &[])]),
        "12DCZ"
    );
}

fn closed_statement_may_be_defined_anew(target: &Target) {
    let mut client = target.connect();
    for word in ["one", "two", "one", "three"] {
        let sql = format!("select '{word}'");
        let reply = client.batch(&[parse("word", &sql), run("word", &[]), close(b'S', "word")]);
        assert_eq!((reply.tags.as_str(), reply.value()), ("12DC3Z", word));
        assert_eq!(tags(&mut client, &[run("word", &[])]), "EZ 26000");
        assert_eq!(tags(&mut client, &[close(b'S', "word")]), "3Z");
    }
}

fn unknown_statement_is_refused(target: &Target) {
    let mut client = target.connect();
    let reply = client.batch(&[run("nothing", &[])]);
    let message = "prepared statement \"nothing\" does not exist";
    assert_eq!(
        (reply.sqlstate(), reply.errors[0].message.as_str()),
        ("26000", message)
    );
    let messages = [
        parse("x1", "select 1"),
        describe(b'S', "nothing"),
        run("x1", &[]),
    ];
    assert_eq!(tags(&mut client, &messages), "1EZ 26000");
    assert_eq!(tags(&mut client, &[run("", &[])]), "EZ 26000");
    client.execute("begin");
    assert_eq!(client.batch(&[run("nothing", &[])]).status, 'E');
    client.execute("rollback");
    assert_eq!(tags(&mut client, &[run("x1", &[])]), "2DCZ");
}

fn unnamed_statement_outlives_its_transaction(target: &Target) {
    let mut client = target.connect();
    assert_eq!(tags(&mut client, &[parse("", "select 'kept'")]), "1Z");
    for _ in 0..5 {
        assert_eq!(client.batch(&[run("", &[])]).value(), "kept");
    }
    assert_eq!(tags(&mut client, &[close(b'S', "")]), "3Z");
    assert_eq!(tags(&mut client, &[run("", &[])]), "EZ 26000");
}

fn unnamed_statement_ends_with_a_query(target: &Target) {
    let mut client = target.connect();
    assert_eq!(tags(&mut client, &[parse("", "select 'kept'")]), "1Z");
    client.execute("select 1");
    assert_eq!(tags(&mut client, &[run("", &[])]), "EZ 26000");
}

fn failed_definition_defines_nothing(target: &Target) {
    let mut client = target.connect();
    for _ in 0..3 {
        assert_eq!(
            tags(&mut client, &[parse("f", "select no_such_column")]),
            "EZ 42703"
        );
        assert_eq!(tags(&mut client, &[run("f", &[])]), "EZ 26000");
    }
    assert_eq!(
        tags(&mut client, &[parse("f", "select 1"), run("f", &[])]),
        "12DCZ"
    );
    assert_eq!(
        tags(&mut client, &[parse("", "select 1"), parse("", "selec")]),
        "1EZ 42601"
    );
    assert_eq!(
        tags(&mut client, &[run("", &[])]),
        "EZ 26000",
        "the failed Parse has taken it"
    );
}

fn skipped_messages_have_no_effect(target: &Target) {
    let mut client = target.connect();
    let kept = [parse("kept", "select 'kept'"), parse("", "select 'u'")];
    assert_eq!(tags(&mut client, &kept), "11Z");
    let messages = [
        parse("bad", "selec"),
        parse("new", "select 'kept'"),
        close(b'S', "kept"),
        parse("", "select 'v'"),
    ];
    assert_eq!(tags(&mut client, &messages), "EZ 42601");
    assert_eq!(client.batch(&[run("", &[])]).value(), "u");
    assert_eq!(client.batch(&[run("kept", &[])]).value(), "kept");
    assert_eq!(tags(&mut client, &[run("new", &[])]), "EZ 26000");
    assert_eq!(tags(&mut client, &[parse("new", "select 'kept'")]), "1Z");
}

fn answers_of_known_statements_stand_in_their_place(target: &Target) {
    let mut client = target.connect();
    let known = "select 'known of the place'";
    assert_eq!(
        tags(&mut client, &[parse("", known), parse("k", known)]),
        "11Z"
    );
    let messages = [
        parse("n1", "select 'unknown of the place'"),
        parse("n2", known),
        run("n2", &[]),
        parse("n3", known),
        describe(b'S', "n3"),
        close(b'S', "n3"),
        close(b'S', "k"),
        run("n1", &[]),
        close(b'P', ""),
    ];
    assert_eq!(tags(&mut client, &messages), "112DC1tT332DC3Z");
    let messages = [parse("n4", known), parse("n5", "selec"), parse("n6", known)];
    assert_eq!(tags(&mut client, &messages), "1EZ 42601");
    let two = [
        [parse("n6", known), sync()].concat(),
        [close(b'S', "n6"), run("n2", &[])].concat(),
    ];
    client.send_all(&[two.concat(), sync()]);
    client.expect_tags("1Z32DCZ");
    client.send_all(&[parse("", known), query("select 1")]);
    assert_eq!(client.reply().tags, "1TDCZ");
}

fn definitions_are_answered_at_a_flush(target: &Target) {
    let mut client = target.connect();
    for name in ["a", "b"] {
        client.send_all(&[parse(name, "select 'flush'"), flush()]);
        client.expect_tags("1");
        client.send_all(&[describe(b'S', name), flush()]);
        client.expect_tags("tT");
        client.send_all(&[run(name, &[]), flush()]);
        client.expect_tags("2DC");
        client.send_all(&[close(b'S', name), flush()]);
        client.expect_tags("3");
        client.send(&sync());
        client.expect_tags("Z");
    }
}

fn deallocate_forgets_one(target: &Target) {
    let mut client = target.connect();
    let two = [parse("d_one", "select 1"), parse("D \"two", "select 2")];
    assert_eq!(tags(&mut client, &two), "11Z");
    client.execute("deallocate D_One");
    assert_eq!(tags(&mut client, &[run("d_one", &[])]), "EZ 26000");
    assert_eq!(client.error("deallocate d_one;").sqlstate, "26000");
    assert_eq!(client.batch(&[run("D \"two", &[])]).value(), "2");
    client.execute("begin");
    client.error("select 1/0");
    let sql = "DEALLOCATE PREPARE \"D \"\"two\" ;";
    assert_eq!(client.error(sql).sqlstate, "25P02");
    client.execute("rollback");
    assert_eq!(client.batch(&[run("D \"two", &[])]).value(), "2");
    client.execute(sql);
    assert_eq!(tags(&mut client, &[run("D \"two", &[])]), "EZ 26000");
    assert_eq!(tags(&mut client, &[parse("d_one", "select 3")]), "1Z");
    assert_eq!(client.batch(&[run("d_one", &[])]).value(), "3");
}

fn deallocate_by_the_extended_protocol_forgets_one(target: &Target) {
    let mut client = target.connect();
    for _ in 0..3 {
        assert_eq!(tags(&mut client, &[parse("x_one", "select 1")]), "1Z");
        let reply = client.batch(&[unnamed("deallocate x_one", &[])]);
        assert_eq!((reply.tags.as_str(), reply.status), ("12nCZ", 'I'));
        assert_eq!(tags(&mut client, &[run("x_one", &[])]), "EZ 26000");
    }
}

fn deallocate_all_forgets_all(target: &Target) {
    let mut client = target.connect();
    for sql in ["deallocate all", "DISCARD ALL", "select 1; deallocate all"] {
        let three = ["a", "b", "c"].map(|name| parse(name, "select 'all'"));
        assert_eq!(tags(&mut client, &three), "111Z");
        client.execute(sql);
        for name in ["a", "b", "c"] {
            assert_eq!(tags(&mut client, &[run(name, &[])]), "EZ 26000", "{sql}");
        }
    }
    assert_eq!(tags(&mut client, &[parse("a", "select 'all'")]), "1Z");
    let reply = client.batch(&[unnamed("deallocate all", &[])]);
    assert_eq!(reply.commands, ["DEALLOCATE ALL"]);
    assert_eq!(tags(&mut client, &[run("a", &[])]), "EZ 26000");
}

fn statements_may_be_defined_behind_a_discard_in_one_write(target: &Target) {
    let mut client = target.connect();
    for _ in 0..3 {
        client.send_all(&[
            query("discard all"),
            parse("same", "select 'same'"),
            run("same", &[]),
            unnamed("select 'same'", &[]),
            sync(),
        ]);
        client.expect_tags("CZ12DC12TDCZ");
        assert_eq!(tags(&mut client, &[run("same", &[])]), "2DCZ");
    }
}

fn known_statements_are_refused_in_a_failed_transaction(target: &Target) {
    let mut client = target.connect();
    let known = [parse("known", "select 'known'"), parse("r", "rollback")];
    assert_eq!(tags(&mut client, &known), "11Z");
    client.execute("begin");
    client.error("select 1/0");
    let again = parse("again", "select 'known'");
    assert_eq!(tags(&mut client, &[again]), "EZ 25P02");
    assert_eq!(tags(&mut client, &[run("known", &[])]), "EZ 25P02");
    let reply = client.batch(&[parse("s", "rollback"), run("s", &[])]);
    assert_eq!((reply.tags.as_str(), reply.status), ("12CZ", 'I'));
    assert_eq!(tags(&mut client, &[run("again", &[])]), "EZ 26000");
    client.execute("begin");
    client.error("select 1/0");
    assert_eq!(client.batch(&[run("r", &[])]).status, 'I');
    assert_eq!(client.batch(&[run("known", &[])]).value(), "known");
}

fn long_statement_in_pieces_is_kept(target: &Target) {
    let mut client = target.connect();
    for size in [10_000, 100_000, 3_000_000] {
        let sql = format!("select '{}'::text", "x".repeat(size));
        let bytes = [parse("long", &sql), sync()].concat();
        for piece in bytes.chunks(bytes.len() / 7 + 1) {
            client.send(piece);
        }
        client.expect_tags("1Z");
        for _ in 0..3 {
            assert_eq!(client.value("select 'between'"), "between");
            assert_eq!(client.batch(&[run("long", &[])]).value().len(), size);
        }
        assert_eq!(tags(&mut client, &[close(b'S', "long")]), "3Z");
    }
}

fn long_parameters_in_pieces_arrive(target: &Target) {
    let mut client = target.connect();
    assert_eq!(
        tags(&mut client, &[parse("length", "select length($1)")]),
        "1Z"
    );
    for size in [1, 9_000, 70_000, 5_000_000] {
        let parameter = vec![b'y'; size];
        let bytes = [run("length", &[Some(&parameter)]), sync()].concat();
        for piece in bytes.chunks(bytes.len() / 5 + 1) {
            client.send(piece);
        }
        assert_eq!(client.reply().value(), size.to_string());
    }
}

fn messages_cut_anywhere_are_understood(target: &Target) {
    let mut client = target.connect();
    let bytes = [
        parse("cut", "select $1 || 'tail'"),
        describe(b'S', "cut"),
        run("cut", &[Some(b"head")]),
        parse("", "select 'second'"),
        run("", &[]),
        close(b'S', "cut"),
        sync(),
    ]
    .concat();
    for at in 1..bytes.len() {
        let (first, second) = bytes.split_at(at);
        client.send(first);
        // Another round trip of the machine between the two parts, as often as not.
        std::thread::yield_now();
        client.send(second);
        let reply = client.reply();
        assert_eq!(reply.tags, "1tT2DC12DC3Z", "cut at {at}");
        assert_eq!(reply.value(), "headtail");
    }
}

fn statement_of_a_changed_table_may_be_defined_anew(target: &Target) {
    let table = unique("changed");
    let mut client = target.connect();
    client.execute(&format!("create table {table} (a int)"));
    client.execute(&format!("insert into {table} values (1)"));
    let sql = format!("select * from {table}");
    let both = [parse("changed", &sql), run("changed", &[])];
    assert_eq!(tags(&mut client, &both), "12DCZ");
    client.execute(&format!("alter table {table} add b int"));
    assert_eq!(tags(&mut client, &[run("changed", &[])]), "EZ 0A000");
    assert_eq!(tags(&mut client, &[close(b'S', "changed")]), "3Z");
    assert_eq!(tags(&mut client, &both), "12DCZ");
    client.execute(&format!("drop table {table}"));
}

fn statements_of_many_clients_do_not_mix(shards: usize) {
    let doorman = pooler(shards, 2).start();
    at_once(12, |number| {
        let mut client = doorman.connect();
        let own = format!("select $1 || ' of {number}'");
        let messages = [parse("s", &own), parse("t", "select $1 || ' of all'")];
        assert_eq!(tags(&mut client, &messages), "11Z");
        for round in 0..100 {
            let round = round.to_string();
            let parameter = [Some(round.as_bytes())];
            let reply = client.batch(&[run("s", &parameter), run("t", &parameter)]);
            assert_eq!(reply.tags, "2DC2DCZ");
            let rows: Vec<_> = reply
                .rows
                .into_iter()
                .map(|mut row| row.remove(0).unwrap())
                .collect();
            assert_eq!(
                rows,
                [format!("{round} of {number}"), format!("{round} of all")]
            );
        }
    });
}

/// Server-side names and texts of the statements on the server that `client` gets.
fn on_server(client: &mut Client) -> Vec<(String, String)> {
    let rows = client.rows("select name, statement from pg_prepared_statements order by name");
    let pair = |row: Vec<Option<String>>| {
        let mut values = row.into_iter().flatten();
        (values.next().unwrap(), values.next().unwrap())
    };
    rows.into_iter().map(pair).collect()
}

fn same_text_is_parsed_once_a_server(shards: usize) {
    let doorman = pooler(shards, 1).start();
    let mut clients: Vec<_> = (0..8).map(|_| doorman.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let name = format!("name_{number}");
        let messages = [
            parse(&name, "select 'shared'"),
            run(&name, &[]),
            unnamed("select 'shared'", &[]),
        ];
        assert_eq!(tags(client, &messages), "12DC12TDCZ");
    }
    let statements = on_server(&mut clients[0]);
    assert_eq!(statements.len(), 1, "{statements:?}");
    assert!(statements[0].0.starts_with("PGD_"));
    assert_eq!(statements[0].1, "select 'shared'");
}

fn names_of_servers_are_not_for_clients(shards: usize) {
    let doorman = pooler(shards, 1).start();
    let mut one = doorman.connect();
    assert_eq!(tags(&mut one, &[parse("s", "select 'mine'")]), "1Z");
    let name = on_server(&mut one)[0].0.clone();
    let mut two = doorman.connect();
    assert_eq!(tags(&mut two, &[run(&name, &[])]), "EZ 26000");
    assert_eq!(tags(&mut two, &[describe(b'S', &name)]), "EZ 26000");
    assert_eq!(tags(&mut two, &[close(b'S', &name)]), "3Z");
    assert_eq!(one.batch(&[run("s", &[])]).value(), "mine");
    let messages = [parse(&name, "select 'other'"), run(&name, &[])];
    assert_eq!(two.batch(&messages).value(), "other");
    assert_eq!(one.batch(&[run("s", &[])]).value(), "mine");
}

fn small_caches_only_cost_time(shards: usize) {
    let doorman = pooler(shards, 2)
        .pool_key("prepared_statements_cache_size", 3)
        .start();
    at_once(4, |number| {
        let mut client = doorman.connect();
        let name = |index: usize| format!("s{index}");
        let parses: Vec<_> = (0..8)
            .map(|index| parse(&name(index), &format!("select '{number} {index}'")))
            .collect();
        assert_eq!(tags(&mut client, &parses), "11111111Z");
        for round in 0..40 {
            let wanted: Vec<_> = (0..6).map(|step| (round * 5 + step * 3) % 8).collect();
            let messages: Vec<_> = wanted.iter().map(|index| run(&name(*index), &[])).collect();
            let reply = client.batch(&messages);
            assert_eq!(reply.tags, "2DC2DC2DC2DC2DC2DCZ");
            for (row, index) in reply.rows.iter().zip(&wanted) {
                assert_eq!(row[0].as_deref(), Some(&*format!("{number} {index}")));
            }
        }
        assert!(on_server(&mut client).len() <= 3);
    });
}

pub(crate) fn terminate_servers(doorman: &Doorman) {
    let postgres = Postgres::shared();
    for pid in doorman.server_pids(postgres) {
        postgres.sql(&format!("select pg_terminate_backend({pid}, 5000)"));
    }
}

fn statements_survive_new_servers(shards: usize) {
    let doorman = pooler(shards, 2).start();
    let mut client = doorman.connect();
    assert_eq!(tags(&mut client, &[parse("s", "select 'old'")]), "1Z");
    for _ in 0..3 {
        terminate_servers(&doorman);
        assert_eq!(client.batch(&[run("s", &[])]).value(), "old");
    }
}

fn settings_tell_statements_apart(shards: usize) {
    let doorman = pooler(shards, 1).start();
    let sql = "select extract(hour from '2024-01-01 00:00'::timestamptz at time zone 'UTC')";
    let in_zone = |zone: &str| {
        let mut client = doorman.connect();
        client.execute(&format!("set timezone to '{zone}'"));
        let reply = client.batch(&[parse("s", sql), run("s", &[])]);
        reply.value().to_owned()
    };
    assert_eq!(in_zone("Asia/Tokyo"), "15");
    assert_eq!(in_zone("UTC"), "0");
    assert_eq!(in_zone("Asia/Tokyo"), "15");
}

fn unnamed_statements_may_pass(shards: usize) {
    let doorman = pooler(shards, 1).pool_key("prepare_unnamed", false).start();
    let table = unique("passing");
    let mut one = doorman.connect();
    let mut two = doorman.connect();
    one.execute(&format!("create table {table} (a int)"));
    one.execute(&format!("insert into {table} values (1)"));
    let sql = format!("select * from {table}");
    assert_eq!(tags(&mut one, &[parse("s", "select 's'")]), "1Z");
    for column in ["b", "c"] {
        assert_eq!(tags(&mut one, &[unnamed(&sql, &[])]), "12TDCZ");
        assert_eq!(tags(&mut two, &[run("", &[])]), "EZ 26000");
        two.execute(&format!("alter table {table} add {column} int"));
        assert_eq!(tags(&mut one, &[unnamed(&sql, &[])]), "12TDCZ");
        assert_eq!(one.batch(&[run("s", &[])]).value(), "s");
    }
    assert_eq!(on_server(&mut two).len(), 1);
    let reply = one.batch(&[unnamed("deallocate s", &[])]);
    assert_eq!(reply.tags, "12nCZ");
    assert_eq!(tags(&mut one, &[run("s", &[])]), "EZ 26000");
    one.execute(&format!("drop table {table}"));
}

fn names_pass_when_the_pooler_does_not_rename(shards: usize) {
    for config in [
        pooler(shards, 2).general("prepared_statements", false),
        pooler(shards, 2).pool_key("prepared_statements_cache_size", 0),
        pooler(shards, 2).session_mode(),
    ] {
        let doorman = config.start();
        let mut client = doorman.connect();
        client.execute("begin");
        assert_eq!(tags(&mut client, &[parse("own", "select 1")]), "1Z");
        assert_eq!(on_server(&mut client)[0].0, "own");
        client.execute("commit");
    }
}

#[test]
fn a_client_forgets_the_least_used_names_beyond_its_bound() {
    let doorman = pooler(1, 1)
        .general("client_prepared_statements_cache_size", 2)
        .start();
    let mut client = doorman.connect();
    for name in ["a", "b", "c"] {
        let sql = format!("select '{name}'");
        assert_eq!(tags(&mut client, &[parse(name, &sql)]), "1Z");
    }
    assert_eq!(tags(&mut client, &[run("a", &[])]), "EZ 26000");
    assert_eq!(client.batch(&[run("b", &[])]).value(), "b");
    assert_eq!(client.batch(&[run("c", &[])]).value(), "c");
}

#[test]
fn parse_with_parameter_types_is_another_statement() {
    let doorman = pooler(1, 1).start();
    let mut client = doorman.connect();
    let typed = |name: &str, oid: u8| {
        let types = [&[0, 1][..], &u32::from(oid).to_be_bytes()].concat();
        message(b'P', &[text(name), text("select $1"), types].concat())
    };
    let messages = [typed("int", 23), typed("text", 25)];
    assert_eq!(tags(&mut client, &messages), "11Z");
    for (name, oid) in [("int", 23), ("text", 25)] {
        client.send_all(&[describe(b'S', name), sync()]);
        let messages = client.expect_tags("tTZ");
        assert_eq!(messages[0].body, [0, 1, 0, 0, 0, oid]);
    }
}
