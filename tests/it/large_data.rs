//! Large values, long queries, slow readers.

use std::io::Write;
use std::time::Duration;

use crate::common::message::{execute, message, parse, query, sync, text, unnamed};
use crate::common::{
    Client, Config, Postgres, Target, eventually, everywhere, with_one_and_two_shards,
};

everywhere!(
    value_of_a_megabyte_comes_back_whole,
    value_of_64_megabytes_comes_back_whole,
    parameter_of_64_megabytes_arrives_whole,
    query_of_10_megabytes_is_run,
    rows_of_many_sizes_come_back_whole,
    many_columns_come_back_whole,
);

with_one_and_two_shards!(
    reader_that_does_not_read_costs_no_memory,
    writer_that_floods_a_busy_server_costs_no_memory,
    slow_reader_does_not_hinder_others,
);

const MEGABYTE: usize = 1 << 20;

fn patient(target: &Target) -> Client {
    let mut client = target.connect();
    client.set_deadline(crate::common::DEADLINE * 6);
    client
}

fn value_of_a_megabyte_comes_back_whole(target: &Target) {
    let mut client = patient(target);
    for _ in 0..5 {
        let value = client.value("select repeat('0123456789abcdef', 65536)");
        assert!(value == "0123456789abcdef".repeat(65536), "damaged");
    }
}

fn value_of_64_megabytes_comes_back_whole(target: &Target) {
    let mut client = patient(target);
    let value = client.value("select repeat('0123456789abcdef', 4 * 1048576)");
    assert_eq!(value.len(), 64 * MEGABYTE);
    assert!(
        value
            .as_bytes()
            .chunks(16)
            .all(|chunk| chunk == b"0123456789abcdef"),
        "damaged"
    );
    assert_eq!(client.value("select 'after'"), "after");
}

fn parameter_of_64_megabytes_arrives_whole(target: &Target) {
    let mut client = patient(target);
    let value = "0123456789abcdef".repeat(4 * MEGABYTE);
    let sql = "select length($1), md5($1) = md5(repeat('0123456789abcdef', 4 * 1048576))";
    let reply = client.batch(&[unnamed(sql, &[Some(value.as_bytes())])]);
    assert_eq!(
        reply.rows,
        [[Some("67108864".to_owned()), Some("t".to_owned())]]
    );
    assert_eq!(client.value("select 'after'"), "after");
}

fn query_of_10_megabytes_is_run(target: &Target) {
    let mut client = patient(target);
    let literal = "x".repeat(10 * MEGABYTE);
    let sql = format!("select length('{literal}')");
    assert_eq!(client.value(&sql), (10 * MEGABYTE).to_string());
    assert_eq!(
        client.batch(&[unnamed(&sql, &[])]).value(),
        (10 * MEGABYTE).to_string()
    );
}

fn rows_of_many_sizes_come_back_whole(target: &Target) {
    let mut client = patient(target);
    // Sizes around every power of two, where buffers end.
    let sql = "select repeat(chr(97 + n % 26), n) from (select (1 << p) + d n \
               from generate_series(4, 17) p, generate_series(-7, 7) d) sizes order by n";
    let rows = client.rows(sql);
    assert_eq!(rows.len(), 14 * 15);
    for row in rows {
        let value = row[0].as_ref().unwrap();
        let letter = u8::try_from(97 + value.len() % 26).unwrap();
        assert!(
            value.bytes().all(|byte| byte == letter),
            "damaged at {}",
            value.len()
        );
    }
}

fn many_columns_come_back_whole(target: &Target) {
    let mut client = patient(target);
    let columns: Vec<_> = (0..1500).map(|n| n.to_string()).collect();
    let row = &client.rows(&format!("select {}", columns.join(",")))[0];
    assert!(
        row.iter()
            .zip(&columns)
            .all(|(value, column)| value.as_ref() == Some(column))
    );
}

fn reader_that_does_not_read_costs_no_memory(shards: usize) {
    let postgres = Postgres::shared();
    let doorman = Config::new(postgres).shards(shards).pool_size(2).start();
    doorman.assert_serves();
    let before = doorman.resident_bytes();
    let mut client = doorman.connect();
    client.set_deadline(crate::common::DEADLINE * 6);
    client.send(&query(
        "select repeat('x', 1048576) from generate_series(1, 256)",
    ));
    // The server waits for the pooler, so the pooler has taken what it wants to take.
    let mut in_a_row = 0;
    eventually("the server waits for its reader", || {
        in_a_row = if waiting_to_write(postgres, doorman.application_name()) {
            in_a_row + 1
        } else {
            0
        };
        in_a_row > 20
    });
    let growth = doorman.resident_bytes().saturating_sub(before);
    assert!(
        growth < 32 * MEGABYTE,
        "grew by {growth} bytes for a client that does not read"
    );
    client.expect_tags("T");
    for _ in 0..256 {
        let columns = client.expect('D').columns();
        assert!(
            columns[0]
                .as_ref()
                .is_some_and(|value| value.len() == MEGABYTE)
        );
    }
    client.expect_tags("CZ");
    doorman.assert_serves();
}

fn waiting_to_write(postgres: &Postgres, application_name: &str) -> bool {
    let sql = format!(
        "select count(*) from pg_stat_activity where application_name like '{application_name}%' \
         and wait_event = 'ClientWrite'"
    );
    postgres.value(&sql) == "1"
}

fn writer_that_floods_a_busy_server_costs_no_memory(shards: usize) {
    let postgres = Postgres::shared();
    let doorman = Config::new(postgres)
        .shards(shards)
        .pool_size(2 * shards)
        .start();
    doorman.assert_serves();
    let before = doorman.resident_bytes();
    let mut client = doorman.connect();
    let lock = format!("select pg_advisory_xact_lock({})", doorman.port());
    client.execute("begin");
    client.execute(&lock);
    let mut flooder = doorman.connect();
    flooder.send(&query(&lock));
    let mut writer = flooder.writer();
    writer.set_nonblocking(true).unwrap();
    let bytes = query(&format!("select '{}'", "x".repeat(MEGABYTE)));
    let mut sent = 0;
    // Stops when neither the pooler nor the sockets between take more for a while.
    let mut refused_in_a_row = 0;
    while refused_in_a_row < 50 && sent < 256 * MEGABYTE {
        if let Ok(written) = writer.write(&bytes[sent % bytes.len()..]) {
            sent += written;
            refused_in_a_row = 0;
        } else {
            refused_in_a_row += 1;
            std::thread::sleep(Duration::from_millis(4));
        }
    }
    let growth = doorman.resident_bytes().saturating_sub(before);
    assert!(
        growth < 32 * MEGABYTE,
        "grew by {growth} bytes for a client that floods"
    );
    flooder.abort();
    client.abort();
    doorman.assert_serves();
}

fn slow_reader_does_not_hinder_others(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(shards * (shards + 1))
        .start();
    let mut slow: Vec<_> = (0..shards).map(|_| doorman.connect()).collect();
    for client in &mut slow {
        let body = text("select repeat('x', 1000) from generate_series(1, 100000)");
        client.send(&message(b'Q', &body));
    }
    let mut quick = doorman.connect();
    for n in 0..200 {
        assert_eq!(quick.value(&format!("select {n}")), n.to_string());
    }
    for client in &mut slow {
        assert_eq!(client.reply().rows.len(), 100_000);
    }
}

#[test]
fn message_above_the_limit_ends_only_that_client() {
    let doorman = Config::new(Postgres::shared()).start();
    for tag in *b"QPBd" {
        let mut client = doorman.connect();
        client.send(&[&[tag][..], &(1_000_000_000_u32).to_be_bytes()].concat());
        let _ = client.try_send(&vec![b'x'; MEGABYTE]);
        match client.try_receive() {
            Ok(message) => assert_eq!(message.tag, b'E', "{message:?}"),
            Err(error) => assert!(crate::common::client::is_close(&error), "{error}"),
        }
    }
    assert!(doorman.resident_bytes() < 512 * MEGABYTE);
    doorman.assert_serves();
}

#[test]
fn statement_of_a_megabyte_can_be_prepared_in_a_transaction() {
    let doorman = Config::new(Postgres::shared()).start();
    let mut client = doorman.connect();
    let sql = format!("select length('{}')", "x".repeat(MEGABYTE));
    client.execute("begin");
    let bind = crate::common::message::bind("", "large", &[]);
    client.send_all(&[parse("large", &sql), bind, execute("", 0), sync()]);
    assert_eq!(client.reply().value(), MEGABYTE.to_string());
    client.execute("commit");
}
