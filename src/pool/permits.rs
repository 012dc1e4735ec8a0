//! The permits of a pool over all shards, as its home shard knows them.
//!
//! **Owns:** who wants a permit, who has been asked for one, how many connections are being opened.
//! **Does not own:** the permits: each is at one shard or in one [`Grant`](super::letter::Grant).
//!
//! The home of a pool is a hash of its names, so different pools have different homes and nobody has
//! to be asked where it is. Home answers no query; it is asked only when a shard runs short.
//!
//! **Invariants**
//! 1. A shard has at most one want here, and keeps at most one recall in mind: that of the longest
//!    waiter it was asked for.
//! 2. A want asks one more shard each time the last one asked was busy, until one of them grants it.
//! 3. What home knows of the others' permits is hearsay, and right once all letters have arrived.
//! 4. Connections being opened are at most `opening_max`, over all shards.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::letter::{Letter, TOLERANCE, Want};

/// Marks the number of a want for permits that are to be destroyed.
pub const DEBT: u32 = 1 << 31;

/// How long a server that has left one shard may be under way to another: as long as that may take, nobody
/// says that there is none.
const UNDER_WAY_MAX: Duration = Duration::from_secs(1);

/// True if a server that left a shard at `sent_at` may still be on its way.
pub fn is_recent(sent_at: Option<Instant>, now: Instant) -> bool {
    sent_at.is_some_and(|at| now.saturating_duration_since(at) < UNDER_WAY_MAX)
}

/// The part of `whole` that belongs to shard `index` of `count`. What cannot be divided goes one by
/// one to the shards after `home`, so that small pools do not all land on the first shard.
pub const fn part(whole: usize, index: usize, count: usize, home: usize) -> usize {
    let position = (index + count - home % count) % count;
    whole / count + if position < whole % count { 1 } else { 0 }
}

/// A stable hash (FNV-1a) of a pool's names. It names the pool in letters, and its home.
pub fn hash(database: &str, user: &str) -> u64 {
    let bytes = database.bytes().chain([0]).chain(user.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The home of the pool with this hash.
pub const fn home(hash: u64, count: usize) -> usize {
    (hash % count as u64) as usize
}

/// A want that has not been granted.
#[derive(Debug)]
struct Open {
    want: Want,
    /// The shard that was asked last and has not answered.
    asking: Option<usize>,
    /// The shards that have answered that they are busy.
    answered: Vec<usize>,
    /// One of them has servers.
    has_servers: bool,
}

impl Open {
    const fn new(want: Want) -> Self {
        Self {
            want,
            asking: None,
            answered: Vec::new(),
            has_servers: false,
        }
    }
}

/// Letters to be sent, with their destinations.
pub type Post<S> = Vec<(usize, Letter<S>)>;

/// What home knows.
#[derive(Debug)]
pub struct Ledger {
    /// Permits of each shard, as far as known.
    holds: Vec<isize>,
    /// The want of each shard; the last one is for permits to be destroyed.
    wants: Vec<Option<Open>>,
    /// The number of each shard's last want that is over. Its shard may say it again meanwhile.
    over: Vec<u32>,
    /// Whose want each shard keeps in mind.
    asked: Vec<Option<(usize, u32)>>,
    debt: usize,
    debts: u32,
    opening: usize,
    opening_max: usize,
    openers: VecDeque<(usize, usize)>,
    /// The shard that was last told to keep servers.
    keeper: usize,
    /// When the last server left one shard for another.
    server_sent_at: Option<Instant>,
}

impl Ledger {
    /// The ledger of a pool of `size` permits, divided by [`part`].
    pub fn new(size: usize, count: usize, home: usize, opening_max: usize) -> Self {
        let holds = (0..count).map(|index| part(size, index, count, home).cast_signed());
        Self {
            holds: holds.collect(),
            wants: (0..=count).map(|_| None).collect(),
            over: vec![0; count + 1],
            asked: vec![None; count],
            debt: 0,
            debts: 0,
            opening: 0,
            opening_max,
            openers: VecDeque::new(),
            keeper: home,
            server_sent_at: None,
        }
    }

    const fn debtor(&self) -> usize {
        self.holds.len()
    }

    /// Permits that are still to be destroyed.
    pub const fn debt(&self) -> usize {
        self.debt
    }

    /// Permits of each shard, as far as known.
    pub fn holds(&self) -> &[isize] {
        &self.holds
    }

    /// True if nobody wants anything and nothing is being opened.
    pub fn is_at_rest(&self) -> bool {
        let wants = self.wants.iter().flatten().count();
        let asked = self.asked.iter().flatten().count();
        wants + asked + self.opening + self.openers.len() == 0
    }

    /// True if some shard wants a permit.
    pub fn is_wanted(&self) -> bool {
        self.wants
            .iter()
            .take(self.holds.len())
            .any(Option::is_some)
    }

    /// The next shard after the last one named that has permits, home apart.
    pub fn next_holder(&mut self, home: usize) -> Option<usize> {
        let count = self.holds.len();
        let next = (1..=count)
            .map(|step| (self.keeper + step) % count)
            .find(|shard| *shard != home && self.holds[*shard] > 0)?;
        self.keeper = next;
        Some(next)
    }

    /// A shard wants a permit.
    pub fn want<S>(&mut self, from: usize, want: Want, now: Instant, post: &mut Post<S>) {
        if self.over[from] == want.number {
            return;
        }
        let open = match self.wants[from].take() {
            Some(open) if open.want.number == want.number => {
                self.remind(from, want, post);
                Open { want, ..open }
            }
            Some(open) => {
                self.forget(from, open.want.number, post);
                Open::new(want)
            }
            None => Open::new(want),
        };
        self.wants[from] = Some(open);
        self.ask(now, post);
        self.say_nobody(from, now, post);
    }

    /// Tells those who keep a want in mind that it has become younger or older.
    fn remind<S>(&self, to: usize, want: Want, post: &mut Post<S>) {
        for (holder, asked) in self.asked.iter().enumerate() {
            if *asked == Some((to, want.number)) {
                post.push((holder, Letter::Recall { to, want }));
            }
        }
    }

    /// Tells those who keep a want in mind that it is over.
    fn forget<S>(&mut self, to: usize, number: u32, post: &mut Post<S>) {
        for (holder, asked) in self.asked.iter_mut().enumerate() {
            if *asked == Some((to, number)) {
                *asked = None;
                post.push((holder, Letter::Forget { to, number }));
            }
        }
    }

    fn end_want<S>(&mut self, shard: usize, number: u32, post: &mut Post<S>) {
        if self.wants[shard]
            .as_ref()
            .is_some_and(|open| open.want.number == number)
        {
            self.wants[shard] = None;
            self.over[shard] = number;
            self.forget(shard, number, post);
        }
    }

    /// A shard does not want any more.
    pub fn withdraw<S>(&mut self, from: usize, number: u32, now: Instant, post: &mut Post<S>) {
        self.end_want(from, number, post);
        self.ask(now, post);
    }

    /// A shard that was asked has nothing to give now.
    pub fn busy<S>(
        &mut self,
        from: usize,
        (to, number, has_servers): (usize, u32, bool),
        now: Instant,
        post: &mut Post<S>,
    ) {
        let Some(open) = self.wants[to]
            .as_mut()
            .filter(|open| open.want.number == number)
        else {
            return;
        };
        open.has_servers |= has_servers;
        if !open.answered.contains(&from) {
            open.answered.push(from);
        }
        if open.asking == Some(from) {
            open.asking = None;
            self.ask(now, post);
        }
        self.say_nobody(to, now, post);
    }

    /// Tells a shard that wants a server that there is none, once all that have permits have said so.
    fn say_nobody<S>(&self, to: usize, now: Instant, post: &mut Post<S>) {
        // Whoever waits asks anew when it has tried again to open a connection.
        if is_recent(self.server_sent_at, now) {
            return;
        }
        let Some(open) = self.wants[to].as_ref() else {
            return;
        };
        let all_answered = (0..self.holds.len())
            .filter(|holder| *holder != to && self.holds[*holder] > 0)
            .all(|holder| open.answered.contains(&holder));
        if open.want.with_server && !open.has_servers && all_answered {
            let number = open.want.number;
            post.push((to, Letter::Nobody { number }));
        }
    }

    /// A server has left one shard for another: meanwhile it is at neither.
    pub const fn note_server_under_way(&mut self, now: Instant) {
        self.server_sent_at = Some(now);
    }

    /// Permits have gone from one shard to another.
    pub fn moved<S>(
        &mut self,
        (from, to): (usize, usize),
        (number, permits): (u32, usize),
        now: Instant,
        post: &mut Post<S>,
    ) {
        self.holds[from] -= permits.cast_signed();
        self.holds[to] += permits.cast_signed();
        let wanted_by = if number & DEBT == 0 {
            to
        } else {
            self.debtor()
        };
        if self.asked[from] == Some((wanted_by, number)) {
            self.asked[from] = None;
        }
        if number & DEBT == 0 {
            self.end_want(to, number, post);
        } else if let Some(open) = &mut self.wants[wanted_by] {
            open.asking = open.asking.filter(|asking| *asking != from);
        }
        self.ask(now, post);
    }

    /// Home has destroyed permits of its own.
    pub fn paid<S>(&mut self, home: usize, permits: usize, now: Instant, post: &mut Post<S>) {
        self.holds[home] -= permits.cast_signed();
        self.debt -= permits.min(self.debt);
        self.end_debt(post);
        self.ask(now, post);
    }

    fn end_debt<S>(&mut self, post: &mut Post<S>) {
        if self.debt == 0 {
            self.end_want(self.debtor(), self.debts, post);
        }
    }

    /// The pool gets smaller: `count` permits are to be destroyed. It goes before all who wait.
    pub fn owe<S>(&mut self, count: usize, now: Instant, post: &mut Post<S>) {
        self.debt += count;
        if self.debt > 0 && self.wants[self.debtor()].is_none() {
            self.debts = self.debts.wrapping_add(1) | DEBT;
            let want = Want {
                number: self.debts,
                since: now,
                flowing: Some(Duration::MAX / 4),
                rests: false,
                waiters: 0,
                with_server: false,
                servers: 0,
            };
            let debtor = self.debtor();
            self.wants[debtor] = Some(Open::new(want));
        }
        self.ask(now, post);
    }

    /// The pool gets larger: how many of `count` permits are new, after the debt.
    pub fn forgive<S>(
        &mut self,
        home: usize,
        count: usize,
        now: Instant,
        post: &mut Post<S>,
    ) -> usize {
        let forgiven = count.min(self.debt);
        self.debt -= forgiven;
        self.holds[home] += (count - forgiven).cast_signed();
        self.end_debt(post);
        self.ask(now, post);
        count - forgiven
    }

    /// Has one more shard asked for each want that waits for no answer, the longest waiter first.
    fn ask<S>(&mut self, now: Instant, post: &mut Post<S>) {
        let mut order: Vec<_> = (0..self.wants.len())
            .filter_map(|shard| {
                let open = self.wants[shard].as_ref()?;
                open.asking.is_none().then_some((shard, open.want))
            })
            .collect();
        order.sort_by_key(|(_, want)| std::cmp::Reverse(want.age(now)));
        for (to, want) in order {
            let Some(holder) = self.whom_to_ask(to, &want, now) else {
                continue;
            };
            self.asked[holder] = Some((to, want.number));
            if let Some(open) = &mut self.wants[to] {
                open.asking = Some(holder);
            }
            post.push((holder, Letter::Recall { to, want }));
        }
    }

    /// The shard with the most permits that does not keep this want, or an older one, in mind.
    fn whom_to_ask(&self, to: usize, want: &Want, now: Instant) -> Option<usize> {
        let age = want.age(now);
        let may_ask = |holder: &usize| match self.asked[*holder] {
            None => true,
            Some((other, _)) if other == to => false,
            Some((other, number)) => self.wants[other].as_ref().is_none_or(|open| {
                let is_older = open.want.age(now) + TOLERANCE < age;
                let is_awake = open.want.is_resting() && !want.is_resting();
                open.want.number != number || is_older || is_awake
            }),
        };
        (0..self.holds.len())
            .filter(|holder| *holder != to && self.holds[*holder] > 0)
            .filter(may_ask)
            .max_by_key(|holder| self.holds[*holder])
    }

    /// A shard asks to open connections.
    pub fn ask_open<S>(&mut self, from: usize, count: usize, post: &mut Post<S>) {
        self.openers.push_back((from, count));
        self.let_open(post);
    }

    /// Openings have ended.
    pub fn open_done<S>(&mut self, count: usize, post: &mut Post<S>) {
        self.opening = self.opening.saturating_sub(count);
        self.let_open(post);
    }

    /// Changes how many connections may be opening at once.
    pub fn set_opening_max<S>(&mut self, opening_max: usize, post: &mut Post<S>) {
        self.opening_max = opening_max;
        self.let_open(post);
    }

    /// Lets shards open, one connection each in turn.
    fn let_open<S>(&mut self, post: &mut Post<S>) {
        while self.opening < self.opening_max {
            let Some((shard, count)) = self.openers.pop_front() else {
                return;
            };
            self.opening += 1;
            post.push((shard, Letter::MayOpen(1)));
            if count > 1 {
                self.openers.push_back((shard, count - 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_differ_by_at_most_one() {
        for whole in 0..70 {
            for count in 1..20 {
                for home in 0..count {
                    let parts: Vec<_> = (0..count)
                        .map(|index| part(whole, index, count, home))
                        .collect();
                    assert_eq!(parts.iter().sum::<usize>(), whole);
                    assert!(parts.iter().max().unwrap() - parts.iter().min().unwrap() <= 1);
                    assert!(whole == 0 || parts[home] > 0, "the home shard serves first");
                }
            }
        }
    }

    #[test]
    fn names_do_not_run_into_each_other() {
        assert_ne!(hash("ab", "c"), hash("a", "bc"));
    }

    fn want(number: u32, since: Instant) -> Want {
        Want {
            number,
            since,
            flowing: None,
            rests: false,
            waiters: 1,
            with_server: false,
            servers: 0,
        }
    }

    #[test]
    fn one_shard_after_the_other_is_asked_until_one_grants() {
        let now = Instant::now();
        let mut ledger = Ledger::new(3, 4, 0, 4);
        let mut post: Post<()> = Vec::new();
        ledger.want(3, want(1, now), now, &mut post);
        let mut asked = Vec::new();
        while let Some((holder, letter)) = post.pop() {
            assert!(matches!(letter, Letter::Recall { to: 3, .. }), "{letter:?}");
            asked.push(holder);
            ledger.busy(holder, (3, 1, false), now, &mut post);
        }
        asked.sort_unstable();
        assert_eq!(asked, [0, 1, 2], "all that have a permit");
        ledger.moved((1, 3), (1, 1), now, &mut post);
        let forgotten: Vec<_> = post.drain(..).map(|(holder, _)| holder).collect();
        assert_eq!(forgotten, [0, 2], "the others need not think of it");
        ledger.want(1, want(1, now), now, &mut post);
        assert_eq!(post.len(), 1);
    }

    #[test]
    fn the_longest_waiter_has_the_first_claim() {
        let now = Instant::now();
        let earlier = now.checked_sub(Duration::from_secs(1)).unwrap();
        let mut ledger = Ledger::new(1, 3, 0, 4);
        let mut post: Post<()> = Vec::new();
        ledger.want(1, want(1, now), now, &mut post);
        ledger.busy(0, (1, 1, false), now, &mut post);
        ledger.want(2, want(1, earlier), now, &mut post);
        let last = post.last();
        assert!(
            matches!(last, Some((0, Letter::Recall { to: 2, .. }))),
            "{last:?}"
        );
        post.clear();
        ledger.moved((0, 2), (1, 1), now, &mut post);
        assert!(
            matches!(post[..], [(2, Letter::Recall { to: 1, .. })]),
            "{post:?}"
        );
    }

    #[test]
    fn openings_are_bounded_and_shards_take_turns() {
        let mut ledger = Ledger::new(9, 3, 0, 2);
        let mut post: Post<()> = Vec::new();
        ledger.ask_open(1, 3, &mut post);
        ledger.ask_open(2, 1, &mut post);
        assert_eq!(post.len(), 2);
        ledger.open_done(1, &mut post);
        ledger.ask_open(1, 1, &mut post);
        ledger.open_done(1, &mut post);
        let order: Vec<_> = post.iter().map(|(shard, _)| *shard).collect();
        assert_eq!(order, [1, 1, 1, 2]);
        ledger.open_done(1, &mut post);
        assert_eq!(post.len(), 5);
        ledger.open_done(2, &mut post);
        assert_eq!(post.len(), 5, "nobody asks any more");
    }
}
