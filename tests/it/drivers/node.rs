//! Drivers of Node.js.
//!
//! Owns: one test a program. Does not own: what the programs check (`tests/drivers/node`).
//!
//! Source: the drivers' own manuals.

use std::process::Command;

use super::{drive, path, pooler, require};

/// Node.js, told where its packages are.
fn node() -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", path("target/drivers/node/node_modules"));
    command
}

/// Runs a program that needs `packages`.
fn run(program: &str, packages: &[&str]) {
    for package in packages {
        let probe = format!("require.resolve('{package}')");
        require(package, node().args(["-e", probe.as_str()]));
    }
    let mut command = node();
    command.arg(path("tests/drivers/node").join(program));
    drive(&mut command, &pooler());
}

#[test]
fn node_postgres_serves_clients() {
    run("node_postgres.js", &["pg", "pg-cursor", "pg-query-stream"]);
}

#[test]
fn postgres_js_serves_clients() {
    run("postgres_js.js", &["postgres"]);
}
