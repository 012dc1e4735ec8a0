//! The pooler under test.
//!
//! Owns: configuration files for tests, one `pg_doorman` process a value.
//! Does not own: PostgreSQL.
//! Invariants: the process is gone when the value is dropped or the test process is gone; its
//! log is shown when the test fails.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Instant;

use toml::{Table, Value};

use super::client::Client;
use super::login::Login;
use super::postgres::{self, DATABASE, Postgres};
use super::tls::{self, Certificates};
use super::{DEADLINE, eventually, port, unique};

/// A configuration to be written. Without further calls: one pool `it`, transaction mode, one
/// user `app` who logs in without a password, `pool_size` 4, one shard.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    general: Table,
    prometheus: Table,
    pools: Vec<(String, Table, Vec<User>)>,
    application_name: String,
    log_level: &'static str,
    environment: Vec<(&'static str, String)>,
    program: OsString,
}

/// A user of a pool.
#[derive(Clone, Debug)]
pub(crate) struct User(Table);

impl User {
    /// Logs in to the pooler without a password, and the pooler to the server as `app`.
    pub(crate) fn new(name: &str, pool_size: usize) -> Self {
        let user = Self(Table::new()).key("username", name).key("password", "");
        user.key("pool_size", i64::try_from(pool_size).unwrap())
            .server("app", postgres::PASSWORD)
    }

    /// Has nothing of its own for the server.
    pub(crate) fn without_server(name: &str, pool_size: usize) -> Self {
        let mut user = Self::new(name, pool_size);
        user.0.remove("server_username");
        user.0.remove("server_password");
        user
    }

    /// What the pooler compares with: a SCRAM verifier or an md5 hash.
    pub(crate) fn secret(self, secret: &str) -> Self {
        self.key("password", secret)
    }

    /// How the pooler logs in to the server.
    pub(crate) fn server(self, user: &str, password: &str) -> Self {
        self.key("server_username", user)
            .key("server_password", password)
    }

    pub(crate) fn key(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }
}

impl Config {
    pub(crate) fn new(postgres: &Postgres) -> Self {
        Self::to_port(postgres.port())
    }

    /// For a server on 127.0.0.1 that need not be PostgreSQL.
    pub(crate) fn to_port(server_port: u16) -> Self {
        let config = Self {
            general: Table::new(),
            prometheus: Table::new(),
            pools: Vec::new(),
            application_name: format!("{}_{}", unique("doorman"), std::process::id()),
            log_level: "info",
            environment: Vec::new(),
            program: program(),
        };
        config
            .general("host", "127.0.0.1")
            .general("port", i64::from(port::free()))
            .general("admin_username", "admin")
            .general("admin_password", "admin")
            .shards(1)
            .hba("host all all 127.0.0.1/32 trust")
            .pool(DATABASE, server_port, vec![User::new("app", 4)])
    }

    /// Sets a key of `[general]`.
    pub(crate) fn general(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.general.insert(name.to_owned(), value.into());
        self
    }

    /// Serves metrics on `port` of 127.0.0.1.
    pub(crate) fn metrics(mut self, port: u16) -> Self {
        let keys = &mut self.prometheus;
        keys.insert("enabled".to_owned(), true.into());
        keys.insert("host".to_owned(), "127.0.0.1".into());
        keys.insert("port".to_owned(), i64::from(port).into());
        self
    }

    pub(crate) fn shards(self, count: usize) -> Self {
        self.general("worker_threads", i64::try_from(count).unwrap())
    }

    /// How much is logged.
    pub(crate) fn log_level(mut self, level: &'static str) -> Self {
        self.log_level = level;
        self
    }

    /// Another program than the one under test, which leads to that.
    pub(crate) fn program(mut self, path: impl Into<OsString>) -> Self {
        self.program = path.into();
        self
    }

    /// Sets a variable of the pooler's environment.
    pub(crate) fn environment(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Sets the rules for clients.
    pub(crate) fn hba(self, content: &str) -> Self {
        let mut table = Table::new();
        table.insert("content".to_owned(), content.into());
        self.general("pg_hba", table)
    }

    /// No rules at all.
    pub(crate) fn without_hba(mut self) -> Self {
        self.general.remove("pg_hba");
        self
    }

    /// Adds a pool.
    pub(crate) fn pool(mut self, name: &str, server_port: u16, users: Vec<User>) -> Self {
        let mut table = Table::new();
        table.insert("server_host".to_owned(), "127.0.0.1".into());
        table.insert("server_port".to_owned(), i64::from(server_port).into());
        table.insert("server_database".to_owned(), name.into());
        table.insert(
            "application_name".to_owned(),
            self.application_name.clone().into(),
        );
        self.pools.push((name.to_owned(), table, users));
        self
    }

    /// Replaces the users of pool `it`.
    pub(crate) fn users(mut self, users: Vec<User>) -> Self {
        self.pools[0].2 = users;
        self
    }

    /// Sets a key of pool `it`.
    pub(crate) fn pool_key(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.pools[0].1.insert(name.to_owned(), value.into());
        self
    }

    /// Sets a key of the pool that was added last.
    pub(crate) fn last_pool_key(mut self, name: &str, value: impl Into<Value>) -> Self {
        let pool = self.pools.last_mut().expect("a pool was added");
        pool.1.insert(name.to_owned(), value.into());
        pool.1.remove("server_database");
        self
    }

    /// How many servers user `app` of pool `it` may use.
    pub(crate) fn pool_size(self, size: usize) -> Self {
        self.users(vec![User::new("app", size)])
    }

    /// Session mode for pool `it`.
    pub(crate) fn session_mode(self) -> Self {
        self.pool_key("pool_mode", "session")
    }

    /// Starts the pooler and waits until it accepts connections.
    pub(crate) fn start(self) -> Doorman {
        Doorman::start(self)
    }

    /// The file as text.
    pub(crate) fn text(&self) -> String {
        let mut pools = Table::new();
        for (name, table, users) in &self.pools {
            let mut table = table.clone();
            let users = users
                .iter()
                .map(|user| Value::Table(user.0.clone()))
                .collect();
            table.insert("users".to_owned(), Value::Array(users));
            pools.insert(name.clone(), Value::Table(table));
        }
        let mut file = Table::new();
        let mut general = self.general.clone();
        if tls::is_everywhere() {
            let certificates = Certificates::shared();
            for (name, value) in [
                ("tls_certificate", certificates.file("server.crt")),
                ("tls_private_key", certificates.file("server.key")),
                ("server_tls_ca_cert", certificates.file("ca.crt")),
                ("server_tls_mode", "prefer".to_owned()),
            ] {
                general.entry(name).or_insert(value.into());
            }
        }
        file.insert("general".to_owned(), Value::Table(general));
        file.insert("pools".to_owned(), Value::Table(pools));
        file.insert(
            "prometheus".to_owned(),
            Value::Table(self.prometheus.clone()),
        );
        toml::to_string(&file).unwrap()
    }

    /// The port on which clients are to be accepted.
    pub(crate) fn port(&self) -> u16 {
        self.general["port"]
            .as_integer()
            .and_then(|port| u16::try_from(port).ok())
            .unwrap()
    }
}

/// The program under test.
pub(crate) fn program() -> OsString {
    let given = std::env::var_os("PG_DOORMAN_BIN");
    given.unwrap_or_else(|| env!("CARGO_BIN_EXE_pg_doorman").into())
}

/// A running pooler.
#[derive(Debug)]
pub(crate) struct Doorman {
    child: Child,
    directory: PathBuf,
    port: u16,
    /// What clients connect to, if they come through a tunnel.
    tunnel: Option<u16>,
    application_name: String,
}

impl Doorman {
    fn start(config: Config) -> Self {
        let name = format!("doorman-it-{}-{}", std::process::id(), unique("pooler"));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("pg_doorman.toml"), config.text()).unwrap();
        let log = File::create(directory.join("log")).unwrap();
        let program = &config.program;
        // setpriv has the kernel end the pooler when this test's thread is gone for any reason.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .arg(directory.join("pg_doorman.toml"))
            .current_dir(&directory)
            .env("NO_COLOR", "true")
            .env("LOG_LEVEL", config.log_level)
            .envs(config.environment.clone())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("setpriv (package util-linux) is there");
        let port = config.port();
        let application_name = config.application_name;
        let mut doorman = Self {
            child,
            directory,
            port,
            tunnel: None,
            application_name,
        };
        doorman.wait_until_it_accepts();
        if tls::is_everywhere() {
            let config = Certificates::shared().client_config(None);
            doorman.tunnel = Some(tls::tunnel(port, config));
        }
        doorman
    }

    fn wait_until_it_accepts(&mut self) {
        let port = self.port;
        let log = self.directory.join("log");
        let child = &mut self.child;
        eventually("pg_doorman accepts connections", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("pg_doorman ended at start: {status}");
            }
            // One that listens on a Unix socket only says so.
            let told = std::fs::read_to_string(&log).unwrap_or_default();
            TcpStream::connect(("127.0.0.1", port)).is_ok() || told.contains("dear clients")
        });
    }

    /// Another process with the same file, not started yet.
    pub(crate) fn second_process(&self) -> Command {
        let mut command = Command::new("timeout");
        command
            .arg("5")
            .arg(program())
            .arg(self.directory.join("pg_doorman.toml"));
        command
    }

    /// Starts another process with the same file and waits for its end.
    pub(crate) fn run_a_second_time(&self) -> Output {
        self.second_process()
            .output()
            .expect("timeout (package coreutils) is there")
    }

    /// A login of user `app` to pool `it`.
    pub(crate) fn login(&self) -> Login {
        Login::new(self.port())
    }

    /// A client of user `app` in pool `it`.
    pub(crate) fn connect(&self) -> Client {
        self.login().connect()
    }

    pub(crate) fn port(&self) -> u16 {
        self.tunnel.unwrap_or(self.port)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `application_name` of this pooler's server connections.
    pub(crate) fn application_name(&self) -> &str {
        &self.application_name
    }

    /// Pids of this pooler's server connections.
    pub(crate) fn server_pids(&self, postgres: &Postgres) -> Vec<String> {
        let mut sql = "select pid from pg_stat_activity where application_name like ".to_owned();
        let _ = write!(sql, "'{}%' order by pid", self.application_name);
        postgres
            .sql(&sql)
            .into_iter()
            .filter_map(|mut row| row.pop().flatten())
            .collect()
    }

    /// As many clients as there are servers, each in a transaction. Needs a short
    /// `query_wait_timeout`.
    ///
    /// A client whose shard has no server left is refused, so more clients are tried than there
    /// are servers.
    pub(crate) fn hold_servers(&self, count: usize) -> Vec<Client> {
        let mut holders = Vec::new();
        for _ in 0..16 * count {
            if holders.len() == count {
                break;
            }
            let mut client = self.connect();
            if client
                .try_query("begin")
                .is_ok_and(|reply| reply.status == 'T')
            {
                holders.push(client);
            }
        }
        assert_eq!(
            holders.len(),
            count,
            "servers that can be used at the same time"
        );
        holders
    }

    /// Replaces the configuration file; the port stays. Does not tell the pooler.
    pub(crate) fn rewrite(&self, config: Config) {
        let mut config = config.general("port", i64::from(self.port));
        for (_, table, _) in &mut config.pools {
            table.insert(
                "application_name".to_owned(),
                self.application_name.clone().into(),
            );
        }
        self.rewrite_text(&config.text());
    }

    /// Replaces the configuration file by any text.
    pub(crate) fn rewrite_text(&self, text: &str) {
        // By renaming, so that a reload still under way never reads half a file.
        let new = self.directory.join("new.toml");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.directory.join("pg_doorman.toml")).unwrap();
    }

    pub(crate) fn sighup(&self) {
        self.signal("-HUP");
    }

    pub(crate) fn sigterm(&self) {
        self.signal("-TERM");
    }

    pub(crate) fn sigint(&self) {
        self.signal("-INT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("/bin/kill")
            .arg(signal)
            .arg(self.pid().to_string())
            .status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "pg_doorman does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        let path = format!("/proc/{}/smaps_rollup", self.pid());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with("Rss:")).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<usize>()
            .unwrap()
            * 1024
    }

    /// Whether the process still runs and serves a new client.
    pub(crate) fn assert_serves(&self) {
        assert_eq!(self.connect().value("select 42"), "42");
    }
}

impl Drop for Doorman {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        // Both fail only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let start = log
                .char_indices()
                .rev()
                .nth(20_000)
                .map_or(0, |(index, _)| index);
            eprintln!(
                "--- pg_doorman: ended by itself: {ended:?}; log:\n{}---",
                &log[start..]
            );
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
