//! Drivers whose sessions stay open over many upgrades.
//!
//! Owns: running the programs that stay, and upgrading behind them.
//! Does not own: what their sessions expect (`tests/drivers/python/stay.py`, `tests/drivers/java/Stay.java`).
//! Invariant: every session works between any two upgrades.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::{built, path};
use crate::common::postgres::{DATABASE, PASSWORD};
use crate::common::tls::Certificates;
use crate::common::{Config, Doorman, Postgres, User};
use crate::upgrade::Chain;

const UPGRADES: u32 = 20;
/// Seconds that a program may take; with little else on the machine they all take one or two minutes.
const SECONDS_MAX: &str = "600";
/// One for the query of each driver that is to be cancelled, and some for the others.
const SERVERS: usize = 7;

/// A driver's program.
struct Staying {
    name: String,
    child: Child,
    told: Lines<BufReader<ChildStdout>>,
    turns: u64,
}

impl Staying {
    fn start(program: &[String], doorman: &Doorman, mode: &str) -> Self {
        let mut child = Command::new("timeout")
            .args(["--kill-after=5", SECONDS_MAX])
            .args(program)
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", doorman.port().to_string())
            .env("PGUSER", "app")
            .env("PGPASSWORD", PASSWORD)
            .env("PGDATABASE", DATABASE)
            .env("PGSSLMODE", mode)
            .env("PGGSSENCMODE", "disable")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("timeout (package coreutils) is there");
        let told = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            name: program.last().cloned().unwrap_or_default(),
            child,
            told,
            turns: 0,
        }
    }

    /// What the program says next.
    fn hear(&mut self) -> String {
        let line = self.told.next();
        line.unwrap_or_else(|| panic!("{} has ended", self.name))
            .unwrap()
    }

    /// Waits until each of the sessions has done something.
    fn work(&mut self) {
        let input = self.child.stdin.as_mut().unwrap();
        assert!(input.write_all(b"\n").is_ok(), "{} has ended", self.name);
        let turns = self.hear().parse().unwrap();
        assert!(turns > self.turns, "{}", self.name);
        self.turns = turns;
    }

    /// Each session does a last turn.
    fn end(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}: {status}", self.name);
        println!("{}: {} turns", self.name, self.turns);
    }
}

/// What to run for each driver.
fn programs() -> Vec<Vec<String>> {
    let shown = |below: &str| path(below).display().to_string();
    let python = |driver: &str| {
        let interpreter = shown("target/drivers/python/bin/python");
        let program = shown("tests/drivers/python/stay.py");
        vec![interpreter, "-B".to_owned(), program, driver.to_owned()]
    };
    let main = built("java", "Stay.class");
    let classes = main.parent().expect("a directory").display();
    let java = [
        "java",
        "-Xshare:auto",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        &format!("{classes}:{}", super::java::JAR),
        "Stay",
    ];
    let java = java.map(str::to_owned).to_vec();
    let mut all: Vec<_> = ["psycopg", "psycopg2", "asyncpg"].map(python).into();
    all.push(java);
    all
}

fn stay(config: Config, mode: &str) {
    let chain = Chain::start(config);
    let start = |program: Vec<String>| Staying::start(&program, &chain.0, mode);
    let mut all: Vec<_> = programs().into_iter().map(start).collect();
    for staying in &mut all {
        assert_eq!(staying.hear(), "ready");
    }
    for _ in 0..UPGRADES {
        chain.upgrade();
        for staying in &mut all {
            staying.work();
        }
    }
    assert_eq!(chain.heirs().len(), UPGRADES as usize);
    for staying in all {
        staying.end();
    }
}

/// Like the pooler of the other programs, with servers for queries that wait to be cancelled.
fn config(rules: &str) -> Config {
    let user = User::new("app", SERVERS).secret(&Postgres::shared().verifier("app"));
    super::pooler_for(rules).users(vec![user])
}

#[test]
fn sessions_of_drivers_do_not_notice_twenty_upgrades() {
    let rules = "host all all 127.0.0.1/32 scram-sha-256";
    stay(config(rules), "disable");
}

#[test]
fn encrypted_sessions_of_drivers_do_not_notice_twenty_upgrades() {
    let own = Certificates::new();
    let config = config("hostssl all all 127.0.0.1/32 scram-sha-256")
        .general("tls_certificate", own.file("server.crt"))
        .general("tls_private_key", own.file("server.key"));
    stay(config, "require");
}
