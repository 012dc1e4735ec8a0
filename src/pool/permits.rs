//! How the permits of a pool are divided among the shards.
//!
//! **Owns:** the arithmetic.
//! **Does not own:** what a permit is used for (`state`).
//!
//! **Invariant:** the parts of all shards add up to the whole.

/// The part of `whole` that belongs to shard `index` of `count`. What cannot be divided goes one by
/// one to the shards after `home`, so that small pools do not all land on the first shard.
pub const fn part(whole: usize, index: usize, count: usize, home: usize) -> usize {
    let position = (index + count - home % count) % count;
    whole / count + if position < whole % count { 1 } else { 0 }
}

/// The shard that gets the first of the permits that cannot be divided: a stable hash (FNV-1a) of
/// the pool's names.
pub fn home(database: &str, user: &str, count: usize) -> usize {
    let bytes = database.bytes().chain([0]).chain(user.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash % count as u64) as usize
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
        let homes = |a, b| home(a, b, 1 << 30);
        assert_ne!(homes("ab", "c"), homes("a", "bc"));
    }
}
