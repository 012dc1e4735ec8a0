//! Running in the background (`--daemon`).
//!
//! ```text
//!  foreground ──split──▶ first child ──new session, split──▶ daemon
//!      │                     └ ends                            │ pid file, locked
//!      │ waits                                                 │ start as usual
//!      ◀────────────────── ready, or why not ──────────────────┘
//!      └ ends with 0, or with the daemon's exit code
//! ```
//!
//! **Owns:** the order of steps, the pid file, what the foreground is told.
//! **Does not own:** the system calls (`shards::background`).
//! **Invariants:** the foreground ends with 0 only when the daemon listens and its pid is in the file;
//! nothing has started a thread before; a start that fails leaves the pid file as it was.
//!
//! Source: daemon(7), flock(2).

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use shards::background::{self, Half};

use super::run::EXIT_OS;
use super::say;

/// Rights that files of a daemon do not have: write for the group, all for others.
const WITHHELD_RIGHTS: u32 = 0o027;

/// Which process goes on.
pub(super) enum Side {
    /// The one in the background.
    Daemon(Foreground),
    /// The one that was started; it ends now, with this code.
    Foreground(ExitCode),
}

/// The process that waits for news of the daemon, as the daemon sees it.
#[derive(Debug)]
pub(super) struct Foreground {
    pipe: PipeWriter,
    /// Locked as long as the daemon runs.
    pid_file: File,
    /// Where that is.
    path: PathBuf,
}

impl Foreground {
    /// Writes the pid and tells that the daemon listens.
    ///
    /// # Errors
    ///
    /// The pid cannot be written; this has been told.
    pub(super) fn ready(mut self) -> io::Result<File> {
        if let Err(error) = write_pid(&mut self.pid_file) {
            let step = format!("write pid file {}", self.path.display());
            let reason = format!("Error daemonize: {}", failed(&step, &error));
            self.tell(EXIT_OS, &reason);
            return Err(error);
        }
        self.tell(0, "");
        Ok(self.pid_file)
    }

    /// Tells why the daemon ends.
    pub(super) fn refused(self, code: u8, reason: &str) {
        let is_new = self.pid_file.metadata().is_ok_and(|file| file.len() == 0);
        if is_new {
            // There was none, or an empty one.
            let _ = std::fs::remove_file(&self.path);
        }
        self.tell(code, reason);
    }

    fn tell(&self, code: u8, reason: &str) {
        let message = [&[code], reason.as_bytes()].concat();
        // Nobody may be waiting any more.
        let _ = (&self.pipe).write_all(&message);
    }
}

/// Goes into the background.
///
/// # Errors
///
/// What could not be done, for the foreground's standard error.
pub(super) fn detach(pid_file: &Path) -> Result<Side, String> {
    let (news, pipe) = io::pipe().map_err(|error| failed("make a pipe", &error))?;
    if background::split().map_err(|error| failed("fork", &error))? == Half::Parent {
        drop(pipe);
        return Ok(Side::Foreground(wait(news)));
    }
    drop(news);
    match become_daemon(pid_file) {
        Ok(file) => Ok(Side::Daemon(Foreground {
            pipe,
            pid_file: file,
            path: pid_file.to_owned(),
        })),
        Err(reason) => {
            let message = [&[EXIT_OS], format!("Error daemonize: {reason}").as_bytes()].concat();
            let _ = (&pipe).write_all(&message);
            Ok(Side::Foreground(ExitCode::from(EXIT_OS)))
        }
    }
}

fn failed(step: &str, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("unable to {step}, errno {number} ({error})"),
        None => format!("unable to {step}: {error}"),
    }
}

fn become_daemon(pid_file: &Path) -> Result<File, String> {
    background::leave_terminal().map_err(|error| failed("create a session", &error))?;
    background::withhold_rights(WITHHELD_RIGHTS);
    if background::split().map_err(|error| failed("fork", &error))? == Half::Parent {
        // The leader of the session could get a terminal again.
        std::process::exit(0);
    }
    let file = lock_pid_file(pid_file)?;
    background::silence().map_err(|error| failed("redirect standard streams", &error))?;
    Ok(file)
}

/// Opens the pid file. What is in it stays until the daemon listens.
fn lock_pid_file(path: &Path) -> Result<File, String> {
    let step = |what: &str| format!("{what} pid file {}", path.display());
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).create(true).truncate(false);
    let file = opened
        .open(path)
        .map_err(|error| failed(&step("open"), &error))?;
    file.try_lock()
        .map_err(|error| failed(&step("lock"), &error.into()))?;
    Ok(file)
}

/// Writes the pid of this process.
pub(super) fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// Waits until the daemon listens or ends.
fn wait(mut news: PipeReader) -> ExitCode {
    let mut message = Vec::new();
    let is_read = news.read_to_end(&mut message).is_ok();
    match message.split_first() {
        Some((0, _)) if is_read => ExitCode::SUCCESS,
        Some((code, reason)) => {
            say::err(&String::from_utf8_lossy(reason));
            ExitCode::from(*code)
        }
        None => {
            say::err(&"Error daemonize: the process in the background has ended");
            ExitCode::from(EXIT_OS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_holds_the_pid_and_belongs_to_one_process() {
        let name = format!("doorman-pid-{}", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "a much longer old content\n").unwrap();
        let mut file = lock_pid_file(&path).unwrap();
        let before = std::fs::read_to_string(&path).unwrap();
        assert_eq!(before, "a much longer old content\n");
        write_pid(&mut file).unwrap();
        let expected = format!("{}\n", std::process::id());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        let error = lock_pid_file(&path).unwrap_err();
        assert!(error.starts_with("unable to lock pid file /"), "{error}");
        drop(file);
        assert!(lock_pid_file(&path).is_ok());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_foreground_gets_the_exit_code_of_the_daemon() {
        for (message, expected) in [
            (&b"\0"[..], ExitCode::SUCCESS),
            (b"\x4ereason", ExitCode::from(78)),
            (b"", ExitCode::from(EXIT_OS)),
        ] {
            let (news, mut pipe) = io::pipe().unwrap();
            pipe.write_all(message).unwrap();
            drop(pipe);
            assert_eq!(wait(news), expected);
        }
    }
}
