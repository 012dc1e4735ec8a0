//! A raw protocol 3 client over blocking sockets.
//!
//! Owns: one TCP connection, cutting its bytes into messages, simple checks on answers.
//! Does not own: the login (`login`), building messages (`message`).
//! Invariants: no read waits longer than the deadline; what the peer sends is never skipped.
//!
//! Source: protocol-flow.html, protocol-message-formats.html.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::{DEADLINE, message};

/// A row as text; `None` is NULL.
pub(crate) type Row = Vec<Option<String>>;

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

/// The fields of an `ErrorResponse` or `NoticeResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorFields {
    pub(crate) severity: String,
    pub(crate) sqlstate: String,
    pub(crate) message: String,
}

/// Everything up to one ReadyForQuery.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    /// The tags in order, for example `TDCZ`.
    pub(crate) tags: String,
    pub(crate) rows: Vec<Row>,
    /// Command tags such as `SELECT 1`.
    pub(crate) commands: Vec<String>,
    pub(crate) errors: Vec<ErrorFields>,
    pub(crate) notices: Vec<ErrorFields>,
    /// `I`, `T` or `E`.
    pub(crate) status: char,
}

/// A connection; see `Login` for how to get one.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    /// How much of `received` has been taken.
    taken: usize,
    /// The last value of every ParameterStatus.
    pub(crate) parameters: BTreeMap<String, String>,
    /// Body of `BackendKeyData`.
    pub(crate) key: Vec<u8>,
}

impl Client {
    /// A client on a connected socket, before any login.
    pub(crate) fn raw(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            received: Vec::new(),
            taken: 0,
            parameters: BTreeMap::new(),
            key: Vec::new(),
        }
    }

    /// The shard that it has logged in on, as its cancel key says.
    pub(crate) fn origin(&self) -> usize {
        let pid = u32::from_be_bytes(self.key[..4].try_into().unwrap());
        ((pid - 1) >> 17 & 1023) as usize
    }

    /// Connects to 127.0.0.1 and sends nothing.
    pub(crate) fn dial(port: u16) -> Self {
        Self::raw(TcpStream::connect(("127.0.0.1", port)).expect("connect"))
    }

    /// Bounds every read from now on.
    pub(crate) fn set_deadline(&mut self, deadline: Duration) {
        self.stream.set_read_timeout(Some(deadline)).unwrap();
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends `bytes` in one write.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("send");
    }

    /// Sends the concatenation of `messages` in one write.
    pub(crate) fn send_all(&mut self, messages: &[Vec<u8>]) {
        self.send(&messages.concat());
    }

    /// Another handle of the socket, for a second thread that writes.
    pub(crate) fn writer(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    /// Ends the sending direction only.
    pub(crate) fn finish_sending(&self) {
        // Fails only if the peer has closed first.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Reads and forgets some bytes; `Ok(0)` at the end.
    pub(crate) fn try_receive_anything(&mut self) -> io::Result<usize> {
        self.stream.read(&mut [0; 16_384])
    }

    /// Says goodbye and waits for the close of the other side.
    pub(crate) fn terminate(mut self) {
        self.send(&message::terminate());
        assert!(self.is_closed(), "open after Terminate");
    }

    /// Closes so that the peer sees a reset rather than an orderly end.
    pub(crate) fn abort(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// The next byte, outside any message (answer to `SSLRequest`).
    pub(crate) fn receive_byte(&mut self) -> u8 {
        self.fill(1).expect("one byte");
        self.take(1)[0]
    }

    /// The next byte, or `None` if the peer closes; silence fails the test.
    pub(crate) fn first_byte_or_close(&mut self) -> Option<u8> {
        match self.fill(1) {
            Ok(()) => Some(self.take(1)[0]),
            Err(error) if is_close(&error) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The next message. `UnexpectedEof` or `ConnectionReset` when the peer has closed.
    pub(crate) fn try_receive(&mut self) -> io::Result<Message> {
        self.fill(5)?;
        let header = &self.received[self.taken..self.taken + 5];
        let tag = header[0];
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if !(4..1 << 30).contains(&length) {
            return Err(io::Error::other(format!(
                "message {:?} of length {length}",
                tag as char
            )));
        }
        self.fill(length + 1)?;
        let body = self.take(length + 1)[5..].to_vec();
        let message = Message { tag, body };
        if tag == b'S' {
            let mut strings = message.strings().into_iter();
            let name = strings.next().unwrap_or_default();
            self.parameters
                .insert(name, strings.next().unwrap_or_default());
        }
        Ok(message)
    }

    /// The next message; a close or silence fails the test.
    pub(crate) fn receive(&mut self) -> Message {
        self.try_receive().expect("a message")
    }

    /// The next message, which must have tag `tag`.
    pub(crate) fn expect(&mut self, tag: char) -> Message {
        let message = self.receive();
        let got = message.tag as char;
        assert_eq!(got, tag, "{message:?} {:?}", message.error_fields());
        message
    }

    /// The next message, which must have one of `tags`.
    pub(crate) fn expect_any(&mut self, tags: &[char]) -> Message {
        let message = self.receive();
        assert!(
            tags.contains(&(message.tag as char)),
            "{message:?} {:?}",
            message.error_fields()
        );
        message
    }

    /// The next messages, whose tags must be exactly `tags`.
    pub(crate) fn expect_tags(&mut self, tags: &str) -> Vec<Message> {
        let mut got = String::new();
        let mut messages = Vec::new();
        for _ in tags.chars() {
            let message = self.receive();
            got.push(message.tag as char);
            assert!(
                tags.starts_with(&got),
                "wanted {tags}, got {got}: {message:?}"
            );
            messages.push(message);
        }
        messages
    }

    /// Whether the peer closes without sending anything more.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.try_receive() {
            Ok(message) => panic!(
                "wanted a close, got {message:?} {:?}",
                message.error_fields()
            ),
            Err(error) => is_close(&error),
        }
    }

    /// All messages up to ReadyForQuery.
    pub(crate) fn try_reply(&mut self) -> io::Result<Reply> {
        let mut reply = Reply::default();
        loop {
            let message = self.try_receive()?;
            reply.add(&message);
            if message.tag == b'Z' {
                return Ok(reply);
            }
        }
    }

    /// All messages up to ReadyForQuery; a close or silence fails the test.
    pub(crate) fn reply(&mut self) -> Reply {
        self.try_reply().expect("messages up to ReadyForQuery")
    }

    pub(crate) fn try_query(&mut self, sql: &str) -> io::Result<Reply> {
        self.try_send(&message::query(sql))?;
        self.try_reply()
    }

    /// Runs a simple query.
    pub(crate) fn query(&mut self, sql: &str) -> Reply {
        self.send(&message::query(sql));
        self.reply()
    }

    /// Runs a simple query that must succeed and returns its rows.
    pub(crate) fn rows(&mut self, sql: &str) -> Vec<Row> {
        let reply = self.query(sql);
        assert!(reply.errors.is_empty(), "{sql}: {:?}", reply.errors);
        reply.rows
    }

    /// Runs a simple query that must succeed.
    pub(crate) fn execute(&mut self, sql: &str) {
        self.rows(sql);
    }

    /// The first value of a simple query that must return one, not NULL.
    pub(crate) fn value(&mut self, sql: &str) -> String {
        let rows = self.rows(sql);
        let first = rows.first().and_then(|row| row.first()).cloned().flatten();
        first.unwrap_or_else(|| panic!("{sql}: no value in {rows:?}"))
    }

    /// The error of a simple query that must fail.
    pub(crate) fn error(&mut self, sql: &str) -> ErrorFields {
        let reply = self.query(sql);
        reply
            .errors
            .into_iter()
            .next()
            .unwrap_or_else(|| panic!("{sql}: no error"))
    }

    /// Sends an extended batch with Sync and returns the answer.
    pub(crate) fn batch(&mut self, messages: &[Vec<u8>]) -> Reply {
        self.send(&[messages.concat(), message::sync()].concat());
        self.reply()
    }

    /// Pid of the server process that runs this client's statement.
    pub(crate) fn backend_pid(&mut self) -> String {
        self.value("select pg_backend_pid()")
    }

    /// Waits until `count` bytes are there that have not been taken.
    fn fill(&mut self, count: usize) -> io::Result<()> {
        if self.taken > 0 && self.taken == self.received.len() {
            self.received.clear();
            self.taken = 0;
        }
        if self.received.len() - self.taken < count {
            self.received.drain(..self.taken);
            self.taken = 0;
            self.received.reserve(count);
        }
        let mut chunk = [0; 16_384];
        while self.received.len() - self.taken < count {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.received.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> &[u8] {
        self.taken += count;
        &self.received[self.taken - count..self.taken]
    }
}

/// Whether `error` means that the peer has closed (and not that it is silent).
pub(crate) fn is_close(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

impl Message {
    /// The NUL-terminated strings of the body.
    pub(crate) fn strings(&self) -> Vec<String> {
        let body = self.body.strip_suffix(&[0]).unwrap_or(&self.body);
        body.split(|byte| *byte == 0)
            .map(|part| String::from_utf8_lossy(part).into())
            .collect()
    }

    /// The fields, if this is an `ErrorResponse` or `NoticeResponse`; else empty ones.
    pub(crate) fn error_fields(&self) -> ErrorFields {
        let mut fields = ErrorFields::default();
        if self.tag == b'E' || self.tag == b'N' {
            for string in self.strings() {
                match string.split_at_checked(1) {
                    Some(("S", value)) => value.clone_into(&mut fields.severity),
                    Some(("C", value)) => value.clone_into(&mut fields.sqlstate),
                    Some(("M", value)) => value.clone_into(&mut fields.message),
                    _ => {}
                }
            }
        }
        fields
    }

    /// The columns of a `DataRow` as bytes.
    pub(crate) fn columns(&self) -> Vec<Option<Vec<u8>>> {
        let count = i16::from_be_bytes([self.body[0], self.body[1]]);
        let mut rest = &self.body[2..];
        let mut columns = Vec::new();
        for _ in 0..count {
            let (length, after) = rest.split_first_chunk::<4>().unwrap();
            rest = after;
            columns.push(
                usize::try_from(i32::from_be_bytes(*length))
                    .ok()
                    .map(|length| {
                        let (value, after) = rest.split_at(length);
                        rest = after;
                        value.to_vec()
                    }),
            );
        }
        assert!(rest.is_empty(), "bytes after the last column");
        columns
    }
}

impl Reply {
    fn add(&mut self, message: &Message) {
        self.tags.push(message.tag as char);
        match message.tag {
            b'D' => {
                let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
                self.rows
                    .push(message.columns().into_iter().map(|c| c.map(text)).collect());
            }
            b'C' => self.commands.extend(message.strings()),
            b'E' => self.errors.push(message.error_fields()),
            b'N' => self.notices.push(message.error_fields()),
            b'Z' => self.status = char::from(message.body[0]),
            _ => {}
        }
    }

    /// The first value, which must be there.
    pub(crate) fn value(&self) -> &str {
        let first = self.rows.first().and_then(|row| row.first());
        first
            .and_then(|value| value.as_deref())
            .unwrap_or_else(|| panic!("no value in {self:?}"))
    }

    /// SQLSTATE of the first error, empty if there is none.
    pub(crate) fn sqlstate(&self) -> &str {
        self.errors
            .first()
            .map_or("", |error| error.sqlstate.as_str())
    }
}
