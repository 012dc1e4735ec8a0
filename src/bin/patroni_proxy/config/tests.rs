//! Tests of the configuration file.

use super::*;

const GOOD: &str = r#"
[clusters.c]
hosts = ["http://h:8008"]
[clusters.c.ports.p]
listen = "127.0.0.1:6432"
roles = ["Leader"]
host_port = 5432
"#;

fn read(text: &str) -> Result<Config, String> {
    check(text.parse().unwrap()).map_err(|error| error.0)
}

#[test]
fn what_is_not_set_has_a_default() {
    let config = read(GOOD).unwrap();
    assert_eq!(config.interval, Duration::from_secs(3));
    assert_eq!(config.api.to_string(), "127.0.0.1:8009");
    let port = &config.clusters["c"].ports["p"];
    assert!(port.rule.roles.leader && !port.rule.roles.sync);
    assert_eq!((port.connections_max, port.leader_weight), (0, 100));
    assert_eq!(port.drain, Duration::ZERO);
    assert!(read("[clusters]").unwrap().clusters.is_empty());
}

#[test]
fn each_rule_has_its_text() {
    for (from, to, text) in [
        ("\"http://h:8008\"", "", "Cluster 'c' has no hosts defined"),
        (
            "http://h:8008",
            "ftp://h",
            "Invalid host 'ftp://h'. Only http:// and https:// schemes are allowed",
        ),
        (
            "\"http://h:8008\"",
            "\"http://h\", \"http://H\"",
            "Duplicate host: http://H",
        ),
        ("\"Leader\"", "", "Port 'p' has no roles defined"),
        (
            "Leader",
            "master",
            "Invalid role 'master'. Allowed roles: leader, sync, async, any",
        ),
        (
            "127.0.0.1:6432",
            "localhost:6432",
            "Invalid listen address: localhost:6432",
        ),
    ] {
        assert_eq!(read(&GOOD.replace(from, to)).unwrap_err(), text);
    }
    let second = GOOD.split_once("[clusters.c.ports.p]").unwrap().1;
    let twice = format!("{GOOD}[clusters.c.ports.q]{second}");
    assert_eq!(
        read(&twice).unwrap_err(),
        "Duplicate listen address: 127.0.0.1:6432"
    );
    let missing = read(&GOOD.replace("host_port = 5432", "")).unwrap_err();
    assert!(missing.starts_with("Parse error: "), "{missing}");
    let no_ports = "[clusters.c]\nhosts = [\"http://h\"]\n[clusters.c.ports]";
    assert_eq!(
        read(no_ports).unwrap_err(),
        "Cluster 'c' has no ports defined"
    );
}

const PAGE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/docs/patroni_proxy.md"
));

/// The lists of keys, each with where its tables are in a file.
const PLACES: &[(&str, &[&str])] = &[
    ("", keys::TOP),
    ("clusters.c.", keys::CLUSTER),
    ("clusters.c.tls.", keys::TLS),
    ("clusters.c.ports.p.", keys::PORT),
];

#[test]
fn every_key_is_read() {
    for (place, names) in PLACES {
        for name in *names {
            let mut document = GOOD.parse::<toml::Table>().unwrap();
            let mut table = &mut document;
            for part in place.split_terminator('.') {
                let part = table.entry(part).or_insert(toml::Table::new().into());
                table = part.as_table_mut().unwrap();
            }
            // Nothing may be negative.
            table.insert((*name).to_owned(), toml::Value::Integer(-1));
            let error = check(document).unwrap_err().0;
            assert!(error.contains(&format!("{place}{name}: ")), "{error}");
        }
    }
}

#[test]
fn keys_that_are_not_known_are_named() {
    let text = format!("log = 1\n{GOOD}lag = 1\n[clusters.c.tls]\nca = 1");
    let unknown = read(&text).unwrap().unknown;
    assert_eq!(
        unknown,
        ["log", "clusters.c.tls.ca", "clusters.c.ports.p.lag"]
    );
    assert!(read(GOOD).unwrap().unknown.is_empty());
}

#[test]
fn the_page_describes_every_key_and_no_other() {
    let (_, reference) = PAGE.split_once("## Reference").unwrap();
    let (reference, _) = reference.split_once("\n## ").unwrap();
    let rows = reference
        .lines()
        .filter_map(|line| line.strip_prefix("| `"));
    let mut told: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    let mut known: Vec<&str> = PLACES
        .iter()
        .flat_map(|(_, names)| *names)
        .copied()
        .collect();
    told.sort_unstable();
    known.sort_unstable();
    assert_eq!(told, known);
}
