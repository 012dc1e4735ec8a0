//! Outgoing connections.
//!
//! **Owns:** making a socket and connecting it through the ring.
//! **Does not own:** names (addresses come resolved), deadlines (wrap it in `timer::until`).
//!
//! Source: `io_uring_prep_connect(3)`, `tcp(7)`, `unix(7)`.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::ring::{RingRef, current};
use crate::stream::Stream;

/// A connection attempt. Dropping it gives it up.
struct Connect {
    id: Option<u32>,
    ring: RingRef,
}

impl Future for Connect {
    type Output = io::Result<OwnedFd>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
        let Some(id) = self.id else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        let result = self.ring.borrow_mut().connect_result(id, context.waker());
        match result {
            None => Poll::Pending,
            Some(outcome) => {
                self.id = None;
                Poll::Ready(outcome)
            }
        }
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let waker = self.ring.borrow_mut().abandon(id);
            drop(waker);
        }
    }
}

async fn connect(socket: Socket, address: SockAddr) -> io::Result<Stream> {
    let ring = current();
    let id = ring.borrow_mut().connect_start(socket.into(), address);
    let socket = Connect { id: Some(id), ring }.await?;
    Ok(Stream::new(socket))
}

/// Connects to a TCP address. `prepare` sets options on the socket before it connects.
///
/// # Errors
///
/// What socket(2), `prepare` or connect(2) says.
pub async fn connect_tcp(
    address: SocketAddr,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<Stream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    prepare(&socket)?;
    connect(socket, address.into()).await
}

/// Connects to a Unix-domain socket. `prepare` sets options on the socket before it connects.
///
/// # Errors
///
/// What socket(2), `prepare` or connect(2) says.
pub async fn connect_unix(
    path: &Path,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<Stream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    prepare(&socket)?;
    connect(socket, SockAddr::unix(path)?).await
}
