//! Listening sockets that the service manager has opened.
//!
//! **Owns:** finding them, and which of the configured places each one is.
//! **Does not own:** sockets of another process of this program (`succession`).
//! **Invariant:** a socket that is no place of the configuration ends the start: it would be listened on, and
//! nobody would be served.
//!
//! Source: `sd_listen_fds(3)`, `systemd.socket(5)`.

use std::io;
use std::os::fd::RawFd;

use shards::Socket;
use shards::succession::adopt;

use super::listen::Places;

/// The number of the first one.
const FIRST: RawFd = 3;
/// How many there are.
const COUNT: &str = "LISTEN_FDS";
/// The process that they are meant for.
const PROCESS: &str = "LISTEN_PID";

/// The listening sockets that were opened for this process, each with its place.
///
/// # Errors
///
/// One of them cannot be listened on, or has no place in the configuration.
pub(super) fn activated(places: &Places) -> io::Result<Vec<(String, Socket)>> {
    let number = |variable| -> Option<u32> { std::env::var(variable).ok()?.parse().ok() };
    let count = match (number(PROCESS), number(COUNT)) {
        (Some(process), Some(count)) if process == std::process::id() => count,
        _ => 0,
    };
    let mut all = Vec::new();
    for number in FIRST..FIRST + count as RawFd {
        let socket = Socket::from(adopt(number)?);
        if !socket.is_listener()? {
            return Err(io::Error::other("it is not a listening socket"));
        }
        let address = socket.local_addr()?;
        let place = match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) => places.of_address(address),
            (None, Some(path)) => places.of_file(path),
            (None, None) => None,
        };
        let unknown = || io::Error::other(format!("{address:?} is not an address of [general]"));
        all.push((place.ok_or_else(unknown)?, socket));
    }
    Ok(all)
}
