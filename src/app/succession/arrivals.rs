//! What the control thread does with what comes from the old process.
//!
//! **Owns:** giving sessions, users and sizes to the shards.
//! **Does not own:** the conversation (`heir`), when an upgrade begins (`steps`).
//!
//! **Invariant:** what the old process still has is taken off the sizes of pools before it is taken off what
//! this process knows of the old one.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use shards::ShardId;

use crate::config::Secret;
use crate::server::chores;
use crate::session::passport;
use crate::session::resume::SessionRecord;

use super::super::control::Control;
use super::super::mailbox::ShardMessage;
use super::word::{Guest, Remains};

impl Control {
    /// Gives a session to some shard of this process.
    pub(super) async fn settle(&mut self, record: Box<SessionRecord>) {
        let next = self.succession.next_shard;
        self.succession.next_shard = (next + 1) % self.seat.shard_count();
        let message = ShardMessage::Immigrant(record);
        self.send(ShardId::new(next as u16), message).await;
    }

    pub(super) async fn session_came(&mut self, bytes: &[u8], socket: OwnedFd) {
        let connection = self.succession.connections.take_over();
        match passport::read(bytes, socket, connection, &self.clock()) {
            Ok(record) => self.settle(Box::new(record)).await,
            Err(error) => tracing::error!(%error, "a client of the old process is lost"),
        }
    }

    pub(super) async fn remains_changed(&mut self, remains: Remains) {
        self.succession
            .connections
            .set_elsewhere(remains.connections);
        let before = std::mem::replace(&mut self.succession.remains, remains);
        if before.servers != self.succession.remains.servers {
            self.spread(Arc::clone(&self.config)).await;
        }
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
