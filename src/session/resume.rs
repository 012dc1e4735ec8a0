//! A session on its way to another shard.
//!
//! **Owns:** whether a session may leave and how it does; all that it is then, as one plain value;
//! taking it up.
//! **Does not own:** which sessions are asked to leave (`registry`, `app`), how records travel (`app`).
//!
//! A record has no references to the shard that it comes from: settings are plain sets, the pool is
//! a pair of names. So it can cross threads, and be written to bytes.
//!
//! **Invariants**
//! 1. A session leaves only between two transactions, with nothing queued to its client: its socket
//!    and the bytes that nobody has taken are all there is on the wire.
//! 2. Wherever a record is dropped, its client's socket closes and counts no more.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use shards::{Detached, Stream};

use super::client::{Phase, Session, Step};
use super::registry::{Identity, Slot};
use super::report::Failure;
use super::shard::{Connection, Shard};
use crate::metrics::Droppable;
use crate::protocol::sqlstate;
use crate::server::parameters::ParameterSet;

/// A session without a shard.
#[derive(Debug)]
pub struct SessionRecord {
    /// The client's socket.
    pub socket: OwnedFd,
    /// What the client has sent and nobody has looked at.
    pub unread: Vec<u8>,
    /// The database that the client has asked for.
    pub database: Box<str>,
    /// The user that it has logged in as.
    pub user: Box<str>,
    /// What it asked for at login.
    pub asked: ParameterSet,
    /// The settings that it wants now.
    pub wanted: ParameterSet,
    /// What servers of its pool report, if that is known where it comes from.
    pub base: Option<ParameterSet>,
    /// What it is known by.
    pub identity: Identity,
    /// Its place among the connections of the process.
    pub connection: Connection,
    /// What log lines call it, if its coming and going is logged.
    pub log_as: Option<Box<str>>,
}

/// What a host tells the origin of one of its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The session has ended.
    Ended {
        /// Its slot at the origin.
        slot: u32,
        /// The use of that slot.
        life: u16,
    },
    /// The session is here now.
    Moved {
        /// Its slot at the origin.
        slot: u32,
        /// The use of that slot.
        life: u16,
        /// Number of the move.
        moves: u16,
        /// Its slot here.
        slot_there: u32,
    },
}

/// The other shards, as sessions see them.
pub trait Neighbours {
    /// Sends a session to the shard that needs clients most.
    ///
    /// # Errors
    ///
    /// The record, if no shard can take it at the moment.
    fn hand_over(&self, record: Box<SessionRecord>) -> Result<(), Box<SessionRecord>>;

    /// Tells `shard` of a session that has logged in there. It arrives sooner or later.
    fn tell(&self, shard: u16, notice: Notice);
}

impl SessionRecord {
    /// True if this shard has the pool of the session.
    pub fn has_pool(&self, shard: &Shard) -> bool {
        let directory = shard.directory();
        directory.tenant(&self.database, &self.user).is_some()
    }
}

impl Session {
    /// There is nothing to do: the time to go, if the shard has asked for it.
    pub(super) fn stay_or_leave(&mut self) -> Step {
        if !self.slot.as_ref().is_some_and(Slot::take_ask) || !self.may_leave() {
            return Step::Wait;
        }
        self.phase = Phase::Leaving;
        Step::Again
    }

    /// True if nothing but the socket, what comes from it and the settings have to travel.
    fn may_leave(&self) -> bool {
        let key = &self.pool.key;
        let directory = self.shard.directory();
        let tenant = directory.tenant(&key.database, &key.user);
        self.framer.is_at_boundary()
            && self.claim.is_none()
            && self.client.queued_bytes() == 0
            && !self.has_farewell
            && tenant.is_some_and(|tenant| Rc::ptr_eq(&tenant.pool, &self.pool))
    }

    pub(super) fn leaving(&mut self, context: &mut Context<'_>) -> Step {
        if self.client.has_ended() {
            return Step::Again;
        }
        let Poll::Ready(detached) = self.client.poll_detach(context) else {
            self.phase = Phase::Leaving;
            return Step::Wait;
        };
        let Some(record) = self.take_record(detached) else {
            return Step::End;
        };
        let shard = Rc::clone(&self.shard);
        let Err(record) = shard.neighbours.hand_over(record) else {
            return Step::End;
        };
        // Nobody can take it: it goes on here.
        match Self::resume(shard, *record, shards::now()) {
            Some(session) => {
                *self = session;
                Step::Again
            }
            None => Step::End,
        }
    }

    /// The session as a value, once its stream is detached. What is left may only be dropped.
    fn take_record(&mut self, detached: Detached) -> Option<Box<SessionRecord>> {
        let (slot, connection) = (self.slot.take()?, self.connection.take()?);
        Some(Box::new(SessionRecord {
            socket: detached.socket,
            unread: detached.unread,
            database: (*self.pool.key.database).into(),
            user: (*self.pool.key.user).into(),
            asked: (*self.asked).clone(),
            wanted: (*self.wanted).clone(),
            base: self.pool.base().map(|base| (*base).clone()),
            identity: slot.depart(),
            connection,
            log_as: self.log_as.take(),
        }))
    }

    /// Takes a session up on this shard. `None` if its pool is not configured any more: its client
    /// is told, and it is counted as lost.
    pub fn resume(shard: Rc<Shard>, record: SessionRecord, now: Instant) -> Option<Self> {
        let mut client = Stream::new(record.socket);
        // Also when the session ends right now: the origin's slot must become free.
        let slot = shard.registry.arrive(record.identity, now);
        let directory = shard.directory();
        let Some(tenant) = directory.tenant(&record.database, &record.user) else {
            shard.metrics().dropped(Droppable::Session);
            let text = "terminating connection due to administrator command";
            client.send(Failure::new(sqlstate::ADMIN_SHUTDOWN, text).to_bytes());
            tracing::info!(pool = %record.database, user = %record.user,
                "client closed: its pool is not configured any more");
            return None;
        };
        if let Some(base) = record.base {
            tenant.pool.offer_base(base);
        }
        let pool = &tenant.pool;
        let (asked, wanted) = (pool.intern(record.asked), pool.intern(record.wanted));
        let unread = (!record.unread.is_empty()).then(|| client.chunk_of(record.unread));
        let place = (slot, record.connection, record.log_as);
        Some(Self::new(
            shard,
            Rc::clone(pool),
            (client, unread),
            (asked, wanted),
            place,
        ))
    }
}
