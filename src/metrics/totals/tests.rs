//! Totals: each count is counted once.

use proptest::prelude::*;

use super::*;
use crate::metrics::Enrolled;
use crate::metrics::window::views;

#[test]
fn what_was_inherited_is_shown_and_goes_on() {
    let old = Fleet::new(3);
    let pool = Enrolled::new(&old, 2, "db", "u");
    for _ in 0..10 {
        pool.queries.record(100);
    }
    pool.bytes_sent.add(7);
    old.shard(2).wants.add(5);
    old.shard(0).wants.add(1);
    old.shard(2).clients.add(4);
    let told = Totals::take(&old);
    let heir = Fleet::new(2);
    let its_pool = Enrolled::new(&heir, 0, "db", "u");
    heir.inherit(&told.since(&Totals::default()), true);
    its_pool.queries.record(100);
    pool.queries.record(200);
    old.shard(2).wants.add(2);
    heir.inherit(&Totals::take(&old).since(&told), false);
    let view = views(&heir).pop().unwrap();
    assert_eq!((view.now.queries.count(), view.now.bytes_sent), (12, 7));
    assert_eq!(view.recent.queries.count(), 2, "history is not recent");
    let shards = ShardSnapshot::take_all(&heir);
    assert_eq!((shards[0].value("wants"), shards[1].value("wants")), (8, 0));
    assert_eq!(shards[0].value("clients"), 0, "what goes up and down stays");
    // And the process after that one.
    let last = Fleet::new(1);
    let _of_last = Enrolled::new(&last, 0, "db", "u");
    last.inherit(&Totals::take(&heir), true);
    assert_eq!(views(&last)[0].now.queries.count(), 12);
}

proptest! {
    #[test]
    fn each_count_is_counted_once_however_often_it_is_told(
        steps in prop::collection::vec((0..3_u8, 0..2_u8, 0..2_000_000_u64), 0..60),
    ) {
        let (old, heir) = (Fleet::new(2), Fleet::new(1));
        let blocks = [0, 1].map(|shard| Enrolled::new(&old, shard, "db", "u"));
        let _there = Enrolled::new(&heir, 0, "db", "u");
        let mut told = Totals::default();
        let mut tell = || {
            let now = Totals::take(&old);
            heir.inherit(&now.since(&told), false);
            told = now;
        };
        for (what, shard, micros) in steps {
            let shard = usize::from(shard);
            match what {
                0 => tell(),
                1 => blocks[shard].queries.record(micros),
                _ => old.shard(shard).parses_sent.add(micros),
            }
        }
        tell();
        prop_assert_eq!(&views(&heir)[0].now.queries, &views(&old)[0].now.queries);
        let sum = |fleet: &Fleet| -> u64 {
            let shards = ShardSnapshot::take_all(fleet);
            shards.iter().map(|shard| shard.value("parses_sent")).sum()
        };
        prop_assert_eq!(sum(&heir), sum(&old));
    }

}
