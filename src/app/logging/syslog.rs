//! The log as messages of the local syslog.
//!
//! **Owns:** the form of a message, the socket, what is lost.
//! **Does not own:** which events there are.
//!
//! ```text
//!   "<" priority ">" "Mmm dd hh:mm:ss" " " name "[" pid "]: " text
//! ```
//!
//! Messages are datagrams to a Unix socket. Nobody waits for whoever reads them: what does not fit is
//! counted and told with the next one that does. Each is sent by the name of the socket, so the
//! service may be restarted.
//!
//! Source: RFC 3164, section 4.1; `syslog(3)`, `unix(7)`.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::line::one_line;

/// Where syslog listens.
const SOCKET: &str = "/dev/log";
/// Names another socket.
const SOCKET_VARIABLE: &str = "PG_DOORMAN_SYSLOG_SOCKET";
/// Facility `user`.
const FACILITY: u8 = 1;
/// The longest text of a message, in bytes: services cut or refuse longer ones.
const TEXT_BYTES_MAX: usize = 8000;

/// The local syslog.
#[derive(Debug)]
pub struct Syslog {
    socket: UnixDatagram,
    path: PathBuf,
    name: String,
    lost: AtomicU64,
}

impl Syslog {
    /// The local syslog, in which we are called `name`.
    ///
    /// # Errors
    ///
    /// Nobody listens there.
    pub fn connect(name: &str) -> io::Result<Self> {
        let path = std::env::var_os(SOCKET_VARIABLE).map_or_else(|| SOCKET.into(), PathBuf::from);
        Self::at(&path, name)
    }

    fn at(path: &Path, name: &str) -> io::Result<Self> {
        let told =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        // To find out whether somebody is there.
        UnixDatagram::unbound()?.connect(path).map_err(told)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            name: name.to_owned(),
            lost: AtomicU64::new(0),
        })
    }

    fn send(&self, level: Level, text: &[u8]) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let told = format!("lines that syslog did not take: {lost}");
            if self.send_one(Level::WARN, told.as_bytes()).is_err() {
                self.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
        if self.send_one(level, text).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send_one(&self, level: Level, text: &[u8]) -> io::Result<()> {
        let now = Timestamp::now().to_zoned(TimeZone::system());
        let time = now.strftime("%b %e %H:%M:%S").to_string();
        let message = message(level, &time, (&self.name, std::process::id()), text);
        self.socket.send_to(&message, &self.path).map(|_| ())
    }
}

/// The bytes of a message.
fn message(level: Level, time: &str, (name, pid): (&str, u32), text: &[u8]) -> Vec<u8> {
    let priority = FACILITY * 8 + severity(level);
    let mut message = format!("<{priority}>{time} {name}[{pid}]: ").into_bytes();
    let text = text.get(..TEXT_BYTES_MAX).unwrap_or(text);
    message.extend_from_slice(&one_line(text, false));
    message
}

const fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// One event on its way to syslog.
pub struct Entry<'a> {
    syslog: &'a Syslog,
    level: Level,
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Entry<'a>;

    fn make_writer(&'a self) -> Entry<'a> {
        Entry {
            syslog: self,
            level: Level::INFO,
        }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Entry<'a> {
        Entry {
            syslog: self,
            level: *about.level(),
        }
    }
}

impl Write for Entry<'_> {
    /// `event` is a whole event with its line end.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        self.syslog.send(self.level, text);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_form_of_rfc_3164() {
        let made = |level, text: &[u8]| {
            let message = message(level, "Feb  3 04:05:06", ("pooler", 77), text);
            String::from_utf8(message).unwrap()
        };
        let expected = "<14>Feb  3 04:05:06 pooler[77]: hello";
        assert_eq!(made(Level::INFO, b"hello"), expected);
        assert!(made(Level::ERROR, b"x\ny").starts_with("<11>"));
        assert!(made(Level::ERROR, b"x\ny").ends_with("]: x\\ny"));
        assert!(made(Level::TRACE, &[b'x'; 9000]).len() < TEXT_BYTES_MAX + 100);
    }

    #[test]
    fn what_nobody_takes_is_counted_and_told() {
        let name = format!("pg_doorman-syslog-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        assert!(Syslog::at(&path, "x").is_err());
        let reader = UnixDatagram::bind(&path).unwrap();
        let syslog = Syslog::at(&path, "x").unwrap();
        let read = |reader: &UnixDatagram| {
            let mut bytes = [0; 1000];
            let len = reader.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..len]).into_owned()
        };
        syslog.send(Level::INFO, b"first");
        assert!(read(&reader).ends_with("]: first"));
        drop(reader);
        std::fs::remove_file(&path).unwrap();
        syslog.send(Level::INFO, b"second");
        let reader = UnixDatagram::bind(&path).unwrap();
        syslog.send(Level::INFO, b"third");
        assert!(read(&reader).ends_with("did not take: 1"));
        assert!(read(&reader).ends_with("]: third"));
        std::fs::remove_file(&path).unwrap();
    }
}
