//! What commands say at a terminal.
//!
//! **Owns:** lines on standard output and standard error.
//! **Does not own:** the log, results that must be whole (`result_file`).
//! **Invariant:** a reader that has gone, or a full disk, changes nothing about what a command does.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Writes a line to standard output.
pub(super) fn out(line: &dyn Display) {
    // Nobody is left who could be told.
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes a line to standard error.
pub(super) fn err(line: &dyn Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
