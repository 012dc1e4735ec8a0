//! Where clients connect: several addresses, IPv6, a Unix socket.
//!
//! Source: libpq-connect.html (host), auth-pg-hba-conf.html (local), app-psql.html.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use toml::Value;

use crate::cancel::wait_until_running;
use crate::common::postgres::{PASSWORD, programs_directory};
use crate::common::{
    Client, Config, Doorman, Login, Postgres, at_once, eventually, port, unique,
    with_one_and_two_shards,
};

with_one_and_two_shards!(
    unix_clients_are_served_under_local_rules,
    unix_clients_may_be_the_only_ones,
    unix_clients_prove_who_they_are,
    unix_clients_can_cancel,
    unix_clients_are_spread_over_the_shards,
    the_socket_file_comes_and_goes,
    several_addresses_are_listened_on,
    both_families_are_served_by_one_address,
    families_are_kept_apart_if_both_are_listed,
);

/// A directory for a socket, gone with the value.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let name = format!("it-{}-{}", std::process::id(), unique("s"));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn socket(&self, port: u16) -> PathBuf {
        self.0.join(format!(".s.PGSQL.{port}"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config(shards: usize, directory: &Directory) -> Config {
    Config::new(Postgres::shared())
        .shards(shards)
        .general("unix_socket_dir", directory.text())
        .hba("local all all trust")
}

fn psql(directory: &Directory, port: u16) -> Command {
    let mut command = Command::new(programs_directory().join("psql"));
    command
        .args(["-X", "-q", "-A", "-t", "-U", "app", "-h", directory.text()])
        .args(["-p", &port.to_string(), "-d", "it"])
        .env("PGPASSWORD", PASSWORD);
    command
}

fn ask(directory: &Directory, port: u16, sql: &str) -> Output {
    psql(directory, port).arg("-c").arg(sql).output().unwrap()
}

fn answer(directory: &Directory, port: u16, sql: &str) -> String {
    let output = ask(directory, port, sql);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn unix_clients_are_served_under_local_rules(shards: usize) {
    let directory = Directory::new();
    let doorman = config(shards, &directory)
        .hba("local all all trust\nhost all all 127.0.0.1/32 reject")
        .start();
    for _ in 0..4 {
        assert_eq!(answer(&directory, doorman.port(), "select 6 * 7"), "42");
    }
    assert_eq!(doorman.login().refusal().sqlstate(), "28000");
    doorman.rewrite(config(shards, &directory).hba("host all all all trust"));
    doorman.sighup();
    eventually("local clients are not meant by host rules", || {
        let output = ask(&directory, doorman.port(), "select 1");
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("local")
    });
    doorman.assert_serves();
}

fn unix_clients_may_be_the_only_ones(shards: usize) {
    let directory = Directory::new();
    let doorman = config(shards, &directory).general("host", "").start();
    assert_eq!(answer(&directory, doorman.port(), "select 1"), "1");
    assert!(TcpStream::connect(("127.0.0.1", doorman.port())).is_err());
    let mut psql = psql(&directory, doorman.port());
    let output = psql
        .args(["-d", "pgdoorman", "-c", "show listen"])
        .output()
        .unwrap();
    let path = directory.socket(doorman.port());
    let expected = format!("{}|{}|unix\n", path.display(), doorman.port());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

fn unix_clients_prove_who_they_are(shards: usize) {
    let directory = Directory::new();
    let postgres = Postgres::shared();
    let user = crate::common::User::new("app", 2).secret(&postgres.verifier("app"));
    let config = config(shards, &directory).users(vec![user]);
    let doorman = config.hba("local all all scram-sha-256").start();
    assert_eq!(
        answer(&directory, doorman.port(), "select current_user"),
        "app"
    );
    let mut wrong = psql(&directory, doorman.port());
    let output = wrong.env("PGPASSWORD", "wrong").args(["-c", "select 1"]);
    assert!(!output.output().unwrap().status.success());
}

fn unix_clients_can_cancel(shards: usize) {
    let directory = Directory::new();
    let doorman = config(shards, &directory).start();
    let mark = unique("unix_cancel");
    let child = psql(&directory, doorman.port())
        .arg("-c")
        .arg(format!("select pg_sleep(60) as {mark}"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until_running(&mark);
    let pid = child.id().to_string();
    let status = Command::new("/bin/kill").args(["-INT", &pid]).status();
    assert!(status.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("due to user request"), "{told}");
}

fn unix_clients_are_spread_over_the_shards(shards: usize) {
    let directory = Directory::new();
    let doorman = config(shards, &directory)
        .hba("local all all trust\nhost all all 127.0.0.1/32 trust")
        .general("log_client_connections", true)
        .start();
    let socket = directory.socket(doorman.port());
    // Half a startup packet: they stay without logging in.
    let clients: Vec<_> = (0..40)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    let mut console = doorman.login().database("pgdoorman").connect();
    eventually("each shard has its part", || {
        let rows = console.rows("show shards");
        let of = |row: &Vec<Option<String>>| row[1].as_ref().unwrap().parse::<usize>().unwrap();
        rows.iter().map(of).sum::<usize>() == 41
            && rows.iter().all(|row| of(row) + 4 >= 40 / shards)
    });
    drop(clients);
    at_once(4, |_| {
        assert_eq!(answer(&directory, doorman.port(), "select 2"), "2");
    });
    eventually("the log tells of them", || {
        let log = doorman.log();
        log.contains("client connected (plain) client=local")
            && log.contains("client disconnected client=local")
    });
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn the_socket_file_comes_and_goes(shards: usize) {
    let directory = Directory::new();
    let config = || config(shards, &directory);
    let first = config();
    let listen = first.port();
    let socket = directory.socket(listen);
    // What a process leaves that was killed.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let mut doorman = first.start();
    assert_eq!(answer(&directory, listen, "select 1"), "1");
    assert_eq!(mode(&socket), 0o600);
    // Another one with the same socket, though not the same TCP address.
    doorman.rewrite(config().general("host", "127.0.0.3"));
    let output = doorman.run_a_second_time();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains(&format!("cannot listen on {}", socket.display())),
        "{told}"
    );
    assert_eq!(answer(&directory, listen, "select 1"), "1");
    doorman.sigterm();
    doorman.wait();
    assert!(!socket.exists());
    let open = config().general("unix_socket_mode", "0770").start();
    assert_eq!(mode(&directory.socket(open.port())), 0o770);
}

fn listens(doorman: &Doorman) -> Vec<String> {
    let mut console = doorman.login().database("pgdoorman").connect();
    let rows = console.rows("show listen");
    let text = |row: Vec<Option<String>>| row.into_iter().flatten().collect::<Vec<_>>().join(" ");
    rows.into_iter().map(text).collect()
}

fn dial(address: &str, port: u16) -> Option<Client> {
    TcpStream::connect((address, port)).ok().map(Client::raw)
}

fn serves(doorman: &Doorman, address: &str) -> bool {
    let login = Login::new(doorman.port());
    dial(address, doorman.port()).is_some_and(|client| {
        let client = login.attempt_on(client);
        client.is_ok_and(|(mut client, _)| client.value("select 3") == "3")
    })
}

/// False, and told, on a machine without IPv6.
fn has_v6() -> bool {
    let has = TcpListener::bind(("::1", 0)).is_ok();
    if !has {
        eprintln!("SKIPPED: THIS MACHINE HAS NO IPv6");
    }
    has
}

const ALL: &str = "host all all 127.0.0.0/8 trust\nhost all all ::1/128 trust";

fn several_addresses_are_listened_on(shards: usize) {
    let addresses = vec![Value::from("127.0.0.1"), Value::from("127.0.0.2")];
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .general("host", addresses)
        .hba(ALL)
        .start();
    assert!(serves(&doorman, "127.0.0.1") && serves(&doorman, "127.0.0.2"));
    assert!(dial("127.0.0.3", doorman.port()).is_none());
    let port = doorman.port();
    let expected = [
        format!("127.0.0.1 {port} ipv4"),
        format!("127.0.0.2 {port} ipv4"),
    ];
    assert_eq!(listens(&doorman), expected);
    assert!(doorman.log().contains("listening address=127.0.0.2"));
    // One of several that is taken is enough to refuse the start.
    let taken = TcpListener::bind(("127.0.0.4", port::free())).unwrap();
    let port = i64::from(taken.local_addr().unwrap().port());
    let config = Config::new(Postgres::shared()).general("port", port);
    let text = config.general("host", "127.0.0.5, 127.0.0.4").text();
    doorman.rewrite_text(&text);
    let output = doorman.run_a_second_time();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains(&format!("cannot listen on 127.0.0.4:{port}")),
        "{told}"
    );
}

fn both_families_are_served_by_one_address(shards: usize) {
    if !has_v6() {
        return;
    }
    for host in ["::", "[::]", "*"] {
        let doorman = Config::new(Postgres::shared())
            .shards(shards)
            .general("host", host)
            .hba(ALL)
            .start();
        assert!(serves(&doorman, "127.0.0.1") && serves(&doorman, "::1"));
        assert_eq!(
            listens(&doorman),
            [format!(":: {} ipv6, ipv4", doorman.port())]
        );
    }
}

fn families_are_kept_apart_if_both_are_listed(shards: usize) {
    if !has_v6() {
        return;
    }
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .general("host", "127.0.0.1, ::")
        .hba(ALL)
        .start();
    assert!(serves(&doorman, "127.0.0.1") && serves(&doorman, "::1"));
    assert!(dial("127.0.0.2", doorman.port()).is_none());
    let port = doorman.port();
    let expected = [format!("127.0.0.1 {port} ipv4"), format!(":: {port} ipv6")];
    assert_eq!(listens(&doorman), expected);
}
