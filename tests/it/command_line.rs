//! The program as somebody at a terminal sees it: checking, `generate`, `migrate`, exit codes.
//!
//! Source: sysexits.h.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::doorman::program;
use crate::common::postgres::{DATABASE, PASSWORD};
use crate::common::{Client, Login, Postgres, eventually, port, unique};

/// A directory of its own, with the program run in it.
pub(crate) struct Workplace {
    directory: PathBuf,
}

impl Workplace {
    pub(crate) fn new() -> Self {
        let name = format!("doorman-cli-{}-{}", std::process::id(), unique("place"));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg("20").arg(program()).args(arguments);
        command.current_dir(&self.directory);
        for name in ["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"] {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub(crate) fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_success(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", told(output));
}

/// What is written must load, and no warning may be about an unknown key.
fn assert_loads(place: &Workplace, file: &str) -> String {
    let output = place.run(&["-t", file]);
    assert_success(&output);
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = format!(
        "pg_doorman: the configuration file {file} syntax is ok\n\
         pg_doorman: configuration file {file} test is successful\n"
    );
    assert_eq!(said, expected);
    assert!(!told(&output).contains("unknown"), "{}", told(&output));
    told(&output)
}

fn rights(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn exit_codes_tell_what_was_wrong() {
    let place = Workplace::new();
    place.write("bad.toml", "[general]\nport = 'x'\n[pools]");
    for (arguments, code, expected) in [
        (&["--no-such-option"][..], 2, "--no-such-option"),
        (&["-l", "loud"], 2, "loud"),
        (&["migrate"], 2, "PGBOUNCER_INI"),
        (&["-t", "bad.toml"], 78, "general.port in bad.toml"),
        (&["bad.toml"], 78, "Config parse error: Configuration error"),
        (&["nothing.toml"], 78, "nothing.toml"),
        (&["-d", "nothing.toml"], 78, "nothing.toml"),
        (
            &["migrate", "nothing.ini"],
            1,
            "nothing.ini: cannot read it",
        ),
        (&["generate", "--ssl"], 1, "TLS"),
        (
            &["generate", "--reference", "-o", "no/where"],
            1,
            "cannot write no/where",
        ),
    ] {
        let output = place.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?} {}",
            told(&output)
        );
        assert!(
            told(&output).contains(expected),
            "{arguments:?}: {}",
            told(&output)
        );
    }
}

#[test]
fn every_value_of_no_color_is_fine() {
    let place = Workplace::new();
    for value in ["1", "true", "false", "", "yes please"] {
        let mut command = place.command(&["generate", "--reference"]);
        assert_success(&command.env("NO_COLOR", value).output().unwrap());
    }
}

#[test]
fn doubtful_settings_are_told_by_the_check() {
    let place = Workplace::new();
    assert_success(&place.run(&["generate", "--reference", "-o", "x.toml"]));
    assert!(assert_loads(&place, "x.toml").contains("warning: general.admin_password is one"));
    let text = place
        .read("x.toml")
        .replace("max_connections = 8192", "max_conections = 5");
    place.write("x.toml", &text);
    let output = place.run(&["-t", "x.toml"]);
    assert_success(&output);
    let expected = "warning: unknown key `max_conections` in general is ignored: did you mean `max_connections`?";
    assert!(told(&output).contains(expected), "{}", told(&output));
}

#[test]
fn what_nobody_can_read_does_not_change_the_outcome() {
    let place = Workplace::new();
    assert_success(&place.run(&["generate", "--reference", "-o", "x.toml"]));
    place.write("bad.toml", "[general");
    for (arguments, code) in [
        (["-t", "x.toml"], 0),
        (["-t", "bad.toml"], 78),
        (["migrate", "nothing"], 1),
    ] {
        let full = || {
            std::fs::File::options()
                .write(true)
                .open("/dev/full")
                .unwrap()
        };
        let mut command = place.command(&arguments);
        let status = command.stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn more_shards_than_can_be_started_are_refused_by_the_check() {
    let place = Workplace::new();
    assert_success(&place.run(&["generate", "--reference", "-o", "x.toml"]));
    for (count, code) in [(1024, 0), (1025, 78)] {
        let threads = format!("\nworker_threads = {count}\n");
        place.write(
            "y.toml",
            &place
                .read("x.toml")
                .replace("\nworker_threads = 4\n", &threads),
        );
        let output = place.run(&["-t", "y.toml"]);
        assert_eq!(output.status.code(), Some(code), "{}", told(&output));
    }
}

#[test]
fn an_existing_file_loses_its_other_readers() {
    let place = Workplace::new();
    place.write("x.toml", "old");
    assert_eq!(
        rights(&place.path("x.toml")) & 0o044,
        0o044,
        "the umask of tests"
    );
    assert_success(&place.run(&["generate", "--reference", "-o", "x.toml"]));
    assert_eq!(rights(&place.path("x.toml")), 0o600);
    assert!(place.read("x.toml").contains("[general]"));
}

#[test]
fn generate_writes_what_a_server_has() {
    let postgres = Postgres::shared();
    postgres.sql(&format!(
        "create role generate_super superuser login password '{PASSWORD}'"
    ));
    let expired = "create role generate_old login password 'x' valid until '2001-01-01'";
    postgres.sql(expired);
    let place = Workplace::new();
    let port = postgres.port().to_string();
    let socket = postgres.socket_directory().to_str().unwrap();
    let by_password = [
        "generate",
        "--host",
        "127.0.0.1",
        "-p",
        &port,
        "-u",
        "generate_super",
    ];
    for (file, arguments) in [
        ("a.yaml", [&by_password[..], &["-o", "a.yaml"]].concat()),
        (
            "b.toml",
            [&by_password[..], &["-o", "b.toml", "--ru"]].concat(),
        ),
        (
            "c.toml",
            vec![
                "generate",
                "--host",
                socket,
                "-p",
                &port,
                "-o",
                "c.toml",
                "--no-comments",
            ],
        ),
    ] {
        let mut command = place.command(&arguments);
        assert_success(&command.env("PGPASSWORD", PASSWORD).output().unwrap());
        assert_eq!(rights(&place.path(file)), 0o600);
        assert_loads(&place, file);
        let text = place.read(file);
        assert!(text.contains(&postgres.verifier("app")), "{text}");
        assert!(text.contains(&postgres.verifier("app_md5")), "{text}");
        assert!(
            !["template0", "app_trust", "generate_old"]
                .iter()
                .any(|name| text.contains(name)),
            "{text}"
        );
        assert!(!text.contains(PASSWORD), "{text}");
    }
}

#[test]
fn generate_says_why_a_server_cannot_be_asked() {
    let place = Workplace::new();
    let port = Postgres::shared().port().to_string();
    for (user, password, expected) in [
        ("app", PASSWORD, "permission denied"),
        ("app", "wrong", "password authentication failed"),
        ("app", "", "it wants a password"),
    ] {
        let arguments = [
            "generate",
            "--host",
            "127.0.0.1",
            "-p",
            &port,
            "-u",
            user,
            "-d",
            DATABASE,
        ];
        let mut command = place.command(&arguments);
        let output = command.env("PGPASSWORD", password).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(told(&output).contains(expected), "{}", told(&output));
        assert!(output.stdout.is_empty());
    }
    let arguments = ["generate", "--host", "127.0.0.1", "-p", "1"];
    assert_eq!(place.run(&arguments).status.code(), Some(1));
}

/// A process that ends with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_migrated_configuration_serves_the_clients_of_the_old_one() {
    let postgres = Postgres::shared();
    let place = Workplace::new();
    let listen = port::free();
    place.write(
        "pgbouncer.ini",
        &format!(
            "[databases]\n{DATABASE} = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {listen}\nauth_type = scram-sha-256\nauth_file = users.txt\n\
             pool_mode = transaction\nmax_user_connections = 7\nadmin_users = app\n",
            postgres.port()
        ),
    );
    place.write("users.txt", &format!("\"app\" \"{PASSWORD}\"\n"));
    let output = place.run(&["migrate", "pgbouncer.ini", "-o", "new.toml"]);
    assert_success(&output);
    assert!(told(&output).contains("remark: max_user_connections = 7: has no counterpart"));
    assert!(!told(&output).contains(PASSWORD));
    assert_eq!(rights(&place.path("new.toml")), 0o600);
    assert_loads(&place, "new.toml");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program());
    command
        .arg(place.path("new.toml"))
        .current_dir(place.path(""));
    let log = std::fs::File::create(place.path("log")).unwrap();
    let _running = Running(command.stdout(log).spawn().unwrap());
    eventually("the pooler accepts connections", || {
        std::net::TcpStream::connect(("127.0.0.1", listen)).is_ok()
    });
    let mut client: Client = Login::new(listen).user("app").connect();
    assert_eq!(client.value("select 42"), "42");
}

/// PgBouncer's own sample, if the package is installed.
#[test]
fn the_sample_of_pgbouncer_is_migrated() {
    let sample = Path::new("/etc/pgbouncer/pgbouncer.ini");
    if std::fs::read(sample).is_err() {
        eprintln!("SKIPPED: the sample of pgbouncer IS NOT INSTALLED OR NOT READABLE");
        return;
    }
    let place = Workplace::new();
    assert_success(&place.run(&["migrate", sample.to_str().unwrap(), "-o", "x.toml"]));
    assert_loads(&place, "x.toml");
}
