//! How many server connections a database may have, over all its pools and all shards.
//!
//! **Owns:** the count, the rights to have a connection, and who has the next one.
//! **Does not own:** opening and closing (`pool`), telling those who wait for a right.
//!
//! ```text
//!             free, and nobody has waited longer
//!   opening ─────────────────────────────────────▶ Right ── connection gone ──▶ free again
//!      │                                                                            │
//!      └─ otherwise a claim, if clients wait ◀──── told, in the order of waiting ───┘
//! ```
//!
//! A right is a value: it lives in the connection, travels with it, and is given back wherever the
//! connection ends. The count is behind a lock that is taken when a connection is opened or closed, and
//! while somebody waits for a right. A query at most reads one flag that rarely changes.
//!
//! **Invariants**
//! 1. Rights are never more than the limit, unless the limit was lowered: then none is given out before
//!    so many have come back.
//! 2. A right that is free goes to whoever has waited longest. What is opened for nobody's sake comes
//!    last.
//! 3. Of connections that may be closed for others no more are closed than claims need.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How much longer clients of another pool must have waited than its own before a pool gives up a
/// connection: opening a new one takes about as long.
const MARGIN: Duration = Duration::from_millis(50);

/// A pool on a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimant {
    /// The shard.
    pub shard: usize,
    /// The hash of the pool's names.
    pub pool: u64,
    /// The reload that made the pool.
    pub reloads: u32,
}

#[derive(Debug)]
struct Claim {
    who: Claimant,
    since: Instant,
    count: usize,
}

#[derive(Debug, Default)]
struct Account {
    /// 0 = none.
    limit: usize,
    used: usize,
    /// Connections that are just being closed for claims.
    closing: usize,
    claims: Vec<Claim>,
}

impl Account {
    const fn limit(&self) -> usize {
        if self.limit == 0 {
            usize::MAX
        } else {
            self.limit
        }
    }

    const fn free(&self) -> usize {
        self.limit().saturating_sub(self.used)
    }

    /// Connections that have to go, beyond those that are going.
    fn missing(&self) -> usize {
        let claimed: usize = self.claims.iter().map(|claim| claim.count).sum();
        let wanted = self.used.saturating_add(claimed.min(self.limit()));
        wanted.saturating_sub(self.limit().saturating_add(self.closing))
    }
}

/// The account of one database.
#[derive(Debug, Default)]
pub struct Quota {
    account: Mutex<Account>,
    /// Somebody waits for a right, or there are too many.
    is_short: AtomicBool,
}

/// The accounts of all databases, for all shards.
#[derive(Clone, Debug, Default)]
pub struct Quotas(Arc<Mutex<HashMap<Box<str>, Weak<Quota>>>>);

impl Quotas {
    /// The account of a database.
    pub fn of(&self, database: &str) -> Arc<Quota> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(quota) = all.get(database).and_then(Weak::upgrade) {
            return quota;
        }
        all.retain(|_, quota| quota.strong_count() > 0);
        let quota = Arc::<Quota>::default();
        all.insert(database.into(), Arc::downgrade(&quota));
        quota
    }
}

/// The right to have one connection. Given back when dropped.
#[derive(Debug)]
pub struct Right(Arc<Quota>);

impl Drop for Right {
    fn drop(&mut self) {
        let mut account = self.0.account();
        account.used -= 1;
        self.0.note(&account);
    }
}

/// One connection is being closed for a claim. Over when dropped.
#[derive(Debug)]
pub struct Closing(Arc<Quota>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.account().closing -= 1;
    }
}

impl Quota {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, account: &Account) {
        let is_short = !account.claims.is_empty() || account.used > account.limit();
        self.is_short.store(is_short, Ordering::Relaxed);
    }

    /// Sets the limit; 0 = none.
    pub fn set_limit(&self, limit: usize) {
        let mut account = self.account();
        account.limit = limit;
        self.note(&account);
    }

    /// Connections that exist or are being opened.
    pub fn used(&self) -> usize {
        self.account().used
    }

    /// True if somebody waits for a right, or there are too many.
    pub fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Up to `wanted` rights. If clients wait, the first of them since `since`, there is a claim for those
    /// that are missing, which replaces an earlier one.
    pub fn take(
        self: &Arc<Self>,
        who: Claimant,
        wanted: usize,
        since: Option<Instant>,
    ) -> Vec<Right> {
        let mut account = self.account();
        account.claims.retain(|claim| claim.who != who);
        // Many wait since the same turn of a shard: without an order among them each would let the others
        // go first.
        let goes_before =
            |claim: &&Claim| since.is_none_or(|since| (claim.since, claim.who) < (since, who));
        let before = account.claims.iter().filter(goes_before);
        let claimed: usize = before.map(|claim| claim.count).sum();
        let count = wanted.min(account.free().saturating_sub(claimed));
        account.used += count;
        if let Some(since) = since.filter(|_| count < wanted) {
            account.claims.push(Claim {
                who,
                since,
                count: wanted - count,
            });
        }
        self.note(&account);
        drop(account);
        (0..count).map(|_| Right(Arc::clone(self))).collect()
    }

    /// The first of those who wait is another one now, or somebody waits again: a claim that was void
    /// is one for one connection then. `None`: nobody waits, the claim is void.
    pub fn renew(&self, who: Claimant, since: Option<Instant>) {
        let mut account = self.account();
        let claim = account.claims.iter_mut().find(|claim| claim.who == who);
        match (since, claim) {
            (None, _) => account.claims.retain(|claim| claim.who != who),
            (Some(since), Some(claim)) => claim.since = since,
            (Some(since), None) => account.claims.push(Claim {
                who,
                since,
                count: 1,
            }),
        }
        self.note(&account);
    }

    /// Whether a connection of `pool` that nobody uses at the moment is to be closed: for a claim of
    /// another pool, or because there are too many. `head`: since when the first of those waits who would
    /// get it otherwise.
    pub fn close_one(self: &Arc<Self>, pool: u64, head: Option<Instant>) -> Option<Closing> {
        let mut account = self.account();
        let is_over = account.used > account.limit().saturating_add(account.closing);
        let goes_before = |claim: &Claim| {
            let is_older = head.is_none_or(|head| claim.since + MARGIN < head);
            claim.who.pool != pool && is_older
        };
        let is_claimed = account.missing() > 0 && account.claims.iter().any(goes_before);
        if !is_over && !is_claimed {
            return None;
        }
        account.closing += 1;
        Some(Closing(Arc::clone(self)))
    }

    /// Those whose turn it is, as far as rights are free.
    pub fn next(&self) -> Vec<Claimant> {
        let mut account = self.account();
        let mut free = account.free();
        account.claims.sort_by_key(|claim| (claim.since, claim.who));
        let mut next = Vec::new();
        for claim in &account.claims {
            if free == 0 {
                break;
            }
            free = free.saturating_sub(claim.count);
            next.push(claim.who);
        }
        next
    }
}

#[cfg(test)]
mod tests;
