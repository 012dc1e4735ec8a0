//! sqlx: its cache of statements and its pool.
//!
//! Owns: the clients and what each of them expects.
//!
//! The driver is the crates sqlx-core and sqlx-postgres; the crate sqlx would only give them
//! shorter names.
//!
//! Source: the documentation of sqlx (`PgConnectOptions::statement_cache_capacity`,
//! `Query::persistent`, `Acquire::begin`).

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::time::Duration;

use sqlx_core::Error;
use sqlx_core::connection::{ConnectOptions, Connection};
use sqlx_core::query::query;
use sqlx_core::query_scalar::query_scalar;
use sqlx_core::row::Row;
use sqlx_core::types::Json;
use sqlx_postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

use super::super::pooler;
use super::{CLIENTS, ROUNDS, at_once};
use crate::common::postgres::{DATABASE, PASSWORD};

#[test]
fn sqlx_gets_its_own_answers() {
    let doorman = pooler();
    let port = doorman.port();
    at_once(|number| Box::pin(run(port, number)));
    doorman.assert_serves();
}

#[test]
fn a_pool_of_sqlx_above_the_pooler_mixes_nothing() {
    let doorman = pooler();
    let options = options(doorman.port());
    let pool = OnceCell::new();
    let open = || {
        PgPoolOptions::new()
            .max_connections(CLIENTS as u32 - 2)
            .acquire_timeout(Duration::from_secs(60))
            .connect_lazy_with(options.clone())
    };
    at_once(|number| Box::pin(use_pool(pool.get_or_init(open).clone(), number)));
    doorman.assert_serves();
}

fn options(port: u16) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username("app")
        .password(PASSWORD)
        .database(DATABASE)
        .ssl_mode(sqlx_postgres::PgSslMode::Disable)
}

async fn use_pool(pool: PgPool, number: i32) {
    for round in 0..ROUNDS {
        let value = round * 1000 + number;
        let double: i32 = query_scalar("select $1::int4 * 2")
            .bind(value)
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(double, value * 2);
        let mut transaction = pool.begin().await.unwrap();
        let text = format!("select $1::text || ' of {number}'");
        let own: String = query_scalar(&text)
            .bind(round.to_string())
            .fetch_one(&mut *transaction)
            .await
            .unwrap();
        assert_eq!(own, format!("{round} of {number}"));
        if round % 2 == 0 {
            transaction.commit().await.unwrap();
        }
    }
}

async fn run(port: u16, number: i32) {
    let capacity = [100, 5, 0][number as usize % 3];
    let options = options(port).statement_cache_capacity(capacity);
    let mut connection = options.connect().await.unwrap();
    let table = format!("rust_sqlx_{number}");
    let create = format!("create table {table} (n int, word text)");
    execute(&mut connection, &create).await;
    reuse_statements(&mut connection, number).await;
    recover_from_errors(&mut connection).await;
    keep_transactions(&mut connection, &table).await;
    pass_types(&mut connection, number).await;
    pass_large_data(&mut connection, number).await;
    keep_settings(&mut connection, number).await;
    follow_changed_table(&mut connection, &format!("{table}_changing")).await;
    execute(&mut connection, &format!("drop table {table}")).await;
    connection.close().await.unwrap();
}

/// By the simple protocol.
async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx_core::raw_sql::raw_sql(sql)
        .execute(connection)
        .await
        .unwrap();
}

fn sqlstate(error: &Error) -> String {
    let error = error.as_database_error().expect("an error of the server");
    error.code().unwrap_or_default().into_owned()
}

/// More texts than the small caches keep; with and without a name.
async fn reuse_statements(connection: &mut PgConnection, number: i32) {
    for round in 0..ROUNDS {
        for text in 0..8 {
            let sql = format!("select $1::text || ' {text} of {number}'");
            let own: String = query_scalar(&sql)
                .bind(round.to_string())
                .persistent(text % 2 == 0)
                .fetch_one(&mut *connection)
                .await
                .unwrap();
            assert_eq!(own, format!("{round} {text} of {number}"));
        }
        let shared: i32 = query_scalar("select $1::int4 + 1")
            .bind(number)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(shared, number + 1);
        connection.ping().await.unwrap();
    }
}

async fn recover_from_errors(connection: &mut PgConnection) {
    for round in 0..ROUNDS / 2 {
        for (sql, by, wanted) in [
            ("select 100 / $1::int4", 0, "22012"),
            ("select * from nowhere_at_all where n = $1", 1, "42P01"),
            ("selec $1", 1, "42601"),
        ] {
            let result = query(sql)
                .bind(by)
                .persistent(round % 2 == 0)
                .execute(&mut *connection)
                .await;
            assert_eq!(sqlstate(&result.unwrap_err()), wanted);
        }
        let fine: i32 = query_scalar("select 100 / $1::int4")
            .bind(4)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(fine, 25);
    }
}

async fn keep_transactions(connection: &mut PgConnection, table: &str) {
    let insert = format!("insert into {table} values ($1, $2)");
    for round in 0..ROUNDS / 4 {
        let mut transaction = connection.begin().await.unwrap();
        let first = query(&insert).bind(1).bind(None::<String>);
        first.execute(&mut *transaction).await.unwrap();
        // A transaction within a transaction is a savepoint.
        let mut inner = transaction.begin().await.unwrap();
        let refused = query("select 1 / $1::int4").bind(0).execute(&mut *inner);
        assert_eq!(sqlstate(&refused.await.unwrap_err()), "22012");
        let refused = query(&insert).bind(1).bind("never").execute(&mut *inner);
        assert_eq!(sqlstate(&refused.await.unwrap_err()), "25P02");
        inner.rollback().await.unwrap();
        let second = query(&insert).bind(2).bind("two");
        second.execute(&mut *transaction).await.unwrap();
        if round % 2 == 0 {
            transaction.commit().await.unwrap();
        }
        // Otherwise dropped: the driver rolls back before the next statement.
    }
    let count = format!("select count(*), count(word) from {table}");
    let row = query(&count).fetch_one(connection).await.unwrap();
    let wanted = i64::from(ROUNDS / 4 + 1) / 2;
    assert_eq!(
        (row.get::<i64, _>(0), row.get::<i64, _>(1)),
        (wanted * 2, wanted)
    );
}

async fn pass_types(connection: &mut PgConnection, number: i32) {
    let bytes = vec![0, number as u8, 255, b'\\'];
    let decimal = "12345678901234567890.0123456789";
    // Types of its own are asked for by the driver, with statements of its own.
    let mood = format!("sqlx_mood_{number}");
    let create = format!("create type {mood} as enum ('fine', 'so so')");
    execute(connection, &create).await;
    let sql = format!(
        "select $1::jsonb, $2::int4[], $3::text::timestamptz at time zone 'UTC' = '2024-02-29 10:00', \
         $4::bytea, $5::text::numeric::text, $6::text, $7::float8, 'fine'::{mood}, array['so so']::{mood}[]"
    );
    for _ in 0..4 {
        let row = query(&sql)
            .bind(Json(BTreeMap::from([("n", number)])))
            .bind(vec![Some(number), None])
            .bind("2024-02-29 12:00+02")
            .bind(&bytes)
            .bind(decimal)
            .bind(None::<String>)
            .bind(0.1)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        let object: Json<BTreeMap<String, i32>> = row.get(0);
        assert_eq!(object.0["n"], number);
        assert_eq!(row.get::<Vec<Option<i32>>, _>(1), [Some(number), None]);
        assert!(row.get::<bool, _>(2));
        assert_eq!(row.get::<Vec<u8>, _>(3), bytes);
        assert_eq!(row.get::<String, _>(4), decimal);
        assert_eq!(row.get::<Option<String>, _>(5), None);
        assert!((row.get::<f64, _>(6) - 0.1).abs() < f64::EPSILON);
        assert_eq!(row.get_unchecked::<String, _>(7), "fine");
        assert_eq!(row.len(), 9);
    }
    execute(connection, &format!("drop type {mood}")).await;
}

async fn pass_large_data(connection: &mut PgConnection, number: i32) {
    for size in [10, 20_000, 1_500_000] {
        let given = number.to_string().repeat(size);
        let got: String = query_scalar("select $1::text")
            .bind(&given)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert!(got == given, "{size} bytes");
    }
    let rows = query("select n, $1::int4 from generate_series(1, 5000) n")
        .bind(number)
        .fetch_all(connection)
        .await
        .unwrap();
    assert_eq!(rows.len(), 5000);
    for (row, wanted) in rows.iter().zip(1..) {
        assert_eq!(
            (row.get::<i32, _>(0), row.get::<i32, _>(1)),
            (wanted, number)
        );
    }
}

async fn keep_settings(connection: &mut PgConnection, number: i32) {
    let set = format!("set application_name to 'sqlx {number}'; set timezone to 'Asia/Tokyo'");
    execute(connection, &set).await;
    for _ in 0..10 {
        let sql = "select current_setting('application_name'), current_setting('timezone')";
        let row = query(sql).fetch_one(&mut *connection).await.unwrap();
        assert_eq!(row.get::<String, _>(0), format!("sqlx {number}"));
        assert_eq!(row.get::<String, _>(1), "Asia/Tokyo");
    }
}

/// The driver keeps a refused statement in its cache, until it is told to forget.
async fn follow_changed_table(connection: &mut PgConnection, table: &str) {
    let create = format!("create table {table} (n int); insert into {table} values (7)");
    execute(connection, &create).await;
    let sql = format!("select * from {table}");
    for columns in 1..4 {
        let mut refused = 0;
        for _ in 0..12 {
            match query(&sql).fetch_one(&mut *connection).await {
                Ok(row) => {
                    assert_eq!(row.get::<i32, _>(0), 7);
                    assert_eq!(row.len(), columns);
                }
                Err(error) => {
                    assert_eq!(sqlstate(&error), "0A000");
                    refused += 1;
                    connection.clear_cached_statements().await.unwrap();
                }
            }
        }
        assert!(refused <= 1, "refused {refused} times");
        let alter = format!("alter table {table} add c{columns} int");
        execute(connection, &alter).await;
    }
    execute(connection, &format!("drop table {table}")).await;
}
