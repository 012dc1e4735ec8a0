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
//! 1. A session leaves only between two transactions, or before one that no server knows of, with
//!    nothing queued to its client: its socket and the bytes that nobody has taken are all there is on
//!    the wire.
//! 2. Wherever a record is dropped, its client's socket closes and counts no more.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::card::ClientTally;
use super::client::{Phase, Session, Step};
use super::local::Begun;
use super::prepared::{Definition, Prepared};
use super::registry::{Identity, Slot};
use super::report::Failure;
use super::shard::{Connection, Shard};
use crate::metrics::Droppable;
use crate::pool::Pool;
use crate::protocol::sqlstate;
use crate::server::ServerConnection;
use crate::server::parameters::ParameterSet;
use crate::transport::{Detached, Stream};

/// A session without a shard.
#[derive(Debug)]
pub struct SessionRecord {
    /// The client's socket, and what the client has sent and nobody has looked at.
    pub detached: Detached,
    /// The database that the client has asked for.
    pub database: Box<str>,
    /// The user that it has logged in as.
    pub user: Box<str>,
    /// What it asked for at login.
    pub asked: ParameterSet,
    /// The settings that it wants now.
    pub wanted: ParameterSet,
    /// It has been told of a transaction that no server knows yet.
    pub has_begun: bool,
    /// Its prepared statements.
    pub statements: Vec<Definition>,
    /// What servers of its pool report, if that is known where it comes from.
    pub base: Option<ParameterSet>,
    /// What it is known by.
    pub identity: Identity,
    /// What it has done.
    pub tally: ClientTally,
    /// Its place among the connections of the process.
    pub connection: Connection,
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

    /// Sends a session to the process that takes over.
    fn emigrate(&self, record: Box<SessionRecord>);

    /// Sends a session to the process that takes over, with the server of this pool that it has. If nobody
    /// takes them both are closed.
    fn emigrate_with(
        &self,
        record: Box<SessionRecord>,
        pool: Rc<Pool>,
        server: Box<ServerConnection>,
    ) {
        drop((record, pool, server));
    }

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
    pub(super) fn stay_or_leave(&mut self, context: &mut Context<'_>) -> Step {
        if self.shard.doors.are_handed_over() {
            return if self.emigrates(context) {
                Step::Again
            } else {
                Step::Wait
            };
        }
        if !self.slot.as_ref().is_some_and(Slot::is_asked) {
            return Step::Wait;
        }
        // Behind a transaction the answer has yet to leave: the question stays open until it has.
        if self.client.poll_sent(0, context).is_pending() {
            return Step::Wait;
        }
        if !self.slot.as_ref().is_some_and(Slot::take_ask) {
            return Step::Wait;
        }
        // As its next transaction would: a reload does not keep idle clients where they are.
        if self.pool.is_retired() {
            self.change_pool();
        }
        if !self.may_leave() {
            return Step::Wait;
        }
        self.phase = Phase::Leaving;
        Step::Again
    }

    /// True if the session goes to another process now, because all do: it has no server, and what its
    /// client has sent goes along. Otherwise it is woken when its client has got what is queued for it.
    pub(super) fn emigrates(&mut self, context: &mut Context<'_>) -> bool {
        let is_wanted = self.shard.doors.are_handed_over();
        if !is_wanted || self.client.poll_sent(0, context).is_pending() {
            return false;
        }
        let can_go = self.framer.is_at_boundary()
            && self.skip.is_none()
            && self.client.queued_bytes() == 0
            && self.client.send_error().is_none()
            && !self.has_farewell
            && !self.is_leaving;
        if can_go {
            self.claim = None;
            self.phase = Phase::Leaving;
        }
        can_go
    }

    /// True if nothing but the socket, what comes from it and the settings have to travel.
    fn may_leave(&self) -> bool {
        let key = &self.pool.key;
        let directory = self.shard.directory();
        let tenant = directory.tenant(&key.database, &key.user);
        self.framer.is_at_boundary()
            && self.claim.is_none()
            && self.skip.is_none()
            && self.client.queued_bytes() == 0
            && !self.has_farewell
            && tenant.is_some_and(|tenant| Rc::ptr_eq(&tenant.pool, &self.pool))
    }

    pub(super) fn leaving(&mut self, context: &mut Context<'_>) -> Step {
        if self.client.has_ended() && !self.shard.doors.are_handed_over() {
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
        if shard.doors.are_handed_over() {
            shard.neighbours.emigrate(record);
            return Step::End;
        }
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
    pub(super) fn take_record(&mut self, detached: Detached) -> Option<Box<SessionRecord>> {
        let (slot, connection) = (self.slot.take()?, self.connection.take()?);
        let mut detached = detached;
        if let Some(input) = self.input.take() {
            detached.unread.splice(..0, input.iter().copied());
        }
        Some(Box::new(SessionRecord {
            detached,
            database: (*self.pool.key.database).into(),
            user: (*self.pool.key.user).into(),
            asked: (*self.asked).clone(),
            wanted: (*self.wanted).clone(),
            has_begun: self.begun != Begun::None,
            statements: self
                .prepared
                .take()
                .map_or_else(Vec::new, |mut prepared| prepared.take_all()),
            base: self.pool.base.get().map(|base| (*base).clone()),
            identity: slot.depart(),
            tally: self.card.tally(),
            connection,
        }))
    }

    /// Takes a session up on this shard. `None` if its pool is not configured any more: its client
    /// is told, and it is counted as lost.
    pub fn resume(shard: Rc<Shard>, record: SessionRecord, now: Instant) -> Option<Self> {
        let (mut client, unread) = Stream::attach(record.detached);
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
        let place = (slot, record.connection, record.tally);
        let prepared = pool.settings.manages_statements().then(|| {
            let mut prepared = Box::<Prepared>::default();
            prepared.generation = pool.generation();
            for one in &record.statements {
                let statement = pool.adopt_statement(&one.text, one.key);
                prepared.restore(&one.name, statement, one.told);
            }
            prepared
        });
        let mut session = Self::new(
            shard,
            Rc::clone(pool),
            (client, unread),
            (asked, wanted),
            place,
        );
        if record.has_begun {
            session.begun = Begun::Unsent;
        }
        session.prepared = prepared.filter(|prepared| !prepared.is_empty());
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Read;
    use std::net::SocketAddr;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::super::budget::Budget;
    use super::super::cancel::{self, Cancels};
    use super::super::directory::Directory;
    use super::super::doors::Doors;
    use super::super::lookup::Lookups;
    use super::super::orders::{self, Order, Outcome, Staff};
    use super::super::proofs::cap::Caps;
    use super::super::pursuit::Pursuits;
    use super::super::registry::{Place, Registry};
    use super::super::shard::Connections;
    use super::super::startup::LOGIN_STEPS;
    use super::super::survey::{Surveyors, Surveys};
    use super::*;
    use crate::admin::Sockets;
    use crate::auth::ScramKeys;
    use crate::config;
    use crate::metrics::Fleet;
    use crate::pool::travel::Letter;
    use crate::pool::{Host, Mail, PoolId};
    use crate::protocol::cancel_key::{CancelKey, CancelSecret};
    use crate::server::Canceller;
    use crate::server::errands::{Answer, Errands};
    use crate::server::quota::Quotas;
    use crate::server::statements::shape::Shape;
    use crate::tls::{Keyring, Material};
    use crate::transport::Gate;

    const CONFIG: &str = "[general]\nadmin_username = 'a'\nadmin_password = 'b'\n\
        [pools.db]\nserver_host = '127.0.0.1'\nserver_port = 1\n\
        [[pools.db.users]]\nusername = 'u'\npassword = ''\npool_size = 5\n";

    struct NoErrands;

    struct NobodyElse;

    impl Surveyors for NobodyElse {
        fn ask(&self, _: usize, _: u32) {}
    }

    impl Errands for NoErrands {
        fn resolve(&self, _: &str, _: u16) -> Answer<Vec<SocketAddr>> {
            Box::pin(std::future::pending())
        }

        fn derive_keys(&self, _: &str, _: &[u8], _: u32) -> Answer<ScramKeys> {
            Box::pin(std::future::pending())
        }

        fn reload(&self) -> Answer<()> {
            Box::pin(std::future::pending())
        }
    }

    impl Staff for NoErrands {
        fn order(&self, _: usize, _: Order) -> orders::Answer<Outcome> {
            Box::pin(std::future::pending())
        }

        fn set(&self, _: String, _: String) -> orders::Answer<Result<(), String>> {
            Box::pin(std::future::pending())
        }

        fn refuse(&self) {}

        fn shut_down(&self) {}

        fn upgrade(&self) -> orders::Answer<Result<(), String>> {
            Box::pin(std::future::pending())
        }

        fn sockets(&self) -> orders::Answer<Sockets> {
            Box::pin(std::future::pending())
        }
    }

    impl Mail for NoErrands {
        fn send(&self, _: usize, _: PoolId, _: Letter) {}
    }

    #[derive(Default)]
    struct Letters(RefCell<Vec<Notice>>);

    impl Neighbours for Letters {
        fn hand_over(&self, record: Box<SessionRecord>) -> Result<(), Box<SessionRecord>> {
            Err(record)
        }

        fn emigrate(&self, _: Box<SessionRecord>) {}

        fn tell(&self, shard: u16, notice: Notice) {
            assert_eq!(shard, 1);
            self.0.borrow_mut().push(notice);
        }
    }

    /// Shard 0 of a configuration with one pool.
    fn shard(letters: &Rc<Letters>) -> Rc<Shard> {
        let name = format!(
            "resume-{}-{:p}.toml",
            std::process::id(),
            Rc::as_ptr(letters)
        );
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, CONFIG).unwrap();
        let config = Arc::new(config::load(&file).unwrap().config);
        std::fs::remove_file(&file).unwrap();
        let fleet = Fleet::new(2);
        let host = Host::new(
            (0, 2),
            Rc::new(NoErrands),
            Rc::new(NoErrands),
            (
                fleet.clone(),
                Quotas::default(),
                Keyring::new(Material::none()),
            ),
        );
        let neighbours = Rc::clone(letters) as Rc<dyn Neighbours>;
        let registry = Registry::new((0, 0), Rc::clone(&neighbours), Instant::now());
        let place = cancel::Place {
            generation: 0,
            is_heir: false,
            index: 0,
            count: 2,
        };
        let cancels = Cancels::new(
            place,
            Rc::clone(&registry),
            Canceller::new(fleet.clone(), 0),
            fleet.clone(),
            Box::new(cancel::tests::Nobody),
        );
        Rc::new(Shard {
            index: 0,
            count: 2,
            generation: 0,
            directory: RefCell::new(Rc::new(Directory::new(config, &host, None))),
            registry,
            roster: Rc::default(),
            staff: Rc::new(NoErrands),
            doors: Doors::default(),
            pursuits: Pursuits::default(),
            cancels,
            surveys: Surveys::new(Box::new(NobodyElse)),
            neighbours,
            host,
            connections: Connections::default(),
            budget: Budget::default(),
            fleet,
            gate: Gate::default(),
            logins: Rc::new(Gate::of_breadth(LOGIN_STEPS)),
            proofs: Caps::default(),
            lookups: Lookups::default(),
            mock_secret: [0; 32],
            listening: Arc::default(),
        })
    }

    fn record(shard: &Shard, database: &str) -> (SessionRecord, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let mut base = ParameterSet::default();
        base.set("server_version", "17");
        let key = CancelKey {
            generation: 0,
            shard: 1,
            slot: 3,
            secret: CancelSecret::Short([7; 4]),
        };
        let record = SessionRecord {
            detached: Detached {
                socket: near.into(),
                unread: b"Q".to_vec(),
                tls: None,
            },
            database: database.into(),
            user: "u".into(),
            asked: ParameterSet::default(),
            wanted: ParameterSet::default(),
            has_begun: true,
            statements: vec![Definition {
                name: b"a"[..].into(),
                text: b"select 1\0\0\0"[..].into(),
                key: 1,
                told: Shape::NOTHING,
            }],
            base: Some(base),
            identity: Identity {
                key,
                life: 5,
                moves: 0,
            },
            tally: ClientTally::new(1, None, shards::now()),
            connection: shard.connections.open(1).unwrap(),
        };
        (record, far)
    }

    #[test]
    fn a_session_brings_along_what_servers_report_and_tells_where_it_is() {
        shards::run_one(|| async {
            let letters = Rc::<Letters>::default();
            let shard = shard(&letters);
            let (record, _far) = record(&shard, "db");
            let key = record.identity.key;
            let mut session = Session::resume(Rc::clone(&shard), record, shards::now()).unwrap();
            assert!(session.prepared.as_mut().unwrap().is_taken(b"a", 0));
            assert_eq!(session.begun, Begun::Unsent);
            let base = session.pool.base.get().unwrap();
            assert_eq!(base.get("server_version"), Some("17"));
            let slot = session.slot.as_ref().unwrap().number();
            assert_eq!(shard.registry.locate_guest(slot, &key), Place::Here(slot));
            drop(session);
            let moved = Notice::Moved {
                slot: 3,
                life: 5,
                moves: 1,
                slot_there: slot,
            };
            let ended = Notice::Ended { slot: 3, life: 5 };
            assert_eq!(letters.0.take(), [moved, ended]);
            assert!(shard.connections.open(1).is_ok());
        })
        .unwrap();
    }

    #[test]
    fn the_client_of_a_pool_that_has_gone_is_told_and_counted() {
        let far = shards::run_one(|| async {
            let letters = Rc::<Letters>::default();
            let shard = shard(&letters);
            let (record, far) = record(&shard, "gone");
            assert!(!record.has_pool(&shard));
            assert!(Session::resume(Rc::clone(&shard), record, shards::now()).is_none());
            let lost = &shard.metrics().messages_dropped[Droppable::Session as usize];
            assert_eq!((lost.get(), shard.registry.count()), (1, 0));
            assert_eq!(letters.0.take().len(), 2);
            assert!(shard.connections.open(1).is_ok());
            far
        });
        let mut said = Vec::new();
        far.unwrap().read_to_end(&mut said).unwrap();
        let said = String::from_utf8_lossy(&said);
        assert!(said.starts_with('E') && said.contains("57P01"), "{said}");
    }
}
