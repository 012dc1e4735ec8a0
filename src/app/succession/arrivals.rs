//! What the control thread does with what comes from the old process.
//!
//! **Owns:** giving sessions, users and sizes to the shards.
//! **Does not own:** the conversation (`heir`), when an upgrade begins (`steps`).
//!
//! **Invariant:** what the old process still has is taken off the sizes of pools before it is taken off what
//! this process knows of the old one.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shards::ShardId;

use crate::config::Secret;
use crate::pool::succession::home_of;
use crate::server::chores;
use crate::server::passport::ServerRecord;
use crate::session::passport;
use crate::session::resume::SessionRecord;
use crate::upgrade::bytes::Malformed;

use super::super::control::Control;
use super::super::mailbox::{Pair, ShardMessage};
use super::word::{Guest, Remains, decode_pair};

/// Time between two complaints.
const CROWDED_PAUSE: Duration = Duration::from_secs(1);

/// What has come and waits for the shards to be told of it.
#[derive(Debug)]
pub enum Newcomer {
    /// A server.
    Server(Box<ServerRecord>),
    /// A session with its server.
    Pair(Box<Pair>),
}

impl Control {
    /// Gives a session to some shard of this process.
    pub(super) async fn settle(&mut self, record: Box<SessionRecord>) {
        let next = self.succession.next_shard;
        self.succession.next_shard = (next + 1) % self.seat.shard_count();
        let message = ShardMessage::Immigrant(record);
        self.send(ShardId::new(next as u16), message).await;
    }

    pub(super) async fn session_came(&mut self, bytes: &[u8], socket: Option<OwnedFd>) {
        if let Some(predecessor) = &self.succession.predecessor {
            predecessor.answer(socket.is_some());
        }
        let Some(socket) = socket else {
            self.tell_crowded();
            return;
        };
        let connection = self.succession.connections.take_over();
        match passport::read(bytes, socket, connection, &self.clock()) {
            Ok(record) => {
                self.note_generation(&record);
                self.settle(Box::new(record)).await;
            }
            Err(error) => tracing::error!(%error, "a client of the old process is lost"),
        }
    }

    pub(super) fn server_came(&mut self, bytes: &[u8], socket: Option<OwnedFd>) {
        let read = match socket {
            Some(socket) => ServerRecord::read(bytes, socket, Instant::now()),
            None => Err(Malformed("no descriptor was left for it")),
        };
        match read {
            Ok(record) => {
                let remains = &mut self.succession.remains;
                remains.take_one(&record.database, &record.user);
                self.succession
                    .newcomers
                    .push(Newcomer::Server(Box::new(record)));
                self.succession.is_stale = true;
            }
            // What remains there says so, soon.
            Err(error) => tracing::warn!(%error, "a server of the old process is lost"),
        }
    }

    /// Says that a client has to wait; not for each, since they are offered again and again.
    fn tell_crowded(&mut self) {
        let now = Instant::now();
        let crowded_at = &mut self.succession.crowded_at;
        if crowded_at.is_none_or(|at| now >= at + CROWDED_PAUSE) {
            *crowded_at = Some(now);
            tracing::warn!(
                "clients of the old process have to wait: too many descriptors are open"
            );
        }
    }

    fn note_generation(&mut self, record: &SessionRecord) {
        let number = u32::from(record.identity.key.generation);
        self.succession.generations |= 1_u64.checked_shl(number).unwrap_or(0);
    }

    fn home_of(&self, server: &ServerRecord) -> ShardId {
        let count = self.seat.shard_count();
        ShardId::new(home_of(&server.database, &server.user, count) as u16)
    }

    /// Gives a session and its server to the home of their pool.
    pub(super) async fn settle_pair(&mut self, pair: Pair) {
        let home = self.home_of(&pair.1);
        self.send(home, ShardMessage::ImmigrantPair(Box::new(pair)))
            .await;
    }

    pub(super) fn pair_came(&mut self, bytes: &[u8], sockets: Vec<OwnedFd>) {
        let sockets: Result<[OwnedFd; 2], _> = sockets.try_into();
        if let Some(predecessor) = &self.succession.predecessor {
            predecessor.answer(sockets.is_ok());
        }
        let Ok([socket, to_server]) = sockets else {
            self.tell_crowded();
            return;
        };
        let connection = self.succession.connections.take_over();
        let clock = self.clock();
        let pair = decode_pair(bytes).and_then(|(session, server)| {
            let session = passport::read(session, socket, connection, &clock)?;
            Ok((session, ServerRecord::read(server, to_server, clock.now)?))
        });
        match pair {
            Ok(pair) => {
                self.note_generation(&pair.0);
                let remains = &mut self.succession.remains;
                remains.take_one(&pair.1.database, &pair.1.user);
                self.succession
                    .newcomers
                    .push(Newcomer::Pair(Box::new(pair)));
                self.succession.is_stale = true;
            }
            Err(error) => tracing::error!(%error, "a client of the old process is lost"),
        }
    }

    /// Gives the shards servers that have come, and the sizes that make room for them.
    pub(in crate::app) async fn settle_newcomers(&mut self) {
        if !std::mem::take(&mut self.succession.is_stale) {
            return;
        }
        for newcomer in std::mem::take(&mut self.succession.newcomers) {
            match newcomer {
                Newcomer::Server(record) => {
                    let home = self.home_of(&record);
                    let message = ShardMessage::ImmigrantServer(record);
                    self.send(home, message).await;
                }
                Newcomer::Pair(pair) => self.settle_pair(*pair).await,
            }
        }
        self.spread(Arc::clone(&self.config)).await;
    }

    pub(super) fn remains_changed(&mut self, remains: Remains) {
        self.succession
            .connections
            .set_elsewhere(remains.connections);
        let before = self.succession.remains.clone();
        let predecessor = self.succession.predecessor.as_mut();
        if predecessor.is_some_and(|it| std::mem::replace(&mut it.has_settled, true)) {
            self.succession.remains.lower(&remains);
        } else {
            self.succession.remains = remains;
        }
        self.succession.is_stale |= before.servers != self.succession.remains.servers;
        let is_over = self.succession.remains == Remains::default();
        if is_over && std::mem::take(&mut self.succession.is_wanted) {
            self.upgrade(None);
        }
    }

    pub(super) async fn guests_came(&mut self, guests: Vec<Guest>) {
        let is_anybody = !guests.is_empty();
        for guest in guests {
            let guest = chores::Guest {
                database: guest.database,
                user: guest.user,
                stored: guest.stored.map(Secret::new),
                is_gone: false,
            };
            if let Err(error) = self.guests.take(guest, &self.config) {
                tracing::warn!(%error, "a user of the old process is not known here");
            }
        }
        if is_anybody {
            self.spread(Arc::clone(&self.config)).await;
        }
    }
}
