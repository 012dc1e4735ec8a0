//! Drivers of Python.
//!
//! Owns: one test a program. Does not own: what the programs check (`tests/drivers/python`).
//!
//! Source: the drivers' own manuals.

use std::process::Command;

use super::{drive, path, pooler, require};

const PYTHON: &str = "target/drivers/python/bin/python";

/// Runs a program that needs `modules`.
fn run(program: &str, modules: &str) {
    let probe = format!("import {modules}");
    require(
        modules,
        Command::new(path(PYTHON)).args(["-c", probe.as_str()]),
    );
    let mut command = Command::new(path(PYTHON));
    // Bytecode beside the programs would be left in the source.
    command
        .args(["-B"])
        .arg(path("tests/drivers/python").join(program));
    drive(&mut command, &pooler());
}

#[test]
fn psycopg_3_serves_threads() {
    run("psycopg3_threads.py", "psycopg");
}

#[test]
fn psycopg_3_serves_tasks() {
    run("psycopg3_async.py", "psycopg, psycopg_pool");
}

#[test]
fn psycopg_2_serves_threads() {
    run("psycopg2_threads.py", "psycopg2");
}

#[test]
fn asyncpg_serves_tasks() {
    run("asyncpg_clients.py", "asyncpg");
}

#[test]
fn sqlalchemy_serves_threads_and_tasks() {
    run("sqlalchemy_clients.py", "sqlalchemy, psycopg, asyncpg");
}
