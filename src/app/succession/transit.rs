//! Sessions between two processes.
//!
//! **Owns:** what is kept of a session that was sent, until the other process has said that it has it.
//! **Does not own:** sessions as bytes (`session::passport`), the conversation (`donor`).
//!
//! ```text
//!   sent ──▶ kept ── taken ──▶ forgotten
//!             │ └── refused ──▶ waits ──▶ sent again, or told that it is over
//!             └── the other process has ended ──▶ taken back
//! ```
//!
//! **Invariants**
//! 1. Answers come in the order of the sessions, and before the other process does anything with one: a
//!    session without an answer has not been touched.
//! 2. A session counts as a connection of this process until it is forgotten.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::protocol::sqlstate;
use crate::session::report::Failure;
use crate::session::shard::Connection;

use super::donor::Donor;

/// Time until a session that was refused is sent again.
const RETRY: Duration = Duration::from_millis(50);
/// Sessions that are sent again at once.
const RETRIES_MAX: usize = 16;
/// Reads of what a client has sent that is closed.
const READS_MAX: u32 = 256;

/// Sessions that were sent and not confirmed.
#[derive(Debug, Default)]
pub struct Transit {
    sent: VecDeque<Sent>,
    /// Those that the other process had no room for.
    refused: VecDeque<Sent>,
    /// When the last of these was refused, or sent again.
    refused_at: Option<Instant>,
    /// How many the other process has.
    taken: u64,
}

#[derive(Debug)]
struct Sent {
    kind: u8,
    bytes: Arc<Vec<u8>>,
    sockets: Vec<Arc<OwnedFd>>,
    connection: Connection,
}

impl Transit {
    /// How many there are.
    pub fn count(&self) -> u64 {
        (self.sent.len() + self.refused.len()) as u64
    }

    /// Sends a session, alone or with its server.
    pub fn send(&mut self, donor: &Donor, written: Written) {
        let Written {
            kind,
            bytes,
            sockets,
            connection,
        } = written;
        let sent = Sent {
            kind,
            bytes: Arc::new(bytes),
            sockets: sockets.into_iter().map(Arc::new).collect(),
            connection,
        };
        self.keep_and_send(donor, sent);
    }

    fn keep_and_send(&mut self, donor: &Donor, sent: Sent) {
        donor.send_shared(sent.kind, Arc::clone(&sent.bytes), sent.sockets.clone());
        self.sent.push_back(sent);
    }

    /// The other process has the first one.
    pub fn taken(&mut self) {
        self.taken += u64::from(self.sent.pop_front().is_some());
    }

    /// The other process has no room for the first one at the moment.
    pub fn refused(&mut self) {
        self.refused.extend(self.sent.pop_front());
        self.refused_at = Some(Instant::now());
    }

    /// Sends some of those again that were refused, if it is time for that: few at once, because the other
    /// process tries for a moment for each of them.
    pub fn retry(&mut self, donor: &Donor, now: Instant) {
        if self.refused_at.is_none_or(|at| now < at + RETRY) {
            return;
        }
        let count = self.refused.len().min(RETRIES_MAX);
        for sent in self.refused.drain(..count).collect::<Vec<_>>() {
            self.keep_and_send(donor, sent);
        }
        self.refused_at = (!self.refused.is_empty()).then_some(now);
    }

    /// Tells those that were refused that it is over.
    pub fn give_up(&mut self) {
        for sent in self.refused.drain(..) {
            sent.dismiss();
        }
    }

    /// Tells all of them that it is over: the other process has ended, and this one ends, too.
    pub fn end(&mut self) {
        self.give_up();
        for sent in self.sent.drain(..) {
            sent.dismiss();
        }
    }

    /// Those that the other process has not said that it has, and how many it had. It has ended.
    pub fn take_back(&mut self) -> (Vec<Written>, u64) {
        let Self {
            sent,
            refused,
            taken,
            ..
        } = std::mem::take(self);
        let back = refused
            .into_iter()
            .chain(sent)
            .filter_map(|sent| match sent.into_written() {
                Ok(written) => Some(written),
                Err(error) => {
                    tracing::error!(%error, "a client is lost");
                    None
                }
            });
        (back.collect(), taken)
    }
}

impl Sent {
    /// Tells the client that it is over: nothing is queued for it, and nobody answers it at the moment.
    fn dismiss(self) {
        let Some(socket) = self.sockets.first() else {
            return;
        };
        let text = "terminating connection due to administrator command";
        let told = Failure::new(sqlstate::ADMIN_SHUTDOWN, text).to_bytes();
        // It may have gone, or not read for long.
        let _ = send(socket, &told, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        let _ = shutdown(socket, Shutdown::Write);
        // What was sent and not read would have the socket closed with an error.
        let mut rest = [0; 4096];
        let mut left = READS_MAX;
        while left > 0
            && recv(socket, &mut rest, RecvFlags::DONTWAIT).is_ok_and(|(count, _)| count > 0)
        {
            left -= 1;
        }
        tracing::warn!("the new process has not taken a client, it is closed");
    }

    fn into_written(self) -> io::Result<Written> {
        // Its message may not have been written yet, which takes another descriptor.
        let own =
            |socket: Arc<OwnedFd>| Arc::try_unwrap(socket).or_else(|socket| socket.try_clone());
        let sockets = self.sockets.into_iter().map(own);
        Ok(Written {
            kind: self.kind,
            bytes: self.bytes.to_vec(),
            sockets: sockets.collect::<io::Result<_>>()?,
            connection: self.connection,
        })
    }
}

/// A session as it is sent.
#[derive(Debug)]
pub struct Written {
    /// `SESSION` or `PAIR`.
    pub kind: u8,
    /// The session, or both.
    pub bytes: Vec<u8>,
    /// The socket, or both.
    pub sockets: Vec<OwnedFd>,
    /// Its place among the connections.
    pub connection: Connection,
}
