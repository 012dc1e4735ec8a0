//! Drivers over TLS: a short login and a query in every mode they have.
//!
//! Owns: a pooler that lets nobody in without TLS, running the programs against it.
//! Does not own: what each mode must do (`tests/drivers/*/tls.*`).
//!
//! Source: libpq-ssl.html, libpq-envars.html; the drivers' own manuals.

use std::path::PathBuf;
use std::process::Command;

use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{built, path, pooler_for, run};
use crate::common::postgres::{DATABASE, PASSWORD};
use crate::common::tls::Certificates;
use crate::common::{Doorman, unique};
use crate::tls::psql_with;

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

/// The program for pgjdbc with a driver.
fn pgjdbc(jar: &str) -> Command {
    let main = built("java", "Tls.class");
    let classes = main.parent().expect("a directory").display();
    let mut command = Command::new("java");
    command
        .args([
            "-Xshare:auto",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
        ])
        .args(["-cp", &format!("{classes}:{jar}"), "Tls"]);
    command
}

#[test]
fn pgjdbc_connects_in_every_mode() {
    Encrypted::new().run(&mut pgjdbc(super::java::JAR));
}

#[test]
fn pgjdbc_requires_channel_binding() {
    let jar = built("java", "postgresql-42.7.jar");
    Encrypted::new().run(pgjdbc(&jar.display().to_string()).arg("bound"));
}

#[test]
fn pgx_verifies_and_gets_its_own_answers() {
    Encrypted::new().run_verified(&mut Command::new(built("go", "pgx")));
}

#[test]
fn lib_pq_verifies_and_gets_its_own_answers() {
    Encrypted::new().run_verified(&mut Command::new(built("go", "libpq")));
}

/// Logs in and asks for a value.
async fn ask(
    port: u16,
    certificates: &Certificates,
    mode: SslMode,
    binding: ChannelBinding,
) -> Result<i32, tokio_postgres::Error> {
    let tls = MakeRustlsConnect::new(certificates.client_config(None));
    let (client, connection) = tokio_postgres::Config::new()
        .host("localhost")
        .hostaddr(std::net::Ipv4Addr::LOCALHOST.into())
        .port(port)
        .user("app")
        .password(PASSWORD)
        .dbname(DATABASE)
        .ssl_mode(mode)
        .channel_binding(binding)
        .connect(tls)
        .await?;
    tokio::spawn(connection);
    let row = client.query_one("select 42", &[]).await?;
    Ok(row.get(0))
}

#[test]
fn tokio_postgres_connects_in_every_mode() {
    let encrypted = Encrypted::new();
    let port = encrypted.doorman.port();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (own, other) = (&encrypted.own, &encrypted.other);
    for (certificates, mode, binding, must) in [
        (own, SslMode::Disable, ChannelBinding::Disable, false),
        (own, SslMode::Prefer, ChannelBinding::Prefer, true),
        (own, SslMode::Require, ChannelBinding::Disable, true),
        (own, SslMode::Require, ChannelBinding::Require, true),
        (other, SslMode::Require, ChannelBinding::Require, false),
    ] {
        let answer = runtime.block_on(ask(port, certificates, mode, binding));
        let told = format!("{mode:?} {binding:?}: {answer:?}");
        assert_eq!(answer.ok(), must.then_some(42), "{told}");
    }
}

/// A cache of Kerberos with a ticket that is good for nothing, so that libpq asks for GSSAPI encryption.
struct Tickets(PathBuf);

impl Tickets {
    fn new() -> Self {
        let principal = |parts: &[&str]| {
            let mut bytes = 1_u32.to_be_bytes().to_vec();
            bytes.extend((parts.len() as u32 - 1).to_be_bytes());
            for part in parts {
                bytes.extend((part.len() as u32).to_be_bytes());
                bytes.extend(part.as_bytes());
            }
            bytes
        };
        let own = principal(&["EXAMPLE.ORG", "app"]);
        let granting = principal(&["EXAMPLE.ORG", "krbtgt", "EXAMPLE.ORG"]);
        let key = [&18_u16.to_be_bytes()[..], &32_u32.to_be_bytes(), &[7; 32]].concat();
        let until = u32::MAX >> 1;
        let times = [1_u32, 1, until, until].map(u32::to_be_bytes).concat();
        let flags_and_addresses = [0; 1 + 4 + 4 + 4];
        let tickets = [&4_u32.to_be_bytes()[..], b"none", &0_u32.to_be_bytes()].concat();
        let credential = [
            &own[..],
            &granting,
            &key,
            &times,
            &flags_and_addresses,
            &tickets,
        ];
        let file = [&[5, 4, 0, 0][..], &own, &credential.concat()].concat();
        let name = format!("doorman-it-{}-{}", std::process::id(), unique("tickets"));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, file).unwrap();
        Self(path)
    }
}

impl Drop for Tickets {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn psql_that_prefers_gssapi_goes_on_with_tls() {
    let encrypted = Encrypted::new();
    let tickets = Tickets::new();
    let cache = format!("FILE:{}", tickets.0.display());
    let environment = [("KRB5CCNAME", cache.as_str())];
    let authority = encrypted.own.file("ca.crt");
    let ask = |mode: &str| {
        let options = format!("{mode} sslrootcert={authority}");
        psql_with(encrypted.doorman.port(), &options, &environment)
    };
    for mode in ["allow", "prefer", "require", "verify-ca", "verify-full"] {
        let told = ask(&format!("gssencmode=prefer sslmode={mode}")).unwrap();
        assert!(told.contains("SSL connection"), "{mode}: {told}");
    }
    // It does ask: else it would say that it has no tickets.
    let refusal = ask("gssencmode=require").unwrap_err();
    let text = "server doesn't support GSSAPI encryption, but it was required";
    assert!(refusal.contains(text), "{refusal}");
}
