//! A pool in action: opens, lends, takes back and closes server connections.
//!
//! **Owns:** the tasks that open connections, and the wakers of those who wait.
//! **Does not own:** the decisions (`state`), resetting (`cleaner`).
//!
//! **Invariants**
//! 1. A server goes to the next client only if [`ServerConnection::is_clean`] says so.
//! 2. Whoever waits is woken when the wait ends, however it ends.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::distr::{Alphanumeric, SampleString};
use shards::spawn;

use crate::config::PoolMode;
use crate::protocol::backend::TransactionStatus;
use crate::server::connection::{self, Login, ServerConnection, Socket};
use crate::server::parameters::{Interner, ParameterSet};
use crate::server::reset::Leftovers;
use crate::server::sync::Sync;
use crate::server::{Errands, ServerError};

use super::alarm::Alarm;
use super::cleaner;
use super::error::{CheckoutError, REST_AFTER_FAILURE};
use super::state::{Limits, PoolState, Ticket};

/// Names a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The database that clients ask for.
    pub database: Rc<str>,
    /// The user that clients log in as.
    pub user: Rc<str>,
}

/// What all pools of a shard share.
pub struct Host {
    /// Runs what would block the shard.
    pub errands: Rc<dyn Errands>,
    /// Parameter sets in use on this shard.
    pub interner: RefCell<Interner>,
    /// When the pools have something to do next.
    pub alarm: Alarm,
    numbers: RefCell<Numbers>,
    /// Pools that are not configured any more, as long as a client uses them.
    retired: RefCell<Vec<Weak<Pool>>>,
}

/// Which pool a server connection's number belongs to.
#[derive(Default)]
struct Numbers {
    pools: Vec<Weak<Pool>>,
    free: Vec<u32>,
}

impl Host {
    /// A host whose pools run errands through `errands`.
    pub fn new(errands: Rc<dyn Errands>) -> Rc<Self> {
        Rc::new(Self {
            errands,
            interner: RefCell::default(),
            alarm: Alarm::default(),
            numbers: RefCell::default(),
            retired: RefCell::default(),
        })
    }

    fn number(&self, pool: &Rc<Pool>) -> u32 {
        let mut numbers = self.numbers.borrow_mut();
        let pool = Rc::downgrade(pool);
        if let Some(number) = numbers.free.pop() {
            numbers.pools[number as usize] = pool;
            return number;
        }
        numbers.pools.push(pool);
        (numbers.pools.len() - 1) as u32
    }

    fn free_number(&self, number: u32) {
        self.numbers.borrow_mut().free.push(number);
    }

    /// The pools that are not configured any more but still have clients: their waits end, too.
    pub fn retired_pools(&self) -> Vec<Rc<Pool>> {
        let mut retired = self.retired.borrow_mut();
        retired.retain(|pool| pool.strong_count() > 0);
        retired.iter().filter_map(Weak::upgrade).collect()
    }

    /// There is news of the idle server connection `number`.
    pub fn idle_event(&self, number: u32) {
        let pool = self
            .numbers
            .borrow()
            .pools
            .get(number as usize)
            .and_then(Weak::upgrade);
        if let Some(pool) = pool {
            pool.idle_event(number);
        }
    }
}

/// How a pool behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When servers are given back.
    pub mode: PoolMode,
    /// How to reach the server.
    pub socket: Socket,
    /// How to log in.
    pub login: Login,
    /// Bounds on this shard.
    pub limits: Limits,
    /// Bound on opening one connection.
    pub connect_timeout: Duration,
    /// Bound on waiting for a server.
    pub query_wait_timeout: Duration,
    /// Age at which a connection is replaced, spread by a fifth; zero = never.
    pub server_lifetime: Duration,
    /// Idle time after which a connection is tried before it is lent; zero = never.
    pub idle_check_timeout: Duration,
    /// Remove what clients left behind.
    pub cleanup: bool,
}

/// The servers of one (database, user) on this shard.
pub struct Pool {
    /// Its name.
    pub key: PoolKey,
    /// How it behaves.
    pub settings: Settings,
    pub(super) host: Rc<Host>,
    pub(super) state: RefCell<PoolState<Box<ServerConnection>, Waker>>,
    base: RefCell<Option<Rc<ParameterSet>>>,
    /// Not configured any more: servers are closed after each use.
    retired: Cell<bool>,
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
    pub fn new(key: PoolKey, settings: Settings, host: Rc<Host>) -> Rc<Self> {
        let state = RefCell::new(PoolState::new(settings.limits));
        let base = RefCell::default();
        Rc::new(Self {
            key,
            settings,
            host,
            state,
            base,
            retired: Cell::new(false),
        })
    }

    /// The parameters that servers of this pool report, once one has been opened.
    pub fn base(&self) -> Option<Rc<ParameterSet>> {
        self.base.borrow().clone()
    }

    /// Takes what servers of this pool report elsewhere, unless that is known here already.
    pub fn offer_base(&self, base: ParameterSet) {
        if self.base.borrow().is_none() {
            let base = self.intern(base);
            *self.base.borrow_mut() = Some(base);
        }
    }

    /// The shared form of a parameter set.
    pub fn intern(&self, set: ParameterSet) -> Rc<ParameterSet> {
        self.host.interner.borrow_mut().intern(set)
    }

    /// Asks for a server on behalf of the task behind `waker`.
    pub fn acquire(self: &Rc<Self>, waker: &Waker) -> Acquired {
        let now = shards::now();
        loop {
            let taken = self.state.borrow_mut().checkout();
            let Some((mut server, idle_since)) = taken else {
                break;
            };
            // What it said while it was idle is not for this client.
            let is_fit = !server.stream.has_received() || cleaner::read_unasked(self, &mut server);
            if !is_fit || !server.is_clean() || server.has_expired(now) {
                self.discard(server);
                continue;
            }
            let limit = self.settings.idle_check_timeout;
            if !limit.is_zero() && now.saturating_duration_since(idle_since) > limit {
                spawn(cleaner::verify(Rc::clone(self), server));
                continue;
            }
            return Acquired::Server(server);
        }
        let deadline = now + self.settings.query_wait_timeout;
        let ticket = self.state.borrow_mut().wait(waker.clone(), now, deadline);
        self.host.alarm.at_most(deadline);
        self.open_more();
        Acquired::Waiting(ticket)
    }

    /// The end of a wait, if it has come; otherwise notes whom to wake.
    pub fn collect(
        &self,
        ticket: Ticket,
        waker: &Waker,
    ) -> Option<Result<Box<ServerConnection>, Rc<CheckoutError>>> {
        let (outcome, replaced) = {
            let mut state = self.state.borrow_mut();
            match state.collect(ticket) {
                None => (None, state.rewake(ticket, waker.clone())),
                outcome => (outcome, None),
            }
        };
        drop(replaced);
        outcome
    }

    /// Gives up a wait.
    pub fn give_up(self: &Rc<Self>, ticket: Ticket) {
        let (server, waker) = self.state.borrow_mut().cancel(ticket);
        drop(waker);
        if let Some(server) = server {
            self.give_back(server);
        }
    }

    /// Takes a server back after use. It is reused if it is clean, cleaned if it can be, and closed
    /// otherwise.
    pub fn give_back(self: &Rc<Self>, mut server: Box<ServerConnection>) {
        if !self.settings.cleanup {
            server.leftovers = Leftovers::default();
        }
        if !server.is_settled() {
            self.discard(server);
        } else if server.is_clean() {
            self.check_in(server);
        } else {
            spawn(cleaner::clean(Rc::clone(self), server));
        }
    }

    /// Lends a clean server to whoever waits, or keeps it idle.
    pub(super) fn check_in(self: &Rc<Self>, mut server: Box<ServerConnection>) {
        let now = shards::now();
        let is_unwanted = self.retired.get() && self.state.borrow().waiting_count() == 0;
        let is_over = is_unwanted || self.state.borrow().is_over();
        if is_over || server.has_expired(now) {
            self.discard(server);
            return;
        }
        let expires = server.expires;
        let mut state = self.state.borrow_mut();
        if state.waiting_count() == 0 {
            server.stream.watch(server.number);
        }
        let waker = state.checkin(server, now, expires);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Closes a lent server.
    pub fn discard(self: &Rc<Self>, server: Box<ServerConnection>) {
        self.host.free_number(server.number);
        server.close();
        self.state.borrow_mut().discard();
        self.open_more();
    }

    /// Starts opening connections if somebody waits, or the minimum is not reached.
    pub fn open_more(self: &Rc<Self>) {
        let count = self.state.borrow_mut().openings(shards::now());
        for _ in 0..count {
            spawn(open_one(Rc::clone(self)));
        }
    }

    fn opened(self: &Rc<Self>, server: Box<ServerConnection>) {
        *self.base.borrow_mut() = Some(Rc::clone(&server.base));
        self.state.borrow_mut().opened();
        self.check_in(server);
    }

    fn open_failed(self: &Rc<Self>, error: CheckoutError) {
        tracing::error!(
            pool = %self.key.database, user = %self.key.user, %error, "server connection failed"
        );
        let now = shards::now();
        let error = Rc::new(error);
        let (wakers, waiting) = {
            let mut state = self.state.borrow_mut();
            let wakers = state.open_failed(&error, now, REST_AFTER_FAILURE);
            (wakers, state.waiting_count())
        };
        for waker in wakers {
            waker.wake();
        }
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
        let wakers = self.state.borrow_mut().expire(now, &error);
        for waker in wakers {
            waker.wake();
        }
        self.open_more();
        self.state.borrow().next_deadline()
    }

    /// Closes up to `count` idle connections that are too old or unused for too long; returns how
    /// many.
    pub fn retire(self: &Rc<Self>, count: usize) -> usize {
        let retired = self.state.borrow_mut().retire(shards::now(), count);
        let closed = retired.len();
        for server in retired {
            self.host.free_number(server.number);
            server.close();
        }
        self.open_more();
        closed
    }

    /// The pool is no longer configured: idle connections close now, lent ones when they come back.
    /// Clients that logged in before go on being served.
    pub fn retire_for_good(self: &Rc<Self>) {
        if !self.retired.replace(true) {
            self.host.retired.borrow_mut().push(Rc::downgrade(self));
        }
        let idle = {
            let mut state = self.state.borrow_mut();
            state.set_limits(Limits {
                servers_min: 0,
                ..self.settings.limits
            });
            state.drain_idle()
        };
        for server in idle {
            self.host.free_number(server.number);
            server.close();
        }
    }

    /// Connections that exist or are being opened, lent ones, and waiting clients.
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.state.borrow();
        (state.held(), state.lent_count(), state.waiting_count())
    }

    /// There is news of an idle connection: it has ended, or said something unasked.
    fn idle_event(self: &Rc<Self>, number: u32) {
        let found = self
            .state
            .borrow_mut()
            .remove_idle(|server| server.number == number);
        let Some(mut server) = found else { return };
        if cleaner::read_unasked(self, &mut server) {
            let expires = server.expires;
            server.stream.watch(number);
            self.state
                .borrow_mut()
                .put_back(server, shards::now(), expires);
        } else {
            tracing::info!(pool = %self.key.database, pid = server.pid(), "idle server closed");
            self.host.free_number(number);
            server.stream.abort();
            drop(server);
            self.open_more();
        }
    }
}

async fn open_one(pool: Rc<Pool>) {
    let nonce = Alphanumeric.sample_string(&mut rand::rng(), 24);
    let settings = &pool.settings;
    let deadline = Instant::now() + settings.connect_timeout;
    let errands = Rc::clone(&pool.host.errands);
    let opening = connection::open(&settings.socket, &settings.login, nonce, &*errands);
    match shards::until(deadline, Box::pin(opening)).await {
        None => pool.open_failed(CheckoutError::LoginTimeout),
        Some(Err(error)) => pool.open_failed(login_error(&error)),
        Some(Ok((stream, framer, greeting))) => {
            let born = Instant::now();
            let server = Box::new(ServerConnection {
                stream,
                framer,
                sync: Sync::default(),
                status: TransactionStatus::Idle,
                leftovers: Leftovers::default(),
                has_unnamed: false,
                base: pool.intern(greeting.parameters),
                applied: pool.intern(ParameterSet::default()),
                key: greeting.key,
                number: pool.host.number(&pool),
                born,
                expires: expiry(born, settings.server_lifetime),
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
