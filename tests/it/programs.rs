//! Programs that people use: psql, pgbench, psycopg2.
//!
//! Owns: running them. A program that is not installed is a failure, except psycopg2, whose
//! absence is told loudly.
//!
//! Source: app-psql.html, pgbench.html.

use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use crate::cancel::wait_until_running;
use crate::common::postgres::{DATABASE, PASSWORD, programs_directory};
use crate::common::{Config, Postgres, Target, everywhere, unique, with_one_and_two_shards};

everywhere!(
    psql_runs_a_script,
    psql_copies_in_and_out,
    psql_cancels_on_ctrl_c,
    pgbench_reads_by_the_simple_protocol,
    pgbench_reads_by_the_extended_protocol,
    pgbench_writes_by_the_simple_protocol,
    pgbench_writes_by_the_extended_protocol,
    pgbench_may_reconnect_for_every_transaction,
    psycopg2_works,
);

with_one_and_two_shards!(pgbench_uses_prepared_statements_in_session_mode);

/// A program of PostgreSQL, told where to connect.
fn program(name: &str, port: u16) -> Command {
    let mut command = Command::new(programs_directory().join(name));
    command
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", port.to_string())
        .env("PGUSER", "app")
        .env("PGPASSWORD", PASSWORD)
        .env("PGDATABASE", DATABASE)
        .env("PGCONNECT_TIMEOUT", "10");
    command
}

/// Runs `command` and returns what it wrote; failure of the program is failure of the test.
fn run(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the program is installed");
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(
        status.success(),
        "{command:?}: {status}\n{stdout}\n{stderr}"
    );
    stdout
}

/// psql without the settings of whoever runs the tests.
fn psql(target: &Target, script: &str) -> String {
    let mut command = program("psql", target.port());
    run(command
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c"])
        .arg(script))
}

fn psql_runs_a_script(target: &Target) {
    let table = unique("psql");
    let file = std::env::temp_dir().join(format!("{table}_{}.sql", std::process::id()));
    let script = format!(
        "begin;\ncreate table {table} (n int, word text);\n\
         insert into {table} select n, 'word ' || n from generate_series(1, 100) n;\ncommit;\n\
         select count(*), max(word) from {table};\n\\d {table}\n\
         select n from {table} order by n limit 3;\n\
         begin;\ndeclare c cursor for select n from {table} order by n;\n\
         fetch 2 from c;\ncommit;\ndrop table {table};\n"
    );
    std::fs::write(&file, script).unwrap();
    let mut command = program("psql", target.port());
    let output = run(command
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f"])
        .arg(&file));
    std::fs::remove_file(&file).unwrap();
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(
        lines,
        [
            "100|word 99",
            "n|integer|||",
            "word|text|||",
            "1",
            "2",
            "3",
            "1",
            "2"
        ]
    );
}

fn psql_cancels_on_ctrl_c(target: &Target) {
    let mark = unique("ctrl_c");
    let mut command = program("psql", target.port());
    let child = command
        .args(["-X", "-q", "-A", "-t", "-c"])
        .arg(format!("select pg_sleep(60) as {mark}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql is installed");
    wait_until_running(&mark);
    let mut kill = Command::new("/bin/kill");
    run(kill.arg("-INT").arg(child.id().to_string()));
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("canceling statement due to user request"),
        "{stderr}"
    );
    target.assert_serves();
}

fn psql_copies_in_and_out(target: &Target) {
    let table = unique("psql_copy");
    psql(target, &format!("create table {table} (n int)"));
    let mut command = program("psql", target.port());
    let copy = format!("\\copy {table} from program 'seq 1 5000'");
    run(command
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c"])
        .arg(copy));
    assert_eq!(
        psql(target, &format!("select sum(n) from {table}")),
        "12502500\n"
    );
    let output = psql(
        target,
        &format!("copy (select n from {table} order by n) to stdout"),
    );
    assert!(
        output
            .lines()
            .map(str::to_owned)
            .eq((1..=5000).map(|n: u32| n.to_string()))
    );
}

/// Makes the tables of pgbench, once for all tests.
fn make_tables() {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        run(program("pgbench", Postgres::shared().port()).args(["-i", "-q", "-s", "1"]));
    });
}

/// Runs pgbench with 8 clients; every transaction must succeed.
fn pgbench(port: u16, arguments: &[&str]) {
    make_tables();
    let mut command = program("pgbench", port);
    let output = run(command
        .args(["-n", "-c", "8", "-j", "2", "-t", "100"])
        .args(arguments));
    assert!(
        output.contains("number of transactions actually processed: 800/800"),
        "{output}"
    );
    assert!(
        output.contains("number of failed transactions: 0 "),
        "{output}"
    );
}

fn pgbench_reads_by_the_simple_protocol(target: &Target) {
    pgbench(target.port(), &["-S", "-M", "simple"]);
}

fn pgbench_reads_by_the_extended_protocol(target: &Target) {
    pgbench(target.port(), &["-S", "-M", "extended"]);
}

fn pgbench_writes_by_the_simple_protocol(target: &Target) {
    pgbench(target.port(), &["-N", "-M", "simple"]);
}

fn pgbench_writes_by_the_extended_protocol(target: &Target) {
    pgbench(target.port(), &["-N", "-M", "extended"]);
}

fn pgbench_may_reconnect_for_every_transaction(target: &Target) {
    pgbench(target.port(), &["-S", "-C"]);
}

fn pgbench_uses_prepared_statements_in_session_mode(shards: usize) {
    let config = Config::new(Postgres::shared())
        .shards(shards)
        .session_mode();
    let doorman = config.pool_size(8 * shards).start();
    for script in ["-S", "-N"] {
        pgbench(doorman.port(), &[script, "-M", "prepared"]);
    }
}

const PYTHON: &str = r#"
import os, psycopg2, psycopg2.extras
dsn = "connect_timeout=10 application_name=psycopg2"
connection = psycopg2.connect(dsn)
with connection, connection.cursor() as cursor:
    cursor.execute("select %s::int + 1, %s::text, %s::date", (41, "žofie's", "2024-02-29"))
    assert cursor.fetchone()[:2] == (42, "žofie's")
    cursor.execute("create temp table t (n int, word text) on commit drop")
    psycopg2.extras.execute_values(
        cursor, "insert into t values %s", [(n, "w%d" % n) for n in range(1000)])
    cursor.execute("select count(*), sum(n) from t")
    assert cursor.fetchone() == (1000, 499500)
    cursor.itersize = 10
try:
    with connection, connection.cursor() as cursor:
        cursor.execute("select 1/0")
    raise SystemExit("no error")
except psycopg2.errors.DivisionByZero:
    pass
with connection, connection.cursor("named") as cursor:
    cursor.itersize = 100
    cursor.execute("select generate_series(1, 1000)")
    assert sum(row[0] for row in cursor) == 500500
with connection, connection.cursor() as cursor:
    import io
    out = io.StringIO()
    cursor.copy_expert("copy (select generate_series(1, 100)) to stdout", out)
    assert len(out.getvalue().splitlines()) == 100
connection.autocommit = True
with connection.cursor() as cursor:
    for n in range(50):
        cursor.execute("select %s", (n,))
        assert cursor.fetchone() == (n,)
import threading
is_over = threading.Event()
def cancel():
    while not is_over.wait(0.02):
        connection.cancel()
canceller = threading.Thread(target=cancel)
canceller.start()
try:
    with connection.cursor() as cursor:
        cursor.execute("select pg_sleep(60)")
    raise SystemExit("not cancelled")
except psycopg2.errors.QueryCanceled:
    pass
is_over.set()
canceller.join()
with connection.cursor() as cursor:
    cursor.execute("select 1")
connection.close()
print("fine")
"#;

fn psycopg2_works(target: &Target) {
    let is_there = Command::new("python3")
        .args(["-c", "import psycopg2"])
        .output();
    if !is_there.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: python3 with psycopg2 (package python3-psycopg2) IS NOT INSTALLED");
        return;
    }
    let mut command = Command::new("python3");
    command.args(["-c", PYTHON]);
    for (name, value) in program("psql", target.port()).get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    assert_eq!(run(&mut command), "fine\n");
}
