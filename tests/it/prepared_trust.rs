//! When a server's prepared statement may stand for a new one of the same text.
//!
//! Most bodies also run against PostgreSQL itself: what a client parses anew means what it would mean
//! there, whatever others have parsed, changed or hidden before.
//!
//! Source: protocol-flow.html (extended query), sql-prepare.html (notes), sql-discard.html.

use crate::common::message::{close, describe, parse, query, sync, unnamed};
use crate::common::{
    Client, Config, Doorman, Postgres, Target, User, everywhere, unique, with_one_and_two_shards,
};
use crate::prepared::{pooler, run, tags};

everywhere!(
    temporary_table_hides_another_until_it_is_gone,
    statement_on_a_temporary_table_is_not_for_others,
    setting_on_its_way_reads_literals,
    setting_of_the_same_batch_reads_literals,
    setting_that_ends_with_its_transaction_in_one_write,
    setting_of_a_batch_that_fails_is_taken_back,
    tenants_by_search_path_do_not_mix,
    parameter_types_follow_a_changed_table,
    table_changed_in_the_same_write_is_seen,
    change_that_is_rolled_back_is_forgotten,
    type_made_anew_is_found,
    changed_result_is_healed_within_the_transaction,
    named_statement_keeps_its_result,
    new_table_that_hides_another_is_found,
    discard_all_takes_settings_back,
);

with_one_and_two_shards!(
    change_by_another_user_is_seen,
    change_in_a_block_of_code_is_seen,
    errors_made_up_by_functions_teach_nothing,
    change_that_nobody_saw_costs_one_error,
    ordinary_transactions_keep_statements,
    habits_of_one_client_cost_others_nothing,
    changed_result_is_healed_without_cleaning,
    settings_left_on_a_server_do_not_read_for_others,
);

/// Parses anew, without a name, and returns the one value.
fn fresh(client: &mut Client, sql: &str) -> String {
    let reply = client.batch(&[unnamed(sql, &[])]);
    assert!(reply.errors.is_empty(), "{sql}: {:?}", reply.errors);
    reply.value().to_owned()
}

fn temporary_table_hides_another_until_it_is_gone(target: &Target) {
    let table = unique("hidden");
    let (mut one, mut two) = (target.connect(), target.connect());
    one.execute(&format!("create table {table} as select 1 as a"));
    let sql = format!("select count(*) from {table}");
    for _ in 0..4 {
        assert_eq!(fresh(&mut one, &sql), "1");
        assert_eq!(fresh(&mut two, &sql), "1");
        two.execute("begin");
        two.execute(&format!(
            "create temp table {table} (b text) on commit drop"
        ));
        assert_eq!(fresh(&mut two, &sql), "0");
        two.execute(&format!("insert into {table} values ('x'), ('y')"));
        assert_eq!(fresh(&mut two, &sql), "2");
        two.execute("commit");
        assert_eq!(fresh(&mut two, &sql), "1");
    }
    one.execute(&format!("drop table {table}"));
}

fn statement_on_a_temporary_table_is_not_for_others(target: &Target) {
    let table = unique("private");
    let (mut one, mut two) = (target.connect(), target.connect());
    one.execute(&format!("create table {table} as select 1 as a"));
    let sql = format!("select * from {table}");
    for _ in 0..3 {
        two.send_all(&[
            query("begin"),
            query(&format!(
                "create temp table {table} on commit drop as select 'b' as b, 'c' as c"
            )),
            unnamed(&sql, &[]),
            sync(),
            query("commit"),
            unnamed(&sql, &[]),
            sync(),
        ]);
        two.expect_tags("CZCZ12TDCZCZ12TDCZ");
        assert_eq!(fresh(&mut one, &sql), "1");
        assert_eq!(fresh(&mut two, &sql), "1");
    }
    one.execute(&format!("drop table {table}"));
}

const MOMENT: &str = "select extract(hour from '2024-01-01 00:00'::timestamptz at time zone 'UTC')";

fn setting_on_its_way_reads_literals(target: &Target) {
    let (mut one, mut two) = (target.connect(), target.connect());
    for known_before in [false, true, true] {
        let sql = format!("{MOMENT}, '{known_before}'");
        if known_before {
            assert_eq!(fresh(&mut one, &sql), "0");
        }
        for set in [
            "set local timezone='Asia/Tokyo'",
            "select set_config('timezone', 'Asia/Tokyo', true)",
        ] {
            two.send_all(&[
                query(&format!("begin; {set}")),
                unnamed(&sql, &[]),
                sync(),
                query("commit"),
            ]);
            two.reply();
            assert_eq!(two.reply().value(), "15", "{set}");
            two.reply();
            assert_eq!(fresh(&mut one, &sql), "0");
            assert_eq!(fresh(&mut two, &sql), "0");
        }
    }
}

fn setting_of_the_same_batch_reads_literals(target: &Target) {
    let (mut one, mut two) = (target.connect(), target.connect());
    for round in 0..3 {
        let sql = format!("select extract(day from '02/01/2024'::date), 'same batch {round}'");
        assert_eq!(fresh(&mut one, &sql), "1");
        two.execute("begin");
        let reply = two.batch(&[
            unnamed("set local datestyle = 'DMY'", &[]),
            unnamed(&sql, &[]),
        ]);
        assert_eq!(reply.value(), "2");
        two.execute("commit");
        assert_eq!(fresh(&mut one, &sql), "1");
        assert_eq!(fresh(&mut two, &sql), "1");
    }
}

fn setting_that_ends_with_its_transaction_in_one_write(target: &Target) {
    let (mut one, mut two) = (target.connect(), target.connect());
    for end in ["commit", "rollback"] {
        let sql = format!("{MOMENT}, 'one write {end}'");
        two.execute("begin; set local timezone = 'Asia/Tokyo'");
        two.send_all(&[query(end), unnamed(&sql, &[]), sync()]);
        two.reply();
        assert_eq!(two.reply().value(), "0", "{end}");
        for client in [&mut one, &mut two] {
            client.execute("begin; set local timezone = 'Asia/Tokyo'");
            assert_eq!(fresh(client, &sql), "15", "{end}");
            client.execute("commit");
            assert_eq!(fresh(client, &sql), "0", "{end}");
        }
    }
}

fn setting_of_a_batch_that_fails_is_taken_back(target: &Target) {
    let (mut one, mut two) = (target.connect(), target.connect());
    for round in 0..2 {
        let sql = format!("{MOMENT}, 'failing batch {round}'");
        two.send_all(&[
            unnamed("set timezone = 'Asia/Tokyo'", &[]),
            unnamed(&sql, &[]),
            unnamed("select 1/0", &[]),
            sync(),
            unnamed(&sql, &[]),
            sync(),
        ]);
        assert_eq!(two.reply().sqlstate(), "22012");
        assert_eq!(two.reply().value(), "0", "round {round}");
        assert_eq!(fresh(&mut one, &sql), "0");
        assert_eq!(fresh(&mut two, &sql), "0");
    }
}

fn create_schema(name: &str) {
    Postgres::shared().sql(&format!("create schema {name} authorization app"));
}

fn tenants_by_search_path_do_not_mix(target: &Target) {
    let names = [unique("tenant"), unique("tenant")];
    let mut client = target.connect();
    for (name, kind) in names.iter().zip(["int", "text"]) {
        create_schema(name);
        client.execute(&format!(
            "create table {name}.things (id {kind}, extra {kind})"
        ));
    }
    let insert = "insert into things values ($1, $1) returning id || '!'";
    for round in 0..3 {
        for (name, wanted) in names.iter().zip(["1!", "01!"]) {
            client.execute("begin");
            client.execute(&format!("set local search_path = {name}"));
            let reply = client.batch(&[unnamed(insert, &[Some(b"01")])]);
            assert_eq!(reply.value(), wanted, "round {round}");
            let rows = client.batch(&[unnamed("select * from things", &[])]);
            assert!(rows.errors.is_empty(), "{:?}", rows.errors);
            client.execute("commit");
        }
    }
    for name in names {
        client.execute(&format!("drop schema {name} cascade"));
    }
}

/// What `insert` takes for its parameter, as PostgreSQL describes it.
fn parameter_type(client: &mut Client, name: &str) -> u8 {
    client.send_all(&[describe(b'S', name), sync()]);
    let messages = client.expect_tags("tnZ");
    messages[0].body[5]
}

fn parameter_types_follow_a_changed_table(target: &Target) {
    let table = unique("typed");
    let (mut one, mut two) = (target.connect(), target.connect());
    one.execute(&format!("create table {table} (id int)"));
    let sql = format!("insert into {table} values ($1)");
    assert_eq!(tags(&mut one, &[unnamed(&sql, &[Some(b"1")])]), "12nCZ");
    assert_eq!(tags(&mut one, &[parse("old", &sql)]), "1Z");
    two.execute("begin");
    two.execute(&format!("alter table {table} alter id type bigint"));
    two.execute("commit");
    for client in [&mut two, &mut one, &mut target.connect()] {
        let big = [Some(&b"3000000000"[..])];
        assert_eq!(tags(client, &[unnamed(&sql, &big)]), "12nCZ");
        assert_eq!(tags(client, &[parse("new", &sql)]), "1Z");
        assert_eq!(parameter_type(client, "new"), 20);
        assert_eq!(tags(client, &[run("new", &big)]), "2CZ");
    }
    one.execute(&format!("alter table {table} alter id type text"));
    let padded = [Some(&b"007"[..])];
    assert_eq!(tags(&mut two, &[unnamed(&sql, &padded)]), "12nCZ");
    let sql = format!("select count(*) from {table} where id = '007'");
    assert_eq!(two.value(&sql), "1", "not a number on its way");
    one.execute(&format!("drop table {table}"));
}

fn table_changed_in_the_same_write_is_seen(target: &Target) {
    let table = unique("piped");
    let mut client = target.connect();
    client.execute(&format!("create table {table} (id int)"));
    let sql = format!("insert into {table} values ($1)");
    assert_eq!(tags(&mut client, &[unnamed(&sql, &[Some(b"1")])]), "12nCZ");
    let alter = |kind: &str| format!("alter table {table} alter id type {kind}");
    let parameter = [Some(&b"3000000000"[..])];
    client.send_all(&[
        query(&alter("bigint")),
        unnamed(&sql, &parameter),
        sync(),
        unnamed(&alter("text"), &[]),
        unnamed(&sql, &[Some(b"x")]),
        sync(),
    ]);
    client.expect_tags("CZ12nCZ12nC12nCZ");
    client.execute(&format!("drop table {table}"));
}

fn change_that_is_rolled_back_is_forgotten(target: &Target) {
    let table = unique("undone");
    let mut client = target.connect();
    client.execute(&format!("create table {table} (id int)"));
    let sql = format!("insert into {table} values ($1) returning id::text");
    let value = |client: &mut Client| {
        let reply = client.batch(&[unnamed(&sql, &[Some(b"01")])]);
        reply.value().to_owned()
    };
    assert_eq!(value(&mut client), "1");
    client.execute("begin; savepoint s");
    client.execute(&format!("alter table {table} alter id type text"));
    assert_eq!(value(&mut client), "01");
    client.execute("rollback to s");
    assert_eq!(value(&mut client), "1");
    client.execute(&format!("alter table {table} alter id type text"));
    assert_eq!(value(&mut client), "01");
    client.execute("rollback");
    assert_eq!(value(&mut client), "1");
    client.execute(&format!("drop table {table}"));
}

fn type_made_anew_is_found(target: &Target) {
    let kind = unique("mood");
    let mut client = target.connect();
    let sql = format!("select $1::{kind}::text");
    for _ in 0..3 {
        client.execute(&format!("create type {kind} as enum ('sad', 'glad')"));
        let reply = client.batch(&[unnamed(&sql, &[Some(b"glad")])]);
        assert_eq!(reply.tags, "12TDCZ", "{:?}", reply.errors);
        client.execute(&format!("drop type {kind}"));
    }
}

fn changed_result_is_healed_within_the_transaction(target: &Target) {
    let table = unique("healed");
    let mut client = target.connect();
    let sql = format!("select * from {table}");
    client.execute(&format!("create table {table} (a int)"));
    let both = [parse("x", &sql), run("x", &[])];
    assert_eq!(tags(&mut client, &both), "12CZ");
    client.execute(&format!("alter table {table} add b int"));
    client.execute("begin");
    client.execute("savepoint s");
    assert_eq!(tags(&mut client, &[run("x", &[])]), "EZ 0A000");
    client.execute("rollback to s");
    assert_eq!(tags(&mut client, &[unnamed(&sql, &[])]), "12TCZ");
    assert_eq!(tags(&mut client, &[close(b'S', "x")]), "3Z");
    assert_eq!(tags(&mut client, &both), "12CZ");
    client.execute("commit");
    client.execute(&format!("drop table {table}"));
}

fn named_statement_keeps_its_result(target: &Target) {
    let table = unique("kept");
    let mut client = target.connect();
    client.execute(&format!("create table {table} (a int)"));
    let sql = format!("select * from {table}");
    assert_eq!(tags(&mut client, &[parse("kept", &sql)]), "1Z");
    client.execute("begin");
    client.execute(&format!("alter table {table} add b int"));
    assert_eq!(tags(&mut client, &[run("kept", &[])]), "EZ 0A000");
    client.execute("rollback");
    assert_eq!(tags(&mut client, &[close(b'S', "kept")]), "3Z");
    client.execute(&format!("drop table {table}"));
}

fn new_table_that_hides_another_is_found(target: &Target) {
    let (first, second) = (unique("first"), unique("second"));
    let mut owner = target.connect();
    for schema in [&first, &second] {
        create_schema(schema);
    }
    owner.execute(&format!("create table {second}.t as select 'second' as a"));
    let path = format!("{first},{second}");
    let mut client = target.login().parameter("search_path", &path).connect();
    assert_eq!(fresh(&mut client, "select a from t"), "second");
    owner.execute(&format!("create table {first}.t as select 'first' as a"));
    assert_eq!(fresh(&mut client, "select a from t"), "first");
    owner.execute(&format!("drop table {first}.t"));
    assert_eq!(fresh(&mut client, "select a from t"), "second");
    for schema in [&first, &second] {
        owner.execute(&format!("drop schema {schema} cascade"));
    }
}

fn two_users(shards: usize) -> Doorman {
    let users = vec![
        User::new("app", 2),
        User::new("postgres", 2).server("postgres", ""),
    ];
    Config::new(Postgres::shared())
        .shards(shards)
        .users(users)
        .start()
}

fn change_by_another_user_is_seen(shards: usize) {
    let table = unique("others");
    let doorman = two_users(shards);
    let mut owner = doorman.login().user("postgres").connect();
    owner.execute(&format!("create table public.{table} (id int)"));
    owner.execute(&format!("grant all on {table} to app"));
    let sql = format!("insert into {table} values ($1)");
    let mut clients: Vec<_> = (0..4).map(|_| doorman.connect()).collect();
    let mut parameter = b"1".to_vec();
    for kind in ["bigint", "numeric", "text"] {
        for client in &mut clients {
            let messages = [unnamed(&sql, &[Some(&parameter)])];
            assert_eq!(tags(client, &messages), "12nCZ", "before {kind}");
        }
        owner.execute(&format!("alter table {table} alter id type {kind}"));
        parameter = match kind {
            "bigint" => b"3000000000".to_vec(),
            "numeric" => b"1e30".to_vec(),
            _ => b"text".to_vec(),
        };
    }
    for client in &mut clients {
        assert_eq!(tags(client, &[unnamed(&sql, &[Some(b"text")])]), "12nCZ");
    }
    owner.execute(&format!("drop table {table}"));
}

fn change_in_a_block_of_code_is_seen(shards: usize) {
    let table = unique("block");
    let doorman = pooler(shards, 2).start();
    let mut client = doorman.connect();
    client.execute(&format!("create table {table} (id int)"));
    let sql = format!("insert into {table} values ($1)");
    assert_eq!(tags(&mut client, &[unnamed(&sql, &[Some(b"1")])]), "12nCZ");
    let alter = format!("alter table {table} alter id type text");
    client.execute(&format!("do $$ begin execute '{alter}'; end $$"));
    assert_eq!(tags(&mut client, &[unnamed(&sql, &[Some(b"x")])]), "12nCZ");
    client.execute(&format!("drop table {table}"));
}

fn errors_made_up_by_functions_teach_nothing(shards: usize) {
    let sql = format!("select '{}'", unique("made up"));
    let name = {
        let doorman = pooler(shards, 1).start();
        let mut client = doorman.connect();
        assert_eq!(tags(&mut client, &[parse("s", &sql)]), "1Z");
        client.value("select name from pg_prepared_statements")
    };
    let doorman = pooler(shards, 1).start();
    let mut client = doorman.connect();
    let raise = |client: &mut Client, sqlstate: &str| {
        let text = format!("prepared statement \"{name}\" is a lie");
        let sql = format!(
            "do $$ begin raise exception using errcode = '{sqlstate}', message = '{text}'; end $$"
        );
        assert_eq!(client.error(&sql).sqlstate, sqlstate);
    };
    raise(&mut client, "42P05");
    assert_eq!(tags(&mut client, &[unnamed(&sql, &[])]), "12TDCZ");
    raise(&mut client, "26000");
    assert_eq!(tags(&mut client, &[unnamed(&sql, &[])]), "12TDCZ");
    // A client that takes the name before: what is under it is not believed.
    let doorman = pooler(shards, 1)
        .pool_key("cleanup_server_connections", false)
        .start();
    let mut client = doorman.connect();
    client.execute(&format!("prepare \"{name}\" as select 'evil'"));
    assert_eq!(tags(&mut client, &[unnamed(&sql, &[])]), "EZ 42P05");
    let reply = client.batch(&[unnamed(&sql, &[])]);
    assert_eq!(reply.tags, "12TDCZ");
    assert_ne!(reply.value(), "evil");
}

/// A change of which no message has passed the pooler.
fn change_that_nobody_saw_costs_one_error(shards: usize) {
    let table = unique("unseen");
    let mut owner = Target::direct().connect();
    owner.execute(&format!("create table {table} (id int)"));
    let doorman = pooler(shards, 1).start();
    let mut client = doorman.connect();
    let sql = format!("insert into {table} values ($1) returning *");
    assert_eq!(tags(&mut client, &[unnamed(&sql, &[Some(b"1")])]), "12TDCZ");
    owner.execute(&format!("alter table {table} alter id type bigint"));
    let big = [unnamed(&sql, &[Some(b"3000000000")])];
    client.execute("begin");
    client.execute("savepoint s");
    // The int is not big enough, and the result has another type.
    assert_eq!(client.batch(&big).status, 'E');
    client.execute("rollback to s");
    assert_eq!(tags(&mut client, &big), "12TDCZ", "in the same transaction");
    client.execute("commit");
    assert_eq!(tags(&mut client, &big), "12TDCZ");
    owner.execute(&format!("drop table {table}"));
}

fn parsed_at(client: &mut Client, text: &str) -> String {
    client.value(&format!(
        "select prepare_time from pg_prepared_statements where statement = '{text}' and name <> 'PGD_!'"
    ))
}

fn ordinary_transactions_keep_statements(shards: usize) {
    let doorman = pooler(shards, 1).start();
    let table = unique("ordinary");
    let sql = format!("select 1 as {table}");
    let mut client = doorman.connect();
    fresh(&mut client, &sql);
    let first = parsed_at(&mut client, &sql);
    for text in [
        "begin; set local statement_timeout = 1000; select 1; commit",
        "begin; select set_config('app.user', '1', true); commit",
        "/* a comment */ select 1; savepoint_is_none()",
        "set timezone = 'UTC'; reset timezone",
        "begin; create temp table own (a int) on commit drop; commit",
        "begin; set local search_path = pg_catalog; rollback",
    ] {
        let _ = client.query(text);
        client.send_all(&[
            query("begin"),
            unnamed(&sql, &[]),
            sync(),
            unnamed(&sql, &[]),
            sync(),
            query("commit"),
        ]);
        client.expect_tags("CZ12TDCZ12TDCZCZ");
        assert_eq!(parsed_at(&mut client, &sql), first, "{text}");
    }
    client.execute(&format!("create table {table} ()"));
    fresh(&mut client, &sql);
    assert_ne!(parsed_at(&mut client, &sql), first);
    client.execute(&format!("drop table {table}"));
}

fn count_on_server(client: &mut Client) -> String {
    client.value("select count(*) from pg_prepared_statements")
}

fn fill(client: &mut Client) {
    let parses: Vec<_> = (0..20)
        .map(|number| parse(&format!("f{number}"), &format!("select {number}")))
        .collect();
    assert_eq!(tags(client, &parses), format!("{}Z", "1".repeat(20)));
}

fn habits_of_one_client_cost_others_nothing(shards: usize) {
    for cleans in [true, false] {
        let doorman = pooler(shards, 1)
            .pool_key("cleanup_server_connections", cleans)
            .start();
        let (mut one, mut two) = (doorman.connect(), doorman.connect());
        fill(&mut one);
        for _ in 0..3 {
            assert_eq!(tags(&mut two, &[parse("p", "select 0")]), "1Z");
            assert_eq!(tags(&mut two, &[parse("p", "select 0")]), "EZ 42P05");
            two.execute("begin");
            assert_eq!(two.error("select 1/0").sqlstate, "22012");
            assert_eq!(two.error("deallocate p").sqlstate, "25P02");
            two.execute("rollback");
            assert_eq!(tags(&mut one, &[run("p", &[])]), "EZ 26000");
            two.execute("deallocate p");
            assert_eq!(two.error("deallocate p").sqlstate, "26000");
            assert_eq!(tags(&mut two, &[parse("p", "select 0")]), "1Z");
            two.execute("DEALLOCATE ALL");
            assert_eq!(tags(&mut two, &[run("p", &[])]), "EZ 26000");
            assert_eq!(tags(&mut two, &[unnamed("select 0", &[])]), "12TDCZ");
            two.execute("discard all;");
            assert_eq!(tags(&mut two, &[run("", &[])]), "EZ 26000");
        }
        assert_eq!(count_on_server(&mut one), "20", "cleans: {cleans}");
    }
}

fn changed_result_is_healed_without_cleaning(shards: usize) {
    let table = unique("unclean");
    let doorman = pooler(shards, 1)
        .pool_key("cleanup_server_connections", false)
        .start();
    let mut owner = Target::direct().connect();
    let mut client = doorman.connect();
    fill(&mut client);
    let sql = format!("select * from {table}");
    owner.execute(&format!("create table {table} (a int)"));
    assert_eq!(tags(&mut client, &[unnamed(&sql, &[])]), "12TCZ");
    owner.execute(&format!("alter table {table} add b int"));
    assert_eq!(tags(&mut client, &[unnamed(&sql, &[])]), "1EZ 0A000");
    assert_eq!(tags(&mut client, &[unnamed(&sql, &[])]), "12TCZ");
    assert_eq!(count_on_server(&mut client), "21");
    owner.execute(&format!("drop table {table}"));
}

fn settings_left_on_a_server_do_not_read_for_others(shards: usize) {
    let doorman = pooler(shards, 1)
        .pool_key("cleanup_server_connections", false)
        .start();
    let (mut one, mut two) = (doorman.connect(), doorman.connect());
    let sql = "select array_to_string('{null,a}'::text[], ',')";
    for _ in 0..2 {
        assert_eq!(fresh(&mut one, sql), "a");
        two.execute("set array_nulls = off");
        assert_eq!(fresh(&mut two, sql), "null,a");
        two.execute("set array_nulls = on");
        assert_eq!(fresh(&mut two, sql), "a");
    }
}

fn discard_all_takes_settings_back(target: &Target) {
    let mut client = target.connect();
    let before = client.value("show timezone");
    client.execute("set timezone = 'Asia/Tokyo'");
    assert_eq!(tags(&mut client, &[parse("s", "select 1")]), "1Z");
    client.execute("discard all");
    assert_eq!(client.value("show timezone"), before);
    assert_eq!(tags(&mut client, &[run("s", &[])]), "EZ 26000");
    client.send_all(&[
        query("discard all"),
        query("select 1"),
        query("deallocate all"),
    ]);
    client.expect_tags("CZTDCZCZ");
    client.execute("begin");
    assert_eq!(client.error("discard all").sqlstate, "25001");
    assert_eq!(client.error("deallocate all").sqlstate, "25P02");
}
