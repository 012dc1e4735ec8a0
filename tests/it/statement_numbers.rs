//! What the console tells of prepared statements.
//!
//! Source: docs/admin.md, docs/metrics.md.

use std::collections::BTreeMap;

use crate::common::message::{bind, close, describe, execute, parse};
use crate::common::{Client, Config, Doorman, Postgres, User, eventually, with_one_and_two_shards};

with_one_and_two_shards!(
    statements_are_shown_with_their_pool_and_use,
    statements_that_nobody_has_are_not_shown,
    names_that_are_shown_are_those_on_servers,
    long_texts_are_shown_in_part,
    thousands_of_statements_are_shown,
    parses_are_counted_by_what_becomes_of_them,
    pools_and_servers_count_statements,
    statements_are_shown_in_both_protocols,
);

fn pooler(shards: usize) -> Config {
    Config::new(Postgres::shared()).shards(shards)
}

fn console(doorman: &Doorman) -> Client {
    doorman.login().database("pgdoorman").connect()
}

fn run(name: &str) -> [Vec<u8>; 2] {
    [bind("", name, &[]), execute("", 0)]
}

/// The rows of `SHOW PREPARED_STATEMENTS`, by column.
fn shown(console: &mut Client) -> Vec<BTreeMap<&'static str, String>> {
    const COLUMNS: [&str; 8] = [
        "pool",
        "hash",
        "name",
        "query",
        "count_used",
        "client_names",
        "idle_servers",
        "shards",
    ];
    let rows = console.rows("show prepared_statements");
    let cells = |row: Vec<Option<String>>| COLUMNS.into_iter().zip(row.into_iter().flatten());
    rows.into_iter().map(|row| cells(row).collect()).collect()
}

/// A number of `SHOW SHARDS`, of all shards together.
pub(crate) fn number(console: &mut Client, column: &str) -> u64 {
    console.send(&crate::common::message::query("show shards"));
    let names = console.expect('T').body;
    let names: Vec<_> = names[2..]
        .split(|byte| *byte == 0)
        .filter(|part| part.len() > 1 && part.iter().all(|b| b.is_ascii_lowercase() || *b == b'_'))
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    let at = names.iter().position(|name| name == column).expect(column);
    let rows = console.reply().rows;
    let values = rows
        .iter()
        .map(|row| row[at].as_deref().unwrap().parse::<u64>());
    values.map(Result::unwrap).sum()
}

fn statements_are_shown_with_their_pool_and_use(shards: usize) {
    let users = vec![User::new("app", 2), User::new("other", 2)];
    let doorman = pooler(shards).users(users).start();
    let mut clients: Vec<_> = (0..4).map(|_| doorman.connect()).collect();
    let mut other = doorman.login().user("other").connect();
    for client in &mut clients {
        client.batch(&[parse("a", "select 'often'"), parse("b", "select 'often'")]);
        for _ in 0..3 {
            assert_eq!(client.batch(&run("a")).value(), "often");
        }
    }
    other.batch(&[parse("a", "select 'often'"), parse("", "select 'never'")]);
    assert_eq!(other.batch(&run("a")).value(), "often");
    let mut console = console(&doorman);
    let rows = shown(&mut console);
    let told: Vec<_> = rows
        .iter()
        .map(|row| [&*row["pool"], &*row["query"], &*row["count_used"]])
        .collect();
    assert_eq!(
        told,
        [
            ["app@it", "select 'often'", "12"],
            ["other@it", "select 'often'", "1"],
            ["other@it", "select 'never'", "0"]
        ]
    );
    // The names of one shard are told with each of its pools.
    let names: u64 = rows[0]["client_names"].parse().unwrap();
    assert!((8..=9).contains(&names), "{rows:?}");
    let known: usize = rows[0]["shards"].parse().unwrap();
    assert!((1..=shards).contains(&known));
    eventually("servers that have it are idle", || {
        let rows = shown(&mut console);
        rows[..2].iter().all(|row| row["idle_servers"] != "0")
    });
}

fn statements_that_nobody_has_are_not_shown(shards: usize) {
    let doorman = pooler(shards).start();
    let mut console = console(&doorman);
    assert!(shown(&mut console).is_empty());
    let mut clients: Vec<_> = (0..3).map(|_| doorman.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.batch(&[parse("x", "select 1")]).tags, "1Z");
    }
    assert_eq!(shown(&mut console).len(), 1);
    let last = clients.pop().unwrap();
    for client in &mut clients {
        assert_eq!(client.batch(&[close(b'S', "x")]).tags, "3Z");
    }
    assert_eq!(shown(&mut console)[0]["client_names"], "1");
    last.terminate();
    eventually("the statement has gone", || shown(&mut console).is_empty());
}

fn names_that_are_shown_are_those_on_servers(shards: usize) {
    let doorman = pooler(shards).pool_size(1).start();
    let mut client = doorman.connect();
    assert_eq!(client.batch(&[parse("x", "select 77")]).tags, "1Z");
    let row = shown(&mut console(&doorman)).remove(0);
    let name =
        client.value("select name from pg_prepared_statements where statement = 'select 77'");
    assert_eq!(row["name"], name);
    let hash: u64 = row["hash"].parse().unwrap();
    assert!(name.contains(&format!("{hash:016x}")));
}

fn long_texts_are_shown_in_part(shards: usize) {
    let doorman = pooler(shards).start();
    let mut client = doorman.connect();
    let long = format!("select '{}'", "ů".repeat(3000));
    assert_eq!(client.batch(&[parse("x", &long)]).tags, "1Z");
    let text = shown(&mut console(&doorman))
        .remove(0)
        .remove("query")
        .unwrap();
    assert!(text.ends_with("ů…") && text.len() < 1010);
    assert!(long.starts_with(text.trim_end_matches('…')));
}

fn thousands_of_statements_are_shown(shards: usize) {
    let doorman = pooler(shards).start();
    let mut clients: Vec<_> = (0..4).map(|_| doorman.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let parses = (0..1000).map(|n| parse(&format!("s{n}"), &format!("select {number}, {n}")));
        let parses: Vec<_> = parses.collect();
        assert_eq!(client.batch(&parses).tags.len(), 1001);
    }
    let mut consoles: Vec<_> = (0..3).map(|_| console(&doorman)).collect();
    for console in &mut consoles {
        console.send(&crate::common::message::query("show prepared_statements"));
    }
    for console in &mut consoles {
        assert_eq!(console.reply().rows.len(), 4000);
    }
    for client in &mut clients {
        assert_eq!(client.value("select 1"), "1");
    }
}

fn parses_are_counted_by_what_becomes_of_them(shards: usize) {
    let config = pooler(shards).pool_size(1);
    let config = config.pool_key("prepared_statements_cache_size", 2);
    let doorman = config.start();
    let mut clients: Vec<_> = (0..3).map(|_| doorman.connect()).collect();
    let mut console = console(&doorman);
    for client in &mut clients {
        assert_eq!(client.batch(&[parse("x", "select 1")]).tags, "1Z");
    }
    let mut numbers = |columns: &[&str]| {
        let numbers = columns.iter().map(|column| number(&mut console, column));
        numbers.collect::<Vec<_>>()
    };
    let columns = [
        "parses_sent",
        "parses_saved",
        "parses_repeated",
        "statements_evicted",
    ];
    assert_eq!(numbers(&columns), [1, 2, 0, 0]);
    for n in 2..5 {
        let sql = format!("select {n}");
        assert_eq!(clients[0].batch(&[parse("", &sql)]).tags, "1Z");
    }
    assert_eq!(numbers(&columns), [4, 2, 0, 2]);
    assert_eq!(clients[1].batch(&run("x")).value(), "1");
    assert_eq!(numbers(&columns), [4, 2, 1, 3]);
    eventually("the gauges are written", || {
        let [kept, bytes] = *numbers(&["statements", "statement_texts"]) else {
            return false;
        };
        kept >= 2 && bytes >= 2 * 11 && kept <= 2 * shards as u64
    });
}

fn pools_and_servers_count_statements(shards: usize) {
    let doorman = pooler(shards).start();
    let mut client = doorman.connect();
    client.batch(&[parse("a", "select 1"), parse("b", "select 22")]);
    for _ in 0..3 {
        assert_eq!(client.batch(&run("a")).value(), "1");
    }
    let mut console = console(&doorman);
    let numbers = |console: &mut Client| -> Vec<String> {
        let row = console.rows("show pools_memory").remove(0);
        row.into_iter().skip(2).flatten().collect()
    };
    eventually("its pool counts them", || {
        let numbers = numbers(&mut console);
        numbers[0] == "2" && numbers[2] == "2" && numbers[4] == "0"
    });
    let servers = console.rows("show servers");
    let sum = |at: usize| -> u64 {
        let cells = servers.iter().map(|row| row[at].as_deref().unwrap());
        cells.map(|cell| cell.parse::<u64>().unwrap()).sum()
    };
    assert_eq!([sum(12), sum(13), sum(14)], [3, 2, 2], "{servers:?}");
    drop(client);
    eventually("nobody has them", || {
        let numbers = numbers(&mut console);
        numbers[2] == "0" && numbers[3] == "0"
    });
}

fn statements_are_shown_in_both_protocols(shards: usize) {
    let doorman = pooler(shards).start();
    let mut client = doorman.connect();
    client.batch(&[parse("a", "select 1")]);
    let mut console = console(&doorman);
    let simple = console.rows("show prepared_statements");
    assert_eq!(simple.len(), 1);
    console.batch(&[parse("s", "SHOW PREPARED_STATEMENTS")]);
    let reply = console.batch(&[bind("", "s", &[]), describe(b'P', ""), execute("", 0)]);
    assert_eq!((reply.tags.as_str(), reply.rows.len()), ("2TDCZ", 1));
    assert_eq!(reply.rows[0][3], simple[0][3]);
}
