//! What the console and the metrics tell of clients, servers and pools that are at work.
//!
//! Source: docs/admin.md, docs/metrics.md.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::common::{
    Client, Config, Doorman, Postgres, at_once, eventually, message, port, with_one_and_two_shards,
};

with_one_and_two_shards!(
    work_is_counted_once_over_all_shards,
    waits_are_measured_while_they_last,
    clients_are_told_with_what_they_do,
    servers_are_told_with_what_they_do,
    lists_and_connections_have_everybody,
    many_clients_are_shown_page_by_page,
    sockets_are_those_of_the_kernel,
    queries_of_other_exporters_are_answered,
    numbers_survive_a_reload_and_vanish_with_their_pool,
    metrics_and_console_agree,
    dashboards_and_alerts_name_what_there_is,
);

fn config(shards: usize) -> Config {
    Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(2 * shards)
}

fn console(doorman: &Doorman) -> Client {
    doorman
        .login()
        .database("pgbouncer")
        .user("admin")
        .connect()
}

/// The rows of a result, by the names of its columns.
pub(crate) fn show(client: &mut Client, what: &str) -> Vec<BTreeMap<String, String>> {
    client.send(&message::query(&format!("show {what}")));
    let body = client.expect('T').body;
    let mut names = Vec::new();
    let mut rest = &body[2..];
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == 0).unwrap();
        names.push(String::from_utf8(rest[..end].to_vec()).unwrap());
        rest = &rest[end + 19..];
    }
    let rows = client.reply().rows;
    let row = |row: Vec<Option<String>>| {
        assert_eq!(row.len(), names.len());
        let values = row.into_iter().map(|value| value.expect("no NULL"));
        names.iter().cloned().zip(values).collect()
    };
    rows.into_iter().map(row).collect()
}

fn number(row: &BTreeMap<String, String>, column: &str) -> u64 {
    let value = row
        .get(column)
        .unwrap_or_else(|| panic!("{column} in {row:?}"));
    value
        .parse()
        .unwrap_or_else(|_| panic!("{column} is {value}"))
}

fn work_is_counted_once_over_all_shards(shards: usize) {
    let doorman = config(shards).start();
    at_once(4, |_| {
        let mut client = doorman.connect();
        client.execute("begin");
        client.execute("select pg_sleep(0.02)");
        client.execute("commit");
        for _ in 0..7 {
            client.execute("select 1");
        }
        let batch = [
            message::unnamed("select 2", &[]),
            message::sync(),
            message::unnamed("select 3", &[]),
        ];
        client.send_all(&batch);
        client.send(&message::sync());
        client.reply();
        client.reply();
    });
    let mut console = console(&doorman);
    let stats = show(&mut console, "stats").remove(0);
    assert_eq!(number(&stats, "total_query_count"), 4 * 12);
    assert_eq!(number(&stats, "total_xact_count"), 4 * 10);
    assert_eq!(number(&stats, "total_errors"), 0);
    // What each query sends and gets: more than nothing, and less than a page.
    for bytes in ["total_received", "total_sent"] {
        assert!(
            (4 * 12 * 10..4 * 12 * 300).contains(&number(&stats, bytes)),
            "{stats:?}"
        );
    }
    let (queries, transactions) = (
        number(&stats, "total_query_time"),
        number(&stats, "total_xact_time"),
    );
    assert!(
        queries >= 4 * 20_000 && transactions >= queries,
        "{stats:?}"
    );
    let extended = show(&mut console, "pools_extended").remove(0);
    assert!(number(&extended, "query_0.99") >= 19_000, "{extended:?}");
    assert!(
        number(&extended, "transaction_0.99") >= 19_000,
        "{extended:?}"
    );
    assert!(number(&extended, "query_0.5") <= number(&extended, "query_0.99"));
    assert_eq!(extended["bytes_sent"], stats["total_sent"]);
    let totals = show(&mut console, "stats_totals").remove(0);
    assert_eq!(totals["total_xact_count"], "40");
    assert!(!totals.contains_key("avg_recv"));
    assert!(show(&mut console, "stats_averages")[0].contains_key("avg_recv"));
    eventually("the clients have gone", || {
        let pool = show(&mut console, "pools").remove(0);
        let clients = ["cl_idle", "cl_active", "cl_waiting", "sv_active"];
        clients.iter().all(|column| number(&pool, column) == 0)
    });
}

fn waits_are_measured_while_they_last(shards: usize) {
    let doorman = config(shards).general("query_wait_timeout", "1s").start();
    let mut held = doorman.hold_servers(2 * shards);
    let mut console = console(&doorman);
    let before = show(&mut console, "stats").remove(0);
    let mut client = doorman.connect();
    client.send(&message::query("select 1"));
    eventually("the wait is seen", || {
        let pool = show(&mut console, "pools").remove(0);
        let waited = 1_000_000 * number(&pool, "maxwait") + number(&pool, "maxwait_us");
        assert_eq!(number(&pool, "cl_active"), 2 * shards as u64);
        number(&pool, "cl_waiting") == 1 && waited > 100_000
    });
    assert_eq!(client.expect('E').error_fields().sqlstate, "53300");
    eventually("the wait is over", || {
        let pool = show(&mut console, "pools").remove(0);
        number(&pool, "cl_waiting") == 0 && number(&pool, "maxwait_us") == 0
    });
    let after = show(&mut console, "stats").remove(0);
    let errors = |stats| number(stats, "total_errors");
    assert_eq!(errors(&after), errors(&before) + 1);
    let mut client = doorman.connect();
    client.send(&message::query("select 1"));
    eventually("another one waits", || {
        let pool = show(&mut console, "pools").remove(0);
        number(&pool, "maxwait_us") > 50_000
    });
    held[0].execute("commit");
    // It waits for the server of one shard, wherever it is.
    held.iter_mut()
        .skip(1)
        .for_each(|client| client.execute("commit"));
    assert_eq!(client.reply().value(), "1");
    let waited = number(&show(&mut console, "stats")[0], "total_wait_time");
    assert!(waited > number(&after, "total_wait_time") + 40_000);
}

fn clients_are_told_with_what_they_do(shards: usize) {
    let doorman = config(shards).start();
    let mut console = console(&doorman);
    let name = "who asks \u{17e}";
    let login = doorman.login().parameter("application_name", name);
    let mut clients: Vec<_> = (0..4 * shards).map(|_| login.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        for _ in 0..number {
            client.execute("select 1");
        }
    }
    clients[1].execute("begin");
    assert_eq!(clients[2].query("select nothing").sqlstate(), "42703");
    let rows = show(&mut console, "clients");
    assert_eq!(rows.len(), clients.len() + 1);
    let mut on = vec![0; shards];
    for (index, client) in clients.iter().enumerate() {
        let id = u32::from_be_bytes(client.key[..4].try_into().unwrap());
        let id = format!("0x{id:08X}");
        let row = rows.iter().find(|row| row["client_id"] == id).unwrap();
        let local = client.writer().local_addr().unwrap().to_string();
        for (column, expected) in [
            ("database", "it"),
            ("user", "app"),
            ("application_name", name),
            ("addr", local.as_str()),
            ("tls", "false"),
            ("state", if index == 1 { "active" } else { "idle" }),
            ("wait", if index == 1 { "read" } else { "idle" }),
            ("error_count", if index == 2 { "1" } else { "0" }),
        ] {
            assert_eq!(row[column], expected, "{column}");
        }
        let extra = u64::from(index == 1 || index == 2);
        assert_eq!(number(row, "query_count"), index as u64 + extra);
        assert!(number(row, "age_seconds") < 100);
        on[number(row, "shard") as usize] += 1;
    }
    assert!(on.iter().all(|count| *count > 0), "{on:?}");
    let own = rows
        .iter()
        .find(|row| row["database"] == "pgbouncer")
        .unwrap();
    assert_eq!(own["user"], "admin");
}

fn servers_are_told_with_what_they_do(shards: usize) {
    let doorman = config(shards).start();
    let login = doorman.login().parameter("application_name", "worker");
    let mut client = login.connect();
    client.execute("begin");
    let pid = client.backend_pid();
    let mut other = login.connect();
    for _ in 0..4 {
        other.execute("select 1");
    }
    let pids = [pid.clone(), other.backend_pid()];
    let mut console = console(&doorman);
    let rows = show(&mut console, "servers");
    assert!((2..=2 * shards).contains(&rows.len()));
    for pid in &pids {
        assert!(rows.iter().any(|row| row["server_process_id"] == *pid));
    }
    for row in &rows {
        let is_busy = row["server_process_id"] == pid;
        assert_eq!(row["state"], if is_busy { "active" } else { "idle" });
        assert_eq!(
            (row["database_name"].as_str(), row["user"].as_str()),
            ("it", "app")
        );
        assert!(number(row, "shard") < shards as u64);
    }
    let busy = rows
        .iter()
        .find(|row| row["server_process_id"] == pid)
        .unwrap();
    assert_eq!(busy["application_name"], "worker");
    assert!(number(busy, "bytes_sent") > 10 && number(busy, "bytes_received") > 10);
    let queries: u64 = rows.iter().map(|row| number(row, "query_count")).sum();
    assert_eq!(queries, 7);
    client.execute("commit");
    eventually("it is idle", || {
        show(&mut console, "servers")
            .iter()
            .all(|row| row["state"] == "idle")
    });
}

fn lists_and_connections_have_everybody(shards: usize) {
    let doorman = config(shards).start();
    let mut console = console(&doorman);
    let mut clients: Vec<_> = (0..3).map(|_| doorman.connect()).collect();
    clients[0].execute("begin");
    let _half = TcpStream::connect(("127.0.0.1", doorman.port())).unwrap();
    eventually("everybody is counted", || {
        let rows = show(&mut console, "lists");
        let item = |name: &str| {
            let row = rows.iter().find(|row| row["list"] == name).unwrap();
            number(row, "items")
        };
        let clients = ["free_clients", "used_clients", "login_clients"].map(item);
        clients == [3, 1, 1] && item("pools") == 2 && item("used_servers") == 1
    });
    let refused = doorman.login().user("nobody").refusal();
    assert_eq!(refused.sqlstate(), "3D000");
    let connections = show(&mut console, "connections").remove(0);
    assert_eq!(number(&connections, "plain"), 4);
    // The first is the test that waits for the start.
    assert!(number(&connections, "errors") >= 2);
    let all = number(&connections, "plain") + number(&connections, "errors");
    assert_eq!(number(&connections, "total"), all + 1);
}

fn many_clients_are_shown_page_by_page(shards: usize) {
    const CLIENTS: usize = 1300;
    let doorman = config(shards).start();
    let mut console = console(&doorman);
    let _clients: Vec<_> = (0..CLIENTS).map(|_| doorman.connect()).collect();
    let rows = show(&mut console, "clients");
    assert_eq!(rows.len(), CLIENTS + 1);
    let mut ids: Vec<_> = rows.iter().map(|row| &row["client_id"]).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), CLIENTS + 1);
}

fn sockets_are_those_of_the_kernel(shards: usize) {
    let doorman = config(shards).start();
    let mut client = doorman.connect();
    client.execute("select 1");
    let row = console(&doorman).rows("show sockets").remove(0);
    assert_eq!(row.len(), 34);
    let number = |at: usize| row[at].as_ref().unwrap().parse::<u64>().unwrap();
    // The client, the console and a server; the listening sockets.
    assert!(number(0) >= 3, "{row:?}");
    assert_eq!(number(9), shards as u64, "{row:?}");
}

fn queries_of_other_exporters_are_answered(shards: usize) {
    let doorman = config(shards).start();
    doorman.connect().execute("select 1");
    let mut console = console(&doorman);
    assert_eq!(console.query(";").tags, "IZ");
    assert!(console.value("SHOW VERSION;").starts_with("PgDoorman"));
    for (what, columns) in [
        (
            "STATS",
            "database total_query_count total_query_time total_received total_sent \
            total_wait_time total_xact_count total_xact_time avg_query_count avg_query_time avg_recv \
            avg_sent avg_wait_time avg_xact_count avg_xact_time",
        ),
        (
            "POOLS",
            "database user cl_active cl_waiting sv_active sv_idle sv_used sv_login maxwait \
            maxwait_us pool_mode",
        ),
        (
            "DATABASES",
            "name host port database force_user pool_size reserve_pool pool_mode \
            max_connections current_connections paused disabled",
        ),
        ("LISTS", "list items"),
        ("CONFIG", "key value default changeable"),
    ] {
        for row in show(&mut console, what) {
            for column in columns.split_whitespace() {
                assert!(row.contains_key(column), "{what}: {column}");
            }
        }
    }
    let config = show(&mut console, "config");
    assert!(config.iter().any(|row| row["key"] == "max_client_conn"));
}

fn numbers_survive_a_reload_and_vanish_with_their_pool(shards: usize) {
    let doorman = config(shards).start();
    let mut console = console(&doorman);
    let mut client = doorman.connect();
    client.execute("select 1");
    doorman.rewrite(config(shards).pool_key("idle_timeout", "77s"));
    console.execute("reload");
    client.execute("select 1");
    let queries = || {
        number(
            &show(&mut self::console(&doorman), "stats")[0],
            "total_query_count",
        )
    };
    assert_eq!(queries(), 2);
    eventually("the gauges are those of the new pool", || {
        let pool = show(&mut console, "pools").remove(0);
        number(&pool, "cl_idle") == 1 && number(&pool, "sv_idle") == 1
    });
    assert_eq!(show(&mut console, "databases").len(), 1);
    let user = crate::common::User::new("other", 1);
    doorman.rewrite(config(shards).users(vec![user]));
    console.execute("reload");
    eventually("the other pool is there alone", || {
        let rows = show(&mut console, "databases");
        rows.len() == 1 && rows[0]["force_user"] == "other"
    });
}

/// Text at `/metrics`.
pub(crate) fn scrape(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn sample(text: &str, series: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} in\n{text}"))
        .parse()
        .unwrap()
}

fn metrics_and_console_agree(shards: usize) {
    let metrics = port::free();
    let doorman = config(shards).metrics(metrics).start();
    let mut client = doorman.connect();
    client.execute("begin");
    client.execute("select pg_sleep(0.01)");
    client.execute("commit");
    client.execute("begin");
    let mut console = console(&doorman);
    let text = scrape(metrics);
    let of = |name: &str, label: &str| {
        sample(
            &text,
            &format!("pg_doorman_{name}{{{label}user=\"app\",database=\"it\"}}"),
        )
    };
    let same = |value: f64, expected: u64| {
        assert!(
            (value - expected as f64).abs() < 1e-9,
            "{value} is not {expected}\n{text}"
        );
    };
    let stats = show(&mut console, "stats").remove(0);
    same(
        of("pools_queries_count", ""),
        number(&stats, "total_query_count"),
    );
    same(
        of("pools_transactions_count", ""),
        number(&stats, "total_xact_count"),
    );
    same(
        of("pools_bytes", "direction=\"sent\","),
        number(&stats, "total_sent"),
    );
    same(of("pools_clients", "status=\"active\","), 1);
    same(of("pools_clients", "status=\"idle\","), 0);
    same(of("pools_servers", "status=\"active\","), 1);
    same(of("pool_size", ""), 2 * shards as u64);
    same(of("pools_query_duration_seconds_count", ""), 4);
    same(of("pools_query_duration_seconds_bucket", "le=\"+Inf\","), 4);
    same(of("pools_wait_duration_seconds_count", ""), 2);
    assert!(of("pools_transaction_duration_seconds_sum", "") > 0.01);
    assert!(of("pools_queries_percentile", "percentile=\"99\",") > 9.0);
    same(
        sample(&text, "pg_doorman_connection_count{type=\"plain\"}"),
        2,
    );
    assert!(sample(&text, "pg_doorman_sockets{type=\"tcp\"}") >= 2.0);
    assert!(sample(&text, "pg_doorman_total_memory") > 1e6);
    // The same again, compressed.
    let mut stream = TcpStream::connect(("127.0.0.1", metrics)).unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let head = String::from_utf8_lossy(&answer[..300]).to_ascii_lowercase();
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert!(answer.len() < text.len() / 3);
    // A paused pool, and a process that ends.
    client.execute("commit");
    console.execute("pause it");
    let paused = "pg_doorman_pools_paused{user=\"app\",database=\"it\"}";
    assert!(sample(&scrape(metrics), paused) > 0.5);
}

/// The names of metrics in a text, without the endings of histograms.
fn named(text: &str) -> Vec<&str> {
    let is_end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    text.split(is_end)
        .filter(|word| word.starts_with("pg_doorman_"))
        .map(|word| {
            let stem = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| word.strip_suffix(end));
            stem.filter(|stem| stem.ends_with("_seconds"))
                .unwrap_or(word)
        })
        .collect()
}

fn dashboards_and_alerts_name_what_there_is(shards: usize) {
    let metrics = port::free();
    let doorman = config(shards).metrics(metrics).start();
    doorman.connect().execute("select 1");
    let text = scrape(metrics);
    let pages = [
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/docs/monitoring/grafana-dashboard.json"
        )),
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/docs/monitoring/alerts.yml"
        )),
    ];
    for page in pages {
        let names = named(page);
        assert!(names.len() > 5);
        for name in names {
            assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
        }
    }
}
