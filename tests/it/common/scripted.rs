//! A scripted PostgreSQL: a server that does what no real one would.
//!
//! Owns: a listening port and one thread a connection, each running the script.
//! Does not own: the script, which is a closure of the test.
//! Invariants: a script that ends closes its connection; threads end with their connection.
//!
//! Source: protocol-flow.html.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::DEADLINE;
use super::client::Message;
use super::message::{message, text};

/// The listening side.
#[derive(Debug)]
pub(crate) struct ScriptedServer {
    port: u16,
    connections: Arc<AtomicUsize>,
}

/// One connection, from the server's side.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: TcpStream,
    /// 0 for the first connection, and so on.
    pub(crate) number: usize,
}

impl ScriptedServer {
    /// Listens and runs `script` for every connection. A script ends early when its connection
    /// ends: use `?`.
    pub(crate) fn start(
        script: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let script = Arc::clone(&script);
                std::thread::spawn(move || {
                    stream.set_nodelay(true).unwrap();
                    stream.set_read_timeout(Some(DEADLINE)).unwrap();
                    // The other side may close at any time; the test looks at the client.
                    let _ = script(&mut Peer { stream, number });
                });
            }
        });
        Self { port, connections }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many connections have been accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Peer {
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Another handle of the socket, for a second thread that writes.
    pub(crate) fn writer(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Sends `bytes` in two writes, cut at `at`, far enough apart to arrive apart.
    pub(crate) fn send_cut(&mut self, bytes: &[u8], at: usize) -> io::Result<()> {
        let (first, second) = bytes.split_at(at.min(bytes.len()));
        self.stream.write_all(first)?;
        // Not a wait for anything: a shorter pause only makes the cut less visible.
        std::thread::sleep(Duration::from_millis(2));
        self.stream.write_all(second)
    }

    /// Reads one message.
    pub(crate) fn receive(&mut self) -> io::Result<Message> {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header)?;
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let mut body = vec![0; length.saturating_sub(4)];
        self.stream.read_exact(&mut body)?;
        Ok(Message {
            tag: header[0],
            body,
        })
    }

    /// Reads messages up to one that has tag `tag`.
    pub(crate) fn receive_until(&mut self, tag: u8) -> io::Result<Message> {
        loop {
            let message = self.receive()?;
            if message.tag == tag {
                return Ok(message);
            }
        }
    }

    /// Reads a packet without a tag and returns its body.
    pub(crate) fn receive_packet(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    /// Reads the startup packet and returns its body. `SSLRequest` is answered with `N`.
    pub(crate) fn receive_startup(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let body = self.receive_packet()?;
            if body == 80_877_103_u32.to_be_bytes() {
                self.send(b"N")?;
            } else {
                return Ok(body);
            }
        }
    }

    /// Lets the peer in without a password.
    pub(crate) fn accept_login(&mut self) -> io::Result<()> {
        self.receive_startup()?;
        self.send(&login_reply())
    }

    /// Serves simple queries: every one is answered with its own text as one row. Everything
    /// the pooler may use to prepare a connection (SET, RESET, DISCARD …) gets a plain tag.
    pub(crate) fn echo(&mut self) -> io::Result<()> {
        loop {
            let message = self.receive()?;
            match message.tag {
                b'Q' => self.send(&answer(&message))?,
                b'S' => self.send(&ready(b'I'))?,
                b'X' => return Ok(()),
                _ => {}
            }
        }
    }
}

/// `AuthenticationOk`, some ParameterStatus, `BackendKeyData`, ReadyForQuery.
pub(crate) fn login_reply() -> Vec<u8> {
    let mut bytes = message(b'R', &[0, 0, 0, 0]);
    for (name, value) in [
        ("server_version", "15.0"),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("application_name", ""),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
    ] {
        bytes.extend(message(b'S', &[text(name), text(value)].concat()));
    }
    bytes.extend(message(b'K', &[0, 0, 0, 7, 0, 0, 0, 9]));
    bytes.extend(ready(b'I'));
    bytes
}

pub(crate) fn ready(status: u8) -> Vec<u8> {
    message(b'Z', &[status])
}

/// One row with one text column, and the end of the query.
pub(crate) fn one_row(value: &str) -> Vec<u8> {
    let mut description = vec![0, 1];
    description.extend(text("column"));
    description.extend([
        0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 255, 255, 255, 255, 255, 255, 0, 0,
    ]);
    let mut row = vec![0, 1];
    row.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
    row.extend_from_slice(value.as_bytes());
    let parts = [
        message(b'T', &description),
        message(b'D', &row),
        command("SELECT 1"),
    ];
    [parts.concat(), ready(b'I')].concat()
}

pub(crate) fn command(tag: &str) -> Vec<u8> {
    message(b'C', &text(tag))
}

/// An `ErrorResponse`.
pub(crate) fn error(severity: &str, sqlstate: &str, reason: &str) -> Vec<u8> {
    let fields = [
        ("S", severity),
        ("V", severity),
        ("C", sqlstate),
        ("M", reason),
    ];
    let mut body: Vec<u8> = fields
        .iter()
        .flat_map(|(code, v)| text(&format!("{code}{v}")))
        .collect();
    body.push(0);
    message(b'E', &body)
}

/// The answer of `echo` to a Query.
pub(crate) fn answer(query: &Message) -> Vec<u8> {
    let sql = query.strings().concat();
    let first = sql
        .split_whitespace()
        .next()
        .unwrap_or("")
        .trim_end_matches(';')
        .to_uppercase();
    match first.as_str() {
        "SELECT" => one_row(&sql),
        "" => [message(b'I', &[]), ready(b'I')].concat(),
        _ => [command(&first), ready(b'I')].concat(),
    }
}
