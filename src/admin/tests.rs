//! Tests of results and errors, and of the page about them in `docs/`.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::config::{self, Config};
use crate::metrics::statements::StatementAccount;
use crate::metrics::{Enrolled, Fleet};
use command::SUBJECTS;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/admin.md"));

const CONFIG: &str = "[general]\nadmin_username = 'a'\nadmin_password = 'b'\n\
    [pools.db]\nserver_host = 'example.org'\nserver_port = 5433\nserver_database = 'other'\n\
    [[pools.db.users]]\nusername = 'u'\npassword = ''\npool_size = 5\nmin_pool_size = 2\n\
    [[pools.db.users]]\nusername = 'v'\npassword = ''\npool_size = 6\npool_mode = 'session'\n";

fn config() -> Config {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("admin-{}-{number}.toml", std::process::id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, CONFIG).unwrap();
    let config = config::load(&file).unwrap().config;
    std::fs::remove_file(&file).unwrap();
    config
}

fn with_view<T>(fleet: &Fleet, body: impl Fn(&View<'_>) -> T) -> T {
    let client = ClientRow {
        id: 255,
        database: "db".to_owned(),
        user: "u".to_owned(),
        application_name: "psql".to_owned(),
        peer: Some(([127, 0, 0, 1], 99).into()),
        is_tls: false,
        state: "active",
        wait: "write",
        transactions: 1,
        queries: 2,
        errors: 3,
        age_seconds: 4,
        shard: 1,
    };
    let server = ServerRow {
        id: 1,
        pid: 77,
        database: "db".to_owned(),
        user: "u".to_owned(),
        application_name: "psql".to_owned(),
        state: "idle",
        wait: "idle",
        transactions: 1,
        queries: 2,
        sent: 3,
        received: 4,
        statements: [6, 7, 8],
        age_seconds: 5,
        shard: 0,
        is_tls: true,
    };
    body(&View {
        version: "1.2.3",
        fleet,
        config: &config(),
        clients: &[client],
        servers: &[server],
        statements: &[],
        sockets: &Sockets::default(),
    })
}

/// The value of a column in a row.
fn value(table: &Table, row: usize, column: &str) -> String {
    let at = table.columns().iter().position(|c| c.name == column);
    table.rows()[row][at.expect(column)].clone()
}

#[test]
fn pools_are_rows_in_the_order_of_the_configuration() {
    let fleet = Fleet::new(2);
    let blocks = [0, 1].map(|shard| Enrolled::new(&fleet, shard, "db", "u"));
    for block in &blocks {
        block.clients.add(3);
        block.clients_active.add(1);
        block.servers_idle.add(2);
        block.servers_active.add(1);
        block.bytes_sent.add(50);
        block.queries.record(1000);
    }
    // Somebody waits since the start, which is some microseconds ago.
    blocks[1].waits_since_us.set(1);
    std::thread::sleep(std::time::Duration::from_millis(2));
    let table = |subject| with_view(&fleet, |view| table(subject, view));
    let pools = table(Subject::Pools);
    assert_eq!(pools.rows().len(), 2);
    for (column, expected) in [
        ("database", "db"),
        ("user", "u"),
        ("pool_mode", "transaction"),
        ("cl_idle", "4"),
        ("cl_active", "2"),
        ("sv_active", "2"),
        ("sv_idle", "4"),
        ("maxwait", "0"),
    ] {
        assert_eq!(value(&pools, 0, column), expected, "{column}");
    }
    assert!(value(&pools, 0, "maxwait_us").parse::<u64>().unwrap() >= 2000);
    assert_eq!(value(&pools, 1, "pool_mode"), "session");
    let extended = table(Subject::PoolsExtended);
    assert_eq!(value(&extended, 0, "bytes_sent"), "100");
    assert!(value(&extended, 0, "maxwait").contains('.'));
    let half = value(&extended, 0, "query_0.5").parse::<u64>().unwrap();
    assert!(half.abs_diff(1000) < 40, "{half}");
    let stats = table(Subject::Stats);
    assert_eq!(value(&stats, 0, "total_query_count"), "2");
    assert_eq!(value(&stats, 0, "total_query_time"), "2000");
    assert_eq!(value(&stats, 1, "total_query_count"), "0");
    let databases = table(Subject::Databases);
    for (column, expected) in [
        ("name", "db"),
        ("host", "example.org"),
        ("port", "5433"),
        ("database", "db"),
        ("force_user", "u"),
        ("pool_size", "5"),
        ("min_pool_size", "2"),
        ("current_connections", "6"),
    ] {
        assert_eq!(value(&databases, 0, column), expected, "{column}");
    }
    let lists = table(Subject::Lists);
    let items: Vec<_> = lists.rows().iter().map(|row| row.join("=")).collect();
    assert_eq!(items[0], "databases=3");
    assert_eq!(
        items[3..8].join(" "),
        "free_clients=4 used_clients=2 login_clients=0 free_servers=4 used_servers=2"
    );
}

#[test]
fn settings_are_shown_and_changed() {
    let fleet = Fleet::new(1);
    let table = with_view(&fleet, |view| table(Subject::Config, view));
    let row = |key: &str| {
        table
            .rows()
            .iter()
            .find(|row| row[0] == key)
            .cloned()
            .expect(key)
    };
    assert_eq!(row("pools.db.pool_mode")[1..], ["transaction", "-", "yes"]);
    assert_eq!(row("pools.\"db\".users")[1], "u, v");
    assert_eq!(row("port")[3], "no");
    assert_eq!(row("idle_timeout")[3], "yes");
    let mut general = config().general;
    let mut set = |key: &str, value: &str| settings::set(&mut general, key, value);
    assert_eq!(set("query_wait_timeout", "7s"), Ok(()));
    assert_eq!(set("idle_timeout", "250"), Ok(()));
    assert_eq!(set("max_client_conn", "12"), Ok(()));
    assert_eq!(set("log_client_connections", "off"), Ok(()));
    assert_eq!(set("port", "1"), Err(settings::SetError::Fixed));
    assert_eq!(set("nonsense", "1"), Err(settings::SetError::Unknown));
    for (key, value) in [
        ("query_wait_timeout", "0"),
        ("idle_timeout", "soon"),
        ("max_connections", "0"),
        ("log_client_connections", "perhaps"),
    ] {
        assert!(
            matches!(set(key, value), Err(settings::SetError::Value(_))),
            "{key}"
        );
    }
    let shown = settings::of(&general);
    let value = |key: &str| {
        shown
            .iter()
            .find(|setting| setting.key == key)
            .unwrap()
            .value
            .clone()
    };
    assert_eq!(value("query_wait_timeout"), "7000");
    assert_eq!(
        (value("max_connections"), value("max_client_conn")),
        ("12".into(), "12".into())
    );
}

#[test]
fn clients_servers_and_sockets_have_their_values_in_place() {
    let fleet = Fleet::new(1);
    let table = |subject| with_view(&fleet, |view| table(subject, view));
    let clients = table(Subject::Clients);
    let expected = "0x000000FF db u psql 127.0.0.1:99 false active write 1 2 3 4 1";
    assert_eq!(clients.rows()[0].join(" "), expected);
    let servers = table(Subject::Servers);
    let expected = "0x00000001 77 db u psql idle idle 1 2 3 4 5 6 7 8 0 true";
    assert_eq!(servers.rows()[0].join(" "), expected);
    assert_eq!(table(Subject::Sockets).columns().len(), 34);
}

#[test]
fn errors_that_earlier_versions_knew_are_fatal_in_name() {
    let encode = |error: CommandError| {
        let mut out = Vec::new();
        Refusal::from(error).encode(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    let unknown = encode(CommandError::Unknown);
    for part in ["SFATAL\0", "C58000\0", "HSHOW HELP", "MUnsupported query"] {
        assert!(unknown.contains(part), "{unknown}");
    }
    let usage = encode(CommandError::Usage("KILL db"));
    assert!(
        usage.contains("SERROR\0") && usage.contains("C42601\0"),
        "{usage}"
    );
}

#[test]
fn only_the_two_names_are_the_console() {
    assert!(is_console("pgdoorman") && is_console("pgbouncer"));
    assert!(!is_console("PgDoorman") && !is_console("pg_doorman") && !is_console(""));
}

/// The rows of the page between two marks: what is in backticks at their start, and what follows.
fn listed(mark: &str) -> Vec<(&'static str, &'static str)> {
    let start = format!("<!-- {mark} -->");
    let (_, rest) = PAGE.split_once(&start).expect(mark);
    let (part, _) = rest.split_once("<!-- end -->").expect("an end");
    part.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .collect()
}

#[test]
fn the_page_has_all_commands() {
    let items: Vec<_> = help::items().collect();
    let listed = listed("commands")
        .into_iter()
        .map(|(name, _)| name.replace("\\|", "|"));
    assert_eq!(listed.collect::<Vec<_>>(), items);
}

#[test]
fn the_page_has_all_columns() {
    let fleet = Fleet::new(1);
    let mut complaints = String::new();
    for (name, subject) in SUBJECTS {
        // Its columns are made of states, and told in words.
        if *subject == Subject::Sockets {
            continue;
        }
        let mark = format!("columns of SHOW {name}");
        let listed = if PAGE.contains(&mark) {
            listed(&mark)
        } else {
            Vec::new()
        };
        let table = with_view(&fleet, |view| table(*subject, view));
        let expected = table.columns().iter().map(|column| {
            let kind = match column.kind {
                ColumnType::Int => "int4",
                ColumnType::Numeric => "numeric",
                ColumnType::Text => "text",
            };
            (column.name.to_string(), kind)
        });
        let expected: Vec<_> = expected.collect();
        let fits = |((name, rest), (column, kind)): (&(&str, &str), &(String, &str))| {
            name == column && rest.starts_with(&format!(" | {kind} |"))
        };
        if listed.len() != expected.len() || !listed.iter().zip(&expected).all(fits) {
            let _ = write!(complaints, "\n<!-- {mark} -->\n");
            for (column, kind) in expected {
                let _ = writeln!(complaints, "| `{column}` | {kind} | |");
            }
        }
    }
    assert!(complaints.is_empty(), "docs/admin.md:{complaints}");
}

#[test]
fn statements_are_rows_in_the_order_of_their_accounts() {
    let account = StatementAccount {
        pool: "u@d".into(),
        key: 7 << 64 | 1,
        name: "PGD_7".into(),
        text: "select 1".into(),
        uses: 24,
        names: 6,
        idle_servers: 4,
        shards: 2,
    };
    let table = show_statements::table(&[account]);
    let row = ["u@d", "7", "PGD_7", "select 1", "24", "6", "4", "2"];
    assert_eq!(table.rows(), [row.map(str::to_owned)]);
}
