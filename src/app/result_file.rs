//! Where commands that make a configuration put it.
//!
//! **Owns:** standard output or a file of its own, and what is said if that fails.
//! **Does not own:** the text.
//! **Invariant:** a file that is made here can be read by its owner only: it holds passwords.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

/// Writes `text` to `file`, or to standard output. Exit code 1 if that fails.
pub(super) fn write(text: &str, file: Option<&Path>, command: &str) -> ExitCode {
    let (result, place) = match file {
        None => (to_stdout(text), "standard output".to_owned()),
        Some(file) => (to_file(text, file), file.display().to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pg_doorman {command}: cannot write {place}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn to_stdout(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn to_file(text: &str, file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(file)?.write_all(text.as_bytes())
}
