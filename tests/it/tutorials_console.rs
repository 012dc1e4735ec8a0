//! What guides to version 3.2.4 have one type at the console: each command, with the columns it told of.
//!
//! Owns: the columns of that version, and the names of rows that scripts look for.
//! Does not own: what the values say (`statistics`), the shell (`tutorials`).
//!
//! Source: docs/admin.md.

use crate::common::{Client, Config, Postgres, message, with_one_and_two_shards};
use crate::tutorials::psql;

with_one_and_two_shards!(
    console_results_have_the_columns_of_version_3_2_4,
    rows_of_lists_and_settings_have_the_names_of_version_3_2_4,
    psql_reads_the_whole_console,
);

/// Commands of the console with the columns of their results; a type is that of those before it.
const COLUMNS: &[(&str, &str)] = &[
    ("SHOW HELP", "item text"),
    ("SHOW VERSION", "version text"),
    ("SHOW CONFIG", "key value default changeable text"),
    (
        "SHOW DATABASES",
        "name host port database force_user text pool_size min_pool_size reserve_pool int4 pool_mode text \
         max_connections current_connections int4",
    ),
    ("SHOW USERS", "name pool_mode text"),
    ("SHOW LISTS", "list text items int4"),
    (
        "SHOW POOLS",
        "database user pool_mode text cl_idle cl_active cl_waiting cl_cancel_req sv_active sv_idle sv_used sv_login \
         maxwait maxwait_us numeric",
    ),
    (
        "SHOW POOLS_EXTENDED",
        "database user text cl_active cl_waiting sv_active sv_idle sv_used sv_login maxwait maxwait_us numeric \
         pool_mode text bytes_recieved bytes_sent query_0.99 transaction_0.99 query_0.95 transaction_0.95 query_0.5 \
         transaction_0.5 numeric",
    ),
    (
        "SHOW POOLS_MEMORY",
        "database user text pool_prepared_count pool_prepared_bytes client_prepared_count client_prepared_bytes \
         async_clients numeric",
    ),
    (
        "SHOW PREPARED_STATEMENTS",
        "pool text hash numeric name query text count_used numeric",
    ),
    (
        "SHOW CLIENTS",
        "client_id database user application_name addr tls state wait text transaction_count query_count error_count \
         age_seconds numeric",
    ),
    (
        "SHOW SERVERS",
        "server_id server_process_id database_name user application_name state wait text transaction_count query_count \
         bytes_sent bytes_received age_seconds prepare_cache_hit prepare_cache_miss prepare_cache_size numeric",
    ),
    ("SHOW CONNECTIONS", "total errors tls plain cancel numeric"),
    (
        "SHOW STATS",
        "database user text total_xact_count total_query_count total_received total_sent total_xact_time \
         total_query_time total_wait_time total_errors avg_xact_count avg_query_count avg_recv avg_sent avg_errors \
         avg_xact_time avg_query_time avg_wait_time numeric",
    ),
    (
        "SHOW SOCKETS",
        "tcp_established tcp_syn_sent tcp_syn_recv tcp_fin_wait1 tcp_fin_wait2 tcp_time_wait tcp_close tcp_close_wait \
         tcp_last_ack tcp_listen tcp_closing tcp_new_syn_recv tcp_bound_inactive tcp6_established tcp6_syn_sent \
         tcp6_syn_recv tcp6_fin_wait1 tcp6_fin_wait2 tcp6_time_wait tcp6_close tcp6_close_wait tcp6_last_ack \
         tcp6_listen tcp6_closing tcp_new_syn_recv tcp_bound_inactive unix_free unix_unconnected unix_connecting \
         unix_connected unix_disconnecting unix_dgram unix_seq_packet unknown numeric",
    ),
];

/// A column: its name, the OID of its type and its size.
type Column = (String, u32, i16);

/// The columns of a result, and its rows.
fn table(console: &mut Client, sql: &str) -> (Vec<Column>, Vec<Vec<Option<String>>>) {
    console.send(&message::query(sql));
    let head = console.expect('T').body;
    let mut columns = Vec::new();
    let mut rest = &head[2..];
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let name = String::from_utf8(rest[..end].to_vec()).unwrap();
        let fields = &rest[end + 1..];
        let oid = u32::from_be_bytes(fields[6..10].try_into().unwrap());
        let size = i16::from_be_bytes(fields[10..12].try_into().unwrap());
        columns.push((name, oid, size));
        rest = &fields[18..];
    }
    (columns, console.reply().rows)
}

fn expected_columns(text: &str) -> Vec<Column> {
    let mut columns = Vec::new();
    let mut names = Vec::new();
    for word in text.split_whitespace() {
        let (oid, size) = match word {
            // A column of that name is none of these.
            "text" => (25, -1),
            "int4" => (23, 4),
            "numeric" => (1700, -1),
            name => {
                names.push(name.to_owned());
                continue;
            }
        };
        columns.extend(names.drain(..).map(|name| (name, oid, size)));
    }
    assert!(names.is_empty());
    columns
}

fn console_results_have_the_columns_of_version_3_2_4(shards: usize) {
    let doorman = Config::new(Postgres::shared()).shards(shards).start();
    let mut client = doorman.connect();
    client.execute("select 1");
    client.batch(&[
        message::parse("s", "select 2"),
        message::bind("", "s", &[]),
        message::execute("", 0),
    ]);
    for database in ["pgdoorman", "pgbouncer"] {
        let mut console = doorman.login().database(database).user("admin").connect();
        for (sql, text) in COLUMNS {
            let expected = expected_columns(text);
            for sql in [(*sql).to_owned(), sql.to_lowercase(), format!("{sql} ;")] {
                let (columns, rows) = table(&mut console, &sql);
                // There may be more behind these.
                assert_eq!(
                    columns[..expected.len().min(columns.len())],
                    expected,
                    "{sql}"
                );
                assert!(!rows.is_empty(), "{sql}");
                for row in &rows {
                    assert!(row.iter().all(Option::is_some), "{sql}: {row:?}");
                }
            }
        }
        // Another name of the same.
        let (columns, _) = table(&mut console, "SHOW POOL_MEMORY");
        assert_eq!(columns[4].0, "client_prepared_count");
    }
}

fn rows_of_lists_and_settings_have_the_names_of_version_3_2_4(shards: usize) {
    let doorman = Config::new(Postgres::shared()).shards(shards).start();
    let mut console = doorman
        .login()
        .database("pgbouncer")
        .user("admin")
        .connect();
    let first = |console: &mut Client, sql: &str| -> Vec<String> {
        let rows = console.rows(sql);
        rows.into_iter()
            .map(|mut row| row.swap_remove(0).unwrap())
            .collect()
    };
    let lists = first(&mut console, "show lists");
    let expected = "databases users pools free_clients used_clients login_clients free_servers used_servers dns_names \
                    dns_zones dns_queries dns_pending";
    assert_eq!(lists, expected.split(' ').collect::<Vec<_>>());
    let help = first(&mut console, "show help");
    for (sql, _) in COLUMNS {
        // It was never listed.
        assert!(
            *sql == "SHOW SOCKETS" || help.iter().any(|item| item == sql),
            "{sql}: {help:?}"
        );
    }
    assert!(help.iter().any(|item| item == "RELOAD"), "{help:?}");
    assert!(
        help.iter().any(|item| item.starts_with("SHUTDOWN")),
        "{help:?}"
    );
    let settings = console.rows("show config");
    let value = |key: &str| {
        let row = settings.iter().find(|row| row[0].as_deref() == Some(key));
        row.unwrap_or_else(|| panic!("{key}: {settings:?}"))[1..].to_vec()
    };
    let text = |words: [&str; 3]| words.map(|word| Some(word.to_owned())).to_vec();
    assert_eq!(
        value("port"),
        text([&doorman.port().to_string(), "-", "no"])
    );
    assert_eq!(value("host"), text(["127.0.0.1", "-", "no"]));
    assert_eq!(value("connect_timeout")[0].as_deref(), Some("3000"));
    assert_eq!(value("idle_timeout")[0].as_deref(), Some("300000000"));
    assert_eq!(value("shutdown_timeout")[0].as_deref(), Some("10000"));
    assert_eq!(
        value("pools.it.pool_mode"),
        text(["transaction", "-", "yes"])
    );
    assert_eq!(value("pools.\"it\".users"), text(["app", "-", "yes"]));
    let client = console.rows("show clients").remove(0)[0].clone().unwrap();
    assert!(client.starts_with("0x") && client.len() == 10, "{client}");
}

fn psql_reads_the_whole_console(shards: usize) {
    let config = Config::new(Postgres::shared()).shards(shards);
    let mut doorman = config.hba("host all all 127.0.0.1/32 md5").start();
    let listen = doorman.port();
    for database in ["pgdoorman", "pgbouncer"] {
        for (sql, text) in COLUMNS {
            let told = psql(listen, database, "admin", "admin", &format!("{sql};"));
            let head = told.lines().next().unwrap();
            let expected: Vec<_> = expected_columns(text)
                .into_iter()
                .map(|column| column.0)
                .collect();
            assert!(head.starts_with(&expected.join("|")), "{sql}: {told}");
        }
        assert_eq!(
            psql(listen, database, "admin", "admin", "RELOAD"),
            "RELOAD\n"
        );
    }
    assert!(psql(listen, "pgdoorman", "admin", "admin", "show version").contains("PgDoorman "));
    assert!(psql(listen, "pgdoorman", "admin", "admin", "SHUTDOWN").contains('t'));
    assert!(doorman.wait().success());
}
