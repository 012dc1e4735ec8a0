//! What programs and files of version 3.2.4 rely on, and the table that tells of it.
//!
//! Source: docs/compatibility.md.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::command_line::{Workplace, told};
use crate::common::{Client, Config, Postgres, message, port, with_one_and_two_shards};
use crate::statistics::scrape;

with_one_and_two_shards!(
    commands_of_version_3_2_4_are_answered,
    metrics_of_version_3_2_4_are_served,
    queries_of_pgbouncer_exporter_have_their_columns,
);

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
pub(crate) const TOML: &str = include_str!("fixtures/reference.toml");
pub(crate) const YAML: &str = include_str!("fixtures/reference.yaml");

/// A row of the tables: what it is about, what is said of it, and the tests that show it.
struct Row {
    name: String,
    words: String,
    tests: Vec<String>,
}

/// The text between back quotes.
fn quoted(cell: &str) -> Vec<String> {
    let parts = cell.split('`').skip(1).step_by(2);
    parts.map(str::to_owned).collect()
}

/// The rows of the table behind the comment `title`; of all tables, if there is none.
fn rows(title: Option<&str>) -> Vec<Row> {
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/compatibility.md")).unwrap();
    let start = title.map_or(0, |title| {
        page.find(&format!("<!-- {title} -->")).unwrap() + 5
    });
    let end = title
        .and_then(|_| page[start..].find("<!-- "))
        .unwrap_or(page.len() - start);
    let mut rows = Vec::new();
    for line in page[start..][..end]
        .lines()
        .filter(|line| line.starts_with("| `"))
    {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 3, "{line}");
        rows.push(Row {
            name: quoted(cells[0]).remove(0),
            words: cells[1].to_owned(),
            tests: quoted(cells[2]),
        });
    }
    assert!(!rows.is_empty(), "{title:?}");
    rows
}

/// The names of all functions below `directory`.
fn functions(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let named = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("fn "));
            let names = named.filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn each_row_names_tests_that_exist() {
    let mut names = BTreeSet::new();
    for directory in ["src", "tests"] {
        functions(&Path::new(ROOT).join(directory), &mut names);
    }
    for row in rows(None) {
        assert!(!row.tests.is_empty(), "{}", row.name);
        for test in &row.tests {
            assert!(
                names.contains(test),
                "{}: there is no test {test}",
                row.name
            );
        }
        let words = ["same", "better: ", "not yet", "accepted, "];
        let begins = |word: &&str| row.words.starts_with(word);
        assert!(words.iter().any(begins), "{}: {}", row.name, row.words);
    }
}

/// The keys of a table, those of users and pools under the names of their tables.
fn keys(file: &toml::Table) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (section, table) in file {
        let Some(table) = table.as_table() else {
            continue;
        };
        match section.as_str() {
            "pools" => {
                for pool in table.values().filter_map(toml::Value::as_table) {
                    keys.extend(pool.keys().map(|key| format!("pools.{key}")));
                    let users = pool["users"].as_array().into_iter().flatten();
                    for user in users.filter_map(toml::Value::as_table) {
                        keys.extend(user.keys().map(|key| format!("users.{key}")));
                    }
                }
            }
            "general" => keys.extend(table.keys().cloned()),
            other => keys.extend(table.keys().map(|key| format!("{other}.{key}"))),
        }
    }
    keys
}

/// A directory with the files that the reference files name.
pub(crate) fn workplace() -> Workplace {
    let place = Workplace::new();
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        let command = command
            .args(arguments.split(' '))
            .current_dir(place.path(""));
        let output = command.output().expect("openssl is there");
        assert!(output.status.success(), "{}", told(&output));
    };
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout server.key -out server.crt -subj /CN=x -days 9",
    );
    openssl("rsa -in server.key -pubout -out key1.pem");
    std::fs::copy(place.path("server.crt"), place.path("ca.crt")).unwrap();
    let more = "pools:\n  more:\n    users:\n      - {username: m, password: '', pool_size: 1}\n";
    place.write("more.yaml", more);
    place
}

#[test]
fn files_of_version_3_2_4_load_unchanged() {
    let place = workplace();
    for (name, text) in [("reference.toml", TOML), ("reference.yaml", YAML)] {
        place.write(name, text);
        let output = place.run(&["-t", name]);
        let told = told(&output);
        assert_eq!(output.status.code(), Some(0), "{name}: {told}");
        assert!(!told.contains("unknown key"), "{name}: {told}");
        let expected = format!(
            "pg_doorman: the configuration file {name} syntax is ok\n\
             pg_doorman: configuration file {name} test is successful\n"
        );
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
}

#[test]
fn each_key_of_the_table_is_in_the_files_and_the_other_way_round() {
    let mut in_files = keys(&TOML.parse().unwrap());
    // The one that excludes `pg_hba`, and so stands in the other file.
    in_files.insert("hba".to_owned());
    assert!(YAML.contains("\n  hba: ["));
    let tables = ["keys of general", "keys of other tables"];
    let told: BTreeSet<_> = tables
        .iter()
        .flat_map(|title| rows(Some(title)))
        .map(|row| row.name)
        .collect();
    assert_eq!(told, in_files);
    // YAML has them as well.
    for key in in_files {
        let name = key.rsplit('.').next().unwrap();
        assert!(YAML.contains(&format!("{name}:")), "{key}");
    }
}

#[test]
fn each_argument_of_the_table_is_in_the_help() {
    let help = Workplace::new().run(&["--help"]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for row in rows(Some("arguments")) {
        assert!(help.contains(&row.name), "{}", row.name);
    }
    for variable in [
        "CONFIG_FILE",
        "LOG_LEVEL",
        "LOG_FORMAT",
        "NO_COLOR",
        "DAEMON",
        "INHERIT_FD",
    ] {
        assert!(help.contains(&format!("[env: {variable}=")), "{variable}");
    }
}

fn commands_of_version_3_2_4_are_answered(shards: usize) {
    let mut doorman = Config::new(Postgres::shared()).shards(shards).start();
    let mut console = doorman.login().database("pgbouncer").connect();
    let (last, others): (Vec<_>, Vec<_>) = rows(Some("commands"))
        .into_iter()
        .partition(|row| row.name == "SHUTDOWN");
    for row in others {
        for text in [row.name.clone(), format!("{};", row.name.to_lowercase())] {
            let reply = console.query(&text);
            assert!(reply.errors.is_empty(), "{text}: {:?}", reply.errors);
            let word = row.name.split(' ').next().unwrap();
            assert_eq!(reply.commands, [word], "{text}");
        }
    }
    assert_eq!(last.len(), 1);
    assert_eq!(console.query("SHUTDOWN").commands, ["SHUTDOWN"]);
    doorman.wait();
}

fn metrics_of_version_3_2_4_are_served(shards: usize) {
    let port = port::free();
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .metrics(port)
        .start();
    let mut client = doorman.connect();
    for _ in 0..3 {
        let run = [
            message::parse("s", "select 1"),
            message::bind("", "s", &[]),
            message::execute("", 0),
            message::close(b'S', "s"),
            message::sync(),
        ];
        client.batch(&run);
    }
    let text = scrape(port);
    for row in rows(Some("metrics")) {
        let kind = format!("# TYPE {} gauge", row.name);
        assert!(text.lines().any(|line| line == kind), "{kind}");
        let sample = text
            .lines()
            .find(|line| line.starts_with(&format!("{}{{", row.name)));
        for label in quoted(&row.words) {
            let sample = sample.unwrap_or_else(|| panic!("{} has no sample", row.name));
            assert!(sample.contains(&format!("{label}=\"")), "{label}: {sample}");
        }
    }
    let pids = doorman.server_pids(Postgres::shared());
    let of = |what: &str| -> Vec<u64> {
        let name = format!("pg_doorman_servers_prepared_{what}{{");
        let samples: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with(&name))
            .collect();
        assert_eq!(samples.len(), pids.len());
        for pid in &pids {
            let label = format!("backend_pid=\"{pid}\"");
            assert!(samples.iter().any(|line| line.contains(&label)), "{label}");
        }
        let values = samples.iter().map(|line| line.rsplit(' ').next().unwrap());
        values.map(|value| value.parse().unwrap()).collect()
    };
    let (hits, misses) = (
        of("hits").iter().sum::<u64>(),
        of("misses").iter().sum::<u64>(),
    );
    assert_eq!(misses, 1);
    assert!(hits >= 2, "{hits}");
}

/// What the exporter maps of each result: the labels, and the columns that it makes metrics of.
const EXPORTER: &[(&str, &str, &str)] = &[
    (
        "SHOW STATS",
        "database",
        "total_query_count total_query_time total_received total_sent total_wait_time \
         total_xact_count total_xact_time avg_query_count avg_query_time avg_recv avg_sent \
         avg_wait_time avg_xact_count avg_xact_time",
    ),
    (
        "SHOW POOLS",
        "database user pool_mode",
        "cl_active cl_waiting sv_active sv_idle sv_used sv_login maxwait",
    ),
    (
        "SHOW DATABASES",
        "name host port database force_user pool_mode",
        "pool_size reserve_pool max_connections current_connections paused disabled",
    ),
    ("SHOW LISTS", "list", "items"),
];

fn table(console: &mut Client, sql: &str) -> (Vec<String>, Vec<Vec<Option<String>>>) {
    console.send(&message::query(sql));
    let head = console.expect('T').body;
    let mut columns = Vec::new();
    let mut rest = &head[2..];
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        columns.push(String::from_utf8(rest[..end].to_vec()).unwrap());
        rest = &rest[end + 19..];
    }
    (columns, console.reply().rows)
}

fn queries_of_pgbouncer_exporter_have_their_columns(shards: usize) {
    let doorman = Config::new(Postgres::shared()).shards(shards).start();
    doorman.connect().execute("select 1");
    let mut console = doorman.login().database("pgbouncer").connect();
    // It asks this to find out whether somebody is there.
    assert!(console.query(";").errors.is_empty());
    for (sql, labels, numbers) in EXPORTER {
        let (columns, rows) = table(&mut console, sql);
        let place = |name: &str| columns.iter().position(|column| column == name);
        assert!(!rows.is_empty(), "{sql}");
        for label in labels.split_whitespace() {
            assert!(place(label).is_some(), "{sql}: {label}");
        }
        for row in &rows {
            for name in numbers.split_whitespace() {
                let at = place(name).unwrap_or_else(|| panic!("{sql}: {name}"));
                let value = row[at].as_deref().unwrap();
                assert!(value.parse::<f64>().is_ok(), "{sql}: {name} is {value}");
            }
        }
        if *sql == "SHOW LISTS" {
            let lists: Vec<_> = rows.iter().filter_map(|row| row[0].as_deref()).collect();
            for list in
                "databases users pools free_clients used_clients login_clients free_servers \
                         used_servers"
                    .split_whitespace()
            {
                assert!(lists.contains(&list), "{list}");
            }
        }
    }
    let (columns, rows) = table(&mut console, "SHOW CONFIG");
    assert_eq!(columns[..2], ["key", "value"]);
    let value = |key: &str| {
        let row = rows.iter().find(|row| row[0].as_deref() == Some(key));
        row.and_then(|row| row[1].clone()).expect(key)
    };
    assert!(value("max_client_conn").parse::<u64>().is_ok());
    let (columns, rows) = table(&mut console, "SHOW VERSION");
    assert_eq!(columns, ["version"]);
    assert!(rows[0][0].as_deref().unwrap().starts_with("PgDoorman "));
}
