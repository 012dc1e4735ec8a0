//! Clients that take longer than they may.
//!
//! **Owns:** looking for them, what becomes of them and what they are told.
//! **Does not own:** when a client began what it does (`card`), the limits (`config::limits`), the limits
//! of a login (`login`) and of a wait for a server (`pool::state`).
//!
//! ```text
//!              the scan of the shard: its time is over
//!   client ───────────────────────────────────────────▶ summoned
//!     ▲                                                     │ its own next step
//!     ├──── something has happened meanwhile ───────────────┤
//!     └──── ...                                             └──▶ told why, closed
//! ```
//!
//! A message costs nothing for this: what a client began when is on its card anyhow. A task a shard looks
//! at all cards when the first of them may be late, and in between not at all.
//!
//! **Invariants**
//! 1. Nobody is closed early, and nobody who waits for a server: that wait has a limit of its own, which
//!    does not run while the pool is paused.
//! 2. A statement that runs for nobody any more is cancelled, and its connection closed; a transaction
//!    that nobody goes on with is rolled back.
//!
//! Source: PostgreSQL documentation, `runtime-config-client.html`, "Statement Behavior".

use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use shards::sleep_until;

use crate::config::Limits;
use crate::metrics::{Enrolled, ShardMetrics};
use crate::protocol::sqlstate::{self, SqlState};

use super::card::{Belongs, ClientCard, ClientState};
use super::client::{Phase, Session, Step};
use super::report::Failure;
use super::shard::Shard;

/// The longest pause between two looks at the configuration.
const PERIOD: Duration = Duration::from_secs(1);
/// The shortest pause between two scans; for limits of some seconds it is longer.
const REST_MIN: Duration = Duration::from_millis(10);
/// Part of the shortest limit by which a client may be closed late.
const LATENESS: u32 = 8;
/// Clients that are looked at before others get their turn.
const PAGE: usize = 256;

/// What takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overtime {
    /// Silence outside of a transaction.
    Idle,
    /// Silence in a transaction.
    IdleTransaction,
    /// A query.
    Query,
    /// A transaction.
    Transaction,
    /// A row on its way to the client.
    Row,
}

impl Overtime {
    /// SQLSTATE and text, as PostgreSQL has them.
    const fn words(self) -> (SqlState, &'static str) {
        match self {
            Self::Idle => (
                sqlstate::IDLE_SESSION_TIMEOUT,
                "terminating connection due to idle-session timeout",
            ),
            Self::IdleTransaction => (
                sqlstate::IDLE_IN_TRANSACTION_TIMEOUT,
                "terminating connection due to idle-in-transaction timeout",
            ),
            Self::Query => (
                sqlstate::QUERY_CANCELED,
                "terminating connection due to query timeout",
            ),
            Self::Transaction => (
                sqlstate::TRANSACTION_TIMEOUT,
                "terminating connection due to transaction timeout",
            ),
            Self::Row => (
                sqlstate::QUERY_CANCELED,
                "terminating connection because a row took longer than proxy_copy_data_timeout",
            ),
        }
    }

    fn count(self, metrics: &ShardMetrics) {
        match self {
            Self::Idle => &metrics.timeouts_idle,
            Self::IdleTransaction => &metrics.timeouts_idle_transaction,
            Self::Query => &metrics.timeouts_query,
            Self::Transaction => &metrics.timeouts_transaction,
            Self::Row => &metrics.timeouts_row,
        }
        .add(1);
    }

    /// True if the client does nothing.
    const fn is_silence(self) -> bool {
        matches!(self, Self::Idle | Self::IdleTransaction)
    }
}

impl ClientCard {
    /// When the client is late if it goes on with what it does, as `Fleet::micros` has it, and with what.
    pub fn deadline(&self, limits: &Limits) -> Option<(u64, Overtime)> {
        let times = self.times();
        let idle = (times.rests, limits.client_idle_timeout, Overtime::Idle);
        let idle_transaction = (
            times.rests,
            limits.idle_transaction_timeout,
            Overtime::IdleTransaction,
        );
        let transaction = |since| (since, limits.transaction_timeout, Overtime::Transaction);
        let query = (times.query, limits.query_timeout, Overtime::Query);
        let row = (times.row, limits.proxy_copy_data_timeout, Overtime::Row);
        let candidates = match self.state() {
            ClientState::Waiting => return None,
            ClientState::Idle if times.begun > 0 => [idle_transaction, transaction(times.begun)],
            ClientState::Active if times.query > 0 => [query, transaction(times.transaction)],
            ClientState::Active if times.transaction > 0 => {
                [idle_transaction, transaction(times.transaction)]
            }
            ClientState::Idle | ClientState::Active => [idle, idle],
        };
        candidates
            .into_iter()
            .chain([row])
            .filter(|(since, limit, _)| *since > 0 && !limit.is_zero())
            .map(|(since, limit, what)| (since.saturating_add(micros(limit)), what))
            .min_by_key(|(at, _)| *at)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Session {
    /// The shard has found this client late. `None` if it is not, or not any more.
    pub(super) fn overtime(&mut self) -> Option<Step> {
        let directory = self.shard.directory();
        let key = &self.pool.key;
        let tenant = directory.tenant(&key.database, &key.user)?;
        let (at, what) = self.card.deadline(&tenant.limits)?;
        let is_bound = matches!(self.phase, Phase::Idle | Phase::Serving(_));
        if !is_bound || at > self.shard.fleet.micros(shards::now()) {
            return None;
        }
        // Who has not taken the whole answer is not silent: it is slow.
        if what.is_silence() && self.client.queued_bytes() > 0 {
            self.card.note_rest();
            return None;
        }
        what.count(self.shard.metrics());
        let (sqlstate, text) = what.words();
        let key = &self.pool.key;
        tracing::info!(pool = %key.database, user = %key.user, sqlstate, "client closed: {text}");
        Some(self.dismiss(&Failure::new(sqlstate, text)))
    }
}

/// Looks for clients that are late as long as the shard runs.
pub async fn watch(shard: Rc<Shard>) {
    let mut due = shards::now();
    let mut reloads = shard.host.reloads();
    loop {
        let now = shards::now();
        if due <= now || reloads != shard.host.reloads() {
            reloads = shard.host.reloads();
            due = look(&shard, now).await;
        }
        sleep_until(due.min(now + PERIOD)).await;
    }
}

/// Summons those who are late; returns when to look again.
async fn look(shard: &Shard, now: Instant) -> Instant {
    let Some(shortest) = shortest(shard) else {
        // Until a reload.
        return now + PERIOD * 3600;
    };
    let rest = (shortest / LATENESS).clamp(REST_MIN, PERIOD);
    let now_us = shard.fleet.micros(now);
    let mut first = now_us.saturating_add(micros(shortest));
    let mut known = HashMap::new();
    let mut place = Some(0);
    while let Some(from) = place {
        let (cards, next) = shard.roster.page(from, PAGE);
        for card in &cards {
            let Some((at, _)) = deadline(shard, &mut known, card) else {
                continue;
            };
            if at <= now_us {
                card.summon();
                shards::wake(card.stream);
            }
            first = first.min(at);
        }
        place = next;
        if place.is_some() {
            give_way().await;
        }
    }
    let left = Duration::from_micros(first.saturating_sub(now_us));
    now + left.max(rest)
}

/// The shortest limit that any pool has.
fn shortest(shard: &Shard) -> Option<Duration> {
    let directory = shard.directory();
    let times = directory.tenants().flat_map(|tenant| {
        let limits = &tenant.limits;
        [
            limits.client_idle_timeout,
            limits.idle_transaction_timeout,
            limits.query_timeout,
            limits.transaction_timeout,
            limits.proxy_copy_data_timeout,
        ]
    });
    times.filter(|time| !time.is_zero()).min()
}

/// Limits of pools that were looked up before.
type Known = HashMap<*const Enrolled, Option<Limits>>;

fn deadline(shard: &Shard, known: &mut Known, card: &ClientCard) -> Option<(u64, Overtime)> {
    let Belongs::Pool(pool) = &card.belongs else {
        return None;
    };
    let look_up = || {
        let directory = shard.directory();
        let tenant = directory.tenant(&pool.database, &pool.user);
        tenant.map(|tenant| tenant.limits)
    };
    let limits = *known.entry(Rc::as_ptr(pool)).or_insert_with(look_up);
    card.deadline(&limits?)
}

/// Lets the other tasks run.
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
