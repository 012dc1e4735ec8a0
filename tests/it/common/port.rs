//! Free TCP ports.
//!
//! Owns: handing out ports of 127.0.0.1 that nobody listens on.
//! Invariants: ports lie below the range the kernel uses for outgoing connections, so that a
//! connection of another test cannot take a port between its choice and its use.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Lowest port handed out.
const FIRST: u32 = 11_000;
/// How many ports there are to hand out.
const COUNT: u32 = 20_000;

/// A port which was free a moment ago and is given to nobody else by this process.
pub(crate) fn free() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Two test processes at a time start at different places.
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(step) % COUNT;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}
