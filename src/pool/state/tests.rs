//! The decisions of a pool: who gets a server, who waits, what is opened and closed.

use super::*;

type Pool = PoolState<u32, char>;

const LIMITS: Limits = Limits {
    permits: 2,
    servers_min: 0,
    round_robin: false,
    idle_timeout: Duration::from_secs(10),
};

fn error() -> Rc<CheckoutError> {
    Rc::new(CheckoutError::WaitTimeout)
}

/// Starts what should be opened, up to `opening_max` in all.
fn open(pool: &mut Pool, now: Instant, opening_max: usize) -> usize {
    let may = opening_max.saturating_sub(pool.held() - pool.lent_count() - pool.idle_count());
    let count = pool.openings_wanted(now).min(may);
    pool.opening(count);
    count
}

fn opened(pool: &mut Pool, server: u32, now: Instant) -> Option<char> {
    pool.opened();
    pool.checkin(server, now, None)
}

/// A pool with `count` idle servers numbered from 1.
fn with_idle(count: u32, now: Instant) -> Pool {
    let mut pool = Pool::new(Limits {
        permits: count as usize,
        servers_min: count as usize,
        ..LIMITS
    });
    assert_eq!(open(&mut pool, now, 9), count as usize);
    for server in 1..=count {
        assert_eq!(opened(&mut pool, server, now), None);
    }
    pool.set_limits(Limits {
        permits: count as usize,
        ..LIMITS
    });
    pool
}

#[test]
fn the_last_used_server_is_lent_first_or_the_longest_idle() {
    let now = Instant::now();
    let mut pool = with_idle(3, now);
    assert_eq!(pool.checkout().map(|(server, _)| server), Some(3));
    pool.set_limits(Limits {
        round_robin: true,
        permits: 3,
        ..LIMITS
    });
    assert_eq!(pool.checkout().map(|(server, _)| server), Some(1));
}

#[test]
fn waiters_are_served_in_order_and_nobody_overtakes() {
    let now = Instant::now();
    let mut pool = with_idle(1, now);
    let (server, _) = pool.checkout().unwrap();
    let later = now + Duration::from_secs(5);
    let tickets = ['a', 'b', 'c'].map(|name| pool.wait(name, now, later));
    assert_eq!(open(&mut pool, now, 2), 0, "no permit");
    let (granted, waker) = pool.cancel(tickets[1]);
    assert_eq!((granted, waker), (None, Some('b')));
    assert_eq!(pool.checkin(server, now, None), Some('a'));
    assert!(pool.checkout().is_none(), "c waits");
    assert_eq!(pool.collect(tickets[0]).unwrap().unwrap(), 1);
    assert!(pool.collect(tickets[2]).is_none());
    assert_eq!(pool.checkin(server, now, None), Some('c'));
    let (granted, _) = pool.cancel(tickets[2]);
    assert_eq!(granted, Some(1), "granted to one who has gone");
    assert_eq!(pool.checkin(1, now, None), None);
    assert_eq!(
        (pool.idle_count(), pool.lent_count(), pool.waiting_count()),
        (1, 0, 0)
    );
}

#[test]
fn openings_follow_waiters_permits_and_the_parallel_limit() {
    let now = Instant::now();
    let mut pool = Pool::new(Limits {
        permits: 5,
        ..LIMITS
    });
    let later = now + Duration::from_secs(5);
    for name in ['a', 'b', 'c'] {
        pool.wait(name, now, later);
    }
    assert_eq!(open(&mut pool, now, 2), 2);
    assert_eq!(open(&mut pool, now, 2), 0, "both are on their way");
    assert_eq!(opened(&mut pool, 1, now), Some('a'));
    assert_eq!(open(&mut pool, now, 2), 1);
    assert_eq!(pool.held(), 3);
}

#[test]
fn a_failed_opening_fails_waiters_only_if_nobody_can_serve_them() {
    let now = Instant::now();
    let rest = Duration::from_millis(10);
    let mut pool = with_idle(1, now);
    pool.set_limits(LIMITS);
    let lent = pool.checkout().unwrap().0;
    let ticket = pool.wait('a', now, now + Duration::from_secs(5));
    assert_eq!(open(&mut pool, now, 2), 1);
    assert!(
        pool.open_failed(now, rest),
        "the lent server will come back"
    );
    assert_eq!(open(&mut pool, now, 2), 0, "rests");
    assert_eq!(pool.next_deadline(), Some(now + rest));
    assert_eq!(open(&mut pool, now + rest, 2), 1);
    pool.discard();
    assert!(!pool.open_failed(now, rest));
    assert_eq!(pool.fail_all(&error()), ['a']);
    assert!(pool.collect(ticket).unwrap().is_err());
    assert_eq!((pool.held(), lent), (0, 1));
}

#[test]
fn waits_end_at_their_deadline() {
    let now = Instant::now();
    let mut pool = Pool::new(Limits {
        permits: 0,
        ..LIMITS
    });
    let first = pool.wait('a', now, now + Duration::from_secs(1));
    let second = pool.wait('b', now, now + Duration::from_secs(2));
    assert_eq!(pool.next_deadline(), Some(now + Duration::from_secs(1)));
    assert_eq!(pool.expire(now + Duration::from_secs(1), &error()), ['a']);
    assert_eq!(
        *pool.collect(first).unwrap().unwrap_err(),
        CheckoutError::WaitTimeout
    );
    assert!(pool.collect(first).is_none(), "a ticket is void once used");
    assert!(pool.collect(second).is_none());
    assert_eq!(pool.waiting_count(), 1);
}

#[test]
fn idle_and_old_servers_retire_but_the_minimum_stays() {
    let now = Instant::now();
    let mut pool = with_idle(3, now);
    pool.set_limits(Limits {
        permits: 3,
        servers_min: 2,
        ..LIMITS
    });
    let later = now + Duration::from_secs(11);
    assert_eq!(pool.retire(now, 9), [0_u32; 0]);
    assert_eq!(pool.retire(later, 9), [1], "two are to stay");
    let (server, _) = pool.checkout().unwrap();
    assert_eq!(pool.checkin(server, later, Some(later)), None);
    assert_eq!(
        pool.retire(later, 9),
        [3],
        "its life is over, minimum or not"
    );
}

/// Goal: the invariants of the module header hold whatever happens in whatever order.
/// Method: random events from a seed against a simple account of where every server is.
#[test]
fn servers_and_waiters_are_conserved_under_random_events() {
    for seed in 0..200_u64 {
        random_run(seed);
    }
}

fn random_run(seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound as u64) as usize
    };
    let mut now = Instant::now();
    let permits = 1 + random(4);
    let mut pool = Pool::new(Limits { permits, ..LIMITS });
    let (mut lent, mut opening, mut tickets, mut next) = (Vec::new(), 0, Vec::new(), 0);
    for _ in 0..500 {
        now += Duration::from_millis(random(50) as u64);
        match random(9) {
            0 | 1 => match pool.checkout() {
                Some((server, _)) => lent.push(server),
                None => tickets.push(pool.wait('w', now, now + Duration::from_secs(1))),
            },
            2 | 3 if !lent.is_empty() => {
                let server = lent.swap_remove(random(lent.len()));
                pool.checkin(server, now, None);
            }
            4 if !lent.is_empty() => {
                lent.swap_remove(random(lent.len()));
                pool.discard();
            }
            5 => opening += open(&mut pool, now, 2),
            6 if opening > 0 => {
                opening -= 1;
                next += 1;
                opened(&mut pool, next, now);
            }
            7 if opening > 0 => {
                opening -= 1;
                if !pool.open_failed(now, Duration::from_millis(10)) {
                    pool.fail_all(&error());
                }
            }
            8 if !tickets.is_empty() => {
                let ticket = tickets.swap_remove(random(tickets.len()));
                lent.extend(pool.cancel(ticket).0);
            }
            _ => {
                pool.expire(now, &error());
                tickets.retain(|ticket| match pool.collect(*ticket) {
                    None => true,
                    Some(outcome) => {
                        lent.extend(outcome.ok());
                        false
                    }
                });
            }
        }
        let granted = pool.lent_count() - lent.len();
        assert!(granted <= tickets.len(), "seed {seed}");
        assert!(pool.held() <= permits, "seed {seed}");
        let all = lent.iter().chain(pool.idle.iter().map(|idle| &idle.server));
        let distinct: std::collections::HashSet<_> = all.clone().collect();
        assert_eq!(
            distinct.len(),
            all.count(),
            "seed {seed}: a server in two places"
        );
        assert!(
            pool.queued == 0 || pool.idle.is_empty(),
            "seed {seed}: idle while somebody waits"
        );
    }
}

#[test]
fn who_leaves_at_the_front_of_a_long_queue_is_not_looked_at_again() {
    let now = Instant::now();
    let mut pool = Pool::new(LIMITS);
    let tickets: Vec<_> = (0..16).map(|_| pool.wait('w', now, now)).collect();
    for ticket in &tickets[1..8] {
        let _ = pool.cancel(*ticket);
    }
    assert_eq!(pool.queue.len(), 16, "nobody looks there yet");
    let _ = pool.cancel(tickets[0]);
    assert_eq!(pool.queue.front(), Some(&tickets[8]));
}

#[test]
fn a_paused_pool_lends_and_opens_nothing_and_nobody_s_time_runs() {
    let now = Instant::now();
    let mut pool = with_idle(2, now);
    let (server, _) = pool.checkout().unwrap();
    pool.pause();
    assert!(pool.is_paused() && pool.checkout().is_none());
    assert_eq!(pool.drain_idle().len(), 1);
    let soon = now + Duration::from_secs(1);
    let ticket = pool.wait('a', now, soon);
    assert_eq!((pool.unserved(), open(&mut pool, now, 9)), (0, 0));
    assert_eq!(pool.checkin(server, now, None), None, "a waits on");
    assert_eq!(pool.drain_idle().len(), 1);
    let later = now + Duration::from_secs(5);
    assert_eq!(pool.next_deadline(), None);
    assert!(pool.expire(later, &error()).is_empty());
    assert_eq!(pool.waiting().copied().collect::<String>(), "a");
    pool.resume(later + Duration::from_secs(1));
    assert!(pool.expire(later, &error()).is_empty());
    assert_eq!(open(&mut pool, later, 9), 1);
    assert_eq!(opened(&mut pool, 7, later), Some('a'));
    assert_eq!(pool.collect(ticket).unwrap().unwrap(), 7);
}
