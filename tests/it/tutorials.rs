//! What guides to version 3.2.4 have one type: whole files, commands at a shell, psql at the console.
//!
//! Owns: running them as they stand, but for ports, paths and passwords, which are those of the tests.
//! Does not own: single keys and options (`compatibility`, `command_line`).
//!
//! Source: docs/compatibility.md, docs/admin.md.

use std::process::{Child, Command, Stdio};

use crate::command_line::{Workplace, told};
use crate::common::doorman::program;
use crate::common::postgres::{DATABASE, PASSWORD, programs_directory};
use crate::common::{
    Client, Config, Login, Postgres, eventually, message, port, with_one_and_two_shards,
};
use crate::compatibility;
use crate::statistics::scrape;

with_one_and_two_shards!(
    console_results_have_the_columns_of_version_3_2_4,
    rows_of_lists_and_settings_have_the_names_of_version_3_2_4,
    psql_reads_the_whole_console,
);

/// A pooler that somebody has started at a shell.
struct Started(Child);

impl Started {
    /// Runs `words` in `place` with more of an environment, and waits until it listens.
    fn start(place: &Workplace, words: &[&str], environment: &[(&str, &str)], listen: u16) -> Self {
        let log = std::fs::File::create(place.path("log")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program());
        command.args(words).current_dir(place.path(""));
        command.envs(environment.iter().copied());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut started = Self(command.spawn().unwrap());
        eventually("clients can connect", || {
            if let Some(status) = started.0.try_wait().unwrap() {
                panic!("{words:?}: {status}\n{}", place.read("log"));
            }
            std::net::TcpStream::connect(("127.0.0.1", listen)).is_ok()
        });
        started
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// psql as one calls it, with the password in the environment.
fn psql(listen: u16, database: &str, user: &str, password: &str, sql: &str) -> String {
    let mut command = Command::new(programs_directory().join("psql"));
    command.args([
        "-X",
        "-h",
        "127.0.0.1",
        "-p",
        &listen.to_string(),
        "-U",
        user,
        "-d",
        database,
    ]);
    command.args(["-A", "-c", sql]).env("PGPASSWORD", password);
    let output = command
        .env("PGCONNECT_TIMEOUT", "10")
        .output()
        .expect("psql is installed");
    assert!(output.status.success(), "{sql}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Replaces each of `pairs`, which must be there.
fn with(text: &str, pairs: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (old, new) in pairs {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    text
}

#[test]
fn a_file_with_every_key_serves_in_both_formats() {
    let postgres = Postgres::shared();
    let place = compatibility::workplace();
    let [server, socket] = [
        postgres.port().to_string(),
        postgres.socket_directory().display().to_string(),
    ];
    let verifier = postgres.verifier("app");
    for name in ["reference.toml", "reference.yaml"] {
        let (listen, metrics) = (port::free(), port::free());
        let [listen_text, metrics_text] = [listen, metrics].map(|port| port.to_string());
        let is_toml = name.ends_with("toml");
        let (text, own) = if is_toml {
            let password = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2Fs$fT2sC4VfQxFsn3ngCElLz9zMVbwhT2iUoRYYFSSBEAg=:Dzr1xUmFhVz38ebbDo7bXIOnfUZZXVlF4gVKp9D0AsI=";
            let own = [
                (password, verifier.as_str()),
                ("server_username = \"b\"", "server_username = \"app\""),
                ("server_password = \"c\"", "server_password = \"secret\""),
                (
                    "server_database = \"exampledb\"",
                    "server_database = \"it\"",
                ),
                // Where there is no syslog the pooler would not start.
                ("syslog_prog_name = \"pg_doorman\"\n", ""),
                ("trust", "scram-sha-256"),
            ];
            (compatibility::TOML, own)
        } else {
            let own = [
                ("\"md5dd9a0f26a4302744db881776a09bbfad\"", verifier.as_str()),
                (
                    "server_username: b\n        server_password: c",
                    "server_username: app\n        server_password: secret",
                ),
                ("server_database: exampledb", "server_database: it"),
                ("/var/run/postgresql", &socket),
                ("  syslog_prog_name: \"pg_doorman\"\n", ""),
                ("10.0.0.0/8", "127.0.0.0/8"),
            ];
            (compatibility::YAML, own)
        };
        let text = with(text, &own);
        place.write(
            name,
            &with(
                &text,
                &[
                    ("6432", &listen_text),
                    ("5432", &server),
                    ("9127", &metrics_text),
                ],
            ),
        );
        let _started = Started::start(&place, &[name], &[], listen);
        let login = Login::new(listen).database("exampledb").user("a");
        assert_eq!(login.connect().value("select 40 + 2"), "42", "{name}");
        assert_eq!(
            login.clone().password("wrong").refusal().sqlstate(),
            "28P01"
        );
        let encrypted = "dbname=exampledb sslmode=require";
        assert!(psql(listen, encrypted, "a", PASSWORD, "select 43").contains("43"));
        assert!(
            psql(listen, "pgbouncer", "admin", "admin", "show databases").contains("exampledb|")
        );
        assert!(scrape(metrics).contains("pg_doorman_pools_clients{"));
    }
}

#[test]
fn the_smallest_files_serve() {
    let postgres = Postgres::shared();
    let place = Workplace::new();
    let server = postgres.port();
    let listen = port::free();
    place.write(
        "pg_doorman.toml",
        &format!(
            "[general]\nhost = \"127.0.0.1\"\nport = {listen}\nadmin_username = \"admin\"\nadmin_password = \"admin\"\n\
             pg_hba.content = \"host all all 127.0.0.1/32 trust\"\n\n[pools.{DATABASE}]\nserver_host = \"127.0.0.1\"\n\
             server_port = {server}\n\n[[pools.{DATABASE}.users]]\nusername = \"app_trust\"\npassword = \"\"\npool_size = 10\n"
        ),
    );
    // Without a word the file of this name in the current directory is taken.
    let started = Started::start(&place, &[], &[], listen);
    assert_eq!(
        Login::new(listen)
            .user("app_trust")
            .connect()
            .value("select 1"),
        "1"
    );
    drop(started);
    let listen = port::free();
    place.write(
        "pool.yaml",
        &format!(
            "general:\n  host: \"0.0.0.0\"\n  port: {listen}\n  admin_username: \"admin\"\n  admin_password: \"admin\"\n\
             pools:\n  {DATABASE}:\n    server_host: \"{}\"\n    server_port: {server}\n    pool_mode: \"session\"\n    users:\n      \
             - username: \"app\"\n        password: \"{}\"\n        pool_size: 40\n        server_username: \"app\"\n        \
             server_password: \"{PASSWORD}\"\n",
            postgres.socket_directory().display(),
            postgres.verifier("app"),
        ),
    );
    let _started = Started::start(&place, &["pool.yaml"], &[], listen);
    let mut client = Login::new(listen).connect();
    client.execute("set my.own = 'kept'");
    assert_eq!(client.value("show my.own"), "kept");
}

#[test]
fn options_and_their_variables_start_a_pooler() {
    let place = Workplace::new();
    let listen = port::free();
    let config = Config::new(Postgres::shared()).general("port", i64::from(listen));
    place.write("other.toml", &config.text());
    // What a line of the log looks like, and whether it has colours.
    let check = |words: &[&str], environment: &[(&str, &str)], json: bool, colours: bool| {
        let started = Started::start(&place, words, environment, listen);
        Login::new(listen).connect().execute("select 1");
        drop(started);
        let log = place.read("log");
        let line = log.lines().next().unwrap_or_default();
        assert_eq!(
            line.starts_with('{'),
            json,
            "{words:?} {environment:?}: {log}"
        );
        assert_eq!(
            log.contains('\u{1b}'),
            colours,
            "{words:?} {environment:?}: {log}"
        );
        log
    };
    check(&["other.toml"], &[], false, true);
    check(&["other.toml", "--no-color"], &[], false, false);
    check(&["-n", "-l", "2", "other.toml"], &[], false, false);
    check(
        &["--log-level", "WARN", "-n", "other.toml"],
        &[],
        false,
        false,
    );
    check(&["-F", "structured", "-n", "other.toml"], &[], true, false);
    check(
        &[
            "--log-format=text",
            "--no-color",
            "--log-level=info",
            "other.toml",
        ],
        &[],
        false,
        false,
    );
    let quiet = check(&["-n", "-l", "error", "other.toml"], &[], false, false);
    assert!(!quiet.contains("INFO"), "{quiet}");
    // As in an image: everything by variables.
    let image = [
        ("CONFIG_FILE", "other.toml"),
        ("LOG_LEVEL", "debug"),
        ("LOG_FORMAT", "structured"),
        ("NO_COLOR", "true"),
        ("DAEMON", "false"),
        ("RUST_LOG", "pg_doorman=info"),
    ];
    check(&[], &image, true, false);
    let log = check(&["-F", "text"], &image[..4], false, false);
    assert!(log.contains("INFO"), "{log}");
}

#[test]
fn files_are_checked_and_the_version_told() {
    let place = Workplace::new();
    place.write("x.toml", &Config::new(Postgres::shared()).text());
    for words in [
        ["-t", "x.toml"],
        ["--test-config", "x.toml"],
        ["x.toml", "-t"],
    ] {
        let output = place.run(&words);
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        let expected = "pg_doorman: the configuration file x.toml syntax is ok\n\
             pg_doorman: configuration file x.toml test is successful\n";
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
    for word in ["-V", "--version"] {
        let output = place.run(&[word]);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(told, format!("pg_doorman {}\n", env!("CARGO_PKG_VERSION")));
    }
    for words in [
        &["-h"][..],
        &["--help"],
        &["generate", "-h"],
        &["generate", "--help"],
    ] {
        let output = place.run(words);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains("Usage: pg_doorman"));
    }
    place.write("bad.toml", "[general]\n");
    let output = place
        .command(&["-t", "bad.toml"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(
        told(&output).contains("admin_username"),
        "{}",
        told(&output)
    );
}

/// The file that `generate` writes, which must load.
fn generated(
    place: &Workplace,
    words: &[&str],
    variables: &[(&str, &str)],
    file: Option<&str>,
) -> toml::Table {
    let mut command = place.command(&[&["generate"], words].concat());
    let output = command.envs(variables.iter().copied()).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{words:?}: {}",
        told(&output)
    );
    let name = file.unwrap_or("out.toml");
    if file.is_none() {
        std::fs::write(place.path(name), &output.stdout).unwrap();
    }
    let check = place.run(&["-t", name]);
    assert_eq!(check.status.code(), Some(0), "{words:?}: {}", told(&check));
    if name.ends_with("toml") {
        place.read(name).parse().unwrap()
    } else {
        toml::Table::new()
    }
}

#[test]
fn generate_takes_every_option_and_variable() {
    let postgres = Postgres::shared();
    let place = Workplace::new();
    let server = postgres.port().to_string();
    let variables = [
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", server.as_str()),
        ("PGUSER", "postgres"),
        ("PGPASSWORD", "unused"),
        ("PGDATABASE", "postgres"),
    ];
    let file = generated(&place, &["-f", "toml"], &variables, None);
    assert_eq!(file["general"]["port"].as_integer(), Some(6432));
    let pool = &file["pools"][DATABASE];
    assert_eq!(pool["server_host"].as_str(), Some("127.0.0.1"));
    assert_eq!(pool["users"][0]["pool_size"].as_integer(), Some(40));
    let options = [
        "--host",
        "127.0.0.1",
        "--port",
        &server,
        "--user",
        "postgres",
        "--password",
        "unused",
        "--database",
        DATABASE,
        "--pool-size",
        "7",
        "--session-pool-mode",
        "--server-host",
        "db.internal",
        "--no-comments",
        "--format",
        "toml",
        "--output",
        "all.conf.toml",
    ];
    let file = generated(&place, &options, &[], Some("all.conf.toml"));
    let pool = &file["pools"][DATABASE];
    assert_eq!(pool["server_host"].as_str(), Some("db.internal"));
    assert_eq!(pool["pool_mode"].as_str(), Some("session"));
    assert_eq!(pool["users"][0]["pool_size"].as_integer(), Some(7));
    let short = [
        "-p",
        &server,
        "-u",
        "postgres",
        "-d",
        DATABASE,
        "-s",
        "-o",
        "short.toml",
    ];
    let file = generated(&place, &short, &variables[..1], Some("short.toml"));
    assert_eq!(
        file["pools"][DATABASE]["pool_mode"].as_str(),
        Some("session")
    );
    for words in [
        &["--reference"][..],
        &["--reference", "--russian-comments"],
        &["--reference", "--ru", "--no-comments"],
        &["--reference", "--format=yaml"],
    ] {
        // Without a name it is YAML, at standard output.
        let name = "reference.yaml";
        let output = place.run(&[&["generate"], words].concat());
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        std::fs::write(place.path(name), &output.stdout).unwrap();
        let check = place.run(&["-t", name]);
        assert_eq!(check.status.code(), Some(0), "{words:?}: {}", told(&check));
    }
    let file = generated(&place, &["--reference", "-f", "toml"], &[], None);
    let user = &file["pools"]["exampledb"]["users"][0];
    assert_eq!(user["username"].as_str(), Some("app_user"));
    assert_eq!(
        user["password"].as_str(),
        Some("md5dd9a0f26a4302744db881776a09bbfad")
    );
    assert_eq!(user["pool_size"].as_integer(), Some(40));
    generated(
        &place,
        &["--reference", "-o", "r.yaml"],
        &[],
        Some("r.yaml"),
    );
}

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

/// Names and types of the columns of a result, and its rows.
fn table(console: &mut Client, sql: &str) -> (Vec<(String, u32, i16)>, Vec<Vec<Option<String>>>) {
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

fn expected_columns(text: &str) -> Vec<(String, u32, i16)> {
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
