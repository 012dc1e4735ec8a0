//! Where commands that make a configuration put it.
//!
//! **Owns:** standard output or a file of its own, and what is said if that fails.
//! **Does not own:** the text.
//! **Invariants:** the file can be read by its owner only, also if there was one before: it holds
//! passwords. It is the old one or the new one, never half of it.
//!
//! Source: rename(2).

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use super::say;

/// Writes `text` to `file`, or to standard output. Exit code 1 if that fails.
pub(super) fn write(text: &str, file: Option<&Path>, command: &str) -> ExitCode {
    let (result, place) = match file {
        None => (to_stdout(text), "standard output".to_owned()),
        Some(file) => (to_file(text, file), file.display().to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::err(&format_args!(
                "pg_doorman {command}: cannot write {place}: {error}"
            ));
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
    // What a link names is replaced, not the link.
    let target = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    if fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
        // A device or a pipe: there is nothing to be replaced.
        let mut device = OpenOptions::new().write(true).open(&target)?;
        return device.write_all(text.as_bytes());
    }
    let Some(name) = target.file_name() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut new = name.to_owned();
    new.push(format!(".{}.new", std::process::id()));
    let new = target.with_file_name(new);
    let outcome = create(text, &new).and_then(|()| fs::rename(&new, &target));
    if outcome.is_err() {
        // It may not have come into being.
        let _ = fs::remove_file(&new);
    }
    outcome
}

fn create(text: &str, file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_that_was_readable_by_others_is_not_any_more() {
        let name = format!("doorman-result-{}", rand::random::<u64>());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        let (file, link) = (directory.join("file"), directory.join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let reader = fs::File::open(&file).unwrap();
        symlink("file", &link).unwrap();
        to_file("secret", &link).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "secret");
        let rights = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(rights & 0o777, 0o600);
        assert_eq!(io::read_to_string(reader).unwrap(), "old");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
        to_file("nowhere", Path::new("/dev/null")).unwrap();
        assert!(to_file("x", &directory).is_err());
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        fs::remove_dir_all(directory).unwrap();
    }
}
