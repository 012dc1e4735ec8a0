//! What guides to version 3.2.4 have one type at a shell: whole files, options, variables, `generate`.
//!
//! Owns: running them as they stand, but for ports, paths and passwords, which are those of the tests.
//! Does not own: single keys and options (`compatibility`, `command_line`), the console (`tutorials_console`).
//!
//! Source: docs/compatibility.md, docs/admin.md.

use std::process::{Child, Command, Stdio};

use crate::command_line::{Workplace, told};
use crate::common::doorman::program;
use crate::common::postgres::{DATABASE, PASSWORD, programs_directory};
use crate::common::{Config, Login, Postgres, eventually, port};
use crate::compatibility;
use crate::statistics::scrape;

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
pub(crate) fn psql(listen: u16, database: &str, user: &str, password: &str, sql: &str) -> String {
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
    // What a line of the log looks like, and whether it has colours.
    let check = |words: &[&str], environment: &[(&str, &str)], json: bool, colours: bool| {
        // A port of its own each time: one that was free may be somebody else's by now.
        let config = Config::new(Postgres::shared());
        let listen = config.port();
        place.write("other.toml", &config.text());
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
    assert!(told(&output).contains("missing field"), "{}", told(&output));
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
}

#[test]
fn generate_writes_an_example_in_both_formats() {
    let place = Workplace::new();
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
