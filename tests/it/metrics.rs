//! Metrics over HTTP, read as Prometheus reads them.
//!
//! Source: docs/metrics.md; Prometheus documentation, "Exposition formats".

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::common::{
    Client, Config, DEADLINE, Doorman, Postgres, eventually, port, with_one_and_two_shards,
};

with_one_and_two_shards!(
    every_line_is_well_formed_and_documented,
    counters_only_grow,
    open_clients_are_counted,
    an_idle_shard_is_not_busy,
    other_paths_and_methods_are_refused,
    malformed_requests_end_only_that_connection,
    silent_connections_make_room_for_others,
    without_the_section_nobody_listens,
    an_address_in_use_is_told_at_start,
);

/// A pooler whose server is not there, and the port of its metrics.
fn doorman(shards: usize) -> (Doorman, u16) {
    let port = port::free();
    let config = Config::to_port(port::free()).shards(shards).metrics(port);
    (config.start(), port)
}

/// A client that needs no server.
fn console(doorman: &Doorman) -> Client {
    doorman.login().database("pgdoorman").connect()
}

/// All that is answered to `request` until the end of the connection.
fn ask(port: u16, request: &[u8]) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(2 * DEADLINE))?;
    stream.write_all(request)?;
    read_all(stream)
}

fn read_all(mut stream: TcpStream) -> io::Result<String> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Head and body of the answer to a well-formed request.
fn request(port: u16, method: &str, path: &str) -> (String, String) {
    let text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = ask(port, text.as_bytes()).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_ascii_lowercase(), body.to_owned())
}

/// Name and labels of each sample, and its value; checks each line.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let (mut help, mut kind) = ("", "");
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, sentence) = rest.split_once(' ').unwrap();
            assert!(!sentence.is_empty());
            help = name;
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, word) = rest.split_once(' ').unwrap();
            assert_eq!(name, help);
            assert!(["counter", "gauge", "histogram"].contains(&word));
            kind = word;
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let parts = ["_bucket", "_sum", "_count"];
        let stem = parts.iter().find_map(|part| name.strip_suffix(part));
        let stem = stem.filter(|_| kind == "histogram").unwrap_or(name);
        assert_eq!(stem, help, "{line}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        let labels = labels.strip_suffix('}').unwrap();
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (_, value) = label.split_once('=').unwrap();
            assert!(value.len() >= 2 && value.starts_with('"') && value.ends_with('"'));
        }
        let value: f64 = value.parse().unwrap();
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let before = samples.insert(series.to_owned(), value);
        assert!(before.is_none(), "twice: {line}");
    }
    samples
}

pub(crate) fn scrape(port: u16) -> BTreeMap<String, f64> {
    let (head, body) = request(port, "GET", "/metrics");
    assert!(head.starts_with("http/1.1 200 ok"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"));
    assert!(head.contains(&format!("content-length: {}", body.len())));
    parse(&body)
}

/// The value of a number of shard `shard`.
fn of_shard(samples: &BTreeMap<String, f64>, name: &str, shard: usize) -> f64 {
    samples[&format!("pg_doorman_shard_{name}{{shard=\"{shard}\"}}")]
}

fn every_line_is_well_formed_and_documented(shards: usize) {
    let (_doorman, port) = doorman(shards);
    let samples = scrape(port);
    // Also those that have no sample at the moment.
    let (_, text) = request(port, "GET", "/metrics");
    let names: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, _)| name.to_owned())
        .collect();
    let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md"));
    let documented: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `pg_doorman_")?.split_once('`'))
        .map(|(name, _)| format!("pg_doorman_{name}"))
        .collect();
    assert_eq!(names, documented);
    for name in names.iter().filter(|name| name.contains("_shard_")) {
        for shard in 0..shards {
            let start = format!("{name}{{shard=\"{shard}\"");
            assert!(samples.keys().any(|series| series.starts_with(&start)));
        }
        let beyond = format!("{name}{{shard=\"{shards}\"");
        assert!(!samples.keys().any(|series| series.starts_with(&beyond)));
    }
    let version = env!("CARGO_PKG_VERSION");
    let info = format!("pg_doorman_build_info{{version=\"{version}\"}}");
    assert!((samples[&info] - 1.0).abs() < f64::EPSILON);
}

fn counters_only_grow(shards: usize) {
    let port = port::free();
    let config = Config::new(Postgres::shared()).shards(shards).metrics(port);
    let doorman = config.start();
    let mut before = scrape(port);
    let first = before.clone();
    let mut client = doorman.connect();
    eventually("CPU time is counted on all shards", || {
        for _ in 0..100 {
            client.execute("select 1");
        }
        let now = scrape(port);
        for (series, value) in before.iter().filter(|(s, _)| s.contains("_total")) {
            assert!(now[series] >= *value, "{series}");
        }
        before.clone_from(&now);
        let busy = |samples, shard| of_shard(samples, "busy_seconds_total", shard);
        (0..shards).all(|shard| busy(&now, shard) > busy(&first, shard))
    });
}

fn open_clients_are_counted(shards: usize) {
    let (doorman, port) = doorman(shards);
    let count = || scrape(port)["pg_doorman_clients"];
    let is = |expected: f64| (count() - expected).abs() < f64::EPSILON;
    eventually("nobody is there", || is(0.0));
    let clients: Vec<_> = (0..5).map(|_| console(&doorman)).collect();
    assert!(is(5.0));
    drop(clients);
    eventually("nobody is there any more", || is(0.0));
}

fn an_idle_shard_is_not_busy(shards: usize) {
    let (doorman, port) = doorman(shards);
    drop(console(&doorman));
    eventually("the shards rest", || {
        let samples = scrape(port);
        let ratio = |shard| of_shard(&samples, "busy_ratio", shard);
        let used = |shard| of_shard(&samples, "busy_seconds_total", shard);
        (0..shards).all(|shard| ratio(shard) < 0.005 && used(shard) > 0.0)
    });
}

fn other_paths_and_methods_are_refused(shards: usize) {
    let (_doorman, port) = doorman(shards);
    for path in ["/health/live", "/health/ready"] {
        let (head, body) = request(port, "GET", path);
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert_eq!(body, "ok\n");
    }
    assert!(request(port, "GET", "/metrics?x=1").0.contains(" 200 "));
    // Whatever path a monitor has been told, these are the numbers.
    for path in ["/", "/metrics/x", "/%00", "*"] {
        let (head, body) = request(port, "GET", path);
        assert!(head.contains(" 200 "), "{path}");
        assert!(body.contains("pg_doorman_"), "{path}");
    }
    assert!(request(port, "GET", "/health/x").0.contains(" 404 "));
    for path in ["/", "/metrics", "/health/live"] {
        let (head, body) = request(port, "HEAD", path);
        assert!(head.contains(" 200 ") && body.is_empty(), "{path}");
    }
    for method in ["POST", "DELETE", "BREW"] {
        let (head, _) = request(port, method, "/metrics");
        assert!(head.contains(" 405 "), "{method}: {head}");
        assert!(head.contains("allow: get"), "{method}: {head}");
    }
}

fn malformed_requests_end_only_that_connection(shards: usize) {
    let (doorman, port) = doorman(shards);
    let endless = format!(
        "GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    for bytes in [
        &b"\r\n\r\n"[..],
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and more of it",
        endless.as_bytes(),
    ] {
        // An error of the socket is an end, too: what was not read is answered by a reset.
        let attempt = || {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.write_all(bytes)?;
            stream.shutdown(Shutdown::Write)?;
            read_all(stream)
        };
        let answer = attempt().unwrap_or_default();
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    assert!(!scrape(port).is_empty());
    drop(console(&doorman));
}

fn silent_connections_make_room_for_others(shards: usize) {
    let (_doorman, port) = doorman(shards);
    let mut silent: Vec<_> = (0..16)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect();
    // Half a request is no better than none.
    silent[0].write_all(b"GET /metrics HTTP/1.1\r\nHo").unwrap();
    let started = Instant::now();
    assert!(!scrape(port).is_empty());
    let took = started.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    for stream in &mut silent {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        // One that makes room may be reset: what it has sent was not read.
        let is_reset = |error: io::Error| error.kind() == io::ErrorKind::ConnectionReset;
        assert!(end.is_ok() || end.is_err_and(is_reset), "is still open");
    }
}

fn without_the_section_nobody_listens(shards: usize) {
    let port = port::free();
    let config = Config::to_port(port::free()).shards(shards);
    let doorman = config.start();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(!doorman.log().contains("metrics are served"));
}

fn an_address_in_use_is_told_at_start(shards: usize) {
    let holder = TcpListener::bind(("127.0.0.1", port::free())).unwrap();
    let port = holder.local_addr().unwrap().port();
    let config = || Config::to_port(port::free()).shards(shards);
    let doorman = config().start();
    doorman.rewrite_text(&config().metrics(port).text());
    let output = doorman.run_a_second_time();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{told}");
    let expected = format!("cannot listen on [prometheus] 127.0.0.1:{port}");
    assert!(told.contains(&expected), "{told}");
    drop(holder);
}
