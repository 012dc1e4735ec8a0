//! Permits beyond `pool_size`, and openings without a right.
//!
//! **Owns:** when a shard asks for a permit of the reserve, how many of them there are, when home takes
//! them back; what a part does when the database has as many connections as it may have.
//! **Does not own:** how permits move (`exchange`), rights (`server::quota`).
//!
//! ```text
//!             a waiter has waited for `after`, and no permit is free
//!   shard ────────────── AskReserve ──────────────▶ home: a new permit, which goes where it is wanted
//!                                                     │
//!             nobody has wanted anything for a second │
//!   destroyed ◀── as what a smaller pool leaves over ─┘
//! ```
//!
//! **Invariant:** home has let out at most `size` permits of the reserve; they count like others until
//! they are destroyed.

use std::time::{Duration, Instant};

use super::super::letter::Letter;
use super::Part;

/// Time between two questions for permits of the reserve.
const PAUSE: Duration = Duration::from_millis(100);

/// The reserve of a pool.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reserve {
    size: usize,
    after: Duration,
    /// Permits that are let out; known at home.
    used: usize,
    /// Nobody wanted anything at the last look.
    is_calm: bool,
    looked_at: Option<Instant>,
}

impl<S, W> Part<S, W> {
    /// Changes the reserve: how many permits, and after which wait.
    pub fn set_reserve(&mut self, (size, after): (usize, Duration), now: Instant) {
        self.reserve.size = size;
        self.reserve.after = after;
        let excess = self.reserve.used.saturating_sub(size);
        if excess > 0 {
            self.take_back_reserve(excess, now);
        }
    }

    /// Permits of the reserve that are let out; known at home.
    pub const fn reserve_used(&self) -> usize {
        self.reserve.used
    }

    /// When [`Part::expire`], [`Part::openings`] or [`Part::ask_reserve`] has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let next = self.state.next_deadline();
        next.into_iter().chain(self.reserve_due()).min()
    }

    /// When the first in the queue may have a permit of the reserve.
    fn reserve_due(&self) -> Option<Instant> {
        if self.reserve.size == 0 || self.state.is_paused() {
            return None;
        }
        let due = self.state.head()? + self.reserve.after;
        let again = self.reserve.looked_at.map(|at| at + PAUSE);
        Some(again.map_or(due, |again| due.max(again)))
    }

    /// Asks for permits of the reserve for those who have waited for so long.
    pub fn ask_reserve(&mut self, now: Instant) {
        if self.reserve_due().is_none_or(|due| due > now) {
            return;
        }
        self.reserve.looked_at = Some(now);
        let overdue = self.state.waiting_longer(now, self.reserve.after);
        let count = overdue.min(self.state.unserved());
        if count > 0 {
            self.send(self.place.home, Letter::AskReserve(count));
            self.review(now);
        }
    }

    /// A shard asks for permits of the reserve.
    pub(super) fn let_out(&mut self, count: usize, now: Instant) {
        let Some(ledger) = &mut self.ledger else {
            return;
        };
        let count = count.min(self.reserve.size.saturating_sub(self.reserve.used));
        if count == 0 {
            return;
        }
        self.reserve.used += count;
        self.reserve.is_calm = false;
        self.tally.reserve += count as u64;
        let new = ledger.forgive(self.place.home, count, now, &mut self.post);
        self.state.receive(new, false);
    }

    /// Takes the reserve back if nobody has wanted anything since the last call.
    pub(super) fn settle_reserve(&mut self, now: Instant) {
        let Some(ledger) = self.ledger.as_ref().filter(|_| self.reserve.used > 0) else {
            return;
        };
        let is_calm = self.state.waiting_count() == 0 && !ledger.is_wanted();
        let was_calm = std::mem::replace(&mut self.reserve.is_calm, is_calm);
        if is_calm && was_calm {
            self.take_back_reserve(self.reserve.used, now);
        }
    }

    fn take_back_reserve(&mut self, count: usize, now: Instant) {
        if let Some(ledger) = &mut self.ledger {
            self.reserve.used -= count;
            ledger.owe(count, now, &mut self.post);
            self.review(now);
        }
    }

    /// `count` connections that [`Part::openings`] has announced are not opened: the database has as many
    /// as it may have. Others are asked for servers of this pool; the next try is after `rest`.
    pub fn open_denied(&mut self, count: usize, now: Instant, rest: Duration) {
        for _ in 0..count {
            self.state.open_failed(now, rest);
        }
        self.is_denied = true;
        self.send(self.place.home, Letter::OpenDone(count));
        self.review(now);
    }

    /// True if somebody waits here, and only for the right to open a connection.
    pub fn is_denied(&self) -> bool {
        let state = &self.state;
        // Without a permit that nothing uses a right would be good for nothing.
        self.is_denied && state.waiting_count() > 0 && state.spare() > 0 && !state.is_paused()
    }

    /// The next opening need not wait.
    pub fn end_rest(&mut self) {
        self.state.end_rest();
    }

    /// Takes out the server that was used longest ago; its permit stays.
    pub fn take_coldest(&mut self) -> Option<S> {
        self.state.take_coldest()
    }
}
