//! A connection to the console, after its login.
//!
//! **Owns:** the messages of such a connection: what is read, refused and answered.
//! **Does not own:** its login (`login`), the commands (`admin`).
//!
//! Only the simple query protocol is spoken. A driver that tries the extended one is told so, and
//! goes on behind its `Sync`:
//!
//! ```text
//!   ┌─────────┐ ── Parse, Bind, Describe, Execute, Close: an error ──▶ ┌──────────┐
//!   │ reading │                                                        │ skipping │
//!   └─────────┘ ◀───────────── Sync: ReadyForQuery ─────────────────── └──────────┘
//! ```
//!
//! **Invariants**
//! 1. A console needs no server, belongs to no pool and is not in the registry: there is nothing that
//!    could be cancelled or handed to another shard.
//! 2. It holds one message of at most `MESSAGE_BYTES_MAX`, and is not read while more than
//!    `WINDOW_BYTES` wait for it.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` ("Simple Query", "Extended Query").

use std::future::poll_fn;
use std::rc::Rc;

use rand::Rng;
use shards::{Chunk, Stream};

use crate::admin::{self, Action, View};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::cancel_key::{CancelKey, CancelSecret, SLOT_MAX};
use crate::protocol::framer::{FrameError, Framer, Interest};
use crate::protocol::frontend::Query;
use crate::protocol::sqlstate;
use crate::protocol::writer::{self, Report, Severity};
use crate::server::parameters::ParameterSet;

use super::client::WINDOW_BYTES;
use super::relay::unknown_request;
use super::report::Failure;
use super::shard::{Connection, Shard};

/// The largest body of a message, in bytes.
const MESSAGE_BYTES_MAX: u32 = 64 * 1024;

static INTEREST: Interest = Interest::of(b"Q");

/// What a console tells of itself at login. Values that the client asks for win, except for those of
/// the version and the encoding of the texts.
const PARAMETERS: [(&str, &str); 6] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "Etc/UTC"),
    ("server_encoding", "UTF-8"),
    ("standard_conforming_strings", "on"),
    ("application_name", "pg_doorman"),
];

/// What is to be done after a message.
enum Step {
    /// Nothing.
    Quiet,
    /// Send these bytes.
    Answer(Vec<u8>),
    /// Ask all shards for their prepared statements.
    AskStatements,
    /// Read the configuration again.
    Reload,
    /// The session is over; these are its last words.
    End(Vec<u8>),
}

/// One connection to the console.
pub struct Console {
    shard: Rc<Shard>,
    client: Stream,
    framer: Framer,
    /// An error was reported, and its `Sync` has not come yet.
    is_skipping: bool,
    _connection: Connection,
}

/// A key that cancels nothing: clients expect to get one. It names the last slot, and whatever session
/// should ever have that has another secret.
pub fn dead_key(shard: &Shard, is_long: bool) -> CancelKey {
    let mut random = rand::rng();
    let secret = if is_long {
        CancelSecret::Long(random.random())
    } else {
        CancelSecret::Short(random.random())
    };
    CancelKey {
        generation: shard.generation,
        shard: shard.index as u16,
        slot: SLOT_MAX,
        secret,
    }
}

/// The messages that end a login to the console.
pub fn greeting(asked: &ParameterSet, key: &CancelKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    writer::authentication_ok(&mut out);
    for (name, own) in PARAMETERS {
        let value = asked.get(name).filter(|_| name != "server_encoding");
        writer::parameter_status(&mut out, name.as_bytes(), value.unwrap_or(own).as_bytes());
    }
    writer::parameter_status(&mut out, b"server_version", server_version().as_bytes());
    if let Some(pid) = key.pid() {
        writer::backend_key_data(&mut out, pid, key.secret.as_bytes());
    }
    writer::ready_for_query(&mut out, TransactionStatus::Idle);
    out
}

/// The version without what stands behind the numbers: drivers want to compare it.
fn server_version() -> &'static str {
    let version = env!("CARGO_PKG_VERSION");
    version
        .split_once('-')
        .map_or(version, |(numbers, _)| numbers)
}

impl Console {
    /// A console that has said its greeting.
    pub fn new(shard: Rc<Shard>, client: Stream, connection: Connection) -> Self {
        Self {
            shard,
            client,
            framer: Framer::new(&INTEREST, MESSAGE_BYTES_MAX),
            is_skipping: false,
            _connection: connection,
        }
    }

    /// Serves the client until it goes; `rest` is what it has sent beyond its login.
    pub async fn run(mut self, rest: Option<Chunk>) {
        let mut input = rest;
        loop {
            let chunk = match input.take() {
                Some(chunk) => chunk,
                None => match self.client.receive().await {
                    Ok(Some(chunk)) => chunk,
                    Ok(None) | Err(_) => return,
                },
            };
            input = match self.read(chunk).await {
                Some(rest) if rest.is_empty() => None,
                Some(rest) => Some(rest),
                None => return,
            };
        }
    }

    /// Handles the next message in `chunk` and returns what is behind it; `None` at the end.
    async fn read(&mut self, mut chunk: Chunk) -> Option<Chunk> {
        let (len, step) = self.step(&chunk);
        chunk.advance(len);
        self.framer.free_collected();
        match step {
            Step::Quiet => {}
            Step::Answer(bytes) => self.client.send(bytes),
            Step::Reload => {
                chunk = chunk.release_if_scarce();
                let outcome = self.shard.host.errands.reload().await;
                let outcome = outcome.map_err(|error| error.to_string());
                self.client.send(admin::reloaded(&outcome));
            }
            Step::AskStatements => {
                chunk = chunk.release_if_scarce();
                let accounts = self.shard.surveys.gather(&self.shard).await;
                self.client.send(admin::statements(accounts));
            }
            Step::End(bytes) => {
                self.client.send(bytes);
                return None;
            }
        }
        if self.client.queued_bytes() > WINDOW_BYTES {
            chunk = chunk.release_if_scarce();
            self.client.pause();
            let client = &mut self.client;
            poll_fn(|context| client.poll_sent(WINDOW_BYTES / 2, context))
                .await
                .ok()?;
        }
        Some(chunk)
    }

    /// Looks at the first message of `input`: how many bytes of it are there, and what to do.
    fn step(&mut self, input: &[u8]) -> (usize, Step) {
        match self.framer.next(input) {
            Err(error) => (input.len(), Step::End(malformed(&error))),
            Ok(None) => (0, Step::Quiet),
            Ok(Some(part)) if !part.is_last => (part.len, Step::Quiet),
            Ok(Some(part)) => {
                let view = View {
                    version: env!("CARGO_PKG_VERSION"),
                    fleet: &self.shard.fleet,
                };
                let step = handle(part.tag, part.body, &mut self.is_skipping, &view);
                (part.len, step)
            }
        }
    }
}

/// Answers one whole message. Bodies are there for queries.
fn handle(tag: u8, body: Option<&[u8]>, is_skipping: &mut bool, view: &View<'_>) -> Step {
    match tag {
        b'X' => Step::End(Vec::new()),
        b'S' => {
            *is_skipping = false;
            Step::Answer(ready())
        }
        b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'F' if *is_skipping => Step::Quiet,
        b'Q' => query(body.unwrap_or_default(), view),
        b'P' | b'B' | b'D' | b'E' | b'C' => {
            *is_skipping = true;
            Step::Answer(not_spoken())
        }
        b'F' => Step::Answer([not_spoken(), ready()].concat()),
        // There is nothing to flush, and no COPY that these could belong to.
        b'H' | b'd' | b'c' | b'f' => Step::Quiet,
        _ => Step::End(unknown_request(tag).to_bytes()),
    }
}

fn query(body: &[u8], view: &View<'_>) -> Step {
    let Ok(Query { text }) = Query::decode(body) else {
        let failure = Failure::new(sqlstate::PROTOCOL_VIOLATION, "invalid message format");
        return Step::End(failure.to_bytes());
    };
    match admin::respond(text, view) {
        Action::Send(bytes) => Step::Answer(bytes),
        Action::AskStatements => Step::AskStatements,
        Action::Reload => Step::Reload,
    }
}

fn ready() -> Vec<u8> {
    let mut out = Vec::new();
    writer::ready_for_query(&mut out, TransactionStatus::Idle);
    out
}

fn not_spoken() -> Vec<u8> {
    let mut out = Vec::new();
    let text = "the admin console speaks the simple query protocol only";
    let report = Report::new(Severity::Error, sqlstate::FEATURE_NOT_SUPPORTED, text);
    writer::error_response(&mut out, &report);
    out
}

fn malformed(error: &FrameError) -> Vec<u8> {
    Failure::new(sqlstate::PROTOCOL_VIOLATION, error.to_string()).to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Fleet;

    /// The tags of the answers to a sequence of messages without bodies.
    fn conversation(tags: &[u8]) -> String {
        let fleet = Fleet::new(1);
        let view = View {
            version: "1",
            fleet: &fleet,
        };
        let mut is_skipping = false;
        let mut answers = String::new();
        for tag in tags {
            match handle(*tag, Some(b"\0"), &mut is_skipping, &view) {
                Step::Quiet => answers.push('-'),
                Step::Answer(bytes) => answers.push(bytes[0].into()),
                Step::AskStatements => answers.push('p'),
                Step::Reload => answers.push('r'),
                Step::End(bytes) => {
                    answers.push(bytes.first().map_or('.', |tag| (*tag).into()));
                }
            }
        }
        answers
    }

    #[test]
    fn an_extended_query_gets_one_error_and_goes_on_at_its_sync() {
        assert_eq!(conversation(b"PBDESQ"), "E---ZI");
        assert_eq!(conversation(b"PQFS"), "E--Z");
        assert_eq!(conversation(b"SHdcf"), "Z----");
        assert_eq!(conversation(b"FQ"), "EI");
        assert_eq!(conversation(b"PX"), "E.");
        assert_eq!(conversation(b"!"), "E");
    }

    #[test]
    fn versions_are_numbers() {
        let is_number = |part: &str| part.parse::<u32>().is_ok();
        assert!(server_version().split('.').all(is_number));
    }
}
