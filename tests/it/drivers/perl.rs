//! `DBD::Pg`, the driver of Perl.
//!
//! Owns: one test a program. Does not own: what the programs check (`tests/drivers/perl`).
//!
//! Source: the driver's own manual.

use std::process::Command;

use super::{drive, path, pooler, require};

#[test]
fn dbd_pg_serves_processes() {
    require(
        "DBD::Pg",
        Command::new("perl").args(["-MDBD::Pg", "-e", "1"]),
    );
    let mut command = Command::new("perl");
    command.arg(path("tests/drivers/perl/dbd_pg.pl"));
    drive(&mut command, &pooler());
}
