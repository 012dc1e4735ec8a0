//! Where drivers notice the pooler: the shortest conversations that show it.
//!
//! Owns: what happens today, and what PostgreSQL alone would do.
//! Invariants: a test here fails when its gap is closed; then the test goes, and what the programs
//! of drivers tolerate for its sake (look for "Known gap").
//!
//! Source: protocol-flow.html.

use crate::common::message::{bind, describe, execute, packet, parse, query, sync};
use crate::common::{Client, Config, Doorman, Postgres, unique};

fn pooler(servers: usize) -> Doorman {
    Config::new(Postgres::shared()).pool_size(servers).start()
}

/// Binds and runs.
fn run(name: &str) -> Vec<u8> {
    [bind("", name, &[]), execute("", 0), sync()].concat()
}

/// A table with one row and one column, and the text of a statement about it.
fn table(client: &mut Client) -> (String, String) {
    let table = unique("gap");
    client.execute(&format!("create table {table} (a int)"));
    client.execute(&format!("insert into {table} values (1)"));
    let sql = format!("select * from {table}");
    (table, sql)
}

/// PostgreSQL alone: `cached plan must not change result type`. A driver that was told of one
/// column gets two, or four bytes where it expects eight, and does not know.
#[test]
fn a_statement_of_a_changed_table_has_another_result_on_a_server_new_to_it() {
    let doorman = pooler(2);
    let mut client = doorman.connect();
    let (table, sql) = table(&mut client);
    client.send_all(&[parse("s", &sql), describe(b'S', "s"), run("s")]);
    let told = client.expect_tags("1tT2DCZ");
    assert_eq!(told[2].body[..2], [0, 1]);
    // The server that has the statement, since it was the last in use.
    let mut holder = doorman.connect();
    holder.execute("begin");
    Postgres::shared().sql(&format!("alter table {table} add b int"));
    client.send(&run("s"));
    let got = client.expect_tags("2DCZ");
    assert_eq!(got[1].columns().len(), 2);
    holder.execute("rollback");
    holder.execute(&format!("drop table {table}"));
}

/// PostgreSQL alone: 57014. A driver that asks for a cancel once, as for a time limit of its own,
/// waits for the whole statement if the request came while the statement waited for a server.
#[test]
fn a_cancel_request_of_a_client_without_a_server_is_lost() {
    let doorman = pooler(1);
    let mut holder = doorman.connect();
    holder.execute("begin");
    let mut client = doorman.connect();
    client.send(&query("select 'ran'"));
    let mut canceller = Client::dial(doorman.port());
    let body = [&80_877_102_u32.to_be_bytes()[..], &client.key].concat();
    canceller.send(&packet(&body));
    assert!(canceller.is_closed());
    holder.execute("rollback");
    assert_eq!(client.reply().value(), "ran");
}
