//! PDO, the driver of PHP.
//!
//! Owns: one test a program. Does not own: what the programs check (`tests/drivers/php`).
//!
//! Source: the driver's own manual.

use std::process::Command;

use super::{drive, path, pooler, require};

#[test]
fn pdo_serves_processes() {
    let probe = "exit(extension_loaded('pdo_pgsql') && extension_loaded('pcntl') ? 0 : 1);";
    require("PDO (pdo_pgsql)", Command::new("php").args(["-r", probe]));
    let mut command = Command::new("php");
    command.arg(path("tests/drivers/php/pdo_pgsql.php"));
    drive(&mut command, &pooler());
}
