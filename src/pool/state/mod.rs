//! The servers of one pool on one shard: who has one, who waits, what to open and close.
//!
//! **Owns:** the idle stack, the queue of waiters, the count of what is lent and opening.
//! **Does not own:** sockets, tasks, wakers' meaning (`S` is a server, `W` wakes a waiter), time
//! (passed in).
//!
//! ```text
//!                    checkout                      checkin
//!   idle ──────────────────────────────▶ lent ──────────────────▶ first waiter, else idle
//!     ▲                                   │
//!     │ opened, nobody waits              │ discard
//!   opening ◀── a waiter and a permit ────┴──▶ gone (its permit is free)
//! ```
//!
//! **Invariants**
//! 1. `idle + granted + lent + opening <= permits`.
//! 2. A server is in exactly one place.
//! 3. Waiters are served in the order in which they came; nobody overtakes the queue.
//! 4. A granted server whose waiter has gone is given to the next one.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::error::CheckoutError;

/// What bounds a pool on this shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Server connections that this shard may hold.
    pub permits: usize,
    /// Connections that are opened even if nobody waits.
    pub servers_min: usize,
    /// Lend the longest idle server first, instead of the last used.
    pub round_robin: bool,
    /// Close a server that nobody has used for this long; zero = never.
    pub idle_timeout: Duration,
}

/// Names one wait. Stale tickets find nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    index: u32,
    round: u32,
}

/// How a wait stands.
#[derive(Debug)]
enum Wait<S, W> {
    Free,
    Queued(W),
    Granted(S),
    Failed(Rc<CheckoutError>),
}

#[derive(Debug)]
struct Waiter<S, W> {
    round: u32,
    since: Instant,
    deadline: Instant,
    wait: Wait<S, W>,
}

/// An idle server.
#[derive(Debug)]
struct Idle<S> {
    server: S,
    since: Instant,
    expires: Option<Instant>,
}

/// One pool's servers on one shard.
#[derive(Debug)]
pub struct PoolState<S, W> {
    limits: Limits,
    idle: VecDeque<Idle<S>>,
    lent: usize,
    opening: usize,
    waiters: Vec<Waiter<S, W>>,
    free: Vec<u32>,
    queue: VecDeque<Ticket>,
    queued: usize,
    /// No opening before this time: the last one failed.
    rest_until: Option<Instant>,
    /// When somebody who waited was last given a server.
    served_at: Option<Instant>,
    /// Nobody is given a server, and none is opened; who waits goes on waiting.
    is_paused: bool,
}

impl<S, W> PoolState<S, W> {
    /// An empty pool.
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            idle: VecDeque::new(),
            lent: 0,
            opening: 0,
            waiters: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            queued: 0,
            rest_until: None,
            served_at: None,
            is_paused: false,
        }
    }

    /// Servers that exist or are being opened.
    pub fn held(&self) -> usize {
        self.idle.len() + self.lent + self.opening
    }

    /// Servers that nobody uses.
    pub fn idle_count(&self) -> usize {
        self.idle.len()
    }

    /// Servers that somebody uses, or has been granted.
    pub const fn lent_count(&self) -> usize {
        self.lent
    }

    /// Connections that are being opened.
    pub const fn opening_count(&self) -> usize {
        self.opening
    }

    /// Clients that wait for a server.
    pub const fn waiting_count(&self) -> usize {
        self.queued
    }

    /// The idle servers, the one used longest ago first.
    pub fn idle_servers(&self) -> impl Iterator<Item = &S> {
        self.idle.iter().map(|idle| &idle.server)
    }

    /// Takes an idle server, unless others have waited for one before.
    pub fn checkout(&mut self) -> Option<(S, Instant)> {
        if self.queued > 0 || self.is_paused {
            return None;
        }
        let idle = if self.limits.round_robin {
            self.idle.pop_front()
        } else {
            self.idle.pop_back()
        }?;
        self.lent += 1;
        Some((idle.server, idle.since))
    }

    /// Joins the queue until `deadline`.
    pub fn wait(&mut self, waker: W, now: Instant, deadline: Instant) -> Ticket {
        let wait = Wait::Queued(waker);
        let ticket = if let Some(index) = self.free.pop() {
            let waiter = &mut self.waiters[index as usize];
            let round = waiter.round.wrapping_add(1);
            *waiter = Waiter {
                round,
                since: now,
                deadline,
                wait,
            };
            Ticket { index, round }
        } else {
            self.waiters.push(Waiter {
                round: 0,
                since: now,
                deadline,
                wait,
            });
            Ticket {
                index: (self.waiters.len() - 1) as u32,
                round: 0,
            }
        };
        self.queue.push_back(ticket);
        self.queued += 1;
        ticket
    }

    fn waiter(&mut self, ticket: Ticket) -> Option<&mut Waiter<S, W>> {
        let waiter = self.waiters.get_mut(ticket.index as usize)?;
        (waiter.round == ticket.round).then_some(waiter)
    }

    /// The end of a wait, if it has come. The ticket is void then.
    pub fn collect(&mut self, ticket: Ticket) -> Option<Result<S, Rc<CheckoutError>>> {
        let waiter = self.waiter(ticket)?;
        match std::mem::replace(&mut waiter.wait, Wait::Free) {
            Wait::Queued(waker) => {
                waiter.wait = Wait::Queued(waker);
                None
            }
            Wait::Free => None,
            Wait::Granted(server) => {
                self.free.push(ticket.index);
                Some(Ok(server))
            }
            Wait::Failed(error) => {
                self.free.push(ticket.index);
                Some(Err(error))
            }
        }
    }

    /// Replaces the waker of a wait; gives back the one to be dropped.
    pub fn rewake(&mut self, ticket: Ticket, waker: W) -> Option<W> {
        let waiter = self.waiter(ticket)?;
        match &mut waiter.wait {
            Wait::Queued(old) => Some(std::mem::replace(old, waker)),
            Wait::Free | Wait::Granted(_) | Wait::Failed(_) => Some(waker),
        }
    }

    /// Gives up a wait. A server that was granted meanwhile comes back, to be checked in.
    #[must_use = "a granted server is to be checked in"]
    pub fn cancel(&mut self, ticket: Ticket) -> (Option<S>, Option<W>) {
        let Some(waiter) = self.waiter(ticket) else {
            return (None, None);
        };
        let wait = std::mem::replace(&mut waiter.wait, Wait::Free);
        let was_queued = matches!(wait, Wait::Queued(_));
        if !matches!(wait, Wait::Free) {
            waiter.round = waiter.round.wrapping_add(1);
            self.free.push(ticket.index);
        }
        if was_queued {
            self.queued -= 1;
            self.drop_stale();
        }
        match wait {
            Wait::Granted(server) => (Some(server), None),
            Wait::Queued(waker) => (None, Some(waker)),
            Wait::Free | Wait::Failed(_) => (None, None),
        }
    }

    /// Removes tickets of ended waits: from the front at once, as many look there for the first who
    /// waits, and elsewhere when they are the larger part of the queue.
    fn drop_stale(&mut self) {
        let waiters = &self.waiters;
        let waits = |ticket: &Ticket| {
            let waiter = &waiters[ticket.index as usize];
            waiter.round == ticket.round && matches!(waiter.wait, Wait::Queued(_))
        };
        while self.queue.front().is_some_and(|first| !waits(first)) {
            self.queue.pop_front();
        }
        if self.queue.len() > 2 * self.queued + 16 {
            self.queue.retain(waits);
        }
    }

    /// The first who waits, taken out of the queue with `wait` as the end of the wait.
    fn end_first_wait(&mut self, wait: Wait<S, W>) -> Result<W, Wait<S, W>> {
        while let Some(ticket) = self.queue.pop_front() {
            let Some(waiter) = self.waiter(ticket) else {
                continue;
            };
            if !matches!(waiter.wait, Wait::Queued(_)) {
                continue;
            }
            let Wait::Queued(waker) = std::mem::replace(&mut waiter.wait, wait) else {
                unreachable!("matched above")
            };
            self.queued -= 1;
            return Ok(waker);
        }
        Err(wait)
    }

    /// Takes back a lent server that is fit for the next client. Gives the waker of the waiter who
    /// now has it, if any.
    pub fn checkin(&mut self, server: S, now: Instant, expires: Option<Instant>) -> Option<W> {
        let given = if self.is_paused {
            Err(Wait::Granted(server))
        } else {
            self.end_first_wait(Wait::Granted(server))
        };
        match given {
            Ok(waker) => {
                self.served_at = Some(now);
                Some(waker)
            }
            Err(Wait::Granted(server)) => {
                self.lent -= 1;
                self.idle.push_back(Idle {
                    server,
                    since: now,
                    expires,
                });
                None
            }
            Err(_) => None,
        }
    }

    /// A lent server has been closed.
    pub fn discard(&mut self) {
        self.lent -= 1;
    }

    /// Permits that no server uses.
    pub fn spare(&self) -> usize {
        self.limits.permits.saturating_sub(self.held())
    }

    /// How many connections should be opened now, as far as there are permits.
    pub fn openings_wanted(&mut self, now: Instant) -> usize {
        if self.is_paused || self.rest_until.is_some_and(|until| until > now) {
            return 0;
        }
        // A rest that is over is no deadline any more, whether or not something can be opened.
        self.rest_until = None;
        let missing = self.limits.servers_min.saturating_sub(self.held());
        let wanted = self.queued.saturating_sub(self.opening).max(missing);
        wanted.min(self.spare())
    }

    /// `count` connections are being opened from now on.
    pub const fn opening(&mut self, count: usize) {
        self.opening += count;
    }

    /// Clients that wait although every permit of this shard has a server or an opening.
    pub fn unserved(&self) -> usize {
        if self.is_paused {
            return 0;
        }
        self.queued.saturating_sub(self.opening + self.spare())
    }

    /// Since when the first in the queue waits.
    pub fn head(&self) -> Option<Instant> {
        self.queue.iter().find_map(|ticket| {
            let waiter = self.waiters.get(ticket.index as usize)?;
            let waits = waiter.round == ticket.round && matches!(waiter.wait, Wait::Queued(_));
            waits.then_some(waiter.since)
        })
    }

    /// True if somebody has been given a server since the first in the queue came, and there are
    /// servers: the queue moves.
    pub fn is_flowing(&self) -> bool {
        self.held() > 0 && self.head() < self.served_at
    }

    /// Since when the server that was used longest ago is idle.
    pub fn coldest_since(&self) -> Option<Instant> {
        self.idle.front().map(|idle| idle.since)
    }

    /// Takes the server that was used longest ago off this shard, with its permit.
    pub fn part_with_coldest(&mut self) -> Option<S> {
        let idle = self.idle.pop_front()?;
        self.limits.permits -= 1;
        Some(idle.server)
    }

    /// A lent server has left this shard with its permit.
    pub const fn part_with_lent(&mut self) {
        self.lent -= 1;
        self.limits.permits -= 1;
    }

    /// Gives up to `count` permits that nothing uses; how many.
    pub fn part_with_spare(&mut self, count: usize) -> usize {
        let count = count.min(self.spare());
        self.limits.permits -= count;
        count
    }

    /// Permits have come; with one of them, if `with_server`, a server, which counts as lent and is to
    /// be checked in.
    pub fn receive(&mut self, permits: usize, with_server: bool) {
        self.limits.permits += permits;
        self.lent += usize::from(with_server);
    }

    /// An opening has succeeded: the server counts as lent, to be checked in.
    pub const fn opened(&mut self) {
        self.opening -= 1;
        self.lent += 1;
        self.rest_until = None;
    }

    /// An opening has failed. The next one starts after `rest`. True if a server is left that can
    /// serve those who wait.
    pub fn open_failed(&mut self, now: Instant, rest: Duration) -> bool {
        self.opening -= 1;
        self.rest_until = Some(now + rest);
        !self.idle.is_empty() || self.lent > 0
    }

    /// Everybody who waits gets the error; their wakers.
    pub fn fail_all(&mut self, error: &Rc<CheckoutError>) -> Vec<W> {
        let mut wakers = Vec::new();
        while let Ok(waker) = self.end_first_wait(Wait::Failed(Rc::clone(error))) {
            wakers.push(waker);
        }
        wakers
    }

    /// Ends the waits whose deadline has passed; the wakers of those who waited.
    pub fn expire(&mut self, now: Instant, error: &Rc<CheckoutError>) -> Vec<W> {
        let mut wakers = Vec::new();
        if self.is_paused {
            return wakers;
        }
        while let Some(&first) = self.queue.front() {
            let due = match self.waiter(first) {
                Some(waiter) if matches!(waiter.wait, Wait::Queued(_)) => waiter.deadline <= now,
                _ => {
                    self.queue.pop_front();
                    continue;
                }
            };
            if !due {
                break;
            }
            wakers.extend(self.end_first_wait(Wait::Failed(Rc::clone(error))));
        }
        wakers
    }

    /// When [`Self::expire`] or [`Self::openings`] has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.is_paused {
            return None;
        }
        let first = self.queue.iter().find_map(|ticket| {
            let waiter = self.waiters.get(ticket.index as usize)?;
            let waits = waiter.round == ticket.round && matches!(waiter.wait, Wait::Queued(_));
            waits.then_some(waiter.deadline)
        });
        let rest = self.rest_until.filter(|_| self.queued > 0);
        first.into_iter().chain(rest).min()
    }

    /// Takes out idle servers that have been idle or alive for too long, oldest first, at most
    /// `count`.
    pub fn retire(&mut self, now: Instant, count: usize) -> Vec<S> {
        let mut retired = Vec::new();
        let mut position = 0;
        while position < self.idle.len() && retired.len() < count {
            let idle = &self.idle[position];
            let limit = self.limits.idle_timeout;
            let unused = !limit.is_zero() && now.saturating_duration_since(idle.since) >= limit;
            let spare = self.held() > self.limits.servers_min;
            if idle.expires.is_some_and(|at| at <= now) || (unused && spare) {
                retired.extend(self.idle.remove(position).map(|idle| idle.server));
            } else {
                position += 1;
            }
        }
        retired
    }

    /// Takes out the idle server that `is_it` recognises.
    pub fn remove_idle(&mut self, is_it: impl Fn(&S) -> bool) -> Option<S> {
        let position = self.idle.iter().position(|idle| is_it(&idle.server))?;
        self.idle.remove(position).map(|idle| idle.server)
    }

    /// Puts a server that [`Self::remove_idle`] took out back in its place as the coldest.
    pub fn put_back(&mut self, server: S, since: Instant, expires: Option<Instant>) {
        self.idle.push_front(Idle {
            server,
            since,
            expires,
        });
    }

    /// True if nobody is given a server at the moment.
    pub const fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Stops giving servers to clients.
    pub const fn pause(&mut self) {
        self.is_paused = true;
    }

    /// Goes on giving servers to clients. Nobody's wait ends before `deadline` for want of time: it was
    /// not theirs to use.
    pub fn resume(&mut self, deadline: Instant) {
        self.is_paused = false;
        for waiter in &mut self.waiters {
            waiter.deadline = waiter.deadline.max(deadline);
        }
    }

    /// Those who wait.
    pub fn waiting(&self) -> impl Iterator<Item = &W> {
        self.waiters.iter().filter_map(|waiter| match &waiter.wait {
            Wait::Queued(waker) => Some(waker),
            Wait::Free | Wait::Granted(_) | Wait::Failed(_) => None,
        })
    }

    /// Takes out the server that was used longest ago; its permit stays.
    pub fn take_coldest(&mut self) -> Option<S> {
        self.idle.pop_front().map(|idle| idle.server)
    }

    /// Those who have waited for at least `time`.
    pub fn waiting_longer(&self, now: Instant, time: Duration) -> usize {
        let waits_long = |waiter: &&Waiter<S, W>| {
            matches!(waiter.wait, Wait::Queued(_)) && waiter.since + time <= now
        };
        self.waiters.iter().filter(waits_long).count()
    }

    /// Openings need not wait any longer after one that has failed.
    pub const fn end_rest(&mut self) {
        self.rest_until = None;
    }

    /// Takes out all idle servers.
    pub fn drain_idle(&mut self) -> Vec<S> {
        self.idle.drain(..).map(|idle| idle.server).collect()
    }

    /// The limits.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Changes the limits. The permits must cover what is held.
    pub const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }
}

#[cfg(test)]
mod tests;
