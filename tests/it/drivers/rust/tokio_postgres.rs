//! tokio-postgres: statements with names, several at once on a connection.
//!
//! Owns: the clients and what each of them expects.
//!
//! Source: the documentation of tokio-postgres ("Pipelining", `Transaction::query_portal`).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio_postgres::types::{Json, ToSql};
use tokio_postgres::{Client, Config, Error, NoTls};

use super::super::pooler;
use super::{ROUNDS, at_once, cancelled};
use crate::common::postgres::{DATABASE, PASSWORD};

#[test]
fn tokio_postgres_gets_its_own_answers() {
    let doorman = pooler();
    let port = doorman.port();
    at_once(|number| Box::pin(run(port, number)));
    doorman.assert_serves();
}

async fn connect(port: u16) -> Client {
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .port(port)
        .user("app")
        .password(PASSWORD)
        .dbname(DATABASE);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn run(port: u16, number: i32) {
    let mut client = connect(port).await;
    let table = format!("rust_tokio_{number}");
    let create = format!("create table {table} (n int, word text)");
    client.batch_execute(&create).await.unwrap();
    reuse_statements(&client, number).await;
    recover_from_errors(&client).await;
    keep_transactions(&mut client, &table).await;
    fetch_in_parts(&mut client, number).await;
    pass_types(&client, number).await;
    pass_large_data(&client, number).await;
    keep_settings(&client, number).await;
    follow_changed_table(&client, &format!("{table}_changing")).await;
    cancel_own_statement(&client).await;
    let drop = format!("drop table {table}");
    client.batch_execute(&drop).await.unwrap();
}

fn sqlstate(error: &Error) -> &str {
    error.code().map_or("", |code| code.code())
}

/// Statements of one connection, all sent before the first answer is read.
async fn reuse_statements(client: &Client, number: i32) {
    for _ in 0..3 {
        let text = format!("select $1::text || ' of {number}'");
        let own = client.prepare(&text).await.unwrap();
        let shared = client.prepare("select $1::int4 * 2").await.unwrap();
        for round in 0..ROUNDS {
            let word = format!("round {round}");
            let value = round * 1000 + number;
            let words: [&(dyn ToSql + Sync); 1] = [&word];
            let values: [&(dyn ToSql + Sync); 1] = [&value];
            let (first, second, third, fourth) = tokio::join!(
                client.query_one(&own, &words),
                client.query_one(&shared, &values),
                client.query_one("select $1::text", &words),
                client.simple_query("select 'simple'"),
            );
            assert_eq!(
                first.unwrap().get::<_, String>(0),
                format!("{word} of {number}")
            );
            assert_eq!(second.unwrap().get::<_, i32>(0), value * 2);
            assert_eq!(third.unwrap().get::<_, String>(0), word);
            assert!(fourth.is_ok());
        }
        // Dropped: the driver closes them on the server, without waiting.
    }
}

async fn recover_from_errors(client: &Client) {
    let divide = client.prepare("select 100 / $1::int4").await.unwrap();
    for _ in 0..ROUNDS / 2 {
        let by: [&(dyn ToSql + Sync); 2] = [&0, &4];
        let (refused, unknown, fine) = tokio::join!(
            client.query_one(&divide, &by[..1]),
            client.prepare("select * from nowhere_at_all"),
            client.query_one(&divide, &by[1..]),
        );
        assert_eq!(sqlstate(&refused.unwrap_err()), "22012");
        assert_eq!(sqlstate(&unknown.unwrap_err()), "42P01");
        assert_eq!(fine.unwrap().get::<_, i32>(0), 25);
    }
}

async fn keep_transactions(client: &mut Client, table: &str) {
    let insert = format!("insert into {table} values ($1, $2)");
    let insert = client.prepare(&insert).await.unwrap();
    for round in 0..ROUNDS / 4 {
        let mut transaction = client.transaction().await.unwrap();
        let none: Option<&str> = None;
        transaction.execute(&insert, &[&1, &none]).await.unwrap();
        let savepoint = transaction.savepoint("here").await.unwrap();
        let refused = savepoint.query("select 1 / $1::int4", &[&0]).await;
        assert_eq!(sqlstate(&refused.unwrap_err()), "22012");
        let refused = savepoint.execute(&insert, &[&7, &none]).await;
        assert_eq!(sqlstate(&refused.unwrap_err()), "25P02");
        savepoint.rollback().await.unwrap();
        transaction.execute(&insert, &[&2, &"two"]).await.unwrap();
        if round % 2 == 0 {
            transaction.commit().await.unwrap();
        } else {
            // Dropped: the driver rolls back, without waiting.
            drop(transaction);
        }
    }
    let count = format!("select count(*), count(word) from {table}");
    let row = client.query_one(&count, &[]).await.unwrap();
    let wanted = i64::from(ROUNDS / 4);
    assert_eq!(row.get::<_, i64>(0), (wanted + 1) / 2 * 2);
    assert_eq!(row.get::<_, i64>(1), (wanted + 1) / 2);
}

/// Takes the rows of two portals in turn.
async fn fetch_in_parts(client: &mut Client, number: i32) {
    let rows = client
        .prepare("select n, $1::int4 from generate_series(1, 500) n")
        .await
        .unwrap();
    let transaction = client.transaction().await.unwrap();
    let one = transaction.bind(&rows, &[&number]).await.unwrap();
    let two = transaction.bind(&rows, &[&-number]).await.unwrap();
    for part in 0..5 {
        for (portal, own) in [(&one, number), (&two, -number)] {
            let part_rows = transaction.query_portal(portal, 100).await.unwrap();
            assert_eq!(part_rows.len(), 100);
            for (row, wanted) in part_rows.iter().zip(part * 100 + 1..) {
                assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (wanted, own));
            }
        }
    }
    transaction.commit().await.unwrap();
}

async fn pass_types(client: &Client, number: i32) {
    // A type that the driver has to ask for: it prepares statements of its own for that.
    let create = format!("create type rust_mood_{number} as enum ('fine', 'so so')");
    client.batch_execute(&create).await.unwrap();
    let sql = format!(
        "select $1::jsonb, $2::int4[], $3::timestamptz, $4::bytea, $5::text::numeric::text, \
         $6::text, $7::float8, array['fine']::rust_mood_{number}[], 'fine'::rust_mood_{number}::text"
    );
    let types = client.prepare(&sql).await.unwrap();
    assert_eq!(
        types.columns()[7].type_().name(),
        format!("_rust_mood_{number}")
    );
    let object = Json(BTreeMap::from([("n".to_owned(), number)]));
    let array = vec![Some(number), None, Some(3)];
    let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_709_210_096_789_012);
    let bytes = vec![0, number as u8, 255, b'\\'];
    let decimal = "12345678901234567890.0123456789";
    let null: Option<String> = None;
    for _ in 0..5 {
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&object, &array, &at, &bytes, &decimal, &null, &0.1];
        let row = client.query_one(&types, &parameters).await.unwrap();
        assert_eq!(row.get::<_, Json<BTreeMap<String, i32>>>(0).0, object.0);
        assert_eq!(row.get::<_, Vec<Option<i32>>>(1), array);
        assert_eq!(row.get::<_, SystemTime>(2), at);
        assert_eq!(row.get::<_, Vec<u8>>(3), bytes);
        assert_eq!(row.get::<_, String>(4), decimal);
        assert_eq!(row.get::<_, Option<String>>(5), None);
        assert!((row.get::<_, f64>(6) - 0.1).abs() < f64::EPSILON);
        assert_eq!(row.get::<_, String>(8), "fine");
    }
    drop(types);
    let drop = format!("drop type rust_mood_{number}");
    client.batch_execute(&drop).await.unwrap();
}

async fn pass_large_data(client: &Client, number: i32) {
    for size in [10, 20_000, 1_500_000] {
        let given = number.to_string().repeat(size);
        let row = client.query_one("select $1::text", &[&given]).await;
        assert!(row.unwrap().get::<_, String>(0) == given, "{size} bytes");
    }
    let sql = "select n, $1::int4 from generate_series(1, 5000) n";
    let rows = client.query(sql, &[&number]).await.unwrap();
    assert_eq!(rows.len(), 5000);
    for (row, wanted) in rows.iter().zip(1..) {
        assert_eq!(
            (row.get::<_, i32>(0), row.get::<_, i32>(1)),
            (wanted, number)
        );
    }
}

async fn keep_settings(client: &Client, number: i32) {
    let set = format!("set application_name to 'tokio {number}'; set timezone to 'Asia/Tokyo'");
    client.batch_execute(&set).await.unwrap();
    for _ in 0..10 {
        let sql = "select current_setting('application_name'), current_setting('timezone')";
        let row = client.query_one(sql, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), format!("tokio {number}"));
        assert_eq!(row.get::<_, String>(1), "Asia/Tokyo");
    }
}

async fn follow_changed_table(client: &Client, table: &str) {
    let create = format!("create table {table} (n int); insert into {table} values (7)");
    client.batch_execute(&create).await.unwrap();
    let sql = format!("select * from {table}");
    for columns in 1..4 {
        let all = client.prepare(&sql).await.unwrap();
        for _ in 0..12 {
            let row = client.query_one(&all, &[]).await.unwrap();
            assert_eq!((row.len(), row.get::<_, i32>(0)), (columns, 7));
        }
        let alter = format!("alter table {table} add c{columns} int");
        client.batch_execute(&alter).await.unwrap();
        for _ in 0..4 {
            let error = client.query_one(&all, &[]).await.unwrap_err();
            assert_eq!(sqlstate(&error), "0A000");
        }
    }
    let drop = format!("drop table {table}");
    client.batch_execute(&drop).await.unwrap();
}

async fn cancel_own_statement(client: &Client) {
    let token = client.cancel_token();
    let sleep = client.query_one("select pg_sleep(30)", &[]);
    let result = cancelled(sleep, || async { token.cancel_query(NoTls).await.unwrap() }).await;
    assert_eq!(sqlstate(&result.unwrap_err()), "57014");
    // The driver does not wait until a request has had its effect, so the last may come late.
    for _ in 0..5 {
        match client.query_one("select 'after'", &[]).await {
            Ok(row) => return assert_eq!(row.get::<_, String>(0), "after"),
            Err(error) => assert_eq!(sqlstate(&error), "57014"),
        }
    }
    panic!("cancelled again and again");
}
