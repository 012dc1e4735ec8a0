//! The extended protocol: statements, portals, Sync and Flush.
//!
//! Source: protocol-flow.html (extended query, pipelining).

use crate::common::message::{
    bind, close, describe, execute, flush, message, parse, query, sync, unnamed,
};
use crate::common::{Config, Postgres, Target, at_once, everywhere, with_one_and_two_shards};

everywhere!(
    unnamed_statement_is_answered_message_by_message,
    statement_is_described_with_its_parameters,
    parameters_and_results_may_be_binary,
    null_parameter_stays_null,
    lone_sync_is_answered,
    batches_in_one_write_are_answered_one_by_one,
    long_pipeline_is_answered_in_order,
    error_skips_to_the_sync_and_no_further,
    error_in_parse_bind_and_execute_is_answered_once,
    error_in_one_of_several_batches_leaves_the_others_alone,
    flush_brings_answers_before_the_sync,
    flush_after_every_message_brings_every_answer,
    flush_with_nothing_to_send_is_harmless,
    error_after_flush_waits_for_the_sync,
    unnamed_statement_is_usable_over_several_syncs_of_a_transaction,
    named_statement_is_usable_over_several_syncs_of_a_transaction,
    several_named_statements_are_told_apart,
    named_statement_closed_in_its_transaction_is_gone,
    portal_delivers_its_rows_in_portions,
    two_portals_of_a_transaction_are_told_apart,
    suspended_portal_of_an_ended_transaction_is_gone,
    closing_what_does_not_exist_is_no_error,
    empty_statement_is_answered,
    explicit_transaction_through_the_extended_protocol_works,
    simple_and_extended_may_alternate_in_one_write,
    query_inside_a_batch_without_sync_works,
    statement_of_several_commands_is_refused,
    reply_of_describe_without_rows_is_no_data,
);

with_one_and_two_shards!(
    unnamed_statements_of_many_clients_do_not_mix,
    batch_holds_one_server
);

fn unnamed_statement_is_answered_message_by_message(target: &Target) {
    let mut client = target.connect();
    let reply = client.batch(&[unnamed("select $1::text", &[Some(b"value")])]);
    assert_eq!(
        (reply.tags.as_str(), reply.value(), reply.status),
        ("12TDCZ", "value", 'I')
    );
}

fn statement_is_described_with_its_parameters(target: &Target) {
    let mut client = target.connect();
    let sql = "select $1::int4 as number, $2::text as word";
    client.send_all(&[parse("", sql), describe(b'S', ""), sync()]);
    let messages = client.expect_tags("1tTZ");
    assert_eq!(messages[1].body, [0, 2, 0, 0, 0, 23, 0, 0, 0, 25]);
    assert_eq!(messages[2].body[..9], *b"\0\x02number\0");
}

fn parameters_and_results_may_be_binary(target: &Target) {
    let mut client = target.connect();
    let body = [
        &b"\0\0"[..],
        &[0, 1, 0, 1, 0, 1],
        &[0, 0, 0, 4, 0, 0, 1, 0],
        &[0, 1, 0, 1],
    ];
    let binary = message(b'B', &body.concat());
    client.send_all(&[
        parse("", "select $1::int4 + 1"),
        binary,
        execute("", 0),
        sync(),
    ]);
    let messages = client.expect_tags("12DCZ");
    assert_eq!(messages[2].columns(), [Some(vec![0, 0, 1, 1])]);
}

fn null_parameter_stays_null(target: &Target) {
    let mut client = target.connect();
    let reply = client.batch(&[unnamed("select $1::text is null, $1::text", &[None])]);
    assert_eq!(reply.rows, [[Some("t".to_owned()), None]]);
}

fn lone_sync_is_answered(target: &Target) {
    let mut client = target.connect();
    client.send(&sync());
    client.expect_tags("Z");
    client.send_all(&[sync(), sync(), sync()]);
    client.expect_tags("ZZZ");
    assert_eq!(client.value("select 1"), "1");
}

fn batches_in_one_write_are_answered_one_by_one(target: &Target) {
    let mut client = target.connect();
    let one = [unnamed("select 'one'", &[]), sync()].concat();
    let two = [
        unnamed("select 'two'", &[]),
        unnamed("select 'three'", &[]),
        sync(),
    ]
    .concat();
    client.send_all(&[one, two]);
    client.expect_tags("12TDCZ12TDC12TDCZ");
}

fn long_pipeline_is_answered_in_order(target: &Target) {
    let mut client = target.connect();
    let mut bytes = Vec::new();
    for n in 0..1000 {
        bytes.extend(unnamed("select $1", &[Some(n.to_string().as_bytes())]));
        if n % 3 == 0 {
            bytes.extend(sync());
        }
    }
    bytes.extend(sync());
    client.send(&bytes);
    let mut seen = 0;
    while seen < 1000 {
        for row in client.reply().rows {
            assert_eq!(row[0].as_deref(), Some(seen.to_string().as_str()));
            seen += 1;
        }
    }
    client.send(&query("select 'after'"));
    let reply = client.reply();
    // The Sync after row 999 is one more than the Syncs that were counted by rows.
    let reply = if reply.rows.is_empty() {
        client.reply()
    } else {
        reply
    };
    assert_eq!(reply.value(), "after");
}

fn error_skips_to_the_sync_and_no_further(target: &Target) {
    let mut client = target.connect();
    let bad = unnamed("select 1/(1-$1::int)", &[Some(b"1")]);
    client.send_all(&[
        unnamed("select 'a'", &[]),
        bad,
        unnamed("select 'never'", &[]),
        sync(),
    ]);
    // The division is done while the plan is made, at Bind.
    let messages = client.expect_tags("12TDC1EZ");
    assert_eq!(messages[6].error_fields().sqlstate, "22012");
    assert_eq!(client.value("select 'next'"), "next");
}

fn error_in_parse_bind_and_execute_is_answered_once(target: &Target) {
    let mut client = target.connect();
    let cases = [
        (unnamed("selec", &[]), "EZ", "42601"),
        (unnamed("select $1::int", &[Some(b"x")]), "1EZ", "22P02"),
        (unnamed("select $1::int", &[]), "1EZ", "08P01"),
        (
            [parse("", "select 1"), execute("no_portal", 0)].concat(),
            "1EZ",
            "34000",
        ),
        (
            [parse("", "select 1"), describe(b'P', "no_portal")].concat(),
            "1EZ",
            "34000",
        ),
    ];
    for (bytes, tags, sqlstate) in cases {
        let reply = client.batch(&[bytes]);
        assert_eq!((reply.tags.as_str(), reply.sqlstate()), (tags, sqlstate));
        assert_eq!(reply.status, 'I');
    }
}

fn error_in_one_of_several_batches_leaves_the_others_alone(target: &Target) {
    let mut client = target.connect();
    let good = |word: &str| [unnamed(&format!("select '{word}'"), &[]), sync()].concat();
    let bad = [
        unnamed("select no_column", &[]),
        unnamed("select 'never'", &[]),
        sync(),
    ]
    .concat();
    client.send_all(&[good("one"), bad.clone(), good("two"), bad, good("three")]);
    let replies: Vec<_> = (0..5).map(|_| client.reply()).collect();
    let tags: Vec<_> = replies.iter().map(|reply| reply.tags.as_str()).collect();
    assert_eq!(tags, ["12TDCZ", "EZ", "12TDCZ", "EZ", "12TDCZ"]);
    assert_eq!(replies[2].value(), "two");
    assert_eq!(replies[4].value(), "three");
}

fn flush_brings_answers_before_the_sync(target: &Target) {
    let mut client = target.connect();
    client.send_all(&[unnamed("select 'early'", &[]), flush()]);
    client.expect_tags("12TDC");
    client.send(&sync());
    client.expect_tags("Z");
    assert_eq!(client.value("select 1"), "1");
}

fn flush_after_every_message_brings_every_answer(target: &Target) {
    let mut client = target.connect();
    for round in ["one", "two", "three"] {
        client.send_all(&[parse("", "select $1::text"), describe(b'S', ""), flush()]);
        client.expect_tags("1tT");
        client.send_all(&[bind("", "", &[Some(round.as_bytes())]), flush()]);
        client.expect_tags("2");
        client.send_all(&[execute("", 0), flush()]);
        let messages = client.expect_tags("DC");
        assert_eq!(messages[0].columns(), [Some(round.as_bytes().to_vec())]);
        client.send(&sync());
        client.expect_tags("Z");
    }
}

fn flush_with_nothing_to_send_is_harmless(target: &Target) {
    let mut client = target.connect();
    client.send_all(&[flush(), flush(), sync()]);
    client.expect_tags("Z");
    client.send_all(&[flush(), query("select 1")]);
    assert_eq!(client.reply().value(), "1");
}

fn error_after_flush_waits_for_the_sync(target: &Target) {
    let mut client = target.connect();
    client.send_all(&[unnamed("select no_column", &[]), flush()]);
    client.expect_tags("E");
    client.send_all(&[unnamed("select 'skipped'", &[]), flush(), sync()]);
    client.expect_tags("Z");
    assert_eq!(client.value("select 'good'"), "good");
}

fn unnamed_statement_is_usable_over_several_syncs_of_a_transaction(target: &Target) {
    let mut client = target.connect();
    client.execute("begin");
    assert_eq!(client.batch(&[parse("", "select $1::int * 2")]).tags, "1Z");
    for n in 1..5 {
        let number = n.to_string();
        let messages = [bind("", "", &[Some(number.as_bytes())]), execute("", 0)];
        let reply = client.batch(&messages);
        assert_eq!(
            (reply.value(), reply.status),
            ((2 * n).to_string().as_str(), 'T')
        );
    }
    client.execute("commit");
}

fn named_statement_is_usable_over_several_syncs_of_a_transaction(target: &Target) {
    let mut client = target.connect();
    client.execute("begin");
    assert_eq!(
        client.batch(&[parse("double", "select $1::int * 2")]).tags,
        "1Z"
    );
    assert_eq!(client.batch(&[describe(b'S', "double")]).tags, "tTZ");
    for n in 1..5 {
        let number = n.to_string();
        let messages = [
            bind("", "double", &[Some(number.as_bytes())]),
            execute("", 0),
        ];
        assert_eq!(client.batch(&messages).value(), (2 * n).to_string());
    }
    client.execute("commit");
}

fn several_named_statements_are_told_apart(target: &Target) {
    let mut client = target.connect();
    client.execute("begin");
    let names = ["a", "b", "c"];
    let parses: Vec<_> = names
        .map(|n| parse(n, &format!("select '{n}'::text")))
        .into();
    assert_eq!(client.batch(&parses).tags, "111Z");
    for name in ["c", "a", "b", "a"] {
        assert_eq!(
            client.batch(&[bind("", name, &[]), execute("", 0)]).value(),
            name
        );
    }
    client.execute("commit");
}

fn named_statement_closed_in_its_transaction_is_gone(target: &Target) {
    let mut client = target.connect();
    client.execute("begin");
    assert_eq!(client.batch(&[parse("short", "select 1")]).tags, "1Z");
    assert_eq!(client.batch(&[close(b'S', "short")]).tags, "3Z");
    let reply = client.batch(&[bind("", "short", &[]), execute("", 0)]);
    assert_eq!((reply.sqlstate(), reply.status), ("26000", 'E'));
    client.execute("rollback");
}

fn portal_delivers_its_rows_in_portions(target: &Target) {
    let mut client = target.connect();
    client.execute("begin");
    let sql = "select generate_series(1, 5)";
    let open = [parse("", sql), bind("p", "", &[]), execute("p", 2)];
    assert_eq!(client.batch(&open).tags, "12DDsZ");
    assert_eq!(
        client.batch(&[execute("p", 2)]).rows[0][0].as_deref(),
        Some("3")
    );
    let reply = client.batch(&[execute("p", 2)]);
    assert_eq!((reply.tags.as_str(), reply.value()), ("DCZ", "5"));
    assert_eq!(client.batch(&[close(b'P', "p")]).tags, "3Z");
    client.execute("commit");
}

fn two_portals_of_a_transaction_are_told_apart(target: &Target) {
    let mut client = target.connect();
    client.execute("begin");
    let sql = "select $1 || n from generate_series(1, 4) n";
    let messages = [
        parse("s", sql),
        bind("x", "s", &[Some(b"x")]),
        bind("y", "s", &[Some(b"y")]),
    ];
    assert_eq!(client.batch(&messages).tags, "122Z");
    for n in 1..=4 {
        let reply = client.batch(&[execute("x", 1), execute("y", 1)]);
        assert_eq!(reply.rows[0][0].as_deref(), Some(format!("x{n}").as_str()));
        assert_eq!(reply.rows[1][0].as_deref(), Some(format!("y{n}").as_str()));
        assert_eq!(reply.status, 'T');
    }
    assert_eq!(
        client
            .batch(&[close(b'P', "x"), close(b'P', "y"), close(b'S', "s")])
            .tags,
        "333Z"
    );
    client.execute("commit");
}

fn suspended_portal_of_an_ended_transaction_is_gone(target: &Target) {
    let mut client = target.connect();
    let open = [
        parse("", "select generate_series(1, 5)"),
        bind("p", "", &[]),
        execute("p", 2),
    ];
    let reply = client.batch(&open);
    assert_eq!((reply.tags.as_str(), reply.status), ("12DDsZ", 'I'));
    assert_eq!(client.batch(&[execute("p", 2)]).sqlstate(), "34000");
}

fn closing_what_does_not_exist_is_no_error(target: &Target) {
    let mut client = target.connect();
    assert_eq!(
        client
            .batch(&[close(b'S', "nothing"), close(b'P', "nothing")])
            .tags,
        "33Z"
    );
}

fn empty_statement_is_answered(target: &Target) {
    let mut client = target.connect();
    assert_eq!(client.batch(&[unnamed("", &[])]).tags, "12nIZ");
}

fn explicit_transaction_through_the_extended_protocol_works(target: &Target) {
    let mut client = target.connect();
    let steps = [
        ("begin", 'T'),
        ("select 1", 'T'),
        ("select 1/0", 'E'),
        ("rollback", 'I'),
    ];
    for (sql, status) in steps {
        assert_eq!(client.batch(&[unnamed(sql, &[])]).status, status, "{sql}");
    }
}

fn simple_and_extended_may_alternate_in_one_write(target: &Target) {
    let mut client = target.connect();
    let mut bytes = Vec::new();
    for n in 0..50 {
        bytes.extend(query(&format!("select 'simple {n}'")));
        bytes.extend(unnamed(&format!("select 'extended {n}'"), &[]));
        bytes.extend(sync());
    }
    client.send(&bytes);
    for n in 0..50 {
        assert_eq!(client.reply().value(), format!("simple {n}"));
        assert_eq!(client.reply().value(), format!("extended {n}"));
    }
}

fn query_inside_a_batch_without_sync_works(target: &Target) {
    let mut client = target.connect();
    client.send_all(&[unnamed("select 'first'", &[]), query("select 'second'")]);
    let reply = client.reply();
    assert_eq!(reply.tags, "12TDCTDCZ");
    assert_eq!(reply.rows[1][0].as_deref(), Some("second"));
    assert_eq!(client.value("select 3"), "3");
}

fn statement_of_several_commands_is_refused(target: &Target) {
    let mut client = target.connect();
    let reply = client.batch(&[unnamed("select 1; select 2", &[])]);
    assert_eq!((reply.tags.as_str(), reply.sqlstate()), ("EZ", "42601"));
}

fn reply_of_describe_without_rows_is_no_data(target: &Target) {
    let mut client = target.connect();
    let messages = [parse("", "set local work_mem = '2MB'"), describe(b'S', "")];
    assert_eq!(client.batch(&messages).tags, "1tnZ");
}

fn unnamed_statements_of_many_clients_do_not_mix(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(2)
        .start();
    at_once(16, |number| {
        let mut client = doorman.connect();
        let sql = format!("select $1 || ' of {number}'");
        for round in 0..60 {
            let round = round.to_string();
            let reply = client.batch(&[unnamed(&sql, &[Some(round.as_bytes())])]);
            assert_eq!(reply.value(), format!("{round} of {number}"));
            assert_eq!(reply.tags, "12TDCZ");
        }
    });
}

fn batch_holds_one_server(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(2)
        .start();
    let mut clients: Vec<_> = (0..4).map(|_| doorman.connect()).collect();
    let sql = "select pg_backend_pid()";
    for client in &mut clients {
        client.send_all(&[
            unnamed(sql, &[]),
            unnamed(sql, &[]),
            unnamed(sql, &[]),
            sync(),
        ]);
    }
    for client in &mut clients {
        let rows = client.reply().rows;
        assert!(rows.iter().all(|row| row == &rows[0]), "{rows:?}");
    }
}
