//! Drivers over TLS: a short login and a query in every mode they have.
//!
//! Owns: a pooler that lets nobody in without TLS, running the programs against it.
//! Does not own: what each mode must do (`tests/drivers/*/tls.*`).
//!
//! Source: libpq-ssl.html, libpq-envars.html; the drivers' own manuals.

use std::process::Command;

use super::{built, path, pooler_for, run};
use crate::common::Doorman;
use crate::common::tls::Certificates;

/// The authority of the pooler's certificate, another one, and the pooler.
struct Encrypted {
    own: Certificates,
    other: Certificates,
    doorman: Doorman,
}

impl Encrypted {
    fn new() -> Self {
        let own = Certificates::new();
        let config = pooler_for("hostssl all all 127.0.0.1/32 scram-sha-256")
            .general("tls_certificate", own.file("server.crt"))
            .general("tls_private_key", own.file("server.key"));
        Self {
            doorman: config.start(),
            other: Certificates::new(),
            own,
        }
    }

    /// Runs a program that must succeed.
    fn run(&self, command: &mut Command) {
        command
            .env("DOORMAN_CA", self.own.file("ca.crt"))
            .env("DOORMAN_OTHER_CA", self.other.file("ca.crt"));
        run(command, &self.doorman);
        // Nobody came without.
        let plain = self.doorman.login().refusal();
        assert_eq!(plain.sqlstate(), "28000");
    }

    /// Runs a program that takes the mode from its environment.
    fn run_verified(&self, command: &mut Command) {
        command
            .env("PGSSLMODE", "verify-full")
            .env("PGSSLROOTCERT", self.own.file("ca.crt"));
        self.run(command);
    }
}

#[test]
fn python_connects_in_every_mode() {
    let mut command = Command::new(path("target/drivers/python/bin/python"));
    command.arg("-B").arg(path("tests/drivers/python/tls.py"));
    Encrypted::new().run(&mut command);
}

#[test]
fn node_connects_with_every_setting() {
    let mut command = Command::new("node");
    command
        .env("NODE_PATH", path("target/drivers/node/node_modules"))
        .arg(path("tests/drivers/node/tls.js"));
    Encrypted::new().run(&mut command);
}

#[test]
fn pgjdbc_connects_in_every_mode() {
    let main = built("java", "Tls.class");
    let classes = main.parent().expect("a directory").display();
    let mut command = Command::new("java");
    command
        .args([
            "-Xshare:auto",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
        ])
        .args(["-cp", &format!("{classes}:{}", super::java::JAR), "Tls"]);
    Encrypted::new().run(&mut command);
}

#[test]
fn pgx_verifies_and_gets_its_own_answers() {
    Encrypted::new().run_verified(&mut Command::new(built("go", "pgx")));
}

#[test]
fn lib_pq_verifies_and_gets_its_own_answers() {
    Encrypted::new().run_verified(&mut Command::new(built("go", "libpq")));
}
