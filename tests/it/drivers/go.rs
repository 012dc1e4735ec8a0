//! The drivers of Go: pgx and lib/pq.
//!
//! Owns: running the programs of `tests/drivers/go`.

use std::process::Command;

use super::{built, drive, pooler};

#[test]
fn pgx_gets_its_own_answers() {
    let doorman = pooler();
    drive(&mut Command::new(built("go", "pgx")), &doorman);
}

#[test]
fn lib_pq_gets_its_own_answers() {
    let doorman = pooler();
    drive(&mut Command::new(built("go", "libpq")), &doorman);
}
