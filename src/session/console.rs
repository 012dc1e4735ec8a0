//! A connection to the console, after its login.
//!
//! **Owns:** the messages of such a connection: what is read, refused and answered; its prepared
//! statements and portals.
//! **Does not own:** its login (`login`), the commands (`admin`, `commands`).
//!
//! Both query protocols are spoken, without parameters and with results as text. After an error in
//! the extended one everything up to `Sync` is skipped:
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
//! 2. It holds one message of at most `MESSAGE_BYTES_MAX`, `STATEMENTS_MAX` commands, and about
//!    `WINDOW_BYTES` of what it sends while a command runs. While more than that wait for it, it is not
//!    read and no command of it is run.
//! 3. Whatever a query is, its answer ends with `ReadyForQuery`.
//! 4. One that is closed by another is told so, wherever it is: `part` says it, nobody else does.
//! 5. Between two commands other tasks have at least as long as the first of them has taken.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` ("Simple Query", "Extended Query").

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::ops::RangeInclusive;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use shards::{Chunk, sleep};

use crate::admin::command::parse;
use crate::admin::{Command, Refusal, When};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::framer::{FrameError, Framer, Interest};
use crate::protocol::frontend::{self, Bind, Close, Describe, Execute, Query};
use crate::protocol::sqlstate;
use crate::protocol::writer;
use crate::transport::Stream;

use super::binding::{check_binding, invalid, not_spoken};
use super::cancel::close_in_order;
use super::client::WINDOW_BYTES;
use super::commands::{self, Done};
use super::kill::closed_by_operator;
use super::relay::unknown_request;
use super::report::Failure;
use super::roster::Seated;
use super::shard::{Connection, Shard};

/// The largest body of a message, in bytes.
const MESSAGE_BYTES_MAX: u32 = 64 * 1024;
/// Prepared statements, and portals, of one console.
const STATEMENTS_MAX: usize = 256;
/// How long a command may run before a console is closed that goes on sending.
const PATIENCE: Duration = Duration::from_millis(500);
/// Time that others have between two commands: as long as the one before has taken, within these bounds.
const TURN: RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_millis(10);
/// Commands of one query.
const COMMANDS_MAX: usize = 1000;
/// How long the answer to `SHUTDOWN` may take to leave.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);

static INTEREST: Interest = Interest::of(b"QPBDEC");

const BIND_COMPLETE: &[u8] = b"2\0\0\0\x04";
const NO_DATA: &[u8] = b"n\0\0\0\x04";
const NO_PARAMETERS: &[u8] = b"t\0\0\0\x06\0\0";

/// A message, as far as it is to be served.
enum Request {
    /// There is nothing to do.
    Nothing,
    /// A text to be run.
    Query(Vec<u8>),
    /// A message of the extended protocol, with its body.
    Extended(u8, Vec<u8>),
    /// A call of a function, which there are none of.
    FunctionCall,
    /// The end of such messages.
    Sync,
    /// The session is over; these are its last words.
    End(Vec<u8>),
}

/// A prepared command; none for an empty text.
type Prepared = Option<Command>;

/// Counts a console as long as it lives.
struct Counted(Rc<Shard>);

impl Counted {
    fn new(shard: &Rc<Shard>) -> Self {
        shard.metrics().consoles.add(1);
        Self(Rc::clone(shard))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics().consoles.sub(1);
    }
}

/// One connection to the console.
pub struct Console {
    shard: Rc<Shard>,
    client: Stream,
    framer: Framer,
    /// An error was reported, and its `Sync` has not come yet.
    is_skipping: bool,
    /// What it has sent while a command of it ran.
    ahead: Vec<u8>,
    /// Time that others have before the next command.
    rest: Duration,
    statements: HashMap<Vec<u8>, Prepared>,
    portals: HashMap<Vec<u8>, Prepared>,
    card: Seated,
    _counted: Counted,
    _connection: Connection,
}

impl Console {
    /// A console that has said its greeting.
    pub fn new(shard: Rc<Shard>, client: Stream, connection: Connection, card: Seated) -> Self {
        Self {
            client,
            framer: Framer::new(&INTEREST, MESSAGE_BYTES_MAX),
            is_skipping: false,
            ahead: Vec::new(),
            rest: Duration::ZERO,
            statements: HashMap::new(),
            portals: HashMap::new(),
            card,
            _counted: Counted::new(&shard),
            _connection: connection,
            shard,
        }
    }

    /// Serves the client until it goes; `rest` is what it has sent beyond its login.
    pub async fn run(mut self, rest: Option<Chunk>) {
        let mut input = rest;
        loop {
            let chunk = match input.take() {
                Some(chunk) => chunk,
                None => match self.receive().await {
                    Some(chunk) => chunk,
                    None => break,
                },
            };
            input = match self.read(chunk).await {
                Some(rest) if rest.is_empty() => None,
                Some(rest) => Some(rest),
                None => break,
            };
        }
        self.part().await;
    }

    /// Its last words, if it has been closed.
    async fn part(mut self) {
        if !self.card.is_killed() {
            return;
        }
        self.client.send(closed_by_operator().to_bytes());
        if self.shard.doors.is_over() {
            close_in_order(&self.client);
            // Who waits for it to end does not do so for ever.
            let _ = self.client.flush().await;
        }
    }

    /// What the client sends; `None` at its end, or when it is closed by another console.
    async fn receive(&mut self) -> Option<Chunk> {
        if !self.ahead.is_empty() {
            return Some(self.client.chunk_of(std::mem::take(&mut self.ahead)));
        }
        let received = poll_fn(|context| {
            if self.card.is_killed() {
                return Poll::Ready(Ok(None));
            }
            self.client.poll_receive(context)
        });
        received.await.ok().flatten()
    }

    /// Handles the next message in `chunk` and returns what is behind it; `None` at the end.
    async fn read(&mut self, mut chunk: Chunk) -> Option<Chunk> {
        let (len, request) = self.next(&chunk);
        chunk.advance(len);
        self.framer.free_collected();
        match request {
            Request::Nothing => {}
            Request::End(last_words) => {
                self.client.send(last_words);
                return None;
            }
            Request::Sync => {
                self.is_skipping = false;
                self.send_ready(Vec::new());
            }
            Request::FunctionCall => {
                let mut out = Vec::new();
                not_spoken("the admin console has no functions").encode(&mut out);
                self.send_ready(out);
            }
            Request::Query(text) => {
                chunk = chunk.release_if_scarce();
                let out = self.query(&text).await?;
                self.send_ready(out);
            }
            Request::Extended(tag, body) => {
                chunk = chunk.release_if_scarce();
                let mut out = Vec::new();
                if let Err(refusal) = self.extended(tag, &body, &mut out).await? {
                    self.is_skipping = true;
                    refusal.encode(&mut out);
                }
                self.client.send(out);
            }
        }
        if self.client.queued_bytes() > WINDOW_BYTES {
            chunk = chunk.release_if_scarce();
            self.wait_for_room().await?;
        }
        Some(chunk)
    }

    /// Waits until the client has taken most of what it got. `None` if it has gone, or has been closed.
    async fn wait_for_room(&mut self) -> Option<()> {
        if self.client.queued_bytes() <= WINDOW_BYTES {
            return Some(());
        }
        self.client.pause();
        let (client, card) = (&mut self.client, &self.card);
        poll_fn(|context| {
            let sent = client.poll_sent(WINDOW_BYTES / 2, context);
            if card.is_killed() {
                return Poll::Ready(None);
            }
            sent.map(Result::ok)
        })
        .await
    }

    fn send_ready(&mut self, mut out: Vec<u8>) {
        writer::ready_for_query(&mut out, TransactionStatus::Idle);
        self.client.send(out);
    }

    /// Looks at the first message of `input`: how many bytes of it are there, and what it is.
    fn next(&mut self, input: &[u8]) -> (usize, Request) {
        match self.framer.next(input) {
            Err(error) => (input.len(), Request::End(malformed(&error))),
            Ok(None) => (0, Request::Nothing),
            Ok(Some(part)) if !part.is_last => (part.len, Request::Nothing),
            Ok(Some(part)) => (part.len, request(part.tag, part.body, self.is_skipping)),
        }
    }

    /// Runs the commands of a text, up to the first error; returns what is still to be sent. `None` if the
    /// client has gone meanwhile.
    ///
    /// Between two commands others have their turn, and the client takes what it has got.
    async fn query(&mut self, text: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let all = parse(text);
        if all.is_empty() {
            writer::empty_query_response(&mut out);
        }
        if all.len() > COMMANDS_MAX {
            let text = format!("a query has at most {COMMANDS_MAX} commands");
            Refusal::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, text).encode(&mut out);
            return Some(out);
        }
        for command in all {
            if !out.is_empty() {
                self.client.send(std::mem::take(&mut out));
                self.wait_for_room().await?;
            }
            let outcome = match command {
                Ok(command) => self.run_command(command, true, &mut out).await?,
                Err(error) => Err(error.into()),
            };
            if let Err(refusal) = outcome {
                refusal.encode(&mut out);
                break;
            }
        }
        Some(out)
    }

    /// Runs a command, and appends its answer. `None` if the client has gone meanwhile.
    async fn run_command(
        &mut self,
        command: Command,
        describes: bool,
        out: &mut Vec<u8>,
    ) -> Option<Result<(), Refusal>> {
        self.note(&command);
        // A task that is only woken again keeps the shard from looking at its sockets.
        sleep(self.rest).await;
        let begun = Instant::now();
        let done = {
            let (client, card) = (&mut self.client, &self.card);
            let ahead = &mut self.ahead;
            let mut running = pin!(commands::run(&self.shard, command));
            let mut patience = sleep(PATIENCE);
            poll_fn(|context| {
                if let Poll::Ready(done) = running.as_mut().poll(context) {
                    return Poll::Ready(Some(done));
                }
                if card.is_killed() {
                    return Poll::Ready(None);
                }
                // Its end may stand behind what it sends meanwhile.
                while ahead.len() <= WINDOW_BYTES {
                    match client.poll_receive(context) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(Some(chunk))) => ahead.extend_from_slice(&chunk),
                        Poll::Ready(Ok(None) | Err(_)) => return Poll::Ready(None),
                    }
                }
                client.pause();
                Pin::new(&mut patience).poll(context).map(|()| {
                    let text = "too much was sent while a command runs";
                    let failure = Failure::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, text);
                    client.send(failure.to_bytes());
                    None
                })
            })
            .await?
        };
        self.rest = begun.elapsed().clamp(*TURN.start(), *TURN.end());
        Some(match done {
            Ok(done) => {
                self.tell(done, describes, out).await?;
                Ok(())
            }
            Err(refusal) => Err(refusal),
        })
    }

    /// Notes who has asked for something that changes something.
    fn note(&self, command: &Command) {
        if matches!(command, Command::Show(_)) {
            return;
        }
        let (_, user) = self.card.names();
        let peer = self.card.tally().peer;
        let peer = peer.map_or_else(|| "local".to_owned(), |peer| peer.to_string());
        tracing::info!(client = %peer, user, ?command, "a command at the console");
    }

    /// Appends what has come of a command. `None` if it ends the process: that was told then.
    async fn tell(&mut self, done: Done, describes: bool, out: &mut Vec<u8>) -> Option<()> {
        let (table, tag, when) = match done {
            Done::Tag(tag) => (None, tag, None),
            Done::Rows(table, tag) => (Some(table), tag, None),
            Done::Shutdown(table, when) => (Some(table), "SHUTDOWN", Some(when)),
        };
        if let Some(table) = table {
            if describes {
                table.describe(out);
            }
            table.encode_rows(out);
        }
        writer::command_complete(out, tag.as_bytes());
        let Some(when) = when else { return Some(()) };
        if when == When::Now {
            // It ends as soon as the client knows.
            let mut last_words = std::mem::take(out);
            if describes {
                writer::ready_for_query(&mut last_words, TransactionStatus::Idle);
            }
            self.client.send(last_words);
            let deadline = shards::now() + LAST_WORDS_MAX;
            shards::until(deadline, self.client.flush()).await;
        }
        commands::shut_down(&self.shard, when);
        (when != When::Now).then_some(())
    }

    /// Handles a message of the extended protocol. `None` if the client has gone meanwhile.
    async fn extended(
        &mut self,
        tag: u8,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<Result<(), Refusal>> {
        Some(match tag {
            b'P' => self.prepare(body, out),
            b'B' => self.bind(body, out),
            b'D' => self.describe(body, out),
            b'C' => self.close(body, out),
            _ => match self.portal(body) {
                Ok(Some(command)) => return self.run_command(command, false, out).await,
                Ok(None) => {
                    writer::empty_query_response(out);
                    Ok(())
                }
                Err(refusal) => Err(refusal),
            },
        })
    }

    fn prepare(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let message = frontend::Parse::decode(body).map_err(|_| invalid())?;
        let mut all = parse(message.query);
        if all.len() > 1 {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(Refusal::new(sqlstate::SYNTAX_ERROR, text));
        }
        let command = all.pop().transpose()?;
        keep(&mut self.statements, message.name, command)?;
        writer::parse_complete(out);
        Ok(())
    }

    fn bind(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let message = Bind::decode(body).map_err(|_| invalid())?;
        check_binding(message.rest)?;
        let command = find(&self.statements, message.statement)?;
        keep(&mut self.portals, message.portal, command)?;
        out.extend_from_slice(BIND_COMPLETE);
        Ok(())
    }

    fn describe(&self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let message = Describe::decode(body).map_err(|_| invalid())?;
        let command = match message.kind {
            frontend::Target::Portal => find(&self.portals, message.name)?,
            frontend::Target::Statement => {
                let command = find(&self.statements, message.name)?;
                out.extend_from_slice(NO_PARAMETERS);
                command
            }
        };
        let columns = command.and_then(|command| commands::columns(&self.shard, &command));
        match columns {
            Some(table) => table.describe(out),
            None => out.extend_from_slice(NO_DATA),
        }
        Ok(())
    }

    fn close(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let message = Close::decode(body).map_err(|_| invalid())?;
        match message.kind {
            frontend::Target::Portal => self.portals.remove(message.name),
            frontend::Target::Statement => self.statements.remove(message.name),
        };
        writer::close_complete(out);
        Ok(())
    }

    fn portal(&self, body: &[u8]) -> Result<Prepared, Refusal> {
        let message = Execute::decode(body).map_err(|_| invalid())?;
        find(&self.portals, message.portal)
    }
}

fn request(tag: u8, body: Option<&[u8]>, is_skipping: bool) -> Request {
    match tag {
        b'X' => Request::End(Vec::new()),
        b'S' => Request::Sync,
        b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'F' if is_skipping => Request::Nothing,
        b'Q' => {
            if let Ok(Query { text }) = Query::decode(body.unwrap_or_default()) {
                Request::Query(text.to_vec())
            } else {
                let text = "invalid message format";
                Request::End(Failure::new(sqlstate::PROTOCOL_VIOLATION, text).to_bytes())
            }
        }
        b'P' | b'B' | b'D' | b'E' | b'C' => {
            Request::Extended(tag, body.unwrap_or_default().to_vec())
        }
        b'F' => Request::FunctionCall,
        // There is nothing to flush, and no COPY that these could belong to.
        b'H' | b'd' | b'c' | b'f' => Request::Nothing,
        _ => Request::End(unknown_request(tag).to_bytes()),
    }
}

fn keep(
    commands: &mut HashMap<Vec<u8>, Prepared>,
    name: &[u8],
    command: Prepared,
) -> Result<(), Refusal> {
    if commands.len() >= STATEMENTS_MAX && !commands.contains_key(name) {
        let text = format!("a console has at most {STATEMENTS_MAX} prepared statements");
        return Err(Refusal::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, text));
    }
    commands.insert(name.to_vec(), command);
    Ok(())
}

fn find(commands: &HashMap<Vec<u8>, Prepared>, name: &[u8]) -> Result<Prepared, Refusal> {
    commands.get(name).cloned().ok_or_else(|| {
        let name = String::from_utf8_lossy(name);
        let text = format!("prepared statement or portal \"{name}\" does not exist");
        Refusal::new(sqlstate::INVALID_STATEMENT_NAME, text)
    })
}

fn malformed(error: &FrameError) -> Vec<u8> {
    Failure::new(sqlstate::PROTOCOL_VIOLATION, error.to_string()).to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is made of messages without bodies.
    fn requests(tags: &[u8], is_skipping: bool) -> String {
        let name = |tag: &u8| match request(*tag, Some(b"\0"), is_skipping) {
            Request::Nothing => '-',
            Request::Query(_) => 'q',
            Request::Extended(..) => 'x',
            Request::FunctionCall => 'f',
            Request::Sync => 's',
            Request::End(_) => '.',
        };
        tags.iter().map(name).collect()
    }

    #[test]
    fn everything_but_sync_is_skipped_after_an_error() {
        assert_eq!(requests(b"QPBDECSHdcfX!", false), "qxxxxxs----..");
        assert_eq!(requests(b"QPBDECFSHdcfX!", true), "-------s----..");
    }
}
