//! Asking a running PostgreSQL which databases and users it has.
//!
//! **Owns:** a short blocking session: login, two queries, good-bye.
//! **Does not own:** how a login goes (`server::handshake`), what is made of the answers.
//! **Invariants:** no answer is larger than its limit; every wait ends; no error holds a password.
//!
//! Source: `protocol-flow.html`, `protocol-message-formats.html` (`DataRow`), `view-pg-shadow.html`,
//! `catalog-pg-database.html` of the PostgreSQL manual.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rand::distr::{Alphanumeric, SampleString as _};

use crate::auth::derive_keys;
use crate::config::Secret;
use crate::protocol::writer;
use crate::server::ServerError;
use crate::server::handshake::{Action, Binding, Credentials, Handshake, refusal};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest message of an answer.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;

const USERS: &str = "select usename, passwd from pg_catalog.pg_shadow \
                     where passwd is not null \
                     and (valuntil is null or valuntil > pg_catalog.now()) order by usename";
const DATABASES: &str = "select datname from pg_catalog.pg_database \
                         where not datistemplate and datallowconn order by datname";

/// Which server to ask, and as whom.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) user: &'a str,
    pub(super) password: &'a str,
    pub(super) database: &'a str,
}

/// What the server has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inventory {
    /// Names and stored secrets.
    pub(super) users: Vec<(String, String)>,
    pub(super) databases: Vec<String>,
}

/// Asks the server.
pub(super) fn inventory(target: &Target<'_>) -> Result<Inventory, ServerError> {
    let mut session = Session::open(target)?;
    let rows = session.rows(USERS)?;
    let users = rows.into_iter().filter_map(|row| {
        let mut values = row.into_iter();
        Some((values.next()??, values.next()??))
    });
    let users = users.collect();
    let rows = session.rows(DATABASES)?;
    let databases = rows
        .into_iter()
        .filter_map(|row| row.into_iter().next().flatten())
        .collect();
    session.close();
    Ok(Inventory { users, databases })
}

trait Socket: Read + Write {}

impl<S: Read + Write> Socket for S {}

struct Session(Box<dyn Socket>);

type Row = Vec<Option<String>>;

impl Session {
    fn open(target: &Target<'_>) -> Result<Self, ServerError> {
        let socket = connect(target).map_err(ServerError::Connect)?;
        let mut session = Self(socket);
        let parameters = [
            ("user", target.user),
            ("database", target.database),
            ("application_name", "pg_doorman generate"),
            ("client_encoding", "UTF8"),
        ];
        let mut out = Vec::new();
        writer::startup_message(&mut out, 0, parameters);
        session.send(&out)?;
        session.log_in(target)?;
        Ok(session)
    }

    fn log_in(&mut self, target: &Target<'_>) -> Result<(), ServerError> {
        let password = (!target.password.is_empty()).then(|| Secret::new(target.password));
        let credentials = Credentials::with_password(target.user.to_owned(), password);
        let nonce = Alphanumeric.sample_string(&mut rand::rng(), 24);
        let mut handshake = Handshake::new(credentials, nonce, Binding::None);
        loop {
            let (tag, body) = self.receive()?;
            let (next, action) = handshake.handle(tag, &body)?;
            handshake = next;
            match action {
                Action::Read => {}
                Action::Done => return Ok(()),
                Action::Send(bytes) => self.send(&bytes)?,
                Action::Derive { salt, iterations } => {
                    let keys = derive_keys(target.password, &salt, iterations)?;
                    let (next, bytes) = handshake.provide(keys)?;
                    handshake = next;
                    self.send(&bytes)?;
                }
            }
        }
    }

    /// The rows of a query, as text.
    fn rows(&mut self, sql: &str) -> Result<Vec<Row>, ServerError> {
        let mut out = Vec::new();
        writer::query(&mut out, sql.as_bytes());
        self.send(&out)?;
        let mut rows = Vec::new();
        loop {
            let (tag, body) = self.receive()?;
            match tag {
                b'D' => rows.push(row(&body).ok_or(ServerError::Unexpected(tag))?),
                b'E' => return Err(refusal(&body)),
                b'Z' => return Ok(rows),
                b'T' | b'C' | b'N' | b'S' => {}
                _ => return Err(ServerError::Unexpected(tag)),
            }
        }
    }

    fn close(mut self) {
        let mut out = Vec::new();
        writer::terminate(&mut out);
        // The answers are there; the server may be gone.
        let _ = self.send(&out);
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), ServerError> {
        self.0.write_all(bytes).map_err(ServerError::Io)
    }

    fn receive(&mut self) -> Result<(u8, Vec<u8>), ServerError> {
        let mut header = [0; 5];
        self.0.read_exact(&mut header).map_err(failed)?;
        let [tag, l0, l1, l2, l3] = header;
        let length = u64::from(u32::from_be_bytes([l0, l1, l2, l3]));
        let body_bytes = length
            .checked_sub(4)
            .filter(|bytes| *bytes <= MESSAGE_BYTES_MAX)
            .ok_or(ServerError::Unexpected(tag))?;
        let mut body = Vec::new();
        let mut limited = (&mut self.0).take(body_bytes);
        limited.read_to_end(&mut body).map_err(failed)?;
        if body.len() as u64 == body_bytes {
            Ok((tag, body))
        } else {
            Err(ServerError::Closed)
        }
    }
}

fn failed(error: io::Error) -> ServerError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ServerError::Closed,
        _ => ServerError::Io(error),
    }
}

fn connect(target: &Target<'_>) -> io::Result<Box<dyn Socket>> {
    if target.host.starts_with('/') {
        let path = Path::new(target.host).join(format!(".s.PGSQL.{}", target.port));
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        return Ok(Box::new(socket));
    }
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in (target.host, target.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(socket) => {
                socket.set_read_timeout(Some(TIMEOUT))?;
                socket.set_write_timeout(Some(TIMEOUT))?;
                return Ok(Box::new(socket));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The values of a `DataRow`; `None` if it is malformed.
fn row(body: &[u8]) -> Option<Row> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let length = i32::from_be_bytes(*length);
        if length == -1 {
            values.push(None);
            rest = tail;
            continue;
        }
        let (value, tail) = tail.split_at_checked(usize::try_from(length).ok()?)?;
        values.push(Some(String::from_utf8_lossy(value).into_owned()));
        rest = tail;
    }
    rest.is_empty().then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_malformed_ones_refused() {
        let mut out = Vec::new();
        writer::data_row(&mut out, [Some(&b"ab"[..]), None, Some(&b""[..])]);
        let body = &out[5..];
        let expected = vec![Some("ab".to_owned()), None, Some(String::new())];
        assert_eq!(row(body), Some(expected));
        for end in 0..body.len() {
            assert_eq!(row(&body[..end]), None, "{end}");
        }
        assert_eq!(row(&[body, &[0]].concat()), None);
        assert_eq!(row(&[0, 1, 0xff, 0xff, 0xff, 0xfe]), None);
    }
}
