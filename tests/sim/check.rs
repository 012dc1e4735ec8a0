//! What must hold after each step, and at the end.
//!
//! Owns: the checks, and what has to be remembered for them.
//! Does not own: what happens (`world`, `clients`).
//! Invariants: a check looks at parts from outside and never changes them.
//!
//! After each step: permits are conserved, no server is without a permit, lost or in two places, kept
//! permits add up, openings are bounded, no wait outlasts its deadline. Two promises are about time,
//! and letters take some; `patience` says how much is excused:
//! - nobody waits beside an idle server or an unused permit of another shard;
//! - nobody is served while somebody elsewhere, whose want is known there, has waited more than a
//!   quarter longer. How long the waiters of a moving queue wait is known a `PULSE` late.
//!
//! A cancel request hits nobody but the client it is meant for (`cancels`).
//!
//! At the end, when everybody has gone: nothing is under way, wanted, kept in mind or owed, every
//! server is idle, and home knows exactly who has how many permits.
//!
//! Once the pool is not configured any more on some shard, only sums, deadlines and the end are
//! checked: permits in letters to that shard are lost on purpose.
//!
//! Source: none.

use std::time::Duration;

use pg_doorman::pool::letter::Want;
use pg_doorman::pool::part::exchange::{GRACE, PULSE};

use crate::world::World;

/// What is remembered of a shard.
#[derive(Clone, Debug, Default)]
struct Seen {
    want: Option<Want>,
    want_since: Duration,
    /// The number of its want that was granted last.
    granted: u32,
    recall: Option<(usize, u32)>,
    recall_age: Option<Duration>,
    is_recall_flowing: bool,
    /// Since when it keeps that in mind, or nothing, and has granted nothing.
    recall_since: Duration,
    has_permits_since: Option<Duration>,
    /// Since when it cannot serve somebody and has got nothing.
    unserved_since: Option<Duration>,
}

/// What is remembered.
#[derive(Debug)]
pub(crate) struct Watch {
    fault: Option<String>,
    seen: Vec<Seen>,
    /// Since when there is always something that nobody uses.
    available_since: Option<Duration>,
    /// When there last was a debt.
    debt_at: Duration,
    opening_max: usize,
    /// How often one was served while somebody elsewhere waited, and could be compared.
    pub(crate) compared: u64,
}

impl Watch {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            fault: None,
            seen: vec![Seen::default(); count],
            available_since: None,
            debt_at: Duration::ZERO,
            opening_max: 0,
            compared: 0,
        }
    }

    pub(crate) fn complain(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }

    /// Permits have left `from` for `to`.
    pub(crate) fn granted(&mut self, from: usize, to: usize, number: u32, now: Duration) {
        self.seen[from].recall_since = now;
        if number != 0 {
            self.seen[to].granted = number;
        }
    }

    /// Permits have come to `to`.
    pub(crate) fn arrived(&mut self, to: usize, now: Duration) {
        let seen = &mut self.seen[to];
        seen.unserved_since = seen.unserved_since.map(|_| now);
    }
}

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

impl World {
    /// How long letters, timers and questions to one shard after the other may take: home asks each
    /// that has a permit in turn, and each answers before the next is asked.
    fn patience(&self) -> Duration {
        let plan = &self.plan;
        let holders = plan.shards.min(self.sizes.size + plan.reserve.0) as u32;
        plan.letter_max() * (2 * holders + 6)
            + plan.pack_delay * 2
            + plan.lateness * 4
            + Duration::from_millis(1)
    }

    /// Checks everything; to be called after each step.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        self.check_sums()?;
        if !self.is_retired {
            self.remember();
            self.check_liveness()?;
        }
        self.watch.fault.take().map_or(Ok(()), Err)
    }

    fn check_sums(&mut self) -> Result<(), String> {
        let (mut permits, mut servers, mut openings, mut kept) = (0, 0, 0, 0);
        let mut is_sized = true;
        for (number, shard) in self.shards.iter().enumerate() {
            let state = shard.part.state();
            ensure!(
                state.held() <= shard.part.permits(),
                "shard {number} holds {} with {} permits",
                state.held(),
                shard.part.permits()
            );
            let is_alone = shard.is_alone || self.shards.len() == 1;
            let is_seen_to = shard.part.want().is_some() || shard.part.review_at().is_some();
            ensure!(
                state.unserved() == 0 || is_seen_to || is_alone,
                "shard {number} has forgotten that somebody waits"
            );
            permits += shard.part.permits();
            let there = state.idle_count() + state.lent_count();
            servers += there;
            openings += state.held() - there;
            kept += shard.part.kept();
            is_sized &= shard.sizing == self.shards[0].sizing;
        }
        servers += self.under_way.servers;
        ensure!(
            servers == self.alive,
            "{} connections exist, {servers} are accounted for",
            self.alive
        );
        let rights = self.quota.used();
        let expected = self.alive + openings + self.rival.len();
        ensure!(rights == expected, "{rights} rights, not {expected}");
        ensure!(
            self.plan.room == 0 || rights <= self.plan.room,
            "{rights} rights, {} may be",
            self.plan.room
        );
        if self.is_retired {
            return Ok(());
        }
        permits += self.under_way.permits;
        let debt = self.shards[self.plan.home].part.debt();
        let reserve = self.shards[self.plan.home].part.reserve_used();
        ensure!(
            reserve <= self.plan.reserve.0,
            "{reserve} permits of the reserve"
        );
        let expected = self.sizes.size + reserve + debt;
        ensure!(permits == expected, "{permits} permits, not {expected}");
        // A smaller bound holds for those who begin now; MayOpen may be under way.
        self.watch.opening_max = self.watch.opening_max.max(self.sizes.opening_max);
        ensure!(
            openings <= self.watch.opening_max,
            "{openings} connections are opening, {} may",
            self.watch.opening_max
        );
        if is_sized {
            let sizing = self.shards[0].sizing as usize;
            let kept = kept + self.under_way.kept[sizing];
            let expected = self.sizes.kept.min(self.sizes.size);
            ensure!(kept == expected, "{kept} permits are kept, not {expected}");
        }
        Ok(())
    }

    fn remember(&mut self) {
        let now = self.clock.now();
        if self.shards[self.plan.home].part.debt() > 0 {
            self.watch.debt_at = now;
        }
        let at = self.now();
        let moment = GRACE + self.plan.lateness;
        let mut is_available = false;
        let idle = |shard: &crate::world::Shard| shard.part.state().idle_count() > 0;
        let has_idle = self.shards.iter().any(idle);
        let opening = |shard: &crate::world::Shard| shard.part.state().opening_count();
        let openings: usize = self.shards.iter().map(opening).sum();
        // A permit serves nobody before something can be opened with it.
        let may_open = openings < self.sizes.opening_max;
        for (shard, seen) in self.shards.iter().zip(&mut self.watch.seen) {
            let state = shard.part.state();
            let queued = state.waiting_count();
            let has_rights = self.plan.room == 0 || self.quota.used() < self.plan.room;
            let can_open = has_rights && may_open;
            is_available |= state.idle_count() > 0 || (state.spare() > queued && can_open);
            let want = shard.part.want();
            let is_new = want.map(|want| want.number) != seen.want.map(|want| want.number);
            // Who rests after a grant asks for nothing that is used.
            let rests = |want: Option<Want>| want.is_some_and(|want| want.is_resting());
            if is_new || rests(want) || rests(seen.want) {
                seen.want_since = now;
            }
            seen.want = want;
            let recall = shard.part.recall().map(|(to, want)| (to, want.number));
            let flowing = shard.part.recall().and_then(|(_, want)| want.flowing);
            seen.is_recall_flowing = flowing.is_some();
            // Home answers with an older one if this one has become younger.
            let age = shard.part.recall().map(|(_, want)| want.age(at));
            if recall != seen.recall || age < seen.recall_age {
                seen.recall_since = now;
            }
            (seen.recall, seen.recall_age) = (recall, age);
            let hold = |since: Option<Duration>, holds: bool| holds.then(|| since.unwrap_or(now));
            seen.has_permits_since = hold(seen.has_permits_since, shard.part.permits() > 0);
            // A queue in which nobody waits longer than a moment needs nothing.
            let head = state
                .head()
                .map(|since| at.saturating_duration_since(since));
            let is_short = state.unserved() > 0 || (shard.part.is_denied() && has_idle);
            let waits = is_short && head.is_some_and(|wait| wait > moment);
            seen.unserved_since = hold(seen.unserved_since, waits);
        }
        let since = self.watch.available_since;
        self.watch.available_since = is_available.then(|| since.unwrap_or(now));
    }

    /// Nobody waits for long beside something that nobody uses.
    fn check_liveness(&self) -> Result<(), String> {
        let Some(available_since) = self.watch.available_since else {
            return Ok(());
        };
        let now = self.clock.now();
        let since = available_since.max(self.watch.debt_at);
        // Shards that wait take turns; home weighs them anew when one says how long it waits now.
        let before = self
            .watch
            .seen
            .iter()
            .filter(|seen| seen.unserved_since.is_some());
        let bound = self.patience() * (1 + before.count() as u32) + PULSE;
        for (number, seen) in self.watch.seen.iter().enumerate() {
            let Some(unserved) = seen.unserved_since else {
                continue;
            };
            let waits = now.saturating_sub(unserved.max(since));
            ensure!(
                waits <= bound,
                "shard {number} waits {waits:?} beside something unused, {bound:?} are excused"
            );
        }
        Ok(())
    }

    /// Somebody has been served on `shard` after waiting `wait`.
    pub(crate) fn served_here(&mut self, shard: usize, wait: Duration) {
        let (now, patience) = (self.clock.now(), self.patience());
        let is_long = |since: Duration| since + patience <= now;
        let seen = &self.watch.seen[shard];
        let is_known = seen.has_permits_since.is_some_and(is_long)
            && is_long(seen.recall_since)
            && is_long(self.watch.debt_at);
        if !is_known || self.is_retired {
            return;
        }
        let mut compared = 0;
        let mut fault = None;
        for (other, them) in self.watch.seen.iter().enumerate() {
            let Some(want) = them.want.filter(|want| want.number != them.granted) else {
                continue;
            };
            if other == shard || !is_long(them.want_since) {
                continue;
            }
            compared += 1;
            let age = want.age(self.now());
            // What is known of a queue that moves is a pulse old, and one more when it is used.
            // And twice the wait is borne rather than a server moved that will be wanted back.
            let limit = if want.flowing.is_some() || seen.is_recall_flowing {
                wait * 2 + patience + PULSE * 2
            } else {
                wait * 5 / 4 + patience
            };
            if age > limit {
                fault = Some(format!(
                    "shard {shard} served one who had waited {wait:?}, shard {other} has wanted \
                     for {:?} for one who has waited {age:?}",
                    now.saturating_sub(them.want_since)
                ));
            }
        }
        self.watch.compared += compared;
        if let Some(fault) = fault {
            self.watch.complain(fault);
        }
    }

    /// Checks that nothing is left when nobody does anything any more.
    pub(crate) fn check_end(&self) -> Result<(), String> {
        for (number, client) in self.clients.iter().enumerate() {
            ensure!(client.is_thinking(), "client {number} still waits or works");
        }
        let kept_back = self.kept_back.len();
        ensure!(kept_back == 0, "{kept_back} servers are kept back");
        let letters = self.under_way.letters;
        ensure!(letters == 0, "{letters} letters are under way");
        for (number, shard) in self.shards.iter().enumerate() {
            let state = shard.part.state();
            let held = state.held();
            let idle = state.idle_count();
            ensure!(idle == held, "shard {number}: {held} held, {idle} idle");
            ensure!(state.waiting_count() == 0, "shard {number}: somebody waits");
            if self.is_retired {
                continue;
            }
            ensure!(
                shard.part.is_at_rest(),
                "shard {number} is not at rest: {:?}",
                shard.part
            );
            let kept = shard.part.kept();
            ensure!(held >= kept, "shard {number}: {held} held, {kept} kept");
        }
        if self.is_retired {
            return Ok(());
        }
        let home = &self.shards[self.plan.home].part;
        ensure!(home.debt() == 0, "a debt of {} is left", home.debt());
        let known = home.known_permits().unwrap_or_default();
        for (number, (shard, known)) in self.shards.iter().zip(known).enumerate() {
            let permits = shard.part.permits();
            ensure!(
                permits.cast_signed() == *known,
                "shard {number} has {permits} permits, home knows of {known}"
            );
        }
        Ok(())
    }
}
