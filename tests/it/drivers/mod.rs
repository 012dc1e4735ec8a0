//! Drivers that applications use, each in a program of its own or, for Rust, in this one.
//!
//! Owns: the pooler that they go through, finding and running a driver's program.
//! Does not own: what the programs check (`tests/drivers`), installing what they need
//! (`tests/drivers/install`).
//! Invariants: there are always more clients than servers; a driver that is not there fails its
//! test.
//!
//! Source: libpq-envars.html.

mod c;
mod go;
mod java;
mod node;
mod npgsql;
mod perl;
mod php;
mod python;
mod rust;
mod stay;
mod tls;

use std::path::PathBuf;
use std::process::Command;

use crate::common::postgres::{DATABASE, PASSWORD};
use crate::common::{Config, Doorman, Postgres, User};

/// Seconds that a program may take; on a machine with little else to do it takes a few.
const SECONDS_MAX: &str = "180";

/// Who does not find a free server for so long is refused. A busy machine is no reason to.
const WAIT: &str = "60s";

/// A pooler in transaction mode with two shards and three servers. Drivers prove who they are by
/// SCRAM.
pub(super) fn pooler() -> Doorman {
    pooler_for("host all all 127.0.0.1/32 scram-sha-256").start()
}

/// Such a pooler with these rules.
pub(super) fn pooler_for(rules: &str) -> Config {
    let postgres = Postgres::shared();
    let user = User::new("app", 3).secret(&postgres.verifier("app"));
    Config::new(postgres)
        .shards(2)
        .users(vec![user])
        .hba(rules)
        .general("query_wait_timeout", WAIT)
}

/// Runs a driver's program against `doorman`, which must serve others afterwards.
pub(super) fn drive(command: &mut Command, doorman: &Doorman) {
    run(command, doorman);
    let mut client = doorman.login().password(PASSWORD).connect();
    assert_eq!(client.value("select 42"), "42");
}

/// Runs a driver's program against `doorman`; a failure of the program fails the test.
pub(super) fn run(command: &mut Command, doorman: &Doorman) {
    let mut limited = Command::new("timeout");
    limited
        .args(["--kill-after=5", SECONDS_MAX])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        limited.env(name, value.unwrap_or_default());
    }
    let output = limited
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", doorman.port().to_string())
        .env("PGUSER", "app")
        .env("PGPASSWORD", PASSWORD)
        .env("PGDATABASE", DATABASE)
        .output()
        .expect("timeout (package coreutils) is there");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{stdout}\n{stderr}",
        output.status,
    );
    // Shown with --nocapture, and which gaps are known.
    println!("{stdout}");
}

/// Fails the test if `probe` cannot be run or fails: then `driver` is not installed.
pub(super) fn require(driver: &str, probe: &mut Command) {
    let output = probe.output();
    assert!(
        output.is_ok_and(|output| output.status.success()),
        "{driver} is not there; tests/run installs the drivers (tests/drivers/install)"
    );
}

/// A path in this repository.
pub(super) fn path(below: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(below)
}

/// A program that `tests/drivers/install` has built for `language`.
pub(super) fn built(language: &str, name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("target/drivers").join(language).join(name);
    assert!(
        path.exists(),
        "{} is not there; tests/run installs drivers and builds their programs",
        path.display()
    );
    path
}
