//! Descriptors that one program leaves to the next.
//!
//! **Owns:** starting a program that keeps some descriptors open, adopting descriptors that were kept
//! open for this one.
//! **Does not own:** what is behind them, who tells whom their numbers.
//!
//! **Invariants**
//! 1. A descriptor is adopted once: whatever this process opens itself is close-on-exec, what survived
//!    the start of the program is not, and adopting makes it so.
//! 2. Only the program that is started sees the descriptors open; others that are started at the same
//!    time do not.
//!
//! Source: execve(2), fcntl(2).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

/// Starts `command` with `kept` left open in it, under their numbers here.
///
/// # Errors
///
/// As [`Command::spawn`].
pub fn start(command: &mut Command, kept: &[BorrowedFd<'_>]) -> io::Result<Child> {
    let numbers: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    let keep = move || {
        for number in &numbers {
            // SAFETY: fcntl(2) touches no memory of ours.
            if unsafe { libc::fcntl(*number, libc::F_SETFD, 0) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only calls fcntl(2), which is async-signal-safe, and
    // reads memory that was allocated before.
    unsafe { command.pre_exec(keep) };
    command.spawn()
}

/// Takes over the descriptor that was left open as `number` when this program was started.
///
/// # Errors
///
/// There is none, or it is a standard stream, or one that this process has opened or adopted itself.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if number <= libc::STDERR_FILENO {
        return refused("a standard stream");
    }
    // SAFETY: fcntl(2) touches no memory of ours.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags == -1 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return refused("not left by the program that started this one");
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by invariant 1 nobody in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::process::Stdio;

    #[test]
    fn what_is_kept_is_open_in_the_program_and_there_only() {
        let (mut reader, writer) = io::pipe().unwrap();
        let number = writer.as_raw_fd();
        let mut shell = Command::new("sh");
        let script = format!("echo kept >&{number}");
        shell.args(["-c", &script]).stderr(Stdio::null());
        let plain = shell.status().unwrap();
        assert!(!plain.success());
        let mut child = start(&mut shell, &[writer.as_fd()]).unwrap();
        assert!(child.wait().unwrap().success());
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "kept\n");
    }

    #[test]
    fn descriptors_of_this_process_are_not_adopted() {
        let (reader, _writer) = io::pipe().unwrap();
        assert!(adopt(reader.as_raw_fd()).is_err());
        assert!(adopt(1).is_err());
        assert!(adopt(1_000_000).is_err());
        let inherited = rustix::io::dup(&reader).unwrap();
        let number = std::os::fd::IntoRawFd::into_raw_fd(inherited);
        let adopted = adopt(number).unwrap();
        assert!(adopt(number).is_err());
        drop(adopted);
    }
}
