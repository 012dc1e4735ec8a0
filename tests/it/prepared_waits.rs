//! Prepared statements in transaction mode, where a message hangs on answers that are still to come.
//!
//! **Owns:** writes of several batches of which one decides about the next; what is behind a COPY; the
//! end of a connection behind requests.
//! **Does not own:** other pieces, orders and numbers (`prepared_flow`).
//!
//! Source: protocol-flow.html (extended query, pipelining, COPY operations), sql-set-transaction.html.

use crate::common::message::{
    bind, close, copy_data, copy_done, describe, execute, flush, message, parse, query, sync,
};
use crate::common::{Client, Target, everywhere};

everywhere!(
    name_is_taken_behind_a_portal_that_would_forget_all,
    name_deallocated_in_an_open_batch_is_free,
    transaction_is_set_up_only_before_its_first_parse,
    close_in_the_midst_of_a_copy_ends_the_connection,
    definitions_behind_a_copy_are_made,
    failed_definition_is_unknown_to_the_next_batch,
    closed_name_is_there_if_the_close_was_skipped,
    name_defined_twice_in_one_write_is_refused,
    names_behind_a_command_that_forgets_all_are_free,
    deallocation_finds_a_name_of_the_batch_before,
    deallocation_among_others_counts_one_by_one,
    definition_behind_a_transaction_that_fails_at_once_is_refused,
    unnamed_statement_outlives_a_failed_batch,
    requests_are_answered_before_the_last_words,
    same_text_behind_a_failed_batch_is_there,
    pipeline_of_dependent_batches_runs,
    name_is_taken_behind_a_deallocation_that_is_refused,
    unnamed_statement_outlives_a_skipped_query_in_pieces,
    definition_behind_a_function_call_that_fails_is_refused,
);

fn run(name: &str) -> Vec<u8> {
    [bind("", name, &[]), execute("", 0)].concat()
}

/// Writes all at once; returns the tags of so many replies, each with the codes of its errors.
fn answers(client: &mut Client, messages: &[Vec<u8>], count: usize) -> String {
    client.send_all(messages);
    let replies = (0..count).map(|_| {
        let reply = client.reply();
        reply.errors.iter().fold(reply.tags.clone(), |tags, error| {
            format!("{tags}({})", error.sqlstate)
        })
    });
    replies.collect::<Vec<_>>().join(" ")
}

fn name_is_taken_behind_a_portal_that_would_forget_all(target: &Target) {
    let mut client = target.connect();
    for forgetting in ["discard all", "deallocate all"] {
        let both = [parse("b", "select 1"), parse("", forgetting), sync()];
        assert_eq!(answers(&mut client, &both, 1), "11Z");
        let bound = [bind("p", "", &[]), parse("b", "select 2"), sync()];
        assert_eq!(answers(&mut client, &bound, 1), "2EZ(42P05)");
        assert_eq!(answers(&mut client, &[close(b'S', "b"), sync()], 1), "3Z");
    }
}

fn name_deallocated_in_an_open_batch_is_free(target: &Target) {
    let mut client = target.connect();
    for _ in 0..3 {
        let first = [parse("b", "select 'before'"), sync()];
        assert_eq!(answers(&mut client, &first, 1), "1Z");
        client.send_all(&[parse("", "deallocate b"), run(""), flush()]);
        client.expect_tags("12C");
        let again = [parse("b", "select 'again'"), run("b"), sync()];
        assert_eq!(answers(&mut client, &again, 1), "12DCZ");
        assert_eq!(answers(&mut client, &[close(b'S', "b"), sync()], 1), "3Z");
    }
}

fn transaction_is_set_up_only_before_its_first_parse(target: &Target) {
    let mut client = target.connect();
    let begin = "begin isolation level repeatable read";
    for _ in 0..3 {
        // The second time PostgreSQL need not see the first Parse.
        let batch = [parse("", "select 1"), parse("", begin), run(""), sync()];
        assert_eq!(answers(&mut client, &batch, 1), "112EZ(25001)");
        let batch = [parse("", begin), run(""), parse("", "select 1"), sync()];
        assert_eq!(answers(&mut client, &batch, 1), "12C1Z");
        client.error("set transaction isolation level serializable");
        client.execute("rollback");
        // Another transaction has begun since.
        let two = [
            parse("", "select 1"),
            sync(),
            parse("", begin),
            run(""),
            sync(),
        ];
        assert_eq!(answers(&mut client, &two, 2), "1Z 12CZ");
        client.execute("rollback");
    }
}

fn close_in_the_midst_of_a_copy_ends_the_connection(target: &Target) {
    let mut table = target.connect();
    table.execute("create table if not exists copied_in_waits (a int)");
    for name in ["", "known", "unknown"] {
        let mut client = target.connect();
        let known = [parse("known", "select 1"), parse("", "select 2"), sync()];
        assert_eq!(answers(&mut client, &known, 1), "11Z");
        let copy = parse("c", "copy copied_in_waits from stdin");
        client.send_all(&[copy, run("c"), close(b'S', name), sync()]);
        client.expect_tags("12G");
        assert_eq!(client.expect('E').error_fields().sqlstate, "08P01");
        assert_eq!(client.expect('E').error_fields().severity, "FATAL");
        assert!(client.is_closed());
    }
}

fn definitions_behind_a_copy_are_made(target: &Target) {
    let mut client = target.connect();
    client.execute("begin");
    client.execute("create temp table copied (a int) on commit drop");
    let batch = [
        parse("c", "copy copied from stdin"),
        run("c"),
        copy_data(b"1\n"),
        copy_done(),
        sync(),
        parse("b", "select 1"),
        close(b'S', "c"),
        run("b"),
        sync(),
    ];
    let heard = answers(&mut client, &batch, 2);
    client.execute("rollback");
    assert_eq!(heard, "12GCZ 132DCZ");
}

fn failed_definition_is_unknown_to_the_next_batch(target: &Target) {
    let mut client = target.connect();
    for _ in 0..2 {
        let both = [
            parse("x", "selec"),
            parse("a", "select 1"),
            sync(),
            run("a"),
            sync(),
        ];
        assert_eq!(answers(&mut client, &both, 2), "EZ(42601) EZ(26000)");
        // The text is known to the server the next time.
        let known = [parse("", "select 1"), sync()];
        assert_eq!(answers(&mut client, &known, 1), "1Z");
    }
}

fn closed_name_is_there_if_the_close_was_skipped(target: &Target) {
    let mut client = target.connect();
    let first = [parse("a", "select 1"), sync()];
    assert_eq!(answers(&mut client, &first, 1), "1Z");
    for next in [run("a"), describe(b'S', "a"), parse("a", "select 2")] {
        let is_parse = next[0] == b'P';
        let messages = [parse("x", "selec"), close(b'S', "a"), sync(), next, sync()];
        let heard = answers(&mut client, &messages, 2);
        assert_eq!(heard.ends_with("EZ(42P05)"), is_parse, "{heard}");
        assert_eq!(heard.matches('E').count(), 1 + usize::from(is_parse));
    }
}

fn name_defined_twice_in_one_write_is_refused(target: &Target) {
    let mut client = target.connect();
    let twice = [
        parse("a", "select 1"),
        sync(),
        parse("a", "select 1"),
        sync(),
    ];
    assert_eq!(answers(&mut client, &twice, 2), "1Z EZ(42P05)");
    assert_eq!(answers(&mut client, &[run("a"), sync()], 1), "2DCZ");
}

fn names_behind_a_command_that_forgets_all_are_free(target: &Target) {
    let mut client = target.connect();
    for forgetting in ["discard all", "deallocate all"] {
        let first = [parse("a", "select 1"), parse("d", forgetting), sync()];
        assert_eq!(answers(&mut client, &first, 1), "11Z");
        let rest = [run("a"), parse("a", "select 2"), sync()];
        let batch = [&[query("select 1"), query(forgetting)], &rest[..]].concat();
        assert_eq!(answers(&mut client, &batch, 3), "TDCZ CZ EZ(26000)");
        let batch = [
            parse("a", "select 'a'"),
            parse("d", forgetting),
            sync(),
            parse("", "select 'u'"),
            run("d"),
            run(""),
            parse("a", "select 'new'"),
            run("a"),
            sync(),
        ];
        assert_eq!(answers(&mut client, &batch, 2), "11Z 12C2DC12DCZ");
        assert_eq!(answers(&mut client, &[close(b'S', "a"), sync()], 1), "3Z");
    }
}

fn deallocation_finds_a_name_of_the_batch_before(target: &Target) {
    let mut client = target.connect();
    let define = [parse("a", "select 1"), sync()];
    let batch = [&define[..], &[query("deallocate a")]].concat();
    assert_eq!(answers(&mut client, &batch, 2), "1Z CZ");
    let batch = [&define[..], &[parse("", "deallocate a"), run(""), sync()]].concat();
    assert_eq!(answers(&mut client, &batch, 2), "1Z 12CZ");
    assert_eq!(answers(&mut client, &[run("a"), sync()], 1), "EZ(26000)");
}

fn deallocation_among_others_counts_one_by_one(target: &Target) {
    let mut client = target.connect();
    let both = [parse("a", "select 1"), parse("b", "select 2"), sync()];
    assert_eq!(answers(&mut client, &both, 1), "11Z");
    let messages = [
        query("deallocate a; deallocate none; deallocate b"),
        run("b"),
        sync(),
    ];
    assert_eq!(answers(&mut client, &messages, 2), "CEZ(26000) 2DCZ");
    assert_eq!(answers(&mut client, &[run("a"), sync()], 1), "EZ(26000)");
    let messages = [
        query("select 1; deallocate b"),
        parse("b", "select 3"),
        run("b"),
        sync(),
    ];
    assert_eq!(answers(&mut client, &messages, 2), "TDCCZ 12DCZ");
    let messages = [
        query("deallocate all; select 1"),
        parse("b", "select 4"),
        sync(),
    ];
    assert_eq!(answers(&mut client, &messages, 2), "CTDCZ 1Z");
}

fn definition_behind_a_transaction_that_fails_at_once_is_refused(target: &Target) {
    let mut client = target.connect();
    let known = [parse("k", "select 1"), sync()];
    assert_eq!(answers(&mut client, &known, 1), "1Z");
    let messages = [query("begin; select 1/0"), parse("a", "select 1"), sync()];
    assert_eq!(answers(&mut client, &messages, 2), "CEZ(22012) EZ(25P02)");
    client.execute("rollback");
    assert_eq!(answers(&mut client, &[run("a"), sync()], 1), "EZ(26000)");
}

fn unnamed_statement_outlives_a_failed_batch(target: &Target) {
    let mut client = target.connect();
    let messages = [
        parse("", "select 'u'"),
        sync(),
        parse("x", "selec"),
        parse("", "select 'v'"),
        sync(),
        run(""),
        sync(),
    ];
    assert_eq!(answers(&mut client, &messages, 3), "1Z EZ(42601) 2DCZ");
    let messages = [
        parse("", "select 'u'"),
        sync(),
        run("none"),
        parse("", "select 'v'"),
        sync(),
        run(""),
        sync(),
    ];
    assert_eq!(answers(&mut client, &messages, 3), "1Z EZ(26000) 2DCZ");
}

fn requests_are_answered_before_the_last_words(target: &Target) {
    let wrong_length = [b'Q', 0, 0, 0, 1].to_vec();
    for last in [message(b'!', b""), wrong_length] {
        let is_unknown = last[0] == b'!';
        let mut client = target.connect();
        let batch = [
            query("select 1"),
            parse("", "select 2"),
            run(""),
            sync(),
            last,
        ];
        assert_eq!(answers(&mut client, &batch, 2), "TDCZ 12DCZ");
        if is_unknown {
            assert_eq!(client.expect('E').error_fields().sqlstate, "08P01");
            assert!(client.is_closed());
        }
    }
}

fn same_text_behind_a_failed_batch_is_there(target: &Target) {
    let mut client = target.connect();
    let messages = [
        execute("none", 0),
        parse("", "copy (select 1) to stdout"),
        bind("", "", &[]),
        parse("b", "select 'same'"),
        bind("", "b", &[]),
        sync(),
        parse("", "select 'same'"),
        bind("", "", &[]),
        sync(),
    ];
    for _ in 0..3 {
        assert_eq!(answers(&mut client, &messages, 2), "EZ(34000) 12Z");
    }
}

fn pipeline_of_dependent_batches_runs(target: &Target) {
    const COUNT: usize = 200;
    let mut client = target.connect();
    let mut messages = Vec::new();
    for turn in 0..COUNT {
        let sql = format!("select {}", turn % 7);
        messages.extend([parse("a", &sql), sync(), run("a"), sync()]);
        messages.extend([close(b'S', "a"), sync()]);
    }
    let heard = answers(&mut client, &messages, 3 * COUNT);
    assert_eq!(heard, ["1Z 2DCZ 3Z"; COUNT].join(" "));
}

fn name_is_taken_behind_a_deallocation_that_is_refused(target: &Target) {
    let mut client = target.connect();
    let first = [parse("a", "select 1"), sync()];
    assert_eq!(answers(&mut client, &first, 1), "1Z");
    let fails = [query("begin"), query("select 1/0")];
    assert_eq!(answers(&mut client, &fails, 2), "CZ EZ(22012)");
    // PostgreSQL defines an empty statement in a failed transaction too.
    let again = [query("deallocate a"), parse("a", ""), sync()];
    assert_eq!(answers(&mut client, &again, 2), "EZ(25P02) EZ(42P05)");
    client.execute("rollback");
    assert_eq!(answers(&mut client, &[run("a"), sync()], 1), "2DCZ");
}

fn unnamed_statement_outlives_a_skipped_query_in_pieces(target: &Target) {
    let mut client = target.connect();
    let first = [parse("", "select 7"), sync()];
    assert_eq!(answers(&mut client, &first, 1), "1Z");
    let long = format!("select '{}'", "x".repeat(400_000));
    let fails = "select 1/n from generate_series(0, 0) n";
    let batch = [parse("a", fails), run("a"), query(&long), sync()];
    assert_eq!(answers(&mut client, &batch, 1), "12EZ(22012)");
    assert_eq!(answers(&mut client, &[run(""), sync()], 1), "2DCZ");
    assert_eq!(answers(&mut client, &[query(&long)], 1), "TDCZ");
    assert_eq!(answers(&mut client, &[run(""), sync()], 1), "EZ(26000)");
}

/// A call of `int4div`, in text.
fn division(divisor: [u8; 1]) -> Vec<u8> {
    let parts: [&[u8]; 7] = [
        &154_i32.to_be_bytes(),
        &[0, 0, 0, 2],
        &[0, 0, 0, 1],
        b"6",
        &[0, 0, 0, 1],
        &divisor,
        &[0, 0],
    ];
    message(b'F', &parts.concat())
}

fn definition_behind_a_function_call_that_fails_is_refused(target: &Target) {
    let mut client = target.connect();
    for _ in 0..3 {
        let batch = [
            query("begin"),
            division(*b"2"),
            parse("a", "select 1"),
            sync(),
        ];
        assert_eq!(answers(&mut client, &batch, 3), "CZ VZ 1Z");
        let batch = [close(b'S', "a"), query("rollback")];
        assert_eq!(answers(&mut client, &batch, 1), "3CZ");
        let batch = [
            query("begin"),
            division(*b"0"),
            parse("a", "select 1"),
            sync(),
        ];
        assert_eq!(answers(&mut client, &batch, 3), "CZ EZ(22012) EZ(25P02)");
        client.execute("rollback");
    }
}
