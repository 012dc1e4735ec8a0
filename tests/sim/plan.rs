//! What one run is like: all that its seed decides before the clock starts.
//!
//! Owns: sizes, delays, how clients behave, when configurations change.
//! Does not own: what happens (`world`).
//! Invariants: a plan depends on the seed only; small numbers of everything are likely.
//! Source: none.

use std::time::Duration;

use pg_doorman::pool::part::{Habits, Sizes};

use crate::dice::Dice;

/// One run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) shards: usize,
    pub(crate) home: usize,
    pub(crate) sizes: Sizes,
    pub(crate) habits: Habits,
    /// Permits beyond the size, and the wait after which there are some.
    pub(crate) reserve: (usize, Duration),
    /// Connections of the database, with those of another pool; 0 = no limit.
    pub(crate) room: usize,
    /// The shard of each client.
    pub(crate) clients: Vec<usize>,
    /// Bound on waiting for a server.
    pub(crate) wait_max: Duration,
    /// Shortest and longest transaction, in microseconds.
    pub(crate) use_time: (f64, f64),
    /// Shortest and longest time between two transactions, in microseconds.
    pub(crate) think_time: (f64, f64),
    /// Most that a letter takes on an open lane.
    pub(crate) lane_delay: Duration,
    /// Most that a lane is full.
    pub(crate) full_lane: Duration,
    /// Most that a server takes to leave a shard.
    pub(crate) pack_delay: Duration,
    /// Most that a timer or a task is late.
    pub(crate) lateness: Duration,
    /// Most that an opening takes.
    pub(crate) open_time: Duration,
    /// Age at which a server is replaced; zero = never.
    pub(crate) lifetime: Duration,
    /// Idle time after which a server is tried before it is lent; zero = never.
    pub(crate) check_after: Duration,
    /// How often something goes wrong: once in so many times.
    pub(crate) trouble: usize,
    /// Sizes of later configurations, and when they come.
    pub(crate) resizings: Vec<(Duration, Sizes)>,
    /// When the pool is not configured any more.
    pub(crate) retirement: Option<Duration>,
    /// Most by which shards take over a configuration at different times.
    pub(crate) reload_spread: Duration,
}

fn sizes(dice: &mut Dice) -> Sizes {
    let size = dice.biased(1, 100);
    let kept = if dice.one_in(2) {
        0
    } else {
        dice.between(0, size + 2)
    };
    Sizes {
        size,
        kept,
        opening_max: dice.biased(1, 8),
    }
}

/// Without what is to be kept if there may be no room for it.
fn fitting(
    room: usize,
    mut sizes: Sizes,
    mut resizings: Vec<(Duration, Sizes)>,
) -> (Sizes, Vec<(Duration, Sizes)>) {
    if room > 0 {
        sizes.kept = 0;
        for (_, sizes) in &mut resizings {
            sizes.kept = 0;
        }
    }
    (sizes, resizings)
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let dice = &mut Dice::new(seed);
        let shards = dice.biased(1, 64);
        let is_uneven = dice.one_in(2);
        let clients = (0..dice.biased(5, 400)).map(|_| {
            if is_uneven {
                (dice.biased(1, shards) + seed as usize) % shards
            } else {
                dice.between(0, shards - 1)
            }
        });
        let clients = clients.collect();
        let shortest = [5.0, 200.0, 20_000.0][dice.between(0, 2)];
        let longest = shortest * [2.0, 10.0, 1000.0][dice.between(0, 2)];
        let thinks = [2.0, 100.0, 20_000.0][dice.between(0, 2)];
        let quick = |dice: &mut Dice, rarely: Duration, often: Duration| {
            if dice.one_in(4) { rarely } else { often }
        };
        let (ms, us) = (Duration::from_millis, Duration::from_micros);
        let resizings = if dice.one_in(2) {
            let count = dice.between(1, 4);
            let mut all: Vec<_> = (0..count)
                .map(|_| (dice.micros(1000.0, 3e6), sizes(dice)))
                .collect();
            all.sort_by_key(|(at, _)| *at);
            all
        } else {
            Vec::new()
        };
        let reserve = if dice.one_in(2) {
            (dice.biased(1, 10), dice.micros(1e3, 1e6))
        } else {
            (0, Duration::ZERO)
        };
        let room = if dice.one_in(2) {
            dice.biased(1, 60)
        } else {
            0
        };
        let (sizes, resizings) = fitting(room, sizes(dice), resizings);
        Self {
            reserve,
            room,
            shards,
            home: dice.between(0, shards - 1),
            sizes,
            habits: Habits {
                round_robin: dice.one_in(3),
                idle_timeout: quick(dice, ms(50), Duration::ZERO),
            },
            clients,
            wait_max: dice.micros(1e5, 2e7),
            use_time: (shortest, longest),
            think_time: (thinks, thinks * 50.0),
            lane_delay: dice.micros(5.0, 1000.0),
            full_lane: quick(dice, ms(100), Duration::ZERO),
            pack_delay: quick(dice, ms(20), us(50)),
            lateness: quick(dice, ms(5), us(50)),
            open_time: dice.micros(300.0, 2e5),
            lifetime: quick(dice, ms(700), Duration::ZERO),
            check_after: quick(dice, ms(10), Duration::ZERO),
            trouble: [50, 1000, 1_000_000][dice.between(0, 2)],
            resizings,
            retirement: dice.one_in(12).then(|| dice.micros(1000.0, 3e6)),
            reload_spread: quick(dice, ms(1000), ms(5)),
        }
    }

    /// The longest that a letter can be under way, with a server in it or not.
    pub(crate) fn letter_max(&self) -> Duration {
        self.lane_delay + self.full_lane
    }
}
