//! What the descriptors of this process are.
//!
//! **Owns:** counting sockets by their kind, whoever opened them.
//! **Does not own:** the sockets, and the state of their connections.
//!
//! Source: socket(7), `SO_DOMAIN` and `SO_PROTOCOL`; proc(5), `/proc/pid/fd`.

use std::fs;
use std::io;
use std::os::fd::RawFd;

/// Sockets of this process by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenSockets {
    /// TCP over IPv4.
    pub tcp: u64,
    /// TCP over IPv6.
    pub tcp6: u64,
    /// Unix sockets.
    pub unix: u64,
    /// All others.
    pub others: u64,
}

impl OpenSockets {
    /// Counts them: a few hundred nanoseconds for each descriptor, however many sockets the machine has.
    ///
    /// # Errors
    ///
    /// If the proc filesystem cannot be read.
    pub fn count() -> io::Result<Self> {
        let mut counts = Self::default();
        for entry in fs::read_dir("/proc/self/fd")? {
            let name = entry?.file_name();
            let Some(fd) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // Not a socket, or closed meanwhile.
            let Some(domain) = option(fd, libc::SO_DOMAIN) else {
                continue;
            };
            let is_tcp = || option(fd, libc::SO_PROTOCOL) == Some(libc::IPPROTO_TCP);
            match domain {
                libc::AF_INET if is_tcp() => counts.tcp += 1,
                libc::AF_INET6 if is_tcp() => counts.tcp6 += 1,
                libc::AF_UNIX => counts.unix += 1,
                _ => counts.others += 1,
            }
        }
        Ok(counts)
    }
}

/// An option of a socket that is a number; `None` for what is no socket.
fn option(fd: RawFd, name: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to `value`, both outlive the call, and reading an option changes
    // nothing, whatever the descriptor may have become meanwhile.
    let status = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut size,
        )
    };
    (status == 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn each_kind_is_counted() {
        // Other tests of this process open and close sockets too: only a lower bound is certain.
        let _tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let _udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _pair = UnixStream::pair().unwrap();
        let counts = OpenSockets::count().unwrap();
        assert!(
            counts.tcp >= 1 && counts.others >= 1 && counts.unix >= 2,
            "{counts:?}"
        );
    }

    #[test]
    fn what_is_no_socket_has_no_domain() {
        use std::os::fd::AsRawFd;
        let file = fs::File::open("/dev/null").unwrap();
        assert_eq!(option(file.as_raw_fd(), libc::SO_DOMAIN), None);
        assert_eq!(option(-1, libc::SO_DOMAIN), None);
    }
}
