//! Drivers that applications use, each in a program of its own or, for Rust, in this one.
//!
//! Owns: the pooler that they go through, running a driver's program.
//! Does not own: what the programs check (`tests/drivers`), installing them (`tests/drivers/install`).
//! Invariants: there are always more clients than servers; a driver that is not there fails its
//! test.
//!
//! Source: libpq-envars.html.

mod c;
mod go;
mod java;
mod known_gaps;
mod npgsql;
mod rust;

use std::path::PathBuf;
use std::process::Command;

use crate::common::postgres::{DATABASE, PASSWORD};
use crate::common::{Config, Doorman, Postgres};

/// Seconds that a program may take; on a machine with little to do it takes a few.
const SECONDS_MAX: &str = "120";

/// A pooler in transaction mode with two shards and three servers.
pub(super) fn pooler() -> Doorman {
    Config::new(Postgres::shared())
        .shards(2)
        .pool_size(3)
        .start()
}

/// Runs a driver's program against `doorman`; a failure of the program fails the test.
pub(super) fn drive(command: &mut Command, doorman: &Doorman) {
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
        "{command:?}: {}; what is missing is installed and built by tests/run\n{stdout}\n{stderr}",
        output.status,
    );
    doorman.assert_serves();
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
