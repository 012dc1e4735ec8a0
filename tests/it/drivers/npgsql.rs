//! The conversations of Npgsql, byte by byte: the driver itself is not packaged for Debian.
//!
//! Owns: what the driver sends in one write, and the answers it insists on.
//! Does not own: sockets and messages (`common`).
//! Invariants: every value is binary, as the driver asks for; a client checks that each is its own.
//!
//! ```text
//!   from the driver's pool   DISCARD ALL │ Parse Bind Describe Execute  Parse Bind …  Sync
//!   begin                    BEGIN       │ Parse Bind Describe Execute                Sync
//!   auto-prepare             Close old     Parse _auto0 Bind _auto0 Describe Execute  Sync
//!   later                                  Bind _auto0 Execute                        Sync
//!   multiplexing             one Sync a command, many commands in one write
//! ```
//!
//! Source: the documentation of Npgsql ("Prepared Statements", "Performance", "Multiplexing",
//! "Batching"), protocol-flow.html.

use super::pooler;
use crate::common::message::{
    close, copy_data, copy_done, describe, execute, message, parse, query, ssl_request, sync, text,
};
use crate::common::{Client, Doorman, Login, Refusal, at_once, eventually, unique};

/// How many clients each test has; the pooler has three servers.
const CLIENTS: usize = 10;
const ROUNDS: i32 = 40;

const INT4: u32 = 23;
const TEXT: u32 = 25;

/// What the driver sends instead of `DISCARD ALL` while it has prepared statements.
const RESET: &str = "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;\
                     SELECT pg_advisory_unlock_all();DISCARD SEQUENCES;DISCARD TEMP";

/// Parse with the types of the parameters.
fn parse_typed(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [text(name), text(sql)].concat();
    body.extend_from_slice(&u16::try_from(types.len()).unwrap().to_be_bytes());
    for oid in types {
        body.extend_from_slice(&oid.to_be_bytes());
    }
    message(b'P', &body)
}

/// Bind with all parameters and results in binary, to the unnamed portal.
fn bind_binary(statement: &str, parameters: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = [text(""), text(statement), vec![0, 1, 0, 1]].concat();
    body.extend_from_slice(&u16::try_from(parameters.len()).unwrap().to_be_bytes());
    for parameter in parameters {
        let length = parameter.map_or(-1, |value| i32::try_from(value.len()).unwrap());
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(parameter.unwrap_or_default());
    }
    body.extend_from_slice(&[0, 1, 0, 1]);
    message(b'B', &body)
}

/// A command that is not prepared: two int4, without a Sync.
fn unprepared(sql: &str, one: i32, two: i32) -> Vec<u8> {
    [
        parse_typed("", sql, &[INT4, INT4]),
        bind_binary("", &[Some(&one.to_be_bytes()), Some(&two.to_be_bytes())]),
        describe(b'P', ""),
        execute("", 0),
    ]
    .concat()
}

/// A prepared command with one int4, without a Sync.
fn prepared(name: &str, value: i32) -> Vec<u8> {
    let bind = bind_binary(name, &[Some(&value.to_be_bytes())]);
    [bind, execute("", 0)].concat()
}

/// The next messages have these tags; the int4 of their rows.
fn numbers(client: &mut Client, tags: &str) -> Vec<i32> {
    let messages = client.expect_tags(tags);
    let rows = messages.iter().filter(|message| message.tag == b'D');
    let first = |columns: Vec<Option<Vec<u8>>>| columns[0].clone().expect("not NULL");
    let number = |bytes: Vec<u8>| i32::from_be_bytes(bytes.try_into().expect("four bytes"));
    rows.map(|row| number(first(row.columns()))).collect()
}

/// SQLSTATE of the error of a command, which may come while it is planned or while it runs.
fn refusal(client: &mut Client) -> String {
    loop {
        let message = client.expect_any(&['1', '2', 'T', 'E']);
        if message.tag == b'E' {
            return message.error_fields().sqlstate;
        }
    }
}

/// The first connection of the driver: asks for encryption, then for the types.
fn connect(doorman: &Doorman) -> Client {
    let mut client = Client::dial(doorman.port());
    client.send(&ssl_request());
    assert_eq!(client.receive_byte(), b'N');
    let login = Login::new(doorman.port()).parameter("client_encoding", "UTF8");
    match login.attempt_on(client) {
        Ok((client, _)) => client,
        Err(Refusal::Closed) => panic!("closed"),
        Err(Refusal::Error(fields)) => panic!("{fields:?}"),
    }
}

const LOAD_TYPES: &str = "SELECT ns.nspname, t.oid, t.typname, t.typtype, t.typnotnull, t.typelem \
    FROM pg_type AS t JOIN pg_namespace AS ns ON ns.oid = t.typnamespace \
    WHERE t.typtype IN ('b', 'r', 'm', 'e', 'd') OR t.typname IN ('record', 'void')";
const LOAD_COMPOSITES: &str = "SELECT typ.oid, att.attname, att.atttypid FROM pg_type AS typ \
    JOIN pg_class AS cls ON cls.oid = typ.typrelid \
    JOIN pg_attribute AS att ON att.attrelid = typ.typrelid \
    WHERE typ.typtype = 'c' AND cls.relkind = 'c' AND att.attnum > 0 ORDER BY typ.oid";
const LOAD_ENUMS: &str = "SELECT pg_type.oid, enumlabel FROM pg_enum \
    JOIN pg_type ON pg_type.oid = enumtypid ORDER BY oid, enumsortorder";

#[test]
fn npgsql_loads_its_types_at_connect() {
    let doorman = pooler();
    at_once(CLIENTS, |_| {
        let mut client = connect(&doorman);
        for _ in 0..3 {
            let load = ["SELECT version();", LOAD_TYPES, LOAD_COMPOSITES, LOAD_ENUMS];
            // Four queries in one write.
            client.send_all(&load.map(query));
            assert!(client.reply().value().starts_with("PostgreSQL"));
            let types = client.reply();
            let has = |name: &str| types.rows.iter().any(|row| row[2].as_deref() == Some(name));
            assert!(has("int4") && has("_text") && has("record"));
            assert_eq!(client.reply().status, 'I');
            assert_eq!(client.reply().status, 'I');
            // Older ones: the same as one batch.
            let each = |sql: &str| {
                let bind = message(b'B', &[0; 8]);
                [parse("", sql), bind, describe(b'P', ""), execute("", 0)].concat()
            };
            client.send_all(&[load.map(each).concat(), sync()]);
            let reply = client.reply();
            assert!(reply.errors.is_empty(), "{:?}", reply.errors);
            // Other tests make types at the same time, so there may be fewer in all than just now.
            let has = |name: &str| {
                reply
                    .rows
                    .iter()
                    .any(|row| row.iter().flatten().any(|one| one == name))
            };
            assert!(has("int4") && has("record"));
            assert_eq!(reply.commands.len(), 4);
        }
    });
}

#[test]
fn npgsql_gets_the_answers_of_its_batches() {
    let doorman = pooler();
    at_once(CLIENTS, |number| {
        let mut client = connect(&doorman);
        let own = i32::try_from(number).unwrap();
        for round in 0..ROUNDS {
            let batch: Vec<_> = (0..8)
                .map(|step| unprepared(&format!("SELECT $1 * 10 + $2 + {step} * 1000"), own, round))
                .collect();
            client.send_all(&[batch.concat(), sync()]);
            let got = numbers(&mut client, &("12TDC".repeat(8) + "Z"));
            let wanted: Vec<_> = (0..8).map(|step| own * 10 + round + step * 1000).collect();
            assert_eq!(got, wanted);
        }
        // An error takes the rest of the batch along.
        for _ in 0..ROUNDS / 4 {
            let batch = [
                unprepared("SELECT $1 + $2", own, 1),
                unprepared("SELECT $1 / $2", own, 0),
                unprepared("SELECT $1 - $2", own, 1),
                sync(),
                unprepared("SELECT $1 * $2", own, 2),
                sync(),
            ];
            client.send_all(&batch);
            assert_eq!(numbers(&mut client, "12TDC"), [own + 1]);
            assert_eq!(refusal(&mut client), "22012");
            client.expect('Z');
            assert_eq!(numbers(&mut client, "12TDCZ"), [own * 2]);
        }
    });
}

#[test]
fn npgsql_multiplexes_commands_with_a_sync_each() {
    let doorman = pooler();
    at_once(CLIENTS, |number| {
        let mut client = connect(&doorman);
        let own = i32::try_from(number).unwrap();
        for round in 0..ROUNDS {
            // Commands of several users of one connection, an error among them.
            let commands: Vec<_> = (0..12)
                .map(|step| {
                    let by = i32::from(step != 5);
                    let command = unprepared("SELECT 1000 * $1 / $2", own + step + round, by);
                    [command, sync()].concat()
                })
                .collect();
            client.send_all(&commands);
            for step in 0..12 {
                if step == 5 {
                    assert_eq!(refusal(&mut client), "22012");
                    client.expect('Z');
                } else {
                    assert_eq!(
                        numbers(&mut client, "12TDCZ"),
                        [1000 * (own + step + round)]
                    );
                }
            }
        }
    });
}

#[test]
fn npgsql_takes_a_connection_of_its_pool_again() {
    let doorman = pooler();
    at_once(CLIENTS, |number| {
        let mut client = connect(&doorman);
        let own = i32::try_from(number).unwrap();
        let name = format!("npgsql {number}");
        for round in 0..ROUNDS {
            let set = format!("SET application_name TO '{name}'");
            client.execute(&set);
            assert_eq!(client.value("SHOW application_name"), name);
            // Without prepared statements, the reset stands before the next command.
            client.send_all(&[
                query("DISCARD ALL"),
                unprepared("SELECT $1 + $2", own, round),
                sync(),
            ]);
            client.expect_tags("CSZ");
            assert_eq!(numbers(&mut client, "12TDCZ"), [own + round]);
            assert_ne!(client.value("SHOW application_name"), name);
            // With a transaction left open.
            client.send_all(&[
                query("BEGIN"),
                unprepared("SELECT $1 - $2", own, round),
                sync(),
            ]);
            client.expect_tags("CZ");
            assert_eq!(numbers(&mut client, "12TDCZ"), [own - round]);
            client.send_all(&[
                query("ROLLBACK"),
                query("DISCARD ALL"),
                unprepared("SELECT $1 * $2", own, round),
                sync(),
            ]);
            client.expect_tags("CZCZ");
            assert_eq!(numbers(&mut client, "12TDCZ"), [own * round]);
        }
        // With prepared statements another reset is used, and they stay.
        client.send_all(&[
            parse_typed("_p1", "SELECT $1 * 2", &[INT4]),
            describe(b'S', "_p1"),
            sync(),
        ]);
        client.expect_tags("1tTZ");
        for round in 0..ROUNDS {
            client.send_all(&[query(RESET), prepared("_p1", round), sync()]);
            client.expect_tags("CCCCTDCCCZ");
            assert_eq!(numbers(&mut client, "2DCZ"), [round * 2]);
        }
    });
}

#[test]
fn npgsql_prepares_by_itself_what_it_runs_often() {
    let doorman = pooler();
    at_once(CLIENTS, |number| {
        let mut client = connect(&doorman);
        // Two names for three texts: the one used longest ago is replaced.
        let texts: Vec<_> = (0..3)
            .map(|index| format!("SELECT $1 + {number} * 1000 + {index}"))
            .collect();
        let mut names = [None, None];
        for round in 0..ROUNDS {
            let wanted = round as usize % 3;
            let value = round * 7;
            let result = value + i32::try_from(number * 1000 + wanted).unwrap();
            let slot = names.iter().position(|text| *text == Some(wanted));
            // Each text runs twice: when it gets its name, and when it has it.
            let slot = slot.unwrap_or_else(|| {
                let slot = round as usize % 2;
                let name = format!("_auto{slot}");
                let define = parse_typed(&name, &texts[wanted], &[INT4]);
                let bind = bind_binary(&name, &[Some(&value.to_be_bytes())]);
                let run = [define, bind, describe(b'P', ""), execute("", 0), sync()].concat();
                if names[slot].is_some() {
                    client.send_all(&[close(b'S', &name), run]);
                    assert_eq!(numbers(&mut client, "312TDCZ"), [result]);
                } else {
                    client.send(&run);
                    assert_eq!(numbers(&mut client, "12TDCZ"), [result]);
                }
                names[slot] = Some(wanted);
                slot
            });
            let name = format!("_auto{slot}");
            client.send_all(&[prepared(&name, value), prepared(&name, value + 1), sync()]);
            assert_eq!(numbers(&mut client, "2DC2DCZ"), [result, result + 1]);
        }
        // A prepared batch with an error in the middle, and with a Sync behind each command.
        let name = "_p1";
        client.send_all(&[
            parse_typed(name, "SELECT 100 / $1", &[INT4]),
            describe(b'S', name),
            sync(),
        ]);
        client.expect_tags("1tTZ");
        client.send_all(&[
            prepared(name, 4),
            prepared(name, 0),
            prepared(name, 5),
            sync(),
        ]);
        assert_eq!(numbers(&mut client, "2DC"), [25]);
        assert_eq!(refusal(&mut client), "22012");
        client.expect('Z');
        client.send_all(&[prepared(name, 0), sync(), prepared(name, 5), sync()]);
        assert_eq!(refusal(&mut client), "22012");
        assert_eq!(numbers(&mut client, "Z2DCZ"), [20]);
        client.send_all(&[close(b'S', name), close(b'S', "_auto0"), sync()]);
        client.expect_tags("33Z");
        client.send_all(&[prepared(name, 5), sync()]);
        assert_eq!(refusal(&mut client), "26000");
        client.expect('Z');
    });
}

#[test]
fn npgsql_keeps_transactions_and_savepoints() {
    let doorman = pooler();
    at_once(CLIENTS, |number| {
        let mut client = connect(&doorman);
        let own = i32::try_from(number).unwrap();
        let table = unique("npgsql");
        client.execute(&format!("CREATE TABLE {table} (n int, word text)"));
        let insert = format!("INSERT INTO {table} VALUES ($1 + $2)");
        for round in 0..ROUNDS / 4 {
            client.send_all(&[
                query("BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED"),
                unprepared(&insert, own, round),
                sync(),
            ]);
            client.expect_tags("CZ12nCZ");
            client.send_all(&[
                query("SAVEPOINT here"),
                unprepared("SELECT $1 / $2", own, 0),
                sync(),
            ]);
            client.expect_tags("CZ");
            assert_eq!(refusal(&mut client), "22012");
            client.expect('Z');
            assert_eq!(client.query("ROLLBACK TO SAVEPOINT here").status, 'T');
            let end = ["COMMIT", "ROLLBACK"][round as usize % 2];
            assert_eq!(client.query(end).status, 'I');
        }
        let count = format!("SELECT count(*)::int FROM {table} WHERE $1 < $2");
        client.send_all(&[unprepared(&count, 1, 2), sync()]);
        assert_eq!(numbers(&mut client, "12TDCZ"), [ROUNDS / 8]);
        // A binary import.
        client.send(&query(&format!("COPY {table} FROM STDIN (FORMAT BINARY)")));
        client.expect('G');
        let row = [&[0, 2, 0, 0, 0, 4][..], &own.to_be_bytes(), &[0xff; 4]].concat();
        let header = [&b"PGCOPY\n\xff\r\n\0"[..], &[0; 8]].concat();
        client.send_all(&[
            copy_data(&header),
            copy_data(&row.repeat(100)),
            copy_data(&[0xff; 2]),
        ]);
        client.send(&copy_done());
        client.expect_tags("CZ");
        client.send_all(&[unprepared(&count, 1, 2), sync()]);
        assert_eq!(numbers(&mut client, "12TDCZ"), [ROUNDS / 8 + 100]);
        client.execute(&format!("DROP TABLE {table}"));
    });
}

#[test]
fn npgsql_passes_types_and_large_values() {
    let doorman = pooler();
    at_once(CLIENTS, |number| {
        let mut client = connect(&doorman);
        // jsonb, bytea, timestamptz, int4[], NULL: as the driver writes them.
        let jsonb = [&[1][..], format!("{{\"n\": {number}}}").as_bytes()].concat();
        let bytea = [0, number as u8, 255, b'\\'];
        let time = 762_518_096_789_012_i64.to_be_bytes();
        let array = [
            [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 23, 0, 0, 0, 2, 0, 0, 0, 1].as_slice(),
            &[0, 0, 0, 4, 0, 0, 0, number as u8, 255, 255, 255, 255],
        ]
        .concat();
        let given = [
            Some(&jsonb[..]),
            Some(&bytea),
            Some(&time),
            Some(&array),
            None,
        ];
        let types = [3802, 17, 1184, 1007, TEXT];
        client.send_all(&[
            parse_typed("_p1", "SELECT $1, $2, $3, $4, $5", &types),
            sync(),
        ]);
        client.expect_tags("1Z");
        for _ in 0..ROUNDS / 4 {
            client.send_all(&[bind_binary("_p1", &given), execute("", 0), sync()]);
            let row = &client.expect_tags("2DCZ")[1];
            let wanted: Vec<_> = given
                .iter()
                .map(|value| value.map(<[u8]>::to_vec))
                .collect();
            assert_eq!(row.columns(), wanted);
        }
        for size in [10, 9_000, 70_000, 1_500_000] {
            let value = vec![b'a' + number as u8; size];
            client.send_all(&[
                parse_typed("", "SELECT $1", &[TEXT]),
                bind_binary("", &[Some(&value)]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ]);
            let row = &client.expect_tags("12TDCZ")[3];
            assert!(row.columns() == [Some(value)], "{size} bytes");
        }
        let rows = "SELECT n FROM generate_series($1, $2) n";
        client.send_all(&[unprepared(rows, 1, 5000), sync()]);
        let got = numbers(&mut client, &format!("12T{}CZ", "D".repeat(5000)));
        assert!(got.into_iter().eq(1..=5000));
    });
}

#[test]
fn npgsql_cancels_its_own_command() {
    let doorman = pooler();
    at_once(CLIENTS, |number| {
        let mut client = connect(&doorman);
        let key = client.key.clone();
        // In a transaction, so that the request finds a server.
        assert_eq!(client.query("BEGIN").status, 'T');
        client.send_all(&[unprepared("SELECT $1 + $2, pg_sleep(30)", 1, 1), sync()]);
        client.set_deadline(std::time::Duration::from_millis(300));
        let mut messages = Vec::new();
        eventually("the command is cancelled", || {
            let mut canceller = Client::dial(doorman.port());
            let body = [&80_877_102_u32.to_be_bytes()[..], &key].concat();
            canceller.send(&crate::common::message::packet(&body));
            // The driver waits for the close.
            assert!(canceller.is_closed());
            while let Ok(message) = client.try_receive() {
                messages.push(message);
                if messages.last().is_some_and(|message| message.tag == b'Z') {
                    return true;
                }
            }
            false
        });
        let error = messages.iter().find(|message| message.tag == b'E');
        assert_eq!(error.expect("an error").error_fields().sqlstate, "57014");
        client.set_deadline(crate::common::DEADLINE);
        assert_eq!(client.query("ROLLBACK").status, 'I');
        assert_eq!(
            client.value(&format!("SELECT {number}")),
            number.to_string()
        );
    });
}
