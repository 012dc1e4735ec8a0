//! Tests of rights: their number, their order, and that none is lost.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const fn claimant(shard: usize, pool: u64) -> Claimant {
    Claimant {
        shard,
        pool,
        reloads: 0,
    }
}

fn quota(limit: usize) -> Arc<Quota> {
    let quota = Arc::<Quota>::default();
    quota.set_limit(limit);
    quota
}

#[test]
fn without_a_limit_everybody_has_a_right_and_is_counted() {
    let quota = quota(0);
    let rights = quota.take(claimant(0, 1), 1000, None);
    assert_eq!((rights.len(), quota.used()), (1000, 1000));
    assert!(!quota.is_short() && quota.close_one(1, None).is_none());
    quota.set_limit(10);
    assert!(quota.is_short());
    assert!(quota.close_one(1, None).is_some(), "there are too many");
    drop(rights);
    assert!(!quota.is_short());
}

#[test]
fn a_free_right_is_for_who_has_waited_longest() {
    let quota = quota(1);
    let start = Instant::now();
    let at = |millis| Some(start + Duration::from_millis(millis));
    let (a, b, c) = (claimant(0, 1), claimant(1, 2), claimant(0, 3));
    let right = quota.take(a, 1, None);
    assert!(quota.take(b, 1, at(20)).is_empty());
    assert!(quota.take(c, 1, at(10)).is_empty());
    assert!(quota.next().is_empty(), "nothing is free");
    drop(right);
    assert_eq!(quota.next(), [c]);
    assert!(quota.take(a, 1, None).is_empty(), "nobody waits for it");
    assert!(quota.take(a, 1, at(15)).is_empty());
    assert!(quota.take(b, 1, at(20)).is_empty());
    let right = quota.take(c, 1, at(10));
    assert_eq!(right.len(), 1);
    quota.renew(a, None);
    drop(right);
    assert_eq!(quota.next(), [b]);
}

#[test]
fn who_waits_again_after_the_claim_was_void_has_one_again() {
    let quota = quota(1);
    let (a, b) = (claimant(0, 1), claimant(1, 2));
    let right = quota.take(a, 1, None);
    let since = Instant::now();
    assert!(quota.take(b, 1, Some(since)).is_empty());
    quota.renew(b, None);
    assert!(!quota.is_short());
    quota.renew(b, Some(since));
    assert!(quota.is_short());
    drop(right);
    assert_eq!(quota.next(), [b]);
}

#[test]
fn no_more_is_closed_than_claims_of_other_pools_need() {
    let quota = quota(4);
    let (a, b) = (claimant(0, 1), claimant(1, 2));
    let mut rights = quota.take(a, 4, None);
    let since = Instant::now();
    assert!(quota.take(b, 1, Some(since)).is_empty());
    assert!(quota.close_one(2, None).is_none(), "its own pool");
    let younger = Some(since + MARGIN);
    assert!(quota.close_one(1, younger).is_none(), "its own clients");
    let closing = quota.close_one(1, Some(since + MARGIN * 2));
    assert!(closing.is_some());
    assert!(quota.close_one(1, None).is_none(), "one is on its way");
    rights.pop();
    drop(closing);
    assert!(quota.close_one(1, None).is_none(), "there is room");
    assert_eq!(quota.take(b, 1, Some(since)).len(), 1);
    assert!(!quota.is_short());
}

#[test]
fn of_those_who_have_waited_equally_long_one_is_first() {
    let quota = quota(1);
    let since = Some(Instant::now());
    let right = quota.take(claimant(0, 9), 1, None);
    let waiting = [claimant(0, 1), claimant(0, 2), claimant(1, 1)];
    for who in waiting {
        assert!(quota.take(who, 1, since).is_empty());
    }
    drop(right);
    for who in waiting {
        assert_eq!(quota.next(), [who]);
        assert_eq!(quota.take(who, 1, since).len(), 1);
    }
}

/// Pools on shards that open, close, wait and give up in any order.
#[test]
fn rights_never_pass_the_limit_and_who_waits_is_served() {
    let seed: u64 = rand::rng().random();
    let mut dice = StdRng::seed_from_u64(seed);
    for _ in 0..200 {
        let limit = dice.random_range(1..6);
        let quota = quota(limit);
        let pools: Vec<_> = (0..6).map(|n| claimant(n % 2, n as u64 / 2)).collect();
        let mut held: Vec<(usize, Right)> = Vec::new();
        let mut waits: Vec<Option<Instant>> = vec![None; pools.len()];
        let mut now = Instant::now();
        for _ in 0..200 {
            // Some wait since the same moment.
            now += Duration::from_millis(dice.random_range(0..2));
            let pool = dice.random_range(0..pools.len());
            match dice.random_range(0..4) {
                0 => {
                    let since = *waits[pool].get_or_insert(now);
                    let rights = quota.take(pools[pool], 1, Some(since));
                    if !rights.is_empty() {
                        waits[pool] = None;
                    }
                    held.extend(rights.into_iter().map(|right| (pool, right)));
                }
                1 if !held.is_empty() => {
                    let at = dice.random_range(0..held.len());
                    held.swap_remove(at);
                }
                2 => {
                    waits[pool] = None;
                    quota.renew(pools[pool], None);
                }
                _ => {
                    let closing = quota.close_one(pools[pool].pool, waits[pool]);
                    let of_pool = held.iter().position(|(of, _)| *of == pool);
                    let at = of_pool.filter(|_| closing.is_some());
                    drop(at.map(|at| held.swap_remove(at)));
                }
            }
            assert!(held.len() <= limit, "seed {seed}");
            assert_eq!(quota.used(), held.len(), "seed {seed}");
            let waiting = waits.iter().flatten().count();
            assert_eq!(quota.is_short(), waiting > 0, "seed {seed}");
            if waiting > 0 && held.len() < limit {
                let first = waits.iter().flatten().min();
                let next = quota.next();
                let told = pools.iter().position(|known| *known == next[0]).unwrap();
                assert_eq!(waits[told].as_ref(), first, "seed {seed}");
                let rights = quota.take(next[0], 1, waits[told].take());
                assert_eq!(rights.len(), 1, "seed {seed}");
                held.extend(rights.into_iter().map(|right| (told, right)));
            }
        }
        held.clear();
        // Whoever waits is told in turn, until nobody does.
        let mut rounds = 0;
        while let Some(who) = quota.next().first().copied() {
            let pool = pools.iter().position(|known| *known == who).unwrap();
            let since = waits[pool].take();
            let rights = quota.take(who, 1, since);
            assert_eq!(rights.len(), 1, "seed {seed}");
            rounds += 1;
            assert!(rounds <= pools.len(), "seed {seed}");
        }
        assert!(waits.iter().all(Option::is_none), "seed {seed}");
    }
}

#[test]
fn threads_together_do_not_pass_the_limit() {
    let quotas = Quotas::default();
    let kept = quotas.of("db");
    kept.set_limit(3);
    std::thread::scope(|scope| {
        for shard in 0..4 {
            let quotas = quotas.clone();
            scope.spawn(move || {
                let quota = quotas.of("db");
                let who = claimant(shard, shard as u64);
                for round in 0..2000 {
                    let rights = quota.take(who, 2, (round % 3 == 0).then(Instant::now));
                    assert!(quota.used() <= 3);
                    drop(rights);
                    quota.renew(who, None);
                }
            });
        }
    });
    assert_eq!(kept.used(), 0);
    assert!(!kept.is_short());
}
