//! Throw-away PostgreSQL servers.
//!
//! Owns: data directories below the temporary directory, the `postgres` processes in them.
//! Does not own: what tests put into the databases.
//! Invariants: a server and its directory are gone when the test process is gone, however it
//! ended. A small shell (the keeper) holds the server and waits for its standard input to close.
//!
//! ```text
//!  test process ──stdin: "start" "stop" "crash"──► keeper (bash, user postgres)
//!               ◄─stdout: "done"─────────────────      └── pg_ctl ── postgres
//!               ──(gone: end of file)────────────►  immediate stop, rm -rf
//! ```
//!
//! Source: app-initdb.html, app-pg-ctl.html, auth-pg-hba-conf.html.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use super::client::Client;
use super::login::Login;
use super::port;
use super::tls::{self, Certificates};

/// Password of every user that has one.
pub(crate) const PASSWORD: &str = "secret";
/// The database of the tests.
pub(crate) const DATABASE: &str = "it";
/// A user with letters outside ASCII; logs in with SCRAM.
pub(crate) const UTF8_USER: &str = "žofie";

/// What the keeper does. `$bin`, `$port`, `$hba`, `$conf` come from its environment.
const KEEPER: &str = r#"
set -u
dir=$(mktemp -d "${TMPDIR:-/tmp}/doorman-it.XXXXXX") || exit 1
chmod 755 "$dir"
trap '"$bin/pg_ctl" -D "$dir/data" -m immediate -s -w stop >/dev/null 2>&1; rm -rf "$dir"' EXIT
"$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync \
    >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; exit 1; }
printf '%s\n' "$conf" "unix_socket_directories = '$dir'" "port = $port" \
    >>"$dir/data/postgresql.conf"
printf '%s\n' "$hba" >"$dir/data/pg_hba.conf"
echo "$dir"
while read -r command; do
    case $command in
        start) "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -s -w -t 60 start </dev/null >&2 ;;
        stop) "$bin/pg_ctl" -D "$dir/data" -m fast -s -w stop >&2 ;;
        crash) "$bin/pg_ctl" -D "$dir/data" -m immediate -s -w stop >&2 ;;
    esac && echo done || echo failed
done
"#;

const CONF: &str = "listen_addresses = '127.0.0.1'
max_connections = 200
fsync = off
synchronous_commit = off
full_page_writes = off
jit = off
log_connections = on
password_encryption = 'scram-sha-256'";

/// The files are in the data directory.
const SSL_CONF: &str = "ssl = on
ssl_ca_file = 'root.crt'";

/// Rules that ask for a password over TCP, but not of the superuser.
pub(crate) const HBA: &str = "local all postgres trust
local all app_trust trust
local all all scram-sha-256
host all postgres 127.0.0.1/32 trust
host all app_trust 127.0.0.1/32 trust
host all app_clear 127.0.0.1/32 password
host all app_md5 127.0.0.1/32 md5
host all all 127.0.0.1/32 scram-sha-256";

/// A running PostgreSQL.
#[derive(Debug)]
pub(crate) struct Postgres {
    port: u16,
    directory: PathBuf,
    keeper: Mutex<Keeper>,
}

#[derive(Debug)]
struct Keeper {
    child: Child,
    // None only while dropping.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Postgres {
    /// The server which all tests of this process share, started by the first that asks.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::private)
    }

    /// A server of one's own, to be stopped and started at will.
    pub(crate) fn private() -> Self {
        let with_tls = tls::is_everywhere().then(Certificates::shared);
        Self::with(HBA, with_tls.map(|certificates| (certificates, "server")))
    }

    /// A server with these rules; with TLS if there is a certificate for it.
    pub(crate) fn with(hba: &str, certificate: Option<(&Certificates, &str)>) -> Self {
        let port = port::free();
        let ssl = certificate.map_or("", |_| SSL_CONF);
        let mut keeper = Keeper::spawn(port, hba, &format!("{CONF}\n{ssl}"));
        let directory = PathBuf::from(keeper.answer());
        if let Some((certificates, name)) = certificate {
            for end in ["crt", "key"] {
                let from = certificates.file(&format!("{name}.{end}"));
                give_file(&directory, Path::new(&from), &format!("server.{end}"));
            }
            let authority = certificates.file("ca.crt");
            give_file(&directory, Path::new(&authority), "root.crt");
        }
        keeper.command("start");
        let postgres = Self {
            port,
            directory,
            keeper: Mutex::new(keeper),
        };
        postgres.create_users();
        postgres
    }

    /// TCP port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Directory of the Unix socket.
    pub(crate) fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// Stops the server; clients are told so (fast shutdown).
    pub(crate) fn stop(&self) {
        self.keeper.lock().unwrap().command("stop");
    }

    /// Stops the server as a crash would (immediate shutdown).
    pub(crate) fn crash(&self) {
        self.keeper.lock().unwrap().command("crash");
    }

    /// Starts the server after `stop` or `crash`.
    pub(crate) fn start(&self) {
        self.keeper.lock().unwrap().command("start");
    }

    /// A login of the superuser, without a pooler.
    pub(crate) fn superuser(&self) -> Client {
        Login::new(self.port).user("postgres").connect()
    }

    /// Runs one statement as superuser and returns its rows as text.
    pub(crate) fn sql(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.superuser().rows(sql)
    }

    /// The first value of the first row, as text.
    pub(crate) fn value(&self, sql: &str) -> String {
        self.superuser().value(sql)
    }

    /// The stored secret of `user`: a SCRAM verifier or an md5 hash.
    pub(crate) fn verifier(&self, user: &str) -> String {
        self.value(&format!(
            "select rolpassword from pg_authid where rolname = '{user}'"
        ))
    }

    fn create_users(&self) {
        let mut superuser = Login::new(self.port)
            .user("postgres")
            .database("postgres")
            .connect();
        superuser.execute("create role app_trust login");
        for user in ["app", "app_clear", UTF8_USER] {
            superuser.execute(&format!(
                "create role \"{user}\" login password '{PASSWORD}'"
            ));
        }
        superuser.execute("set password_encryption = 'md5'");
        superuser.execute(&format!("create role app_md5 login password '{PASSWORD}'"));
        superuser.execute("grant app_md5 to app");
        superuser.execute(&format!("create database {DATABASE}"));
        superuser.execute("create database app");
        let mut superuser = self.superuser();
        superuser.execute("grant all on schema public to public");
    }
}

impl Keeper {
    fn spawn(port: u16, hba: &str, conf: &str) -> Self {
        let mut command = if is_root() {
            // PostgreSQL refuses to run as root.
            let mut command = Command::new("setpriv");
            command.args([
                "--reuid=postgres",
                "--regid=postgres",
                "--init-groups",
                "bash",
            ]);
            command
        } else {
            Command::new("bash")
        };
        let mut child = command
            .args(["-c", KEEPER])
            .current_dir("/")
            .env("bin", programs_directory())
            .env("port", port.to_string())
            .env("conf", conf)
            .env("hba", hba)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C must end the tests, and then the keeper by its standard input.
            .process_group(0)
            .spawn()
            .expect("bash and, for root, setpriv are there");
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            commands,
            answers,
        }
    }

    fn command(&mut self, command: &str) {
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
        assert_eq!(self.answer(), "done", "PostgreSQL: {command}");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(
            !line.is_empty(),
            "the keeper of PostgreSQL has ended, see its message above"
        );
        line.trim_end().to_owned()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.commands = None;
        // Fails only if the keeper is gone already, which is what we want.
        let _ = self.child.wait();
    }
}

/// Directory of `initdb`, `psql` and the others: `PG_BIN`, else the newest Debian package.
pub(crate) fn programs_directory() -> PathBuf {
    if let Some(directory) = std::env::var_os("PG_BIN") {
        return directory.into();
    }
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            let directory = entry.path().join("bin");
            directory
                .join("initdb")
                .exists()
                .then_some((version, directory))
        })
        .collect();
    found.sort();
    found
        .pop()
        .expect("PostgreSQL in /usr/lib/postgresql, or PG_BIN set")
        .1
}

/// Copies a file into the data directory, for PostgreSQL alone.
fn give_file(directory: &Path, from: &Path, name: &str) {
    use std::os::unix::fs::{MetadataExt, chown};
    let data = directory.join("data");
    let to = data.join(name);
    std::fs::copy(from, &to).unwrap();
    std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let owner = std::fs::metadata(&data).unwrap();
    chown(&to, Some(owner.uid()), Some(owner.gid())).unwrap();
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
