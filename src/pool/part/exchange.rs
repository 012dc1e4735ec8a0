//! How permits move between the parts of a pool.
//!
//! **Owns:** when a shard wants a permit, when it grants one, what home does with letters.
//! **Does not own:** the ledger's choice of whom to ask (`permits`), the letters (`letter`).
//!
//! ```text
//!              a waiter that own permits cannot serve,
//!              for GRACE if the shard has servers            Grant
//!   content ────────────────────────────────────▶ wanting ─────────▶ content, or wants again
//!      ▲                                            │ │
//!      └──────── served by a checkin, or gone ──────┘ └─ every PULSE, if its queue moves: says how
//!                (Withdraw)                               long its waiters wait now
//! ```
//!
//! A shard whose own queue moves wants a permit only for balance: waiters of all shards should wait
//! about equally long. It says how long that is, not since when, as its first waiter is another one
//! each time, and how many there are. A server of a busy shard goes there if that evens out how many wait
//! for each server, or if clients there have waited much longer; after it has got one the shard rests until
//! that has had its effect, and takes meanwhile only what nobody uses or what leaves it still one short.
//!
//! **Against ping-pong.** A server that was used a moment ago stays for the shard's own clients
//! ([`HOT`]) unless the waiter elsewhere has waited longer than such a moment; a shard that has
//! servers waits for one of them a moment itself ([`GRACE`]); and nobody gives a server away for a
//! waiter that has waited hardly longer than its own, or if it would then be the one in need
//! ([`Want::goes_first`]).

use std::time::{Duration, Instant};

use super::super::letter::{Grant, Letter, Queue, Want};
use super::super::permits::{DEBT, is_recent};
use super::{OwnWant, Part, is_not_later};

/// How long the first waiter waits for a server of its own shard before another shard is asked:
/// about what moving a server takes.
pub const GRACE: Duration = Duration::from_micros(200);
/// A server that was used less than this ago is likely to be used again at once: the low-water mark
/// is a time, not a number.
pub const HOT: Duration = Duration::from_micros(200);
/// A waiter that has waited this long gets a hot server, too.
const HOT_WAIT_MAX: Duration = Duration::from_micros(400);
/// How often a shard whose queue moves says how long its waiters wait.
pub const PULSE: Duration = Duration::from_millis(10);

impl<S, W> Part<S, W> {
    /// Does what is due: wants, withdraws, grants. To be called at [`Part::review_at`].
    pub fn review(&mut self, now: Instant) {
        self.review_at = None;
        // First: what it takes may be what a waiter here was to get.
        self.settle_debt(now);
        if self.place.count > 1 {
            self.review_want(now);
            if self.recall.is_some() {
                self.grant_recall(now);
            }
        }
        self.deliver(now);
    }

    fn review_by(&mut self, at: Instant) {
        self.review_at = Some(self.review_at.map_or(at, |before| before.min(at)));
    }

    fn review_want(&mut self, now: Instant) {
        if self.state.held() > self.state.opening_count() || self.state.waiting_count() == 0 {
            self.failing = None;
            self.was_told = false;
        }
        // A permit that no connection can be opened for serves nobody.
        let is_short = self.cannot_open() || self.state.unserved() > 0;
        match (self.state.head().filter(|_| is_short), self.want) {
            (None, None) => {}
            (None, Some(_)) => self.withdraw(),
            (Some(first), None) => self.want_when_due(first, now),
            (Some(first), Some(own)) => self.keep_wanting(first, own, now),
        }
    }

    /// True if a permit without a server serves nobody here.
    fn cannot_open(&self) -> bool {
        self.failing.is_some() || self.is_denied()
    }

    pub(super) fn withdraw(&mut self) {
        if let Some(own) = self.want.take() {
            let number = own.want.number;
            self.send(self.place.home, Letter::Withdraw { number });
        }
    }

    fn want_when_due(&mut self, first: Instant, now: Instant) {
        let grace = if self.state.held() == 0 {
            Duration::ZERO
        } else {
            GRACE
        };
        let due = first + grace;
        if due > now {
            self.review_by(due);
            return;
        }
        // Numbers go round; 0 and those of debts are left out.
        self.wants = (self.wants + 1) & !DEBT;
        self.wants = self.wants.max(1);
        self.tally.wants += 1;
        self.say_want(self.wants, first, now, now);
    }

    fn say_want(&mut self, number: u32, first: Instant, asked_at: Instant, now: Instant) {
        let waited = now.saturating_duration_since(first);
        let is_flowing = self.state.is_flowing();
        let rests = self.rests_until.is_some_and(|until| until > now);
        let want = Want {
            number,
            since: first,
            flowing: is_flowing.then_some(waited),
            rests: is_flowing && rests,
            waiters: self.state.waiting_count(),
            with_server: self.cannot_open(),
            servers: self.state.held(),
        };
        self.want = Some(OwnWant {
            want,
            asked_at,
            said_at: now,
        });
        if want.flowing.is_some() {
            self.review_by(now + PULSE);
        }
        self.send(self.place.home, Letter::Want(want));
    }

    /// Tells home again if what it knows of the want has become wrong.
    fn keep_wanting(&mut self, first: Instant, own: OwnWant, now: Instant) {
        let has_changed = own.want.flowing.is_some() != self.state.is_flowing()
            || own.want.with_server != self.cannot_open();
        let due = own.said_at + PULSE;
        if has_changed || (own.want.flowing.is_some() && due <= now) {
            self.say_want(own.want.number, first, own.asked_at, now);
        } else if own.want.flowing.is_some() {
            self.review_by(due);
        }
    }

    /// Grants the recall with what nobody here uses, if there is something.
    fn grant_recall(&mut self, now: Instant) -> bool {
        let Some((to, want)) = self.recall else {
            return false;
        };
        let is_debt = want.number & DEBT != 0;
        let Some(idle_since) = self.state.coldest_since() else {
            return !want.with_server && self.unclaimed() > 0 && self.grant_spare(to, want, now);
        };
        if is_debt && self.unclaimed() > 0 {
            return self.grant_spare(to, want, now);
        }
        let cold_at = idle_since + HOT;
        let age = want.age(now);
        if cold_at > now && age < HOT_WAIT_MAX {
            let waited_at = match want.flowing {
                None => want.since + HOT_WAIT_MAX,
                Some(_) => cold_at,
            };
            self.review_by(cold_at.min(waited_at));
            return false;
        }
        let Some(server) = self.state.part_with_coldest() else {
            return false;
        };
        self.grant((to, want), Some(server), true, now);
        true
    }

    fn grant_spare(&mut self, to: usize, want: Want, now: Instant) -> bool {
        let permits = self.state.part_with_spare(1);
        if permits > 0 {
            self.grant((to, want), None, false, now);
        }
        permits > 0
    }

    /// Grants `want` with one permit, which has been taken off this shard. For a debt the server is
    /// closed: only the permit goes home.
    fn grant(
        &mut self,
        (to, want): (usize, Want),
        server: Option<S>,
        was_idle: bool,
        now: Instant,
    ) {
        self.recall = None;
        if want.number & DEBT != 0 {
            self.closing.extend(server);
            self.send_permits(self.place.home, (want.number, 1), None, false);
        } else {
            self.granted[to] = want.number;
            if server.is_some() {
                self.server_sent_at = Some(now);
            }
            self.send_permits(to, (want.number, 1), server, was_idle);
        }
    }

    /// Gives a lent server that comes back to another shard whose waiter is first. Gives it back if
    /// it stays here.
    pub(super) fn give_lent(&mut self, server: S, now: Instant) -> Option<S> {
        let Some((to, want)) = self.recall else {
            return Some(server);
        };
        let is_theirs = match self.state.head() {
            Some(first) => {
                let ours = Queue {
                    wait: now.saturating_duration_since(first),
                    waiters: self.state.waiting_count(),
                    servers: self.state.held(),
                };
                want.goes_first(ours, now)
            }
            None => want.age(now) >= HOT_WAIT_MAX,
        };
        if !is_theirs {
            return Some(server);
        }
        self.state.part_with_lent();
        self.grant((to, want), Some(server), false, now);
        self.review(now);
        None
    }

    /// Takes a letter of the part on shard `from`. `expires` is the end of the life of the server in
    /// it, if there is one.
    pub fn receive(
        &mut self,
        from: usize,
        letter: Letter<S>,
        expires: Option<Instant>,
        now: Instant,
    ) {
        self.handle(from, letter, expires, now);
        self.review(now);
    }

    /// Handles letters of this part to itself: those between home and the shard that is home.
    pub(super) fn deliver(&mut self, now: Instant) {
        let here = self.place.here;
        while let Some(position) = self.post.iter().position(|(to, _)| *to == here) {
            let (_, letter) = self.post.remove(position);
            self.handle(here, letter, None, now);
        }
    }

    fn handle(&mut self, from: usize, letter: Letter<S>, expires: Option<Instant>, now: Instant) {
        match letter {
            Letter::Grant(grant) => self.receive_grant(from, grant, expires, now),
            Letter::Keep { count, sizing } => self.receive_kept(count, sizing),
            Letter::MayOpen(count) => {
                self.may_open += count;
                self.open_asked = self.open_asked.saturating_sub(count);
            }
            Letter::Nobody { number } => self.give_up(number, now),
            Letter::AskReserve(count) => self.let_out(count, now),
            // The pool itself reads these.
            Letter::MakeRoom | Letter::Room => {}
            Letter::Recall { to, want } => self.receive_recall(to, want, now),
            Letter::Forget { to, number } => {
                if self
                    .recall
                    .is_some_and(|(other, want)| (other, want.number) == (to, number))
                {
                    self.recall = None;
                }
            }
            letter => self.tell_ledger(from, &letter, now),
        }
    }

    fn tell_ledger(&mut self, from: usize, letter: &Letter<S>, now: Instant) {
        let (Some(ledger), post) = (&mut self.ledger, &mut self.post) else {
            return;
        };
        match *letter {
            Letter::AskOpen(count) => ledger.ask_open(from, count, post),
            Letter::OpenDone(count) => ledger.open_done(count, post),
            Letter::Busy {
                to,
                number,
                has_servers,
            } => ledger.busy(from, (to, number, has_servers), now, post),
            Letter::Want(want) => ledger.want(from, want, now, post),
            Letter::Withdraw { number } => ledger.withdraw(from, number, now, post),
            Letter::Moved {
                to,
                number,
                permits,
                has_server,
            } => {
                if has_server {
                    ledger.note_server_under_way(now);
                }
                ledger.moved((from, to), (number, permits), now, post);
            }
            Letter::AskReserve(_)
            | Letter::Base(_)
            | Letter::Keys(_)
            | Letter::Grant(_)
            | Letter::MakeRoom
            | Letter::Room
            | Letter::Keep { .. }
            | Letter::MayOpen(_)
            | Letter::Nobody { .. }
            | Letter::Recall { .. }
            | Letter::Forget { .. } => {}
        }
    }

    /// No shard has a server, and none can be opened: whoever waits is told why.
    fn give_up(&mut self, number: u32, now: Instant) {
        let is_meant = self.want.is_some_and(|own| own.want.number == number);
        // A server that is between two shards is at none of them: asked again after the rest, somebody
        // has it.
        if is_meant && !std::mem::replace(&mut self.was_told, true) {
            return;
        }
        if let Some(error) = self.failing.take_if(|_| is_meant) {
            let wakers = self.state.fail_all(&error);
            self.wakers.extend(wakers);
            // Permits that were theirs are nobody's now.
            self.grant_recall(now);
        }
    }

    fn receive_recall(&mut self, to: usize, want: Want, now: Instant) {
        // Home did not know yet that it has been granted when it wrote this. It goes by what it has
        // sent last: whatever was kept in mind before is so no more.
        if self.granted.get(to) == Some(&want.number) {
            self.recall = None;
            return;
        }
        let is_reminder = self
            .recall
            .is_some_and(|(other, known)| (other, known.number) == (to, want.number));
        self.recall = Some((to, want));
        if !self.grant_recall(now) && !is_reminder {
            let busy = Letter::Busy {
                to,
                number: want.number,
                has_servers: self.state.held() > self.state.opening_count()
                    || is_recent(self.server_sent_at, now),
            };
            self.send(self.place.home, busy);
        }
    }

    fn receive_grant(
        &mut self,
        from: usize,
        grant: Grant<S>,
        expires: Option<Instant>,
        now: Instant,
    ) {
        self.state.receive(grant.permits, grant.server.is_some());
        self.receive_kept(grant.kept, grant.sizing);
        // Before the ledger hears of it, which asks the next one if there still is a debt.
        self.settle_debt(now);
        if let Some(ledger) = &mut self.ledger {
            let moved = (grant.number, grant.permits);
            ledger.moved((from, self.place.here), moved, now, &mut self.post);
        }
        if let Some(own) = self.want
            && own.want.number == grant.number
        {
            self.want = None;
            self.tally.granted += 1;
            self.tally.waited += now.saturating_duration_since(own.asked_at);
            self.tally.beside_idle += u64::from(grant.was_idle);
            // What nobody used is no loss to anybody, and there may be more of it.
            let is_from_busy = grant.server.is_some() && !grant.was_idle;
            if let Some(waits) = own.want.flowing.filter(|_| is_from_busy) {
                self.rests_until = Some(now + waits.max(PULSE));
            }
        }
        if let Some(server) = grant.server {
            let waker = self.state.checkin(server, now, expires);
            self.wakers.extend(waker);
        }
    }

    /// A server of another process: it gets one of the permits that the next resizing makes, or is closed. To
    /// be called at home.
    pub fn arrive(&mut self, server: S, expires: Option<Instant>) {
        self.arrivals.push((server, expires, false));
    }

    /// The same for one that is lent from the beginning: see [`Part::take_lent_out`].
    pub fn arrive_lent(&mut self, server: S) {
        self.arrivals.push((server, None, true));
    }

    /// Servers that have come lent, and have a permit now.
    pub fn take_lent_out(&mut self) -> Vec<S> {
        std::mem::take(&mut self.lent_out)
    }

    /// Gives permits that a resizing has made to servers that have arrived; returns how many are left.
    pub(super) fn admit(&mut self, permits: usize, now: Instant) -> usize {
        let count = permits.min(self.arrivals.len());
        // Those first that nothing can replace.
        self.arrivals.sort_by_key(|(_, _, is_lent)| !is_lent);
        for (server, expires, is_lent) in self.arrivals.drain(..count) {
            self.state.receive(1, true);
            if is_lent {
                self.lent_out.push(server);
                continue;
            }
            let waker = self.state.checkin(server, now, expires);
            self.wakers.extend(waker);
        }
        permits - count
    }

    /// Takes over that some of the permits are to have a server, unless that was before a resizing
    /// which has settled it anew.
    fn receive_kept(&mut self, count: usize, sizing: u32) {
        if count == 0 {
            return;
        }
        if !is_not_later(sizing, self.sizing) {
            self.kept_early.push((sizing, count));
        } else if sizing == self.sizing {
            self.set_kept(self.kept() + count);
        }
    }

    /// Destroys permits that a smaller `pool_size` has left over, as far as home has them spare.
    fn settle_debt(&mut self, now: Instant) {
        let Some(ledger) = &mut self.ledger else {
            return;
        };
        if ledger.debt() == 0 {
            return;
        }
        let paid = self.state.part_with_spare(ledger.debt());
        if paid > 0 {
            ledger.paid(self.place.here, paid, now, &mut self.post);
        }
    }
}
