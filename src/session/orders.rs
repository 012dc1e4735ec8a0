//! What the console asks of shards, its own and others.
//!
//! **Owns:** the orders, carrying them out on one shard, their answers.
//! **Does not own:** how they travel (`app::orders`), what is made of the answers (`commands`).
//!
//! ```text
//!   shard of the console            another shard
//!        │ ── order, ticket ───────────▶ │  carries it out at once, without waiting
//!        │ ◀── outcome, ticket ───────── │
//! ```
//!
//! **Invariant:** an order takes a shard a bounded time: who asks for clients or servers gets a page,
//! and asks for the next one.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Instant;

use crate::admin::{ClientRow, ServerRow, Sockets};
use crate::server::ServerCard;

use super::card::{Belongs, ClientCard, ClientState};
use super::shard::Shard;

/// The most rows of one answer.
const PAGE: usize = 512;

/// The answer to an order or errand, later.
pub type Answer<T> = Pin<Box<dyn Future<Output = io::Result<T>>>>;

/// What a shard is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A page of its clients, from this place on.
    Clients(u32),
    /// Tell all clients that it is over, and close them.
    End,
    /// Close clients that had connected at that time.
    Kill(Target, Instant),
    /// Lend no servers, of one database or of all.
    Pause(Option<Box<str>>),
    /// Replace servers opened before, of one database or of all.
    Reconnect(Option<Box<str>>, Instant),
    /// Accept no clients any more.
    Refuse,
    /// Lend servers again, of one database or of all.
    Resume(Option<Box<str>>),
    /// A page of its servers, from this place on.
    Servers(u32),
}

/// Which clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The one of this number.
    Client(u32),
    /// Those of this database.
    Database(Box<str>),
}

/// What a shard answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A page of clients, and where the next begins.
    Clients(Vec<ClientRow>, Option<u32>),
    /// It is done; so many clients were concerned, or for a resume: 1 if the shard knows the database.
    Done(usize),
    /// It is paused; the number of that pause on this shard.
    Paused(u64),
    /// A page of servers, and where the next begins.
    Servers(Vec<ServerRow>, Option<u32>),
}

/// Those who carry out what a console asks for.
pub trait Staff {
    /// Has another shard carry out an order.
    fn order(&self, shard: usize, order: Order) -> Answer<Outcome>;

    /// Changes a setting on all shards. The inner error is for the one who asked.
    fn set(&self, key: String, value: String) -> Answer<Result<(), String>>;

    /// Has another process take over. The inner error is for the one who asked.
    fn upgrade(&self) -> Answer<Result<(), String>>;

    /// Nobody is let in any more: nothing more is to be listened on.
    fn refuse(&self);

    /// Ends the process.
    fn shut_down(&self);

    /// Counts the sockets of the process.
    fn sockets(&self) -> Answer<Sockets>;
}

/// Carries out an order on this shard.
pub fn carry_out(shard: &Rc<Shard>, order: Order) -> Outcome {
    match order {
        Order::Clients(from) => {
            let (cards, next) = shard.roster.page(from, PAGE);
            let rows = cards.iter().map(|card| client_row(shard, card));
            Outcome::Clients(rows.collect(), next)
        }
        Order::Servers(from) => {
            let (cards, next) = shard.host.server_cards(from, PAGE);
            let rows = cards.iter().map(|card| server_row(shard, card));
            Outcome::Servers(rows.collect(), next)
        }
        Order::End => {
            shard.doors.end();
            Outcome::Done(close(&shard.roster.find(|_| true)))
        }
        Order::Kill(target, at) => Outcome::Done(kill(shard, &target, at)),
        Order::Pause(database) => Outcome::Paused(shard.host.pause(database.as_deref())),
        Order::Resume(database) => {
            let is_known = database
                .as_deref()
                .is_some_and(|name| shard.host.knows(name));
            shard.host.resume(database.as_deref());
            Outcome::Done(usize::from(is_known))
        }
        Order::Reconnect(database, at) => {
            shard.host.reconnect(database.as_deref(), at);
            Outcome::Done(0)
        }
        Order::Refuse => {
            shard.doors.close();
            shard.fleet.close();
            shard.staff.refuse();
            Outcome::Done(0)
        }
    }
}

fn kill(shard: &Shard, target: &Target, at: Instant) -> usize {
    let caught = shard.pursuits.begin(target, at);
    let cards = shard.roster.find(|card| match target {
        Target::Client(id) => card.tally().id == *id,
        Target::Database(name) => {
            matches!(&card.belongs, Belongs::Pool(pool) if pool.database == *name)
        }
    });
    caught + close(&cards)
}

fn close(cards: &[Rc<ClientCard>]) -> usize {
    for card in cards {
        card.kill();
        shards::wake(card.stream);
    }
    cards.len()
}

fn client_row(shard: &Shard, card: &ClientCard) -> ClientRow {
    let tally = card.tally();
    let (database, user) = card.names();
    let state = card.state();
    let wait = match state {
        ClientState::Active if card.has_query() => "write",
        ClientState::Active => "read",
        ClientState::Idle | ClientState::Waiting => "idle",
    };
    ClientRow {
        id: tally.id,
        database: database.to_owned(),
        user: user.to_owned(),
        application_name: card
            .asked
            .get("application_name")
            .unwrap_or_default()
            .to_owned(),
        peer: tally.peer,
        is_tls: tally.is_tls,
        state: state.name(),
        wait,
        transactions: tally.transactions,
        queries: tally.queries,
        errors: tally.errors,
        age_seconds: shards::now()
            .saturating_duration_since(tally.born)
            .as_secs(),
        shard: shard.index,
    }
}

fn server_row(shard: &Shard, card: &ServerCard) -> ServerRow {
    let tally = card.tally.get();
    let is_lent = card.is_lent.get();
    ServerRow {
        id: tally.id,
        pid: card.pid,
        database: card.pool.database.to_string(),
        user: card.pool.user.to_string(),
        application_name: card.application_name(),
        state: if is_lent { "active" } else { "idle" },
        wait: if is_lent && card.is_asked.get() {
            "read"
        } else {
            "idle"
        },
        transactions: tally.transactions,
        queries: tally.queries,
        sent: tally.sent,
        received: tally.received,
        statements: [
            tally.statements_found,
            tally.statements_made,
            card.statements.get() as u64,
        ],
        age_seconds: shards::now().saturating_duration_since(card.born).as_secs(),
        shard: shard.index,
        is_tls: tally.is_tls,
    }
}
