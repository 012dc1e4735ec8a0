//! COPY in both directions, in both protocols, with every way to go wrong.
//!
//! Source: protocol-flow.html (COPY operations), sql-copy.html.

use std::io::Write;

use crate::common::message::{copy_data, copy_done, copy_fail, query, sync, unnamed};
use crate::common::{
    Config, Postgres, Target, at_once, eventually, everywhere, unique, with_one_and_two_shards,
};

everywhere!(
    copy_in_stores_the_rows,
    copy_in_by_the_extended_protocol_stores_the_rows,
    copy_in_sent_in_one_write_stores_the_rows,
    copy_in_by_the_extended_protocol_in_one_write_stores_the_rows,
    copy_in_a_transaction_keeps_the_transaction,
    copy_out_returns_the_rows,
    copy_out_by_the_extended_protocol_returns_the_rows,
    copy_fail_is_answered_with_57014,
    copy_fail_by_the_extended_protocol_is_answered_after_the_sync,
    bad_row_ends_the_copy_while_the_client_goes_on_sending,
    bad_row_ends_the_extended_copy_while_the_client_goes_on_sending,
    several_copies_in_one_query_work,
    copy_data_outside_a_copy_is_ignored,
    query_during_copy_in_ends_the_copy,
    copy_data_cut_into_single_bytes_is_stored,
    big_copy_in_and_out_keeps_every_byte,
);

with_one_and_two_shards!(
    client_vanishing_in_copy_in_stores_nothing,
    client_vanishing_in_copy_out_harms_nobody,
    copies_of_many_clients_do_not_mix,
);

/// A table for this test with the columns `n int, word text`.
fn table() -> String {
    let table = unique("copied");
    Postgres::shared().sql(&format!("create table {table} (n int, word text)"));
    Postgres::shared().sql(&format!("grant all on {table} to public"));
    table
}

fn count(table: &str) -> String {
    Postgres::shared().value(&format!("select count(*) from {table}"))
}

fn copy_in_stores_the_rows(target: &Target) {
    let table = table();
    let mut client = target.connect();
    client.send(&query(&format!("copy {table} from stdin")));
    client.expect_tags("G");
    client.send_all(&[copy_data(b"1\tone\n2\tt"), copy_data(b"wo\n"), copy_done()]);
    let reply = client.reply();
    assert_eq!((reply.commands[0].as_str(), reply.status), ("COPY 2", 'I'));
    assert_eq!(
        client.value(&format!("select word from {table} where n = 2")),
        "two"
    );
}

fn copy_in_by_the_extended_protocol_stores_the_rows(target: &Target) {
    let table = table();
    let mut client = target.connect();
    // As libpq does it: Sync follows Execute at once and is ignored by the COPY.
    client.send_all(&[unnamed(&format!("copy {table} from stdin"), &[]), sync()]);
    client.expect_tags("12nG");
    client.send_all(&[copy_data(b"1\tone\n"), copy_done(), sync()]);
    client.expect_tags("CZ");
    assert_eq!(client.value("select 'next'"), "next");
    assert_eq!(count(&table), "1");
}

fn copy_in_sent_in_one_write_stores_the_rows(target: &Target) {
    let table = table();
    let mut client = target.connect();
    let copy = query(&format!("copy {table} from stdin"));
    let next = query("select 'next'");
    client.send_all(&[copy, copy_data(b"1\tone\n"), copy_done(), next]);
    assert_eq!(client.reply().tags, "GCZ");
    assert_eq!(client.reply().value(), "next");
    assert_eq!(count(&table), "1");
}

fn copy_in_by_the_extended_protocol_in_one_write_stores_the_rows(target: &Target) {
    let table = table();
    let mut client = target.connect();
    let copy = unnamed(&format!("copy {table} from stdin"), &[]);
    let data = [copy_data(b"1\tone\n"), copy_done(), sync()].concat();
    // One Sync inside the COPY is swallowed, the one after CopyDone is answered.
    client.send_all(&[
        copy.clone(),
        sync(),
        data.clone(),
        copy,
        data,
        query("select 'next'"),
    ]);
    assert_eq!(client.reply().tags, "12nGCZ");
    assert_eq!(client.reply().tags, "12nGCZ");
    assert_eq!(client.reply().value(), "next");
    assert_eq!(count(&table), "2");
}

fn copy_in_a_transaction_keeps_the_transaction(target: &Target) {
    let table = table();
    let mut client = target.connect();
    client.execute("begin");
    let pid = client.backend_pid();
    client.send(&query(&format!("copy {table} from stdin")));
    client.expect_tags("G");
    client.send_all(&[copy_data(b"1\tone\n"), copy_done()]);
    assert_eq!(client.reply().status, 'T');
    assert_eq!(client.backend_pid(), pid);
    client.execute("rollback");
    assert_eq!(count(&table), "0");
}

fn copy_out_returns_the_rows(target: &Target) {
    let mut client = target.connect();
    client.send(&query(
        "copy (select n, 'row' from generate_series(1, 3) n) to stdout",
    ));
    let messages = client.expect_tags("HdddcCZ");
    assert_eq!(messages[1].body, b"1\trow\n");
    assert_eq!(client.value("select 1"), "1");
}

fn copy_out_by_the_extended_protocol_returns_the_rows(target: &Target) {
    let mut client = target.connect();
    let sql = "copy (select n from generate_series(1, 2) n) to stdout";
    client.send_all(&[
        unnamed(sql, &[]),
        sync(),
        unnamed("select 'x'", &[]),
        sync(),
    ]);
    client.expect_tags("12nHddcCZ12TDCZ");
}

fn copy_fail_is_answered_with_57014(target: &Target) {
    let table = table();
    let mut client = target.connect();
    client.send(&query(&format!("copy {table} from stdin")));
    client.expect_tags("G");
    client.send_all(&[copy_data(b"1\tone\n"), copy_fail("changed my mind")]);
    let reply = client.reply();
    assert_eq!((reply.tags.as_str(), reply.sqlstate()), ("EZ", "57014"));
    assert_eq!(reply.status, 'I');
    assert_eq!(count(&table), "0");
}

fn copy_fail_by_the_extended_protocol_is_answered_after_the_sync(target: &Target) {
    let table = table();
    let mut client = target.connect();
    client.send_all(&[unnamed(&format!("copy {table} from stdin"), &[]), sync()]);
    client.expect_tags("12nG");
    client.send_all(&[copy_data(b"1\tone\n"), copy_fail("no"), sync()]);
    client.expect_tags("EZ");
    assert_eq!(client.value("select 'next'"), "next");
}

fn bad_row_ends_the_copy_while_the_client_goes_on_sending(target: &Target) {
    let table = table();
    let mut client = target.connect();
    client.send(&query(&format!("copy {table} from stdin")));
    client.expect_tags("G");
    client.send(&bad_row_and_many_good_ones());
    client.send_all(&[copy_done(), query("select 'after the error'")]);
    let reply = client.reply();
    assert_eq!((reply.tags.as_str(), reply.sqlstate()), ("EZ", "22P02"));
    assert_eq!(client.reply().value(), "after the error");
    assert_eq!(count(&table), "0");
    target.assert_serves();
}

fn bad_row_ends_the_extended_copy_while_the_client_goes_on_sending(target: &Target) {
    let table = table();
    let mut client = target.connect();
    client.send_all(&[unnamed(&format!("copy {table} from stdin"), &[]), sync()]);
    client.expect_tags("12nG");
    client.send(&bad_row_and_many_good_ones());
    client.send_all(&[copy_done(), sync(), query("select 'after the error'")]);
    // The Sync before the data was part of the COPY; the one after it is answered.
    let reply = client.reply();
    assert_eq!((reply.tags.as_str(), reply.sqlstate()), ("EZ", "22P02"));
    assert_eq!(client.reply().value(), "after the error");
    assert_eq!(count(&table), "0");
}

/// `CopyData` whose first row is no number, followed by 8 MB of good rows.
fn bad_row_and_many_good_ones() -> Vec<u8> {
    let mut bytes = copy_data(b"not a number\tx\n");
    let good = copy_data(&b"1\tgood\n".repeat(1000));
    for _ in 0..1200 {
        bytes.extend_from_slice(&good);
    }
    bytes
}

fn several_copies_in_one_query_work(target: &Target) {
    let table = table();
    let mut client = target.connect();
    let sql = format!("copy {table} from stdin; select 'mid'; copy {table} from stdin; select 2");
    client.send(&query(&sql));
    client.expect_tags("G");
    client.send_all(&[copy_data(b"1\tone\n"), copy_done()]);
    client.expect_tags("CTDCG");
    client.send_all(&[copy_data(b"2\ttwo\n"), copy_done()]);
    client.expect_tags("CTDCZ");
    assert_eq!(count(&table), "2");
}

fn copy_data_outside_a_copy_is_ignored(target: &Target) {
    let mut client = target.connect();
    client.send_all(&[
        copy_data(b"stray"),
        copy_done(),
        copy_fail("stray"),
        query("select 1"),
    ]);
    assert_eq!(client.reply().value(), "1");
    client.execute("begin");
    client.send_all(&[copy_data(b"stray"), copy_done(), query("select 2")]);
    assert_eq!(client.reply().value(), "2");
    client.execute("commit");
}

fn query_during_copy_in_ends_the_copy(target: &Target) {
    let table = table();
    let mut client = target.connect();
    client.send(&query(&format!("copy {table} from stdin")));
    client.expect_tags("G");
    client.send_all(&[copy_data(b"1\tone\n"), query("select 'never'")]);
    // PostgreSQL answers with an error, 08P01, and may then close.
    let message = client.receive();
    assert_eq!(message.error_fields().sqlstate, "08P01", "{message:?}");
    drop(client);
    assert_eq!(count(&table), "0");
    target.assert_serves();
}

fn copy_data_cut_into_single_bytes_is_stored(target: &Target) {
    let table = table();
    let mut client = target.connect();
    client.send(&query(&format!("copy {table} from stdin")));
    client.expect_tags("G");
    for byte in [copy_data(b"1\tone\n2\ttwo\n"), copy_done()].concat() {
        client.send(&[byte]);
    }
    assert_eq!(client.reply().commands, ["COPY 2"]);
    assert_eq!(count(&table), "2");
}

fn big_copy_in_and_out_keeps_every_byte(target: &Target) {
    const ROWS: usize = 200_000;
    let table = table();
    let mut client = target.connect();
    client.send(&query(&format!("copy {table} from stdin")));
    client.expect_tags("G");
    let mut writer = client.writer();
    let sender = std::thread::spawn(move || {
        for n in 0..ROWS {
            // Messages of many different sizes.
            let row = format!("{n}\t{}\n", "x".repeat(n % 300));
            writer.write_all(&copy_data(row.as_bytes())).unwrap();
        }
        writer.write_all(&copy_done()).unwrap();
    });
    client.set_deadline(crate::common::DEADLINE * 6);
    assert_eq!(client.reply().commands, [format!("COPY {ROWS}")]);
    sender.join().unwrap();
    client.send(&query(&format!(
        "copy (select * from {table} order by n) to stdout"
    )));
    client.expect_tags("H");
    for n in 0..ROWS {
        let row = format!("{n}\t{}\n", "x".repeat(n % 300));
        assert_eq!(client.expect('d').body, row.as_bytes());
    }
    client.expect_tags("cCZ");
}

fn client_vanishing_in_copy_in_stores_nothing(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(2)
        .general("query_wait_timeout", "500ms")
        .start();
    let table = table();
    for round in 0..6 {
        let mut client = doorman.connect();
        if round % 2 == 0 {
            client.send(&query(&format!("copy {table} from stdin")));
            client.expect_tags("G");
        } else {
            client.send_all(&[unnamed(&format!("copy {table} from stdin"), &[]), sync()]);
            client.expect_tags("12nG");
        }
        client.send(&copy_data(b"1\tone\n"));
        if round % 3 == 0 {
            client.abort();
        } else if round % 3 == 1 {
            client.send(&copy_data(b"2\ttwo\n")[..7]);
        }
    }
    let mut clients = doorman.hold_servers(2);
    for client in &mut clients {
        assert_eq!(client.value(&format!("select count(*) from {table}")), "0");
    }
}

fn client_vanishing_in_copy_out_harms_nobody(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(2)
        .start();
    let sql = "copy (select repeat('x', 500) from generate_series(1, 200000)) to stdout";
    for round in 0..4 {
        let mut client = doorman.connect();
        client.send(&query(sql));
        client.expect_tags("Hddd");
        if round % 2 == 0 {
            client.abort();
        }
    }
    eventually("no COPY is left", || {
        let name = doorman.application_name();
        let sql = format!(
            "select count(*) from pg_stat_activity where application_name like '{name}%' \
             and state = 'active'"
        );
        Postgres::shared().value(&sql) == "0"
    });
    for n in 0..8 {
        assert_eq!(
            doorman.connect().value(&format!("select {n}")),
            n.to_string()
        );
    }
}

fn copies_of_many_clients_do_not_mix(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(2)
        .start();
    at_once(10, |number| {
        let table = table();
        let mut client = doorman.connect();
        for round in 0..10 {
            client.send(&query(&format!("copy {table} from stdin")));
            client.expect_tags("G");
            let row = format!("{round}\tclient {number}\n");
            client.send_all(&[copy_data(row.as_bytes()), copy_done()]);
            assert_eq!(client.reply().commands, ["COPY 1"]);
        }
        let sql = format!("select count(*) from {table} where word = 'client {number}'");
        assert_eq!(client.value(&sql), "10");
    });
}
