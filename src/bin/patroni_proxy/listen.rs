//! Listening sockets and options of sockets.
//!
//! **Owns:** making the sockets of a port, one a shard; that no other process listens there.
//! **Does not own:** accepting (`port`).
//!
//! Sockets that shards accept inherit the options of the listening one.
//!
//! Source: `socket(7)`, `tcp(7)`.

use std::io;
use std::net::SocketAddr;

use shards::{Families, Socket, bind_tcp};
use socket2::{Domain, TcpKeepalive, Type};

use crate::config::SocketOptions;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Listens at `address` with one socket a shard.
///
/// # Errors
///
/// What the system says, for example that somebody else listens there.
pub(crate) fn listen(
    address: SocketAddr,
    shards: usize,
    options: &SocketOptions,
) -> io::Result<Vec<Socket>> {
    check_free(address)?;
    let socket = |_| {
        let socket = bind_tcp(address, Families::Both)?;
        set_options(&socket, options);
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    (0..shards).map(socket).collect()
}

/// Sockets of several processes could share an address; each would get some of the connections.
fn check_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // Two that both reuse addresses may be bound; only one can listen.
    socket.listen(1)
}

/// Sets options on a new socket. One that the system refuses stops nobody.
pub(crate) fn set_options(socket: &Socket, options: &SocketOptions) {
    let mut keepalive = TcpKeepalive::new();
    if !options.keepalive_idle.is_zero() {
        keepalive = keepalive.with_time(options.keepalive_idle);
    }
    if !options.keepalive_interval.is_zero() {
        keepalive = keepalive.with_interval(options.keepalive_interval);
    }
    if options.keepalive_count > 0 {
        keepalive = keepalive.with_retries(options.keepalive_count);
    }
    let timeout = options.user_timeout;
    let outcomes = [
        socket.set_tcp_nodelay(true),
        socket.set_keepalive(true),
        socket.set_tcp_keepalive(&keepalive),
        socket.set_tcp_user_timeout((!timeout.is_zero()).then_some(timeout)),
    ];
    for error in outcomes.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "a socket does not take an option, goes on without");
    }
}
