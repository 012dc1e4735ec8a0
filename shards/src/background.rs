//! Leaving the terminal: the steps of a process on its way into the background.
//!
//! Owns: the system calls.
//! Does not own: their order, the file with the process id.
//! Invariant: a process with more than one thread is not split, because the threads and the locks
//! they hold would be missing in one half.
//! Source: fork(2), setsid(2), umask(2), dup2(2), `proc_pid_task(5)`.

use std::fs::{self, OpenOptions};
use std::io;

use rustix::fs::Mode;
use rustix::process::{setsid, umask};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// Which half of a split process this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The new process.
    Child,
    /// The process there was before.
    Parent,
}

/// Splits the process in two.
///
/// # Errors
///
/// The system's, or `Other` if the process has more than one thread.
pub fn split() -> io::Result<Half> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("there are several threads already"));
    }
    // SAFETY: the only thread of this process is here, so no lock is held by a thread that the child
    // would lack, and all memory is in a consistent state in both.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Half::Child),
        _ => Ok(Half::Parent),
    }
}

/// Makes a session without a terminal, with this process as its leader.
///
/// # Errors
///
/// The system's: the process leads a group already.
pub fn leave_terminal() -> io::Result<()> {
    setsid()?;
    Ok(())
}

/// Which rights new files are not given.
pub fn withhold_rights(bits: u32) {
    umask(Mode::from_raw_mode(bits));
}

/// Points standard input, output and error at nothing.
///
/// # Errors
///
/// The system's.
pub fn silence() -> io::Result<()> {
    let nothing = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    dup2_stdin(&nothing)?;
    dup2_stdout(&nothing)?;
    dup2_stderr(&nothing)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_several_threads_is_not_split() {
        // The test harness has a thread of its own.
        let other = std::thread::spawn(std::thread::park);
        assert_eq!(split().unwrap_err().kind(), io::ErrorKind::Other);
        other.thread().unpark();
        other.join().unwrap();
    }
}
