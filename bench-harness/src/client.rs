//! A minimal PostgreSQL client: one query at a time, rows discarded.
//!
//! Owns: the startup packet, simple and extended queries, cancel requests, finding `ReadyForQuery`
//! in the answer.
//! Does not own: passwords and TLS (`knock.rs`), values; pgbench drives everything that needs those.
//! Invariants: an idle [`Client`] holds a socket and no buffer, so thousands cost the harness
//! nothing; the framing keeps no body except that of an error (at most 4 KiB of it), the cancel
//! key and the first bytes of the last row.
//! Source: protocol-flow.html, protocol-message-formats.html.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::knock::{Knock, Manner, Wire};

/// The longest a server may stay silent.
pub(crate) const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// How much of an error message is kept.
const ERROR_BYTES_MAX: usize = 4096;
/// How much of a row is kept.
const ROW_BYTES_MAX: usize = 256;
/// Process id and secret of a cancel key in protocol 3.0.
const KEY_BYTES: usize = 8;
/// How long the answer to a cancel request (the end of its connection) may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// A logged-in connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: Wire,
}

impl Client {
    /// Connects and logs in as user `postgres` to database `postgres`, without TLS and password.
    ///
    /// # Errors
    /// No connection, a password is wanted, or the server refuses.
    pub(crate) fn connect(address: SocketAddr, buffer: &mut [u8]) -> Result<Self> {
        Self::connect_as(address, &Manner::default(), buffer)
    }

    /// The same in any manner.
    ///
    /// # Errors
    /// No connection, or the server refuses.
    pub(crate) fn connect_as(
        address: SocketAddr,
        manner: &Manner,
        buffer: &mut [u8],
    ) -> Result<Self> {
        let mut knock = Knock::begin(address, manner)?;
        while !knock.advance()? {}
        Self::let_in(knock, buffer)
    }

    /// Reads the end of a login.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) fn let_in(knock: Knock, buffer: &mut [u8]) -> Result<Self> {
        let stream = knock.into_wire();
        let mut client = Self { stream };
        client.read_answer(buffer)?;
        Ok(client)
    }

    /// Runs a simple query (or several) and returns the bytes of the answer.
    ///
    /// # Errors
    /// The connection is lost or the server reports an error.
    pub(crate) fn simple(&mut self, sql: &str, buffer: &mut [u8]) -> Result<u64> {
        self.send(&query(sql))?;
        Ok(self.read_answer(buffer)?.1)
    }

    /// Runs a simple query and returns the first column of its last row as text.
    ///
    /// # Errors
    /// The connection is lost, the server reports an error, or there is no row.
    pub(crate) fn value(&mut self, sql: &str, buffer: &mut [u8]) -> Result<String> {
        self.send(&query(sql))?;
        let (answer, _) = self.read_answer(buffer)?;
        answer.first_column().context("no value in the answer")
    }

    /// Parses a query as `statement` (empty for the unnamed one), runs it through the unnamed
    /// portal, and returns the bytes of the answer.
    ///
    /// # Errors
    /// The connection is lost or the server reports an error.
    pub(crate) fn extended(
        &mut self,
        statement: &str,
        sql: &str,
        buffer: &mut [u8],
    ) -> Result<u64> {
        let (statement, sql) = (statement.as_bytes(), sql.as_bytes());
        let messages = [
            // Statement, query, no parameter types.
            message(b'P', &[statement, b"\0", sql, b"\0\0\0"].concat()),
            // Portal, statement; no formats, no values, no result formats.
            message(b'B', &[b"\0", statement, b"\0\0\0\0\0\0\0"].concat()),
            message(b'D', b"P\0"),
            // Portal, all rows.
            message(b'E', b"\0\0\0\0\0"),
            message(b'S', b""),
        ];
        self.send(&messages.concat())?;
        Ok(self.read_answer(buffer)?.1)
    }

    /// Says goodbye and closes.
    ///
    /// # Errors
    /// The connection was already lost.
    pub(crate) fn terminate(mut self) -> Result<()> {
        self.send(&message(b'X', b""))?;
        // A peer that closes by a reset has been faster.
        match self.stream.socket().shutdown(Shutdown::Both) {
            Err(error) if error.kind() != ErrorKind::NotConnected => {
                Err(error).context("cannot close")
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("cannot send")?;
        self.stream.flush().context("cannot send")
    }

    /// The answer and how many bytes it had.
    fn read_answer(&mut self, buffer: &mut [u8]) -> Result<(Answer, u64)> {
        let mut answer = Answer::default();
        let mut received = 0;
        while !answer.is_complete {
            let count = match self.stream.read(buffer) {
                // A signal of a child that has ended.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.context("cannot receive")?,
            };
            if count == 0 {
                bail!("connection closed by the server{}", answer.error_suffix());
            }
            received += count as u64;
            answer.feed(&buffer[..count])?;
        }
        if !answer.error.is_empty() {
            bail!("server error{}", answer.error_suffix());
        }
        Ok((answer, received))
    }
}

/// The first packet of user `postgres` for database `postgres`, protocol 3.0.
pub(crate) fn startup_packet() -> Vec<u8> {
    let mut packet = 196_608_u32.to_be_bytes().to_vec();
    packet.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
    [&length_of(&packet), packet.as_slice()].concat()
}

/// A simple query as sent.
pub(crate) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

/// What a server gives a client to cancel its queries with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CancelKey([u8; KEY_BYTES]);

impl CancelKey {
    /// Asks over a connection of its own to cancel what the owner of the key runs, and waits until
    /// the other side has closed that connection.
    ///
    /// # Errors
    /// No connection, or it is not closed in time.
    pub(crate) fn cancel(self, address: SocketAddr) -> Result<()> {
        let mut stream = TcpStream::connect(address).context("cannot connect to cancel")?;
        stream
            .set_read_timeout(Some(CANCEL_LIMIT))
            .context("cannot set a timeout")?;
        let code = 80_877_102_u32.to_be_bytes();
        let body = [code.as_slice(), &self.0].concat();
        stream
            .write_all(&[length_of(&body).as_slice(), &body].concat())
            .context("cannot send a cancel request")?;
        match stream.read(&mut [0; 64]) {
            // A close with a reset is a close.
            Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                Err(error).context("cancel request was not answered")
            }
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => bail!("cancel request was answered with data"),
        }
    }
}

/// A message as sent.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], length_of(body).as_slice(), body].concat()
}

/// The length field of a message, which counts itself.
fn length_of(body: &[u8]) -> [u8; 4] {
    u32::try_from(body.len() + 4)
        .unwrap_or(u32::MAX)
        .to_be_bytes()
}

/// Follows the messages of one answer until `ReadyForQuery`, however they are cut into reads.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Tag and length of the message that began, as far as they were received.
    header: Vec<u8>,
    /// Bytes of its body still to come.
    body_left: usize,
    authentication: Vec<u8>,
    error: Vec<u8>,
    key: Vec<u8>,
    row: Vec<u8>,
    is_complete: bool,
}

impl Answer {
    /// Forgets what was kept, before the next answer. A message that is cut stays where it is.
    pub(crate) fn reset(&mut self) {
        for kept in [
            &mut self.authentication,
            &mut self.error,
            &mut self.key,
            &mut self.row,
        ] {
            kept.clear();
        }
        self.is_complete = false;
    }

    /// Whether `ReadyForQuery` came.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The cancel key, if one came.
    pub(crate) fn cancel_key(&self) -> Option<CancelKey> {
        self.key.as_slice().try_into().ok().map(CancelKey)
    }

    /// The first column of the last row as text; `None` without a row, for NULL, and when it is
    /// longer than what is kept.
    pub(crate) fn first_column(&self) -> Option<String> {
        // Number of columns, length of the first one, its bytes.
        let length = self.row.get(2..6)?.try_into().ok()?;
        let end = 6_usize.checked_add(usize::try_from(i32::from_be_bytes(length)).ok()?)?;
        String::from_utf8(self.row.get(6..end)?.to_vec()).ok()
    }

    /// The SQLSTATE of an error, empty when it had none; `None` without an error.
    pub(crate) fn sqlstate(&self) -> Option<String> {
        if self.error.is_empty() {
            return None;
        }
        let mut fields = self.error.split(|&byte| byte == 0);
        let code = fields.find_map(|field| field.strip_prefix(b"C"));
        Some(String::from_utf8_lossy(code.unwrap_or_default()).into_owned())
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// They are not the protocol's, or a password is wanted.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.header.len() < 5 {
                let count = bytes.len().min(5 - self.header.len());
                self.header.extend_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                if self.header.len() == 5 {
                    self.begin()?;
                }
            }
            let count = bytes.len().min(self.body_left);
            self.body(&bytes[..count]);
            bytes = &bytes[count..];
            self.body_left -= count;
            if self.header.len() == 5 && self.body_left == 0 {
                self.end()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<()> {
        let length = u32::from_be_bytes([
            self.header[1],
            self.header[2],
            self.header[3],
            self.header[4],
        ]);
        let Some(body) = length.checked_sub(4) else {
            bail!("message with length {length}")
        };
        self.body_left = body as usize;
        if self.header[0] == b'D' {
            self.row.clear();
        }
        Ok(())
    }

    fn body(&mut self, part: &[u8]) {
        let (kept, most) = match self.header.first() {
            Some(b'E') => (&mut self.error, ERROR_BYTES_MAX),
            Some(b'R') => (&mut self.authentication, ERROR_BYTES_MAX),
            Some(b'K') => (&mut self.key, KEY_BYTES),
            Some(b'D') => (&mut self.row, ROW_BYTES_MAX),
            _ => return,
        };
        let count = part.len().min(most.saturating_sub(kept.len()));
        kept.extend_from_slice(&part[..count]);
    }

    fn end(&mut self) -> Result<()> {
        match self.header[0] {
            b'Z' => self.is_complete = true,
            b'R' if self.authentication != [0; 4] => bail!("the server wants a password"),
            _ => {}
        }
        self.header.clear();
        Ok(())
    }

    /// The readable fields of an `ErrorResponse`, for the end of a message.
    pub(crate) fn error_suffix(&self) -> String {
        let fields = self
            .error
            .split(|&byte| byte == 0)
            .filter(|field| matches!(field.first(), Some(b'S' | b'C' | b'M')));
        let words: Vec<_> = fields
            .map(|field| String::from_utf8_lossy(&field[1..]))
            .collect();
        if words.is_empty() {
            String::new()
        } else {
            format!(": {}", words.join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn login() -> Vec<u8> {
        [
            message(b'R', &[0; 4]),
            message(b'S', b"a\0b\0"),
            message(b'Z', b"I"),
        ]
        .concat()
    }

    #[test]
    fn ready_for_query_is_found_wherever_the_reads_are_cut() {
        let bytes = login();
        for cut in 0..bytes.len() {
            let mut answer = Answer::default();
            answer.feed(&bytes[..cut]).expect("first part");
            assert!(!answer.is_complete);
            answer.feed(&bytes[cut..]).expect("second part");
            assert!(answer.is_complete);
        }
    }

    #[test]
    fn named_statement_is_parsed_bound_and_executed() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut query = vec![0; 41];
            stream.read_exact(&mut query).expect("startup packet");
            stream.write_all(&login()).expect("answer");
            query = vec![0; 54];
            stream.read_exact(&mut query).expect("query");
            stream.write_all(&message(b'Z', b"I")).expect("answer");
            stream.read_to_end(&mut query).expect("goodbye");
            query
        });
        let mut buffer = [0; 64];
        let mut client = Client::connect(address, &mut buffer).expect("logged in");
        client
            .extended("s", "select 1", &mut buffer)
            .expect("an answer");
        client.terminate().expect("open until now");
        let expected = b"P\0\0\0\x11s\0select 1\0\0\0\
            B\0\0\0\x0d\0s\0\0\0\0\0\0\0\
            D\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04X\0\0\0\x04";
        assert_eq!(server.join().expect("no panic"), expected);
    }

    #[test]
    fn error_fields_are_readable() {
        let mut answer = Answer::default();
        answer
            .feed(&message(b'E', b"SFATAL\0C53300\0Mtoo many\0\0"))
            .expect("an error");
        assert_eq!(answer.error_suffix(), ": FATAL 53300 too many");
        assert_eq!(answer.sqlstate().as_deref(), Some("53300"));
        answer.reset();
        assert_eq!(answer.sqlstate(), None);
    }

    #[test]
    fn cancel_key_and_last_row_are_kept() {
        let mut answer = Answer::default();
        let row = |value: &[u8]| message(b'D', &[b"\0\x01\0\0\0\x02", value].concat());
        let bytes = [message(b'K', b"12345678"), row(b"17"), row(b"42")].concat();
        answer.feed(&bytes).expect("messages");
        assert_eq!(answer.cancel_key(), Some(CancelKey(*b"12345678")));
        assert_eq!(answer.first_column().as_deref(), Some("42"));
        answer
            .feed(&message(b'D', b"\0\x01\xff\xff\xff\xff"))
            .expect("NULL");
        assert_eq!(answer.first_column(), None);
    }

    #[test]
    fn password_request_and_impossible_length_are_refused() {
        assert!(
            Answer::default()
                .feed(&message(b'R', &[0, 0, 0, 10]))
                .is_err()
        );
        assert!(Answer::default().feed(&[b'Z', 0, 0, 0, 3]).is_err());
    }

    #[test]
    fn long_error_is_kept_only_in_part() {
        let mut answer = Answer::default();
        answer
            .feed(&message(b'E', &vec![b'x'; 100_000]))
            .expect("an error");
        assert_eq!(answer.error.len(), ERROR_BYTES_MAX);
    }
}
