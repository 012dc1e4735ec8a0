//! Prepared statements in transaction mode, where messages come in unusual pieces, orders and numbers.
//!
//! **Owns:** floods, cuts, several batches in one write, what is left behind on servers.
//! **Does not own:** ordinary use (`prepared`), random conversations (`prepared_random`).
//!
//! Source: protocol-flow.html (extended query, pipelining), sql-deallocate.html.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;

use crate::common::message::{bind, close, describe, execute, flush, parse, query, sync, unnamed};
use crate::common::{
    Client, Config, Postgres, Target, eventually, everywhere, unique, with_one_and_two_shards,
};

everywhere!(
    definitions_without_a_sync_are_answered,
    bind_cut_before_a_bulk_of_parameters_is_understood,
    failed_query_before_a_known_definition_loses_only_its_own,
    query_that_is_skipped_keeps_the_unnamed_statement,
    query_behind_a_failed_batch_takes_the_unnamed_statement,
    deallocation_counts_when_it_is_run,
    deallocation_is_seen_in_comments_and_in_pieces,
    deallocation_in_the_batch_of_the_definition_is_found,
    definition_behind_a_failed_batch_is_refused_in_a_transaction,
    name_defined_twice_in_one_batch_is_refused,
    long_unnamed_statements_are_not_mixed_up_with_short_ones,
);

with_one_and_two_shards!(
    server_is_free_while_a_message_has_only_begun,
    deallocation_that_was_not_run_leaves_nothing,
    deallocation_of_a_server_side_name_is_noticed,
    long_unnamed_statements_pass,
    reload_never_binds_another_statement,
    client_that_leaves_with_promised_replies_costs_no_server,
);

fn pooler(shards: usize, servers: usize) -> Config {
    Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(servers)
}

fn run(name: &str) -> Vec<u8> {
    [bind("", name, &[]), execute("", 0)].concat()
}

fn tags(client: &mut Client, messages: &[Vec<u8>]) -> String {
    let reply = client.batch(messages);
    reply.errors.iter().fold(reply.tags.clone(), |tags, error| {
        format!("{tags} {}", error.sqlstate)
    })
}

/// Writes what the other side takes; returns how many bytes.
fn fill(stream: &mut TcpStream, bytes: &[u8], most: usize) -> usize {
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut written = 0;
    while written < most {
        let start = written % bytes.len();
        match stream.write(&bytes[start..]) {
            Ok(count) => written += count,
            Err(_) => break,
        }
    }
    stream.set_write_timeout(None).unwrap();
    written
}

#[test]
fn flood_of_known_definitions_is_held_back() {
    const MOST: usize = 60 << 20;
    let doorman = pooler(1, 1).start();
    for message in [parse("", ""), [parse("", ""), flush()].concat()] {
        let mut client = doorman.connect();
        client.set_deadline(Duration::from_secs(20));
        assert_eq!(tags(&mut client, &[parse("", "")]), "1Z");
        let flood = message.repeat(10_000);
        let mut stream = client.writer();
        // The kernel is not to hold too much for the reader.
        SockRef::from(&stream)
            .set_recv_buffer_size(256 * 1024)
            .unwrap();
        let written = fill(&mut stream, &flood, MOST);
        assert!(written < MOST, "{written} bytes without an answer read");
        let bytes = doorman.resident_bytes();
        assert!(bytes < 200 << 20, "{bytes} bytes in memory");
        let count = written.div_ceil(message.len());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let cut = written % message.len();
                let rest = if cut == 0 { &[][..] } else { &message[cut..] };
                stream.write_all(&[rest, &sync()].concat()).unwrap();
            });
            // One ParseComplete each, and ReadyForQuery.
            let mut left = 5 * count + 6;
            while left > 0 {
                let received = client
                    .try_receive_anything()
                    .unwrap_or_else(|error| panic!("{error}: {left} bytes of {count} missing"));
                assert!(0 < received && received <= left);
                left -= received;
            }
        });
        assert_eq!(client.value("select 'in step'"), "in step");
    }
}

fn definitions_without_a_sync_are_answered(target: &Target) {
    const COUNT: usize = 30_000;
    let mut client = target.connect();
    assert_eq!(tags(&mut client, &[parse("", "select 'known'")]), "1Z");
    let new = parse("new", &format!("select '{}'", unique("new")));
    let flood = parse("", "select 'known'").repeat(COUNT);
    let mut stream = client.writer();
    std::thread::scope(|scope| {
        scope.spawn(|| stream.write_all(&[new, flood].concat()).unwrap());
        // PostgreSQL answers whenever its buffer is full: nearly all.
        for _ in 0..COUNT - 10_000 {
            client.expect_tags("1");
        }
    });
    client.send(&sync());
    client.expect_tags(&format!("{}Z", "1".repeat(10_001)));
}

fn bind_cut_before_a_bulk_of_parameters_is_understood(target: &Target) {
    let mut client = target.connect();
    let define = parse("a_name_of_some_length", "select length($1)");
    assert_eq!(tags(&mut client, &[define]), "1Z");
    let parameter = vec![b'y'; 1_000_000];
    let one = bind("", "a_name_of_some_length", &[Some(&parameter)]);
    for cut in [1, 4, 5, 6, 7, 20, 26, 27, 28] {
        client.send(&one[..cut]);
        std::thread::yield_now();
        client.send_all(&[one[cut..].to_vec(), execute("", 0), sync()]);
        assert_eq!(client.reply().value(), "1000000", "cut at {cut}");
    }
    // Regions of the pooler end anywhere in these.
    let many = [one, execute("", 0)].concat().repeat(9);
    client.send_all(&[many, sync()]);
    assert_eq!(client.reply().rows.len(), 9);
}

fn failed_query_before_a_known_definition_loses_only_its_own(target: &Target) {
    let mut client = target.connect();
    let known = [parse("k", "select 'k of flow'"), parse("", "select 'u'")];
    assert_eq!(tags(&mut client, &known), "11Z");
    client.send_all(&[
        query("select 1/0"),
        parse("b", "select 'k of flow'"),
        sync(),
        parse("", "select 'v'"),
        sync(),
    ]);
    for tags in ["EZ", "1Z", "1Z"] {
        assert_eq!(client.reply().tags, tags);
    }
    assert_eq!(client.batch(&[run("")]).value(), "v");
    assert_eq!(client.batch(&[run("b")]).value(), "k of flow");
    client.send_all(&[query("deallocate b"), parse("c", "select 'v'"), sync()]);
    assert_eq!(client.reply().tags, "CZ");
    assert_eq!(client.reply().tags, "1Z");
    client.execute("begin");
    client.error("select 1/0");
    client.send_all(&[query("deallocate c"), parse("d", "select 'v'"), sync()]);
    assert_eq!(client.reply().tags, "EZ");
    assert_eq!(client.reply().tags, "EZ");
    client.execute("rollback");
    assert_eq!(tags(&mut client, &[run("c")]), "2DCZ");
    for gone in ["b", "d"] {
        assert_eq!(tags(&mut client, &[run(gone)]), "EZ 26000", "{gone}");
    }
}

fn query_that_is_skipped_keeps_the_unnamed_statement(target: &Target) {
    let mut client = target.connect();
    assert_eq!(tags(&mut client, &[parse("", "select 'u'")]), "1Z");
    for skipped in ["select 1", "deallocate x"] {
        let messages = [parse("x", "selec"), query(skipped)];
        assert_eq!(tags(&mut client, &messages), "EZ 42601");
        assert_eq!(client.batch(&[run("")]).value(), "u");
    }
    client.error("selec");
    assert_eq!(tags(&mut client, &[run("")]), "EZ 26000");
}

fn query_behind_a_failed_batch_takes_the_unnamed_statement(target: &Target) {
    let mut client = target.connect();
    assert_eq!(tags(&mut client, &[parse("", "select 'u'")]), "1Z");
    client.send_all(&[
        parse("a", "selec"),
        parse("", "select 'v'"),
        sync(),
        query("select 1"),
    ]);
    assert_eq!(client.reply().tags, "EZ");
    assert_eq!(client.reply().tags, "TDCZ");
    assert_eq!(tags(&mut client, &[run("")]), "EZ 26000");
}

fn deallocation_counts_when_it_is_run(target: &Target) {
    let mut client = target.connect();
    let two = [parse("a", "select 'a'"), parse("d", "deallocate a")];
    assert_eq!(tags(&mut client, &two), "11Z");
    assert_eq!(tags(&mut client, &[bind("", "d", &[])]), "2Z");
    let messages = [bind("p", "d", &[]), run("a"), execute("p", 0), run("a")];
    assert_eq!(tags(&mut client, &messages), "22DCCEZ 26000");
    assert_eq!(tags(&mut client, &[run("a")]), "EZ 26000");
    assert_eq!(tags(&mut client, &two[..1]), "1Z");
    client.execute("begin");
    client.error("select 1/0");
    assert_eq!(tags(&mut client, &[run("d")]), "EZ 25P02");
    client.execute("rollback");
    assert_eq!(client.batch(&[run("a")]).value(), "a");
    client.execute("begin");
    let messages = [bind("p", "d", &[]), bind("", "a", &[])];
    assert_eq!(tags(&mut client, &messages), "22Z");
    assert_eq!(tags(&mut client, &[execute("p", 0)]), "CZ");
    assert_eq!(tags(&mut client, &[run("a")]), "EZ 26000");
    client.execute("rollback");
    let messages = [parse("", "deallocate d"), describe(b'S', "")];
    assert_eq!(tags(&mut client, &messages), "1tnZ");
    assert_eq!(tags(&mut client, &[run("")]), "2CZ");
    assert_eq!(tags(&mut client, &[run("d")]), "EZ 26000");
}

fn deallocation_is_seen_in_comments_and_in_pieces(target: &Target) {
    let mut client = target.connect();
    for sql in [
        "/* a /* b */ */ deallocate s",
        "-- a\ndeallocate/**/s -- b",
        "deallocate prepare s /* a */;",
    ] {
        assert_eq!(tags(&mut client, &[parse("s", "select 1")]), "1Z");
        client.execute(sql);
        assert_eq!(tags(&mut client, &[run("s")]), "EZ 26000", "{sql}");
    }
    let bytes = query(" deallocate s");
    for cut in 1..bytes.len() {
        let both = [parse("s", "select 1"), parse("", "select 2")];
        assert_eq!(tags(&mut client, &both), "11Z");
        client.execute("begin");
        assert_eq!(tags(&mut client, &both[1..]), "1Z");
        client.send(&bytes[..cut]);
        std::thread::yield_now();
        client.send(&bytes[cut..]);
        client.expect_tags("CZ");
        assert_eq!(tags(&mut client, &[run("")]), "EZ 26000", "cut at {cut}");
        client.execute("rollback");
        assert_eq!(tags(&mut client, &[run("s")]), "EZ 26000", "cut at {cut}");
    }
}

fn deallocation_in_the_batch_of_the_definition_is_found(target: &Target) {
    let mut client = target.connect();
    for _ in 0..3 {
        let messages = [parse("a", "select 1"), unnamed("deallocate a", &[])];
        assert_eq!(tags(&mut client, &messages), "112nCZ");
        client.send_all(&[parse("a", "select 1"), query("deallocate a")]);
        client.expect_tags("1CZ");
        assert_eq!(tags(&mut client, &[run("a")]), "EZ 26000");
    }
}

fn definition_behind_a_failed_batch_is_refused_in_a_transaction(target: &Target) {
    let mut client = target.connect();
    let known = "select 'known behind a failure'";
    assert_eq!(tags(&mut client, &[parse("k", known)]), "1Z");
    client.execute("begin");
    client.send_all(&[parse("bad", "selec"), sync(), parse("b", known), sync()]);
    for sqlstate in ["42601", "25P02"] {
        let reply = client.reply();
        assert_eq!((reply.tags.as_str(), reply.sqlstate()), ("EZ", sqlstate));
    }
    client.execute("rollback");
    assert_eq!(tags(&mut client, &[run("b")]), "EZ 26000");
    client.execute("begin");
    client.send_all(&[
        run("k"),
        sync(),
        parse("b", known),
        sync(),
        run("b"),
        sync(),
    ]);
    for tags in ["2DCZ", "1Z", "2DCZ"] {
        assert_eq!(client.reply().tags, tags);
    }
    client.execute("rollback");
    assert_eq!(tags(&mut client, &[run("b")]), "2DCZ");
}

fn name_defined_twice_in_one_batch_is_refused(target: &Target) {
    let mut client = target.connect();
    for text in ["select 'once'", "select 'twice'"] {
        let messages = [parse("t", "select 'once'"), parse("t", text), run("t")];
        assert_eq!(tags(&mut client, &messages), "1EZ 42P05");
        assert_eq!(client.batch(&[run("t")]).value(), "once");
        let messages = [close(b'S', "t"), parse("t", text), close(b'S', "t")];
        assert_eq!(tags(&mut client, &messages), "313Z");
    }
}

fn long_sql(word: &str) -> String {
    format!("select '{word}' /* {} */", "x".repeat(40_000))
}

fn long_unnamed_statements_are_not_mixed_up_with_short_ones(target: &Target) {
    let mut client = target.connect();
    let long = unnamed(&long_sql("long"), &[]);
    assert_eq!(client.batch(std::slice::from_ref(&long)).value(), "long");
    client.execute("begin");
    for cut in [1, 5, 6, 100, 20_000] {
        client.send(&long[..cut]);
        std::thread::yield_now();
        client.send_all(&[long[cut..].to_vec(), sync()]);
        assert_eq!(client.reply().value(), "long", "cut at {cut}");
        assert_eq!(client.batch(&[run("")]).value(), "long");
        assert_eq!(tags(&mut client, &[parse("", "select 'short'")]), "1Z");
        assert_eq!(client.batch(&[run("")]).value(), "short");
        assert_eq!(tags(&mut client, &[close(b'S', "")]), "3Z");
        client.execute("savepoint a");
        assert_eq!(tags(&mut client, &[run("")]), "EZ 26000");
        client.execute("rollback to a");
        let replaced = [parse("", "select 'short'"), long.clone()];
        assert_eq!(client.batch(&replaced).value(), "long");
        assert_eq!(client.batch(&[run("")]).value(), "long");
    }
    client.execute("rollback");
}

fn long_unnamed_statements_pass(shards: usize) {
    let doorman = pooler(shards, 1).start();
    let (mut one, mut two) = (doorman.connect(), doorman.connect());
    let long = unnamed(&long_sql("long"), &[]);
    for _ in 0..3 {
        assert_eq!(one.batch(std::slice::from_ref(&long)).value(), "long");
        assert_eq!(tags(&mut two, &[run("")]), "EZ 26000");
        assert_eq!(one.batch(std::slice::from_ref(&long)).value(), "long");
        // The client's own Parse comes first, and defines nothing.
        let messages = [parse("", "select 'two'"), close(b'S', "")];
        assert_eq!(tags(&mut two, &messages), "13Z");
        assert_eq!(tags(&mut two, &[run("")]), "EZ 26000");
    }
    let names = two.rows("select name from pg_prepared_statements where name ~ '^PGD_'");
    assert_eq!(names.len(), 1);
}

fn server_is_free_while_a_message_has_only_begun(shards: usize) {
    let doorman = pooler(shards, 1).start();
    let (mut one, mut two) = (doorman.connect(), doorman.connect());
    for (message, cut) in [
        (parse("", "select 'late'"), 1),
        (parse("", "select 'late'"), 9),
        (query("select 'late'"), 3),
    ] {
        let first = [unnamed("select 'one'", &[]), sync()].concat();
        one.send_all(&[first, message[..cut].to_vec()]);
        assert_eq!(one.reply().value(), "one");
        assert_eq!(two.value("select 'two'"), "two");
        one.send(&message[cut..]);
        if message[0] == b'P' {
            one.send_all(&[run(""), sync()]);
        }
        assert_eq!(one.reply().value(), "late", "cut at {cut}");
    }
}

fn deallocation_that_was_not_run_leaves_nothing(shards: usize) {
    for keeps_unnamed in [true, false] {
        let doorman = pooler(shards, 1)
            .pool_key("prepare_unnamed", keeps_unnamed)
            .start();
        let (mut one, mut two) = (doorman.connect(), doorman.connect());
        assert_eq!(tags(&mut one, &[parse("a", "select 'a'")]), "1Z");
        let messages = [parse("d", "deallocate a"), bind("", "d", &[])];
        assert_eq!(tags(&mut one, &messages), "12Z");
        assert_eq!(tags(&mut two, &[run("a")]), "EZ 26000");
        let messages = [parse("", "deallocate a"), describe(b'S', "")];
        assert_eq!(tags(&mut one, &messages), "1tnZ");
        assert_eq!(tags(&mut two, &[run("a")]), "EZ 26000");
        assert_eq!(one.batch(&[run("a")]).value(), "a");
    }
}

fn deallocation_of_a_server_side_name_is_noticed(shards: usize) {
    let doorman = pooler(shards, 1).start();
    let (mut one, mut two) = (doorman.connect(), doorman.connect());
    assert_eq!(tags(&mut one, &[parse("s", "select 'mine'")]), "1Z");
    for sql in [
        "deallocate {}",
        "select 1; deallocate {}",
        "do $$ begin execute 'deallocate {}'; end $$",
    ] {
        let name = two.value("select name from pg_prepared_statements");
        two.execute(&sql.replace("{}", &format!("\"{name}\"")));
        // PostgreSQL tells nothing of what a block has run.
        if sql.starts_with("do") {
            assert_eq!(tags(&mut one, &[run("s")]), "EZ 26000");
        }
        assert_eq!(one.batch(&[run("s")]).value(), "mine", "{sql}");
    }
}

fn reload_never_binds_another_statement(shards: usize) {
    let config = |keeps: bool| {
        pooler(shards, 1)
            .pool_key("prepare_unnamed", keeps)
            .pool_key("prepared_statements_cache_size", 100)
    };
    let doorman = config(true).start();
    let mut client = doorman.connect();
    assert_eq!(tags(&mut client, &[parse("", "select 'first'")]), "1Z");
    for keeps in [false, true, false] {
        doorman.rewrite(config(keeps));
        doorman.sighup();
        let probe = unique("reload");
        let sql = format!("select '{probe}'");
        eventually("the reload is done", || {
            let reply = client.batch(&[unnamed(&sql, &[])]);
            assert_eq!(reply.value(), probe);
            let names = "select count(*) from pg_prepared_statements where statement = ";
            let kept = client.value(&format!("{names}'{}'", sql.replace('\'', "''")));
            (kept == "1") == keeps || {
                doorman.sighup();
                client.execute("deallocate all");
                false
            }
        });
        let messages = [parse("", "select 'second'"), run("")];
        assert_eq!(client.batch(&messages).value(), "second");
    }
    doorman.rewrite(config(true).pool_key("prepared_statements_cache_size", 0));
    assert_eq!(tags(&mut client, &[parse("n", "select 'n'")]), "1Z");
    doorman.sighup();
    eventually("the reload is done", || {
        tags(&mut client, &[run("n")]) == "EZ 26000"
    });
}

fn client_that_leaves_with_promised_replies_costs_no_server(shards: usize) {
    let doorman = pooler(shards, 1).start();
    let mut watcher = doorman.connect();
    assert_eq!(tags(&mut watcher, &[parse("k", "select 'k'")]), "1Z");
    let pid = watcher.backend_pid();
    for say_good_bye in [false, true] {
        let mut client = doorman.connect();
        client.send_all(&[parse("k", "select 'k'"), flush()]);
        client.expect_tags("1");
        client.send(&parse("l", "select 'k'"));
        if say_good_bye {
            client.terminate();
        } else {
            client.abort();
        }
        assert_eq!(watcher.backend_pid(), pid);
    }
}
