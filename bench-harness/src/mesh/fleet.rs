//! Many clients driven by one thread.
//!
//! ```text
//!            open                ReadyForQuery             send
//!   (empty) ──────► LoggingIn ─────────────────► Idle ◄──────────► Waiting
//!      ▲                │                          │   ReadyForQuery   │
//!      └────────────────┴──── lost, close ─────────┴───────────────────┘
//! ```
//!
//! Owns: the sockets, waiting for all of them at once, the state of each client.
//! Does not own: when a client sends what (the checks), the framing (`client.rs`).
//! Invariants: a slot holds at most one connection; a lost connection is reported once and its slot
//! is empty from then on; no call waits for a single client.
//! Source: epoll(7), protocol-flow.html.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::client::{Answer, CancelKey, startup_packet};
use crate::interrupt;

/// The most events taken at once.
const BATCH: usize = 256;
/// The longest wait; a shorter one of the caller counts.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// What happened to a client.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) slot: usize,
    pub(crate) outcome: Outcome,
}

/// The kinds of events.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    LoggedIn,
    /// A query was answered; the time from sending it to the end of the answer.
    Answered(Duration),
    /// A query ended with an error of this SQLSTATE; the session goes on.
    Refused(String),
    /// The connection is gone, and why.
    Lost(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    LoggingIn,
    Idle,
    Waiting,
}

#[derive(Debug)]
struct Session {
    stream: TcpStream,
    answer: Answer,
    phase: Phase,
    /// When the last request was sent.
    since: Instant,
    key: Option<CancelKey>,
}

/// The clients, in numbered slots.
#[derive(Debug)]
pub(crate) struct Fleet {
    address: SocketAddr,
    epoll: Epoll,
    sessions: Vec<Option<Session>>,
    ready: Vec<EpollEvent>,
    buffer: Vec<u8>,
    /// Connections that could not even begin, to be reported by the next wait.
    stillborn: Vec<Event>,
}

impl Fleet {
    /// No clients yet, and where they will connect to.
    ///
    /// # Errors
    /// The system has no epoll descriptor left.
    pub(crate) fn new(address: SocketAddr, slots: usize) -> Result<Self> {
        Ok(Self {
            address,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot create an epoll")?,
            sessions: (0..slots).map(|_| None).collect(),
            ready: vec![EpollEvent::empty(); BATCH],
            buffer: vec![0; 16 * 1024],
            stillborn: Vec::new(),
        })
    }

    /// Connects a client and sends its first packet. What was in the slot is closed.
    pub(crate) fn open(&mut self, slot: usize) {
        self.sessions[slot] = None;
        match self.connect(slot) {
            Ok(session) => self.sessions[slot] = Some(session),
            Err(error) => self.stillborn.push(Event {
                slot,
                outcome: Outcome::Lost(format!("{error:#}")),
            }),
        }
    }

    fn connect(&self, slot: usize) -> Result<Session> {
        let mut stream = TcpStream::connect(self.address).context("cannot connect")?;
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        stream.set_nonblocking(true).context("cannot unblock")?;
        stream
            .write_all(&startup_packet())
            .context("cannot send the startup packet")?;
        let interest = EpollEvent::new(EpollFlags::EPOLLIN, slot as u64);
        self.epoll
            .add(&stream, interest)
            .context("cannot watch a connection")?;
        Ok(Session {
            stream,
            answer: Answer::default(),
            phase: Phase::LoggingIn,
            since: Instant::now(),
            key: None,
        })
    }

    /// Sends a request, the bytes of one that ends with one `ReadyForQuery`, for an idle client; does
    /// nothing for any other.
    pub(crate) fn send(&mut self, slot: usize, request: &[u8]) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if session.phase != Phase::Idle {
            return;
        }
        session.phase = Phase::Waiting;
        session.since = Instant::now();
        session.answer.reset();
        // A client that waits for its answer has an empty send buffer: the kernel takes it whole.
        if let Err(error) = session.stream.write_all(request) {
            self.sessions[slot] = None;
            let outcome = Outcome::Lost(format!("cannot send: {}", error.kind()));
            self.stillborn.push(Event { slot, outcome });
        }
    }

    /// Says goodbye and empties the slot.
    pub(crate) fn close(&mut self, slot: usize) {
        if let Some(mut session) = self.sessions[slot].take() {
            // The peer may have been faster.
            let _ = session.stream.write_all(b"X\0\0\0\x04");
        }
    }

    /// Whether the client in the slot is logged in and waits for nothing.
    pub(crate) fn is_idle(&self, slot: usize) -> bool {
        self.has_phase(slot, Phase::Idle)
    }

    /// Whether the client in the slot waits for an answer.
    pub(crate) fn is_waiting(&self, slot: usize) -> bool {
        self.has_phase(slot, Phase::Waiting)
    }

    fn has_phase(&self, slot: usize, phase: Phase) -> bool {
        matches!(&self.sessions[slot], Some(session) if session.phase == phase)
    }

    /// How many clients wait for the end of their login or for an answer.
    pub(crate) fn unanswered(&self) -> usize {
        let sessions = self.sessions.iter().flatten();
        sessions.filter(|s| s.phase != Phase::Idle).count()
    }

    /// How many clients are logged in.
    pub(crate) fn logged_in(&self) -> usize {
        let sessions = self.sessions.iter().flatten();
        sessions.filter(|s| s.phase != Phase::LoggingIn).count()
    }

    /// The cancel key the client got at login.
    pub(crate) fn cancel_key(&self, slot: usize) -> Option<CancelKey> {
        self.sessions[slot].as_ref()?.key
    }

    /// The first column of the last row of the last answer.
    pub(crate) fn first_column(&self, slot: usize) -> Option<String> {
        self.sessions[slot].as_ref()?.answer.first_column()
    }

    /// Waits until something happens, at most for `limit`, and replaces `events` with it.
    ///
    /// # Errors
    /// The user interrupts, or epoll fails.
    pub(crate) fn wait(&mut self, limit: Duration, events: &mut Vec<Event>) -> Result<()> {
        interrupt::check()?;
        events.clear();
        events.append(&mut self.stillborn);
        let limit = if events.is_empty() {
            limit.min(WAIT_MAX)
        } else {
            Duration::ZERO
        };
        // Rounded up: a wait of less than a millisecond must not become a spin.
        let milliseconds = limit.as_micros().div_ceil(1000) as u16;
        let count = match self
            .epoll
            .wait(&mut self.ready, EpollTimeout::from(milliseconds))
        {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(error).context("cannot wait for clients"),
        };
        for index in 0..count {
            let slot = self.ready[index].data() as usize;
            if let Some(outcome) = self.read(slot) {
                events.push(Event { slot, outcome });
            }
        }
        Ok(())
    }

    /// Reads once from a client; epoll reports again what is left.
    fn read(&mut self, slot: usize) -> Option<Outcome> {
        let session = self.sessions[slot].as_mut()?;
        if session.phase == Phase::Idle {
            // Notices may come at any time, a whole answer may not.
            session.answer.reset();
        }
        let lost = match session.stream.read(&mut self.buffer) {
            Ok(0) => Some("closed by the server".to_owned()),
            Ok(count) => session
                .answer
                .feed(&self.buffer[..count])
                .err()
                .map(|error| format!("{error:#}")),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return None;
            }
            Err(error) => Some(error.kind().to_string()),
        };
        if let Some(reason) = lost {
            let reason = reason + &session.answer.error_suffix();
            self.sessions[slot] = None;
            return Some(Outcome::Lost(reason));
        }
        if !session.answer.is_complete() {
            return None;
        }
        let phase = std::mem::replace(&mut session.phase, Phase::Idle);
        match phase {
            Phase::LoggingIn => {
                session.key = session.answer.cancel_key();
                Some(Outcome::LoggedIn)
            }
            Phase::Waiting => Some(match session.answer.sqlstate() {
                Some(code) => Outcome::Refused(code),
                None => Outcome::Answered(session.since.elapsed()),
            }),
            Phase::Idle => {
                self.sessions[slot] = None;
                Some(Outcome::Lost("an answer to no question".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::client::query;

    /// A server that answers the login, one query with an error, and then closes.
    fn serve(listener: &TcpListener) {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut buffer = [0; 256];
        let _ = stream.read(&mut buffer).expect("a startup packet");
        let login = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c12345678Z\0\0\0\x05I";
        stream.write_all(login).expect("login");
        let _ = stream.read(&mut buffer).expect("a query");
        let error = b"E\0\0\0\x0cC57014\0\0Z\0\0\0\x05I";
        stream.write_all(error).expect("error");
    }

    #[test]
    fn login_error_and_loss_are_reported_in_order_and_once() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = thread::spawn(move || serve(&listener));
        let mut fleet = Fleet::new(address, 1).expect("an epoll");
        fleet.open(0);
        let mut events = Vec::new();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            fleet.wait(WAIT_MAX, &mut events).expect("no interrupt");
            seen.extend(events.drain(..).map(|event| event.outcome));
            if fleet.is_idle(0) {
                assert!(fleet.cancel_key(0).is_some());
                fleet.send(0, &query("select 1"));
            }
        }
        server.join().expect("no panic");
        assert_eq!(seen[0], Outcome::LoggedIn);
        assert_eq!(seen[1], Outcome::Refused("57014".to_owned()));
        assert!(matches!(seen[2], Outcome::Lost(_)), "{seen:?}");
        assert_eq!(fleet.logged_in(), 0);
    }
}
