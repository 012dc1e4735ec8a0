//! Clients that an operator has closed and that are on no shard's list at the moment.
//!
//! **Owns:** whom the last orders to close clients were about, for as long as such a client may be on
//! its way.
//! **Does not own:** closing clients that are there (`orders`, `kill`).
//!
//! A client between two shards is on neither list, and one may leave a shard that has not been asked for
//! one that has. One that is logging in belongs to no database yet. So each shard keeps the orders in
//! mind, and closes whom it meets when it arrives, if it had connected before the order was given.
//!
//! **Invariant:** nobody is closed who has connected after the order.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::orders::Target;

/// How long a login may take that is still met, in seconds.
const DATABASE_KEPT: Duration = Duration::from_secs(300);
/// How long a client may be between two shards.
const CLIENT_KEPT: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Pursuit {
    /// When the order was given.
    at: Instant,
    /// Clients that were met since.
    caught: usize,
}

/// The orders of the last minutes.
#[derive(Debug, Default)]
pub struct Pursuits(RefCell<HashMap<Target, Pursuit>>);

const fn kept(target: &Target) -> Duration {
    match target {
        Target::Client(_) => CLIENT_KEPT,
        Target::Database(_) => DATABASE_KEPT,
    }
}

impl Pursuits {
    /// Keeps an order in mind that was given at `at`. Returns how many clients it has met already.
    pub fn begin(&self, target: &Target, at: Instant) -> usize {
        let mut all = self.0.borrow_mut();
        all.retain(|target, known| known.at + kept(target) > at);
        let known = all
            .entry(target.clone())
            .or_insert(Pursuit { at, caught: 0 });
        if known.at < at {
            *known = Pursuit { at, caught: 0 };
        }
        known.caught
    }

    /// True if client `id` of `database`, who has connected at `born`, is to be closed.
    pub fn meets(&self, id: u32, database: &str, born: Instant) -> bool {
        let mut all = self.0.borrow_mut();
        if all.is_empty() {
            return false;
        }
        let targets = [Target::Client(id), Target::Database(database.into())];
        let met = targets.iter().find(|target| {
            let known = all.get(target);
            known.is_some_and(|known| born <= known.at)
        });
        let Some(known) = met.and_then(|target| all.get_mut(target)) else {
            return false;
        };
        known.caught += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn who_has_connected_before_the_order_is_met_and_nobody_else() {
        let all = Pursuits::default();
        let start = Instant::now();
        assert!(!all.meets(1, "db", start));
        assert_eq!(
            all.begin(&Target::Database("db".into()), start + 2 * MILLI),
            0
        );
        assert!(all.meets(1, "db", start));
        assert!(all.meets(2, "db", start + 2 * MILLI));
        assert!(!all.meets(3, "db", start + 3 * MILLI));
        assert!(!all.meets(4, "other", start));
        assert_eq!(all.begin(&Target::Client(4), start), 0);
        assert!(all.meets(4, "other", start));
        // The same order again is told of those.
        assert_eq!(all.begin(&Target::Client(4), start), 1);
        assert_eq!(
            all.begin(&Target::Database("db".into()), start + 2 * MILLI),
            2
        );
        assert_eq!(
            all.begin(&Target::Database("db".into()), start + 3 * MILLI),
            0
        );
    }

    #[test]
    fn orders_are_forgotten() {
        let all = Pursuits::default();
        let start = Instant::now();
        for id in 0..100 {
            all.begin(&Target::Client(id), start);
        }
        all.begin(&Target::Database("db".into()), start + CLIENT_KEPT);
        assert_eq!(all.0.borrow().len(), 1);
        all.begin(&Target::Client(1), start + CLIENT_KEPT + DATABASE_KEPT);
        assert!(!all.meets(2, "db", start));
    }
}
