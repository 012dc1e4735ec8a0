//! What is told of a client, and what it has done.
//!
//! **Owns:** the account of one client: its state, its counts, and the times of its query, its
//! transaction and its wait, which go into the numbers of its pool.
//! **Does not own:** the session, the list of clients (`roster`).
//!
//! ```text
//!           asks for a server             gets it
//!   idle ────────────────────▶ waiting ────────────▶ active ──▶ idle
//!     └──────────── gets one at once ──────────────────▲
//! ```
//!
//! **Invariants**
//! 1. The gauges of the pool have each client in exactly one state, and lose it when it goes.
//! 2. A time is read from the clock of the turn, and nothing is allocated for a message.
//! 3. A query is timed by itself: from its first message, or the end of the one before it if that is
//!    later, to its `ReadyForQuery`. A transaction likewise, in any pool mode.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Context;
use std::time::Instant;

use crate::metrics::Enrolled;
use crate::protocol::backend::TransactionStatus;
use crate::server::ServerCard;
use crate::server::parameters::ParameterSet;

use super::client::{Phase, Session, Step};
use super::prepared::Prepared;
use super::shard::Shard;

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// It has no server and needs none.
    Idle,
    /// It waits for a server.
    Waiting,
    /// It has a server.
    Active,
}

impl ClientState {
    /// As the console shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Active => "active",
        }
    }
}

/// What is known of a client wherever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTally {
    /// The process id that it was told.
    pub id: u32,
    /// Where it comes from; none on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// When it connected.
    pub born: Instant,
    /// Transactions that it has ended.
    pub transactions: u64,
    /// Queries that were answered.
    pub queries: u64,
    /// Errors of the pooler and of servers that it was sent.
    pub errors: u64,
    /// It has used `Flush`.
    pub flushes: bool,
    /// Since when it has nothing to be answered, as `Fleet::micros` has it.
    pub rests_since: u64,
    /// Since when it is in a transaction that no server knows, as `Fleet::micros` has it; 0 = it is not.
    pub begun_since: u64,
    /// Its connection is encrypted.
    pub is_tls: bool,
}

/// When a client began what it is doing, as `Fleet::micros` has it; 0 = it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTimes {
    /// Having nothing to be answered.
    pub rests: u64,
    /// A transaction that no server knows.
    pub begun: u64,
    /// A query.
    pub query: u64,
    /// A transaction.
    pub transaction: u64,
    /// A long row on its way to it.
    pub row: u64,
}

impl ClientTally {
    /// That of a client that has just logged in.
    pub const fn new(id: u32, peer: Option<SocketAddr>, born: Instant) -> Self {
        Self {
            id,
            peer,
            born,
            transactions: 0,
            queries: 0,
            errors: 0,
            flushes: false,
            rests_since: 0,
            begun_since: 0,
            is_tls: false,
        }
    }
}

/// Why a client is to look at itself before its next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Summons {
    None,
    /// It may have taken too long.
    Late,
    /// It is to be closed.
    Killed,
    /// It has been told so, and is closed when it has got that.
    Parting,
}

/// Whose client it is.
#[derive(Debug)]
pub enum Belongs {
    /// To a pool.
    Pool(Rc<Enrolled>),
    /// To the console: database and user.
    Console(Box<(Box<str>, Box<str>)>),
}

/// The account of one client.
#[derive(Debug)]
pub struct ClientCard {
    /// Whose client it is.
    pub belongs: Belongs,
    /// What it asked for at login.
    pub asked: Rc<ParameterSet>,
    /// By which stream it can be woken.
    pub stream: u32,
    tally: Cell<ClientTally>,
    state: Cell<ClientState>,
    /// Its prepared statements and their bytes.
    prepared: Cell<(usize, usize)>,
    summons: Cell<Summons>,
    /// When the wait, the query and the transaction began, as `Fleet::micros` has it; 0 = there is
    /// none.
    waits_since: Cell<u64>,
    query_since: Cell<u64>,
    transaction_since: Cell<u64>,
    /// When the long row began that is on its way to it, likewise.
    row_since: Cell<u64>,
}

impl ClientCard {
    /// The account of an idle client.
    pub fn new(
        belongs: Belongs,
        asked: Rc<ParameterSet>,
        stream: u32,
        mut tally: ClientTally,
    ) -> Rc<Self> {
        if let Belongs::Pool(pool) = &belongs {
            if tally.rests_since == 0 {
                tally.rests_since = Self::now(pool);
            }
            pool.clients.add(1);
            pool.async_clients.add(u64::from(tally.flushes));
        }
        Rc::new(Self {
            belongs,
            asked,
            stream,
            tally: Cell::new(tally),
            state: Cell::new(ClientState::Idle),
            prepared: Cell::new((0, 0)),
            summons: Cell::new(Summons::None),
            waits_since: Cell::new(0),
            query_since: Cell::new(0),
            transaction_since: Cell::new(0),
            row_since: Cell::new(0),
        })
    }

    /// What it has done.
    pub const fn tally(&self) -> ClientTally {
        self.tally.get()
    }

    /// What it is doing.
    pub const fn state(&self) -> ClientState {
        self.state.get()
    }

    /// True while a query of it is not answered.
    pub const fn has_query(&self) -> bool {
        self.query_since.get() > 0
    }

    /// Database and user that it has logged in to and as.
    pub fn names(&self) -> (&str, &str) {
        match &self.belongs {
            Belongs::Pool(pool) => (&pool.database, &pool.user),
            Belongs::Console(names) => (&names.0, &names.1),
        }
    }

    /// Has it closed at its next step.
    pub fn kill(&self) {
        if !self.is_killed() {
            self.summons.set(Summons::Killed);
        }
    }

    /// True if it is to be closed.
    pub fn is_killed(&self) -> bool {
        matches!(self.summons.get(), Summons::Killed | Summons::Parting)
    }

    /// Has it closed as soon as it has got what is queued for it.
    pub fn part(&self) {
        self.summons.set(Summons::Parting);
    }

    /// It has come to this shard: has it closed if an order has missed it on its way.
    pub fn close_if_wanted(&self, shard: &Shard) {
        let ClientTally { id, born, .. } = self.tally.get();
        let (database, _) = self.names();
        if shard.doors.is_over() || shard.pursuits.meets(id, database, born) {
            self.kill();
        }
    }

    /// Has it look at its next step whether it has taken too long.
    pub fn summon(&self) {
        if self.summons.get() == Summons::None {
            self.summons.set(Summons::Late);
        }
    }

    /// When it began what it is doing.
    pub const fn times(&self) -> ClientTimes {
        let tally = self.tally.get();
        ClientTimes {
            rests: tally.rests_since,
            begun: tally.begun_since,
            query: self.query_since.get(),
            transaction: self.transaction_since.get(),
            row: self.row_since.get(),
        }
    }

    /// It has been answered, or has sent a part of a message.
    pub fn note_rest(&self) {
        if let Belongs::Pool(pool) = &self.belongs {
            let mut tally = self.tally.get();
            tally.rests_since = Self::now(pool);
            self.tally.set(tally);
        }
    }

    /// It has been answered without a server, and is in a transaction that none knows, or not.
    pub fn note_local(&self, has_begun: bool) {
        self.note_rest();
        let mut tally = self.tally.get();
        tally.begun_since = match (has_begun, tally.begun_since) {
            (false, _) => 0,
            (true, 0) => tally.rests_since,
            (true, since) => since,
        };
        self.tally.set(tally);
    }

    /// A server knows of its transaction, if it has one.
    pub fn note_begun(&self) {
        let mut tally = self.tally.get();
        tally.begun_since = 0;
        self.tally.set(tally);
    }

    fn now(pool: &Enrolled) -> u64 {
        pool.fleet().micros(shards::now())
    }

    /// It is in this state now.
    pub fn note(&self, state: ClientState) {
        let before = self.state.get();
        if before == state {
            return;
        }
        let Belongs::Pool(pool) = &self.belongs else {
            return;
        };
        self.state.set(state);
        match before {
            ClientState::Idle => {}
            ClientState::Waiting => pool.clients_waiting.sub(1),
            ClientState::Active => {
                pool.clients_active.sub(1);
                self.query_since.set(0);
                self.transaction_since.set(0);
                self.row_since.set(0);
            }
        }
        match (before, state) {
            (_, ClientState::Idle) => {}
            (_, ClientState::Waiting) => {
                pool.clients_waiting.add(1);
                self.waits_since.set(Self::now(pool));
            }
            (ClientState::Waiting, ClientState::Active) => {
                pool.clients_active.add(1);
                let waited = Self::now(pool).saturating_sub(self.waits_since.get());
                pool.waits.record(waited);
            }
            (_, ClientState::Active) => {
                pool.clients_active.add(1);
                pool.waits.record(0);
            }
        }
    }

    /// It has sent something to a server.
    pub fn sent(&self, server: &ServerCard, bytes: usize) {
        let Belongs::Pool(pool) = &self.belongs else {
            return;
        };
        if bytes == 0 {
            return;
        }
        pool.bytes_sent.add(bytes as u64);
        server.sent(bytes);
        if self.query_since.get() == 0 {
            let now = Self::now(pool);
            self.query_since.set(now);
            if self.transaction_since.get() == 0 {
                self.transaction_since.set(now);
            }
        }
    }

    /// A server has sent something to it.
    pub fn received(&self, server: &ServerCard, bytes: usize) {
        if let Belongs::Pool(pool) = &self.belongs {
            pool.bytes_received.add(bytes as u64);
            server.received(bytes);
        }
    }

    /// A long row begins, or has been passed on.
    pub fn note_row(&self, is_on_its_way: bool) {
        if let Belongs::Pool(pool) = &self.belongs {
            let since = if is_on_its_way { Self::now(pool) } else { 0 };
            self.row_since.set(since);
        }
    }

    /// The server has sent it a `ReadyForQuery` and owes so many replies yet. Returns how long the query
    /// took, in microseconds.
    pub fn answered(&self, server: &ServerCard, status: TransactionStatus, owed: usize) -> u64 {
        let Belongs::Pool(pool) = &self.belongs else {
            return 0;
        };
        let now = Self::now(pool);
        let ends_transaction = status == TransactionStatus::Idle;
        let owes_more = owed > 0;
        server.answered(ends_transaction, owes_more);
        let next = if owes_more { now } else { 0 };
        let mut tally = self.tally.get();
        tally.queries += 1;
        tally.rests_since = now;
        let since = self.query_since.replace(next);
        let took = now.saturating_sub(if since == 0 { now } else { since });
        pool.queries.record(took);
        if ends_transaction {
            tally.transactions += 1;
            let since = self.transaction_since.replace(next);
            pool.transactions
                .record(now.saturating_sub(if since == 0 { now } else { since }));
        }
        self.tally.set(tally);
        took
    }

    /// It is told of an error.
    pub fn note_error(&self) {
        let mut tally = self.tally.get();
        tally.errors += 1;
        self.tally.set(tally);
    }

    /// Its wait for a server has ended with an error.
    pub fn note_no_server(&self) {
        self.note_error();
        if let Belongs::Pool(pool) = &self.belongs {
            pool.errors.add(1);
        }
    }

    /// It has sent a `Flush`.
    pub fn note_flush(&self) {
        let mut tally = self.tally.get();
        if let Belongs::Pool(pool) = &self.belongs
            && !tally.flushes
        {
            tally.flushes = true;
            self.tally.set(tally);
            pool.async_clients.add(1);
        }
    }

    /// It has prepared so many statements, of so many bytes.
    pub fn note_prepared(&self, kept: (usize, usize)) {
        let before = self.prepared.replace(kept);
        let Belongs::Pool(pool) = &self.belongs else {
            return;
        };
        if before != kept {
            pool.client_prepared_entries.shift(before.0, kept.0);
            pool.client_prepared_bytes.shift(before.1, kept.1);
        }
    }

    /// It has gone.
    pub fn gone(&self) {
        self.note(ClientState::Idle);
        self.note_prepared((0, 0));
        if let Belongs::Pool(pool) = &self.belongs {
            pool.clients.sub(1);
            pool.async_clients.sub(u64::from(self.tally().flushes));
        }
    }
}

impl Session {
    /// One step, with its trace in the account.
    pub(super) fn step(&mut self, context: &mut Context<'_>) -> Step {
        match self.card.summons.get() {
            Summons::None => {}
            Summons::Late => {
                self.card.summons.set(Summons::None);
                if let Some(step) = self.overtime() {
                    return step;
                }
            }
            Summons::Killed => return self.killed(),
            Summons::Parting => return self.parting(context),
        }
        let step = self.step_on(context);
        let prepared = self.prepared.as_deref();
        self.card
            .note_prepared(prepared.map_or((0, 0), Prepared::extent));
        self.card.note(match &self.phase {
            Phase::Idle | Phase::Leaving => ClientState::Idle,
            Phase::Waiting(_) => ClientState::Waiting,
            Phase::Preparing(..) | Phase::Serving(_) | Phase::LeavingTogether(_) => {
                ClientState::Active
            }
        });
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Fleet;

    #[test]
    fn a_client_is_in_one_state_and_leaves_no_trace() {
        shards::run_one(|| async {
            let fleet = Fleet::new(1);
            let pool = Enrolled::new(&fleet, 0, "db", "u");
            let tally = ClientTally::new(7, None, Instant::now());
            let belongs = Belongs::Pool(Rc::clone(&pool));
            let card = ClientCard::new(belongs, Rc::default(), 0, tally);
            let numbers = || {
                let [all, active, waiting] =
                    [&pool.clients, &pool.clients_active, &pool.clients_waiting];
                (all.get(), active.get(), waiting.get())
            };
            assert_eq!(numbers(), (1, 0, 0));
            for (state, expected) in [
                (ClientState::Waiting, (1, 0, 1)),
                (ClientState::Active, (1, 1, 0)),
                (ClientState::Active, (1, 1, 0)),
                (ClientState::Waiting, (1, 0, 1)),
                (ClientState::Idle, (1, 0, 0)),
                (ClientState::Active, (1, 1, 0)),
            ] {
                card.note(state);
                assert_eq!(numbers(), expected, "{state:?}");
            }
            let mut waits = crate::metrics::histogram::Histogram::default();
            waits.add(&pool.waits);
            assert_eq!(waits.count(), 2);
            card.note_no_server();
            assert_eq!((pool.errors.get(), card.tally().errors), (1, 1));
            card.note_flush();
            card.note_flush();
            assert_eq!(pool.async_clients.get(), 1);
            card.note_prepared((3, 40));
            card.note_prepared((2, 50));
            let prepared = || {
                let entries = &pool.client_prepared_entries;
                (entries.get(), pool.client_prepared_bytes.get())
            };
            assert_eq!(prepared(), (2, 50));
            card.gone();
            assert_eq!((numbers(), prepared()), ((0, 0, 0), (0, 0)));
            assert_eq!(pool.async_clients.get(), 0);
        })
        .unwrap();
    }
}
