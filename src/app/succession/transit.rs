//! Sessions between two processes.
//!
//! **Owns:** what is kept of a session that was sent, until the other process has said that it has it.
//! **Does not own:** sessions as bytes (`session::passport`), the conversation (`donor`).
//!
//! ```text
//!   sent ──▶ kept ── taken ──▶ forgotten
//!             │ └── refused ──▶ sent again
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

use crate::session::shard::Connection;

use super::donor::Donor;

/// Sessions that were sent and not confirmed.
#[derive(Debug, Default)]
pub struct Transit {
    sent: VecDeque<Sent>,
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
        self.sent.len() as u64
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
    pub fn refused(&mut self, donor: &Donor) {
        if let Some(sent) = self.sent.pop_front() {
            self.keep_and_send(donor, sent);
        }
    }

    /// Those that the other process has not said that it has, and how many it had. It has ended.
    pub fn take_back(&mut self) -> (Vec<Written>, u64) {
        let Self { sent, taken } = std::mem::take(self);
        let back = sent
            .into_iter()
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
    fn into_written(self) -> io::Result<Written> {
        let sockets = self.sockets.iter().map(|socket| socket.try_clone());
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
