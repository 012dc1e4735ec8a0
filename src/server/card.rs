//! What is told of a server connection, and what it has done.
//!
//! **Owns:** the account of one connection: its use, its bytes, who used it last.
//! **Does not own:** the connection.
//! **Invariants:** one a connection, on the shard where that is; what it has counted travels with the
//! connection as plain values.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use rand::Rng;

use crate::metrics::{Enrolled, EnrolledServer};

use super::parameters::ParameterSet;
use super::question::Question;

/// What a server connection has done, wherever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerTally {
    /// Names the connection for life.
    pub id: u32,
    /// The connection is encrypted.
    pub is_tls: bool,
    /// Transactions that have ended on it.
    pub transactions: u64,
    /// Queries that it has answered.
    pub queries: u64,
    /// Bytes that clients have sent to it.
    pub sent: u64,
    /// Bytes that it has sent to clients.
    pub received: u64,
    /// Prepared statements that were wanted and were there.
    pub statements_found: u64,
    /// Prepared statements that had to be made.
    pub statements_made: u64,
}

impl ServerTally {
    /// That of a new connection.
    pub fn new() -> Self {
        Self {
            id: rand::rng().random(),
            ..Self::default()
        }
    }
}

/// The account of one connection.
#[derive(Debug)]
pub struct ServerCard {
    /// The block of its pool.
    pub pool: Rc<Enrolled>,
    /// Process id of the session, 0 if unknown.
    pub pid: i32,
    /// When it was opened.
    pub born: Instant,
    /// Counts what it does.
    pub tally: Cell<ServerTally>,
    /// Somebody uses it.
    pub is_lent: Cell<bool>,
    /// It owes a reply to a client.
    pub is_asked: Cell<bool>,
    /// Prepared statements that it has, as of the last that was wanted.
    pub statements: Cell<usize>,
    /// What it is asked, if slow queries are logged.
    pub question: RefCell<Question>,
    /// What the last client asked for at login.
    client: RefCell<Option<Rc<ParameterSet>>>,
    /// What everybody may read of it.
    numbers: EnrolledServer,
}

impl ServerCard {
    /// The account of a connection that was opened at `born` and has done `tally`.
    pub fn new(pool: Rc<Enrolled>, pid: i32, born: Instant, tally: ServerTally) -> Rc<Self> {
        let numbers = pool.enrol_server(pid);
        numbers.note(tally.statements_found, tally.statements_made);
        Rc::new(Self {
            pool,
            pid,
            born,
            tally: Cell::new(tally),
            is_lent: Cell::new(true),
            is_asked: Cell::new(false),
            statements: Cell::new(0),
            question: RefCell::default(),
            client: RefCell::default(),
            numbers,
        })
    }

    /// A client uses it from now on, who asked for `asked` at login.
    pub fn note_client(&self, asked: &Rc<ParameterSet>) {
        self.is_lent.set(true);
        let before = self.client.replace(Some(Rc::clone(asked)));
        drop(before);
    }

    /// `application_name` of the last client.
    pub fn application_name(&self) -> String {
        let client = self.client.borrow();
        let name = client
            .as_ref()
            .and_then(|asked| asked.get("application_name"));
        name.unwrap_or_default().to_owned()
    }

    /// Counts bytes of a client.
    pub fn sent(&self, bytes: usize) {
        let mut tally = self.tally.get();
        tally.sent += bytes as u64;
        self.tally.set(tally);
        self.is_asked.set(true);
    }

    /// Counts bytes for a client.
    pub fn received(&self, bytes: usize) {
        let mut tally = self.tally.get();
        tally.received += bytes as u64;
        self.tally.set(tally);
    }

    /// Counts a prepared statement that was wanted; the connection has so many now.
    pub fn wanted(&self, was_there: bool, statements: usize) {
        let mut tally = self.tally.get();
        tally.statements_found += u64::from(was_there);
        tally.statements_made += u64::from(!was_there);
        self.numbers
            .note(tally.statements_found, tally.statements_made);
        self.tally.set(tally);
        self.statements.set(statements);
    }

    /// Counts a query that was answered.
    pub fn answered(&self, ends_transaction: bool, owes_more: bool) {
        let mut tally = self.tally.get();
        tally.queries += 1;
        tally.transactions += u64::from(ends_transaction);
        self.tally.set(tally);
        self.is_asked.set(owes_more);
    }
}
