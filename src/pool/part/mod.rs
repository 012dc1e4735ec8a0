//! One shard's part of a pool: its servers and waiters, its permits, what it owes the other parts.
//!
//! **Owns:** the pool's state on this shard, the shard's want, the ledger if this is the home shard.
//! **Does not own:** sockets, tasks, time (passed in), how letters travel: what is to be sent lies in
//! [`Part::take_post`] after each call, what is to be closed in [`Part::take_closing`].
//!
//! `exchange` has the rules by which permits move, `reserve` those by which there are more of them. This file has what a pool does for its clients.
//!
//! **Invariants**
//! 1. For each pool: permits of all parts + permits in letters = `pool_size` + what is let out of the
//!    reserve + the debt that a smaller `pool_size` has left.
//! 2. A server exists only with a permit, and a permit moves together with its server.
//! 3. A part that has no want has no waiter that its own permits cannot serve, except for
//!    [`exchange::GRACE`].

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::error::CheckoutError;
use super::letter::{Grant, Letter, Want};
use super::permits::{Ledger, Post, part};
use super::state::{Limits, PoolState, Ticket};
use reserve::Reserve;

pub mod exchange;
pub mod reserve;

/// Where a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of this shard.
    pub here: usize,
    /// Number of shards.
    pub count: usize,
    /// The shard that keeps the ledger.
    pub home: usize,
}

/// What bounds a pool over all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Server connections.
    pub size: usize,
    /// Connections that are opened even if nobody waits.
    pub kept: usize,
    /// Connections that may be opening at once.
    pub opening_max: usize,
}

/// How idle servers are chosen and how long they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Habits {
    /// Lend the longest idle server first, instead of the last used.
    pub round_robin: bool,
    /// Close a server that nobody has used for this long; zero = never.
    pub idle_timeout: Duration,
}

/// What has happened since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Wants.
    pub wants: u64,
    /// Wants that were granted.
    pub granted: u64,
    /// Time between the two, added up.
    pub waited: Duration,
    /// Wants that an idle server of another shard has ended.
    pub beside_idle: u64,
    /// Permits of the reserve that were let out.
    pub reserve: u64,
}

/// This shard's want, as home knows it.
#[derive(Clone, Copy, Debug)]
struct OwnWant {
    want: Want,
    asked_at: Instant,
    said_at: Instant,
}

/// One shard's part of a pool.
#[derive(Debug)]
pub struct Part<S, W> {
    state: PoolState<S, W>,
    place: Place,
    sizes: Sizes,
    sizing: u32,
    /// Kept permits that came from shards which have seen a later resizing already, and which one.
    kept_early: Vec<(u32, usize)>,
    want: Option<OwnWant>,
    wants: u32,
    rests_until: Option<Instant>,
    /// Why no connection can be opened, as long as there is no server here and somebody waits.
    failing: Option<Rc<CheckoutError>>,
    /// No connection may be opened: the database has as many as it may have. Somebody waits.
    is_denied: bool,
    reserve: Reserve,
    /// Home has said once that nobody has a server.
    was_told: bool,
    /// When a server was last granted to another shard.
    server_sent_at: Option<Instant>,
    /// The want of another shard to be granted when it can be.
    recall: Option<(usize, Want)>,
    /// The number of the last want of each shard that was granted from here.
    granted: Vec<u32>,
    may_open: usize,
    open_asked: usize,
    spare_before: usize,
    ledger: Option<Ledger>,
    post: Post<S>,
    closing: Vec<S>,
    /// Servers of another process that get the next permits.
    arrivals: Vec<(S, Option<Instant>, bool)>,
    /// Of those, lent ones that have got one.
    lent_out: Vec<S>,
    wakers: Vec<W>,
    review_at: Option<Instant>,
    tally: Tally,
}

impl<S, W> Part<S, W> {
    /// The part of a new pool, with its share of the permits.
    pub fn new(place: Place, sizes: Sizes, habits: Habits, sizing: u32) -> Self {
        let Place { here, count, home } = place;
        let share = |whole| part(whole, here, count, home);
        let limits = Limits {
            permits: share(sizes.size),
            servers_min: share(sizes.kept.min(sizes.size)),
            round_robin: habits.round_robin,
            idle_timeout: habits.idle_timeout,
        };
        let is_home = here == home;
        Self {
            state: PoolState::new(limits),
            place,
            sizes,
            sizing,
            kept_early: Vec::new(),
            want: None,
            wants: 0,
            rests_until: None,
            failing: None,
            is_denied: false,
            reserve: Reserve::default(),
            was_told: false,
            server_sent_at: None,
            recall: None,
            granted: vec![0; count],
            may_open: 0,
            open_asked: 0,
            spare_before: 0,
            ledger: is_home.then(|| Ledger::new(sizes.size, count, home, sizes.opening_max)),
            post: Vec::new(),
            closing: Vec::new(),
            arrivals: Vec::new(),
            lent_out: Vec::new(),
            wakers: Vec::new(),
            review_at: None,
            tally: Tally::default(),
        }
    }

    /// The servers and waiters.
    pub const fn state(&self) -> &PoolState<S, W> {
        &self.state
    }

    /// Permits of this shard.
    pub const fn permits(&self) -> usize {
        self.state.limits().permits
    }

    /// Of those, permits that are to have a server even if nobody waits.
    pub const fn kept(&self) -> usize {
        self.state.limits().servers_min
    }

    /// Permits that exist beyond `pool_size` because it was larger before; known at home.
    pub fn debt(&self) -> usize {
        self.ledger.as_ref().map_or(0, Ledger::debt)
    }

    /// Letters to be sent, in order.
    pub fn take_post(&mut self) -> Post<S> {
        std::mem::take(&mut self.post)
    }

    /// Servers to be closed. They are no servers of the pool any more.
    pub fn take_closing(&mut self) -> Vec<S> {
        std::mem::take(&mut self.closing)
    }

    /// How many servers are to be closed.
    pub const fn closing_count(&self) -> usize {
        self.closing.len()
    }

    /// Those whose wait a letter has ended.
    pub fn take_wakers(&mut self) -> Vec<W> {
        std::mem::take(&mut self.wakers)
    }

    /// True if there is something to take.
    pub const fn has_effects(&self) -> bool {
        let has_let_out = self.tally.reserve > 0 || !self.lent_out.is_empty();
        !self.post.is_empty() || !self.closing.is_empty() || !self.wakers.is_empty() || has_let_out
    }

    /// The want that is open.
    pub fn want(&self) -> Option<Want> {
        self.want.map(|own| own.want)
    }

    /// The want of another shard that is kept in mind, and that shard.
    pub const fn recall(&self) -> Option<(usize, Want)> {
        self.recall
    }

    /// How many permits each shard has, as far as home knows; known at home.
    pub fn known_permits(&self) -> Option<&[isize]> {
        self.ledger.as_ref().map(Ledger::holds)
    }

    /// True if nothing of this part is under way: no want, no recall, no opening asked for.
    pub fn is_at_rest(&self) -> bool {
        let is_ledger_at_rest = self.ledger.as_ref().is_none_or(Ledger::is_at_rest);
        let opens = self.may_open + self.open_asked > 0;
        self.want.is_none() && self.recall.is_none() && !opens && is_ledger_at_rest
    }

    /// When [`Part::review`] is to be called.
    pub const fn review_at(&self) -> Option<Instant> {
        self.review_at
    }

    /// What has happened since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Takes an idle server, unless others have waited for one before.
    pub fn checkout(&mut self) -> Option<(S, Instant)> {
        self.state.checkout()
    }

    /// Joins the queue until `deadline`.
    pub fn wait(&mut self, waker: W, now: Instant, deadline: Instant) -> Ticket {
        let ticket = self.state.wait(waker, now, deadline);
        // Who joins a queue changes nothing for those before it.
        if self.state.waiting_count() == 1 || self.want.is_none() {
            self.review(now);
        }
        ticket
    }

    /// The end of a wait, if it has come. The ticket is void then.
    pub fn collect(&mut self, ticket: Ticket) -> Option<Result<S, Rc<CheckoutError>>> {
        self.state.collect(ticket)
    }

    /// Replaces the waker of a wait; gives back the one to be dropped.
    pub fn rewake(&mut self, ticket: Ticket, waker: W) -> Option<W> {
        self.state.rewake(ticket, waker)
    }

    /// Gives up a wait. A server that was granted meanwhile comes back, to be checked in.
    #[must_use = "a granted server is to be checked in"]
    pub fn cancel(&mut self, ticket: Ticket, now: Instant) -> (Option<S>, Option<W>) {
        let ended = self.state.cancel(ticket);
        self.review(now);
        ended
    }

    /// Takes back a lent server that is fit for the next client, whoever that is. Gives the waker of
    /// the local one who now has it, if any.
    pub fn checkin(&mut self, server: S, now: Instant, expires: Option<Instant>) -> Option<W> {
        let server = self.give_lent(server, now)?;
        let waker = self.state.checkin(server, now, expires);
        if self.want.is_some() || self.recall.is_some() {
            self.review(now);
        }
        waker
    }

    /// A lent server has been closed.
    pub fn discard(&mut self, now: Instant) {
        self.state.discard();
        self.review(now);
    }

    /// How many connections to start opening now. They count as opening from this call on.
    pub fn openings(&mut self, now: Instant) -> usize {
        let wanted = self.state.openings_wanted(now);
        let known = self.may_open + self.open_asked;
        if wanted > known {
            let count = wanted - known;
            self.open_asked += count;
            self.send(self.place.home, Letter::AskOpen(count));
            self.deliver(now);
        }
        let count = wanted.min(self.may_open);
        self.may_open -= count;
        self.state.opening(count);
        self.is_denied &= count == 0;
        // At home the ledger may answer with the next one that was asked for.
        while self.may_open > 0 {
            let unused = std::mem::take(&mut self.may_open);
            self.send(self.place.home, Letter::OpenDone(unused));
            self.deliver(now);
        }
        count
    }

    /// An opening has succeeded: the server counts as lent, to be checked in.
    pub fn opened(&mut self, now: Instant) {
        self.state.opened();
        self.failing = None;
        self.send(self.place.home, Letter::OpenDone(1));
        self.deliver(now);
    }

    /// An opening has failed. The next one starts after `rest`. If no server is left on any shard that
    /// could serve them, everybody who waits here gets the error: at once and with their wakers
    /// returned if there is no other shard, else as soon as home has asked around.
    pub fn open_failed(
        &mut self,
        error: &Rc<CheckoutError>,
        now: Instant,
        rest: Duration,
    ) -> Vec<W> {
        let mut wakers = Vec::new();
        if self.state.open_failed(now, rest) || self.state.is_paused() {
            self.failing = None;
        } else if self.place.count == 1 {
            wakers = self.state.fail_all(error);
        } else {
            self.failing = Some(Rc::clone(error));
            // Whatever home has heard for an earlier want may have changed.
            self.withdraw();
        }
        self.send(self.place.home, Letter::OpenDone(1));
        self.review(now);
        wakers
    }

    /// Ends the waits whose deadline has passed; the wakers of those who waited.
    pub fn expire(&mut self, now: Instant, error: &Rc<CheckoutError>) -> Vec<W> {
        let wakers = self.state.expire(now, error);
        if !wakers.is_empty() {
            self.review(now);
        }
        wakers
    }

    /// Takes out idle servers that have been idle or alive for too long, oldest first, at most
    /// `count`.
    pub fn retire(&mut self, now: Instant, count: usize) -> Vec<S> {
        self.state.retire(now, count)
    }

    /// Takes out the idle server that `is_it` recognises.
    pub fn remove_idle(&mut self, is_it: impl Fn(&S) -> bool) -> Option<S> {
        self.state.remove_idle(is_it)
    }

    /// Puts a server that [`Self::remove_idle`] took out back in its place as the coldest.
    pub fn put_back(&mut self, server: S, since: Instant, expires: Option<Instant>) {
        self.state.put_back(server, since, expires);
    }

    /// Takes out all idle servers.
    pub fn drain_idle(&mut self) -> Vec<S> {
        self.state.drain_idle()
    }

    /// Cuts the part off from the others: the pool is not configured any more, but clients that
    /// logged in before are still served. It keeps its permits, at least one.
    pub fn go_alone(&mut self, now: Instant) {
        let permits = self.permits().max(1);
        self.state.set_limits(Limits {
            permits,
            servers_min: 0,
            ..*self.state.limits()
        });
        self.place = Place {
            here: 0,
            count: 1,
            home: 0,
        };
        self.ledger = Some(Ledger::new(permits, 1, 0, self.sizes.opening_max));
        (self.want, self.recall, self.open_asked) = (None, None, 0);
        self.reserve = Reserve::default();
        self.post.clear();
        self.review(now);
    }

    /// Stops giving servers to clients: who waits goes on waiting.
    pub fn pause(&mut self, now: Instant) {
        self.state.pause();
        self.failing = None;
        self.review(now);
    }

    /// Goes on giving servers to clients. No wait ends before `deadline` for want of time.
    pub fn resume(&mut self, now: Instant, deadline: Instant) {
        self.state.resume(deadline);
        self.review(now);
    }

    /// Changes how idle servers are chosen and kept.
    pub fn set_habits(&mut self, habits: Habits) {
        let Habits {
            round_robin,
            idle_timeout,
        } = habits;
        self.state.set_limits(Limits {
            round_robin,
            idle_timeout,
            ..*self.state.limits()
        });
    }

    /// Changes the sizes. To be called on every shard; `sizing` counts the calls.
    pub fn resize(&mut self, sizes: Sizes, sizing: u32, now: Instant) {
        let Place { here, count, home } = self.place;
        let before = std::mem::replace(&mut self.sizes, sizes);
        let kept = part(sizes.kept.min(sizes.size), here, count, home);
        self.sizing = sizing;
        let early = self
            .kept_early
            .extract_if(.., |(of, _)| is_not_later(*of, sizing));
        let early = early.filter(|(of, _)| *of == sizing).map(|(_, kept)| kept);
        let early: usize = early.sum();
        self.set_kept(kept + early);
        if let Some(ledger) = &mut self.ledger {
            ledger.set_opening_max(sizes.opening_max, &mut self.post);
            if sizes.size >= before.size {
                let more = sizes.size - before.size;
                let new = ledger.forgive(home, more, now, &mut self.post);
                let left = self.admit(new, now);
                self.state.receive(left, false);
            } else {
                ledger.owe(before.size - sizes.size, now, &mut self.post);
            }
        }
        // There is no room for them.
        let arrivals = self.arrivals.drain(..).map(|(server, ..)| server);
        self.closing.extend(arrivals);
        self.review(now);
    }

    /// Gives permits that have not been needed since the last call back to home, and what is to be
    /// kept without a permit for it to another shard. To be called about once a second.
    pub fn settle(&mut self, now: Instant) {
        self.settle_reserve(now);
        self.pass_kept_on();
        let spare = self.extra();
        let unneeded = spare.min(std::mem::replace(&mut self.spare_before, spare));
        if self.place.here == self.place.home || unneeded == 0 {
            self.deliver(now);
            return;
        }
        let permits = self.state.part_with_spare(unneeded);
        self.spare_before -= permits;
        self.send_permits(self.place.home, (0, permits), None, false);
        self.deliver(now);
    }

    /// What is to be kept here beyond the permits of this shard goes home, and from home to one shard
    /// after the other until it finds permits.
    fn pass_kept_on(&mut self) {
        let count = self.kept().saturating_sub(self.permits());
        if count == 0 {
            return;
        }
        let next = match &mut self.ledger {
            None => Some(self.place.home),
            Some(ledger) => ledger.next_holder(self.place.home),
        };
        if let Some(next) = next {
            self.set_kept(self.kept() - count);
            let sizing = self.sizing;
            self.send(next, Letter::Keep { count, sizing });
        }
    }

    fn set_kept(&mut self, servers_min: usize) {
        self.state.set_limits(Limits {
            servers_min,
            ..*self.state.limits()
        });
    }

    /// Permits without a server that no waiter needs. A waiter of another shard goes before the
    /// minimum.
    fn unclaimed(&self) -> usize {
        let state = &self.state;
        let opening = state.held() - state.idle_count() - state.lent_count();
        let waiting = state.waiting_count().saturating_sub(opening);
        state.spare().saturating_sub(waiting)
    }

    /// Permits that neither a waiter nor the minimum needs.
    fn extra(&self) -> usize {
        let missing = self.kept().saturating_sub(self.state.held());
        self.unclaimed()
            .min(self.state.spare().saturating_sub(missing))
    }

    fn send(&mut self, to: usize, letter: Letter<S>) {
        self.post.push((to, letter));
    }

    /// Writes a grant. The permits have been taken off this shard.
    fn send_permits(
        &mut self,
        to: usize,
        (number, permits): (u32, usize),
        server: Option<S>,
        was_idle: bool,
    ) {
        let kept = self.kept().saturating_sub(self.permits());
        self.set_kept(self.kept() - kept);
        let has_server = server.is_some();
        let grant = Grant {
            number,
            permits,
            kept,
            sizing: self.sizing,
            server,
            was_idle,
        };
        self.send(to, Letter::Grant(grant));
        if to != self.place.home {
            let moved = Letter::Moved {
                to,
                number,
                permits,
                has_server,
            };
            self.send(self.place.home, moved);
        }
    }
}

/// True unless resizing `one` comes after `other`.
const fn is_not_later(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() <= 0
}

#[cfg(test)]
mod tests;
