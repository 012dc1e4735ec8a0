//! What the parts of one pool on different shards tell each other.
//!
//! **Owns:** the letters, and the rule of who goes first.
//! **Does not own:** when a letter is written (`part`, `permits`), how it travels (`app`).
//!
//! ```text
//!   shard with a waiter           home shard of the pool             shard with servers
//!        │ ── Want ──────────────────▶ │ ── Recall ────────────────────▶ │
//!        │                             │ ◀── Busy: kept in mind ──────── │ (home asks the next one)
//!        │ ◀── Grant: permit and server ─────────────────────────────── │ at once or at a checkin
//!        │                             │ ◀── Moved ───────────────────── │
//! ```
//!
//! Letters are never lost, but may take any time. Those of one shard to another arrive in order, apart
//! from a `Grant` with a server, which has to leave the ring first.

use std::time::{Duration, Instant};

use crate::server::credentials::LearnedKeys;
use crate::server::parameters::ParameterSet;

/// A wait this much shorter than another still counts as equal: less than moving a server costs.
pub const TOLERANCE: Duration = Duration::from_micros(100);

/// True if somebody of another shard who has waited `theirs` goes before a local one who has waited
/// `ours`. Moving a server costs about as much as a short query, so a local one goes first as long
/// as it has waited nearly as long: at least four fifths, or [`TOLERANCE`] less.
fn goes_first(theirs: Duration, ours: Duration) -> bool {
    theirs > ours + ours / 4 + TOLERANCE
}

/// How much longer than ours others must have waited before we give a server although we will be
/// the ones who wait longer then.
const UNEVEN_RATIO: u32 = 2;

/// Those of a shard who wait, and what serves them.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    /// How long the first has waited.
    pub wait: Duration,
    /// How many wait.
    pub waiters: usize,
    /// Servers that serve them.
    pub servers: usize,
}

impl Queue {
    /// True if at least as many clients a server will wait there as with us when `count` of our servers
    /// have gone to them. If not, they would soon be wanted back. How many wait tells how long they are
    /// going to wait; how long the first has waited tells only of the past, and whoever went by that alone
    /// would give too much, and then take too much back.
    fn is_evened_out_by(self, count: usize, ours: Self) -> bool {
        let left = ours.servers.saturating_sub(count);
        left > 0 && self.waiters * left >= ours.waiters * (self.servers + count)
    }
}

/// Somebody waits on a shard that cannot serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Counts the wants of this shard; one is granted once.
    pub number: u32,
    /// Since when the longest waiter waits.
    pub since: Instant,
    /// The shard's queue moves: its first has waited this long.
    pub flowing: Option<Duration>,
    /// The queue moves, and the shard has just got a server because its clients waited much longer than
    /// others. Until that has had its effect it takes only what nobody uses, or what leaves it still one short.
    pub rests: bool,
    /// How many wait.
    pub waiters: usize,
    /// The shard cannot open connections at the moment: a permit without a server is of no use.
    pub with_server: bool,
    /// Servers that the shard has already.
    pub servers: usize,
}

impl Want {
    /// How long the one who is served next has waited, as far as that counts: zero for a shard that rests.
    pub fn age(&self, now: Instant) -> Duration {
        if self.rests {
            Duration::ZERO
        } else {
            self.waited(now)
        }
    }

    fn waited(&self, now: Instant) -> Duration {
        self.flowing
            .unwrap_or_else(|| now.saturating_duration_since(self.since))
    }

    /// True if its waiter goes before the first of a shard with this queue.
    pub fn goes_first(&self, ours: Queue, now: Instant) -> bool {
        let theirs = Queue {
            wait: self.waited(now),
            waiters: self.waiters,
            servers: self.servers,
        };
        let is_uneven = || !self.rests && theirs.wait > ours.wait * UNEVEN_RATIO + TOLERANCE;
        let is_short_of = if self.rests { 2 } else { 1 };
        let is_fair =
            self.flowing.is_none() || theirs.is_evened_out_by(is_short_of, ours) || is_uneven();
        is_fair && goes_first(theirs.wait, ours.wait)
    }

    /// True if only what nobody uses is wanted.
    pub fn is_resting(&self) -> bool {
        self.rests
    }
}

/// Permits on their way to another shard, one of them perhaps with its server.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant<S> {
    /// The want that is granted; 0 = none, the permits were not needed.
    pub number: u32,
    /// How many permits.
    pub permits: usize,
    /// How many of them are to have a server even if nobody waits.
    pub kept: usize,
    /// The resizing after which `kept` was counted.
    pub sizing: u32,
    /// The server of the first permit.
    pub server: Option<S>,
    /// The server was idle when it was granted.
    pub was_idle: bool,
}

/// A letter between two parts of one pool.
#[derive(Debug, PartialEq, Eq)]
pub enum Letter<S> {
    /// To home: may this many connections be opened?
    AskOpen(usize),
    /// To home: clients have waited long; may there be this many permits beyond `pool_size`?
    AskReserve(usize),
    /// What servers of the pool report at login.
    Base(Box<ParameterSet>),
    /// What a client's proof has revealed.
    Keys(Box<LearnedKeys>),
    /// To home: nothing can be given now; the recall is kept in mind.
    Busy {
        /// Who wants it.
        to: usize,
        /// Which want.
        number: u32,
        /// The shard has servers, all in use.
        has_servers: bool,
    },
    /// To all: this pool cannot open a connection, because its database has as many as it may have.
    MakeRoom,
    /// To a pool that has said so: there may be room now.
    Room,
    /// From home: the recall for this shard's want is over.
    Forget {
        /// Who wanted it.
        to: usize,
        /// Which want.
        number: u32,
    },
    /// Permits.
    Grant(Grant<S>),
    /// Permits, or those that home knows of elsewhere, are to have servers even if nobody waits.
    Keep {
        /// How many.
        count: usize,
        /// The resizing after which they were counted.
        sizing: u32,
    },
    /// From home: this many connections may be opened.
    MayOpen(usize),
    /// To home: permits have gone to another shard.
    Moved {
        /// Where they went.
        to: usize,
        /// Which want they granted.
        number: u32,
        /// How many.
        permits: usize,
        /// One of them has its server with it.
        has_server: bool,
    },
    /// From home: no shard has a server, for a want of one.
    Nobody {
        /// Which want.
        number: u32,
    },
    /// To home: this many openings have ended, or are not needed any more.
    OpenDone(usize),
    /// From home: give a permit to that shard, at once or as soon as its waiter is first.
    Recall {
        /// Who wants it; one more than the last shard = home, to be destroyed.
        to: usize,
        /// What it wants.
        want: Want,
    },
    /// To home: a waiter cannot be served here. Replaces the shard's want before.
    Want(Want),
    /// To home: the waiter has been served, or has gone.
    Withdraw {
        /// Which want.
        number: u32,
    },
}

impl<S> Letter<S> {
    /// The letter without the server in it, and the server.
    pub fn take_server<T>(self) -> (Letter<T>, Option<S>) {
        let letter = match self {
            Self::AskOpen(count) => Letter::AskOpen(count),
            Self::AskReserve(count) => Letter::AskReserve(count),
            Self::MakeRoom => Letter::MakeRoom,
            Self::Room => Letter::Room,
            Self::Base(base) => Letter::Base(base),
            Self::Busy {
                to,
                number,
                has_servers,
            } => Letter::Busy {
                to,
                number,
                has_servers,
            },
            Self::Forget { to, number } => Letter::Forget { to, number },
            Self::Grant(grant) => {
                let without = Grant {
                    number: grant.number,
                    permits: grant.permits,
                    kept: grant.kept,
                    sizing: grant.sizing,
                    server: None,
                    was_idle: grant.was_idle,
                };
                return (Letter::Grant(without), grant.server);
            }
            Self::Keys(keys) => Letter::Keys(keys),
            Self::Keep { count, sizing } => Letter::Keep { count, sizing },
            Self::MayOpen(count) => Letter::MayOpen(count),
            Self::Moved {
                to,
                number,
                permits,
                has_server,
            } => Letter::Moved {
                to,
                number,
                permits,
                has_server,
            },
            Self::Nobody { number } => Letter::Nobody { number },
            Self::OpenDone(count) => Letter::OpenDone(count),
            Self::Recall { to, want } => Letter::Recall { to, want },
            Self::Want(want) => Letter::Want(want),
            Self::Withdraw { number } => Letter::Withdraw { number },
        };
        (letter, None)
    }

    /// The letter with this server in it, if it is one that can have one.
    #[must_use]
    pub fn with_server(mut self, server: Option<S>) -> Self {
        if let Self::Grant(grant) = &mut self {
            grant.server = server;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(wait_ms: u64, waiters: usize, servers: usize) -> Queue {
        Queue {
            wait: Duration::from_millis(wait_ms),
            waiters,
            servers,
        }
    }

    fn want(queue: Queue, rests: bool) -> Want {
        Want {
            number: 1,
            since: Instant::now(),
            flowing: Some(queue.wait),
            rests,
            waiters: queue.waiters,
            with_server: false,
            servers: queue.servers,
        }
    }

    #[test]
    fn equal_queues_share_servers_equally() {
        let now = Instant::now();
        let moves = |rests| {
            let gets = |servers: usize| {
                let theirs = want(queue(19, 250, servers), rests);
                theirs.goes_first(queue(10, 250, 10 - servers), now)
            };
            (1..10).filter(|servers| gets(*servers)).max()
        };
        assert_eq!(moves(false), Some(4), "from 4:6 to 5:5");
        assert_eq!(moves(true), Some(3), "the last one only after a rest");
    }

    #[test]
    fn who_has_waited_shorter_gets_no_server_that_is_in_use() {
        let theirs = want(queue(10, 250, 1), false);
        assert!(!theirs.goes_first(queue(10, 250, 9), Instant::now()));
    }

    #[test]
    fn twice_the_wait_goes_first_unless_the_shard_rests() {
        let now = Instant::now();
        let ours = queue(10, 250, 5);
        assert!(want(queue(21, 250, 5), false).goes_first(ours, now));
        assert!(!want(queue(21, 250, 5), true).goes_first(ours, now));
        assert!(!want(queue(19, 250, 5), false).goes_first(ours, now));
    }
}
