//! Two and more parts of one pool, with letters that arrive at once. Delays, other orders, failures
//! and many more shards are the business of the simulation in `tests/sim`.

use super::exchange::{GRACE, HOT, PULSE};
use super::*;

type Fleet = Vec<Part<u32, char>>;

const HABITS: Habits = Habits {
    round_robin: false,
    idle_timeout: Duration::ZERO,
};

fn fleet(count: usize, size: usize, kept: usize) -> Fleet {
    let sizes = Sizes {
        size,
        kept,
        opening_max: 2,
    };
    let place = |here| Place {
        here,
        count,
        home: 0,
    };
    (0..count)
        .map(|here| Part::new(place(here), sizes, HABITS, 0))
        .collect()
}

#[test]
fn waiters_of_a_paused_pool_get_no_error_when_an_opening_fails() {
    let now = Instant::now();
    let error = Rc::new(CheckoutError::LoginTimeout);
    for count in [1, 2] {
        let mut fleet = fleet(count, 2, 0);
        let ticket = fleet[0].wait('a', now, now + Duration::from_secs(9));
        assert_eq!(fleet[0].openings(now), 1);
        fleet[0].pause(now);
        let rest = Duration::from_millis(50);
        assert!(fleet[0].open_failed(&error, now, rest).is_empty());
        deliver(&mut fleet, now);
        assert!(fleet[0].want().is_none() && fleet[0].take_wakers().is_empty());
        assert!(fleet[0].collect(ticket).is_none());
        let later = now + 2 * rest;
        fleet[0].resume(later, later + Duration::from_secs(9));
        assert_eq!(fleet[0].openings(later), 1);
    }
}

/// Delivers all letters, and those that they lead to.
fn deliver(fleet: &mut Fleet, now: Instant) {
    loop {
        let mut letters = Vec::new();
        for (from, part) in fleet.iter_mut().enumerate() {
            letters.extend(part.take_post().into_iter().map(|post| (from, post)));
        }
        if letters.is_empty() {
            return;
        }
        for (from, (to, letter)) in letters {
            fleet[to].receive(from, letter, None, now);
        }
    }
}

/// Opens whatever is to be opened, numbering servers from `first`.
fn open_all(fleet: &mut Fleet, first: u32, now: Instant) -> u32 {
    let (mut next, mut rounds_without) = (first, 0);
    while rounds_without < 3 {
        rounds_without += 1;
        for shard in 0..fleet.len() {
            let count = fleet[shard].openings(now);
            deliver(fleet, now);
            for _ in 0..count {
                fleet[shard].opened(now);
                fleet[shard].checkin(next, now, None);
                next += 1;
                rounds_without = 0;
            }
            deliver(fleet, now);
        }
    }
    next
}

fn permits(fleet: &Fleet) -> Vec<usize> {
    fleet.iter().map(Part::permits).collect()
}

fn wait(fleet: &mut Fleet, shard: usize, now: Instant) -> Ticket {
    assert!(fleet[shard].checkout().is_none());
    fleet[shard].wait('w', now, now + Duration::from_secs(60))
}

#[test]
fn one_permit_goes_round_among_shards_in_the_order_of_waiting() {
    let mut now = Instant::now();
    let mut fleet = fleet(4, 1, 0);
    let first = wait(&mut fleet, 0, now);
    open_all(&mut fleet, 1, now);
    let mut server = fleet[0].collect(first).unwrap().unwrap();
    let mut holder = 0;
    let waits: Vec<_> = [2, 1, 3]
        .into_iter()
        .map(|shard| {
            now += Duration::from_millis(1);
            let ticket = wait(&mut fleet, shard, now);
            deliver(&mut fleet, now);
            (shard, ticket)
        })
        .collect();
    for (shard, ticket) in waits {
        now += Duration::from_millis(1);
        assert_eq!(fleet[holder].checkin(server, now, None), None);
        deliver(&mut fleet, now);
        assert_eq!(fleet[shard].take_wakers(), ['w']);
        server = fleet[shard].collect(ticket).unwrap().unwrap();
        holder = shard;
        assert_eq!(permits(&fleet).iter().sum::<usize>(), 1);
    }
}

#[test]
fn an_idle_server_elsewhere_ends_a_wait_at_once() {
    let start = Instant::now();
    let mut fleet = fleet(2, 2, 2);
    open_all(&mut fleet, 1, start);
    let now = start + HOT;
    assert!(fleet[1].checkout().is_some());
    let ticket = wait(&mut fleet, 1, now);
    assert_eq!(
        fleet[1].review_at(),
        Some(now + GRACE),
        "its own may come back"
    );
    let now = now + GRACE;
    fleet[1].review(now);
    deliver(&mut fleet, now);
    assert!(fleet[1].collect(ticket).unwrap().is_ok());
    assert_eq!(permits(&fleet), [0, 2]);
    assert_eq!((fleet[0].kept(), fleet[1].kept()), (0, 2));
    let tally = fleet[1].take_tally();
    assert_eq!((tally.wants, tally.granted, tally.beside_idle), (1, 1, 1));
}

#[test]
fn permits_without_servers_are_found_and_go_home_when_unneeded() {
    let now = Instant::now();
    let mut fleet = fleet(3, 6, 0);
    let tickets: Vec<_> = (0..6).map(|_| wait(&mut fleet, 2, now)).collect();
    let mut now = now;
    for _ in 0..8 {
        open_all(&mut fleet, 1, now);
        now += PULSE;
        fleet[2].review(now);
        deliver(&mut fleet, now);
    }
    assert_eq!(permits(&fleet), [0, 0, 6]);
    for ticket in tickets {
        assert!(fleet[2].collect(ticket).is_some());
        fleet[2].discard(now);
    }
    for _ in 0..2 {
        fleet[2].settle(now);
        deliver(&mut fleet, now);
    }
    assert_eq!(permits(&fleet), [6, 0, 0]);
}

#[test]
fn a_smaller_pool_closes_idle_servers_and_a_larger_one_takes_debts_back() {
    let now = Instant::now();
    let mut fleet = fleet(3, 9, 9);
    open_all(&mut fleet, 1, now);
    let lent: Vec<_> = (0..3).map(|_| fleet[1].checkout().unwrap().0).collect();
    let resize = |fleet: &mut Fleet, size, sizing| {
        let sizes = Sizes {
            size,
            kept: 0,
            opening_max: 2,
        };
        for part in fleet.iter_mut() {
            part.resize(sizes, sizing, now);
        }
        deliver(fleet, now);
    };
    resize(&mut fleet, 2, 1);
    assert_eq!(permits(&fleet), [0, 3, 0], "three are in use");
    assert_eq!(fleet[0].debt(), 1);
    let closed: usize = fleet.iter_mut().map(|part| part.take_closing().len()).sum();
    assert_eq!(closed, 6);
    fleet[1].checkin(lent[0], now, None);
    deliver(&mut fleet, now);
    assert_eq!((fleet[0].debt(), permits(&fleet)), (0, vec![0, 2, 0]));
    resize(&mut fleet, 1, 2);
    assert_eq!(fleet[0].debt(), 1);
    resize(&mut fleet, 5, 3);
    assert_eq!(
        (fleet[0].debt(), permits(&fleet).iter().sum()),
        (0, 5_usize)
    );
}

#[test]
fn shards_whose_queues_move_share_by_how_long_their_clients_wait() {
    let mut now = Instant::now();
    let mut fleet = fleet(2, 4, 4);
    open_all(&mut fleet, 1, now);
    // Shard 0 has six times the clients of shard 1; every server is lent for one millisecond.
    let mut lent: [Vec<u32>; 2] = [Vec::new(), Vec::new()];
    let mut waits: [Vec<Ticket>; 2] = [Vec::new(), Vec::new()];
    for (shard, clients) in [(0, 60), (1, 10)] {
        for _ in 0..clients {
            match fleet[shard].checkout() {
                Some((server, _)) => lent[shard].push(server),
                None => waits[shard].push(fleet[shard].wait('w', now, now + PULSE * 1000)),
            }
        }
    }
    for _ in 0..400 {
        now += Duration::from_millis(1);
        for shard in 0..2 {
            for server in std::mem::take(&mut lent[shard]) {
                fleet[shard].checkin(server, now, None);
                let again = fleet[shard].wait('w', now, now + PULSE * 1000);
                waits[shard].push(again);
            }
            fleet[shard].review(now);
        }
        deliver(&mut fleet, now);
        for shard in 0..2 {
            waits[shard].retain(|ticket| match fleet[shard].collect(*ticket) {
                Some(served) => {
                    lent[shard].push(served.unwrap());
                    false
                }
                None => true,
            });
        }
    }
    assert_eq!(permits(&fleet), [3, 1]);
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

fn grant(number: u32, sizing: u32, server: Option<u32>) -> Letter<u32> {
    Letter::Grant(Grant {
        number,
        permits: 1,
        kept: 1,
        sizing,
        server,
        was_idle: false,
    })
}

#[test]
fn a_want_that_is_said_again_while_it_is_granted_stays_over() {
    let now = Instant::now();
    let mut fleet = fleet(3, 1, 0);
    let said = || Letter::Want(want(1, now));
    fleet[0].receive(1, said(), None, now);
    assert!(fleet[0].is_at_rest(), "granted with the only permit");
    fleet[0].receive(1, said(), None, now);
    assert!(fleet[0].is_at_rest());
    fleet[0].receive(1, Letter::Want(want(2, now)), None, now);
    assert!(!fleet[0].is_at_rest());
}

#[test]
fn kept_permits_from_beyond_two_resizings_are_counted_after_the_second() {
    let now = Instant::now();
    let mut fleet = fleet(2, 4, 4);
    let sizes = Sizes {
        size: 4,
        kept: 4,
        opening_max: 2,
    };
    fleet[1].receive(0, grant(0, 2, None), None, now);
    fleet[1].resize(sizes, 1, now);
    assert_eq!(fleet[1].kept(), 2);
    fleet[1].resize(sizes, 2, now);
    assert_eq!(fleet[1].kept(), 3);
}

#[test]
fn home_gives_back_every_opening_that_it_does_not_need_any_more() {
    let now = Instant::now();
    let mut fleet = fleet(2, 16, 0);
    let waits: Vec<_> = (0..8).map(|_| wait(&mut fleet, 0, now)).collect();
    assert_eq!(fleet[0].openings(now), 2);
    for ticket in waits {
        let _ = fleet[0].cancel(ticket, now);
    }
    let error = Rc::new(CheckoutError::LoginTimeout);
    for _ in 0..2 {
        fleet[0].open_failed(&error, now, Duration::ZERO);
    }
    assert_eq!(fleet[0].openings(now), 0);
    assert!(fleet[0].is_at_rest());
}

#[test]
fn a_holder_answers_for_a_want_that_home_asks_for_once_more() {
    let now = Instant::now();
    let recall = |to, number| Letter::Recall {
        to,
        want: want(number, now),
    };
    let mut fleet = fleet(3, 6, 6);
    open_all(&mut fleet, 1, now);
    let lent: Vec<_> = (0..2).map(|_| fleet[1].checkout().unwrap().0).collect();
    let later = now + PULSE;
    fleet[1].receive(0, recall(2, 1), None, later);
    fleet[1].checkin(lent[0], later, None);
    fleet[1].receive(0, recall(0, 1), None, later);
    // Written before home heard that it was granted, and in place of the other one.
    fleet[1].receive(0, recall(2, 1), None, later);
    fleet[1].take_post();
    fleet[1].receive(0, recall(0, 1), None, later);
    assert_eq!(
        fleet[1].take_post(),
        [(
            0,
            Letter::Busy {
                to: 0,
                number: 1,
                has_servers: true
            }
        )]
    );
}

#[test]
fn waiters_go_before_the_minimum_of_another_shard() {
    let mut now = Instant::now();
    let mut fleet = fleet(2, 4, 4);
    for _ in 0..3 {
        wait(&mut fleet, 1, now);
    }
    now += GRACE;
    fleet[1].review(now);
    deliver(&mut fleet, now);
    assert_eq!(permits(&fleet), [1, 3]);
    assert_eq!((fleet[0].kept(), fleet[1].kept()), (1, 3));
}

/// Shard 1 of two whose first waiter has been served with server 1 and whose others wait.
fn flowing(waiters: usize, now: Instant) -> Part<u32, char> {
    let mut fleet = fleet(2, 1, 0);
    let first = wait(&mut fleet, 1, now);
    for _ in 1..waiters {
        wait(&mut fleet, 1, now);
    }
    let at = now + Duration::from_micros(1);
    fleet[1].receive(0, grant(1, 0, Some(1)), None, at);
    assert_eq!(fleet[1].collect(first).unwrap(), Ok(1));
    fleet[1].review(at + GRACE);
    assert!(fleet[1].want().unwrap().flowing.is_some());
    fleet.remove(1)
}

#[test]
fn a_shard_that_rests_still_wants_what_nobody_uses() {
    let now = Instant::now();
    let mut part = flowing(4, now);
    let at = now + GRACE * 3;
    part.receive(0, grant(2, 0, Some(2)), None, at);
    part.review(at + GRACE);
    assert!(part.want().unwrap().is_resting());
    part.review(at + PULSE * 2);
    part.review(at + PULSE * 3);
    assert!(!part.want().unwrap().is_resting());
}

#[test]
fn who_waits_at_home_for_a_permit_that_a_debt_takes_wants_another() {
    let now = Instant::now();
    let mut fleet = fleet(2, 4, 0);
    wait(&mut fleet, 0, now);
    let sizes = Sizes {
        size: 2,
        kept: 0,
        opening_max: 2,
    };
    fleet[0].resize(sizes, 1, now);
    assert_eq!(fleet[0].permits(), 0, "both have gone to pay");
    assert!(fleet[0].want().is_some());
}

#[test]
fn a_queue_does_not_move_by_servers_that_have_left() {
    let now = Instant::now();
    let mut part = flowing(2, now);
    let at = now + PULSE * 2;
    let longer = now.checked_sub(PULSE * 9).unwrap();
    let recall = Letter::Recall {
        to: 0,
        want: want(1, longer),
    };
    part.receive(0, recall, None, at);
    assert_eq!(part.checkin(1, at, None), None);
    assert_eq!(part.permits(), 0);
    assert_eq!(part.want().unwrap().flowing, None);
}

#[test]
fn a_pool_that_shrinks_keeps_as_many_servers_as_it_may() {
    let now = Instant::now();
    let mut fleet = fleet(2, 4, 4);
    let next = open_all(&mut fleet, 1, now);
    let sizes = |size, kept| Sizes {
        size,
        kept,
        opening_max: 2,
    };
    let mut next = next;
    for (sizing, (size, kept)) in [(1, (7, 7)), (2, (2, 1))] {
        for part in &mut fleet {
            part.resize(sizes(size, kept), sizing, now);
        }
        deliver(&mut fleet, now);
        for _ in 0..3 {
            for part in &mut fleet {
                part.settle(now);
            }
            deliver(&mut fleet, now);
        }
        next = open_all(&mut fleet, next, now);
        assert_eq!(permits(&fleet).iter().sum::<usize>(), size);
        let held: usize = fleet.iter().map(|part| part.state().held()).sum();
        assert_eq!(held, size);
        assert_eq!(next, 8, "of the larger pool two are left");
    }
}

#[test]
fn who_cannot_open_waits_for_servers_elsewhere_and_fails_if_there_are_none() {
    let now = Instant::now();
    let rest = Duration::from_millis(10);
    let error = Rc::new(CheckoutError::LoginTimeout);
    let mut fleet = fleet(3, 6, 0);
    let fails = |fleet: &mut Fleet| {
        let ticket = wait(fleet, 1, now);
        for _ in 0..2 {
            fleet[1].openings(now);
            deliver(fleet, now);
        }
        assert_eq!(fleet[1].state().opening_count(), 1);
        assert!(fleet[1].open_failed(&error, now, rest).is_empty());
        deliver(fleet, now);
        ticket
    };
    let ticket = fails(&mut fleet);
    assert!(fleet[1].collect(ticket).is_none(), "it may be under way");
    let now = now + rest;
    assert_eq!(fleet[1].openings(now), 0);
    deliver(&mut fleet, now);
    assert_eq!(fleet[1].openings(now), 1);
    assert!(fleet[1].open_failed(&error, now, rest).is_empty());
    deliver(&mut fleet, now);
    assert_eq!(fleet[1].take_wakers(), ['w']);
    assert!(fleet[1].collect(ticket).unwrap().is_err(), "nobody has one");

    // Shard 2 has a server in use.
    let holder = wait(&mut fleet, 2, now);
    for _ in 0..2 {
        fleet[2].openings(now);
        deliver(&mut fleet, now);
    }
    fleet[2].opened(now);
    fleet[2].checkin(7, now, None);
    let server = fleet[2].collect(holder).unwrap().unwrap();
    let now = now + rest;
    let ticket = wait(&mut fleet, 1, now);
    for _ in 0..2 {
        fleet[1].openings(now);
        deliver(&mut fleet, now);
    }
    assert!(fleet[1].open_failed(&error, now, rest).is_empty());
    deliver(&mut fleet, now);
    assert!(fleet[1].collect(ticket).is_none(), "it waits for that one");
    let now = now + rest;
    assert_eq!(fleet[2].checkin(server, now, None), None);
    deliver(&mut fleet, now);
    assert_eq!(fleet[1].collect(ticket).unwrap().unwrap(), 7);
}
