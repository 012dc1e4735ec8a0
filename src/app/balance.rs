//! When a shard has too many clients.
//!
//! **Owns:** two decisions over the clients of all shards: whether a fresh connection goes to another
//! shard, and how many sessions a shard should hand over.
//! **Does not own:** doing it (`hand_over`), which sessions go (`session::registry`).
//!
//! The kernel spreads connections over the listening sockets by a hash of their addresses, so of `n`
//! clients on a shard some `√n` are chance, and what clients close later is chance too. Passing a
//! fresh connection on costs one message to another thread, little beside a login, so the bound at
//! accept is tight: at most 2 clients and a 32nd above the least shard. Moving a session costs
//! two system calls and a task on either side, so that is done only for a difference that stays.

/// Sessions that a shard hands over in one round at most.
const EXCESS_MAX: u64 = 256;

/// True if a shard with `own` clients passes the next one on to one with `least`.
pub const fn passes_on(own: u64, least: u64) -> bool {
    own > least + 1 + least / 32
}

/// How many of its `own` clients a shard has too many, when all `shards` have `all`: none up to
/// 3 % and one client above the mean.
pub const fn excess(own: u64, all: u64, shards: u64) -> u64 {
    if 100 * own * shards <= 103 * all + 100 * shards {
        return 0;
    }
    let excess = own - all.div_ceil(shards);
    if excess < EXCESS_MAX {
        excess
    } else {
        EXCESS_MAX
    }
}

/// True if an excess is so large, a tenth of the mean, that chance hardly makes it and the next
/// round need not confirm it.
pub const fn is_urgent(excess: u64, all: u64, shards: u64) -> bool {
    10 * excess * shards > all
}

/// The shard with the fewest clients among those that are not `own`, and its number of clients. Equal
/// ones are found by each shard in another order, so that not all choose the same.
pub fn least(loads: impl Fn(usize) -> u64, own: usize, shards: usize) -> Option<(usize, u64)> {
    let others = (1..shards).map(|offset| (own + offset) % shards);
    others
        .map(|shard| (shard, loads(shard)))
        .min_by_key(|(_, load)| *load)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn few_clients_are_not_passed_to_and_fro() {
        assert!(!passes_on(0, 0) && !passes_on(1, 0) && passes_on(2, 0));
        assert!(!passes_on(1032, 1000) && passes_on(1033, 1000));
    }

    #[test]
    fn only_a_clear_excess_counts() {
        assert_eq!(
            [excess(2, 2, 2), excess(3, 4, 2), excess(4, 4, 2)],
            [0, 0, 2]
        );
        assert_eq!([excess(104, 206, 2), excess(110, 200, 2)], [0, 10]);
        assert_eq!(excess(5000, 5000, 4), EXCESS_MAX);
        assert_eq!(excess(0, 0, 4), 0);
        assert!(is_urgent(11, 200, 2) && !is_urgent(10, 200, 2) && !is_urgent(0, 0, 2));
    }

    #[test]
    fn equally_empty_shards_are_chosen_in_turn() {
        let loads = [9, 1, 1, 1];
        let chosen = [0, 1, 2, 3].map(|own| least(|shard| loads[shard], own, 4).map(|(at, _)| at));
        assert_eq!(chosen, [Some(1), Some(2), Some(3), Some(1)]);
        assert_eq!(least(|_| 0, 0, 1), None);
    }

    #[test]
    fn passing_on_keeps_shards_even_while_clients_only_come() {
        let seed = rand::rng().random();
        eprintln!("SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut loads = [0_u64; 8];
        for total in 1..20_000_u64 {
            let mut shard = random.random_range(0..8);
            let (other, fewest) = least(|at| loads[at], shard, 8).unwrap();
            if passes_on(loads[shard], fewest) {
                shard = other;
            }
            loads[shard] += 1;
            let most = loads.into_iter().max().unwrap();
            assert!(most <= total / 8 + 2 + total / 8 / 32 + 1, "{loads:?}");
        }
    }
}
