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
use std::task::Poll;
use std::time::Duration;

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
    pub async fn finish(self) -> Vec<OwnedFd> {
        loop {
            let finished = self.ring.borrow_mut().accept_finish(self.id);
            match finished {
                Some(accepted) => return accepted,
                None => sleep(STOP_PAUSE).await,
            }
        }
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
