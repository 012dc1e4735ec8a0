//! Tells the service manager how the process is.
//!
//! **Owns:** the datagrams of `sd_notify(3)`. Without `NOTIFY_SOCKET` nobody is told.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::time::{ClockId, clock_gettime};

/// Clients can connect, or a reload is over.
pub(crate) fn ready() {
    send("READY=1");
}

/// A reload begins; `ready` ends it.
pub(crate) fn reloading() {
    let Ok(time) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
        return;
    };
    let micros = time.tv_sec() * 1_000_000 + time.tv_nsec() / 1000;
    send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// The end begins.
pub(crate) fn stopping() {
    send("STOPPING=1");
}

fn send(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let name = name.to_string_lossy();
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&*name),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
