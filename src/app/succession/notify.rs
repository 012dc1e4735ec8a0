//! What the service manager is told.
//!
//! **Owns:** the messages of `sd_notify(3)`.
//! **Does not own:** when they are sent.
//! **Invariant:** nobody who does not listen is waited for; without `NOTIFY_SOCKET` nothing is done.
//!
//! Source: `sd_notify(3)`.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

static IS_HEIR: AtomicBool = AtomicBool::new(false);

/// Clients can connect, or can again.
pub fn ready() {
    say(&format!(
        "READY=1\nMAINPID={}\nSTATUS=Serving",
        std::process::id()
    ));
}

/// The configuration is being read again.
pub fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let micros = now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1000;
    say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// The process ends.
pub fn stopping() {
    say("STOPPING=1");
}

/// All shards answer.
pub fn alive() {
    say("WATCHDOG=1");
}

/// How often the service manager wants to hear that, if it does: half of the time after which it would act.
pub fn watchdog_period() -> Option<Duration> {
    let number = |variable| -> Option<u64> { std::env::var(variable).ok()?.parse().ok() };
    let is_meant = IS_HEIR.load(Ordering::Relaxed)
        || number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let period = Duration::from_micros(number("WATCHDOG_USEC")?) / 2;
    (is_meant && !period.is_zero()).then_some(period)
}

/// This process has taken over from the one that the service manager has started, with what it was told.
pub fn inherit() {
    IS_HEIR.store(true, Ordering::Relaxed);
}

/// The service goes on in another process.
pub fn handed_to(pid: u32) {
    say(&format!("MAINPID={pid}"));
}

fn say(text: &str) {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty()) else {
        return;
    };
    if let Err(error) = send(&place, text) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

fn send(place: &OsStr, text: &str) -> io::Result<()> {
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(place)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(text.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_go_to_files_and_abstract_names() {
        let name = format!("pg_doorman-notify-{}", rand::random::<u64>());
        let path = std::env::temp_dir().join(&name);
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, place) in [
            (
                UnixDatagram::bind(&path).unwrap(),
                path.clone().into_os_string(),
            ),
            (
                UnixDatagram::bind_addr(&abstract_name).unwrap(),
                format!("@{name}").into(),
            ),
        ] {
            send(&place, "READY=1").unwrap();
            let mut said = [0; 16];
            let count = socket.recv(&mut said).unwrap();
            assert_eq!(&said[..count], b"READY=1");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(send(path.as_os_str(), "READY=1").is_err());
    }
}
