//! What all shards know of the prepared statements of their clients.
//!
//! **Owns:** the account of this shard, and gathering those of all shards.
//! **Does not own:** the messages between shards (`app::surveys`), adding up (`metrics::statements`).
//!
//! ```text
//!   console ── gather ──▶ this shard ── ask ──▶ every other shard
//!                             │                      │ takes its account, a piece a turn
//!                             ◀────── answered ──────┘
//! ```
//!
//! **Invariants**
//! 1. Nobody but a console waits for an account, and a shard serves its clients between two pieces.
//! 2. A survey ends: with all accounts, or after [`PATIENCE`].

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::metrics::statements::{StatementAccount, shorten};
use crate::server::statements::text::{self, Statement};

use super::shard::Shard;

/// How long a survey waits for other shards.
const PATIENCE: Duration = Duration::from_secs(5);
/// Accounts that a shard gives: those of the statements that are used most.
const ACCOUNTS_MAX: usize = 10_000;
/// Statements that are looked at before clients get their turn.
const PIECE: usize = 64;

/// Asks other shards.
pub trait Surveyors {
    /// Asks shard `to` for its account, for survey `ticket` here.
    fn ask(&self, to: usize, ticket: u32);
}

struct Survey {
    missing: usize,
    accounts: Vec<StatementAccount>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Running {
    next: u32,
    surveys: HashMap<u32, Survey>,
}

/// The surveys of a shard.
pub struct Surveys {
    surveyors: Box<dyn Surveyors>,
    running: RefCell<Running>,
}

/// Forgets a survey that nobody waits for any more.
struct Ticket<'a>(&'a Surveys, u32);

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let survey = self.0.running.borrow_mut().surveys.remove(&self.1);
        drop(survey);
    }
}

impl Surveys {
    /// None yet.
    pub fn new(surveyors: Box<dyn Surveyors>) -> Self {
        Self {
            surveyors,
            running: RefCell::default(),
        }
    }

    /// The accounts of all shards.
    ///
    /// # Errors
    ///
    /// A sentence, if a shard does not answer in time.
    pub async fn gather(&self, shard: &Shard) -> Result<Vec<StatementAccount>, String> {
        let others = (0..shard.count).filter(|other| *other != shard.index);
        let ticket = self.begin(others.clone().count());
        for other in others {
            self.surveyors.ask(other, ticket.1);
        }
        let mut accounts = take(shard).await;
        let deadline = Instant::now() + PATIENCE;
        let answers = shards::until(deadline, self.answers(ticket.1)).await;
        let Some(answers) = answers else {
            return Err("a shard does not answer".to_owned());
        };
        accounts.extend(answers);
        Ok(accounts)
    }

    /// Another shard gives its account.
    pub fn answered(&self, ticket: u32, accounts: Vec<StatementAccount>) {
        let mut running = self.running.borrow_mut();
        let Some(survey) = running.surveys.get_mut(&ticket) else {
            return;
        };
        survey.missing = survey.missing.saturating_sub(1);
        survey.accounts.extend(accounts);
        let waker = survey.waker.take();
        drop(running);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn begin(&self, missing: usize) -> Ticket<'_> {
        let mut running = self.running.borrow_mut();
        running.next = running.next.wrapping_add(1);
        let number = running.next;
        let survey = Survey {
            missing,
            accounts: Vec::new(),
            waker: None,
        };
        running.surveys.insert(number, survey);
        Ticket(self, number)
    }

    async fn answers(&self, ticket: u32) -> Vec<StatementAccount> {
        poll_fn(|context| {
            let mut running = self.running.borrow_mut();
            let Some(survey) = running.surveys.get_mut(&ticket) else {
                return Poll::Ready(Vec::new());
            };
            if survey.missing == 0 {
                return Poll::Ready(std::mem::take(&mut survey.accounts));
            }
            let replaced = survey.waker.replace(context.waker().clone());
            drop(running);
            drop(replaced);
            Poll::Pending
        })
        .await
    }
}

/// The account of this shard.
pub async fn take(shard: &Shard) -> Vec<StatementAccount> {
    let mut statements = known(shard);
    if statements.len() > ACCOUNTS_MAX {
        let by_uses = |one: &(u64, Rc<Statement>)| Reverse(one.0);
        statements.select_nth_unstable_by_key(ACCOUNTS_MAX, by_uses);
        statements.truncate(ACCOUNTS_MAX);
    }
    let mut accounts = Vec::with_capacity(statements.len());
    for piece in statements.chunks(PIECE) {
        let directory = shard.directory();
        for (_, statement) in piece {
            for (label, uses) in statement.uses() {
                let mut pools = directory.pools();
                let pool = pools.find(|pool| pool.label == label);
                let idle_servers = pool.map_or(0, |pool| pool.idle_servers_with(statement.key));
                accounts.push(StatementAccount {
                    pool: (*label).into(),
                    key: statement.key,
                    name: String::from_utf8_lossy(&text::name(statement.key)).into(),
                    text: shorten(statement.query()),
                    uses,
                    // But for the one in hand.
                    names: statement.holders() as u64,
                    idle_servers: idle_servers as u64,
                    shards: 1,
                });
            }
        }
        drop(directory);
        give_way().await;
    }
    accounts
}

/// The statements of this shard and how often each was run.
fn known(shard: &Shard) -> Vec<(u64, Rc<Statement>)> {
    let interner = shard.host.statements.borrow();
    let uses = |statement: &Statement| statement.uses().iter().map(|(_, uses)| uses).sum();
    interner
        .living()
        .map(|statement| (uses(&statement), statement))
        .collect()
}

/// Lets the other tasks of the shard have their turn.
async fn give_way() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
