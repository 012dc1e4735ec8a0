//! A minimal PostgreSQL client: trust authentication, one query at a time, rows discarded.
//!
//! Owns: the startup packet, simple and extended queries, finding `ReadyForQuery` in the answer.
//! Does not own: passwords, TLS, values; pgbench drives everything that needs those.
//! Invariants: an idle [`Client`] holds a socket and no buffer, so thousands cost the harness
//! nothing; the framing keeps no body except that of an error (at most 4 KiB of it).
//! Source: protocol-flow.html, protocol-message-formats.html.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The longest a server may stay silent.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// How much of an error message is kept.
const ERROR_BYTES_MAX: usize = 4096;

/// A logged-in connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects and logs in as user `postgres` to database `postgres`.
    ///
    /// # Errors
    /// No connection, a password is wanted, or the server refuses.
    pub(crate) fn connect(address: SocketAddr, buffer: &mut [u8]) -> Result<Self> {
        let stream = TcpStream::connect(address).context("cannot connect")?;
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        stream
            .set_read_timeout(Some(SILENCE_LIMIT))
            .context("cannot set a timeout")?;
        let mut client = Self { stream };
        let mut packet = 196_608_u32.to_be_bytes().to_vec();
        packet.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
        client.send(&[&length_of(&packet), packet.as_slice()].concat())?;
        client.read_answer(buffer)?;
        Ok(client)
    }

    /// Runs a simple query (or several) and returns the bytes of the answer.
    ///
    /// # Errors
    /// The connection is lost or the server reports an error.
    pub(crate) fn simple(&mut self, sql: &str, buffer: &mut [u8]) -> Result<u64> {
        self.send(&message(b'Q', &[sql.as_bytes(), b"\0"].concat()))?;
        self.read_answer(buffer)
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
        self.read_answer(buffer)
    }

    /// Says goodbye and closes.
    ///
    /// # Errors
    /// The connection was already lost.
    pub(crate) fn terminate(mut self) -> Result<()> {
        self.send(&message(b'X', b""))?;
        // A peer that closes by a reset has been faster.
        match self.stream.shutdown(Shutdown::Both) {
            Err(error) if error.kind() != ErrorKind::NotConnected => {
                Err(error).context("cannot close")
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("cannot send")
    }

    fn read_answer(&mut self, buffer: &mut [u8]) -> Result<u64> {
        let mut answer = Answer::default();
        let mut received = 0;
        while !answer.is_complete {
            let count = self.stream.read(buffer).context("cannot receive")?;
            if count == 0 {
                bail!("connection closed by the server{}", answer.error_suffix());
            }
            received += count as u64;
            answer.feed(&buffer[..count])?;
        }
        if !answer.error.is_empty() {
            bail!("server error{}", answer.error_suffix());
        }
        Ok(received)
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
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
struct Answer {
    /// Tag and length of the message that began, as far as they were received.
    header: Vec<u8>,
    /// Bytes of its body still to come.
    body_left: usize,
    authentication: Vec<u8>,
    error: Vec<u8>,
    is_complete: bool,
}

impl Answer {
    fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
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
        Ok(())
    }

    fn body(&mut self, part: &[u8]) {
        let kept = match self.header.first() {
            Some(b'E') => &mut self.error,
            Some(b'R') => &mut self.authentication,
            _ => return,
        };
        let count = part.len().min(ERROR_BYTES_MAX.saturating_sub(kept.len()));
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
    fn error_suffix(&self) -> String {
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
