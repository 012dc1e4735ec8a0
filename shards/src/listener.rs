//! Listening sockets: of TCP one per shard and address, of a Unix address one that all shards share.
//!
//! **Owns:** making them (`SO_REUSEPORT`), adopting inherited ones, accepting.
//! **Does not own:** what accepted sockets are for.
//!
//! Options such as keepalive are set on the listening socket: accepted sockets inherit them, which
//! saves the system calls per connection.
//!
//! Source: `socket(7)`, `tcp(7)`, `io_uring_prep_multishot_accept(3)`.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::ring::{RingRef, current};
use crate::timer::sleep;

/// Time between two looks whether the kernel has stopped accepting.
const STOP_PAUSE: Duration = Duration::from_millis(1);
/// How long accepting rests when descriptors or memory have run out.
const REST: Duration = Duration::from_millis(10);

/// Whether a socket for an IPv6 address takes IPv4 as well. It is always said: what the system does by
/// itself is a setting (`net.ipv6.bindv6only`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// An IPv6 socket for `::` takes IPv4, too.
    Both,
    /// Each family needs a socket of its own.
    Own,
}

/// Binds a TCP address with `SO_REUSEADDR` and `SO_REUSEPORT`; not yet listening.
///
/// # Errors
///
/// What socket(2), setsockopt(2) or bind(2) says.
pub fn bind_tcp(address: SocketAddr, families: Families) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(families == Families::Own)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Binds a Unix-domain address; not yet listening.
///
/// # Errors
///
/// What socket(2) or bind(2) says.
pub fn bind_unix(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// A listening socket on its shard.
pub struct Listener {
    socket: Rc<Socket>,
    id: u32,
    ring: RingRef,
}

impl Listener {
    /// Accepts on `socket`, which is bound and listening.
    ///
    /// # Panics
    ///
    /// On a thread that runs no shard.
    pub fn new(socket: Socket) -> Self {
        let ring = current();
        let socket = Rc::new(socket);
        let id = ring.borrow_mut().accept_start(Rc::clone(&socket));
        Self { socket, id, ring }
    }

    /// The listening socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The listening socket, for as long as it is accepted on.
    pub fn reference(&self) -> Weak<Socket> {
        Rc::downgrade(&self.socket)
    }

    /// Stops accepting. Returns the connections that had been accepted and not taken: unlike by a drop,
    /// none is lost. Those that come later wait in the socket's queue for whoever else has it open.
    ///
    /// The kernel tells only one of those who accept on a socket of a connection. One that came while
    /// this one stopped may be known to nobody else: whatever is in the queue afterwards is accepted, too.
    pub async fn finish(self) -> Vec<OwnedFd> {
        let mut all = Vec::new();
        loop {
            let finished = self.ring.borrow_mut().accept_finish(self.id);
            let Some(accepted) = finished else {
                sleep(STOP_PAUSE).await;
                continue;
            };
            all.extend(accepted);
            if !self.has_waiting() {
                return all;
            }
            let next = self.ring.borrow_mut().accept_next(self.id, Waker::noop());
            match next {
                Some(Ok(accepted)) => all.push(accepted),
                Some(Err(_)) => return all,
                None => sleep(STOP_PAUSE).await,
            }
        }
    }

    /// True if there are connections in the queue of the socket.
    fn has_waiting(&self) -> bool {
        let mut asked = [PollFd::new(&*self.socket, PollFlags::IN)];
        // If the question fails, nobody waits.
        poll(&mut asked, Some(&Timespec::default())).is_ok_and(|count| count > 0)
    }

    /// Waits for the next connection. When descriptors or memory have run out, or a connection was
    /// lost before it was accepted, it rests for 10 ms and goes on.
    ///
    /// # Errors
    ///
    /// Only errors that will not pass, such as a socket that does not listen.
    pub async fn accept(&mut self) -> io::Result<OwnedFd> {
        loop {
            let accepted = poll_fn(|context| {
                let next = self.ring.borrow_mut().accept_next(self.id, context.waker());
                next.map_or(Poll::Pending, Poll::Ready)
            })
            .await;
            let error = match accepted {
                Ok(socket) => return Ok(socket),
                Err(error) => io::Error::from_raw_os_error(error),
            };
            if let Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK | libc::EOPNOTSUPP) =
                error.raw_os_error()
            {
                return Err(error);
            }
            tracing::warn!(%error, "accepting rests");
            sleep(REST).await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let waker = self.ring.borrow_mut().abandon(self.id);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::run_one;

    #[test]
    fn a_connection_that_nobody_was_told_of_is_found_by_who_stops() {
        let count = run_one(|| async {
            let socket = bind_tcp("127.0.0.1:0".parse().unwrap(), Families::Both).unwrap();
            socket.listen(16).unwrap();
            let address = socket.local_addr().unwrap().as_socket().unwrap();
            let _peers = [(); 3].map(|()| TcpStream::connect(address).unwrap());
            Listener::new(socket).finish().await.len()
        });
        assert_eq!(count.unwrap(), 3);
    }
}
