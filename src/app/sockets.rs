//! Reading what the kernel tells of this process: its sockets and its memory.
//!
//! **Owns:** the files.
//! **Does not own:** counting (`admin::sockets`).
//!
//! Reads all sockets of the machine, so it takes time: not for shards.
//!
//! Source: proc(5).

use std::collections::HashSet;
use std::fs;
use std::io;

use crate::admin::Sockets;
use crate::admin::sockets::ProcTexts;

/// Size of a page of memory, in bytes, on all machines this runs on.
const PAGE_BYTES: u64 = 4096;

/// Counts the sockets of this process.
///
/// # Errors
///
/// If the proc filesystem cannot be read.
pub(super) fn count() -> io::Result<Sockets> {
    let mut inodes = HashSet::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        // A descriptor may be closed meanwhile.
        let Ok(target) = entry.and_then(|entry| fs::read_link(entry.path())) else {
            continue;
        };
        let target = target.to_string_lossy();
        let inode = target
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'));
        inodes.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
    }
    // Without IPv6 there is no such file, and so on.
    let text = |name: &str| {
        let bytes = fs::read(format!("/proc/self/net/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(Sockets::count(ProcTexts {
        inodes,
        tcp: text("tcp"),
        tcp6: text("tcp6"),
        unix: text("unix"),
    }))
}

/// Virtual memory of this process in bytes, 0 if unknown.
pub(super) fn virtual_memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text
        .split(' ')
        .next()
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_this_process_is_counted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = count().unwrap();
        assert!(sockets.tcp[9] >= 1, "{sockets:?}");
        assert!(virtual_memory_bytes() > 1 << 20);
        drop(listener);
    }
}
