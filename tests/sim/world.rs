//! Shards with their parts of one pool, driven as `pool::driver` and `pool::travel` drive them.
//!
//! Owns: parts, lanes, alarms, servers under way, and which calls follow which.
//! Does not own: clients (`clients`), what must hold (`check`), decisions (`pool::part`).
//! Invariants: every call into a part is followed by carrying out what it decided, as in the driver.
//! Source: none.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pg_doorman::pool::error::{CheckoutError, REST_AFTER_FAILURE};
use pg_doorman::pool::letter::Letter;
use pg_doorman::pool::part::{Part, Place, Sizes};
use pg_doorman::server::quota::{Quota, Right};

use crate::cancels::new_lease;
use crate::check::Watch;
use crate::clients::Client;
use crate::dice::Dice;
use crate::events::{Clock, Event, Server};
use crate::plan::Plan;

/// How often parts give permits back and close old servers.
const PERIOD: Duration = Duration::from_secs(1);

/// One shard.
pub(crate) struct Shard {
    pub(crate) part: Part<Server, usize>,
    /// When the alarm of waits rings, the one for reviews.
    alarm: Option<Duration>,
    reviews: Option<Duration>,
    pub(crate) is_alone: bool,
    /// Since when the first waits for whom it claims a right.
    pub(crate) claim: Option<Instant>,
    /// How many resizings it has seen.
    pub(crate) sizing: u32,
    /// How many of those have been put on the clock; also orders them.
    reloaded_at: Duration,
}

/// What is in letters.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    pub(crate) permits: usize,
    pub(crate) servers: usize,
    /// Kept permits after each resizing.
    pub(crate) kept: Vec<usize>,
    pub(crate) letters: usize,
}

/// A whole run.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    pub(crate) clock: Clock,
    base: Instant,
    pub(crate) shards: Vec<Shard>,
    pub(crate) clients: Vec<Client>,
    /// When each lane is free again, and the last arrival on it.
    lanes: Vec<Duration>,
    pub(crate) under_way: UnderWay,
    pub(crate) sizes: Sizes,
    /// The rights of the database, and those that another pool has.
    pub(crate) quota: Arc<Quota>,
    pub(crate) rival: Vec<Right>,
    /// Server connections that exist.
    pub(crate) alive: usize,
    numbers: u32,
    /// Which client uses which server, and in which step.
    pub(crate) users: BTreeMap<u32, (usize, u32)>,
    /// Servers in quarantine, each with its shard.
    pub(crate) kept_back: Vec<(usize, Server)>,
    /// Cancel requests that have had their effect.
    pub(crate) cancelled: u64,
    /// Nobody begins anything any more.
    pub(crate) is_ending: bool,
    pub(crate) is_retired: bool,
    pub(crate) watch: Watch,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let plan = Plan::of(seed);
        let count = plan.shards;
        let shards = (0..count).map(|here| Shard {
            part: Part::new(
                Place {
                    here,
                    count,
                    home: plan.home,
                },
                plan.sizes,
                plan.habits,
                0,
            ),
            alarm: None,
            reviews: None,
            is_alone: false,
            claim: None,
            sizing: 0,
            reloaded_at: Duration::ZERO,
        });
        let mut world = Self {
            dice: Dice::new(!seed),
            clock: Clock::default(),
            base: Instant::now(),
            shards: shards.collect(),
            clients: plan
                .clients
                .iter()
                .map(|shard| Client::on(*shard))
                .collect(),
            lanes: vec![Duration::ZERO; count * count],
            under_way: UnderWay::default(),
            sizes: plan.sizes,
            quota: Arc::default(),
            rival: Vec::new(),
            alive: 0,
            numbers: 0,
            users: BTreeMap::new(),
            kept_back: Vec::new(),
            cancelled: 0,
            is_ending: false,
            is_retired: false,
            watch: Watch::new(count),
            plan,
        };
        world.under_way.kept = vec![0; world.plan.resizings.len() + 1];
        world.quota.set_limit(world.plan.room);
        world.prepare();
        world
    }

    fn prepare(&mut self) {
        for client in 0..self.clients.len() {
            let at = self.dice.up_to(Duration::from_millis(50));
            self.clock.plan(at, Event::Ask(client));
        }
        for shard in 0..self.shards.len() {
            let now = self.now();
            let reserve = self.plan.reserve;
            self.shards[shard].part.set_reserve(reserve, now);
            let [first, second, third] = [(); 3].map(|()| self.dice.up_to(PERIOD));
            self.clock.plan(first, Event::Settle(shard));
            self.clock.plan(second, Event::Retire(shard));
            self.clock.plan(third, Event::IdleEnds(shard));
            for number in 0..self.plan.resizings.len() {
                let at = self.plan.resizings[number].0;
                let at = self.reload_time(shard, at);
                self.clock.plan(at, Event::Resize(shard, number));
            }
            if let Some(at) = self.plan.retirement {
                let at = self.reload_time(shard, at);
                self.clock.plan(at, Event::GoAlone(shard));
            }
        }
        self.clock.plan(Duration::ZERO, Event::LaneFull);
        self.clock.plan(Duration::ZERO, Event::Rival);
    }

    /// When a shard takes over a configuration that is sent at `at`: all in the same order.
    fn reload_time(&mut self, shard: usize, at: Duration) -> Duration {
        let spread = self.dice.up_to(self.plan.reload_spread);
        let before = self.shards[shard].reloaded_at;
        let at = (at + spread).max(before + Duration::from_nanos(1));
        self.shards[shard].reloaded_at = at;
        at
    }

    /// The present time as parts see it.
    pub(crate) fn now(&self) -> Instant {
        self.base + self.clock.now()
    }

    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.base + at
    }

    fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.base)
    }

    pub(crate) fn trouble(&mut self) -> bool {
        !self.is_ending && self.dice.one_in(self.plan.trouble)
    }

    pub(crate) fn late(&mut self) -> Duration {
        self.dice.up_to(self.plan.lateness)
    }

    /// Lets one event happen.
    pub(crate) fn step(&mut self, event: Event) {
        match event {
            Event::Ask(client) => self.ask(client),
            Event::Done(client, step) => self.done(client, step),
            Event::Leave(client, step) => self.leave(client, step),
            Event::Wake(client) => self.wake(client),
            Event::CancelAsked(client) => self.cancel_asked(client),
            Event::CancelSent(cancel) => self.cancel_sent(cancel),
            Event::CancelActs(cancel) => self.cancel_acts(cancel),
            Event::CancelEnds(cancel) => self.cancel_ends(&cancel),
            Event::Overdue(client, step) => self.overdue(client, step),
            Event::Opened {
                shard,
                is_fit,
                right,
            } => self.opened(shard, is_fit, right),
            Event::Room(shard) => self.has_room(shard),
            Event::Rival => self.rival(),
            Event::Tried {
                shard,
                server,
                is_fit,
            } => {
                if is_fit {
                    self.check_in(shard, server);
                } else {
                    self.discard(shard, server);
                }
            }
            Event::Packed { from, to, letter } => self.mail(from, to, letter),
            Event::Arrives { from, to, letter } => self.arrives(from, to, letter),
            Event::LaneFull => self.fill_lane(),
            Event::Review(shard) => self.review(shard),
            Event::Alarm(shard) => self.ring(shard),
            Event::IdleEnds(shard) => self.idle_ends(shard),
            Event::Retire(shard) => self.retire(shard),
            Event::Settle(shard) => self.settle(shard),
            Event::Resize(shard, number) => self.resize(shard, number),
            Event::GoAlone(shard) => self.go_alone(shard),
        }
    }

    /// `driver::Pool::check_in`.
    pub(crate) fn check_in(&mut self, shard: usize, server: Server) {
        let now = self.now();
        let at = &mut self.shards[shard];
        let is_unwanted = at.is_alone && at.part.state().waiting_count() == 0;
        let has_expired = server.expires.is_some_and(|end| end <= self.clock.now());
        if is_unwanted || has_expired {
            self.discard(shard, server);
            return;
        }
        let expires = server.expires.map(|end| self.base + end);
        let head = at.part.state().head();
        let waker = at.part.checkin(server, now, expires);
        if let Some(head) = head.filter(|_| waker.is_some()) {
            self.served_here(shard, now.saturating_duration_since(head));
        }
        self.wake_later(waker);
        self.act(shard);
    }

    /// `driver::Pool::discard`.
    pub(crate) fn discard(&mut self, shard: usize, server: Server) {
        self.close(server);
        let now = self.now();
        self.shards[shard].part.discard(now);
        self.open_more(shard);
    }

    fn close(&mut self, server: Server) {
        server.lease.give_back();
        drop(server);
        self.alive -= 1;
        self.tell_claimants();
    }

    /// `driver::Pool::open_more`.
    pub(crate) fn open_more(&mut self, shard: usize) {
        let now = self.now();
        let count = self.shards[shard].part.openings(now);
        let rights = self.take_rights(shard, count);
        let denied = count - rights.len();
        for right in rights {
            let at = self.clock.now() + self.dice.up_to(self.plan.open_time);
            let is_fit = !self.trouble();
            let event = Event::Opened {
                shard,
                is_fit,
                right,
            };
            self.clock.plan(at, event);
        }
        if denied > 0 {
            self.deny(shard, denied);
        }
        self.act(shard);
    }

    fn opened(&mut self, shard: usize, is_fit: bool, right: Right) {
        let now = self.now();
        if is_fit {
            self.alive += 1;
            self.numbers += 1;
            let life = self.plan.lifetime;
            let expires = (!life.is_zero())
                .then(|| self.clock.now() + life.mul_f64(0.8) + self.dice.up_to(life.mul_f64(0.4)));
            let server = Server {
                number: self.numbers,
                lease: new_lease(),
                _right: right,
                expires,
            };
            self.shards[shard].part.opened(now);
            self.check_in(shard, server);
            self.open_more(shard);
            return;
        }
        drop(right);
        self.tell_claimants();
        let error = Rc::new(CheckoutError::LoginTimeout);
        let part = &mut self.shards[shard].part;
        let wakers = part.open_failed(&error, now, REST_AFTER_FAILURE);
        let waiting = part.state().waiting_count();
        self.wake_later(wakers);
        self.open_more(shard);
        if waiting > 0 {
            self.alarm_at_most(shard, self.clock.now() + REST_AFTER_FAILURE);
        }
    }

    pub(crate) fn wake_later(&mut self, wakers: impl IntoIterator<Item = usize>) {
        for client in wakers {
            let at = self.clock.now() + self.late();
            self.clock.plan(at, Event::Wake(client));
        }
    }

    /// `travel::Pool::act`.
    pub(crate) fn act(&mut self, shard: usize) {
        self.renew_claim(shard);
        let part = &mut self.shards[shard].part;
        let review_at = part.review_at();
        let (post, closing, wakers) = if part.has_effects() {
            (part.take_post(), part.take_closing(), part.take_wakers())
        } else {
            Default::default()
        };
        if let Some(at) = review_at {
            let at = self.since_start(at);
            if self.shards[shard].reviews.is_none_or(|before| before > at) {
                self.shards[shard].reviews = Some(at);
                let late = self.late();
                self.clock.plan(at + late, Event::Review(shard));
            }
        }
        self.wake_later(wakers);
        for server in closing {
            self.close(server);
        }
        for (to, letter) in post {
            self.send(shard, to, letter);
        }
    }

    /// `travel::Pool::send` and `travel::Pool::pack`.
    fn send(&mut self, from: usize, to: usize, letter: Letter<Server>) {
        self.under_way.letters += 1;
        if let Letter::Grant(grant) = &letter {
            self.under_way.permits += grant.permits;
            self.under_way.kept[grant.sizing as usize] += grant.kept;
            self.watch.granted(from, to, grant.number, self.clock.now());
        }
        if let Letter::Keep { count, sizing } = &letter {
            self.under_way.kept[*sizing as usize] += count;
        }
        let (letter, server) = letter.take_server::<Server>();
        let Some(server) = server else {
            self.mail(from, to, letter);
            return;
        };
        let at = self.clock.now() + self.dice.up_to(self.plan.pack_delay);
        let server = if self.trouble() {
            self.close(server);
            None
        } else {
            self.under_way.servers += 1;
            Some(server)
        };
        let letter = letter.with_server(server);
        self.clock.plan(at, Event::Packed { from, to, letter });
    }

    /// Puts a letter on its lane, behind those that are there.
    fn mail(&mut self, from: usize, to: usize, letter: Letter<Server>) {
        let lane = from * self.shards.len() + to;
        let at = self.clock.now() + self.dice.up_to(self.plan.lane_delay);
        let at = at.max(self.lanes[lane]);
        self.lanes[lane] = at;
        self.clock.plan(at, Event::Arrives { from, to, letter });
    }

    /// `travel::Pool::receive` and `travel::Pool::unpack`.
    fn arrives(&mut self, from: usize, to: usize, letter: Letter<Server>) {
        self.under_way.letters -= 1;
        if let Letter::Grant(grant) = &letter {
            self.under_way.permits -= grant.permits;
            self.under_way.kept[grant.sizing as usize] -= grant.kept;
            self.under_way.servers -= usize::from(grant.server.is_some());
            self.watch.arrived(to, self.clock.now());
        }
        if let Letter::Keep { count, sizing } = &letter {
            self.under_way.kept[*sizing as usize] -= count;
        }
        let is_lost = self.shards[to].is_alone;
        let (letter, server) = letter.take_server::<Server>();
        let server = match server {
            Some(server) if is_lost || self.trouble() => {
                self.close(server);
                None
            }
            server => server,
        };
        if is_lost {
            return;
        }
        // Of its requests none can be on its way; there it has a lease of its own.
        let server = server.map(|server| Server {
            lease: new_lease(),
            ..server
        });
        let expires = server.as_ref().and_then(|server| server.expires);
        let expires = expires.map(|end| self.base + end);
        let letter = letter.with_server(server);
        let now = self.now();
        self.shards[to].part.receive(from, letter, expires, now);
        self.open_more(to);
    }

    fn fill_lane(&mut self) {
        if self.is_ending {
            return;
        }
        if !self.plan.full_lane.is_zero() {
            let lane = self.dice.between(0, self.lanes.len() - 1);
            let until = self.clock.now() + self.dice.up_to(self.plan.full_lane);
            self.lanes[lane] = self.lanes[lane].max(until);
        }
        let at = self.clock.now() + self.dice.up_to(Duration::from_millis(20));
        self.clock.plan(at, Event::LaneFull);
    }

    /// `alarm::Alarm::ring` and `travel::Pool::review`.
    fn review(&mut self, shard: usize) {
        let now = self.now();
        let at = &mut self.shards[shard];
        if at.reviews.is_none_or(|due| due > self.clock.now()) {
            return;
        }
        at.reviews = None;
        if at.part.review_at().is_some_and(|due| due <= now) {
            at.part.review(now);
        }
        self.open_more(shard);
    }

    pub(crate) fn alarm_at_most(&mut self, shard: usize, at: Duration) {
        if self.shards[shard].alarm.is_none_or(|before| before > at) {
            self.shards[shard].alarm = Some(at);
            let late = self.late();
            self.clock.plan(at + late, Event::Alarm(shard));
        }
    }

    fn ring(&mut self, shard: usize) {
        let at = &mut self.shards[shard];
        if at.alarm.is_some_and(|due| due <= self.clock.now()) {
            at.alarm = None;
            self.tick(shard);
        }
    }

    /// `driver::Pool::tick`.
    fn tick(&mut self, shard: usize) {
        let now = self.now();
        let error = Rc::new(CheckoutError::WaitTimeout);
        let wakers = self.shards[shard].part.expire(now, &error);
        self.wake_later(wakers);
        self.shards[shard].part.ask_reserve(now);
        self.open_more(shard);
        self.alarm_for_wait(shard);
    }

    pub(crate) fn alarm_for_wait(&mut self, shard: usize) {
        if let Some(next) = self.shards[shard].part.next_deadline() {
            let next = self.since_start(next);
            self.alarm_at_most(shard, next);
        }
    }

    fn retire(&mut self, shard: usize) {
        self.tick(shard);
        // Servers that grow old would be replaced for ever.
        if !self.shards[shard].is_alone && !self.is_ending {
            let now = self.now();
            let count = self.dice.biased(1, 20);
            for server in self.shards[shard].part.retire(now, count) {
                self.close(server);
            }
            self.open_more(shard);
        }
        self.clock
            .plan(self.clock.now() + PERIOD, Event::Retire(shard));
    }

    fn settle(&mut self, shard: usize) {
        if !self.shards[shard].is_alone {
            let now = self.now();
            self.shards[shard].part.settle(now);
            self.act(shard);
        }
        self.clock
            .plan(self.clock.now() + PERIOD, Event::Settle(shard));
    }

    /// `driver::Pool::idle_event`.
    fn idle_ends(&mut self, shard: usize) {
        if self.is_ending {
            return;
        }
        let now = self.now();
        let ends = self.trouble();
        let part = &mut self.shards[shard].part;
        if let Some(server) = part.remove_idle(|server| server.number % 3 != 0) {
            if ends {
                self.close(server);
                self.open_more(shard);
            } else {
                let expires = server.expires.map(|end| self.base + end);
                part.put_back(server, now, expires);
                self.act(shard);
            }
        }
        let at = self.clock.now() + self.dice.up_to(Duration::from_millis(200));
        self.clock.plan(at, Event::IdleEnds(shard));
    }

    /// `driver::Pool::resize`.
    fn resize(&mut self, shard: usize, number: usize) {
        if self.shards[shard].is_alone {
            return;
        }
        let sizes = self.plan.resizings[number].1;
        let sizing = number as u32 + 1;
        let now = self.now();
        self.shards[shard].sizing = sizing;
        self.shards[shard].part.resize(sizes, sizing, now);
        if shard == self.plan.home {
            self.sizes = sizes;
        }
        self.open_more(shard);
    }

    /// `driver::Pool::retire_for_good`.
    fn go_alone(&mut self, shard: usize) {
        self.is_retired = true;
        self.shards[shard].is_alone = true;
        let now = self.now();
        self.shards[shard].part.go_alone(now);
        for server in self.shards[shard].part.drain_idle() {
            self.close(server);
        }
        self.open_more(shard);
    }
}
