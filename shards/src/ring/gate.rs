//! The system call of the ring.
//!
//! **Owns:** entering the kernel.
//! **Does not own:** when and for how many completions (`wait`).
//!
//! Two things make it cheaper than the general call: the ring is registered with its own thread, so
//! that its descriptor need not be looked up each time, and waiting does not count as waiting for a
//! disk (`IORING_ENTER_NO_IOWAIT`, Linux 6.15), which would also show an idle shard as 100 % iowait.
//!
//! Source: `io_uring_enter(2)`, `io_uring_register(2)` `IORING_REGISTER_RING_FDS`.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::IoUring;

const ENTER_GETEVENTS: u32 = 1;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const ENTER_NO_IOWAIT: u32 = 1 << 7;
const REGISTER_RING_FDS: u32 = 20;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RingFdUpdate {
    offset: u32,
    reserved: u32,
    fd: u64,
}

/// How one ring is entered by its thread.
pub(super) struct Gate {
    /// The registered index, or the descriptor itself.
    fd: RawFd,
    flags: u32,
}

impl Gate {
    /// Prepares the entering of `uring` by this thread.
    pub(super) fn new(uring: &IoUring) -> Self {
        let mut flags = ENTER_GETEVENTS;
        if uring.params().is_feature_no_iowait() {
            flags |= ENTER_NO_IOWAIT;
        }
        let fd = uring.as_raw_fd();
        let mut update = RingFdUpdate {
            offset: u32::MAX,
            reserved: 0,
            fd: fd as u64,
        };
        // SAFETY: `update` is one writable entry of the layout that the kernel expects; the call
        // keeps no pointer to it.
        let registered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                fd,
                REGISTER_RING_FDS,
                &raw mut update,
                1,
            )
        };
        if registered == 1 {
            return Self {
                fd: update.offset as RawFd,
                flags: flags | ENTER_REGISTERED_RING,
            };
        }
        Self { fd, flags }
    }

    /// Submits `submissions` entries and waits for `completions`.
    ///
    /// # Errors
    ///
    /// What the kernel says; `EINTR`, `EBUSY` and `EAGAIN` are no failures.
    pub(super) fn enter(&self, submissions: usize, completions: usize) -> io::Result<usize> {
        // SAFETY: no pointer is passed; what the entries point to is the concern of those who
        // pushed them (see `Ring::push`).
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd,
                submissions as u32,
                completions as u32,
                self.flags,
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }
}
