//! A pool in action: opens, lends, takes back and closes server connections.
//!
//! **Owns:** the tasks that open connections, and the wakers of those who wait.
//! **Does not own:** the decisions (`state`), resetting (`cleaner`).
//!
//! **Invariants**
//! 1. A server goes to the next client only if [`ServerConnection::is_clean`] says so.
//! 2. Whoever waits is woken when the wait ends, however it ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::distr::{Alphanumeric, SampleString};
use shards::spawn;

use crate::config::PoolMode;
use crate::metrics::{Enrolled, ShardMetrics};
use crate::protocol::backend::TransactionStatus;
use crate::server::baits::Baits;
use crate::server::connection::{self, Login, ServerConnection, Socket};
use crate::server::credentials::{Learned, Source};
use crate::server::parameters::ParameterSet;
use crate::server::quota::{Quota, Right};
use crate::server::reset::Leftovers;
use crate::server::statements::Statements;
use crate::server::statements::text::{Key, Statement};
use crate::server::sync::Sync;
use crate::server::{Lease, ServerCard, ServerError, ServerTally};

use super::base::Base;
use super::cleaner;
use super::error::{CheckoutError, REST_AFTER_FAILURE};
use super::host::Host;
use super::part::{Habits, Part, Place, Sizes};
use super::pause::Noted;
use super::permits;
use super::quarantine;
use super::state::Ticket;

/// Names a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The database that clients ask for.
    pub database: Rc<str>,
    /// The user that clients log in as.
    pub user: Rc<str>,
}

/// How a pool behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When servers are given back.
    pub mode: PoolMode,
    /// How to reach the server.
    pub socket: RefCell<Rc<Socket>>,
    /// How to log in.
    pub login: Login,
    /// How idle servers are chosen and kept.
    pub habits: Habits,
    /// Bound on opening one connection.
    pub connect_timeout: Cell<Duration>,
    /// Bound on waiting for a server.
    pub query_wait_timeout: Cell<Duration>,
    /// Age at which a connection is replaced, spread by a fifth; zero = never.
    pub server_lifetime: Cell<Duration>,
    /// Idle time after which a connection is tried before it is lent; zero = never.
    pub idle_check_timeout: Cell<Duration>,
    /// Remove what clients left behind.
    pub cleanup: bool,
    /// In transaction mode, prepared statements that a server may have; zero = clients' names go
    /// through as they are.
    pub statements_max: Cell<usize>,
    /// Unnamed statements are kept, too.
    pub prepare_unnamed: bool,
    /// The log tells of parameters that change while a client is served.
    pub tells_parameters: bool,
}

impl Settings {
    /// True if statements are renamed, so that they outlive the client's use of one server.
    pub fn manages_statements(&self) -> bool {
        self.statements_max.get() > 0 && self.mode == PoolMode::Transaction
    }
}

/// The servers of one (database, user) on this shard.
pub struct Pool {
    /// Its name.
    pub key: PoolKey,
    /// How it behaves.
    pub settings: Settings,
    /// Its name as one word, `user@database`.
    pub label: Rc<str>,
    /// Names it to the same pool on other shards.
    pub id: PoolId,
    pub(super) host: Rc<Host>,
    pub(super) part: RefCell<Part<Box<ServerConnection>, Waker>>,
    /// What its servers report at login.
    pub base: Base,
    /// What proofs of its clients have revealed.
    pub learned: Rc<Learned>,
    /// Its numbers.
    pub metrics: Rc<Enrolled>,
    pub(super) noted: Cell<Noted>,
    /// How many connections its database may have.
    pub(super) quota: Arc<Quota>,
    /// Since when the first waits for whom it claims a right.
    pub(super) claim: Cell<Option<Instant>>,
    /// Servers that were opened before this are closed when they come back.
    pub(super) outdated: Cell<Option<Instant>>,
    /// Not configured any more: servers are closed after each use.
    retired: Cell<bool>,
    /// Hash of the database's name on the server.
    database: u64,
    /// Stands in the list of pools to be reviewed.
    pub(super) is_planned: Cell<bool>,
}

/// Names a pool to the same pool on other shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId {
    /// Hash of its names.
    pub hash: u64,
    /// How many reloads there had been when it was made. All shards see the same reloads.
    pub reloads: u32,
}

/// The outcome of asking for a server.
pub enum Acquired {
    /// A server, clean.
    Server(Box<ServerConnection>),
    /// A place in the queue.
    Waiting(Ticket),
}

impl Pool {
    /// A pool without connections.
    pub fn new(key: PoolKey, settings: Settings, sizes: Sizes, host: Rc<Host>) -> Rc<Self> {
        let hash = permits::hash(&key.database, &key.user);
        let reloads = host.reloads();
        let place = Place {
            here: host.here,
            count: host.count,
            home: permits::home(hash, host.count),
        };
        let part = Part::new(place, sizes, settings.habits, reloads);
        let database = permits::hash(&settings.login.database, "");
        let learned = match &settings.login.source {
            Source::Learned(learned) => Rc::clone(learned),
            _ => Rc::default(),
        };
        let metrics = host.enrol(&key);
        let quota = host.quotas.of(&key.database);
        metrics.size.set(sizes.size as u64);
        let pool = Rc::new(Self {
            label: format!("{}@{}", key.user, key.database).into(),
            key,
            settings,
            id: PoolId { hash, reloads },
            host,
            part: RefCell::new(part),
            base: Base::default(),
            learned,
            metrics,
            noted: Cell::default(),
            quota,
            claim: Cell::default(),
            outdated: Cell::default(),
            retired: Cell::new(false),
            database,
            is_planned: Cell::new(false),
        });
        pool.host.introduce(&pool);
        pool.pause_if_asked();
        pool
    }

    /// Another shard knows what servers of this pool report.
    pub fn offer_base(&self, base: ParameterSet) {
        if self.base.is_open() {
            self.base.learn(&self.intern(base));
        }
    }

    /// A server reports that it has become something else: the next client is told so at its login.
    pub(super) fn note_report(&self, name: &str, value: &str) {
        // A role is one's own, for a session or a transaction.
        if name.eq_ignore_ascii_case("is_superuser") {
            return;
        }
        let Some(base) = self.base.get().filter(|base| base.get(name) != Some(value)) else {
            return;
        };
        let mut base = (*base).clone();
        base.set(name, value);
        self.learn_base(&self.intern(base));
    }

    /// The shared form of a parameter set.
    pub fn intern(&self, set: ParameterSet) -> Rc<ParameterSet> {
        self.host.interner.borrow_mut().intern(set)
    }

    /// The shared form of a prepared statement.
    pub fn intern_statement(&self, definition: &[u8]) -> Rc<Statement> {
        self.host.statements.borrow_mut().intern(definition)
    }

    /// The form that sessions of this shard share of a statement that comes from another, with its
    /// key.
    pub fn adopt_statement(&self, definition: &Arc<[u8]>, key: Key) -> Rc<Statement> {
        self.host.statements.borrow_mut().adopt(definition, key)
    }

    /// The numbers of this shard.
    pub fn metrics(&self) -> &ShardMetrics {
        self.host.metrics()
    }

    /// How many idle servers of this shard have a statement.
    pub fn idle_servers_with(&self, key: Key) -> usize {
        let part = self.part.borrow();
        let servers = part.state().idle_servers();
        servers.filter(|server| server.statements.has(key)).count()
    }

    /// Counts what has changed in the objects of the database.
    pub fn generation(&self) -> u32 {
        self.host.changes().generation(self.database)
    }

    /// Objects of the database may have changed.
    pub fn objects_changed(&self) {
        self.host.changes().raise(self.database);
    }

    /// Asks for a server on behalf of the task behind `waker`.
    pub fn acquire(self: &Rc<Self>, waker: &Waker) -> Acquired {
        let now = shards::now();
        loop {
            let taken = self.part.borrow_mut().checkout();
            let Some((mut server, idle_since)) = taken else {
                break;
            };
            // What it said while it was idle is not for this client.
            let is_fit = !server.stream.has_received() || cleaner::read_unasked(self, &mut server);
            if !is_fit || !server.is_clean() || server.has_expired(now) || self.is_outdated(&server)
            {
                self.discard(server);
                continue;
            }
            let limit = self.settings.idle_check_timeout.get();
            if !limit.is_zero() && now.saturating_duration_since(idle_since) > limit {
                spawn(cleaner::verify(Rc::clone(self), server));
                continue;
            }
            self.note_numbers(&self.part.borrow());
            return Acquired::Server(server);
        }
        let deadline = now + self.settings.query_wait_timeout.get();
        let ticket = self.part.borrow_mut().wait(waker.clone(), now, deadline);
        self.open_more();
        // Not only the deadline: it may come while nothing is opened after a failure.
        let next = self.part.borrow().next_deadline();
        self.host.alarm.at_most(next.unwrap_or(deadline));
        Acquired::Waiting(ticket)
    }

    /// The end of a wait, if it has come; otherwise notes whom to wake.
    pub fn collect(
        &self,
        ticket: Ticket,
        waker: &Waker,
    ) -> Option<Result<Box<ServerConnection>, Rc<CheckoutError>>> {
        let (outcome, replaced) = {
            let mut part = self.part.borrow_mut();
            match part.collect(ticket) {
                None => (None, part.rewake(ticket, waker.clone())),
                outcome => (outcome, None),
            }
        };
        drop(replaced);
        outcome
    }

    /// Gives up a wait.
    pub fn give_up(self: &Rc<Self>, ticket: Ticket) {
        let (server, waker) = self.part.borrow_mut().cancel(ticket, shards::now());
        drop(waker);
        self.act();
        if let Some(server) = server {
            self.give_back(server);
        }
    }

    /// Takes a server back after use. It is kept back while a cancel request for it is on its way,
    /// reused if it is clean, cleaned if it can be, and closed otherwise.
    pub fn give_back(self: &Rc<Self>, mut server: Box<ServerConnection>) {
        if !self.settings.cleanup {
            server.leftovers = Leftovers::default();
        }
        server.statements.trust.released(self.settings.cleanup);
        server.baits.released();
        server.lease.give_back();
        if !server.is_settled() || server.lease.is_broken() {
            self.discard(server);
        } else if server.lease.is_quarantined() {
            spawn(quarantine::wait(Rc::clone(self), server));
        } else if server.is_clean() {
            self.check_in(server);
        } else {
            spawn(cleaner::clean(Rc::clone(self), server));
        }
    }

    /// Lends a clean server to whoever waits, or keeps it idle.
    pub(super) fn check_in(self: &Rc<Self>, server: Box<ServerConnection>) {
        let now = shards::now();
        let waiting = self.part.borrow().state().waiting_count();
        let is_unwanted = self.retired.get() && waiting == 0;
        if is_unwanted || server.has_expired(now) || self.is_outdated(&server) {
            self.discard(server);
            return;
        }
        let Some(server) = self.gives_way(server) else {
            return;
        };
        self.lend_or_keep(server, now);
    }

    fn lend_or_keep(self: &Rc<Self>, mut server: Box<ServerConnection>, now: Instant) {
        let expires = server.expires;
        server.card.is_lent.set(false);
        if self.part.borrow().state().waiting_count() == 0 {
            server.stream.watch(server.number);
        }
        let waker = self.part.borrow_mut().checkin(server, now, expires);
        if let Some(waker) = waker {
            waker.wake();
        }
        self.act();
    }

    /// Closes a lent server.
    pub fn discard(self: &Rc<Self>, server: Box<ServerConnection>) {
        self.close(server);
        self.part.borrow_mut().discard(shards::now());
        self.open_more();
    }

    /// Closes a server that does not count any more.
    pub(super) fn close(&self, server: Box<ServerConnection>) {
        if server.statements.trust.is_open() {
            // It may be committed all the same.
            self.objects_changed();
        }
        self.host.free_number(server.number);
        server.lease.give_back();
        server.close();
        self.tell_claimants();
    }

    /// Starts opening connections if somebody waits, or the minimum is not reached.
    pub fn open_more(self: &Rc<Self>) {
        let count = self.part.borrow_mut().openings(shards::now());
        let rights = self.take_rights(count);
        let denied = count - rights.len();
        for right in rights {
            spawn(open_one(Rc::clone(self), right));
        }
        if denied > 0 {
            self.deny(denied);
        }
        self.act();
    }

    fn opened(self: &Rc<Self>, server: Box<ServerConnection>) {
        self.learn_base(&server.base);
        let now = shards::now();
        self.part.borrow_mut().opened(now);
        let is_wanted = self.part.borrow().state().waiting_count() > 0;
        if is_wanted && server.has_expired(now) && !self.is_outdated(&server) {
            // However short its life is meant to be, it serves once: otherwise one would be opened after
            // the other, for nobody.
            self.lend_or_keep(server, now);
        } else {
            self.check_in(server);
        }
        // At home the end of one opening permits the next.
        self.open_more();
    }

    fn open_failed(self: &Rc<Self>, error: CheckoutError) {
        tracing::error!(
            pool = %self.key.database, user = %self.key.user, %error, "server connection failed"
        );
        let now = shards::now();
        let error = Rc::new(error);
        let (wakers, waiting) = {
            let mut part = self.part.borrow_mut();
            let wakers = part.open_failed(&error, now, REST_AFTER_FAILURE);
            (wakers, part.state().waiting_count())
        };
        for waker in wakers {
            waker.wake();
        }
        self.tell_claimants();
        self.open_more();
        // A server that is down is not asked a hundred times a second for the minimum's sake.
        if waiting > 0 {
            self.host.alarm.at_most(now + REST_AFTER_FAILURE);
        }
    }

    /// Does what is due: ends waits that took too long, opens what is missing. Returns when it wants
    /// to be called next.
    pub fn tick(self: &Rc<Self>) -> Option<Instant> {
        let now = shards::now();
        let error = Rc::new(CheckoutError::WaitTimeout);
        let wakers = self.part.borrow_mut().expire(now, &error);
        for waker in wakers {
            waker.wake();
        }
        self.part.borrow_mut().ask_reserve(now);
        self.open_more();
        self.part.borrow().next_deadline()
    }

    /// Closes up to `count` idle connections that are too old or unused for too long; returns how
    /// many.
    pub fn retire(self: &Rc<Self>, count: usize) -> usize {
        let retired = self.part.borrow_mut().retire(shards::now(), count);
        let closed = retired.len();
        for server in retired {
            self.close(server);
        }
        self.open_more();
        closed
    }

    /// The pool is no longer configured: idle connections close now, lent ones when they come back.
    /// Clients that logged in before go on being served: by the pool that replaces this one, if
    /// `is_replaced`, to which those who wait go over.
    pub fn retire_for_good(self: &Rc<Self>, is_replaced: bool) {
        if !self.retired.replace(true) {
            self.host.retire(self);
        }
        let idle = {
            let mut part = self.part.borrow_mut();
            part.go_alone(shards::now());
            part.drain_idle()
        };
        for server in idle {
            self.close(server);
        }
        // The server of a pool that is replaced may have moved: nothing more is opened for who waits.
        if is_replaced {
            self.act();
        } else {
            self.open_more();
        }
        self.wake_waiting();
    }

    /// True if the pool is not configured any more.
    pub fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// Takes over what a pool need not be rebuilt for: times are used from the next time on, the rest
    /// by connections that are opened later. Statements go on being renamed, or not.
    pub fn adopt(&self, settings: &Settings) {
        let own = &self.settings;
        own.socket.replace(Rc::clone(&settings.socket.borrow()));
        own.connect_timeout.set(settings.connect_timeout.get());
        own.query_wait_timeout
            .set(settings.query_wait_timeout.get());
        own.server_lifetime.set(settings.server_lifetime.get());
        own.idle_check_timeout
            .set(settings.idle_check_timeout.get());
        let statements_max = settings.statements_max.get();
        if statements_max > 0 && own.statements_max.get() > 0 {
            own.statements_max.set(statements_max);
        }
        self.part.borrow_mut().set_habits(settings.habits);
    }

    /// Changes the sizes; connections stay.
    pub fn resize(self: &Rc<Self>, sizes: Sizes) {
        let reloads = self.host.reloads();
        self.part.borrow_mut().resize(sizes, reloads, shards::now());
        self.open_more();
        // Behind the debt: whoever adds the two up at any moment has them both.
        self.metrics.size.set(sizes.size as u64);
    }

    /// There is news of an idle connection: it has ended, or said something unasked.
    pub(super) fn idle_event(self: &Rc<Self>, number: u32) {
        let found = self
            .part
            .borrow_mut()
            .remove_idle(|server| server.number == number);
        let Some(mut server) = found else { return };
        if cleaner::read_unasked(self, &mut server) {
            let expires = server.expires;
            server.stream.watch(number);
            self.part
                .borrow_mut()
                .put_back(server, shards::now(), expires);
            self.act();
        } else {
            tracing::info!(pool = %self.key.database, pid = server.pid(), "idle server closed");
            self.host.free_number(number);
            server.stream.abort();
            drop(server);
            self.tell_claimants();
            self.open_more();
        }
    }
}

async fn open_one(pool: Rc<Pool>, right: Right) {
    let nonce = Alphanumeric.sample_string(&mut rand::rng(), 24);
    let settings = &pool.settings;
    // From the beginning: it is as old as what it was opened for.
    let born = Instant::now();
    let deadline = born + settings.connect_timeout.get();
    let errands = Rc::clone(&pool.host.errands);
    let socket = Rc::clone(&settings.socket.borrow());
    let opening = connection::open(&socket, &settings.login, nonce, &*errands);
    match shards::until(deadline, Box::pin(opening)).await {
        None => {
            drop(right);
            pool.open_failed(CheckoutError::LoginTimeout);
        }
        Some(Err(error)) => {
            drop(right);
            settings.login.source.failed(&error);
            if matches!(error, ServerError::Tls(_)) {
                pool.metrics().server_tls_handshakes_failed.add(1);
            }
            pool.open_failed(login_error(&error));
        }
        Some(Ok((stream, framer, greeting))) => {
            let timeout = settings.connect_timeout.get();
            let lease = Lease::new(greeting.key, &stream, &socket, timeout);
            let pid = lease.target().map_or(0, |target| target.pid);
            let mut tally = ServerTally::new();
            tally.is_tls = stream.is_tls();
            let handshakes = &pool.metrics().server_tls_handshakes;
            handshakes.add(u64::from(tally.is_tls));
            let card = ServerCard::new(Rc::clone(&pool.metrics), pid, born, tally);
            let server = Box::new(ServerConnection {
                stream,
                right,
                framer,
                sync: Sync::default(),
                status: TransactionStatus::Idle,
                leftovers: Leftovers::default(),
                baits: Baits::default(),
                has_unnamed: false,
                statements: Statements::default(),
                base: pool.intern(greeting.parameters),
                applied: pool.intern(ParameterSet::default()),
                lease,
                number: pool.host.number(&pool, &card),
                card,
                born,
                expires: expiry(born, settings.server_lifetime.get()),
                awaited: None,
            });
            tracing::debug!(pool = %pool.key.database, pid = server.pid(), "server connected");
            pool.opened(server);
        }
    }
}

fn login_error(error: &ServerError) -> CheckoutError {
    CheckoutError::Login(error.to_string())
}

/// A fifth earlier or later, so that connections opened together do not end together.
fn expiry(born: Instant, lifetime: Duration) -> Option<Instant> {
    if lifetime.is_zero() {
        return None;
    }
    Some(born + lifetime.mul_f64(rand::rng().random_range(0.8..1.2)))
}
