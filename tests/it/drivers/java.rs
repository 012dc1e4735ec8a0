//! The driver of Java: pgjdbc.
//!
//! Owns: running the program of `tests/drivers/java`.

use std::process::Command;

use super::{built, drive, pooler};

/// Where Debian has the driver.
pub(super) const JAR: &str = "/usr/share/java/postgresql.jar";

#[test]
fn pgjdbc_gets_its_own_answers() {
    let main = built("java", "Pgjdbc.class");
    let classes = main.parent().expect("a directory").display();
    let doorman = pooler();
    let mut command = Command::new("java");
    command
        .args([
            "-Xshare:auto",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
        ])
        .args(["-cp", &format!("{classes}:{JAR}"), "Pgjdbc"]);
    drive(&mut command, &doorman);
}
